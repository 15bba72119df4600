"""Least squares for one layer: candidates from the sums of some rows, judged by the sums of others."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from attrs import evolve, frozen

from depgraph.moments.gathering import Reading, Rows
from depgraph.moments.sums import STRIPE, Sums, sum_dtype
from depgraph.running import together

NEGLIGIBLE = 1e-12
"""A layer that misses so small a share of what it gave misses what rounding makes of it, by rows in single precision."""

CONSTANT = 1e-6
"""What deviates from its mean by so small a share of its squares is constant: rows in single precision tell no more."""

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
        """The sum of squared deviations of what the original layer gave; of squares, if it gave the same up to rounding."""
        deviations = self.yy - float(self.y.square().sum()) / max(self.count, 1)
        return deviations if deviations > CONSTANT * self.yy else self.yy

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
        missed: what is still missing of held-out rows; not a number as long as it is not judged.
    """

    name: str
    weight: torch.Tensor | None = None
    bias: torch.Tensor | None = None
    note: str = ""
    missed: float = math.nan


NOTHING = Change("as it was")


def residual_of(sums: Sums, weight: torch.Tensor, columns: torch.Tensor) -> Residual:
    """What the columns that go would have added, from the sums of the original's inputs.

    Args:
        sums: of all inputs of the blocks that stay.
        weight: the original weights of the outputs that stay, ``[blocks, outputs, inputs]``.
        columns: the inputs that stay, ``[blocks, inputs left]``.
    """
    numbers = sums.products.dtype
    gone = _others(columns, weight.shape[2])
    xx, gone_x, gone_gone = (_among(sums.products, *pair) for pair in ((columns, columns), (gone, columns), (gone, gone)))
    total, squares, y, r = 0.0, [], [], []
    rx = xx.new_empty(*weight.shape[:2], columns.shape[1])
    for part in _parts(weight):
        given, lost = (_columns(weight[:, part], side).to(numbers) for side in (columns, gone))
        rx[:, part] = lost @ gone_x
        squares.append(((lost @ gone_gone) * lost).sum(2))
        total += float(((given @ xx).add_(rx[:, part], alpha=2) * given).sum())
        r.append(_times(lost, sums.total.gather(1, gone)))
        y.append(_times(given, sums.total.gather(1, columns)) + r[-1])
    rr = torch.cat(squares, 1)
    return Residual(
        count=sums.count,
        x=sums.total.gather(1, columns),
        xx=xx,
        r=torch.cat(r, 1),
        rx=rx,
        rr=rr,
        y=torch.cat(y, 1),
        yy=total + float(rr.sum()),
    )


def _others(columns: torch.Tensor, inputs: int) -> torch.Tensor:
    """The inputs that go, ``[blocks, inputs that go]``."""
    goes = torch.ones(len(columns), inputs, dtype=torch.bool, device=columns.device).scatter_(1, columns, False)
    return goes.nonzero()[:, 1].view(len(columns), inputs - columns.shape[1])


def _among(products: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Some rows and columns of the matrix of each block."""
    if len(products) == 1:
        result = products.new_empty(1, rows.shape[1], columns.shape[1])
        for start in range(0, rows.shape[1], STRIPE):  # all of these rows with all of their columns are hundreds of megabytes
            some = products[0].index_select(0, rows[0, start : start + STRIPE])
            torch.index_select(some, 1, columns[0], out=result[0, start : start + STRIPE])
        return result
    blocks = torch.arange(len(products), device=products.device)[:, None, None]
    return products[blocks, rows[..., None], columns[:, None]]


def _columns(weight: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    return weight.gather(2, columns[:, None].expand(-1, weight.shape[1], -1))


def _times(weight: torch.Tensor, total: torch.Tensor) -> torch.Tensor:
    return (weight @ total[..., None])[..., 0]


def _parts(weight: torch.Tensor) -> Iterator[slice]:
    """The outputs in parts, so that what is computed of each takes little memory beside the second moments."""
    blocks, outputs, inputs = weight.shape
    size = max(1, AT_ONCE // max(1, blocks * inputs))
    return (slice(start, start + size) for start in range(0, outputs, size))


@frozen(eq=False)
class Missing:
    """What the outputs of some rows miss, as sums; as in `Residual`, but for what depends on the inputs alone."""

    r: torch.Tensor
    rx: torch.Tensor
    rr: torch.Tensor
    y: torch.Tensor
    yy: torch.Tensor

    @classmethod
    def of(cls, reading: Reading, given: torch.Tensor, wanted: torch.Tensor) -> Missing:
        """From what the pruned layer reads and gives now, and what the original gave; as `outputs` says of each."""
        missing = wanted - given
        if isinstance(reading, Rows):
            rx, dims = missing.mT @ reading.values, (1,)
        else:
            rx, dims = reading.products_with(missing), (0, *range(2, missing.ndim))
        blocks = len(rx)
        sums = [missing.sum(dims), missing.square().sum(dims), wanted.sum(dims), wanted.square().sum(dims)]
        r, rr, y, yy = (item.view(blocks, -1).to(sum_dtype(rx)) for item in sums)
        return cls(r, rx.to(r.dtype), rr, y, yy.sum())

    def __add__(self, other: Missing) -> Missing:
        return Missing(self.r + other.r, self.rx + other.rx, self.rr + other.rr, self.y + other.y, self.yy + other.yy)

    def with_inputs(self, sums: Sums) -> Residual:
        """All that a layer's solution needs, given the sums of the same rows' inputs."""
        return Residual(sums.count, sums.total, sums.products, self.r, self.rx, self.rr, self.y, float(self.yy))


def best(fit: Residual, held_out: Residual, ridges: Sequence[float], bias: bool) -> Change:
    """The change that misses least of rows that it was not fitted to.

    Candidates are none, the bias alone where there is one (FLAP, arXiv 2312.11983), and the weights for some ridges: from the
    middle one up, or else down, as far as it gets better, for each costs a factorisation.
    """
    unchanged = evolve(NOTHING, missed=held_out.error(NOTHING))
    if not fit.count or unchanged.missed <= NEGLIGIBLE:
        return unchanged
    choice = unchanged
    if bias:
        choice = min(choice, _judged(Change("bias", bias=fit.r / fit.count), held_out), key=_missed)
    ordered = sorted(ridges)
    middle = len(ordered) // 2
    found = _judged(solved(fit, ordered[middle], bias), held_out)
    first = found.missed
    for direction in (ordered[middle + 1 :], ordered[:middle][::-1]):
        before = first
        for ridge in direction:
            candidate = _judged(solved(fit, ridge, bias), held_out)
            is_better, before = candidate.missed < before, candidate.missed
            found = min(found, candidate, key=_missed)
            del candidate  # its memory is the next one's
            if not is_better:
                break
        if found.missed < first:
            break  # it got better in this direction, so it does not in the other one
    return min(choice, found, key=_missed)


def _judged(change: Change, held_out: Residual) -> Change:
    return evolve(change, missed=held_out.error(change))


def _missed(change: Change) -> float:
    """What a change misses, as far as it is no rounding: of two that miss nothing neither is better."""
    return max(change.missed, NEGLIGIBLE)


def solved(fit: Residual, ridge: float, bias: bool) -> Change:
    """The ridge regression towards the weights that are left, with a penalty that scales with each input's own variance.

    W' − W = C_rx (C_xx + λ diag C_xx)⁻¹. Where there is a bias, C is centred and the bias takes the means:
    b' − b = μ_r − (W' − W) μ_x. Weights of inputs that are constant up to rounding stay, for the bias does what they could: the
    variance of such an input, and with it the penalty, is noise, and its weight would be a quotient of noise by noise.
    """
    if not bias:
        weight, note = _divided(fit.rx, fit.xx.clone, ridge)
        return Change(f"ridge {ridge:g}", weight, None, note)
    count = max(fit.count, 1)
    mean = fit.x / count
    constant = _constant(fit, mean)

    def centred() -> torch.Tensor:
        xx = fit.xx - fit.x[..., None] * mean[:, None]
        return xx.masked_fill_(constant[:, None], 0).masked_fill_(constant[..., None], 0)

    rx = (fit.rx - fit.r[..., None] * mean[:, None]).masked_fill_(constant[:, None], 0)
    weight, note = _divided(rx, centred, ridge)
    return Change(f"ridge {ridge:g}", weight, fit.r / count - (weight @ mean[..., None])[..., 0], note)


def _constant(fit: Residual, mean: torch.Tensor) -> torch.Tensor:
    """Which inputs are constant up to rounding."""
    squares = fit.xx.diagonal(dim1=-2, dim2=-1)
    return squares - fit.x * mean <= CONSTANT * squares


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
