"""Graphs without some elements of their lists of modules: which may leave, and what is left.

An element may leave where it takes one tensor to one of the same space, which the next element alone reads, and where forward
does nothing for it outside of it. Then the model runs without it, and computes what it computes with the identity in its place.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import groupby, pairwise
from typing import TypeAlias

from attrs import evolve, frozen

from depgraph.algebra.indices import IndexSet
from depgraph.algebra.spaces import Atom, Product, Reversed, Space
from depgraph.graph.branches import Branch, branch_problems, losing, with_stand_ins
from depgraph.graph.graph import Graph
from depgraph.graph.records import ModuleSequence, Operation, OpType, Tensor, place_of
from depgraph.graph.rewiring import rewired, traits_named
from depgraph.messages import shortened

Rename: TypeAlias = Callable[[str], str | None]
"""From a dotted name to another one; None for what is gone."""


@frozen
class Drop:
    """Elements that leave a list of modules, counted as in the base graph.

    Attributes:
        sequence: the list.
        removed: the positions of the elements that go.

    >>> import torch, depgraph as dg
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> (drop,) = dg.drop(dg.trace(model, torch.zeros(1, 4)), "", [1]).drops
    >>> drop.removed, drop.left
    (IndexSet('1'), {'0': '0', '2': '1'})
    """

    sequence: ModuleSequence
    removed: IndexSet

    @cached_property
    def left(self) -> dict[str, str]:
        """The names of the elements that stay, each with its new one."""
        elements = self.sequence.elements
        stay = [elements[place] for place in self.removed.complement(len(elements))]
        return {name: str(place) if self.sequence.numbered else name for place, name in enumerate(stay)}

    def __str__(self) -> str:
        sequence = self.sequence
        names = ", ".join(sequence.elements[place] for place in self.removed)
        return f"{sequence.path or 'the model'}: {len(self.removed)} of {len(sequence.elements)} elements go: {names}"


def renaming(drops: Iterable[Drop | Branch]) -> Rename:
    """From a name in the base, of a module, tensor or attribute, to that in the result; None for what is gone."""
    lists, branches = parted(drops)
    tables = {drop.sequence.path: {name: drop.left.get(name) for name in drop.sequence.elements} for drop in lists}
    lost = losing(branches)
    if not branches:
        return lambda name: _renamed(name, tables) if tables else name
    return lambda name: None if lost(name) else _renamed(name, tables)


def parted(drops: Iterable[Drop | Branch]) -> tuple[list[Drop], list[Branch]]:
    """The elements that leave lists, and the branches that leave."""
    drops = tuple(drops)
    return [item for item in drops if isinstance(item, Drop)], [item for item in drops if isinstance(item, Branch)]


def naming(drops: Iterable[Drop | Branch]) -> Callable[[str], str]:
    """From a name in the result back to that in the base."""
    tables: dict[str, Mapping[str, str | None]] = {
        drop.sequence.path: {new: name for name, new in drop.left.items()} for drop in parted(drops)[0]
    }

    def base_name(name: str) -> str:
        return (_renamed(name, tables, backwards=True) or name) if tables else name

    return base_name


_STEP = re.compile(r"(.*?)((?:_\d+)?(?::\S*)?)")
"""A step of a name, and behind it the number of a further call and of an output."""


def _renamed(name: str, tables: Mapping[str, Mapping[str, str | None]], backwards: bool = False) -> str | None:
    """The name with other names of elements; `backwards` it is one of the result, while the tables go by paths of the base."""
    base: list[str] = []
    result: list[str] = []
    for step in name.split("."):
        table = tables.get(".".join(base))
        other = step
        if table is not None:
            element = step.partition(":")[0]
            if element not in table and (matched := _STEP.fullmatch(step)):
                element = matched[1]
            new = table.get(element, element)
            if new is None:
                return None
            other = new + step[len(element) :]
        result.append(other)
        base.append(other if backwards else step)
    return ".".join(result)


@frozen
class Run:
    """One call of an element: its operations, and what flows in and out.

    Attributes:
        position: which element.
        operations: in order.
        produced: what its operations return.
        entering: what they read from outside, each once, in the order of reading; parameters of its own left out.
        leaving: what is read outside of it, with the operations that read it.
    """

    position: int
    operations: tuple[Operation, ...]
    produced: frozenset[str]
    entering: tuple[str, ...]
    leaving: Mapping[str, tuple[Operation, ...]]


class ElementFlow:
    """What flows through the elements of one list of modules, and which of them may leave."""

    def __init__(self, graph: Graph, sequence: ModuleSequence) -> None:
        self._graph, self._sequence = graph, sequence
        self._by_name = graph.by_name
        self._places = {name: place for place, name in enumerate(sequence.elements)}
        self._readers: dict[str, list[Operation]] = {}
        for operation in graph.operations:
            for name in dict.fromkeys(operation.inputs):
                self._readers.setdefault(name, []).append(operation)

    def position_of(self, name: str) -> int | None:
        """The position of the element in which a name lies; None where it lies in none."""
        prefix = self._sequence.prefix
        if not name.startswith(prefix):
            return None
        step = name[len(prefix) :].split(".")[0].partition(":")[0]
        place = self._places.get(step)
        return place if place is not None else self._places.get(_STEP.fullmatch(step)[1])  # type: ignore[index]

    def path_of(self, position: int) -> str:
        """The dotted path of an element."""
        return f"{self._sequence.prefix}{self._sequence.elements[position]}"

    @cached_property
    def runs(self) -> tuple[Run, ...]:
        """The calls of the elements, in order. Parameters that are nodes of their own stand where they are first used."""
        called = [item for item in self._graph.operations if item.type is not OpType.PARAMETER]
        runs = []
        for position, items in groupby(called, lambda item: self.position_of(item.name)):
            if position is not None:
                runs.append(self._run(position, tuple(items)))
        return tuple(runs)

    def _run(self, position: int, operations: tuple[Operation, ...]) -> Run:
        produced = frozenset(name for item in operations for name in item.outputs)
        own = {item.name for item in operations}
        read = dict.fromkeys(name for item in operations for name in item.inputs)
        leaving = {
            name: tuple(item for item in self._readers.get(name, ()) if item.name not in own)
            for item in operations
            for name in item.outputs
        }
        return Run(
            position,
            operations,
            produced,
            tuple(name for name in read if name not in produced and self.position_of(name) != position),
            {name: readers for name, readers in leaving.items() if readers},
        )

    @cached_property
    def problems(self) -> tuple[str, ...]:
        """Why no element may leave."""
        return tuple(self._list_problems())

    def _list_problems(self) -> Iterator[str]:
        if self._sequence.problem:
            yield self._sequence.problem
            return
        elements = self._sequence.elements
        reached = {run.position for run in self.runs}
        tensors = {self.position_of(item.name) for item in self._graph.tensors if item.kind != "value"}
        unreached = [elements[place] for place in sorted(place for place in tensors - reached if place is not None)]
        if unreached:
            yield f"forward does not reach its element {unreached[0]!r}"
            return
        order = sorted(reached)
        for first, second in pairwise(self.runs):
            if first.position == second.position and len(order) > 1:
                between = self._between(first, second)
                yield f"{between} runs in the middle of its element {elements[first.position]!r}"
                return
            following = order[(order.index(first.position) + 1) % len(order)]
            if second.position != following:
                yield f"element {elements[second.position]!r} runs after {elements[first.position]!r}"
                return
            if second.position > first.position:
                yield from self._chain_problems(first, second)

    def _between(self, first: Run, second: Run) -> str:
        operations = [item for item in self._graph.operations if item.type is not OpType.PARAMETER]
        start = operations.index(first.operations[-1])
        return _described(operations[start + 1]) if operations[start + 1] is not second.operations[0] else "it"

    def _chain_problems(self, first: Run, second: Run) -> Iterator[str]:
        """Why the second run does not go on just where the first one ends."""
        names = self._sequence.elements
        for readers in first.leaving.values():
            outside = next((item for item in readers if self.position_of(item.name) is None), None)
            if outside is not None:
                yield f"what its element {names[first.position]!r} gives is read by {_described(outside)} as well"
                return
        if not any(name in first.produced for name in second.entering):
            yield f"its element {names[second.position]!r} does not read what {names[first.position]!r} gives"

    def problems_of(self, position: int) -> tuple[str, ...]:
        """Why one element may not leave, beside what speaks against all."""
        reason = dict(self._sequence.fixed).get(position)
        if reason is not None:
            return (reason,)
        return tuple(dict.fromkeys(problem for _, _, problem in self._passed(position) if problem))

    def redirected(self, position: int) -> dict[str, str]:
        """What the element gives, with what it is made from: what reads the one reads the other where it is gone."""
        return {given: taken for given, taken, _ in self._passed(position)}

    def _passed(self, position: int) -> Iterator[tuple[str, str, str]]:
        """For each run of an element what it gives, what that is made from, or else why it is not one of each."""
        for place, run in enumerate(self.runs):
            if run.position != position:
                continue
            if len(run.leaving) != 1:
                yield "", "", f"it gives {len(run.leaving)} tensors that are read outside, expected one"
                continue
            ((given, readers),) = run.leaving.items()
            following = self.runs[place + 1] if place + 1 < len(self.runs) else None
            if following is not None and following.position > position:
                own = {item.name for item in following.operations}
                skip = next((item for item in readers if item.name not in own), None)
                if skip is not None:
                    yield "", "", f"a skip reaches into it: what it gives is read by {_described(skip)} as well"
                    continue
            taken = self._taken(place, run, given)
            if len(taken) != 1:
                count = f"{len(taken)} tensors" if taken else "no tensor"
                yield "", "", f"it takes {count} of the space that it gives, not one"
                continue
            yield given, taken[0], ""

    def _taken(self, place: int, run: Run, given: str) -> list[str]:
        """What enters a run and has the same space as what it gives: of several, what the run before gives."""
        axes = self._by_name[given].axes
        fitting = [name for name in run.entering if self._by_name[name].axes == axes]
        before = self.runs[place - 1] if place and self.runs[place - 1].position < run.position else None
        if before is not None:
            return [name for name in fitting if name in before.produced]
        following = self.runs[place + 1] if place + 1 < len(self.runs) else None
        if len(fitting) > 1 and following is not None and len(following.entering) == len(run.entering):
            where = [index for index, name in enumerate(following.entering) if name == given]
            return [run.entering[index] for index in where if run.entering[index] in fitting]
        return fitting


def _described(operation: Operation) -> str:
    if operation.type is OpType.OUTPUT:
        return f"the model's {operation.name}"
    return f"{operation.name} ({operation.op}{f' at {operation.where}' if operation.where else ''})"


def drop_problems(graph: Graph, drops: Iterable[Drop | Branch]) -> Iterator[str]:
    """Why elements may not leave their lists, or branches the model, one sentence each; for lists that the graph has."""
    drops = tuple(drops)
    lists, branches = parted(drops)
    problems = [*branch_problems(graph, branches)]
    around = graph if problems else with_stand_ins(graph, branches)
    problems += [problem for drop in lists for problem in _element_problems(around, drop)]
    if problems or not drops:
        yield from problems
        return
    left = without(around, lists)
    problems = [*_left_over(around, left, lists)] if lists else []
    yield from problems
    if not problems and _inseparable(left) - _inseparable(graph):
        names = [f"{drop.sequence.prefix}{drop.sequence.elements[place]}" for drop in lists for place in drop.removed]
        names += [branch.path for branch in branches]
        yield f"they alone tell parts of an axis apart, so keep one of each kind of {shortened(', '.join(names))}"


def _element_problems(graph: Graph, drop: Drop) -> Iterator[str]:
    path = drop.sequence.path or "the model"
    known = {item.path: item for item in graph.sequences}.get(drop.sequence.path)
    if known is None or known.elements != drop.sequence.elements:
        yield f"the graph has no list of modules {path!r} with these elements"
        return
    if len(drop.removed) == len(known.elements):
        yield f"all {len(known.elements)} elements of {path} would go; leave at least one"
        return
    flow = ElementFlow(graph, known)
    yield from (f"no element of {path} may leave: {problem}" for problem in flow.problems)
    for position in () if flow.problems else drop.removed:
        name = f"{known.prefix}{known.elements[position]}"
        yield from (f"{name} may not leave: {problem}" for problem in flow.problems_of(position))


def _left_over(graph: Graph, left: Graph, drops: Sequence[Drop]) -> Iterator[str]:
    """What forward does for one element that goes, outside of it: it would do it no more, or for another element.

    What it does for several of them, such as a mask for all layers of a kind, it goes on doing.
    """
    rename = renaming(drops)
    readers: dict[str, list[str]] = {}
    for item in graph.operations:
        for name in item.inputs:
            readers.setdefault(name, []).append(item.name)
    read = {name for item in left.operations for name in item.inputs}
    flows = [ElementFlow(graph, drop.sequence) for drop in drops]

    def is_for_one(names: Iterable[str]) -> bool:
        places = {(number, flow.position_of(name)) for name in names for number, flow in enumerate(flows)}
        return len({place for place in places if place[1] is not None}) == 1

    for item in left.operations:
        unread = [name for name in item.outputs if name not in read]
        users = [reader for name in unread for reader in readers.get(name, ())]
        if len(unread) == len(item.outputs) and is_for_one(users):
            yield f"{_described(item)} is computed for it alone, outside of it: {users[0]} reads it"
    for tensor in graph.tensors:
        users = readers.get(tensor.name, []) if tensor.kind != "value" and tensor.name not in read else []
        if users and rename(tensor.name) is not None and is_for_one(users):
            yield f"{tensor.name} is used by it alone, outside of it: {users[0]} reads it"


def _inseparable(graph: Graph) -> set[tuple[Atom, Atom]]:
    """Pairs of atoms that stand side by side wherever one of them stands: without other statements they would be one."""
    found = {space for tensor in graph.tensors for space in tensor.axes} | {item.space for item in graph.attributes}
    found |= {space for operation in graph.operations for cost in operation.costs for space in cost.axes}
    counts: dict[Atom, int] = {}
    pairs: dict[tuple[Atom, Atom], int] = {}
    for space in found:
        _count_pairs(space, counts, pairs)
    return {(one, other) for (one, other), count in pairs.items() if one != other and count == counts[one] == counts[other]}


def _count_pairs(space: Space, counts: dict[Atom, int], pairs: dict[tuple[Atom, Atom], int]) -> None:
    if isinstance(space, Atom):
        counts[space] = counts.get(space, 0) + 1
    elif isinstance(space, Reversed):
        counts[space.atom] = counts.get(space.atom, 0) + 1
    else:
        children = space.factors if isinstance(space, Product) else space.parts
        for child in children:
            _count_pairs(child, counts, pairs)
        for one, other in pairwise(children):
            if isinstance(one, Atom) and isinstance(other, Atom):
                pairs[one, other] = pairs.get((one, other), 0) + 1


def without(graph: Graph, drops: Sequence[Drop | Branch]) -> Graph:
    """The graph without what goes, under the names and numbers of the base. `drop_problems` must have none."""
    lists, branches = parted(drops)
    graph = with_stand_ins(graph, branches)
    if not lists:
        return graph
    rename = renaming(lists)
    sequences = {item.path: item for item in graph.sequences}
    redirected: dict[str, str] = {}
    for drop in lists:
        flow = ElementFlow(graph, sequences[drop.sequence.path])
        for position in drop.removed:
            redirected.update(flow.redirected(position))
    stay = {item.name: item for item in graph.operations if rename(item.name) is not None}
    return rewired(graph, stay, redirected, lambda name: rename(name) is not None)


def renamed(graph: Graph, drops: Iterable[Drop | Branch]) -> Graph:
    """What `without` left, under the names of the result. The order of attributes is that of their new paths."""
    lists, _ = parted(drops)
    if not lists:
        return graph
    new_name = renaming(lists)

    def rename(name: str) -> str:
        return new_name(name) or name

    operations = [
        evolve(
            item,
            name=rename(item.name),
            inputs=tuple(map(rename, item.inputs)),
            outputs=tuple(map(rename, item.outputs)),
            traits=traits_named(item.traits, rename),
        )
        for item in graph.operations
    ]
    tensors = [Tensor(rename(item.name), item.kind, item.axes, tuple(map(rename, item.aliases))) for item in graph.tensors]
    return evolve(
        graph,
        operations=tuple(operations),
        tensors=tuple(tensors),
        attributes=tuple(evolve(item, path=rename(item.path)) for item in graph.attributes),
        unread=tuple(evolve(item, path=rename(item.path)) for item in graph.unread),
        free=tuple(evolve(item, name=rename(item.name)) if item.kind == "vocabulary" else item for item in graph.free),
        indices=tuple(sorted((evolve(item, path=rename(item.path)) for item in graph.indices), key=place_of)),
        sequences=tuple(_left_in(graph.sequences, lists, new_name)),
        calls=tuple(item.with_names(rename) for item in graph.calls),
    )


def _left_in(sequences: Iterable[ModuleSequence], drops: Iterable[Drop], rename: Rename) -> Iterator[ModuleSequence]:
    """The lists of modules after drops, as another trace would list them, as far as a graph can tell."""
    dropped = {drop.sequence.path: drop for drop in drops}
    for item in sequences:
        path = rename(item.path) if item.path else ""
        drop = dropped.get(item.path)
        if path is None:
            continue
        counts = tuple(sorted(new for count in item.counts if (new := rename(count)) is not None))
        entries = tuple(sorted((new, texts) for name, texts in item.entries if (new := rename(name)) is not None))
        moved = evolve(item, path=path, counts=counts, entries=entries)
        if drop is None:
            yield moved
        elif len(drop.left) > 1:
            places = {old: new for new, old in enumerate(drop.removed.complement(len(item.elements)))}
            fixed = tuple((places[place], why) for place, why in item.fixed if place in places)
            entries = tuple((name, tuple(texts[place] for place in places)) for name, texts in entries)
            yield evolve(moved, elements=tuple(drop.left.values()), fixed=fixed, entries=entries)
