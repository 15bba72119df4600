"""Union-find against a plain list of sets."""

from hypothesis import example, given
from hypothesis import strategies as st

from depgraph.algebra.partitions import Partition
from tests.laws.refuting import refuted

pairs = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=12)


def merged(joins):
    """The classes by sets that are merged one by one, the singletons among them."""
    classes = [{item} for item in range(10)]
    for one, other in joins:
        both = [found for found in classes if found & {one, other}]
        classes = [found for found in classes if found not in both] + [set().union(*both)]
    return classes


def assert_partition(partition, classes):
    """The law: members and representatives are those of the classes."""
    for one in range(10):
        together = next(found for found in classes if one in found)
        assert set(partition.members(one)) == together
        assert {partition.representative(item) for item in together} == {partition.representative(one)}
        assert partition.representative(one) in together


@given(pairs)
@example([(0, 0)])
@example([(0, 1), (2, 3), (3, 1)])
@example([(item, item + 1) for item in range(9)])
def test_classes_are_those_of_merged_sets(joins):
    """Whatever is joined in whatever order; what was never joined stands alone."""
    partition = Partition()
    for one, other in joins:
        stays = partition.representative(one)
        partition.join(one, other)
        assert partition.representative(other) == stays
    assert_partition(partition, merged(joins))
    assert set(partition) == {item for pair in joins for item in pair}
    assert bool(partition) == bool(joins)


@given(pairs, st.integers(0, 9))
@example([], 0)
@example([(0, 0)], 0)
@example([(0, 1), (2, 3)], 1)
@example([(item, item + 1) for item in range(9)], 4)
def test_a_class_is_taken_apart(joins, item):
    """Its members stand alone again, and all others stay together."""
    partition = Partition()
    for one, other in joins:
        partition.join(one, other)
    together = next(found for found in merged(joins) if item in found)
    assert set(partition.dissolve(item)) == together
    rest = [found for found in merged(joins) if found != together]
    assert_partition(partition, [*rest, *({member} for member in together)])


def test_joining_items_instead_of_classes_is_refuted():
    """A partition that binds an item and not its representative loses what went with it."""

    class Wrong(Partition):
        def join(self, one, other):
            self._parents[other] = one
            self._parents.setdefault(one, one)

    joins = [(0, 1), (2, 1)]
    wrong = Wrong()
    for one, other in joins:
        wrong.join(one, other)
    refuted(assert_partition, wrong, merged(joins))
