"""Where an order of units is cut so that what remains keeps a budget."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from attrs import frozen

from depgraph.algebra.numbers import is_number
from depgraph.algebra.spaces import Atom
from depgraph.choosing.costs import CostPolynomial, Terms, macs_terms, params_terms
from depgraph.choosing.coupled import Coupling
from depgraph.choosing.experts import active_terms
from depgraph.choosing.memory import Memory
from depgraph.choosing.scopes import removal
from depgraph.errors import PlanError
from depgraph.graph.canonical import shrunk
from depgraph.graph.graph import Graph
from depgraph.plans.plan import Target

Number: TypeAlias = int | float


LatencyModel: TypeAlias = Callable[[Graph], float]
"""What a graph costs, by a function of the user's, such as a latency."""


def terms_of(graph: Graph, name: str, memory_model: Memory | None = None) -> Terms:
    """The polynomial of a budget by its name."""
    if name == "memory":
        return (memory_model or Memory()).terms(graph)
    return {"params": params_terms, "active_params": active_terms, "macs": macs_terms}[name](graph)


@frozen
class Budget:
    """A cost and the largest value of it that may remain.

    Attributes:
        name: ``params``, ``active_params``, ``macs``, ``memory`` or ``latency``.
        requested: the number that the caller gave, for messages.
        limit: the largest cost that is allowed.
        total: the cost of the whole graph.
        cost: the cost after the given number of units of each coupling.
    """

    name: str
    requested: Number
    limit: Number
    total: Number
    cost: Callable[[Mapping[int, int]], Number]


def budget_of(
    graph: Graph,
    couplings: Sequence[Coupling],
    name: str,
    requested: Number,
    latency_model: LatencyModel | None = None,
    memory_model: Memory | None = None,
) -> Budget:
    """A budget of a polynomial cost or of a latency: a fraction in (0, 1] of the graph's cost, or the cost itself, above 1.

    Raises:
        PlanError: the number is no budget, or the latency model gives no cost.
    """
    check_budget(name, requested)
    cost: Callable[[Mapping[int, int]], Number]
    if latency_model is None:
        polynomial = CostPolynomial(terms_of(graph, name, memory_model))

        def cost(units: Mapping[int, int]) -> Number:
            return polynomial(_sizes(couplings, units))

    else:
        measure = latency_model

        def cost(units: Mapping[int, int]) -> Number:
            order = [position for position, count in units.items() for _ in range(count)]
            return _measured_cost(measure, shrunk(graph, removal(couplings, order)))

    total = cost({})
    return Budget(name, requested, requested * total if requested <= 1 else requested, total, cost)


def cut_where_met(
    couplings: Sequence[Coupling], order: Sequence[int], budgets: Sequence[Budget]
) -> tuple[int, tuple[Target, ...]]:
    """The smallest number of units of an order whose removal meets all budgets, and what the graph costs then.

    Raises:
        PlanError: a budget is not met even when every unit goes.
    """
    cache: dict[int, tuple[Number, ...]] = {}

    def costs(count: int) -> tuple[Number, ...]:
        if count not in cache:
            units = Counter(order[:count])
            cache[count] = tuple(budget.cost(units) for budget in budgets)
        return cache[count]

    def met(count: int) -> bool:
        return all(cost <= budget.limit for cost, budget in zip(costs(count), budgets, strict=True))

    if not met(0):
        if not met(len(order)):
            raise PlanError(_out_of_reach(couplings, costs(len(order)), budgets))
        too_few, enough = 0, len(order)
        while enough - too_few > 1:
            middle = (too_few + enough) // 2
            too_few, enough = (too_few, middle) if met(middle) else (middle, enough)
    else:
        enough = 0
    realised = zip(budgets, costs(enough), strict=True)
    return enough, tuple(Target(budget.name, budget.limit, cost) for budget, cost in realised)


def check_budget(name: str, requested: object) -> None:
    """Raise `PlanError` for a number that is no budget."""
    integral = name != "latency"
    if not is_number(requested) or not _is_budget(requested, integral):
        number = "a whole number" if integral else "a number"
        raise PlanError(
            f"expected {name}= in (0, 1], the fraction that is to remain, or {number} above 1, the cost itself; "
            f"met {requested!r}."
        )


def _is_budget(requested: Number, integral: bool) -> bool:
    return 0 < requested <= 1 or (requested > 1 and (not integral or requested == int(requested)))


def _sizes(couplings: Sequence[Coupling], units: Mapping[int, int]) -> dict[Atom, int]:
    return {
        group.atom: group.size - couplings[position].steps[count - 1]
        for position, count in units.items()
        for group in couplings[position].groups
    }


def _measured_cost(latency_model: LatencyModel, graph: Graph) -> Number:
    cost = latency_model(graph)
    if not is_number(cost) or not cost > 0:
        raise PlanError(f"expected a positive number from the function that measures a graph, met {cost!r}.")
    return cost


def _out_of_reach(couplings: Sequence[Coupling], min_costs: Sequence[Number], budgets: Sequence[Budget]) -> str:
    single_left = all(group.size - max((0, *coupling.steps)) == 1 for coupling in couplings for group in coupling.groups)
    state = "with one index left in each group" if single_left else "with as little left in each group as its limits allow"
    problems = [
        f"{budget.name}={budget.requested} is out of reach: {state}, "
        f"{cost / budget.total:.4f} of the {budget.name} remain, which is {cost:,}"
        for budget, cost in zip(budgets, min_costs, strict=True)
        if cost > budget.limit
    ]
    return "; ".join(problems) + ". Ask for more, or relax what limits the cut."
