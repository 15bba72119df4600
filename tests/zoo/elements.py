"""Elements of lists that leave real models: the square, and the identity in their places."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

import depgraph as dg
from depgraph.testing import tensor_bytes


class HandsOn(nn.Module):
    """An element that runs, and gives what it was given in the place of what it made."""

    def __init__(self, element: nn.Module) -> None:
        super().__init__()
        self.element = element

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self._modules["element"], name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The element's result with its tensors exchanged: each that has the form of the tensor in its place among those taken.

        Where none has, the first one is exchanged for the first tensor of its form.
        """
        taken = [leaf.clone() for leaf in pytree.tree_leaves((args, kwargs)) if torch.is_tensor(leaf)]
        leaves, spec = pytree.tree_flatten(self.element(*args, **kwargs))
        places = [place for place, leaf in enumerate(leaves) if torch.is_tensor(leaf)]
        handed = {place: leaf for place, leaf in zip(places, taken, strict=False) if _form(leaf) == _form(leaves[place])}
        first = places[0]
        handed = handed or {first: next(leaf for leaf in taken if _form(leaf) == _form(leaves[first]))}
        return pytree.tree_unflatten([handed.get(place, leaf) for place, leaf in enumerate(leaves)], spec)


def _form(tensor: torch.Tensor) -> tuple[torch.Size, torch.dtype]:
    return tensor.shape, tensor.dtype


def proven(graph: dg.Graph, plan: dg.Plan, model: nn.Module, args: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Whether the square closes, and the identity computes the same; the latter is not asked of models without weights."""
    small = dg.execute(plan, model)
    square = dg.trace(small, args, kwargs) == plan.apply(graph)
    stricter = {"stricter": plan.stricter[0][1]} if plan.stricter else {}
    if any(parameter.is_meta for parameter in model.parameters()):
        return {"square": square, **stricter, "identity": None}
    other = copy.deepcopy(model)
    (drop,) = plan.drops
    container = other.get_submodule(drop.sequence.path)
    for place in drop.removed:
        name = drop.sequence.elements[place]
        container._modules[name] = HandsOn(container._modules[name])
    results = []
    for each in (small, other):
        torch.manual_seed(0)
        with torch.no_grad():
            result = each(*args, **kwargs)
            results.append(list(pytree.tree_leaves(dict(result) if hasattr(result, "items") else result)))
    one, two = ([leaf for leaf in leaves if torch.is_tensor(leaf)] for leaves in results)
    equal = len(one) == len(two) > 0 and all(
        _form(a) == _form(b) and tensor_bytes(a) == tensor_bytes(b) for a, b in zip(one, two, strict=True)
    )
    return {"square": square, **stricter, "identity": equal}
