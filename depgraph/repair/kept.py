"""Which part of a layer's matrix a plan leaves, and where it lies in the smaller parameter."""

from __future__ import annotations

import torch
from attrs import frozen

from depgraph.moments.layers import Layout
from depgraph.plans.plan import Plan


@frozen(eq=False)
class Kept:
    """The rectangle that is left of each block of a matrix.

    Attributes:
        blocks: the blocks of which something is left.
        rows: the outputs that stay in each of these, ``[blocks left, outputs left]``.
        columns: the inputs that stay, ``[blocks left, inputs left]``.
        before: their flat positions in the original parameter, ``[blocks left, outputs left, inputs left]``.
        after: the same in the smaller one.
        cut: whether an input goes.
    """

    blocks: torch.Tensor
    rows: torch.Tensor
    columns: torch.Tensor
    before: torch.Tensor
    after: torch.Tensor
    cut: bool

    def all_columns(self, values: torch.Tensor, layout: Layout) -> torch.Tensor:
        """The rows that stay, with all of their inputs, of a flat parameter: ``[blocks left, outputs left, inputs]``."""
        positions = layout.positions(values.device)[self.blocks]
        return values[positions.gather(1, self.rows[..., None].expand(-1, -1, positions.shape[2]))]


def mask_of(plan: Plan, name: str, shape: torch.Size, device: torch.device) -> torch.Tensor:
    """Which elements of a parameter stay."""
    mask = torch.ones(shape, dtype=torch.bool, device=device)
    for dim, indices in plan.kept.get(name, {}).items():
        along = torch.zeros(shape[dim], dtype=torch.bool, device=device)
        along[torch.tensor(list(indices), dtype=torch.int64, device=device)] = True
        mask &= along.view(*(-1 if other == dim else 1 for other in range(len(shape))))
    return mask


def kept(plan: Plan, layout: Layout, parameter: torch.Tensor) -> Kept | None:
    """What is left of a layer's matrix; None where that is no rectangle of one size in each block."""
    mask = mask_of(plan, layout.name, parameter.shape, parameter.device).flatten()
    positions = layout.positions(parameter.device)
    inside = mask[positions]
    blocks = inside.any(2).any(1).nonzero()[:, 0]
    inside = inside[blocks]
    rows, columns = inside.any(2), inside.any(1)
    counts = {tuple(pair) for pair in torch.stack([rows.sum(1), columns.sum(1)], 1).tolist()}
    if len(counts) != 1 or not torch.equal(inside, rows[..., None] & columns[:, None]):
        return None
    (height, width), count = counts.pop(), len(blocks)
    before = positions[blocks][inside].view(count, height, width)
    numbers = mask.cumsum(0) - 1
    return Kept(
        blocks=blocks,
        rows=rows.nonzero()[:, 1].view(count, height),
        columns=columns.nonzero()[:, 1].view(count, width),
        before=before,
        after=numbers[before],
        cut=width < layout.shape[2],
    )


def bias_after(plan: Plan, layout: Layout, parameter: torch.Tensor) -> torch.Tensor:
    """The flat positions in the smaller bias of what is left of a layer's bias."""
    mask = mask_of(plan, layout.name, parameter.shape, parameter.device).flatten()
    positions = layout.positions(parameter.device).flatten()
    return (mask.cumsum(0) - 1)[positions[mask[positions]]]
