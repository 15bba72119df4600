"""Look through wrappers that hold the module which a user means."""

from __future__ import annotations

import torch
from torch import nn


def unwrap(model: nn.Module) -> nn.Module:
    """The module inside `torch.compile`, `DataParallel` and `DistributedDataParallel` wrappers."""
    while True:
        if isinstance(model, torch._dynamo.eval_frame.OptimizedModule):
            model = model._orig_mod
        elif isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            model = model.module
        else:
            return model


def name_of(model: nn.Module, module: nn.Module) -> str:
    """The dotted path of a module inside a model; the empty string for the model itself.

    >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
    >>> name_of(model, model[0])
    '0'

    Raises:
        ValueError: the module is not part of the model.
    """
    for name, candidate in unwrap(model).named_modules():
        if candidate is module:
            return str(name)
    raise ValueError(f"this {type(module).__name__} is not part of the {type(model).__name__}; pass one of its own submodules.")
