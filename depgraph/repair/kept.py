"""Which part of a layer's matrix a plan leaves."""

from __future__ import annotations

import torch
from attrs import frozen

from depgraph.execution.slicing import positions_of
from depgraph.moments.layers import Layout
from depgraph.plans.plan import Plan


@frozen(eq=False)
class Kept:
    """The rectangle that is left of each block of a matrix.

    Attributes:
        blocks: the blocks of which something is left.
        rows: the outputs that stay in each of these, ``[blocks left, outputs left]``.
        columns: the inputs that stay, ``[blocks left, inputs left]``.
        cut: whether an input goes.
    """

    blocks: torch.Tensor
    rows: torch.Tensor
    columns: torch.Tensor
    cut: bool

    def all_columns(self, values: torch.Tensor, layout: Layout) -> torch.Tensor:
        """The rows that stay, with all of their inputs, of a flat parameter: ``[blocks left, outputs left, inputs]``."""
        return layout.matrices(values)[self.blocks[:, None], self.rows]


def mask_of(plan: Plan, name: str, shape: torch.Size, device: torch.device) -> torch.Tensor:
    """Which elements of a parameter stay."""
    mask = torch.ones(shape, dtype=torch.bool, device=device)
    for dim, indices in plan.kept.get(name, {}).items():
        along = torch.zeros(shape[dim], dtype=torch.bool, device=device)
        along[positions_of(indices).to(device)] = True
        mask &= along.view(*(-1 if other == dim else 1 for other in range(len(shape))))
    return mask


def kept(plan: Plan, layout: Layout, parameter: torch.Tensor) -> Kept | None:
    """What is left of a layer's matrix; None where that is no rectangle of one size in each block."""
    inside = layout.matrices(mask_of(plan, layout.name, parameter.shape, parameter.device).flatten())
    blocks = inside.any(2).any(1).nonzero()[:, 0]
    inside = inside[blocks]
    rows, columns = inside.any(2), inside.any(1)
    counts = {tuple(pair) for pair in torch.stack([rows.sum(1), columns.sum(1)], 1).tolist()}
    if len(counts) != 1 or not torch.equal(inside, rows[..., None] & columns[:, None]):
        return None
    (height, width), count = counts.pop(), len(blocks)
    return Kept(
        blocks=blocks,
        rows=rows.nonzero()[:, 1].view(count, height),
        columns=columns.nonzero()[:, 1].view(count, width),
        cut=width < layout.shape[2],
    )
