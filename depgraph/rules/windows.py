"""Rules of operators that compute positions from others: pooling, resampling, windows, pixel and channel shuffles."""

from __future__ import annotations

from collections.abc import Iterator

from depgraph.rules.common import POSITIONS, family, passed
from depgraph.solving.statements import POINTWISE, Call, Equal, Fresh, Named, Pin, Rule, Statement, Times


def _window(spatial: int) -> Rule:
    """Trailing dimensions are pinned, for their positions are computed; the others pass, in all operands and results."""

    def equations(call: Call) -> Iterator[Statement]:
        x, *others = call.inputs
        leading = x.ndim - spatial
        for value in (*others, *call.outputs):
            for axis, target in zip(x.axes[:leading], value.axes, strict=False):
                yield Equal(axis, target)
        for value in (*call.inputs, *call.outputs):
            for axis in value.axes[leading:]:
                yield Pin(axis, POSITIONS.format(call.op))

    return Rule(equations, "POOL", POINTWISE)


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
    yield from passed(x, out, {1})


def _unfold(call: Call) -> Iterator[Statement]:
    x, out = call["self"], call.out
    if not x.ndim:
        return
    dim = int(call["dimension"]) % x.ndim
    for position, axis in enumerate(x.axes):
        if position != dim:
            yield Equal(axis, out[position])
    for axis in (x[dim], out[dim], out[-1]):
        yield Pin(axis, POSITIONS.format(call.op))


def _grid_sampler(call: Call) -> Iterator[Statement]:
    x = call["input"] if call["input"] is not None else call["self"]
    grid, out = call["grid"], call.out
    yield Equal(x[0], out[0])
    yield Equal(grid[0], out[0])
    yield Equal(x[1], out[1])
    for axis in (*x.axes[2:], *grid.axes[1:], *out.axes[2:]):
        yield Pin(axis, POSITIONS.format(call.op))


def _affine_grid(call: Call) -> Iterator[Statement]:
    """Each image has one transformation and one grid of positions."""
    theta, out = call["theta"], call.out
    yield Equal(theta[0], out[0])
    yield Named(out[0], call["size"][0] if call["size"] is not None else call["N"])
    for axis in (*theta.axes[1:], *out.axes[1:]):
        yield Pin(axis, POSITIONS.format(call.op))


_OTHER_POOLS = {
    "mkldnn_max_pool2d": 2,
    "mkldnn_max_pool3d": 3,
    "mkldnn_adaptive_avg_pool2d": 2,
    "quantized_max_pool1d": 1,
    "quantized_max_pool2d": 2,
    "quantized_max_pool3d": 3,
    "_upsample_lanczos2d_aa": 2,
}
_POOLS = {
    **dict.fromkeys(("max_pool", "avg_pool", "adaptive_avg_pool", "adaptive_max_pool"), (1, 2, 3)),
    **dict.fromkeys(("upsample_nearest", "_upsample_nearest_exact"), (1, 2, 3)),
    **dict.fromkeys(("_adaptive_avg_pool", "fractional_max_pool", "max_unpool"), (2, 3)),
}
_UPSAMPLINGS = {
    "upsample_linear1d": 1,
    "upsample_bilinear2d": 2,
    "upsample_bicubic2d": 2,
    "_upsample_bilinear2d_aa": 2,
    "_upsample_bicubic2d_aa": 2,
    "upsample_trilinear3d": 3,
}

RULES: dict[str, Rule] = {
    **{f"aten.{name}{n}d": _window(n) for name, forms in _POOLS.items() for n in forms},
    **{f"aten.max_pool{n}d_with_indices": _window(n) for n in (1, 2, 3)},
    **{f"aten.{name}": _window(n) for name, n in _UPSAMPLINGS.items()},
    **family(
        "grid_sampler grid_sampler_2d grid_sampler_3d cudnn_grid_sampler _grid_sampler_2d_cpu_fallback", _grid_sampler, "POOL"
    ),
    **family("im2col col2im", _im2col, "RESHAPE"),
    **family("pixel_shuffle pixel_unshuffle", _pixel_shuffle, "RESHAPE"),
    **family("channel_shuffle native_channel_shuffle", _channel_shuffle, "RESHAPE"),
    **family("unfold unfold_copy", _unfold, "SLICE"),
    **family("affine_grid_generator cudnn_affine_grid_generator", _affine_grid, "CREATE"),
    **{f"aten.{name}": _window(n) for name, n in _OTHER_POOLS.items()},
}
