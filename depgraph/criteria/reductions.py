"""One importance per index of a group, from those of its members: reductions over the members, and normalisers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeAlias

import torch
from attrs import field, frozen

from depgraph.errors import PlanError

Numbers: TypeAlias = tuple[float, ...] | tuple[tuple[float, ...], ...]
"""One number per index; or a table, with one row for each index of the group's base."""


Importances: TypeAlias = dict[str, Numbers]
"""Group name to one number per index, or to a table with one row for each index of a base."""


Normaliser: TypeAlias = str | Callable[[torch.Tensor], torch.Tensor]


def _sum(members: Sequence[torch.Tensor]) -> torch.Tensor:
    total = members[0]
    for member in members[1:]:
        total = total + member
    return total


def _prod(members: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.stack(tuple(members)).prod(0)


def _max(members: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.stack(tuple(members)).amax(0)


REDUCTIONS: Mapping[str, Callable[[Sequence[torch.Tensor]], torch.Tensor]] = {
    "sum": _sum,
    "mean": lambda members: _sum(members) / len(members),
    "max": _max,
    "prod": _prod,
    "first": lambda members: members[0],
    "gate": lambda members: members[-1],
}
"""How the members' importances become one. ``none`` keeps them apart, as `MemberScores`."""


def _over(importances: torch.Tensor, divisor: torch.Tensor) -> torch.Tensor:
    """A quotient; where the divisor is 0, the dividend as it is."""
    return importances / torch.where(divisor == 0, torch.ones_like(divisor), divisor)


def _divided(importances: torch.Tensor, divisor: torch.Tensor) -> torch.Tensor:
    """A quotient by one number; by 0 nothing is divided."""
    number = divisor.item()
    return importances / number if number else importances


def _standardised(importances: torch.Tensor) -> torch.Tensor:
    low = importances.min()
    return _divided(importances - low, importances.max() - low)


def _gaussian(importances: torch.Tensor) -> torch.Tensor:
    spread = importances.std() if len(importances) > 1 else importances.new_zeros(())
    return _divided(importances - importances.mean(), spread)


def _lamp(importances: torch.Tensor) -> torch.Tensor:
    values, order = importances.sort(stable=True)
    remaining = values.flip(0).cumsum(0).flip(0)
    return torch.empty_like(values).index_copy_(0, order, _over(values, remaining))


NORMALISERS: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "none": lambda importances: importances,
    "sum": lambda importances: _divided(importances, importances.sum()),
    "mean": lambda importances: _divided(importances, importances.mean()),
    "max": lambda importances: _divided(importances, importances.max()),
    "standardisation": _standardised,
    "gaussian": _gaussian,
    "lamp": _lamp,
}
"""How the importances of one group are put on a common scale with those of other groups."""


def known_reduction(instance: object, attribute: Any, value: object) -> None:
    """Refuse a reduction that does not exist."""
    if not isinstance(value, str) or value not in {*REDUCTIONS, "none"}:
        raise PlanError(f"expected {attribute.name}= to be one of {[*REDUCTIONS, 'none']}, met {value!r}.")


def known_normaliser(instance: object, attribute: Any, value: object) -> None:
    """Refuse a normaliser that does not exist."""
    if not (callable(value) or (isinstance(value, str) and value in NORMALISERS)):
        raise PlanError(
            f"expected {attribute.name}= to be one of {list(NORMALISERS)}, or a function from a group's importances to as "
            f"many, met {value!r}."
        )


SCALING = frozenset({"none", "sum", "mean", "max"})
"""Normalisers that multiply all importances of a group by one number."""


def normalised(group: str, importances: torch.Tensor, normaliser: Normaliser) -> Numbers:
    """The importances of one group after a normaliser, as numbers.

    Of a table the k-th lowest numbers of all rows are removed together, so their sums are normalised. A normaliser that scales
    scales the whole table; of any other the rows share the result equally.
    """
    if importances.ndim == 1:
        return tuple(_normalised(group, importances, normaliser).tolist())
    ascending, order = importances.sort(dim=1, stable=True)
    sums = ascending.sum(0)
    result = _normalised(group, sums, normaliser)
    if isinstance(normaliser, str) and normaliser in SCALING:
        table = importances * _over(result.sum(), sums.sum())
    else:
        table = torch.empty_like(importances).scatter_(1, order, (result / len(order)).to(importances.dtype).expand_as(order))
    return tuple(map(tuple, table.tolist()))


def _normalised(group: str, importances: torch.Tensor, normaliser: Normaliser) -> torch.Tensor:
    if isinstance(normaliser, str):
        result = NORMALISERS[normaliser](importances)
    else:
        result = torch.as_tensor(normaliser(importances))
        if result.shape != importances.shape:
            raise PlanError(
                f"the normaliser gave the shape {tuple(result.shape)} for group {group!r} of {len(importances)} indices; "
                "it must return one number per index."
            )
    return result


def _read_only(mapping: Mapping[Any, Any]) -> Mapping[Any, Any]:
    return MappingProxyType(dict(mapping))


@frozen
class MemberScores:
    """Importances before a reduction: what `score` returns for ``reduction="none"``.

    It is no mapping of group names to numbers, so `dg.plan` refuses it; `reduce` makes one.

    Attributes:
        members: group name to its members that take part, as (tensor, dim).
        scores: group name to one tuple of numbers, or a table, for each of these members.

    >>> apart = MemberScores({"a:0": (("a", 0), ("b", 1))}, {"a:0": ((1.0, 5.0), (3.0, 1.0))})
    >>> apart.reduce("max", "none")
    {'a:0': (3.0, 5.0)}
    """

    members: Mapping[str, tuple[tuple[str, int], ...]] = field(converter=_read_only)
    scores: Mapping[str, tuple[Numbers, ...]] = field(converter=_read_only)

    def __reduce__(self) -> tuple[Any, ...]:
        """Read-only mappings can be neither pickled nor copied; what they show can."""
        return MemberScores, (dict(self.members), dict(self.scores))

    def reduce(self, reduction: str = "mean", normaliser: Normaliser = "mean") -> Importances:
        """One number per index of each group.

        Args:
            reduction: how the members' numbers become one: a key of `REDUCTIONS`.
            normaliser: how a group's numbers are scaled: a key of `NORMALISERS`, or a function.

        Raises:
            PlanError: an unknown reduction or normaliser.
        """
        if reduction not in REDUCTIONS:
            raise PlanError(f"expected a reduction among {list(REDUCTIONS)}, met {reduction!r}.")
        if not callable(normaliser) and normaliser not in NORMALISERS:
            raise PlanError(f"expected a normaliser among {list(NORMALISERS)} or a function, met {normaliser!r}.")
        reduced = REDUCTIONS[reduction]
        return {
            group: normalised(group, reduced([torch.tensor(values, dtype=torch.float64) for values in members]), normaliser)
            for group, members in self.scores.items()
        }
