"""Rules of normalisation layers: their parameters and statistics range over the axis that they scale."""

from __future__ import annotations

from collections.abc import Iterator

from depgraph.equations import Call, Equal, Fresh, Named, Rule, Statement, Times, Value
from depgraph.rules.common import family


def _channel_norm(call: Call) -> Iterator[Statement]:
    x, out = call["input"], call.out
    for before, after in zip(x.axes, out.axes, strict=True):
        yield Equal(before, after)
    for name in ("weight", "bias", "running_mean", "running_var"):
        if isinstance(call[name], Value):
            yield Equal(call[name][0], x[1])


def _group_norm(call: Call) -> Iterator[Statement]:
    yield from _channel_norm(call)
    x, groups = call["input"], int(call["num_groups"])
    blocks = Fresh(groups)
    if groups > 1:
        yield Named(blocks, call["num_groups"])
        yield Equal(x[1], Times((blocks, Fresh(x.shape[1] // groups))))


def _trailing_norm(call: Call) -> Iterator[Statement]:
    x, out, shape = call["input"], call.out, call["normalized_shape"]
    for before, after in zip(x.axes, out.axes, strict=True):
        yield Equal(before, after)
    trailing = x.axes[x.ndim - len(shape) :]
    for axis, size in zip(trailing, shape, strict=True):
        yield Named(axis, size)
    for name in ("weight", "bias"):
        if isinstance(call[name], Value):
            for axis, parameter in zip(trailing, call[name].axes, strict=True):
                yield Equal(axis, parameter)


RULES: dict[str, Rule] = {
    **family("batch_norm", _channel_norm, "BN"),
    **family("instance_norm", _channel_norm, "IN"),
    **family("group_norm", _group_norm, "GN"),
    **family("layer_norm rms_norm", _trailing_norm, "LN"),
}
