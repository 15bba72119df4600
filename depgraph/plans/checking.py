"""Every invariant of a plan, in one place: what tests ask of each that is made, `Plan.load` of each file, execution of any.

A file may come from anywhere. So types are checked before all else, sizes and counts before anything is expanded by
them, and the path of an edit may name plain attributes only.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, get_args

from depgraph.algebra.canonical_terms import LARGEST_SIZE, MAX_BLOCKS, term_problems
from depgraph.algebra.indices import IndexSet
from depgraph.algebra.spaces import Atom, Product, Reversed, Space, Sum, atoms
from depgraph.codec import DEEPEST
from depgraph.graph.branches import ZEROS
from depgraph.graph.checking import sequence_problems
from depgraph.graph.paths import is_step
from depgraph.graph.records import FreeAxis, Interface, ModuleSequence, UnreadAttribute
from depgraph.messages import number_text, shortened

if TYPE_CHECKING:
    from depgraph.plans.plan import Cut, Edit, Plan

MAX_REPEATS = 64
"""All axes together come to `MAX_BLOCKS` intervals of indices that go, or to so many for each interval that the cuts list."""

_FINGERPRINT = re.compile(r"[0-9a-f]{64}")


def check(plan: Plan) -> tuple[str, ...]:
    """Everything that is wrong with a plan, one sentence each; empty for every plan that this package makes."""
    if problems := tuple(_type_problems(plan)):
        return problems
    bases = [cut.base for cut in plan.cuts if cut.base is not None]
    unread = [space for item in plan.unread_attributes for space in item.spaces]
    spaces = [axis.space for axis in plan.axes] + [axis.space for axis in plan.free]
    problems = tuple(term_problems([*(cut.atom for cut in plan.cuts), *bases, *spaces, *unread]))
    if problems:  # the other checks rely on valid sizes
        return problems
    structure = (_fingerprints, _cut_problems, _axis_problems, _size_problems)
    problems = tuple(problem for problems_of in structure for problem in problems_of(plan))
    others = (
        _interface_problems,
        _unread_problems,
        _tie_problems,
        _renaming_problems,
        _target_problems,
        _drop_problems,
        _branch_problems,
    )
    return (*problems, *edit_problems(plan.edits), *(problem for problems_of in others for problem in problems_of(plan)))


def is_well_typed(plan: Plan) -> bool:
    """Whether every field holds what its type says, so that it can be compared with a model; all else may be wrong."""
    return not any(True for _ in _type_problems(plan))


def _type_problems(plan: Plan) -> Iterator[str]:
    """Fields of a wrong type. A file cannot have them, for `load` checks types; a plan that was built by hand can."""
    from depgraph.graph.branches import Branch
    from depgraph.graph.drops import Drop
    from depgraph.plans.plan import Cut, Edit, PrunedAxis, Target

    def is_cut(item: Any) -> bool:
        return (
            type(item) is Cut
            and type(item.group) is str
            and _is_index_set(item.removed)
            and _is_atom(item.atom)
            and (item.base is None or _is_atom(item.base))
        )

    def is_axis(item: Any) -> bool:
        return type(item) is PrunedAxis and type(item.tensor) is str and type(item.dim) is int and _is_term(item.space)

    def is_edit(item: Any) -> bool:
        return type(item) is Edit and type(item.path) is str and type(item.old) is int and type(item.new) is int

    def is_free(item: Any) -> bool:
        if type(item) is not FreeAxis or item.kind not in get_args(Interface):
            return False
        return type(item.name) is str and type(item.dim) is int and _is_term(item.space)

    def is_target(item: Any) -> bool:
        numbers = {int, float}
        return type(item) is Target and type(item.name) is str and {type(item.requested), type(item.realised)} <= numbers

    def is_unread(item: Any) -> bool:
        if type(item) is not UnreadAttribute or type(item.path) is not str or type(item.spaces) is not tuple:
            return False
        return bool(item.spaces) and all(map(_is_term, item.spaces))

    def is_tie(item: Any) -> bool:
        return type(item) is tuple and len(item) > 1 and all(type(name) is str for name in item)

    def is_drop(item: Any) -> bool:
        return type(item) is Drop and _is_sequence(item.sequence) and _is_index_set(item.removed)

    def is_branch(item: Any) -> bool:
        if type(item) is not Branch or type(item.path) is not str or type(item.like) is not str:
            return False
        lists = (item.returns, item.beside, item.keeps)
        return all(type(names) is tuple and all(type(name) is str for name in names) for names in lists)

    def is_pair(kind: type) -> Callable[[Any], bool]:
        return lambda item: type(item) is tuple and len(item) == 2 and type(item[0]) is type(item[1]) is kind

    for name in ("base", "result"):
        if type(getattr(plan, name)) is not str:
            yield f"{name} is no text"
    for name, fits in (
        ("cuts", is_cut),
        ("axes", is_axis),
        ("edits", is_edit),
        ("moves", is_edit),
        ("free", is_free),
        ("renumbered", is_pair(int)),
        ("renamed", is_pair(str)),
        ("targets", is_target),
        ("added", lambda item: type(item) is str),
        ("unread_attributes", is_unread),
        ("tied", is_tie),
        ("drops", is_drop),
        ("branches", is_branch),
        ("stricter", is_pair(str)),
    ):
        items = getattr(plan, name)
        if type(items) is not tuple:
            yield f"{name} is no tuple"
        else:
            yield from (f"{name}[{place}] is no {name} entry" for place, item in enumerate(items) if not fits(item))


def _is_index_set(item: object) -> bool:
    return type(item) is IndexSet and _are_intervals(item.intervals)


def _is_sequence(item: Any) -> bool:
    """Whether this is a list of modules as `drop` names one: why its elements may not leave is no business of a plan."""
    if type(item) is not ModuleSequence or type(item.path) is not str or type(item.numbered) is not bool:
        return False
    lists = (item.elements, item.counts, item.positions)
    if not all(type(names) is tuple and all(type(name) is str for name in names) for names in lists):
        return False
    if type(item.entries) is not tuple or not all(map(_is_entry, item.entries)):
        return False
    return item.fixed == () and item.problem == ""


def _is_entry(item: object) -> bool:
    """Whether this is a path with the texts that stand there."""
    if type(item) is not tuple or len(item) != 2 or type(item[0]) is not str or type(item[1]) is not tuple:
        return False
    return all(type(text) is str for text in item[1])


def _is_atom(item: object) -> bool:
    return type(item) is Atom and type(item.id) is int and type(item.size) is int


def _are_intervals(intervals: object) -> bool:
    """Whether these are sorted intervals that neither overlap nor touch."""
    if type(intervals) is not tuple:
        return False
    last = -1
    for interval in intervals:
        if type(interval) is not tuple or len(interval) != 2 or type(interval[0]) is not int or type(interval[1]) is not int:
            return False
        if not last < interval[0] < interval[1]:
            return False
        last = interval[1]
    return True


def _is_term(space: object) -> bool:
    """Whether this is a space of a bounded depth, looked at level by level: deeper ones have no hash."""
    if type(space) is Atom:
        return _is_atom(space)
    level: list[object] = [space]
    for _ in range(DEEPEST):
        below: list[object] = []
        for term in level:
            if type(term) is Reversed:
                below.append(term.atom)
            elif type(term) in {Product, Sum}:
                children = term.factors if type(term) is Product else term.parts  # type: ignore[attr-defined]
                if type(children) is not tuple:
                    return False
                below.extend(children)
            elif not _is_atom(term):
                return False
        if not below:
            return True
        level = below
    return False


def _fingerprints(plan: Plan) -> Iterator[str]:
    for name, fingerprint in (("base", plan.base), ("result", plan.result)):
        if not _FINGERPRINT.fullmatch(fingerprint):
            yield f"{name} is no fingerprint of 64 hexadecimal digits"
    if (plan.base == plan.result) != (not plan.cuts and not plan.leaving):
        yield "a plan leads to another graph exactly where it cuts something"


def _cut_problems(plan: Plan) -> Iterator[str]:
    numbers = [cut.atom.id for cut in plan.cuts]
    if numbers != sorted(numbers):
        yield "the cuts are not in the order of their atoms"
    yield from _duplicates("the atom of two cuts is", numbers)
    yield from _duplicates("the group of two cuts is", [cut.group for cut in plan.cuts])
    plain = {cut.atom: cut for cut in plan.cuts if cut.base is None}
    ragged = {cut.atom for cut in plan.cuts if cut.base is not None}
    reached = {atom for axis in plan.axes for atom in atoms(axis.space)}
    for cut in plan.cuts:
        group = shortened(repr(cut.group))
        if cut.atom not in reached:
            yield f"group {group} is cut, but no axis holds its atom"
        if not cut.removed.intervals:
            yield f"group {group} loses nothing"
        elif cut.base is None:
            count = sum(stop - start for start, stop in cut.removed.intervals)
            if cut.removed.intervals[-1][1] > cut.atom.size:
                yield f"group {group} has the indices 0 to {cut.atom.size - 1}, and is to lose one beyond"
            elif count >= cut.atom.size:
                yield f"group {group} would lose its last index"
        elif cut.base in ragged:
            yield f"group {group} is cut along a group that is itself cut ragged"
        else:
            yield from (f"group {group} {problem}" for problem in _ragged_problems(cut, plain.get(cut.base)))


def _ragged_problems(cut: Cut, base: Cut | None) -> Iterator[str]:
    """A ragged cut removes equally many indices of each row that stays, and lists none of a removed row.

    Its intervals are walked once, so that the work grows with what the cut lists and not with the rows it claims.
    """
    assert cut.base is not None, "only ragged cuts come here"
    rows, size = cut.base.size, cut.atom.size
    if cut.removed.intervals[-1][1] > rows * size:
        yield f"has {rows:,} rows of {size:,}, and is to lose one beyond"
        return
    lists: dict[int, list[tuple[int, int]]] = {}
    for start, stop in cut.removed.intervals:
        first, last = start // size, (stop - 1) // size
        if last - first > 1:
            yield "would lose a row's last index"
            return
        for row in {first, last}:
            lists.setdefault(row, []).append((max(start - row * size, 0), min(stop - row * size, size)))
    whole_rows = base.removed if base is not None else IndexSet()
    counts = {sum(stop - start for start, stop in intervals) for intervals in lists.values()}
    if (
        len(counts) != 1
        or max(counts) >= size
        or len(lists) + len(whole_rows) != rows
        or any(row in whole_rows for row in lists)
    ):
        yield "does not lose equally many indices, and not all, in each row that stays"


def _axis_problems(plan: Plan) -> Iterator[str]:
    places = [(axis.tensor, axis.dim) for axis in plan.axes]
    if places != sorted(places):
        yield "the axes are not in the order of their tensors and dimensions"
    yield from _duplicates("an axis that stands twice is", places)
    cut = {item.atom for item in plan.cuts}
    bases = {item.atom: item.base for item in plan.cuts if item.base is not None}
    spaces = _spaces(plan)
    cut_atoms = {space: cut.intersection(atoms(space)) for space in spaces}
    untouched = {space for space, inside in cut_atoms.items() if not inside}
    misplaced = {
        space
        for space, inside in cut_atoms.items()
        if any(atom in bases and not _is_inside(space, atom, bases[atom]) for atom in inside)
    }
    named = [(axis.tensor, axis.dim, axis.space) for axis in plan.axes]
    for name, dim, space in (*named, *((axis.name, axis.dim, axis.space) for axis in plan.free)):
        where = f"dimension {number_text(dim)} of {shortened(repr(name))}"
        if not 0 <= dim < 64:
            yield f"{shortened(repr(name))} has no dimension {number_text(dim)}"
        if space in untouched:
            yield f"{where} holds nothing that is cut"
        if space in misplaced:
            yield f"{where} holds an atom whose cut is ragged, but not inside of its rows"


def _spaces(plan: Plan) -> set[Space]:
    """The spaces of all axes; many of these share few."""
    return {axis.space for axis in plan.axes} | {axis.space for axis in plan.free}


def _is_inside(space: Space, atom: Atom, base: Atom) -> bool:
    """Whether an atom stands in a space only where a base stands before it in a product, both forwards."""
    if isinstance(space, Sum):
        return all(_is_inside(part, atom, base) for part in space.parts)
    if atom not in atoms(space):
        return True
    if any(isinstance(item, Reversed) and item.atom in {atom, base} for item in _parts(space)):
        return False
    for factor in space.factors if isinstance(space, Product) else (space,):
        if factor == base:
            return True
        if atom in atoms(factor):
            return isinstance(factor, Sum) and _is_inside(factor, atom, base)
    return True


def _parts(space: Space) -> Iterator[Space]:
    """The atoms of a term as they stand in it, backwards or not."""
    if isinstance(space, (Atom, Reversed)):
        yield space
    else:
        for child in space.factors if isinstance(space, Product) else space.parts:
            yield from _parts(child)


def _size_problems(plan: Plan) -> Iterator[str]:
    """`Plan.kept` and ragged removals expand to a bounded multiple of what the plan lists: a small file cannot fill memory."""
    interval_counts = {cut.atom: len(cut.removed.intervals) for cut in plan.cuts}
    limit = max(MAX_BLOCKS, MAX_REPEATS * sum(interval_counts.values()))
    if sum(cut.base.size for cut in plan.cuts if cut.base is not None) > limit:
        yield f"its ragged cuts come to more than {limit:,} rows"
    if sum(_count_intervals(space, interval_counts) for space in _spaces(plan)) > limit:
        yield f"its axes come to more than {limit:,} intervals of indices that go"


def _count_intervals(space: Space, interval_counts: Mapping[Atom, int]) -> int:
    """An upper bound of the number of intervals of removed indices along an axis."""
    if isinstance(space, Sum):
        return sum(_count_intervals(part, interval_counts) for part in space.parts)
    if isinstance(space, Product):
        outer, total = 1, 0
        for factor in space.factors:
            total += outer * _count_intervals(factor, interval_counts)
            outer *= factor.size
        return total
    return interval_counts.get(space.atom if isinstance(space, Reversed) else space, 0)


def _interface_problems(plan: Plan) -> Iterator[str]:
    """Axes of the interface and moves of indices that are not in order, or that edit what is edited as a size, too."""
    places = [(item.name, item.dim, item.kind) for item in plan.free]
    if places != sorted(places):
        yield "the free axes are not in the order of their names and dimensions"
    yield from edit_problems(plan.moves, least=0)
    both = {edit.path for edit in plan.moves} & {edit.path for edit in plan.edits}
    yield from (f"the attribute {shortened(repr(path))} is edited as a size and as an index" for path in sorted(both))
    if plan.moves and not any(item.kind == "vocabulary" for item in plan.free):
        yield "indices of a vocabulary move, but none becomes smaller"


def edit_problems(edits: Sequence[Edit], least: int = 1) -> Iterator[str]:
    """Edits that are not in order, do not only make numbers smaller, or whose paths name more than plain attributes."""
    paths = [edit.path for edit in edits]
    if paths != sorted(paths):
        yield "the edits are not in the order of their paths"
    yield from _duplicates("an attribute that is edited twice is", paths)
    forbidden = {step for step in {step for path in paths for step in path.split(".")} if not is_step(step)}
    for edit in edits:
        if forbidden and not forbidden.isdisjoint(edit.path.split(".")):
            yield f"an edit's path names plain attributes of modules and their data, met {shortened(repr(edit.path))}"
        if not least <= edit.new < edit.old <= LARGEST_SIZE:
            numbers = f"{number_text(edit.old)} to {number_text(edit.new)}"
            yield f"the edit of {shortened(repr(edit.path))} makes a size smaller, and leaves at least {least}, met {numbers}"


def _drop_problems(plan: Plan) -> Iterator[str]:
    """Drops that are not in order, name no elements or all of them, or lead to something else than modules and plain data."""
    paths = [drop.sequence.path for drop in plan.drops]
    if paths != sorted(paths):
        yield "the drops are not in the order of their lists"
    problems = [*sequence_problems(drop.sequence for drop in plan.drops)]
    yield from problems
    for drop in plan.drops:
        path, length = shortened(repr(drop.sequence.path)), len(drop.sequence.elements)
        if not drop.removed.intervals or drop.removed.intervals[-1][1] > length:
            yield f"list {path} has the elements 0 to {length - 1}, and loses none or one beyond"
        elif len(drop.removed) == length:
            yield f"list {path} would lose its last element"
    if list(plan.stricter) != sorted(dict(plan.stricter).items()):
        yield "the elements that make the result stricter are not in their order, each once"
    for name, _ in () if problems else plan.stricter:
        if plan.name_after(name) is not None:
            yield f"{shortened(repr(name))} is said to make the result stricter, but goes with no element"
    if plan.leaving and not problems:
        tensors = {axis.tensor for axis in plan.axes} | {name for names in plan.tied for name in names}
        attributes = {edit.path for edit in plan.writes} | {item.path for item in plan.unread_attributes}
        for name in sorted(tensors | attributes):
            if plan.name_after(name) is None:
                yield f"{shortened(repr(name))} goes with an element of a list, or with a branch"


def _branch_problems(plan: Plan) -> Iterator[str]:
    """Branches that are not in order, or lead to something else than modules, their arguments and plain data."""
    paths = [branch.path for branch in plan.branches]
    if paths != sorted(paths):
        yield "the branches are not in the order of their paths"
    replaced = [path for branch in plan.branches for path in branch.replaced]
    yield from _duplicates("a module that goes with two branches is", replaced)
    for branch in plan.branches:
        path = shortened(repr(branch.path))
        if not all(is_step(step) for name in branch.replaced for step in name.split(".")) or not all(
            map(is_step, branch.keeps)
        ):
            yield f"the branch {path} names something else than modules and plain attributes"
        keys = [branch.like, *(item for item in branch.returns if item not in {"", ZEROS})]
        if not all(key.isidentifier() or (is_step(key) and key.isdigit()) for key in keys):
            yield f"the branch {path} names arguments by positions and keywords, met {shortened(repr(keys))}"
        if branch.returns and ZEROS not in branch.returns:
            yield f"the branch {path} returns nothing that could be added"
        if list(branch.beside) != sorted(branch.beside) or list(branch.keeps) != sorted(branch.keeps):
            yield f"the branch {path} does not list its modules and attributes in their order"
    inside = {path for path in replaced for other in replaced if path.startswith(f"{other}.")}
    yield from (f"the module {shortened(repr(path))} lies in another one that goes" for path in sorted(inside))


def _unread_problems(plan: Plan) -> Iterator[str]:
    """What was added is edited; what forward did not read is no edit that follows from the cuts."""
    if list(plan.added) != sorted(set(plan.added)):
        yield "the added edits are not in the order of their paths, each once"
    edited = {edit.path: edit for edit in plan.edits}
    missing = [path for path in plan.added if path not in edited]
    yield from (f"the edit of {shortened(repr(path))} is called added, but is not there" for path in missing)
    paths = [item.path for item in plan.unread_attributes]
    if paths != sorted(paths):
        yield "the unread attributes are not in the order of their paths"
    yield from _duplicates("an unread attribute that stands twice is", paths)
    for item in plan.unread_attributes:
        path = shortened(repr(item.path))
        if not all(map(is_step, item.path.split("."))):
            yield f"an unread attribute's path names plain attributes of modules and their data, met {path}"
        if len({space.size for space in item.spaces}) != 1 or item.value < 2:
            yield f"the unread attribute {path} may count spaces of one size, its own"
        if item.path in edited and item.path not in plan.added:
            yield f"the attribute {path} is called unread, but its edit is not an added one"


def _tie_problems(plan: Plan) -> Iterator[str]:
    """Tied names are those of parameters that the plan cuts, alike under each of them."""
    if list(plan.tied) != sorted(plan.tied):
        yield "the tied names are not in their order"
    yield from _duplicates("a tied name that stands twice is", [name for names in plan.tied for name in names])
    dims: dict[str, list[tuple[int, Space]]] = {}
    for axis in plan.axes if plan.tied else ():
        dims.setdefault(axis.tensor, []).append((axis.dim, axis.space))
    for first, *others in plan.tied:
        for name in others:
            if first not in dims or dims[first] != dims.get(name):
                yield f"{shortened(repr(first))} and {shortened(repr(name))} are called tied, but are not cut alike"


def _renaming_problems(plan: Plan) -> Iterator[str]:
    for renaming in (plan.renumbered, plan.renamed):
        for side, which in ((0, "in the result"), (1, "in the base")):
            yield from _duplicates(f"a number or name {which} that is given twice is", [pair[side] for pair in renaming])
    if any(not 0 <= number <= LARGEST_SIZE for pair in plan.renumbered for number in pair):
        yield "a number of an atom is below 0, or larger than any"


def _target_problems(plan: Plan) -> Iterator[str]:
    """JSON has no other numbers than finite ones."""
    for target in plan.targets:
        if not all(math.isfinite(number) for number in (target.requested, target.realised) if type(number) is float):
            yield f"the target {shortened(repr(target.name))} is no finite number"


def _duplicates(sentence: str, items: Iterable[Hashable]) -> Iterator[str]:
    for item, count in Counter(items).items():
        if count > 1:
            yield f"{sentence} {number_text(item) if isinstance(item, int) else shortened(repr(item))}"
