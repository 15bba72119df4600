"""Candidate cuts: what is accepted is a set. Each law with a wrong implementation that it refutes."""

import attrs
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn

import depgraph as dg
from depgraph.testing import modules, network, plans
from tests.laws.refuting import refuted

pytestmark = pytest.mark.models

X = torch.randn(2, 3, 4, 4)


@st.composite
def offered(draw):
    """A graph, its scores, and all its candidates."""
    model = draw(modules())
    graph = dg.trace(model, X)
    scores = dg.score(graph, model, dg.criteria.Random(draw(st.integers(0, 99))))
    return graph, scores, list(dg.candidates(graph, scores, step=draw(st.integers(1, 3))))


def assert_order_is_free(combine, ways, others):
    """The law of sets: the same ways to cut, in another order or given twice, are one plan."""
    assert combine(ways) == combine(others)


@given(offered(), st.data())
def test_any_order_gives_the_same_plan(case, data):
    """Accepted candidates, shuffled and some of them twice, combine to one plan."""
    graph, _, found = case
    accepted = data.draw(st.lists(st.sampled_from(found), unique=True))
    shuffled = data.draw(st.permutations([*accepted, *accepted[:1]]))
    assert_order_is_free(lambda ways: dg.combine(graph, ways), accepted, shuffled)


def test_that_law_refutes_cutting_one_after_the_other():
    """With indices taken as they stand after the cut before, the order decides what goes."""
    model = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))
    graph = dg.trace(model, torch.randn(1, 3))

    def one_after_the_other(ways):
        plan = dg.Plan.empty(graph)
        for way in ways:
            plan = plan.then(dg.cut(plan.apply(graph), "0.weight", way["0.weight:0"], dim=0))
        return plan

    ways = [{"0.weight:0": [0]}, {"0.weight:0": [3]}]
    refuted(assert_order_is_free, one_after_the_other, ways, ways[::-1])
    assert_order_is_free(lambda ways: dg.combine(graph, ways), ways, [*ways[::-1], ways[0]])
    assert dg.combine(graph, ways).removed["0.weight:0"] == dg.IndexSet.of([0, 3])


def assert_savings(graph, candidate):
    """The law of savings: what a candidate says is what the plan of it alone saves."""
    after = dg.combine(graph, [candidate]).apply(graph)
    assert (candidate.params, candidate.macs) == (graph.params - after.params, graph.macs - after.macs)


@given(offered())
def test_the_savings_are_those_of_the_cut_alone(case):
    """Each candidate is a valid plan by itself, and saves the parameters and MACs that it says."""
    graph, _, found = case
    for candidate in found:
        assert_savings(graph, candidate)
        assert candidate.params > 0 and len(candidate.scores) == len(candidate.indices)


def test_that_law_refutes_counting_the_producing_rows_alone():
    """Rows of one weight are not all that a channel costs."""
    model = network(["residual"], 4, 3, 2, False)
    graph = dg.trace(model, X)
    first = next(dg.candidates(graph, dg.score(graph, model, dg.criteria.Random(0))))
    rows = graph.tensor(first.group.partition(":")[0]).numel // graph.groups_by_name[first.group].size
    assert_savings(graph, first)
    refuted(assert_savings, graph, attrs.evolve(first, params=rows))
    assert first.params > rows


@given(offered())
def test_every_index_but_one_is_offered(case):
    """All candidates together leave one index in each group, or as many as its smallest partner demands."""
    graph, _, found = case
    plan = dg.combine(graph, found)
    partners = {atom: {*balance.atoms} for balance in graph.balances for atom in balance.atoms}
    for group in graph.groups:
        least = min([atom.size for atom in partners.get(group.atom, ())] or [group.size])
        assert len(plan.removed.get(group.name, ())) == least - 1


@given(modules(), st.data())
def test_all_candidates_of_a_plan_are_the_plan(model, data):
    """A plan falls apart into candidates, and they combine to it again."""
    graph = dg.trace(model, X)
    plan = data.draw(plans(graph))
    found = list(dg.candidates(graph, dg.score(graph, model, dg.criteria.Random(0)), plan))
    assert dg.combine(graph, found) == plan
    assume(found)
    assert dg.combine(graph, found[1:]) != plan


class Halves(nn.Module):
    """Two halves of one projection that only have to be equally long."""

    def __init__(self):
        super().__init__()
        self.both, self.one, self.other = nn.Linear(3, 8), nn.Linear(4, 2), nn.Linear(4, 2)

    def forward(self, x):
        left, right = self.both(x).chunk(2, -1)
        return self.one(left) + self.other(right)


def halves():
    """The graph of `Halves`, and scores by which its halves prefer other indices."""
    graph = dg.trace(Halves(), torch.randn(1, 3))
    left, right = (group.name for group in graph.groups)
    return graph, left, right, {left: [0.4, 0.1, 0.3, 0.2], right: [0.1, 0.2, 0.3, 0.4]}


def test_partners_come_along():
    """Balanced groups are one candidate: each loses its own lowest index, and the savings are those of both."""
    graph, left, right, scores = halves()
    first, *others = dg.candidates(graph, scores)
    assert len(others) == 2
    assert first == dg.choosing.Candidate(
        graph.fingerprint, left, dg.IndexSet.of([1]), (0.1,), (dg.choosing.Share(right, dg.IndexSet.of([0]), (0.1,)),), 12, 10
    )
    assert dg.combine(graph, [first]).removed == {left: dg.IndexSet.of([1]), right: dg.IndexSet.of([0])}


def test_a_missing_partner_is_named():
    """What was accepted for one half alone says what the other one lacks; an edit of both is a plan."""
    graph, left, right, scores = halves()
    first = next(dg.candidates(graph, scores))
    with pytest.raises(dg.errors.PlanError) as caught:
        dg.combine(graph, [first, {left: [1, 2, 3]}])
    assert f"with 3 of {left}: {right} lacks 2 (" in str(caught.value) and "Nothing was changed." in str(caught.value)
    edited = {**first.removed, right: [3]}
    assert dg.combine(graph, [edited]).removed == {left: dg.IndexSet.of([1]), right: dg.IndexSet.of([3])}
    with pytest.raises(dg.errors.PlanError, match=rf"{right.replace('[', '.').replace(']', '.')} lacks 1"):
        dg.combine(graph, [attrs.evolve(first, partners=())])


def test_candidates_are_sorted_and_ties_follow_the_graph():
    """Ascending mean score; equal scores in the order of groups, and of indices within one."""
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 1))
    graph = dg.trace(model, torch.randn(1, 2))
    found = list(dg.candidates(graph, {"0.weight:0": [1.0, 1.0, 1.0], "2.weight:0": [2.0, 1.0, 0.5]}))
    assert [(item.group, str(item.indices)) for item in found] == [
        ("2.weight:0", "2"), ("0.weight:0", "0"), ("0.weight:0", "1"), ("2.weight:0", "1"),
    ]  # fmt: skip


def test_what_does_not_fit_is_refused():
    """Foreign candidates and plans, unknown groups, strange indices, bad scores: each with its own error."""
    graph, left, _, scores = halves()
    other = dg.trace(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), torch.randn(1, 3))
    foreign = next(dg.candidates(other, {"0.weight:0": [1, 2, 3, 4]}))
    with pytest.raises(dg.errors.MismatchError, match="a candidate was made for another graph"):
        dg.combine(graph, [foreign])
    with pytest.raises(dg.errors.MismatchError, match="the plan was made for another graph"):
        dg.candidates(graph, scores, dg.Plan.empty(other))
    with pytest.raises(dg.errors.UnknownNameError, match=r"no group is called 'both.weight'; did you mean"):
        dg.combine(graph, [{"both.weight": [1]}])
    with pytest.raises(dg.errors.PlanError, match=r"has the indices 0 to 3, met \[-1\]"):
        dg.combine(graph, [{left: [-1]}])
    with pytest.raises(dg.errors.PlanError, match=r"has the indices 0 to 3, met \[9\]"):
        dg.combine(other, [{"0.weight:0": [9]}])
    with pytest.raises(dg.errors.PlanError, match="expected candidates or mappings of group name to indices, met str"):
        dg.combine(graph, ["both.weight:0"])
    with pytest.raises(dg.errors.PlanError, match="there is no score for group"):
        dg.candidates(graph, {})
    with pytest.raises(dg.errors.PlanError, match=r"expected step= as a whole number of indices from 1 up, met 0"):
        dg.candidates(graph, scores, step=0)
    assert dg.combine(graph, []) == dg.Plan.empty(graph)
