"""From a number per flat index of an axis to one per index of a group: the sum over all places that the index has there.

A channel of a group has 49 columns behind a flatten, a place in each block of a grouped convolution, one in each head.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import torch
from attrs import frozen

from depgraph.algebra.index_maps import Leaf, leaves, summands
from depgraph.algebra.spaces import Atom, Space

Member: TypeAlias = tuple[str, int]
"""An axis of a parameter: its name and the dimension."""


Members: TypeAlias = dict[str, tuple[Member, ...]]
"""Group name to the axes in which its indices occur."""


Tensors: TypeAlias = Mapping[str, torch.Tensor]


@frozen
class GroupIndices:
    """The indices to which numbers belong: those of an atom; with a base those of the atom in each index of the base.

    Attributes:
        atom: the group's atom, such as the dims of a head.
        base: the atom for each index of which the numbers stay apart, such as the heads; None for sums over all of them.
    """

    atom: Atom
    base: Atom | None = None


def gathered(vector: torch.Tensor, space: Space, indices: GroupIndices) -> torch.Tensor:
    """For each index of a group the sum of a vector along an axis over the index's places; with a base a table.

    It is differentiable in the vector, which may be any view, such as a bias in a flat buffer of parameters.
    """
    if space is indices.atom or space == indices.atom:
        return vector
    if indices.base is not None:
        parts = [_strided(vector, *block).flatten(2).sum(2) for block in _blocks(space, indices)]
    else:
        parts = [_over_loops(vector, leaf) for leaf in leaves(space) if leaf.atom == indices.atom]
    return parts[0] if len(parts) == 1 else torch.stack(parts).sum(0)


def _strided(vector: torch.Tensor, sizes: tuple[int, ...], strides: tuple[int, ...], offset: int) -> torch.Tensor:
    """`as_strided` with an offset from the vector's first element, where PyTorch's counts from that of the storage."""
    dense = vector.contiguous()
    return dense.as_strided(sizes, strides, dense.storage_offset() + offset)


def _over_loops(vector: torch.Tensor, leaf: Leaf) -> torch.Tensor:
    """The sum over the loops around an atom, and over the run of neighbours that each of its indices has."""
    sizes = (*(count for count, _ in leaf.loops), leaf.atom.size, leaf.stride)
    strides = (*(step for _, step in leaf.loops), leaf.stride, 1)
    own = len(leaf.loops)
    total = _strided(vector, sizes, strides, leaf.offset).sum([dim for dim in range(len(sizes)) if dim != own])
    return total.flip(0) if leaf.backwards else total


def _blocks(space: Space, indices: GroupIndices) -> list[tuple[tuple[int, ...], tuple[int, ...], int]]:
    """Sizes, strides and offset of an atom's places in an axis: dimensions for the base, the atom, and each other factor."""
    blocks = []
    for term in summands(space):
        base = [place for place in term.places if place.atom == indices.base]
        own = [place for place in term.places if place.atom == indices.atom]
        if own:
            others = [place for place in term.places if place.atom not in (indices.base, indices.atom)]
            ordered = [*base, *own, *others]
            sizes = (*(place.atom.size for place in ordered), 1)
            blocks.append((sizes, (*(place.stride for place in ordered), 1), term.offset))
    return blocks


def slices(tensor: torch.Tensor, dim: int, space: Space, indices: GroupIndices) -> torch.Tensor:
    """A matrix with one row per index of a group: all elements of the tensor that go when the index goes.

    With a base a matrix for each of its indices.
    """
    rows, size = tensor.movedim(dim, 0), indices.atom.size
    if space == indices.atom:
        return rows.reshape(size, -1)
    numbers = torch.arange(space.size, device=tensor.device)
    if indices.base is not None:
        positions = torch.cat([_strided(numbers, *block).flatten(2) for block in _blocks(space, indices)], 2)
        return rows[positions].reshape(indices.base.size, size, -1)
    parts = []
    for leaf in leaves(space):
        if leaf.atom == indices.atom:
            starts = numbers[:size, None] * leaf.stride
            starts = starts.flip(0) if leaf.backwards else starts
            positions = torch.cat([base + starts + numbers[: leaf.stride] for base in leaf.bases()], 1)
            parts.append(rows[positions].reshape(size, -1))
    return torch.cat(parts, 1)
