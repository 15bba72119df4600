"""Tensors that are emptied when their successors stand, and whose values are put together again where an execution fails.

What stays and what goes of a tensor are together as large as it is, so that beside the model there is never more than twice its
largest tensor for a moment: the tensor itself, and its parts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from attrs import frozen
from torch import nn

Positions = Mapping[int, torch.Tensor]
"""Dimension to indices, in order. Dimensions that are not named are whole."""

_OWN = 2
"""The tensor and the storage object by which it is asked hold a storage; whoever else does shares its memory."""


@frozen(eq=False)
class _Emptied:
    """A tensor that lost its values, with all that is needed to give them back."""

    tensor: torch.Tensor
    like: torch.Tensor
    parts: tuple[tuple[Positions, torch.Tensor], ...]

    def fill(self) -> None:
        """Give the tensor its values back, unless it still has them."""
        if self.tensor.numel():
            return
        values = torch.empty_strided(self.like.shape, self.like.stride(), dtype=self.like.dtype, device=self.tensor.device)
        for positions, part in self.parts:
            _put(values, positions, part)
        self.tensor.data = values


class Releasing:
    """Takes what stays of tensors, and empties them as it goes.

    >>> weight, releasing = nn.Parameter(torch.arange(6.0).view(2, 3)), Releasing()
    >>> releasing.taken(weight, {1: torch.tensor([0, 2])})
    tensor([[0., 2.],
            [3., 5.]])
    >>> weight.numel(), releasing.undo(), weight.tolist()
    (0, None, [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]])
    """

    def __init__(self) -> None:
        self._emptied: list[_Emptied] = []

    @torch.no_grad()
    def taken(self, tensor: torch.Tensor, positions: Positions) -> torch.Tensor:
        """What the positions select. The tensor has no values afterwards, unless something else shares its memory."""
        is_its_own, values = _is_its_own(tensor), tensor.detach()
        kept = ordered_as(values, _taken(values, positions))
        if not is_its_own:
            return kept
        rests = tuple((rest, _taken(values, rest)) for rest in _rests(values.shape, positions))
        self._emptied.append(_Emptied(tensor, values.to("meta"), ((dict(positions), kept), *rests)))
        tensor.data = values.new_empty(0)
        return kept

    @torch.no_grad()
    def undo(self) -> None:
        """Give every tensor its values back, to the bit."""
        while self._emptied:
            self._emptied[-1].fill()
            self._emptied.pop()


def ordered_as(source: torch.Tensor, result: torch.Tensor) -> torch.Tensor:
    """A result whose channels lie last in memory where they do in its source."""
    order = {4: torch.channels_last, 5: torch.channels_last_3d}.get(source.ndim)
    if order is not None and source.is_contiguous(memory_format=order) and not source.is_contiguous():
        return result.contiguous(memory_format=order)
    return result


def _is_its_own(tensor: torch.Tensor) -> bool:
    """Whether emptying a tensor frees its memory, and takes nothing from anybody else."""
    if type(tensor) not in (torch.Tensor, nn.Parameter) or tensor.is_meta or not tensor.numel():
        return False
    storage = tensor.untyped_storage()
    return storage.nbytes() == tensor.nbytes and int(torch._C._storage_Use_Count(storage._cdata)) == _OWN


def _rests(shape: torch.Size, positions: Positions) -> Iterator[Positions]:
    """Disjoint blocks that make up what the positions leave."""
    before: dict[int, torch.Tensor] = {}
    for dim, kept in positions.items():
        gone = torch.ones(shape[dim], dtype=torch.bool)
        gone[kept.cpu()] = False
        yield {**before, dim: gone.nonzero().view(-1)}
        before[dim] = kept


def _taken(values: torch.Tensor, positions: Positions) -> torch.Tensor:
    """A block of a tensor, in one step, so that nothing else of its size is made."""
    if len(positions) == 1:
        ((dim, index),) = positions.items()
        return values.index_select(dim, index.to(values.device))
    front = tuple(range(len(positions)))
    return values.movedim(tuple(positions), front)[_grid(values, positions)].movedim(front, tuple(positions)).contiguous()


def _put(values: torch.Tensor, positions: Positions, part: torch.Tensor) -> None:
    """Write a block of a tensor."""
    front = tuple(range(len(positions)))
    values.movedim(tuple(positions), front)[_grid(values, positions)] = part.movedim(tuple(positions), front)


def _grid(values: torch.Tensor, positions: Positions) -> tuple[torch.Tensor, ...]:
    """Indices by which the first dimensions together select a block."""
    count = len(positions)
    return tuple(
        index.to(values.device).view(*(1,) * place, -1, *(1,) * (count - place - 1))
        for place, index in enumerate(positions.values())
    )
