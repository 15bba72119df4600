"""Cuts by hand: indices in, a plan out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from attrs import evolve

from depgraph.algebra.index_maps import image, leaves, preimage
from depgraph.algebra.indices import IndexSet
from depgraph.algebra.ragged_sets import RaggedSet, Removal
from depgraph.algebra.spaces import Atom, Space, atoms
from depgraph.errors import PinnedError, PlanError, UnknownNameError
from depgraph.graph.arguments import of_graph
from depgraph.graph.branches import BranchFlow, named_modules
from depgraph.graph.drops import Drop
from depgraph.graph.graph import Graph
from depgraph.graph.groups import Group
from depgraph.graph.ragged import bases_of, why_uniform
from depgraph.plans.indices import index_set
from depgraph.plans.making import plan_of
from depgraph.plans.plan import Plan


@of_graph
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
    requested = index_set(f"axis {dim} of {name!r}", space.size, indices)
    if not requested:
        return Plan.empty(graph)
    if len(requested) == space.size:
        raise PlanError(
            f"all {space.size} indices of axis {dim} of {name!r} would go; leave at least one. Nothing was changed."
        )
    removed = {atom: part for atom, part in preimage(space, requested).items() if atom in graph.group_of}
    unreached = requested - image(space, removed)
    if unreached:
        if not any(atom in graph.group_of for atom in atoms(space)):
            raise PinnedError(name, dim, graph.why_pinned(space))
        raise PlanError(_unaligned(graph, name, dim, space, unreached))
    return plan_of(graph, removed)


def _unaligned(graph: Graph, name: str, dim: int, space: Space, unreached: IndexSet) -> str:
    index = next(iter(unreached))
    blocks = []
    for leaf in leaves(space):
        if leaf.atom not in graph.group_of:
            continue
        for base in leaf.bases():
            if base <= index < base + leaf.atom.size * leaf.stride:
                whole = image(space, {leaf.atom: IndexSet.of([(index - base) // leaf.stride])})
                blocks.append(f"[{whole}] (one index of {graph.group_of[leaf.atom].name})")
    if not blocks:
        return f"index {index} of axis {dim} of {name!r} is pinned: {graph.why_pinned(space)}. Nothing was changed."
    return (
        f"axis {dim} of {name!r} is laid out as {space}: index {index} cannot go alone. "
        f"Remove {' or '.join(blocks)} with it. Nothing was changed."
    )


@of_graph
def drop(graph: Graph, path: str, elements: Iterable[int | str]) -> Plan:
    """The plan by which elements leave a list of modules: whole layers of a transformer, blocks of a network.

    The model runs as if the identity were in their places. Those behind them move up where the list counts its elements:
    ``layers.7`` becomes ``layers.6``, and what holds an element's place or their number follows. All names of the plan are
    those of the graph that is given; `Plan.name_after` has the new ones.

    Args:
        graph: the traced model.
        path: the `ModuleList`, `Sequential` or `ModuleDict`, by dotted path; empty for the model itself.
        elements: positions in it, or names; each once.

    Raises:
        UnknownNameError: no such list.
        PlanError: an element may not leave: it does not take one tensor to one of the same space, something else reads what it
            gives, forward names it or takes a part of the list, or none would stay. All reasons are told at once.

    >>> import torch, depgraph as dg
    >>> class Block(torch.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.inner, self.outer = torch.nn.Linear(4, 8), torch.nn.Linear(8, 4)
    ...     def forward(self, x):
    ...         return x + self.outer(self.inner(x).relu())
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), Block(), Block(), Block())
    >>> graph = dg.trace(model, torch.zeros(1, 3))
    >>> plan = dg.drop(graph, "", [2])
    >>> print(plan)
    <Plan: 0 groups, 0 axes, 0 attributes>
      the model: 1 of 4 elements go: 2
    >>> small = dg.execute(plan, model)
    >>> len(small), small[2].inner.weight.equal(model[3].inner.weight), dg.trace(small, torch.zeros(1, 3)) == plan.apply(graph)
    (3, True, True)
    >>> dg.drop(graph, "", [0])
    Traceback (most recent call last):
        ...
    depgraph.errors.PlanError: 0 may not leave: it takes no tensor of the space that it gives, not one. Nothing was changed.
    """
    if not isinstance(path, str):
        raise PlanError(f"expected the path of a list of modules, met {type(path).__name__}. Nothing was changed.")
    sequences = {item.path: item for item in graph.sequences}
    if path not in sequences:
        raise UnknownNameError("list of modules", path, sequences)
    sequence = evolve(sequences[path], fixed=(), problem="")
    places = [sequence.elements.index(item) if item in sequence.elements else item for item in _listed(elements)]
    removed = index_set(f"the list {path!r}", len(sequence.elements), places)
    return plan_of(graph, {}, [Drop(sequence, removed)]) if removed else Plan.empty(graph)


@of_graph
def drop_branches(graph: Graph, patterns: str | Iterable[str]) -> Plan:
    """The plan by which residual branches leave: the attention of a layer alone, or its MLP.

    A module may leave where what it returns is only added to the stream from which it is made. One that adds nothing takes its
    place, `depgraph.execution.branches.AddsNothing`, so that forward runs on as it is. What has no other use than to feed the
    branch, such as its normalisation, or only comes behind it, such as a projection, goes with it: `torch.nn.Identity` takes
    its place. All their parameters leave; the model computes what it computes where the last layer of the branch is zero.

    Args:
        graph: the traced model.
        patterns: the modules that run the branches, by dotted path or glob, such as ``model.layers.*.mlp``.

    Raises:
        UnknownNameError: a pattern names no module that holds parameters and that forward calls.
        PlanError: a module may not leave: what it gives is not added, something else reads it too, it is called more than
            once, or returns what no other module can; a pattern is given twice, or several problems. All are told at once.

    >>> import torch, depgraph as dg
    >>> class Block(torch.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.norm, self.mlp = torch.nn.LayerNorm(4), torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 4))
    ...     def forward(self, x):
    ...         return x + self.mlp(self.norm(x))
    >>> model, x = torch.nn.Sequential(torch.nn.Linear(3, 4), Block(), Block()), torch.randn(1, 3)
    >>> graph = dg.trace(model, x)
    >>> plan = dg.drop_branches(graph, "2.mlp")
    >>> print(plan)
    <Plan: 0 groups, 0 axes, 0 attributes>
      2.mlp adds nothing; with it go 2.norm
    >>> small = dg.execute(plan, model)
    >>> small[2]
    Block(
      (norm): Identity()
      (mlp): AddsNothing(like='0')
    )
    >>> torch.equal(small(x), model[:2](x)), dg.trace(small, x) == plan.apply(graph)
    (True, True)
    >>> dg.drop_branches(graph, "0")                                                # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    depgraph.errors.PlanError: 0 may not leave: what it gives is read by 1.norm (aten.layer_norm ...
    """
    paths, wrong = named_modules(graph, patterns)
    branches, problems = BranchFlow(graph).asked(paths)
    if len(wrong) == 1 and not problems and isinstance(wrong[0], UnknownNameError):
        raise wrong[0]
    if wrong or problems:
        raise PlanError.of([*map(str, wrong), *(f"{problem}." for problem in problems)])
    return plan_of(graph, {}, branches) if branches else Plan.empty(graph)


def _listed(elements: object) -> list[Any]:
    """The elements as a list. A text alone is one name, which is more likely meant than its letters."""
    if isinstance(elements, str) or not isinstance(elements, Iterable):
        raise PlanError.of([f"expected elements as a list of positions or names, met {elements!r}."])
    return list(elements)


@of_graph
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
    bases, removed, problems = bases_of(graph), dict[Atom, Removal](), list[str]()
    for name, indices in lost.items():
        if name not in graph.groups_by_name:
            raise UnknownNameError("group", name, graph.groups_by_name)
        group = graph.groups_by_name[name]
        try:
            removed[group.atom] = _removal(graph, group, bases.get(group.atom), indices)
        except PlanError as error:
            problems += error.problems
    if problems:
        raise PlanError.of(problems)
    return plan_of(graph, removed)


def _removal(graph: Graph, group: Group, base: Atom | None, indices: Any) -> Removal:
    """The removal that a user lists: the same indices in all rows, or a list for each index of the group's base."""
    if not isinstance(indices, Iterable) or not any(isinstance(row, Iterable) and not isinstance(row, str) for row in indices):
        return index_set(f"group {group.name}", group.size, indices)
    if base is None:
        why = why_uniform(graph, group)
        raise PlanError.of([f"group {group.name} must lose the same indices everywhere: {why}. Give one list of indices."])
    rows = (index_set(f"row {number} of group {group.name}", group.size, row) for number, row in enumerate(indices))
    return RaggedSet(base, tuple(rows))
