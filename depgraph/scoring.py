"""Importance of every index of every group, as plain numbers."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from typing import Protocol

import torch
from attrs import field, frozen, validators
from torch import nn

from depgraph.errors import MismatchError, PlanError
from depgraph.graph import Graph
from depgraph.records import Group
from depgraph.spaces import Leaf, Space, leaves
from depgraph.wrappers import unwrap

Importances = dict[str, tuple[float, ...]]


class Criterion(Protocol):
    """Anything that gives each index of each group an importance."""

    def __call__(self, graph: Graph, tensors: dict[str, torch.Tensor]) -> Importances:
        """Group name to one number per index."""
        ...


@frozen
class Magnitude:
    """Group magnitude: the mean over a group's parameter axes of sum(abs(w) ** p), for each index.

    With p=2 this is the group norm of DepGraph (Fang et al., CVPR 2023, section 3.4) up to monotone scaling.

    Attributes:
        p: 1 or 2.
    """

    p: int = field(default=2, validator=validators.in_((1, 2)))

    def __call__(self, graph: Graph, tensors: dict[str, torch.Tensor]) -> Importances:
        """Group name to one number per index, on the tensors' device."""
        kinds = {tensor.name: tensor for tensor in graph.tensors}
        groups = graph.groups
        members = {group.name: [m for m in group.members if kinds[m[0]].kind == "parameter"] for group in groups}
        wanted: dict[str, dict[int, None]] = {}
        for name, dim in (member for held in members.values() for member in held):
            wanted.setdefault(name, {})[dim] = None
        marginals = {name: _marginals(name, tensors[name], tuple(dims), self.p) for name, dims in wanted.items()}
        result: Importances = {}
        for group in groups:
            total: torch.Tensor | None = None
            for name, dim in members[group.name]:
                part = _gathered(marginals[name][dim], kinds[name].axes[dim], group)
                total = part if total is None else total + part.to(total.device)
            assert total is not None, "every group has a parameter"
            result[group.name] = tuple((total / len(members[group.name])).tolist())
        return result


@frozen
class Random:
    """Random importances: a baseline, and a criterion for models without data (the `meta` device).

    Attributes:
        seed: equal seeds give equal scores, whatever the global random state.
    """

    seed: int

    def __call__(self, graph: Graph, tensors: dict[str, torch.Tensor]) -> Importances:
        """Group name to one number in [0, 1) per index; the tensors are not read."""
        generator = random.Random(self.seed)
        return {group.name: tuple(generator.random() for _ in range(group.size)) for group in graph.groups}


def score(graph: Graph, model: nn.Module, criterion: Criterion) -> Importances:
    """The importance of every index of every group.

    Args:
        graph: the trace of this model.
        model: its weights are read, never written.
        criterion: `Magnitude`, `Random`, or any callable of the same form.

    Returns:
        Group name to one number per index; higher is more important.

    Raises:
        MismatchError: the model's parameters do not have the shapes that the graph says.
        PlanError: a criterion that reads weights meets a model on the `meta` device.
    """
    if not callable(criterion) or isinstance(criterion, type):
        raise PlanError(f"expected a criterion such as dg.Magnitude(p=2), met {criterion!r}.")
    tensors = dict(_named_tensors(unwrap(model)))
    problems = []
    for tensor in graph.tensors:
        if tensor.kind != "value":
            met = tensors.get(tensor.name)
            if met is None:
                problems.append(f"the model has no {tensor.kind} {tensor.name!r}")
            elif tuple(met.shape) != tensor.shape:
                problems.append(f"{tensor.name!r}: expected shape {tensor.shape}, met {tuple(met.shape)}")
    if problems:
        raise MismatchError("the graph was traced from another model:", problems, "Trace this model and score that graph.")
    with torch.no_grad():
        return criterion(graph, tensors)


def _named_tensors(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)


def _marginals(name: str, tensor: torch.Tensor, dims: tuple[int, ...], p: int) -> dict[int, torch.Tensor]:
    """For each of some dimensions, sum(abs(w) ** p) over the others. The weights are read once, a slab at a time."""
    if tensor.is_meta:
        raise PlanError(f"{name!r} is on the meta device and has no weights to measure; use dg.Random(seed).")
    result: dict[int, torch.Tensor] = {}
    values = tensor.detach()
    if not values.numel():
        return {dim: torch.zeros(values.shape[dim], device=values.device) for dim in dims}
    start, rows = 0, max(1, _SLAB * values.shape[0] // max(1, values.numel()))
    for slab in torch.split(values, rows):
        powers = _powers(slab, p)
        for dim in dims:
            before = math.prod(powers.shape[:dim])
            flat = powers.reshape(before, -1).sum(0) if before > 1 else powers
            part = flat.reshape(powers.shape[dim], -1).sum(1)
            if dim == 0:
                result.setdefault(0, part.new_empty(values.shape[0]))[start : start + len(part)] = part
            else:
                result[dim] = result[dim] + part if dim in result else part
        start += rows
    return result


def _powers(values: torch.Tensor, p: int) -> torch.Tensor:
    if values.is_complex():
        values = values.abs()
    elif not values.is_floating_point() or values.dtype in _NARROW:
        values = values.float()
    return values.abs() if p == 1 else values.square()


_NARROW = frozenset({torch.float16, torch.bfloat16})
_SLAB = 1 << 20
"""How many elements are raised to a power at a time: 4 MiB of float32."""


def _gathered(marginal: torch.Tensor, space: Space, group: Group) -> torch.Tensor:
    """Sum a vector along an axis onto the atom's indices."""
    if space == group.atom:
        return marginal
    parts = [_strided(marginal, leaf) for leaf in leaves(space) if leaf.atom == group.atom]
    return torch.stack(parts).sum(0)


def _strided(marginal: torch.Tensor, leaf: Leaf) -> torch.Tensor:
    size = (*(count for count, _ in leaf.loops), leaf.atom.size, leaf.stride)
    stride = (*(step for _, step in leaf.loops), leaf.stride, 1)
    view = marginal.contiguous().as_strided(size, stride, leaf.offset)
    total = view.sum([d for d in range(len(size)) if d != len(leaf.loops)])
    return total.flip(0) if leaf.backwards else total
