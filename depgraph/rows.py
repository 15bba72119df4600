"""Index sets by row: what each index of one atom, the base, loses of another atom. Every row loses as many.

A plain cut takes the same indices of a head's width in each head. Rows take as many in each, but in each its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any

from attrs import frozen

from depgraph.errors import PlanError
from depgraph.indices import IndexSet
from depgraph.spaces import Atom, Product, Reversed, Space, Sum, atoms, image


@frozen
class Rows:
    """One index set for each index of a base.

    Attributes:
        base: the atom whose indices are the rows.
        sets: what each row loses; a row that goes as a whole has the empty set.
    """

    base: Atom
    sets: tuple[IndexSet, ...]

    @classmethod
    def of_flat(cls, base: Atom, size: int, flat: IndexSet) -> Rows:
        """The rows of a set of flat indices of the product of the base and an atom of the given size.

        >>> Rows.of_flat(Atom(0, 2), 4, IndexSet.of([1, 3, 4, 6])).sets
        (IndexSet('1,3'), IndexSet('0,2'))
        """
        starts = range(0, base.size * size, size)
        rows = (flat & IndexSet.range(start, start + size) for start in starts)
        return cls(base, tuple(row.shift(-start) for start, row in zip(starts, rows, strict=True)))

    def flat(self, size: int) -> IndexSet:
        """The inverse of `of_flat`."""
        return IndexSet(tuple((a + k * size, b + k * size) for k, row in enumerate(self.sets) for a, b in row.intervals))

    def __len__(self) -> int:
        """How many indices a row loses."""
        return max(map(len, self.sets), default=0)

    def without(self, gone: IndexSet) -> Rows | IndexSet:
        """What is left to say once some rows are gone as a whole: one set if all others lose the same.

        >>> Rows(Atom(0, 3), (IndexSet.of([1]), IndexSet.of([0]), IndexSet.of([1]))).without(IndexSet.of([1]))
        IndexSet('1')
        """
        sets = tuple(IndexSet() if row in gone else lost for row, lost in enumerate(self.sets))
        distinct = {lost for row, lost in enumerate(sets) if row not in gone}
        return distinct.pop() if len(distinct) == 1 else Rows(self.base, sets)


def rows_image(space: Space, atom: Atom, rows: Rows) -> IndexSet:
    """The flat indices of `space` that go with an atom's indices, row by row.

    Raises:
        PlanError: the atom stands somewhere in the space without its base around it.

    >>> heads, dims = Atom(0, 2), Atom(1, 3)
    >>> rows_image(Product((heads, dims)), dims, Rows(heads, (IndexSet.of([0]), IndexSet.of([2]))))
    IndexSet('0,5')
    """
    if len(set(rows.sets)) == 1:
        return image(space, {atom: rows.sets[0]})
    return IndexSet(tuple(_gone(space, 0, None, atom, rows)))


def _gone(space: Space, start: int, row: int | None, atom: Atom, rows: Rows) -> Iterator[tuple[int, int]]:
    """The intervals that go in a block that begins at `start`, once the row is known."""
    if isinstance(space, Sum):
        for part in space.parts:
            yield from _gone(part, start, row, atom, rows)
            start += part.size
        return
    factors = space.factors if isinstance(space, Product) else (space,)
    first, rest = (factors[0], Product(factors[1:])) if factors else (space, space)
    if not any(atom in atoms(factor) for factor in factors):
        return
    if first == atom:
        if row is None:
            raise PlanError(f"{atom} is to be cut row by row, but stands in {space} without {rows.base} around it.")
        yield from ((start + a * rest.size, start + b * rest.size) for a, b in rows.sets[row].intervals)
    elif isinstance(first, Sum):
        yield from _gone(first, start, row, atom, rows)  # nothing follows a sum in a product
    elif isinstance(first, Reversed) and first.atom in {atom, rows.base}:
        raise PlanError(f"{first.atom} is to be cut row by row, but stands backwards in {space}.")
    else:
        for index in range(first.size):
            yield from _gone(rest, start + index * rest.size, index if first == rows.base else row, atom, rows)


def is_table(values: Any) -> bool:
    """Whether scores are given row by row: one sequence of numbers for each index of a base."""
    first = values[0] if len(values) else None
    return isinstance(first, (list, tuple)) or getattr(first, "ndim", 0) == 1


@frozen
class Place:
    """Where an atom's index counts in a flat index: by how much, and whether from its end."""

    atom: Atom
    stride: int
    backwards: bool = False


@frozen
class Term:
    """One product of a space: flat index = offset + the sum of index times stride of its places, the outermost first."""

    offset: int
    places: tuple[Place, ...]


@lru_cache(maxsize=65536)
def terms(space: Space) -> tuple[Term, ...]:
    """The products whose sum a space is.

    >>> for term in terms(Sum((Atom(0, 2), Product((Atom(1, 2), Atom(2, 3)))))):
    ...     print(term.offset, [place.stride for place in term.places])
    0 [1]
    2 [3, 1]
    """
    if isinstance(space, Atom):
        return (Term(0, (Place(space, 1),)),)
    if isinstance(space, Reversed):
        return (Term(0, (Place(space.atom, 1, True),)),)
    if isinstance(space, Sum):
        found: list[Term] = []
        start = 0
        for part in space.parts:
            found.extend(Term(term.offset + start, term.places) for term in terms(part))
            start += part.size
        return tuple(found)
    joined: Iterable[Term] = (Term(0, ()),)
    inner = space.size
    for factor in space.factors:
        inner //= factor.size
        joined = [_inside(outer, term, inner) for outer in joined for term in terms(factor)]
    return tuple(joined)


def _inside(outer: Term, term: Term, inner: int) -> Term:
    scaled = (Place(place.atom, place.stride * inner, place.backwards) for place in term.places)
    return Term(outer.offset + term.offset * inner, (*outer.places, *scaled))
