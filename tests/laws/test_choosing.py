"""Laws of choosing: budgets are met as closely as one unit allows, removals are nested, ties alone depend on the order."""

import math
from collections import Counter

import attrs
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

import depgraph as dg
from depgraph import codec, testing
from depgraph.choosing.costs import CostPolynomial
from depgraph.graph.canonical import shrunk
from depgraph.testing import modules

X = torch.randn(2, 3, 4, 4)
TIED = st.integers(0, 3).map(float)
SCOPES = ("group", "global", "isomorphic", [("0", "1.first"), ("1.last:in",)])


@st.composite
def scored(draw, values=TIED):
    """A random graph with scores that have many ties."""
    graph = dg.trace(draw(modules()), X)
    scores = {group.name: tuple(draw(st.lists(values, min_size=group.size, max_size=group.size))) for group in graph.groups}
    return graph, scores


@st.composite
def policies(draw):
    """Options that say who competes, how far each group may go and in which steps."""
    return {
        "scope": draw(st.sampled_from(SCOPES)),
        "max_ratio": draw(st.sampled_from([None, 0.5, {"*": 0.75, "0": 0.4}])),
        "min_width": draw(st.sampled_from([None, 2, {"role:channel": 3}])),
        "round_to": draw(st.sampled_from([None, 2, 3])),
        "only": draw(st.sampled_from([None, ["*"]])),
    }


def attempt(graph, scores, **options):
    """The plan, or None where the library says that it is impossible."""
    try:
        return dg.plan(graph, scores, **options)
    except dg.errors.PlanError as error:
        assert "out of reach" in str(error) or "can be removed" in str(error) or "leaves no group" in str(error)
        return None


def given_back(graph, plan, unit=1):
    """For each group cut, the graph with one unit of it and of what is balanced with it kept."""
    removed = {cut.atom: cut.removed for cut in plan.cuts}
    for atom in removed:
        tied = {atom}
        for balance in (balance for _ in graph.balances for balance in graph.balances):
            if tied & set(balance.atoms):
                tied |= set(balance.atoms)
        less = {a: dg.IndexSet.of(list(gone)[unit:]) if a in tied else gone for a, gone in removed.items()}
        yield shrunk(graph, {a: gone for a, gone in less.items() if gone})


@given(scored(), policies(), st.floats(0.5, 1), st.sampled_from(["params", "macs"]))
def test_a_budget_is_met_and_one_unit_less_would_break_it(case, options, remain, what):
    """What remains costs at most the budget, and giving back a unit of some group cut would exceed it."""
    graph, scores = case
    plan = attempt(graph, scores, **{what: remain}, **options)
    if plan is None:
        return
    small, total = plan.apply(graph), getattr(graph, what)
    (target,) = plan.targets
    assert target == dg.plans.Target(what, remain * total, getattr(small, what))
    assert target.realised <= target.requested
    assert not plan.cuts or any(
        getattr(more, what) > target.requested for more in given_back(graph, plan, options["round_to"] or 1)
    )


def test_budget_law_refutes_a_plan_that_removes_too_much():
    """Cutting more than needed is noticed: every unit can be given back."""
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    graph = dg.trace(model, torch.randn(1, 4))
    plan = dg.cut(graph, "0.weight", [0, 1, 2, 3, 4, 5], dim=0)
    assert plan.apply(graph).params <= 0.5 * graph.params
    assert not any(more.params > 0.5 * graph.params for more in given_back(graph, plan))


@given(scored(), policies(), st.floats(0.3, 1), st.floats(0.3, 1))
def test_both_budgets_are_met_together(case, options, params, macs):
    """With two budgets both hold, and the plan removes what the tighter one alone removes."""
    graph, scores = case
    plan = attempt(graph, scores, params=params, macs=macs, **options)
    if plan is None:
        return
    small = plan.apply(graph)
    assert small.params <= params * graph.params and small.macs <= macs * graph.macs
    alone = (dg.plan(graph, scores, params=params, **options), dg.plan(graph, scores, macs=macs, **options))
    assert plan in alone


@given(scored(), policies(), st.lists(st.floats(0.3, 1), min_size=2, max_size=2), st.sampled_from(["params", "macs"]))
def test_a_larger_budget_never_removes_more_of_a_group(case, options, remain, what):
    """Removals are nested: a smaller budget removes all that a larger one does."""
    graph, scores = case
    tight, loose = (attempt(graph, scores, **{what: value}, **options) for value in sorted(remain))
    if tight is None or loose is None:
        return
    assert all(gone <= tight.removed.get(name, dg.IndexSet()) for name, gone in loose.removed.items())


@given(scored(), policies(), st.lists(st.floats(0, 0.95), min_size=2, max_size=2))
def test_a_larger_ratio_never_removes_less(case, options, ratios):
    """The same for ratios, rounded up or down."""
    graph, scores = case
    for rounding in ("up", "down"):
        low, high = (attempt(graph, scores, ratio=value, rounding=rounding, **options) for value in sorted(ratios))
        if low is not None and high is not None:
            assert all(gone <= high.removed.get(name, dg.IndexSet()) for name, gone in low.removed.items())


def test_monotony_refutes_choosing_each_unit_by_what_it_saves():
    """A greedy that takes the unit that comes nearest to the budget is not nested."""
    sizes = {"a": 5, "b": 3}

    def nearest(budget):
        return min(sizes, key=lambda name: abs(budget - (8 - sizes[name])))

    assert {nearest(3), nearest(5)} == {"a", "b"}


@given(scored(), policies(), st.floats(0.3, 1), st.randoms(use_true_random=False))
def test_permuting_scores_changes_only_ties(case, options, remain, shuffler):
    """Groups whose indices are renumbered lose equally many, of the same importances."""
    graph, scores = case
    turned = {name: tuple(shuffler.sample(values, len(values))) for name, values in scores.items()}
    for target in ({"macs": remain}, {"ratio": 1 - remain}):
        first, second = attempt(graph, scores, **target, **options), attempt(graph, turned, **target, **options)
        assert (first is None) == (second is None)
        if first is None:
            continue
        lost = [
            {name: Counter(by[name][index] for index in gone) for name, gone in plan.removed.items()}
            for plan, by in ((first, scores), (second, turned))
        ]
        assert lost[0] == lost[1]


def test_permutation_law_refutes_scores_that_matter():
    """Exchanging unequal scores changes the plan."""
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
    graph = dg.trace(model, torch.randn(1, 4))
    first, second = (dg.plan(graph, {"0.weight:0": values}, ratio=0.34) for values in ((0.0, 1.0, 1.0), (1.0, 0.0, 1.0)))
    assert first.removed != second.removed


@given(scored(st.floats(allow_nan=False)), policies(), st.floats(0, 0.95), st.sampled_from(["up", "down"]))
def test_limits_hold_in_every_policy(case, options, ratio, rounding):
    """Widths are multiples and not below the minimum, no group loses more than its cap or its last index, balances hold."""
    graph, scores = case
    plan = attempt(graph, scores, ratio=ratio, rounding=rounding, **options)
    if plan is None:
        return
    most = options["max_ratio"] or 1.0
    for cut in plan.cuts:
        group, kept = graph.groups_by_name[cut.group], cut.atom.size - len(cut.removed)
        cap = most if isinstance(most, float) else most["0"] if any(t.startswith("0.") for t, _ in group.members) else most["*"]
        assert len(cut.removed) <= cap * group.size + 1e-9
        assert kept >= 1 and kept % (options["round_to"] or 1) == 0
        least = options["min_width"] or 1
        assert kept >= (least if isinstance(least, int) else least["role:channel"] if group.role == "channel" else 1)
        assert group.role in {"channel", "head_dim"}
        assert all(scores[cut.group][index] != math.inf for index in cut.removed)
    for balance in graph.balances:
        assert len({len(plan.removed.get(graph.group_of[atom].name, ())) for atom in balance.atoms}) == 1


@given(modules(), st.data())
def test_plans_of_every_policy_are_lawful(model, data):
    """Square, cost and round trip hold for budgets with every scope, rounding and limit."""
    graph = dg.trace(model, X)
    options = data.draw(policies())
    plan = attempt(graph, dg.score(graph, model, dg.criteria.Random(data.draw(st.integers(0, 99)))), macs=0.6, **options)
    assume(plan is not None)
    small = testing.assert_square(graph, plan, model, X)
    testing.assert_cost(plan.apply(graph), small, X)
    testing.assert_round_trip(graph, plan)
    testing.assert_unit(graph, plan)
    assert codec.loads(codec.dumps("plan", plan), "plan", dg.Plan).targets == plan.targets
    assert plan == attrs.evolve(plan, targets=()) and hash(plan) == hash(attrs.evolve(plan, targets=()))


@given(modules(), st.data())
def test_cost_polynomials_are_the_costs_of_the_smaller_graph(model, data):
    """Evaluated at the sizes of a plan, they give what the graph after the plan costs."""
    graph = dg.trace(model, X)
    plan = data.draw(testing.plans(graph))
    sizes = {cut.atom: cut.atom.size - len(cut.removed) for cut in plan.cuts}
    small = plan.apply(graph)
    assert CostPolynomial.of(graph, "params")(sizes) == small.params
    assert CostPolynomial.of(graph, "macs")(sizes) == small.macs


def test_cost_polynomials_refute_a_linear_model():
    """The cost of two groups at once is not the sum of what each saves alone."""
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 6), torch.nn.Linear(6, 2))
    graph = dg.trace(model, torch.randn(1, 4))
    params, (a, b) = CostPolynomial.of(graph, "params"), (group.atom for group in graph.groups)
    saved = [params({}) - params(sizes) for sizes in ({a: 4}, {b: 3}, {a: 4, b: 3})]
    assert saved[2] != saved[0] + saved[1]


def test_equal_scores_everywhere_give_equal_ratios():
    """In a global ranking, ties go to the group that has lost the smaller fraction: the plan is the uniform one."""
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 16), torch.nn.Linear(16, 2))
    graph = dg.trace(model, torch.randn(1, 4))
    scores = {group.name: (1.0,) * group.size for group in graph.groups}
    assert dg.plan(graph, scores, ratio=0.5, scope="global") == dg.plan(graph, scores, ratio=0.5)
    assert dg.plan(graph, scores, ratio=0.5).removed["0.weight:0"] == dg.IndexSet.range(0, 4)


def test_scores_decide_between_groups_only_where_groups_compete():
    """The same scores empty the weak group globally, and both by half each for itself: the laws are not those of one policy."""
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 8), torch.nn.Linear(8, 2))
    graph = dg.trace(model, torch.randn(1, 4))
    scores = {"0.weight:0": tuple(range(8)), "1.weight:0": tuple(range(100, 108))}
    counts = {
        scope: {name: len(gone) for name, gone in dg.plan(graph, scores, ratio=0.25, scope=scope).removed.items()}
        for scope in ("group", "global")
    }
    assert counts == {"group": {"0.weight:0": 2, "1.weight:0": 2}, "global": {"0.weight:0": 4}}


def test_not_a_number_is_refused_in_every_policy():
    """NaN has no place in an order."""
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2))
    graph = dg.trace(model, torch.randn(1, 4))
    for scope in ("group", "global", "isomorphic"):
        with pytest.raises(dg.errors.PlanError, match="hold NaN"):
            dg.plan(graph, {"0.weight:0": [*range(7), float("nan")]}, macs=0.5, scope=scope)
