"""Rules of operators that lay axes end to end and cut them apart: joins, splits, slices, padding, rolls."""

from __future__ import annotations

from collections.abc import Iterator

from depgraph.rules.common import family, moving, passed, pinned
from depgraph.solving.statements import (
    Axis,
    Backwards,
    Balanced,
    Call,
    Equal,
    Fresh,
    Larger,
    Moved,
    Named,
    Pin,
    Plus,
    Rule,
    Statement,
    Times,
    Value,
    pin_all,
)


def _cat(call: Call) -> Iterator[Statement]:
    values = [value for value in call["tensors"] if value.shape != (0,)]
    out = call.out
    dim = int(call["dim"] or 0) % out.ndim
    yield Equal(out[dim], Plus(tuple(value[dim] for value in values)))
    for value in values:
        yield from passed(value, out, {dim})
        yield Moved(value, out)


def _stack(call: Call) -> Iterator[Statement]:
    out = call.out
    dim = int(call["dim"] or 0) % out.ndim
    yield Pin(out[dim], f"it counts the tensors that {call.op} joins")
    rest = [axis for position, axis in enumerate(out.axes) if position != dim]
    for value in call["tensors"]:
        yield Moved(value, out)
        for axis, target in zip(value.axes, rest, strict=True):
            yield Equal(axis, target)


def _parts(call: Call, dim: int) -> Iterator[Statement]:
    """The results lie end to end along one axis; the other axes pass."""
    x = call["self"]
    yield Equal(x[dim], Plus(tuple(part[dim] for part in call.outputs)))
    for part in call.outputs:
        yield from passed(x, part, {dim})


def _split(call: Call) -> Iterator[Statement]:
    x = call["self"]
    dim = int(call["dim"] or 0) % x.ndim
    yield from _parts(call, dim)
    sizes = call["split_sizes"] if call["split_sizes"] is not None else call["split_size"]
    if isinstance(sizes, (list, tuple)):
        for part, size in zip(call.outputs, sizes, strict=True):
            yield Named(part[dim], size)
        return
    if x.shape[dim] % int(sizes):
        yield Pin(x[dim], f"{call.op} leaves a remainder of it")
        return
    for part in call.outputs:
        yield Named(part[dim], sizes)
    yield from _equal_parts(call, dim)


def _equal_parts(call: Call, dim: int) -> Iterator[Statement]:
    if len(call.outputs) > 1:
        yield Balanced(tuple(part[dim] for part in call.outputs), f"{call.op} needs equal parts")


def _chunk(call: Call) -> Iterator[Statement]:
    x = call["self"]
    dim = int(call["dim"] or 0) % x.ndim
    yield from _parts(call, dim)
    if call["indices"] is not None:
        yield from _cut_at(call, dim)
        return
    number = call["chunks"] if call["chunks"] is not None else call["sections"]
    if number is None:
        for axis in (x[dim], *(axis for value in call.inputs[1:] for axis in value.axes)):
            yield Pin(axis, f"{call.op} cuts at positions that are computed in forward")
        return
    count = Fresh(int(number))
    yield Pin(count, f"it counts the parts that {call.op} makes")
    yield Named(count, number)
    if len({part.shape[dim] for part in call.outputs}) > 1 or len(call.outputs) != count.size:
        yield Pin(x[dim], f"{call.op} cuts it into unequal parts")
    else:
        yield from _equal_parts(call, dim)


def _cut_at(call: Call, dim: int) -> Iterator[Statement]:
    """Each position at which `tensor_split` cuts names the size before it, or from the end the size behind it."""
    x, indices = call["self"], call["indices"]
    parts = [part[dim] for part in call.outputs]
    for number, index in enumerate(indices, start=1):
        before, after = Plus(tuple(parts[:number])), Plus(tuple(parts[number:]))
        if index == before.size:
            yield Named(before, index)
        elif -index == after.size:
            yield Named(after, -index)
        else:
            yield Pin(x[dim], f"{call.op} cuts it at a position outside of it")


def _select(call: Call) -> Iterator[Statement]:
    x = call["self"]
    dim = int(call["dim"] or 0) % x.ndim
    only_shape = call["index"] in {0, -1} and 0 in call.unread  # the first and last index exist while the axis is not empty
    if not only_shape:
        yield Pin(x[dim], f"{call.op} takes a fixed position of it")
    rest = [axis for position, axis in enumerate(x.axes) if position != dim]
    for out in call.outputs:
        for axis, target in zip(out.axes, rest, strict=True):
            yield Equal(axis, target)


def _slice(call: Call) -> Iterator[Statement]:
    x = call["self"]
    yield from _sliced(x, call.out, int(call["dim"] or 0) % x.ndim, call)


def _sliced(x: Value, out: Value, dim: int, call: Call) -> Iterator[Statement]:
    """A slice by `start`, `end` and `step` is a part of the tensor's axis, or one of its phases."""
    if any(isinstance(call[name], Value) for name in ("start", "end", "length")):
        yield from passed(x, out, {dim})
        yield from pinned((x[dim], out[dim]), f"{call.op} cuts it where the data say")
        return
    size, step = x.shape[dim], int(call["step"] or 1)
    first = call["start"] if call["start"] is not None else 0
    end = call["end"] if call["end"] is not None else size
    last = end if call["length"] is None else first + call["length"]
    yield from passed(x, out, {dim})
    start = min(max(int(first) + (size if first < 0 else 0), 0), size)
    stop = start + (out.shape[dim] - 1) * step + 1 if out.shape[dim] else start
    if out.shape[dim] == 0 and start == size and first > 0:
        yield Named(x[dim], first)
    elif out.shape[dim] == 0:
        yield Pin(x[dim], "an empty slice is taken of it")
    elif step > 1:
        yield from _strided(x[dim], out[dim], start, step, call)
    elif out.shape[dim] == size:
        yield Equal(x[dim], out[dim])
        if call["length"] is not None:
            yield Named(out[dim], call["length"])
        elif call["end"] is not None and int(last) == size:
            yield Named(out[dim], last)
        elif call["end"] is not None:
            yield Larger(last + 1, x[dim], f"{call.op} ends behind it")
    else:
        before, after = Fresh(start), Fresh(size - stop)
        yield Equal(x[dim], Plus((before, out[dim], after)))
        if start:
            yield Named(before, first) if first > 0 else Named(Plus((out[dim], after)), -first)
        if call["length"] is not None:
            yield Named(out[dim], call["length"])
        elif stop < size:
            if last < 0:
                yield Named(after, -last)
            else:
                yield Named(Plus((before, out[dim])), last)


def _scattered(call: Call) -> Iterator[Statement]:
    """`select_scatter` and `slice_scatter`: a copy, of which a fixed position or a slice is written."""
    x, source, out = call["self"], call["src"], call.out
    dim = int(call["dim"] or 0) % x.ndim
    yield from passed(x, out)
    if call.op == "aten.select_scatter":
        yield Pin(x[dim], f"{call.op} writes to a fixed position of it")
        rest = [axis for place, axis in enumerate(x.axes) if place != dim]
        for axis, target in zip(source.axes, rest, strict=True):
            yield Equal(axis, target)
    else:
        yield from _sliced(x, source, dim, call)


def _strided(axis: Axis, out: Axis, start: int, step: int, call: Call) -> Iterator[Statement]:
    """Every `step`-th position is one phase of an axis that `step` divides; otherwise the axis is pinned."""
    if out.size * step == axis.size and start < step:
        phases = Fresh(step)
        yield Pin(phases, f"{call.op} takes one of every {step} positions")
        yield Named(phases, call["step"])
        yield Equal(axis, Times((out, phases)))
    else:
        for side in (axis, out):
            yield Pin(side, f"{call.op} takes one of every {step} positions of a part that {step} does not divide evenly")


def _pad(call: Call) -> Iterator[Statement]:
    x, out, amounts = call["self"], call.out, list(call["pad"] if call["pad"] is not None else call["padding"])
    constant = call["mode"] in {None, "constant"} and "reflection" not in call.op and "replication" not in call.op
    for position, axis in enumerate(x.axes):
        k = 2 * (x.ndim - 1 - position)
        before, after = amounts[k : k + 2] if k < len(amounts) else (0, 0)
        if constant and before >= 0 and after >= 0:
            left, right = Fresh(int(before)), Fresh(int(after))
            yield Equal(out[position], Plus((left, axis, right)))
            for part, amount in ((left, before), (right, after)):
                if amount:
                    yield Named(part, amount)
        elif before or after:
            for side in (axis, out[position]):
                yield Pin(side, f"{call.op} copies or drops some of its positions")
        else:
            yield Equal(axis, out[position])


def _flip(call: Call) -> Iterator[Statement]:
    x, out = call["self"], call.out
    dims = {"aten.fliplr": [1], "aten.flipud": [0]}.get(call.op, call["dims"])
    flipped = {int(dim) % x.ndim for dim in dims}
    yield from passed(x, out, flipped)
    for dim in flipped:
        yield Equal(out[dim], Backwards(x[dim]))


def _roll(call: Call) -> Iterator[Statement]:
    x, out = call["self"], call.out
    if not call["dims"]:
        yield from pin_all(call, f"{call.op} moves positions across axes")
        return
    shifts = {int(dim) % x.ndim: shift for dim, shift in zip(call["dims"], call["shifts"], strict=True)}
    yield from passed(x, out, shifts)
    for dim, shift in shifts.items():
        axis = x[dim]
        if not -axis.size < shift < axis.size:
            for side in (axis, out[dim]):
                yield Pin(side, f"{call.op} turns it by more than its size")
            continue
        head, tail = Fresh(axis.size - int(shift) % axis.size), Fresh(int(shift) % axis.size)
        yield Equal(axis, Plus((head, tail)))
        yield Equal(out[dim], Plus((tail, head)))
        if shift:
            yield Named(tail, shift) if shift > 0 else Named(head, -shift)


def _glu(call: Call) -> Iterator[Statement]:
    x, out = call["self"], call.out
    dim = int(call["dim"] if call["dim"] is not None else -1) % x.ndim
    for position in range(x.ndim):
        yield Equal(x[position], Plus((out[position],) * 2) if position == dim else out[position])


RULES: dict[str, Rule] = {
    **family("cat concat concatenate", _cat, "CONCAT"),
    **family("stack _stack", _stack, "CONCAT"),
    **family(
        "split split_with_sizes unsafe_split unsafe_split_with_sizes split_copy split_with_sizes_copy", moving(_split), "SPLIT"
    ),
    **family("chunk unsafe_chunk tensor_split", moving(_chunk), "SPLIT"),
    **family("glu", _glu, "SPLIT"),
    **family("unbind unbind_copy", moving(_select), "UNBIND"),
    **family("select select_copy", moving(_select), "SLICE"),
    **family("select_scatter slice_scatter", _scattered, "SLICE"),
    **family("slice narrow slice_copy narrow_copy", moving(_slice), "SLICE"),
    **family(
        "pad constant_pad_nd reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d "
        "replication_pad3d",
        _pad,
        "SLICE",
    ),
    **family("flip fliplr flipud", _flip, "SLICE"),
    **family("roll", _roll, "SLICE"),
}
