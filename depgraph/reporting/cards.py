"""What a model costs, before and after plans, beside what was asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from attrs import evolve, frozen

from depgraph.choosing.budgets import LatencyModel, Number, terms_of
from depgraph.choosing.costs import CostPolynomial
from depgraph.choosing.memory import Memory
from depgraph.graph.graph import Graph
from depgraph.plans.plan import Plan
from depgraph.reporting.folding import Encoded

ELEMENT_BITS = (32, 16, 8, 4)
"""How weights are stored: a graph does not say it, so the page tells what they take in each form."""

Results: TypeAlias = Sequence[tuple[Plan, Graph]]
"""Plans with the graphs that they lead to."""


@frozen
class Costs:
    """What `report` was told of costs that a graph alone does not have.

    Attributes:
        memory: what is in memory.
        latency: what a graph costs by a function of the user's.
    """

    memory: Memory | None = None
    latency: LatencyModel | None = None


def cards(graph: Graph, results: Results, costs: Costs) -> list[Encoded]:
    """Parameters, MACs, memory and what else the plans were made for: before, after each plan, and asked of it.

    A card may have parts, each with its name and what it is before and after.
    """
    targets = [{item.name: item for item in plan.targets} for plan, _ in results]
    others = dict.fromkeys(name for named in targets for name in named)
    if costs.latency is not None:
        others["latency"] = None
    found = []
    for name in dict.fromkeys(("params", "macs", "memory", *others)):
        realised = [named[name].realised if name in named else None for named in targets]
        before, after = _measured(graph, results, name, realised, costs)
        asked = [named[name].requested if name in named else None for named in targets]
        card: Encoded = {"name": name, "before": before, "after": after, "asked": asked}
        if name == "memory":
            card["parts"] = _parts([graph, *(result for _, result in results)], costs.memory, [before, *after])
        found.append(card)
    return found


def _measured(
    graph: Graph, results: Results, name: str, realised: Sequence[Number | None], costs: Costs
) -> tuple[Number | None, list[Number | None]]:
    """A cost before, if it is known how it was counted, and after each plan."""
    graphs = [result for _, result in results]
    if name == "params":
        return graph.params, [item.params for item in graphs]
    if name == "macs":
        return graph.macs, [item.macs for item in graphs]
    if name == "memory":
        return _memory(graph, graphs, realised, costs.memory)
    if name == "latency":
        if costs.latency is None:
            return None, list(realised)
        after: list[Number | None] = [
            costs.latency(item) if known is None else known for item, known in zip(graphs, realised, strict=True)
        ]
        return costs.latency(graph), after
    return CostPolynomial(terms_of(graph, name))({}), [CostPolynomial(terms_of(item, name))({}) for item in graphs]


def _memory(
    graph: Graph, graphs: Sequence[Graph], realised: Sequence[Number | None], model: Memory | None
) -> tuple[Number | None, list[Number | None]]:
    """By the model that was given, or that of `dg.plan`; None, if that gives something else than the plans came to."""
    counts = model or Memory()
    after: list[Number | None] = [counts(item) for item in graphs]
    if model is None and any(known not in (None, item) for known, item in zip(realised, after, strict=True)):
        return None, list(realised)
    return counts(graph), after


def _parts(graphs: Sequence[Graph], model: Memory | None, totals: Sequence[Number | None]) -> list[Encoded]:
    """What the weights take in each form of their elements; and of a model, its weights, and its cache and states."""
    rows: Mapping[str, Sequence[Number]] = {}
    if model is not None:
        weights = [evolve(model, cache_tokens=0, cache=0)(item) for item in graphs]
        cache = [(total or 0) - known for total, known in zip(totals, weights, strict=True)]
        rows = {"weights": weights} | ({_cache_name(model): cache} if any(cache) else {})
    rows = {**rows, **{f"weights of {bits} bits": [item.params * bits / 8 for item in graphs] for bits in ELEMENT_BITS}}
    return [{"name": name, "before": values[0], "after": list(values[1:])} for name, values in rows.items()]


def _cache_name(model: Memory) -> str:
    if not isinstance(model.cache_tokens, int) or not model.cache_tokens:
        return "cache and states"
    sequences = "1 sequence" if model.batch == 1 else f"{model.batch:,} sequences"
    return f"cache of {model.cache_tokens:,} tokens, {sequences}"
