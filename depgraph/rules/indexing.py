"""Rules of operators that read and write at positions that are computed in forward."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod

from attrs import frozen

from depgraph.rules.common import TAKES_POSITIONS, broadcast, family, matched, mixes_all, moving, named, passed, pinned, values
from depgraph.solving.statements import (
    Axis,
    Call,
    Chosen,
    Equal,
    Larger,
    Named,
    Pin,
    Rule,
    Statement,
    Taken,
    Traits,
    Value,
    pin_all,
)


@frozen
class _Subscript:
    """One index of a call with the dimensions that it indexes: one, or for a mask as many as the mask has."""

    dims: tuple[int, ...]
    index: Value

    @property
    def axes(self) -> tuple[Axis, ...]:
        """The axes of its positions; a mask has none, for data decide how many positions it selects."""
        return () if self.index.boolean else self.index.axes

    @property
    def ndim(self) -> int:
        """How many dimensions of the result its positions make; those of a mask make one."""
        return 1 if self.index.boolean else self.index.ndim


def _indexed(x: Value, indices: Sequence[Value | None]) -> tuple[list[_Subscript], int, list[int]]:
    """The subscripts, where the dimensions that they make begin in the result, and the dimensions that are not indexed."""
    subscripts: list[_Subscript] = []
    dim = 0
    for index in indices:
        width = index.ndim if index is not None and index.boolean else 1
        if index is not None:
            subscripts.append(_Subscript(tuple(range(dim, dim + width)), index))
        dim += width
    dims = [dim for one in subscripts for dim in one.dims]
    places = [place for place, index in enumerate(indices) if index is not None]
    adjacent = bool(places) and places == list(range(places[0], places[-1] + 1))
    start = dims[0] if adjacent and dims else 0
    return subscripts, start, [dim for dim in range(x.ndim) if dim not in dims]


def _masked(x: Value, one: _Subscript) -> Iterator[Statement]:
    """A mask has the axes that it indexes."""
    if one.index.boolean:
        for dim, axis in zip(one.dims, one.index.axes, strict=True):
            yield Equal(x[dim], axis)


def _position(one: _Subscript, axis: Axis, reason: str) -> Statement:
    """The subscript takes positions of an axis, which may be names of what the data choose; a mask gives none."""
    return Pin(axis, reason) if one.index.boolean else Taken(one.index, axis, reason)


def _index(call: Call) -> Iterator[Statement]:
    x, out = call["self"], call.out
    subscripts, start, rest = _indexed(x, call["indices"])
    ndim = max((one.ndim for one in subscripts), default=0)
    if any(one.index.boolean and not one.index.ndim for one in subscripts) or len(rest) + ndim != out.ndim:
        yield from pin_all(call, f"{call.op} uses a mask without dimensions")
        return
    positions = out.axes[start : start + ndim]
    for one in subscripts:
        yield from _masked(x, one)
        for dim in one.dims:
            yield _position(one, x[dim], TAKES_POSITIONS.format(call.op))
        yield from broadcast(one.axes, positions)
    if any(one.index.boolean for one in subscripts):
        yield from pinned(positions, f"{call.op} counts the positions of a mask")
    for dim, target in zip(rest, [*out.axes[:start], *out.axes[start + ndim :]], strict=True):
        yield Equal(x[dim], target)


def _index_put(call: Call) -> Iterator[Statement]:
    """Values are written at positions, which pins these. One value that is written where a mask holds is element-wise."""
    x, out, written = call["self"], call.out, call["values"]
    subscripts, start, rest = _indexed(x, call["indices"])
    yield from passed(x, out)
    if any(one.index.boolean and not one.index.ndim for one in subscripts):
        yield from pin_all(call, f"{call.op} uses a mask without dimensions")
        return
    ndim = max((one.ndim for one in subscripts), default=0)
    element_wise = prod(written.shape) == 1 and len(subscripts) == 1 and subscripts[0].index.boolean
    positions: list[Axis | None] = [None] * ndim
    for one in subscripts:
        yield from _masked(x, one)
        if not element_wise:
            reason = f"{call.op} writes to positions of it that are computed in forward"
            for dim in one.dims:
                yield _position(one, x[dim], reason)
            yield from pinned(one.index.axes, reason)
        for place, axis in enumerate(reversed(one.axes), start=1):
            if axis.size > 1 or positions[-place] is None:
                positions[-place] = axis
    before = [x[dim] for dim in rest if dim < start]
    targets = [*before, *positions, *(x[dim] for dim in rest[len(before) :])]
    for axis, target in zip(reversed(written.axes), reversed(targets), strict=False):
        if target is None:
            yield Pin(axis, f"{call.op} counts the positions of a mask")
        elif axis.size != 1:
            yield from broadcast((axis,), (target,))


def _index_select(call: Call) -> Iterator[Statement]:
    x, out, index = call["self"], call.out, call["index"]
    if not x.ndim:
        return
    dim = int(call["dim"]) % x.ndim
    yield Taken(index, x[dim], TAKES_POSITIONS.format(call.op))
    yield from passed(x, out, {dim})
    if index.ndim:
        yield Equal(index[0], out[dim])


def _index_write(call: Call) -> Iterator[Statement]:
    """`index_add`, `index_copy`, `index_fill`: whole slices are written to positions of one dimension."""
    x, out, index, source = call["self"], call.out, call["index"], call["source"]
    yield from passed(x, out)
    if not x.ndim:
        yield from pin_all(call, f"{call.op} writes to a tensor without axes")
        return
    dim = int(call["dim"]) % x.ndim
    yield Taken(index, x[dim], f"{call.op} writes to positions of it that are computed in forward")
    if isinstance(source, Value) and source.ndim:
        yield from passed(x, source, {dim})
        if index.ndim:
            yield Equal(index[0], source[dim])
    if call.op != "aten.index_add":
        yield from pinned(index.axes, f"{call.op} writes to each of the positions that it holds")


def _gather(call: Call) -> Iterator[Statement]:
    x, out = call["self"], call.out
    index = call["index"] if call["index"] is not None else call["indices"]
    if call["dim"] is None:
        yield from pin_all(call, f"{call.op} takes positions of all elements in a row")
        return
    dim = int(call["dim"]) % max(x.ndim, 1)
    if x.ndim:
        yield Taken(index, x[dim], TAKES_POSITIONS.format(call.op))
    yield from broadcast(index.axes, out.axes)
    for position, (axis, target) in enumerate(zip(x.axes, out.axes, strict=bool(x.ndim))):
        if position != dim and axis.size != 1:
            yield from matched(axis, target, TAKES_POSITIONS.format(call.op))


def _scatter(call: Call) -> Iterator[Statement]:
    x, out, index, source = call["self"], call.out, call["index"], call["src"]
    dim = int(call["dim"]) % max(x.ndim, 1)
    reason = f"{call.op} writes to positions of it that are computed in forward"
    yield from passed(x, out)
    if x.ndim:
        yield Taken(index, x[dim], reason)
    for position, axis in enumerate(index.axes):
        if position == dim:
            if call.op != "aten.scatter_add":
                yield Pin(axis, f"{call.op} writes to each of the positions that it holds")
        elif x.ndim:
            yield from matched(axis, x[position], reason)
        if isinstance(source, Value):
            yield from matched(axis, source[position], reason)


def _topk(call: Call) -> Iterator[Statement]:
    x = call["self"]
    if not x.ndim:
        return
    dim, k = _ordered_dim(call), call["k"]
    for out in call.outputs:
        yield from passed(x, out, {dim})
        yield Pin(out[dim], f"{call.op} orders it by the data")
        yield Named(out[dim], k)
    yield Larger(x[dim], k - 1, f"{call.op} takes the first {k} of it")
    yield Chosen(call.outputs[1], x[dim])


def _ordered_dim(call: Call) -> int:
    x: Value = call["self"]
    return int(call["dim"] if call["dim"] is not None else -1) % x.ndim


def _ordering(call: Call) -> Traits:
    """The best of an axis, and which they are."""
    x = call["self"]
    if not x.ndim:
        return Traits(mixes=())
    axis = x[_ordered_dim(call)]
    return Traits(mixes=(axis,), chooses=() if 1 in call.unread else (axis,))


def _one_hot(call: Call) -> Iterator[Statement]:
    """A 1 at the number that each position holds."""
    x, out, count = call["self"], call.out, call["num_classes"]
    yield from broadcast(x.axes, out.axes[:-1])
    if count is None or count < 0:
        yield Pin(out[-1], f"{call.op} makes as many as the data need")
    else:
        yield Named(out[-1], count)
    yield Taken(x, out[-1], f"{call.op} counts the values of its operand")


def _masked_scatter(call: Call) -> Iterator[Statement]:
    """A mask that is expanded along the last dimension takes the source row by row: that dimension may lose indices."""
    x, mask, source, out = call["self"], call["mask"], call["source"], call.out
    by_rows = mask.ndim == 0 or mask.shape[-1] == 1 or -1 in (call["alike"] or ())
    if not by_rows or not source.ndim or source.shape[-1] != out.shape[-1] or x.shape != out.shape:
        yield from _masked_select(call)
        return
    yield from broadcast(mask.axes, out.axes)
    yield from passed(x, out)
    yield Equal(source[-1], out[-1])
    for axis in (*out.axes[:-1], *source.axes[:-1]):
        yield Pin(axis, f"{call.op} lays in a row what a mask chooses by the data")


def _masked_index(call: Call) -> Iterator[Statement]:
    """`index` where a mask holds, and a constant elsewhere."""
    yield from _index(call)
    yield from broadcast(call["mask"].axes, call.out.axes)


def _masked_index_put(call: Call) -> Iterator[Statement]:
    """`index_put` of the values for which a mask holds."""
    yield from _index_put(call)
    yield from broadcast(call["mask"].axes, call["values"].axes)


def _masked_select(call: Call) -> Iterator[Statement]:
    yield from pin_all(call, f"{call.op} lays in a row what a mask chooses by the data")


def _positions(call: Call) -> Iterator[Statement]:
    yield from pin_all(call, f"{call.op} returns or counts positions that the data gives")


def _take(call: Call) -> Iterator[Statement]:
    yield from pinned(call["self"].axes, f"{call.op} takes positions of all elements in a row")
    yield from broadcast(call["index"].axes, call.out.axes)


def _put(call: Call) -> Iterator[Statement]:
    yield from pinned(call["self"].axes, f"{call.op} writes to positions of all elements in a row")
    yield from passed(call["self"], call.out)
    yield from broadcast(call["source"].axes, call["index"].axes)
    yield from pinned(call["index"].axes, f"{call.op} writes to each of the positions that it holds")


def _looked_up(call: Call) -> Iterator[Statement]:
    """`bucketize`, `searchsorted`: values are looked up in sorted boundaries; the results have the shape of the values."""
    bounds = call["boundaries"] if call["boundaries"] is not None else call["sorted_sequence"]
    reason = f"{call.op} counts positions of it"
    yield Pin(bounds[-1], reason)
    if isinstance(call["sorter"], Value):
        yield from passed(bounds, call["sorter"])
    for out in call.outputs:
        if isinstance(call["self"], Value):
            yield from passed(call["self"], out)
        if bounds.ndim > 1:
            yield from broadcast(bounds.axes[:-1], out.axes[:-1])


def _member(call: Call) -> Iterator[Statement]:
    if isinstance(call["elements"], Value):
        yield from passed(call["elements"], call.out)


def _counted(call: Call) -> Iterator[Statement]:
    """Counts by value: elements and their weights match, bins stay."""
    x, weight = call["self"], named(call, "weights", "weight")
    if weight is not None:
        yield from passed(x, weight)
    for value in (*call.outputs, *values(call["bins"])):
        yield from pinned(value.axes, f"{call.op} counts values")


def _binned(call: Call) -> Iterator[Statement]:
    """`histc`: numbers from 0 to one less than there are bins fall each into its own."""
    x, out, bins, last = call["self"], call.out, call["bins"], call["max"]
    reason = f"{call.op} counts values"
    if call["min"] == 0 and isinstance(last, int) and last == bins - 1:
        yield Named(out[0], bins)
        yield Named(out[0], last + 1)
        yield Taken(x, out[0], reason)
        yield Chosen(out, out[0], "count")
    else:
        yield Pin(out[0], reason)


def _by_number(call: Call) -> Iterator[Statement]:
    """`bincount`: how often each number occurs; of more than `minlength` only the data tell."""
    x, out, count = call["self"], call.out, call["minlength"]
    if isinstance(call["weights"], Value):
        yield from passed(x, call["weights"])
    if out.shape[0] == (count or 0):
        yield Named(out[0], count)
        yield Taken(x, out[0], f"{call.op} counts values")
        yield Chosen(out, out[0], "count")
    else:
        yield Pin(out[0], f"{call.op} counts values")


def _sampled(call: Call) -> Iterator[Statement]:
    x, out = call["self"], call.out
    for value in (x, out):
        yield Pin(value[-1], f"{call.op} draws positions of it")
    for before, after in zip(x.axes[:-1], out.axes[:-1], strict=True):
        yield Equal(before, after)


def _segments(call: Call) -> Iterator[Statement]:
    x, out = call["data"], call.out
    axis = int(call["axis"] or 0) % x.ndim
    yield from passed(x, out, {axis})
    for value in values([call["lengths"], call["indices"], call["offsets"]]):
        yield from pinned(value.axes, f"{call.op} cuts it into segments")
    yield from pinned((x[axis], out[axis]), f"{call.op} cuts it into segments")


RULES: dict[str, Rule] = {
    **family("index _unsafe_index", moving(_index), "SLICE"),
    **family("index_put _index_put_impl _unsafe_index_put", _index_put, "SLICE"),
    **family("masked_scatter", _masked_scatter, "SLICE"),
    **family("masked_select", _masked_select, "SLICE"),
    **family("_unsafe_masked_index", _masked_index, "SLICE"),
    **family("_unsafe_masked_index_put_accumulate", _masked_index_put, "SLICE"),
    **family(
        "nonzero nonzero_static nonzero_numpy argwhere _unique _unique2 unique_dim unique_consecutive unique_dim_consecutive",
        _positions,
        "SLICE",
    ),
    **family("take", _take, "SLICE"),
    **family("put", _put, "SLICE"),
    **family("bucketize searchsorted", _looked_up, "ELEMENTWISE"),
    **family("isin", _member, "ELEMENTWISE"),
    **family("histogram", _counted, "REDUCE", mixes_all),
    **family("histc", _binned, "REDUCE", mixes_all),
    **family("bincount", _by_number, "REDUCE", mixes_all),
    **family("one_hot", _one_hot, "EXPAND"),
    **family("multinomial", _sampled, "SLICE", Traits((), draws=True)),
    **family("segment_reduce", _segments, "REDUCE"),
    **family("index_select", moving(_index_select), "SLICE"),
    **family("index_add index_copy index_fill index_reduce", _index_write, "SLICE"),
    **family("gather take_along_dim", moving(_gather), "SLICE"),
    **family("scatter scatter_add scatter_reduce", _scatter, "SLICE"),
    **family("topk", _topk, "SLICE", _ordering),
}
