"""Other plans within the same budgets: what one group gets back is taken from others."""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Iterable, Mapping

from attrs import evolve, field, frozen

from depgraph.choosing.budgets import Budget, LatencyModel, Number, budget_of
from depgraph.choosing.choose import default_couplings, limits_of
from depgraph.choosing.coupled import Coupling
from depgraph.choosing.memory import Memory
from depgraph.choosing.scopes import removal
from depgraph.choosing.scores import Scores
from depgraph.errors import PlanError
from depgraph.graph.arguments import of_graph
from depgraph.graph.graph import Graph
from depgraph.plans.making import plan_of
from depgraph.plans.plan import Plan, Target

_SHARE = 4
"""One step moves at most this part of a group's units."""


@frozen
class Shifts:
    """What `shifts` makes: a function of a plan and a source of numbers that gives another plan within the budgets."""

    _graph: Graph = field(repr=False)
    _couplings: tuple[Coupling, ...] = field(repr=False)
    _budgets: tuple[Budget, ...]

    def __call__(self, plan: Plan, draw: random.Random) -> Plan | None:
        """Another plan within the budgets; None where the draw leads to none.

        Raises:
            PlanError: the plan drops elements, or cuts groups that do not take part.
        """
        units = self._units(plan)
        before = dict(units)
        receivers = [position for position, count in units.items() if count]
        receiver = draw.choice(receivers) if receivers else None
        if receiver is not None:
            units[receiver] -= draw.randint(1, min(units[receiver], self._stride(receiver)))
        donors = [position for position in units if position != receiver]
        draw.shuffle(donors)
        for position in donors * _SHARE:
            if self._fits(units):
                break
            self._cut(units, position)
        if units == before or not self._fits(units):
            return None
        order = [position for position, count in units.items() for _ in range(count)]
        targets = tuple(Target(budget.name, budget.limit, budget.cost(_some(units))) for budget in self._budgets)
        return evolve(plan_of(self._graph, removal(self._couplings, order)), targets=targets)

    def _units(self, plan: Plan) -> dict[int, int]:
        """How many units of each coupling a plan removes; where it stands between two, the fewer."""
        counts = {cut.group: cut.count for cut in plan.cuts}
        known = {group.name for coupling in self._couplings for group in coupling.groups}
        if plan.drops or not known >= {*counts}:
            raise PlanError(
                f"expected a plan that cuts none but groups that take part, met {sorted({*counts} - known)[:6]} and "
                f"{len(plan.drops)} lists that lose elements; name these groups with only=, and leave the lists whole."
            )
        return {
            position: bisect_right(coupling.steps, min(counts.get(group.name, 0) for group in coupling.groups))
            for position, coupling in enumerate(self._couplings)
        }

    def _stride(self, position: int) -> int:
        """How many units of a coupling one step moves at most."""
        return max(1, len(self._couplings[position].steps) // _SHARE)

    def _fits(self, units: Mapping[int, int]) -> bool:
        return all(budget.cost(_some(units)) <= budget.limit for budget in self._budgets)

    def _cut(self, units: dict[int, int], position: int) -> None:
        """Remove the fewest units with which the budgets are kept, or as many as one step may."""
        few = units[position]
        most = min(len(self._couplings[position].steps), few + self._stride(position))
        enough = most
        while enough - few > 1:
            middle = (few + enough) // 2
            few, enough = (few, middle) if self._fits(units | {position: middle}) else (middle, enough)
        units[position] = enough


def _some(units: Mapping[int, int]) -> dict[int, int]:
    return {position: count for position, count in units.items() if count}


@of_graph
def shifts(
    graph: Graph,
    scores: Scores,
    budgets: Mapping[str, Number],
    *,
    memory_model: Memory | None = None,
    latency_model: LatencyModel | None = None,
    max_ratio: float | Mapping[str, float] | None = None,
    min_width: int | Mapping[str, int] | None = None,
    round_to: int | Mapping[str, int] | None = None,
    ignore: Iterable[str] = (),
    only: Iterable[str] | None = None,
    uniform: str | Iterable[str | tuple[str, ...]] = (),
) -> Shifts:
    """The mutation of `dg.evolve` that keeps budgets: one group gets indices back, others lose what then is too much.

    The group that gets back is drawn, and how much, up to a quarter of it; others lose the fewest indices that bring the plan
    within the budgets again, in an order that is drawn. In each group the least important are gone, so that only the widths
    are searched. Balanced and uniform groups move together, and all in the steps that their multiples allow.

    Args:
        graph: the graph of the plans.
        scores: in which order the indices of a group go, as for `dg.plan`.
        budgets: what is to remain at most of `params`, `active_params`, `macs`, `memory` and `latency`, as for `dg.plan`.
        memory_model: what `memory` counts.
        latency_model: a function of a graph, what `latency` counts.
        max_ratio: as for `dg.plan`.
        min_width: as for `dg.plan`.
        round_to: as for `dg.plan`.
        ignore: as for `dg.plan`.
        only: as for `dg.plan`.
        uniform: as for `dg.plan`.

    Returns:
        A function of a plan and a `random.Random`; it draws from nothing else, and gives None where it found no other plan.

    Raises:
        PlanError: budgets that are none, scores that do not fit, or nothing to prune.

    >>> import random, torch, depgraph as dg
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 8), torch.nn.Linear(8, 2))
    >>> graph = dg.trace(model, torch.zeros(1, 4))
    >>> scores = {group.name: range(8) for group in graph.groups}
    >>> move = dg.choosing.shifts(graph, scores, {"macs": 0.5})
    >>> start = dg.plan(graph, scores, macs=0.5)
    >>> other = move(start, random.Random(0))
    >>> [plan.apply(graph).macs for plan in (start, other)], {cut.group: cut.count for cut in other.cuts}
    ([55, 52], {'0.weight:0': 4, '1.weight:0': 2})
    """
    if not isinstance(budgets, Mapping) or not budgets:
        raise PlanError(f"expected budgets such as {{'macs': 0.5}}, met {budgets!r}.")
    if unknown := [name for name in budgets if name not in _NAMES]:
        raise PlanError(f"expected budgets of {', '.join(_NAMES)}, met {unknown}.")
    if ("latency" in budgets) != (latency_model is not None):
        raise PlanError("a budget of latency and latency_model= belong together.")
    limits = limits_of(graph, max_ratio, min_width, round_to)
    couplings = [item for item in default_couplings(graph, scores, limits, ignore, only, uniform) if item.steps]
    if not couplings:
        raise PlanError("no group can lose an index: every one is at its lower bound, left out, or balanced with one that is.")
    made = [
        budget_of(graph, couplings, name, value, latency_model if name == "latency" else None, memory_model)
        for name, value in budgets.items()
    ]
    return Shifts(graph, tuple(couplings), tuple(made))


_NAMES = ("params", "active_params", "macs", "memory", "latency")
