"""What the networks of `tests/zoo/plain.py` taught: layers whose weights are computed, sizes in any order, draws."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, spectral_norm, weight_norm

import depgraph as dg
from depgraph import testing
from depgraph.plans.making import plan_of

X = torch.randn(2, 3, 6, 6)


class Squared(nn.Module):
    """A parametrisation that keeps the shape."""

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight * weight.abs()


def parametrised(layer: nn.Module) -> nn.Module:
    """The layer with a parametrised weight."""
    return torch.nn.utils.parametrize.register_parametrization(layer, "weight", Squared())


WRAPPERS = {
    "weight_norm": parametrizations.weight_norm,
    "old weight_norm": weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "old spectral_norm": spectral_norm,
    "parametrised": parametrised,
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_attributes_follow_weights_that_are_computed(name):
    """Whatever computes a layer's weight, its sizes are edited and the laws hold."""
    wrap = WRAPPERS[name]
    torch.manual_seed(0)
    model = nn.Sequential(
        wrap(nn.Conv2d(3, 8, 3)), nn.ReLU(), wrap(nn.ConvTranspose2d(8, 6, 2)), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        wrap(nn.Linear(6, 12)), nn.ReLU(), wrap(nn.Linear(12, 2)),
    ).eval()  # fmt: skip
    testing.assert_lawful(model, X)
    graph = dg.trace(model, X)
    plan = dg.plan(graph, dg.score(graph, model, dg.criteria.Random(0)), ratio=0.5)
    small = dg.execute(plan, model)
    assert (small[0].out_channels, small[2].in_channels, small[2].out_channels) == (4, 4, 3)
    assert (small[5].in_features, small[5].out_features, small[7].in_features) == (3, 6, 6)


class TwoCounts(nn.Module):
    """One width is cut into two heads here and into four there."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(5, 16), nn.Linear(16, 3)
        self.two, self.four = (nn.MultiheadAttention(16, heads, batch_first=True) for heads in (2, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.up(x)
        y = y + self.two(y, y, y)[0]
        return self.down(y + self.four(y, y, y)[0])


def test_an_attributes_size_has_one_form():
    """The square closes for each group alone, in whatever order the factors of a width were found."""
    model, x = TwoCounts().eval(), torch.randn(2, 4, 5)
    graph = dg.trace(model, x)
    assert len(graph.groups) > 2
    for group in graph.groups:
        partners = next((balance.atoms for balance in graph.balances if group.atom in balance.atoms), (group.atom,))
        testing.assert_square(graph, plan_of(graph, {atom: dg.IndexSet.of([0]) for atom in partners}), model, x)


class Drawn(nn.Module):
    """Adds noise to a code."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.decode = nn.Linear(6, 8), nn.Sequential(nn.Linear(8, 10), nn.ReLU(), nn.Linear(10, 6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        code = self.encode(x)
        return self.decode(code + torch.randn_like(code))


def test_what_is_drawn_is_left_out_of_zero_channels():
    """Fewer draws are other draws: the code's width is left out of law 6, the decoder's is compared."""
    model, x = Drawn().eval(), torch.randn(3, 6)
    graph = dg.trace(model, x)
    plan = dg.plan(graph, dg.score(graph, model, dg.criteria.Random(0)), ratio=0.5)
    before = torch.random.get_rng_state()
    assert [group.name for group in graph.groups] == ["encode.weight:0", "decode.0.weight:0"]
    assert testing.assert_zero_channels(graph, plan, model, x) == 1
    assert torch.equal(torch.random.get_rng_state(), before)


class Single(nn.Linear):
    """A layer whose code demands single precision."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.float())


def test_zero_channels_are_compared_in_single_precision_where_code_demands_it():
    """Law 6 holds for such a model, and is still refuted where channels of another index go."""
    torch.manual_seed(0)
    model, x = nn.Sequential(Single(4, 8), nn.ReLU(), nn.Linear(8, 3)), torch.randn(5, 4)
    graph = dg.trace(model, x)
    plan = dg.cut(graph, "0.weight", [1, 4, 6], dim=0)
    assert testing.assert_zero_channels(graph, plan, model, x) == 1

    def shifted(call):
        from depgraph.solving.statements import Equal, Fresh, Plus

        yield from (Equal(a, b) for a, b in zip(call["self"].axes[:-1], call.out.axes[:-1], strict=True))
        first, rest = Fresh(1), Fresh(7)
        yield from (Equal(call["self"][-1], Plus((first, rest))), Equal(call.out[-1], Plus((rest, first))))

    wrong = dg.trace(model, x, rules=dg.RULES | {"aten.relu": dg.Rule(shifted)})
    with pytest.raises(AssertionError, match=r"law 6 \(zero channels\)"):
        testing.assert_zero_channels(wrong, dg.cut(wrong, "0.weight", [1, 4], dim=0), model, x)


class Largest(nn.Module):
    """Pools by the largest channel; its index may be used, or read as a number."""

    def __init__(self, use: str = "") -> None:
        super().__init__()
        self.up, self.down, self.use = nn.Linear(4, 8), nn.Linear(8, 3), use

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.relu(self.up(x))
        values, index = h.max(1, keepdim=True)
        if self.use == "tensor":
            values = values + index
        if self.use == "number":
            values = values + index.sum().item()
        if self.use == "one number":
            values = values + index[:1].item()
        if self.use == "list":
            values = values + index.tolist()[0][0]
        return self.down(h) * values


def test_positions_that_nobody_reads_do_not_pin():
    """`x.max(1)[0]` leaves the channels prunable, exactly."""
    model = Largest().eval()
    x = torch.randn(5, 4)
    assert [group.name for group in dg.trace(model, x).groups] == ["up.weight:0"]
    testing.assert_lawful(model, x)


@pytest.mark.parametrize(
    ("use", "why"),
    [
        ("tensor", "aten.add computes with the numbers of its indices"),
        ("number", "aten.sum computes with the numbers of its indices"),
        ("one number", "numbers of its indices leave: forward reads its data"),
        ("list", "aten.resolve_conj computes with the numbers of its indices"),
    ],
)
def test_positions_that_are_read_pin(use, why):
    """As a tensor, as a number or as a list: then a channel's place matters."""
    graph = dg.trace(Largest(use).eval(), torch.randn(5, 4))
    assert not graph.groups
    assert any(why in pinned.reason for pinned in graph.pinned if pinned.tensor == "up.weight")


class Transformed(nn.Module):
    """A predicted transform near the identity, and a symmetric weight from its upper triangle."""

    def __init__(self, diagonal: int = 1) -> None:
        super().__init__()
        self.width, self.diagonal = 6, diagonal
        self.up, self.predict = nn.Linear(4, 6), nn.Linear(4, 36)
        self.square, self.down = nn.Parameter(torch.randn(6, 6)), nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        near = self.predict(x).view(-1, self.width, self.width) + torch.eye(self.width)
        h = torch.bmm(self.up(x).unsqueeze(1), near).squeeze(1)
        upper = self.square.triu(self.diagonal) + torch.tril(self.square, -self.diagonal)
        return self.down(torch.relu(h @ upper))


def test_a_row_goes_with_its_column():
    """Identities and triangles stay what they are when a row and its column go together; one group, and the laws hold."""
    model, x = Transformed().eval(), torch.randn(5, 4)
    graph = dg.trace(model, x)
    (group,) = graph.groups
    assert {("square", 0), ("square", 1), ("up.weight", 0), ("down.weight", 1), ("predict.weight", 0)} <= set(group.members)
    testing.assert_lawful(model, x)
    plan = dg.cut(graph, "up.weight", [1, 4], dim=0)
    assert dg.execute(plan, model).width == 4 and plan.kept["predict.weight"][0].complement(36) == dg.IndexSet.of(
        [k for k in range(36) if k // 6 in {1, 4} or k % 6 in {1, 4}]
    )


def test_a_triangle_off_the_diagonal_is_pinned():
    """Which elements lie beyond the second diagonal depends on how many rows there are between."""
    graph = dg.trace(Transformed(2).eval(), torch.randn(5, 4))
    assert not graph.groups and any("triu depends on its positions" in pinned.reason for pinned in graph.pinned)
