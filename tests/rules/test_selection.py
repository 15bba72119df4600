"""Masks, routing, early exits and other choices by data: rows are chosen, channels stay prunable."""

import torch
from torch import nn
from torch.nn import functional as F

import depgraph as dg
from tests.rules.test_operators import ENDS, ROWS, TOKENS, Around, cases, check, lawful, layout, on, reasons, why


def update(condition, change):
    """Write to what a condition on the tensor chooses."""

    def operator(x):
        y, chosen = x.clone(), condition(x)
        y[chosen] = change(x, chosen)
        return y

    return operator


def some_rows(x):
    """Rows chosen by the data; all of them on any input."""
    return x.sum(-1) > -1e9


@cases([
    ("rows", lambda x: x[x.new_ones(x.shape[0]).bool()], "a8 -> a8", on(ROWS)),
    ("tokens", lambda x: x[x.new_ones(x.shape[:2]).bool()], "a8 -> a8", on(TOKENS)),
    ("by the data", lambda x: x[some_rows(x)], "a8 -> a8", on(TOKENS)),
    ("bytes", lambda x: x[some_rows(x).to(torch.bool)], "a8 -> a8", on(ROWS)),
    ("channels", lambda x: x[:, torch.tensor([True] * 4 + [False] * 4)], "8 -> 4", on(ROWS, why="aten.index takes positions")),
    ("in the middle", lambda x: x[:, :, torch.ones(6, 6, dtype=torch.bool)].mean(-1), "a8 -> a8"),
    ("with an index", lambda x: x[torch.tensor([True, True]), :, torch.tensor([0, 1])].mean(-1), "a8 -> a8"),
    ("elements", lambda x: x * x[x > -1e9].mean(), "8 -> 8", on(ROWS, why="aten.index takes positions")),
    ("masked_select", lambda x: x * x.masked_select(x > -1e9).mean(), "8 -> 8", on(ROWS, why="lays in a row")),
    ("masked_scatter", lambda x: x.masked_scatter(x > 0, x), "8 -> 8", on(ROWS, why="lays in a row")),
    ("a single truth", lambda x: x[torch.tensor(True)][0], "a8 -> a8", on(ROWS)),
    ("nonzero", lambda x: x[some_rows(x).nonzero()[:, 0]], "a8 -> a8", on(ROWS)),
    ("nonzero as a tuple", lambda x: x[some_rows(x).nonzero(as_tuple=True)], "a8 -> a8", on(TOKENS)),
    ("where alone", lambda x: x[torch.where(some_rows(x))[0]], "a8 -> a8", on(ROWS)),
    ("where of channels", lambda x: x[:, torch.where(x.abs().sum(0) >= 0)[0]], "8 -> 8",
     on(ROWS, why="counts the positions where its condition holds")),
    ("unique", lambda x: x[torch.unique(torch.tensor([0, 1, 1]))], "a8 -> a8", on(ROWS)),
    ("unique elements", lambda x: x * torch.unique(x).mean(), "8 -> 8", on(ROWS, why="positions that the data gives")),
    ("argwhere", lambda x: x[torch.argwhere(some_rows(x))[:, 0]], "a8 -> a8", on(ROWS)),
])  # fmt: skip
def test_masks(operator, expected, options):
    """A mask pins the axes that it speaks of and no other one."""
    check(operator, expected, **options)


@cases([
    ("a number to elements", update(lambda x: x > 0, lambda x, m: 0.5), "a8 -> a8", on(TOKENS)),
    ("a number to rows", update(some_rows, lambda x, m: 0.5), "a8 -> a8", on(TOKENS)),
    ("rows", update(some_rows, lambda x, m: 2 * x[m]), "a8 -> a8", on(TOKENS)),
    ("a row for all", update(some_rows, lambda x, m: x.mean((0, 1))), "a8 -> a8", on(TOKENS)),
    ("elements", update(lambda x: x > -1e9, lambda x, m: 2 * x[m]), "8 -> 8", on(TOKENS, why="aten.index takes positions")),
    ("index_put", lambda x: x.index_put((some_rows(x),), x.mean((0, 1))), "a8 -> a8", on(TOKENS)),
    ("index_add of routed rows", lambda x: torch.zeros_like(x).index_add_(0, some_rows(x).nonzero()[:, 0], x[some_rows(x)]),
     "a8 -> a8", on(ROWS)),
    ("masked rows of halves", lambda x: x.index_put((some_rows(x)[:, 0],), x.flip(0).mean(0)), "a8 -> a8", on(TOKENS)),
])  # fmt: skip
def test_masked_writes(operator, expected, options):
    """A single value to where a mask says is element-wise; chosen rows keep their trailing axes."""
    check(operator, expected, **options)


@cases([
    ("take", lambda x: x * x.take(torch.tensor([0, 1])).sum(), "8 -> 8", on(ROWS, why="positions of all elements in a row")),
    ("put", lambda x: x.put(torch.tensor([0, 1]), x.mean(1)), "8 -> 8", on(ROWS, why="positions of all elements in a row")),
    ("bucketize", lambda x: x * torch.bucketize(x, torch.tensor([0.0, 1.0], dtype=x.dtype)), "a8 -> a8"),
    ("bucketize by channels", lambda x: x * torch.bucketize(x, x.sort(1).values[0, :, 0, 0].contiguous()), "8 -> 8"),
    ("searchsorted", lambda x: x * torch.searchsorted(torch.tensor([0.0, 1.0], dtype=x.dtype), x), "a8 -> a8"),
    ("isin", lambda x: x * torch.isin(x, torch.tensor([0.0, 1.0], dtype=x.dtype)), "a8 -> a8"),
    ("bincount", lambda x: x * torch.bincount(torch.tensor([0, 1, 1])).sum(), "a8 -> a8", on(ROWS)),
    ("histc", lambda x: x * torch.histc(x, 4).sum(), "a8 -> a8"),
    ("one_hot", lambda x: x + F.one_hot(torch.tensor([0, 1]), 4).sum(), "a8 -> a8", on(ROWS)),
    ("select_scatter", lambda x: x.select_scatter(x[:, :, 0], 2, 1), "a8 -> a8"),
    ("select_scatter of channels", lambda x: x.select_scatter(x.mean(1), 1, 1), "8 -> 8", why("a fixed position of it")),
    ("slice_scatter", lambda x: x.slice_scatter(x[:, : x.shape[1] // 2], 1, x.shape[1] // 2), "a4 + a4 -> a4 + a4"),
    ("slice_scatter of a literal", lambda x: x.slice_scatter(x[:, :4], 1, 0, 4), "4 + a4 -> 4 + a4"),
    ("slice_scatter in space", lambda x: x.slice_scatter(x[:, :, :2], 2, 2, 4), "a8 -> a8"),
    ("repeat by data", lambda x: x.repeat_interleave(torch.tensor([1, 2]), 0), "a8 -> a8", on(ROWS)),
    ("an item as a branch", lambda x: 2 * x if x.sum() > 0 else 3 * x, "a8 -> a8"),
    ("a list", lambda x: x * len(x.mean((1, 2, 3)).tolist()), "a8 -> a8"),
    ("multinomial", lambda x: x * torch.multinomial(x.abs() + 1, 2).sum(), "8 -> 8", on(ROWS, why="draws positions")),
    ("randperm", lambda x: x[:, :, torch.randperm(x.shape[2])].mean(2), "a8 -> a8"),
])  # fmt: skip
def test_positions(operator, expected, options):
    """What is looked up, counted or drawn along an axis pins it; what passes beside it does not."""
    check(operator, expected, **options)


def test_a_mask_of_channels_is_pinned_with_them():
    """A mask that a parameter gives stays as long as the axis that it chooses from."""

    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last, self.gate = nn.Linear(4, 8), nn.Linear(8, 2), nn.Parameter(torch.ones(8))

        def forward(self, x):
            return self.last(self.first(x)[:, self.gate > 0])

    graph = lawful(Masked(), torch.randn(ROWS))
    assert layout(graph, ("gate", 0), ("first.weight", 0)) == "8 -> 8"
    assert "aten.index takes positions of it" in reasons(graph, ("gate", 0))


class EarlyExit(nn.Module):
    """Later layers run only where the first head is unsure."""

    def __init__(self):
        super().__init__()
        self.body, self.exit = nn.Linear(4, 6), nn.Linear(6, 2)
        self.more, self.last = nn.Linear(6, 5), nn.Linear(5, 2)

    def forward(self, x):
        y = self.body(x).relu()
        sure = self.exit(y).softmax(-1).amax(-1)
        if sure.min().item() > 2.0:
            return self.exit(y)
        return self.last(self.more(y).relu())


def test_early_exits():
    """The branch that the inputs take is the graph; what it only asks about is no output."""
    graph = lawful(EarlyExit(), torch.randn(ROWS))
    assert graph.mode == "real" and [group.name for group in graph.groups] == [
        "body.weight:0",
        "exit.weight:0",
        "more.weight:0",
    ]


class Experts(nn.Module):
    """Tokens go to their experts by mask, and are written back by mask."""

    def __init__(self):
        super().__init__()
        self.first, self.router, self.last = nn.Linear(4, 6), nn.Linear(6, 2), nn.Linear(6, 2)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 6)) for _ in range(2))

    def forward(self, x):
        y = self.first(x)
        choice = self.router(y).argmax(-1)
        out = torch.zeros_like(y)
        for number, expert in enumerate(self.experts):
            chosen = choice == number
            if chosen.any():
                out[chosen] = expert(y[chosen])
        return self.last(out)


def test_routing_by_mask():
    """The stream and the width of every expert that is reached are groups."""
    torch.manual_seed(0)
    model, x = Experts().eval(), torch.randn(16, 5, 4)
    graph = dg.trace(model, x)
    assert graph.mode == "real"
    assert [group.name for group in graph.groups] == ["first.weight:0", "experts.0.0.weight:0", "experts.1.0.weight:0"]
    plan = dg.cut(graph, "experts.0.0.weight", [1], dim=0)
    assert dg.execute(plan, model)(x).shape == (16, 5, 2)


def test_one_row_is_like_many():
    """A single row that is chosen and written back: that Python's assignment drops its leading axis is no literal size."""
    one = torch.tensor([False, True])
    check(update(lambda x: one, lambda x, m: 2 * x[m]), "a8 -> a8", ROWS)


def test_layouts_are_told_apart():
    """Negative control: a write of chosen rows into other channels is no identity."""
    graph = lawful(Around(update(some_rows, lambda x, m: x.flip(-1)[m]), TOKENS), torch.randn(TOKENS))
    assert layout(graph, *ENDS) != "a8 -> a8"
