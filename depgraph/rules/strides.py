"""Rules of operators that read memory by strides, where that is a reshape, permutation, slice, expansion or windowing.

The operand lies in memory without gaps, so a stride is a product of the sizes of what lies further inside, times the step
along a dimension. Strides that forward takes from `stride()` follow these sizes. Literal ones do not, nor does the order in
memory that they assume, which may change where an axis is cut down to one index: they pin.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod

from attrs import frozen

from depgraph.rules.common import POSITIONS, family, pinned, table
from depgraph.rules.shape import matched_runs
from depgraph.solving.statements import Axis, Call, Equal, Fresh, Named, Pin, Plus, Rule, Statement, Term, Times, pin_all

_Read = tuple[Axis, int]
"""An axis of the result, and the stride by which it is read."""


def _as_strided(call: Call) -> Iterator[Statement]:
    x, out, sizes, strides = call["self"], call.out, call["size"], call["stride"]
    if call["order"] is None:
        yield from pin_all(call, f"{call.op} reads memory that has gaps or repetitions")
        return
    if any(type(stride) is int and stride > 1 for stride, axis in zip(strides, out.axes, strict=True) if axis.size != 1):
        yield from pin_all(call, f"{call.op} reads memory by strides that no size gives")
        return
    axes = [x[dim] for dim in call["order"]]
    reads = [(axis, stride) for axis, stride in zip(out.axes, strides, strict=True) if axis.size != 1]
    offset = call["storage_offset"]
    start = 0 if offset is None else int(offset) - call["begins"]
    if 0 in (*x.shape, *out.shape) or start < 0 or (offset and call["begins"]):
        yield from pin_all(call, f"{call.op} reads no element of it, or begins outside of it")
        return
    for axis, size in zip(out.axes, sizes, strict=True):
        yield Named(axis, size)
    moved = sorted((read for read in reads if read[1]), key=lambda read: -read[1])
    if not start and _is_rearranged(moved, prod(x.shape)):
        yield from matched_runs(axes, [axis for axis, _ in moved])
        for position, (_, stride) in enumerate(moved):
            yield Named(Times(tuple(axis for axis, _ in moved[position + 1 :])), stride)
        return
    lines = _lines(axes, moved, start)
    if lines is None:
        yield from pin_all(call, f"{call.op} reads memory beyond it")
        return
    begins: list[Term] = []
    for place, line in enumerate(lines):
        inside = tuple(axis for other in lines[place + 1 :] for axis in other.axes)
        yield from _along(call, line, inside, begins)
    if start:
        yield Named(Plus(tuple(begins)), offset)


@frozen
class _Line:
    """An axis of the operand, or adjacent axes that are read as one; the first index that is read, and its reads."""

    axes: tuple[Axis, ...]
    first: int
    reads: tuple[_Read, ...]


def _is_rearranged(reads: Sequence[_Read], count: int) -> bool:
    """Whether the strides, the largest first, are those of a contiguous tensor of `count` elements."""
    for axis, stride in reversed(reads):
        if stride != prod(other.size for other, smaller in reads if smaller < stride):
            return False
        count, rest = divmod(count, axis.size)
        if rest:
            return False
    return count == 1


def _lines(axes: Sequence[Axis], moved: Sequence[_Read], start: int) -> list[_Line] | None:
    """The axes of the operand, the outermost first, joined where a read passes the end of one. None if it leaves the tensor."""
    runs: list[tuple[Axis, ...]] = [(axis,) for axis in axes]
    while True:
        lines, over = _laid_out(runs, moved, start)
        if over is None:
            return lines
        if over == 0:
            return None
        runs[over - 1 : over + 1] = [runs[over - 1] + runs[over]]


def _laid_out(runs: Sequence[tuple[Axis, ...]], moved: Sequence[_Read], start: int) -> tuple[list[_Line], int | None]:
    """The reads along each run of axes, and the position of the first run whose end a read passes."""
    lines: list[_Line] = []
    width = prod(axis.size for run in runs for axis in run)
    for position, run in enumerate(runs):
        size = prod(axis.size for axis in run)
        width //= size
        here, moved = [read for read in moved if read[1] >= width], [read for read in moved if read[1] < width]
        first, start = divmod(start, width)
        if any(stride % width for _, stride in here):
            return lines, position + 1 if position + 1 < len(runs) else 0
        if first + sum((read.size - 1) * (stride // width) for read, stride in here) >= size:
            return lines, position
        lines.append(_Line(run, first, tuple(here)))
    return lines, None


def _along(call: Call, line: _Line, inside: tuple[Axis, ...], begins: list[Term]) -> Iterator[Statement]:
    """Statements of one line, of which a slice, blocks or windows are read. Appends the memory before it to `begins`."""
    width, before = prod(axis.size for axis in inside), Fresh(line.first)
    if line.first:
        begins.append(Times((before, *inside)))
    (axis, *others), reads = line.axes, line.reads
    if not others and len(reads) == 1 and reads[0][1] == width:
        read, stride = reads[0]
        yield Named(Times(inside), stride)
        after = axis.size - line.first - read.size
        yield Equal(axis, Plus((before, read, Fresh(after))) if line.first or after else read)
    elif not others and not line.first and _is_rearranged([(read, stride // width) for read, stride in reads], axis.size):
        yield Equal(axis, Times(tuple(read for read, _ in reads)))
        for position, (_, stride) in enumerate(reads):
            yield Named(Times((*(read for read, _ in reads[position + 1 :]), *inside)), stride)
    else:
        reason = POSITIONS.format(call.op) if reads else f"{call.op} takes a fixed position of it"
        yield from pinned((*line.axes, before, *(read for read, _ in reads)), reason)
        for _, stride in reads:
            step = Fresh(int(stride) // width)
            yield Pin(step, reason)
            yield Named(Times((step, *inside)), stride)


RULES: dict[str, Rule] = {
    **family("as_strided as_strided_copy", _as_strided, "RESHAPE"),
    **table("as_strided_scatter", "{} writes to memory by strides, which no other size follows"),
}
