"""Every way in which a size can leave `Sized`: it is followed, or a listener hears of it, or the reason why not stands here."""

import math
import operator

import pytest

from depgraph.solving.expressions import Arithmetic, Attribute, Computed
from depgraph.solving.sized import Sized, SizedFloat, listen, origin, unlisten

OWNER = object()


class Heard:
    """A listener that notes by which of its methods it was told of something."""

    def __init__(self):
        self.calls = []

    def __getattr__(self, name):
        return lambda *args: self.calls.append(name)


def heard_of(use, number):
    """What a use of a number returns, and what a listener heard meanwhile."""
    listener = Heard()
    token = listen(listener)
    try:
        return use(number), listener.calls
    finally:
        unlisten(token)


def size(value=12):
    return Sized(value, Attribute("width", value), OWNER)


def ratio(value=2.5):
    return SizedFloat(value, (Attribute("width", 12),), OWNER)


FOLLOWED = {
    **{f"__{name}__": getattr(operator, name) for name in ("add", "sub", "mul", "mod", "floordiv", "truediv", "pow")},
    **{f"__{name}__": getattr(operator, f"{name}") for name in ("lshift", "rshift", "xor")},
    "__and__": operator.and_,
    "__or__": operator.or_,
}
"""Operations with a second number, which give a number that remembers the first one, on whichever side it stands."""

ALONE = {
    "__neg__": operator.neg,
    "__pos__": operator.pos,
    "__abs__": abs,
    "__invert__": operator.invert,
    "__round__": lambda n: round(n, -1),
    "__trunc__": math.trunc,
    "__ceil__": math.ceil,
    "__floor__": math.floor,
    **{name: operator.attrgetter(name) for name in ("real", "numerator")},
    "conjugate": lambda n: n.conjugate(),
}

COMPARED = {f"__{name}__": getattr(operator, name) for name in ("eq", "ne", "lt", "le", "gt", "ge")}

ESCAPES = {
    "__int__": int,
    "__hash__": lambda n: {n: 1},
    "__repr__": lambda n: f"{[n]}",
    "__str__": str,
    "__format__": lambda n: f"{n}",
    "__reduce_ex__": lambda n: n.__reduce_ex__(2),
    "as_integer_ratio": lambda n: n.as_integer_ratio(),
    "bit_length": lambda n: n.bit_length(),
    "bit_count": lambda n: n.bit_count(),
    "to_bytes": lambda n: n.to_bytes(2, "big"),
    "hex": lambda n: n.hex(),
    "is_integer": lambda n: n.is_integer(),
}

TRUE_OF_ALL = {(int, "is_integer")}
"""Of integers Python asks this from 3.12 on, and it says nothing of the size."""

SILENT = {
    "__float__": "a square root scales attention; in forward's own code `float` and `math` follow it (test_number_calls)",
    "__index__": "C reads the integer itself where it takes an index; `range` in forward's own code is heard",
    "denominator": "it is 1 whatever the size is",
    "imag": "it is 0 whatever the size is",
    "from_bytes": "it makes a number and uses none",
    "fromhex": "it makes a number and uses none",
    "from_number": "it makes a number and uses none",
    "__getnewargs__": "only protocols that __reduce_ex__ replaces ask for it",
    "__reduce__": "__reduce_ex__ comes first",
    "__getformat__": "it tells of the machine",
    "__setformat__": "it tells of the machine",
}
"""What is not heard, and why that is no size that is lost."""

ELSEWHERE = {"__bool__", "__divmod__", *(f"__r{name[2:]}" for name in (*FOLLOWED, "__divmod__"))}
"""Methods with tests of their own, or that the tests of the operation on the other side run."""


@pytest.mark.parametrize("kind", [int, float], ids=["int", "float"])
def test_no_method_is_forgotten(kind):
    """A method that a later Python adds fails here until somebody has said what becomes of the size."""
    named = {*FOLLOWED, *ALONE, *COMPARED, *ESCAPES, *SILENT, *ELSEWHERE}
    assert set(dir(kind)) - set(dir(object)) <= named


@pytest.mark.parametrize("name", FOLLOWED)
def test_arithmetic_is_followed_on_both_sides(name):
    """The result remembers the size, and nothing has escaped."""
    for use in (lambda n: FOLLOWED[name](n, 3), lambda n: FOLLOWED[name](100, n)):
        for number in (size(), ratio()) if name in vars(float) else (size(),):
            result, calls = heard_of(use, number)
            assert type(result) in (Sized, SizedFloat) and result == use(12 if type(number) is Sized else 2.5)
            assert calls == [] and result.owner is OWNER
            assert "width" in str(origin(result) if type(result) is Sized else result.sources)


@pytest.mark.parametrize("name", FOLLOWED)
def test_arithmetic_of_two_sizes_remembers_both(name):
    """Python asks one of the two for the result, which must not forget the other."""
    depth = Sized(3, Attribute("depth", 3), OWNER)
    for result in (FOLLOWED[name](size(), depth), FOLLOWED[name](depth, size())):
        remembered = str(origin(result)) if type(result) is Sized else " ".join(map(str, result.sources))
        assert "width" in remembered and "depth" in remembered


@pytest.mark.parametrize("name", COMPARED)
def test_comparisons_of_quotients_are_ones_of_products(name):
    """`n / 5 < 2.5` says something of `2 * n` and 25; where rounding decides, nothing is told but an escape."""
    compare = COMPARED[name]
    for use in (lambda n: compare(n / 5, 2.5), lambda n: compare(2.5, n / 5), lambda n: compare(n / 5, n / 4)):
        result, calls = heard_of(use, size())
        assert result == use(12) and calls and set(calls) <= {"fact", "unlike", "below"}
    large = 2**60 + 1
    told = ["below"] if name in {"__lt__", "__ge__"} else ["escape"]
    assert heard_of(lambda n: compare(n / 1, 2.0**60), size(large)) == (compare(large / 1, 2.0**60), told)


@pytest.mark.parametrize("name", ALONE)
def test_a_number_of_one_size_is_followed(name):
    for number in (size(), ratio()) if hasattr(float, name) else (size(),):
        result, calls = heard_of(ALONE[name], number)
        assert type(result) in (Sized, SizedFloat) and "escape" not in calls, name


def test_quotients_and_remainders_together():
    """`divmod` gives two numbers that are followed."""
    (quotient, remainder), calls = heard_of(lambda n: divmod(n, 5), size())
    assert (quotient, remainder, calls) == (2, 2, [])
    assert origin(remainder) == Arithmetic("%", Attribute("width", 12), origin(5))
    assert all(type(part) is Sized for part in divmod(50, size()))
    assert all(type(part) is SizedFloat for part in (*divmod(ratio(), 2), *divmod(2, ratio())))


@pytest.mark.parametrize("name", COMPARED)
def test_comparisons_are_heard(name):
    """With a number and with a size on either side; those of rounded numbers are no bounds, so they escape."""
    for use in (lambda n: COMPARED[name](n, 7), lambda n: COMPARED[name](7, n)):
        result, calls = heard_of(use, size())
        assert result == use(12) and calls and set(calls) <= {"fact", "unlike", "below"}
        assert heard_of(use, ratio()) == (use(2.5), ["escape"])


@pytest.mark.parametrize("name", ESCAPES)
def test_what_becomes_plain_escapes(name):
    """Text, hashes, pickles and plain integers say nothing of where they came from."""
    for kind, number in ((int, size()), (float, ratio())):
        if hasattr(kind, name):
            result, calls = heard_of(ESCAPES[name], number)
            assert (result, calls) == (True, []) if (kind, name) in TRUE_OF_ALL else "escape" in calls, (kind, name)
            assert type(result) not in (Sized, SizedFloat)


def test_truth_values():
    """That a size of an axis is not 0 stays so; a number computed from sizes is compared with 0."""
    assert heard_of(bool, size()) == (True, [])
    assert heard_of(lambda n: bool(n - 12), size()) == (False, ["fact"])
    assert heard_of(lambda n: bool(n % 5), size()) == (True, ["unlike"])
    assert heard_of(bool, ratio()) == (True, ["escape"])


@pytest.mark.parametrize("name", [name for name in SILENT if hasattr(int, name) and not name.startswith("from")])
def test_what_is_silent_is_so(name):
    """Were Python to call us where it does not today, the reason would be wrong."""
    uses = {"__float__": math.sqrt, "__index__": range, "__reduce__": lambda n: 0, "__getnewargs__": lambda n: 0}
    assert heard_of(uses.get(name, operator.attrgetter(name)), size())[1] == []


def test_a_number_of_another_trace_is_a_literal():
    """Its owner tells: what a cache hands on says nothing of this trace."""
    mine, other = size(), Sized(12, Attribute("other", 12), object())
    assert origin(mine + other) == Arithmetic("+", Attribute("width", 12), origin(12))
    assert (mine | other).expression == Computed(12, (Attribute("width", 12),))
