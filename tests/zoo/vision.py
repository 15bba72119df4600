"""Models of torchvision and timm with random weights."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tests.zoo import Made, Maker, detection, torchvision

TIMM = (Path(__file__).parent / "timm.txt").read_text(encoding="utf-8").split()
"""A small model of each of timm's families, and some more whose forward takes sizes in ways of its own."""

LARGE = ("vit_h", "vit_l", "128gf", "v2_l", "_b7", "_b6", "_b5", "32gf", "16gf", "101_64x4d", "152", "convnext_large")
"""Parts of names of torchvision's larger models: they are made on the meta device, without weights in memory."""


def torchvision_models() -> dict[str, Maker]:
    """Name to maker: every model that torchvision lists, but the quantized ones, which are no modules of float weights."""
    module = torchvision().models
    names = [name for name in module.list_models() if not name.startswith("quantized")]
    return {name: _torchvision_maker(name) for name in names}


def _torchvision_maker(name: str) -> Maker:
    models = torchvision().models

    def make() -> Made:
        if name in models.list_models(models.detection):
            return detection.make(name)
        options: dict[str, Any] = {"init_weights": False} if name in {"googlenet", "inception_v3"} else {}
        if name in models.list_models(models.segmentation):
            options = {"weights_backbone": None}
        device = torch.device("meta" if any(part in name for part in LARGE) else "cpu")
        with torch.device("cpu") if name.startswith("regnet") else device:  # RegNet reads widths off tensors when it is made
            model: nn.Module = models.get_model(name, weights=None, **options).eval().to(device)
        with device:
            shape = _shape(name, models.list_models(models.video))
            return model, tuple(torch.randn(shape) for _ in range(2 if name.startswith("raft") else 1)), {}

    return make


def _shape(name: str, videos: list[str]) -> tuple[int, ...]:
    if name in videos:
        return (1, 3, 16, 224, 224) if name.startswith(("mvit", "swin", "s3d")) else (1, 3, 16, 64, 64)
    fixed = name.startswith(("vit", "swin", "maxvit", "inception"))
    size = 299 if name == "inception_v3" else 224 if fixed else 96
    return (1, 3, 128, 128) if name.startswith("raft") else (1, 3, size, size)


def timm_models() -> dict[str, Maker]:
    """Name to maker: a small model of each family."""
    return {name: _timm_maker(name, "cpu") for name in TIMM}


def timm_meta_models() -> dict[str, Maker]:
    """Name to maker: every model that timm lists, on the meta device."""
    return {name: _timm_maker(name, "meta") for name in timm_families()}


@cache
def timm_families() -> dict[str, str]:
    """Name of every model of timm to the name of its family."""
    torchvision()
    import timm

    return {name: family for family in timm.list_modules() for name in timm.list_models(module=family)}


def timm_family(name: str) -> str:
    """The family of one of timm's models."""
    return timm_families()[name]


def _timm_maker(name: str, device: str) -> Maker:
    torchvision()
    import timm

    def make() -> Made:
        with torch.device(device):
            model: nn.Module = timm.create_model(name, pretrained=False).eval()
            return model, (torch.randn(1, *model.default_cfg["input_size"]),), {}

    return make


def classifier(name: str) -> nn.Module:
    """A torchvision classifier with random weights, in evaluation mode."""
    options = {"init_weights": False} if name in {"googlenet", "inception_v3"} else {}
    torch.manual_seed(0)
    return getattr(torchvision().models, name)(weights=None, **options).eval()
