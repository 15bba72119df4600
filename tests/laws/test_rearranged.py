"""Laws 3, 6 and 9 on forwards that rearrange channels in ways whose sums and products need not nest."""

import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn

import depgraph as dg
from depgraph import testing
from depgraph.solving.statements import Equal
from depgraph.testing import plans
from tests.laws.refuting import refuted

X = torch.randn(2, 3, 2, 2)


class Rearranged(nn.Module):
    """A convolution whose channels are rearranged, mixed with themselves and read by another one."""

    def __init__(self, channels: int, moves: list[tuple[str, int]]) -> None:
        super().__init__()
        self.first, self.moves, self.last = nn.Conv2d(3, channels, 1), moves, nn.Conv2d(channels, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.first(x)
        for name, number in self.moves:
            y = getattr(self, name)(y, number)
        return self.last(y)

    def flip(self, x: torch.Tensor, _: int) -> torch.Tensor:
        return x.flip(1)

    def add_flipped(self, x: torch.Tensor, _: int) -> torch.Tensor:
        return x + x.flip(1).relu()

    def roll(self, x: torch.Tensor, shift: int) -> torch.Tensor:
        return x.roll(shift, 1)

    def shuffle(self, x: torch.Tensor, groups: int) -> torch.Tensor:
        batch, channels, *space = x.shape
        return x.view(batch, groups, channels // groups, *space).transpose(1, 2).reshape(batch, channels, *space)

    def swap(self, x: torch.Tensor, parts: int) -> torch.Tensor:
        return torch.cat(x.chunk(parts, 1)[::-1], 1)

    def mix(self, x: torch.Tensor, _: int) -> torch.Tensor:
        first, second = x.chunk(2, 1)
        return torch.cat([first, second.relu() + first], 1)


@st.composite
def rearranged(draw):
    """Such a network; shuffles and mixes only where their factors divide the channels."""
    channels = draw(st.integers(3, 24))
    moves = st.tuples(st.sampled_from(["flip", "add_flipped", "roll", "shuffle", "swap", "mix"]), st.integers(2, 3))
    possible = moves.filter(lambda move: channels % {"shuffle": move[1], "mix": 2}.get(move[0], 1) == 0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Rearranged(channels, draw(st.lists(possible, min_size=1, max_size=4))).eval()


@given(rearranged(), st.data())
def test_rearranged_channels(model, data):
    """Whatever plan is drawn: the square closes, and the masked twin gives the same output."""
    graph = dg.trace(model, X)
    assume(graph.groups)
    plan = data.draw(plans(graph).filter(lambda plan: plan.cuts))
    testing.assert_square(graph, plan, model, X)
    testing.assert_zero_channels(graph, plan, model, X)


def test_a_flip_that_passes_indices_through_is_refuted():
    """The law sees a rule that takes reversed channels for the same channels."""

    def same(call):
        yield from (Equal(before, after) for before, after in zip(call["self"].axes, call.out.axes, strict=True))

    torch.manual_seed(0)
    model = Rearranged(5, [("flip", 0)]).eval()
    graph = dg.trace(model, X, rules=dg.RULES | {"aten.flip": dg.Rule(same)})
    plan = dg.cut(graph, "first.weight", [0], dim=0)
    refuted(testing.assert_zero_channels, graph, plan, model, X, says=r"law 6 \(zero channels\): the output changed")
