"""What can be computed with plans of one graph: their difference, parts of one, several as one, and one after another.

`Plan.then` composes plans of different graphs. Where a plan of another base or result comes out, the graph is asked for: a plan
holds no more of it than fingerprints.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import reduce

from attrs import evolve, fields, frozen

from depgraph.algebra.indices import IndexSet
from depgraph.algebra.ragged_sets import RaggedSet, Removal, kept_by, left_over, united
from depgraph.algebra.spaces import Atom
from depgraph.errors import MismatchError, PlanError
from depgraph.graph.arguments import of_graph
from depgraph.graph.drops import Drop, renaming, without
from depgraph.graph.graph import Graph
from depgraph.graph.patterns import chosen_groups, listed
from depgraph.messages import shortened
from depgraph.plans.making import plan_of
from depgraph.plans.plan import Cut, Edit, Plan


@frozen
class CutDifference:
    """What two plans remove differently of one group.

    Attributes:
        group: its name.
        first: the indices that only the first plan removes; flat ones, as in `Cut`, where either of the two cuts is ragged.
        second: those that only the second one removes.

    >>> import torch, depgraph as dg
    >>> graph = dg.trace(torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2)), torch.zeros(1, 4))
    >>> one, other = (dg.cut(graph, "0.weight", indices, dim=0) for indices in ([2, 6], [2, 3, 4]))
    >>> one.diff(other).cuts
    (CutDifference(group='0.weight:0', first=IndexSet('6'), second=IndexSet('3-4')),)
    """

    group: str
    first: IndexSet
    second: IndexSet


@frozen
class EditDifference:
    """An edit that was added to two plans differently.

    Attributes:
        path: the attribute's dotted path.
        first: its new value by the first plan; None where that plan has no such edit.
        second: by the second plan.

    >>> import torch, depgraph as dg
    >>> graph = dg.trace(torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2)), torch.zeros(1, 4))
    >>> plan = dg.cut(graph, "0.weight", [2, 6], dim=0)
    >>> plan.edit("width", 6, old=8).diff(plan).edits
    (EditDifference(path='width', first=6, second=None),)
    """

    path: str
    first: int | None
    second: int | None


@frozen
class DropDifference:
    """Which elements leave a list of modules by one of two plans alone.

    Attributes:
        path: the list's dotted path.
        first: the positions that go only by the first plan.
        second: by the second plan.

    >>> import torch, depgraph as dg
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU(), torch.nn.Tanh(), torch.nn.Linear(4, 4))
    >>> graph = dg.trace(model, torch.zeros(1, 4))
    >>> dg.drop(graph, "", [1, 2]).diff(dg.drop(graph, "", [1])).drops
    (DropDifference(path='', first=IndexSet('2'), second=IndexSet('')),)
    """

    path: str
    first: IndexSet
    second: IndexSet


@frozen
class PlanDifference:
    """In what two plans of one graph differ. It is false where they are equal.

    Attributes:
        cuts: the groups of which they remove different indices, in the order of the graph.
        edits: the edits that were added differently, by path.
        drops: the lists of modules that other elements leave, by path.
        fields: the names of other fields that differ although they follow from these, which are the same: one of the plans is
            damaged, which `Plan.apply` tells.

    >>> import torch, depgraph as dg
    >>> graph = dg.trace(torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2)), torch.zeros(1, 4))
    >>> one, other = (dg.cut(graph, "0.weight", indices, dim=0) for indices in ([2, 6], [2, 3, 4]))
    >>> print(one.diff(other))
    <PlanDifference: 1 groups, 0 edits>
      0.weight:0: only the first removes 6; only the second removes 3-4
    >>> bool(one.diff(one))
    False
    """

    cuts: tuple[CutDifference, ...] = ()
    edits: tuple[EditDifference, ...] = ()
    drops: tuple[DropDifference, ...] = ()
    fields: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.cuts or self.edits or self.drops or self.fields)

    def __str__(self) -> str:
        lines = [f"<PlanDifference: {len(self.cuts)} groups, {len(self.edits)} edits>"]
        removed: list[tuple[str, CutDifference | DropDifference]] = [(drop.path or "the model", drop) for drop in self.drops]
        removed += [(cut.group, cut) for cut in self.cuts]
        for name, item in removed:
            sides = (("first", item.first), ("second", item.second))
            told = "; ".join(f"only the {which} removes {indices}" for which, indices in sides if indices)
            lines.append(f"  {name}: {told}")
        lines += [f"  {edit.path}: {edit.first} by the first, {edit.second} by the second" for edit in self.edits]
        lines += [f"  {name} differs, though cuts, drops and edits are the same" for name in self.fields]
        return "\n".join(lines)


def difference(first: Plan, second: Plan) -> PlanDifference:
    """In what two plans of one graph differ: the function behind `Plan.diff`."""
    _check_bases((first, second))
    ours, theirs = _removals(first), _removals(second)
    names = {cut.atom: cut.group for plan in (first, second) for cut in plan.cuts}
    only_first, only_second = kept_by(ours, theirs), kept_by(theirs, ours)
    cuts = tuple(
        CutDifference(names[atom], only_first.get(atom, IndexSet()), only_second.get(atom, IndexSet()))
        for atom in sorted({*only_first, *only_second}, key=lambda atom: atom.id)
    )
    mine, others = ({path: edit.new for path, edit in _added(plan).items()} for plan in (first, second))
    edits = tuple(
        EditDifference(path, mine.get(path), others.get(path))
        for path in sorted({*mine, *others})
        if mine.get(path) != others.get(path)
    )
    one, other = _dropped(first), _dropped(second)
    drops = tuple(
        DropDifference(path, gone - also, also - gone)
        for path in sorted({*one, *other})
        if (gone := one.get(path, IndexSet())) != (also := other.get(path, IndexSet()))
    )
    if cuts or edits or drops:
        return PlanDifference(cuts, edits, drops)
    rest = (item.name for item in fields(Plan) if item.eq and getattr(first, item.name) != getattr(second, item.name))
    return PlanDifference(fields=tuple(rest))


@of_graph
def restricted(graph: Graph, plan: Plan, patterns: str | Iterable[str], ignore: str | Iterable[str] = ()) -> Plan:
    """The cuts of some groups, with what follows from them: the function behind `Plan.restrict`."""
    _check_bases((plan,), graph)
    names = {group.name for group in chosen_groups(graph, ignore, patterns)}
    removed = {cut.atom: cut.removal for cut in plan.cuts if cut.group in names}
    if problems := [*_without_base(plan, removed)]:
        raise PlanError.of(problems)
    part = plan_of(graph, removed, plan.drops if "*" in listed(patterns) else ())
    sizes = {item.path: item.sizes for item in part.unread}
    for path, edit in _added(plan).items():
        if edit.new in sizes.get(path, ()):
            part = part.edit(path, edit.new)
    return part


def _without_base(plan: Plan, removed: Mapping[Atom, Removal]) -> Iterator[str]:
    """Ragged cuts that list nothing for the rows that go, where these rows are to stay."""
    cuts = {cut.atom: cut for cut in plan.cuts}
    for atom, removal in removed.items():
        if isinstance(removal, RaggedSet) and removal.base in cuts and removal.base not in removed:
            base = cuts[removal.base].group
            yield (
                f"group {cuts[atom].group} loses other indices for each index of {base}, and lists none for those of {base} "
                f"that the plan removes: name {base} as well."
            )


@of_graph
def merge(graph: Graph, plans: Iterable[Plan]) -> Plan:
    """One plan that does what several plans of one graph do, each to groups of its own.

    Args:
        graph: the graph that they were made for.
        plans: the plans, in any order. Two of them may cut the same group only alike.

    Raises:
        MismatchError: one of them was made for another graph.
        PlanError: two of them cut one group, or edit one attribute, differently; or a group would keep less than its lower
            bound, or balanced groups lose unequally many. All conflicts are told at once.

    >>> import torch, depgraph as dg
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 6), torch.nn.Linear(6, 2))
    >>> graph = dg.trace(model, torch.zeros(1, 4))
    >>> wide, narrow = dg.cut(graph, "0.weight", [2, 6], dim=0), dg.cut(graph, "2.weight", [0], dim=0)
    >>> both = dg.merge(graph, [wide, narrow])
    >>> dict(both.removed)
    {'0.weight:0': IndexSet('2,6'), '2.weight:0': IndexSet('0')}
    >>> both == wide.then(narrow.rebase(graph, wide))
    True
    >>> dg.merge(graph, [wide, dg.cut(graph, "0.weight", [3], dim=0)])              # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    depgraph.errors.PlanError: group '0.weight:0' loses 2,6 by plan 0 ...
    """
    several = list(plans) if isinstance(plans, Iterable) else [plans]
    _check_bases(several, graph)
    if problems := [*_conflicts(several)]:
        raise PlanError.of(problems)
    return _union(graph, several)


def _conflicts(plans: Sequence[Plan]) -> Iterator[str]:
    """Groups and attributes to which two plans do different things."""
    first_cut: dict[Atom, tuple[int, Cut]] = {}
    first_edit: dict[str, tuple[int, Edit]] = {}
    first_drop: dict[str, tuple[int, IndexSet]] = {}
    for number, plan in enumerate(plans):
        for cut in plan.cuts:
            place, other = first_cut.setdefault(cut.atom, (number, cut))
            if (other.removed, other.base) != (cut.removed, cut.base):
                told = f"{shortened(str(other.removed))} by plan {place} and {shortened(str(cut.removed))} by plan {number}"
                yield f"group {cut.group!r} loses {told}; restrict one of them to other groups."
        for path, gone in _dropped(plan).items():
            place, already = first_drop.setdefault(path, (number, gone))
            if already != gone:
                told = f"{already} by plan {place} and {gone} by plan {number}"
                yield f"list {shortened(repr(path))} loses the elements {told}; leave one of them out."
        for path, edit in _added(plan).items():
            place, before = first_edit.setdefault(path, (number, edit))
            if before != edit:
                told = f"{before.new} by plan {place} and {edit.new} by plan {number}"
                yield f"attribute {shortened(repr(path))} becomes {told}; leave one of the edits out."


def _union(graph: Graph, plans: Sequence[Plan]) -> Plan:
    """The plan that removes what any of the plans removes; of an attribute that several edit the smallest value is taken."""
    nothing: dict[Atom, Removal] = {}
    drops: dict[str, Drop] = {}
    for drop in (drop for each in plans for drop in each.drops):
        before = drops.get(drop.sequence.path, drop)
        drops[drop.sequence.path] = evolve(drop, removed=before.removed | drop.removed)
    stays = renaming(drops.values())
    drops = {path: drop for path, drop in drops.items() if not path or stays(path) is not None}
    plan = plan_of(graph, reduce(united, map(_removals, plans), nothing), list(drops.values()))
    edits: dict[str, Edit] = {}
    for edit in (edit for each in plans for edit in _added(each).values()):
        edits[edit.path] = min(edits.get(edit.path, edit), edit, key=lambda item: item.new)
    for edit in edits.values():
        if plan.name_after(edit.path) is not None:  # else it goes with an element
            plan = plan.edit(edit.path, edit.new, old=edit.old)
    return plan


@of_graph
def rebased(graph: Graph, plan: Plan, onto: Plan) -> Plan:
    """What is left to do of a plan when another one of the same graph is done: the function behind `Plan.rebase`."""
    _check_bases((plan, onto), graph)
    return remainder(graph, onto, _union(graph, (onto, plan)))


@of_graph
def remainder(graph: Graph, done: Plan, wanted: Plan) -> Plan:
    """What is left to do: the plan for ``done.apply(graph)`` with ``done.then(remainder) == wanted``.

    Args:
        graph: the original graph.
        done: a plan for it, which has been executed.
        wanted: another plan for it, which removes all that `done` removes.

    Raises:
        MismatchError: the plans are not for this graph, or the first one removes what the second one keeps.

    >>> import torch, depgraph as dg
    >>> graph = dg.trace(torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2)), torch.zeros(1, 4))
    >>> done, wanted = dg.cut(graph, "0.weight", [1], dim=0), dg.cut(graph, "0.weight", [1, 4, 7], dim=0)
    >>> left = remainder(graph, done, wanted)
    >>> dict(left.removed), done.then(left) == wanted
    ({'0.weight:0': IndexSet('3,6')}, True)
    """
    first, total = _removals(done), _removals(wanted)
    left = without(graph, wanted.drops) if wanted.base == graph.fingerprint else graph
    problems = [
        f"the {name} plan is for the graph {plan.base[:12]}, not for {graph.fingerprint[:12]}"
        for name, plan in (("first", done), ("second", wanted))
        if plan.base != graph.fingerprint
    ]
    problems += [
        f"group {graph.group_of[atom].name} has lost {indices}, which the second plan keeps"
        for atom, indices in kept_by(first, total).items()
        if atom in graph.group_of and atom in left.group_of
    ]
    ours, theirs = _added(done), _added(wanted)
    problems += [
        f"attribute {shortened(repr(path))} became {edit.new}, which the second plan keeps larger"
        for path, edit in ours.items()
        if wanted.name_after(path) is not None and (path not in theirs or theirs[path].new > edit.new)
    ]
    dropped = _dropped(wanted)
    problems += [
        f"list {shortened(repr(path))} has lost the elements {kept}, which the second plan keeps"
        for path, gone in _dropped(done).items()
        if (kept := gone - dropped.get(path, IndexSet())) and (not path or wanted.name_after(path) is not None)
    ]
    if problems:
        raise MismatchError(
            "the second plan does not go on from the first one:",
            problems,
            "Make both on one graph, the second one from lifted scores.",
        )
    after, names = done.apply(graph), {base: name for name, base in done.renamed}

    def renumbered(atom: Atom) -> Atom:
        name = graph.group_of[atom].name
        return after.groups_by_name[names.get(name, name)].atom

    by_id = {atom.id: atom for atom in graph.group_of}
    plan = plan_of(
        after,
        {
            renumbered(atom): RaggedSet(renumbered(by_id[removal.base.id]), removal.sets)
            if isinstance(removal, RaggedSet)
            else removal
            for atom, removal in left_over(first, total).items()
        },
        [*_drops_left(after, done, wanted)],
    )
    for path, edit in theirs.items():
        present = ours[path].new if path in ours else edit.old
        if edit.new < present:
            plan = plan.edit(done.name_after(path) or path, edit.new, old=present)
    return plan


def _drops_left(after: Graph, done: Plan, wanted: Plan) -> Iterator[Drop]:
    """The elements that are still to go, in the lists and positions of the smaller graph."""
    sequences, gone = {item.path: item for item in after.sequences}, _dropped(done)
    for drop in wanted.drops:
        path, before = drop.sequence.path, gone.get(drop.sequence.path, IndexSet())
        name = done.name_after(path) if path else path
        if name is not None and (more := (drop.removed - before).renumber(before)):
            yield Drop(evolve(sequences[name], fixed=(), problem=""), more)


def _dropped(plan: Plan) -> dict[str, IndexSet]:
    """The elements that leave lists, by the lists' paths."""
    return {drop.sequence.path: drop.removed for drop in plan.drops}


def _removals(plan: Plan) -> dict[Atom, Removal]:
    return {cut.atom: cut.removal for cut in plan.cuts}


def _added(plan: Plan) -> dict[str, Edit]:
    """The edits that do not follow from the cuts, by path."""
    added = set(plan.added)
    return {edit.path: edit for edit in plan.edits if edit.path in added}


def _check_bases(plans: Sequence[object], graph: Graph | None = None) -> None:
    """Refuse what is no plan, and plans of different graphs, or of another one than the given graph."""
    problems = [f"expected a Plan, met {type(plan).__name__}." for plan in plans if not isinstance(plan, Plan)]
    if problems:
        raise PlanError.of(problems)
    bases = [plan.base for plan in plans if isinstance(plan, Plan)]
    expected = graph.fingerprint if graph is not None else bases[0]
    problems = [
        f"plan {number}: expected fingerprint {expected[:12]}, met {base[:12]}"
        for number, base in enumerate(bases)
        if base != expected
    ]
    if problems:
        raise MismatchError("the plans were made for different graphs:", problems, "Make all of them on one graph.")
