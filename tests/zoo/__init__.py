"""The one place that makes torchvision importable beside every build of torch; beside it, one file of models per zoo."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from torch import nn

LIBRARIES: list[Any] = []
"""Operator libraries, which go when nothing holds them."""

Made = tuple[nn.Module, tuple[Any, ...], dict[str, Any]]
"""A model in evaluation mode, its arguments and its keyword arguments."""

Maker = Callable[[], Made]


MISSING = "torchvision::nms"
"""The operator whose absence ends an import of torchvision, where its compiled operators did not load."""


def imported(name: str, define: Callable[[], None]) -> ModuleType:
    """Import a package; only if that fails for want of `MISSING`, define its schemas and import the package anew.

    Never the other way round: where the compiled operators load they bring their schemas, and a schema that is there already
    aborts the interpreter.
    """
    try:
        return import_module(name)
    except RuntimeError as error:
        if MISSING not in str(error):
            raise
    for module in [module for module in sys.modules if module.split(".")[0] == name]:
        del sys.modules[module]
    define()
    return import_module(name)


def _schemas() -> None:
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    LIBRARIES.append(library)


@cache
def torchvision() -> ModuleType:
    """Import torchvision, also beside a build of torch for which its compiled operators do not load."""
    return imported("torchvision", _schemas)


@cache
def transformers() -> ModuleType:
    """Import transformers, which imports torchvision, and silence its advice on configurations."""
    torchvision()
    import transformers as module

    module.logging.set_verbosity_error()
    return module
