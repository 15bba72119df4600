"""Torchvision's operators, defined here where its compiled ones do not load: schemas, shapes, plain kernels."""

from importlib.util import find_spec

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from depgraph.rules import RULES
from tests import zoo
from tests.rules.test_operators import lawful, layout, reasons

SCHEMAS = {
    "roi_align": "Tensor input, Tensor rois, float spatial_scale, SymInt pooled_height, SymInt pooled_width, "
    "int sampling_ratio, bool aligned) -> Tensor",
    "roi_pool": "Tensor input, Tensor rois, float spatial_scale, SymInt pooled_height, SymInt pooled_width) "
    "-> (Tensor, Tensor)",
    "ps_roi_align": "Tensor input, Tensor rois, float spatial_scale, SymInt pooled_height, SymInt pooled_width, "
    "int sampling_ratio) -> (Tensor, Tensor)",
    "ps_roi_pool": "Tensor input, Tensor rois, float spatial_scale, SymInt pooled_height, SymInt pooled_width) "
    "-> (Tensor, Tensor)",
    "deform_conv2d": "Tensor input, Tensor weight, Tensor offset, Tensor mask, Tensor bias, SymInt stride_h, SymInt stride_w, "
    "SymInt pad_h, SymInt pad_w, SymInt dilation_h, SymInt dilation_w, SymInt groups, SymInt offset_groups, bool use_mask) "
    "-> Tensor",
}


def regions(x, rois, size):
    """The part of the image that each region names, resampled; the regions lie inside of the image, at whole pixels."""
    parts = []
    for number, x0, y0, x1, y1 in rois.tolist():
        part = x[int(number), :, int(y0) : int(y1) + 1, int(x0) : int(x1) + 1]
        parts.append(F.adaptive_avg_pool2d(part, size))
    return torch.stack(parts)


def position_sensitive(x, rois, h, w):
    """Each position of a region reads channels of its own: channel c of position (i, j) is input (c * h + i) * w + j."""
    pooled = regions(x, rois, (h, w)).unflatten(1, (-1, h, w))
    rows, columns = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    return pooled[:, :, rows, columns, rows, columns]


def sampled(image, y, x):
    """Bilinear values at (y, x), zero outside: image (c, h, w), positions (h', w')."""
    h, w = image.shape[1:]
    grid = torch.stack([2 * x / (w - 1) - 1, 2 * y / (h - 1) - 1], -1)
    return F.grid_sample(image[None], grid[None], align_corners=True)[0]


def deformed(x, weight, offset, mask, bias, sh, sw, ph, pw, dh, dw, groups, offset_groups, use_mask):
    """The definition of deformable convolution, tap by tap."""
    n, c = x.shape[:2]
    k, _, kh, kw = weight.shape
    oh, ow = offset.shape[2:]
    per = c // offset_groups
    columns = x.new_zeros(n, c, kh * kw, oh, ow)
    rows, across = torch.meshgrid(torch.arange(oh), torch.arange(ow), indexing="ij")
    for b in range(n):
        for g in range(offset_groups):
            for tap in range(kh * kw):
                at = 2 * (g * kh * kw + tap)
                y = (rows * sh - ph + tap // kw * dh).to(x.dtype) + offset[b, at]
                z = (across * sw - pw + tap % kw * dw).to(x.dtype) + offset[b, at + 1]
                value = sampled(x[b, g * per : (g + 1) * per], y, z)
                if use_mask:
                    value = value * mask[b, g * kh * kw + tap]
                columns[b, g * per : (g + 1) * per, tap] = value
    out = torch.einsum(
        "ngctp,gkct->ngkp",
        columns.view(n, groups, c // groups, kh * kw, oh * ow),
        weight.view(groups, k // groups, c // groups, kh * kw),
    )
    return out.reshape(n, k, oh, ow) + bias.view(1, -1, 1, 1)


KERNELS = {
    "roi_align": lambda x, rois, scale, h, w, ratio, aligned: regions(x, rois, (h, w)),
    "roi_pool": lambda x, rois, scale, h, w: (regions(x, rois, (h, w)), x.new_zeros(len(rois), x.shape[1], h, w).int()),
    "ps_roi_align": lambda x, rois, scale, h, w, ratio: (
        position_sensitive(x, rois, h, w), x.new_zeros(len(rois), x.shape[1] // (h * w), h, w).int()),
    "ps_roi_pool": lambda x, rois, scale, h, w: (
        position_sensitive(x, rois, h, w), x.new_zeros(len(rois), x.shape[1] // (h * w), h, w).int()),
    "deform_conv2d": deformed,
}  # fmt: skip
SHAPES = {
    "roi_align": lambda x, rois, scale, h, w, ratio, aligned: x.new_empty(len(rois), x.shape[1], h, w),
    "roi_pool": lambda x, rois, scale, h, w: tuple(
        x.new_empty(len(rois), x.shape[1], h, w, dtype=kind) for kind in (x.dtype, torch.int)),
    "ps_roi_align": lambda x, rois, scale, h, w, ratio: tuple(
        x.new_empty(len(rois), x.shape[1] // (h * w), h, w, dtype=kind) for kind in (x.dtype, torch.int)),
    "ps_roi_pool": lambda x, rois, scale, h, w: tuple(
        x.new_empty(len(rois), x.shape[1] // (h * w), h, w, dtype=kind) for kind in (x.dtype, torch.int)),
    "deform_conv2d": lambda x, weight, offset, *rest: x.new_empty(x.shape[0], weight.shape[0], *offset.shape[2:]),
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def operators():
    """The operators, where torchvision's own did not load; they are gone afterwards.

    Its own come first: after these they could not load.
    """
    if find_spec("torchvision"):
        zoo.torchvision()
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name, schema in SCHEMAS.items():
        if not torch._C._jit_get_schemas_for_operator(f"torchvision::{name}"):
            library.define(f"{name}({schema}")
            library.impl(name, KERNELS[name], "CompositeExplicitAutograd")
            library.impl(name, SHAPES[name], "Meta")
    yield torch.ops.torchvision
    library._destroy()


ROIS = [[0, 0, 0, 3, 3], [1, 2, 2, 5, 5], [0, 1, 0, 4, 3]]
BOXES = (2, 3, 6, 6)


class Head(nn.Module):
    """Features, an operator over regions of interest, a head."""

    def __init__(self, operator, channels, pooled):
        super().__init__()
        self.first, self.operator, self.last = nn.Conv2d(3, channels, 1), operator, nn.Conv2d(pooled, 2, 1)
        self.register_buffer("rois", torch.tensor(ROIS, dtype=torch.float))

    def forward(self, x):
        return self.last(self.operator(self.first(x), self.rois))


@pytest.mark.parametrize(
    ("operator", "channels", "pooled", "expected"),
    [
        (lambda x, r: torch.ops.torchvision.roi_align(x, r, 1.0, 2, 2, 1, False), 8, 8, "a8 -> a8"),
        (lambda x, r: torch.ops.torchvision.roi_pool(x, r, 1.0, 2, 2)[0], 8, 8, "a8 -> a8"),
        (lambda x, r: torch.ops.torchvision.ps_roi_align(x, r, 1.0, 2, 2, 1)[0], 12, 3, "a3 x 4 -> a3"),
        (lambda x, r: torch.ops.torchvision.ps_roi_pool(x, r, 1.0, 2, 2)[0], 12, 3, "a3 x 4 -> a3"),
    ],
)
def test_regions(operator, channels, pooled, expected):
    """Channels pass; where each position has channels of its own they are a product with the positions."""
    graph = lawful(Head(operator, channels, pooled), torch.randn(BOXES))
    assert layout(graph, ("first.weight", 0), ("last.weight", 1)) == expected


class Deformable(nn.Module):
    """As torchvision's module writes it: blocks are computed from the shapes."""

    def __init__(self, groups=1, offset_groups=1, mask=True):
        super().__init__()
        self.mask = mask
        self.first, self.last = nn.Conv2d(3, 8, 1), nn.Conv2d(12, 2, 1)
        self.weight, self.bias = nn.Parameter(torch.randn(12, 8 // groups, 3, 3)), nn.Parameter(torch.randn(12))
        self.offset = nn.Conv2d(3, 18 * offset_groups, 1)
        self.modulation = nn.Conv2d(3, 9 * offset_groups, 1)

    def forward(self, x):
        y, offset = self.first(x), self.offset(x)
        mask = self.modulation(x) if self.mask else y.new_zeros(y.shape[0], 1)
        blocks = y.shape[1] // self.weight.shape[1]
        moved = offset.shape[1] // (2 * self.weight.shape[2] * self.weight.shape[3])
        out = torch.ops.torchvision.deform_conv2d(
            y, self.weight, offset, mask, self.bias, 1, 1, 1, 1, 1, 1, blocks, moved, self.mask
        )
        return self.last(out)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "a8 -> a8 -> b12 -> b12 -> 18"),
        ({"mask": False}, "a8 -> a8 -> b12 -> b12 -> 18"),
        ({"groups": 2}, "a2 x b4 -> b4 -> a2 x c6 -> a2 x c6 -> 18"),
        ({"offset_groups": 2}, "a2 x b4 -> a2 x b4 -> c12 -> c12 -> a2 x 18"),
        ({"groups": 2, "offset_groups": 2}, "a2 x b4 -> b4 -> a2 x c6 -> a2 x c6 -> a2 x 18"),
        ({"groups": 2, "offset_groups": 4}, "a2 x b2 x c2 -> b2 x c2 -> a2 x d6 -> a2 x d6 -> a2 x b2 x 18"),
    ],
)
def test_deformable_convolutions(options, expected):
    """Blocks of channels and of offsets are cut together; kernel positions and coordinates stay."""
    graph = lawful(Deformable(**options), torch.randn(BOXES), masking=False)
    axes = ("first.weight", 0), ("weight", 1), ("weight", 0), ("last.weight", 1), ("offset.weight", 0)
    assert layout(graph, *axes).replace("9 x 2", "18") == expected
    assert "kernel positions" in reasons(graph, ("offset.weight", 0))


def test_every_operator_of_detection_has_a_rule():
    """Beside those above, `nms` picks boxes by their scores and pins them."""
    assert {f"torchvision.{name}" for name in (*SCHEMAS, "nms")} <= RULES.keys()
