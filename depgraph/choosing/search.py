"""The best allocation of a budget over all groups, given what each of them loses alone: a linear program over whole numbers.

One option is chosen for each curve. Costs are polynomials in the sizes of groups: a term with the sizes of one curve's groups
is a cost of its options; a term with several is one of combinations of their options, which get variables of their own whose
sums over all but one curve are that curve's choice (the local polytope of graphical models). So the program is exact, not
linearised. Terms are never negative: the smallest sizes are within the budgets or none are.

Where the items that are multiplied with each other have few combinations, as heads and their dims of one layer, each of these
sets is one class of a knapsack, which `knapsack` solves much faster.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from itertools import product
from math import prod
from typing import Any, TypeAlias

from attrs import evolve, field, frozen

from depgraph.algebra.partitions import Partition
from depgraph.algebra.polynomials import Monomial, Polynomial
from depgraph.algebra.ragged_sets import Removal
from depgraph.algebra.spaces import Atom, Product, Reversed, Space
from depgraph.choosing.budgets import Number, check_budget, terms_of
from depgraph.choosing.choose import limits_of, uniform_sets
from depgraph.choosing.costs import Terms
from depgraph.choosing.coupled import Limits
from depgraph.choosing.knapsack import Option, best_choices
from depgraph.choosing.memory import Memory
from depgraph.choosing.tables import Curve, Table
from depgraph.collector import without_collections
from depgraph.errors import MismatchError, PlanError
from depgraph.graph.arguments import of_graph
from depgraph.graph.graph import Graph
from depgraph.plans.making import plan_of
from depgraph.plans.plan import Plan, Target
from depgraph.progress import shown
from depgraph.read_only import read_only

BUDGETS = ("params", "active_params", "macs", "memory")

Budgets: TypeAlias = Mapping[str, Number]
Choice: TypeAlias = tuple[int, ...]
"""The position of an option for each item."""


@frozen
class Allocation:
    """How many indices each group loses, and what that costs.

    Attributes:
        counts: group name to the number of indices that go; groups that lose none are left out.
        loss: what the table says: the whole model's loss, and what each curve adds to it.
        targets: the budgets, as asked and as realised.

    >>> import torch, depgraph as dg
    >>> graph = dg.trace(torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2)), torch.zeros(1, 4))
    >>> table = dg.choosing.tabulate(
    ...     graph, {"0.weight:0": range(8)}, [0.25, 0.5], lambda plan: len(plan.removed.get("0.weight:0", ())))
    >>> (best,) = dg.pareto(graph, table, [{"params": 0.9}])
    >>> best
    Allocation(counts=mappingproxy({'0.weight:0': 2}), loss=2, targets=(Target(name='params', requested=52.2, realised=44),))
    >>> print(best.plan)
    <Plan: 1 groups, 3 axes, 2 attributes>
      0.weight:0: 2 of 8 indices go
      params: 44 of at most 52.2
    """

    counts: Mapping[str, int] = field(converter=read_only, hash=False)
    loss: float
    targets: tuple[Target, ...]
    _graph: Graph = field(repr=False, eq=False)
    _curves: tuple[Curve, ...] = field(repr=False, eq=False)

    @cached_property
    def plan(self) -> Plan:
        """The plan, made when it is asked for."""
        removed: dict[Atom, Removal] = {}
        for curve in self._curves:
            removed.update(curve.removed(self._graph, self.counts.get(curve.groups[0], 0)))
        return evolve(plan_of(self._graph, removed), targets=self.targets)


@frozen
class Item:
    """Curves of which one option is taken together.

    Attributes:
        curves: those that lose equally many indices.
        counts: how many each of their groups loses, for each option; the first one is 0.
        losses: what each option adds to the loss.
    """

    curves: tuple[Curve, ...]
    counts: tuple[int, ...]
    losses: tuple[float, ...]


@of_graph
@without_collections()
def pareto(
    graph: Graph,
    table: Table,
    budgets: Budgets | Iterable[Budgets],
    *,
    memory_model: Memory | None = None,
    top_k: int = 1,
    max_ratio: float | Mapping[str, float] | None = None,
    min_width: int | Mapping[str, int] | None = None,
    round_to: int | Mapping[str, int] | None = None,
    uniform: str | Iterable[str | tuple[str, ...]] = (),
    progress: bool = False,
) -> tuple[Allocation, ...]:
    """For each budget the allocation over all groups whose losses add up to least. Needs scipy; runs no model.

    The counts are those of the table, so that what is measured is what is chosen. The result is exact, up to 1e-9 of the
    largest loss: no choice of these counts within the budget has a smaller sum. Whether losses of single groups add up to
    that of all is the user's to check: `Allocation.loss` is what the table predicts. Where the widths of many layers are
    multiplied with each other, as along the stream of a network of convolutions, a proof may take long; fewer ratios in the
    table help.

    Args:
        graph: the graph that the table is of.
        table: from `dg.sensitivity`, or from `dg.choosing.tabulate`.
        budgets: one or several mappings from `params`, `active_params`, `macs` and `memory` to what is to remain at most, as
            for `dg.plan`, such as ``[{"macs": 0.75}, {"macs": 0.5, "memory": 2**30}]``.
        memory_model: what `memory` counts.
        top_k: how many allocations each budget gets, the best first, all of them distinct: which one is best may change when
            they are trained on. Fewer where there are no more.
        max_ratio: as for `dg.plan`; counts of the table that it forbids are not chosen.
        min_width: likewise.
        round_to: likewise.
        uniform: as for `dg.plan`: groups that are to lose equally many indices. Their losses are added up at each count that
            all their curves have.
        progress: show a progress bar over the budgets; needs the package tqdm.

    Returns:
        The allocations, in the order of the budgets. `Allocation.plan` is the plan.

    Raises:
        PlanError: budgets that are none or out of reach, an incomplete table, scipy is not installed, or the sizes of so many
            groups are multiplied with each other that there are too many combinations.
        MismatchError: the table is of another graph.

    >>> import torch, depgraph as dg
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 8), torch.nn.Linear(8, 2))
    >>> graph = dg.trace(model, torch.zeros(1, 4))
    >>> weights = {"0.weight:0": 1, "1.weight:0": 3}                       # the second is more sensitive
    >>> table = dg.choosing.tabulate(
    ...     graph, dict.fromkeys(weights, range(8)), [0.25, 0.5, 0.75],
    ...     lambda plan: sum(weights[name] * len(gone) for name, gone in plan.removed.items()))
    >>> [dict(best.counts) for best in dg.pareto(graph, table, [{"params": 0.8}, {"params": 0.4}])]
    [{'0.weight:0': 2}, {'0.weight:0': 6}]
    >>> [(dict(found.counts), found.loss) for found in dg.pareto(graph, table, {"params": 0.8}, top_k=2)]
    [({'0.weight:0': 2}, 2), ({'0.weight:0': 4}, 4)]
    """
    asked = [budgets] if isinstance(budgets, Mapping) else [*budgets]
    _check(graph, table, asked, top_k, memory_model)
    limits = limits_of(graph, max_ratio, min_width, round_to)
    items = _items(graph, table, limits, uniform)
    names = list(dict.fromkeys(name for budget in asked for name in budget))
    costs = {name: Costs.of(graph, items, terms_of(graph, name, memory_model)) for name in names}
    requested = [
        {name: value * costs[name].at((0,) * len(items)) if value <= 1 else value for name, value in budget.items()}
        for budget in asked
    ]
    _refuse_unreachable(items, costs, requested)
    solver = Knapsack.of(items, costs) or Program(items, costs)
    found = []
    for budget in shown(requested, "pareto", "budget", progress):
        for choice in solver.best(budget, top_k):
            targets = tuple(Target(name, limit, costs[name].at(choice)) for name, limit in budget.items())
            loss = table.whole + sum(item.losses[option] for item, option in zip(items, choice, strict=True))
            counts = {
                name: item.counts[option]
                for item, option in zip(items, choice, strict=True)
                for curve in item.curves
                for name in curve.groups
                if option
            }
            found.append(Allocation(counts, loss, targets, graph, table.curves))
    return tuple(found)


def _check(graph: Graph, table: Table, budgets: Sequence[Budgets], top_k: int, memory_model: Memory | None) -> None:
    if not isinstance(table, Table):
        raise PlanError(f"expected a table from dg.sensitivity or dg.choosing.tabulate, met {type(table).__name__}.")
    if table.base != graph.fingerprint:
        problems = [f"expected fingerprint {graph.fingerprint[:12]}, met {table.base[:12]}"]
        raise MismatchError("the table is of another graph:", problems, "Measure this graph, or load the one that it is of.")
    if not table.is_complete:
        raise PlanError("the table lacks losses, because its run was interrupted; go on with the same path=.")
    if not isinstance(top_k, int) or top_k < 1:
        raise PlanError(f"expected top_k= as a whole number from 1 up, met {top_k!r}.")
    for budget in budgets:
        unknown = [name for name in budget if name not in BUDGETS] if isinstance(budget, Mapping) else [budget]
        if unknown or not budget:
            raise PlanError(f"expected budgets such as {{'macs': 0.5}}, of {', '.join(BUDGETS)}, met {budget!r}.")
        for name, value in budget.items():
            check_budget(name, value)
    if memory_model is not None and not any("memory" in budget for budget in budgets):
        raise PlanError("memory_model= says what a memory budget counts, and none of the budgets has one.")


def _items(graph: Graph, table: Table, limits: Limits, uniform: str | Iterable[str | tuple[str, ...]]) -> tuple[Item, ...]:
    """What is chosen, with the counts that the limits allow."""
    curve_of = {name: number for number, curve in enumerate(table.curves) for name in curve.groups}
    partition: Partition[int] = Partition()
    frozen_curves = set[int]()
    for groups in uniform_sets(graph, uniform):
        numbers = [curve_of[group.name] for group in groups if group.name in curve_of]
        for number in numbers[1:]:
            partition.join(numbers[0], number)
        if numbers and any(group.name not in curve_of for group in groups):
            frozen_curves.add(numbers[0])
    classes: dict[int, list[int]] = {}
    for number in range(len(table.curves)):
        classes.setdefault(partition.representative(number), []).append(number)
    items = []
    for numbers in classes.values():
        curves = tuple(table.curves[number] for number in numbers)
        increments = [
            {count: loss - table.whole for count, loss in zip(curve.counts, curve.losses, strict=True)} for curve in curves
        ]
        counts = [
            count
            for count in curves[0].counts
            if not frozen_curves & {*numbers}
            and all(count in known for known in increments)
            and all(_is_allowed(graph, name, count, limits) for curve in curves for name in curve.groups)
        ]
        losses = [sum(known[count] for known in increments) for count in counts]
        items.append(Item(curves, (0, *counts), (0, *losses)))
    return tuple(items)


def _is_allowed(graph: Graph, name: str, count: int, limits: Limits) -> bool:
    size = graph.groups_by_name[name].size
    return (
        count <= size * limits.max_ratios.get(name, 1.0) + 1e-9
        and size - count >= limits.min_widths.get(name, 1)
        and (size - count) % limits.multiples.get(name, 1) == 0
    )


@frozen
class Costs:
    """A cost as a function of the options.

    Attributes:
        constant: what is there whatever is chosen.
        tables: positions of items to what each combination of their options costs, in the order of `itertools.product`.
    """

    constant: Number
    tables: Mapping[tuple[int, ...], tuple[Number, ...]]
    _lengths: tuple[int, ...]

    @classmethod
    def of(cls, graph: Graph, items: Sequence[Item], terms: Terms) -> Costs:
        """The cost that a polynomial gives."""
        owner: dict[int, int] = {}
        sizes: dict[int, tuple[int, ...]] = {}
        for position, item in enumerate(items):
            for curve in item.curves:
                for name in curve.groups:
                    atom = graph.groups_by_name[name].atom
                    owner[atom.id], sizes[atom.id] = position, tuple(atom.size - count for count in item.counts)
        by_items: dict[tuple[int, ...], list[tuple[Monomial, Number]]] = {}
        for monomial, scale in expanded(terms, owner).items():
            by_items.setdefault(tuple(sorted({owner[atom] for atom in monomial})), []).append((monomial, scale))
        lengths = tuple(len(item.counts) for item in items)
        constant = sum(scale for _, scale in by_items.pop((), ()))
        if sum(prod(lengths[each] for each in scope) for scope in by_items) > _MOST:
            raise PlanError(
                f"more than {_MOST:,} combinations of widths are multiplied with each other; ask for fewer ratios in the "
                "table, or for uniform= ones."
            )
        tables = {}
        for scope, monomials in by_items.items():
            values = []
            for options in product(*(range(lengths[each]) for each in scope)):
                option = dict(zip(scope, options, strict=True))
                values.append(
                    sum(scale * prod(sizes[atom][option[owner[atom]]] for atom in monomial) for monomial, scale in monomials)
                )
            tables[scope] = tuple(values)
        return cls(constant, tables, lengths)

    def at(self, choice: Choice) -> Number:
        """The cost of a choice."""
        return self.constant + self.part(self.tables, dict(enumerate(choice)))

    def part(self, scopes: Iterable[tuple[int, ...]], chosen: Mapping[int, int]) -> Number:
        """What the terms of some scopes cost, given the options of their items."""
        total: Number = 0
        for scope in scopes:
            place = 0
            for each in scope:
                place = place * self._lengths[each] + chosen[each]
            total += self.tables[scope][place]
        return total


_MOST = 400_000


def expanded(terms: Terms, variable: Mapping[int, int]) -> dict[Monomial, Number]:
    """A polynomial in spaces as one in the atoms that may change; all others count by their sizes."""
    memo: dict[Space, Polynomial] = {}

    def of(space: Space) -> Polynomial:
        if space not in memo:
            if isinstance(space, Reversed):
                memo[space] = of(space.atom)
            elif isinstance(space, Atom):
                memo[space] = Polynomial.variable(space.id) if space.id in variable else Polynomial.constant(space.size)
            elif isinstance(space, Product):
                memo[space] = multiplied(space.factors)
            else:
                memo[space] = Polynomial.sum([of(part) for part in space.parts])
        return memo[space]

    def multiplied(spaces: Iterable[Space]) -> Polynomial:
        result = Polynomial.constant(1)
        for space in spaces:
            result = result * of(space)
        return result

    total: dict[Monomial, Number] = {}
    for axes, scale in terms.items():
        for monomial, count in multiplied(axes).terms:
            total[monomial] = total.get(monomial, 0) + scale * count
    return total


def _refuse_unreachable(items: Sequence[Item], costs: Mapping[str, Costs], requested: Sequence[Mapping[str, Number]]) -> None:
    least = tuple(len(item.counts) - 1 for item in items)
    problems = [
        f"{name}={limit:,} is out of reach: with as little left as the table knows and the limits allow, "
        f"{costs[name].at(least):,} remain. Ask for more, or measure larger ratios."
        for budget in requested
        for name, limit in budget.items()
        if costs[name].at(least) > limit
    ]
    if problems:
        raise PlanError.of(problems)


@frozen
class Knapsack:
    """Classes whose costs and losses add up: sets of items that are multiplied with each other, in all combinations."""

    items: tuple[Item, ...]
    costs: Mapping[str, Costs]
    classes: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, items: tuple[Item, ...], costs: Mapping[str, Costs]) -> Knapsack | None:
        """The classes; None where one would have too many options."""
        partition: Partition[int] = Partition()
        for scope in {scope for cost in costs.values() for scope in cost.tables}:
            for each in scope[1:]:
                partition.join(scope[0], each)
        classes: dict[int, list[int]] = {}
        for position in range(len(items)):
            classes.setdefault(partition.representative(position), []).append(position)
        if any(prod(len(items[each].counts) for each in members) > _MOST_OPTIONS for members in classes.values()):
            return None
        return cls(items, costs, tuple(map(tuple, classes.values())))

    def best(self, budget: Mapping[str, Number], count: int) -> list[Choice]:
        """The choices with the smallest losses, at most so many."""
        options = [[*product(*(range(len(self.items[each].counts)) for each in members))] for members in self.classes]
        costs = [self.costs[name] for name in budget]
        limits = [limit - cost.constant for limit, cost in zip(budget.values(), costs, strict=True)]
        parts = [self._parts(cost) for cost in costs]
        classes = []
        for number, (members, combinations) in enumerate(zip(self.classes, options, strict=True)):
            rows = []
            for combination in combinations:
                chosen = dict(zip(members, combination, strict=True))
                loss = sum(self.items[each].losses[option] for each, option in chosen.items())
                rows.append(
                    Option(loss, tuple(cost.part(scopes[number], chosen) for cost, scopes in zip(costs, parts, strict=True)))
                )
            classes.append(rows)
        found = best_choices(classes, limits, _prices(classes, limits), count)
        return [self._choice(options, positions) for positions in found]

    def _parts(self, cost: Costs) -> list[list[tuple[int, ...]]]:
        """The scopes of a cost, by class."""
        class_of = {each: number for number, members in enumerate(self.classes) for each in members}
        parts: list[list[tuple[int, ...]]] = [[] for _ in self.classes]
        for scope in cost.tables:
            parts[class_of[scope[0]]].append(scope)
        return parts

    def _choice(self, options: Sequence[Sequence[tuple[int, ...]]], positions: Sequence[int]) -> Choice:
        chosen: dict[int, int] = {}
        for members, combinations, position in zip(self.classes, options, positions, strict=True):
            chosen.update(zip(members, combinations[position], strict=True))
        return tuple(chosen[each] for each in range(len(self.items)))


_MOST_OPTIONS = 2_000


def _prices(classes: Sequence[Sequence[Option]], limits: Sequence[Number]) -> list[float]:
    """What a unit of each cost is worth in the linear relaxation: how much the loss falls for one more."""
    optimize, sparse = _scipy()
    options = [option for rows in classes for option in rows]
    owners = [number for number, rows in enumerate(classes) for _ in rows]
    scales = [1 / max(limit, 1) for limit in limits]
    found = optimize.linprog(
        [option.loss for option in options],
        A_ub=[[option.costs[k] * scale for option in options] for k, scale in enumerate(scales)],
        b_ub=[limit * scale for limit, scale in zip(limits, scales, strict=True)],
        A_eq=sparse.csr_array(([1.0] * len(options), (owners, range(len(options)))), shape=(len(classes), len(options))),
        b_eq=[1.0] * len(classes),
        bounds=(0, 1),
    )
    if found.status:
        return [0.0] * len(limits)
    return [max(0.0, -value) * scale for value, scale in zip(found.ineqlin.marginals.tolist(), scales, strict=True)]


class Program:
    """The linear program: one variable for each option, and for each combination of options whose sizes are multiplied."""

    def __init__(self, items: Sequence[Item], costs: Mapping[str, Costs]) -> None:
        self._items, self._costs = items, costs
        self._starts = [0]
        for item in items:
            self._starts.append(self._starts[-1] + len(item.counts))
        scopes = {scope for cost in costs.values() for scope in cost.tables if len(scope) > 1}
        self._combined: dict[tuple[int, ...], int] = {}
        self._count = self._starts[-1]
        for scope in sorted(scopes):
            self._combined[scope] = self._count
            self._count += prod(len(items[each].counts) for each in scope)
        self._equal = [*self._one_each(), *self._margins()]
        largest = max((abs(loss) for item in items for loss in item.losses), default=0) or 1.0
        self._losses = [loss / largest * _SCALE for item in items for loss in item.losses]
        self._losses += [0.0] * (self._count - len(self._losses))

    def best(self, budget: Mapping[str, Number], count: int) -> list[Choice]:
        """The choices with the smallest losses, at most so many. Each is checked exactly, for the solver is not."""
        found: list[Choice] = []
        refused: list[Choice] = []
        while len(found) < count:
            choice = self._solved(budget, [*found, *refused])
            if choice is None:
                break
            kept = all(self._costs[name].at(choice) <= limit for name, limit in budget.items())
            (found if kept else refused).append(choice)
        return found

    def _one_each(self) -> list[tuple[dict[int, float], float]]:
        return [
            (dict.fromkeys(range(start, stop), 1.0), 1.0) for start, stop in zip(self._starts, self._starts[1:], strict=False)
        ]

    def _margins(self) -> list[tuple[dict[int, float], float]]:
        """The combinations with an option add up to that option's variable."""
        rows: list[tuple[dict[int, float], float]] = []
        for scope, first in self._combined.items():
            sums: dict[tuple[int, int], dict[int, float]] = {}
            for place, options in enumerate(product(*(range(len(self._items[each].counts)) for each in scope))):
                for each, option in zip(scope, options, strict=True):
                    sums.setdefault((each, option), {})[first + place] = 1.0
            rows.extend(({**row, self._starts[each] + option: -1.0}, 0.0) for (each, option), row in sums.items())
        return rows

    def _cost_row(self, name: str, limit: Number) -> tuple[dict[int, float], float]:
        """A budget as a row whose bound is 1, or 0 where the constant takes all."""
        cost, row = self._costs[name], dict[int, float]()
        scale = 1 / max(limit, 1)
        for scope, values in cost.tables.items():
            first = self._starts[scope[0]] if len(scope) == 1 else self._combined[scope]
            row.update({first + place: value * scale for place, value in enumerate(values)})
        return row, (limit - cost.constant) * scale

    def _solved(self, budget: Mapping[str, Number], excluded: Sequence[Choice]) -> Choice | None:
        """The best choice but for those that are excluded; None where there is none."""
        optimize, sparse = _scipy()
        rows: list[tuple[dict[int, float], float, bool]] = [(*equal, True) for equal in self._equal]
        rows += [(*self._cost_row(name, limit), False) for name, limit in budget.items()]
        for choice in excluded:
            chosen = {start + option: 1.0 for start, option in zip(self._starts, choice, strict=False)}
            rows.append((chosen, len(choice) - 1.0, False))
        entries = [(value, number, column) for number, (row, _, _) in enumerate(rows) for column, value in row.items()]
        values, row_numbers, columns = zip(*entries, strict=True)
        matrix = sparse.csr_array((values, (row_numbers, columns)), shape=(len(rows), self._count))
        upper = [bound for _, bound, _ in rows]
        lower = [bound if exact else -float("inf") for _, bound, exact in rows]
        whole = [1] * self._starts[-1] + [0] * (self._count - self._starts[-1])
        result = optimize.milp(
            self._losses,
            integrality=whole,
            bounds=optimize.Bounds(0, 1),
            constraints=optimize.LinearConstraint(matrix, lower, upper),
            options={"mip_rel_gap": 0},
        )
        if result.status == _INFEASIBLE:
            return None
        if result.x is None:
            raise PlanError(f"scipy found no allocation: {result.message}")
        values = result.x.tolist()
        return tuple(
            max(range(stop - start), key=lambda option, start=start: values[start + option])  # type: ignore[misc]
            for start, stop in zip(self._starts, self._starts[1:], strict=False)
        )


_SCALE = 1e4
"""The largest loss as the solver sees it: its gaps are absolute, 1e-6."""

_INFEASIBLE = 2


def _scipy() -> tuple[Any, Any]:
    try:
        from scipy import optimize, sparse
    except ImportError:
        raise PlanError("dg.pareto needs the package scipy; install depgraph[search].") from None
    return optimize, sparse
