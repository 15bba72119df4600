"""Tensors that are spread over ranks: `fully_shard`, tensor parallelism, or both. Each rank makes its shard of the pruned one.

Which elements a rank holds follows from the placements alone, dimension by dimension. So every rank knows what every other
one has and needs, and they send each other just that: no rank holds more than its shards and what moves of one parameter.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
import torch.distributed as dist
from attrs import frozen
from torch import nn

from depgraph.algebra.spaces import UNIT, Atom, Product, Space, substitute
from depgraph.execution.fsdp import records, spec_before
from depgraph.execution.repairs import plan_digest
from depgraph.plans.plan import Plan, PrunedAxis
from depgraph.wrappers import is_sharded

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

Place: TypeAlias = tuple[int, ...]
"""The place of a rank in a mesh, one number for each dimension of the mesh."""

Run: TypeAlias = tuple[int, int]
"""Indices of one dimension that lie together: the first one, and the one behind the last."""


@frozen
class Layout:
    """Which elements of a tensor each rank of a mesh holds.

    Attributes:
        mesh: how many ranks there are in each dimension of the mesh.
        shards: (dimension of the mesh, dimension of the tensor) where ranks divide it, in the order in which they do. Along the
            other dimensions of the mesh ranks hold the same.

    >>> Layout((2,), ((0, 1),)).held((4, 5), (0,)), Layout((2,), ((0, 1),)).held((4, 5), (1,))
    ([(0, 4), (0, 3)], [(0, 4), (3, 5)])
    """

    mesh: tuple[int, ...]
    shards: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, tensor: DTensor) -> Layout:
        """That of a tensor. A strided shard, which `fully_shard` makes, divides what the other shards leave: it comes last."""
        places = sorted(sharding(tensor.placements), key=lambda place: type(tensor.placements[place]).__name__ != "Shard")
        shards = tuple((place, tensor.placements[place].dim) for place in places)  # type: ignore[attr-defined]
        return cls(tuple(tensor.device_mesh.shape), shards)

    def held(self, shape: Sequence[int], place: Place) -> list[Run]:
        """What the rank at a place holds of a tensor of this shape, dimension by dimension, as `torch.chunk` divides it."""
        runs = [(0, size) for size in shape]
        for mesh_dim, dim in self.shards:
            begin, end = runs[dim]
            step = -(-(end - begin) // self.mesh[mesh_dim])
            first = begin + place[mesh_dim] * step
            runs[dim] = min(first, end), min(first + step, end)
        return runs

    def others(self, place: Place) -> Iterator[Place]:
        """The places of the other ranks that share one copy of the tensor with the rank at a place."""
        divided = {mesh_dim for mesh_dim, _ in self.shards}
        sizes = [range(size) if dim in divided else [place[dim]] for dim, size in enumerate(self.mesh)]
        return (other for other in product(*sizes) if other != place)


@frozen(eq=False)
class Passing:
    """What one rank has of the new shard of another one.

    Attributes:
        taken: where it lies in the shard of the first, in each dimension.
        put: where it goes in the new shard of the second.
    """

    taken: tuple[slice | torch.Tensor, ...]
    put: tuple[slice, ...]

    def of(self, shard: torch.Tensor) -> torch.Tensor:
        """It, in a tensor of its own."""
        for dim, positions in enumerate(self.taken):
            if isinstance(positions, slice):
                shard = shard.narrow(dim, positions.start, positions.stop - positions.start)
        for dim, positions in enumerate(self.taken):
            if isinstance(positions, torch.Tensor):
                shard = shard.index_select(dim, positions.to(shard.device))
        return shard.contiguous()

    @property
    def shape(self) -> list[int]:
        """How large it is."""
        return [places.stop - places.start for places in self.put]


def passing(
    layout: Layout, shape: Sequence[int], kept: Mapping[int, torch.Tensor], source: Place, target: Place
) -> Passing | None:
    """What the rank at the source has of what the one at the target needs; None for nothing.

    Args:
        layout: of the tensor, before and after.
        shape: of the whole tensor, before.
        kept: dimension to the indices that stay, ascending.
        source: a place in the mesh.
        target: another one, or the same.
    """
    taken: list[slice | torch.Tensor] = []
    put: list[slice] = []
    needed = layout.held(shape_after(shape, kept), target)
    for dim, ((begin, end), (first, last)) in enumerate(zip(layout.held(shape, source), needed, strict=True)):
        indices = kept.get(dim)
        have = (begin, end) if indices is None else torch.searchsorted(indices, torch.tensor([begin, end])).tolist()
        low, high = max(first, have[0]), min(last, have[1])
        if low >= high:
            return None
        taken.append(slice(low - begin, high - begin) if indices is None else indices[low:high] - begin)
        put.append(slice(low - first, high - first))
    return Passing(tuple(taken), tuple(put))


def shape_after(shape: Sequence[int], kept: Mapping[int, torch.Tensor]) -> list[int]:
    """The shape of what is kept."""
    return [len(kept[dim]) if dim in kept else size for dim, size in enumerate(shape)]


def cut_shard(tensor: DTensor, kept: Mapping[int, torch.Tensor]) -> DTensor:
    """What this rank holds of what is kept of a tensor, in the same placements. All ranks of its mesh call it together.

    Args:
        tensor: of shards and replicas; of those, each one cuts its own.
        kept: dimension to the indices that stay, of the whole tensor.
    """
    layout, ranks, own = Layout.of(tensor), tensor.device_mesh.mesh, _own(tensor)
    local = tensor.to_local().detach()
    after = shape_after(tensor.shape, kept)
    if own is None:
        return _of_local(tensor, local.clone(), after)
    requests: list[dist.P2POp] = []
    incoming: list[tuple[Passing, torch.Tensor]] = []
    for place in layout.others(own):
        if (sent := passing(layout, tensor.shape, kept, own, place)) is not None:
            requests.append(dist.P2POp(dist.isend, _bytes(sent.of(local)), int(ranks[place])))
        if (received := passing(layout, tensor.shape, kept, place, own)) is not None:
            incoming.append((received, local.new_empty(received.shape)))
            requests.append(dist.P2POp(dist.irecv, _bytes(incoming[-1][1]), int(ranks[place])))
    for request in dist.batch_isend_irecv(requests) if requests else ():
        request.wait()
    requests.clear()
    result = local.new_empty([end - begin for begin, end in layout.held(after, own)])
    if (stays := passing(layout, tensor.shape, kept, own, own)) is not None:
        result[stays.put] = stays.of(local)
    for received, block in incoming:
        result[received.put] = block
    return _of_local(tensor, result, after)


def shard_of(values: torch.Tensor, tensor: DTensor) -> DTensor:
    """What this rank holds of values that each rank has as a whole, in the placements of a tensor."""
    own = _own(tensor)
    local = values.to(dtype=tensor.dtype, device=tensor.device)
    for dim, (begin, end) in enumerate(Layout.of(tensor).held(values.shape, own) if own is not None else ()):
        local = local.narrow(dim, begin, end - begin)
    return _of_local(tensor, local.contiguous(), values.shape)


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor as a whole, also one that is spread over ranks."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]


def sharding(placements: Sequence[Any]) -> list[int]:
    """The dimensions of a mesh along which a tensor is sharded."""
    return [place for place, placement in enumerate(placements) if hasattr(placement, "dim")]


def _of_local(like: DTensor, local: torch.Tensor, shape: Sequence[int]) -> DTensor:
    from torch.distributed.tensor import DTensor

    stride = torch.empty(shape, device="meta").stride()
    return DTensor.from_local(local, like.device_mesh, like.placements, run_check=False, shape=torch.Size(shape), stride=stride)


def _own(tensor: DTensor) -> Place | None:
    """The place of this rank in the mesh of a tensor; None for a rank that is not in it."""
    place = tensor.device_mesh.get_coordinate()
    return None if place is None else tuple(place)


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
    if plan.leaving and managed:
        yield "elements of lists or branches leave, and fully_shard keeps what it does with their parameters"
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
    spec = tensor if record is None else spec_before(record)
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
