"""First and second moments of what layers read: sums that add up over batches, ranks and machines."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from attrs import field, frozen

from depgraph.errors import PlanError
from depgraph.moments.layers import Layer

WIDEST_IN_DOUBLE = 4096
"""Up to so many inputs the sums are kept in double precision; beyond, a matrix of them would take gigabytes."""


@frozen(eq=False)
class Sums:
    """Of the rows that a layer read: how many, their sum, and the sum of their outer products.

    Attributes:
        count: number of rows.
        total: the sum of the rows, ``[blocks, inputs]``.
        products: the sum of x xᵀ, ``[blocks, inputs, inputs]``.
    """

    count: int
    total: torch.Tensor
    products: torch.Tensor

    @classmethod
    def of(cls, rows: torch.Tensor) -> Sums:
        """The sums of some rows, ``[blocks, rows, inputs]``, multiplied in their own precision."""
        wide = sum_dtype(rows)
        total = rows.sum(1, dtype=wide)
        return cls(rows.shape[1], total, (rows.mT @ rows).to(wide))

    def __add__(self, other: Sums) -> Sums:
        return Sums(self.count + other.count, self.total + other.total, self.products + other.products)

    @property
    def inputs(self) -> int:
        """Number of columns."""
        return self.total.shape[-1]


def sum_dtype(rows: torch.Tensor) -> torch.dtype:
    """The precision in which sums of rows are kept."""
    if rows.device.type == "mps" or rows.shape[-1] > WIDEST_IN_DOUBLE:
        return rows.dtype
    return torch.float64


def _read_only(items: Mapping[str, Any]) -> Mapping[str, Any]:
    return MappingProxyType(dict(items))


@frozen(eq=False)
class Moments:
    """What the layers of a model read, as sums: all that a repair without another forward, and criteria of reconstruction, need.

    Moments of the same model add up: those of two machines are those of all batches. The last samples are kept apart, to judge
    by what nothing was fitted to.

    Attributes:
        layers: the layers, in the order of the forward.
        fitted: the sums of the samples to fit to, by `Layer.reads`.
        held_out: the sums of the samples to judge by.
        left: parameters that are no weights of layers whose sums could be kept, each with the reason.
    """

    layers: tuple[Layer, ...]
    fitted: Mapping[str, Sums] = field(converter=_read_only)
    held_out: Mapping[str, Sums] = field(converter=_read_only)
    left: Mapping[str, str] = field(converter=_read_only)

    def __add__(self, other: Moments) -> Moments:
        if [layer.weight for layer in self.layers] != [layer.weight for layer in other.layers]:
            raise PlanError("moments of different models, or of forwards that called other layers, do not add up.")
        return Moments(
            self.layers, joined(self.fitted, other.fitted), joined(self.held_out, other.held_out), {**self.left, **other.left}
        )

    def everything(self, name: str) -> Sums:
        """The sums of all samples that one layer's input is known of."""
        parts = [sums[name] for sums in (self.fitted, self.held_out) if name in sums]
        return parts[0] if len(parts) == 1 else parts[0] + parts[1]


def joined(one: Mapping[str, Sums], other: Mapping[str, Sums]) -> dict[str, Sums]:
    """Sums by name, added where both have them."""
    result = dict(one)
    for name, sums in other.items():
        result[name] = result[name] + sums if name in result else sums
    return result
