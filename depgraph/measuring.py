"""How a model's quality falls when one group after the other is cut, by masks that are taken off again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from depgraph.choosing.scores import Scores
from depgraph.choosing.tables import Table, tabulate
from depgraph.criteria.scoring import Criterion, Scoring, score
from depgraph.errors import PlanError
from depgraph.execution.masking import mask_
from depgraph.graph.arguments import of_graph
from depgraph.graph.graph import Graph
from depgraph.plans.plan import Plan
from depgraph.running import shown


@of_graph
def sensitivity(
    graph: Graph,
    model: nn.Module,
    evaluate: Callable[[nn.Module], float],
    ratios: Iterable[float],
    scores: Scores | Criterion | Scoring,
    *,
    path: str | Path | None = None,
    progress: bool = False,
    **options: Any,
) -> Table:
    """The loss of a model with each group cut at each ratio, while all others stay whole: a table for `dg.pareto`.

    Each cut is a mask (`dg.mask_`) that is taken off again, bit for bit, also where `evaluate` raises. Of groups along which
    something is averaged or normalised, a mask is not what the pruned model computes: see `dg.mask`.

    Args:
        graph: the trace of this model.
        model: the module; it is as before at the end.
        evaluate: its loss, lower is better, on the same data each time. It runs without gradients, and in the mode that the
            model is in.
        ratios: the fractions of each group to remove, in (0, 1); rounded down as by `dg.plan`.
        scores: in which order indices go: what `dg.score` returned, or a criterion.
        path: a JSON file that is written after each evaluation. If it exists already, as after an interruption, what it knows
            is not evaluated again.
        progress: show a progress bar; needs the package tqdm.
        options: `max_ratio`, `min_width`, `round_to`, `ignore`, `only` and `uniform`, as for `dg.plan`. Groups that lose
            equally many, because of a balance or of `uniform`, are cut together and have one curve.

    Raises:
        PlanError: what `dg.choosing.tabulate` raises.
        MismatchError: the model is not the graph's.
        DocumentError: the file is no table.

    >>> import torch, depgraph as dg
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> x = torch.randn(64, 4)
    >>> graph, whole = dg.trace(model, x[:1]), model(x).detach()
    >>> def evaluate(masked):
    ...     return (masked(x) - whole).square().mean().item()
    >>> table = dg.sensitivity(graph, model, evaluate, [0.25, 0.5, 0.75], dg.Magnitude(p=2))
    >>> table.whole, table.curves[0].groups, table.curves[0].counts, torch.equal(model(x), whole)
    (0.0, ('0.weight:0',), (2, 4, 6), True)
    """
    if not callable(evaluate):
        raise PlanError(f"expected evaluate= as a function of a model that returns its loss, met {type(evaluate).__name__}.")
    ranked: Scores = scores if isinstance(scores, Mapping) else score(graph, model, scores)

    @torch.no_grad()
    def loss(plan: Plan) -> float:
        with mask_(plan, model):
            return evaluate(model)

    return tabulate(graph, ranked, ratios, loss, path=path, shown=partial(_shown, progress), **options)


def _shown(progress: bool, work: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    return shown(work, "sensitivity", "cut", progress)
