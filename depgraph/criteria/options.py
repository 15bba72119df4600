"""What the criteria have in common: who takes part in the importance of a group, and how its parts become one number."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
from attrs import field, frozen

from depgraph.criteria.gathering import Lanes, Member, Members, gathered
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


def op_types(value: Iterable[OpType] | OpType | None) -> frozenset[OpType] | None:
    """The chosen types as a set; None for all. Refuses anything else."""
    if value is None:
        return None
    try:
        chosen = frozenset([value] if isinstance(value, OpType) else value)
    except TypeError:
        raise PlanError(f"expected types= to be a set of dg.OpType, met {value!r}.") from None
    wrong = [item for item in chosen if not isinstance(item, OpType)]
    if wrong or not chosen:
        raise PlanError(f"expected types= to be a set of dg.OpType, such as {{dg.OpType.CONV}}, met {value!r}.")
    return chosen


def is_flag(instance: object, attribute: Any, value: object) -> None:
    """Refuse anything but a truth value."""
    if not isinstance(value, bool):
        raise PlanError(f"expected {attribute.name}= to be True or False, met {value!r}.")


def is_positive(instance: object, attribute: Any, value: Any) -> None:
    """Refuse anything but a positive number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise PlanError(f"expected {attribute.name}= to be a positive number, met {value!r}.")


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
        ragged: groups that may be cut row by row (`dg.ragged.ragged_groups`) get a table, with one row of numbers for each
            index of their base, such as for each head; `plan` then cuts each row's own lowest.
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
        found: Members = {}
        for group in graph.groups:
            held = [member for member in group.members if member[0] in parameters]
            if self.types is not None:
                held = [member for member in held if any(use.type in self.types for use, _ in uses.get(member[0], ()))]
            chosen = tuple(member for member in held if member[0] not in offsets) or tuple(held)
            if chosen:
                found[group.name] = chosen
        if graph.groups and not found:
            wanted = ", ".join(sorted(kind.name for kind in self.types or ()))
            raise PlanError(f"no group has a parameter in a layer of the types {wanted}; choose others with types=.")
        return found

    def assembled(self, graph: Graph, members: Members, vector: Callable[[Member, Lanes], torch.Tensor | None]) -> Importances:
        """Reduce and normalise the vectors, or tables, of the members of each group; a member without one is left out."""
        bases = bases_of(graph) if self.ragged else {}
        scores: Importances = {}
        apart: dict[str, tuple[Numbers, ...]] = {}
        seen: Members = {}
        for group in graph.groups:
            lanes = Lanes(group.atom, bases.get(group.atom))
            found = [(member, part) for member in members.get(group.name, ()) if (part := vector(member, lanes)) is not None]
            if not found:
                continue
            parts = [part.to(found[0][1].device) for _, part in found]
            if self.reduction == "none":
                seen[group.name] = tuple(member for member, _ in found)
                apart[group.name] = tuple(normalised(group.name, part, self.normaliser) for part in parts)
            else:
                scores[group.name] = normalised(group.name, REDUCTIONS[self.reduction](parts), self.normaliser)
        if self.reduction == "none":
            return cast(Importances, MemberScores(seen, apart))  # no mapping, so that a plan refuses it
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
        wanted: dict[str, dict[int, None]] = {}
        for name, dim in (member for held in members.values() for member in held):
            wanted.setdefault(name, {})[dim] = None
        found = {name: sums(name, tuple(dims)) for name, dims in wanted.items()}

        def vector(member: Member, lanes: Lanes) -> torch.Tensor | None:
            name, dim = member
            along = found[name].get(dim)
            return None if along is None else after(gathered(along, graph.by_name[name].axes[dim], lanes))

        return self.assembled(graph, members, vector)
