"""The text of a plan's file. `docs/plan-format.md` describes it, `plan.schema.json` beside this module is its JSON Schema.

Version 2 has a line for each cut, for all axes of one space, and for each edit, in one order: equal plans have equal texts, and
a small change is a small difference. Version 1, which lists each axis with its space, is read as ever.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import NoReturn

from attrs import field, fields, frozen

from depgraph import codec
from depgraph.algebra.indices import IndexSet
from depgraph.algebra.spaces import Atom, Space, atoms
from depgraph.graph.branches import Branch
from depgraph.graph.drops import Drop
from depgraph.graph.records import FreeAxis, ModuleSequence, UnreadAttribute
from depgraph.messages import shortened
from depgraph.plans.checking import check
from depgraph.plans.plan import Cut, Edit, Plan, PrunedAxis, Target, ordered_axes

VERSION = 2
LONGEST_RUNS = 1024
"""So many characters of runs at most stand where bits would be shorter: nobody reads more of them."""

MOST_RENUMBERED = 2**18
"""So many atoms have other numbers in a result at most, and so many elements a list has: no model comes near, and a small file
must not make a large plan."""

_BITS = "bits:"
_AXIS = re.compile(r"(.*):(0|[1-9][0-9]?)", re.DOTALL)


@frozen
class CutLine:
    """A cut: the group's name, its atom, what goes, and the atom of the rows where each loses its own."""

    group: str
    atom: Atom
    removed: str
    base: Atom | None = field(default=None, metadata=codec.LATE)


@frozen
class AxesLine:
    """The axes of one space, each as ``tensor:dimension``."""

    space: Space
    of: tuple[str, ...]


@frozen
class DropLine:
    """Elements that leave a list of modules: how many it has, or their names where these are no positions, and which go."""

    path: str
    removed: str
    length: int = field(default=0, metadata=codec.LATE)
    names: tuple[str, ...] = field(default=(), metadata=codec.LATE)
    counts: tuple[str, ...] = field(default=(), metadata=codec.LATE)
    positions: tuple[str, ...] = field(default=(), metadata=codec.LATE)
    entries: tuple[tuple[str, tuple[str, ...]], ...] = field(default=(), metadata=codec.LATE)

    @classmethod
    def of(cls, drop: Drop) -> DropLine:
        """The line of a drop."""
        item = drop.sequence
        count = len(item.elements)
        plain = item.numbered and item.elements == tuple(map(str, range(count)))
        length, names = (count, ()) if plain else (0, item.elements)
        return cls(item.path, str(drop.removed), length, names, item.counts, item.positions, item.entries)

    def drop(self) -> Drop:
        """The drop of a line."""
        if self.length > MOST_RENUMBERED:
            raise ValueError(f"a list of more than {MOST_RENUMBERED:,} elements")
        elements = self.names or tuple(map(str, range(self.length)))
        sequence = ModuleSequence(self.path, elements, not self.names, self.counts, self.positions, self.entries)
        return Drop(sequence, IndexSet.parse(self.removed))


@frozen
class PlanContent:
    """A plan as version 2 of its file has it: the fields of `Plan`, of which those that are seldom used are seldom written."""

    base: str
    result: str
    cuts: tuple[CutLine, ...]
    axes: tuple[AxesLine, ...]
    edits: tuple[tuple[str, int, int], ...]
    added: tuple[tuple[str, int, int], ...] = field(default=(), metadata=codec.LATE)
    renumbered: tuple[tuple[int, int, int], ...] = field(default=(), metadata=codec.LATE)
    renamed: tuple[tuple[str, str], ...] = field(default=(), metadata=codec.LATE)
    targets: tuple[Target, ...] = field(default=(), metadata=codec.LATE)
    unread: tuple[UnreadAttribute, ...] = field(default=(), metadata=codec.LATE)
    tied: tuple[tuple[str, ...], ...] = field(default=(), metadata=codec.LATE)
    drops: tuple[DropLine, ...] = field(default=(), metadata=codec.LATE)
    free: tuple[FreeAxis, ...] = field(default=(), metadata=codec.LATE)
    moves: tuple[tuple[str, int, int], ...] = field(default=(), metadata=codec.LATE)
    branches: tuple[Branch, ...] = field(default=(), metadata=codec.LATE)
    stricter: tuple[tuple[str, str], ...] = field(default=(), metadata=codec.LATE)

    @classmethod
    def of(cls, plan: Plan) -> PlanContent:
        """The content that stands for a plan."""
        added = set(plan.added)
        edits = [(edit.path, edit.old, edit.new) for edit in plan.edits]
        return cls(
            plan.base,
            plan.result,
            tuple(CutLine(cut.group, cut.atom, _removed_text(cut), cut.base) for cut in plan.cuts),
            _axes_lines(plan.axes),
            tuple(edit for edit in edits if edit[0] not in added),
            tuple(edit for edit in edits if edit[0] in added),
            tuple(_runs_of(plan.renumbered)),
            plan.renamed,
            plan.targets,
            plan.unread_attributes,
            plan.tied,
            tuple(map(DropLine.of, plan.drops)),
            plan.free,
            tuple((edit.path, edit.old, edit.new) for edit in plan.moves),
            plan.branches,
            plan.stricter,
        )

    def plan(self) -> Plan:
        """The plan that the content stands for. Raises `ValueError` for texts that are none of their kind."""
        if sum(max(count, 0) for *_, count in self.renumbered) > MOST_RENUMBERED:
            raise ValueError(f"more than {MOST_RENUMBERED:,} atoms have other numbers")
        pairs = [(new + k, old + k) for new, old, count in self.renumbered for k in range(count)]
        edits = sorted((*self.edits, *self.added), key=lambda edit: edit[0])
        return Plan(
            self.base,
            self.result,
            tuple(Cut(line.group, line.atom, _removed(line), line.base) for line in self.cuts),
            ordered_axes(PrunedAxis(*_axis(name), line.space) for line in self.axes for name in line.of),
            tuple(Edit(*edit) for edit in edits),
            tuple(pairs),
            self.renamed,
            self.targets,
            tuple(path for path, *_ in self.added),
            self.unread,
            self.tied,
            tuple(line.drop() for line in self.drops),
            self.free,
            tuple(Edit(*move) for move in self.moves),
            self.branches,
            self.stricter,
        )


def dumps(plan: Plan) -> str:
    """The text of a plan's file.

    >>> import torch, depgraph as dg
    >>> graph = dg.trace(torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2)), torch.zeros(1, 4))
    >>> print(*dumps(dg.cut(graph, "0.weight", [2, 6], dim=0)).splitlines()[7:16], sep="\\n")
      "cuts": [
       {"group": "0.weight:0", "atom": [0, 8], "removed": "2,6"}
      ],
      "axes": [
       {"space": [0, 8], "of": ["0.bias:0", "0.weight:0", "1.weight:1"]}
      ],
      "edits": [
       ["0.out_features", 8, 6],
       ["1.in_features", 8, 6]
    """
    return codec.dumps_by_line("plan", VERSION, PlanContent.of(plan))


def loads(text: str, source: str = "the document") -> Plan:
    """Read what `dumps` wrote, or what version 1 did.

    Raises:
        DocumentError: as `codec.loads`; or it says something that no plan of this package says.
    """
    version, content = codec.opened(text, "plan", source, (1, VERSION))
    if version == 1:
        return codec.structured(content, "plan", Plan, source, check)
    said = codec.structured(content, "plan", PlanContent, source)
    try:
        plan = said.plan()
    except ValueError as error:
        raise codec.invalid("plan", source, [str(error)]) from None
    problems = check(plan) or tuple(_other_words(said, PlanContent.of(plan)))
    if problems:
        raise codec.invalid("plan", source, problems)
    return plan


def _other_words(said: PlanContent, canonical: PlanContent) -> Iterator[str]:
    """Fields that say what they say in another way than `dumps` does: equal plans have one text."""
    for item in fields(PlanContent):
        if getattr(said, item.name) != getattr(canonical, item.name):
            yield f"{item.name} is not written as a plan's save() writes it"


def _removed_text(cut: Cut) -> str:
    """What goes, as runs; as bits where the runs are long and the bits are shorter."""
    runs, size = str(cut.removed), _flat_size(cut)
    if len(runs) <= LONGEST_RUNS or len(runs) <= len(_BITS) + 4 * ((size + 23) // 24):
        return runs
    digits, position = [], 0
    for start, stop in cut.removed.intervals:
        digits += ["0" * (start - position), "1" * (stop - start)]
        position = stop
    number = int("".join(digits)[::-1], 2)
    return _BITS + base64.b64encode(number.to_bytes((size + 7) // 8, "little")).decode()


def _removed(line: CutLine) -> IndexSet:
    if not line.removed.startswith(_BITS):
        return IndexSet.parse(line.removed)
    try:
        data = base64.b64decode(line.removed.removeprefix(_BITS), validate=True)
    except binascii.Error:
        _refuse(f"expected base 64 behind {_BITS!r}, met", line.removed)
    if len(data) != (_flat_size(line) + 7) // 8:
        _refuse(f"expected {_flat_size(line)} bits, met", line.removed)
    digits = f"{int.from_bytes(data, 'little'):b}"[::-1]
    return IndexSet(tuple(run.span() for run in re.finditer("1+", digits)))


def _flat_size(cut: Cut | CutLine) -> int:
    """How many indices a cut counts: those of the group, in each row where the rows lose their own."""
    return cut.atom.size * (cut.base.size if cut.base is not None else 1)


def _axes_lines(axes: Iterable[PrunedAxis]) -> tuple[AxesLine, ...]:
    """A line for each space, by the atoms that it holds."""
    names: dict[Space, list[str]] = {}
    for axis in axes:
        names.setdefault(axis.space, []).append(f"{axis.tensor}:{axis.dim}")
    return tuple(AxesLine(space, tuple(names[space])) for space in sorted(names, key=order_of))


def order_of(space: Space) -> tuple[list[int], str]:
    """By what the lines of axes are sorted: the atoms that a space holds, and how it reads."""
    return [atom.id for atom in atoms(space)], str(space)


def _axis(name: str) -> tuple[str, int]:
    parts = _AXIS.fullmatch(name)
    if parts is None:
        _refuse("expected an axis such as 'layer.weight:0', met", name)
    return parts[1], int(parts[2])


def _runs_of(pairs: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int, int]]:
    """Pairs of numbers as runs: the first pair, and how many follow one another in both numbers."""
    numbered = enumerate(pairs)
    for _, run in groupby(numbered, key=lambda item: (item[1][0] - item[0], item[1][1] - item[0])):
        members = [pair for _, pair in run]
        yield (*members[0], len(members))


def _refuse(sentence: str, met: str) -> NoReturn:
    raise ValueError(f"{sentence} {shortened(repr(met))}")
