"""What the criteria have in common: who takes part in the importance of a group, and how its parts become one number."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from attrs import field, frozen

from depgraph.criteria.checks import is_flag, op_types
from depgraph.criteria.gathering import GroupIndices, Member, Members, gathered
from depgraph.criteria.reductions import (
    REDUCTIONS,
    Importances,
    MemberScores,
    Normaliser,
    Numbers,
    known_normaliser,
    known_reduction,
    normalised,
)
from depgraph.errors import PlanError
from depgraph.graph.graph import Graph
from depgraph.graph.ragged import bases_of
from depgraph.graph.records import OpType


@frozen(kw_only=True)
class Options:
    """What the criteria have in common: who takes part, and how the members of a group become one number per index.

    A member of a group is an axis of a parameter. Its importance for index i sums over all flat places that i has in the
    axis: the 49 columns of a channel behind a flatten, its place in each block of a grouped convolution.

    Attributes:
        reduction: over the members: ``sum``, ``mean``, ``max``, ``prod``; ``first`` and ``gate``, the first and the last
            member in the order of ``group.members`` alone; ``none``, which gives `MemberScores`.
        normaliser: ``none``; ``sum``, ``mean`` or ``max``, division by that of the group; ``standardisation``, to [0, 1];
            ``gaussian``, to mean 0 and deviation 1; ``lamp``, s_i / sum of the s_j >= s_i; or a function of one vector.
            Where a divisor would be 0, nothing is divided.
        bias: whether biases take part. Where a group has nothing but biases, they do.
        types: layers of these types take part; None for all. A group without any is left out of the scores.
        ragged: groups that may be ragged (`dg.ragged.ragged_groups`) get a table, with one row of numbers for each
            index of their base, such as for each head; `plan` then cuts each row's own lowest.

    Raises:
        PlanError: an option that is none of these.
    """

    reduction: str = field(default="mean", validator=known_reduction)
    normaliser: Normaliser = field(default="mean", validator=known_normaliser)
    bias: bool = field(default=False, validator=is_flag)
    types: frozenset[OpType] | None = field(default=None, converter=op_types)
    ragged: bool = field(default=False, validator=is_flag)

    def members(self, graph: Graph) -> Members:
        """The parameter axes of each group that take part, without the groups that have none.

        Raises:
            PlanError: no group has any.
        """
        parameters = {tensor.name for tensor in graph.tensors if tensor.kind == "parameter"}
        uses = graph.uses
        offsets = frozenset() if self.bias else graph.offsets
        members: Members = {}
        for group in graph.groups:
            axes = [axis for axis in group.members if axis[0] in parameters]
            if self.types is not None:
                axes = [axis for axis in axes if any(use.type in self.types for use, _ in uses.get(axis[0], ()))]
            participating = tuple(axis for axis in axes if axis[0] not in offsets) or tuple(axes)
            if participating:
                members[group.name] = participating
        if graph.groups and not members:
            names = ", ".join(sorted(kind.name for kind in self.types or ()))
            raise PlanError(f"no group has a parameter in a layer of the types {names}; choose others with types=.")
        return members

    def assembled(
        self, graph: Graph, members: Members, vector: Callable[[Member, GroupIndices], torch.Tensor | None]
    ) -> Importances:
        """Reduce and normalise the vectors, or tables, of the members of each group; a member without one is left out."""
        bases = bases_of(graph) if self.ragged else {}
        scores: Importances = {}
        by_member: dict[str, tuple[Numbers, ...]] = {}
        measured: Members = {}
        for group in graph.groups:
            indices = GroupIndices(group.atom, bases.get(group.atom))
            pairs = [(member, part) for member in members.get(group.name, ()) if (part := vector(member, indices)) is not None]
            if not pairs:
                continue
            parts = [part.to(pairs[0][1].device) for _, part in pairs]
            if self.reduction == "none":
                measured[group.name] = tuple(member for member, _ in pairs)
                by_member[group.name] = tuple(normalised(group.name, part, self.normaliser) for part in parts)
            else:
                scores[group.name] = normalised(group.name, REDUCTIONS[self.reduction](parts), self.normaliser)
        if self.reduction == "none":
            return cast(Importances, MemberScores(measured, by_member))  # no mapping, so that a plan refuses it
        return scores

    def summed(
        self,
        graph: Graph,
        members: Members,
        sums: Callable[[str, tuple[int, ...]], dict[int, torch.Tensor]],
        after: Callable[[torch.Tensor], torch.Tensor] = lambda vector: vector,
    ) -> Importances:
        """The importances whose members are sums of one number per element.

        Args:
            graph: the graph.
            members: what takes part.
            sums: from a parameter's name and some of its dimensions to a vector along each of these.
            after: applied to what `gathered` makes of each vector.
        """
        dims_of: dict[str, dict[int, None]] = {}
        for name, dim in (member for axes in members.values() for member in axes):
            dims_of.setdefault(name, {})[dim] = None
        sums_of = {name: sums(name, tuple(dims)) for name, dims in dims_of.items()}

        def vector(member: Member, indices: GroupIndices) -> torch.Tensor | None:
            name, dim = member
            along_axis = sums_of[name].get(dim)
            return None if along_axis is None else after(gathered(along_axis, graph.by_name[name].axes[dim], indices))

        return self.assembled(graph, members, vector)
