"""Criteria that ask how well what is left can do the work of what goes, from second moments of what the layers read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from attrs import field, frozen
from torch import nn

from depgraph.algebra.numbers import is_number, is_whole
from depgraph.criteria.checks import is_flag, is_function
from depgraph.criteria.collecting import DataDriven
from depgraph.criteria.gathering import GroupIndices, Member, Members, Tensors
from depgraph.criteria.greedy import greedy_order, inverse, missed
from depgraph.criteria.readers import Layers, Reader
from depgraph.criteria.reductions import Importances, known_reduction
from depgraph.errors import PlanError
from depgraph.graph.graph import Graph
from depgraph.moments.collecting import moments
from depgraph.moments.sums import Moments
from depgraph.running import Forward, run


def _is_moments(instance: object, attribute: Any, value: Any) -> None:
    if not isinstance(value, Moments) and (isinstance(value, (torch.Tensor, str, bytes, Mapping)) or not hasattr(value, "__iter__")):
        raise PlanError(
            f"expected {attribute.name}= to be the moments of a model or an iterable of batches, met {type(value).__name__}; "
            "put a single batch into a list."
        )


def _is_ridge(instance: object, attribute: Any, value: Any) -> None:
    if not is_number(value) or not 0 <= value:
        raise PlanError(f"expected {attribute.name}= to be a number from 0 on, met {value!r}.")


def _is_count(instance: object, attribute: Any, value: Any) -> None:
    if not is_whole(value) or value < 1:
        raise PlanError(f"expected {attribute.name}= to be a whole number from 1 on, met {value!r}.")


@frozen
class _OnMoments(DataDriven):
    moments: Moments | Iterable[Any] = field(validator=_is_moments, repr=False, eq=False)
    forward: Forward = field(default=run, validator=is_function, repr=False, kw_only=True)
    reduction: str = field(default="sum", validator=known_reduction, kw_only=True)
    relative: bool = field(default=True, validator=is_flag, kw_only=True)

    def __attrs_post_init__(self) -> None:
        if self.training:
            raise PlanError(f"{type(self).__name__} reads a model in evaluation mode, as a repair does; leave out training=True.")

    def measure(self, graph: Graph, model: nn.Module, tensors: Tensors) -> Importances:
        """Group name to one number per index."""
        known = self.members(graph)
        read = self.moments
        if not isinstance(read, Moments):
            names = {name for axes in known.values() for name, _ in axes}
            read = moments(model, self.read(read), wanted=lambda layer: layer.weight.name in names, holdout=0, forward=self.forward)
        layers = Layers(graph, tensors, read)
        members = layers.reading(known)
        if graph.groups and not members:
            raise PlanError("no group is read by a layer whose moments are known; pass the moments of this model, or its own inputs.")
        return self.scored(graph, members, layers)

    def scored(self, graph: Graph, members: Members, layers: Layers) -> Importances:
        """The importances, given the layers that read each group."""

        def vector(member: Member, indices: GroupIndices) -> torch.Tensor:
            errors = [self.errors(reader) * self.weight_of(reader) for reader in layers.readers(member, indices)]
            total = torch.stack(errors).sum(0)
            return total if indices.base is None else total.view(indices.base.size, -1)

        return self.assembled(graph, members, vector)

    def errors(self, reader: Reader) -> torch.Tensor:
        """What a layer misses without each index."""
        raise NotImplementedError

    def weight_of(self, reader: Reader) -> float:
        """By what a reader's errors count."""
        energy = float(reader.energy) if self.relative else 1.0
        return 1 / energy if energy > 0 else 1.0


@frozen
class Fluctuation(_OnMoments):
    def errors(self, reader: Reader) -> torch.Tensor:
        """What a layer misses without each index."""
        errors = reader.weight.new_zeros(len(reader.gone))
        squares = reader.weight.square() * reader.variances
        for indices, columns in reader.owned:
            errors[indices] = (squares[:, columns].sum(2).T * ~reader.gone[indices]).sum(1)
        return errors


@frozen
class Reconstruction(_OnMoments):
    ridge: float = field(default=1e-3, validator=_is_ridge, kw_only=True)
    greedy: bool = field(default=False, validator=is_flag, kw_only=True)
    at_once: int = field(default=1, validator=_is_count, kw_only=True)

    def errors(self, reader: Reader) -> torch.Tensor:
        """What a layer misses without each index."""
        return missed(reader.weight, inverse(reader.products, self.ridge), reader.owned, reader.gone)

    def scored(self, graph: Graph, members: Members, layers: Layers) -> Importances:
        """The importances, given the layers that read each group."""
        if not self.greedy:
            return super().scored(graph, members, layers)
        orders: dict[str, torch.Tensor] = {}

        def vector(member: Member, indices: GroupIndices) -> torch.Tensor:
            group = graph.group_of[indices.atom].name
            readers = [reader for axis in members[group] for reader in layers.readers(axis, indices)]
            return greedy_order(readers, self.ridge, [self.weight_of(reader) for reader in readers], self.at_once)

        return self.assembled(graph, {group: axes[:1] for group, axes in members.items()}, vector)
