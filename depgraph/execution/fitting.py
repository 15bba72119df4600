"""Whether a plan fits a module: its shapes, attributes, lists, ties and shards, with all problems at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import nn

from depgraph.algebra.indices import IndexSet
from depgraph.errors import MismatchError, PlanError
from depgraph.execution.attributes import other_attributes
from depgraph.execution.drops import other_sequences
from depgraph.execution.shards import shard_problems, told_by_all_ranks
from depgraph.messages import number_text, shortened
from depgraph.plans.checking import is_well_typed
from depgraph.plans.plan import Plan
from depgraph.unsupported import is_made_of_parts, supported
from depgraph.weights import named_tensors
from depgraph.wrappers import is_sharded


def checked(plan: object, model: object, inside: Callable[[nn.Module], nn.Module] = supported) -> nn.Module:
    """The module inside of its wrappers. Raises `PlanError` for anything else than a plan and a module."""
    if not isinstance(plan, Plan) or not isinstance(model, nn.Module):
        met = f"({type(plan).__name__}, {type(model).__name__})"
        raise PlanError(f"expected a Plan and an nn.Module, in this order, met {met}. Nothing was changed.")
    return inside(model)


def fitting(plan: Plan, model: nn.Module) -> dict[str, torch.Tensor]:
    """The parameters and buffers that the plan cuts, by name. Raises `MismatchError`, with everything that does not fit."""
    tensors = named_tensors(model, every_name=True)
    problems = [*plan.problems]
    if not problems or is_well_typed(plan):
        problems += [*_shape_problems(plan, tensors), *other_attributes(plan, model), *other_sequences(plan, model)]
    if not problems:  # sizes are those of tensors that are there: only now are indices listed
        problems += [*_tie_problems(plan, tensors), *_shared_memory(plan, model)]
    uneven = [] if problems else [*shard_problems(plan, tensors, model)]
    problems = told_by_all_ranks(plan, tensors, problems or uneven)
    if problems:
        raise MismatchError(
            "the plan is damaged:" if plan.problems else "the plan does not fit this model:",
            problems,
            "Make the plan with round_to= for these groups, so that ranks can divide what stays; or prune the checkpoint."
            if uneven
            else "Execute it on the model that it was made for, before any other change.",
        )
    return {name: tensors[name] for name in plan.kept}


def _shape_problems(plan: Plan, tensors: Mapping[str, torch.Tensor]) -> Iterator[str]:
    for name, sizes in plan.sizes.items():
        tensor = tensors.get(name)
        if tensor is None:
            yield f"the model has no parameter or buffer {shortened(repr(name))}"
            continue
        yield from other_sizes(name, sizes, tuple(tensor.shape))


def other_sizes(name: str, sizes: Mapping[int, int], shape: tuple[int, ...]) -> Iterator[str]:
    """The dimensions of a tensor that have other sizes than a plan expects, one sentence each."""
    for dim, size in sizes.items():
        if not 0 <= dim < len(shape) or shape[dim] != size:
            expected = f"expected size {number_text(size)} in dimension {number_text(dim)}"
            yield f"{name!r}: {expected}, met shape {shape}"


def _tie_problems(plan: Plan, tensors: Mapping[str, torch.Tensor]) -> Iterator[str]:
    """One tensor under several names must be cut alike under all of them, the ones that the plan does not reach included."""
    first_of: dict[int, tuple[str, Mapping[int, IndexSet]]] = {}
    for name, dims in plan.kept.items():
        if name in tensors:
            first, cut = first_of.setdefault(id(tensors[name]), (name, dims))
            if cut != dims:
                yield f"{first!r} and {name!r} are one tensor here, but the plan cuts them differently"
    reached = set(plan.kept)
    for name, tensor in tensors.items():
        if id(tensor) in first_of and name not in reached:
            yield f"{name!r} is tied to {first_of[id(tensor)][0]!r} here, but not in the model that was traced"


def _shared_memory(plan: Plan, model: nn.Module) -> Iterator[str]:
    """Two parameters that share memory would be separate after the cut, and diverge in training."""
    for one, other in overlaps(model):
        if one in plan.kept or other in plan.kept:
            yield (
                f"{one!r} and {other!r} are two parameters that share memory, which a cut would part; make them one, as in "
                "`layer.weight = other_layer.weight`, or give each its own by `.clone()`, and trace again"
            )


def overlaps(model: nn.Module) -> list[tuple[str, str]]:
    """Names of parameters that are different objects over the same memory. Disjoint parts of one flat buffer do not count."""
    by_storage: dict[int, list[tuple[int, int, str, nn.Parameter]]] = {}
    for name, parameter in model.named_parameters():
        if (
            parameter.layout is torch.strided
            and not (parameter.is_meta or is_made_of_parts(parameter) or is_sharded(parameter))
            and parameter.numel()
        ):
            start = int(parameter.storage_offset())
            last = sum((int(size) - 1) * int(step) for size, step in zip(parameter.shape, parameter.stride(), strict=True))
            place = parameter.untyped_storage().data_ptr()
            by_storage.setdefault(place, []).append((start, start + last, name, parameter))
    pairs = []
    for parts in by_storage.values():
        parts.sort(key=lambda part: part[0])
        for position, (_, end, name, parameter) in enumerate(parts):
            for start, _, other_name, other in parts[position + 1 :]:
                if start > end:
                    break
                if _share_elements(parameter, other):
                    pairs.append((name, other_name))
    return pairs


def _share_elements(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors that reach into the same stretch of a storage share a number there: columns may lie in between."""
    if one.dtype != other.dtype:
        return True
    marks = torch.zeros(one.untyped_storage().nbytes() // one.element_size(), dtype=torch.bool)
    marks.as_strided(one.shape, one.stride(), one.storage_offset()).fill_(True)
    return bool(marks.as_strided(other.shape, other.stride(), other.storage_offset()).any())
