"""Layers against widths under one budget: a plan for each number of layers that go."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from depgraph.algebra.numbers import is_whole
from depgraph.choosing.choose import plan
from depgraph.choosing.scores import Scores
from depgraph.errors import PlanError
from depgraph.graph.arguments import of_graph
from depgraph.graph.graph import Graph
from depgraph.plans.plan import Plan
from depgraph.progress import shown


@of_graph
def plans_by_depth(
    graph: Graph, scores: Scores, path: str, counts: Iterable[int] | None = None, *, progress: bool = False, **options: Any
) -> Iterator[Plan]:
    """Plans that come to one budget by fewer layers or by narrower ones, for a measure of the user's to choose from.

    Of each plan the least important elements of one list go, so many as `counts` says, and widths make up the rest of the
    budget. Where so many elements or the widths that are left cannot come to it, there is no plan for that number. Scores of
    elements and of indices are never compared with each other: a loss on data, or the error of a repair, tells which plan
    is best.

    Args:
        graph: the traced model.
        scores: of groups, and of the elements of the list by its path.
        path: the list of modules.
        counts: how many elements go; by default none, one, two, ... to all but one.
        progress: show a progress bar; needs the package tqdm.
        options: the other options of `dg.plan`, with at least one budget: ``params=``, ``macs=``, ``latency=``, ...

    Yields:
        One plan for each number, in their order.

    Raises:
        PlanError: no such list, numbers out of range, no budget, or no plan at all.

    >>> import torch, depgraph as dg
    >>> class Block(torch.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.inner, self.outer = torch.nn.Linear(4, 8), torch.nn.Linear(8, 4)
    ...     def forward(self, x):
    ...         return x + self.outer(self.inner(x).relu())
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), Block(), Block(), Block(), torch.nn.Linear(4, 2))
    >>> graph = dg.trace(model, torch.zeros(1, 3))
    >>> scores = {**dg.score(graph, model, dg.Magnitude(p=2)), "": [float("inf"), 0.2, 0.1, 0.3, float("inf")]}
    >>> for plan in plans_by_depth(graph, scores, "", params=150):
    ...     print([drop.removed for drop in plan.drops], plan.apply(graph).params)
    [] 148
    [IndexSet('2')] 124
    [IndexSet('1-2')] 102
    [IndexSet('1-3')] 26
    """
    sequence = next((item for item in graph.sequences if item.path == path), None)
    if sequence is None or path not in scores:
        known = [item.path for item in graph.sequences]
        raise PlanError.of([f"expected path= as a list of modules that has scores, one of {known}, met {path!r}."])
    numbers = range(len(sequence.elements)) if counts is None else list(counts)
    strange = [number for number in numbers if not is_whole(number, least=0) or number >= len(sequence.elements)]
    budgets = [name for name in ("params", "macs", "latency", "memory", "active_params") if options.get(name) is not None]
    if strange or not budgets or "depth" in options:
        problem = f"counts= below {len(sequence.elements)}, a budget such as params=, and no depth="
        raise PlanError.of([f"expected {problem}, met {strange[:3] or sorted(options)}."])
    refused: list[PlanError] = []
    for number in shown(numbers, "plans_by_depth", "plan", progress):
        try:
            yield plan(graph, scores, depth={path: number}, **options)
        except PlanError as error:
            refused.append(error)
    if len(refused) == len(numbers):
        raise refused[0] if refused else PlanError.of(["expected at least one number in counts=, met none."])
