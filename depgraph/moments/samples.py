"""Which rows of a batch are fitted to, and which are held out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from attrs import frozen
from torch.utils import _pytree

from depgraph.errors import PlanError
from depgraph.moments.layers import Call

Valid = Callable[[Any], torch.Tensor]
"""From a batch to a mask of its places that count, such as ``lambda batch: batch["attention_mask"]``."""


@frozen(eq=False)
class Batch:
    """One batch, with the places of its samples in the whole.

    Attributes:
        content: what forward is called with.
        samples: how many samples it has.
        fitted: how many of them, from the first, are to be fitted to; the others are held out.
        total: how many samples all batches have.
        rows_per_input: so many rows for each of its inputs are enough for a convolution, in all.
        valid: a mask of the places that count, as a row; None where all do.
    """

    content: Any
    samples: int
    fitted: int
    total: int
    rows_per_input: float
    valid: torch.Tensor | None

    def parts(self, rows: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """The rows to fit to and those to judge by, of ``[blocks, rows, ...]`` in which those of one sample lie together."""
        count = rows.shape[1]
        border = self.border(count)
        fitted, held_out = rows[:, :border], rows[:, border:]
        if self.valid is not None and len(self.valid) == count:
            mask = self.valid.to(rows.device)
            fitted, held_out = fitted[:, mask[:border]], held_out[:, mask[border:]]
        return fitted.to(dtype), held_out.to(dtype)

    def border(self, count: int) -> int:
        """How many of so many rows belong to samples that are fitted to, where those of one sample lie together."""
        return count * self.fitted // self.samples

    def places(self, call: Call, x: torch.Tensor) -> int | None:
        """So many places of each sample are enough for a convolution; None for all."""
        if call.kind != "convolution":
            return None
        inputs = x.shape[1] // call.groups
        for size in call.kernel:
            inputs *= size
        return max(1, -int(-self.rows_per_input * inputs // self.total))


def batches_of(
    batches: Iterable[Any], holdout: float, rows_per_input: float, valid: Valid | None, least: int = 2
) -> Sequence[Batch]:
    """All batches, with the last samples of the whole held out.

    Raises:
        PlanError: there are too few samples, or a batch has no tensor.
    """
    contents = list(batches)
    counts = [_samples(content, number) for number, content in enumerate(contents)]
    total = sum(counts)
    if total < least:
        raise PlanError(
            f"expected batches of at least {least} samples in all, some to fit to and some to judge by, met {total}. "
            "A generator can be read only once; pass a list."
        )
    border = min(total - 1, max(1, round(total * (1 - holdout)))) if holdout else total
    result, first = [], 0
    for content, count in zip(contents, counts, strict=True):
        mask = None if valid is None else valid(content).reshape(-1).bool()
        result.append(Batch(content, count, min(max(border - first, 0), count), total, rows_per_input, mask))
        first += count
    return result


def _samples(content: Any, number: int) -> int:
    """The size of the first dimension of a batch's first tensor."""
    items = dict(content) if hasattr(content, "keys") else content
    for leaf in _pytree.tree_leaves(items):
        if isinstance(leaf, torch.Tensor) and leaf.ndim:
            return int(leaf.shape[0])
    raise PlanError(f"batch {number} has no tensor with a dimension for samples.")
