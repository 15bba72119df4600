"""Which groups have the same structure, as isomorphic pruning compares them (Fang et al., ECCV 2024)."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from depgraph.algebra.spaces import Atom, Product, Reversed, Space, atoms
from depgraph.graph.graph import Graph
from depgraph.graph.records import Operation


def signatures(graph: Graph) -> Mapping[Atom, Hashable]:
    """For each group a value that two groups share if their indices play the same part in the same sub-network.

    It holds the group's role, and, for each operation along which its indices pass, in the order of the forward: what the
    operation is, in which dimension and at which place of that axis's term they stand in each operand and result, and which
    earlier operation of the list each operand comes from. Names and sizes are left out, so blocks that are repeated,
    at whatever width, are alike.
    """
    axes = {tensor.name: tensor.axes for tensor in graph.tensors}
    held = {tensor.name: tensor.kind for tensor in graph.tensors}
    wanted = graph.group_of
    touching: dict[Atom, list[Operation]] = {atom: [] for atom in wanted}
    for operation in graph.operations:
        names = (*operation.inputs, *operation.outputs)
        reached = dict.fromkeys(atom for name in names for space in axes[name] for atom in atoms(space))
        for atom in reached:
            if atom in touching:
                touching[atom].append(operation)
    found: dict[Atom, Hashable] = {}
    places: dict[tuple[Space, Atom], Hashable] = {}

    def standing(name: str, atom: Atom) -> tuple[Hashable, ...]:
        """The dimensions of a tensor in which the atom occurs, each with its place in the axis."""
        result = []
        for dim, space in enumerate(axes[name]):
            if atom in atoms(space):
                if (space, atom) not in places:
                    places[space, atom] = _place(space, atom)
                result.append((dim, places[space, atom]))
        return tuple(result)

    for atom, operations in touching.items():
        made: dict[str, int] = {}
        lines: list[Any] = []
        for position, operation in enumerate(operations):
            read = tuple((held[name], standing(name, atom), made.get(name)) for name in operation.inputs)
            returned = tuple(standing(name, atom) for name in operation.outputs)
            lines.append((operation.type.value, operation.op, operation.module_class, read, returned))
            made.update(dict.fromkeys(operation.outputs, position))
        found[atom] = (wanted[atom].role, tuple(lines))
    return found


def _place(space: Space, atom: Atom) -> Hashable:
    """The form of a term around an atom, without sizes and without what the other atoms are."""
    if isinstance(space, Atom):
        return space == atom
    if isinstance(space, Reversed):
        return ("reversed", space.atom == atom)
    if isinstance(space, Product):
        return ("product", *(_place(factor, atom) for factor in space.factors))
    return ("sum", *(_place(part, atom) for part in space.parts))
