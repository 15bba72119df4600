"""Scores of indices, and the order of removal that they give in each group."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from attrs import frozen

from depgraph.algebra.indices import IndexSet
from depgraph.algebra.ragged_sets import RaggedSet, Removal, is_table
from depgraph.algebra.spaces import Atom
from depgraph.errors import PlanError
from depgraph.graph.graph import Graph
from depgraph.graph.groups import Group
from depgraph.graph.ragged import why_uniform

Scores: TypeAlias = Mapping[str, Sequence[float] | Sequence[Sequence[float]]]
"""Group name to one importance per index; the lowest go first. Or a table, one row for each index of the group's base: then
each row loses its own lowest."""


@frozen
class Ranking:
    """The order in which the indices of a group are removed.

    Attributes:
        base: the atom whose indices are the rows; None where one order holds everywhere.
        orders: for each row the indices, the least important first; of equal ones the first.
        importances: of the first removal, the second one, and so on; summed over the rows.
        finite: the number of indices of finite importance: no others are removed.
    """

    base: Atom | None
    orders: tuple[tuple[int, ...], ...]
    importances: tuple[float, ...]
    finite: int

    def first(self, count: int) -> Removal:
        """The `count` least important indices."""
        sets = tuple(IndexSet.of(order[:count]) for order in self.orders)
        return sets[0] if self.base is None else RaggedSet(self.base, sets)


def ranking_of(graph: Graph, group: Group, scores: Scores, bases: Mapping[Atom, Atom]) -> Ranking:
    """The order in which the indices of a group are removed; where its scores are a table, one order for each row.

    Raises:
        PlanError: there are no scores, too few or too many, or NaN among them; or a table where all rows must lose the same.
    """
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
    columns = [[row[index] for index in order] for row, order in zip(values, orders, strict=True)]
    finite = min(_finite(row, order) for row, order in zip(values, orders, strict=True))
    return Ranking(base, orders, tuple(_total(together) for together in zip(*columns, strict=True)), finite)


def _order(group: Group, values: Sequence[float]) -> tuple[int, ...]:
    return tuple(sorted(range(group.size), key=fitting(group, values).__getitem__))


def fitting(group: Group, values: Sequence[float] | None) -> Sequence[float]:
    """The scores of a group's indices. Raises `PlanError` if there are none, too few or too many, or NaN among them."""
    if values is None:
        raise PlanError(
            f"there is no score for group {group.name!r}; use dg.score(graph, model, criterion) on this graph. Where a "
            "criterion scores some groups alone, as REAP does experts, name these in only=."
        )
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
