"""Polynomials with integer coefficients: how large something is, in terms of sizes that may change."""

from __future__ import annotations

from math import gcd
from typing import TypeAlias

Monomial: TypeAlias = tuple[int, ...]
"""A product of variables, each a number, sorted; one variable may occur several times. The empty one is the constant."""


Polynomial: TypeAlias = dict[Monomial, int]
"""Coefficients other than zero by monomial."""


def combine(op: str, left: Polynomial, right: Polynomial) -> Polynomial | None:
    """Polynomial arithmetic; a division that does not come out exactly has no result."""
    result: Polynomial = {}
    if op in "+-":
        sign = 1 if op == "+" else -1
        for monomial, count in [*left.items(), *((m, sign * c) for m, c in right.items())]:
            result[monomial] = result.get(monomial, 0) + count
    elif op == "*":
        for m, c in left.items():
            for n, d in right.items():
                monomial = tuple(sorted(m + n))
                result[monomial] = result.get(monomial, 0) + c * d
    else:
        if len(right) != 1:
            return {(): 1} if left == right else None
        (n, d), *_ = right.items()
        for m, c in left.items():
            remaining = list(m)
            for leaf in n:
                if leaf not in remaining:
                    return None
                remaining.remove(leaf)
            if c % d:
                return None
            result[tuple(remaining)] = c // d
    return {monomial: count for monomial, count in result.items() if count}


def without_common_factor(left: Polynomial, right: Polynomial) -> tuple[Polynomial, Polynomial]:
    """Both polynomials divided by the atoms that every one of their monomials has."""
    monomials = [*left, *right]
    common = list(monomials[0]) if monomials else []
    for monomial in monomials[1:]:
        remaining = list(monomial)
        kept = []
        for leaf in common:
            if leaf in remaining:
                remaining.remove(leaf)
                kept.append(leaf)
        common = kept
    divisor = {tuple(common): gcd(*left.values(), *right.values())}
    return combine("//", left, divisor) or {}, combine("//", right, divisor) or {}


def difference(left: Polynomial, right: Polynomial) -> tuple[Polynomial, Polynomial]:
    """What each polynomial has that the other has not."""
    rest = combine("-", left, right) or {}
    return {m: c for m, c in rest.items() if c > 0}, {m: -c for m, c in rest.items() if c < 0}
