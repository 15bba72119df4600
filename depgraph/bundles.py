"""What goes in one step: bundles of groups that lose equally many indices, and the widths that rounding and floors allow."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import TypeAlias

from attrs import frozen

from depgraph.errors import PlanError
from depgraph.graph import Graph
from depgraph.indices import IndexSet
from depgraph.records import Group
from depgraph.spaces import Atom

Scores: TypeAlias = Mapping[str, Sequence[float]]
"""Group name to one importance per index; the lowest go first."""


@frozen
class Bundle:
    """Groups that a balance ties, or one group alone: they lose equally many indices, each its own lowest ones.

    Attributes:
        groups: in the graph's order.
        orders: for each group its indices, the least important first; of equal ones the first.
        steps: how many indices each group has lost after the first unit, the second one, ...; rising.
        importances: of each unit, the mean importance of the indices that go with it; never falling.
    """

    groups: tuple[Group, ...]
    orders: tuple[tuple[int, ...], ...]
    steps: tuple[int, ...]
    importances: tuple[float, ...]

    @property
    def size(self) -> int:
        """Number of indices of all groups together."""
        return sum(group.size for group in self.groups)

    def removed(self, units: int) -> dict[Atom, IndexSet]:
        """What goes with the first `units` units."""
        if not units:
            return {}
        count = self.steps[units - 1]
        return {group.atom: IndexSet.of(order[:count]) for group, order in zip(self.groups, self.orders, strict=True)}


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


def bundles_of(graph: Graph, groups: Iterable[Group], scores: Scores, limits: Limits) -> tuple[Bundle, ...]:
    """The bundles of some groups, in the graph's order. A bundle of which a member is missing is left out whole.

    Raises:
        PlanError: a group has no scores, too few or too many, or NaN among them.
    """
    free = {group.name: group for group in groups}
    orders = {name: _order(group, scores) for name, group in free.items()}
    bundles = []
    for members in _tied(graph):
        if all(group.name in free for group in members):
            bundles.append(_bundle(members, [orders[group.name] for group in members], scores, limits))
    return tuple(bundles)


def _order(group: Group, scores: Scores) -> tuple[int, ...]:
    values = scores.get(group.name)
    if values is None:
        raise PlanError(f"there is no score for group {group.name!r}; use dg.score(graph, model, criterion) on this graph.")
    if len(values) != group.size:
        raise PlanError(f"group {group.name!r} has {group.size} indices, its scores are {len(values)}; score this graph anew.")
    if math.isnan(sum(values)) and any(map(math.isnan, values)):
        raise PlanError(f"the scores of group {group.name!r} hold NaN; check the model's weights.")
    return tuple(sorted(range(group.size), key=values.__getitem__))


def _tied(graph: Graph) -> list[tuple[Group, ...]]:
    """The groups by connected balances, in the graph's order."""
    parent = {group.atom: group.atom for group in graph.groups}

    def find(atom: Atom) -> Atom:
        while parent[atom] != atom:
            parent[atom] = atom = parent[parent[atom]]
        return atom

    for balance in graph.balances:
        first, *others = balance.atoms
        for atom in others:
            parent[find(atom)] = find(first)
    tied: dict[Atom, list[Group]] = {}
    for group in graph.groups:
        tied.setdefault(find(group.atom), []).append(group)
    return [tuple(groups) for groups in tied.values()]


def _bundle(groups: tuple[Group, ...], orders: Sequence[tuple[int, ...]], scores: Scores, limits: Limits) -> Bundle:
    steps = _steps(groups, orders, scores, limits)
    ranked = [[scores[group.name][index] for index in order] for group, order in zip(groups, orders, strict=True)]
    importances: Iterable[float]
    if steps == tuple(range(1, len(steps) + 1)) and len(ranked) == 1:
        importances = ranked[0][: len(steps)]
    else:
        importances = [
            _mean([value for values in ranked for value in values[start:stop]])
            for start, stop in zip((0, *steps), steps, strict=False)
        ]
        importances = accumulate(importances, max)  # a mean may be rounded below the one before it
    return Bundle(groups, tuple(orders), steps, tuple(importances))


def _steps(groups: Sequence[Group], orders: Sequence[tuple[int, ...]], scores: Scores, limits: Limits) -> tuple[int, ...]:
    most = min(_most(group, order, scores[group.name], limits) for group, order in zip(groups, orders, strict=True))
    multiple = math.lcm(*(limits.multiples.get(group.name, 1) for group in groups))
    counts = range(1, most + 1)
    if multiple == 1:
        return tuple(counts)
    return tuple(count for count in counts if all((group.size - count) % multiple == 0 for group in groups))


def _most(group: Group, order: Sequence[int], values: Sequence[float], limits: Limits) -> int:
    """How many indices of a group may go: not the last one, and none whose importance is infinite."""
    least = max(1, limits.least.get(group.name, 1))
    allowed = math.floor(group.size * limits.most.get(group.name, 1.0) + 1e-9)
    finite = group.size
    while finite and values[order[finite - 1]] == math.inf:
        finite -= 1
    return max(0, min(group.size - least, allowed, finite))


def _mean(values: Sequence[float]) -> float:
    if not all(map(math.isfinite, values)):
        mean = sum(values) / len(values)
    elif max(map(abs, values)) * len(values) < math.inf:
        mean = math.fsum(values) / len(values)
    else:
        mean = math.fsum(value / len(values) for value in values)
    return max(values) if math.isnan(mean) else mean
