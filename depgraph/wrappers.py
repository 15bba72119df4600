"""Look through wrappers that hold the module which a user means."""

from __future__ import annotations

from collections.abc import Container

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

PREFIXES = ("module.", "_orig_mod.")
"""What wrappers put before the names of parameters: `DataParallel`, `DistributedDataParallel` and averages; `torch.compile`."""


def unprefixed(name: str, known: Container[str]) -> str | None:
    """The known name that is left when the prefixes of wrappers are taken off; None if there is none.

    >>> unprefixed("module._orig_mod.0.weight", {"0.weight"})
    '0.weight'
    >>> unprefixed("module.weight", {"module.weight"})
    'module.weight'
    """
    while name not in known:
        prefix = next((prefix for prefix in PREFIXES if name.startswith(prefix)), None)
        if prefix is None:
            return None
        name = name.removeprefix(prefix)
    return name


def unwrap(model: nn.Module) -> nn.Module:
    """The module inside `torch.compile`, `DataParallel`, `DistributedDataParallel` and `AveragedModel` wrappers."""
    while True:
        if isinstance(model, torch._dynamo.eval_frame.OptimizedModule):
            model = model._orig_mod
        elif isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel, AveragedModel)):
            model = model.module
        else:
            return model


def name_of(model: nn.Module, module: nn.Module) -> str:
    """The dotted path of a module inside a model; the empty string for the model itself.

    Raises:
        ValueError: the module is not part of the model.

    >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
    >>> name_of(model, model[0])
    '0'
    """
    for name, candidate in unwrap(model).named_modules():
        if candidate is module:
            return str(name)
    raise ValueError(f"this {type(module).__name__} is not part of the {type(model).__name__}; pass one of its own submodules.")
