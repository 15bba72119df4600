"""The steps of random programs: an operator each, which writes a line of forward and runs it to see the shapes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

Operator = Callable[["Writer"], None]

_FORMS: tuple[tuple[str, Callable[[int], int]], ...] = (
    ("{}", lambda n: n),
    ("int({})", lambda n: n),
    ("2 * {} // 2", lambda n: n),
    ("max({}, 1)", lambda n: n),
    ("{} // 2", lambda n: n // 2),
    ("{} // 3", lambda n: n // 3),
    ("{} // 4", lambda n: n // 4),
    ("int({}) // 2", lambda n: n // 2),
    ("{} >> 1", lambda n: n >> 1),
    ("{} & 3", lambda n: n & 3),
    ("divmod({}, 2)[0]", lambda n: n // 2),
    ("-(-{} // 2)", lambda n: -(-n // 2)),
    ("math.ceil({} / 3)", lambda n: -(-n // 3)),
    ("round({} / 4)", lambda n: round(n / 4)),
    ("int({} ** 0.5)", lambda n: int(n**0.5)),
    ("{} - 1", lambda n: n - 1),
    ("{} - 2", lambda n: n - 2),
    ("1 - {}", lambda n: 1 - n),
    ("-{}", lambda n: -n),
    ("{} + 1", lambda n: n + 1),
    ("2 * {}", lambda n: 2 * n),
    ("{} % 3", lambda n: n % 3),
    ("{} % 4", lambda n: n % 4),
    ("min({}, 2)", lambda n: min(n, 2)),
    ("min({}, 3)", lambda n: min(n, 3)),
    ("max({} // 4, 2)", lambda n: max(n // 4, 2)),
    ("int({} * 0.5)", lambda n: n // 2),
    ("int({} / 2)", lambda n: n // 2),
    ("int(math.sqrt({}))", math.isqrt),
    ("math.gcd({}, 4)", lambda n: math.gcd(n, 4)),
    ("len(range({}))", lambda n: n),
    ("len([0] * {})", lambda n: n),
    ("int(str({}))", lambda n: n),
    ("abs({} - 5)", lambda n: abs(n - 5)),
)
"""What forward code computes from a size, as text and as a function."""

_FLAT = ("relu", "tanh", "gelu", "hardtanh", "leaky_relu", "softsign", "sin", "neg", "square")
"""Element-wise functions that leave zeros zero."""

_LIMIT = 1500
"""So many elements a value has at most."""


class Impossible(Exception):
    """No argument fits what has been computed so far."""


class Writer:
    """Writes a program line by line, and runs each line to see the shapes."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw
        self.scratch: Any = nn.Module()
        self.names: dict[str, Any] = {"self": self.scratch, "torch": torch, "F": F, "nn": nn, "math": math}
        self.inputs: list[tuple[int, ...]] = []
        self.members: list[tuple[str, str]] = []
        self.steps: list[tuple[str, tuple[str, ...]]] = []
        self.pool: list[str] = []
        self.sizes: list[tuple[str, int]] = []
        self.lines: list[str] = []
        self.made = 0

    def one(self, items: Any) -> Any:
        """One of some things."""
        return self.draw(st.sampled_from(list(items)))

    def integer(self, low: int, high: int) -> int:
        """An integer between two others, both included."""
        if high < low:
            raise Impossible
        return self.draw(st.integers(low, high))

    def input(self, shape: tuple[int, ...]) -> None:
        """Another input of forward."""
        name = f"x{len(self.inputs)}"
        self.inputs.append(shape)
        self.names[name] = torch.randn(shape, dtype=torch.float64)
        self.pool.append(name)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a value."""
        return tuple(self.names[name].shape)

    def value(
        self, ndims: tuple[int, ...] = (1, 2, 3, 4, 5), fits: Callable[[tuple[int, ...]], bool] = lambda shape: True
    ) -> str:
        """One of the values so far, rather a late one."""
        names = [name for name in self.pool if len(self.shape(name)) in ndims and fits(self.shape(name))]
        if not names:
            raise Impossible
        name: str = self.one([*names[:-3], *names[-3:], *names[-3:], names[-1]])
        return name

    def axis(self, name: str, longer_than: int = 1) -> int:
        """A dimension of a value."""
        dims: int = self.one([dim for dim, size in enumerate(self.shape(name)) if size > longer_than] or [None])
        if dims is None:
            raise Impossible
        return dims

    def number(self, value: int, free: bool = True) -> str:
        """An expression for an integer: a literal, or what a size, an attribute or a layer of torch gives."""
        kind = self.one(("literal", "axis", "axis", "attribute", "layer") if free else ("literal", "axis"))
        if kind == "literal":
            return str(value)
        if kind == "attribute" and value > 0 and self.draw(st.booleans()):
            times = self.one((1, 2, 3))
            name = self.member(str(value * times))
            return {1: f"self.{name}", 2: f"self.{name} // 2", 3: f"self.{name} // 3"}[times]
        if kind == "axis":
            bases = [
                (f"{name}.shape[{dim}]", size) for name in self.pool for dim, size in enumerate(self.shape(name)) if size > 1
            ]
            bases = [
                (base.replace("shape", "size").replace("[", "(").replace("]", ")"), size) for base, size in bases[:1]
            ] + bases[1:]
        else:
            bases = [(code, size) for code, size in self.sizes if code.count(".") == (2 if kind == "layer" else 1)]
        # a later value's axis first: what is free is made by layers
        fitting = [form.format(base) for base, size in reversed(bases) for form, function in _FORMS if function(size) == value]
        if not fitting:
            return str(value)
        code: str = self.one(fitting)
        return f"({code})" if " " in code else code

    def dim(self, name: str, dim: int) -> str:
        """An expression for a dimension, counted from either end."""
        return str(self.one((dim, dim - len(self.shape(name)))))

    def member(self, code: str) -> str:
        """Another attribute of the module; the name."""
        name = f"m{len(self.members)}"
        made = eval(code, self.names)
        if hasattr(self.scratch, name):  # of a step that was given up
            delattr(self.scratch, name)
        setattr(self.scratch, name, made.double().eval() if isinstance(made, nn.Module) else made)
        self.members.append((name, code))
        if isinstance(made, int):
            self.sizes.append((f"self.{name}", made))
        for size in ("in_features", "out_features", "in_channels", "out_channels", "num_features", "embedding_dim", "groups"):
            if isinstance(made, nn.Module) and isinstance(getattr(made, size, None), int):
                self.sizes.append((f"self.{name}.{size}", getattr(made, size)))
        return name

    def parameter(self, *shape: int) -> str:
        """Another parameter of the module, as an expression."""
        return f"self.{self.member(f'nn.Parameter(torch.zeros({tuple(shape)}, dtype=torch.float64))')}"

    def width(self) -> int:
        """How many channels a layer makes."""
        width: int = self.one((4, 6, 8, 8, 5, 9, 2, 12))
        return width

    def run(self, line: str) -> None:
        """One more line of forward."""
        with torch.no_grad():
            exec(line, self.names)
        self.lines.append(line)

    def make(self, code: str) -> str:
        """One more line of forward, whose value others may use; the name of the value."""
        name = f"v{self.made}"
        self.run(f"{name} = {code}")
        made = self.names[name]
        if not isinstance(made, Tensor) or made.dtype != torch.float64 or not 0 < made.numel() <= _LIMIT or not made.ndim:
            raise Impossible
        if not bool(made.isfinite().all()) or float(made.abs().max()) > 1e6:
            raise Impossible
        self.made += 1
        self.pool.append(name)
        return name

    def step(self, operator: str) -> bool:
        """Write a step, or nothing where the operator fits no value."""
        members, sizes, pool, made = len(self.members), len(self.sizes), len(self.pool), self.made
        self.lines = []
        try:
            OPERATORS[operator](self)
        except (Impossible, RuntimeError, ValueError, IndexError, TypeError, ZeroDivisionError):
            del self.members[members:], self.sizes[sizes:], self.pool[pool:]
            self.made = made
            return False
        self.steps.append((operator, tuple(self.lines)))
        return True

    def result(self) -> str:
        """An expression that forward returns: a value, or what a last layer makes of it."""
        name = self.value()
        size, kind = self.shape(name)[-1], self.one(("last", "last", "last", "first", "sum", "itself"))
        if kind == "last":
            return f"self.{self.member(f'nn.Linear({size}, 2)')}({name})"
        if kind == "first" and len(self.shape(name)) > 1:
            return f"self.{self.member(f'nn.Linear({self.shape(name)[1]}, 2)')}({name}.transpose(1, -1))"
        return f"{name}.flatten(1).sum(1)" if kind == "sum" and len(self.shape(name)) > 1 else name


# layers


def _linear(w: Writer) -> None:
    v = w.value()
    w.make(f"self.{w.member(f'nn.Linear({w.shape(v)[-1]}, {w.width()}, bias={w.draw(st.booleans())})')}({v})")


def _convolution(w: Writer) -> None:
    v = w.value((3, 4))
    rank, channels = len(w.shape(v)) - 2, w.shape(v)[1]
    kernel = w.integer(1, min(3, *w.shape(v)[2:]))
    w.make(f"self.{w.member(f'nn.Conv{rank}d({channels}, {w.width()}, {kernel}, padding={kernel // 2})')}({v})")


def _grouped_convolution(w: Writer) -> None:
    v = w.value((3, 4))
    rank, channels = len(w.shape(v)) - 2, w.shape(v)[1]
    groups = w.one([d for d in range(2, channels + 1) if channels % d == 0] or [1])
    w.make(f"self.{w.member(f'nn.Conv{rank}d({channels}, {groups * w.integer(1, 3)}, 1, groups={groups})')}({v})")


def _called_convolution(w: Writer) -> None:
    """With its numbers written in forward."""
    v = w.value((3, 4))
    rank, channels = len(w.shape(v)) - 2, w.shape(v)[1]
    groups = w.one([d for d in range(1, channels + 1) if channels % d == 0])
    kernel = w.parameter(groups * w.integer(1, 2), channels // groups, *[w.integer(1, 2)] * rank)
    stride, padding, dilation = (w.number(w.integer(*bounds)) for bounds in ((1, 3), (0, 2), (1, 2)))
    called = w.number(groups)
    w.make(f"F.conv{rank}d({v}, {kernel}, None, {stride}, {padding}, {dilation}, {called})")


def _transposed_convolution(w: Writer) -> None:
    v = w.value((3,))
    kernel = w.parameter(w.shape(v)[1], w.integer(1, 4), 2)
    w.make(f"F.conv_transpose1d({v}, {kernel}, None, {w.number(w.integer(1, 2))}, {w.number(w.integer(0, 1))})")


def _batch_norm(w: Writer) -> None:
    v = w.value((2, 3, 4))
    w.make(f"self.{w.member(f'nn.BatchNorm{max(len(w.shape(v)) - 2, 1)}d({w.shape(v)[1]})')}({v})")


def _layer_norm(w: Writer) -> None:
    v = w.value()
    size = w.shape(v)[-1]
    w.make(
        f"self.{w.member(f'nn.LayerNorm({size})')}({v})" if w.draw(st.booleans()) else f"F.layer_norm({v}, ({w.number(size)},))"
    )


def _group_norm(w: Writer) -> None:
    v = w.value((2, 3, 4))
    channels = w.shape(v)[1]
    groups = w.one([d for d in range(1, channels + 1) if channels % d == 0])
    if w.draw(st.booleans()):
        w.make(f"self.{w.member(f'nn.GroupNorm({groups}, {channels})')}({v})")
    else:
        w.make(f"F.group_norm({v}, {w.number(groups)})")


def _instance_norm(w: Writer) -> None:
    w.make(f"F.instance_norm({w.value((3, 4), lambda shape: math.prod(shape[2:]) > 1)})")


def _rms_norm(w: Writer) -> None:
    v = w.value()
    w.make(f"self.{w.member(f'nn.RMSNorm({w.shape(v)[-1]})')}({v})")


def _scaled_by_parameter(w: Writer) -> None:
    v = w.value()
    w.make(f"{v} * {w.parameter(w.shape(v)[-1])}")


def _shifted_by_parameter(w: Writer) -> None:
    v = w.value((2, 3, 4))
    w.make(f"{v} + {w.parameter(*w.shape(v)[1:])}")


def _called_linear(w: Writer) -> None:
    v = w.value()
    w.make(f"F.linear({v}, {w.parameter(w.width(), w.shape(v)[-1])})")


def _embedding(w: Writer) -> None:
    v = w.value((2, 3))
    size = w.shape(v)[-1]
    rows = w.integer(1, 4)
    w.make(f"{v} + F.embedding(torch.arange({w.number(w.shape(v)[-2])}) % {rows}, {w.parameter(rows, size)})")


def _embedded_positions(w: Writer) -> None:
    rows, count = w.integer(2, 4), w.integer(2, 6)
    w.make(f"self.{w.member(f'nn.Embedding({rows}, {w.width()})')}(torch.arange({w.number(count)}) % {w.number(rows)})")


# products


def _matmul(w: Writer) -> None:
    v = w.value((2, 3, 4))
    w.make(f"{v} @ {w.parameter(w.shape(v)[-1], w.width())}")


def _matmul_of_values(w: Writer) -> None:
    v = w.value((2, 3, 4))
    w.make(f"{v} @ {w.value((2, 3, 4), lambda shape: shape[-1] == w.shape(v)[-1])}.mT")


def _bmm(w: Writer) -> None:
    v = w.value((3,))
    w.make(f"torch.bmm({v}.transpose(1, 2), {v})")


def _einsum(w: Writer) -> None:
    v = w.value((2, 3, 4))
    letters = "abcd"[: len(w.shape(v))]
    drawn = w.one(letters[1:])
    kernel = w.parameter(w.width(), w.shape(v)[letters.index(drawn)])
    w.make(f"torch.einsum('{letters},o{drawn}->{letters.replace(drawn, 'o')}', {v}, {kernel})")


def _attention(w: Writer) -> None:
    v = w.value((3, 4))
    w.make(f"F.scaled_dot_product_attention({v}, {w.value((3, 4), lambda shape: shape == w.shape(v))}, {v})")


def _heads(w: Writer) -> None:
    """Attention written out, on heads of the last axis."""
    v = w.value((3,))
    _, _, width = w.shape(v)
    heads = w.one([d for d in range(2, width) if width % d == 0] or [1])
    q = w.make(f"{v}.view({v}.shape[0], {v}.shape[1], {w.number(heads)}, -1).transpose(1, 2)")
    weights = w.make(f"torch.softmax({q} @ {q}.mT, -1)")
    w.make(f"({weights} @ {q}).transpose(1, 2).flatten(2)")


# what moves, joins and divides


def _cat(w: Writer) -> None:
    v = w.value()
    dim = w.axis(v, 0)

    def beside(shape: tuple[int, ...]) -> bool:
        return len(shape) == len(w.shape(v)) and all(
            a == b for d, (a, b) in enumerate(zip(shape, w.shape(v), strict=True)) if d != dim
        )

    w.make(f"torch.cat([{v}, {w.value(fits=beside)}], {w.dim(v, dim)})")


def _stack(w: Writer) -> None:
    v = w.value((1, 2, 3))
    w.make(f"torch.stack([{v}, {w.value(fits=lambda shape: shape == w.shape(v))}], {w.integer(0, len(w.shape(v)))})")


def _split(w: Writer) -> None:
    v = w.value()
    dim = w.axis(v)
    size = w.integer(1, w.shape(v)[dim])
    part = w.integer(0, -(-w.shape(v)[dim] // size) - 1)
    w.make(f"{v}.split({w.number(size)}, {w.dim(v, dim)})[{part}]")


def _split_in_two(w: Writer) -> None:
    """Both parts go on."""
    v = w.value()
    dim = w.axis(v)
    first = w.integer(1, w.shape(v)[dim] - 1)
    sizes = f"[{w.number(first)}, {w.number(w.shape(v)[dim] - first)}]"
    parts = w.made
    w.run(f"p{parts}, q{parts} = {v}.split({sizes}, {w.dim(v, dim)})")
    w.make(f"F.relu(p{parts})")
    w.make(f"torch.tanh(q{parts})")


def _chunk(w: Writer) -> None:
    v = w.value()
    dim = w.axis(v)
    w.make(f"{v}.chunk({w.number(w.integer(2, 3))}, {w.dim(v, dim)})[{w.integer(0, 1)}]")


def _halves(w: Writer) -> None:
    v = w.value()
    dim = w.axis(v)
    if w.shape(v)[dim] % 2:
        raise Impossible
    parts = w.made
    w.run(f"p{parts}, q{parts} = {v}.chunk(2, {w.dim(v, dim)})")
    w.make(f"p{parts} * torch.tanh(q{parts})")


def _tensor_split(w: Writer) -> None:
    v = w.value()
    dim = w.axis(v)
    w.make(f"{v}.tensor_split({w.number(w.integer(1, 3))}, {w.dim(v, dim)})[0]")


def _sliced(w: Writer) -> None:
    """With start, stop and step, each given or not, behind the end or counted from it."""
    v = w.value()
    dim = w.axis(v)
    size = w.shape(v)[dim]
    start = "" if w.draw(st.booleans()) else w.number(w.integer(0, size - 1))
    stop = w.one(("", "in", "in", "behind", "back"))
    if stop == "in":
        stop = w.number(w.integer(1, size))
    elif stop == "behind":
        stop = w.number(w.integer(size, size + 3))
    elif stop == "back":
        stop = w.number(-w.integer(1, size - 1))
    step = w.one(("", "", "", ":2", f":{w.number(w.integer(1, 3))}"))
    inside = f"{start}:{stop}{step}"
    before = ":, " * dim if dim < len(w.shape(v)) - 1 or w.draw(st.booleans()) else "..., "
    w.make(f"{v}[{before}{inside}]")


def _narrow(w: Writer) -> None:
    v = w.value()
    dim = w.axis(v)
    start = w.integer(0, w.shape(v)[dim] - 1)
    w.make(f"{v}.narrow({w.dim(v, dim)}, {w.number(start)}, {w.number(w.integer(1, w.shape(v)[dim] - start))})")


def _selected(w: Writer) -> None:
    v = w.value((2, 3, 4, 5))
    dim = w.axis(v)
    position = w.number(w.integer(-w.shape(v)[dim], w.shape(v)[dim] - 1))
    w.make(f"{v}.select({dim}, {position})" if w.draw(st.booleans()) else f"{v}[{':, ' * dim}{position}]")


def _viewed(w: Writer) -> None:
    """An axis in two, their sizes computed; one of them may be left to be inferred."""
    v = w.value((1, 2, 3, 4), lambda shape: any(size % d == 0 for size in shape for d in range(2, size)))
    shape = w.shape(v)
    dim = w.one([d for d, size in enumerate(shape) if any(size % f == 0 for f in range(2, size))])
    factor = w.one([f for f in range(2, shape[dim]) if shape[dim] % f == 0])
    inferred = w.one((None, None, dim, dim + 1))
    sizes = [*shape[:dim], factor, shape[dim] // factor, *shape[dim + 1 :]]
    codes = ["-1" if d == inferred else w.number(size) for d, size in enumerate(sizes)]
    w.make(f"{v}.{w.one(('reshape', 'reshape', 'view'))}({', '.join(codes)})")


def _merged(w: Writer) -> None:
    """Two axes in one, the size computed or inferred."""
    v = w.value((2, 3, 4, 5))
    shape = w.shape(v)
    dim = w.integer(0, len(shape) - 2)
    sizes = [*shape[:dim], shape[dim] * shape[dim + 1], *shape[dim + 2 :]]
    inferred = w.one((None, dim, dim))
    codes = ["-1" if d == inferred else w.number(size) for d, size in enumerate(sizes)]
    if inferred is None and w.draw(st.booleans()):
        codes[dim] = f"{v}.shape[{dim}] * {v}.shape[{dim + 1}]"
    w.make(f"{v}.reshape({', '.join(codes)})")


def _flattened(w: Writer) -> None:
    v = w.value((2, 3, 4, 5))
    w.make(f"{v}.flatten({w.integer(0, len(w.shape(v)) - 2)})")


def _unflattened(w: Writer) -> None:
    v = w.value((1, 2, 3, 4))
    dim = w.axis(v)
    factor = w.one([f for f in range(1, w.shape(v)[dim] + 1) if w.shape(v)[dim] % f == 0])
    first, second = w.number(factor), w.number(w.shape(v)[dim] // factor)
    w.make(f"{v}.unflatten({w.dim(v, dim)}, ({first}, {w.one((second, '-1'))}))")


def _permuted(w: Writer) -> None:
    v = w.value((2, 3, 4, 5))
    w.make(f"{v}.permute({', '.join(map(str, w.draw(st.permutations(range(len(w.shape(v)))))))})")


def _transposed(w: Writer) -> None:
    v = w.value((2, 3, 4, 5))
    first, second = w.integer(0, len(w.shape(v)) - 1), w.integer(0, len(w.shape(v)) - 1)
    w.make(f"{v}.transpose({w.dim(v, first)}, {w.dim(v, second)})")


def _moved(w: Writer) -> None:
    v = w.value((2, 3, 4))
    w.make(f"{v}.movedim({w.integer(0, len(w.shape(v)) - 1)}, {w.integer(0, len(w.shape(v)) - 1)})")


def _unsqueezed(w: Writer) -> None:
    v = w.value((1, 2, 3, 4))
    w.make(f"{v}.unsqueeze({w.integer(-1, len(w.shape(v)))})")


def _squeezed(w: Writer) -> None:
    v = w.value((2, 3, 4, 5))
    w.make(f"{v}.squeeze({w.one(('', w.integer(0, len(w.shape(v)) - 1)))})")


def _expanded(w: Writer) -> None:
    v = w.value((1, 2, 3))
    sizes = ", ".join(w.one(("-1", w.number(size))) for size in w.shape(v))
    w.make(f"{v}[None].expand({w.number(w.integer(1, 4))}, {sizes})")


def _repeated(w: Writer) -> None:
    v = w.value()
    w.make(f"{v}.{w.one(('repeat', 'tile'))}({', '.join(w.number(w.integer(1, 2)) for _ in w.shape(v))})")


def _interleaved(w: Writer) -> None:
    v = w.value()
    w.make(f"{v}.repeat_interleave({w.number(w.integer(1, 3))}, {w.dim(v, w.axis(v, 0))})")


def _rolled(w: Writer) -> None:
    v = w.value()
    dim = w.axis(v)
    w.make(f"{v}.roll({w.number(w.integer(-2, w.shape(v)[dim]))}, {w.dim(v, dim)})")


def _flipped(w: Writer) -> None:
    v = w.value()
    w.make(f"{v}.flip({w.dim(v, w.axis(v))})")


def _padded(w: Writer) -> None:
    v = w.value()
    mode = w.one(("constant", "constant", "replicate", "reflect", "circular")) if len(w.shape(v)) == 3 else "constant"
    low = 0 if mode != "constant" else -1
    w.make(f"F.pad({v}, ({w.number(w.integer(low, 2))}, {w.number(w.integer(low, 2))}), mode='{mode}')")


def _unfolded(w: Writer) -> None:
    v = w.value((1, 2, 3))
    dim = w.axis(v)
    size = w.integer(1, w.shape(v)[dim])
    w.make(f"{v}.unfold({dim}, {w.number(size)}, {w.number(w.integer(1, 3))})")


def _image_columns(w: Writer) -> None:
    v = w.value((4,), lambda shape: min(shape[2:]) >= 2)
    w.make(
        f"F.unfold({v}, {w.number(w.integer(1, 2))}, padding={w.number(w.integer(0, 1))}, stride={w.number(w.integer(1, 2))})"
    )


def _pixels(w: Writer) -> None:
    v = w.value((4,), lambda shape: shape[1] % 4 == 0)
    w.make(f"F.pixel_shuffle({v}, {w.number(2)})")


def _shuffled(w: Writer) -> None:
    v = w.value((3, 4))
    groups = w.one([d for d in range(1, w.shape(v)[1] + 1) if w.shape(v)[1] % d == 0])
    w.make(f"F.channel_shuffle({v}, {w.number(groups)})")


def _unbound(w: Writer) -> None:
    v = w.value((2, 3, 4))
    dim = w.axis(v)
    w.make(f"{v}.unbind({dim})[{w.integer(0, w.shape(v)[dim] - 1)}]")


def _diagonal(w: Writer) -> None:
    v = w.value((2, 3))
    w.make(f"{v}.diagonal({w.number(w.integer(-1, 2))}, -2, -1)")


def _triangle(w: Writer) -> None:
    w.make(f"{w.value((2, 3, 4))}.{w.one(('tril', 'triu'))}({w.number(w.integer(-1, 2))})")


def _taken(w: Writer) -> None:
    v = w.value((1, 2, 3))
    dim = w.axis(v)
    count = w.integer(1, w.shape(v)[dim])
    w.make(f"{v}.index_select({dim}, torch.arange({w.number(count)}))")


def _indexed(w: Writer) -> None:
    v = w.value((1, 2, 3))
    dim = w.axis(v)
    w.make(f"{v}[{':, ' * dim}torch.arange({w.number(w.integer(1, 4))}) % {w.number(w.integer(1, w.shape(v)[dim]))}]")


def _gathered(w: Writer) -> None:
    v = w.value((2, 3))
    w.make(f"{v}.gather(-1, {v}.argsort(-1))")


# windows


def _pooled(w: Writer) -> None:
    v = w.value((3, 4))
    rank = len(w.shape(v)) - 2
    kernel = w.integer(1, min(3, *w.shape(v)[2:]))
    kind = w.one(("avg", "max", "lp"))
    stride = w.number(w.integer(1, 3))
    if kind == "lp":
        w.make(f"F.lp_pool{rank}d({v}.abs() + 0.1, 2.0, {w.number(kernel)}, {stride})")
    else:
        w.make(f"F.{kind}_pool{rank}d({v}, {w.number(kernel)}, {stride}, {w.number(w.integer(0, kernel // 2))})")


def _pooled_to_size(w: Writer) -> None:
    v = w.value((3, 4))
    rank = len(w.shape(v)) - 2
    w.make(f"F.adaptive_{w.one(('avg', 'max'))}_pool{rank}d({v}, {w.number(w.integer(1, 4))})")


def _resized(w: Writer) -> None:
    v = w.value((3, 4))
    argument = w.one(("size", "scale_factor"))
    w.make(f"F.interpolate({v}, {argument}={w.number(w.integer(1, 4 if argument == 'size' else 2))})")


# reductions


def _mean(w: Writer) -> None:
    v = w.value((2, 3, 4, 5))
    w.make(f"{v}.mean({w.dim(v, w.axis(v, 0))}{w.one(('', ', keepdim=True'))})")


def _sum(w: Writer) -> None:
    v = w.value((2, 3, 4, 5))
    w.make(f"{v}.sum({w.dim(v, w.axis(v, 0))}{w.one(('', ', keepdim=True'))})")


def _max(w: Writer) -> None:
    v = w.value((2, 3, 4, 5))
    w.make(f"{v}.{w.one(('amax', 'amin', 'logsumexp'))}({w.dim(v, w.axis(v, 0))})")


def _deviation(w: Writer) -> None:
    v = w.value((2, 3, 4))
    w.make(f"{v}.var({w.dim(v, w.axis(v))})")


def _length(w: Writer) -> None:
    v = w.value((2, 3, 4))
    w.make(f"{v}.norm(dim={w.dim(v, w.axis(v, 0))}, keepdim=True)")


def _softmax(w: Writer) -> None:
    v = w.value()
    w.make(f"F.{w.one(('softmax', 'log_softmax'))}({v}, {w.dim(v, w.axis(v, 0))})")


def _cumulated(w: Writer) -> None:
    v = w.value()
    w.make(f"{v}.cumsum({w.dim(v, w.axis(v, 0))})")


def _sorted(w: Writer) -> None:
    v = w.value()
    w.make(f"{v}.sort({w.dim(v, w.axis(v, 0))})[0]")


def _top(w: Writer) -> None:
    v = w.value((2, 3))
    dim = w.axis(v, 0)
    w.make(f"{v}.topk({w.number(w.integer(1, w.shape(v)[dim]))}, {w.dim(v, dim)})[0]")


def _kth(w: Writer) -> None:
    v = w.value((2, 3))
    dim = w.axis(v, 0)
    w.make(f"{v}.kthvalue({w.number(w.integer(1, w.shape(v)[dim]))}, {w.dim(v, dim)})[0]")


# what is made of sizes


def _places(w: Writer) -> None:
    v = w.value((1, 2, 3))
    w.make(f"{v} * torch.arange({w.number(w.shape(v)[-1])})")


def _line(w: Writer) -> None:
    v = w.value((1, 2, 3))
    w.make(f"{v}[..., :1] * torch.linspace(0, 1, {w.number(w.integer(1, 6))}, dtype=torch.float64)")


def _counted(w: Writer) -> None:
    v = w.value((2, 3))
    w.make(f"F.one_hot({v}.argmax(-1), {w.number(w.integer(w.shape(v)[-1], w.shape(v)[-1] + 2))}).double()")


def _filled(w: Writer) -> None:
    v = w.value((1, 2, 3))
    kind = w.one(("zeros", "ones"))
    shape = ", ".join(w.number(size) for size in w.shape(v))
    w.make(f"{v} + torch.{kind}({shape}, dtype=torch.float64)")


def _identity(w: Writer) -> None:
    v = w.value((2, 3))
    w.make(f"{v} @ torch.eye({w.number(w.shape(v)[-1])}, dtype=torch.float64)")


# element by element


def _function(w: Writer) -> None:
    name = w.one(_FLAT)
    w.make(f"{'torch' if hasattr(torch, name) else 'F'}.{name}({w.value()})")


def _added(w: Writer) -> None:
    v = w.value()
    w.make(f"{v} + {w.value(fits=lambda shape: shape == w.shape(v))}")


def _broadcast(w: Writer) -> None:
    v = w.value((1, 2, 3, 4))

    def fits(shape: tuple[int, ...]) -> bool:
        pairs = list(zip(reversed(shape), reversed(w.shape(v)), strict=False))
        return shape != w.shape(v) and all(a == b or 1 in (a, b) for a, b in pairs)

    w.make(f"{v} {w.one('+*-')} {w.value((1, 2, 3, 4), fits)}")


def _gated(w: Writer) -> None:
    v = w.value()
    w.make(f"{v} * torch.sigmoid({w.value(fits=lambda shape: shape == w.shape(v))})")


def _where(w: Writer) -> None:
    v = w.value()
    w.make(f"torch.where({v} > 0.01, {v}, {w.value(fits=lambda shape: shape == w.shape(v))} * 0.5)")


def _glu(w: Writer) -> None:
    v = w.value()
    w.make(f"F.glu({v}, {w.dim(v, w.axis(v))})")


def _masked(w: Writer) -> None:
    """A causal mask over the last two axes."""
    v = w.value((2, 3, 4))
    rows, columns = (w.number(size) for size in w.shape(v)[-2:])
    w.make(f"{v}.masked_fill(torch.ones({rows}, {columns}, dtype=torch.bool).triu({w.number(w.integer(0, 2))}), 0.0)")


def _clamped(w: Writer) -> None:
    w.make(f"{w.value()}.clamp(-{w.integer(1, 3)}, {w.integer(1, 3)})")


# control


def _compared(w: Writer) -> None:
    """A branch on a size."""
    v = w.value()
    size = w.shape(v)[w.axis(v)]
    operator = w.one(("<", ">=", "==", "==", "!=", "!="))
    other = w.one((1, 1, size, size, w.integer(1, size + 1)))  # 1 is what most groups shrink to
    condition = f"{w.number(size)} {operator} {w.number(other)}"
    w.make(f"F.relu({v}) if {condition} else {v} * 3.0")


def _looped(w: Writer) -> None:
    """As many turns as a size says."""
    v = w.make(f"{w.value()} * 1.5")
    name = f"v{w.made - 1}"
    w.run(f"for _ in range({w.number(w.integer(1, 4))}): {name} = torch.tanh({v}) * 2.0")


def _looked_up(w: Writer) -> None:
    """A table whose keys are sizes, or texts of them."""
    v = w.value()
    size = w.shape(v)[w.axis(v)]
    if w.draw(st.booleans()):
        w.make(f"{v} * {{{size}: 2.0}}.get({w.number(size)}, 3.0)")
    else:
        w.make(f"{v} * {{'{size}': 2.0}}.get(f'{{{w.number(size)}}}', 3.0)")


def _dead_end(w: Writer) -> None:
    """A layer whose result nothing reads."""
    v = w.value()
    w.run(f"self.{w.member(f'nn.Linear({w.shape(v)[-1]}, {w.width()})')}({v})")


def _kept(w: Writer) -> None:
    """A result that leaves forward as an attribute of the module."""
    v = w.value()
    layer = w.member(f"nn.Linear({w.shape(v)[-1]}, {w.width()})")
    w.run(f"self.kept{len(w.members)} = self.{layer}({v})")


def _listed_result(w: Writer) -> None:
    """A result that leaves forward in a list."""
    v = w.value()
    layer, kept = w.member(f"nn.Linear({w.shape(v)[-1]}, {w.width()})"), w.member("[None]")
    w.run(f"self.{kept}[0] = F.relu(self.{layer}({v}))")


OPERATORS: dict[str, Operator] = {
    function.__name__.strip("_").replace("_", " "): function
    for function in (
        *(_linear, _convolution, _grouped_convolution, _called_convolution, _transposed_convolution, _batch_norm, _layer_norm),
        *(_group_norm, _instance_norm, _rms_norm, _scaled_by_parameter, _shifted_by_parameter, _called_linear, _embedding),
        *(_embedded_positions, _matmul, _matmul_of_values, _bmm, _einsum, _attention, _heads, _cat, _stack, _split),
        *(_split_in_two, _chunk, _halves, _tensor_split, _sliced, _narrow, _selected, _viewed, _merged, _flattened),
        *(_unflattened, _permuted, _transposed, _moved, _unsqueezed, _squeezed, _expanded, _repeated, _interleaved, _rolled),
        *(_flipped, _padded, _unfolded, _image_columns, _pixels, _shuffled, _unbound, _diagonal, _triangle, _taken, _indexed),
        *(_gathered, _pooled, _pooled_to_size, _resized, _mean, _sum, _max, _deviation, _length, _softmax, _cumulated),
        *(_sorted, _top, _kth, _places, _line, _counted, _filled, _identity, _function, _added, _broadcast, _gated, _where),
        *(_glu, _masked, _clamped, _compared, _looped, _looked_up, _dead_end, _kept, _listed_result),
    )
}
"""What a step of a program may be. Left out is what a trace cannot hear: a position in a list, a float compared with a size."""
