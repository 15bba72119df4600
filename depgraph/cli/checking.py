"""The verdicts of `depgraph check`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from attrs import asdict, frozen

from depgraph.choosing import engines
from depgraph.cli.planning import settings_of
from depgraph.errors import MismatchError
from depgraph.graph.graph import Graph
from depgraph.graph.tables import printable
from depgraph.plans.plan import Plan

_REFUSED = frozenset({"refused", "differs"})
"""What makes a model unusable in an engine; other findings are told, and no failure."""


@frozen
class Verdict:
    """Whether a plan fits one thing.

    Attributes:
        against: what it was compared with.
        ok: whether it fits.
        problems: why not, or what is to be known.
        findings: an engine's, as data.
    """

    against: str
    ok: bool
    problems: tuple[str, ...] = ()
    findings: tuple[engines.Finding, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain data."""
        return asdict(self)

    def __str__(self) -> str:
        lines = "".join(f"\n  {printable(problem)}" for problem in self.problems)
        return f"{printable(self.against)}: {'fits' if self.ok else 'does not fit'}{lines}"


def verdicts(
    plan: Plan | None,
    graph: Graph | None,
    *,
    checkpoint: str | None,
    model: str | None,
    engine: str | None,
    settings: Sequence[str],
    no_strict: bool,
) -> Iterator[Verdict]:
    """One verdict for each thing that is given."""
    if plan is not None:
        yield Verdict("the plan by itself", not plan.problems, plan.problems)
        if graph is not None:
            yield _told("the graph", lambda: plan.apply(graph))
        if checkpoint is not None:
            yield _told(checkpoint, lambda: _check_checkpoint(plan, checkpoint, not no_strict))
        if model is not None:
            yield _told(model, lambda: _check_model(plan, model))
    if engine is not None and graph is not None:
        report = engines.check(graph, engine, plan=plan, **settings_of(settings))
        ok = not any(finding.effect in _REFUSED for finding in report.findings)
        yield Verdict(report.engine, ok, tuple(str(report).splitlines()[1:]), report.findings)


def _told(against: str, compare: Callable[[], object]) -> Verdict:
    try:
        compare()
    except MismatchError as error:
        return Verdict(against, False, error.problems)
    return Verdict(against, True)


def _check_checkpoint(plan: Plan, checkpoint: str, strict: bool) -> None:
    from depgraph.execution.checkpoints import check_checkpoint

    check_checkpoint(plan, checkpoint, strict=strict)


def _check_model(plan: Plan, model: str) -> None:
    from depgraph.cli.models import model_alone
    from depgraph.execution.fitting import checked, fitting

    fitting(plan, checked(plan, model_alone(model)))
