"""Axes of the model's interface that a trace sets free: of inputs, of outputs, and of the vocabularies that ids look up.

An id is a position in a table, so removing rows of the table means other ids for the same tokens. That is right where ids
come from an input, and forward does nothing with them but to look them up, to move them about, and to compare them with a
number that follows, such as the id of padding. All else pins the vocabulary.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Container, Iterator, Mapping
from functools import cached_property

from attrs import frozen

from depgraph.algebra.spaces import Atom, Space, atoms
from depgraph.errors import TraceError
from depgraph.graph.records import Balance, FreeAxis, Interface, NamedIndex, SizeAttribute, place_of
from depgraph.solving.expressions import Attribute, AxisSize, Expression, parts_of
from depgraph.solving.recording import Recording
from depgraph.solving.sized import origin, plain_int, sized_in
from depgraph.solving.statements import Axis, Call, Equal, Pin, Rule, Term, Value

VOCABULARY = "vocabulary"
"""What `free=` takes for all vocabularies at once."""

_INDEX_NAME = re.compile(r"(?:.*_)?(?:token_ids?|token_index|padding_idx|pad_idx)")
_SIZE_NAME = "vocab_size"


def names_an_index(path: str) -> bool:
    """Whether an integer of this dotted path stands for an index of a vocabulary, by the names that models give to such."""
    *_, before, last = ("", *path.split("."))
    return _INDEX_NAME.fullmatch(before if last.isdigit() else last) is not None


@frozen
class _Lookup:
    """A call that looks ids up in a table."""

    call: Call
    table: Value
    ids: Value


@frozen
class _Comparison:
    """A call that compares ids with a number."""

    call: Call
    ids: Value
    number: Expression
    value: int


class Ids:
    """What forward does with the numbers in its inputs: which tables it looks them up in, and what else it reads them for.

    Attributes:
        lookups: the calls that look something up.
        comparisons: those that compare an input's numbers with one number.
        others: what else is done with the numbers of each input, by the input's value, with the first place.
    """

    def __init__(self, recording: Recording, rules: Mapping[str, Rule]) -> None:
        self.lookups: list[_Lookup] = []
        self.comparisons: list[_Comparison] = []
        self.others: dict[int, str] = {}
        self._origins: dict[int, frozenset[int]] = {value.id: frozenset({value.id}) for _, value in recording.inputs}
        for call in recording.calls:
            self._take(call, rules)

    def origins(self, value: Value) -> frozenset[int]:
        """The inputs whose numbers a value holds, as they are; empty for what is computed."""
        return self._origins.get(value.id, frozenset())

    def _take(self, call: Call, rules: Mapping[str, Rule]) -> None:
        kind = rules[call.op].type if call.op in rules else ""
        table, ids = call.args.get("weight"), call.args.get("indices")
        if kind == "EMBEDDING" and isinstance(table, Value) and isinstance(ids, Value):
            self.lookups.append(_Lookup(call, table, ids))
            return
        held = [value for value in call.inputs if self.origins(value)]
        if not held or kind == "CREATE" or call.op in _LIKE:
            return
        other = call.args.get("other")
        if call.op in _EQUALITIES and isinstance(other, int) and not isinstance(other, bool):
            self.comparisons.append(_Comparison(call, held[0], origin(other), plain_int(other)))
        elif len(held) == len(call.inputs) and (kind in _MOVES or call.op in _COPIES):
            joint = frozenset().union(*map(self.origins, held))
            self._origins.update((value.id, joint) for value in call.outputs)
        else:
            for number in frozenset().union(*map(self.origins, held)):
                self.others.setdefault(
                    number, f"{call.op} computes with its ids (in {call.module or 'the model'} at {call.where})"
                )


_EQUALITIES = frozenset({"aten.eq", "aten.ne"})
_LIKE = frozenset({f"aten.{name}_like" for name in ("zeros", "ones", "full", "empty", "rand", "randn")})
_COPIES = frozenset({"aten._to_copy", "aten.clone", "aten.alias", "aten.detach", "aten.contiguous", "aten.lift_fresh"}) | {
    f"aten.{name}" for name in ("slice", "narrow", "select", "unbind", "flip", "squeeze", "unsqueeze")
}
_MOVES = frozenset({"RESHAPE", "EXPAND", "PERMUTE", "SPLIT", "UNBIND", "CONCAT"})


@frozen
class Freed:
    """An axis that was asked to be free."""

    name: str
    kind: Interface
    axis: Axis


@frozen(eq=False)
class FreeInterface:
    """What a trace sets free, and what follows from it.

    Attributes:
        freed: the axes, those of outputs that range over a free vocabulary included.
        equations: vocabularies that are looked up by the same ids, and those that something else pins.
        indices: (path, index, axis, reason) of the numbers that stand for single indices.
    """

    freed: tuple[Freed, ...] = ()
    equations: tuple[tuple[Equal | Pin, str], ...] = ()
    indices: tuple[tuple[str, int, Axis, str], ...] = ()

    @cached_property
    def axes(self) -> frozenset[Axis]:
        """The axes from which the boundary's pins are lifted."""
        return frozenset(item.axis for item in self.freed)

    @property
    def terms(self) -> tuple[Term, ...]:
        """The terms whose spaces are asked for."""
        return tuple(item.axis for item in self.freed)

    @property
    def vocabularies(self) -> tuple[Freed, ...]:
        """The axes of tables."""
        return tuple(item for item in self.freed if item.kind == "vocabulary")


NOTHING_FREE = FreeInterface()
"""The interface of a trace that sets nothing free."""


def interface_of(recording: Recording, rules: Mapping[str, Rule]) -> FreeInterface:
    """What `free=` of a trace asks for, found in the recording.

    Raises:
        TraceError: it names something that there is not. All problems are told at once.
    """
    if not recording.free:
        return NOTHING_FREE
    ids = Ids(recording, rules)
    problems: list[str] = []
    freed: list[Freed] = []
    for text in recording.free:
        found, problem = _named_axes(text, recording, ids)
        freed.extend(found)
        problems += [problem] if problem else []
    if problems:
        lines = "".join(f"\n  - {problem}" for problem in problems)
        raise TraceError(f"expected free= to name axes of inputs, outputs and vocabularies, met:{lines}\nNothing was changed.")
    freed = list(dict.fromkeys(freed))
    tables = {item.axis.value: item for item in freed if item.kind == "vocabulary"}
    return FreeInterface(tuple(freed), tuple(_equations(ids, tables)), tuple(_indices(recording, ids, tables)))


def _named_axes(text: str, recording: Recording, ids: Ids) -> tuple[list[Freed], str]:
    """The axes that one entry names, and what is wrong with it."""
    tables = _tables(recording, ids)
    if text == VOCABULARY:
        return [Freed(name, "vocabulary", table[0]) for name, table in tables.items()], (
            "" if tables else "'vocabulary': forward looks up no numbers of an input in a parameter"
        )
    name, _, dim = text.rpartition(":")
    if not name or not re.fullmatch(r"-?\d+", dim):
        return [], f"{text!r}: write a name and a dimension, such as 'output:-1', 'input:1', or 'vocabulary'"
    values: list[tuple[str, Interface, Value]] = [
        *((name, "input", value) for name, value in recording.inputs),
        *((name, "output", value) for name, value in recording.outputs),
        *((name, "vocabulary", value) for name, value in tables.items()),
        *(
            (alias, "vocabulary", tables[item.name])
            for item in recording.declared
            if item.name in tables
            for alias in item.aliases
        ),
    ]
    named = [item for item in values if _plain(name) in {_plain(item[0]), _plain(item[0]).removeprefix("kwargs.")}]
    if not named:  # `input` stands for the one input
        below = [item for item in values if _plain(item[0]).startswith(f"{_plain(name)}.") and item[1] != "vocabulary"]
        named = below if len({item[0] for item in below}) == 1 else []
        if below and not named:
            return [], f"{text!r}: there are several, {', '.join(dict.fromkeys(repr(item[0]) for item in below))}; name one"
    if not named:
        known = list(dict.fromkeys(item[0] for item in values))
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.4) or known[:6]
        return [], f"{text!r}: no input, output or vocabulary has this name; did you mean {', '.join(map(repr, near))}?"
    found = []
    for own, kind, value in named:
        place = int(dim) + value.ndim if int(dim) < 0 else int(dim)
        if not 0 <= place < value.ndim:
            return [], f"{text!r}: {own!r} has {value.ndim} dimensions, {dim} is not one of them"
        if kind == "vocabulary" and place:
            return [], f"{text!r}: {own!r} is looked up along dimension 0; its others are no part of the interface"
        found.append(Freed(own, kind, value[place]))
    return found, ""


def _plain(name: str) -> str:
    """A name with dots alone: ``output['logits']`` and ``output.logits`` are one."""
    return re.sub(r"\[['\"]?(.*?)['\"]?\]", r".\1", name)


def _tables(recording: Recording, ids: Ids) -> dict[str, Value]:
    """The parameters that numbers of an input are looked up in, by name."""
    looked_up = {item.table.id for item in ids.lookups if ids.origins(item.ids)}
    return {item.name: item.value for item in recording.declared if item.kind == "parameter" and item.value.id in looked_up}


def _equations(ids: Ids, tables: Mapping[int, Freed]) -> Iterator[tuple[Equal | Pin, str]]:
    """Tables that the same ids look up lose the same; what else forward does with ids, and ids of its own, pin the table."""
    tables_of: dict[int, list[Axis]] = {}
    for lookup in ids.lookups:
        axis, call = lookup.table[0], lookup.call
        origins = ids.origins(lookup.ids)
        if not origins and axis.value in tables:
            yield Pin(axis, f"forward computes the ids that it looks up ({_place(call)})"), call.where
        for number in origins:
            tables_of.setdefault(number, []).append(axis)
    for number, axes in tables_of.items():
        free = [axis for axis in dict.fromkeys(axes) if axis.value in tables]
        other = next((axis for axis in axes if axis.value not in tables or axis.size != axes[0].size), None)
        reason = ids.others.get(number, "")
        if other is not None and not reason:
            reason = "the same ids look up another table, which is not free or has another size"
        for axis in free:
            if reason:
                yield Pin(axis, f"it is a vocabulary, and {reason}"), ""
            else:
                yield Equal(free[0], axis), "the same ids look up both tables"


def _indices(recording: Recording, ids: Ids, tables: Mapping[int, Freed]) -> Iterator[tuple[str, int, Axis, str]]:
    """The numbers that stand for ids: in comparisons, as the padding of a table, and by the names of attributes."""
    used = _used_otherwise(recording, ids)
    found: dict[tuple[str, int], tuple[Axis, str]] = {}
    for number, value, axis, reason in (*_read_ids(ids, tables), *_ids_by_name(recording, ids, tables)):
        if not 0 <= value < axis.size:
            continue  # no id is equal to it, before and after
        path = number.path if isinstance(number, Attribute) else ""
        if path in used:
            path, reason = "", f"forward computes with {path} in another way, too ({used[path]})"
        found.setdefault((path, value), (axis, reason))
    yield from ((path, index, axis, reason) for (path, index), (axis, reason) in found.items())


def _read_ids(ids: Ids, tables: Mapping[int, Freed]) -> Iterator[tuple[Expression, int, Axis, str]]:
    """The numbers that forward compares ids with, and the padding of tables."""
    axes: dict[int, Axis] = {}
    for lookup in ids.lookups:
        table, padding = tables.get(lookup.table.id), lookup.call.args.get("padding_idx")
        if table is not None:
            axes.update(dict.fromkeys(ids.origins(lookup.ids), table.axis))
            if isinstance(padding, int):
                yield origin(padding), plain_int(padding), table.axis, f"it is the padding of {table.name}"
    for item in ids.comparisons:
        for number in ids.origins(item.ids) & axes.keys():
            yield item.number, item.value, axes[number], f"forward compares ids with {item.value} ({_place(item.call)})"


def _ids_by_name(recording: Recording, ids: Ids, tables: Mapping[int, Freed]) -> Iterator[tuple[Expression, int, Axis, str]]:
    """Attributes that stand for ids by their names, such as a configuration's; the padding of a table is that table's."""
    main = _main(recording, tables)
    paddings = {f"{lookup.call.module}.padding_idx".lstrip(".") for lookup in ids.lookups}
    for item in recording.integers if main is not None else ():
        if names_an_index(item.path) and item.path not in paddings:
            yield Attribute(item.path, item.value), item.value, main, "its name says that it is an id"  # type: ignore[misc]


def _used_otherwise(recording: Recording, ids: Ids) -> dict[str, str]:
    """Attributes that forward gives to other calls than lookups and comparisons of ids, with the first place."""
    own = {id(item.call) for item in ids.lookups} | {id(item.call) for item in ids.comparisons}
    used: dict[str, str] = {}
    for call in recording.calls:
        for expression in sized_in(call.args.values()) if id(call) not in own else ():
            for part in parts_of(expression):
                if isinstance(part, Attribute):
                    used.setdefault(part.path, _place(call))
    for sources, where in recording.escapes:
        for part in (part for source in sources for part in parts_of(source)):
            if isinstance(part, Attribute):
                used.setdefault(part.path, f"at {where}")
    return used


def always_inside(interface: FreeInterface, left: Expression, right: Expression) -> bool:
    """Whether forward compares an index that follows with the size of its own vocabulary: it stays below that."""
    if not isinstance(left, Attribute) or not isinstance(right, AxisSize):
        return False
    axes = {(axis.value, axis.dim) for path, _, axis, _ in interface.indices if path == left.path}
    return (right.value, right.dim) in axes


def _main(recording: Recording, tables: Mapping[int, Freed]) -> Axis | None:
    """The vocabulary that attributes speak of: the only one, or the one whose size an attribute `vocab_size` has."""
    axes = [item.axis for item in tables.values()]
    if len(axes) > 1:
        sizes = {item.value for item in recording.integers if item.path.rpartition(".")[2] == _SIZE_NAME}
        axes = [axis for axis in axes if axis.size in sizes]
    return axes[0] if len({axis.size for axis in axes}) == 1 else None


def _place(call: Call) -> str:
    return f"{call.op} in {call.module or 'the model'} at {call.where}"


def implied_outputs(interface: FreeInterface, recording: Recording, spaces: Mapping[Term, Space]) -> Iterator[Freed]:
    """The axes of outputs that range over a free vocabulary: logits have what the table has."""
    free: set[Atom] = {atom for item in interface.vocabularies for atom in atoms(spaces[item.axis])}
    for name, value in recording.outputs:
        for axis in value.axes:
            if not free.isdisjoint(atoms(spaces[axis])) and axis not in interface.axes:
                yield Freed(name, "output", axis)


def free_axes_of(interface: FreeInterface, spaces: Mapping[Term, Space], known: Container[Space]) -> tuple[FreeAxis, ...]:
    """The free axes as a graph lists them; an output that no call makes has no axis in it."""
    axes = (FreeAxis(item.name, item.axis.dim, item.kind, spaces[item.axis]) for item in interface.freed)
    return tuple(sorted((item for item in dict.fromkeys(axes) if item.space in known), key=lambda item: (item.name, item.dim)))


def named_indices(interface: FreeInterface, spaces: Mapping[Term, Space], pinned: Mapping[Atom, str]) -> tuple[NamedIndex, ...]:
    """The numbers that stand for indices of vocabularies that may lose some."""
    items = (NamedIndex(path, index, spaces[axis], reason) for path, index, axis, reason in interface.indices)
    return tuple(sorted((item for item in items if not set(atoms(item.space)) <= pinned.keys()), key=place_of))


def vocabulary_sizes(
    interface: FreeInterface,
    recording: Recording,
    spaces: Mapping[Term, Space],
    solution: Mapping[str, Space],
    fixed: Container[Atom],
) -> tuple[tuple[SizeAttribute, ...], tuple[Balance, ...]]:
    """Attributes called `vocab_size`, which losses read, and what they count: a table and logits lose equally many.

    Args:
        interface: what is free.
        recording: the recorded forward.
        spaces: the space of each term.
        solution: the attributes that follow anyway.
        fixed: atoms that are pinned, or balanced with others already.
    """
    if not interface.vocabularies:
        return (), ()
    counted = [spaces[item.axis] for item in interface.vocabularies]
    last = {value.axes[-1] for _, value in recording.outputs if value.ndim}
    counted += [spaces[item.axis] for item in interface.freed if item.kind == "output" and item.axis in last]
    attributes: list[SizeAttribute] = []
    balanced: dict[tuple[Atom, ...], str] = {}
    for item in recording.integers:
        if item.path.rpartition(".")[2] != _SIZE_NAME or item.path in solution:
            continue
        own = tuple(dict.fromkeys(space for space in counted if space.size == item.value))
        if not own or (len(own) > 1 and any(not isinstance(space, Atom) or space in fixed for space in own)):
            continue  # what stays and what goes have one number
        attributes.append(SizeAttribute(item.path, own[0]))
        if len(own) > 1:
            balanced.setdefault(own, f"{item.path} counts all of them")  # type: ignore[arg-type]  # atoms, as just asked
    return tuple(attributes), tuple(Balance(own, reason) for own, reason in balanced.items())
