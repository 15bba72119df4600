"""Biases for layers that have none."""

from __future__ import annotations

from collections import Counter

import torch
from attrs import evolve
from torch import nn

from depgraph.execution.copying import copied
from depgraph.plans.plan import Plan, PrunedAxis
from depgraph.weights import named_tensors

_FORWARDS = {kind.forward for kind in (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)}
"""Forwards that add a module's bias to outputs that lie along the first dimension of its weight."""


def with_zero_biases(plan: Plan, model: nn.Module) -> tuple[Plan, nn.Module, tuple[str, ...]]:
    """A copy of the model on the same tensors, with a bias of zeros on each layer that loses inputs and has none.

    Returns:
        The plan for the copy, the copy, and the names of the biases. A layer whose weight has several names gets none, and
        none whose module's forward is its own.
    """
    names = Counter(id(tensor) for _, tensor in model.named_parameters(remove_duplicate=False))
    result = copied(model, {id(tensor): tensor for tensor in named_tensors(model).values()})
    axes, added = list[PrunedAxis](), list[str]()
    for path, module in model.named_modules():
        weight = module._parameters.get("weight")
        if weight is None or type(module).forward not in _FORWARDS or module._parameters.get("bias", weight) is not None:
            continue
        prefix = f"{path}." if path else ""
        if names[id(weight)] > 1 or 1 not in plan.kept.get(f"{prefix}weight", {}) or plan.name_after(path) is None:
            continue
        bias = torch.zeros(weight.shape[0], dtype=weight.dtype, device=weight.device)
        result.get_submodule(path).bias = nn.Parameter(bias, requires_grad=weight.requires_grad)
        added.append(f"{prefix}bias")
        outputs = [axis.space for axis in plan.axes if axis.tensor == f"{prefix}weight" and axis.dim == 0]
        axes += [PrunedAxis(added[-1], 0, space) for space in outputs]
    return evolve(plan, axes=tuple(sorted((*plan.axes, *axes), key=lambda axis: (axis.tensor, axis.dim)))), result, tuple(added)
