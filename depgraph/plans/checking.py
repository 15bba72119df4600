"""Every invariant of a plan, in one place: what tests ask of each plan that is made, and `Plan.load` of each file.

A file may come from anywhere. So sizes and counts are looked at before anything is expanded by them, and no path of an edit may
name what is no plain attribute.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from depgraph.algebra.canonical_terms import term_problems
from depgraph.algebra.ragged_sets import RaggedSet
from depgraph.algebra.spaces import atoms

if TYPE_CHECKING:
    from depgraph.plans.plan import Cut, Edit, Plan

MOST_ROWS = 2**20
"""So many rows may each lose their own indices."""

_FINGERPRINT = re.compile(r"[0-9a-f]{64}")
_REGISTRIES = frozenset({"_parameters", "_buffers", "_modules"})


def check(plan: Plan) -> tuple[str, ...]:
    """Everything that is wrong with a plan, one sentence each; empty for every plan that this package makes."""
    bases = [cut.base for cut in plan.cuts if cut.base is not None]
    problems = tuple(term_problems([*(cut.atom for cut in plan.cuts), *bases, *(axis.space for axis in plan.axes)]))
    if problems:  # what follows counts on sizes that are sizes
        return problems
    return (*_ends(plan), *_cuts(plan), *_axes(plan), *_edits(plan.edits), *_renamings(plan))


def _ends(plan: Plan) -> Iterator[str]:
    for name, fingerprint in (("base", plan.base), ("result", plan.result)):
        if not _FINGERPRINT.fullmatch(fingerprint):
            yield f"{name} is no fingerprint of 64 hexadecimal digits"
    if (plan.base == plan.result) != (not plan.cuts):
        yield "a plan leads to another graph exactly where it cuts something"


def _cuts(plan: Plan) -> Iterator[str]:
    numbers = [cut.atom.id for cut in plan.cuts]
    if numbers != sorted(numbers):
        yield "the cuts are not in the order of their atoms"
    yield from _repeated("the atom of two cuts is", numbers)
    yield from _repeated("the group of two cuts is", [cut.group for cut in plan.cuts])
    plain = {cut.atom: cut for cut in plan.cuts if cut.base is None}
    ragged = {cut.atom for cut in plan.cuts if cut.base is not None}
    reached = {atom for axis in plan.axes for atom in atoms(axis.space)}
    for cut in plan.cuts:
        if cut.atom not in reached:
            yield f"group {cut.group!r} is cut, but no axis holds its atom"
        if not cut.removed.intervals:
            yield f"group {cut.group!r} loses nothing"
        elif cut.base is None:
            count = sum(stop - start for start, stop in cut.removed.intervals)
            if cut.removed.intervals[-1][1] > cut.atom.size:
                yield f"group {cut.group!r} has the indices 0 to {cut.atom.size - 1}, and is to lose one beyond"
            elif count >= cut.atom.size:
                yield f"group {cut.group!r} would lose its last index"
        elif cut.base in ragged:
            yield f"group {cut.group!r} is cut along a group that is itself cut ragged"
        else:
            yield from _ragged(cut, plain.get(cut.base))


def _ragged(cut: Cut, base: Cut | None) -> Iterator[str]:
    """A ragged cut takes equally many of each row that stays, and says nothing of one that goes."""
    assert cut.base is not None, "only ragged cuts come here"
    if cut.base.size > MOST_ROWS or cut.removed.intervals[-1][1] > cut.base.size * cut.atom.size:
        yield f"group {cut.group!r} has {min(cut.base.size, MOST_ROWS):,} rows of {cut.atom.size}, and is to lose one beyond"
        return
    sets = RaggedSet.of_flat(cut.base, cut.atom.size, cut.removed).sets
    whole = base.removed if base is not None else ()
    counts = {len(indices) for row, indices in enumerate(sets) if row not in whole}
    if len(counts) != 1 or not 0 < max(counts) < cut.atom.size or any(sets[row] for row in whole if row < len(sets)):
        yield f"group {cut.group!r} does not lose equally many indices, and not all, in each row that stays"


def _axes(plan: Plan) -> Iterator[str]:
    places = [(axis.tensor, axis.dim) for axis in plan.axes]
    if places != sorted(places):
        yield "the axes are not in the order of their tensors and dimensions"
    yield from _repeated("an axis that stands twice is", places)
    cut = {item.atom for item in plan.cuts}
    for axis in plan.axes:
        if not 0 <= axis.dim < 64:
            yield f"{axis.tensor!r} has no dimension {axis.dim}"
        if not cut.intersection(atoms(axis.space)):
            yield f"dimension {axis.dim} of {axis.tensor!r} holds nothing that is cut"


def _edits(edits: Sequence[Edit]) -> Iterator[str]:
    paths = [edit.path for edit in edits]
    if paths != sorted(paths):
        yield "the edits are not in the order of their paths"
    yield from _repeated("an attribute that is edited twice is", paths)
    for edit in edits:
        steps = edit.path.split(".")
        if not all(steps) or any(step.startswith("__") or step in _REGISTRIES for step in steps):
            yield f"an edit's path names plain attributes of modules and their data, met {edit.path!r}"
        if not 1 <= edit.new < edit.old:
            yield f"the edit of {edit.path!r} makes a size smaller, and leaves at least 1, met {edit.old} to {edit.new}"


def _renamings(plan: Plan) -> Iterator[str]:
    for renaming in (plan.renumbered, plan.renamed):
        for side, which in ((0, "in the result"), (1, "in the base")):
            yield from _repeated(f"a number or name {which} that is given twice is", [pair[side] for pair in renaming])


def _repeated(sentence: str, items: Iterable[Hashable]) -> Iterator[str]:
    yield from (f"{sentence} {item!r}" for item, count in Counter(items).items() if count > 1)
