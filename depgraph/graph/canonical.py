"""Graphs rebuilt: with atoms numbered in reading order, and with smaller atoms."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from operator import is_
from types import MappingProxyType

from attrs import evolve

from depgraph.algebra.canonical_terms import sum_of_products
from depgraph.algebra.index_maps import image, leaves
from depgraph.algebra.indices import IndexSet
from depgraph.algebra.ragged_sets import Removal
from depgraph.algebra.spaces import UNIT, Atom, Reversed, Space, atoms, backwards, substitute
from depgraph.graph.branches import Branch
from depgraph.graph.drops import Drop, renamed, without
from depgraph.graph.graph import Graph
from depgraph.graph.records import (
    Balance,
    Cost,
    LowerBound,
    NamedIndex,
    PinnedAtom,
    SizeAttribute,
    SizeMultiple,
    Tensor,
    UnreadAttribute,
    retyped,
)


def tensor_with(tensor: Tensor, axes: tuple[Space, ...]) -> Tensor:
    """The tensor with other axes; the same object where they are the same objects."""
    if all(map(is_, axes, tensor.axes)):
        return tensor
    return Tensor(tensor.name, tensor.kind, axes, tensor.aliases)


def rebuilt(graph: Graph, change: Mapping[Atom, Space]) -> Graph:
    """The graph with other spaces in the place of some atoms, in every axis, cost and attribute.

    What is pinned, balanced or bounded stays where its atom is still an atom, whichever way it is read.
    """
    objects = {
        id(space): space for space in _spaces(graph, graph.attributes)
    }  # many axes share few objects, and few of these are different values
    changed = {
        space: substitute(space, lambda atom: change.get(atom, atom)) if any(atom in change for atom in atoms(space)) else space
        for space in dict.fromkeys(objects.values())
    }
    new = {key: changed[space] for key, space in objects.items()}

    def substituted(space: Space) -> Space:
        return substitute(space, lambda atom: change.get(atom, atom))

    def atom_of(atom: Atom) -> Atom | None:
        space = change.get(atom, atom)
        return space if isinstance(space, Atom) else space.atom if isinstance(space, Reversed) else None

    balances = [(balance, tuple(filter(None, map(atom_of, balance.atoms)))) for balance in graph.balances]
    return evolve(
        graph,
        tensors=tuple([tensor_with(item, tuple([new[id(axis)] for axis in item.axes])) for item in graph.tensors]),
        operations=tuple(
            [
                item.costing(Cost.of([new[id(axis)] for axis in cost.axes], cost.scale) for cost in item.costs)
                for item in graph.operations
            ]
        ),
        attributes=tuple(SizeAttribute(item.path, new[id(item.space)]) for item in graph.attributes),
        pinned_atoms=tuple(PinnedAtom(atom, item.reason) for item in graph.pinned_atoms if (atom := atom_of(item.atom))),
        balances=tuple(Balance(left, item.reason) for item, left in balances if len(left) == len(item.atoms)),
        lower_bounds=tuple(
            LowerBound(atom, item.size, item.reason) for item in graph.lower_bounds if (atom := atom_of(item.atom))
        ),
        multiples=tuple(
            SizeMultiple(atom, item.of, item.reason)
            for item in graph.multiples
            if (atom := atom_of(item.atom)) and atom.size % item.of == 0
        ),
        free=tuple(evolve(item, space=substituted(item.space)) for item in graph.free),
        indices=tuple(evolve(item, space=substituted(item.space)) for item in graph.indices),
    )


def renumber(graph: Graph) -> tuple[Graph, dict[int, int]]:
    """The graph with atoms numbered in reading order, and for each new number the old one.

    Where an atom is read first, it is read forwards. Attributes that count nothing prunable are dropped: they never change.
    """
    reasons = graph.reasons
    counted = {id(item.space): item.space for item in graph.attributes}
    free = {key: any(atom not in reasons for atom in atoms(space)) for key, space in counted.items()}
    attributes = tuple(item for item in graph.attributes if free[id(item.space)])
    order: dict[Atom, bool] = {}
    for space in dict.fromkeys({id(space): space for space in _spaces(graph, attributes)}.values()):
        for leaf in leaves(space):
            order.setdefault(leaf.atom, leaf.backwards)
    change: dict[Atom, Space] = {}
    for number, (atom, is_backwards) in enumerate(order.items()):
        if atom.id != number or is_backwards:
            change[atom] = backwards(Atom(number, atom.size)) if is_backwards else Atom(number, atom.size)
    nowhere = {pinned.atom for pinned in graph.pinned_atoms} | {bound.atom for bound in graph.lower_bounds}
    nowhere |= {multiple.atom for multiple in graph.multiples}
    change.update(dict.fromkeys(nowhere - order.keys(), UNIT))
    result = rebuilt(evolve(graph, attributes=attributes), change)
    canonical: dict[int, Space] = {}
    for item in result.attributes:
        canonical.setdefault(id(item.space), sum_of_products(item.space))
    balances = [Balance(tuple(sorted(item.atoms, key=_number)), item.reason) for item in result.balances]
    result = evolve(
        result,
        attributes=tuple(
            SizeAttribute(item.path, canonical[id(item.space)])
            for item in sorted(result.attributes, key=lambda item: item.path)
        ),
        pinned_atoms=tuple(sorted(result.pinned_atoms, key=lambda item: item.atom.id)),
        balances=tuple(sorted(balances, key=lambda balance: balance.atoms[0].id)),
        lower_bounds=tuple(sorted(result.lower_bounds, key=lambda item: item.atom.id)),
        multiples=tuple(sorted(result.multiples, key=lambda item: item.atom.id)),
        unread=unread_in(graph.unread, lambda space: substitute(space, lambda atom: change.get(atom, atom)), {}),
    )
    return result, {number: atom.id for number, atom in enumerate(order)}


def _spaces(graph: Graph, attributes: Iterable[SizeAttribute]) -> Iterator[Space]:
    """Every space of a graph, in reading order."""
    yield from (axis for tensor in graph.tensors for axis in tensor.axes)
    yield from (axis for operation in graph.operations for cost in operation.costs for axis in cost.axes)
    yield from (attribute.space for attribute in attributes)


def _number(atom: Atom) -> int:
    return atom.id


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


def _moved(graph: Graph, removed: Mapping[Atom, Removal], change: Mapping[Atom, Space]) -> Iterator[NamedIndex]:
    """The integers that stand for single indices, where these stand when others before them have gone."""
    for item in graph.indices:
        space = substitute(item.space, lambda atom: change.get(atom, atom))
        yield evolve(item, index=index_after(item, removed), space=space)


def index_after(item: NamedIndex, removed: Mapping[Atom, Removal]) -> int:
    """Where a named index stands when others have gone."""
    return item.index - len(gone_from(item.space, removed) & IndexSet.range(0, item.index))


def gone_from(space: Space, removed: Mapping[Atom, Removal]) -> IndexSet:
    """The flat indices of a vocabulary that go."""
    plain = {atom: removed[atom] for atom in atoms(space) if isinstance(removed.get(atom), IndexSet)}
    return image(space, plain)  # type: ignore[arg-type]  # a vocabulary has no rows: it loses the same everywhere


def shrunk(graph: Graph, removed: Mapping[Atom, Removal]) -> Graph:
    """The graph without the given indices. Nothing is checked; `plan_of` does."""
    return shrunk_and_numbered(graph, removed)[0]


def shrunk_and_numbered(
    graph: Graph,
    removed: Mapping[Atom, Removal],
    values: Mapping[str, int] = MappingProxyType({}),
    drops: Sequence[Drop | Branch] = (),
) -> tuple[Graph, dict[int, int]]:
    """The graph with smaller atoms and without what leaves, and for each atom number in it the number in the given graph.

    `values` are the new ones of attributes that forward did not read.
    """
    graph = without(graph, drops)
    sizes = {atom: atom.size - len(indices) for atom, indices in removed.items() if indices}
    change: dict[Atom, Space] = {atom: UNIT if size == 1 else Atom(atom.id, size) for atom, size in sizes.items()}
    result = evolve(rebuilt(graph, change), indices=tuple(_moved(graph, removed, change)))
    by_name = {tensor.name: tensor for tensor in result.tensors}
    result = evolve(
        result,
        operations=tuple(retyped(operation, by_name) for operation in result.operations),
        unread=unread_in(
            graph.unread, lambda space: substitute(space, lambda atom: change.get(atom, atom)), graph.reasons, values
        ),
    )
    if 1 in sizes.values() or drops:
        return renumber(renamed(result, drops))
    # without single indices what is left is read in the same order
    return result, {atom.id: atom.id for space in _spaces(result, result.attributes) for atom in atoms(space)}
