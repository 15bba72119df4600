"""The tensors that a plan leaves: of the same class, with the same marks, hooks and gradients."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping

import torch
from torch import nn

from depgraph.algebra.indices import IndexSet
from depgraph.execution.quantised import quantised_slice, refuse_quantised
from depgraph.execution.releasing import ordered_as
from depgraph.execution.shards import cut_shard
from depgraph.plans.plan import Plan
from depgraph.running import outside_inference_mode
from depgraph.unsupported import is_made_of_parts
from depgraph.wrappers import is_sharded


def _index_selected(tensor: torch.Tensor, positions: Mapping[int, torch.Tensor]) -> torch.Tensor:
    """What the positions select of each dimension."""
    result = tensor.detach()
    for dim, index in positions.items():
        result = result.index_select(dim, index.to(result.device))
    return ordered_as(tensor, result)


@outside_inference_mode
def sliced(
    plan: Plan, tensors: Mapping[str, torch.Tensor], take: Callable[..., torch.Tensor] = _index_selected
) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Name to (old, new) of every tensor that the plan cuts; `take` selects positions of one. Tied names share both."""
    new_of: dict[int, torch.Tensor] = {}
    distinct = {id(indices): indices for dims in plan.kept.values() for indices in dims.values()}
    positions = {number: positions_of(indices) for number, indices in distinct.items()}
    kept = {name: {dim: positions[id(indices)] for dim, indices in dims.items()} for name, dims in plan.kept.items()}
    refuse_quantised(tensors, kept)
    for name in plan.kept:
        old = tensors[name]
        if id(old) not in new_of:
            new_of[id(old)] = selected(old, kept[name], take)
    return {name: (tensors[name], new_of[id(tensors[name])]) for name in plan.kept}


def positions_of(indices: IndexSet) -> torch.Tensor:
    """The indices as a tensor that selects."""
    return torch.frombuffer(array("q", indices), dtype=torch.long)


def selected(
    tensor: torch.Tensor, positions: Mapping[int, torch.Tensor], take: Callable[..., torch.Tensor] = _index_selected
) -> torch.Tensor:
    """The tensor with what the positions select of each dimension, and its gradient cut alongside."""

    def select(source: torch.Tensor) -> torch.Tensor:
        if is_sharded(source):
            return cut_shard(source, positions)  # type: ignore[arg-type]
        return quantised_slice(source, positions) if is_made_of_parts(source) else take(source, positions)

    return like(tensor, select(tensor), select)


def like(old: torch.Tensor, data: torch.Tensor, select: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """A tensor of the old one's class and marks around new data."""
    if isinstance(old, nn.Parameter):
        new: torch.Tensor = nn.Parameter(data, requires_grad=old.requires_grad)
        if type(old) is not nn.Parameter and not isinstance(new, type(old)):
            new = data.as_subclass(type(old)).requires_grad_(old.requires_grad)
    else:
        new = data.requires_grad_(old.requires_grad)
    own = vars(new) if is_made_of_parts(old) else ("_is_param",)  # numbers and scales lie in its attributes
    new.__dict__.update({key: value for key, value in old.__dict__.items() if key not in own})
    for hooks in _HOOKS:
        if content := getattr(old, hooks, None):
            setattr(new, hooks, type(content)(content))  # its own: a hook that is added later belongs to one model alone
    if old.grad is not None:
        new.grad = select(old.grad)
    return new


def move_hooks(old: torch.Tensor, new: torch.Tensor) -> None:
    """Let a tensor that takes the place of another have that one's hooks, so that the user's handles still remove them."""
    for hooks in _HOOKS:
        if content := getattr(old, hooks, None):
            setattr(new, hooks, content)


_HOOKS = ("_backward_hooks", "_post_accumulate_grad_hooks")
