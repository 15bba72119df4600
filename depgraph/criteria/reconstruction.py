"""Criteria that ask how well what is left can do the work of what goes, from second moments of what the layers read."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from attrs import field, frozen
from torch import nn

from depgraph.algebra.numbers import is_number, is_whole
from depgraph.criteria.checks import is_flag, is_function
from depgraph.criteria.collecting import DataDriven, refuse_meta
from depgraph.criteria.gathering import GroupIndices, Member, Members, Tensors
from depgraph.criteria.greedy import greedy_order, inverse, missed
from depgraph.criteria.readers import Layers, Reader
from depgraph.criteria.reductions import Importances, known_reduction
from depgraph.errors import PlanError
from depgraph.graph.graph import Graph
from depgraph.moments.checking import check_moments
from depgraph.moments.collecting import collect
from depgraph.moments.sums import Moments
from depgraph.running import Forward, are_batches, run
from depgraph.weights import named_tensors, weights_digest


def _is_moments(instance: object, attribute: Any, value: Any) -> None:
    if not isinstance(value, Moments) and not are_batches(value):
        raise PlanError(
            f"expected {attribute.name}= to be the moments of a model or an iterable of batches, met {type(value).__name__}; "
            "put a single batch into a list."
        )


def _is_ridge(instance: object, attribute: Any, value: Any) -> None:
    if not is_number(value) or not value >= 0:
        raise PlanError(f"expected {attribute.name}= to be a number from 0 on, met {value!r}.")


def _is_count(instance: object, attribute: Any, value: Any) -> None:
    if not is_whole(value) or value < 1:
        raise PlanError(f"expected {attribute.name}= to be a whole number from 1 on, met {value!r}.")


@frozen
class _OnMoments(DataDriven):
    """What both have in common: the layers that read a group, and the moments of what they read."""

    moments: Moments | Iterable[Any] = field(validator=_is_moments, repr=False, eq=False)
    forward: Forward = field(default=run, validator=is_function, repr=False, kw_only=True)
    reduction: str = field(default="sum", validator=known_reduction, kw_only=True)
    relative: bool = field(default=False, validator=is_flag, kw_only=True)

    def __attrs_post_init__(self) -> None:
        name = type(self).__name__
        if self.training:
            raise PlanError(f"{name} reads a model in evaluation mode, as a repair does; leave out training=True.")
        if not self.combine:
            raise PlanError(f"{name} adds up the moments of all ranks, as a repair does; leave out combine=False.")

    def measure(self, graph: Graph, model: nn.Module, tensors: Tensors) -> Importances:
        """Group name to one number per index."""
        known = self.members(graph)
        read = self.moments
        if not isinstance(read, Moments):
            refuse_meta({name: tensors[name] for axes in known.values() for name, _ in axes})
            names = {name for axes in known.values() for name, _ in axes}
            read = collect(model, read, wanted=names.__contains__, holdout=0, forward=self.forward, progress=self.progress)
        check_moments(read, weights_digest(model), named_tensors(model))
        layers = Layers(graph, tensors, read)
        members = layers.reading(known)
        if graph.groups and not members:
            raise PlanError(
                "no group is read by a layer whose moments are known; pass the moments of this model, or its own inputs."
            )
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
        energy = reader.energy if self.relative else 1.0
        return 1 / energy if energy > 0 else 1.0


@frozen
class Fluctuation(_OnMoments):
    """How much an input fluctuates about its mean: a layer's importance of index i is the sum of var(x_j) * ||W_:j||².

    The sum goes over the columns j that i owns in a layer that reads it; the members are these layers. A mean can be made up
    for by the layer's bias, what is left is the fluctuation: An et al., "Fluctuation-based Adaptive Structured Pruning for
    Large Language Models" (AAAI 2024, arXiv 2312.11983), with the mean over all rows. It is what `Reconstruction`
    gives where inputs do not correlate.

    Outputs that go with the index do not count. A group that no layer reads, such as the head dims of queries and keys, is
    left out of the scores, so that a plan does not cut it; put its scores by another criterion beside these:
    ``{**dg.score(graph, model, dg.criteria.Wanda(batches)), **dg.score(graph, model, dg.criteria.Fluctuation(batches))}``. So
    is a layer whose weight `dg.refit` leaves, such as that of an embedding that is the head's, too.

    Attributes:
        moments: the moments of the model's layers, all samples together; or an iterable of batches, which is read whole.
        forward: as for `Activation`, where batches are given.
        relative: count a layer's misses as a share of the variance of what it gives, so that layers of other scales compare.

    >>> import depgraph as dg
    >>> model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 1))
    >>> _ = model[0].weight.data.copy_(torch.tensor([[1.0, 0.0], [1.0, 1.0]]))
    >>> _ = model[1].weight.data.copy_(torch.tensor([[2.0, 1.0]]))
    >>> graph, rows = dg.trace(model, torch.zeros(1, 2)), torch.tensor([[6.0, 1.0], [6.0, -1.0], [4.0, 1.0], [4.0, -1.0]])
    >>> dg.score(graph, model, Fluctuation([rows], normaliser="none"))                 # variances 1 and 2, times 4 and 1
    {'0.weight:0': (4.0, 2.0)}
    """

    def errors(self, reader: Reader) -> torch.Tensor:
        """What a layer misses without each index."""
        errors = reader.weight.new_zeros(reader.indices)
        squares = reader.weight.square() * reader.variances
        for indices, columns in reader.owned:
            own = squares[:, columns].sum(2).T
            errors[indices] = (own if reader.gone is None else own * ~reader.gone[indices]).sum(1)
        return errors


@frozen
class Reconstruction(_OnMoments):
    """What a layer misses without an index when its other weights make up for it as well as they can.

    A layer's importance of index i, which owns the columns S, is tr(W_S ([C⁻¹]_SS)⁻¹ W_Sᵀ), with C the second moments of what
    it reads, about the means where its own bias takes these up. For one column this is ||W_:j||² / [C⁻¹]_jj, the optimal brain
    surgeon: Hassibi and Stork, "Second order derivatives for network pruning" (NeurIPS 1992), equation 5, summed over the
    outputs. For several, such as the dims of a head or the places of a kernel: Kurtic et al., "ZipLM" (NeurIPS 2023, arXiv
    2302.04089); Ling et al., "SlimGPT" (NeurIPS 2024, arXiv 2412.18110). It is the least mean squared error of any
    weights for what is left, so that of `dg.refit`, as long as nothing else goes. The members are the layers that read the
    index. What is left out is told at `Fluctuation`.

    What goes together misses more than the sum. With `greedy` the indices of a group are taken away one by one, each time the
    one that adds least to the error of what is gone already (over all layers that read the group), with weights and C⁻¹
    downdated. An index has what it added, or a little more than the one before it where that is larger; so a plan takes them
    in this order, and where groups compete they do so by what the next index would add.

    Attributes:
        moments: the moments of the model's layers, all samples together; or an iterable of batches, which is read whole.
        forward: as for `Activation`, where batches are given.
        relative: count a layer's misses as a share of the variance of what it gives, so that layers of other scales compare.
        ridge: the share of each input's variance that is added to the diagonal of C.
        greedy: give the order in which indices go one by one. Not with `ragged`, nor with another reduction than ``sum``.
        at_once: so many go between two looks at which is best; more is faster.

    >>> import depgraph as dg
    >>> model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 1, bias=False))
    >>> _ = model[0].weight.data.copy_(torch.tensor([[1.0, 0.0], [1.0, 1.0]]))
    >>> _ = model[1].weight.data.copy_(torch.tensor([[2.0, 1.0]]))
    >>> graph = dg.trace(model, torch.zeros(1, 2))
    >>> rows = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    >>> def rounded(**options):
    ...     scores = dg.score(graph, model, Reconstruction([rows], ridge=0, normaliser="none", **options))
    ...     return {name: [round(number, 6) for number in numbers] for name, numbers in scores.items()}
    >>> rounded()                                    # C = [[1, 1], [1, 2]], C⁻¹ = [[2, -1], [-1, 1]]; 4 / 2, 1 / 1
    {'0.weight:0': [2.0, 1.0]}
    >>> rounded(greedy=True)                         # when the second is gone, the first weighs 3, and 9 is lost with it
    {'0.weight:0': [9.0, 1.0]}
    """

    ridge: float = field(default=1e-3, validator=_is_ridge, kw_only=True)
    greedy: bool = field(default=False, validator=is_flag, kw_only=True)
    at_once: int = field(default=1, validator=_is_count, kw_only=True)

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        if self.greedy and self.ragged:
            raise PlanError("greedy=True orders whole indices; it gives no table: leave out ragged=True, or greedy=True.")
        if self.greedy and self.reduction != "sum":
            raise PlanError(
                f"greedy=True adds up the errors of all layers of a group; reduction={self.reduction!r} does not go with it."
            )

    def errors(self, reader: Reader) -> torch.Tensor:
        """What a layer misses without each index."""
        inverted = inverse(reader.products, self.ridge)
        return missed(reader.weight, inverted, reader.owned, reader.gone, reader.indices)

    def scored(self, graph: Graph, members: Members, layers: Layers) -> Importances:
        """The importances, given the layers that read each group."""
        if not self.greedy:
            return super().scored(graph, members, layers)

        def vector(member: Member, indices: GroupIndices) -> torch.Tensor:
            group = graph.group_of[indices.atom].name
            readers = [reader for axis in members[group] for reader in layers.readers(axis, indices)]
            return greedy_order(readers, self.ridge, [self.weight_of(reader) for reader in readers], self.at_once)

        return self.assembled(graph, {group: axes[:1] for group, axes in members.items()}, vector)
