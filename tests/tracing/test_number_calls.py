"""`int`, `float`, `range` and functions of `math` in forward: sizes stay sizes or are heard, and nothing else changes."""

import dis
import math
import types
from contextlib import contextmanager

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import depgraph as dg
from depgraph import testing
from depgraph.solving.expressions import Attribute
from depgraph.solving.sized import Sized, SizedFloat
from depgraph.tracing import number_calls, trace
from depgraph.tracing.followed_math import followed_twin
from depgraph.tracing.number_calls import numbers_followed
from depgraph.tracing.reached import Reached


class Reads(nn.Module):
    """A model whose forward cuts its second layer's input to a length that a function makes of a size."""

    def __init__(self, length):
        super().__init__()
        self.length, self.width = length, 12
        self.first, self.second = nn.Linear(6, 12), nn.Linear(12, 5)

    def forward(self, x):
        h = self.first(x)
        return self.second(h.view(len(x), self.length(h.shape[1])))


def cast(n):
    return int(n)


def in_a_list(n):
    return next(iter([int(size) for size in (n,)]))


def twice(n):
    return int(n)


def halves(n):
    return int(n) // 2 * 2


def only_called(n):
    assert isinstance(n, int) and list(map(int, ["3"])) == [3] and {int: 3, float: 4}[int] == 3
    return int(n) if isinstance(int("12"), int) and int("c", 16) == int(12.7) == 12 and 0 == 0 else None


@pytest.mark.parametrize("length", [cast, in_a_list, twice, only_called])
def test_a_cast_size_is_the_size(length):
    """The graph is the one without the cast, and the square closes."""
    model, x = Reads(length), torch.randn(2, 6)
    graph = dg.trace(model, x)
    assert graph == dg.trace(Reads(lambda n: n), x)
    plan = dg.cut(graph, "first.weight", [3, 7], dim=0)
    assert dg.trace(dg.execute(plan, model), x) == plan.apply(graph)


def test_without_it_a_cast_is_a_literal(monkeypatch):
    """The control: the axis is pinned."""
    monkeypatch.setattr(number_calls, "_FOLLOWED", {})
    assert not dg.trace(Reads(cast), torch.randn(2, 6)).groups


def test_arithmetic_behind_a_cast_is_followed():
    """`int(n) // 2 * 2` names an axis of n indices only while n is even."""
    graph = dg.trace(Reads(halves), torch.randn(2, 6))
    assert graph == dg.trace(Reads(lambda n: n // 2 * 2), torch.randn(2, 6))


class Turns(nn.Module):
    """A model that does something as often as a function of a size says."""

    def __init__(self, times):
        super().__init__()
        self.times, self.first, self.second = times, nn.Linear(6, 8), nn.Linear(8, 5)

    def forward(self, x):
        h = self.first(x)
        y = self.second(torch.tanh(h))
        for _ in self.times(h.shape[1]):
            y = torch.tanh(y) * 2
        return y


@pytest.mark.parametrize(
    "times",
    [
        lambda n: range(n),
        lambda n: range(0, n, 3),
        lambda n: [0] * n,
        lambda n: n * (1,),
        lambda n: "a" * n,
        lambda n: torch.tensor([n, 3]),
    ],
    ids=["range", "range with a step", "list", "tuple", "text", "tensor"],
)
def test_what_happens_as_often_as_a_size_says_pins_it(times):
    """Fewer turns would give other values."""
    graph = dg.trace(Turns(times), torch.randn(2, 6))
    assert not graph.groups
    assert "is not understood" in dg.explain(graph, "first.weight", dim=0)


def test_without_it_a_loop_is_not_heard(monkeypatch):
    """The control: the group is free, and the pruned forward does fewer turns."""
    monkeypatch.setattr(number_calls, "_FOLLOWED", {})
    assert dg.trace(Turns(lambda n: range(n)), torch.randn(2, 6)).groups


def test_a_scale_in_a_tensor_is_none():
    """Some models scale attention by a tensor that they make of a size; as a float it only scales."""
    scaled = Turns(lambda n: [torch.tensor(n, dtype=torch.float32)])
    assert dg.trace(scaled, torch.randn(2, 6)).groups


class Scaled(nn.Module):
    """A model that scales by a function of a size, and cuts by another one."""

    def __init__(self, scale, cut):
        super().__init__()
        self.scale, self.cut, self.first, self.second = scale, cut, nn.Linear(6, 16), nn.Linear(16, 5)

    def forward(self, x):
        h = self.first(x)
        return self.second(h / self.scale(h.shape[1])), x[:, : self.cut(h.shape[1])]


@pytest.mark.parametrize("scale", [lambda n: math.sqrt(n), lambda n: math.log2(int(n)), lambda n: float(n) ** 0.5])
def test_a_size_scales_through_math(scale):
    """The square root of a size is how attention is scaled: the group stays free."""
    assert [group.size for group in dg.trace(Scaled(scale, lambda n: 3), torch.randn(2, 6)).groups] == [16]


@pytest.mark.parametrize(
    "cut",
    [
        lambda n: int(math.sqrt(n)),
        lambda n: int(float(n) ** 0.5),
        lambda n: math.isqrt(n),
        lambda n: math.gcd(n, 12),
        lambda n: int(n * 0.25),
        lambda n: 3 if math.isclose(n, 16) else 4,
    ],
)
def test_what_comes_back_from_math_and_decides_pins(cut):
    """A length that is computed from a float of a size follows it in a way that nobody can undo."""
    assert not dg.trace(Scaled(lambda n: 2.0, cut), torch.randn(2, 6)).groups


class Everywhere(nn.Module):
    """A model of one function."""

    def __init__(self, function):
        super().__init__()
        self.forward = function


@contextmanager
def followed(function):
    """While the calls in a function are exchanged."""
    with numbers_followed(Reached(Everywhere(function))):
        yield


def compiled(source, **scope):
    """A function of a file of its own."""
    scope.setdefault("__name__", "written")
    exec(compile(source, "written.py", "exec"), scope)
    return scope["f"]


size = Sized(12, Attribute("width", 12), None)


@pytest.mark.parametrize("names", [0, 130, 300])
@pytest.mark.parametrize("constants", [0, 300])
def test_any_number_of_names_and_constants(names, constants):
    """Opcodes whose argument takes two bytes are exchanged as well, and jumps still lead where they led."""
    others = " or ".join(f"name_{number}" for number in range(names)) or "0"
    texts = "".join(f"    y = {1000 + number}\n" for number in range(constants))
    loop = f"    for _ in (1, 2):\n        x = int(x)\n    return x if x else {others}\n"
    source = f"def f(x):\n    if not x: return {others}\n{texts}{loop}"
    function = compiled(source)
    plain = function.__code__
    assert type(function(size)) is int
    with followed(function):
        assert function(size) is size and function("7") == 7 and len(function.__code__.co_code) == len(plain.co_code)
    assert function.__code__ is plain and type(function(size)) is int


def test_names_that_mean_something_else_stay():
    """A module's own `int` is called as ever, and so is one that Python's are replaced by."""
    mine = compiled("def f(x): return int(x)", int=lambda x: "mine")
    theirs = compiled("def f(x): return int(x)", __builtins__={"int": lambda x: "theirs"})
    with followed(mine), followed(theirs):
        assert (mine(size), theirs(size)) == ("mine", "theirs")


def test_the_code_comes_back_when_the_trace_fails():
    """With `math` in the module's names."""

    class Fails(nn.Module):
        def forward(self, x):
            raise ValueError(int(math.sqrt(len(x))))

    code = Fails.forward.__code__
    with pytest.raises(ValueError):
        dg.trace(Fails(), torch.randn(4, 2))
    assert Fails.forward.__code__ is code and isinstance(code, types.CodeType)
    assert math.sqrt is globals()["math"].sqrt and type(math.sqrt(4)) is float and trace is not None


def test_the_length_of_a_tensor_is_its_first_size():
    """`len(x)` in forward is `x.shape[0]`: of activations, of rows, and of parameters."""

    class Lengths(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(6, 12), nn.Linear(12, 5)

        def forward(self, x):
            y = self.first(x) * torch.ones(len(self.first.weight)) / len(self.second.weight.T)
            return self.second(y.T.reshape(len(y.T), len(x)).T)

    model, x = Lengths(), torch.randn(2, 6)
    graph = dg.trace(model, x)
    assert [group.name for group in graph.groups] == ["first.weight:0"]
    testing.assert_square(graph, dg.cut(graph, "first.weight", [0, 7], dim=0), model, x)


def test_lines_stay():
    """Reasons name the line of forward in which the call stands."""
    with followed(cast):
        lines = [(start, line) for start, line in dis.findlinestarts(cast.__code__)]
    assert lines == list(dis.findlinestarts(cast.__code__))


numbers = st.integers() | st.floats(allow_nan=False) | st.booleans()


@given(numbers, st.sampled_from(["sqrt", "floor", "exp", "isqrt", "gcd", "isclose", "copysign", "frexp", "hypot", "log"]))
def test_plain_numbers_get_plain_answers(number, name):
    """Results, types and errors are those of Python."""
    plain = getattr(math, name)
    arguments = (number, 3) if name in {"gcd", "isclose", "copysign", "hypot"} else (number,)
    for mine, theirs in (
        (getattr(followed_twin(math), name), plain),
        (number_calls._int, int),
        (number_calls._float, float),
        (number_calls._range, range),
        (number_calls._len, len),
    ):
        given_here = arguments if theirs is plain else (number,)
        try:
            expected = theirs(*given_here)
        except (TypeError, ValueError, OverflowError) as error:
            with pytest.raises(type(error)):
                mine(*given_here)
        else:
            assert mine(*given_here) == expected and type(mine(*given_here)) is type(expected)


@given(st.integers(1, 100), st.sampled_from(["sqrt", "exp", "isqrt", "gcd", "isclose", "copysign", "frexp", "hypot", "log"]))
def test_sizes_get_the_same_answers(number, name):
    """With where they came from: the value is Python's."""
    plain = getattr(math, name)
    others = (3,) if name in {"gcd", "isclose", "copysign", "hypot"} else ()
    for sized in (Sized(number, Attribute("n", number), None), SizedFloat(number, (Attribute("n", number),), None)):
        if isinstance(sized, float) and name in {"isqrt", "gcd"}:
            continue
        result = getattr(followed_twin(math), name)(sized, *others)
        assert result == plain(number, *others)
        assert type(result) in {Sized, SizedFloat, bool, tuple}
