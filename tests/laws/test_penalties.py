"""Penalties against a slow model of them that walks over indices; and how strengths grow."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import depgraph as dg
from depgraph.algebra.index_maps import image
from depgraph.testing import modules, network
from tests.laws.refuting import refuted

pytestmark = pytest.mark.models

X = torch.randn(2, 3, 4, 4)


def squares_by_hand(graph, model, group, measure=torch.square, members=None):
    """For each index of a group, the sum over its members of the entries that the index map names."""
    held, result = dict(model.named_parameters()), []
    for index in range(group.size):
        total = 0.0
        for name, dim in group.members if members is None else members:
            if name in held:
                gone = image(graph.tensor(name).axes[dim], {group.atom: dg.IndexSet.of([index])})
                total += float(measure(held[name].detach().double()).index_select(dim, torch.tensor(list(gone))).sum())
        result.append(total)
    return result


def assert_norms(graph, model, group, members, squares):
    """The law of norms: the squares of each index of a group are those of the entries that the index map names."""
    by_hand = squares_by_hand(graph, model, group, members=members)
    torch.testing.assert_close(squares, torch.tensor(by_hand, dtype=torch.float64))


@st.composite
def penalised(draw):
    """A module in double precision, its graph, and a strength for each index of some groups."""
    model = draw(modules()).double()
    graph = dg.trace(model, X.double())
    chosen = draw(st.lists(st.sampled_from(graph.groups), unique=True, min_size=1))
    number = st.floats(0, 2)
    return model, graph, {group.name: draw(st.lists(number, min_size=group.size, max_size=group.size)) for group in chosen}


@given(penalised())
def test_group_lasso_is_the_sum_of_the_norms_of_what_goes(case):
    """The value is that of index maps and square roots, one index at a time."""
    model, graph, strengths = case
    by_hand = {name: squares_by_hand(graph, model, graph.groups_by_name[name]) for name in strengths}
    expected = sum(s * math.sqrt(q) for name, held in strengths.items() for s, q in zip(held, by_hand[name], strict=True))
    half = sum(s * q / 2 for name, held in strengths.items() for s, q in zip(held, by_hand[name], strict=True))
    as_double = {name: torch.tensor(held, dtype=torch.float64) for name, held in strengths.items()}
    assert dg.penalties.group_lasso(graph, model, as_double).item() == pytest.approx(expected, abs=1e-9)
    assert dg.penalties.group_l2(graph, model, as_double).item() == pytest.approx(half, abs=1e-9)


def test_that_law_refutes_reading_a_block_as_a_stride():
    """Heads and head dims of one axis are told apart: norms by the other reading are other norms."""
    torch.manual_seed(0)
    model = network(["attention"], 4, 3, 2, False).double()
    graph = dg.trace(model, X.double())
    (width,) = (group for group in graph.groups if group.role == "head_dim")
    assert str(graph.axis("1.qkv.weight", 0)).count(" x ") == 2 and width.size == 3
    rows = model[1].qkv.weight.detach().square().sum(1)
    assert_norms(graph, model, width, [("1.qkv.weight", 0)], rows.view(3, 2, 3).sum((0, 1)))
    refuted(assert_norms, graph, model, width, [("1.qkv.weight", 0)], rows.view(3, 3, 2).sum((0, 2)))
    met = dg.penalties.group_lasso(graph, model, {width.name: 1.0}).item()
    assert met == pytest.approx(sum(map(math.sqrt, squares_by_hand(graph, model, width))))


class Mirrored(nn.Module):
    """A flip between two layers, and a residual around them, so that one atom is read in both directions."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(3, 5), nn.Linear(5, 4), nn.Linear(5, 4)

    def forward(self, x):
        y = self.a(x)
        return self.b(y) + self.c(y.flip(-1))


def test_axes_that_are_read_backwards():
    """The last column of `c` belongs to the first row of `a`."""
    model = Mirrored().double()
    graph = dg.trace(model, torch.randn(1, 3, dtype=torch.float64))
    (group,) = graph.groups
    norms = model.a.weight.square().sum(1) + model.a.bias.square() + model.b.weight.square().sum(0)
    right = (norms + model.c.weight.square().sum(0).flip(0)).detach()
    wrong = (norms + model.c.weight.square().sum(0)).detach()
    assert_norms(graph, model, group, None, right)
    refuted(assert_norms, graph, model, group, None, wrong)
    assert dg.penalties.group_lasso(graph, model, 1.0).item() == pytest.approx(right.sqrt().sum().item())
    assert wrong.sqrt().sum().item() != pytest.approx(right.sqrt().sum().item())
    assert group.size == 5


@given(penalised())
def test_gradients_are_those_of_the_value(case):
    """The derivative along a random direction is the difference quotient, in double precision."""
    model, graph, strengths = case
    as_double = {name: torch.tensor(held, dtype=torch.float64) for name, held in strengths.items()}
    held = {name: parameter.detach().clone().requires_grad_() for name, parameter in model.named_parameters()}
    torch.manual_seed(0)
    direction = {name: torch.randn_like(tensor) for name, tensor in held.items()}
    gradients = dg.penalties.penalty_gradients(dg.penalties.group_lasso(graph, held, as_double), held)
    slope = sum(float((gradients[name] * direction[name]).sum()) for name in gradients)
    step = 1e-6
    ahead, behind = (
        dg.penalties.group_lasso(
            graph, {name: tensor + sign * step * direction[name] for name, tensor in held.items()}, as_double
        )
        for sign in (1, -1)
    )
    assert slope == pytest.approx((ahead - behind).item() / (2 * step), abs=1e-4, rel=1e-4)


def assert_pulls_nowhere(gradient, places):
    """The law of zeros: the entries of a masked index have a gradient of zero."""
    assert not gradient.index_select(0, torch.tensor(places)).any(), "it is pulled"


@given(penalised(), st.data())
def test_an_index_of_zeros_pulls_nowhere(case, data):
    """Masked indices add nothing and have a gradient of zero: no NaN from the root of zero."""
    model, graph, strengths = case
    name = data.draw(st.sampled_from(sorted(strengths)))
    group = graph.groups_by_name[name]
    plan = dg.combine(
        graph, [next(c for c in dg.candidates(graph, dg.score(graph, model, dg.criteria.Random(0))) if name in c.removed)]
    )
    masked = dg.mask(plan, model)
    gone = plan.removed[name]
    gradients = dg.penalties.penalty_gradients(dg.penalties.group_lasso(graph, masked, {name: 1.0}), masked)
    for tensor, dim in group.members:
        if tensor in gradients and not (set(plan.kept[tensor]) - {dim}):
            places = image(graph.tensor(tensor).axes[dim], {group.atom: gone})
            assert_pulls_nowhere(gradients[tensor].movedim(dim, 0), list(places))
    assert all(bool(gradient.isfinite().all()) for gradient in gradients.values())


def test_that_law_refutes_a_bare_root():
    """The square root at zero has an infinite slope, and zero times infinity is not a number."""
    weight = torch.zeros(3, requires_grad=True)
    (bare,) = torch.autograd.grad(weight.square().sum().sqrt(), weight)
    assert bare.isnan().all()
    refuted(assert_pulls_nowhere, bare, [0], says="it is pulled")


def assert_grown(old, scores, new, delta, ceiling):
    """The law of growing: at most by delta and up to the ceiling, the least important by all of it."""
    assert all(a <= b <= max(a, min(a + delta, ceiling)) for a, b in zip(old, new, strict=True))
    least, most = scores.index(min(scores)), scores.index(max(scores))
    assert new[least] == max(old[least], min(old[least] + delta, ceiling)), "the least important one grew too little"
    assert max(scores) == min(scores) or new[most] == old[most], "the most important one grew"


numbers = st.lists(st.floats(0, 10), min_size=1, max_size=6)


@given(numbers, st.data())
def test_strengths_grow_and_never_shrink(old, data):
    """Between the old strength and delta more; the least important by all of it; the ceiling holds; inputs stay."""
    scores = data.draw(st.lists(st.floats(0, 10), min_size=len(old), max_size=len(old)))
    delta, ceiling = data.draw(st.floats(0, 2)), data.draw(st.floats(0, 12))
    held = {"g": tuple(old)}
    new = dg.penalties.grow(held, {"g": scores}, delta=delta, ceiling=ceiling)["g"]
    assert held == {"g": tuple(old)}
    assert_grown(old, scores, new, delta, ceiling)


def test_that_law_refutes_growing_the_important_ones():
    """With scores the other way round, other indices grow."""
    held, scores = {"g": (0.0, 0.0)}, [1.0, 2.0]
    assert dg.penalties.grow(held, {"g": scores}, delta=1) == {"g": (1.0, 0.0)}
    wrong = dg.penalties.grow(held, {"g": scores[::-1]}, delta=1)["g"]
    refuted(assert_grown, held["g"], scores, wrong, 1, math.inf, says="the least important one grew too little")


@given(st.lists(st.floats(0, 10), min_size=2, max_size=6, unique=True), st.floats(0.1, 4))
def test_graded_strengths_fall_with_the_score(scores, alpha):
    """The most important index has the plain strength, the least important one 2 ** alpha of it; in between in order."""
    (graded,) = dg.penalties.graded_strengths({"g": scores}, 0.5, alpha=alpha).values()
    assert graded[scores.index(max(scores))] == 0.5
    assert graded[scores.index(min(scores))] == pytest.approx(0.5 * 2**alpha)
    ranked = [strength for _, strength in sorted(zip(scores, graded, strict=True))]
    assert ranked == sorted(ranked, reverse=True)
