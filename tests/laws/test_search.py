"""Laws of search: allocations are the best of all, costs of memory and active parameters are those of the smaller graph."""

from itertools import product

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
from depgraph.choosing.tables import Curve, Order, Table
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
    greedy = search.Allocation({order[0].group: 1, order[1].group: 1}, 5.0, (), BLOCKS, curves)
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
    found = best_choices(classes, limits, prices, count)
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
