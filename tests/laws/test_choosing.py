"""Laws of choosing: budgets are met as closely as one unit allows, removals are nested, ties alone depend on the order."""

import math
from collections import Counter

import attrs
import pytest
import torch
from hypothesis import assume, event, given
from hypothesis import strategies as st

import depgraph as dg
from depgraph import codec, testing
from depgraph.choosing.costs import CostPolynomial
from depgraph.graph.canonical import shrunk
from depgraph.plans.making import plan_of
from depgraph.testing import modules
from tests.laws.refuting import refuted

X = torch.randn(2, 3, 4, 4)
TIED = st.integers(0, 3).map(float)
SCOPES = ("group", "global", "isomorphic", [("0", "1.*first"), ("1.*last:in",)])


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


def reachable(graph, scores, what, remain, options):
    """The budget, or one half as far from all there is, or a quarter, until the policy can meet it."""
    while attempt(graph, scores, **{what: remain}, **options) is None:
        remain = (1 + remain) / 2 if remain < 0.95 else 1.0
    return remain


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


def assert_budget(graph, plan, what, limit, unit=1):
    """The law of budgets: what remains costs at most so much, and with one unit more it would cost too much."""
    assert getattr(plan.apply(graph), what) <= limit, "too little goes"
    more = [getattr(larger, what) for larger in given_back(graph, plan, unit)]
    assert not plan.cuts or any(cost > limit for cost in more), "too much goes"


@given(scored(), policies(), st.floats(0.5, 1), st.sampled_from(["params", "macs"]))
def test_a_budget_is_met_and_one_unit_less_would_break_it(case, options, remain, what):
    """What remains costs at most the budget, and giving back a unit of some group cut would exceed it."""
    graph, scores = case
    remain = reachable(graph, scores, what, remain, options)
    plan = dg.plan(graph, scores, **{what: remain}, **options)
    event(f"something goes: {bool(plan.cuts)}")
    small, total = plan.apply(graph), getattr(graph, what)
    (target,) = plan.targets
    assert target == dg.plans.Target(what, remain * total, getattr(small, what))
    assert target.realised <= target.requested
    assert_budget(graph, plan, what, target.requested, options["round_to"] or 1)


def test_budget_law_refutes_a_plan_that_removes_too_much():
    """Cutting more than needed is noticed, for every unit can be given back; and so is cutting less."""
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    graph = dg.trace(model, torch.randn(1, 4))
    plan = dg.cut(graph, "0.weight", [0, 1, 2, 3, 4, 5], dim=0)
    refuted(assert_budget, graph, plan, "params", 0.5 * graph.params, says="too much goes")
    refuted(assert_budget, graph, dg.cut(graph, "0.weight", [0], dim=0), "params", 0.5 * graph.params, says="too little goes")
    assert_budget(graph, dg.plan(graph, {"0.weight:0": (1.0,) * 8}, params=0.5), "params", 0.5 * graph.params)


@given(scored(), policies(), st.floats(0.3, 1), st.floats(0.3, 1))
def test_both_budgets_are_met_together(case, options, params, macs):
    """With two budgets both hold, and the plan removes what the tighter one alone removes."""
    graph, scores = case
    params, macs = (reachable(graph, scores, *budget, options) for budget in (("params", params), ("macs", macs)))
    plan = dg.plan(graph, scores, params=params, macs=macs, **options)
    small = plan.apply(graph)
    assert small.params <= params * graph.params and small.macs <= macs * graph.macs
    alone = (dg.plan(graph, scores, params=params, **options), dg.plan(graph, scores, macs=macs, **options))
    event(f"other budgets, other plans: {alone[0] != alone[1]}")
    assert plan in alone


def assert_nested(less, more):
    """The law of nesting: the larger removal takes all that the smaller one takes."""
    assert all(gone <= more.removed.get(name, dg.IndexSet()) for name, gone in less.removed.items())


@given(scored(), policies(), st.lists(st.floats(0.3, 1), min_size=2, max_size=2), st.sampled_from(["params", "macs"]))
def test_a_larger_budget_never_removes_more_of_a_group(case, options, remain, what):
    """Removals are nested: a smaller budget removes all that a larger one does, and is never easier to reach."""
    graph, scores = case
    low, high = sorted(remain)
    low = reachable(graph, scores, what, low, options)
    tight, loose = (dg.plan(graph, scores, **{what: value}, **options) for value in (low, max(low, high)))
    event(f"other budgets, other plans: {tight != loose}")
    assert_nested(loose, tight)


@given(scored(), policies(), st.tuples(st.floats(0, 0.6), st.floats(0.3, 0.95)), st.sampled_from(["up", "down"]))
def test_a_larger_ratio_never_removes_less(case, options, ratios, rounding):
    """The same for ratios, rounded up or down; a ratio is refused only where a smaller one is, too."""
    graph, scores = case
    low, high = (attempt(graph, scores, ratio=value, rounding=rounding, **options) for value in sorted(ratios))
    assume(high is not None)
    low = low or dg.Plan.empty(graph)  # too small for any index
    event(f"other ratios, other plans: {low != high}")
    assert_nested(low, high)


def test_monotony_refutes_choosing_each_unit_by_what_it_saves():
    """A greedy that takes the unit that comes nearest to the budget is not nested."""
    model = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.Linear(8, 6), torch.nn.Linear(6, 2))
    graph = dg.trace(model, torch.randn(1, 2))
    ways = [dg.cut(graph, name, [0], dim=0) for name in ("0.weight", "1.weight")]

    def nearest(budget):
        return min(ways, key=lambda plan: abs(budget - plan.apply(graph).params))

    costs = sorted(plan.apply(graph).params for plan in ways)
    assert len(set(costs)) == 2
    refuted(assert_nested, nearest(costs[1]), nearest(costs[0]))
    scores = {group.name: tuple(range(group.size)) for group in graph.groups}
    assert_nested(*(dg.plan(graph, scores, params=cost) for cost in reversed(costs)))


def assert_same_up_to_ties(first, scores, second, turned):
    """The law of ties: both plans take as many of each group, of the same importances."""
    lost = [
        {name: Counter(by[name][index] for index in gone) for name, gone in plan.removed.items()}
        for plan, by in ((first, scores), (second, turned))
    ]
    assert lost[0] == lost[1]


@given(scored(), policies(), st.floats(0.3, 1), st.sampled_from(["macs", "ratio"]), st.randoms(use_true_random=False))
def test_permuting_scores_changes_only_ties(case, options, remain, kind, shuffler):
    """Groups whose indices are renumbered lose equally many, of the same importances."""
    graph, scores = case
    turned = {name: tuple(shuffler.sample(values, len(values))) for name, values in scores.items()}
    target = {"macs": reachable(graph, scores, "macs", remain, options)} if kind == "macs" else {"ratio": 1 - remain}
    first, second = (attempt(graph, values, **target, **options) for values in (scores, turned))
    assert (first is None) == (second is None)
    assume(first is not None)
    event(f"something goes: {bool(first.cuts)}")
    assert_same_up_to_ties(first, scores, second, turned)


def test_permutation_law_refutes_scores_that_matter():
    """Exchanging unequal scores changes the plan; one that goes by position is noticed."""
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
    graph = dg.trace(model, torch.randn(1, 4))
    scores, turned = ({"0.weight:0": values} for values in ((0.0, 1.0, 1.0), (1.0, 0.0, 1.0)))
    first, second = (dg.plan(graph, values, ratio=0.34) for values in (scores, turned))
    assert first.removed != second.removed
    assert_same_up_to_ties(first, scores, second, turned)
    refuted(assert_same_up_to_ties, first, scores, first, turned)


def assert_limits(graph, plan, scores, options):
    """The law of limits: widths, caps, roles, infinite scores and balances."""
    most, least = options.get("max_ratio") or 1.0, options.get("min_width") or 1
    for cut in plan.cuts:
        group, kept = graph.groups_by_name[cut.group], cut.atom.size - len(cut.removed)
        cap = most if isinstance(most, float) else most["0"] if any(t.startswith("0.") for t, _ in group.members) else most["*"]
        assert len(cut.removed) <= cap * group.size + 1e-9, "more than max_ratio goes"
        assert kept >= 1 and kept % (options.get("round_to") or 1) == 0, "what is kept is no multiple"
        fewest = least if isinstance(least, int) else least["role:channel"] if group.role == "channel" else 1
        assert kept >= fewest, "fewer than min_width stay"
        assert group.role in {"channel", "head_dim"}, "the group counts blocks"
        assert all(scores[cut.group][index] != math.inf for index in cut.removed), "what is infinitely important goes"
    for balance in graph.balances:
        assert len({len(plan.removed.get(graph.group_of[atom].name, ())) for atom in balance.atoms}) == 1, "unbalanced"


@given(scored(st.floats(allow_nan=False)), policies(), st.floats(0.2, 0.95), st.sampled_from(["up", "down"]))
def test_limits_hold_in_every_policy(case, options, ratio, rounding):
    """Widths are multiples and not below the minimum, no group loses more than its cap or its last index, balances hold."""
    graph, scores = case
    plan = attempt(graph, scores, ratio=ratio, rounding=rounding, **options)
    assume(plan is not None)
    event(f"something goes: {bool(plan.cuts)}")
    assert_limits(graph, plan, scores, options)


class Halves(torch.nn.Module):
    """Two halves of one projection that only have to be equally long, and conv groups."""

    def __init__(self):
        super().__init__()
        self.both, self.one, self.other = torch.nn.Conv1d(2, 12, 1), torch.nn.Conv1d(6, 2, 1), torch.nn.Conv1d(6, 3, 1)
        self.into = torch.nn.Conv1d(2, 6, 1)
        self.grouped, self.last = torch.nn.Conv1d(6, 6, 1, groups=3), torch.nn.Conv1d(6, 1, 1)

    def forward(self, x):
        left, right = self.both(x).chunk(2, 1)
        return self.one(left), self.other(right), self.last(self.grouped(self.into(x)))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"max_ratio": 0.25}, "more than max_ratio goes"),
        ({"round_to": 4}, "what is kept is no multiple"),
        ({"min_width": 5}, "fewer than min_width stay"),
        ({"scores": math.inf}, "what is infinitely important goes"),
        ({"lone": True}, "unbalanced"),
        ({"role": "conv_group"}, "the group counts blocks"),
    ],
)
def test_each_limit_refutes_a_plan_that_knows_nothing_of_it(options, says):
    """Half of the channels of both halves, of one alone, or a whole group of a convolution."""
    graph = dg.trace(Halves(), torch.randn(1, 2, 5))
    halves = graph.balances[0].atoms
    plan = plan_of(graph, dict.fromkeys(halves, dg.IndexSet.of([0, 1, 2])))
    if "lone" in options:
        plan = attrs.evolve(plan, cuts=plan.cuts[:1])
    if "role" in options:
        (atom,) = (group.atom for group in graph.groups if group.role == options["role"])
        plan = plan_of(graph, {atom: dg.IndexSet.of([0])})
    ones = {group.name: (1.0,) * group.size for group in graph.groups}
    scores = {name: (options.get("scores", 1.0),) * len(values) for name, values in ones.items()}
    refuted(assert_limits, graph, plan, scores, options, says=says)
    policy = {name: value for name, value in options.items() if name in {"max_ratio", "round_to", "min_width"}}
    assert_limits(graph, dg.plan(graph, ones, ratio=0.5, **policy), ones, policy)


@given(modules(), st.data())
def test_plans_of_every_policy_are_lawful(model, data):
    """Square, cost and round trip hold for budgets with every scope, rounding and limit."""
    graph = dg.trace(model, X)
    options = data.draw(policies())
    scores = dg.score(graph, model, dg.criteria.Random(data.draw(st.integers(0, 99))))
    plan = dg.plan(graph, scores, macs=reachable(graph, scores, "macs", 0.6, options), **options)
    event(f"something goes: {bool(plan.cuts)}")
    small = testing.assert_square(graph, plan, model, X)
    testing.assert_cost(plan.apply(graph), small, X)
    testing.assert_round_trip(graph, plan)
    testing.assert_unit(graph, plan)
    assert codec.loads(codec.dumps("plan", plan), "plan", dg.Plan).targets == plan.targets
    assert plan == attrs.evolve(plan, targets=()) and hash(plan) == hash(attrs.evolve(plan, targets=()))


def assert_cost_function(function, graph, plan, what):
    """The law of cost polynomials: at the sizes of a plan they are the cost of the graph after it."""
    sizes = {cut.atom: cut.atom.size - len(cut.removed) for cut in plan.cuts}
    assert function(sizes) == getattr(plan.apply(graph), what)


@given(modules(), st.data())
def test_cost_polynomials_are_the_costs_of_the_smaller_graph(model, data):
    """Evaluated at the sizes of a plan, they give what the graph after the plan costs."""
    graph = dg.trace(model, X)
    plan = data.draw(testing.plans(graph))
    for what in ("params", "macs"):
        assert_cost_function(CostPolynomial.of(graph, what), graph, plan, what)


def test_cost_polynomials_refute_a_linear_model():
    """The cost of two groups at once is not the sum of what each saves alone."""
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 6), torch.nn.Linear(6, 2))
    graph = dg.trace(model, torch.randn(1, 4))
    params, (a, b) = CostPolynomial.of(graph, "params"), (group.atom for group in graph.groups)

    def linear(sizes):
        return params({}) - sum(params({}) - params({atom: size}) for atom, size in sizes.items())

    one, both = ({a: dg.IndexSet.range(0, 4)}, {a: dg.IndexSet.range(0, 4), b: dg.IndexSet.range(0, 3)})
    assert_cost_function(linear, graph, plan_of(graph, one), "params")
    refuted(assert_cost_function, linear, graph, plan_of(graph, both), "params")


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
