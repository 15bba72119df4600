"""The helper of the negative controls can fail itself."""

import pytest

from depgraph.algebra.indices import IndexSet
from depgraph.algebra.polynomials import Polynomial
from tests.laws.refuting import refuted


def assert_positive(number):
    assert number > 0, f"{number} is not positive"


def test_what_is_refuted_returns_what_was_said():
    """The message of the law; an error of another kind counts only where it is expected."""
    assert "-1 is not positive" in refuted(assert_positive, -1, says="not positive")
    assert "counted from 0" in refuted(IndexSet.of, [-1], by=ValueError)
    with pytest.raises(ValueError, match="counted from 0"):
        refuted(IndexSet.of, [-1])


def test_a_law_that_holds_refutes_nothing():
    """A control whose wrong implementation passes fails."""
    with pytest.raises(AssertionError, match="assert_positive holds for a wrong implementation"):
        refuted(assert_positive, 1)


def test_another_reason_is_no_refutation():
    """Neither another message than expected, nor an assertion inside of the package."""
    with pytest.raises(AssertionError, match=r"was to be refuted by 'too large', but failed in .*: -1 is not positive"):
        refuted(assert_positive, -1, says="too large")

    def accident(polynomial):
        return polynomial.value({})

    with pytest.raises(KeyError):
        refuted(accident, Polynomial.variable(0))
    with pytest.raises(AssertionError, match=r"but failed in unification.py"):
        refuted(lambda: failing_inside())


def failing_inside():
    """Runs an assertion that stands in a file of the package."""
    import depgraph.solving.unification as unification

    exec(compile("assert False, 'inside'", unification.__file__, "exec"))
