"""Memory read by strides: windows, blocks and slices follow the sizes that `stride()` gives; literal strides pin."""

import pytest
import torch
from torch import nn

import depgraph as dg
from depgraph import testing
from tests.zoo import catalogue


class Windowed(nn.Module):
    """Attention scores in overlapping windows of positions, cut by strides, as Longformer cuts its chunks."""

    def __init__(self, crossed: bool = False) -> None:
        super().__init__()
        self.query, self.key, self.crossed = nn.Linear(6, 12), nn.Linear(6, 12), crossed

    def chunks(self, x: torch.Tensor) -> torch.Tensor:
        if self.crossed:
            x = x.transpose(0, 1).contiguous().transpose(0, 1)
        x = x.view(x.size(0), 4, 4, x.size(2)) if not self.crossed else x.unflatten(1, (4, 4))
        size, stride = list(x.size()), list(x.stride())
        size[1], stride[1] = size[1] * 2 - 1, stride[1] // 2
        return x.as_strided(size=size, stride=stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.einsum("bcxd,bcyd->bcxy", self.chunks(self.query(x)), self.chunks(self.key(x)))


class Read(nn.Module):
    """Hidden channels between two layers, read by strides."""

    def __init__(self, read) -> None:
        super().__init__()
        self.up, self.down, self.read = nn.Linear(6, 8), nn.Linear(8, 3), read

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(self.read(torch.relu(self.up(x))))


@pytest.mark.parametrize("crossed", [False, True])
def test_channels_pass_overlapping_windows(crossed):
    """Queries and keys lose the same channels behind windows that strides make, whichever dimension lies outermost."""
    model, x = Windowed(crossed).eval(), torch.randn(2, 16, 6)
    graph = dg.trace(model, x)
    group = graph.group("query.weight", 0)
    assert ("key.weight", 0) in group.members
    assert group.size == 12
    testing.assert_lawful(model, x)


@pytest.mark.parametrize(
    "read",
    [
        lambda y: y.as_strided(y.size(), y.stride()),
        lambda y: y.as_strided((y.size(0) - 1, y.size(1)), y.stride(), y.stride(0)),
        lambda y: y.as_strided((3, *y.size()), (0, *y.stride())),
        lambda y: y.as_strided((2, 2, y.size(1)), (2 * y.stride(0), y.stride(0), 1)),
        lambda y: torch.as_strided(y.T, (y.size(0), y.size(1)), (y.T.stride(1), y.T.stride(0))),
    ],
)
def test_strides_of_a_tensor_follow_its_sizes(read):
    """Hidden channels stay free where the strides are computed from those of the tensor."""
    model, x = Read(read).eval(), torch.randn(4, 6)
    assert dg.trace(model, x).group("up.weight", 0).size == 8
    testing.assert_lawful(model, x)


@pytest.mark.parametrize(
    ("read", "reason"),
    [
        (lambda y: y.as_strided((4, 8), (8, 1)), "by strides that no size gives"),
        (lambda y: y.as_strided((3, y.size(1)), (y.stride(0) + 1, 1)), "its positions are computed"),
        (lambda y: y[:, 1:].as_strided((4, 8), y.stride(), 0), "gaps or repetitions"),
        (lambda y: y[1:].as_strided((4, 8), y.stride(), y.stride(0)), "begins outside of it"),
        (lambda y: y[:2].as_strided((4, y.size(1)), y.stride()), "reads memory beyond it"),
        (lambda y: y.as_strided((4, 8), y.stride()), "named by the literal 8"),
    ],
)
def test_what_no_size_gives_pins(read, reason):
    """Literal strides and sizes, diagonals, gaps and offsets into another tensor's memory pin the channels, and say why."""
    model, x = Read(read).eval(), torch.randn(4, 6)
    graph = dg.trace(model, x)
    with pytest.raises(dg.errors.PinnedError, match=reason):
        graph.group("up.weight", 0)


class Counted(nn.Module):
    """Heads and their widths, with a count of rows between them that a tensor gives."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down, self.heads, self.width = nn.Linear(6, 16), nn.Linear(16, 3), 4, 4

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.up(x)
        rows = torch.tensor(x.size(0))
        return self.down(y.view(rows, self.heads, self.width).flatten(1))


def test_sizes_beside_a_tensor_keep_their_places():
    """Two attributes of the same value in one `view`, beside a size that is a tensor, each follow their own axis."""
    model, x = Counted().eval(), torch.randn(5, 6)
    graph = dg.trace(model, x)
    assert {item.path for item in graph.attributes} >= {"heads", "width"}
    testing.assert_lawful(model, x)


def test_heads_cut_to_one_leave_the_windows_as_they_are():
    """The stride of a dimension of size 1 says nothing, so the graph of the pruned model is the promised one."""
    model, args, kwargs = catalogue.ZOOS["plain"].models()["sliding_as_strided"]()
    graph = dg.trace(model, args, kwargs)
    plan = dg.plan(graph, dg.score(graph, model, dg.Magnitude()), ratio={"role:head": 0.5})
    assert plan.apply(graph).group("query.weight", 0).size == 6
    testing.assert_square(graph, plan, model, args, kwargs)
