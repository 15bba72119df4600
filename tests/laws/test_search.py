"""Laws of search: allocations are the best of all, costs of memory and active parameters are those of the smaller graph."""

import random
from functools import cache
from itertools import islice, product

import attrs
import pytest
import torch
from hypothesis import event, given, settings
from hypothesis import strategies as st
from torch import nn

import depgraph as dg
from depgraph import testing
from depgraph.choosing import search
from depgraph.choosing.budgets import terms_of
from depgraph.choosing.costs import CostPolynomial
from depgraph.choosing.knapsack import Option, best_choices
from depgraph.choosing.tables import Curve, Order, Table, empty_table
from tests.laws.refuting import refuted

WIDTHS = (3, 4, 5)
CHAIN = dg.trace(
    nn.Sequential(*(nn.Linear(*sizes) for sizes in zip((2, *WIDTHS), (*WIDTHS, 2), strict=True))), torch.zeros(1, 2)
)


class Blocks(nn.Module):
    """Inner widths on one stream, which is an input: their costs add up."""

    def __init__(self):
        super().__init__()
        self.up = nn.ModuleList(nn.Linear(2, width) for width in WIDTHS)
        self.down = nn.ModuleList(nn.Linear(width, 2) for width in WIDTHS)

    def forward(self, x):
        for up, down in zip(self.up, self.down, strict=True):
            x = x + down(torch.relu(up(x)))
        return x


BLOCKS = dg.trace(Blocks(), torch.zeros(1, 2))


@st.composite
def tables(draw, graph):
    """A random table of a graph: some counts of each group, losses with ties, falling ones too."""
    curves = []
    for group in graph.groups:
        counts = draw(st.sets(st.integers(1, group.size - 1), min_size=1, max_size=3))
        losses = draw(st.lists(st.integers(-2, 9).map(float), min_size=len(counts), max_size=len(counts)))
        order = draw(st.permutations(range(group.size)))
        curves.append(Curve((Order(group.name, None, (tuple(order),)),), tuple(sorted(counts)), tuple(losses)))
    return Table(graph.fingerprint, draw(st.integers(0, 2).map(float)), tuple(curves))


def of_all(graph, table, budget):
    """The losses of all choices within a budget, by trying each; costs are those of the shrunk graph."""
    losses = []
    for choice in product(*(range(len(curve.counts) + 1) for curve in table.curves)):
        removed, loss = {}, table.whole
        for curve, option in zip(table.curves, choice, strict=True):
            if option:
                removed.update(curve.removed(graph, curve.counts[option - 1]))
                loss += curve.losses[option - 1] - table.whole
        small = dg.plans.plan_of(graph, removed).apply(graph)
        if all(getattr(small, name) <= limit for name, limit in budget.items()):
            losses.append(loss)
    return sorted(losses)


def assert_best(found, losses, count):
    """The law of allocations: they have the smallest losses that there are, in their order, and are distinct."""
    assert len({tuple(sorted(each.counts.items())) for each in found}) == len(found), "the same twice"
    assert [each.loss for each in found] == pytest.approx(losses[:count], abs=1e-6), "not the best"


@pytest.mark.parametrize("graph", [CHAIN, BLOCKS], ids=["multiplied", "added up"])
@pytest.mark.parametrize("solver", ["knapsack", "program"])
def test_allocations_are_the_best_of_all(graph, solver, monkeypatch):
    """Both solvers find what trying every choice finds, with one budget and with two, whether or not costs add up."""
    if solver == "program":
        monkeypatch.setattr(search.Knapsack, "of", classmethod(lambda cls, items, costs: None))

    @given(tables(graph), st.floats(0.2, 1), st.floats(0.2, 1), st.booleans(), st.integers(1, 3))
    @settings(max_examples=12)
    def law(table, params, macs, two, count):
        budget = {"params": int(params * graph.params)} | ({"macs": int(macs * graph.macs)} if two else {})
        losses = of_all(graph, table, budget)
        event(f"within reach: {bool(losses)}")
        if not losses or min(budget.values()) < 2:
            return
        found = dg.pareto(graph, table, budget, top_k=count)
        assert_best(found, losses, count)
        for each in found:
            small = each.plan.apply(graph)
            assert all(target.realised == getattr(small, target.name) <= target.requested for target in each.targets)
            assert {cut.group: cut.count for cut in each.plan.cuts} == dict(each.counts)

    law()


def test_the_law_refutes_a_greedy_allocation():
    """Taking the cheapest step again and again is not the best where steps are coarse, and a linear cost is none."""
    order = [Order(group.name, None, (tuple(range(group.size)),)) for group in BLOCKS.groups]
    curves = (Curve((order[0],), (1, 2), (3.0, 4.0)), Curve((order[1],), (1, 3), (2.0, 9.0)), Curve((order[2],), (2,), (5.0,)))
    table = Table(BLOCKS.fingerprint, 0.0, curves)
    budget = {"params": BLOCKS.params - 10}
    losses = of_all(BLOCKS, table, budget)
    assert_best(dg.pareto(BLOCKS, table, budget), losses, 1)
    greedy = search.Allocation({order[0].group: 1, order[1].group: 1}, 5.0, (), 0.0, BLOCKS, curves)
    refuted(assert_best, [greedy], losses, 1, says="not the best")


@given(st.lists(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=4),
                min_size=1, max_size=4), st.tuples(st.integers(0, 30), st.integers(0, 30)), st.integers(1, 4),
       st.tuples(st.floats(0, 3), st.floats(0, 3)))  # fmt: skip
def test_a_knapsack_is_solved_whatever_the_prices(rows, limits, count, prices):
    """Prices only say where the search begins: with any of them the smallest sums are found, and all if there are fewer."""
    classes = [[Option(loss, costs) for loss, *costs in options] for options in rows]
    classes = [[Option(option.loss, tuple(option.costs)) for option in options] for options in classes]
    choices = product(*(range(len(options)) for options in classes))

    def total(choice, of):
        return sum(of(options[k]) for options, k in zip(classes, choice, strict=True))

    fitting = [
        choice for choice in choices if all(total(choice, lambda o, k=k: o.costs[k]) <= limit for k, limit in enumerate(limits))
    ]
    found = [each.positions for each in best_choices(classes, limits, prices, count)]
    assert len(set(found)) == len(found) and {*found} <= {*fitting}
    best = sorted(total(choice, lambda o: o.loss) for choice in fitting)[:count]
    assert [total(choice, lambda o: o.loss) for choice in found] == best


def assert_polynomial(cost, terms, graph, plan):
    """The law of costs: the polynomial at the sizes of a plan is the cost of the graph after it."""
    sizes = {cut.atom: cut.atom.size - cut.count for cut in plan.cuts}
    assert CostPolynomial(terms)(sizes) == cost(plan.apply(graph))


class Attention(nn.Module):
    """Grouped queries, keys repeated by hand, and a feed-forward of stacked experts with a router."""

    def __init__(self):
        super().__init__()
        self.heads, self.shared, self.experts = 4, 2, 3
        self.q, self.k, self.v = nn.Linear(6, 8), nn.Linear(6, 4), nn.Linear(6, 4)
        self.o, self.gate = nn.Linear(8, 6), nn.Linear(6, self.experts)
        self.up, self.down = (nn.Parameter(torch.zeros(self.experts, *sizes)) for sizes in ((6, 5), (5, 6)))

    def forward(self, x):
        q, k, v = (
            layer(x).unflatten(-1, (heads, -1)).transpose(1, 2)
            for layer, heads in ((self.q, self.heads), (self.k, self.shared), (self.v, self.shared))
        )
        k, v = (part.repeat_interleave(self.heads // self.shared, dim=1) for part in (k, v))
        x = x + self.o(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        chosen = self.gate(x).topk(1, dim=-1).indices[..., 0]
        return x + (torch.relu(x[..., None, :] @ self.up[chosen]) @ self.down[chosen])[..., 0, :]


ATTENTION = dg.trace(Attention(), torch.zeros(2, 3, 6))
MEMORY = dg.Memory({"*": 2, "o.*": 0.5}, {"*": 10}, batch=3, cache=1)


@given(testing.plans(ATTENTION))
@settings(max_examples=30)
def test_memory_and_active_parameters_are_those_of_the_smaller_graph(plan):
    """Evaluated at the sizes of a plan, the polynomials give what the smaller graph costs."""
    active = terms_of(ATTENTION, "active_params")
    assert_polynomial(MEMORY, MEMORY.terms(ATTENTION), ATTENTION, plan)
    assert_polynomial(lambda small: CostPolynomial(terms_of(small, "active_params"))({}), active, ATTENTION, plan)


def test_the_law_of_memory_refutes_one_without_a_cache():
    """Weights alone are not what is in memory."""
    group = next(group for group in ATTENTION.groups if group.name.startswith("v."))
    plan = dg.plans.plan_of(ATTENTION, {group.atom: dg.IndexSet.of([0])})
    refuted(assert_polynomial, MEMORY, dg.Memory({"*": 2, "o.*": 0.5}).terms(ATTENTION), ATTENTION, plan)


class Mixed(nn.Module):
    """Two halves of one projection that only have to be equally long, and two inner widths that may be uniform."""

    def __init__(self):
        super().__init__()
        self.both, self.one, self.other = nn.Linear(2, 12), nn.Linear(6, 2), nn.Linear(6, 3)
        self.up, self.down = (nn.ModuleList(nn.Linear(*sizes) for _ in range(2)) for sizes in ((2, 6), (6, 2)))

    def forward(self, x):
        left, right = self.both(x).chunk(2, -1)
        for up, down in zip(self.up, self.down, strict=True):
            x = x + down(torch.relu(up(x)))
        return self.one(left), self.other(right), x


MIXED = dg.trace(Mixed(), torch.zeros(1, 2))
INNER = ("up.0:out", "up.1:out")
LIMITS = {"multiples": {"round_to": 2}, "uniform": {"uniform": [INNER]}, "both": {"round_to": 3, "uniform": [INNER]}}


@st.composite
def mixed_tables(draw):
    """A random table as one is measured: balanced groups have one curve."""
    scores = {group.name: tuple(range(group.size)) for group in MIXED.groups}
    bare = empty_table(MIXED, scores, [k / 6 for k in range(1, 6)])
    losses = st.lists(st.integers(-2, 9).map(float), min_size=5, max_size=5)
    curves = tuple(attrs.evolve(curve, losses=tuple(draw(losses))) for curve in bare.curves)
    return attrs.evolve(bare, whole=draw(st.integers(0, 2).map(float)), curves=curves)


@cache
def params_without(counts):
    """The parameters of the graph that is left when each group loses so many."""
    removed = {group.atom: dg.IndexSet.range(0, count) for group, count in zip(MIXED.groups, counts, strict=True) if count}
    return dg.plans.plan_of(MIXED, removed).apply(MIXED).params


def of_all_widths(table, budget, round_to=1, uniform=()):
    """The losses of all plans of these counts that keep the limits: each group's width is tried by itself."""
    names = [group.name for group in MIXED.groups]
    curve_of = {name: curve for curve in table.curves for name in curve.groups}
    losses = []
    for counts in product(*((0, *curve_of[name].counts) for name in names)):
        gone = dict(zip(names, counts, strict=True))
        kept = [6 - count for count in counts]
        balanced = all(len({gone[MIXED.group_of[atom].name] for atom in each.atoms}) == 1 for each in MIXED.balances)
        inner = {gone[name] for name in names if name.startswith("up.")}
        rounded = all(count in (6, *range(round_to, 6, round_to)) for count in kept)
        if balanced and rounded and (not uniform or len(inner) == 1) and params_without(counts) <= budget["params"]:
            known = [(curve, gone[curve.groups[0]]) for curve in table.curves]
            added = [curve.losses[curve.counts.index(count)] - table.whole for curve, count in known if count]
            losses.append(table.whole + sum(added))
    return sorted(losses)


@pytest.mark.parametrize("limits", LIMITS.values(), ids=LIMITS)
@pytest.mark.parametrize("solver", ["knapsack", "program"])
def test_allocations_are_the_best_of_all_that_keep_the_limits(limits, solver, monkeypatch):
    """With multiples, uniform and balanced groups both solvers find what trying the width of each group finds."""
    if solver == "program":
        monkeypatch.setattr(search.Knapsack, "of", classmethod(lambda cls, items, costs: None))

    @given(mixed_tables(), st.floats(0.4, 1), st.integers(1, 4))
    @settings(max_examples=4)
    def law(table, params, count):
        budget = {"params": int(params * MIXED.params)}
        losses = of_all_widths(table, budget, **limits)
        event(f"within reach: {bool(losses)}")
        if losses:
            found = dg.pareto(MIXED, table, budget, top_k=count, **limits)
            assert_best(found, losses, count)
            assert all(each.gap == 0 and each.plan.apply(MIXED).params <= budget["params"] for each in found)

    law()


FALLING = (9.0, 0.0, 8.0, -1.0, 7.0)
"""Losses at 1 to 5 indices that are best at counts that multiples of three forbid."""


@pytest.mark.parametrize("limits", [LIMITS["multiples"], LIMITS["uniform"]], ids=["multiples", "uniform"])
def test_the_law_refutes_allocations_that_ignore_the_limits(limits):
    """Of the same table without multiples, or with inner widths that differ, other plans are best."""
    scores = {group.name: tuple(range(group.size)) for group in MIXED.groups}
    bare = empty_table(MIXED, scores, [k / 6 for k in range(1, 6)])
    curves = [attrs.evolve(curve, losses=FALLING[k:] + FALLING[:k]) for k, curve in enumerate(bare.curves)]
    table, budget = attrs.evolve(bare, whole=0.0, curves=tuple(curves)), {"params": int(0.7 * MIXED.params)}
    losses = of_all_widths(table, budget, **limits)
    assert_best(dg.pareto(MIXED, table, budget, top_k=3, **limits), losses, 3)
    refuted(assert_best, dg.pareto(MIXED, table, budget, top_k=3), losses, 3, says="not the best")


def test_the_law_refutes_allocations_that_ignore_a_balance():
    """Balanced groups that had curves of their own would lose unequally many, and more cheaply."""
    scores = {group.name: tuple(range(group.size)) for group in MIXED.groups}
    bare = empty_table(MIXED, scores, [k / 6 for k in range(1, 6)])
    assert sorted(len(curve.groups) for curve in bare.curves) == [1, 1, 2]
    table = attrs.evolve(bare, whole=0.0, curves=tuple(attrs.evolve(curve, losses=FALLING) for curve in bare.curves))
    apart = [Curve((order,), curve.counts, tuple(value / len(curve.orders) for value in curve.losses))
             for curve in bare.curves for order in curve.orders for curve in [attrs.evolve(curve, losses=FALLING)]]  # fmt: skip
    apart[0] = attrs.evolve(apart[0], losses=FALLING[1:] + FALLING[:1])
    budget = {"params": int(0.7 * MIXED.params)}
    losses = of_all_widths(table, budget)
    assert_best(dg.pareto(MIXED, table, budget), losses, 1)
    refuted(assert_best, dg.pareto(MIXED, attrs.evolve(table, curves=tuple(apart)), budget), losses, 1, says="not the best")


def test_several_allocations_are_distinct_and_in_their_order():
    """The law of several refutes the same one twice, another order, and one that is left out."""
    scores = {group.name: tuple(range(group.size)) for group in MIXED.groups}
    bare = empty_table(MIXED, scores, [k / 6 for k in range(1, 6)])
    curves = [attrs.evolve(curve, losses=tuple(range(1, 10, 2))) for curve in bare.curves]
    table, budget = attrs.evolve(bare, whole=0, curves=tuple(curves)), {"params": int(0.7 * MIXED.params)}
    losses = of_all_widths(table, budget)
    found = dg.pareto(MIXED, table, budget, top_k=5)
    assert len(found) == 5
    assert_best(found, losses, 5)
    refuted(assert_best, [*found[:4], found[3]], losses, 5, says="the same twice")
    assert found[0].loss < found[4].loss
    refuted(assert_best, found[::-1], losses, 5, says="not the best")
    refuted(assert_best, found[1:], losses, 5, says="not the best")


@given(st.lists(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=4), min_size=1, max_size=4),
       st.integers(0, 30), st.floats(0, 3))  # fmt: skip
def test_a_knapsack_out_of_time_says_how_far_it_is_from_the_best(rows, limit, price):
    """What is given keeps the limit, and no choice is better by more than its gap."""
    classes = [[Option(loss, (cost,)) for loss, cost in options] for options in rows]
    fitting = [choice for choice in product(*classes) if sum(option.costs[0] for option in choice) <= limit]
    found = best_choices(classes, [limit], [price], 1, until=-1.0)
    assert bool(found) == bool(fitting)
    for each in found:
        chosen = [options[k] for options, k in zip(classes, each.positions, strict=True)]
        loss = sum(option.loss for option in chosen)
        assert sum(option.costs[0] for option in chosen) <= limit
        assert min(sum(option.loss for option in choice) for choice in fitting) >= loss - each.gap - 1e-9


def additive(plan):
    """A loss that is a sum over groups, and in no way linear."""
    return float(sum(len(gone) ** 2 * (1 + len(name)) for name, gone in plan.removed.items()))


def multiplied(plan):
    """A loss where each further group that is cut costs more."""
    return additive(plan) * (1 + len(plan.cuts))


def assert_around(table, loss):
    """The law of tables around a plan: a loss is that of the plan with other counts of one curve's groups."""
    starts = dict(table.around)
    removed = {}
    for curve in table.curves:
        removed.update(curve.removed(MIXED, starts.get(curve.groups[0], 0)))
    whole = dg.plans.plan_of(MIXED, removed)
    assert table.whole == loss(whole), "not that of the plan"
    for curve in table.curves:
        for count, value in zip(curve.counts, curve.losses, strict=True):
            removed = {cut.atom: cut.removal for cut in whole.cuts if cut.group not in curve.groups}
            plan = dg.plans.plan_of(MIXED, removed | curve.removed(MIXED, count))
            assert value == loss(plan), "not that of the plan with one change"


@given(st.floats(0.4, 0.95), st.floats(0.4, 0.95))
@settings(max_examples=10)
def test_tables_around_a_plan(first, second):
    """Each loss is that of the plan with one change; where losses add up, allocations are those of the plain table."""
    scores = {group.name: tuple(range(group.size)) for group in MIXED.groups}
    ratios, plan = [k / 6 for k in range(1, 6)], dg.plan(MIXED, scores, params=first, scope="global")
    event(f"groups of the plan: {len(plan.cuts)}")
    for loss in (additive, multiplied):
        table = dg.choosing.tabulate(MIXED, scores, ratios, loss, around=plan)
        assert_around(table, loss)
    plain, near = (dg.choosing.tabulate(MIXED, scores, ratios, additive, around=each) for each in (None, plan))
    one, other = (dg.pareto(MIXED, table, {"params": second}, top_k=3) for table in (plain, near))
    assert [each.loss for each in one] == pytest.approx([each.loss for each in other])
    assert [each.loss for each in one] == pytest.approx([additive(each.plan) for each in one])


def test_the_law_of_tables_around_a_plan_refutes_a_plain_one():
    """What each cut loses alone is not what it loses beside the others."""
    scores = {group.name: tuple(range(group.size)) for group in MIXED.groups}
    plan = dg.plan(MIXED, scores, ratio=0.5)
    near, plain = (dg.choosing.tabulate(MIXED, scores, [1 / 6, 0.5], multiplied, around=each) for each in (plan, None))
    assert_around(near, multiplied)
    refuted(assert_around, attrs.evolve(plain, around=near.around), multiplied, says="not that of the plan")
    wrong = [
        attrs.evolve(curve, losses=tuple(losses[curve.counts.index(count)] if count else 0.0 for count in curve.counts))
        for curve, losses in ((curve, curve.losses[::-1]) for curve in near.curves)
    ]
    refuted(assert_around, attrs.evolve(near, curves=tuple(wrong)), multiplied, says="with one change")


class Grouped(nn.Module):
    """Channels of a grouped convolution, whose number stays a multiple, beside halves that stay equal."""

    def __init__(self):
        super().__init__()
        self.into, self.grouped, self.last = nn.Conv1d(2, 12, 1), nn.Conv1d(12, 12, 1, groups=3), nn.Conv1d(12, 2, 1)
        self.rest = Mixed()

    def forward(self, x):
        return self.last(self.grouped(self.into(x))), self.rest(x.mean(-1))


GROUPED = dg.trace(Grouped(), torch.zeros(1, 2, 4))
BUDGETS = ({"macs": 0.6}, {"params": 0.7, "macs": 0.8}, {"memory": 0.5}, {"active_params": 0.75})
SHIFTED = ({}, {"round_to": 2}, {"uniform": [("rest.up.0:out", "rest.up.1:out")]}, {"max_ratio": 0.8, "min_width": 2})


def assert_shifts(make, graph, budgets, options, seed, steps=12):
    """The law of mutations: valid plans within the budgets and limits, none like its parent, the same for the same seed."""
    limits = {target.name: target.requested for target in dg.plan(graph, SCORES_OF[graph], **budgets).targets}
    for plan, other in zip(walk(make, graph, budgets, options, seed, steps), walk(make, graph, budgets, options, seed, steps),
                           strict=True):  # fmt: skip
        assert plan == other, "other plans for the same seed"
        small = plan.apply(graph)
        costs = {name: CostPolynomial(terms_of(small, name))({}) for name in limits}
        assert all(costs[name] <= limit for name, limit in limits.items()), "over a budget"
        assert {target.name: target.realised for target in plan.targets} == costs, "other costs"
        for cut in plan.cuts:
            assert (cut.atom.size - cut.count) % options.get("round_to", 1) == 0, "no multiple"
            assert cut.count <= options.get("max_ratio", 1) * cut.atom.size, "more than max_ratio goes"
        for names in options.get("uniform", ()):
            gone = {len(plan.removed.get(group.name, ())) for group in graph.groups if group.name.startswith("rest.up.")}
            assert len(gone) == 1, f"{names} differ"


SCORES_OF = {GROUPED: {group.name: tuple(range(group.size)) for group in GROUPED.groups}}


def walk(make, graph, budgets, options, seed, steps):
    """Plans, each a mutation of the one before, from one within the budgets on."""
    move, draw = make(graph, SCORES_OF[graph], budgets, **options), random.Random(seed)
    plan, found = dg.plan(graph, SCORES_OF[graph], **budgets, **options), []
    for _ in range(steps):
        other = move(plan, draw)
        if other is not None:
            assert other != plan, "the same plan"
            found.append(plan := other)
    assert found, "no plan"
    return found


@given(st.sampled_from(BUDGETS), st.sampled_from(SHIFTED), st.integers(0, 99))
@settings(max_examples=12)
def test_shifts_stay_within_budgets_and_limits(budgets, options, seed):
    """Whatever is drawn: budgets, balances, multiples and uniform widths are kept, and the same seed gives the same plans."""
    assert_shifts(dg.choosing.shifts, GROUPED, budgets, options, seed)


def test_the_law_of_shifts_refutes_careless_ones():
    """Moves that draw elsewhere, that keep no budget or no limit, or that change nothing."""
    right = dg.choosing.shifts

    def elsewhere(*args, **options):
        return lambda plan, draw: right(*args, **options)(plan, random.Random())

    def dear(graph, scores, budgets, **options):
        return right(graph, scores, {name: min(1.0, value + 0.2) for name, value in budgets.items()}, **options)

    def free(graph, scores, budgets, **options):
        return right(graph, scores, budgets)

    def same(*args, **options):
        return lambda plan, draw: plan

    refuted(assert_shifts, elsewhere, GROUPED, BUDGETS[0], {}, 0, says="other plans for the same seed|the same plan|argument")
    refuted(assert_shifts, dear, GROUPED, BUDGETS[0], {}, 0, says="over a budget")
    refuted(assert_shifts, free, GROUPED, BUDGETS[0], SHIFTED[1], 0, says="no multiple")
    refuted(assert_shifts, free, GROUPED, BUDGETS[0], SHIFTED[2], 0, says="differ")
    refuted(assert_shifts, same, GROUPED, BUDGETS[0], {}, 0, says="the same plan")


def test_evolution_with_scores_alone_finds_the_best_allocation():
    """Where losses add up, a search from a bad plan ends where trying everything does, and no generation is over the budget."""
    scores = {group.name: tuple(range(group.size)) for group in MIXED.groups}
    start = dg.plan(MIXED, scores, params=0.7)
    limit = 0.7 * MIXED.params

    def loss(plan):
        return float(sum(len(gone) ** 2 * (9 if name == "up.0.weight:0" else 1) for name, gone in plan.removed.items()))

    table = dg.choosing.tabulate(MIXED, scores, [k / 6 for k in range(1, 6)], loss)
    (best,) = dg.pareto(MIXED, table, {"params": 0.7})
    steps = list(islice(dg.evolve(MIXED, start, scores, lambda plan: -loss(plan)), 25))
    assert steps[-1].population[0].fitness == pytest.approx(-best.loss)
    assert loss(start) > best.loss
    assert all(each.plan.apply(MIXED).params <= limit for step in steps for each in step.population)
