"""The order in which indices go where each step takes the one whose loss can be made up for best."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from depgraph.criteria.readers import Reader

Owned = tuple[tuple[torch.Tensor, torch.Tensor], ...]


def inverse(products: torch.Tensor, ridge: float) -> torch.Tensor:
    """(C + λ diag C)⁻¹ by Cholesky's method; where rounding makes the matrix indefinite, with a larger diagonal."""
    inverted: torch.Tensor = torch.cholesky_inverse(_factor(damped(products, ridge)))
    return inverted


def damped(products: torch.Tensor, ridge: float) -> torch.Tensor:
    """C + λ diag C, with so much more on the diagonal as rounding may be wrong by."""
    variances = products.diagonal().clamp(min=0)
    precision = torch.finfo(products.dtype)
    floor = precision.eps * len(products) * variances.mean() + precision.tiny**0.5
    return products + torch.diag(ridge * variances + floor)


def _factor(matrix: torch.Tensor) -> torch.Tensor:
    """The Cholesky factor, with a larger diagonal where there is none."""
    added = torch.finfo(matrix.dtype).eps * len(matrix) * matrix.diagonal().mean()
    factor: torch.Tensor
    factor, failed = torch.linalg.cholesky_ex(matrix)
    while bool(failed):
        factor, failed = torch.linalg.cholesky_ex(matrix + added * torch.eye(len(matrix), device=matrix.device))
        added = 100 * added
    return factor


def missed(weight: torch.Tensor, inverted: torch.Tensor, owned: Owned, gone: torch.Tensor | None, count: int) -> torch.Tensor:
    """For each index what the outputs that stay miss at least when its columns go, tr(W_S (C⁻¹_SS)⁻¹ W_Sᵀ).

    Args:
        weight: ``[outputs, inputs]``.
        inverted: the inverse of the inputs' second moments.
        owned: the columns of each index, as in `Reader`.
        gone: outputs that go with each index, ``[indices, outputs]``; None where none does.
        count: number of indices.
    """
    errors = weight.new_zeros(count)
    for indices, columns in owned:
        if columns.shape[1] == 1:
            squares = weight.square()
            own = squares.sum(0)[columns[:, 0]]
            if gone is not None:
                own = own - (squares[:, columns[:, 0]].T * gone[indices]).sum(1)
            errors[indices] = own / inverted.diagonal()[columns[:, 0]]
        else:
            parts = weight[:, columns].movedim(1, 0)
            parts = parts if gone is None else parts * ~gone[indices][..., None]
            factor = torch.linalg.cholesky_ex(inverted[columns[:, :, None], columns[:, None, :]])[0]
            errors[indices] = torch.linalg.solve_triangular(factor, parts.mT, upper=False).square().sum((1, 2))
    return errors


class _State:
    """What is left of one block of a layer while indices go: its weights, repaired, and the inverse of the second moments."""

    def __init__(self, reader: Reader, ridge: float) -> None:
        self.original, self.owned, self.gone = reader.weight, reader.owned, reader.gone
        if self.gone is None and len(self.original) > self.original.shape[1]:
            self.original = torch.linalg.qr(self.original, mode="r")[1]  # as good for sums over all outputs, and smaller
        self.count = reader.indices
        self.products = damped(reader.products, ridge)
        self.columns_of = {int(index): own for some, columns in self.owned for index, own in zip(some, columns, strict=True)}
        self.rows = torch.ones_like(self.original[:, 0])
        self.columns = torch.ones_like(reader.variances)
        self.solve()

    def solve(self) -> None:
        """From scratch: the weights that do best with the columns that are left, and the inverse for these."""
        left = self.columns
        self.inverted = torch.cholesky_inverse(_factor(self.products * left[:, None] * left + torch.diag(1 - left)))
        self.weight = ((self.original * self.rows[:, None]) @ self.products * left) @ self.inverted * left
        self.since = 0

    def missed(self) -> torch.Tensor:
        """What the removal of each index adds to what is missed."""
        return missed(self.weight, self.inverted, self.owned, self.gone, self.count)

    def remove(self, indices: Sequence[int]) -> None:
        """Let some indices go, and move what their columns did to those that are left.

        W ← W − W_S (C⁻¹_SS)⁻¹ C⁻¹_S:, and C⁻¹ ← C⁻¹ − C⁻¹_:S (C⁻¹_SS)⁻¹ C⁻¹_S:. Rounding adds up over such steps, most of all
        where a column was all but a combination of others; then, and now and again, they are computed from scratch.
        """
        if self.gone is not None:
            rows = self.gone[list(indices)].any(0)
            self.rows[rows] = 0
            self.weight[rows] = 0
        own = [self.columns_of[index] for index in indices if index in self.columns_of]
        if not own:
            return
        columns = torch.cat(own).unique() if len(own) > 1 else own[0]  # type: ignore[no-untyped-call]
        self.columns[columns] = 0
        self.since += len(columns)
        before = self.inverted.diagonal().clone()
        across = self.inverted[columns]
        share = torch.cholesky_solve(across, torch.linalg.cholesky_ex(across[:, columns])[0])
        self.weight.addmm_(self.weight[:, columns], share, alpha=-1)
        self.inverted.addmm_(across.T, share, alpha=-1)
        kept = self.inverted.diagonal() > _CANCELLED * before
        if self.since > len(before) // _STEPS or not bool((kept | (self.columns == 0)).all()):
            self.solve()
            return
        self.weight[:, columns] = 0
        self.inverted[columns] = 0
        self.inverted[:, columns] = 0
        self.inverted[columns, columns] = 1


_STEPS = 16
"""In so many parts of the columns the inverse is computed from scratch: about as much work as all steps between."""

_CANCELLED = 1e-5
"""Where the inverse's diagonal shrinks by more in one step, its last digits were rounding."""


def greedy_order(readers: Sequence[Reader], ridge: float, weights: Sequence[float], at_once: int = 1) -> torch.Tensor:
    """For each index a number: the k-th lowest is that of the index that goes k-th.

    Args:
        readers: the layers that read the group.
        ridge: the share of each input's variance that is added to it.
        weights: by what the error of each reader counts.
        at_once: so many indices go between two looks at what is best.

    Returns:
        What each index adds to the error when it goes, but more than what the one before it has.
    """
    states = [_State(reader, ridge) for reader in readers]
    left = torch.ones(readers[0].indices, dtype=torch.bool, device=readers[0].weight.device)
    order, added = list[int](), list[float]()
    while len(order) < len(left):
        errors = torch.stack([state.missed() * by for state, by in zip(states, weights, strict=True)]).sum(0)
        lowest, chosen = torch.where(left, errors, torch.inf).topk(min(at_once, len(left) - len(order)), largest=False)
        order.extend(chosen.tolist())
        added.extend(lowest.tolist())
        left[chosen] = False
        for state in states:
            state.remove(chosen.tolist())
    numbers = torch.zeros(len(left), dtype=torch.float64)
    numbers[torch.tensor(order)] = torch.tensor(_rising(added), dtype=torch.float64)
    return numbers


def _rising(numbers: Sequence[float]) -> list[float]:
    """Each number, or a little more than the one before where that is larger: so that sorting them keeps their order."""
    step = 1e-12 * sum(numbers) / max(len(numbers), 1)
    rising = list[float]()
    for number in numbers:
        rising.append(max(number, rising[-1] * (1 + 1e-12) + step) if rising else number)
    return rising
