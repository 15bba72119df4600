"""Rules of products: matrices, outer products, einsum, bilinear forms, distances between rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from depgraph.rules.common import broadcast, elementwise, family, mixes_all, mixing, named, operands, pinned, table
from depgraph.solving.statements import (
    Axis,
    Call,
    Equal,
    Fresh,
    Larger,
    Multiple,
    Pin,
    Rule,
    Statement,
    Taken,
    Times,
    Traits,
    Value,
    Weight,
    Work,
)


def _matmul(call: Call) -> Iterator[Statement]:
    """A product with a vector on the right counts no work, as PyTorch's counter does not count it."""
    a, b = _factors(call)
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
    if isinstance(call["self"], Value) and call["self"] is not a:
        yield from broadcast(call["self"].axes, out.axes)
    if b.ndim > 1 and call.op in _COUNTED:
        yield Work((*batch, *free, a[-1]))


def _factors(call: Call) -> tuple[Value, Value]:
    """The two factors, whose names differ in operators that also add."""
    a = named(call, "mat1", "batch1", "mat", "self", "input")
    b = named(call, "mat2", "batch2", "vec", "other", "tensor")
    assert a is not None and b is not None, "a product has two factors"
    return a, b


def _multiplying(call: Call) -> Traits:
    """A matrix on the right may be the weight of a layer; a third operand is added."""
    (a, b), out = _factors(call), call.out
    weight = Weight(b[0], b[1], a[-1], out[-1]) if b.ndim == 2 and a.ndim else None
    offsets = operands(call, "self") if call["self"] is not a else ()
    return Traits((), offsets=offsets, weight=weight)


_COUNTED = {f"aten.{name}" for name in ("matmul", "mm", "bmm", "addmm", "baddbmm", "dot", "vdot", "mv", "addmv")}


def _tensordot(call: Call) -> Iterator[Statement]:
    """Sums over pairs of axes; the other axes of the first operand come first."""
    a, b, out = call["self"], call["other"], call.out
    left, right = ([int(dim) % value.ndim for dim in call[name]] for value, name in ((a, "dims_self"), (b, "dims_other")))
    summed = [(a[i], b[j]) for i, j in zip(left, right, strict=True)]
    for one, other in summed:
        yield from broadcast((one,), (other,))
    free = [axis for d, axis in enumerate(a.axes) if d not in left] + [axis for d, axis in enumerate(b.axes) if d not in right]
    for axis, target in zip(free, out.axes, strict=True):
        yield Equal(axis, target)
    if free:  # PyTorch's counter counts no product whose result is one number
        yield Work((*free, *(one if one.size == other.size else Fresh(1) for one, other in summed)))


def _inner(call: Call) -> Iterator[Statement]:
    """Sums over the last axes; a tensor without axes only scales."""
    a, b, out = call["self"], call["other"], call.out
    if not a.ndim or not b.ndim:
        yield from elementwise(call)
        return
    yield Equal(a[-1], b[-1])
    free = (*a.axes[:-1], *b.axes[:-1])
    for axis, target in zip(free, out.axes, strict=True):
        yield Equal(axis, target)
    if free:
        yield Work((*free, a[-1]))


def _kron(call: Call) -> Iterator[Statement]:
    """Each axis is a product of the operands' axes, that of the first operand outside."""
    a, b, out = call["self"], call["other"], call.out
    for place, axis in enumerate(reversed(out.axes), start=1):
        yield Equal(axis, Times(tuple(value[-place] for value in (a, b) if value.ndim >= place)))


def _summed_batches(call: Call) -> Iterator[Statement]:
    """`addbmm` sums the products over the batch."""
    a, b, out = call["batch1"], call["batch2"], call.out
    yield Equal(a[0], b[0])
    yield Equal(a[2], b[1])
    yield Equal(out[0], a[1])
    yield Equal(out[1], b[2])
    yield from broadcast(call["self"].axes, out.axes)


def _outer(call: Call) -> Iterator[Statement]:
    a, b = call.inputs[-2:]
    yield Equal(call.out[0], a[0])
    yield Equal(call.out[1], b[0])
    for value in call.inputs[:-2]:
        yield from broadcast(value.axes, call.out.axes)


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
    for product, summed in _contractions(wide, set(out)):
        yield Work(tuple(axis_of[letter] for letter in sorted(product)))
        over = Times(tuple(axis_of[letter] for letter in sorted(summed)))
        yield Larger(over, 1, f"{call.op} multiplies element by element where nothing is left to sum over")
    together = set().union(*wide)
    first = [letter for letter in sorted(together) if sum(letter in letters for letters in wide) == 1 and letter not in out]
    if first:
        yield Larger(Times(tuple(axis_of[letter] for letter in first)), 1, f"{call.op} sums over it before the product")
        yield Work(tuple(axis_of[letter] for letter in sorted(together)), 0)  # a sum before the product counts no work


def _contracting(call: Call) -> Traits:
    """With more than two operands the costs do not show which axes are multiplied with each other."""
    return mixes_all(call) if len(call["tensors"]) > 2 else Traits(())


def _contractions(operands: Sequence[set[str]], out: set[str]) -> Iterator[tuple[set[str], set[str]]]:
    """The letters of each matrix product, and those that it sums over, from left to right, as ATen contracts them.

    Letters of one operand alone are summed before; where no letter is left to sum over, operands are multiplied element-wise.
    """
    left = operands[0]
    for position, right in enumerate(operands[1:], start=1):
        needed = out.union(*operands[position + 1 :])
        both = (left & needed) | (right & needed) | (left & right)
        if not both <= needed:
            yield both, both - needed
        left = both & needed


def _letters(term: str, ndim: int) -> list[str]:
    before, dots, after = term.partition("...")
    missing = ndim - len(before) - len(after)
    return [*before, *(f"...{missing - k}" for k in range(missing if dots else 0)), *after]


_ROW_BYTES = 16
"""Of how many bytes rows of the operands of `_grouped_mm` are a multiple."""


def _grouped_product(call: Call) -> Iterator[Statement]:
    a, b, out = call["self"], call["mat2"], call.out
    yield Equal(a[-1], b[-2])
    yield Equal(out[-1], b[-1])
    for axis in (b[-2], b[-1]):
        yield Multiple(axis, _ROW_BYTES // a.itemsize, f"{call.op} takes rows of a multiple of {_ROW_BYTES} bytes")
    for value in (a, b):
        if value.ndim == 3:
            reason = f"it counts the groups of {call.op}, to which the data sends its rows"
            yield Taken(call["offs"], value[0], reason, "end") if isinstance(call["offs"], Value) else Pin(value[0], reason)
    for before, after in zip(a.axes[:-1], out.axes, strict=False):
        if a.ndim == out.ndim:
            yield Equal(before, after)
    if isinstance(call["bias"], Value):
        yield Equal(call["bias"][-1], out[-1])


def _bilinear(call: Call) -> Iterable[Statement]:
    a, b, w, bias, out = call["input1"], call["input2"], call["weight"], call["bias"], call.out
    yield Equal(a[-1], w[1])
    yield Equal(b[-1], w[2])
    yield Equal(out[-1], w[0])
    if bias is not None:
        yield Equal(bias[0], w[0])
    for value in (a, b):
        yield from broadcast(value.axes[:-1], out.axes[:-1])


def _trilinear(call: Call) -> Iterator[Statement]:
    """The product of three operands, unsqueezed at some dimensions, summed over others."""
    operands = [(call[f"i{k}"], {int(dim) for dim in call[f"expand{k}"]}) for k in (1, 2, 3)]
    summed = {int(dim) for dim in call["sumdim"]}
    ndim = operands[0][0].ndim + len(operands[0][1])
    out_dims = [dim for dim in range(ndim) if dim not in summed]
    axes_of: dict[int, list[Axis]] = {dim: [axis] for dim, axis in zip(out_dims, call.out.axes, strict=True)}
    for value, expanded in operands:
        for dim, axis in zip([dim for dim in range(ndim) if dim not in expanded], value.axes, strict=True):
            axes_of.setdefault(dim, []).append(axis)
    for axes in axes_of.values():
        widest = max(axes, key=lambda axis: axis.size)
        for axis in axes:
            yield from broadcast((axis,), (widest,))


def _distances(call: Call) -> Iterator[Statement]:
    """Distances from each row of the first operand to each row of the second one."""
    a, b, out = call["x1"], call["x2"], call.out
    yield Equal(a[-1], b[-1])
    yield Equal(out[-2], a[-2])
    yield Equal(out[-1], b[-2])
    for value in (a, b):
        yield from broadcast(value.axes[:-2], out.axes[:-2])


def _pairs(call: Call) -> Iterator[Statement]:
    yield from pinned((call["self"][0], call.out[0]), f"{call.op} counts the pairs of its rows")


def _quantised_product(call: Call) -> Iterator[Statement]:
    """`_weight_int8pack_mm`: rows of the second matrix are output channels, each with its scale."""
    a, b, out = call["self"], call["mat2"], call.out
    yield Equal(a[-1], b[1])
    yield Equal(a[0], out[0])
    yield Equal(out[-1], b[0])
    yield Equal(call["scales"][0], b[0])


RULES: dict[str, Rule] = {
    **family("matmul mm bmm mv dot addmm baddbmm addmv vdot _int_mm _addmm_activation", _matmul, "MATMUL", _multiplying),
    **family("addbmm", _summed_batches, "MATMUL", mixing(lambda call: (), "self")),
    **family("tensordot", _tensordot, "MATMUL"),
    **family("inner", _inner, "MATMUL"),
    **family("kron", _kron, "MATMUL"),
    **family("outer addr", _outer, "MATMUL"),
    **family("einsum", _einsum, "MATMUL", _contracting),
    **family("bilinear", _bilinear, "LINEAR", mixing(lambda call: (), "bias")),
    **family("_trilinear", _trilinear, "MATMUL"),
    **family("_grouped_mm", _grouped_product, "MATMUL"),
    **family("_weight_int8pack_mm", _quantised_product, "MATMUL"),
    **family("cdist _cdist_forward _euclidean_dist", _distances, "MATMUL"),
    **family("pdist _pdist_forward", _pairs, "MATMUL"),
    **table(
        "_scaled_mm _scaled_mm_v2 _scaled_grouped_mm _scaled_grouped_mm_v2",
        "the scales of {} belong to blocks of fixed size, and its kernels take sizes that such blocks divide",
    ),
    **table("_foreach_mm", "{} multiplies lists of matrices"),
}
