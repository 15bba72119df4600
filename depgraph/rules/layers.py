"""Rules of layers with parameters: convolution, linear, embedding."""

from __future__ import annotations

from collections.abc import Iterator

from depgraph.rules.common import POSITIONS, broadcast, elementwise, family, mixing, operands, passed
from depgraph.solving.statements import (
    Axis,
    Call,
    Equal,
    Fresh,
    Named,
    Pin,
    Rule,
    Statement,
    Times,
    Traits,
    Value,
    Weight,
    Work,
)


def _input(call: Call) -> Value:
    """What the layer is applied to; some kernels call it `self`."""
    x: Value = call["input"] if call["input"] is not None else call["self"]
    return x


def _is_transposed(call: Call) -> bool:
    return bool(call["transposed"]) or "transpose" in call.op


def _convolving(call: Call) -> Traits:
    """Input channels of a block are the second axis of the weight; of a transposed convolution the first."""
    x, w, out = _input(call), call["weight"], call.out
    inner, outer = (w[0], w[1]) if _is_transposed(call) else (w[1], w[0])
    return Traits((), offsets=operands(call, "bias"), weight=Weight(inner, outer, x[1 - w.ndim], out[1 - w.ndim]))


def _multiplying(call: Call) -> Traits:
    x, w, out = _input(call), call["weight"], call.out
    weight = Weight(w[1], w[0], x[-1], out[-1]) if w.ndim == 2 else None
    return Traits((), offsets=operands(call, "bias"), weight=weight)


def _normalised(call: Call) -> list[Axis]:
    """Mixed axes: directions are normalised over all axes but the one of the magnitudes."""
    v, norm_dim = call["v"], int(call["dim"] or 0) % call["v"].ndim
    return [value[dim] for value in (v, call.out) for dim in range(v.ndim) if dim != norm_dim]


def _convolution(call: Call) -> Iterator[Statement]:
    x, w, bias, out = _input(call), call["weight"], call["bias"], call.out
    transposed = _is_transposed(call)
    groups = int(call["groups"] or 1) if call.op not in _DEPTHWISE else x.shape[1]
    spatial = w.ndim - 2
    batch = x.ndim - spatial - 1
    x_channels, out_channels = x[batch], out[batch]
    blocks = Fresh(groups)
    if call["groups"] is not None and groups > 1:
        yield Named(blocks, call["groups"])
    if transposed:
        yield Equal(x_channels, w[0])
        yield Equal(w[0], Times((blocks, Fresh(w.shape[0] // groups))))
        yield Equal(out_channels, Times((blocks, w[1])))
    else:
        yield Equal(x_channels, Times((blocks, w[1])))
        yield Equal(w[0], Times((blocks, Fresh(w.shape[0] // groups))))
        yield Equal(out_channels, w[0])
    if isinstance(bias, Value):
        yield Equal(bias[0], out_channels)
    if isinstance(call["z"], Value):
        yield from passed(call["z"], out)
    if batch:
        yield Equal(x[0], out[0])
    for axis in w.axes[2:]:
        yield Pin(axis, f"it is a kernel axis of {call.op}")
    for axis in x.axes[batch + 1 :] + out.axes[batch + 1 :]:
        yield Pin(axis, POSITIONS.format(call.op))
    counted = x if transposed else out
    if call.op in _COUNTED:
        yield Work((*counted.axes[:batch], *counted.axes[batch + 1 :], *w.axes))


_DEPTHWISE = {"aten._conv_depthwise2d", "aten.conv_depthwise3d"}
_COUNTED = {
    *("aten.convolution", "aten._convolution", "aten.cudnn_convolution"),
    *(f"aten.conv{t}{n}d" for t in ("", "_transpose") for n in (1, 2, 3)),
}
"""Convolutions whose work PyTorch's counter of FLOPs counts."""


def _time_first(call: Call) -> Iterator[Statement]:
    """`conv_tbc`: time, batch, channels; the kernel is time, inputs, outputs."""
    x, w, out = call["self"], call["weight"], call.out
    yield Equal(x[1], out[1])
    yield Equal(x[2], w[1])
    yield Equal(out[2], w[2])
    yield Equal(call["bias"][0], w[2])
    yield Pin(w[0], f"it is a kernel axis of {call.op}")
    for value in (x, out):
        yield Pin(value[0], POSITIONS.format(call.op))


def _linear(call: Call) -> Iterator[Statement]:
    x, w, bias, out = _input(call), call["weight"], call["bias"], call.out
    yield Equal(x[-1], w[-1])
    for before, after in zip(x.axes[:-1], out.axes, strict=False):
        yield Equal(before, after)
    if w.ndim == 2:
        yield Equal(out[-1], w[0])
        if bias is not None and bias.ndim:
            yield Equal(bias[0], w[0])
        yield Work((*x.axes[:-1], *w.axes))


def _embedding(call: Call) -> Iterator[Statement]:
    w, indices, out = call["weight"], call["indices"], call.out
    yield Pin(w[0], "it is indexed by the data (a vocabulary)")
    yield Equal(out[-1], w[1])
    for before, after in zip(indices.axes, out.axes, strict=False):
        yield Equal(before, after)


def _embedding_bag(call: Call) -> Iterator[Statement]:
    w, out = call["weight"], call.out
    yield Pin(w[0], "it is indexed by the data (a vocabulary)")
    yield Equal(out[-1], w[1])
    for value in (*call.inputs[1:], *call.outputs):
        for axis in value.axes:
            if axis.dim == 0:
                yield Pin(axis, f"{call.op} counts bags and their elements")
            else:
                yield Equal(axis, w[1] if value in call.outputs else call["indices"][1])


def _prelu(call: Call) -> Iterator[Statement]:
    x, w, out = call["self"], call["weight"], call.out
    yield from broadcast(x.axes, out.axes)
    if w.shape and w.shape[0] > 1:
        yield Equal(w[0], x[1])


def _renormalised(call: Call) -> Iterator[Statement]:
    yield from passed(call["self"], call.out)
    yield Pin(call["self"][0], "it is indexed by the data (a vocabulary)")
    for axis in call["indices"].axes:
        yield Pin(axis, f"{call.op} rescales each of the rows that it names")


_CONVOLUTIONS = (
    "convolution _convolution convolution_overrideable mkldnn_convolution cudnn_convolution cudnn_convolution_transpose "
    "cudnn_convolution_relu cudnn_convolution_add_relu miopen_convolution miopen_convolution_transpose miopen_convolution_relu "
    "miopen_convolution_add_relu miopen_depthwise_convolution _mps_convolution _mps_convolution_transpose thnn_conv2d "
    "_slow_conv2d_forward slow_conv3d slow_conv3d_forward slow_conv_dilated2d slow_conv_dilated3d slow_conv_transpose2d "
    "slow_conv_transpose3d _conv_depthwise2d conv_depthwise3d _nnpack_spatial_convolution conv1d conv2d conv3d "
    "conv_transpose1d conv_transpose2d conv_transpose3d"
)

RULES: dict[str, Rule] = {
    **family(_CONVOLUTIONS, _convolution, "CONV", _convolving),
    **family("conv_tbc", _time_first, "CONV", mixing(lambda call: (), "bias")),
    **family("linear mkldnn_linear", _linear, "LINEAR", _multiplying),
    **family("embedding", _embedding, "EMBEDDING"),
    **family("embedding_bag _embedding_bag _embedding_bag_forward_only", _embedding_bag, "EMBEDDING"),
    **family("embedding_renorm", _renormalised, "EMBEDDING", mixing(lambda call: (call["self"][1], call.out[1]))),
    **family("_weight_norm _weight_norm_interface", elementwise, "ELEMENTWISE", mixing(_normalised)),
    **family("prelu", _prelu, "PRELU"),
}
