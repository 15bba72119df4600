"""Removals of groups, and their composition: a set of indices, or, for a ragged cut, one set for each index of a base.

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

    def without(self, removed_rows: IndexSet) -> RaggedSet | IndexSet:
        """The canonical form where some rows are removed as a whole: one set if all others lose the same indices.

        >>> RaggedSet(Atom(0, 3), (IndexSet.of([1]), IndexSet.of([0]), IndexSet.of([1]))).without(IndexSet.of([1]))
        IndexSet('1')
        """
        sets = tuple(IndexSet() if row in removed_rows else indices for row, indices in enumerate(self.sets))
        distinct = {indices for row, indices in enumerate(sets) if row not in removed_rows}
        return distinct.pop() if len(distinct) == 1 else RaggedSet(self.base, sets)


def ragged_image(space: Space, atom: Atom, removed: RaggedSet) -> IndexSet:
    """The flat indices of `space` that go when an atom loses the given indices of each row.

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
            raise PlanError(f"{atom} is to be cut ragged, but stands in {space} without {removed.base} around it.")
        yield from ((start + a * rest.size, start + b * rest.size) for a, b in removed.sets[row].intervals)
    elif isinstance(first, Sum):
        yield from _intervals(first, start, row, atom, removed)  # nothing follows a sum in a product
    elif isinstance(first, Reversed) and first.atom in {atom, removed.base}:
        raise PlanError(f"{first.atom} is to be cut ragged, but stands backwards in {space}.")
    else:
        for index in range(first.size):
            yield from _intervals(rest, start + index * rest.size, index if first == removed.base else row, atom, removed)


def is_table(values: Any) -> bool:
    """Whether scores are a table: one sequence of numbers for each index of a base."""
    first = values[0] if len(values) else None
    return isinstance(first, (list, tuple)) or getattr(first, "ndim", 0) == 1


Removal: TypeAlias = IndexSet | RaggedSet
"""What a group loses: the same indices everywhere, or as many in each row."""


Removals: TypeAlias = Mapping[Atom, Removal]


def canonical(removed: Removals) -> dict[Atom, Removal]:
    """The one form of equal removals: rows removed as a whole list no indices, and one set stands for equal rows."""
    return {
        atom: removal.without(_removed_rows(removed.get(removal.base))) if isinstance(removal, RaggedSet) else removal
        for atom, removal in removed.items()
    }


def row_problem(name: str, removal: RaggedSet, base_removal: Removal | None) -> str | None:
    """What is wrong with a ragged removal: it needs a set for each row, and equally many indices in each row that stays."""
    if len(removal.sets) != removal.base.size:
        return f"group {name} has {removal.base.size} rows, met indices for {len(removal.sets)}."
    removed_rows = _removed_rows(base_removal)
    counts = {row: len(indices) for row, indices in enumerate(removal.sets) if row not in removed_rows}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{count} in row {row}" for row, count in counts.items())
        return f"group {name} must lose equally many indices in each row, met {listed}."
    return None


def joined(first: Removals, second: Removals) -> dict[Atom, Removal]:
    """The removals of two cuts together; the second counts in the indices that the first one leaves.

    Raises:
        PlanError: the two cut one group ragged along different bases.
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


def united(first: Removals, second: Removals) -> dict[Atom, Removal]:
    """What goes by one cut or the other, or by both; they count in the same indices.

    Raises:
        PlanError: the two cut one group ragged along different bases.

    >>> group = Atom(0, 8)
    >>> united({group: IndexSet.of([1, 2])}, {group: IndexSet.of([2, 5])})[group]
    IndexSet('1-2,5')
    """
    total: dict[Atom, Removal] = {}
    ragged: dict[Atom, tuple[Removal, Removal]] = {}
    for atom in dict.fromkeys((*first, *second)):
        one, other = first.get(atom, IndexSet()), second.get(atom, IndexSet())
        if isinstance(one, RaggedSet) or isinstance(other, RaggedSet):
            ragged[atom] = one, other
        else:
            total[atom] = one | other
    for atom, (one, other) in ragged.items():
        _check_bases(one, other)
        base = _base(one, other)
        assert base is not None, "one of the two is ragged"
        pairs = zip(*(_as_ragged(part, base, _removed_rows(total.get(base))).sets for part in (one, other)), strict=True)
        total[atom] = RaggedSet(base, tuple(mine | theirs for mine, theirs in pairs))
    return canonical(total)


def left_over(first: Removals, total: Removals) -> dict[Atom, Removal]:
    """The removals that complete `first` to `total`, counted in the indices that `first` leaves."""
    second: dict[Atom, Removal] = {}
    for atom, removal in total.items():
        before = first.get(atom, IndexSet())
        base = _base(removal, before)
        if base is None:
            assert isinstance(removal, IndexSet) and isinstance(before, IndexSet)
            second[atom] = (removal - before).renumber(before)
            continue
        rows_total, rows_first = _removed_rows(total.get(base)), _removed_rows(first.get(base))
        sets_first, sets_total = (_as_ragged(part, base, rows_total).sets for part in (before, removal))
        sets = [(sets_total[row] - sets_first[row]).renumber(sets_first[row]) for row in rows_first.complement(base.size)]
        second[atom] = RaggedSet(Atom(base.id, len(sets)), tuple(sets)).without((rows_total - rows_first).renumber(rows_first))
    return {atom: removal for atom, removal in second.items() if removal}


def kept_by(first: Removals, total: Removals) -> dict[Atom, IndexSet]:
    """What a first cut removes and `total` keeps, by atom; in flat indices where either is ragged."""
    only_first: dict[Atom, IndexSet] = {}
    for atom, before in first.items():
        removal = total.get(atom, IndexSet())
        base = _base(removal, before)
        if base is None:
            assert isinstance(removal, IndexSet) and isinstance(before, IndexSet)
            only_first[atom] = before - removal
            continue
        flat = [_as_ragged(part, base, _removed_rows(total.get(base))).flat(atom.size) for part in (before, removal)]
        only_first[atom] = flat[0] - flat[1]
    return {atom: indices for atom, indices in only_first.items() if indices}


def _base(*parts: Removal) -> Atom | None:
    """The base of the first removal that is ragged."""
    return next((part.base for part in parts if isinstance(part, RaggedSet)), None)


def _check_bases(one: Removal, other: Removal) -> None:
    if isinstance(one, RaggedSet) and isinstance(other, RaggedSet) and one.base != other.base:
        raise PlanError("the plans cut one group ragged along two others, which no one plan can state. Nothing was changed.")


def _as_ragged(removal: Removal, base: Atom, removed_rows: IndexSet) -> RaggedSet:
    """A removal as a ragged one, of which the given rows go as a whole."""
    sets = removal.sets if isinstance(removal, RaggedSet) else (removal,) * base.size
    return RaggedSet(base, tuple(IndexSet() if row in removed_rows else indices for row, indices in enumerate(sets)))


def _joined_ragged(atom: Atom, first: Removals, second: Removals, total: Removals) -> Removal:
    """What one group loses by two cuts of which one is ragged; `total` tells which rows go as a whole."""
    before, after = first.get(atom, IndexSet()), second.get(atom, IndexSet())
    if isinstance(before, RaggedSet):
        before = before.without(_removed_rows(total.get(before.base)))
    _check_bases(before, after)
    base = _base(before, after)
    if base is None:
        assert isinstance(before, IndexSet) and isinstance(after, IndexSet)
        return before | after.lift(before)
    sets = [IndexSet()] * base.size
    for position, row in enumerate(_removed_rows(first.get(base)).complement(base.size)):
        row_before = before.sets[row] if isinstance(before, RaggedSet) else before
        row_after = after.sets[position] if isinstance(after, RaggedSet) else after
        sets[row] = row_before | row_after.lift(row_before)
    return RaggedSet(base, tuple(sets))


def _removed_rows(base_removal: Removal | None) -> IndexSet:
    """The rows removed as a whole: the removal of a base, which cannot be ragged itself."""
    if isinstance(base_removal, RaggedSet):
        raise PlanError("a group that loses other indices in each row cannot be the rows of another one. Nothing was changed.")
    return IndexSet() if base_removal is None else base_removal
