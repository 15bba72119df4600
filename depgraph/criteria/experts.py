"""Criteria of the experts of a mixture: how many tokens come to each, and what it adds to them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from attrs import field, frozen
from torch import nn
from torch.utils import _pytree as pytree

from depgraph.criteria.checks import is_function, is_iterable
from depgraph.criteria.collecting import DataDriven, counted, refuse_meta
from depgraph.criteria.gathering import GroupIndices, Member, Members, Tensors, gathered
from depgraph.criteria.reductions import Importances
from depgraph.errors import PlanError
from depgraph.graph.graph import Graph
from depgraph.running import Forward, run, untouched


@frozen(eq=False)
class _Routing:
    """What was seen of the experts that one module holds.

    Attributes:
        tokens: how many came to each expert.
        sums: what the experts added to them, by its norm.
    """

    tokens: torch.Tensor
    sums: torch.Tensor

    @classmethod
    def of(cls, size: int, device: torch.device) -> _Routing:
        """Nothing so far, of so many experts."""
        exact = torch.float32 if device.type == "mps" else torch.float64
        return cls(*torch.zeros(2, size, dtype=exact, device=device))

    def add(self, numbers: torch.Tensor, norms: torch.Tensor) -> None:
        """Tokens that came to the experts of these numbers, with the norms of what they were given."""
        self.tokens.index_add_(0, numbers.flatten(), torch.ones_like(norms, dtype=self.tokens.dtype).flatten())
        self.sums.index_add_(0, numbers.flatten(), norms.to(self.sums.dtype).flatten())


@frozen
class _OnRouting(DataDriven):
    """What both have in common: the modules that hold experts, and what they are called with."""

    batches: Iterable[Any] = field(validator=is_iterable, repr=False, eq=False)
    forward: Forward = field(default=run, validator=is_function, repr=False, kw_only=True)

    def measure(self, graph: Graph, model: nn.Module, tensors: Tensors) -> Importances:
        """Group name to one number per index."""
        held = _held(graph, tensors)
        routings = self.routings(model, tensors, {axis for axes in held.values() for axis in axes})
        members: Members = {name: tuple(axis for axis in axes if axis in routings) for name, axes in held.items()}
        members = {name: axes for name, axes in members.items() if axes}
        if graph.groups and not members:
            raise PlanError(
                "no module that holds experts in its own parameters was called with the numbers of the chosen experts and with "
                "their weights, two tensors of the shape [tokens, k]. Put them into such a module, or score by a function."
            )

        def vector(member: Member, indices: GroupIndices) -> torch.Tensor:
            name, dim = member
            values = self.value(routings[member]).float().to(tensors[name].device)
            return gathered(values, graph.by_name[name].axes[dim], indices)

        return self.assembled(graph, members, vector)

    def routings(self, model: nn.Module, tensors: Tensors, axes: Iterable[Member]) -> dict[Member, _Routing]:
        """What came to the experts along each axis of which they are the indices; without those of other modules."""
        refuse_meta({name: tensors[name] for name, _ in axes})
        seen: dict[Member, _Routing] = {}
        number = 0
        with untouched(model, self.training), torch.no_grad(), ExitStack() as hooks:
            for name, dim in sorted(axes):
                module = model.get_submodule(name.rpartition(".")[0])
                routing = seen[name, dim] = _Routing.of(tensors[name].shape[dim], tensors[name].device)
                handle = module.register_forward_pre_hook(partial(_watched, routing=routing), with_kwargs=True)
                hooks.callback(handle.remove)
            for batch in self.read(self.batches):
                self.forward(model, batch)
                number += 1
        counted(number)
        for routing in seen.values():
            self.together([routing.tokens, routing.sums])
        return {axis: routing for axis, routing in seen.items() if bool(routing.tokens.any())}

    def value(self, routing: _Routing) -> torch.Tensor:
        """The importance of each expert."""
        raise NotImplementedError


def _held(graph: Graph, tensors: Tensors) -> dict[str, tuple[Member, ...]]:
    """For each group of experts one axis of each module that holds them in its own parameters."""
    held: dict[str, tuple[Member, ...]] = {}
    for group in graph.groups:
        if group.role == "expert":
            axes = {name.rpartition(".")[0]: (name, dim) for name, dim in group.members if tensors[name].ndim > 1}
            held[group.name] = tuple(axes.values())
    return held


def _watched(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], *, routing: _Routing) -> None:
    """See what a module of experts is called with, and run it for each of the chosen experts of a token alone."""
    leaves, spec = pytree.tree_flatten((args, dict(kwargs)))
    given = [place for place, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor) and leaf.ndim == 2]
    numbers = [place for place in given if not leaves[place].is_floating_point() and leaves[place].dtype is not torch.bool]
    if len(numbers) != 1:
        return
    (chosen,) = numbers
    weights = [place for place in given if place != chosen and leaves[place].shape == leaves[chosen].shape]
    if len(weights) != 1:
        return
    for slot in range(leaves[chosen].shape[1]):
        alone = [leaf[:, slot : slot + 1] if place in {chosen, *weights} else leaf for place, leaf in enumerate(leaves)]
        slot_args, slot_kwargs = pytree.tree_unflatten(alone, spec)
        added = module.forward(*slot_args, **slot_kwargs)
        norms = added.detach().float().reshape(len(leaves[chosen]), -1).norm(dim=1)
        routing.add(leaves[chosen][:, slot], norms)


@frozen
class REAP(_OnRouting):
    """What an expert adds to its tokens: the mean, over those that are routed to it, of its gate times the norm of its output.

    Lasby et al., "REAP the Experts: Why Pruning Prevails for One-Shot MoE Compression" (2025, arXiv 2510.13999), equation 9. An
    expert to which no token is routed has the importance 0. Groups that are no experts are left out of the scores.

    The experts have to lie in the parameters of a module of their own that is called with the numbers of the chosen experts
    and their weights, two tensors of the shape ``[tokens, k]``, and returns the weighted sum for each token, as those of
    transformers are; it is run once more for each of the k.

    Attributes:
        batches: an iterable of batches.
        forward: as for `Activation`.

    >>> import depgraph as dg
    >>> class Experts(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.weight = nn.Parameter(torch.tensor([[1.0, 0.0], [2.0, 0.0], [3.0, 0.0]]))
    ...     def forward(self, x, numbers, weights):
    ...         return (self.weight[numbers] * weights[..., None] * x[:, None]).sum(1)
    >>> class Mixture(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.gate, self.experts = nn.Linear(2, 3, bias=False), Experts()
    ...     def forward(self, x):
    ...         weights, numbers = self.gate(x).softmax(-1).topk(1, -1)
    ...         return self.experts(x, numbers, torch.ones_like(weights))
    >>> model = Mixture()
    >>> _ = model.gate.weight.data.copy_(torch.tensor([[1.0, 0.0], [0.0, 0.0], [-1.0, 0.0]]))
    >>> graph = dg.trace(model, torch.ones(2, 2))
    >>> tokens = torch.tensor([[1.0, 0.0], [3.0, 0.0], [-1.0, 0.0]])              # to the first expert, the first and the last
    >>> dg.score(graph, model, REAP([tokens], normaliser="none"))                 # (1 + 3) / 2; no token; 3
    {'gate.weight:0': (2.0, 0.0, 3.0)}
    >>> scores = dg.score(graph, model, Frequency([tokens], normaliser="none"))   # 2, 0 and 1 of 3 tokens
    >>> [round(share, 3) for share in scores["gate.weight:0"]]
    [0.667, 0.0, 0.333]
    """

    def value(self, routing: _Routing) -> torch.Tensor:
        """The mean over the tokens of each expert."""
        return routing.sums / routing.tokens.clamp(min=1)


@frozen
class Frequency(_OnRouting):
    """How often an expert is chosen: the share of all choices that fall on it.

    Groups and modules as for `REAP`. Muzio et al., "SEER-MoE: Sparse Expert Efficiency through Regularization for
    Mixture-of-Experts" (2024, arXiv 2404.05089), count so.

    Attributes:
        batches: an iterable of batches.
        forward: as for `Activation`.

    >>> import depgraph as dg
    >>> Frequency([torch.zeros(2, 4)], normaliser="none").normaliser
    'none'
    """

    def value(self, routing: _Routing) -> torch.Tensor:
        """The share of each expert."""
        return routing.tokens / routing.tokens.sum().clamp(min=1)
