"""Layers as operators see them: a weight that multiplies rows, whatever module, function or view it came from.

Every linear layer comes down to Y = X Wᵀ in blocks: X has one row per token, or per place of an image, and one column per
number that is multiplied. A convolution's row is a patch, and its blocks are its groups; a product in batches has a block
for each matrix.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from attrs import frozen
from torch.nn import functional as F

Strides = tuple[tuple[int, int], ...]
"""Sizes and strides of some dimensions; a stride below zero runs backwards."""


@frozen
class Layout:
    """Where the elements of a matrix lie in a parameter, or those of a bias.

    Attributes:
        name: the parameter.
        offset: the flat position of the first element.
        blocks: size and stride from block to block.
        rows: size and stride from output to output.
        columns: sizes and strides of the inputs, such as channels and kernel positions; none for a bias.

    >>> Layout("weight", offset=0, blocks=(1, 0), rows=(3, 2), columns=((2, 1),)).positions().tolist()
    [[[0, 1], [2, 3], [4, 5]]]
    """

    name: str
    offset: int
    blocks: tuple[int, int]
    rows: tuple[int, int]
    columns: Strides = ()

    @property
    def shape(self) -> tuple[int, int, int]:
        """Blocks, outputs of each and inputs of each."""
        return self.blocks[0], self.rows[0], math.prod(size for size, _ in self.columns)

    def matrices(self, flat: torch.Tensor) -> torch.Tensor:
        """What a flat parameter holds, ``[blocks, outputs, inputs]``; ``[blocks, outputs]`` for a bias."""
        view, flipped = self._view(flat)
        return view.flip(flipped).reshape(self.shape if self.columns else self.shape[:2])

    def write(self, flat: torch.Tensor, matrices: torch.Tensor) -> None:
        """Give a flat parameter what is in these matrices."""
        view, flipped = self._view(flat)
        view.copy_(matrices.view(view.shape).flip(flipped))

    def _view(self, flat: torch.Tensor) -> tuple[torch.Tensor, list[int]]:
        """A flat parameter with the sizes of blocks, rows and columns, and the dims in which these go backwards."""
        dims = (self.blocks, self.rows, *self.columns)
        offset = flat.storage_offset() + self.offset + sum((size - 1) * stride for size, stride in dims if stride < 0)
        view = flat.as_strided([size for size, _ in dims], [abs(stride) for _, stride in dims], offset)
        return view, [number for number, (_, stride) in enumerate(dims) if stride < 0]

    def positions(self, device: torch.device | None = None) -> torch.Tensor:
        """Flat positions in the parameter, ``[blocks, outputs, inputs]``; ``[blocks, outputs]`` for a bias."""
        positions = torch.full((), self.offset, dtype=torch.int64, device=device)
        for size, stride in (self.blocks, self.rows, *self.columns):
            positions = positions[..., None] + torch.arange(size, device=device) * stride
        shape = self.shape if self.columns else self.shape[:2]
        return positions.reshape(shape)

    def fits(self, numel: int) -> bool:
        """Whether all of it lies within a parameter of so many elements; the numbers may come from a file."""
        dims = (self.blocks, self.rows, *self.columns)
        if any(size < 1 for size, _ in dims) or math.prod(size for size, _ in dims) > numel:
            return False
        ends = [(size - 1) * stride for size, stride in dims]
        first = self.offset + sum(end for end in ends if end < 0)
        return first >= 0 and self.offset + sum(end for end in ends if end > 0) < numel

    def repeats(self) -> bool:
        """Whether an element of the parameter occurs in several places, as after `expand`."""
        return any(size > 1 and stride == 0 for size, stride in (self.blocks, self.rows, *self.columns))


@frozen
class Call:
    """What one call of a layer's operator reads, apart from its weight.

    Attributes:
        kind: ``product``, ``products`` (in batches) or ``convolution``.
        on_left: whether the weight is the left operand of a product, so that rows are columns.
        stride: as the operator has it, like the next four.
        padding: zeros on both sides.
        dilation: steps inside the kernel.
        transposed: whether it is a transposed convolution.
        output_padding: rows that a transposed convolution has at its end.
        groups: blocks of a convolution.
        kernel: the kernel's sizes.
    """

    kind: str
    on_left: bool = False
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    transposed: bool = False
    output_padding: tuple[int, ...] = ()
    groups: int = 1
    kernel: tuple[int, ...] = ()

    def layout(self, name: str, weight: torch.Tensor) -> Layout:
        """The place of the matrix, given the weight as the operator has it, as a view of a contiguous parameter."""
        sizes, strides, offset = weight.shape, weight.stride(), int(weight.storage_offset())
        if self.kind != "convolution":
            rows, columns = (-2, -1) if self.on_left else (-1, -2)
            blocks = (sizes[0], strides[0]) if self.kind == "products" else (1, 0)
            return Layout(name, offset, blocks, (sizes[rows], strides[rows]), ((sizes[columns], strides[columns]),))
        kernel = tuple(zip(sizes[2:], strides[2:], strict=True))
        per_block = sizes[0] // self.groups
        blocks = (self.groups, per_block * strides[0])
        if not self.transposed:
            return Layout(name, offset, blocks, (per_block, strides[0]), ((sizes[1], strides[1]), *kernel))
        offset += sum((size - 1) * stride for size, stride in kernel)
        backwards = tuple((size, -stride) for size, stride in kernel)
        return Layout(name, offset, blocks, (sizes[1], strides[1]), ((per_block, strides[0]), *backwards))

    def rows(self, x: torch.Tensor, most: int | None = None) -> torch.Tensor:
        """What the layer reads as ``[blocks, rows, inputs]``; rows of one sample lie together.

        Args:
            x: the operand.
            most: so many places of each sample are enough; they are spread evenly. Only convolutions leave any out.
        """
        if self.kind == "product":
            return (x.t() if self.on_left else x)[None]
        if self.kind == "products":
            return x.mT if self.on_left else x
        dims = x.ndim - 2
        if self.transposed:
            x = self._spread(x)
            padding = [
                step * (size - 1) - pad for step, size, pad in zip(self.dilation, self.kernel, self.padding, strict=True)
            ]
            stride = (1,) * dims
        else:
            padding, stride = list(self.padding), self.stride
        if any(padding):
            x = F.pad(x, [pad for pad in reversed(padding) for _ in range(2)])
        for dim in range(dims):
            reach = self.dilation[dim] * (self.kernel[dim] - 1) + 1
            x = x.unfold(2 + dim, reach, stride[dim])
        places = _every(x.shape[2 : 2 + dims], most)
        kept = (slice(None), slice(None), *(slice(None, None, step) for step in places))
        x = x[(*kept, *(slice(None, None, step) for step in self.dilation))]
        samples, channels = x.shape[:2]
        x = x.reshape(samples, self.groups, channels // self.groups, *x.shape[2:])
        order = (1, 0, *range(3, 3 + dims), 2, *range(3 + dims, 3 + 2 * dims))
        return x.permute(order).reshape(self.groups, -1, channels // self.groups * math.prod(self.kernel))

    def _spread(self, x: torch.Tensor) -> torch.Tensor:
        """The input of a transposed convolution with zeros between its places, so that it is an ordinary one with stride 1."""
        places = [
            (size - 1) * stride + 1 + extra
            for size, stride, extra in zip(x.shape[2:], self.stride, self.output_padding, strict=True)
        ]
        spread = x.new_zeros(*x.shape[:2], *places)
        ends = [(size - 1) * stride + 1 for size, stride in zip(x.shape[2:], self.stride, strict=True)]
        window = tuple(slice(None, end, stride) for end, stride in zip(ends, self.stride, strict=True))
        spread[(slice(None), slice(None), *window)] = x
        return spread

    def outputs(self, y: torch.Tensor, most: int | None = None) -> torch.Tensor:
        """What the layer makes as ``[blocks, rows, outputs]``, by the same rows."""
        if self.kind == "product":
            return (y.t() if self.on_left else y)[None]
        if self.kind == "products":
            return y.mT if self.on_left else y
        steps = _every(y.shape[2:], most)
        y = y[(slice(None), slice(None), *(slice(None, None, step) for step in steps))]
        y = y.reshape(y.shape[0], self.groups, -1, *y.shape[2:])
        return y.permute(1, 0, *range(3, y.ndim), 2).reshape(self.groups, -1, y.shape[2])


def places_left(sizes: Sequence[int], most: int | None) -> list[int]:
    """How many places are left of each dimension where so many of each sample are enough."""
    return [-(-size // step) for size, step in zip(sizes, _every(sizes, most), strict=True)]


def _every(sizes: Sequence[int], most: int | None) -> list[int]:
    """Steps along some dimensions that leave about as many places as are wanted, and no fewer."""
    steps = [1] * len(sizes)

    def left() -> list[int]:
        return [-(-size // step) for size, step in zip(sizes, steps, strict=True)]

    while most is not None and max(left(), default=1) > 1:
        widest = max(range(len(sizes)), key=left().__getitem__)
        steps[widest] += 1
        if math.prod(left()) < most:
            steps[widest] -= 1
            break
    return steps


@frozen
class Layer:
    """A layer of a model: its weight, its bias, and how often forward calls it.

    Attributes:
        weight: where its matrix lies.
        bias: where its bias lies; None without one.
        call: how its operands are read; of the first call.
        reads: the name under which the sums of what it reads are kept: that of the first layer that reads the same tensor.
        calls: how often forward calls it.
        copied: whether the weight is copied, such as to another dtype, before it is used.

    >>> import depgraph as dg
    >>> layer = dg.moments.collect(torch.nn.Conv2d(2, 4, 3, groups=2), [torch.zeros(2, 2, 5, 5)]).layers[0]
    >>> isinstance(layer, Layer), layer.weight.name, layer.bias.name, layer.weight.shape    # blocks, outputs, inputs
    (True, 'weight', 'bias', (2, 2, 9))
    """

    weight: Layout
    bias: Layout | None
    call: Call
    reads: str
    calls: int = 1
    copied: bool = False
