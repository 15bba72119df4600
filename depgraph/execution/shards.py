"""Tensors that are spread over ranks: `fully_shard`, tensor parallelism, or both. Each rank makes its shard of the pruned one.

Which elements a rank holds follows from the placements alone, dimension by dimension. So every rank knows what every other
one has and needs, and they send each other just that: no rank holds more than its shards and what moves of one parameter.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
import torch.distributed as dist
from torch import nn

from depgraph.algebra.spaces import UNIT, Atom, Product, Space, substitute
from depgraph.execution.fsdp import records
from depgraph.execution.repairs import plan_digest
from depgraph.plans.plan import Plan, PrunedAxis
from depgraph.wrappers import is_sharded

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

Coordinate: TypeAlias = Sequence[int]
"""The place of a rank in a mesh, one number for each dimension of the mesh."""


def cut_shard(tensor: DTensor, kept: Mapping[int, torch.Tensor]) -> DTensor:
    """What this rank holds of what is kept of a tensor, in the same placements. All ranks of its mesh call it together.

    Args:
        tensor: of shards and replicas; of those, each one cuts its own.
        kept: dimension to the indices that stay, of the whole tensor.
    """
    return _of_local(
        tensor, _moved(tensor, kept), [len(kept[dim]) if dim in kept else size for dim, size in enumerate(tensor.shape)]
    )


def shard_of(values: torch.Tensor, tensor: DTensor) -> DTensor:
    """What this rank holds of values that each rank has as a whole, in the placements of a tensor."""
    local = values.to(dtype=tensor.dtype, device=tensor.device)
    for dim, held in enumerate(_held(tensor, values.shape, _own(tensor))):
        if len(held) < values.shape[dim]:
            local = local.index_select(dim, held.to(local.device))
    return _of_local(tensor, local.contiguous(), values.shape)


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor as a whole, also one that is spread over ranks."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]


def _of_local(like: DTensor, local: torch.Tensor, shape: Sequence[int]) -> DTensor:
    from torch.distributed.tensor import DTensor

    stride = torch.empty(shape, device="meta").stride()
    return DTensor.from_local(local, like.device_mesh, like.placements, run_check=False, shape=torch.Size(shape), stride=stride)


def _own(tensor: DTensor) -> Coordinate:
    return tensor.device_mesh.get_coordinate() or ()


def _held(tensor: DTensor, shape: Sequence[int], coordinate: Coordinate) -> list[torch.Tensor]:
    """The indices of each dimension that the rank at a place of the mesh holds, of a tensor of this shape in these placements.

    A strided shard, which `fully_shard` makes of a tensor that is sharded already, divides what the other shards leave.
    """
    indices = [torch.arange(size) for size in shape]
    for place in sorted(sharding(tensor.placements), key=lambda place: type(tensor.placements[place]).__name__ != "Shard"):
        dim, count = tensor.placements[place].dim, tensor.device_mesh.size(place)  # type: ignore[attr-defined]
        chunks = indices[dim].chunk(count)
        indices[dim] = chunks[coordinate[place]] if coordinate[place] < len(chunks) else indices[dim][:0]
    return indices


def sharding(placements: Sequence[Any]) -> list[int]:
    """The dimensions of a mesh along which a tensor is sharded."""
    return [place for place, placement in enumerate(placements) if hasattr(placement, "dim")]


def _moved(tensor: DTensor, kept: Mapping[int, torch.Tensor]) -> torch.Tensor:
    """The new shard: what this rank has of it, and what others send."""
    local, own = tensor.to_local().detach(), _own(tensor)
    whole = [kept[dim] if dim in kept else torch.arange(size) for dim, size in enumerate(tensor.shape)]
    after = [len(indices) for indices in whole]

    def needed(coordinate: Coordinate) -> list[torch.Tensor]:
        return [indices[held] for indices, held in zip(whole, _held(tensor, after, coordinate), strict=True)]

    mine, had = needed(own), _held(tensor, tensor.shape, own)
    requests: list[dist.P2POp] = []
    incoming: list[tuple[list[slice], torch.Tensor]] = []
    for rank, place in _others(tensor):
        sent = _meeting(had, needed(place))
        if all(map(len, sent)):
            requests.append(dist.P2POp(dist.isend, _bytes(_block(local, sent)), rank))
        there = _held(tensor, tensor.shape, place)
        received = _slices(there, mine)
        if all(places.start < places.stop for places in received):
            buffer = local.new_empty([places.stop - places.start for places in received])
            incoming.append((received, buffer))
            requests.append(dist.P2POp(dist.irecv, _bytes(buffer), rank))
    for request in dist.batch_isend_irecv(requests) if requests else ():
        request.wait()
    requests.clear()
    stays = _block(local, _meeting(had, mine))
    if not incoming:
        return stays if stays is not local else local.clone()
    result = local.new_empty([len(indices) for indices in mine])
    result[tuple(_slices(had, mine))] = stays
    for places, buffer in incoming:
        result[tuple(places)] = buffer
    return result


def _others(tensor: DTensor) -> Iterator[tuple[int, Coordinate]]:
    """The other ranks that share one copy of the tensor with this one, each with its place in the mesh."""
    ranks, own = tensor.device_mesh.mesh, _own(tensor)
    apart = set(sharding(tensor.placements))
    for place in torch.cartesian_prod(*(torch.arange(size) for size in ranks.shape)).reshape(-1, ranks.ndim).tolist():
        if place != list(own) and all(place[dim] == own[dim] for dim in range(ranks.ndim) if dim not in apart):
            yield int(ranks[tuple(place)]), place


def _meeting(held: Sequence[torch.Tensor], wanted: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Where in what is held of each dimension the wanted indices are, of those that are held. All ascend."""
    return [torch.searchsorted(have, want[_run(have, want)]) for have, want in zip(held, wanted, strict=True)]


def _slices(held: Sequence[torch.Tensor], wanted: Sequence[torch.Tensor]) -> list[slice]:
    """Where among the wanted indices of each dimension the held ones are."""
    return [_run(have, want) for have, want in zip(held, wanted, strict=True)]


def _run(held: torch.Tensor, wanted: torch.Tensor) -> slice:
    """The wanted indices that are held: one run of them, for a rank holds the indices from one to another without a gap."""
    if not len(held):
        return slice(0, 0)
    ends = torch.searchsorted(wanted, torch.stack([held[0], held[-1] + 1])).tolist()
    return slice(*ends)


def _block(local: torch.Tensor, positions: Sequence[torch.Tensor]) -> torch.Tensor:
    """The elements at the positions of each dimension, in a tensor of their own."""
    for dim, places in enumerate(positions):
        if len(places) < local.shape[dim]:
            local = local.index_select(dim, places.to(local.device))
    return local.contiguous()


def _bytes(block: torch.Tensor) -> torch.Tensor:
    """The same memory as bytes, which every backend sends."""
    return block.reshape(-1).view(torch.uint8)


def shard_problems(plan: Plan, tensors: Mapping[str, torch.Tensor], model: nn.Module) -> Iterator[str]:
    """The axes of a plan that ranks could not divide as they do now, one sentence each.

    `fully_shard` divides the first dimension as it comes, and any other one evenly. Tensor parallelism lets each rank compute
    with heads or features of its own: all ranks must have equally many, and whole ones.
    """
    if not any(map(is_sharded, tensors.values())):
        return
    managed = {id(record.sharded_param): record for record in records(model)}
    after = {
        cut.atom: UNIT if cut.atom.size - cut.count == 1 else Atom(cut.atom.id, cut.atom.size - cut.count) for cut in plan.cuts
    }
    for axis in plan.axes:
        tensor = tensors[axis.tensor]
        for space, count, who in _divisions(tensor, managed.get(id(tensor)), axis) if is_sharded(tensor) else ():
            stays = substitute(space, lambda atom: after.get(atom, atom)).size
            if space.size % count == 0 and stays % count:
                yield (
                    f"{axis.tensor!r}: {who} divides dimension {axis.dim} evenly among {count} ranks, "
                    f"{space.size // count} of {space.size} for each; {stays} stay, which {count} does not divide"
                )


def _divisions(tensor: Any, record: Any, axis: PrunedAxis) -> Iterator[tuple[Space, int, str]]:
    """What of an axis ranks must divide evenly, by how many, and who asks for it."""
    spec = tensor if record is None else record._unsharded_dtensor_spec
    for place in [] if spec is None else sharding(spec.placements):
        count = (spec.device_mesh if spec is tensor else spec.mesh).size(place)
        if spec.placements[place].dim == axis.dim:
            yield _leading(axis.space, count), count, "tensor parallelism"
    if record is not None and record.fsdp_placement.dim == axis.dim > 0:
        yield axis.space, record.mesh_info.shard_mesh_size, "fully_shard"


def _leading(space: Space, count: int) -> Space:
    """The fewest leading factors that so many ranks divide evenly, such as the heads of heads and their dims."""
    factors = space.factors if isinstance(space, Product) else (space,)
    return next((lead for end in range(1, len(factors)) if (lead := Product(factors[:end])).size % count == 0), space)


def told_by_all_ranks(plan: Plan, tensors: Mapping[str, torch.Tensor], problems: Sequence[str]) -> list[str]:
    """The problems of all ranks that share tensors, so that none of them waits for one that has refused the plan."""
    meshes = {id(tensor.device_mesh): tensor.device_mesh for tensor in tensors.values() if is_sharded(tensor)}  # type: ignore[attr-defined]
    told = {(plan_digest(plan), tuple(problems))} if meshes else set()
    for mesh in meshes.values():
        for place in range(mesh.ndim) if mesh.get_coordinate() is not None else ():
            of_ranks: list[Any] = [None] * mesh.size(place)
            dist.all_gather_object(of_ranks, told, group=mesh.get_group(place))
            told = set().union(*of_ranks)
    others = dict.fromkeys(problem for _, problems_there in sorted(told) for problem in problems_there)
    differing = ["ranks have different plans"] if len({digest for digest, _ in told}) > 1 else []
    return [*dict.fromkeys((*problems, *others, *differing))]
