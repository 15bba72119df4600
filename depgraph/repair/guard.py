"""What a smaller model's outputs miss on samples that nothing was fitted to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree

from depgraph.moments.samples import Batch
from depgraph.running import Forward, untouched


def outputs_missed(model: nn.Module, others: Sequence[nn.Module], batches: Sequence[Batch], forward: Forward) -> list[float]:
    """The squared differences of each model's outputs to the original's, as a share of the original's squares."""
    missed, squares = [0.0] * len(others), 0.0
    with torch.no_grad():
        for batch in batches:
            if batch.fitted == batch.samples:
                continue
            wanted = list(_held_out(_run(model, batch, forward), batch))
            squares += sum(float(tensor.square().sum(dtype=torch.float64)) for tensor in wanted)
            for number, other in enumerate(others):
                for one, two in zip(_held_out(_run(other, batch, forward), batch), wanted, strict=True):
                    missed[number] += float((one - two).square().sum(dtype=torch.float64))
    return [each / squares if squares else each for each in missed]


def _run(model: nn.Module, batch: Batch, forward: Forward) -> Any:
    with untouched(model, training=False):
        return forward(model, batch.content)


def _held_out(output: Any, batch: Batch) -> Iterator[torch.Tensor]:
    """The floating point tensors of an output, without the samples that were fitted to."""
    for leaf in _pytree.tree_leaves(output):
        if isinstance(leaf, torch.Tensor) and leaf.is_floating_point():
            own = leaf[batch.fitted :] if leaf.ndim and leaf.shape[0] == batch.samples else leaf
            yield own.float()
