"""Rules of normalisation layers: their parameters and statistics range over the axis that they scale."""

from __future__ import annotations

from collections.abc import Iterator

from depgraph.rules.common import broadcast, family, mixing, passed, pinned
from depgraph.solving.statements import Axis, Call, Equal, Fresh, Named, Rule, Statement, Times, Value

_PER_CHANNEL = ("weight", "bias", "running_mean", "running_var", "mean", "var", "invstd")


def _channel_norm(call: Call) -> Iterator[Statement]:
    """Parameters, and statistics that a kernel takes or returns, have one number for each channel."""
    x = call["input"]
    for name in _PER_CHANNEL:
        if isinstance(call[name], Value):
            yield Equal(call[name][-1], x[1])
            yield from pinned(call[name].axes[:-1], f"{call.op} gathers it over devices")
    for value in call.outputs:
        if value.shape == x.shape:
            yield from passed(x, value)
        elif value.shape == x.shape[1:2]:
            yield Equal(value[0], x[1])
        else:
            yield from pinned(value.axes, f"it is what {call.op} keeps for its gradient")
    if isinstance(call["counts"], Value):
        yield from pinned(call["counts"].axes, f"{call.op} gathers it over devices")


def _group_norm(call: Call) -> Iterator[Statement]:
    yield from _channel_norm(call)
    x, groups = call["input"], int(call["num_groups"])
    blocks = Fresh(groups)
    if groups > 1:
        yield Named(blocks, call["num_groups"])
        yield Equal(x[1], Times((blocks, Fresh(x.shape[1] // groups))))


def _native_group_norm(call: Call) -> Iterator[Statement]:
    """The kernel below `group_norm` has the sizes of its input as arguments, and returns a mean and a scale for each group."""
    x, out, blocks = call["input"], call.out, Fresh(int(call["group"]))
    yield from passed(x, out)
    yield Equal(x[1], Times((blocks, Fresh(x.shape[1] // blocks.size))))
    yield Named(blocks, call["group"])
    yield Named(x[0], call["N"])
    yield Named(x[1], call["C"])
    yield Named(Times(x.axes[2:]), call["HxW"])
    for name in ("weight", "bias"):
        if isinstance(call[name], Value):
            yield Equal(call[name][0], x[1])
    for value in call.outputs[1:]:
        yield Equal(value[0], x[0])
        yield Equal(value[1], blocks)


def _trailing_norm(call: Call) -> Iterator[Statement]:
    x, shape = call["input"], call["normalized_shape"]
    for value in call.outputs:
        yield from broadcast(value.axes, x.axes)
    trailing = x.axes[x.ndim - len(shape) :]
    for axis, size in zip(trailing, shape, strict=True):
        yield Named(axis, size)
    for name in ("weight", "bias"):
        if isinstance(call[name], Value):
            for axis, parameter in zip(trailing, call[name].axes, strict=True):
                yield Equal(axis, parameter)


def _full(call: Call) -> list[Value]:
    """The operand that is normalised, and the results of its shape."""
    x = call["input"]
    return [x, *(value for value in call.outputs if value.shape == x.shape)]


def _over_the_batch(call: Call) -> list[Axis]:
    """Batch and positions. In evaluation recorded statistics are used instead, but traits must hold in training, too."""
    return [axis for value in _full(call) for axis in value.axes if axis.dim != 1]


def _over_groups(call: Call) -> list[Axis]:
    return [axis for value in _full(call) for axis in value.axes[1:]]


def _over_the_last(call: Call) -> list[Axis]:
    return [axis for value in _full(call) for axis in value.axes[value.ndim - len(call["normalized_shape"]) :]]


RULES: dict[str, Rule] = {
    **family(
        "batch_norm native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_functional "
        "_batch_norm_impl_index _batch_norm_with_update _batch_norm_with_update_functional cudnn_batch_norm miopen_batch_norm "
        "batch_norm_stats batch_norm_gather_stats batch_norm_gather_stats_with_counts batch_norm_update_stats",
        _channel_norm,
        "BN",
        mixing(_over_the_batch, "bias"),
    ),
    **family(
        "_native_batch_norm_legit_no_training _batch_norm_no_update batch_norm_elemt quantized_batch_norm",
        _channel_norm,
        "BN",
        mixing(lambda call: (), "bias"),
    ),
    **family("instance_norm", _channel_norm, "IN", mixing(_over_the_batch, "bias")),
    **family("group_norm", _group_norm, "GN", mixing(_over_groups, "bias")),
    **family("native_group_norm", _native_group_norm, "GN", mixing(_over_groups, "bias")),
    **family("layer_norm rms_norm native_layer_norm _fused_rms_norm", _trailing_norm, "LN", mixing(_over_the_last, "bias")),
}
