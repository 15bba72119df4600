"""What no plan is made of is refused with its sentence: indices beyond, unequal losses, indices that are none."""

import pytest
import torch
from torch import nn

import depgraph as dg
from depgraph.plans.making import plan_of
from tests.attention import Attention, Stream


class Halves(nn.Module):
    """Two halves of one projection that only have to be equally long."""

    def __init__(self):
        super().__init__()
        self.both, self.one, self.other = nn.Linear(3, 10), nn.Linear(5, 2), nn.Linear(5, 2)

    def forward(self, x):
        left, right = self.both(x).chunk(2, -1)
        return self.one(left) + self.other(right)


def test_an_index_beyond_is_named():
    """With the indices that there are."""
    graph = dg.trace(Halves(), torch.randn(1, 3))
    first, second = (group.atom for group in graph.groups)
    with pytest.raises(
        dg.errors.PlanError, match=rf"group {graph.group_of[first].name} has the indices 0 to 4, met 7".replace("[", r"\[")
    ):
        plan_of(graph, {first: dg.IndexSet.of([1, 7]), second: dg.IndexSet.of([0, 1])})


@pytest.mark.parametrize("counts", [(1, 0), (0, 1), (1, 2), (3, 2)])
def test_halves_that_lose_unequally_many_are_refused(counts):
    """Whichever loses more, and whether the other one loses anything; as many of each are a plan."""
    graph = dg.trace(Halves(), torch.randn(1, 3))
    lost = {group.atom: dg.IndexSet.range(0, count) for group, count in zip(graph.groups, counts, strict=True)}
    with pytest.raises(dg.errors.PlanError, match=rf"must lose equally many .*: asked for {counts[0]} of .*, {counts[1]} of "):
        plan_of(graph, lost)
    plan = plan_of(graph, {group.atom: dg.IndexSet.of([k, 4]) for k, group in enumerate(graph.groups)})
    assert [str(cut.removed) for cut in plan.cuts] == ["0,4", "1,4"]


@pytest.mark.parametrize("row", [[-1], [0, -2], [True], [1.0], ["1"], [None], [0, 0], 1])
def test_rows_of_what_is_no_index_are_refused(row):
    """Negative, a truth value, a number with a fraction, text, nothing, twice the same, or no list."""
    graph = dg.trace(Stream(Attention()).double(), torch.randn(2, 3, 3, dtype=torch.float64))
    (name, *_), rows = dg.ragged.ragged_groups(graph), [[0], [1], [0], [1]]
    dg.cut_each(graph, {name: rows})
    with pytest.raises(dg.errors.PlanError, match=r"different indices for row 2 of group .*, counted from 0"):
        dg.cut_each(graph, {name: [*rows[:2], row, rows[3]]})


def test_plans_that_do_not_follow_are_told_by_the_beginnings_of_their_fingerprints():
    """Twelve digits of each, which is what a graph shows of itself."""
    graph = dg.trace(Halves(), torch.randn(1, 3))
    plan = plan_of(graph, {group.atom: dg.IndexSet.of([0]) for group in graph.groups})
    result, base = plan.result[:12], plan.base[:12]
    with pytest.raises(dg.errors.MismatchError, match=rf"the first plan leads to {result}, the second one starts at {base}\b"):
        plan.then(plan)


def test_a_plan_says_what_goes_and_whether_each_row_has_its_own():
    """One line for each group; rows are told only where there are any."""
    graph = dg.trace(Stream(Attention()).double(), torch.randn(2, 3, 3, dtype=torch.float64))
    name, *_ = dg.ragged.ragged_groups(graph)
    size = graph.groups_by_name[name].size
    plain, ragged = dg.cut_each(graph, {name: [1]}), dg.cut_each(graph, {name: [[0], [1], [0], [1]]})
    line = f"\n  {name}: 1 of {size} indices go"
    assert str(plain).endswith(f"attributes>{line}")
    assert str(ragged).endswith(f"attributes>{line}, of each of 4 rows its own")
