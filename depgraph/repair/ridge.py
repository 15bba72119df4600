"""Least squares for one layer: candidates from the sums of some rows, judged by the sums of others."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from attrs import evolve, frozen

from depgraph.moments.sums import Sums
from depgraph.running import together

AT_ONCE = 2**22
"""So many elements of a matrix of outputs by inputs are worked on together."""


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
        shift = None if change.bias is None else change.bias.to(self.xx.dtype)
        if shift is not None:
            missing += float((self.count * shift.square() - 2 * shift * self.r).sum())
        if change.weight is not None:
            for rows in _parts(self.rx):
                moved = change.weight[:, rows].to(self.xx.dtype)
                missing += float(((moved @ self.xx).sub_(self.rx[:, rows], alpha=2) * moved).sum())
                if shift is not None:
                    missing += 2 * float((shift[:, rows] * (moved @ self.x[..., None])[..., 0]).sum())
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
    blocks = torch.arange(len(columns), device=columns.device)[:, None]
    numbers = sums.products.dtype
    total, squares, y, r = 0.0, [], [], []
    rx = sums.products.new_empty(*weight.shape[:2], columns.shape[1])
    for part in _parts(weight):
        lost = weight[:, part].to(numbers, copy=True)
        given = lost @ sums.products
        total += float((given * lost).sum())
        y.append((lost @ sums.total[..., None])[..., 0])
        lost.scatter_(2, columns[:, None].expand(-1, lost.shape[1], -1), 0.0)
        torch.matmul(lost, sums.products, out=given)
        squares.append((given * lost).sum(2))
        r.append((lost @ sums.total[..., None])[..., 0])
        rx[:, part] = given.gather(2, columns[:, None].expand(-1, lost.shape[1], -1))
    return Residual(
        count=sums.count,
        x=sums.total.gather(1, columns),
        xx=sums.products[blocks[..., None], columns[..., None], columns[:, None]],
        r=torch.cat(r, 1),
        rx=rx,
        rr=torch.cat(squares, 1),
        y=torch.cat(y, 1),
        yy=total,
    )


def _parts(weight: torch.Tensor) -> Iterator[slice]:
    """The outputs in parts, so that what is computed of each takes little memory beside the second moments."""
    blocks, outputs, inputs = weight.shape
    size = max(1, AT_ONCE // max(1, blocks * inputs))
    return (slice(start, start + size) for start in range(0, outputs, size))


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
            del candidate  # its memory is the next one's
            if not error < before:
                break
            before = error
    return choice


def solved(fit: Residual, ridge: float, bias: bool) -> Change:
    """The ridge regression towards the weights that are left, with a penalty that scales with each input's own variance.

    W' − W = C_rx (C_xx + λ diag C_xx)⁻¹. Where there is a bias, C is centred and the bias takes the means:
    b' − b = μ_r − (W' − W) μ_x.
    """
    if not bias:
        weight, note = _divided(fit.rx, fit.xx.clone, ridge)
        return Change(f"ridge {ridge:g}", weight, None, note)
    count = max(fit.count, 1)
    mean = fit.x / count
    weight, note = _divided(fit.rx - fit.r[..., None] * mean[:, None], lambda: fit.xx - fit.x[..., None] * mean[:, None], ridge)
    return Change(f"ridge {ridge:g}", weight, fit.r / count - (weight @ mean[..., None])[..., 0], note)


def _divided(rx: torch.Tensor, moments: Callable[[], torch.Tensor], ridge: float) -> tuple[torch.Tensor, str]:
    """C_rx (C_xx + λ diag C_xx)⁻¹ by Cholesky's method; where rounding makes the matrix indefinite, with a larger diagonal.

    The second moments are made anew for each attempt and factorised in place: of a wide layer there is room for few copies.
    """
    note = ""
    for attempt in range(8):
        xx = moments()
        diagonal = xx.diagonal(dim1=-2, dim2=-1)
        variances = diagonal.clamp(min=0)
        floor = torch.finfo(xx.dtype).eps * xx.shape[-1] * variances.mean(-1, keepdim=True) + torch.finfo(xx.dtype).tiny
        diagonal.add_(ridge * variances + floor * 100**attempt)
        failed = torch.empty(len(xx), dtype=torch.int32, device=xx.device)
        factor, _ = torch.linalg.cholesky_ex(xx.mT, out=(xx.mT, failed))  # symmetric, and by columns, as it is worked on
        if not bool(failed.any()):
            return torch.cholesky_solve(rx.mT, factor).mT, note
        note = f"the matrix of second moments is singular: {100 ** (attempt + 1):g} times the least diagonal was added"
    return torch.zeros_like(rx), "the matrix of second moments is not finite, or singular: nothing was solved"
