"""Polynomials against their values at points."""

from math import prod

from hypothesis import given
from hypothesis import strategies as st

from depgraph.algebra.polynomials import combine, difference, without_common_factor

monomials = st.lists(st.integers(0, 3), max_size=3).map(lambda leaves: tuple(sorted(leaves)))
polynomials = st.dictionaries(monomials, st.integers(1, 5), max_size=4)
points = st.lists(st.integers(1, 7), min_size=4, max_size=4)


def at(polynomial, point):
    """The value with the k-th variable at `point[k]`."""
    return sum(count * prod(point[leaf] for leaf in monomial) for monomial, count in polynomial.items())


@given(polynomials, polynomials, points)
def test_arithmetic_is_that_of_values(p, q, point):
    """Sum, difference and product at a point are those of the values; no coefficient is zero."""
    for op, value in (
        ("+", at(p, point) + at(q, point)),
        ("-", at(p, point) - at(q, point)),
        ("*", at(p, point) * at(q, point)),
    ):
        result = combine(op, p, q)
        assert at(result, point) == value
        assert 0 not in result.values()


@given(polynomials, monomials, st.integers(1, 5), points)
def test_division_undoes_multiplication(p, monomial, count, point):
    """What was multiplied by one term divides by it; what does not come out even has no quotient."""
    divisor = {monomial: count}
    assert combine("//", combine("*", p, divisor), divisor) == p
    quotient = combine("//", p, divisor)
    if quotient is not None:
        assert at(quotient, point) * at(divisor, point) == at(p, point)
    assert combine("//", {(0,): 3}, {(1,): 1}) is None and combine("//", {(0,): 3}, {(0,): 2}) is None


@given(polynomials, polynomials, points)
def test_common_factors_and_terms_cancel(p, q, point):
    """Without common factors and terms, two polynomials are equal at a point just where they were before."""
    if p and q:
        a, b = difference(*without_common_factor(p, q))
        assert (at(a, point) == at(b, point)) == (at(p, point) == at(q, point))
        assert not set(a) & set(b)
