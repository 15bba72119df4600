"""Least sizes: every allowed cut leaves forward on its branches, and one index more is refused where it would not."""

import operator

import pytest
import torch
from attrs import frozen
from hypothesis import assume, event, given, settings
from hypothesis import strategies as st
from torch import nn

import depgraph as dg
from depgraph import testing
from depgraph.plans.making import plan_of
from depgraph.tracing.session import Session
from tests.laws.refuting import refuted

X = torch.randn(2, 4)
FORMS = {
    "c": lambda c: c,
    "2 * c": lambda c: 2 * c,
    "c - 3": lambda c: c - 3,
    "7 - c": lambda c: 7 - c,
    "c // 3": lambda c: c // 3,
    "c // 2 + 1": lambda c: c // 2 + 1,
    "24 // c": lambda c: 24 // c,
    "c / 3": lambda c: c / 3,
    "24 / c": lambda c: 24 / c,
    "c * c - 6 * c": lambda c: c * c - 6 * c,
    "max(c, 4)": lambda c: max(c, 4),
    "min(c, 6)": lambda c: min(c, 6),
}
PAIRS = {
    "h * w": lambda h, w: h * w,
    "h": lambda h, w: h,
    "w - h": lambda h, w: w - h,
    "h * w // 3": lambda h, w: h * w // 3,
    "h * w / 5": lambda h, w: h * w / 5,
    "h + 2 * w": lambda h, w: h + 2 * w,
    "h * w - 4 * h": lambda h, w: h * w - 4 * h,
    "h * w // (w + 1)": lambda h, w: h * w // (w + 1),
}
ORDERS = ("lt", "le", "gt", "ge", "ne")
literals = st.one_of(st.integers(-2, 14), st.integers(-2, 14).map(lambda k: k + 0.5))


@frozen
class Question:
    """What a forward asks of its sizes: a form, a comparison, and a literal, on either side.

    A number with a fraction stands on the right: Python asks a float on the left, which knows nothing of sizes.
    """

    form: str
    order: str
    literal: float
    swapped: bool = False

    def __call__(self, *sizes):
        """The answer."""
        value = (FORMS if len(sizes) == 1 else PAIRS)[self.form](*sizes)
        compare = getattr(operator, self.order)
        return bool(
            compare(self.literal, value) if self.swapped and isinstance(self.literal, int) else compare(value, self.literal)
        )


class Branching(nn.Module):
    """A forward that takes another activation for each answer."""

    def __init__(self, width, questions, heads=None):
        super().__init__()
        self.first, self.last = nn.Linear(4, width * (heads or 1)), nn.Linear(width * (heads or 1), 3)
        self.questions = tuple(questions)
        if heads is not None:
            self.heads, self.width = heads, width

    def forward(self, x):
        """Ask for the one width, or for heads and their width."""
        y = self.first(x)
        if hasattr(self, "heads"):
            y = y.view(2, self.heads, self.width)
        sizes = y.shape[1:]
        for question in self.questions:
            y = torch.relu(y) if question(*sizes) else torch.tanh(y)
        return self.last(y.flatten(1))


def answers(model, *sizes):
    """What plain integers answer, with what `min` and `max` pick."""
    picked = [min(sizes[0], 6) == sizes[0] for question in model.questions if question.form.startswith("min")]
    picked += [max(sizes[0], 4) == sizes[0] for question in model.questions if question.form.startswith("max")]
    return [question(*sizes) for question in model.questions], picked


def fewer(graph, model, *counts):
    """The plan that removes so many indices of each group, and whether the square closes."""
    plan = plan_of(graph, {group.atom: dg.IndexSet.range(0, k) for group, k in zip(graph.groups, counts, strict=True)})
    small = dg.execute(plan, model)
    return plan, testing.same(plan.apply(graph), dg.trace(small, X))


def assert_closed(graph, model, *counts):
    """The law: the square closes after a cut that the lower bounds allow."""
    plan, closed = fewer(graph, model, *counts)
    assert closed, f"without {plan.removed} forward takes another branch"


questions = st.builds(Question, st.sampled_from(sorted(FORMS)), st.sampled_from(ORDERS), literals, st.booleans())
pairs = st.builds(Question, st.sampled_from(sorted(PAIRS)), st.sampled_from(ORDERS), literals, st.booleans())


def unequal(model, *sizes):
    """Whether no question compares equal numbers for equality: those would pin."""
    forms = FORMS if len(sizes) == 1 else PAIRS
    return all(q.order != "ne" or forms[q.form](*sizes) != q.literal for q in model.questions)


@given(st.integers(2, 12), st.lists(questions, min_size=1, max_size=3))
@settings(max_examples=40)
def test_the_least_size_of_one_group_is_exact(width, asked):
    """Down to the least size each cut closes the square, bounds included; one index more would change an answer."""
    model = Branching(width, asked)
    assume(unequal(model, width))
    graph = dg.trace(model, X)
    (group,) = graph.groups
    event(f"something must stay: {group.lower_bound > 1}; something may go: {group.lower_bound < width}")
    same = [answers(model, size) == answers(model, width) for size in range(1, width + 1)]
    assert group.lower_bound == max((size + 1 for size in range(1, width) if not same[size - 1]), default=1)
    for count in {0, width - group.lower_bound, (width - group.lower_bound) // 2}:
        assert_closed(graph, model, count)
        plan, _ = fewer(graph, model, count)
        left = dg.trace(dg.execute(plan, model), X)
        assert [(item.atom, item.size) for item in plan.apply(graph).lower_bounds] == [
            (item.atom, item.size) for item in left.lower_bounds
        ]
    if group.lower_bound > 1:
        with pytest.raises(dg.errors.PlanError, match=r"must keep at least|last index"):
            fewer(graph, model, width - group.lower_bound + 1)


@given(st.integers(2, 5), st.integers(2, 5), st.lists(pairs, min_size=1, max_size=3), st.data())
@settings(max_examples=60)
def test_the_least_sizes_of_two_groups_are_sufficient(heads, width, asked, data):
    """Whatever two groups keep above their least sizes, every answer is as it was, and the square closes."""
    model = Branching(width, asked, heads)
    assume(unequal(model, heads, width))
    graph = dg.trace(model, X)
    first, second = graph.groups
    event(f"something must stay: {first.lower_bound > 1 or second.lower_bound > 1}")
    for h in range(first.lower_bound, heads + 1):
        for w in range(second.lower_bound, width + 1):
            assert answers(model, h, w) == answers(model, heads, width)
    kept = data.draw(st.tuples(st.integers(first.lower_bound, heads), st.integers(second.lower_bound, width)))
    assert_closed(graph, model, heads - kept[0], width - kept[1])


def test_least_sizes_of_two_groups_are_not_larger_than_they_must_be():
    """What holds for all sizes bounds nothing; where one group alone decides, the other one stays free."""
    free = [Question("h * w", "gt", 0), Question("h * w", "lt", 99), Question("h + 2 * w", "ge", 3), Question("h", "le", 4.5)]
    assert [group.lower_bound for group in dg.trace(Branching(5, free, 4), X).groups] == [1, 1]
    assert [group.lower_bound for group in dg.trace(Branching(5, [Question("h", "gt", 2)], 4), X).groups] == [3, 1]
    assert [group.lower_bound for group in dg.trace(Branching(5, [Question("h * w - 4 * h", "gt", 0)], 4), X).groups] == [1, 5]
    assert [group.lower_bound for group in dg.trace(Branching(5, [Question("h * w", "ne", 1)], 4), X).groups] == [1, 2]


@pytest.mark.parametrize("order", ["gt", "ne"])
def test_without_hearing_comparisons_the_square_is_refuted(order, monkeypatch):
    """A tracer that does not hear of comparisons allows cuts after which forward takes another branch."""
    model = Branching(6, [Question("c", order, 2)])
    graph = dg.trace(model, X)
    assert graph.groups[0].lower_bound == 3
    for count in range(4):
        assert_closed(graph, model, count)
    monkeypatch.setattr(Session, "below", lambda *_: None)
    monkeypatch.setattr(Session, "unlike", lambda *_: None)
    deaf = dg.trace(model, X)
    assert deaf == graph and deaf.groups[0].lower_bound == 1
    refuted(assert_closed, deaf, model, 4, says="takes another branch")
    assert [fewer(deaf, model, count)[1] for count in range(6)] == [True] * 4 + [False, order == "ne"]
