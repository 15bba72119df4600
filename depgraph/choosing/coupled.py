"""Units of removal: coupled groups lose equally many indices, in the steps that rounding and limits allow."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate

from attrs import frozen

from depgraph.algebra.partitions import Partition
from depgraph.algebra.ragged_sets import Removal, is_table
from depgraph.algebra.spaces import Atom
from depgraph.choosing.scores import Ranking, Scores, mean_of, ranking_of
from depgraph.graph.graph import Graph
from depgraph.graph.groups import Group
from depgraph.graph.ragged import bases_of


@frozen
class Coupling:
    """Coupled groups, which a balance ties, or one group alone: they lose equally many indices, each its own lowest ones.

    Attributes:
        groups: in the graph's order.
        rankings: for each group in which order its indices go.
        steps: how many indices each group has lost after the first unit, the second one, ...; rising.
        importances: of each unit, the mean importance of the indices that go with it; never falling.
    """

    groups: tuple[Group, ...]
    rankings: tuple[Ranking, ...]
    steps: tuple[int, ...]
    importances: tuple[float, ...]

    @property
    def size(self) -> int:
        """Number of indices of all groups together."""
        return sum(group.size for group in self.groups)

    def removed(self, units: int) -> dict[Atom, Removal]:
        """What goes with the first `units` units."""
        if not units:
            return {}
        count = self.steps[units - 1]
        return {group.atom: ranking.first(count) for group, ranking in zip(self.groups, self.rankings, strict=True)}


@frozen
class Limits:
    """How far each group may be cut, by group name.

    Attributes:
        max_ratios: the largest fraction that may be removed.
        min_widths: the smallest number of indices that must stay.
        multiples: a divisor of the number that stays, in groups from which something is removed.
    """

    max_ratios: Mapping[str, float]
    min_widths: Mapping[str, int]
    multiples: Mapping[str, int]


def couplings_of(
    graph: Graph,
    groups: Iterable[Group],
    scores: Scores,
    limits: Limits,
    uniform: Iterable[Sequence[Group]] = (),
) -> tuple[Coupling, ...]:
    """The couplings of some groups, in the graph's order; without those of which a member is not among the given groups.

    The groups of each set in `uniform` are coupled, too.

    Raises:
        PlanError: a group has no scores, too few or too many, or NaN among them; or it has a table of them, but must lose the
            same indices everywhere.
    """
    available = {group.name: group for group in groups}
    tables = any(name in scores and is_table(scores[name]) for name in available)
    bases = bases_of(graph) if tables else {}
    rankings = {name: ranking_of(graph, group, scores, bases) for name, group in available.items()}
    couplings = []
    for members in coupled_groups(graph, uniform):
        if all(group.name in available for group in members):
            couplings.append(_coupling(members, tuple(rankings[group.name] for group in members), limits))
    return tuple(couplings)


def coupled_groups(graph: Graph, uniform: Iterable[Sequence[Group]] = ()) -> list[tuple[Group, ...]]:
    """The classes of groups that balances, or the given sets, connect, in the graph's order; others are alone."""
    partition: Partition[Atom] = Partition()
    for atoms in (*(balance.atoms for balance in graph.balances), *([group.atom for group in groups] for groups in uniform)):
        for atom in atoms[1:]:
            partition.join(atoms[0], atom)
    classes: dict[Atom, list[Group]] = {}
    for group in graph.groups:
        classes.setdefault(partition.representative(group.atom), []).append(group)
    return [tuple(groups) for groups in classes.values()]


def _coupling(groups: tuple[Group, ...], rankings: tuple[Ranking, ...], limits: Limits) -> Coupling:
    steps = _steps(groups, rankings, limits)
    importances: Iterable[float]
    if steps == tuple(range(1, len(steps) + 1)) and len(rankings) == 1:
        importances = rankings[0].importances[: len(steps)]
    else:
        importances = [
            mean_of([value for ranking in rankings for value in ranking.importances[start:stop]])
            for start, stop in zip((0, *steps), steps, strict=False)
        ]
        importances = accumulate(importances, max)  # a mean may be rounded below the one before it
    return Coupling(groups, rankings, steps, tuple(importances))


def _steps(groups: Sequence[Group], rankings: Sequence[Ranking], limits: Limits) -> tuple[int, ...]:
    max_removable = min(_max_removable(group, ranking, limits) for group, ranking in zip(groups, rankings, strict=True))
    multiple = math.lcm(*(math.lcm(group.multiple, limits.multiples.get(group.name, 1)) for group in groups))
    remainders = {group.size % multiple for group in groups}
    first = min(remainders) or multiple
    return tuple(range(first, max_removable + 1, multiple)) if len(remainders) == 1 else ()


def _max_removable(group: Group, ranking: Ranking, limits: Limits) -> int:
    """How many indices of a group may be removed: its lower bound stays, and so does every index of infinite importance."""
    min_width = max(group.lower_bound, limits.min_widths.get(group.name, 1))
    max_removed = math.floor(group.size * limits.max_ratios.get(group.name, 1.0) + 1e-9)
    return max(0, min(group.size - min_width, max_removed, ranking.finite))
