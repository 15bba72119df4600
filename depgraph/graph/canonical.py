"""Graphs rebuilt: with atoms numbered in reading order, and with smaller atoms."""

from __future__ import annotations

from collections.abc import Mapping
from operator import is_

from attrs import evolve

from depgraph.algebra.canonical_terms import sum_of_products
from depgraph.algebra.index_maps import leaves
from depgraph.algebra.ragged_sets import Removal
from depgraph.algebra.spaces import UNIT, Atom, Space, atoms, backwards, substitute
from depgraph.graph.graph import Graph
from depgraph.graph.records import Balance, Cost, LowerBound, PinnedAtom, SizeAttribute, Tensor, retyped


def tensor_with(tensor: Tensor, axes: tuple[Space, ...]) -> Tensor:
    """The tensor with other axes; the same object where they are the same objects."""
    if all(map(is_, axes, tensor.axes)):
        return tensor
    return Tensor(tensor.name, tensor.kind, axes, tensor.aliases)


def renumber(graph: Graph) -> tuple[Graph, dict[int, int]]:
    """The graph with atoms numbered in reading order, and for each new number the old one.

    Where an atom is read first, it is read forwards. Attributes that count nothing prunable are dropped: they never change.
    """
    reasons = graph.reasons
    spaces_of_attributes = {id(item.space): item.space for item in graph.attributes}
    is_prunable = {key: any(atom not in reasons for atom in atoms(space)) for key, space in spaces_of_attributes.items()}
    attributes = [item for item in graph.attributes if is_prunable[id(item.space)]]
    spaces = [
        *(axis for tensor in graph.tensors for axis in tensor.axes),
        *(axis for operation in graph.operations for cost in operation.costs for axis in cost.axes),
        *(attribute.space for attribute in attributes),
    ]
    objects = {id(space): space for space in spaces}  # many axes share few spaces
    distinct = list(dict.fromkeys(objects.values()))
    old = list(dict.fromkeys(atom for space in distinct for atom in atoms(space)))
    new = {atom: atom if atom.id == number else Atom(number, atom.size) for number, atom in enumerate(old)}
    new_spaces: dict[Atom, Space] = {}
    for space in distinct:
        for leaf in leaves(space):
            new_spaces.setdefault(leaf.atom, backwards(new[leaf.atom]) if leaf.backwards else new[leaf.atom])
    changed_atoms = {atom for atom, space in new_spaces.items() if space is not atom}
    changed = {
        space: substitute(space, new_spaces.__getitem__) if any(atom in changed_atoms for atom in atoms(space)) else space
        for space in distinct
    }
    memo = {key: changed[space] for key, space in objects.items()}
    sums_of: dict[int, Space] = {}

    def ordered(space: Space) -> Space:
        if id(space) not in sums_of:
            sums_of[id(space)] = sum_of_products(memo[id(space)])
        return sums_of[id(space)]

    balances = [
        Balance(tuple(sorted((new[atom] for atom in balance.atoms), key=lambda atom: atom.id)), balance.reason)
        for balance in graph.balances
    ]
    result = Graph(
        operations=tuple(
            item.costing(Cost.of([memo[id(axis)] for axis in cost.axes], cost.scale) for cost in item.costs)
            for item in graph.operations
        ),
        tensors=tuple(tensor_with(item, tuple([memo[id(axis)] for axis in item.axes])) for item in graph.tensors),
        attributes=tuple(
            SizeAttribute(item.path, ordered(item.space)) for item in sorted(attributes, key=lambda item: item.path)
        ),
        pinned_atoms=tuple(
            PinnedAtom(new[atom], reason)
            for atom, reason in sorted(reasons.items(), key=lambda item: new[item[0]].id if item[0] in new else -1)
            if atom in new
        ),
        balances=tuple(sorted(balances, key=lambda balance: balance.atoms[0].id)),
        mode=graph.mode,
        lower_bounds=tuple(
            sorted(
                (LowerBound(new[item.atom], item.size, item.reason) for item in graph.lower_bounds if item.atom in new),
                key=lambda item: item.atom.id,
            )
        ),
    )
    return result, {new[atom].id: atom.id for atom in old}


def shrunk(graph: Graph, removed: Mapping[Atom, Removal]) -> Graph:
    """The graph without the given indices. Nothing is checked; `plan_of` does."""
    return shrunk_and_numbered(graph, removed)[0]


def shrunk_and_numbered(graph: Graph, removed: Mapping[Atom, Removal]) -> tuple[Graph, dict[int, int]]:
    """The graph with smaller atoms; and for each atom number in it the number in the given graph."""

    def smaller(atom: Atom) -> Space:
        removal = removed.get(atom)
        if not removal:
            return atom
        size = atom.size - len(removal)
        return UNIT if size == 1 else Atom(atom.id, size)

    objects = {id(space): space for tensor in graph.tensors for space in tensor.axes}  # many axes share few spaces
    objects.update((id(space), space) for item in graph.operations for cost in item.costs for space in cost.axes)
    new_spaces = {
        space: substitute(space, smaller) if any(atom in removed for atom in atoms(space)) else space
        for space in dict.fromkeys(objects.values())
    }
    new_axes = {key: new_spaces[space] for key, space in objects.items()}

    def after(space: Space) -> Space:
        return new_spaces[space] if space in new_spaces else substitute(space, smaller)

    tensors = tuple(tensor_with(item, tuple([new_axes[id(axis)] for axis in item.axes])) for item in graph.tensors)
    by_name = {tensor.name: tensor for tensor in tensors}
    operations = tuple(
        retyped(item.costing(Cost.of([new_axes[id(axis)] for axis in cost.axes], cost.scale) for cost in item.costs), by_name)
        for item in graph.operations
    )
    attributes = tuple(SizeAttribute(attribute.path, after(attribute.space)) for attribute in graph.attributes)
    balances = []
    for balance in graph.balances:
        members = [after(atom) for atom in balance.atoms]
        if all(isinstance(member, Atom) for member in members):
            balances.append(Balance(tuple(member for member in members if isinstance(member, Atom)), balance.reason))
    bounds = [(after(item.atom), item) for item in graph.lower_bounds]
    lower_bounds = tuple(LowerBound(atom, item.size, item.reason) for atom, item in bounds if isinstance(atom, Atom))
    result = evolve(
        graph,
        operations=operations,
        tensors=tensors,
        attributes=attributes,
        balances=tuple(balances),
        lower_bounds=lower_bounds,
    )
    if all(atom.size - len(removal) > 1 for atom, removal in removed.items()):
        return result, {atom.id: atom.id for space in new_spaces for atom in atoms(space)}  # the reading order is the same
    return renumber(result)
