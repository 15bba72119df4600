"""Polynomials against plain integers: their values at points."""

from collections import Counter
from math import gcd

from hypothesis import event, example, given
from hypothesis import strategies as st

from depgraph.algebra.polynomials import Polynomial
from tests.laws.refuting import refuted

monomials = st.lists(st.integers(0, 3), max_size=3).map(lambda variables: tuple(sorted(variables)))
polynomials = st.dictionaries(monomials, st.integers(-5, 5), max_size=4).map(Polynomial)
positive = st.dictionaries(monomials, st.integers(1, 5), max_size=4).map(Polynomial)
points = st.lists(st.integers(1, 7), min_size=4, max_size=4).map(lambda sizes: dict(enumerate(sizes)))
ZERO, ONE, X, Y = Polynomial(), Polynomial.constant(1), Polynomial.variable(0), Polynomial.variable(1)
POINT = {0: 3, 1: 5, 2: 2, 3: 7}


def assert_product(p, q, product, point):
    """The law of multiplication at a point."""
    assert product.value(point) == p.value(point) * q.value(point)


@given(polynomials, polynomials, points)
@example(ZERO, X, POINT)
@example(X - Y, X + Y, POINT)
def test_arithmetic_is_that_of_values(p, q, point):
    """Sum, difference, negation and product at a point are those of the values; no coefficient is zero."""
    assert (p + q).value(point) == p.value(point) + q.value(point)
    assert (p - q).value(point) == p.value(point) - q.value(point)
    assert (-p).value(point) == -p.value(point)
    assert Polynomial.sum([p, q, p]) == p + q + p and Polynomial.sum([]) == ZERO
    assert_product(p, q, p * q, point)
    assert all(count for result in (p + q, p - q, p * q) for _, count in result.terms)


def test_a_product_term_by_term_is_refuted():
    """Multiplying only terms of one monomial, as a sum is added, breaks the law."""
    p, q = X + Y, X + Y + ONE
    shared = dict(p.terms).keys() & dict(q.terms).keys()
    wrong = Polynomial({m + m: dict(p.terms)[m] * dict(q.terms)[m] for m in shared})
    refuted(assert_product, p, q, wrong, POINT)


@given(polynomials, polynomials, polynomials)
@example(ZERO, ONE, X)
@example(X, X, X)
@example(X, -X, ONE)
def test_equal_polynomials_are_equal_values(p, q, r):
    """However a polynomial came about, it is one value with one hash, and the laws of a commutative ring hold."""
    for one, other in (
        (p + q, q + p),
        (p * q, q * p),
        ((p + q) * r, p * r + q * r),
        ((p * q) * r, p * (q * r)),
        (p - p, ZERO),
        (p * ONE, p),
        (p - q, p + -q),
    ):
        assert one == other and hash(one) == hash(other)
    assert bool(p) == (p != ZERO)


@given(polynomials, polynomials, points)
@example(X * X - Y * Y, X + Y, POINT)
@example(Polynomial({(0,): 3}), Polynomial({(0,): 2}), POINT)
@example(X, Y, POINT)
@example(X + X + Y, X + Y + Y, POINT)
@example(X, ZERO, POINT)
@example(ZERO, X, POINT)
@example(ZERO, ZERO, POINT)
def test_division_undoes_multiplication(p, divisor, point):
    """What was multiplied divides again; a quotient times the divisor is what was divided; nothing divides by zero."""
    assert (p * divisor).quotient(divisor) == (p if divisor else None)
    quotient = p.quotient(divisor)
    if quotient is not None:
        assert quotient * divisor == p
        assert_product(quotient, divisor, p, point)
    if divisor and not divisor.is_constant:
        assert (p * divisor + ONE).quotient(divisor) is None


def test_signs_and_texts():
    """One negative coefficient is enough; the text has every term in order, and a zero for none."""
    assert (X - Y).has_negative and (-ONE).has_negative
    assert not (X + Y).has_negative and not ZERO.has_negative
    assert [str(p) for p in (ZERO, ONE, X * Y - Y - Y + ONE)] == ["0", "1", "1 + 1*x0*x1 + -2*x1"]


def test_what_does_not_come_out_even_has_no_quotient():
    """A coefficient or a variable that the dividend lacks, whether it shows in the first step or in the last one."""
    two = Polynomial.constant(2)
    assert (two * X + ONE).quotient(two) is None
    assert X.quotient(Y) is None
    assert (X * X + Y).quotient(X) is None
    assert (X * Y + X).quotient(Y + ONE) == X


def assert_no_common_factor(p, q, reduced):
    """The law of `without_common_factor`: both were divided by one product, and no number or variable divides both again."""
    a, b = reduced
    assert a * q == b * p and bool(a) == bool(p) and bool(b) == bool(q)
    terms = (*a.terms, *b.terms)
    shared = Counter(terms[0][0]) if terms else Counter()
    for monomial, _ in terms:
        shared &= Counter(monomial)
    assert not shared, f"variables {sorted(shared)} divide every term"
    assert gcd(*(count for _, count in terms)) in {0, 1}, "a number divides every term"


@given(positive, positive, st.builds(lambda m, c: Polynomial({m: c}), monomials, st.integers(1, 3)), points)
@example(ZERO, X, ONE, POINT)
@example(ZERO, ZERO, X, POINT)
@example(X, X, X, POINT)
@example(X * Y + X, X * X, ONE, POINT)
@example(X + X, X + X + X + X, X * Y, POINT)
def test_common_factors_and_terms_cancel(p, q, factor, point):
    """Without common factors and terms, two polynomials are equal at a point just where they were before.

    Drawn ones hardly ever are; so the smaller one is raised by the difference, too.
    """
    gap = p.value(point) - q.value(point)
    event(f"equal as drawn: {gap == 0}")
    raised = p + Polynomial.constant(max(-gap, 0)), q + Polynomial.constant(max(gap, 0))
    for one, other, equal in ((p, q, gap == 0), (*raised, True)):
        one, other = one * factor, other * factor
        a, b = one.without_common_factor(other)
        assert_no_common_factor(one, other, (a, b))
        assert a.without_common_factor(b) == (a, b)
        c, d = a.difference(b)
        assert (c.value(point) == d.value(point)) == (one.value(point) == other.value(point)) == equal
        assert c - d == a - b
        assert not c.has_negative and not d.has_negative
        assert not {monomial for monomial, _ in c.terms} & {monomial for monomial, _ in d.terms}


def test_a_factor_that_stays_or_divides_one_alone_is_refuted():
    """Leaving both as they are, dividing by the number only, by the variables only, or one of both: each is noticed."""
    two = Polynomial.constant(2)
    p, q = two * X * X, two * X * Y
    assert_no_common_factor(p, q, (X, Y))
    refuted(assert_no_common_factor, p, q, (p, q), says="variables .* divide every term")
    refuted(assert_no_common_factor, p, q, (X * X, X * Y), says="variables .* divide every term")
    refuted(assert_no_common_factor, p, q, (two * X, two * Y), says="a number divides every term")
    refuted(assert_no_common_factor, p, q, (X, two * X * Y))


@given(polynomials, points, points)
@example(ZERO, POINT, POINT)
@example(ONE, POINT, POINT)
@example(X - Y, POINT, POINT)
def test_a_constant_does_not_depend_on_sizes(p, one, other):
    """What has no variables is its term without any, and has one value; the variables are all that a value needs."""
    assert p.value({variable: one[variable] for variable in p.variables}) == p.value(one)
    constant = Polynomial.constant(p.value(dict.fromkeys(range(4), 0)))
    assert p.is_constant == (p == constant) == (not p.variables)
    assert constant.value(one) == constant.value(other) == constant.value({})
    assert (p - constant + Polynomial.variable(3)).is_constant == (p == constant - Polynomial.variable(3))
