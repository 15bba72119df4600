"""Strengths of penalties as plain numbers per index, and how they grow in training. State goes in and comes out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from depgraph.algebra.ragged_sets import is_table
from depgraph.choosing.scores import Scores
from depgraph.errors import PlanError
from depgraph.graph.arguments import of_graph
from depgraph.graph.graph import Graph
from depgraph.plans.plan import Plan

Numbers: TypeAlias = Mapping[str, Sequence[float]]
"""Group name to one number per index."""


Strengths: TypeAlias = dict[str, tuple[float, ...]]


@of_graph
def strengths_of(graph: Graph, strength: float = 0.0) -> Strengths:
    """The same strength for every index of every group, group name to one number per index: where growing begins.

    Args:
        graph: the traced model.
        strength: the number; 0 is no penalty.

    >>> import torch, depgraph as dg
    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 1))
    >>> strengths_of(dg.trace(model, torch.zeros(1, 2)), 0.5)
    {'0.weight:0': (0.5, 0.5, 0.5)}
    """
    return {group.name: (float(strength),) * group.size for group in graph.groups}


def grow(strengths: Numbers, toward: Scores | Plan, *, delta: float, ceiling: float = math.inf) -> Strengths:
    """One step of growing regularisation (Wang et al., Neural Pruning via Growing Regularization, ICLR 2021).

    Given a plan, the indices that it removes grow by `delta` and the others stay: GReg-1 of the paper. Given scores, an index
    with the score s grows by ``delta * (max - s) / (max - min)`` within its group: the least important by all of `delta`,
    the most important not at all; equal scores grow alike, by `delta`.

    Args:
        strengths: the strengths so far, such as `strengths_of` gives; they are not changed.
        toward: a plan of what is to go, or scores.
        delta: what is added at most.
        ceiling: no strength grows beyond it; those that are already beyond stay.

    Returns:
        New strengths for the same groups.

    Raises:
        PlanError: numbers that do not fit the strengths, NaN among the scores, or a negative `delta`.

    >>> grow({"a": (0.0, 0.0, 1.0)}, {"a": [1.0, 3.0, 2.0]}, delta=0.5)
    {'a': (0.5, 0.0, 1.25)}
    >>> grow({"a": (0.0, 0.9)}, {"a": [1.0, 1.0]}, delta=0.5, ceiling=1.0)
    {'a': (0.5, 1.0)}
    """
    if not delta >= 0:
        raise PlanError(f"expected delta= as what is added to a strength, 0 or more, met {delta!r}.")
    if isinstance(toward, Plan):
        removed = toward.removed
        ragged = [cut.group for cut in toward.cuts if cut.base is not None]
        if ragged:
            raise PlanError(f"the plan's cut of {ragged[0]!r} is ragged; a strength is one of an index in every row.")
        shares = {name: [float(index in removed.get(name, ())) for index in range(len(old))] for name, old in strengths.items()}
        if missing := sorted(removed.keys() - strengths.keys()):
            raise PlanError(
                f"the plan cuts {missing[0]!r}, which has no strength; begin with dg.penalties.strengths_of(graph)."
            )
    else:
        shares = {name: _unimportance(name, toward.get(name), len(old)) for name, old in strengths.items()}
    return {
        name: tuple(max(old, min(old + delta * share, ceiling)) for old, share in zip(values, shares[name], strict=True))
        for name, values in strengths.items()
    }


def graded_strengths(scores: Scores, strength: float, *, alpha: float = 4.0) -> Strengths:
    """Strengths of DepGraph's sparse training (Fang et al., CVPR 2023, section 3.4): ``strength * 2 ** (alpha * u)``.

    u is ``(max - s) / (max - min)`` within a group: 0 for its most important index and 1 for its least important one. Use them
    with `depgraph.penalties.group_l2`, whose gradient is then that of the paper.

    Args:
        scores: group name to one importance per index.
        strength: that of the most important index of each group.
        alpha: the least important index gets ``2 ** alpha`` times as much.

    Raises:
        PlanError: NaN among the scores.

    >>> graded_strengths({"a": [1.0, 3.0, 2.0]}, 0.5, alpha=2.0)
    {'a': (2.0, 0.5, 1.0)}
    """
    return {
        name: tuple(strength * 2 ** (alpha * share) for share in _unimportance(name, values, len(values)))
        for name, values in scores.items()
    }


def _unimportance(name: str, values: Any, size: int) -> list[float]:
    """For each score, where it lies between the highest (0) and the lowest (1) of its group."""
    if values is not None and is_table(values):
        raise PlanError(f"the scores of group {name!r} are a table; a strength is one of an index in every row.")
    if values is None or len(values) != size:
        count = "none" if values is None else len(values)
        raise PlanError(f"group {name!r} has {size} indices, its scores are {count}; score the graph of these strengths.")
    if any(map(math.isnan, values)):
        raise PlanError(f"the scores of group {name!r} hold NaN; check the model's weights.")
    low, high = min(values), max(values)
    return [(high - value) / (high - low) if high > low else 1.0 for value in values]
