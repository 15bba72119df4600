"""Models of torchvision and timm with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from tests.zoo import Made, Maker, torchvision

TIMM = (Path(__file__).parent / "timm.txt").read_text(encoding="utf-8").split()
"""A small model of each of timm's families, and some more whose forward takes sizes in ways of its own."""


def torchvision_models() -> dict[str, Maker]:
    """Name to maker: classification and segmentation models, the smaller ones of each family."""
    module = torchvision().models

    def maker(name: str) -> Maker:
        def make() -> Made:
            options: dict[str, Any] = {"init_weights": False} if name in {"googlenet", "inception_v3"} else {}
            if name in module.list_models(module.segmentation):
                options = {"weights_backbone": None}
            fixed = name.startswith(("vit", "swin", "maxvit", "inception"))
            size = 299 if name == "inception_v3" else 224 if fixed else 96
            return module.get_model(name, weights=None, **options).eval(), (torch.randn(1, 3, size, size),), {}

        return make

    names = [*module.list_models(module), *module.list_models(module.segmentation)]
    large = ("vit_h", "vit_l", "128gf", "v2_l", "_b7", "_b6", "_b5", "32gf", "16gf", "101_64x4d", "152")
    kept = [name for name in names if not name.startswith("quantized") and not any(part in name for part in large)]
    return {name: maker(name) for name in kept}


def timm_models() -> dict[str, Maker]:
    """Name to maker: a small model of each family."""
    torchvision()
    import timm

    def maker(name: str) -> Maker:
        def make() -> Made:
            model: nn.Module = timm.create_model(name, pretrained=False).eval()
            size = model.default_cfg["input_size"][-1]
            return model, (torch.randn(1, 3, size, size),), {}

        return make

    return {name: maker(name) for name in TIMM}


def classifier(name: str) -> nn.Module:
    """A torchvision classifier with random weights, in evaluation mode."""
    options = {"init_weights": False} if name in {"googlenet", "inception_v3"} else {}
    torch.manual_seed(0)
    return getattr(torchvision().models, name)(weights=None, **options).eval()
