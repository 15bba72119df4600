"""Rules of torchvision's operators: boxes, regions of interest, deformable convolutions."""

from __future__ import annotations

from collections.abc import Iterator

from depgraph.rules.common import POSITIONS, mixing, opaque, pinned
from depgraph.solving.statements import POINTWISE, Call, Equal, Fresh, Named, Pin, Rule, Statement, Times, Value


def _regions(call: Call) -> Iterator[Statement]:
    """The first number of a region is the position of its image, so the batch is pinned; channels pass."""
    x, rois = call["input"], call["rois"]
    yield from pinned((x[0], *x.axes[2:], rois[1]), POSITIONS.format(call.op))
    for out in call.outputs:
        yield Equal(out[0], rois[0])
        yield Equal(out[1], x[1])
        yield from pinned(out.axes[2:], POSITIONS.format(call.op))


def _sensitive_regions(call: Call) -> Iterator[Statement]:
    """Each position of a region reads channels of its own: input channels are output channels by positions."""
    x, rois, out = call["input"], call["rois"], call.out
    bins = Fresh(out.shape[2] * out.shape[3])
    yield Pin(bins, f"it counts the positions of a region of {call.op}")
    yield Equal(x[1], Times((out[1], bins)))
    yield from pinned((x[0], *x.axes[2:], rois[1]), POSITIONS.format(call.op))
    for value in call.outputs:
        yield Equal(value[0], rois[0])
        yield Equal(value[1], out[1])
        yield from pinned(value.axes[2:], POSITIONS.format(call.op))


def _deformable(call: Call) -> Iterator[Statement]:
    """A convolution with an offset for each tap; blocks of input channels share offsets and masks."""
    x, w, out = call["input"], call["weight"], call.out
    groups, offset_groups = Fresh(int(call["groups"])), Fresh(int(call["offset_groups"]))
    taps = Fresh(w.shape[2] * w.shape[3])
    yield Pin(taps, f"it counts the kernel positions of {call.op}")
    for blocks, name in ((groups, "groups"), (offset_groups, "offset_groups")):
        if blocks.size > 1:
            yield Named(blocks, call[name])
    yield Equal(x[1], Times((groups, w[1])))
    yield Equal(w[0], Times((groups, Fresh(w.shape[0] // groups.size))))
    yield Equal(out[1], w[0])
    yield Equal(x[1], Times((offset_groups, Fresh(x.shape[1] // offset_groups.size))))
    coordinates = Fresh(2)
    yield Pin(coordinates, f"it counts the coordinates of an offset of {call.op}")
    yield Equal(call["offset"][1], Times((offset_groups, taps, coordinates)))
    per_tap: list[Value] = [call["offset"]]
    if call["use_mask"] is not False and call["mask"].shape[1]:
        yield Equal(call["mask"][1], Times((offset_groups, taps)))
        per_tap.append(call["mask"])
    else:
        yield from pinned(call["mask"].axes, f"{call.op} does not read it")
    if call["bias"].shape[0] == out.shape[1]:
        yield Equal(call["bias"][0], out[1])
    for value in (*per_tap, out):
        yield Equal(value[0], x[0])
        yield from pinned(value.axes[2:], POSITIONS.format(call.op))
    yield from pinned(x.axes[2:], POSITIONS.format(call.op))
    yield from pinned(w.axes[2:], f"it is a kernel axis of {call.op}")


RULES: dict[str, Rule] = {
    "torchvision.nms": opaque("{} picks boxes by their scores"),
    **{f"torchvision.{name}": Rule(_regions, "POOL", POINTWISE) for name in ("roi_align", "roi_pool")},
    **{f"torchvision.{name}": Rule(_sensitive_regions, "POOL", POINTWISE) for name in ("ps_roi_align", "ps_roi_pool")},
    "torchvision.deform_conv2d": Rule(_deformable, "CONV", mixing(lambda call: (), "bias")),
}
