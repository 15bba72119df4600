"""The way back: pruned tensors in the places that they had in full-size ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeAlias

import torch
from torch import nn

from depgraph.algebra.numbers import is_number
from depgraph.errors import MismatchError, PlanError
from depgraph.execution.fitting import other_sizes
from depgraph.execution.slicing import positions_of
from depgraph.messages import shortened
from depgraph.plans.plan import Plan
from depgraph.running import outside_inference_mode
from depgraph.unsupported import supported
from depgraph.weights import named_tensors

Tensors: TypeAlias = Mapping[str, torch.Tensor] | nn.Module
"""Tensors by name, such as a state dict, or the module that has them."""

TensorDict: TypeAlias = dict[str, torch.Tensor]


@outside_inference_mode
def inverted(plan: Plan, small: Tensors, fill: float | Tensors = 0.0) -> TensorDict:
    """Pruned tensors back in full-size ones: the function behind `Plan.invert`."""
    tensors = {plan.name_before(name): tensor for name, tensor in _by_name(small, "the pruned tensors").items()}
    fills = None if is_number(fill) else _by_name(fill, "fill=")
    problems = [*plan.problems] or [*_misfits(plan, tensors, fills)]
    if problems:
        raise MismatchError(
            "the plan does not fit these tensors:",
            problems,
            "Pass what was pruned by this plan, and fill from what it was before.",
        )
    full_of: dict[int, torch.Tensor] = {}
    for name in plan.kept:
        if name in tensors and id(tensors[name]) not in full_of:
            filled = fill if fills is None else fills[name]
            full_of[id(tensors[name])] = _full(plan, name, tensors[name].detach(), filled)
    whole = {name: full_of.get(id(tensor), tensor.detach()) for name, tensor in tensors.items()}
    gone = {name: tensor.detach() for name, tensor in (fills or {}).items() if plan.name_after(name) is None}
    return {**whole, **gone}


def _by_name(tensors: object, what: str) -> TensorDict:
    if isinstance(tensors, nn.Module):
        return named_tensors(supported(tensors), every_name=True)
    if not isinstance(tensors, Mapping) or not all(isinstance(tensor, torch.Tensor) for tensor in tensors.values()):
        numbers = ", or a finite number" if what == "fill=" else ""
        raise PlanError(
            f"expected {what} as a module or a mapping from names to tensors{numbers}, met {type(tensors).__name__}."
        )
    return dict(tensors)


def _misfits(plan: Plan, tensors: Mapping[str, torch.Tensor], fills: Mapping[str, torch.Tensor] | None) -> Iterator[str]:
    """Tensors that are missing, or that have other sizes than after the plan; and fills, than before it."""
    also = {name: names for names in plan.tied for name in names}
    for name, dims in plan.kept.items():
        if name not in tensors:
            if not any(other in tensors for other in also.get(name, ())):
                yield f"there is no tensor {shortened(repr(name))}; for buffers that are not saved, pass the module"
            continue
        yield from other_sizes(name, {dim: len(kept) for dim, kept in dims.items()}, tuple(tensors[name].shape))
        if fills is None:
            continue
        if name not in fills:
            yield f"fill= has no tensor {shortened(repr(name))}"
            continue
        sizes = {**dict(enumerate(tensors[name].shape)), **plan.sizes[name]}
        if len(sizes) != fills[name].ndim:
            yield f"{name!r} of fill=: expected {len(sizes)} dimensions, met shape {tuple(fills[name].shape)}"
        else:
            yield from (f"fill=: {problem}" for problem in other_sizes(name, sizes, tuple(fills[name].shape)))


def _full(plan: Plan, name: str, small: torch.Tensor, fill: object) -> torch.Tensor:
    """A tensor of the size before the plan, with what was kept in its place."""
    sizes, kept = plan.sizes[name], plan.kept[name]
    shape = tuple(sizes.get(dim, size) for dim, size in enumerate(small.shape))
    if isinstance(fill, torch.Tensor):
        full = fill.detach().to(device=small.device, dtype=small.dtype, copy=True)
    else:
        full = torch.full(shape, fill, dtype=small.dtype, device=small.device)  # type: ignore[call-overload]
    first, last = min(kept), max(kept)
    places: list[slice | torch.Tensor] = [slice(None)] * small.ndim
    for dim in range(first, last + 1):  # without gaps, for indexing by tensors moves what stands around a slice
        indices = positions_of(kept[dim]) if dim in kept else torch.arange(shape[dim])
        places[dim] = indices.to(small.device).view(-1, *(1,) * (last - dim))
    full[tuple(places)] = small
    return full
