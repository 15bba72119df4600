"""Pruning in steps, as numbers: a target for each step, and plans and scores in the coordinates of the original graph."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeAlias

from depgraph.algebra.indices import IndexSet
from depgraph.algebra.numbers import is_number, is_whole
from depgraph.algebra.ragged_sets import RaggedSet, is_table
from depgraph.choosing.budgets import terms_of
from depgraph.choosing.costs import CostPolynomial
from depgraph.choosing.memory import Memory
from depgraph.choosing.scores import Scores
from depgraph.errors import PlanError
from depgraph.graph.arguments import of_graph
from depgraph.graph.graph import Graph
from depgraph.graph.groups import Group
from depgraph.graph.ragged import bases_of, why_uniform
from depgraph.plans.algebra import remainder
from depgraph.plans.plan import Plan

__all__ = ["lifted", "remainder", "schedule"]

Curve: TypeAlias = str | Callable[[float], float]
"""A name from `CURVES`, or a function from the fraction of the steps to the fraction of the way."""


CURVES: Mapping[str, Callable[[float], float]] = MappingProxyType(
    {"linear": lambda done: done, "cubic": lambda done: 1 - (1 - done) ** 3}
)
"""``linear``; ``cubic``, which removes much at first (Zhu and Gupta, To prune, or not to prune, 2017)."""


Numbers: TypeAlias = tuple[float, ...] | tuple[tuple[float, ...], ...]


BUDGETS = ("params", "active_params", "macs", "memory", "latency")


@of_graph
def schedule(
    graph: Graph,
    target: Mapping[str, Any],
    steps: int,
    shape: Curve = "linear",
    *,
    latency_model: Callable[[Graph], float] | None = None,
    memory_model: Memory | None = None,
) -> tuple[dict[str, Any], ...]:
    """The target of each step, all of them in terms of the original graph.

    Args:
        graph: the original graph.
        target: what `plan` takes as keywords in the end: a `ratio`, or budgets such as ``{"macs": 0.5}``.
        steps: how many steps there are.
        shape: how far each step goes: ``linear``; ``cubic``, 1 - (1 - t) ** 3 of the way after the fraction t of the steps (Zhu
            and Gupta, "To prune, or not to prune", 2017, equation 1); or a function from (0, 1] to [0, 1] that ends at 1.
        latency_model: for a `latency` that is no fraction: what measures the graph.
        memory_model: for a `memory` that is no fraction: what it counts.

    Raises:
        PlanError: no step, a shape that goes back or does not end at 1, or targets that `plan` does not know.

    >>> import torch, depgraph as dg
    >>> graph = dg.trace(torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2)), torch.zeros(1, 4))
    >>> schedule(graph, {"macs": 0.5}, steps=2, shape="cubic")
    ({'macs': 0.5625}, {'macs': 0.5})
    >>> schedule(graph, {"ratio": {"*": 0.5}}, steps=2)
    ({'ratio': {'*': 0.25}}, {'ratio': {'*': 0.5}})
    """
    if not is_whole(steps, least=1):
        raise PlanError(f"expected steps= as a whole number from 1 up, met {steps!r}.")
    if isinstance(shape, str) and shape not in CURVES:
        raise PlanError(f"expected one of {sorted(CURVES)} or a function as the shape of a schedule, met {shape!r}.")
    unknown = [name for name in target if name != "ratio" and name not in BUDGETS]
    if unknown or not target:
        raise PlanError(f"expected a target such as {{'macs': 0.5}} or {{'ratio': 0.5}}, met {dict(target)!r}.")
    curve = CURVES[shape] if isinstance(shape, str) else shape
    shares = [curve((number + 1) / steps) for number in range(steps)]
    if any(not 0 <= before <= after for before, after in zip([0.0, *shares], shares, strict=False)) or shares[-1] != 1:
        raise PlanError(f"a schedule goes from 0 to 1 and never back, met {shares}.")
    totals: dict[str, float | None] = {
        name: CostPolynomial(terms_of(graph, name, memory_model))({}) for name in target if name in BUDGETS[:-1]
    }
    totals["latency"] = latency_model and latency_model(graph)
    return tuple({name: _target_at(name, value, share, totals.get(name)) for name, value in target.items()} for share in shares)


def _target_at(name: str, value: Any, share: float, total: float | None) -> Any:
    """The target of the step that reaches this share of the final target."""
    if name == "ratio":
        return {key: part * share for key, part in value.items()} if isinstance(value, Mapping) else value * share
    if share == 1:
        return value
    if is_number(value) and value <= 1:
        return 1 - (1 - value) * share
    if total is None:
        raise PlanError("a latency that is no fraction needs latency_model=, which measures the graph that it starts from.")
    limit = total - (total - value) * share
    return limit if name == "latency" else math.floor(limit)


@of_graph
def lifted(graph: Graph, done: Plan, scores: Scores) -> dict[str, Numbers]:
    """Scores of ``done.apply(graph)`` as scores of `graph`: what is gone already goes first, with minus infinity.

    Groups of which one index is left have no scores any more; that index is given an infinite one. Groups without scores are
    left out. Where `done` is ragged, one score per index counts in every row.

    Args:
        graph: the original graph.
        done: a plan for it.
        scores: group name, in the smaller graph, to one importance per index that is left, or to a table.

    Raises:
        PlanError: scores of another length than the groups have by now, or NaN among them.

    >>> import torch, depgraph as dg
    >>> graph = dg.trace(torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 2)), torch.zeros(1, 4))
    >>> done = dg.cut(graph, "0.weight", [1], dim=0)
    >>> lifted(graph, done, {"0.weight:0": [0.3, 0.1, 0.2]})          # of the indices 0, 2 and 3 that are left
    {'0.weight:0': (0.3, -inf, 0.1, 0.2)}
    """
    names = {base: name for name, base in done.renamed}
    removals = {cut.atom: cut.removal for cut in done.cuts}
    tables = any(is_table(values) for values in scores.values()) or any(cut.base is not None for cut in done.cuts)
    bases = bases_of(graph) if tables else {}
    lifted_scores: dict[str, Numbers] = {}
    for group in graph.groups:
        removal = removals.get(group.atom, IndexSet())
        size = group.size - len(removal)
        # what is down to one index is no group of the smaller graph, in which another one may have its name
        values: Any = (math.inf,) if size == 1 else scores.get(names.get(group.name, group.name))
        if values is None:
            continue
        if not is_table(values) and isinstance(removal, IndexSet):
            lifted_scores[group.name] = _lifted_row(group, removal, values)
            continue
        base = removal.base if isinstance(removal, RaggedSet) else bases.get(group.atom)
        if base is None:
            raise PlanError(f"the scores of group {group.name!r} are a table, but {why_uniform(graph, group)}; score anew.")
        removed_rows = removals.get(base, IndexSet())
        rows = [row for row in range(base.size) if not isinstance(removed_rows, IndexSet) or row not in removed_rows]
        row_scores = list(values) if is_table(values) else [[value / len(rows) for value in values]] * len(rows)
        if len(row_scores) != len(rows):
            raise PlanError(f"group {group.name!r} has {len(rows)} rows by now, its scores have {len(row_scores)}; score anew.")
        table = [(0.0,) * group.size] * base.size
        for row, numbers in zip(rows, row_scores, strict=True):
            table[row] = _lifted_row(group, removal.sets[row] if isinstance(removal, RaggedSet) else removal, numbers)
        lifted_scores[group.name] = tuple(table)
    return lifted_scores


def _lifted_row(group: Group, removed: IndexSet, values: Sequence[float]) -> tuple[float, ...]:
    remaining = removed.complement(group.size)
    if len(values) != len(remaining):
        raise PlanError(f"group {group.name!r} has {len(remaining)} indices by now, its scores are {len(values)}; score anew.")
    if any(map(math.isnan, values)):
        raise PlanError(f"the scores of group {group.name!r} hold NaN; check the model's weights.")
    lifted_values = [-math.inf] * group.size
    for index, value in zip(remaining, values, strict=True):
        lifted_values[index] = float(value)
    return tuple(lifted_values)
