"""Rules of reductions."""

from __future__ import annotations

from collections.abc import Iterator

from depgraph.rules.common import broadcast, elementwise, family, mixes_all
from depgraph.solving.statements import Axis, Call, Chosen, Equal, Named, Pin, Rule, Statement, Traits, Value


def _dims(call: Call) -> set[int]:
    """The dimensions that are reduced: those of the argument, or all."""
    ndim, argument = call.inputs[0].ndim, call["dim"]
    if argument is None or (isinstance(argument, (list, tuple)) and not argument):
        return set(range(ndim))
    return {int(dim) % max(ndim, 1) for dim in (argument if isinstance(argument, (list, tuple)) else [argument])}


def _reduced(call: Call) -> list[Axis]:
    """The axes that are reduced; `max` and `min` of two tensors are element-wise."""
    return [] if isinstance(call["other"], Value) else [axis for axis in call.inputs[0].axes if axis.dim in _dims(call)]


def _reduce(call: Call) -> Iterator[Statement]:
    if isinstance(call["other"], Value):
        yield from elementwise(call)
        return
    x, dims = call.inputs[0], _dims(call)
    reads_positions = len(call.outputs) > 1 and (1 not in call.unread or call.op == "aten.kthvalue")  # k counts along the axis
    if "arg" in call.op or (call.op in _WITH_POSITIONS and reads_positions):
        if call.op in _BEST and len(dims) == 1 and call["dim"] is not None and x.ndim:
            yield Chosen(call.outputs[-1], x[min(dims)])
        else:
            for dim in dims if x.ndim else ():
                yield Pin(x[dim], f"{call.op} returns positions of it")
    other_axes = [axis for position, axis in enumerate(x.axes) if position not in dims]
    for out in call.outputs:
        remaining = out.axes
        if out.ndim == x.ndim:
            remaining = tuple(axis for position, axis in enumerate(out.axes) if position not in dims)
        for axis, target in zip(other_axes, remaining, strict=True):
            yield Equal(axis, target)


def _distance(call: Call) -> Iterator[Statement]:
    yield from broadcast(call["other"].axes, call["self"].axes)


def _sum_to_size(call: Call) -> Iterator[Statement]:
    yield from broadcast(call.out.axes, call["self"].axes)
    for axis, size in zip(call.out.axes, call["size"], strict=True):
        yield Named(axis, size)


def _reducing(call: Call) -> Traits:
    """The reduced axes are mixed; the data choose of one whose best position is read."""
    reduced = tuple(_reduced(call))
    read = "arg" in call.op or (len(call.outputs) > 1 and 1 not in call.unread)
    return Traits(mixes=reduced, chooses=reduced if call.op in _BEST and read and len(reduced) == 1 else ())


_BEST = {"aten.max", "aten.min", "aten.argmax", "aten.argmin"}
_WITH_POSITIONS = {"aten.max", "aten.min", "aten.median", "aten.nanmedian", "aten.mode", "aten.kthvalue"}

RULES: dict[str, Rule] = {
    **family("sum_to_size", _sum_to_size, "REDUCE", mixes_all),
    **family("dist", _distance, "REDUCE", mixes_all),
    **family(
        "mean sum amax amin aminmax max min prod var std var_mean std_mean logsumexp norm linalg_vector_norm argmax argmin "
        "all any count_nonzero median nanmedian nansum nanmean mode kthvalue native_norm linalg__powsum _aminmax",
        _reduce,
        "REDUCE",
        _reducing,
    ),
}
