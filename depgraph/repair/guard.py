"""What a smaller model's outputs miss on samples that nothing was fitted to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree

from depgraph.moments.samples import Batch
from depgraph.running import Forward, together, untouched


def outputs_missed(model: nn.Module, others: Sequence[nn.Module], batches: Sequence[Batch], forward: Forward) -> list[float]:
    """The squared differences of each model's outputs to the original's, as a share of the original's squares."""
    sums = torch.zeros(len(others) + 1, dtype=torch.float64)
    with torch.no_grad():
        for batch in batches:
            if batch.fitted == batch.samples:
                continue
            wanted = _run(model, batch, forward)
            sums[-1] += sum(float(part.square().sum(dtype=torch.float64)) for part in _held_out(wanted, batch))
            for number, other in enumerate(others):
                for one, two in _alike(_run(other, batch, forward), wanted):
                    for given, right in zip(_held_out(one, batch), _held_out(two, batch), strict=True):
                        if given.shape == right.shape:  # a cache of keys and values has fewer heads
                            sums[number] += float((given - right).square().sum(dtype=torch.float64))
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    if device.type == "cuda":
        sums = sums.to(device)  # what NCCL adds up
    together([sums])
    return [float(missed / sums[-1]) if sums[-1] else float(missed) for missed in sums[:-1]]


def _run(model: nn.Module, batch: Batch, forward: Forward) -> Any:
    with untouched(model, training=False):
        return forward(model, batch.content)


def _alike(one: Any, two: Any) -> Iterator[tuple[Any, Any]]:
    """The leaves of two outputs in pairs, without those of containers that have something of each layer, of fewer here."""
    parts = _children(one), _children(two)
    if len(parts[0]) != len(parts[1]):
        return
    if len(parts[0]) == 1 and parts[0][0] is one:
        yield one, two
        return
    for pair in zip(*parts, strict=True):
        yield from _alike(*pair)


def _children(output: Any) -> list[Any]:
    """What a container holds; of a leaf itself."""
    found: list[Any] = _pytree.tree_leaves(output, is_leaf=lambda node: node is not output)
    return found


def _held_out(output: Any, batch: Batch) -> Iterator[torch.Tensor]:
    """The floating point tensors of an output, without the samples that were fitted to."""
    for leaf in _pytree.tree_leaves(output):
        if isinstance(leaf, torch.Tensor) and leaf.is_floating_point():
            if batch.valid is not None and leaf.shape[:2].numel() == len(batch.valid):
                mask = batch.valid.view(leaf.shape[:2]).to(leaf.device)
                leaf = leaf * mask.view(*mask.shape, *(1,) * (leaf.ndim - 2))
            yield (leaf[batch.fitted :] if leaf.ndim and leaf.shape[0] == batch.samples else leaf).float()
