"""Prune, train, prune: one step after another on the executed model, with plans in the coordinates of the original one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from attrs import frozen
from torch import nn

from depgraph.choosing.choose import plan as choose
from depgraph.choosing.schedules import Curve, lifted, remainder, schedule
from depgraph.choosing.scores import Scores
from depgraph.criteria.scoring import Criterion, Scoring, score
from depgraph.errors import PlanError
from depgraph.execution.execute import execute
from depgraph.execution.repairs import Repair
from depgraph.graph.graph import Graph
from depgraph.plans.plan import Plan
from depgraph.progress import shown
from depgraph.tracing.calls import Call
from depgraph.tracing.trace import trace
from depgraph.wrappers import names_of

Repairing: TypeAlias = Callable[[Plan, nn.Module], Repair]
"""What `refit` makes of a plan and a model: for example ``lambda plan, model: dg.refit(plan, model, batches)``."""


@frozen(eq=False)
class Step:
    """A step of `iterate`.

    Attributes:
        number: from 1 up.
        target: what this step was to reach, in terms of the original graph.
        plan: all that is removed by now, in original indices: execute it on the original model for this step's shapes.
        delta: what this step alone removes, in the indices of the model before it. ``before.plan.then(delta) == plan``.
        graph: the graph of `model`.
        model: the model of the step before with `delta` executed: train it, and the next step goes on from it.
    """

    number: int
    target: Mapping[str, Any]
    plan: Plan
    delta: Plan
    graph: Graph
    model: nn.Module


def iterate(
    model: nn.Module,
    example_inputs: Any = (),
    scores: Criterion | Scoring | None = None,
    *,
    steps: int,
    target: Mapping[str, Any],
    shape: Curve = "linear",
    kwargs: Mapping[str, Any] | None = None,
    also: Sequence[Call] = (),
    repair: Repairing | None = None,
    progress: bool = False,
    **options: Any,
) -> Iterator[Step]:
    """Prune in steps, scoring the model of each step anew. The given model is left as it was.

    Args:
        model: any traceable module.
        example_inputs: as for `trace`.
        scores: a criterion, or a function that is called before each step with the present graph and model, as for `score`.
        steps: how many.
        target: what is to be reached in the end, such as ``{"macs": 0.5}`` or ``{"ratio": 0.5}``.
        shape: ``linear``, ``cubic``, or a function, as in `schedule`.
        kwargs: keyword inputs, as for `trace`.
        also: further calls of the model, as for `trace`.
        repair: called in each step with what it removes and the model that it removes it from; what it gives is written when
            the step is executed. For example ``lambda plan, model: dg.refit(plan, model, batches)``.
        progress: show a progress bar over the steps; needs the package tqdm.
        options: further arguments of `plan`. They are understood in terms of the original graph, as targets are. Wherever
            `plan` takes a pattern, here and in `target`, modules of the model and classes of modules may stand for one.

    Yields:
        A `Step`. Where a step is too small for any group to lose an index, its `delta` is empty.

    Raises:
        PlanError: what `schedule` and `plan` raise; the last target is tried before the first step is made.

    >>> import torch, depgraph as dg
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> for step in dg.iterate(model, torch.randn(1, 4), dg.Magnitude(p=2), steps=3, target={"ratio": 0.75}, shape="cubic"):
    ...     print(step.number, step.model[0].out_features, len(step.plan.removed["0.weight:0"]))
    1 4 4
    2 3 5
    3 2 6
    """
    if scores is None:
        raise PlanError("expected scores= as a criterion such as dg.Magnitude(p=2), or as a function of graph and model.")
    if repair is not None and not callable(repair):
        raise PlanError("expected repair= as a function of plan and model, such as one that calls dg.refit.")
    target, options = ({name: _named(model, name, value) for name, value in given.items()} for given in (target, options))
    graph = trace(model, example_inputs, kwargs, also=also)
    models = {name: options.get(name) for name in ("latency_model", "memory_model")}
    targets = schedule(graph, target, steps, shape, **models)
    return _steps(graph, model, scores, targets, repair, options, progress)


def _named(model: nn.Module, option: str, value: Any) -> Any:
    """An argument of `plan` with names in the place of modules and classes."""
    if option in ("ignore", "only"):
        return None if value is None else names_of(model, value)
    if option == "scope" and not isinstance(value, str):
        return [names_of(model, patterns) for patterns in value]
    if not isinstance(value, Mapping):
        return value
    table: dict[Any, Any] = {}
    for key, number in value.items():
        for pattern in [names_of(model, key)] if isinstance(key, tuple) else names_of(model, key):
            table.pop(pattern, None)  # the last one counts
            table[pattern] = number
    return table


def _steps(
    graph: Graph,
    model: nn.Module,
    scores: Criterion | Scoring,
    targets: Sequence[Mapping[str, Any]],
    repair: Repairing | None,
    options: Mapping[str, Any],
    progress: bool,
) -> Iterator[Step]:
    current, done = graph, Plan.empty(graph)
    for number, target in enumerate(shown(targets, "iterate", "step", progress), start=1):
        scores_before = lifted(graph, done, score(current, model, scores))
        if number == 1:
            choose(graph, scores_before, **targets[-1], **options)
        planned = _planned(graph, scores_before, target, options, done, last=number == len(targets))
        delta = remainder(graph, done, planned)
        mended = repair(delta, model) if repair is not None and delta.cuts else None
        if mended is not None and mended.added:
            raise PlanError(
                "a repair that adds biases changes the model, and the next step would not know them: leave out add_bias=."
            )
        model, current, done = execute(delta, model, repair=mended), planned.apply(graph), planned
        yield Step(number, target, planned, delta, current, model)


def _planned(
    graph: Graph,
    scores: Scores,
    target: Mapping[str, Any],
    options: Mapping[str, Any],
    done: Plan,
    last: bool,
) -> Plan:
    try:
        return choose(graph, scores, **target, **options)
    except PlanError:
        # The scores and the last target were checked before the first step. So an earlier target fails only because it is too
        # small for any group to lose an index: the step is empty.
        if last or done.cuts:
            raise
        return done
