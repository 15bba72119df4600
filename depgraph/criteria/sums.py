"""Sums of one number per weight along the dimensions of a parameter, in at least single precision."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from depgraph.errors import PlanError


def readable(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """The tensor outside of autograd. Refuses one without data."""
    if tensor.is_meta:
        raise PlanError(f"{name!r} is on the meta device and has no weights to measure; use dg.criteria.Random(seed).")
    return tensor.detach()


def real(values: torch.Tensor) -> torch.Tensor:
    """The values, or the absolute ones of complex numbers, in at least single precision."""
    if values.is_complex():
        return values.abs()
    return values.float() if not values.is_floating_point() or values.dtype in _NARROW else values


_NARROW = frozenset({torch.float16, torch.bfloat16})


def marginals(
    name: str, tensor: torch.Tensor, dims: tuple[int, ...], element: Callable[[torch.Tensor, slice], torch.Tensor]
) -> dict[int, torch.Tensor]:
    """For each of some dimensions the sum over all others of one number per weight.

    `element` gives these numbers for a slab of rows and the rows' place in the tensor, so that what lies between a large weight
    and its sums is never larger than a slab.
    """
    values, rest, rows, start = readable(name, tensor), None, [], 0
    for slab in _slabs(values):
        numbers = element(slab, slice(start, start + len(slab)))
        if 0 in dims:
            rows.append(numbers.flatten(1).sum(1) if numbers.ndim > 1 else numbers)
        if dims != (0,):
            part = numbers.sum(0)
            rest = part if rest is None else rest.add_(part)
        start += len(slab)
    return _along(rows, rest, dims)


def _along(rows: list[torch.Tensor], rest: torch.Tensor | None, dims: tuple[int, ...]) -> dict[int, torch.Tensor]:
    """The sums along some dimensions: `rows` along the first, the others from `rest`, the sum over the first."""
    result = {0: _concatenated(rows)} if rows else {}
    for dim in dims:
        if dim and rest is not None:
            before, size = math.prod(rest.shape[: dim - 1]), rest.shape[dim - 1]
            result[dim] = (
                rest.reshape(size)
                if rest.numel() == size
                else rest.reshape(before, size, math.prod(rest.shape[dim:])).sum((0, 2))
            )
    return result


def _concatenated(parts: list[torch.Tensor]) -> torch.Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _slabs(values: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The rows of a tensor in parts that fit a processor's cache."""
    count = values.numel()
    return (values,) if count <= _SLAB else torch.split(values, max(1, _SLAB * values.shape[0] // count))


_SLAB = 1 << 17
"""How many elements are processed at a time: 512 KiB of float32, which stay in a core's cache."""
