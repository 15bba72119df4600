"""What the algebra of plans refuses, with every problem named, and what becomes of added edits and tied names."""

import re

import pytest
import torch
from torch import nn

import depgraph as dg
from depgraph.graph.ragged import bases_of
from tests.attention import Attention, Stream
from tests.plans.test_applying import Halves

X = torch.zeros(1, 4)


class Widths(nn.Module):
    """Two hidden layers, and their sizes in attributes that forward does not read."""

    def __init__(self):
        super().__init__()
        self.wide, self.narrow = 8, 6
        self.first, self.second, self.third = nn.Linear(4, 8), nn.Linear(8, 6), nn.Linear(6, 2)

    def forward(self, x):
        return self.third(self.second(self.first(x)))


GRAPH = dg.trace(Widths(), X)
FIRST, SECOND = dg.cut(GRAPH, "first.weight", [2, 6], dim=0), dg.cut(GRAPH, "second.weight", [0], dim=0)


def test_all_conflicts_of_a_merge_are_told():
    """Groups that two plans cut differently, and attributes that they edit differently."""
    other = dg.cut_each(GRAPH, {"first.weight:0": [1], "second.weight:0": [0, 3]}).edit("wide", 6)
    with pytest.raises(dg.errors.PlanError) as caught:
        dg.merge(GRAPH, [FIRST.edit("wide", 5), other, SECOND])
    assert [problem.split(" loses ")[0].split(" becomes ")[0] for problem in caught.value.problems] == [
        "group 'first.weight:0'",
        "attribute 'wide'",
        "group 'second.weight:0'",
    ]
    assert "loses 2,6 by plan 0 and 1 by plan 1" in str(caught.value) and "5 by plan 0 and 6 by plan 1" in str(caught.value)


def test_plans_of_other_graphs_are_refused():
    """By every operation, and each plan by its number."""
    other = dg.cut(dg.trace(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2)), X), "0.weight", [1], dim=0)
    for wrong in (
        lambda: dg.merge(GRAPH, [FIRST, other]),
        lambda: FIRST.diff(other),
        lambda: FIRST.rebase(GRAPH, other),
        lambda: other.rebase(GRAPH, FIRST),
        lambda: other.restrict(GRAPH, "*"),
    ):
        with pytest.raises(dg.errors.MismatchError, match=r"made for different graphs:\n  - plan [01]: expected fingerprint"):
            wrong()


@pytest.mark.parametrize(
    "wrong, says",
    [
        (lambda: dg.merge([FIRST], GRAPH), "expected a Graph, met list"),
        (lambda: dg.merge(GRAPH, [FIRST, "plan.json"]), "expected a Plan, met str"),
        (lambda: FIRST.diff(GRAPH), "expected a Plan, met Graph"),
        (lambda: FIRST.restrict("first", GRAPH), "expected a Graph, met str"),
        (lambda: FIRST.rebase(SECOND, GRAPH), "expected a Graph, met Plan"),
        (lambda: FIRST.invert([torch.zeros(2)]), "expected the pruned tensors as a module or a mapping .*, met list"),
        (lambda: FIRST.invert({"first.weight": 3}), "expected the pruned tensors as a module or a mapping .*, met dict"),
        (lambda: FIRST.invert({}, fill="0"), "expected fill= as a module or a mapping .*, or a finite number, met str"),
    ],
)
def test_arguments_of_another_kind_are_refused(wrong, says):
    with pytest.raises(dg.errors.PlanError, match=says):
        wrong()


def test_a_group_that_two_plans_empty_is_kept():
    """Each of them leaves something, both together nothing."""
    one, other = dg.cut(GRAPH, "first.weight", range(4), dim=0), dg.cut(GRAPH, "first.weight", range(4, 8), dim=0)
    with pytest.raises(dg.errors.PlanError, match="would lose its last index"):
        one.rebase(GRAPH, other)


def test_a_part_of_balanced_groups_is_refused():
    """Halves of a chunk lose equally many, or nothing."""
    model = Halves().eval()
    graph = dg.trace(model, X)
    plan = dg.plan(graph, dg.score(graph, model, dg.criteria.Random(0)), ratio=0.5)
    first, second = (cut.group for cut in plan.cuts)
    with pytest.raises(dg.errors.PlanError, match="these groups must lose equally many indices"):
        plan.restrict(graph, first)
    assert plan.restrict(graph, [first, second]) == plan


def test_rows_go_with_what_each_of_them_loses():
    """A ragged cut lists nothing for the rows that go, so it cannot do without them; the rows can do without it."""
    model = Stream(Attention(3, 1, width=4, values=4)).eval()
    graph = dg.trace(model, torch.zeros(2, 3, 3))
    atom, rows = next((atom, base) for atom, base in bases_of(graph).items() if base.size == 3)
    name, base = (graph.group_of[each].name for each in (atom, rows))
    plan = dg.cut_each(graph, {name: [[0], [], [2]], base: [1]})
    with pytest.raises(dg.errors.PlanError, match=f"for each index of .*name {re.escape(base)} as well"):
        plan.restrict(graph, name)
    assert dict(plan.restrict(graph, base).removed) == {base: dg.IndexSet.of([1])}


def test_added_edits_come_along():
    """With the cuts from which their value follows; merged; and once, where another plan was applied meanwhile."""
    both = dg.merge(GRAPH, [FIRST, SECOND]).edit("wide", 6).edit("narrow", 5).edit("third.in_channels", 3, old=4)
    part = both.restrict(GRAPH, "first.weight:0")
    assert part == FIRST.edit("wide", 6)
    assert dg.merge(GRAPH, [part, SECOND.edit("narrow", 5)]).edit("third.in_channels", 3, old=4) == both
    assert both.rebase(GRAPH, part).added == ("narrow", "third.in_channels")
    assert part.then(both.rebase(GRAPH, part)) == both
    assert both.diff(FIRST.edit("wide", 5)).edits == (
        dg.plans.EditDifference("narrow", 5, None),
        dg.plans.EditDifference("third.in_channels", 3, None),
        dg.plans.EditDifference("wide", 6, 5),
    )


def test_a_difference_is_printed():
    """Groups, edits, and fields that should not differ."""
    other = dg.cut_each(GRAPH, {"first.weight:0": [2, 7], "second.weight:0": [0]}).edit("wide", 6)
    assert str(FIRST.diff(other)).splitlines() == [
        "<PlanDifference: 2 groups, 1 edits>",
        "  first.weight:0: only the first removes 6; only the second removes 7",
        "  second.weight:0: only the second removes 0",
        "  wide: None by the first, 6 by the second",
    ]


def test_tensors_that_do_not_fit_are_listed():
    """Missing ones, ones of other sizes, and fills."""
    small = {"first.weight": torch.zeros(6, 4), "first.bias": torch.zeros(7), "other": torch.zeros(3)}
    fill = {"first.weight": torch.zeros(8, 5), "first.bias": torch.zeros(8, 1)}
    with pytest.raises(dg.errors.MismatchError, match="the plan does not fit these tensors") as caught:
        FIRST.invert(small, fill)
    assert len(caught.value.problems) == 4
    told = str(caught.value)
    assert "'first.bias': expected size 6 in dimension 0, met shape (7,)" in told
    assert "'first.bias' of fill=: expected 1 dimensions, met shape (8, 1)" in told
    assert "fill=: 'first.weight': expected size 4 in dimension 1, met shape (8, 5)" in told
    assert "there is no tensor 'second.weight'; for buffers that are not saved, pass the module" in told


def test_ties_and_other_tensors_are_handed_on():
    """One name of a tied tensor is enough; what the plan does not cut is the same memory; nothing is written to."""
    model = nn.Sequential(nn.Linear(3, 4, bias=False), nn.Linear(4, 3, bias=False), nn.Linear(3, 4, bias=False))
    model[2].weight = model[0].weight
    plan = dg.cut(dg.trace(nn.Sequential(*model, nn.Linear(4, 2)), torch.zeros(1, 3)), "1.weight", [0], dim=1)
    small = {"0.weight": torch.ones(3, 3), "1.weight": torch.ones(3, 3), "3.weight": torch.ones(2, 3), "free": torch.ones(2)}
    assert plan.tied
    whole = plan.invert(small, fill=-1)
    assert whole["0.weight"][:, 0].tolist() == [-1, 1, 1, 1] and whole["free"].data_ptr() == small["free"].data_ptr()
    assert all((tensor == 1).all() for tensor in small.values())
    shared = plan.invert({**small, "2.weight": small["0.weight"]})
    assert shared["0.weight"] is shared["2.weight"]
