"""Shards: what ranks pass to each other comes to what each one holds of the pruned tensor, whatever the mesh."""

import math
from itertools import product

import torch
from hypothesis import given
from hypothesis import strategies as st

from depgraph.execution.shards import Layout, Passing, passing, shape_after
from tests.laws.refuting import refuted


@st.composite
def layouts(draw):
    """A mesh, a tensor that it divides, also several times along one dimension, and what stays of it."""
    mesh = draw(st.sampled_from([(1,), (2,), (3,), (2, 2), (2, 3), (2, 1, 2)]))
    shape = tuple(draw(st.lists(st.integers(1, 9), min_size=1, max_size=3)))
    dims = draw(st.permutations(range(len(mesh))))
    divided = dims[: draw(st.integers(0, len(mesh)))]
    shards = tuple((mesh_dim, draw(st.integers(0, len(shape) - 1))) for mesh_dim in divided)
    kept = {
        dim: torch.tensor(sorted(draw(st.sets(st.integers(0, size - 1), min_size=1))))
        for dim, size in enumerate(shape)
        if draw(st.booleans())
    }
    return Layout(mesh, shards), shape, kept


def divided(layout, tensor, place):
    """What `torch.chunk` gives a rank, one dimension of the mesh after the other."""
    for mesh_dim, dim in layout.shards:
        chunks = tensor.chunk(layout.mesh[mesh_dim], dim)
        tensor = chunks[place[mesh_dim]] if place[mesh_dim] < len(chunks) else tensor.narrow(dim, 0, 0)
    return tensor


def assert_shards_of_the_pruned(layout, shape, kept, passing=passing):
    """Each rank gets each element once: of the ranks that share a copy with it, and of itself."""
    whole = torch.arange(math.prod(shape)).reshape(shape)
    pruned = whole
    for dim, indices in kept.items():
        pruned = pruned.index_select(dim, indices)
    assert shape_after(shape, kept) == list(pruned.shape)
    for target in product(*map(range, layout.mesh)):
        expected = divided(layout, pruned, target)
        result, count = torch.full_like(expected, -1), 0
        for source in (target, *layout.others(target)):
            if (passed := passing(layout, shape, kept, source, target)) is not None:
                block = passed.of(divided(layout, whole, source))
                assert list(block.shape) == passed.shape, "a block of another shape"
                result[passed.put] = block
                count += block.numel()
        assert torch.equal(result, expected), "another shard"
        assert count == expected.numel(), "elements come twice"


@given(layouts())
def test_what_ranks_pass_on_comes_to_the_shards_of_the_pruned_tensor(drawn):
    assert_shards_of_the_pruned(*drawn)


def test_ranks_that_keep_what_stays_of_their_own_shards_are_refuted():
    """Shards are divided anew: of eight rows, of which the first two go, the first rank needs one of the second's."""

    def stays(layout, shape, kept, source, target):
        return passing(layout, shape, kept, source, target) if source == target else None

    rows = Layout((2,), ((0, 0),)), (8, 3), {0: torch.arange(2, 8)}
    refuted(assert_shards_of_the_pruned, *rows, passing=stays, says="another shard")


def test_a_copy_that_takes_from_every_copy_is_refuted():
    class Everybody(Layout):
        def others(self, place):
            return (other for other in product(*map(range, self.mesh)) if other != place)

    refuted(assert_shards_of_the_pruned, Everybody((2, 2), ((1, 0),)), (8, 3), {0: torch.arange(2, 8)}, says="come twice")


def test_positions_of_the_whole_are_refuted():
    def of_the_whole(layout, shape, kept, source, target):
        passed = passing(layout, shape, kept, source, target)
        begin = layout.held(shape, source)[0][0]
        return None if passed is None else Passing((passed.taken[0] + begin, *passed.taken[1:]), passed.put)

    rows = Layout((2,), ((0, 0),)), (8, 3), {0: torch.arange(2, 8)}
    refuted(assert_shards_of_the_pruned, *rows, passing=of_the_whole, says="range", by=IndexError)
