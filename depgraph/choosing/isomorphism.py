"""Which groups have the same structure, as isomorphic pruning compares them (Fang et al., ECCV 2024)."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from depgraph.algebra.spaces import Atom, Product, Reversed, Space, atoms
from depgraph.graph.graph import Graph
from depgraph.graph.records import Operation


def signatures(graph: Graph) -> Mapping[Atom, Hashable]:
    """For each group a value that two groups share if their indices have the same role in isomorphic sub-networks.

    It holds the group's role, and, for each operation along which its indices pass, in the order of the forward: what the
    operation is, in which dimension and at which place of that axis's term they stand in each operand and result, and which
    earlier operation of the list each operand comes from. Names and sizes are left out, so blocks that are repeated,
    at whatever width, are alike.
    """
    axes = {tensor.name: tensor.axes for tensor in graph.tensors}
    kinds = {tensor.name: tensor.kind for tensor in graph.tensors}
    groups = graph.group_of
    atoms_of = {name: {atom for space in spaces for atom in atoms(space) if atom in groups} for name, spaces in axes.items()}
    operations_of: dict[Atom, list[Operation]] = {atom: [] for atom in groups}
    for operation in graph.operations:
        for atom in set().union(*(atoms_of[name] for name in (*operation.inputs, *operation.outputs))):
            operations_of[atom].append(operation)
    signature_of: dict[Atom, Hashable] = {}
    memo: dict[tuple[tuple[Space, ...], Atom], tuple[Hashable, ...]] = {}

    def positions_in(name: str, atom: Atom) -> tuple[Hashable, ...]:
        """The dimensions of a tensor in which the atom occurs, each with its place in the axis."""
        if atom not in atoms_of[name]:
            return ()
        key = axes[name], atom
        if key not in memo:
            memo[key] = tuple((dim, _position(space, atom)) for dim, space in enumerate(axes[name]) if atom in atoms(space))
        return memo[key]

    for atom, operations in operations_of.items():
        producers: dict[str, int] = {}
        calls: list[Any] = []
        for position, operation in enumerate(operations):
            operands = tuple((kinds[name], positions_in(name, atom), producers.get(name)) for name in operation.inputs)
            results = tuple(positions_in(name, atom) for name in operation.outputs)
            calls.append((operation.type.value, operation.op, operation.module_class, operands, results))
            producers.update(dict.fromkeys(operation.outputs, position))
        signature_of[atom] = (groups[atom].role, tuple(calls))
    return signature_of


def _position(space: Space, atom: Atom) -> Hashable:
    """The form of a term around an atom, without sizes and without what the other atoms are."""
    if isinstance(space, Atom):
        return space == atom
    if isinstance(space, Reversed):
        return ("reversed", space.atom == atom)
    if isinstance(space, Product):
        return ("product", *(_position(factor, atom) for factor in space.factors))
    return ("sum", *(_position(part, atom) for part in space.parts))
