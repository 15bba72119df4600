"""`report`: a graph, and what plans do with it, as one page."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, SupportsFloat

from attrs import frozen

from depgraph import codec
from depgraph.choosing import engines
from depgraph.choosing.budgets import LatencyModel
from depgraph.choosing.memory import Memory
from depgraph.collector import without_collections
from depgraph.errors import PlanError, UnknownNameError
from depgraph.graph.graph import Graph
from depgraph.plans.plan import Plan
from depgraph.reporting.cards import Costs
from depgraph.reporting.data import report_data
from depgraph.reporting.pages import page


class HasPlan(Protocol):
    """What has a plan, such as a step of `dg.iterate` or an allocation of `dg.pareto`."""

    @property
    def plan(self) -> Plan:
        """The plan."""
        ...


@frozen
class Report:
    """A page about a graph and its plans.

    Attributes:
        title: the page's title.
        data: everything that it shows, as plain data for JSON.
        text: the plans as text, for readers without scripts.
    """

    title: str
    data: dict[str, Any]
    text: str

    @cached_property
    def html(self) -> str:
        """The whole page: the same characters for the same graph, plans and scores."""
        return page(self.title, self.data, self.text)

    def save(self, path: str | Path) -> None:
        """Write the page, whole or not at all."""
        codec.write_text(path, self.html)


@without_collections()
def report(
    graph: Graph,
    plan: Plan | None = None,
    other: Plan | None = None,
    scores: Mapping[str, Iterable[SupportsFloat]] | None = None,
    *,
    plans: Iterable[Plan | HasPlan] = (),
    memory_model: Memory | None = None,
    latency_model: LatencyModel | None = None,
    engine: str | engines.Report | None = None,
    title: str = "depgraph",
) -> Report:
    """A page to look at: one HTML file that needs no network, no server and no library.

    Args:
        graph: the traced model.
        plan: what is to be removed from it.
        other: a second plan of the same graph, shown beside the first one.
        scores: what `dg.score` returned, shown as strips of heat; any numbers by the names of groups.
        plans: instead of `plan` and `other`, any number of plans to go through one at a time: plans, or what has one, such as
            what `dg.pareto` and `dg.iterate` give.
        memory_model: what is in memory, as for `dg.plan`; without it weights alone, of two bytes.
        latency_model: a function of a graph that returns its cost, as for `dg.plan`: it tells the cost before.
        engine: what `dg.engines.check` found; or the name of an engine, which is then asked about the plan, the
            first one of several.
        title: the page's title.

    Raises:
        PlanError: something else than a graph or a plan, another plan without a first one, `plans` beside
            them, or scores of another length.
        UnknownNameError: scores of a group that the graph does not have.
        MismatchError: a plan was made for another graph.

    >>> import torch, depgraph as dg
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> graph = dg.trace(model, torch.zeros(1, 4))
    >>> scores = dg.score(graph, model, dg.Magnitude(p=2))
    >>> page = dg.report(graph, dg.plan(graph, scores, macs=0.5), scores=scores)
    >>> page.data["cards"][1]
    {'name': 'macs', 'before': 48, 'after': [24], 'asked': [24.0]}
    >>> steps = dg.report(graph, plans=[dg.plan(graph, scores, macs=share) for share in (0.75, 0.5, 0.25)])
    >>> steps.data["cards"][1]["after"]
    [36, 24, 12]
    >>> len(page.html) < 200_000, "http:" in page.html or "https:" in page.html
    (True, False)
    """
    given = [*plans] if isinstance(plans, Iterable) else [plans]
    chosen: list[Any] = [getattr(item, "plan", item) for item in given] or [item for item in (plan, other) if item is not None]
    problems = [*_problems(graph, plan, other, given, chosen)]
    if problems:
        raise PlanError.of(problems)
    _check_scores(graph, scores)
    found = engines.check(graph, engine, plan=chosen[0] if chosen else None) if isinstance(engine, str) else engine
    text = "\n\n".join(str(item) for item in (graph.coverage, *chosen))
    costs = Costs(memory_model, latency_model)
    return Report(title, report_data(graph, chosen, scores, found, costs, in_turn=len(given) > 1), text)


def _problems(graph: object, plan: object, other: object, given: Sequence[object], chosen: Sequence[object]) -> Iterator[str]:
    if not isinstance(graph, Graph):
        yield f"expected a Graph, met {type(graph).__name__}; dg.trace(model, inputs) makes one."
    for item in chosen:
        if not isinstance(item, Plan):
            yield f"expected a Plan, met {type(item).__name__}; load a file with dg.Plan.load(path)."
    if given and (plan is not None or other is not None):
        yield "expected plans= or a plan and another one, met both: dg.report(graph, plans=[plan, other, ...])."
    elif plan is None and other is not None:
        yield "expected a plan beside the other one: dg.report(graph, plan, other)."


def _check_scores(graph: Graph, scores: Mapping[str, Iterable[SupportsFloat]] | None) -> None:
    problems = []
    for name, values in (scores or {}).items():
        if name not in graph.groups_by_name:
            raise UnknownNameError("group", name, graph.groups_by_name)
        size, met = graph.groups_by_name[name].size, len(values)  # type: ignore[arg-type]
        if met != size:
            problems.append(f"scores of group {name!r}: expected {size}, met {met}.")
    if problems:
        raise PlanError.of(problems)
