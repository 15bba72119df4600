"""Rules of operators that read from and write to positions that tensors give."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from depgraph.equations import Call, Equal, Named, Pin, Rule, Statement, Value
from depgraph.rules.common import TAKEN, broadcast, family, matched, passed, pin_all


def _indexed(x: Value, indices: Sequence[Value | None]) -> tuple[list[int], int, list[int]]:
    """The dimensions that are indexed, where the dimensions of the result begin, and those that pass."""
    dims = [dim for dim, index in enumerate(indices) if index is not None]
    adjacent = bool(dims) and dims == list(range(dims[0], dims[-1] + 1))
    return dims, dims[0] if adjacent else 0, [dim for dim in range(x.ndim) if dim not in dims]


def _index(call: Call) -> Iterator[Statement]:
    x, out, indices = call["self"], call.out, call["indices"]
    dims, start, rest = _indexed(x, indices)
    result = max((indices[dim].ndim for dim in dims), default=0)
    if x.ndim == 0 or len(dims) + out.ndim - result != x.ndim:
        yield from pin_all(call, f"{call.op} uses a mask")
        return
    taken = out.axes[start : start + result]
    for dim in dims:
        yield Pin(x[dim], TAKEN.format(call.op))
        yield from broadcast(indices[dim].axes, taken)
    counted = {size for dim in dims for size in indices[dim].shape}
    for axis in taken:
        if axis.size not in counted:
            yield Pin(axis, f"{call.op} counts the positions of a mask")
    for dim, target in zip(rest, [*out.axes[:start], *out.axes[start + result :]], strict=True):
        yield Equal(x[dim], target)


def _index_put(call: Call) -> Iterator[Statement]:
    x, out, values, indices = call["self"], call.out, call["values"], call["indices"]
    dims, start, rest = _indexed(x, indices)
    if x.ndim == 0 or any(indices[dim].ndim > 1 for dim in dims):
        yield from pin_all(call, f"{call.op} may use a mask")
        return
    yield from passed(x, out)
    for dim in dims:
        for axis in (x[dim], *indices[dim].axes):
            yield Pin(axis, f"{call.op} writes to positions of it that are computed in forward")
    positions = max((indices[dim].axes for dim in dims), key=lambda axes: axes[0].size if axes else 0)
    before = [x[dim] for dim in rest if dim < start]
    yield from broadcast(values.axes, [*before, *positions, *(x[dim] for dim in rest[len(before) :])])


def _index_select(call: Call) -> Iterator[Statement]:
    x, out, index = call["self"], call.out, call["index"]
    dim = int(call["dim"]) % x.ndim
    yield Pin(x[dim], TAKEN.format(call.op))
    yield from passed(x, out, {dim})
    if index.ndim:
        yield Equal(index[0], out[dim])


def _index_write(call: Call) -> Iterator[Statement]:
    """`index_add`, `index_copy`, `index_fill`: whole slices are written to positions of one dimension."""
    x, out, index, source = call["self"], call.out, call["index"], call["source"]
    dim = int(call["dim"]) % max(x.ndim, 1)
    yield from passed(x, out)
    yield Pin(x[dim], f"{call.op} writes to positions of it that are computed in forward")
    if isinstance(source, Value):
        yield from passed(x, source, {dim})
        if index.ndim:
            yield Equal(index[0], source[dim])


def _gather(call: Call) -> Iterator[Statement]:
    x, out = call["self"], call.out
    index = call["index"] if call["index"] is not None else call["indices"]
    if call["dim"] is None:
        yield from pin_all(call, f"{call.op} takes positions of all elements in a row")
        return
    dim = int(call["dim"]) % max(x.ndim, 1)
    yield Pin(x[dim], TAKEN.format(call.op))
    yield from broadcast(index.axes, out.axes)
    for position, (axis, target) in enumerate(zip(x.axes, out.axes, strict=True)):
        if position != dim and axis.size != 1:
            yield from matched(axis, target, TAKEN.format(call.op))


def _scatter(call: Call) -> Iterator[Statement]:
    x, out, index, source = call["self"], call.out, call["index"], call["src"]
    dim = int(call["dim"]) % max(x.ndim, 1)
    reason = f"{call.op} writes to positions of it that are computed in forward"
    yield from passed(x, out)
    yield Pin(x[dim], reason)
    for position, axis in enumerate(index.axes):
        if position != dim:
            yield from matched(axis, x[position], reason)
        if isinstance(source, Value):
            yield from matched(axis, source[position], reason)


def _topk(call: Call) -> Iterator[Statement]:
    x = call["self"]
    dim = int(call["dim"] if call["dim"] is not None else -1) % max(x.ndim, 1)
    for out in call.outputs:
        yield from passed(x, out, {dim})
        for axis in (x[dim], out[dim]):
            yield Pin(axis, f"{call.op} orders it by the data")
        yield Named(out[dim], call["k"])


RULES: dict[str, Rule] = {
    **family("index", _index, "SLICE"),
    **family("index_put _index_put_impl", _index_put, "SLICE"),
    **family("index_select", _index_select, "SLICE"),
    **family("index_add index_copy index_fill index_reduce", _index_write, "SLICE"),
    **family("gather take_along_dim", _gather, "SLICE"),
    **family("scatter scatter_add scatter_reduce", _scatter, "SLICE"),
    **family("topk", _topk, "SLICE"),
}
