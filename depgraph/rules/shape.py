"""Rules of operators that rearrange axes: views, permutations, joins, cuts, repetitions, padding, indexing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod

from depgraph.equations import Axis, Balanced, Call, Equal, Fresh, Named, Pin, Plus, Rule, Statement, Times, Value
from depgraph.rules.elementwise import POSITIONS, broadcast


def _runs(before: Sequence[Axis], after: Sequence[Axis]) -> Iterator[Statement]:
    """Products of matched runs of axes are equal: the shortest runs of the same number of elements."""
    a = [axis for axis in before if axis.size != 1]
    b = [axis for axis in after if axis.size != 1]
    while a and b:
        left, right = [a.pop(0)], [b.pop(0)]
        m, n = left[0].size, right[0].size
        while m != n:
            if m < n:
                left.append(a.pop(0))
                m *= left[-1].size
            else:
                right.append(b.pop(0))
                n *= right[-1].size
        yield Equal(Times(tuple(left)), Times(tuple(right)))


def _named(axes: Sequence[Axis], sizes: Sequence[int]) -> Iterator[Statement]:
    for axis, size in zip(axes, sizes, strict=True):
        if size != -1:
            yield Named(axis, size)


def _view(call: Call) -> Iterator[Statement]:
    x, out = call["self"], call.out
    if 0 in x.shape or prod(x.shape) != prod(out.shape):
        yield from _pin_all(call, "its elements are read as others")
        return
    yield from _runs(x.axes, out.axes)
    sizes = call["size"] if call["size"] is not None else call["shape"]
    if isinstance(sizes, (list, tuple)):
        yield from _named(out.axes, sizes)


def _unflatten(call: Call) -> Iterator[Statement]:
    x, out, sizes = call["self"], call.out, call["sizes"]
    dim = call["dim"] % x.ndim
    yield from _runs(x.axes, out.axes)
    yield from _named(out.axes[dim : dim + len(sizes)], sizes)


def _permute(call: Call) -> Iterator[Statement]:
    x, out = call["self"], call.out
    order = list(range(x.ndim))
    if call["dims"] is not None:
        order = [int(dim) % x.ndim for dim in call["dims"]]
    elif call["dim0"] is not None:
        i, j = int(call["dim0"]) % max(x.ndim, 1), int(call["dim1"]) % max(x.ndim, 1)
        if x.ndim:
            order[i], order[j] = order[j], order[i]
    elif call.op in {"aten.mT", "aten.mH", "aten.adjoint"}:
        order[-1], order[-2] = order[-2], order[-1]
    else:
        order.reverse()
    for position, dim in enumerate(order):
        yield Equal(out[position], x[dim])


def _expand(call: Call) -> Iterator[Statement]:
    x, out = call["self"], call.out
    sizes = call["size"]
    yield from broadcast(x.axes, out.axes)
    if isinstance(call["other"], Value):
        yield from broadcast(call["other"].axes, out.axes)
    elif sizes is not None:
        yield from _named(out.axes, sizes)


def _repeat(call: Call) -> Iterator[Statement]:
    x, out, repeats = call["self"], call.out, call["repeats"]
    padded: list[Axis | None] = [None] * (out.ndim - x.ndim) + list(x.axes)
    for axis, source, count in zip(out.axes, padded, repeats, strict=True):
        copies = Fresh(int(count))
        if count > 1:
            yield Named(copies, count)
        yield Equal(axis, Times((copies, source)) if source else copies)


def _repeat_interleave(call: Call) -> Iterator[Statement]:
    x, out, count = call["self"], call.out, call["repeats"]
    if not isinstance(count, int) or call["dim"] is None:
        yield from _pin_all(call, "it is repeated by amounts that the data gives")
        return
    dim = int(call["dim"]) % x.ndim
    copies = Fresh(int(count))
    if count > 1:
        yield Named(copies, count)
    for position, axis in enumerate(out.axes):
        yield Equal(axis, Times((x[position], copies)) if position == dim else x[position])


def _cat(call: Call) -> Iterator[Statement]:
    values = [value for value in call["tensors"] if value.shape != (0,)]
    out = call.out
    dim = int(call["dim"] or 0) % out.ndim
    yield Equal(out[dim], Plus(tuple(value[dim] for value in values)))
    for value in values:
        for position in range(out.ndim):
            if position != dim:
                yield Equal(value[position], out[position])


def _stack(call: Call) -> Iterator[Statement]:
    out = call.out
    dim = int(call["dim"] or 0) % out.ndim
    yield Pin(out[dim], f"it counts the tensors that {call.op} joins")
    rest = [axis for position, axis in enumerate(out.axes) if position != dim]
    for value in call["tensors"]:
        for axis, target in zip(value.axes, rest, strict=True):
            yield Equal(axis, target)


def _parts(call: Call, dim: int) -> Iterator[Statement]:
    x = call["self"]
    yield Equal(x[dim], Plus(tuple(part[dim] for part in call.outputs)))
    for part in call.outputs:
        for position in range(x.ndim):
            if position != dim:
                yield Equal(part[position], x[position])


def _split(call: Call) -> Iterator[Statement]:
    x = call["self"]
    dim = int(call["dim"] or 0) % x.ndim
    yield from _parts(call, dim)
    sizes = call["split_sizes"] if call["split_sizes"] is not None else call["split_size"]
    if isinstance(sizes, (list, tuple)):
        for part, size in zip(call.outputs, sizes, strict=True):
            yield Named(part[dim], size)
        return
    for part in call.outputs:
        if part.shape[dim] == sizes:
            yield Named(part[dim], sizes)
        else:
            yield Pin(part[dim], "it is the remainder of a split into equal parts")


def _chunk(call: Call) -> Iterator[Statement]:
    x = call["self"]
    dim = int(call["dim"] or 0) % x.ndim
    yield from _parts(call, dim)
    sizes = {part.shape[dim] for part in call.outputs}
    if len(sizes) > 1 or len(call.outputs) != int(call["chunks"] or call["sections"]):
        yield Pin(x[dim], f"{call.op} cuts it into unequal parts")
    elif len(call.outputs) > 1:
        yield Balanced(tuple(part[dim] for part in call.outputs), f"{call.op} needs equal parts")


def _select(call: Call) -> Iterator[Statement]:
    x = call["self"]
    dim = int(call["dim"] or 0) % x.ndim
    yield Pin(x[dim], f"{call.op} takes a fixed position of it")
    rest = [axis for position, axis in enumerate(x.axes) if position != dim]
    for out in call.outputs:
        for axis, target in zip(out.axes, rest, strict=True):
            yield Equal(axis, target)


def _slice(call: Call) -> Iterator[Statement]:
    x, out = call["self"], call.out
    dim = int(call["dim"] or 0) % x.ndim
    size, step = x.shape[dim], int(call["step"] or 1)
    first = call["start"] if call["start"] is not None else 0
    end = call["end"] if call["end"] is not None else size
    last = end if call["length"] is None else first + call["length"]
    for position in range(x.ndim):
        if position != dim:
            yield Equal(out[position], x[position])
    start = min(max(int(first) + (size if first < 0 else 0), 0), size)
    stop = start + (out.shape[dim] - 1) * step + 1 if out.shape[dim] else start
    if out.shape[dim] == 0:
        yield Pin(x[dim], "an empty slice is taken of it")
    elif step > 1:
        yield from _strided(x[dim], out[dim], start, step, call)
    elif out.shape[dim] == size:
        yield Equal(x[dim], out[dim])
        if call["end"] is not None and int(last) == size:
            yield Named(out[dim], last)
    else:
        before, after = Fresh(start), Fresh(size - stop)
        yield Equal(x[dim], Plus((before, out[dim], after)))
        if start:
            yield Named(before, first) if first > 0 else Named(Plus((out[dim], after)), -first)
        if stop < size:
            if last < 0:
                yield Named(after, -last)
            elif call["length"] is not None:
                yield Named(out[dim], call["length"])
            else:
                yield Named(Plus((before, out[dim])), last)


def _strided(axis: Axis, out: Axis, start: int, step: int, call: Call) -> Iterator[Statement]:
    if axis.size % step == 0 and start < step:
        phases = Fresh(step)
        yield Pin(phases, f"{call.op} takes every {step}th position")
        yield Equal(axis, Times((out, phases)))
    else:
        yield Pin(axis, f"{call.op} takes every {step}th position of a size that {step} does not divide")
        yield Pin(out, f"{call.op} takes every {step}th position of a size that {step} does not divide")


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
            for pinned in (axis, out[position]):
                yield Pin(pinned, f"{call.op} copies or drops some of its positions")
        else:
            yield Equal(axis, out[position])


def _flip(call: Call) -> Iterator[Statement]:
    x, out = call["self"], call.out
    dims = {int(dim) % x.ndim for dim in call["dims"]}
    for position in range(x.ndim):
        if position in dims:
            yield Pin(x[position], f"{call.op} reverses its order")
            yield Pin(out[position], f"{call.op} reverses its order")
        else:
            yield Equal(x[position], out[position])


def _roll(call: Call) -> Iterator[Statement]:
    x, out = call["self"], call.out
    if not call["dims"]:
        yield from _pin_all(call, f"{call.op} moves positions across axes")
        return
    turns = {int(dim) % x.ndim: shift for dim, shift in zip(call["dims"], call["shifts"], strict=True)}
    for position, axis in enumerate(x.axes):
        shift = turns.get(position, 0)
        moved = int(shift) % axis.size if axis.size else 0
        if not moved:
            yield Equal(axis, out[position])
            continue
        head, tail = Fresh(axis.size - moved), Fresh(moved)
        yield Equal(axis, Plus((head, tail)))
        yield Equal(out[position], Plus((tail, head)))
        yield Named(tail if shift > 0 else head, abs(shift))


def _window(spatial: int) -> Rule:
    """Trailing dimensions whose positions are computed anew; the others pass."""

    def equations(call: Call) -> Iterator[Statement]:
        x = call.inputs[0]
        for out in call.outputs:
            for position, (axis, target) in enumerate(zip(x.axes, out.axes, strict=True)):
                if position < x.ndim - spatial:
                    yield Equal(axis, target)
                else:
                    yield Pin(axis, POSITIONS.format(call.op))
                    yield Pin(target, POSITIONS.format(call.op))

    return Rule(equations, "POOL")


def _im2col(call: Call) -> Iterator[Statement]:
    x, out = call["self"], call.out
    taps = 1
    for k in call["kernel_size"]:
        taps *= int(k)
    kernel = Fresh(taps)
    yield Pin(kernel, f"it counts the kernel positions of {call.op}")
    columns, image = (x, out) if call.op == "aten.col2im" else (out, x)
    yield Equal(columns[-2], Times((image[-3], kernel)))
    for axis in (*image.axes[-2:], columns[-1]):
        yield Pin(axis, POSITIONS.format(call.op))
    if image.ndim == 4:
        yield Equal(image[0], columns[0])


def _pixel_shuffle(call: Call) -> Iterator[Statement]:
    x, out = call["self"], call.out
    up = call.op == "aten.pixel_shuffle"
    r = int(call["upscale_factor"] if up else call["downscale_factor"])
    block = Fresh(r * r)
    yield Pin(block, f"it counts the pixels that {call.op} moves")
    wide, narrow = (x, out) if up else (out, x)
    yield Equal(wide[-3], Times((narrow[-3], block)))
    for axis in (*x.axes[-2:], *out.axes[-2:]):
        yield Pin(axis, POSITIONS.format(call.op))
    for before, after in zip(x.axes[:-3], out.axes, strict=False):
        yield Equal(before, after)


def _channel_shuffle(call: Call) -> Iterator[Statement]:
    x, out, groups = call["self"], call.out, call["groups"]
    blocks, inside = Fresh(int(groups)), Fresh(x.shape[1] // int(groups))
    yield Named(blocks, groups)
    yield Equal(x[1], Times((blocks, inside)))
    yield Equal(out[1], Times((inside, blocks)))
    for position in range(x.ndim):
        if position != 1:
            yield Equal(x[position], out[position])


def _glu(call: Call) -> Iterator[Statement]:
    x, out = call["self"], call.out
    dim = int(call["dim"] if call["dim"] is not None else -1) % x.ndim
    for position in range(x.ndim):
        yield Equal(x[position], Plus((out[position],) * 2) if position == dim else out[position])


def _reduce(call: Call) -> Iterator[Statement]:
    x = call.inputs[0]
    given = call["dim"]
    if given is None or (isinstance(given, (list, tuple)) and not given):
        dims = set(range(x.ndim))
    else:
        dims = {int(dim) % max(x.ndim, 1) for dim in (given if isinstance(given, (list, tuple)) else [given])}
    positional = "arg" in call.op or len(call.outputs) > 1
    if positional:
        for dim in dims:
            if x.ndim:
                yield Pin(x[dim], f"{call.op} returns positions of it")
    kept = [axis for position, axis in enumerate(x.axes) if position not in dims]
    for out in call.outputs:
        remaining = out.axes
        if out.ndim == x.ndim:
            remaining = tuple(axis for position, axis in enumerate(out.axes) if position not in dims)
        for axis, target in zip(kept, remaining, strict=True):
            yield Equal(axis, target)


def _index(call: Call) -> Iterator[Statement]:
    x, out, indices = call["self"], call.out, call["indices"]
    if any(i is not None and x.ndim == 0 for i in indices) or call["values"] is not None:
        yield from _pin_all(call, f"{call.op} writes to positions that the data gives")
        return
    indexed = [dim for dim, index in enumerate(indices) if index is not None]
    result = max((indices[dim].ndim for dim in indexed), default=0)
    if sum(1 for _ in indexed) + (out.ndim - result) != x.ndim:
        yield from _pin_all(call, f"{call.op} uses a mask")
        return
    adjacent = bool(indexed) and indexed == list(range(indexed[0], indexed[-1] + 1))
    start = indexed[0] if adjacent else 0
    for dim in indexed:
        yield Pin(x[dim], f"{call.op} takes positions of it that are computed in forward")
        yield from broadcast(indices[dim].axes, out.axes[start : start + result])
    passed = [dim for dim in range(x.ndim) if dim not in indexed]
    targets = [*out.axes[:start], *out.axes[start + result :]]
    for dim, target in zip(passed, targets, strict=True):
        yield Equal(x[dim], target)


def _index_select(call: Call) -> Iterator[Statement]:
    x, out, index = call["self"], call.out, call["index"]
    dim = int(call["dim"]) % x.ndim
    yield Pin(x[dim], f"{call.op} takes positions of it that are computed in forward")
    for position in range(x.ndim):
        if position != dim:
            yield Equal(x[position], out[position])
    if index.ndim:
        yield Equal(index[0], out[dim])


def _gather(call: Call) -> Iterator[Statement]:
    x, out, index = call["self"], call.out, call["index"]
    dim = int(call["dim"]) % max(x.ndim, 1)
    for position in range(x.ndim):
        yield Equal(index[position], out[position])
        if position == dim or x.shape[position] != index.shape[position]:
            yield Pin(x[position], f"{call.op} takes positions of it that are computed in forward")
        else:
            yield Equal(x[position], out[position])


def _pin_all(call: Call, reason: str) -> Iterator[Statement]:
    for value in (*call.inputs, *call.outputs):
        for axis in value.axes:
            yield Pin(axis, reason)


def _unfold(call: Call) -> Iterator[Statement]:
    x, out = call["self"], call.out
    dim = int(call["dimension"]) % x.ndim
    for position in range(x.ndim):
        if position == dim:
            for axis in (x[position], out[position], out[-1]):
                yield Pin(axis, POSITIONS.format(call.op))
        else:
            yield Equal(x[position], out[position])


def _family(names: str, equations: object, kind: str) -> dict[str, Rule]:
    return {f"aten.{name}": Rule(equations, kind) for name in names.split()}  # type: ignore[arg-type]


RULES: dict[str, Rule] = {
    **_family(
        "view reshape _unsafe_view flatten squeeze unsqueeze view_as reshape_as ravel _reshape_alias view_copy",
        _view,
        "RESHAPE",
    ),
    **_family("unflatten", _unflatten, "RESHAPE"),
    **_family("permute transpose t numpy_T mT mH adjoint matrix_H swapaxes swapdims", _permute, "PERMUTE"),
    **_family("expand expand_as", _expand, "EXPAND"),
    **_family("repeat", _repeat, "EXPAND"),
    **_family("repeat_interleave", _repeat_interleave, "EXPAND"),
    **_family("cat concat concatenate", _cat, "CONCAT"),
    **_family("stack", _stack, "CONCAT"),
    **_family("split split_with_sizes unsafe_split unsafe_split_with_sizes", _split, "SPLIT"),
    **_family("chunk unsafe_chunk", _chunk, "SPLIT"),
    **_family("unbind", _select, "UNBIND"),
    **_family("select", _select, "SLICE"),
    **_family("slice narrow", _slice, "SLICE"),
    **_family(
        "pad constant_pad_nd reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d "
        "replication_pad3d",
        _pad,
        "SLICE",
    ),
    **_family("flip fliplr flipud", _flip, "SLICE"),
    **_family("roll", _roll, "SLICE"),
    **_family("im2col col2im", _im2col, "RESHAPE"),
    **_family("pixel_shuffle pixel_unshuffle", _pixel_shuffle, "RESHAPE"),
    **_family("channel_shuffle native_channel_shuffle", _channel_shuffle, "RESHAPE"),
    **_family("glu", _glu, "SPLIT"),
    **_family(
        "mean sum amax amin max min prod var std var_mean std_mean logsumexp norm linalg_vector_norm argmax argmin all any "
        "count_nonzero median nansum nanmean mode",
        _reduce,
        "REDUCE",
    ),
    **_family("index", _index, "SLICE"),
    **_family("index_select", _index_select, "SLICE"),
    **_family("gather take_along_dim", _gather, "SLICE"),
    **_family("unfold", _unfold, "SLICE"),
    **{
        f"aten.{name}{n}d{suffix}": _window(n)
        for n in (1, 2, 3)
        for name, suffix in (
            ("max_pool", ""),
            ("max_pool", "_with_indices"),
            ("avg_pool", ""),
            ("adaptive_avg_pool", ""),
            ("_adaptive_avg_pool", ""),
            ("adaptive_max_pool", ""),
            ("lp_pool", ""),
            ("fractional_max_pool", ""),
            ("upsample_nearest", ""),
            ("_upsample_nearest_exact", ""),
        )
    },
    **{
        f"aten.{name}": _window(n)
        for name, n in (
            ("upsample_linear1d", 1),
            ("upsample_bilinear2d", 2),
            ("upsample_bicubic2d", 2),
            ("_upsample_bilinear2d_aa", 2),
            ("_upsample_bicubic2d_aa", 2),
            ("upsample_trilinear3d", 3),
        )
    },
}
