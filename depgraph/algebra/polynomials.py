"""Polynomials with integer coefficients: how large something is, in terms of sizes that may change."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import chain
from math import gcd, prod
from typing import TypeAlias

from attrs import field, frozen

Monomial: TypeAlias = tuple[int, ...]
"""A product of variables, each a number, sorted; one variable may occur several times. The empty one is the constant."""


Coefficients: TypeAlias = Mapping[Monomial, int]


def _canonical(coefficients: Coefficients) -> tuple[tuple[Monomial, int], ...]:
    return tuple(sorted((monomial, count) for monomial, count in coefficients.items() if count))


@frozen
class Polynomial:
    """Monomials with their coefficients.

    No coefficient is zero and the monomials are sorted, so equal polynomials are equal values.

    >>> heads, width = Polynomial.variable(0), Polynomial.variable(1)
    >>> (heads * width + width).value({0: 4, 1: 16})
    80
    >>> (heads * width).quotient(width) == heads, heads.quotient(width)
    (True, None)
    """

    terms: tuple[tuple[Monomial, int], ...] = field(default={}, converter=_canonical)

    @classmethod
    def constant(cls, number: int) -> Polynomial:
        """A number."""
        return cls({(): number})

    @classmethod
    def variable(cls, number: int) -> Polynomial:
        """The variable of that number."""
        return cls({(number,): 1})

    @classmethod
    def sum(cls, polynomials: Iterable[Polynomial]) -> Polynomial:
        """Several polynomials added up at once, which is faster than one by one."""
        return cls(_added(chain.from_iterable(polynomial.terms for polynomial in polynomials)))

    @property
    def is_constant(self) -> bool:
        """Whether no variable occurs."""
        return not any(monomial for monomial, _ in self.terms)

    @property
    def variables(self) -> tuple[int, ...]:
        """The variables that occur, each once."""
        return tuple(dict.fromkeys(variable for monomial, _ in self.terms for variable in monomial))

    @property
    def has_negative(self) -> bool:
        """Whether a coefficient is negative."""
        return any(count < 0 for _, count in self.terms)

    def value(self, sizes: Mapping[int, int]) -> int:
        """The number that comes out where each variable has the given size."""
        return sum(count * prod([sizes[variable] for variable in monomial]) for monomial, count in self.terms)

    def __bool__(self) -> bool:
        return bool(self.terms)

    def __add__(self, other: Polynomial) -> Polynomial:
        return Polynomial(_added((*self.terms, *other.terms)))

    def __neg__(self) -> Polynomial:
        return Polynomial({monomial: -count for monomial, count in self.terms})

    def __sub__(self, other: Polynomial) -> Polynomial:
        return self + -other

    def __mul__(self, other: Polynomial) -> Polynomial:
        return Polynomial(_added((tuple(sorted(m + n)), c * d) for m, c in self.terms for n, d in other.terms))

    def quotient(self, divisor: Polynomial) -> Polynomial | None:
        """The polynomial that times the divisor gives this one; None where there is none, as for zero divisors.

        Long division by the leading term: what is left over has smaller and smaller ones.
        """
        if not divisor:
            return None
        lead, count = max(divisor.terms, key=_degree)
        remaining, result = self, Polynomial()
        while remaining:
            highest, coefficient = max(remaining.terms, key=_degree)
            needed = Counter(lead)
            if coefficient % count or not needed <= Counter(highest):
                return None
            step = Polynomial({tuple(sorted((Counter(highest) - needed).elements())): coefficient // count})
            result, remaining = result + step, remaining - step * divisor
        return result

    def without_common_factor(self, other: Polynomial) -> tuple[Polynomial, Polynomial]:
        """Both polynomials divided by the number and the variables that every one of their terms has, which is positive."""
        terms = (*self.terms, *other.terms)
        if not terms:
            return self, other
        common = Counter(terms[0][0])
        for monomial, _ in terms:
            common &= Counter(monomial)
        factor = Polynomial({tuple(sorted(common.elements())): gcd(*(count for _, count in terms))})
        return self.quotient(factor) or self, other.quotient(factor) or other  # zero stays zero

    def difference(self, other: Polynomial) -> tuple[Polynomial, Polynomial]:
        """What each polynomial has that the other has not, without negative coefficients."""
        terms = (self - other).terms
        return Polynomial({m: c for m, c in terms if c > 0}), Polynomial({m: -c for m, c in terms if c < 0})

    def __str__(self) -> str:
        return " + ".join("*".join((str(c), *(f"x{v}" for v in m))) for m, c in self.terms) or "0"


def _added(terms: Iterable[tuple[Monomial, int]]) -> Coefficients:
    """The coefficients of a sum of terms, of which several may have one monomial."""
    total: dict[Monomial, int] = {}
    for monomial, count in terms:
        total[monomial] = total.get(monomial, 0) + count
    return total


def _degree(term: tuple[Monomial, int]) -> tuple[int, Monomial]:
    """An order of terms that multiplication keeps, as long division needs it."""
    return len(term[0]), term[0]
