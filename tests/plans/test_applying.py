"""What `Plan.apply` returns is what the plan promises: groups, axes, attributes, balances and the result's fingerprint."""

import attrs
import pytest
import torch
from torch import nn

import depgraph as dg
from depgraph.algebra.spaces import Atom
from depgraph.graph.canonical import shrunk
from depgraph.plans.plan import Cut, Edit, PrunedAxis


class Halves(nn.Module):
    """Two halves of a projection: groups that must lose equally many indices."""

    def __init__(self):
        super().__init__()
        self.project, self.first, self.second = nn.Linear(4, 12), nn.Linear(6, 2), nn.Linear(6, 2)

    def forward(self, x):
        a, b = self.project(x).chunk(2, -1)
        return self.first(a) + self.second(b)


MODEL = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2)).eval()
GRAPH = dg.trace(MODEL, torch.randn(3, 4))
PLAN = dg.cut(GRAPH, "0.weight", [1, 5], dim=0)
(CUT,) = PLAN.cuts


def damaged(**changes):
    return attrs.evolve(PLAN, **changes)


DAMAGED = {
    "a hundred of eight": (damaged(cuts=(attrs.evolve(CUT, removed=dg.IndexSet.range(0, 100)),)), "is to lose one beyond"),
    "all of eight": (damaged(cuts=(attrs.evolve(CUT, removed=dg.IndexSet.range(0, 8)),)), "would lose its last index"),
    "another result": (damaged(result="a" * 64), "promises the fingerprint aaaaaaaaaaaa of its result, met"),
    "another group": (damaged(cuts=(attrs.evolve(CUT, group="5.bias:0"),)), "the graph has no group '5.bias:0' of atom"),
    "an atom of another size": (
        damaged(
            cuts=(attrs.evolve(CUT, atom=Atom(CUT.atom.id, 9)),),
            axes=tuple(attrs.evolve(axis, space=Atom(CUT.atom.id, 9)) for axis in PLAN.axes),
        ),
        "the graph has no group '0.weight:0' of atom",
    ),
    "rows that are none": (
        damaged(
            cuts=(Cut(CUT.group, CUT.atom, dg.IndexSet.of([0, 9]), Atom(77, 2)),),
            axes=(PrunedAxis("0.weight", 0, dg.trace(MODEL, torch.randn(3, 4)).axis("0.weight", 0)),),
        ),
        "not inside of its rows",
    ),
    "an axis that is left out": (damaged(axes=PLAN.axes[1:]), "its axes are not those that its cuts reach"),
    "an axis too many": (
        damaged(
            axes=tuple(sorted((*PLAN.axes, PrunedAxis("9.weight", 0, CUT.atom)), key=lambda axis: (axis.tensor, axis.dim)))
        ),
        "its axes are not those that its cuts reach",
    ),
    "an edit that is left out": (damaged(edits=PLAN.edits[1:]), "its edits are not those that its cuts ask for"),
    "an edit too many": (damaged(edits=(*PLAN.edits, Edit("9.groups", 4, 2))), "its edits are not those that its cuts ask for"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_plan_that_is_not_true_is_refused(name):
    """Each is told, and the graph is as it was."""
    plan, sentence = DAMAGED[name]
    before = GRAPH.fingerprint
    with pytest.raises(dg.errors.MismatchError, match=r"the plan is damaged:[^$]*Nothing was changed") as caught:
        plan.apply(GRAPH)
    assert any(sentence in problem for problem in caught.value.problems), caught.value.problems
    assert GRAPH.fingerprint == before and len(str(caught.value)) < 10_000


def test_all_broken_promises_are_told_at_once():
    """Axes, edits and the result."""
    with pytest.raises(dg.errors.MismatchError) as caught:
        damaged(axes=PLAN.axes[1:], edits=PLAN.edits[1:], result="a" * 64).apply(GRAPH)
    assert len(caught.value.problems) == 3


def test_a_balance_that_does_not_hold_is_refused_whatever_the_plan_promises():
    """A result whose fingerprint is right for its cuts, which would leave the halves unequal."""
    model = Halves().eval()
    graph = dg.trace(model, torch.randn(3, 4))
    assert graph.balances
    plan = dg.plan(graph, dg.score(graph, model, dg.criteria.Random(0)), ratio=0.5)
    first = plan.cuts[0]
    cuts = (attrs.evolve(first, removed=dg.IndexSet.of([0])), *plan.cuts[1:])
    result = shrunk(graph, {cut.atom: cut.removal for cut in cuts}).fingerprint
    with pytest.raises(dg.errors.MismatchError, match="these groups must lose equally many indices"):
        attrs.evolve(plan, cuts=cuts, result=result).apply(graph)
    assert plan.apply(graph).params < graph.params


def test_what_is_true_is_applied():
    """The plan itself, also from a file."""
    assert PLAN.apply(GRAPH).fingerprint == PLAN.result == dg.trace(dg.execute(PLAN, MODEL), torch.randn(3, 4)).fingerprint
