"""Graphs rebuilt: with atoms numbered in reading order, and with smaller atoms."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import is_
from types import MappingProxyType

from attrs import evolve

from depgraph.algebra.canonical_terms import sum_of_products
from depgraph.algebra.index_maps import leaves
from depgraph.algebra.ragged_sets import Removal
from depgraph.algebra.spaces import UNIT, Atom, Space, atoms, backwards, substitute
from depgraph.graph.graph import Graph
from depgraph.graph.records import Balance, Cost, LowerBound, PinnedAtom, SizeAttribute, Tensor, UnreadAttribute, retyped


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
    counted = {id(item.space): item.space for item in graph.attributes}
    free = {key: any(atom not in reasons for atom in atoms(space)) for key, space in counted.items()}
    attributes = [item for item in graph.attributes if free[id(item.space)]]
    spaces = [
        *(axis for tensor in graph.tensors for axis in tensor.axes),
        *(axis for operation in graph.operations for cost in operation.costs for axis in cost.axes),
        *(attribute.space for attribute in attributes),
    ]
    objects = {id(space): space for space in spaces}  # many axes share few spaces
    distinct = list(dict.fromkeys(objects.values()))
    old = list(dict.fromkeys(atom for space in distinct for atom in atoms(space)))
    new = {atom: atom if atom.id == number else Atom(number, atom.size) for number, atom in enumerate(old)}
    turned: dict[Atom, Space] = {}
    for space in distinct:
        for leaf in leaves(space):
            turned.setdefault(leaf.atom, backwards(new[leaf.atom]) if leaf.backwards else new[leaf.atom])
    moved = {atom for atom, space in turned.items() if space is not atom}
    changed = {
        space: substitute(space, turned.__getitem__) if any(atom in moved for atom in atoms(space)) else space
        for space in distinct
    }
    memo = {key: changed[space] for key, space in objects.items()}
    in_order: dict[int, Space] = {}

    def ordered(space: Space) -> Space:
        if id(space) not in in_order:
            in_order[id(space)] = sum_of_products(memo[id(space)])
        return in_order[id(space)]

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
        unread=unread_in(graph.unread, lambda space: substitute(space, turned.__getitem__), {}),
    )
    return result, {new[atom].id: atom.id for atom in old}


def unread_in(
    attributes: tuple[UnreadAttribute, ...],
    changed: Callable[[Space], Space],
    pinned: Mapping[Atom, str],
    values: Mapping[str, int] = MappingProxyType({}),
) -> tuple[UnreadAttribute, ...]:
    """Attributes that nothing has read, with other spaces. What has another size by then than the attribute is left out.

    Args:
        attributes: the attributes.
        changed: the space that stands for one.
        pinned: the atoms that are pinned; what holds no other is left out.
        values: the values of the attributes that have got new ones.
    """
    result = []
    for attribute in attributes:
        value = values.get(attribute.path, attribute.value)
        spaces = tuple(
            changed(space)
            for space in attribute.spaces
            if changed(space).size == value and any(atom not in pinned for atom in atoms(changed(space)))
        )
        if spaces:
            result.append(UnreadAttribute(attribute.path, tuple(dict.fromkeys(spaces))))
    return tuple(result)


def shrunk(graph: Graph, removed: Mapping[Atom, Removal]) -> Graph:
    """The graph without the given indices. Nothing is checked; `plan_of` does."""
    return shrunk_and_numbered(graph, removed)[0]


def shrunk_and_numbered(
    graph: Graph, removed: Mapping[Atom, Removal], values: Mapping[str, int] = MappingProxyType({})
) -> tuple[Graph, dict[int, int]]:
    """The graph with smaller atoms; and for each atom number in it the number in the given graph.

    `values` are the new ones of attributes that forward did not read.
    """

    def smaller(atom: Atom) -> Space:
        gone = removed.get(atom)
        if not gone:
            return atom
        size = atom.size - len(gone)
        return UNIT if size == 1 else Atom(atom.id, size)

    objects = {id(space): space for tensor in graph.tensors for space in tensor.axes}  # many axes share few spaces
    objects.update((id(space), space) for item in graph.operations for cost in item.costs for space in cost.axes)
    memo = {
        space: substitute(space, smaller) if any(atom in removed for atom in atoms(space)) else space
        for space in dict.fromkeys(objects.values())
    }
    known = {key: memo[space] for key, space in objects.items()}

    def after(space: Space) -> Space:
        return memo[space] if space in memo else substitute(space, smaller)

    tensors = tuple(tensor_with(item, tuple([known[id(axis)] for axis in item.axes])) for item in graph.tensors)
    by_name = {tensor.name: tensor for tensor in tensors}
    operations = tuple(
        retyped(item.costing(Cost.of([known[id(axis)] for axis in cost.axes], cost.scale) for cost in item.costs), by_name)
        for item in graph.operations
    )
    attributes = tuple(SizeAttribute(attribute.path, after(attribute.space)) for attribute in graph.attributes)
    balances = []
    for balance in graph.balances:
        members = [after(atom) for atom in balance.atoms]
        if all(isinstance(member, Atom) for member in members):
            balances.append(Balance(tuple(member for member in members if isinstance(member, Atom)), balance.reason))
    kept = [(after(item.atom), item) for item in graph.lower_bounds]
    reasons = graph.reasons
    lower_bounds = tuple(LowerBound(atom, item.size, item.reason) for atom, item in kept if isinstance(atom, Atom))
    result = evolve(
        graph,
        operations=operations,
        tensors=tensors,
        attributes=attributes,
        balances=tuple(balances),
        lower_bounds=lower_bounds,
        unread=unread_in(graph.unread, after, reasons, values),
    )
    if all(atom.size - len(gone) > 1 for atom, gone in removed.items()):
        return result, {atom.id: atom.id for space in memo for atom in atoms(space)}  # what is left is read in the same order
    return renumber(result)
