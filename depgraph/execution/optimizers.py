"""The state of an optimizer for the pruned model: momentum and moments lose what their parameters lose."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from depgraph.errors import MismatchError
from depgraph.execution.execute import checked, fitting, selected
from depgraph.plans.plan import Plan
from depgraph.unsupported import supported_in_shards

__all__ = ["carry_state"]


def carry_state(plan: Plan, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The state dict with which an optimizer of the pruned model goes on where this one is. Nothing is written or shared.

    Take it before `execute_`. Load it into an optimizer with the same parameter groups over the pruned model's parameters;
    its options (learning rate and the like) come along.

    Args:
        plan: what is executed.
        model: the model before.
        optimizer: an optimizer over the model's parameters, whose state has a number for each weight, or for each row and
            column: SGD, Adam and its kin, RMSprop, Adagrad, Adafactor and others.

    Raises:
        PlanError: the arguments are no plan and no module.
        MismatchError: the plan is for another model, the optimizer trains parameters that this model has not, or its state
            is of another form.

    >>> import depgraph as dg
    >>> model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    >>> optimizer = torch.optim.Adam(model.parameters())
    >>> model(torch.randn(5, 3)).sum().backward(); optimizer.step()
    >>> plan = dg.cut(dg.trace(model, torch.randn(5, 3)), "0.weight", [1], dim=0)
    >>> small = dg.execute(plan, model)
    >>> going_on = torch.optim.Adam(small.parameters())
    >>> going_on.load_state_dict(dg.optimizers.carry_state(plan, model, optimizer))
    >>> going_on.state[small[0].weight]["exp_avg"].shape
    torch.Size([3, 3])
    """
    model = checked(plan, model, supported_in_shards)
    fitting(plan, model)
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    state = optimizer.state_dict()
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    numbers = [number for group in state["param_groups"] for number in group["params"]]
    problems: list[str] = []
    carried: dict[Any, Any] = dict(state["state"])
    for parameter, number in zip(parameters, numbers, strict=True):
        if id(parameter) not in names:
            problems.append(f"the optimizer trains a parameter of shape {tuple(parameter.shape)} that the model does not hold")
        elif number in carried:
            own = names[id(parameter)]
            cut = next((name for name in own if name in plan.kept), own[0])
            carried[number] = _carried(plan, cut, parameter, carried[number], problems)
    if problems:
        raise MismatchError(
            "this optimizer's state cannot be carried over:", problems, "Make a new optimizer for the pruned model instead."
        )
    return {**copy.deepcopy({key: value for key, value in state.items() if key != "state"}), "state": carried}


def _carried(plan: Plan, name: str, parameter: torch.Tensor, state: dict[str, Any], problems: list[str]) -> dict[str, Any]:
    """One parameter's state, cut like the parameter."""
    positions = {dim: torch.tensor(list(kept), dtype=torch.long) for dim, kept in plan.kept.get(name, {}).items()}
    result: dict[str, Any] = {}
    for key, value in state.items():
        result[key] = copy.deepcopy(value)
        if not positions:
            continue
        if isinstance(value, torch.Tensor) and value.numel() > 1:
            fits = value.ndim == parameter.ndim and all(
                met in {size, 1} for met, size in zip(value.shape, parameter.shape, strict=True)
            )
            if not fits:
                problems.append(f"{name!r}: {key!r} has shape {tuple(value.shape)}, the parameter {tuple(parameter.shape)}")
                continue
            for dim, index in positions.items():
                if value.shape[dim] == parameter.shape[dim]:
                    result[key] = selected(result[key], {dim: index})
        elif isinstance(value, (list, tuple, dict)) and len(value):
            problems.append(f"{name!r}: {key!r} is a {type(value).__name__}; expected tensors and numbers")
    return result
