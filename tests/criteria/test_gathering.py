"""Sums over the places of an index against a walk over index maps, on spaces written out."""

import pytest
import torch

import depgraph as dg
from depgraph.algebra.index_maps import image
from depgraph.algebra.spaces import Atom, backwards, laid_end_to_end, product
from depgraph.criteria.gathering import GroupIndices, gathered, slices

HEADS, DIMS, BLOCKS = Atom(0, 2), Atom(1, 3), Atom(2, 4)
SPACES = [
    product(HEADS, DIMS),
    product(DIMS, HEADS),
    product(BLOCKS, HEADS, DIMS),
    product(HEADS, BLOCKS, DIMS),
    laid_end_to_end(product(HEADS, DIMS, BLOCKS), product(DIMS, HEADS)),
]


def places(space, **indices):
    """The flat places of an index of DIMS, in one head or in all."""
    dims = set(image(space, {DIMS: dg.IndexSet.of([indices["dim"]])}))
    return sorted(dims & set(image(space, {HEADS: dg.IndexSet.of([indices["head"]])}))) if "head" in indices else sorted(dims)


@pytest.mark.parametrize("space", SPACES)
def test_tables_are_sums_over_the_places_of_an_index_in_each_index_of_the_base(space):
    """Numbers and rows of a matrix alike, from a vector that lies within another."""
    matrix = torch.randn(space.size, 2, dtype=torch.float64)
    vector = torch.randn(space.size + 5, dtype=torch.float64)[5:]
    for base, heads in ((None, [{}]), (HEADS, [{"head": head} for head in range(HEADS.size)])):
        indices = GroupIndices(DIMS, base)
        walks = [[places(space, dim=dim, **head) for dim in range(DIMS.size)] for head in heads]
        sums = torch.stack([torch.stack([vector[walk].sum() for walk in row]) for row in walks])
        torch.testing.assert_close(gathered(vector, space, indices).view(sums.shape), sums)
        rows = slices(matrix, 0, space, indices).view(len(walks), DIMS.size, -1)
        for head, row in enumerate(walks):
            for dim, walk in enumerate(row):
                assert sorted(rows[head, dim].tolist()) == sorted(matrix[walk].flatten().tolist())


def test_axes_that_are_read_backwards():
    """The last column belongs to the first index, for sums and for slices."""
    space = laid_end_to_end(DIMS, backwards(DIMS))
    vector = torch.tensor([1.0, 2.0, 3.0, 10.0, 20.0, 30.0])
    assert gathered(vector, space, GroupIndices(DIMS)).tolist() == [31.0, 22.0, 13.0]
    assert slices(vector[:, None], 0, space, GroupIndices(DIMS)).tolist() == [[1.0, 30.0], [2.0, 20.0], [3.0, 10.0]]
