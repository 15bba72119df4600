"""Which rows of a batch are fitted to, and which are held out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from attrs import frozen
from torch.utils import _pytree

from depgraph.algebra.numbers import is_number
from depgraph.errors import PlanError
from depgraph.moments.layers import Call, places_left
from depgraph.moments.patches import Pattern, pattern_of
from depgraph.running import are_batches

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

    def pattern(self, call: Call, x: torch.Tensor) -> Pattern | None:
        """How a convolution's patches are summed up without making them; None where making them takes less."""
        pattern = pattern_of(call, x)
        if pattern is None or x.shape[0] % self.samples:
            return None
        rows = math.prod(places_left(pattern.places, self.places(call, x)))
        positions = math.prod(call.kernel)
        if self.valid is not None and len(self.valid) == x.shape[0] * math.prod(pattern.places):
            return None
        return pattern if pattern.work < rows * positions * (positions + 1) / 2 else None

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


def option_problems(
    batches: object,
    holdout: object,
    rows_per_input: object,
    forward: object,
    valid: object,
    dtype: object,
    *,
    may_hold_none: bool,
    wanted: object = None,
) -> Iterator[str]:
    """What is wrong with the options by which moments are collected, one sentence each."""
    if not are_batches(batches):
        met = type(batches).__name__
        yield f"expected batches as an iterable of batches, such as a DataLoader, met {met}; put a single batch into a list."
    if not is_number(holdout) or not (0 < holdout < 1 or (may_hold_none and holdout == 0)):
        yield f"expected holdout= as a share between 0 and 1{', or 0' if may_hold_none else ''}, met {holdout!r}."
    if not is_number(rows_per_input) or not rows_per_input > 0:
        yield f"expected rows_per_input= as a number above 0, met {rows_per_input!r}."
    if not callable(forward):
        yield f"expected forward= to be a function of (model, batch), met {forward!r}."
    if valid is not None and not callable(valid):
        yield f"expected valid= to be a function of a batch, met {valid!r}."
    if wanted is not None and not callable(wanted):
        yield f"expected wanted= to be a function of a weight's name, met {wanted!r}."
    if dtype not in (torch.float32, torch.float64):
        yield f"expected dtype= to be torch.float32 or torch.float64, met {dtype!r}."


def batches_of(
    batches: Iterable[Any], holdout: float, rows_per_input: float, valid: Valid | None, least: int = 2
) -> Sequence[Batch]:
    """All batches, with the last samples of the whole held out.

    Raises:
        PlanError: there are too few samples, a batch has no tensor, or a mask is not one of its samples.
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
    result: list[Batch] = []
    first = 0
    for content, count in zip(contents, counts, strict=True):
        mask = None if valid is None else _mask(valid(content), count, len(result))
        result.append(Batch(content, count, min(max(border - first, 0), count), total, rows_per_input, mask))
        first += count
    return result


def _mask(mask: object, samples: int, number: int) -> torch.Tensor:
    """What `valid` gave for a batch, as a row."""
    if not isinstance(mask, torch.Tensor) or not mask.ndim or len(mask) != samples:
        met = tuple(mask.shape) if isinstance(mask, torch.Tensor) else type(mask).__name__
        raise PlanError(
            f"expected valid= to give a mask of the {samples} samples of batch {number} and their places, met {met}."
        )
    return mask.reshape(-1).bool()


def _samples(content: Any, number: int) -> int:
    """The size of the first dimension of a batch's first tensor."""
    items = dict(content) if hasattr(content, "keys") else content
    for leaf in _pytree.tree_leaves(items):
        if isinstance(leaf, torch.Tensor) and leaf.ndim:
            return int(leaf.shape[0])
    raise PlanError(f"batch {number} has no tensor with a dimension for samples.")
