"""Whether the graph without some elements is that of another trace, or may still say what only these elements stated.

A graph keeps what follows from all statements and not the statements, so what an element alone said of axes outside of it
cannot be taken back. It said nothing of its own where a twin stays: an element of the same operations on the same axes, through
which what is taken passes position by position. Nor where the axes that it touches are whole and apart: then there is nothing
that it can have split or tied. Everything else is told.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Iterator, Sequence
from functools import cached_property

from depgraph.algebra.spaces import UNIT, Atom, Space, atoms, substitute
from depgraph.graph.branches import Branch
from depgraph.graph.drops import Drop, ElementFlow, Run, renaming
from depgraph.graph.graph import Graph
from depgraph.graph.records import FEATURE_LAYERS, Operation, OpType

_BY_POSITION = FEATURE_LAYERS - {OpType.GN} | {OpType.ELEMENTWISE}
"""What gives each axis of what it takes on as it is."""

_WHOLE = _BY_POSITION | {OpType.LINEAR, OpType.MATMUL, OpType.REDUCE, OpType.CONV, OpType.DEPTHWISE_CONV, OpType.PARAMETER}
"""What splits no axis that its operands have as a whole."""

_PLACES = re.compile(r"\(\S+ in (.+?) at ")
_OUTSIDE = re.compile(r"it is a dimension of the model's |\S+ is not used in forward$")


def stricter(
    graph: Graph, left: Graph, drops: Collection[Drop], branches: Collection[Branch] = ()
) -> tuple[tuple[str, str], ...]:
    """The elements that go and may alone have split, tied or pinned axes of what is left, each with what speaks for it.

    Args:
        graph: the graph with them.
        left: what `without` leaves of it.
        drops: which elements go; nothing keeps them.
        branches: which branches leave beside them: an element that loses one is no twin.

    >>> import torch, depgraph as dg
    >>> class Mirrored(torch.nn.Module):
    ...     def forward(self, x):
    ...         return x + x.flip(-1)                           # the first half of the features is tied to the second one
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), Mirrored(), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    >>> graph = dg.trace(model, torch.zeros(1, 3))
    >>> dg.drop(graph, "", [2]).stricter
    ()
    >>> [element for element, _ in dg.drop(graph, "", [1]).stricter]
    ['1']
    """
    rename = renaming(drops)
    sequences = {item.path: item for item in graph.sequences}
    present = frozenset(atom for tensor in left.tensors for space in tensor.axes for atom in atoms(space))
    result = []
    for drop in drops:
        elements = _Elements(graph, left, present, ElementFlow(graph, sequences[drop.sequence.path]))
        names = [f"{drop.sequence.prefix}{name}" for name in drop.sequence.elements]
        smaller = {name for name in names if any(branch.path.startswith(f"{name}.") for branch in branches)}
        stay = [place for place, name in enumerate(names) if rename(name) is not None and name not in smaller]
        for place in drop.removed:
            why = elements.lone(place, names[place], stay)
            if why:
                result.append((names[place], why))
    return tuple(result)


class _Elements:
    """The elements of one list, and what they say of axes outside of them."""

    def __init__(self, graph: Graph, left: Graph, present: frozenset[Atom], flow: ElementFlow) -> None:
        self._graph, self._left, self._present, self._flow = graph, left, present, flow
        self._axes = {tensor.name: tensor.axes for tensor in graph.tensors}
        self._forms: dict[int, Hashable] = {}

    def lone(self, place: int, path: str, stay: Sequence[int]) -> str:
        """What an element may alone have said; empty where it said nothing of its own."""
        why = next(self._apart(place, path), "")
        if not why:
            return ""
        straight = all(self._is_straight(run, taken) for run, taken in self._runs(place))
        return "" if straight and any(self._form(other) == self._form(place) for other in stay) else why

    def _runs(self, place: int) -> Iterator[tuple[Run, str]]:
        """The calls of an element, each with what it takes."""
        taken = self._flow.redirected(place)
        for run in self._flow.runs:
            if run.position == place:
                yield run, taken.get(next(iter(run.leaving), ""), "")

    # is what it touches whole and apart?

    def _apart(self, place: int, path: str) -> Iterator[str]:
        """What the element may have said of axes outside of it, one reason each."""
        for run, taken in self._runs(place):
            touched = {
                atom for item in run.operations for name in (*item.inputs, *item.outputs) for atom in self._atoms(name)
            } & self._present
            read = [name for name in (taken, *(name for name in run.entering if name != taken)) if name]
            yield from self._split(run, read)
            yield from self._tied(run, read)
            yield from self._pinned(path, touched)
            yield from self._sized(path, touched, run)

    def _atoms(self, name: str) -> Iterator[Atom]:
        for space in self._axes.get(name, ()):
            yield from atoms(space)

    def _split(self, run: Run, read: Iterable[str]) -> Iterator[str]:
        """Axes that come in as more than one atom, where something in the element can have split them."""
        composite = {space for name in read for space in self._axes[name] if space != UNIT and not isinstance(space, Atom)}
        for space in sorted(composite, key=str):
            inside = set(atoms(space))
            suspects = []
            for item in run.operations:
                axes = {axis for name in (*item.inputs, *item.outputs) for axis in self._axes[name]}
                met = {axis for axis in axes if inside & set(atoms(axis)) or axis == space}
                if met and (met != {space} or item.type not in _WHOLE or not inside):
                    suspects.append(item)
            if suspects:
                first = next((item for item in suspects if item.type not in _WHOLE), suspects[0])
                yield f"{_told(first)} reads parts of an axis that may be one without it"

    def _tied(self, run: Run, read: Iterable[str]) -> Iterator[str]:
        """Atoms that stand in more than one axis of what comes in."""
        seen: set[Atom] = set()
        for name in read:
            for space in self._axes[name]:
                inside = set(atoms(space)) & self._present
                if inside & seen:
                    reader = next(item for item in run.operations if name in item.inputs)
                    yield f"{_told(reader)} reads axes that may be independent without it"
                seen |= inside

    def _pinned(self, path: str, touched: set[Atom]) -> Iterator[str]:
        """Pins whose reason is not known to lie outside."""
        reasons = self._graph.reasons
        for atom in sorted(touched, key=lambda atom: atom.id):
            reason = reasons.get(atom)
            if reason is not None and not _is_outside(reason, path):
                yield f"an axis may be pinned for it alone: {reason}"

    def _sized(self, path: str, touched: set[Atom], run: Run) -> Iterator[str]:
        """Balances, and attributes outside that its sizes may have given a meaning."""
        for balance in self._left.balances:
            if len(touched.intersection(balance.atoms)) > 1 and not _is_outside(balance.reason, path):
                yield f"groups may be balanced for it alone: {balance.reason}"
        layers = {item.name for item in self._left.operations}
        for item in self._left.attributes:
            owner = item.path.rpartition(".")[0]
            if owner not in layers and touched.intersection(atoms(item.space)):
                yield f"attribute {item.path} may be read by it alone: {_told(run.operations[0])}"

    # does a twin stay?

    def _is_straight(self, run: Run, taken: str) -> bool:
        """Whether what is taken passes through position by position, or is whole and apart."""
        axes = self._axes[taken]
        apart = len(set(axes) - {UNIT}) == sum(space != UNIT for space in axes)
        if apart and all(space == UNIT or isinstance(space, Atom) for space in axes):
            return True
        reached, passing = {taken}, _BY_POSITION | ({OpType.PERMUTE} if apart else set())
        for item in run.operations:
            if item.type in passing and reached.intersection(item.inputs):
                reached.update(name for name in item.outputs if Counter(self._axes[name]) == Counter(axes))
        return not reached.isdisjoint(run.leaving)

    def _form(self, place: int) -> Hashable:
        """The operations of an element on its axes, where what is its own has no name."""
        if place not in self._forms:
            self._forms[place] = tuple(self._said(place))
        return self._forms[place]

    def _said(self, place: int) -> Iterator[Hashable]:
        flow = self._flow
        path = flow.path_of(place)
        known: dict[str, str] = {}
        numbers: dict[Atom, Space] = {}

        def named(name: str, taken: str) -> str:
            if flow.position_of(name) == place:
                return known.setdefault(name, f"own{name.removeprefix(path)}")
            return "taken" if name == taken else f"outside {name}"

        def own(atom: Atom) -> Space:
            if self._owners.get(atom) != {place}:
                return atom
            return numbers.setdefault(atom, Atom(-1 - len(numbers), atom.size))

        reasons = self._graph.reasons
        for run, taken in self._runs(place):
            for item in run.operations:
                for name in (*item.inputs, *item.outputs):
                    axes = tuple(substitute(space, own) for space in self._axes[name])
                    yield item.type, item.op, item.module_class, named(name, taken), axes
        yield tuple((new, atom in reasons) for atom, new in numbers.items())

    @cached_property
    def _owners(self) -> dict[Atom, set[int | None]]:
        """In which elements an atom occurs; None stands for what lies in none."""
        owners: dict[Atom, set[int | None]] = {}
        for tensor in self._graph.tensors:
            place = self._flow.position_of(tensor.name)
            for space in tensor.axes:
                for atom in atoms(space):
                    owners.setdefault(atom, set()).add(place)
        return owners


def _is_outside(reason: str, path: str) -> bool:
    """Whether a reason is known to be none of an element's."""
    if _OUTSIDE.match(reason):
        return True
    places = _PLACES.findall(reason)
    return bool(places) and not any(place == path or place.startswith(f"{path}.") for place in places)


def _told(operation: Operation) -> str:
    return f"{operation.op} at {operation.where}" if operation.where else operation.op
