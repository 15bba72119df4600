"""Graphs as text for people: why something is coupled to what, or why it is pinned."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from depgraph.algebra.spaces import Atom, Space, atoms
from depgraph.errors import UnknownNameError
from depgraph.graph.arguments import of_graph
from depgraph.graph.graph import Graph
from depgraph.graph.groups import Group
from depgraph.graph.modules import modules_of
from depgraph.graph.patterns import groups_at
from depgraph.graph.ragged import bases_of
from depgraph.graph.records import ModuleSequence, SizeAttribute, Tensor, UnreadAttribute

LONGEST = 24
"""Dependencies that `explain` writes out for one group."""


@of_graph
def explain(graph: Graph, name: str, dim: int) -> str:
    """Why an axis is coupled to what, or why it is pinned, as text for people.

    Args:
        graph: the traced model.
        name: a parameter, buffer or value.
        dim: the dimension.

    Raises:
        UnknownNameError: no such tensor.
        PlanError: it has no such dimension.

    >>> import torch, depgraph as dg
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> print(dg.explain(dg.trace(model, torch.randn(1, 4)), "0.weight", dim=0))
    0.weight dim 0 (size 8) ranges over a0:8
      group 0.weight:0: 8 indices, role channel; removed together from
        0.weight dim 0
        0.bias dim 0
        2.weight dim 1
      because of
        removing outputs of 0 removes channels of 1 (aten.relu)
        removing channels of 1 removes inputs of 2 (aten.linear)
    """
    space = graph.axis(name, dim)
    return "\n".join([f"{name} dim {dim} (size {space.size}) ranges over {space}", *_space_lines(graph, space)])


def explain_path(graph: Graph, path: str) -> str:
    """The text of `depgraph.why` for a path or a pattern.

    Raises:
        UnknownNameError: the graph has nothing of this name; the message has near names.
    """
    axis = re.fullmatch(r"(.+):(\d+)", path, re.DOTALL)
    if path in graph.groups_by_name:
        return "\n".join(_group_lines(graph, graph.groups_by_name[path], bases_of(graph), ""))
    if path in graph.by_name:
        return "\n".join(_tensor_lines(graph, path, graph.by_name[path]))
    if axis is not None and axis[1] in graph.by_name:
        return explain(graph, axis[1], int(axis[2]))
    attributes: dict[str, SizeAttribute | UnreadAttribute] = {item.path: item for item in graph.unread}
    attributes.update((item.path, item) for item in graph.attributes)
    if path in attributes:
        return "\n".join(_attribute_lines(graph, attributes[path]))
    lines = [line for sequence in graph.sequences if sequence.path == path for line in _sequence_lines(sequence)]
    if path in graph._nodes_by_name:
        lines += graph.node(path).details().splitlines()
    modules = modules_of(graph)
    if path in modules:
        tensors = modules[path].tensors
        lines += [
            line
            for local, tensor in tensors.items()
            for line in _tensor_lines(graph, f"{path}.{local}" if path else local, tensor)
        ]
    return "\n".join(lines or _pattern_lines(graph, path, {*attributes, *modules, *graph._nodes_by_name}))


def _pattern_lines(graph: Graph, pattern: str, names: set[str]) -> Iterator[str]:
    """What a pattern such as ``role:head`` names, group by group."""
    try:
        groups = groups_at(graph, pattern)
    except UnknownNameError:
        roles = {f"role:{group.role}" for group in graph.groups}
        known = roles if pattern.startswith("role:") else {*names, *graph.by_name, *graph.groups_by_name} - {""}
        raise UnknownNameError("tensor, group, attribute, module or operation", pattern, known) from None
    bases = bases_of(graph)
    for group in groups:
        yield from _group_lines(graph, group, bases, "")
    if not groups:
        yield f"{pattern} names no group"


def _tensor_lines(graph: Graph, name: str, tensor: Tensor) -> Iterator[str]:
    yield f"{name}: {tensor.kind} of shape {tensor.shape}" + (f", also {', '.join(tensor.aliases)}" if tensor.aliases else "")
    for dim, space in enumerate(tensor.axes):
        groups = [graph.group_of[atom] for atom in dict.fromkeys(atoms(space)) if atom in graph.group_of]
        pinned = any(atom not in graph.group_of for atom in atoms(space)) or not atoms(space)
        told = [f"group {group} of role {group.role}" for group in groups]
        told += [f"pinned: {graph.why_pinned(space) if space.size > 1 else _LAST}"] if pinned else []
        yield f"  dim {dim} (size {space.size}): {'; '.join(told)}"


def _attribute_lines(graph: Graph, attribute: SizeAttribute | UnreadAttribute) -> Iterator[str]:
    """What an attribute counts, and what its value follows."""
    unread = isinstance(attribute, UnreadAttribute)
    spaces = attribute.spaces if isinstance(attribute, UnreadAttribute) else (attribute.space,)
    for space in spaces:
        counts = "is not read by forward; it may count" if unread else "counts"
        axes = [
            f"{tensor.name} dim {dim}"
            for tensor in graph.tensors
            if tensor.kind != "value"
            for dim, axis in enumerate(tensor.axes)
            if axis == space
        ]
        shown = ", ".join(axes[:LONGEST]) or f"what ranges over {space}"
        more = f" and {len(axes) - LONGEST} more" if len(axes) > LONGEST else ""
        yield f"attribute {attribute.path} ({space.size}) {counts} {shown}{more}"
        yield from _space_lines(graph, space)


def _sequence_lines(sequence: ModuleSequence) -> Iterator[str]:
    """Whether elements may leave a list of modules."""
    yield f"{sequence.path or 'the model'}: a list of {len(sequence.elements)} modules"
    if sequence.problem:
        yield f"  none of them can be dropped: {sequence.problem}"
    yield from (f"  {sequence.elements[place]} stays: {reason}" for place, reason in sequence.fixed)
    yield from (f"  {path} says how many there are" for path in sequence.counts)


def _space_lines(graph: Graph, space: Space) -> Iterator[str]:
    """Each part of an axis: its group, or why it is pinned."""
    if not atoms(space):
        yield f"  size {space.size}: {graph.why_pinned(space) if space.size > 1 else _LAST}"
    bases = bases_of(graph)
    for atom in atoms(space):
        if atom in graph.group_of:
            yield from _group_lines(graph, graph.group_of[atom], bases, "  ")
        else:
            yield f"  {atom} is pinned: {graph.reasons.get(atom, 'no parameter holds it')}"


_LAST = "the last index is never removed"


def _group_lines(graph: Graph, group: Group, bases: Mapping[Atom, Atom], indent: str) -> Iterator[str]:
    """Where a group occurs, because of what, and what limits it."""
    atom = group.atom
    yield f"{indent}group {group.name}: {group.size} indices, role {group.role}; removed together from"
    yield from (f"{indent}  {tensor} dim {d}" for tensor, d in group.members)
    if group.multiple > 1:
        yield f"{indent}a plan keeps a multiple of {group.multiple} indices: {graph.why_multiple(atom)}"
    if group.lower_bound > 1:
        yield f"{indent}it must keep at least {group.lower_bound} indices: {graph.why_kept(atom)}"
    forward = [
        dependency
        for node in graph.nodes
        for dependency in node.dependencies
        if dependency.target in node.outputs
        and any(atom in atoms(step) for pair in dependency.index_map.steps for step in pair)
    ]
    if forward:
        yield f"{indent}because of"
        sentences = list(dict.fromkeys(f"{indent}  {dependency} ({dependency.why})" for dependency in forward))
        yield from sentences[:LONGEST]
        if len(sentences) > LONGEST:
            yield f"{indent}  ... and {len(sentences) - LONGEST} more, in graph.dependencies"
    if atom in bases:
        yield f"{indent}each index of {graph.group_of[bases[atom]].name} may lose its own of it (dg.cut_each)"
    for balance in graph.balances:
        if atom in balance.atoms:
            others = ", ".join(graph.group_of[other].name for other in balance.atoms if other != atom)
            yield f"{indent}it must lose as many indices as {others}: {balance.reason}"
    yield from (
        f"{indent}attribute {item.path} counts it" for item in graph.attributes if not indent and atom in atoms(item.space)
    )
