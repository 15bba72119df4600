"""Search by mutation: a population of plans, of which the fittest go on."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import count
from typing import TypeAlias

from attrs import frozen

from depgraph.algebra.numbers import is_whole
from depgraph.choosing.scores import Scores
from depgraph.choosing.shifting import shifts
from depgraph.errors import MismatchError, PlanError
from depgraph.graph.arguments import of_graph
from depgraph.graph.graph import Graph
from depgraph.plans.plan import Plan
from depgraph.progress import shown

Mutate: TypeAlias = Callable[[Plan, random.Random], Plan | None]
"""A function of a plan and a source of numbers; None where it found no other plan."""


@frozen
class Evaluated:
    """A plan with its fitness.

    Attributes:
        plan: the plan.
        fitness: what the function gave for it.

    >>> import torch, depgraph as dg
    >>> graph = dg.trace(torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2)), torch.zeros(1, 4))
    >>> first = next(dg.evolve(graph, dg.cut(graph, "0.weight", [2, 6], dim=0), lambda plan, draw: None, lambda plan: 1.5))
    >>> isinstance(first.population[0], Evaluated), first.population[0].fitness
    (True, 1.5)
    """

    plan: Plan
    fitness: float


@frozen
class Generation:
    """A step of `evolve`.

    Attributes:
        number: 0 for that of the start.
        population: the plans that go on, the fittest first.
        evaluations: how often the fitness was asked for by now.

    >>> import torch, depgraph as dg
    >>> graph = dg.trace(torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2)), torch.zeros(1, 4))
    >>> first = next(dg.evolve(graph, dg.cut(graph, "0.weight", [2, 6], dim=0), lambda plan, draw: None, lambda plan: 1.5))
    >>> isinstance(first, Generation), first.number, first.evaluations, dict(first.best.removed)
    (True, 0, 1, {'0.weight:0': IndexSet('2,6')})
    """

    number: int
    population: tuple[Evaluated, ...]
    evaluations: int

    @property
    def best(self) -> Plan:
        """The fittest plan."""
        return self.population[0].plan


@of_graph
def evolve(
    graph: Graph,
    start: Plan | Iterable[Plan],
    mutate: Mutate | Scores,
    fitness: Callable[[Plan], float],
    *,
    population: int = 8,
    children: int = 8,
    seed: int = 0,
    progress: bool = False,
) -> Iterator[Generation]:
    """Generations without end: children are mutated plans, and the fittest of parents and children go on.

    Nothing is executed but the two functions, and no state is kept elsewhere: the same arguments give the same generations,
    if the functions do. Each plan's fitness is asked for once. Of plans of equal fitness the older goes on.

    Args:
        graph: the graph that the plans are for.
        start: one or several plans for it.
        mutate: the scores of `dg.plan`: then `dg.choosing.shifts` moves what is cut from group to group, within the budgets of
            the first plan, or within its MACs where it was made for none. Or `shifts` with limits and budgets of your own. Or
            any function that gives another plan for the graph, or None, in which case the child is left out; it draws from
            the `random.Random` that it is given.
        fitness: higher is better; minus infinity for a plan that is not to go on, such as one over its budget.
        population: how many plans go on.
        children: how many are made in each generation.
        seed: of the draws.
        progress: count the generations in a progress bar; needs the package tqdm.

    Yields:
        A `Generation`, the first one before any mutation.

    Raises:
        PlanError: no plan to start from, numbers out of range, a fitness that is no number, or what `shifts` raises.
        MismatchError: a plan that is for another graph.

    >>> import torch, depgraph as dg
    >>> from itertools import islice
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 8), torch.nn.Linear(8, 2))
    >>> graph = dg.trace(model, torch.zeros(1, 4))
    >>> scores = {group.name: range(8) for group in graph.groups}
    >>> def fitness(plan):                                              # the last layer is dear
    ...     return -sum(len(gone) * (9 if name == "2.weight:0" else 1) for name, gone in plan.removed.items())
    >>> start = dg.plan(graph, scores, macs=0.5)
    >>> last = list(islice(dg.evolve(graph, start, scores, fitness), 12))[-1]
    >>> last.number, fitness(start), last.population[0].fitness, last.best.apply(graph).macs <= 0.5 * graph.macs
    (11, -30, -5, True)
    """
    if not callable(fitness):
        raise PlanError(f"expected fitness= as a function of a plan, met {fitness!r}.")
    first = [start] if isinstance(start, Plan) else [*start]
    problems = [f"expected plans, met {type(plan).__name__}" for plan in first if not isinstance(plan, Plan)]
    if problems or not first:
        raise PlanError(f"{problems[0] if problems else 'expected at least one plan to start from'}.")
    for name, value in (("population", population), ("children", children)):
        if not is_whole(value, least=1):
            raise PlanError(f"expected {name}= as a whole number from 1 up, met {value!r}.")
    for plan in first:
        _check(graph, plan)
    if isinstance(mutate, Mapping):
        mutate = _shifts(graph, mutate, first)
    elif not callable(mutate):
        raise PlanError(f"expected mutate= as scores, or as a function of a plan and a random.Random, met {mutate!r}.")
    return _generations(graph, first, mutate, fitness, population, children, random.Random(seed), progress)


def _shifts(graph: Graph, scores: Scores, start: Sequence[Plan]) -> Mutate:
    """Moves within the budgets of the first plan, of all groups that are cut by default or by one of the plans."""
    targets = start[0].targets
    if modelled := [target.name for target in targets if target.name in ("memory", "latency")]:
        raise PlanError(
            f"the first plan keeps budgets of {' and '.join(modelled)}, which are measured by a model of yours; "
            "give dg.choosing.shifts(graph, scores, budgets, memory_model=..., latency_model=...) as mutate=."
        )
    budgets = {target.name: int(target.requested) for target in targets} or {"macs": start[0].apply(graph).macs}
    return shifts(graph, scores, budgets, only=["*", *{cut.group: None for plan in start for cut in plan.cuts}])


def _generations(
    graph: Graph,
    start: list[Plan],
    mutate: Mutate,
    fitness: Callable[[Plan], float],
    population: int,
    children: int,
    draws: random.Random,
    progress: bool,
) -> Iterator[Generation]:
    known: dict[Plan, float] = {}

    def evaluated(plans: Iterable[Plan]) -> list[Evaluated]:
        for plan in plans:
            if plan not in known:
                known[plan] = _fitness(fitness, plan)
        return [Evaluated(plan, known[plan]) for plan in plans]

    current = _fittest(evaluated(list(dict.fromkeys(start))), population)
    for number in shown(count(), "evolve", "generation", progress):
        yield Generation(number, current, len(known))
        made: dict[Plan, None] = {}
        for _ in range(children):
            plan = mutate(draws.choice(current).plan, draws)
            if plan is not None:
                _check(graph, plan)
                made[plan] = None
        held = {each.plan for each in current}
        current = _fittest([*current, *evaluated([plan for plan in made if plan not in held])], population)


def _fittest(plans: list[Evaluated], count: int) -> tuple[Evaluated, ...]:
    return tuple(sorted(plans, key=lambda each: -each.fitness)[:count])


def _fitness(fitness: Callable[[Plan], float], plan: Plan) -> float:
    value = fitness(plan)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or math.isnan(value):
        raise PlanError(f"expected a number as the fitness of a plan, met {value!r}; tensors have item().")
    return value


def _check(graph: Graph, plan: Plan) -> None:
    if plan.base != graph.fingerprint:
        problems = [f"expected fingerprint {graph.fingerprint[:12]}, met {plan.base[:12]}"]
        raise MismatchError("a plan is for another graph:", problems, "Make all plans from the graph that is given.")
