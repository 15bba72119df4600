"""What groups lose, and what they lose by one cut after another: a set of indices, or a set in each row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from depgraph.errors import PlanError
from depgraph.indices import IndexSet
from depgraph.rows import Rows
from depgraph.spaces import Atom

Removal: TypeAlias = IndexSet | Rows
"""What a group loses: the same indices everywhere, or as many in each row."""

Removals: TypeAlias = Mapping[Atom, Removal]


def canonical(removed: Removals) -> dict[Atom, Removal]:
    """Rows that go as a whole say nothing about their indices; where all others lose the same, one set says it."""
    return {
        atom: lost.without(_plain(removed.get(lost.base))) if isinstance(lost, Rows) else lost for atom, lost in removed.items()
    }


def check_rows(name: str, lost: Rows, gone: Removal | None) -> None:
    """Raise `PlanError` unless there is a set for each row, and those that stay lose equally many."""
    if len(lost.sets) != lost.base.size:
        raise PlanError(f"group {name} has {lost.base.size} rows, met indices for {len(lost.sets)}. Nothing was changed.")
    whole = _plain(gone)
    counts = {row: len(indices) for row, indices in enumerate(lost.sets) if row not in whole}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{count} in row {row}" for row, count in counts.items())
        raise PlanError(f"group {name} must lose equally many indices in each row, met {listed}. Nothing was changed.")


def joined(first: Removals, second: Removals) -> dict[Atom, Removal]:
    """What goes by two cuts, the second one in the numbers that the first one leaves.

    Raises:
        PlanError: the two cut one group row by row along different others.
    """
    total: dict[Atom, Removal] = {}
    by_row: list[Atom] = []
    for atom in dict.fromkeys((*first, *second)):
        before, after = first.get(atom, IndexSet()), second.get(atom, IndexSet())
        if isinstance(before, Rows) or isinstance(after, Rows):
            by_row.append(atom)
        else:
            total[atom] = before | after.lift(before)
    for atom in by_row:
        total[atom] = _joined_rows(atom, first, second, total)
    return canonical(total)


def left_over(first: Removals, total: Removals) -> dict[Atom, Removal]:
    """What goes by a second cut if both together are to be `total`: in the numbers that the first one leaves."""
    found: dict[Atom, Removal] = {}
    for atom, lost in total.items():
        before = first.get(atom, IndexSet())
        base = _base(lost, before)
        if base is None:
            assert isinstance(lost, IndexSet) and isinstance(before, IndexSet)
            found[atom] = (lost - before).renumber(before)
            continue
        gone, already = _plain(total.get(base)), _plain(first.get(base))
        ours, whole = (_in_rows(part, base, gone).sets for part in (before, lost))
        sets = [(whole[row] - ours[row]).renumber(ours[row]) for row in already.complement(base.size)]
        found[atom] = Rows(Atom(base.id, len(sets)), tuple(sets)).without((gone - already).renumber(already))
    return {atom: lost for atom, lost in found.items() if lost}


def kept_by(first: Removals, total: Removals) -> dict[Atom, IndexSet]:
    """What a first cut removes and `total` keeps, by atom; in flat indices where either is row by row."""
    found: dict[Atom, IndexSet] = {}
    for atom, before in first.items():
        lost = total.get(atom, IndexSet())
        base = _base(lost, before)
        if base is None:
            assert isinstance(lost, IndexSet) and isinstance(before, IndexSet)
            found[atom] = before - lost
            continue
        flat = [_in_rows(part, base, _plain(total.get(base))).flat(atom.size) for part in (before, lost)]
        found[atom] = flat[0] - flat[1]
    return {atom: kept for atom, kept in found.items() if kept}


def _base(*parts: Removal) -> Atom | None:
    """The base of the first part that is by rows."""
    return next((part.base for part in parts if isinstance(part, Rows)), None)


def _in_rows(lost: Removal, base: Atom, gone: IndexSet) -> Rows:
    sets = lost.sets if isinstance(lost, Rows) else (lost,) * base.size
    return Rows(base, tuple(IndexSet() if row in gone else indices for row, indices in enumerate(sets)))


def _joined_rows(atom: Atom, first: Removals, second: Removals, total: Removals) -> Removal:
    """The same of one atom that a cut takes row by row, once it is known which rows go."""
    before, after = first.get(atom, IndexSet()), second.get(atom, IndexSet())
    if isinstance(before, Rows):
        before = before.without(_plain(total.get(before.base)))
    if isinstance(before, Rows) and isinstance(after, Rows) and before.base != after.base:
        raise PlanError("the plans cut one group row by row along two others, which no one plan says. Nothing was changed.")
    base = _base(before, after)
    if base is None:
        assert isinstance(before, IndexSet) and isinstance(after, IndexSet)
        return before | after.lift(before)
    sets = [IndexSet()] * base.size
    for place, row in enumerate(_plain(first.get(base)).complement(base.size)):
        ours = before.sets[row] if isinstance(before, Rows) else before
        theirs = after.sets[place] if isinstance(after, Rows) else after
        sets[row] = ours | theirs.lift(ours)
    return Rows(base, tuple(sets))


def _plain(lost: Removal | None) -> IndexSet:
    """What the base of rows loses: the same everywhere, for it is itself not cut row by row."""
    if isinstance(lost, Rows):
        raise PlanError("a group that loses other indices in each row cannot be the rows of another one. Nothing was changed.")
    return IndexSet() if lost is None else lost
