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


def missed(
    weight: torch.Tensor, inverted: torch.Tensor, owned: Owned, gone: torch.Tensor, rows: torch.Tensor | None = None
) -> torch.Tensor:
    """For each index what the outputs that stay miss at least when its columns go, tr(W_S (C⁻¹_SS)⁻¹ W_Sᵀ).

    Args:
        weight: ``[outputs, inputs]``.
        inverted: the inverse of the inputs' second moments.
        owned: the columns of each index, as in `Reader`.
        gone: outputs that go with each index, ``[indices, outputs]``.
        rows: which outputs there are at all; None for all.
    """
    errors = weight.new_zeros(len(gone))
    for indices, columns in owned:
        parts = weight[:, columns].movedim(1, 0) * ~gone[indices][..., None]
        if rows is not None:
            parts = parts * rows[:, None]
        if columns.shape[1] == 1:
            errors[indices] = parts[..., 0].square().sum(1) / inverted.diagonal()[columns[:, 0]]
        else:
            factor = torch.linalg.cholesky_ex(inverted[columns[:, :, None], columns[:, None, :]])[0]
            errors[indices] = torch.linalg.solve_triangular(factor, parts.mT, upper=False).square().sum((1, 2))
    return errors


class _State:
    """What is left of one block of a layer while indices go: its weights, repaired, and the inverse of the second moments."""

    def __init__(self, reader: Reader, ridge: float) -> None:
        self.original, self.owned, self.gone = reader.weight, reader.owned, reader.gone
        self.products = damped(reader.products, ridge)
        self.columns_of = {
            int(index): columns for some, all_of in reader.owned for index, columns in zip(some, all_of, strict=True)
        }
        self.rows = torch.ones(len(reader.weight), dtype=torch.bool, device=reader.weight.device)
        self.columns = torch.ones_like(reader.variances, dtype=torch.bool)
        self.solve()

    def solve(self) -> None:
        """From scratch: the weights that do best with the columns that are left, and the inverse for these."""
        left = self.columns.to(self.products.dtype)
        self.inverted = torch.cholesky_inverse(_factor(self.products * left[:, None] * left + torch.diag(1 - left)))
        self.weight = (self.original @ self.products * left) @ self.inverted * left
        self.since = 0

    def missed(self) -> torch.Tensor:
        """What the removal of each index adds to what is missed."""
        return missed(self.weight, self.inverted, self.owned, self.gone, self.rows)

    def remove(self, index: int) -> None:
        """Let an index go, and move what its columns did to those that are left.

        W ← W − W_S (C⁻¹_SS)⁻¹ C⁻¹_S:, and C⁻¹ ← C⁻¹ − C⁻¹_:S (C⁻¹_SS)⁻¹ C⁻¹_S:. Rounding adds up over such steps, most of all
        where a column was all but a combination of others; then, and now and again, they are computed from scratch.
        """
        self.rows &= ~self.gone[index]
        columns = self.columns_of.get(index)
        if columns is None:
            return
        self.columns[columns] = False
        self.since += len(columns)
        before = self.inverted.diagonal().clone()
        across = self.inverted[columns]
        factor = torch.linalg.cholesky_ex(across[:, columns])[0]
        share = torch.cholesky_solve(across, factor)
        self.weight = self.weight - self.weight[:, columns] @ share
        self.inverted = self.inverted - across.T @ share
        left = self.columns.to(before.dtype)
        lost = bool((self.inverted.diagonal() * left < _CANCELLED * before * left).any())
        if lost or self.since > len(left) // _STEPS or not bool(self.inverted.isfinite().all()):
            self.solve()
            return
        self.weight = self.weight * left
        self.inverted = self.inverted * left[:, None] * left + torch.diag(1 - left)


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
    count = len(readers[0].gone)
    left = torch.ones(count, dtype=torch.bool, device=readers[0].gone.device)
    order, added = list[int](), list[float]()
    while len(order) < count:
        errors = sum((state.missed() * by for state, by in zip(states, weights, strict=True)), torch.zeros(()))
        lowest, chosen = torch.where(left, errors, torch.inf).sort(stable=True)
        for index, error in list(zip(chosen.tolist(), lowest.tolist(), strict=True))[: min(at_once, count - len(order))]:
            order.append(index)
            added.append(error)
            left[index] = False
            for state in states:
                state.remove(index)
    numbers = torch.zeros(count, dtype=torch.float64)
    numbers[torch.tensor(order)] = torch.tensor(_rising(added), dtype=torch.float64)
    return numbers


def _rising(numbers: Sequence[float]) -> list[float]:
    """Each number, or a little more than the one before where that is larger: so that sorting them keeps their order."""
    step = 1e-12 * sum(numbers) / max(len(numbers), 1)
    rising = list[float]()
    for number in numbers:
        rising.append(max(number, rising[-1] * (1 + 1e-12) + step) if rising else number)
    return rising
