"""Integers of the model that forward did not read, and that may count something that can be pruned.

A plan edits what forward reads. Other methods read more: what fuses a block for deployment, makes a new classifier, or writes a
configuration to a file. Which axis their integers count nothing says; a hint is that an integer is as large as an axis, or a
factor of one, of the layers of the module that holds it. The nearest such layers count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from depgraph.algebra.spaces import Product, Reversed, Space, Sum, atoms, product
from depgraph.graph.graph import Graph
from depgraph.graph.records import UnreadAttribute
from depgraph.solving.expressions import Attribute, Expression, parts_of
from depgraph.solving.interface import names_an_index
from depgraph.solving.recording import IntegerAttribute, Recording
from depgraph.solving.sized import sized_in

_MAX_DEPTH = 2
"""An integer counts axes of its module's layers, and of theirs where they are blocks such as a convolution with its norm.

The number of experts is an exception: a model holds it for the loss that balances them, and it may be as large as something
nearer: 64 experts as the rotary frequencies of head dims of 128."""


def unread_attributes(recording: Recording, graph: Graph) -> tuple[UnreadAttribute, ...]:
    """The integers that no statement of forward mentions, with what they may count, in the order of their paths."""
    read = {part.path for expression in _read_sizes(recording) for part in parts_of(expression) if isinstance(part, Attribute)}
    read.update(path for path, _, _ in recording.layer_attributes)
    read.update(attribute.path for attribute in graph.attributes)
    read.update(path for sequence in recording.sequences for path in sequence.followed)
    integers = {item.path: item for item in recording.integers if item.path not in read and not names_an_index(item.path)}
    known = list(integers.values())
    nearest, experts = _nearest(recording, graph, known), _nearest(recording, graph, known, _counts_experts)
    result = []
    for path, item in sorted(integers.items()):
        depth, spaces = nearest.get((item.module, item.value), (0, {}))
        _, of_experts = experts.get((item.module, item.value), (0, {}))
        spaces = of_experts if depth > _MAX_DEPTH and not item.in_config else {**spaces, **of_experts}
        if spaces:
            result.append(UnreadAttribute(path, tuple(spaces)))
    return tuple(result)


def _counts_experts(space: Space, graph: Graph) -> bool:
    """Whether all groups of a space are experts, whose number models hold far above their layers."""
    return all(graph.group_of[atom].role == "expert" for atom in atoms(space) if atom in graph.group_of)


def _read_sizes(recording: Recording) -> Iterator[Expression]:
    """All sizes that forward gave to an operator, found equal, or took a number from.

    One that it only compared as larger, or as another one, counts what it did before: nothing has followed it.
    """
    for call in recording.calls:
        yield from sized_in(call.args.values())
    for left, right, _ in recording.facts:
        yield left
        yield right
    for sources, _ in recording.escapes:
        yield from sources


def _nearest(
    recording: Recording,
    graph: Graph,
    integers: list[IntegerAttribute],
    counts: Callable[[Space, Graph], bool] = lambda *_: True,
) -> Mapping[tuple[str, int], tuple[int, dict[Space, None]]]:
    """For each module and size: the least depth below the module at which axes have this size, and their spaces.

    Of all spaces, or of those of which `counts` is true.
    """
    sizes: dict[str, set[int]] = {}
    for item in integers:
        sizes.setdefault(item.module, set()).add(item.value)
    by_size: dict[int, dict[int, list[Space]]] = {}
    nearest: dict[tuple[str, int], tuple[int, dict[Space, None]]] = {}
    for tensor in graph.tensors:
        if tensor.kind == "value":
            continue
        for space in tensor.axes:
            if id(space) not in by_size:
                by_size[id(space)] = _parts_by_size(space, graph, counts)
        for name in (tensor.name, *tensor.aliases):
            for depth, module in _enclosing_modules(name, recording.containers):
                module_sizes = sizes.get(module, set())
                for space in tensor.axes if module_sizes else ():
                    for size in module_sizes & by_size[id(space)].keys():
                        entry = nearest.get((module, size))
                        if entry is None or depth < entry[0]:
                            entry = nearest[module, size] = depth, {}
                        if depth == entry[0]:
                            entry[1].update(dict.fromkeys(by_size[id(space)][size]))
    return nearest


def _enclosing_modules(name: str, containers: frozenset[str]) -> Iterator[tuple[int, str]]:
    """The modules around a parameter, the innermost first, each with how many others lie between; containers do not count."""
    depth, module = 0, name.rpartition(".")[0]
    while module:
        yield depth, module
        depth, module = depth + (module not in containers), module.rpartition(".")[0]
    yield depth, ""


def _parts_by_size(space: Space, graph: Graph, counts: Callable[[Space, Graph], bool]) -> dict[int, list[Space]]:
    """The space and its parts, where something in them can be pruned, by their sizes."""
    parts: dict[int, list[Space]] = {}
    for part in dict.fromkeys(_parts(space)):
        if any(atom in graph.group_of for atom in atoms(part)) and counts(part, graph):
            parts.setdefault(part.size, []).append(part)
    return parts


def _parts(space: Space) -> Iterator[Space]:
    """A space, each run of its factors, each of its parts laid end to end, and what these are made of."""
    if isinstance(space, Reversed):
        yield space.atom
        return
    yield space
    if isinstance(space, Product):
        for start in range(len(space.factors)):
            for stop in range(start + 1, len(space.factors) + 1):
                if stop - start == 1:
                    yield from _parts(space.factors[start])
                elif stop - start < len(space.factors):
                    yield product(*space.factors[start:stop])
    elif isinstance(space, Sum):
        for part in space.parts:
            yield from _parts(part)
