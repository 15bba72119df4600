"""Names of a pruned model's tensors: elements that leave lists of modules let those behind them move up."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from depgraph.plans.plan import Plan
from depgraph.weights import named_tensors


def base_names(plan: Plan, model: nn.Module) -> dict[str, str]:
    """From each name that a tensor of the model has in the pruned model to its first name in the model.

    What leaves with an element is not among the values. Of a tied tensor the first name may leave and others stay.
    """
    first: dict[int, str] = {}
    result = {}
    for name, tensor in named_tensors(model, every_name=True).items():
        first.setdefault(id(tensor), name)
        after = plan.name_after(name)
        if after is not None:
            result[after] = first[id(tensor)]
    return result


def tensors_by(names: Mapping[str, str], small: nn.Module) -> dict[str, torch.Tensor]:
    """The tensors of a pruned model, or of one like it, by the names of the base."""
    return {names[name]: tensor for name, tensor in named_tensors(small).items()}
