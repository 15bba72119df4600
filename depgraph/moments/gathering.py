"""What one call of a layer reads, and its sums, batch by batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias, TypeVar

import torch
from attrs import define, evolve, field, frozen

from depgraph.moments.layers import Call
from depgraph.moments.patches import PatchSums, Pattern
from depgraph.moments.samples import Batch
from depgraph.moments.sums import Sums
from depgraph.running import outside_inference_mode

S = TypeVar("S", Sums, PatchSums)


@frozen(eq=False)
class Rows:
    """What is read as rows, ``[blocks, rows, inputs]``."""

    values: torch.Tensor

    def __bool__(self) -> bool:
        return bool(self.values.shape[1])


@frozen(eq=False)
class Images:
    """What is read as samples ``[samples, channels, *sizes]``, of whose patches nobody makes rows."""

    pattern: Pattern
    call: Call
    x: torch.Tensor

    def __bool__(self) -> bool:
        return bool(len(self.x))

    def products_with(self, outputs: torch.Tensor) -> torch.Tensor:
        """Σ r xᵀ over patches x and the outputs r at their places, computed as the gradient of a weight is."""
        call, groups = self.call, self.call.groups
        weight = outputs.new_empty(outputs.shape[1], self.x.shape[1] // groups, *call.kernel)
        options = call.stride, call.padding, call.dilation, False, [0] * len(call.kernel), groups, [False, True, False]
        products: torch.Tensor = torch.ops.aten.convolution_backward(outputs, self.x, weight, None, *options)[1]
        return products.reshape(groups, outputs.shape[1] // groups, -1)


Reading: TypeAlias = Rows | Images


def readings(batch: Batch, call: Call, x: torch.Tensor, dtype: torch.dtype) -> tuple[Reading, Reading]:
    """What a call reads of the samples that are fitted to, and of those that are held out."""
    pattern = batch.pattern(call, x)
    if pattern is None:
        fitted, held_out = batch.parts(call.rows(x, batch.places(call, x)), dtype)
        return Rows(fitted), Rows(held_out)
    border, x = batch.border(len(x)), x.to(dtype)
    return Images(pattern, call, x[:border]), Images(pattern, call, x[border:])


@define(eq=False)
class Gathered:
    """The sums of what a layer reads, so far; those of patches stay compact until they are asked for."""

    _rows: Sums | None = None
    _patches: dict[tuple[Pattern, int], PatchSums] = field(factory=dict)

    def __bool__(self) -> bool:
        return self._rows is not None or bool(self._patches)

    @property
    def device(self) -> torch.device:
        """Where the sums are."""
        first = self._rows if self._rows is not None else next(iter(self._patches.values()))
        return first.total.device

    @outside_inference_mode
    def add(self, reading: Reading) -> None:
        """Add what a call reads. Forward may be in inference mode, whose tensors nothing could be added to afterwards."""
        if not reading:
            return
        if isinstance(reading, Rows):
            known = Sums.none(reading.values) if self._rows is None else self._rows
            self._rows = known.with_half_of(reading.values)
        else:
            key = reading.pattern, reading.call.groups
            sums = PatchSums.of(reading.pattern, reading.x, reading.call.groups)
            self._patches[key] = self._patches[key].add(sums) if key in self._patches else sums

    def each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Gathered:
        """The same with other tensors, made from these in a fixed order."""

        def changed(sums: S) -> S:
            return evolve(sums, total=change(sums.total), products=change(sums.products))

        rows = None if self._rows is None else changed(self._rows)
        return Gathered(rows, {key: changed(sums) for key, sums in self._patches.items()})

    def sums(self) -> Sums:
        """The sums of all of it."""
        whole, *parts = [
            *([] if self._rows is None else [self._rows.mirrored()]),
            *(sums.sums() for sums in self._patches.values()),
        ]
        for part in parts:
            whole = whole + part
        return whole
