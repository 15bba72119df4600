"""Least squares for one layer: candidates from the sums of some rows, judged by the sums of others."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from attrs import evolve, frozen

from depgraph.moments.sums import Sums
from depgraph.running import together


@frozen(eq=False)
class Residual:
    """What a layer with its weights cut misses, as sums over rows: x is what it reads, r what is to be made up for.

    Attributes:
        count: number of rows.
        x: sum of x, ``[blocks, inputs]``.
        xx: sum of x xᵀ, ``[blocks, inputs, inputs]``.
        r: sum of r, ``[blocks, outputs]``.
        rx: sum of r xᵀ, ``[blocks, outputs, inputs]``.
        rr: sum of r², ``[blocks, outputs]``.
        y: sum of what the original layer gave, ``[blocks, outputs]``.
        yy: the sum of its squares, over all outputs.
    """

    count: int
    x: torch.Tensor
    xx: torch.Tensor
    r: torch.Tensor
    rx: torch.Tensor
    rr: torch.Tensor
    y: torch.Tensor
    yy: float

    def __add__(self, other: Residual) -> Residual:
        return Residual(
            self.count + other.count,
            self.x + other.x,
            self.xx + other.xx,
            self.r + other.r,
            self.rx + other.rx,
            self.rr + other.rr,
            self.y + other.y,
            self.yy + other.yy,
        )

    def of_all_ranks(self) -> Residual:
        """The sums over all ranks, where there are several; the tensors become these."""
        numbers = self.x.new_tensor([self.count, self.yy])
        together([numbers, self.x, self.xx, self.r, self.rx, self.rr, self.y])
        return evolve(self, count=int(numbers[0]), yy=float(numbers[1]))

    @property
    def energy(self) -> float:
        """The sum of squared deviations of what the original layer gave."""
        return max(self.yy - float(self.y.square().sum()) / max(self.count, 1), 0.0)

    def error(self, change: Change) -> float:
        """What is still missing after a change, as a share of what the original layer gave: 0 is perfect."""
        missing = float(self.rr.sum())
        if change.weight is not None:
            moved = change.weight.to(self.xx.dtype)
            missing += float(((moved @ self.xx - 2 * self.rx) * moved).sum())
        if change.bias is not None:
            shift = change.bias.to(self.xx.dtype)
            missing += float((self.count * shift.square() - 2 * shift * self.r).sum())
            if change.weight is not None:
                missing += 2 * float((shift * (moved @ self.x[..., None])[..., 0]).sum())
        return max(missing, 0.0) / self.energy if self.energy else 0.0


@frozen(eq=False)
class Change:
    """What is added to the weights that are left.

    Attributes:
        name: how it came about.
        weight: ``[blocks, outputs, inputs]``, or None.
        bias: ``[blocks, outputs]``, or None.
        note: what had to be done to solve it.
    """

    name: str
    weight: torch.Tensor | None = None
    bias: torch.Tensor | None = None
    note: str = ""


NOTHING = Change("as it was")


def residual_of(sums: Sums, weight: torch.Tensor, columns: torch.Tensor) -> Residual:
    """What the columns that go would have added, from the sums of the original's inputs.

    Args:
        sums: of all inputs of the blocks that stay.
        weight: the original weights of the outputs that stay, ``[blocks, outputs, inputs]``.
        columns: the inputs that stay, ``[blocks, inputs left]``.
    """
    wide = weight.to(sums.products.dtype)
    lost = wide.clone()
    lost.scatter_(2, columns[:, None].expand(-1, wide.shape[1], -1), 0.0)
    rx = lost @ sums.products
    x = sums.total.gather(1, columns)
    xx = sums.products.gather(1, columns[..., None].expand(-1, -1, sums.inputs))
    xx = xx.gather(2, columns[:, None].expand(-1, columns.shape[1], -1))
    return Residual(
        count=sums.count,
        x=x,
        xx=xx,
        r=(lost @ sums.total[..., None])[..., 0],
        rx=rx.gather(2, columns[:, None].expand(-1, wide.shape[1], -1)),
        rr=(rx * lost).sum(2),
        y=(wide @ sums.total[..., None])[..., 0],
        yy=float(((wide @ sums.products) * wide).sum()),
    )


def residual_between(x: torch.Tensor, missing: torch.Tensor, wanted: torch.Tensor) -> Residual:
    """The same from rows: what the pruned layer reads, what it misses, and what the original gave; ``[blocks, rows, ...]``."""
    sums = Sums.of(x)
    wide = sums.products.dtype
    return Residual(
        count=sums.count,
        x=sums.total,
        xx=sums.products,
        r=missing.sum(1, dtype=wide),
        rx=(missing.mT @ x).to(wide),
        rr=missing.square().sum(1, dtype=wide),
        y=wanted.sum(1, dtype=wide),
        yy=float(wanted.square().sum(dtype=wide)),
    )


def best(fit: Residual, held_out: Residual, ridges: Sequence[float], bias: bool) -> Change:
    """The change that misses least of rows that it was not fitted to.

    Candidates are none, the bias alone where there is one (FLAP, arXiv 2312.11983), and the weights for some ridges: from the
    middle one up and down, as far as it gets better, for each costs a factorisation.
    """
    if not fit.count:
        return NOTHING
    ordered = sorted(ridges)
    middle = len(ordered) // 2
    choice, least = NOTHING, held_out.error(NOTHING)
    if bias:
        candidate = Change("bias", bias=fit.r / fit.count)
        if (error := held_out.error(candidate)) < least:
            choice, least = candidate, error
    for direction in (ordered[middle:], ordered[:middle][::-1]):
        before = math.inf
        for ridge in direction:
            candidate = solved(fit, ridge, bias)
            error = held_out.error(candidate)
            if error < least:
                choice, least = candidate, error
            if not error < before:
                break
            before = error
    return choice


def solved(fit: Residual, ridge: float, bias: bool) -> Change:
    """The ridge regression towards the weights that are left, with a penalty that scales with each input's own variance.

    W' − W = C_rx (C_xx + λ diag C_xx)⁻¹. Where there is a bias, C is centred and the bias takes the means:
    b' − b = μ_r − (W' − W) μ_x.
    """
    count = max(fit.count, 1)
    if bias:
        x_mean, r_mean = fit.x / count, fit.r / count
        xx = fit.xx / count - x_mean[..., None] * x_mean[:, None]
        rx = fit.rx / count - r_mean[..., None] * x_mean[:, None]
    else:
        xx, rx = fit.xx / count, fit.rx / count
    weight, note = _divided(rx, xx, ridge)
    shift = r_mean - (weight @ x_mean[..., None])[..., 0] if bias else None
    return Change(f"ridge {ridge:g}", weight, shift, note)


def _divided(rx: torch.Tensor, xx: torch.Tensor, ridge: float) -> tuple[torch.Tensor, str]:
    """C_rx (C_xx + λ diag C_xx)⁻¹ by Cholesky's method; where rounding makes the matrix indefinite, with a larger diagonal."""
    variances = xx.diagonal(dim1=-2, dim2=-1).clamp(min=0)
    floor = torch.finfo(xx.dtype).eps * xx.shape[-1] * variances.mean(-1, keepdim=True) + torch.finfo(xx.dtype).tiny
    note = ""
    for attempt in range(8):
        added = ridge * variances + floor * 100**attempt
        factor, failed = torch.linalg.cholesky_ex(xx + torch.diag_embed(added))
        if not bool(failed.any()):
            return torch.cholesky_solve(rx.mT, factor).mT, note
        note = f"the matrix of second moments is singular: {100 ** (attempt + 1):g} times the least diagonal was added"
    return torch.zeros_like(rx), "the matrix of second moments is not finite, or singular: nothing was solved"
