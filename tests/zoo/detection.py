"""torchvision's detection models, with settings under which the number of boxes does not depend on the weights.

torchvision's compiled operators do not load beside every build of torch; `operators` then stands in with its own `nms` and
`roi_align` on tensors, so that the models run.
"""

from __future__ import annotations

import sys
from functools import cache
from typing import Any

import torch
from torch import nn

from tests.zoo import LIBRARIES, Made, torchvision

SIDE, KEPT = 64, 4
ROI_ALIGN = (
    "roi_align(Tensor input, Tensor rois, float spatial_scale, int pooled_height, int pooled_width, int sampling_ratio, "
    "bool aligned) -> Tensor"
)


def make(name: str) -> Made:
    """One of torchvision's detection models on one small image.

    Nothing is suppressed and no score is too low, so that as many boxes come out as are asked for. The anchors of the models
    with two stages are larger than the image and the regression of boxes is zero: every box is the whole image, and
    the sizes of pasted masks and of keypoint maps stay the same, too, whatever is pruned.
    """
    operators()
    module = torchvision()
    torch.manual_seed(0)
    options: dict[str, Any] = {"weights": None, "weights_backbone": None}
    if "rcnn" in name:
        options |= {
            "min_size": SIDE, "max_size": SIDE, "rpn_pre_nms_top_n_test": KEPT, "rpn_post_nms_top_n_test": KEPT,
            "rpn_nms_thresh": 1.0, "rpn_score_thresh": -1.0, "box_score_thresh": -1.0, "box_nms_thresh": 1.0,
            "box_detections_per_img": KEPT,
        }  # fmt: skip
    else:
        options |= {"score_thresh": -1.0, "nms_thresh": 1.0, "detections_per_img": KEPT, "topk_candidates": KEPT}
    if name.startswith(("retinanet", "fcos")):
        options |= {"min_size": SIDE, "max_size": SIDE}
    model: nn.Module = module.models.get_model(name, **options).eval()
    if "rcnn" in name:
        generator = model.rpn.anchor_generator
        generator.sizes = tuple(tuple(8 * SIDE for _ in sizes) for sizes in generator.sizes)
        generator.cell_anchors = [
            generator.generate_anchors(sizes, ratios)
            for sizes, ratios in zip(generator.sizes, generator.aspect_ratios, strict=True)
        ]
        with torch.no_grad():
            for regression in (model.rpn.head.bbox_pred, model.roi_heads.box_predictor.bbox_pred):
                regression.weight.zero_()
                regression.bias.zero_()
    side = 300 if name.startswith("ssd300") else 320 if "320" in name and "ssd" in name else SIDE
    return model, ([torch.rand(3, side, side)],), {}


@cache
def operators() -> None:
    """Give torchvision's `nms` and `roi_align` an implementation where the compiled ones did not load."""
    module = torchvision()
    if module.extension._has_ops():
        return
    library = torch.library.Library("torchvision", "FRAGMENT")
    library.define(ROI_ALIGN)
    library.impl("nms", nms, "CPU")
    library.impl("roi_align", roi_align, "CPU")
    LIBRARIES.append(library)
    for name in ("boxes", "roi_align"):  # each has taken these names from torchvision.extension
        file: Any = sys.modules[f"torchvision.ops.{name}"]
        file._assert_has_ops, file._has_ops = lambda: None, lambda: True


def nms(dets: torch.Tensor, scores: torch.Tensor, iou_threshold: float) -> torch.Tensor:
    """Greedy suppression: a box goes if it overlaps a kept box of higher score by more than the threshold."""
    order = scores.argsort(descending=True, stable=True)
    boxes = dets[order]
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    alive = torch.ones(len(order), dtype=torch.bool)
    for position in range(len(order)):
        if alive[position]:
            low = torch.maximum(boxes[position, :2], boxes[position + 1 :, :2])
            high = torch.minimum(boxes[position, 2:], boxes[position + 1 :, 2:])
            common = (high - low).clamp(min=0).prod(1)
            union = areas[position] + areas[position + 1 :] - common
            alive[position + 1 :] &= ~(common / union > iou_threshold)
    return order[alive]


def roi_align(
    features: torch.Tensor,
    rois: torch.Tensor,
    spatial_scale: float,
    pooled_height: int,
    pooled_width: int,
    sampling_ratio: int,
    aligned: bool,
) -> torch.Tensor:
    """The mean of bilinear samples in each cell of a region, by `grid_sample`, one region at a time."""
    out = features.new_zeros((len(rois), features.shape[1], pooled_height, pooled_width))
    height, width = features.shape[2:]
    for position, (image, *corners) in enumerate(rois.tolist()):
        x0, y0, x1, y1 = (corner * spatial_scale - (0.5 if aligned else 0.0) for corner in corners)
        wide, high = (x1 - x0, y1 - y0) if aligned else (max(x1 - x0, 1.0), max(y1 - y0, 1.0))
        rows = max(sampling_ratio if sampling_ratio > 0 else -int(-high // pooled_height), 1)
        columns = max(sampling_ratio if sampling_ratio > 0 else -int(-wide // pooled_width), 1)
        ys = y0 + (torch.arange(pooled_height * rows, dtype=features.dtype) + 0.5) * high / (pooled_height * rows)
        xs = x0 + (torch.arange(pooled_width * columns, dtype=features.dtype) + 0.5) * wide / (pooled_width * columns)
        inside = ((ys >= -1) & (ys <= height))[:, None] & ((xs >= -1) & (xs <= width))[None, :]
        ys, xs = ys.clamp(0, height - 1), xs.clamp(0, width - 1)
        grid = torch.stack(torch.meshgrid(xs / max(width - 1, 1) * 2 - 1, ys / max(height - 1, 1) * 2 - 1, indexing="xy"), -1)
        sampled = nn.functional.grid_sample(features[int(image)][None], grid[None], align_corners=True) * inside
        out[position] = nn.functional.avg_pool2d(sampled, (rows, columns))[0]
    return out
