"""Rules of operators that rearrange or repeat axes: views, permutations, repetitions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod

from depgraph.rules.common import broadcast, family, moving, passed, pinned, table
from depgraph.solving.statements import (
    Axis,
    Backwards,
    Balanced,
    Call,
    Equal,
    Fresh,
    Larger,
    Named,
    Pin,
    Rule,
    Statement,
    Times,
    Value,
    pin_all,
)


def matched_runs(before: Sequence[Axis], after: Sequence[Axis]) -> Iterator[Statement]:
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
        yield from pin_all(call, "its elements are read as others")
        return
    yield from matched_runs(x.axes, out.axes)
    sizes = call["size"] if call["size"] is not None else call["shape"]
    if isinstance(call["other"], Value):
        for axis, target in zip(call["other"].axes, out.axes, strict=True):
            yield Balanced((target, axis), f"{call.op} takes the sizes of another tensor")
    elif isinstance(sizes, (list, tuple)):
        yield from _named(out.axes, sizes)


def _squeeze(call: Call) -> Iterator[Statement]:
    x, dims = call["self"], call["dim"]
    yield from _view(call)
    named = range(x.ndim) if dims is None else dims if isinstance(dims, (list, tuple)) else (dims,)
    for dim in named if x.ndim else ():
        if x[int(dim)].size > 1:
            yield Larger(x[int(dim)], 1, f"{call.op} drops axes of size 1")


def _unflatten(call: Call) -> Iterator[Statement]:
    x, out, sizes = call["self"], call.out, call["sizes"]
    dim = call["dim"] % x.ndim
    yield from matched_runs(x.axes, out.axes)
    yield from _named(out.axes[dim : dim + len(sizes)], sizes)


def _permute(call: Call) -> Iterator[Statement]:
    x, out = call["self"], call.out
    order = list(range(x.ndim))
    if call["dims"] is not None:
        order = [int(dim) % x.ndim for dim in call["dims"]]
    elif call["dim0"] is not None or call["axis0"] is not None:
        first, second = ("dim0", "dim1") if call["dim0"] is not None else ("axis0", "axis1")
        if x.ndim:
            i, j = int(call[first]) % x.ndim, int(call[second]) % x.ndim
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


_BY_DATA = "it is repeated by amounts that the data gives"


def _repeat_interleave(call: Call) -> Iterator[Statement]:
    x, out, count = call["self"], call.out, call["repeats"]
    if isinstance(count, Value) and x is not None and call["dim"] is not None:
        dim = int(call["dim"]) % x.ndim
        yield from passed(x, out, {dim})
        yield from pinned((x[dim], out[dim], *count.axes), _BY_DATA)
        return
    if not isinstance(count, int) or call["dim"] is None:
        yield from pin_all(call, _BY_DATA)
        return
    dim = int(call["dim"]) % x.ndim
    copies = Fresh(int(count))
    if count > 1:
        yield Named(copies, count)
    for position, axis in enumerate(out.axes):
        yield Equal(axis, Times((x[position], copies)) if position == dim else x[position])


def _complex_pairs(call: Call) -> Iterator[Statement]:
    x, out = call["self"], call.out
    pairs, numbers = (x, out) if x.ndim > out.ndim else (out, x)
    yield Pin(pairs[-1], f"{call.op} reads it as the real and the imaginary part")
    for before, after in zip(pairs.axes[:-1], numbers.axes, strict=True):
        yield Equal(before, after)


def _rot90(call: Call) -> Iterator[Statement]:
    x, out, turns = call["self"], call.out, int(call["k"]) % 4
    one, other = (int(dim) % x.ndim for dim in call["dims"])
    yield from passed(x, out, {one, other})
    first, second = (x[one], x[other]) if turns % 2 == 0 else (x[other], x[one])
    yield Equal(out[one], Backwards(first) if turns in {1, 2} else first)
    yield Equal(out[other], Backwards(second) if turns in {2, 3} else second)


def _meshgrid(call: Call) -> Iterator[Statement]:
    """The k-th axis of each result is that of the k-th vector; with `xy` indexing the first two are exchanged."""
    vectors: list[Value] = list(call["tensors"])
    if call["indexing"] == "xy" and len(vectors) > 1:
        vectors[0], vectors[1] = vectors[1], vectors[0]
    for out in call.outputs:
        for vector, axis in zip(vectors, out.axes, strict=True):
            if vector.ndim:
                yield Equal(vector[0], axis)


RULES: dict[str, Rule] = {
    **family("rot90", _rot90, "SLICE"),
    **family("meshgrid", _meshgrid, "EXPAND"),
    **table("resize resize_as set _resize_output", "{} lays the same memory out anew"),
    **family(
        "view reshape _unsafe_view flatten unsqueeze view_as reshape_as ravel _reshape_alias view_copy "
        "_reshape_copy _reshape_alias_copy unsqueeze_copy _mkldnn_reshape",
        moving(_view),
        "RESHAPE",
    ),
    **family("squeeze squeeze_copy", moving(_squeeze), "RESHAPE"),
    **family("unflatten", moving(_unflatten), "RESHAPE"),
    **family("view_as_real view_as_complex view_as_real_copy view_as_complex_copy", _complex_pairs, "RESHAPE"),
    **family(
        "permute transpose t numpy_T mT mH adjoint matrix_H swapaxes swapdims permute_copy transpose_copy t_copy "
        "_mkldnn_transpose",
        moving(_permute),
        "PERMUTE",
    ),
    **family("expand expand_as expand_copy", moving(_expand), "EXPAND"),
    **family("repeat", moving(_repeat), "EXPAND"),
    **family("repeat_interleave", moving(_repeat_interleave), "EXPAND"),
}
