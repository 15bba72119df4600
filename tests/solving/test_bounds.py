"""Groups that keep more than one index: where the bound comes from, who honours it, and where it is told."""

import attrs
import pytest
import torch
from torch import nn

import depgraph as dg
from depgraph import codec, testing
from depgraph.plans.making import plan_of
from tests.frames import Frame

X = torch.randn(2, 6, 8)


class Wide(Frame):
    """A forward that takes another branch where fewer than 5 channels are left."""

    def between(self, y):
        return torch.relu(y) if y.shape[-1] >= 5 else torch.tanh(y)


def lower_bounds(model, x=X):
    """Name to least size of the groups of a model."""
    return {group.name: group.lower_bound for group in dg.trace(model, x).groups}


def to_the_least(model, x=X, kwargs=None):
    """Cut every group to its least size, check the square, and return the small model."""
    graph = dg.trace(model, x, kwargs)
    plan = plan_of(graph, {group.atom: dg.IndexSet.range(0, group.size - group.lower_bound) for group in graph.groups})
    return testing.assert_square(graph, plan, model, x, kwargs)


def test_a_cut_below_the_least_size_is_refused_with_the_line():
    """The error says which group, how many stay, what forward compares, and where."""
    graph = dg.trace(Wide(), X)
    assert str(graph.groups[0]) == "first.weight:0 (12 indices, at least 5 stay, 3 axes)"
    told = (
        r"group first.weight:0 must keep at least 5 of its 12 indices, because forward compares the literal 4 with the size of "
        r"an axis at solving/test_bounds.py:\d+; asked to remove 8. Nothing was changed."
    )
    with pytest.raises(dg.errors.PlanError, match=told):
        dg.cut(graph, "first.weight", range(8), dim=0)
    assert dg.cut(graph, "first.weight", range(7), dim=0).removed == {"first.weight:0": dg.IndexSet.range(0, 7)}
    assert "  it must keep at least 5 indices: forward compares" in dg.explain(graph, "first.weight", 0)
    to_the_least(Wide())


def test_whoever_chooses_honours_the_least_size():
    """Ratios, budgets, rounding, candidates and steps leave what must stay."""
    model = Wide()
    graph = dg.trace(model, X)
    scores = {"first.weight:0": list(range(12))}

    def left(plan):
        return 12 - len(plan.removed["first.weight:0"])

    assert left(dg.plan(graph, scores, ratio=0.95)) == 5
    assert left(dg.plan(graph, scores, ratio=0.95, min_width=2)) == 5
    assert left(dg.plan(graph, scores, ratio=0.95, round_to=4)) == 8
    assert left(dg.plan(graph, scores, params=5 * 14 + 5)) == 5
    with pytest.raises(
        dg.errors.PlanError, match=r"params=74 is out of reach: with as little left in each group as its limits allow"
    ):
        dg.plan(graph, scores, params=5 * 14 + 4)
    assert left(dg.combine(graph, dg.candidates(graph, scores))) == 5
    steps = list(dg.iterate(model, X, lambda g, m: dg.score(g, m, dg.criteria.Random(0)), steps=3, target={"ratio": 0.95}))
    assert [step.model.first.out_features for step in steps] == [9, 5, 5]
    assert steps[-1].graph.groups[0].lower_bound == 5


def test_plans_carry_the_least_size():
    """The graph after a cut has the same bound, composed cuts keep it, and files hold it."""
    graph = dg.trace(Wide(), X)
    first = dg.cut(graph, "first.weight", [0, 3, 5], dim=0)
    after = first.apply(graph)
    assert [(group.size, group.lower_bound) for group in after.groups] == [(9, 5)]
    with pytest.raises(dg.errors.PlanError, match=r"must keep at least 5 of its 9 indices"):
        dg.cut(after, "first.weight", range(5), dim=0)
    both = first.then(dg.cut(after, "first.weight", range(4), dim=0))
    assert both.apply(graph).groups[0].size == 5
    assert codec.loads(codec.dumps("graph", graph), "graph", dg.Graph).lower_bounds == graph.lower_bounds


def test_files_without_least_sizes_are_read():
    """What an earlier version saved has no such field; fingerprints do not depend on it."""
    graph = dg.trace(Wide(), X)
    content = codec._CONVERTER.unstructure(graph)
    del content["lower_bounds"]
    old = codec._CONVERTER.structure(content, dg.Graph)
    assert old.groups[0].lower_bound == 1 and old == graph and old.fingerprint == graph.fingerprint
    assert attrs.evolve(graph, lower_bounds=()).fingerprint == graph.fingerprint


def test_balanced_groups_have_one_bound():
    """Halves that lose equally many indices keep equally many."""

    class Halves(Frame):
        def between(self, y):
            a, b = y.chunk(2, dim=-1)
            return torch.cat([a, b if b.shape[-1] > 3 else torch.relu(b)], -1)

    assert lower_bounds(Halves()) == {"first.weight:0[0]": 4, "first.weight:0[1]": 4}
    to_the_least(Halves())


def test_an_attribute_that_counts_is_compared():
    """Split attention asks `radix > 1`, grouped queries ask `n_rep == 1`: two stay."""

    class Radix(Frame):
        def between(self, y):
            if self.radix > 1:
                return torch.softmax(y.unflatten(-1, (self.radix, -1)), -2).sum(-2)
            return torch.sigmoid(y)

    class Queries(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.n_rep, self.width = 3, 4
            self.q, self.k, self.v, self.out = nn.Linear(8, 24), nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(24, 5)

        def repeated(self, y):
            if self.n_rep == 1:
                return y
            b, h, n, d = y.shape
            return y[:, :, None].expand(b, h, self.n_rep, n, d).reshape(b, h * self.n_rep, n, d)

        def forward(self, x):
            q, k, v = (layer(x).unflatten(-1, (-1, self.width)).transpose(1, 2) for layer in (self.q, self.k, self.v))
            k, v = self.repeated(k), self.repeated(v)
            return self.out((torch.softmax(q @ k.mT, -1) @ v).transpose(1, 2).flatten(2))

    assert lower_bounds(Radix(outer=4, radix=3)) == {"first.weight:0[0]": 2, "first.weight:0[1]": 1}
    to_the_least(Radix(outer=4, radix=3))
    graph = dg.trace(Queries(), X)
    assert {group.role: group.lower_bound for group in graph.groups} == {"head": 1, "kv_group": 2, "head_dim": 1}
    assert to_the_least(Queries()).n_rep == 2


def test_comparisons_that_cannot_flip_bound_nothing():
    """What holds for all sizes from 1 up, and what only larger sizes could change."""

    class Idle(Frame):
        def between(self, y):
            c = y.shape[-1]
            assert 0 < c < 100 and c > -1.5 and c + 1 > 1 and 2 * c >= c and c != 0 and c // 4 <= 3 and -c < 0
            assert c < float("inf") and min(c, 50) == c and bool(c) and c != 13 and not c * 7 < 6
            return y

    assert lower_bounds(Idle()) == {"first.weight:0": 1}
    to_the_least(Idle())


def test_two_sizes_that_are_compared_bound_the_larger_one():
    """`if self.a != self.b` with groups on both sides: the larger one stays larger than the other one is now."""

    class Project(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.last = nn.Linear(8, 6), nn.Linear(6, 9), nn.Linear(9, 5)

        def forward(self, x):
            y = self.a(x)
            z = self.b(y)
            return self.last(torch.relu(z) if y.shape[-1] != z.shape[-1] else z)

    assert lower_bounds(Project()) == {"a.weight:0": 1, "b.weight:0": 7}
    to_the_least(Project())


def test_what_is_not_followed_pins():
    """A comparison of a remainder or of a root gives no bound: the axis stays, with the reason."""

    class Remainder(Frame):
        def between(self, y):
            return torch.relu(y) if y.shape[-1] % 5 > 1 else y

    class Root(Frame):
        def between(self, y):
            return torch.relu(y) if y.shape[-1] ** 0.5 > 1.5 else y

    for model in (Remainder(), Root()):
        graph = dg.trace(model, X)
        assert not graph.groups and "solving/test_bounds.py:" in dg.explain(graph, "first.weight", 0)
    assert "in a way that is not understood" in dg.explain(dg.trace(Remainder(), X), "first.weight", 0)


def test_quotients_with_a_fraction_bound():
    """`c / 5 > 1.5` is `c > 7.5`; what was written as a third is a third; a quotient that must be a whole number is solved."""

    class Over(Frame):
        def between(self, y):
            return torch.relu(y) if y.shape[-1] / 5 > 1.5 and y.shape[-1] / 12 >= 1 / 3 else y

    class Share(Frame):
        def between(self, y):
            assert self.width == y.shape[-1] / self.heads
            return y.unflatten(-1, (self.heads, self.width)).relu().flatten(-2)

    assert lower_bounds(Over()) == {"first.weight:0": 8}
    to_the_least(Over())
    assert list(lower_bounds(Share(heads=3, width=4))) == ["first.weight:0[0]", "first.weight:0[1]"]
    to_the_least(Share(heads=3, width=4))


def test_max_and_min_are_heard():
    """`max(c // 4, 2)` stays the quotient while it is the larger one."""

    class Parts(Frame):
        def between(self, y):
            return y[..., : max(y.shape[-1] // 4, 2)]

    assert list(lower_bounds(Parts(outer=3)).values()) == [2, 2, 2, 2]
    to_the_least(Parts(outer=3))


@pytest.mark.parametrize("squeeze", [lambda y: y.squeeze(), lambda y: y.squeeze(-1), lambda y: y.squeeze((0, -1))])
def test_squeezed_axes_keep_two_indices(squeeze):
    """An axis of size 1 would be dropped."""

    class Squeezed(Frame):
        def between(self, y):
            return squeeze(y.mean((0, 1), keepdim=True)).flatten()

    assert lower_bounds(Squeezed()) == {"first.weight:0": 2}
    assert "aten.squeeze drops axes of size 1" in dg.explain(dg.trace(Squeezed(), X), "first.weight", 0)
    to_the_least(Squeezed())


def test_a_squeeze_that_says_nothing_of_size_one_breaks_the_square():
    """Taken for a mere view, it lets the last but one index go, and the pruned model has a dimension less."""

    class Squeezed(Frame):
        def between(self, y):
            return y.mean((0, 1)).squeeze().unflatten(0, (-1, 1)).sum(1)

    rules = dg.RULES | {"aten.squeeze": dg.RULES["aten.view"]}
    graph = dg.trace(Squeezed(), X, rules=rules)
    plan = dg.cut(graph, "first.weight", range(11), dim=0)
    with pytest.raises(RuntimeError, match="Dimension specified as 0 but tensor has no dimensions"):
        dg.trace(dg.execute(plan, Squeezed()), X, rules=rules)
    with pytest.raises(
        dg.errors.PlanError, match=r"must keep at least 2 of its 12 indices, because aten.squeeze drops axes of size 1"
    ):
        dg.cut(dg.trace(Squeezed(), X), "first.weight", range(11), dim=0)


def test_operators_that_change_at_size_one():
    """What einsum sums over, and what an LSTM projects from, stay larger than what would change the operator."""

    class Summed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.last = nn.Linear(8, 4), nn.Linear(8, 4), nn.Linear(6, 5)

        def forward(self, x):
            return self.last(torch.einsum("nid,njd->nij", self.a(x), self.b(x)))

    class Projected(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.last = nn.LSTM(8, 6, proj_size=4, batch_first=True), nn.Linear(4, 5)

        def forward(self, x):
            return self.last(self.cell(x)[0])

    assert lower_bounds(Summed()) == {"a.weight:0": 2}
    assert sorted(lower_bounds(Projected()).values()) == [1, 5]
    to_the_least(Summed())
    to_the_least(Projected())


def test_a_norm_that_would_have_one_value_is_kept():
    """GroupNorm refuses a single value for each group; torch's check is heard, and bounds where it could fail."""

    class Normed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.norm, self.last = nn.Linear(8, 12), nn.GroupNorm(3, 12), nn.Linear(12, 5)

        def forward(self, x):
            return self.last(self.norm(self.first(x)))

    x = torch.randn(1, 8)
    assert sorted(lower_bounds(Normed(), x).values()) == [1, 2]
    assert sorted(lower_bounds(Normed(), torch.randn(2, 8)).values()) == [1, 1]
    to_the_least(Normed(), x)
