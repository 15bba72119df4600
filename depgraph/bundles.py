"""What goes in one step: bundles of groups that lose equally many indices, and the widths that rounding and floors allow."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Any, TypeAlias

from attrs import frozen

from depgraph.errors import PlanError
from depgraph.graph import Graph
from depgraph.indices import IndexSet
from depgraph.ragged import bases_of, why_uniform
from depgraph.records import Group
from depgraph.removals import Removal
from depgraph.rows import Rows, is_table
from depgraph.spaces import Atom

Scores: TypeAlias = Mapping[str, Sequence[float] | Sequence[Sequence[float]]]
"""Group name to one importance per index; the lowest go first. Or a table, one row for each index of the group's base: then
each row loses its own lowest."""


@frozen
class Ranking:
    """In which order the indices of a group go.

    Attributes:
        base: the atom whose indices are the rows; None where one order holds everywhere.
        orders: for each row the indices, the least important first; of equal ones the first.
        importances: of what goes first, second, and so on: over all rows together.
        finite: how many may go, so that nothing of infinite importance does.
    """

    base: Atom | None
    orders: tuple[tuple[int, ...], ...]
    importances: tuple[float, ...]
    finite: int

    def first(self, count: int) -> Removal:
        """The `count` least important indices."""
        sets = tuple(IndexSet.of(order[:count]) for order in self.orders)
        return sets[0] if self.base is None else Rows(self.base, sets)


@frozen
class Bundle:
    """Groups that a balance ties, or one group alone: they lose equally many indices, each its own lowest ones.

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


def bundles_of(graph: Graph, groups: Iterable[Group], scores: Scores, limits: Limits) -> tuple[Bundle, ...]:
    """The bundles of some groups, in the graph's order. A bundle of which a member is missing is left out whole.

    Raises:
        PlanError: a group has no scores, too few or too many, or NaN among them; or it has a table of them, but must lose the
            same indices everywhere.
    """
    free = {group.name: group for group in groups}
    tables = any(name in scores and is_table(scores[name]) for name in free)
    bases = bases_of(graph) if tables else {}
    rankings = {name: _ranking(graph, group, scores, bases) for name, group in free.items()}
    bundles = []
    for members in tied(graph):
        if all(group.name in free for group in members):
            bundles.append(_bundle(members, tuple(rankings[group.name] for group in members), limits))
    return tuple(bundles)


def _ranking(graph: Graph, group: Group, scores: Scores, bases: Mapping[Atom, Atom]) -> Ranking:
    values: Any = scores.get(group.name)
    if values is None or not is_table(values):
        order = _order(group, values)
        return Ranking(None, (order,), tuple(map(values.__getitem__, order)), _finite(values, order))
    base = bases.get(group.atom)
    if base is None:
        raise PlanError(
            f"the scores of group {group.name!r} are a table, but it must lose the same indices everywhere: "
            f"{why_uniform(graph, group)}. Give one number per index."
        )
    if len(values) != base.size:
        raise PlanError(f"group {group.name!r} has {base.size} rows, its scores have {len(values)}; score this graph anew.")
    orders = tuple(_order(group, row) for row in values)
    lanes = [[row[index] for index in order] for row, order in zip(values, orders, strict=True)]
    finite = min(_finite(row, order) for row, order in zip(values, orders, strict=True))
    return Ranking(base, orders, tuple(_total(together) for together in zip(*lanes, strict=True)), finite)


def _order(group: Group, values: Sequence[float]) -> tuple[int, ...]:
    return tuple(sorted(range(group.size), key=fitting(group, values).__getitem__))


def fitting(group: Group, values: Sequence[float] | None) -> Sequence[float]:
    """The scores of a group's indices. Raises `PlanError` if there are none, too few or too many, or NaN among them."""
    if values is None:
        raise PlanError(f"there is no score for group {group.name!r}; use dg.score(graph, model, criterion) on this graph.")
    if len(values) != group.size:
        raise PlanError(f"group {group.name!r} has {group.size} indices, its scores are {len(values)}; score this graph anew.")
    if math.isnan(sum(values)) and any(map(math.isnan, values)):
        raise PlanError(f"the scores of group {group.name!r} hold NaN; check the model's weights.")
    return values


def _finite(values: Sequence[float], order: Sequence[int]) -> int:
    finite = len(order)
    while finite and values[order[finite - 1]] == math.inf:
        finite -= 1
    return finite


def tied(graph: Graph) -> list[tuple[Group, ...]]:
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
    found: dict[Atom, list[Group]] = {}
    for group in graph.groups:
        found.setdefault(find(group.atom), []).append(group)
    return [tuple(groups) for groups in found.values()]


def _bundle(groups: tuple[Group, ...], rankings: tuple[Ranking, ...], limits: Limits) -> Bundle:
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
    return Bundle(groups, rankings, steps, tuple(importances))


def _steps(groups: Sequence[Group], rankings: Sequence[Ranking], limits: Limits) -> tuple[int, ...]:
    most = min(_most(group, ranking, limits) for group, ranking in zip(groups, rankings, strict=True))
    multiple = math.lcm(*(limits.multiples.get(group.name, 1) for group in groups))
    remainders = {group.size % multiple for group in groups}
    first = min(remainders) or multiple
    return tuple(range(first, most + 1, multiple)) if len(remainders) == 1 else ()


def _most(group: Group, ranking: Ranking, limits: Limits) -> int:
    """How many indices of a group may go: none below its least size, and none whose importance is infinite."""
    least = max(group.least, limits.least.get(group.name, 1))
    allowed = math.floor(group.size * limits.most.get(group.name, 1.0) + 1e-9)
    return max(0, min(group.size - least, allowed, ranking.finite))


def mean_of(values: Sequence[float]) -> float:
    """The mean; with infinite numbers of both signs the largest."""
    if not all(map(math.isfinite, values)):
        mean = sum(values) / len(values)
    elif _is_summable(values):
        mean = math.fsum(values) / len(values)
    else:
        mean = math.fsum(value / len(values) for value in values)
    return max(values) if math.isnan(mean) else mean


def _total(values: Sequence[float]) -> float:
    return math.fsum(values) if _is_summable(values) else sum(values)


def _is_summable(values: Sequence[float]) -> bool:
    """Whether `fsum` takes the numbers: it refuses infinite ones and sums that no float holds."""
    return max(map(abs, values)) * len(values) < math.inf
