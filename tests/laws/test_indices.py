"""IndexSet against Python's set, with wrong implementations that must be refuted."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from depgraph.algebra.indices import IndexSet
from tests.laws.refuting import refuted

numbers = st.sets(st.integers(0, 40))
NONE, FIRST, LAST, WHOLE = set(), {0}, {40}, set(range(41))


@given(numbers, numbers)
@example(NONE, NONE)
@example(NONE, WHOLE)
@example(FIRST, LAST)
@example(WHOLE, FIRST)
@example(WHOLE, WHOLE)
def test_the_algebra_is_that_of_sets(a, b):
    """Union, intersection, difference, containment and order mean what they mean for sets."""
    x, y = IndexSet.of(a), IndexSet.of(b)
    assert set(x | y) == a | b
    assert set(x & y) == a & b
    assert set(x - y) == a - b
    assert (x <= y) == (a <= b)
    assert len(x) == len(a)
    assert all((i in x) == (i in a) for i in range(42))
    assert list(x) == sorted(a)


@given(numbers)
@example(NONE)
@example(LAST)
@example(WHOLE)
def test_equal_sets_are_equal_values(a):
    """However a set was built, its intervals are the same, and so is its hash."""
    x = IndexSet.of(sorted(a))
    y = IndexSet(tuple((i, i + 1) for i in sorted(a, reverse=True)))
    assert x == y and hash(x) == hash(y)
    assert all(stop < start for (_, stop), (start, _) in zip(x.intervals, x.intervals[1:], strict=False))


@given(numbers)
@example(NONE)
@example(FIRST)
@example(LAST)
@example(WHOLE)
def test_complement_and_text(a):
    """The complement is an involution, and text is read back."""
    x = IndexSet.of(a)
    assert set(x.complement(41)) == set(range(41)) - a
    assert x.complement(41).complement(41) == x
    assert [set(x.complement(size)) for size in (0, 1, 17)] == [set(range(size)) - a for size in (0, 1, 17)]
    assert IndexSet.parse(str(x)) == x


def assert_renumbering(renumber, a, removed):
    """The law: what is left of a set has the positions that it takes among the survivors."""
    survivors = [i for i in range(82) if i not in removed]
    assert list(renumber(IndexSet.of(a), IndexSet.of(removed))) == [survivors.index(i) for i in sorted(a - removed)]


@given(numbers, numbers)
@example(NONE, WHOLE)
@example(WHOLE, NONE)
@example(WHOLE, WHOLE)
@example(LAST, FIRST)
@example(FIRST, FIRST)
def test_renumbering_counts_the_survivors(a, removed):
    """`renumber` is the position among the survivors, `lift` is its inverse."""
    x, gone = IndexSet.of(a), IndexSet.of(removed)
    survivors = [i for i in range(82) if i not in removed]
    assert_renumbering(IndexSet.renumber, a, removed)
    assert x.renumber(gone).lift(gone) == x - gone
    assert list(x.lift(gone)) == [survivors[i] for i in sorted(a)]


def test_a_wrong_renumbering_is_refuted():
    """The law tells a shift by the number of removed indices from the right answer."""

    def wrong(x: IndexSet, gone: IndexSet) -> list[int]:
        return [i - len(gone) for i in x - gone]

    refuted(assert_renumbering, wrong, {0, 3}, {1})
    assert IndexSet.of([0, 3]).renumber(IndexSet.of([1])) == IndexSet.of([0, 2])


@pytest.mark.parametrize("text", ["3,1", "1-2,3", "2-1", "x", "1,1", "01"])
def test_only_the_canonical_text_is_read(text):
    """Text that `str` would not write is refused."""
    with pytest.raises(ValueError):
        IndexSet.parse(text)


def test_negative_indices_are_refused():
    """Positions are counted from the front."""
    with pytest.raises(ValueError, match="counted from 0, got -1"):
        IndexSet.of([-1, 2])
    for intervals in [((-1, 2),), ((4, 6), (-1, 0)), ((-1, 3), (2, 5))]:
        with pytest.raises(ValueError, match="counted from 0, got -1"):
            IndexSet(intervals)
    with pytest.raises(ValueError, match="counted from 0, got -1"):
        IndexSet.range(-1, 3)
    with pytest.raises(ValueError, match="counted from 0, got -2"):
        IndexSet.of([0, 3]).shift(-2)


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), max_size=6))
@example([(2, 5), (0, 9), (9, 10)])
@example([(3, 3), (5, 2)])
def test_any_intervals_become_canonical_ones(intervals):
    """Unsorted, overlapping, adjacent and empty intervals mean the union of their ranges."""
    x = IndexSet(tuple(intervals))
    assert list(x) == sorted({index for start, stop in intervals for index in range(start, stop)})
    assert x == IndexSet.of(list(x))


@given(numbers, st.integers(0, 5))
@example(NONE, 0)
@example(FIRST, 5)
@example(LAST, 0)
@example(WHOLE, 1)
def test_shifts_and_mirrors_move_each_index(a, offset):
    """`shift` adds, and `mirrored` counts from the end; twice it is as before."""
    x = IndexSet.of(a)
    assert set(x.shift(offset)) == {index + offset for index in a}
    assert set(x.mirrored(41)) == {40 - index for index in a}
    assert x.mirrored(41).mirrored(41) == x
