"""Two plans in turn as one: names, numbers and indices of the second one are carried back to the base of the first.

A plan holds all that this asks for, so no graph is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator
from typing import TypeVar

from attrs import evolve

from depgraph.algebra.ragged_sets import RaggedSet, Removal, joined
from depgraph.algebra.spaces import Atom, Space, atoms, substitute
from depgraph.errors import MismatchError, PlanError
from depgraph.graph.branches import Branch
from depgraph.graph.drops import Drop, Rename, renaming
from depgraph.graph.records import FreeAxis, UnreadAttribute
from depgraph.messages import shortened
from depgraph.plans.plan import Cut, Edit, Plan, PrunedAxis, cuts_of, ordered_axes

K = TypeVar("K", int, str)


def composed(first: Plan, second: Plan) -> Plan:
    """One plan that does what two plans do in turn: what `Plan.then` returns.

    Raises:
        MismatchError: the second plan was not made for the first one's result, or expects other values of attributes.
        PlanError: the second one is no plan.
    """
    _refuse_other_start(first, second)
    second = _with_names_of_base(first, second)
    drops, branches = _joined_drops(first, second)
    stays = renaming((*drops, *branches))
    in_base = _lift(first)
    axes = _joined_axes(first, second, in_base, stays)
    single = [cut for cut in second.cuts if cut.atom.size - cut.count == 1]  # an axis of size 1 has no atom
    complete = bool(drops or branches)
    return Plan(
        base=first.base,
        result=second.result,
        cuts=_joined_cuts(first, second, in_base, {atom for axis in axes for atom in atoms(axis.space)}),
        axes=axes,
        edits=_joined_edits(first.edits, second.edits, stays),
        renumbered=_joined_names(
            first.renumbered, second.renumbered, {cut.atom.id for cut in single}, bool(second.leaving), complete
        ),
        renamed=_joined_names(first.renamed, second.renamed, {cut.group for cut in single}, bool(second.leaving), complete),
        targets=second.targets if second.cuts or second.leaving else first.targets,
        added=tuple(sorted(path for path in {*first.added, *second.added} if stays(path) is not None)),
        unread_attributes=_joined_unread(first, second, in_base, stays),
        tied=tuple(sorted(_ties_left({*first.tied, *second.tied}, stays))),
        drops=drops,
        free=_joined_free(first, second, in_base),
        moves=_joined_edits(first.moves, second.moves, stays),
        branches=branches,
        stricter=tuple(sorted({**dict(second.stricter), **dict(first.stricter)}.items())),
    )


def _refuse_other_start(first: Plan, second: object) -> None:
    """Raise unless the second plan starts where the first one ends."""
    if not isinstance(second, Plan):
        raise PlanError(f"expected a Plan, met {type(second).__name__}; load a file with dg.Plan.load(path).")
    if second.base != first.result:
        raise MismatchError(
            "the second plan does not start where the first one ends:",
            [f"the first plan leads to {first.result[:12]}, the second one starts at {second.base[:12]}"],
            f"Make the second plan on first.apply(graph).{_other_start(first)}",
        )


def _other_start(first: Plan) -> str:
    """What else the fix may be where the first plan's result is stricter than a trace."""
    if not first.stricter:
        return ""
    name, why = first.stricter[0]
    return (
        f" It is stricter than a trace of the pruned model, for {shortened(name)} may alone have said of axes what it says "
        f"({why}): a plan that was made on that trace is executed on the pruned model, after the first one."
    )


def _with_names_of_base(first: Plan, second: Plan) -> Plan:
    """The second plan with the names that tensors, modules and attributes have in the first one's base.

    Raises:
        MismatchError: it expects other values of attributes than the first one leaves.
    """
    if first.drops:
        second = _renamed(second, first.name_before)
    now = {edit.path: edit.new for edit in first.writes}
    then = {edit.path: edit.old for edit in second.writes}
    problems = [
        f"the first plan sets {shortened(repr(path))} to {now[path]}, the second one expects {then[path]}"
        for path in sorted(now.keys() & then.keys())
        if now[path] != then[path]
    ]
    if problems:
        raise MismatchError(
            "the second plan does not start where the first one ends:", problems, "Make its edits on first.apply(graph)."
        )
    return second


def _renamed(plan: Plan, name: Callable[[str], str]) -> Plan:
    """A plan with other names of tensors, modules and attributes."""
    return evolve(
        plan,
        axes=tuple(evolve(axis, tensor=name(axis.tensor)) for axis in plan.axes),
        edits=tuple(evolve(edit, path=name(edit.path)) for edit in plan.edits),
        added=tuple(map(name, plan.added)),
        free=tuple(evolve(item, name=name(item.name)) if item.kind == "vocabulary" else item for item in plan.free),
        moves=tuple(evolve(edit, path=name(edit.path)) for edit in plan.moves),
        unread_attributes=tuple(evolve(item, path=name(item.path)) for item in plan.unread_attributes),
        tied=tuple(tuple(map(name, names)) for names in plan.tied),
        drops=tuple(evolve(drop, sequence=drop.sequence.with_names(name)) for drop in plan.drops),
        branches=tuple(branch.with_names(name) for branch in plan.branches),
        stricter=tuple((name(element), why) for element, why in plan.stricter),
    )


def _joined_drops(first: Plan, second: Plan) -> tuple[tuple[Drop, ...], tuple[Branch, ...]]:
    """The elements and branches that go by either plan; those inside of an element that goes are no longer told."""
    joint = {drop.sequence.path: drop for drop in first.drops}
    for drop in second.drops:
        own = joint.get(drop.sequence.path)
        if own is None:
            joint[drop.sequence.path] = drop
        else:
            joint[drop.sequence.path] = evolve(own, removed=own.removed | drop.removed.lift(own.removed))
    branches = {branch.path: branch for branch in (*first.branches, *second.branches)}
    stays = renaming((*joint.values(), *branches.values()))
    return (
        tuple(joint[path] for path in sorted(joint) if not path or stays(path) is not None),
        tuple(branches[path] for path in sorted(branches) if stays(path) is not None),
    )


def _lift(first: Plan) -> Callable[[Atom], Atom]:
    """From an atom of a plan's result to that of its base, with the size that it has there."""
    numbers = dict(first.renumbered)
    base_sizes = {atom.id: atom for axis in first.axes for atom in atoms(axis.space)}

    def in_base(atom: Atom) -> Atom:
        number = numbers.get(atom.id, atom.id)
        return base_sizes.get(number, Atom(number, atom.size))

    return in_base


def _joined_axes(first: Plan, second: Plan, in_base: Callable[[Atom], Space], stays: Rename) -> tuple[PrunedAxis, ...]:
    """The axes that either plan makes shorter, of tensors that stay."""
    axes = {(axis.tensor, axis.dim): axis for axis in first.axes}
    for axis in second.axes:
        axes.setdefault((axis.tensor, axis.dim), evolve(axis, space=substitute(axis.space, in_base)))
    return ordered_axes(axis for axis in axes.values() if stays(axis.tensor) is not None)


def _joined_cuts(first: Plan, second: Plan, in_base: Callable[[Atom], Atom], left: Container[Atom]) -> tuple[Cut, ...]:
    """What groups lose by both plans, in indices of the base. A group goes with the elements that hold it."""
    names = dict(first.renamed)
    groups = {cut.atom: cut.group for cut in first.cuts}
    before: dict[Atom, Removal] = {cut.atom: cut.removal for cut in first.cuts if cut.atom in left}
    then: dict[Atom, Removal] = {}
    for cut in second.cuts:
        atom, removal = in_base(cut.atom), cut.removal
        groups.setdefault(atom, names.get(cut.group, cut.group))
        then[atom] = RaggedSet(in_base(removal.base), removal.sets) if isinstance(removal, RaggedSet) else removal
    return cuts_of(joined(before, then), groups)


def _joined_edits(first: Iterable[Edit], second: Iterable[Edit], stays: Rename) -> tuple[Edit, ...]:
    """What two sets of edits come to, one after the other."""
    first, second = tuple(first), tuple(second)
    before = {edit.path: edit.old for edit in (*second, *first)}
    after = {edit.path: edit.new for edit in (*first, *second) if stays(edit.path) is not None}
    return tuple(Edit(path, before[path], after[path]) for path in sorted(after) if before[path] != after[path])


def _joined_unread(first: Plan, second: Plan, in_base: Callable[[Atom], Space], stays: Rename) -> tuple[UnreadAttribute, ...]:
    """What nothing has read, with what it may count in the base."""
    before = {edit.path: edit.old for edit in (*second.edits, *first.edits)}
    unread = {item.path: item for item in first.unread_attributes}
    for item in second.unread_attributes:
        spaces = tuple(substitute(space, in_base) for space in item.spaces)
        if all(space.size == before.get(item.path, item.value) for space in spaces):
            unread.setdefault(item.path, UnreadAttribute(item.path, spaces))
    return tuple(unread[path] for path in sorted(unread) if stays(path) is not None)


def _joined_free(first: Plan, second: Plan, in_base: Callable[[Atom], Space]) -> tuple[FreeAxis, ...]:
    """The axes of inputs, outputs and vocabularies that become shorter by either plan."""
    free = {(item.name, item.dim, item.kind): evolve(item, space=substitute(item.space, in_base)) for item in second.free}
    free.update({(item.name, item.dim, item.kind): item for item in first.free})
    return tuple(free[key] for key in sorted(free))


def _ties_left(ties: Iterable[tuple[str, ...]], stays: Rename) -> Iterator[tuple[str, ...]]:
    """The ties of what stays."""
    for names in ties:
        left = tuple(name for name in names if stays(name) is not None)
        if len(left) > 1:
            yield left


def _joined_names(
    first: tuple[tuple[K, K], ...],
    second: tuple[tuple[K, K], ...],
    single: Container[K],
    second_complete: bool,
    complete: bool,
) -> tuple[tuple[K, K], ...]:
    """The renamings of two plans in turn, from the second result to the first base.

    A name that only the first plan changes is that of the second result too, unless it is of a `single` index that stays: a
    group that comes down to one is none any more.

    Args:
        first: (name in its result, name in its base), where they differ.
        second: likewise.
        single: names of groups that the second plan brings down to one index.
        second_complete: whether the second plan names all groups, as those do by which elements or branches leave.
        complete: whether the result does.
    """
    to_base, second_map = dict(first), dict(second)
    result = {new: to_base.get(middle, middle) for new, middle in second_map.items()}
    unchanged = set() if second_complete else to_base.keys() - second_map.keys() - set(second_map.values())
    result.update({middle: to_base[middle] for middle in unchanged if middle not in single})
    return tuple(sorted((new, base) for new, base in result.items() if complete or new != base))
