"""Cuts by hand: indices in, a plan out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from depgraph.algebra.index_maps import image, leaves, preimage
from depgraph.algebra.indices import IndexSet
from depgraph.algebra.ragged_sets import RaggedSet, Removal
from depgraph.algebra.spaces import Atom, Space, atoms
from depgraph.errors import PinnedError, PlanError, UnknownNameError
from depgraph.graph.graph import Graph
from depgraph.graph.ragged import bases_of, why_uniform
from depgraph.plans.making import plan_of
from depgraph.plans.plan import Plan


def cut(graph: Graph, name: str, indices: Iterable[int], dim: int) -> Plan:
    """The plan that removes the given indices from one axis, and from everything that depends on it.

    Args:
        graph: the traced model.
        name: a parameter or buffer, by dotted name.
        indices: positions along the axis; each once.
        dim: the dimension.

    Raises:
        UnknownNameError, PinnedError, PlanError: the request is impossible; nothing is changed.

    >>> import torch, depgraph as dg
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> plan = dg.cut(dg.trace(model, torch.randn(1, 4)), "0.weight", [2, 6], dim=0)
    >>> dict(plan.kept["2.weight"])
    {1: IndexSet('0-1,3-5,7')}
    """
    space = graph.axis(name, dim)
    if not isinstance(indices, Iterable):
        raise PlanError(f"expected a list of indices of {name!r}, met {indices!r}; pass [{indices!r}].")
    asked = list(indices)
    strange = [index for index in asked if isinstance(index, bool) or not isinstance(index, int)]
    if strange:
        raise PlanError(f"expected integers as indices of {name!r}, met {strange[0]!r}; pass a list such as [2, 6, 9].")
    outside = sorted({index for index in asked if not 0 <= index < space.size})
    if outside:
        raise PlanError(f"axis {dim} of {name!r} has the indices 0 to {space.size - 1}, met {outside}; nothing was changed.")
    repeated = sorted({index for index in asked if asked.count(index) > 1}) if len(set(asked)) < len(asked) else []
    if repeated:
        raise PlanError(f"indices of {name!r} are given more than once: {repeated}; give each once. Nothing was changed.")
    wanted = IndexSet.of(asked)
    if not wanted:
        return Plan.empty(graph)
    if len(wanted) == space.size:
        raise PlanError(
            f"all {space.size} indices of axis {dim} of {name!r} would go; leave at least one. Nothing was changed."
        )
    chosen = {atom: removed for atom, removed in preimage(space, wanted).items() if atom in graph.group_of}
    missed = wanted - image(space, chosen)
    if missed:
        if not any(atom in graph.group_of for atom in atoms(space)):
            raise PinnedError(name, dim, graph.why_pinned(space))
        raise PlanError(_unaligned(graph, name, dim, space, missed))
    return plan_of(graph, chosen)


def _unaligned(graph: Graph, name: str, dim: int, space: Space, missed: IndexSet) -> str:
    index = next(iter(missed))
    ways = []
    for leaf in leaves(space):
        if leaf.atom not in graph.group_of:
            continue
        for base in leaf.bases():
            if base <= index < base + leaf.atom.size * leaf.stride:
                whole = image(space, {leaf.atom: IndexSet.of([(index - base) // leaf.stride])})
                ways.append(f"[{whole}] (one index of {graph.group_of[leaf.atom].name})")
    if not ways:
        return f"index {index} of axis {dim} of {name!r} is pinned: {graph.why_pinned(space)}. Nothing was changed."
    return (
        f"axis {dim} of {name!r} is laid out as {space}: index {index} cannot go alone. "
        f"Remove {' or '.join(ways)} with it. Nothing was changed."
    )


def cut_each(graph: Graph, lost: Mapping[str, Sequence[int] | Sequence[Sequence[int]]]) -> Plan:
    """The plan by which each block of a group loses its own indices, such as each head its own head dims.

    Args:
        graph: the traced model.
        lost: group name to what goes: for a group that `ragged_groups` lists one list for each index of the group beside it,
            such as for each head, equally long; for any group one list of indices that go everywhere. Groups that are
            balanced, such as the widths of queries and values that one attribute names, are given together.

    Raises:
        UnknownNameError, PlanError: the request is impossible; nothing is changed.

    >>> import torch, depgraph as dg
    >>> class Heads(torch.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.heads, self.width = 2, 3
    ...         self.q, self.k = torch.nn.Linear(4, 6), torch.nn.Linear(4, 6)
    ...     def forward(self, x):
    ...         q, k = (layer(x).view(-1, self.heads, self.width).transpose(0, 1) for layer in (self.q, self.k))
    ...         return (q @ k.mT).sum(0)
    >>> graph = dg.trace(Heads(), torch.randn(5, 4))
    >>> dict(dg.cut_each(graph, {"q.weight:0[1]": [[0], [2]]}).kept["k.weight"])
    {0: IndexSet('1-4')}
    """
    if not isinstance(lost, Mapping):
        raise PlanError(f"expected a mapping from group names to indices, met {type(lost).__name__}. Nothing was changed.")
    bases, removed = bases_of(graph), dict[Atom, Removal]()
    for name, given in lost.items():
        if name not in graph.groups_by_name:
            raise UnknownNameError("group", name, graph.groups_by_name)
        atom = graph.groups_by_name[name].atom
        rows = list(given) if isinstance(given, Iterable) else [given]
        if not any(isinstance(row, Iterable) and not isinstance(row, str) for row in rows):
            removed[atom] = _checked(f"group {name}", rows)
        elif atom in bases:
            sets = tuple(_checked(f"row {number} of group {name}", row) for number, row in enumerate(rows))
            removed[atom] = RaggedSet(bases[atom], sets)
        else:
            raise PlanError(
                f"group {name} must lose the same indices everywhere: {why_uniform(graph, name)}. "
                "Give one list of indices. Nothing was changed."
            )
    return plan_of(graph, removed)


def _checked(whose: str, given: Any) -> IndexSet:
    asked: list[Any] = list(given) if isinstance(given, Iterable) else [given]
    strange = [index for index in asked if isinstance(index, bool) or not isinstance(index, int) or index < 0]
    if strange or not isinstance(given, Iterable) or len(set(asked)) < len(asked):
        raise PlanError(
            f"expected a list of different indices for {whose}, counted from 0 such as [2, 6, 9], met {given!r}. "
            "Nothing was changed."
        )
    return IndexSet.of(asked)
