"""Where an order of units is cut so that what remains keeps a budget."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from attrs import frozen

from depgraph.algebra.numbers import is_number
from depgraph.algebra.spaces import Atom
from depgraph.choosing.costs import CostPolynomial
from depgraph.choosing.coupled import Coupling
from depgraph.choosing.scopes import removal
from depgraph.errors import PlanError
from depgraph.graph.canonical import shrunk
from depgraph.graph.graph import Graph
from depgraph.plans.plan import Target

Number: TypeAlias = int | float


LatencyModel: TypeAlias = Callable[[Graph], float]
"""What a graph costs, by a function of the user's, such as a latency."""


@frozen
class Budget:
    """A cost and the most of it that may remain.

    Attributes:
        name: ``params``, ``macs`` or ``latency``.
        asked: what the caller gave, for messages.
        limit: the largest cost that is allowed.
        total: the cost of the whole graph.
        cost: the cost after the given number of units of each coupling.
    """

    name: str
    asked: Number
    limit: Number
    total: Number
    cost: Callable[[Mapping[int, int]], Number]


def budget_of(
    graph: Graph, couplings: Sequence[Coupling], name: str, asked: Number, latency_model: LatencyModel | None = None
) -> Budget:
    """The budget of `params`, `macs` or a latency: a fraction in (0, 1] of the graph's cost, or the cost itself, above 1.

    Raises:
        PlanError: the number is no budget, or the latency model gives no cost.
    """
    if not is_number(asked) or not _is_budget(asked, whole=latency_model is None):
        number = "a whole number" if latency_model is None else "a number"
        raise PlanError(
            f"expected {name}= in (0, 1], the fraction that is to remain, or {number} above 1, the cost itself; met {asked!r}."
        )
    cost: Callable[[Mapping[int, int]], Number]
    if latency_model is None:
        polynomial = CostPolynomial.of(graph, name)

        def cost(units: Mapping[int, int]) -> Number:
            return polynomial(_sizes(couplings, units))

    else:
        measure = latency_model

        def cost(units: Mapping[int, int]) -> Number:
            order = [position for position, count in units.items() for _ in range(count)]
            return _measured(measure, shrunk(graph, removal(couplings, order)))

    total = cost({})
    return Budget(name, asked, asked * total if asked <= 1 else asked, total, cost)


def cut_where_met(
    couplings: Sequence[Coupling], order: Sequence[int], budgets: Sequence[Budget]
) -> tuple[int, tuple[Target, ...]]:
    """How many units of an order go, and what the budgets come to: all are met, and with one unit less one of them is not.

    Raises:
        PlanError: a budget is not met even when every unit goes.
    """
    seen: dict[int, tuple[Number, ...]] = {}

    def costs(count: int) -> tuple[Number, ...]:
        if count not in seen:
            units = Counter(order[:count])
            seen[count] = tuple(budget.cost(units) for budget in budgets)
        return seen[count]

    def met(count: int) -> bool:
        return all(cost <= budget.limit for cost, budget in zip(costs(count), budgets, strict=True))

    if not met(0):
        if not met(len(order)):
            raise PlanError(_out_of_reach(couplings, costs(len(order)), budgets))
        missed, enough = 0, len(order)
        while enough - missed > 1:
            middle = (missed + enough) // 2
            missed, enough = (missed, middle) if met(middle) else (middle, enough)
    else:
        enough = 0
    realised = zip(budgets, costs(enough), strict=True)
    return enough, tuple(Target(budget.name, budget.limit, cost) for budget, cost in realised)


def _is_budget(asked: Number, whole: bool) -> bool:
    return 0 < asked <= 1 or (asked > 1 and (not whole or asked == int(asked)))


def _sizes(couplings: Sequence[Coupling], units: Mapping[int, int]) -> dict[Atom, int]:
    return {
        group.atom: group.size - couplings[position].steps[count - 1]
        for position, count in units.items()
        for group in couplings[position].groups
    }


def _measured(latency_model: LatencyModel, graph: Graph) -> Number:
    cost = latency_model(graph)
    if not is_number(cost) or not cost > 0:
        raise PlanError(f"expected a positive number from the function that measures a graph, met {cost!r}.")
    return cost


def _out_of_reach(couplings: Sequence[Coupling], least: Sequence[Number], budgets: Sequence[Budget]) -> str:
    whole = all(group.size - max((0, *coupling.steps)) == 1 for coupling in couplings for group in coupling.groups)
    state = "with one index left in each group" if whole else "with as little left in each group as its limits allow"
    missed = [
        f"{budget.name}={budget.asked} is out of reach: {state}, "
        f"{cost / budget.total:.4f} of the {budget.name} remain, which is {cost:,}"
        for budget, cost in zip(budgets, least, strict=True)
        if cost > budget.limit
    ]
    return "; ".join(missed) + ". Ask for more, or relax what limits the cut."
