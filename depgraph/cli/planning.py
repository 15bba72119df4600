"""From the options of `depgraph plan` to a plan."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from depgraph.choosing import engines
from depgraph.choosing.choose import plan as chosen
from depgraph.cli.files import load_graph, load_scores
from depgraph.errors import PlanError
from depgraph.graph.graph import Graph
from depgraph.plans.plan import Plan

_NUMBERS = ("ratio", "max_ratio", "min_width", "round_to")


def planned(
    source: str,
    traced: Callable[[Any, str], Graph],
    *,
    inputs: Sequence[str],
    scores_file: str | None,
    criterion: str,
    weights: str | None,
    params: str | None,
    macs: str | None,
    depths: Sequence[str],
    engine: str | None,
    settings: Sequence[str],
    scope: str,
    ignore: Sequence[str],
    only: Sequence[str],
    uniform: Sequence[str],
    depth: int | None,
    **tables: Sequence[str],
) -> tuple[Graph, Plan]:
    """The graph and the plan that options ask for."""
    options: dict[str, Any] = _preset(engine, settings)
    options.update({name: _table(name, tables[name]) for name in _NUMBERS if tables[name]})
    options.update({name: _number(name, text) for name, text in (("params", params), ("macs", macs)) if text is not None})
    if depths:
        options["depth"] = _table("depth-ratio", depths)
    if ignore:
        options["ignore"] = (*options.get("ignore", ()), *ignore)
    if only:
        options["only"] = only
    if uniform:
        options["uniform"] = uniform
    if not options.keys() & {"ratio", "params", "macs", "depth"}:
        raise PlanError("give what is to remain or to go: --macs, --params, --ratio or --depth-ratio.")
    graph, scores = _scored(source, traced, inputs, scores_file, criterion, weights)
    return graph, chosen(graph, scores, scope=scope, **options)


def settings_of(texts: Sequence[str]) -> dict[str, Any]:
    """Settings from ``name=value``; whole numbers are numbers.

    >>> settings_of(["tensor_parallel=4", "quantisation=marlin"])
    {'tensor_parallel': 4, 'quantisation': 'marlin'}
    """
    settings: dict[str, Any] = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not separator:
            raise PlanError(f"expected --set name=value, met {text!r}.")
        settings[name] = int(value) if value.isdecimal() else value
    return settings


def _preset(engine: str | None, settings: Sequence[str]) -> dict[str, Any]:
    """The options of an engine."""
    chosen_settings = settings_of(settings)
    if engine is None:
        if chosen_settings:
            raise PlanError("--set goes with --engine.")
        return {}
    try:
        return dict(getattr(engines, engine)(**chosen_settings))
    except TypeError as error:
        raise PlanError(f"{engine}: {error}") from None


def _scored(
    source: str,
    traced: Callable[[Any, str], Graph],
    inputs: Sequence[str],
    scores_file: str | None,
    criterion: str,
    weights: str | None,
) -> tuple[Graph, dict[str, Any]]:
    """A graph with scores: from files, or of a model."""
    if Path(source).is_file():
        if scores_file is None:
            raise PlanError("a graph has no weights to score: give --scores FILE, or a model as SOURCE.")
        return load_graph(source), load_scores(scores_file)
    from depgraph.cli.models import criterion_of, model_at
    from depgraph.criteria.scoring import score

    named = model_at(source, inputs, weights=scores_file is None, checkpoint=weights)
    graph = traced(named, source)
    scores = load_scores(scores_file) if scores_file is not None else dict(score(graph, named.model, criterion_of(criterion)))
    return graph, scores


def _table(name: str, texts: Sequence[str]) -> Any:
    """One number, or a mapping from patterns to numbers."""
    values: dict[str, float] = {}
    for text in texts:
        pattern, separator, number = text.rpartition("=")
        values[pattern if separator else "*"] = _number(name, number)
    return values["*"] if list(values) == ["*"] else values


def _number(name: str, text: str) -> float:
    """A whole number or another one."""
    try:
        return int(text) if text.isdecimal() else float(text)
    except ValueError:
        raise PlanError(f"expected a number for --{name.replace('_', '-')}, met {text!r}.") from None
