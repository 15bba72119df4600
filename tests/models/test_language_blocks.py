"""Small pieces of language models: what their forward code says about sizes, and what it only seems to say."""

import pytest
import torch
from torch import nn

import depgraph as dg
from depgraph import testing

X = torch.randn(2, 5, 8)


def pruned(model, inputs, ratio):
    """The executed model, through the laws."""
    graph = testing.assert_pure(model, inputs)
    plan = dg.plan(graph, dg.score(graph, model, dg.Magnitude(p=2)), ratio=ratio)
    small = testing.assert_square(graph, plan, model, inputs)
    testing.assert_cost(plan.apply(graph), small, inputs)
    testing.assert_zero_channels(graph, plan, model, inputs)
    return graph, small


class Halves(nn.Module):
    """Sines and cosines are interleaved, and take the shape of the table of both."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.table, self.down = nn.Linear(8, 12), nn.Linear(8, 12), nn.Linear(12, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        table = self.table(x)
        sines, _ = table.chunk(2, -1)
        both = torch.stack([sines, sines], -1).reshape_as(table)
        return self.down(self.up(x) * both)


def test_a_shape_like_another_ties_no_indices():
    """`reshape_as` takes sizes from another tensor, not the order in which its indices lie."""
    graph, small = pruned(Halves().eval(), X, 0.5)
    assert sorted(group.size for group in graph.groups) == [6, 6]
    assert (small.up.out_features, small.table.out_features, small.down.in_features) == (6, 6, 6)


class ShapeOnly(nn.Module):
    """The last channel is taken for the shape that is left."""

    def __init__(self, read: bool) -> None:
        super().__init__()
        self.read = read
        self.up, self.down, self.places = nn.Linear(8, 12), nn.Linear(12, 3), nn.Embedding(9, 12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.up(x)
        last = x[:, :, -1]
        x = x + self.places(torch.arange(last.shape[1]))
        return self.down(x + last[..., None] if self.read else x)


def test_an_element_that_nothing_reads_is_no_fixed_position():
    """Where only the shape of a slice is used, the axis may lose indices; where it is read, it may not."""
    _, small = pruned(ShapeOnly(read=False).eval(), X, 0.5)
    assert small.up.out_features == 6
    kept = dg.trace(ShapeOnly(read=True).eval(), X)
    assert any("takes a fixed position" in pinned.reason for pinned in kept.pinned)
    assert not kept.groups


class Averaged(nn.Module):
    """Attention weights that were averaged over heads are repeated for every head, by an attribute."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.up, self.down = nn.Linear(8, 12), nn.Linear(12, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.up(x).unflatten(-1, (self.heads, -1))
        mean = y.mean(-1).mean(-1)
        self.shape = mean[..., None].expand(*mean.shape, self.heads).shape
        return self.down(y.flatten(2))


def test_repetitions_follow_what_counts_them():
    """A repeated axis that no parameter holds loses as many copies as the heads that its attribute counts."""
    model = Averaged(4).eval()
    graph, small = pruned(model, X, {"up.weight:0[0]": 0.5})
    assert (small.heads, small.up.out_features) == (2, 6)
    assert not hasattr(model, "shape")
    assert not graph.balances


class Placed(nn.Module):
    """Rows of one tensor are put where a mask says, row by row, or element by element."""

    def __init__(self, by_row: bool) -> None:
        super().__init__()
        self.by_row = by_row
        self.text, self.image, self.down = nn.Linear(8, 12), nn.Linear(8, 12), nn.Linear(12, 3)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        text = self.text(x)
        chosen = mask[..., None].expand_as(text) if self.by_row else (mask[..., None] & (text == text))
        return self.down(text.masked_scatter(chosen, self.image(x)))


def test_rows_that_a_mask_places_keep_their_channels():
    """A mask that was expanded over the channels says the same for each; one that was computed for each may not."""
    mask = torch.tensor([[False, True, False, True, True]] * 2)
    _, small = pruned(Placed(by_row=True).eval(), (X, mask), 0.5)
    assert small.text.out_features == small.image.out_features == 6
    kept = dg.trace(Placed(by_row=False).eval(), (X, mask))
    assert not kept.groups


class Sinks(nn.Module):
    """Grouped queries, each with a learned sink: a parameter over query heads alone."""

    def __init__(self) -> None:
        super().__init__()
        self.width, self.repeats = 4, 3
        self.query, self.key, self.out = nn.Linear(8, 24), nn.Linear(8, 8), nn.Linear(24, 3)
        self.sinks = nn.Parameter(torch.randn(6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shape = (*x.shape[:2], -1, self.width)
        q, k = self.query(x).view(shape).transpose(1, 2), self.key(x).view(shape).transpose(1, 2)
        k = k[:, :, None].expand(-1, -1, self.repeats, -1, -1).flatten(1, 2)
        scores = q @ k.transpose(-1, -2) * self.sinks.view(1, -1, 1, 1)
        return self.out((scores @ k).transpose(1, 2).flatten(2))


def test_query_heads_of_a_parameter_are_a_kv_group():
    """The count of query heads for each key-value head stays one where a parameter has no head dims behind it."""
    model = Sinks().eval()
    graph = dg.trace(model, X)
    roles = {group.name: (group.role, group.size) for group in graph.groups}
    assert roles["sinks:0[0]"] == ("head", 2) and roles["sinks:0[1]"] == ("kv_group", 3)
    small = pruned(model, X, {"role:kv_group": 0.34})[1]
    assert (small.repeats, len(small.sinks), small.key.out_features) == (2, 4, 8)


class Widened(nn.Module):
    """A stage is projected where its width changes: forward compares two attributes."""

    def __init__(self, wide: int) -> None:
        super().__init__()
        self.narrow, self.wide = 4, wide
        self.stem, self.down = nn.Linear(8, 4), nn.Linear(wide, 3)
        self.widen = nn.Linear(4, wide)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        if self.narrow != self.wide:
            x = self.widen(x)
        return self.down(x.view(*x.shape[:-1], self.wide))


def test_sizes_that_differ_stay_different():
    """A width whose equality with another would skip a layer stays larger than that one is; the other one is pruned."""
    graph, small = pruned(Widened(8).eval(), X, 0.5)
    assert (small.stem.out_features, small.widen.out_features) == (2, 5)
    assert "at least 5 indices: forward compares the attribute narrow with the attribute wide" in dg.explain(
        graph, "widen.weight", dim=0
    )


def test_a_width_that_cannot_reach_the_other_is_free():
    """A size that is smaller by now never grows to meet the other one."""
    _, small = pruned(Widened(2).eval(), X, 0.5)
    assert small.widen.out_features == 1 and small.wide == 1


class AsksWhetherTraced(nn.Linear):
    """Fake tensors are given a mask that does not fit, as by libraries that ask whether they are traced."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = super().forward(x)
        return y + torch.ones(7) if type(x) is not torch.Tensor else y


def test_a_forward_that_only_fails_on_fakes_runs_on_the_examples():
    """Where the forward works on real tensors, it is that one which counts; where it does not, its error comes through."""
    assert dg.trace(AsksWhetherTraced(8, 3), X).mode == "real"
    with pytest.raises(RuntimeError, match="must have same reduction dim"):
        dg.trace(AsksWhetherTraced(8, 3), torch.randn(2, 5))


class FirstHalf(nn.Module):
    """The first half is taken, of an axis whose number may be as large as the half."""

    def __init__(self, wide: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(8, wide), nn.Linear(wide // 2, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.up(x)
        return self.down(y[..., : y.shape[-1] // 2])


@pytest.mark.parametrize("wide", [4, 8])
def test_a_size_that_equals_the_number_of_a_dimension(wide):
    """Two indices end the slice of dimension 2: the written number is the end, not the dimension."""
    model = FirstHalf(wide).eval()
    assert [(group.size, len(group.members)) for group in dg.trace(model, X).groups] == [(wide // 2, 3), (wide // 2, 2)]
