"""What removals imply on a graph: the axes that become shorter, the attributes that count them, and violated balances."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from depgraph.algebra.index_maps import image
from depgraph.algebra.indices import IndexSet
from depgraph.algebra.ragged_sets import Removal
from depgraph.algebra.spaces import UNIT, Atom, Space, atoms
from depgraph.graph.canonical import gone_from, index_after
from depgraph.graph.graph import Graph
from depgraph.graph.records import FreeAxis


def smaller_atom(atom: Atom, count: int) -> Space:
    """What is left of an atom that loses so many indices."""
    return UNIT if atom.size - count == 1 else Atom(atom.id, atom.size - count)


def shorter_axes(graph: Graph, removed: Mapping[Atom, Removal]) -> Iterator[tuple[str, int, Space]]:
    """Name, dimension and space of each axis of a parameter or buffer that the removals reach."""
    reached: dict[int, bool] = {}
    for tensor in graph.tensors:
        if tensor.kind == "value":
            continue
        for dim, space in enumerate(tensor.axes):
            if id(space) not in reached:
                reached[id(space)] = any(atom in removed for atom in atoms(space))
            if reached[id(space)]:
                yield from ((name, dim, space) for name in (tensor.name, *tensor.aliases))


def smaller_sizes(graph: Graph, removed: Mapping[Atom, Removal]) -> Iterator[tuple[str, int, int]]:
    """Path, value and new value of each attribute that counts what is removed."""
    removed_counts: dict[int, int] = {}
    prefixes = {atom: IndexSet.range(0, len(removal)) for atom, removal in removed.items()}
    for attribute in graph.attributes:
        space = attribute.space
        if id(space) not in removed_counts:
            removed_counts[id(space)] = len(image(space, prefixes))
        if removed_counts[id(space)]:
            yield attribute.path, space.size, space.size - removed_counts[id(space)]


def free_axes(graph: Graph, removed: Mapping[Atom, Removal]) -> tuple[FreeAxis, ...]:
    """The axes of the interface that the removals reach."""
    reached = (item for item in graph.free if any(atom in removed for atom in atoms(item.space)))
    return tuple(sorted(reached, key=lambda item: (item.name, item.dim, item.kind)))


def moved_indices(graph: Graph, removed: Mapping[Atom, Removal]) -> Iterator[tuple[str, int, int]]:
    """Path, value and new value of each attribute that stands for an index of a vocabulary and moves up."""
    for item in graph.indices:
        if item.path and (new := index_after(item, removed)) != item.index:
            yield item.path, item.index, new


def index_problems(graph: Graph, removed: Mapping[Atom, Removal]) -> Iterator[str]:
    """Indices that would go, or move, although something stands for them."""
    for item in graph.indices:
        gone = gone_from(item.space, removed)
        if item.path and item.index in gone:
            yield (
                f"index {item.index} of a vocabulary would go, for which the attribute {item.path} stands ({item.reason}). "
                "Keep it, or set the attribute to None before tracing."
            )
        elif not item.path and gone & IndexSet.range(0, item.index + 1):
            yield f"the indices 0 to {item.index} of a vocabulary must stay, because {item.reason}. Keep them."


def balance_problems(graph: Graph, removed: Mapping[Atom, Removal]) -> Iterator[str]:
    """Balanced groups that would lose unequally many indices."""
    for balance in graph.balances:
        counts = {graph.group_of[atom].name: len(removed.get(atom, ())) for atom in balance.atoms}
        if len(set(counts.values())) > 1:
            listed = ", ".join(f"{count} of {name}" for name, count in counts.items())
            yield (
                f"these groups must lose equally many indices, because {balance.reason}: asked for {listed}. "
                "Cut all of them by the same number."
            )
