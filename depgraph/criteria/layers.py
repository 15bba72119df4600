"""The layers in which a parameter is the weight, and sums of a number per weight along its dimensions."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from attrs import frozen

from depgraph.algebra.spaces import Space
from depgraph.criteria.gathering import readable, real
from depgraph.graph.graph import Graph
from depgraph.graph.records import Operation


@frozen
class Layer:
    """A convolution or product in which a parameter is the weight.

    Attributes:
        operation: the operation.
        in_dim: the weight's dimension that meets what the layer reads.
        out_dim: the weight's dimension that becomes what the layer makes.
        read: the space of the channels that it reads.
        made: the space of the channels that it makes.
    """

    operation: Operation
    in_dim: int
    out_dim: int
    read: Space
    made: Space


def layers_of(graph: Graph) -> dict[str, list[Layer]]:
    """The layers of which each parameter is the weight itself, not a view of it."""
    layers: dict[str, list[Layer]] = {}
    for operation in graph.operations:
        place = operation.traits.weight
        if place is None:
            continue
        weight, x = graph.by_name[operation.inputs[place.operand]], graph.by_name[place.read[0]]
        if weight.kind == "parameter" and x.kind == "value":
            read, made = (graph.by_name[name].axes[dim] for name, dim in (place.read, place.made))
            layers.setdefault(weight.name, []).append(Layer(operation, place.inner, place.outer, read, made))
    return layers


def marginals(
    name: str, tensor: torch.Tensor, dims: tuple[int, ...], element: Callable[[torch.Tensor, slice], torch.Tensor]
) -> dict[int, torch.Tensor]:
    """For each of some dimensions, the sum over the others of what `element` makes of a slab of rows at their place."""
    values, rest, rows, start = readable(name, tensor), None, [], 0
    for slab in slabs(values):
        found = element(slab, slice(start, start + len(slab)))
        rows.append(found.flatten(1).sum(1) if found.ndim > 1 else found)
        if dims != (0,):
            part = found.sum(0)
            rest = part if rest is None else rest.add_(part)
        start += len(slab)
    return along(_joined(rows), rest, dims)


def squares(name: str, tensor: torch.Tensor, dims: tuple[int, ...]) -> dict[int, torch.Tensor]:
    """`marginals` of the squared weights: a small tensor is squared once, a slab of a large one is read twice."""
    values = readable(name, tensor)
    if values.ndim == 1:
        return {0: real(values).square()}
    if values.numel() <= 3 * _SLAB and dims != (0,):
        squared = real(values).square()
        rows = squared.flatten(1).sum(1) if 0 in dims else values.new_zeros(0)
        return along(rows, squared.sum(0), dims)
    rest: torch.Tensor | None = None
    norms = []
    for slab in map(real, slabs(values)):
        if 0 in dims:
            norms.append(torch.linalg.vector_norm(slab.flatten(1), dim=1))
        if dims == (0,):
            continue
        if rest is None:
            rest = slab.square()
        else:
            (rest if len(slab) == len(rest) else rest[: len(slab)]).addcmul_(slab, slab)
    rows = _joined(norms).square() if norms else values.new_zeros(0)
    return along(rows, None if rest is None else rest.sum(0), dims)


def along(rows: torch.Tensor, rest: torch.Tensor | None, dims: tuple[int, ...]) -> dict[int, torch.Tensor]:
    """Vectors along some dimensions, from that along the first and the sum over the first."""
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


def slabs(values: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The rows of a tensor in parts that fit a processor's cache."""
    count = values.numel()
    return (values,) if count <= _SLAB else torch.split(values, max(1, _SLAB * values.shape[0] // count))


_SLAB = 1 << 18
"""How many elements are weighed at a time: 1 MiB of float32."""
