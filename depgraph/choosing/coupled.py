"""What goes in one step: coupled groups, which lose equally many indices, and the widths that rounding and floors allow."""

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
        most: the largest fraction that may go.
        least: the smallest number that must stay.
        multiples: what must divide the number that stays, wherever something goes.
    """

    most: Mapping[str, float]
    least: Mapping[str, int]
    multiples: Mapping[str, int]


def couplings_of(graph: Graph, groups: Iterable[Group], scores: Scores, limits: Limits) -> tuple[Coupling, ...]:
    """The couplings of some groups, in the graph's order. One of which a member is missing is left out whole.

    Raises:
        PlanError: a group has no scores, too few or too many, or NaN among them; or it has a table of them, but must lose the
            same indices everywhere.
    """
    free = {group.name: group for group in groups}
    tables = any(name in scores and is_table(scores[name]) for name in free)
    bases = bases_of(graph) if tables else {}
    rankings = {name: ranking_of(graph, group, scores, bases) for name, group in free.items()}
    couplings = []
    for members in tied(graph):
        if all(group.name in free for group in members):
            couplings.append(_coupling(members, tuple(rankings[group.name] for group in members), limits))
    return tuple(couplings)


def tied(graph: Graph) -> list[tuple[Group, ...]]:
    """The groups by connected balances, in the graph's order."""
    ties: Partition[Atom] = Partition()
    for balance in graph.balances:
        for atom in balance.atoms[1:]:
            ties.join(balance.atoms[0], atom)
    classes: dict[Atom, list[Group]] = {}
    for group in graph.groups:
        classes.setdefault(ties.representative(group.atom), []).append(group)
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
    most = min(_most(group, ranking, limits) for group, ranking in zip(groups, rankings, strict=True))
    multiple = math.lcm(*(limits.multiples.get(group.name, 1) for group in groups))
    remainders = {group.size % multiple for group in groups}
    first = min(remainders) or multiple
    return tuple(range(first, most + 1, multiple)) if len(remainders) == 1 else ()


def _most(group: Group, ranking: Ranking, limits: Limits) -> int:
    """How many indices of a group may go: none below its lower bound, and none whose importance is infinite."""
    least = max(group.lower_bound, limits.least.get(group.name, 1))
    allowed = math.floor(group.size * limits.most.get(group.name, 1.0) + 1e-9)
    return max(0, min(group.size - least, allowed, ranking.finite))
