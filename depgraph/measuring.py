"""How far a model moves when one group after the other is cut, by masks that are taken off again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from depgraph.choosing.scores import Scores
from depgraph.choosing.tables import Table, tabulate
from depgraph.criteria.scoring import Criterion, Scoring, score
from depgraph.errors import PlanError
from depgraph.execution.masking import mask_
from depgraph.graph.arguments import of_graph
from depgraph.graph.graph import Graph
from depgraph.plans.plan import Plan
from depgraph.progress import shown
from depgraph.running import Forward, are_batches, run


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
    around: Plan | None = None,
    **options: Any,
) -> Table:
    """The loss of a model with each group cut at each ratio, while all others stay whole: a table for `dg.pareto`.

    Each cut is a mask (`dg.mask_`) that is taken off again, bit for bit, also where `evaluate` raises. Of groups along which
    something is averaged or normalised, a mask is not what the pruned model computes: see `dg.mask`.

    Args:
        graph: the trace of this model.
        model: the module; it is as before at the end.
        evaluate: its loss, lower is better, on the same data each time, such as `dg.output_distance`. It runs without
            gradients, and in the mode that the model is in.
        ratios: the fractions of each group to remove, in (0, 1); rounded down as by `dg.plan`.
        scores: in which order indices go: what `dg.score` returned, or a criterion.
        path: a JSON file that is written after each evaluation. If it exists already, as after an interruption, what it knows
            is not evaluated again.
        progress: show a progress bar; needs the package tqdm.
        around: a plan of the same scores. Each group is then cut at each ratio, and left whole, while all others are cut as
            the plan says, for cuts cost more together than the sum of what each costs alone. With the plan that a first table
            led to, `dg.pareto` finds a better one.
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

    return tabulate(graph, ranked, ratios, loss, path=path, shown=partial(_shown, progress), around=around, **options)


DISTANCES = ("kl", "cosine", "squared", "cka")


def output_distance(
    model: nn.Module,
    batches: Iterable[Any],
    kind: str = "squared",
    *,
    forward: Forward = run,
    progress: bool = False,
) -> Callable[[nn.Module], float]:
    """How far a model's outputs are from what they are now: an `evaluate` for `dg.sensitivity` that needs no labels.

    The loss of a task hardly moves when a good model loses a little, and may fall by chance: its differences are noise. The
    distance to the whole model's own outputs is 0 where nothing goes and grows with all that is lost. Replacing one part
    after the other and taking the divergence of the outputs is how Bercovich et al., "Puzzle: Distillation-Based NAS for
    Inference-Optimized LLMs" (2024), score the parts of a language model.

    Args:
        model: the whole model. It runs once on each batch, without gradients, in the mode that it is in.
        batches: inputs, as for `dg.score`; a few hundred rows are better than a few dozen.
        kind: along the last axis, in the mean over all others. ``kl``, for logits: the Kullback-Leibler divergence of the
            softmax from that of now, in nats. ``cosine``, for embeddings: 1 minus the cosine. ``squared``: the sum of squares
            of the difference over that of the outputs of now. ``cka``, for embeddings that are compared with each other: 1
            minus the linear centred kernel alignment of all rows of all batches (Kornblith et al., "Similarity of Neural
            Network Representations Revisited", ICML 2019, equation 3), for which a shift, a rotation and a scale that all
            embeddings share change nothing. Take the one that sees what is used of the outputs, and no more.
        forward: from the model and a batch to the outputs, one tensor, such as
            ``lambda model, batch: model(**batch).logits[batch["attention_mask"] > 0]``. By default what forward returns.
        progress: show a progress bar, here and each time that the distance is measured; needs the package tqdm.

    Returns:
        A function of a model that has the same outputs, such as this one with masks, or the pruned one.

    Raises:
        PlanError: no batch, an unknown kind, outputs that are no tensor of finite floats, or all the same where that leaves
            no distance.

    >>> import torch, depgraph as dg
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> graph = dg.trace(model, torch.zeros(1, 4))
    >>> distance = dg.output_distance(model, [torch.randn(64, 4), torch.randn(64, 4)], "kl")
    >>> distance(model), distance(dg.execute(dg.cut(graph, "0.weight", [1, 5], dim=0), model)) > 0
    (0.0, True)
    """
    if kind not in DISTANCES:
        raise PlanError(f"expected kind= as one of {', '.join(DISTANCES)}, met {kind!r}.")
    if not are_batches(batches):
        raise PlanError(f"expected batches= as an iterable of batches, met {type(batches).__name__}; write [batch] for one.")
    pairs = [(batch, _outputs(forward, model, batch)) for batch in shown(batches, "outputs", "batch", progress)]
    if not pairs:
        raise PlanError("expected at least one batch to compare outputs on.")
    wholes = [whole for _, whole in pairs]
    if not all(bool(whole.isfinite().all()) for whole in wholes):
        raise PlanError("the model's outputs hold infinite numbers or NaN, to which there is no distance; give other batches.")
    scale = _scale(kind, wholes)
    if not scale > 0:
        raise PlanError("all outputs are empty, 0 or the same, so that no distance to them is relative; give other batches.")

    def distance(other: nn.Module) -> float:
        found = [_outputs(forward, other, batch) for batch, _ in shown(pairs, "distance", "batch", progress)]
        for whole, output in zip(wholes, found, strict=True):
            if whole.shape != output.shape:
                expected, met = [*whole.shape], [*output.shape]
                raise PlanError(f"expected outputs of the shape {expected}, met {met}; only inner widths may change.")
        if kind == "cka":
            return 1 - _alignment(_rows(wholes), _rows(found))
        return sum(_apart(kind, whole, output) for whole, output in zip(wholes, found, strict=True)) / scale

    return distance


def _scale(kind: str, outputs: Sequence[torch.Tensor]) -> float:
    """What a sum over rows is divided by."""
    if kind == "squared":
        return sum(float(output.square().sum()) for output in outputs)
    if kind == "cka":
        return float(_rows(outputs).square().sum())
    return sum(output[..., 0].numel() for output in outputs)


def _rows(outputs: Sequence[torch.Tensor]) -> torch.Tensor:
    """All rows, around their mean."""
    rows = torch.cat([output.double().flatten(0, -2) if output.dim() > 1 else output.double()[None] for output in outputs])
    centred = rows - rows.mean(0)
    return centred if centred.norm() > 1e-12 * rows.norm() else torch.zeros_like(rows)  # rounding alone is no difference


def _alignment(whole: torch.Tensor, other: torch.Tensor) -> float:
    """The linear centred kernel alignment of rows around their mean; that with rows that are all the same is 0."""
    if whole.shape[0] < whole.shape[1]:  # the same by the similarities of rows, which are fewer
        kernels = whole @ whole.T, other @ other.T
        return _cosine(*kernels)
    both = (whole.T @ other).square().sum()
    lengths = (whole.T @ whole).norm() * (other.T @ other).norm()
    return float(both / lengths) if lengths > 0 else 0.0


def _cosine(one: torch.Tensor, other: torch.Tensor) -> float:
    lengths = one.norm() * other.norm()
    return float((one * other).sum() / lengths) if lengths > 0 else 0.0


@torch.no_grad()
def _outputs(forward: Forward, model: nn.Module, batch: Any) -> torch.Tensor:
    found = forward(model, batch)
    if not isinstance(found, torch.Tensor) or not found.is_floating_point() or not found.dim():
        raise PlanError(
            f"expected outputs as one tensor of floats with an axis, met {type(found).__name__}; "
            "take it by forward=, such as lambda model, batch: model(**batch).logits."
        )
    return found.detach()


def _apart(kind: str, whole: torch.Tensor, other: torch.Tensor) -> float:
    """The sum of the distances of all rows."""
    whole, other = whole.float(), other.float()
    if kind == "kl":
        apart = F.kl_div(F.log_softmax(other, -1), F.log_softmax(whole, -1), reduction="sum", log_target=True)
    elif kind == "cosine":
        apart = (1 - F.cosine_similarity(whole, other, dim=-1)).sum()
    else:
        apart = (whole - other).square().sum()
    return float(apart)


def _shown(progress: bool, work: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    return shown(work, "sensitivity", "cut", progress)
