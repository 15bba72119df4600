"""What removals imply on a graph: the axes that become shorter, the attributes that count them, and violated balances."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from depgraph.algebra.index_maps import image
from depgraph.algebra.indices import IndexSet
from depgraph.algebra.ragged_sets import Removal
from depgraph.algebra.spaces import UNIT, Atom, Space, atoms
from depgraph.graph.graph import Graph


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
