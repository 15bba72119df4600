"""The one place that makes torchvision importable beside a CPU build of torch; beside it, one file of models per zoo."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from types import ModuleType
from typing import Any

import torch
from torch import nn

LIBRARIES: list[Any] = []
"""Operator libraries, which go when nothing holds them."""

Made = tuple[nn.Module, tuple[Any, ...], dict[str, Any]]
"""A model in evaluation mode, its arguments and its keyword arguments."""

Maker = Callable[[], Made]


@cache
def torchvision() -> ModuleType:
    """Import torchvision: its compiled operators do not load beside every build of torch, their schemas must exist."""
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        try:
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        except RuntimeError:  # the compiled operators did load, and have defined it
            break
    LIBRARIES.append(library)
    import torchvision as module

    return module


@cache
def transformers() -> ModuleType:
    """Import transformers, which imports torchvision, and silence its advice on configurations."""
    torchvision()
    import transformers as module

    module.logging.set_verbosity_error()
    return module
