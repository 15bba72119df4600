"""Cutting quantised weights that are made of other tensors, as torchao keeps them: numbers, scales and zero points.

A slice is defined where what is left has its own scales: rows with the scales of rows, columns below one scale for a row, whole
blocks of columns with the scales of blocks. The class itself says what its metadata become (its own ``narrow``); the tensors
inside are selected alike; and the result must stand for the same numbers, bit for bit. Whatever does not is refused by name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from depgraph.errors import UnsupportedError
from depgraph.messages import shortened
from depgraph.unsupported import is_made_of_parts


def quantised_problems(
    tensors: Mapping[str, torch.Tensor], positions: Mapping[str, Mapping[int, torch.Tensor]]
) -> Iterator[str]:
    """The quantised weights that can't be cut as asked, one sentence each."""
    for name, tensor in tensors.items():
        if is_made_of_parts(tensor) and name in positions:
            try:
                quantised_slice(tensor, positions[name])
            except _NotDefinedError as error:
                yield f"{name!r} ({type(tensor).__name__}): {error}"


def refuse_quantised(tensors: Mapping[str, torch.Tensor], positions: Mapping[str, Mapping[int, torch.Tensor]]) -> None:
    """Raise `UnsupportedError` with every quantised weight that can't be cut as asked."""
    problems = [*quantised_problems(tensors, positions)]
    if problems:
        advice = "prune the model in floating point, and quantise the pruned one, or let whole blocks go"
        raise UnsupportedError(f"these quantised weights can't be cut as the plan says; {advice}:", problems)


def quantised_slice(tensor: torch.Tensor, positions: Mapping[int, torch.Tensor]) -> torch.Tensor:
    """The quantised tensor with what the positions select of each dimension; `_NotDefinedError` where that has no scales."""
    result = tensor.detach()
    for dim, index in positions.items():
        result = _along(result, dim, index.to(result.device))
    return result


class _NotDefinedError(Exception):
    """A slice that the tensor's parts do not have."""


def _along(tensor: Any, dim: int, index: torch.Tensor) -> torch.Tensor:
    try:
        template = tensor.narrow(dim, 0, len(index))
        names, metadata = template.__tensor_flatten__()
    except Exception as error:
        raise _NotDefinedError(f"its class does not slice it in dimension {dim}: {shortened(str(error))}") from error
    size = tensor.shape[dim]
    parts = {name: _part(getattr(tensor, name), getattr(template, name), dim, size, index) for name in names}
    result: torch.Tensor = type(template).__tensor_unflatten__(parts, metadata, template.shape, template.stride())
    if not (result.is_meta or torch.equal(result.dequantize(), tensor.dequantize().index_select(dim, index))):
        raise _NotDefinedError(f"what is left in dimension {dim} would stand for other numbers")
    return result


def _part(part: torch.Tensor, narrowed: torch.Tensor, dim: int, size: int, index: torch.Tensor) -> torch.Tensor:
    """What stays of a tensor inside: its own indices, whole blocks of them, or all of it."""
    if part.shape == narrowed.shape:
        if part.ndim > dim and part.shape[dim] > 1 and len(index) < size:
            raise _NotDefinedError(f"one of its scales spans indices of dimension {dim} that go and such that stay")
        return part.clone()
    block = size // part.shape[dim]
    blocks = index[::block] // block
    whole = (blocks[:, None] * block + torch.arange(block, device=index.device)).flatten()
    if block * part.shape[dim] != size or not torch.equal(whole, index):
        raise _NotDefinedError(f"in dimension {dim} its blocks of {block} stay or go as a whole")
    return part.index_select(dim, blocks)
