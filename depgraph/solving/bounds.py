"""How small atoms may become so that comparisons come out as they did: bounds from intervals of polynomials."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import product
from math import prod
from typing import TypeAlias

from attrs import frozen

from depgraph.algebra.polynomials import Polynomial
from depgraph.solving.balances import Balancing


@frozen
class Uneven:
    """Arithmetic over sizes that is no polynomial, for a division in it does not come out even."""

    op: str
    left: Form
    right: Form


Form: TypeAlias = Polynomial | Uneven


Span: TypeAlias = tuple[int, int]


Sizes: TypeAlias = Mapping[int, int]


_SHARES = 64
"""Where several atoms must stay large together, they keep a common share of their sizes, in this many steps."""


class Bounds:
    """The lower bounds that comparisons ask of atoms, each with the reason of the last comparison that raised it.

    Whatever sizes are at least these and at most the present ones, each comparison comes out as it did. For a comparison that
    one atom decides alone the bound is the smallest such; one that several atoms decide bounds what costs the smallest share.
    """

    def __init__(self, sizes: Balancing) -> None:
        self.sizes = sizes
        self.lower_bounds: dict[int, tuple[int, str]] = {}
        self._parameter_atoms = sizes.parameter_leaves()
        self._fixed: dict[int, bool] = {}

    def keep(self, form: Form, reason: str, either: bool = False) -> bool:
        """Let the value stay positive or, with `either`, other than zero; false if it is not known how."""
        now = {atom: self.sizes.solver.size(atom) for atom in _atoms(form)}
        value = _span(form, now, now)
        if value is None or not value[0] or (value[0] < 0 and not either):
            return False
        if isinstance(form, Polynomial) and not form.is_constant:
            form, _ = form.without_common_factor(Polynomial())  # the factor is positive: the sign stays
        lower = {atom: self._lower_bound(atom, size) for atom, size in now.items()}

        def comes_out(low: Sizes, high: Sizes) -> bool:
            span = _span(form, low, high)
            return span is not None and (span[0] > 0 or (either and span[1] < 0))

        def holds(changed: Sizes) -> bool:
            return comes_out({**lower, **changed}, now)

        if not holds({}):
            free = [atom for atom in dict.fromkeys(_atoms(form)) if lower[atom] < now[atom]]
            raised = _alone(free[0], lower, now, holds, comes_out) if len(free) == 1 else _shared(free, lower, now, holds)
            for atom, size in raised.items():
                if size > lower[atom]:
                    self.lower_bounds[atom] = size, reason
        return True

    def _lower_bound(self, atom: int, size: int) -> int:
        """What is left of an atom at least; one that no parameter holds cannot lose an index by itself."""
        if atom not in self._fixed:
            self._fixed[atom] = self._parameter_atoms is not None and self._parameter_atoms.isdisjoint(self.sizes.members(atom))
        if self._fixed[atom]:
            return size
        return self.lower_bounds[atom][0] if atom in self.lower_bounds else 1


Holds: TypeAlias = Callable[[Sizes], bool]
"""Whether a comparison comes out the same whatever is left, where some atoms keep at least the given sizes."""


def _alone(atom: int, lower: Sizes, now: Sizes, holds: Holds, comes_out: Callable[[Sizes, Sizes], bool]) -> dict[int, int]:
    """The smallest size down to which the comparison comes out the same at every size from the present one."""
    size = _smallest(lower[atom], now[atom], lambda candidate: holds({atom: candidate}))
    while size > lower[atom]:
        point = {**now, atom: size - 1}
        if not comes_out(point, point):
            break
        size -= 1
    return {atom: size}


def _shared(free: list[int], lower: Sizes, now: Sizes, holds: Holds) -> dict[int, int]:
    """Raise one atom where that is enough, the one that keeps the smallest share of its size; else several together."""

    def with_size(atom: int, others: Sizes) -> Callable[[int], bool]:
        return lambda size: holds({**others, atom: size})

    alone = {atom: _smallest(lower[atom], now[atom], with_size(atom, {})) for atom in free}
    enough = [atom for atom, size in alone.items() if holds({atom: size})]
    if enough:
        best = min(enough, key=lambda atom: (alone[atom] / now[atom], atom))
        return {best: alone[best]}

    def with_share(share: int) -> dict[int, int]:
        return {atom: max(lower[atom], -(-now[atom] * share // _SHARES)) for atom in free}

    raised = with_share(_smallest(1, _SHARES, lambda share: holds(with_share(share))))
    for atom in free:
        raised[atom] = _smallest(lower[atom], raised[atom], with_size(atom, dict(raised)))
    return raised


def _smallest(low: int, high: int, enough: Callable[[int], bool]) -> int:
    """The smallest number from `low` on that is enough, where whatever is larger than one that is enough is so too."""
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle + 1, high)
    return high


def _atoms(form: Form) -> Iterator[int]:
    if isinstance(form, Polynomial):
        yield from form.variables
    else:
        yield from _atoms(form.left)
        yield from _atoms(form.right)


def _span(form: Form, low: Sizes, high: Sizes) -> Span | None:
    """Bounds of a value while each atom lies between two sizes; exact where these agree. None: it may divide by zero."""
    if isinstance(form, Polynomial):
        lower = upper = 0
        for monomial, count in form.terms:
            small, large = count * prod(low[atom] for atom in monomial), count * prod(high[atom] for atom in monomial)
            lower, upper = lower + min(small, large), upper + max(small, large)
        return lower, upper
    op, left, right = form.op, _span(form.left, low, high), _span(form.right, low, high)
    if left is None or right is None:
        return None
    if op == "+":
        return left[0] + right[0], left[1] + right[1]
    if op == "-":
        return left[0] - right[1], left[1] - right[0]
    if op == "%":
        return (0, right[1] - 1) if right[0] > 0 else None
    if op == "//" and right[0] <= 0 <= right[1]:
        return None
    corners = [a * b if op == "*" else a // b for a, b in product(left, right)]
    return min(corners), max(corners)
