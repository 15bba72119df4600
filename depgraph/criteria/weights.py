"""Criteria that need nothing but the weights."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch
from attrs import field, frozen, validators
from torch import nn

from depgraph.criteria.checks import is_flag, is_positive, op_types
from depgraph.criteria.gathering import GroupIndices, Member, Tensors, slices
from depgraph.criteria.options import Options
from depgraph.criteria.reductions import Importances, Normaliser, known_normaliser
from depgraph.criteria.sums import marginals, readable, real
from depgraph.errors import PlanError
from depgraph.graph.graph import Graph
from depgraph.graph.ragged import bases_of
from depgraph.graph.records import OpType


@frozen
class Magnitude(Options):
    """Group magnitude: a member's importance of index i is the sum of abs(w) ** p over the weights that i owns.

    With p=2 and the mean over members this is the group norm of Fang et al., "DepGraph: Towards Any Structural Pruning"
    (CVPR 2023, section 3.4), squared; with p=1 and ``reduction="first"`` the filter norm of Li et al., "Pruning Filters for
    Efficient ConvNets" (ICLR 2017).

    Attributes:
        p: the exponent, a positive number.

    >>> import depgraph as dg
    >>> model = torch.nn.Sequential(torch.nn.Linear(1, 2), torch.nn.Linear(2, 1))
    >>> _ = model[0].weight.data.copy_(torch.tensor([[1.0], [3.0]])), model[1].weight.data.copy_(torch.tensor([[2.0, 1.0]]))
    >>> graph = dg.trace(model, torch.randn(1, 1))
    >>> dg.score(graph, model, dg.Magnitude(p=2, normaliser="none"))        # (1 + 4) / 2, (9 + 1) / 2
    {'0.weight:0': (2.5, 5.0)}
    """

    p: float = field(default=2, validator=is_positive)

    def measure(self, graph: Graph, model: nn.Module, tensors: Tensors) -> Importances:
        """Group name to one number per index."""

        def sums(name: str, dims: tuple[int, ...]) -> dict[int, torch.Tensor]:
            return marginals(name, tensors[name], dims, lambda slab, rows: _powers(slab, self.p))

        return self.summed(graph, self.members(graph), sums)


def _powers(values: torch.Tensor, p: float) -> torch.Tensor:
    values = real(values)
    return values.square() if p == 2 else values.abs() if p == 1 else values.abs().pow_(p)


@frozen
class BNScale(Options):
    """Batch normalisation's scale: abs(gamma_i), averaged over the group's normalisations.

    Liu et al., "Learning Efficient Convolutional Networks through Network Slimming" (ICCV 2017). Groups without a
    batch normalisation have no score; join those of another criterion, ``{**scores, **bn_scores}``, or ignore their layers.

    >>> import depgraph as dg
    >>> model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 1), torch.nn.BatchNorm2d(2), torch.nn.Conv2d(2, 1, 1))
    >>> _ = model[1].weight.data.copy_(torch.tensor([0.5, -2.0]))
    >>> dg.score(dg.trace(model, torch.randn(2, 1, 3, 3)), model, dg.criteria.BNScale(normaliser="none"))
    {'0.weight:0': (0.5, 2.0)}
    """

    types: frozenset[OpType] | None = field(default=frozenset({OpType.BN}), init=False)

    def measure(self, graph: Graph, model: nn.Module, tensors: Tensors) -> Importances:
        """Group name to one number per index."""

        def sums(name: str, dims: tuple[int, ...]) -> dict[int, torch.Tensor]:
            return marginals(name, tensors[name], dims, lambda slab, rows: _powers(slab, 1))

        return self.summed(graph, self.members(graph), sums)


@frozen
class LAMP(Magnitude):
    """Layer-adaptive magnitude: the group magnitude s_i over the sum of all s_j that are not smaller.

    Lee et al., "Layer-Adaptive Sparsity for the Magnitude-Based Pruning" (ICLR 2021), for whole indices. In one group it
    ranks as `Magnitude` does; between groups it says how much is lost relative to what is then left.

    >>> import depgraph as dg
    >>> model = torch.nn.Sequential(torch.nn.Linear(1, 2), torch.nn.Linear(2, 1))
    >>> _ = model[0].weight.data.copy_(torch.tensor([[1.0], [3.0]])), model[1].weight.data.fill_(0.0)
    >>> dg.score(dg.trace(model, torch.randn(1, 1)), model, dg.criteria.LAMP())      # 1 / (1 + 9), 9 / 9
    {'0.weight:0': (0.10000000149011612, 1.0)}
    """

    normaliser: Normaliser = field(default="lamp", validator=known_normaliser, kw_only=True)


@frozen
class FPGM(Options):
    """Distance to the others: sum over j of ||w_i - w_j||, where w_i holds all weights that index i owns in the member.

    He et al., "Filter Pruning via Geometric Median for Deep Convolutional Neural Networks Acceleration" (CVPR 2019): what
    lies near the geometric median can be made up for by the others. Normalisation layers and biases do not take part.

    Attributes:
        p: the distances are between the vectors of abs(w) ** p if it is given. The paper has none, the weights themselves.

    >>> import depgraph as dg
    >>> model = torch.nn.Sequential(torch.nn.Linear(1, 3), torch.nn.Linear(3, 1))
    >>> _ = model[0].weight.data.copy_(torch.tensor([[1.0], [2.0], [6.0]])), model[1].weight.data.fill_(0.0)
    >>> dg.score(dg.trace(model, torch.randn(1, 1)), model, dg.criteria.FPGM(reduction="sum", normaliser="none"))
    {'0.weight:0': (6.0, 5.0, 9.0)}
    """

    p: float | None = field(default=None, validator=validators.optional(is_positive))
    types: frozenset[OpType] | None = field(
        default=frozenset({OpType.CONV, OpType.DEPTHWISE_CONV, OpType.LINEAR, OpType.MATMUL}),
        converter=op_types,
        kw_only=True,
    )

    def measure(self, graph: Graph, model: nn.Module, tensors: Tensors) -> Importances:
        """Group name to one number per index."""

        def vector(member: Member, indices: GroupIndices) -> torch.Tensor:
            name, dim = member
            rows = slices(readable(name, tensors[name]), dim, graph.by_name[name].axes[dim], indices)
            rows = torch.view_as_real(rows).flatten(-2) if rows.is_complex() else real(rows)
            rows = rows if self.p is None else _powers(rows, self.p)
            batches = rows if rows.ndim == 3 else rows[None]
            return torch.cdist(batches, batches).sum(1).view(rows.shape[:-1])

        return self.assembled(graph, self.members(graph), vector)


@frozen
class Elementwise(Options):
    """A function of your own: a member's importance of index i is the sum of function(w) over the weights that i owns.

    A function of (graph, model) that returns one number per index of each group is a criterion by itself.

    Attributes:
        function: from a tensor to one of the same shape. It is given a parameter's rows in parts, so it must not look beyond.

    >>> import depgraph as dg
    >>> model = torch.nn.Sequential(torch.nn.Linear(1, 2, bias=False), torch.nn.Linear(2, 1))
    >>> _ = model[0].weight.data.copy_(torch.tensor([[1.0], [-3.0]]))
    >>> near_zero = dg.criteria.Elementwise(lambda w: (w.abs() > 2).float(), reduction="first", normaliser="none")
    >>> dg.score(dg.trace(model, torch.randn(1, 1)), model, near_zero)
    {'0.weight:0': (0.0, 1.0)}
    """

    function: Callable[[torch.Tensor], torch.Tensor] = field()

    @function.validator
    def _callable(self, attribute: Any, value: object) -> None:
        if not callable(value):
            raise PlanError(f"expected function= to be a function of a tensor, met {value!r}.")

    def measure(self, graph: Graph, model: nn.Module, tensors: Tensors) -> Importances:
        """Group name to one number per index."""

        def sums(name: str, dims: tuple[int, ...]) -> dict[int, torch.Tensor]:
            def element(slab: torch.Tensor, rows: slice) -> torch.Tensor:
                values = self.function(slab)
                if not isinstance(values, torch.Tensor) or values.shape != slab.shape:
                    met = tuple(values.shape) if isinstance(values, torch.Tensor) else type(values).__name__
                    raise PlanError(f"the function gave {met} for {name!r}; expected a tensor of shape {tuple(slab.shape)}.")
                return real(values)

            return marginals(name, tensors[name], dims, element)

        return self.summed(graph, self.members(graph), sums)


@frozen
class Random:
    """Random importances: a baseline, and a criterion for models without data (the `meta` device).

    Attributes:
        seed: equal seeds give equal scores, whatever the global random state.
        ragged: tables for groups that may be ragged, as for `Magnitude`.

    >>> import depgraph as dg
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 2)).to("meta")
    >>> graph = dg.trace(model, torch.zeros(1, 4, device="meta"))
    >>> scores = dg.score(graph, model, dg.criteria.Random(seed=0))
    >>> scores == dg.score(graph, model, dg.criteria.Random(seed=0)), len(scores["0.weight:0"])
    (True, 3)
    >>> scores == dg.score(graph, model, dg.criteria.Random(seed=1))
    False
    """

    seed: int
    ragged: bool = field(default=False, validator=is_flag, kw_only=True)

    def measure(self, graph: Graph, model: nn.Module, tensors: Tensors) -> Importances:
        """Group name to one number in [0, 1) per index; the tensors are not read."""
        generator, bases = random.Random(self.seed), bases_of(graph) if self.ragged else {}

        def numbers(count: int) -> tuple[float, ...]:
            return tuple(generator.random() for _ in range(count))

        scores: Importances = {}
        for group in graph.groups:
            base = bases.get(group.atom)
            scores[group.name] = numbers(group.size) if base is None else tuple(numbers(group.size) for _ in range(base.size))
        return scores
