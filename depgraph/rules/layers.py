"""Rules of layers with parameters: convolution, linear and other contractions, embedding."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from depgraph.equations import Axis, Call, Equal, Fresh, Named, Pin, Rule, Statement, Times, Value, Work
from depgraph.rules.common import POSITIONS, broadcast, elementwise


def _convolution(call: Call) -> Iterator[Statement]:
    x, w, bias, out = call["input"], call["weight"], call["bias"], call.out
    transposed = bool(call["transposed"]) or "transpose" in call.op
    groups = int(call["groups"] or 1)
    spatial = w.ndim - 2
    batch = x.ndim - spatial - 1
    x_channels, out_channels = x[batch], out[batch]
    blocks = Fresh(groups)
    if groups > 1:
        yield Named(blocks, call["groups"])
    if transposed:
        yield Equal(x_channels, w[0])
        yield Equal(w[0], Times((blocks, Fresh(w.shape[0] // groups))))
        yield Equal(out_channels, Times((blocks, w[1])))
    else:
        yield Equal(x_channels, Times((blocks, w[1])))
        yield Equal(w[0], Times((blocks, Fresh(w.shape[0] // groups))))
        yield Equal(out_channels, w[0])
    if bias is not None:
        yield Equal(bias[0], out_channels)
    if batch:
        yield Equal(x[0], out[0])
    for axis in w.axes[2:]:
        yield Pin(axis, f"it is a kernel axis of {call.op}")
    for axis in x.axes[batch + 1 :] + out.axes[batch + 1 :]:
        yield Pin(axis, POSITIONS.format(call.op))
    counted = x if transposed else out
    yield Work((*counted.axes[:batch], *counted.axes[batch + 1 :], *w.axes))


def _linear(call: Call) -> Iterator[Statement]:
    x, w, bias, out = call["input"], call["weight"], call["bias"], call.out
    yield Equal(x[-1], w[-1])
    for before, after in zip(x.axes[:-1], out.axes, strict=False):
        yield Equal(before, after)
    if w.ndim == 2:
        yield Equal(out[-1], w[0])
        if bias is not None and bias.ndim:
            yield Equal(bias[0], w[0])
        yield Work((*x.axes[:-1], *w.axes))


def _matmul(call: Call) -> Iterator[Statement]:
    """Products with a vector on the right count no work: PyTorch's counter does not see them either."""
    a, b = (value for value in call.inputs[-2:])
    out = call.out
    yield Equal(a[-1], b[-2] if b.ndim > 1 else b[0])
    free: list[Axis] = []
    position = out.ndim
    if b.ndim > 1:
        position -= 1
        yield Equal(out[position], b[-1])
        free.append(b[-1])
    if a.ndim > 1:
        position -= 1
        yield Equal(out[position], a[-2])
        free.append(a[-2])
    batch = out.axes[:position]
    for value in (a, b):
        yield from broadcast(value.axes[:-2], batch)
    bias = call["self"] if call.op in {"aten.addmm", "aten.baddbmm", "aten.addmv"} else None
    if isinstance(bias, Value):
        yield from broadcast(bias.axes, out.axes)
    if b.ndim > 1:
        yield Work((*batch, *free, a[-1]))


def _outer(call: Call) -> Iterator[Statement]:
    a, b = call.inputs
    yield Equal(call.out[0], a[0])
    yield Equal(call.out[1], b[0])


def _einsum(call: Call) -> Iterator[Statement]:
    equation = str(call["equation"]).replace(" ", "")
    operands: list[Value] = list(call["tensors"])
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    lettered = [_letters(term, value.ndim) for term, value in zip(terms, operands, strict=True)]
    if arrow:
        out = _letters(right, call.out.ndim)
    else:
        everything = [letter for term in lettered for letter in term]
        dots = sorted({x for x in everything if len(x) > 1}, reverse=True)
        out = dots + sorted(x for x in set(everything) if len(x) == 1 and everything.count(x) == 1)
    axis_of: dict[str, Axis] = {}
    for value, letters in zip([*operands, call.out], [*lettered, out], strict=True):
        for axis, letter in zip(value.axes, letters, strict=True):
            if letter in axis_of and axis.size == axis_of[letter].size:
                yield Equal(axis, axis_of[letter])
            elif letter not in axis_of or axis.size > 1:
                axis_of[letter] = axis
    wide = [{letter for letter in letters if axis_of[letter].size > 1} for letters in lettered]
    for product in _contractions(wide, set(out)):
        yield Work(tuple(axis_of[letter] for letter in sorted(product)))


def _contractions(operands: Sequence[set[str]], out: set[str]) -> Iterator[set[str]]:
    """The letters of each matrix product, from left to right, as ATen contracts them.

    What only one operand has is summed before; where nothing is left to sum, operands are multiplied element-wise.
    """
    left = operands[0]
    for position, right in enumerate(operands[1:], start=1):
        needed = out.union(*operands[position + 1 :])
        both = (left & needed) | (right & needed) | (left & right)
        if not both <= needed:
            yield both
        left = both & needed


def _letters(term: str, ndim: int) -> list[str]:
    before, dots, after = term.partition("...")
    missing = ndim - len(before) - len(after)
    return [*before, *(f"...{missing - k}" for k in range(missing if dots else 0)), *after]


def _grouped_product(call: Call) -> Iterator[Statement]:
    a, b, out = call["self"], call["mat2"], call.out
    yield Equal(a[-1], b[-2])
    yield Equal(out[-1], b[-1])
    for value in (a, b):
        if value.ndim == 3:
            yield Pin(value[0], f"it counts the groups of {call.op}, to which the data sends its rows")
    for before, after in zip(a.axes[:-1], out.axes, strict=False):
        if a.ndim == out.ndim:
            yield Equal(before, after)
    if isinstance(call["bias"], Value):
        yield Equal(call["bias"][-1], out[-1])


def _embedding(call: Call) -> Iterator[Statement]:
    w, indices, out = call["weight"], call["indices"], call.out
    yield Pin(w[0], "it is indexed by the data (a vocabulary)")
    yield Equal(out[-1], w[1])
    for before, after in zip(indices.axes, out.axes, strict=False):
        yield Equal(before, after)


def _embedding_bag(call: Call) -> Iterator[Statement]:
    w, out = call["weight"], call.out
    yield Pin(w[0], "it is indexed by the data (a vocabulary)")
    yield Equal(out[-1], w[1])
    for axis in (out[0], *(axis for value in call.outputs[1:] for axis in value.axes)):
        yield Pin(axis, f"{call.op} counts bags and their elements")


def _prelu(call: Call) -> Iterator[Statement]:
    x, w, out = call["self"], call["weight"], call.out
    yield from broadcast(x.axes, out.axes)
    if w.shape and w.shape[0] > 1:
        yield Equal(w[0], x[1])


def _bilinear(call: Call) -> Iterable[Statement]:
    a, b, w, bias, out = call["input1"], call["input2"], call["weight"], call["bias"], call.out
    yield Equal(a[-1], w[1])
    yield Equal(b[-1], w[2])
    yield Equal(out[-1], w[0])
    if bias is not None:
        yield Equal(bias[0], w[0])
    for value in (a, b):
        yield from broadcast(value.axes[:-1], out.axes[:-1])


_CONVOLUTIONS = ["convolution", "_convolution", *(f"conv{t}{n}d" for t in ("", "_transpose") for n in (1, 2, 3))]

RULES: dict[str, Rule] = {
    **{f"aten.{name}": Rule(_convolution, "CONV") for name in _CONVOLUTIONS},
    "aten.linear": Rule(_linear, "LINEAR"),
    **{
        f"aten.{name}": Rule(_matmul, "MATMUL")
        for name in ("matmul", "mm", "bmm", "mv", "dot", "addmm", "baddbmm", "addmv", "vdot")
    },
    "aten.outer": Rule(_outer, "MATMUL"),
    "aten.einsum": Rule(_einsum, "MATMUL"),
    "aten.bilinear": Rule(_bilinear, "LINEAR"),
    "aten._grouped_mm": Rule(_grouped_product, "MATMUL"),
    "aten.embedding": Rule(_embedding, "EMBEDDING"),
    "aten.embedding_bag": Rule(_embedding_bag, "EMBEDDING"),
    "aten._weight_norm": Rule(elementwise),
    "aten._weight_norm_interface": Rule(elementwise),
    "aten.prelu": Rule(_prelu, "PRELU"),
}
