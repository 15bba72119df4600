"""The sums of a convolution's patches are the same, whether patches are made or not."""

import attrs
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from depgraph.moments.layers import Call
from depgraph.moments.patches import FEWEST_CHANNELS, PatchSums, pattern_of
from depgraph.moments.sums import Sums
from tests.laws.refuting import refuted


@st.composite
def images(draw):
    """A convolution without a stride, in 1 to 3 dimensions, and what it reads in two batches."""
    dims, groups = draw(st.integers(1, 3)), draw(st.integers(1, 2))
    kernel, dilation, padding = (
        tuple(draw(st.integers(low, high)) for _ in range(dims)) for low, high in ((1, 3), (1, 2), (0, 3))
    )
    sizes = tuple(draw(st.integers(1, 6)) for _ in range(dims))
    reached = [step * (size - 1) for size, step in zip(kernel, dilation, strict=True)]
    assume(all(size + 2 * pad > far for size, pad, far in zip(sizes, padding, reached, strict=True)))
    call = Call(
        "convolution",
        stride=(1,) * dims,
        padding=padding,
        dilation=dilation,
        output_padding=(0,) * dims,
        groups=groups,
        kernel=kernel,
    )
    return call, [torch.randn(count, groups * FEWEST_CHANNELS, *sizes, dtype=torch.float64) for count in (1, 2)]


def same_sums(pattern, call, batches):
    """The sums of the pattern, added up over batches, are those of the rows."""
    one, other = (PatchSums.of(pattern, x, call.groups) for x in batches)
    found, wanted = one.add(other).sums(), Sums.of(call.rows(torch.cat(batches)))
    assert found.count == wanted.count
    assert torch.allclose(found.total, wanted.total), "the sum of the patches is another"
    assert torch.allclose(found.products, wanted.products), "the products of the patches are others"


@given(images())
def test_patches_that_are_not_made_have_the_same_sums(case):
    call, batches = case
    pattern = pattern_of(call, batches[0])
    assume(pattern is not None)
    same_sums(pattern, call, batches)


def test_borders_that_are_not_left_out_are_refuted():
    """What a kernel position does not reach belongs to others that lie as far apart."""
    call = Call("convolution", stride=(1,), padding=(1,), dilation=(1,), output_padding=(0,), kernel=(3,))
    batches = [torch.randn(2, FEWEST_CHANNELS, 5, dtype=torch.float64) for _ in range(2)]
    pattern = pattern_of(call, batches[0])
    same_sums(pattern, call, batches)
    careless = attrs.evolve(pattern, blocks={pair: terms[:1] for pair, terms in pattern.blocks.items()})
    refuted(same_sums, careless, call, batches, says="the products of the patches are others")


def test_a_kernel_of_3_by_3_has_13_sums_and_its_borders():
    """Of 81 pairs of positions 13 differ; of each border and corner, what some of them leave out."""
    call = Call("convolution", stride=(1, 1), padding=(1, 1), dilation=(1, 1), output_padding=(0, 0), kernel=(3, 3))
    pattern = pattern_of(call, torch.zeros(1, 8, 14, 14))
    assert [len([1 for _, fixed in pattern.strips if len(fixed) == count]) for count in range(3)] == [13, 12, 4]
    assert pattern.work < 81 * 14 * 14 / 4


def test_where_patches_have_little_in_common_they_are_made():
    """With a stride, few channels, a kernel of one place, or a kernel so long that borders are most of it."""
    x = torch.zeros(1, 16, 40)
    wide = Call("convolution", stride=(1,), padding=(1,), dilation=(1,), output_padding=(0,), kernel=(3,))
    assert pattern_of(wide, x) is not None
    for changes in ({"stride": (2,)}, {"groups": 4}, {"kernel": (1,)}, {"kernel": (32,)}, {"transposed": True}):
        assert pattern_of(attrs.evolve(wide, **changes), x) is None
    assert pattern_of(Call("product"), torch.zeros(3, 16)) is None
