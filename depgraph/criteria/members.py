"""Which parameter axes of a group take part in its importance, and how a number per flat index becomes one per index."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias, cast

import torch
from attrs import field, frozen

from depgraph.criteria.reductions import (
    REDUCTIONS,
    Importances,
    MemberScores,
    Normaliser,
    Numbers,
    known_normaliser,
    known_reduction,
    normalised,
)
from depgraph.errors import PlanError
from depgraph.graph import Graph
from depgraph.ragged import bases_of
from depgraph.records import Operation, OpType
from depgraph.rows import terms
from depgraph.spaces import Atom, Leaf, Space, leaves

Member: TypeAlias = tuple[str, int]
Members: TypeAlias = dict[str, tuple[Member, ...]]
Tensors: TypeAlias = Mapping[str, torch.Tensor]


def op_types(value: Iterable[OpType] | OpType | None) -> frozenset[OpType] | None:
    """The chosen types as a set; None for all. Refuses anything else."""
    if value is None:
        return None
    try:
        chosen = frozenset([value] if isinstance(value, OpType) else value)
    except TypeError:
        raise PlanError(f"expected types= to be a set of dg.OpType, met {value!r}.") from None
    wrong = [item for item in chosen if not isinstance(item, OpType)]
    if wrong or not chosen:
        raise PlanError(f"expected types= to be a set of dg.OpType, such as {{dg.OpType.CONV}}, met {value!r}.")
    return chosen


def is_flag(instance: object, attribute: Any, value: object) -> None:
    """Refuse anything but a truth value."""
    if not isinstance(value, bool):
        raise PlanError(f"expected {attribute.name}= to be True or False, met {value!r}.")


def is_positive(instance: object, attribute: Any, value: Any) -> None:
    """Refuse anything but a positive number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise PlanError(f"expected {attribute.name}= to be a positive number, met {value!r}.")


@frozen
class Lanes:
    """For what numbers are wanted: each index of an atom, or each of them in each row of a base."""

    atom: Atom
    base: Atom | None = None


@frozen(kw_only=True)
class Options:
    """What the criteria have in common: who takes part, and how the members of a group become one number per index.

    A member of a group is an axis of a parameter. Its importance for index i sums over all flat places that i has in the
    axis: the 49 columns of a channel behind a flatten, its place in each block of a grouped convolution.

    Attributes:
        reduction: over the members: ``sum``, ``mean``, ``max``, ``prod``; ``first`` and ``gate``, the first and the last
            member in the order of ``group.members`` alone; ``none``, which gives `MemberScores`.
        normaliser: ``none``; ``sum``, ``mean`` or ``max``, division by that of the group; ``standardisation``, to [0, 1];
            ``gaussian``, to mean 0 and deviation 1; ``lamp``, s_i / sum of the s_j >= s_i; or a function of one vector.
            Where a divisor would be 0, nothing is divided.
        bias: whether biases take part. Where a group has nothing but biases, they do.
        types: layers of these types take part; None for all. A group without any is left out of the scores.
        ragged: groups that may be cut row by row (`depgraph.ragged_groups`) get a table, with one row of numbers for each
            index of their base, such as for each head; `plan` then cuts each row's own lowest.
    """

    reduction: str = field(default="mean", validator=known_reduction)
    normaliser: Normaliser = field(default="mean", validator=known_normaliser)
    bias: bool = field(default=False, validator=is_flag)
    types: frozenset[OpType] | None = field(default=None, converter=op_types)
    ragged: bool = field(default=False, validator=is_flag)

    def members(self, graph: Graph) -> Members:
        """The parameter axes of each group that take part, without the groups that have none.

        Raises:
            PlanError: no group has any.
        """
        parameters = {tensor.name for tensor in graph.tensors if tensor.kind == "parameter"}
        uses = graph.uses
        offsets = frozenset() if self.bias else graph.offsets
        found: Members = {}
        for group in graph.groups:
            held = [member for member in group.members if member[0] in parameters]
            if self.types is not None:
                held = [member for member in held if any(use.type in self.types for use, _ in uses.get(member[0], ()))]
            chosen = tuple(member for member in held if member[0] not in offsets) or tuple(held)
            if chosen:
                found[group.name] = chosen
        if graph.groups and not found:
            wanted = ", ".join(sorted(kind.name for kind in self.types or ()))
            raise PlanError(f"no group has a parameter in a layer of the types {wanted}; choose others with types=.")
        return found

    def assembled(self, graph: Graph, members: Members, vector: Callable[[Member, Lanes], torch.Tensor | None]) -> Importances:
        """Reduce and normalise the vectors, or tables, of the members of each group; a member without one is left out."""
        bases = bases_of(graph) if self.ragged else {}
        scores: Importances = {}
        apart: dict[str, tuple[Numbers, ...]] = {}
        seen: Members = {}
        for group in graph.groups:
            lanes = Lanes(group.atom, bases.get(group.atom))
            found = [(member, part) for member in members.get(group.name, ()) if (part := vector(member, lanes)) is not None]
            if not found:
                continue
            parts = [part.to(found[0][1].device) for _, part in found]
            if self.reduction == "none":
                seen[group.name] = tuple(member for member, _ in found)
                apart[group.name] = tuple(normalised(group.name, part, self.normaliser) for part in parts)
            else:
                scores[group.name] = normalised(group.name, REDUCTIONS[self.reduction](parts), self.normaliser)
        if self.reduction == "none":
            return cast(Importances, MemberScores(seen, apart))  # no mapping, so that a plan refuses it
        return scores

    def summed(
        self,
        graph: Graph,
        members: Members,
        sums: Callable[[str, tuple[int, ...]], dict[int, torch.Tensor]],
        after: Callable[[torch.Tensor], torch.Tensor] = lambda vector: vector,
    ) -> Importances:
        """The importances whose members are sums of one number per element.

        Args:
            graph: the graph.
            members: what takes part.
            sums: from a parameter's name and some of its dimensions to a vector along each of these.
            after: applied to what `gathered` makes of each vector.
        """
        wanted: dict[str, dict[int, None]] = {}
        for name, dim in (member for held in members.values() for member in held):
            wanted.setdefault(name, {})[dim] = None
        found = {name: sums(name, tuple(dims)) for name, dims in wanted.items()}

        def vector(member: Member, lanes: Lanes) -> torch.Tensor | None:
            name, dim = member
            along = found[name].get(dim)
            return None if along is None else after(gathered(along, graph.by_name[name].axes[dim], lanes))

        return self.assembled(graph, members, vector)


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
    found: dict[str, list[Layer]] = {}
    for operation in graph.operations:
        name = operation.op.rpartition(".")[2]
        place = 2 if name == "addmm" else 1
        if len(operation.inputs) <= place or not operation.outputs:
            continue
        x, weight = (graph.by_name[operation.inputs[at]] for at in (place - 1, place))
        if weight.kind != "parameter" or x.kind != "value" or len(weight.axes) < 2:
            continue
        if operation.type in {OpType.CONV, OpType.DEPTHWISE_CONV}:
            dims, channel = ((0, 1) if "transpose" in name else (1, 0)), 1 - len(weight.axes)
        elif len(weight.axes) == 2 and operation.type is OpType.LINEAR:
            dims, channel = (1, 0), -1
        elif len(weight.axes) == 2 and name in {"mm", "matmul", "addmm"}:
            dims, channel = (0, 1), -1
        else:
            continue
        out = graph.by_name[operation.outputs[0]]
        found.setdefault(weight.name, []).append(Layer(operation, *dims, x.axes[channel], out.axes[channel]))
    return found


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


def readable(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """The tensor outside of autograd. Refuses one without data."""
    if tensor.is_meta:
        raise PlanError(f"{name!r} is on the meta device and has no weights to measure; use dg.Random(seed).")
    return tensor.detach()


def real(values: torch.Tensor) -> torch.Tensor:
    """The values, or the absolute ones of complex numbers, in at least single precision."""
    if values.is_complex():
        return values.abs()
    return values.float() if not values.is_floating_point() or values.dtype in _NARROW else values


_NARROW = frozenset({torch.float16, torch.bfloat16})


def gathered(vector: torch.Tensor, space: Space, lanes: Lanes) -> torch.Tensor:
    """Sum a vector along an axis onto the indices of an atom, over all places that it has there; row by row with a base."""
    if space is lanes.atom or space == lanes.atom:
        return vector
    if lanes.base is not None:
        blocks = [vector.contiguous().as_strided(*place) for place in _blocks(space, lanes)]
        return torch.stack([block.flatten(2).sum(2) for block in blocks]).sum(0)
    parts = [_strided(vector, leaf) for leaf in leaves(space) if leaf.atom == lanes.atom]
    return torch.stack(parts).sum(0)


def _blocks(space: Space, lanes: Lanes) -> list[tuple[tuple[int, ...], tuple[int, ...], int]]:
    """Sizes, strides and offset of the places of an atom in an axis: rows, indices, and one dimension for each other factor."""
    found = []
    for term in terms(space):
        rows = [place for place in term.places if place.atom == lanes.base]
        own = [place for place in term.places if place.atom == lanes.atom]
        if own:
            others = [place for place in term.places if place.atom not in (lanes.base, lanes.atom)]
            ordered = [*rows, *own, *others]
            sizes = (*(place.atom.size for place in ordered), 1)
            found.append((sizes, (*(place.stride for place in ordered), 1), term.offset))
    return found


def _strided(vector: torch.Tensor, leaf: Leaf) -> torch.Tensor:
    size = (*(count for count, _ in leaf.loops), leaf.atom.size, leaf.stride)
    stride = (*(step for _, step in leaf.loops), leaf.stride, 1)
    view = vector.contiguous().as_strided(size, stride, leaf.offset)
    total = view.sum([d for d in range(len(size)) if d != len(leaf.loops)])
    return total.flip(0) if leaf.backwards else total


def slices(tensor: torch.Tensor, dim: int, space: Space, lanes: Lanes) -> torch.Tensor:
    """A matrix with one row per index of an atom: all elements of the tensor that go when the index goes.

    With a base a matrix for each of its indices.
    """
    rows, size = tensor.movedim(dim, 0), lanes.atom.size
    if space == lanes.atom:
        return rows.reshape(size, -1)
    if lanes.base is not None:
        numbers = torch.arange(space.size, device=tensor.device)
        places = torch.cat([numbers.as_strided(*place).flatten(2) for place in _blocks(space, lanes)], 2)
        return rows[places].reshape(lanes.base.size, size, -1)
    parts = []
    for leaf in leaves(space):
        if leaf.atom == lanes.atom:
            steps = torch.arange(leaf.stride, device=tensor.device)
            blocks = torch.arange(size, device=tensor.device)[:, None] * leaf.stride
            blocks = blocks.flip(0) if leaf.backwards else blocks
            places = torch.cat([base + blocks + steps for base in leaf.bases()], 1)
            parts.append(rows[places].reshape(size, -1))
    return torch.cat(parts, 1)
