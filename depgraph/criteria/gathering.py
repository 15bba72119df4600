"""How a number per flat index of an axis becomes one per index of a group."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import torch
from attrs import frozen

from depgraph.algebra.index_maps import Leaf, leaves, summands
from depgraph.algebra.spaces import Atom, Space
from depgraph.errors import PlanError

Member: TypeAlias = tuple[str, int]


Members: TypeAlias = dict[str, tuple[Member, ...]]


Tensors: TypeAlias = Mapping[str, torch.Tensor]


@frozen
class Lanes:
    """For what numbers are wanted: each index of an atom, or each of them in each row of a base."""

    atom: Atom
    base: Atom | None = None


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
    for term in summands(space):
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
