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
        rows.append(numbers.flatten(1).sum(1) if numbers.ndim > 1 else numbers)
        if dims != (0,):
            part = numbers.sum(0)
            rest = part if rest is None else rest.add_(part)
        start += len(slab)
    return _along(_joined(rows), rest, dims)


def squares(name: str, tensor: torch.Tensor, dims: tuple[int, ...]) -> dict[int, torch.Tensor]:
    """`marginals` of the squared weights, faster: a small tensor is squared once, each slab of a large one is read twice."""
    values = readable(name, tensor)
    if values.ndim == 1:
        return {0: real(values).square()}
    if values.numel() <= 3 * _SLAB and dims != (0,):
        squared = real(values).square()
        rows = squared.flatten(1).sum(1) if 0 in dims else values.new_zeros(0)
        return _along(rows, squared.sum(0), dims)
    rest: torch.Tensor | None = None
    norms = []
    for slab in map(real, _slabs(values)):
        if 0 in dims:
            norms.append(torch.linalg.vector_norm(slab.flatten(1), dim=1))
        if dims == (0,):
            continue
        if rest is None:
            rest = slab.square()
        else:
            (rest if len(slab) == len(rest) else rest[: len(slab)]).addcmul_(slab, slab)
    rows = _joined(norms).square() if norms else values.new_zeros(0)
    return _along(rows, None if rest is None else rest.sum(0), dims)


def _along(rows: torch.Tensor, rest: torch.Tensor | None, dims: tuple[int, ...]) -> dict[int, torch.Tensor]:
    """The sums along some dimensions: `rows` along the first, the others from `rest`, the sum over the first."""
    result = {0: rows} if 0 in dims else {}
    for dim in dims:
        if dim and rest is not None:
            before, size = math.prod(rest.shape[: dim - 1]), rest.shape[dim - 1]
            result[dim] = (
                rest.reshape(size)
                if rest.numel() == size
                else rest.reshape(before, size, math.prod(rest.shape[dim:])).sum((0, 2))
            )
    return result


def _joined(parts: list[torch.Tensor]) -> torch.Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _slabs(values: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The rows of a tensor in parts that fit a processor's cache."""
    count = values.numel()
    return (values,) if count <= _SLAB else torch.split(values, max(1, _SLAB * values.shape[0] // count))


_SLAB = 1 << 18
"""How many elements are weighed at a time: 1 MiB of float32."""
