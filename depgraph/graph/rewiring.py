"""Graphs without some of their operations: what read their results reads others, and what nothing uses any more is gone."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType

from attrs import evolve

from depgraph.algebra.spaces import Atom, atoms
from depgraph.graph.graph import Graph
from depgraph.graph.records import (
    Balance,
    LayerWeight,
    ModuleCall,
    Operation,
    OperationTraits,
    OpType,
    Tensor,
    UnreadAttribute,
)


def rewired(
    graph: Graph,
    stay: Mapping[str, Operation],
    redirected: Mapping[str, str],
    stays: Callable[[str], bool],
    made: Mapping[str, Tensor] = MappingProxyType({}),
) -> Graph:
    """The graph with other operations, under the names and numbers of the base.

    Args:
        graph: the graph.
        stay: by the names of its operations what stands in the place of each; those left out go.
        redirected: values that go, with what is read instead of them.
        stays: whether a parameter, buffer, module or attribute of this name stays.
        made: values that go, with the values of other operations that come in their places.
    """

    def read(name: str) -> str:
        while name in redirected:
            name = redirected[name]
        return name

    operations = tuple(_in_order(graph.operations, {name: _reading(item, read) for name, item in stay.items()}))
    returned = {name for item in graph.operations if item.name in stay for name in item.outputs}
    tensors = []
    for tensor in graph.tensors:
        if tensor.kind == "value":
            tensors += [made[tensor.name]] if tensor.name in made else [tensor] if tensor.name in returned else []
        elif left := [name for name in (tensor.name, *tensor.aliases) if stays(name)]:
            tensors.append(tensor if left[0] == tensor.name else Tensor(left[0], tensor.kind, tensor.axes, tuple(left[1:])))
    spaces = {space for tensor in tensors for space in tensor.axes}
    spaces |= {space for item in operations for cost in item.costs for space in cost.axes}
    present = {atom for space in spaces for atom in atoms(space)}
    balances = [(item, tuple(atom for atom in item.atoms if atom in present)) for item in graph.balances]
    return evolve(
        graph,
        operations=operations,
        tensors=tuple(tensors),
        attributes=tuple(item for item in graph.attributes if stays(item.path) and present.issuperset(atoms(item.space))),
        pinned_atoms=tuple(item for item in graph.pinned_atoms if item.atom in present),
        balances=tuple(Balance(left, item.reason) for item, left in balances if len(left) > 1),
        lower_bounds=tuple(item for item in graph.lower_bounds if item.atom in present),
        multiples=tuple(item for item in graph.multiples if item.atom in present),
        unread=tuple(_unread_left(graph.unread, stays, present)),
        free=tuple(item for item in graph.free if item.kind != "vocabulary" or stays(item.name)),
        indices=tuple(item for item in graph.indices if not item.path or stays(item.path)),
        calls=tuple(_calls_left(graph.calls, tensors, read)),
    )


def _calls_left(calls: Iterable[ModuleCall], tensors: Collection[Tensor], read: Callable[[str], str]) -> Iterator[ModuleCall]:
    """The calls of modules that still hold parameters."""
    holders, known = {""}, {name for tensor in tensors for name in (tensor.name, *tensor.aliases)}
    for name in (name for tensor in tensors if tensor.kind == "parameter" for name in (tensor.name, *tensor.aliases)):
        while "." in name:
            name = name.rpartition(".")[0]
            holders.add(name)
    for item in calls:
        if item.path in holders:
            takes = tuple((key, read(name)) for key, name in item.takes if read(name) in known)
            returns = tuple(read(name) if read(name) in known else "" for name in item.returns)
            yield evolve(item, takes=takes, returns=returns)


def _unread_left(
    attributes: Iterable[UnreadAttribute], stays: Callable[[str], bool], present: set[Atom]
) -> Iterator[UnreadAttribute]:
    """What nothing has read, of what stays: an attribute of a configuration may count axes of elements that go, too."""
    for item in attributes:
        spaces = tuple(space for space in item.spaces if present.issuperset(atoms(space)))
        if spaces and stays(item.path):
            yield UnreadAttribute(item.path, spaces)


def _in_order(operations: Sequence[Operation], stay: Mapping[str, Operation]) -> Iterator[Operation]:
    """The operations that stay. A parameter that is a node of its own stands just before what makes it one.

    That is its first use beside its own layer; where this goes, the next one takes its place.
    """
    waiting: dict[str, Operation] = {}
    unplaced: dict[str, Operation] = {}
    for operation in operations:
        if operation.type is OpType.PARAMETER:
            if operation.name in stay:
                waiting[operation.outputs[0]] = operation
            continue
        item = stay.get(operation.name)
        if item is None:
            unplaced.update(waiting)
        else:
            users = [name for name in item.inputs if name in unplaced and name.rpartition(".")[0] != item.name]
            yield from (unplaced.pop(name) for name in dict.fromkeys(users))
            yield from waiting.values()
            yield item
        waiting.clear()


def _reading(operation: Operation, read: Callable[[str], str]) -> Operation:
    """The operation on other inputs."""
    if all(read(name) == name for name in operation.inputs):
        return operation
    return evolve(operation, inputs=tuple(map(read, operation.inputs)), traits=traits_named(operation.traits, read))


def traits_named(traits: OperationTraits, name_of: Callable[[str], str]) -> OperationTraits:
    """The same traits of tensors with other names."""
    weight = traits.weight
    return evolve(
        traits,
        mixes=None if traits.mixes is None else tuple((name_of(name), dim) for name, dim in traits.mixes),
        chooses=tuple((name_of(name), dim) for name, dim in traits.chooses),
        weight=None
        if weight is None
        else LayerWeight(
            weight.operand,
            weight.inner,
            weight.outer,
            (name_of(weight.read[0]), weight.read[1]),
            (name_of(weight.made[0]), weight.made[1]),
        ),
    )
