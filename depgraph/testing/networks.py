"""Random small networks for property tests: blocks in which channels pass what real models do to them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_Step = Callable[["Block", Tensor, Tensor], Tensor]


class Block(nn.Module):
    """One piece of a network on (batch, channels, height, width): a wide inside, a step of some kind, and a way back.

    Args:
        kind: one of `KINDS`.
        channels: of input and output.
        width: the inside has ``width * factor`` channels.
        factor: number of heads, of convolution or normalisation groups, of parts to split into.
    """

    def __init__(self, kind: str, channels: int, width: int, factor: int) -> None:
        super().__init__()
        self.kind, self.factor, self.width = kind, factor, width
        wide = width * factor
        grouped = factor if kind == "grouped" else wide if kind == "depthwise" else 1
        self.first = nn.Conv2d(channels, wide, 1)
        self.norm = nn.GroupNorm(factor, wide) if kind == "group norm" else nn.BatchNorm2d(wide)
        if kind == "gate":
            self.gate = nn.Linear(wide, wide)
        elif kind == "attention":
            self.qkv = nn.Linear(wide, 3 * wide)
        elif kind == "recurrent":
            self.recurrent = nn.GRU(wide, width, batch_first=True, bidirectional=True)
        elif kind == "cell":
            self.cell = nn.LSTMCell(wide, width)
        elif kind not in ("reshape", "shuffle"):
            self.middle = nn.Conv2d(wide, 2 * wide if kind in ("glu", "halves") else wide, 3, padding=1, groups=grouped)
        if kind == "halves":
            self.beside = nn.Conv2d(wide, channels, 1)
        inner = {"concat": wide + channels, "split": wide // factor, "recurrent": 2 * width, "cell": width}.get(kind, wide)
        self.last = nn.Conv2d(inner, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return a tensor of the shape of `x`."""
        return _STEPS[self.kind](self, x, torch.relu(self.norm(self.first(x))))

    def back(self, y: Tensor) -> Tensor:
        """From the inside to the number of channels outside."""
        result: Tensor = self.last(y)
        return result


def _residual(block: Block, x: Tensor, y: Tensor) -> Tensor:
    return x + block.back(torch.relu(block.middle(y)))


def _concat(block: Block, x: Tensor, y: Tensor) -> Tensor:
    return block.back(torch.cat([torch.relu(block.middle(y)), x], 1))


def _split(block: Block, x: Tensor, y: Tensor) -> Tensor:
    return block.back(torch.stack(block.middle(y).chunk(block.factor, 1)).sum(0))


def _reshape(block: Block, x: Tensor, y: Tensor) -> Tensor:
    """A channel shuffle by view and transpose."""
    batch, _, height, wide = y.shape
    return x + block.back(y.view(batch, block.factor, -1, height, wide).transpose(1, 2).flatten(1, 2))


def _shuffle(block: Block, x: Tensor, y: Tensor) -> Tensor:
    """The operator of that name, with the order reversed behind it."""
    return x + block.back(F.channel_shuffle(y, block.factor).flip(1))


def _roll(block: Block, x: Tensor, y: Tensor) -> Tensor:
    """The last channel becomes the first, and meets what is in order."""
    return x + block.back(block.middle(y) + y.roll(1, 1))


def _shift(block: Block, x: Tensor, y: Tensor) -> Tensor:
    """Rows and columns move, channels stay."""
    return x + block.back(block.middle(y.roll((1, 2), (2, 3))))


def _pad(block: Block, x: Tensor, y: Tensor) -> Tensor:
    """A frame of zeros on all sides, cut off again by an average."""
    return x + block.back(F.avg_pool2d(F.pad(block.middle(y), (1, 1, 1, 1)), 3, 1))


def _glu(block: Block, x: Tensor, y: Tensor) -> Tensor:
    """One half of the channels is the gate of the other."""
    return x + block.back(F.glu(block.middle(y), 1))


def _halves(block: Block, x: Tensor, y: Tensor) -> Tensor:
    """Two halves that go ways of their own: they must only be equally long."""
    first, second = block.middle(y).chunk(2, 1)
    result: Tensor = x + block.back(torch.relu(first)) + block.beside(second)
    return result


def _recurrent(block: Block, x: Tensor, y: Tensor) -> Tensor:
    """Both directions over the places of the image, as a sequence."""
    batch, _, height, wide = y.shape
    states, _ = block.recurrent(y.flatten(2).transpose(1, 2))
    return x + block.back(states.transpose(1, 2).reshape(batch, -1, height, wide))


def _cell(block: Block, x: Tensor, y: Tensor) -> Tensor:
    """A cell by hand, over the rows' means."""
    state = None
    for row in y.mean(3).unbind(2):
        state = block.cell(row, state)
    assert state is not None
    return x + block.back(state[0][:, :, None, None])


def _gate(block: Block, x: Tensor, y: Tensor) -> Tensor:
    """Squeeze and excitation."""
    return x + block.back(y * torch.sigmoid(block.gate(y.mean((2, 3))))[:, :, None, None])


def _attention(block: Block, x: Tensor, y: Tensor) -> Tensor:
    """Heads over the places of the image, written out."""
    batch, _, height, wide = y.shape
    q, k, v = block.qkv(y.flatten(2).transpose(1, 2)).view(batch, -1, 3, block.factor, block.width).permute(2, 0, 3, 1, 4)
    weights = torch.softmax(q @ k.transpose(-1, -2), -1)
    return x + block.back((weights @ v).permute(0, 1, 3, 2).reshape(batch, -1, height, wide))


_STEPS: dict[str, _Step] = {
    "residual": _residual,
    "concat": _concat,
    "split": _split,
    "grouped": _residual,
    "depthwise": _residual,
    "group norm": _residual,
    "reshape": _reshape,
    "shuffle": _shuffle,
    "roll": _roll,
    "shift": _shift,
    "pad": _pad,
    "glu": _glu,
    "halves": _halves,
    "gate": _gate,
    "recurrent": _recurrent,
    "cell": _cell,
    "attention": _attention,
}


KINDS = tuple(_STEPS)
"""What a block may do to its channels."""


class Walk(nn.Module):
    """Blocks in a list of modules, over which forward goes in some way.

    Args:
        blocks: in order.
        walk: one of `WALKS`, and not the first one.
    """

    def __init__(self, blocks: Sequence[nn.Module], walk: str) -> None:
        super().__init__()
        self.walk, self.depth = walk, len(blocks)
        self.blocks: nn.Module = (
            nn.ModuleDict({f"block_{place}": block for place, block in enumerate(blocks)})
            if walk == "dict"
            else nn.Sequential(*blocks)
            if walk == "sequential"
            else nn.ModuleList(blocks)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return a tensor of the shape of `x`."""
        for block in self._order():
            x = block(x)
        return x

    def _order(self) -> Iterator[Any]:
        blocks: Any = self.blocks
        if self.walk == "sequential":
            yield blocks
        elif self.walk == "enumerate":
            yield from (block for _, block in enumerate(blocks))
        elif self.walk == "zip":
            yield from (block for block, _ in zip(blocks, range(len(blocks)), strict=True))
        elif self.walk == "range":
            yield from (blocks[place] for place in range(self.depth))
        elif self.walk == "slice":
            yield from blocks[: self.depth]
        else:
            yield from blocks.values() if self.walk == "dict" else blocks


WALKS = ("inline", "list", "dict", "sequential", "enumerate", "zip", "range", "slice")
"""How a network goes over its blocks: in its own sequence, or in a list of modules."""


def network(kinds: Sequence[str], channels: int, width: int, factor: int, flatten: bool, walk: str = "inline") -> nn.Module:
    """A small classifier of blocks, in evaluation mode: from the shape (batch, 3, 4, 4) to (batch, 5).

    Args:
        kinds: what each block does to its channels, of `KINDS`.
        channels: between blocks.
        width: a block's inside has ``width * factor`` channels.
        factor: number of heads, of convolution or normalisation groups, of parts to split into.
        flatten: whether the classifier reads every position, or the mean over positions.
        walk: how forward goes over the blocks, of `WALKS`.

    >>> model = network(["residual", "attention"], channels=2, width=3, factor=2, flatten=False)
    >>> model(torch.zeros(7, 3, 4, 4)).shape, model.training
    (torch.Size([7, 5]), False)
    """
    blocks: list[nn.Module] = [Block(kind, channels, width, factor) for kind in kinds]
    blocks = blocks if walk == "inline" else [Walk(blocks, walk)]
    tail = (
        [nn.Flatten(1), nn.Linear(channels * 16, 5)]
        if flatten
        else [nn.AdaptiveAvgPool2d(1), nn.Flatten(1), nn.Linear(channels, 5)]
    )
    return nn.Sequential(nn.Conv2d(3, channels, 3, padding=1), *blocks, nn.BatchNorm2d(channels), nn.ReLU(), *tail).eval()
