"""Second moments of a convolution's patches, without making the patches.

Two kernel positions read the same image, one moved against the other: the products of x at a place and x at a place some
steps away are common to all pairs of positions that lie these steps apart, but for what the border leaves out. A kernel of
3 x 3 has 81 pairs, and 13 sums of products, each a matrix product over the flat image.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import lru_cache
from itertools import combinations, product
from typing import TypeAlias

import torch
from attrs import field, frozen
from torch.nn import functional as F

from depgraph.moments.layers import Call
from depgraph.moments.sums import Sums, sum_dtype

Steps: TypeAlias = tuple[int, ...]
Strip: TypeAlias = tuple[Steps, tuple[tuple[int, int], ...]]
"""A sum of products of x at a place and x some steps away, over all places, or over those with some fixed coordinates."""

FEWEST_CHANNELS = 8
"""With fewer channels in a block, products of them are too small to be worth a call each."""


@frozen
class Pattern:
    """Which sums the second moments of patches are made of.

    Attributes:
        kernel: the kernel's sizes.
        dilation: steps inside the kernel.
        padding: zeros before and after each dimension, at least so many that what is moved past the end meets zeros.
        places: the sizes of the result.
        strips: the sums.
        blocks: for each pair of kernel positions the sums that are added (1) or subtracted (-1), by their number.
    """

    kernel: Steps
    dilation: Steps
    padding: tuple[tuple[int, int], ...]
    places: Steps
    strips: tuple[Strip, ...]
    blocks: Mapping[tuple[Steps, Steps], tuple[tuple[int, int], ...]] = field(eq=False)

    @property
    def work(self) -> int:
        """Products of each pair of channels and sample, about."""
        padded = [size + sum(pads) for size, pads in zip(self.places, self.padding, strict=True)]
        return sum(math.prod(size for axis, size in enumerate(padded) if axis not in dict(fixed)) for _, fixed in self.strips)


def pattern_of(call: Call, x: torch.Tensor) -> Pattern | None:
    """The pattern of a convolution's patches; None where they have little in common, as with a stride."""
    if call.kind != "convolution" or call.transposed or math.prod(call.kernel) == 1 or set(call.stride) != {1}:
        return None
    if x.shape[1] // call.groups < FEWEST_CHANNELS or 0 in x.shape:
        return None
    return _pattern(call.kernel, call.dilation, call.padding, tuple(x.shape[2:]))


@lru_cache(maxsize=256)
def _pattern(kernel: Steps, dilation: Steps, padding: Steps, sizes: Steps) -> Pattern | None:
    reach = [step * (size - 1) for size, step in zip(kernel, dilation, strict=True)]
    places = tuple(size + 2 * pad - far for size, pad, far in zip(sizes, padding, reach, strict=True))
    pads = tuple((pad, max(pad, far - pad)) for pad, far in zip(padding, reach, strict=True))
    most = 4 * math.prod(2 * size - 1 for size in kernel)
    numbers: dict[Strip, int] = {}
    blocks: dict[tuple[Steps, Steps], tuple[tuple[int, int], ...]] = {}
    for first, second in product(product(*map(range, kernel)), repeat=2):
        if first > second:
            continue
        steps = tuple(step * (b - a) for a, b, step in zip(first, second, dilation, strict=True))
        left_out = [
            [at for at in range(pad, pad + size) if not step * a <= at < step * a + count and pad <= at + move < pad + size]
            for a, step, move, pad, size, count in zip(first, dilation, steps, padding, sizes, places, strict=True)
        ]
        terms = []
        for fixed in _some(left_out):
            terms.append((numbers.setdefault((steps, fixed), len(numbers)), -1 if len(fixed) % 2 else 1))
            if len(numbers) > most:
                return None
        blocks[first, second] = tuple(terms)
    return Pattern(kernel, dilation, pads, places, tuple(numbers), blocks)


def _some(left_out: list[list[int]]) -> Iterator[tuple[tuple[int, int], ...]]:
    """Inclusion and exclusion: each choice of dimensions, and of a coordinate that is left out in each."""
    axes = range(len(left_out))
    for count in range(len(left_out) + 1):
        for chosen in combinations(axes, count):
            for coordinates in product(*(left_out[axis] for axis in chosen)):
                yield tuple(zip(chosen, coordinates, strict=True))


@frozen(eq=False)
class PatchSums:
    """The sums of a pattern, over samples.

    Attributes:
        pattern: what they are of.
        count: number of patches.
        total: the sum of x at each place over the samples, ``[*padded sizes, groups, channels]``.
        products: each sum of the pattern, ``[sums, groups, channels, channels]``.
    """

    pattern: Pattern
    count: int
    total: torch.Tensor
    products: torch.Tensor

    @classmethod
    def of(cls, pattern: Pattern, x: torch.Tensor, groups: int) -> PatchSums:
        """The sums of some samples, ``[samples, channels, *sizes]``, multiplied in their own precision."""
        samples, channels = x.shape[:2]
        padded = F.pad(x.movedim(1, -1), [0, 0, *(pad for pads in reversed(pattern.padding) for pad in pads)])
        image = padded.reshape(*padded.shape[:-1], groups, channels // groups)
        wide = sum_dtype(x.new_empty(0, channels // groups * math.prod(pattern.kernel)))
        products = torch.stack([_product(image, *strip) for strip in pattern.strips]).to(wide)
        return cls(pattern, samples * math.prod(pattern.places), image.sum(0).to(wide), products)

    def add(self, other: PatchSums) -> PatchSums:
        """Both, in the memory of these."""
        return PatchSums(
            self.pattern, self.count + other.count, self.total.add_(other.total), self.products.add_(other.products)
        )

    def sums(self) -> Sums:
        """The sums of the patches themselves."""
        kernel = self.pattern.kernel
        groups, channels = self.products.shape[1:3]
        dims = len(kernel)
        total = self.total.new_empty(groups, channels, *kernel)
        products = self.products.new_empty(groups, channels, *kernel, channels, *kernel)
        every: tuple[slice | int, ...] = (slice(None), slice(None))
        for at in product(*map(range, kernel)):
            window = tuple(
                slice(step * a, step * a + count)
                for a, step, count in zip(at, self.pattern.dilation, self.pattern.places, strict=True)
            )
            total[(*every, *at)] = self.total[window].sum(tuple(range(dims)))
        for (first, second), terms in self.pattern.blocks.items():
            block = self.products[terms[0][0]]
            for number, sign in terms[1:]:
                block = torch.add(block, self.products[number], alpha=sign)
            products[(*every, *first, slice(None), *second)] = block
            if first != second:
                products[(*every, *second, slice(None), *first)] = block.mT
        inputs = channels * math.prod(kernel)
        return Sums(self.count, total.view(groups, inputs), products.view(groups, inputs, inputs))


def _product(image: torch.Tensor, steps: Steps, fixed: tuple[tuple[int, int], ...]) -> torch.Tensor:
    """Σ x(q) x(q + steps)ᵀ over the places q of padded images with some fixed coordinates, ``[groups, channels, channels]``."""
    one = other = image
    move = 0
    for axis, at in reversed(fixed):
        one, other = one.select(1 + axis, at), other.select(1 + axis, at + steps[axis])
    free = [axis for axis in range(len(steps)) if axis not in dict(fixed)]
    for axis, size in zip(free, one.shape[1:-2], strict=True):
        move = move * size + steps[axis]
    one, other = (item.reshape(-1, *image.shape[-2:]).movedim(0, 1) for item in (one, other))
    if move < 0:
        return torch.bmm(one[:, -move:].mT, other[:, :move])
    return torch.bmm(one[:, : one.shape[1] - move].mT, other[:, move:])
