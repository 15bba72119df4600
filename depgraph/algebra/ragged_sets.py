"""What groups lose, by one cut or by several in turn: a set of indices, or, for a ragged cut, one for each index of a base.

The base is another group, and its indices are the rows.
A plain cut takes the same indices of a head's width in each head. A ragged one takes as many in each, but in each its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

from attrs import frozen

from depgraph.algebra.index_maps import image
from depgraph.algebra.indices import IndexSet
from depgraph.algebra.spaces import Atom, Product, Reversed, Space, Sum, atoms
from depgraph.errors import PlanError


@frozen
class RaggedSet:
    """One index set for each index of a base.

    Attributes:
        base: the atom whose indices are the rows.
        sets: the indices that go in each row, as many in each; the empty set for a row that goes as a whole.
    """

    base: Atom
    sets: tuple[IndexSet, ...]

    @classmethod
    def of_flat(cls, base: Atom, size: int, flat: IndexSet) -> RaggedSet:
        """The rows of a set of flat indices of the product of the base and an atom of the given size.

        >>> RaggedSet.of_flat(Atom(0, 2), 4, IndexSet.of([1, 3, 4, 6])).sets
        (IndexSet('1,3'), IndexSet('0,2'))
        """
        rows: list[list[tuple[int, int]]] = [[] for _ in range(base.size)]
        for start, stop in flat.intervals:
            for row in range(start // size, -(-stop // size)):
                rows[row].append((max(start - row * size, 0), min(stop - row * size, size)))
        nothing = IndexSet()
        return cls(base, tuple(IndexSet(tuple(row)) if row else nothing for row in rows))

    def flat(self, size: int) -> IndexSet:
        """The inverse of `of_flat`."""
        return IndexSet(tuple((a + k * size, b + k * size) for k, row in enumerate(self.sets) for a, b in row.intervals))

    def __len__(self) -> int:
        """How many indices a row loses."""
        return max(map(len, self.sets), default=0)

    def without(self, gone: IndexSet) -> RaggedSet | IndexSet:
        """What is left to say once some rows are gone as a whole: one set if all others lose the same.

        >>> RaggedSet(Atom(0, 3), (IndexSet.of([1]), IndexSet.of([0]), IndexSet.of([1]))).without(IndexSet.of([1]))
        IndexSet('1')
        """
        sets = tuple(IndexSet() if row in gone else indices for row, indices in enumerate(self.sets))
        distinct = {indices for row, indices in enumerate(sets) if row not in gone}
        return distinct.pop() if len(distinct) == 1 else RaggedSet(self.base, sets)


def ragged_image(space: Space, atom: Atom, removed: RaggedSet) -> IndexSet:
    """The flat indices of `space` that go with an atom's indices, row by row.

    Raises:
        PlanError: the atom stands somewhere in the space without its base around it.

    >>> heads, dims = Atom(0, 2), Atom(1, 3)
    >>> ragged_image(Product((heads, dims)), dims, RaggedSet(heads, (IndexSet.of([0]), IndexSet.of([2]))))
    IndexSet('0,5')
    """
    if not space.size:
        return IndexSet()
    if len(set(removed.sets)) == 1:
        return image(space, {atom: removed.sets[0]})
    return IndexSet(tuple(_intervals(space, 0, None, atom, removed)))


def _intervals(space: Space, start: int, row: int | None, atom: Atom, removed: RaggedSet) -> Iterator[tuple[int, int]]:
    """The intervals that go in a block that begins at `start`, once the row is known."""
    if isinstance(space, Sum):
        for part in space.parts:
            yield from _intervals(part, start, row, atom, removed)
            start += part.size
        return
    factors = space.factors if isinstance(space, Product) else (space,)
    first, rest = (factors[0], Product(factors[1:])) if factors else (space, space)
    if not any(atom in atoms(factor) for factor in factors):
        return
    if first == atom:
        if row is None:
            raise PlanError(f"{atom} is to be cut row by row, but stands in {space} without {removed.base} around it.")
        yield from ((start + a * rest.size, start + b * rest.size) for a, b in removed.sets[row].intervals)
    elif isinstance(first, Sum):
        yield from _intervals(first, start, row, atom, removed)  # nothing follows a sum in a product
    elif isinstance(first, Reversed) and first.atom in {atom, removed.base}:
        raise PlanError(f"{first.atom} is to be cut row by row, but stands backwards in {space}.")
    else:
        for index in range(first.size):
            yield from _intervals(rest, start + index * rest.size, index if first == removed.base else row, atom, removed)


def is_table(values: Any) -> bool:
    """Whether scores are given row by row: one sequence of numbers for each index of a base."""
    first = values[0] if len(values) else None
    return isinstance(first, (list, tuple)) or getattr(first, "ndim", 0) == 1


Removal: TypeAlias = IndexSet | RaggedSet
"""What a group loses: the same indices everywhere, or as many in each row."""


Removals: TypeAlias = Mapping[Atom, Removal]


def canonical(removed: Removals) -> dict[Atom, Removal]:
    """Rows that go as a whole say nothing about their indices; where all others lose the same, one set says it."""
    return {
        atom: lost.without(_plain(removed.get(lost.base))) if isinstance(lost, RaggedSet) else lost
        for atom, lost in removed.items()
    }


def row_problem(name: str, lost: RaggedSet, base_removal: Removal | None) -> str | None:
    """What is wrong unless there is a set for each row, and those that stay lose equally many."""
    if len(lost.sets) != lost.base.size:
        return f"group {name} has {lost.base.size} rows, met indices for {len(lost.sets)}."
    whole = _plain(base_removal)
    counts = {row: len(indices) for row, indices in enumerate(lost.sets) if row not in whole}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{count} in row {row}" for row, count in counts.items())
        return f"group {name} must lose equally many indices in each row, met {listed}."
    return None


def joined(first: Removals, second: Removals) -> dict[Atom, Removal]:
    """What goes by two cuts, the second one in the numbers that the first one leaves.

    Raises:
        PlanError: the two cut one group row by row along different others.
    """
    total: dict[Atom, Removal] = {}
    ragged: list[Atom] = []
    for atom in dict.fromkeys((*first, *second)):
        before, after = first.get(atom, IndexSet()), second.get(atom, IndexSet())
        if isinstance(before, RaggedSet) or isinstance(after, RaggedSet):
            ragged.append(atom)
        else:
            total[atom] = before | after.lift(before)
    for atom in ragged:
        total[atom] = _joined_ragged(atom, first, second, total)
    return canonical(total)


def left_over(first: Removals, total: Removals) -> dict[Atom, Removal]:
    """What goes by a second cut if both together are to be `total`: in the numbers that the first one leaves."""
    rest: dict[Atom, Removal] = {}
    for atom, lost in total.items():
        before = first.get(atom, IndexSet())
        base = _base(lost, before)
        if base is None:
            assert isinstance(lost, IndexSet) and isinstance(before, IndexSet)
            rest[atom] = (lost - before).renumber(before)
            continue
        gone, already = _plain(total.get(base)), _plain(first.get(base))
        ours, whole = (_in_rows(part, base, gone).sets for part in (before, lost))
        sets = [(whole[row] - ours[row]).renumber(ours[row]) for row in already.complement(base.size)]
        rest[atom] = RaggedSet(Atom(base.id, len(sets)), tuple(sets)).without((gone - already).renumber(already))
    return {atom: lost for atom, lost in rest.items() if lost}


def kept_by(first: Removals, total: Removals) -> dict[Atom, IndexSet]:
    """What a first cut removes and `total` keeps, by atom; in flat indices where either is ragged."""
    only_first: dict[Atom, IndexSet] = {}
    for atom, before in first.items():
        lost = total.get(atom, IndexSet())
        base = _base(lost, before)
        if base is None:
            assert isinstance(lost, IndexSet) and isinstance(before, IndexSet)
            only_first[atom] = before - lost
            continue
        flat = [_in_rows(part, base, _plain(total.get(base))).flat(atom.size) for part in (before, lost)]
        only_first[atom] = flat[0] - flat[1]
    return {atom: indices for atom, indices in only_first.items() if indices}


def _base(*parts: Removal) -> Atom | None:
    """The base of the first removal that is ragged."""
    return next((part.base for part in parts if isinstance(part, RaggedSet)), None)


def _in_rows(lost: Removal, base: Atom, gone: IndexSet) -> RaggedSet:
    """A removal as a ragged one, of which the given rows go as a whole."""
    sets = lost.sets if isinstance(lost, RaggedSet) else (lost,) * base.size
    return RaggedSet(base, tuple(IndexSet() if row in gone else indices for row, indices in enumerate(sets)))


def _joined_ragged(atom: Atom, first: Removals, second: Removals, total: Removals) -> Removal:
    """What one group loses by two cuts of which one is ragged; `total` tells which rows go as a whole."""
    before, after = first.get(atom, IndexSet()), second.get(atom, IndexSet())
    if isinstance(before, RaggedSet):
        before = before.without(_plain(total.get(before.base)))
    if isinstance(before, RaggedSet) and isinstance(after, RaggedSet) and before.base != after.base:
        raise PlanError("the plans cut one group row by row along two others, which no one plan says. Nothing was changed.")
    base = _base(before, after)
    if base is None:
        assert isinstance(before, IndexSet) and isinstance(after, IndexSet)
        return before | after.lift(before)
    sets = [IndexSet()] * base.size
    for place, row in enumerate(_plain(first.get(base)).complement(base.size)):
        ours = before.sets[row] if isinstance(before, RaggedSet) else before
        theirs = after.sets[place] if isinstance(after, RaggedSet) else after
        sets[row] = ours | theirs.lift(ours)
    return RaggedSet(base, tuple(sets))


def _plain(lost: Removal | None) -> IndexSet:
    """The rows that go as a whole: what a base loses is the same everywhere, for a base is not ragged itself."""
    if isinstance(lost, RaggedSet):
        raise PlanError("a group that loses other indices in each row cannot be the rows of another one. Nothing was changed.")
    return IndexSet() if lost is None else lost
