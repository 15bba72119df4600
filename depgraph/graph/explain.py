"""Graphs as text for people."""

from __future__ import annotations

from depgraph.algebra.spaces import atoms
from depgraph.graph.graph import Graph
from depgraph.graph.ragged import bases_of

LONGEST = 24
"""Dependencies that `explain` writes out for one group."""


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
    lines = [f"{name} dim {dim} (size {space.size}) ranges over {space}"]
    if not atoms(space):
        why = graph.why_pinned(space) if space.size > 1 else "the last index is never removed"
        lines.append(f"  size {space.size}: {why}")
    bases = bases_of(graph)
    for atom in atoms(space):
        group = graph.group_of.get(atom)
        if group is None:
            lines.append(f"  {atom} is pinned: {graph.reasons.get(atom, 'no parameter holds it')}")
            continue
        lines.append(f"  group {group.name}: {group.size} indices, role {group.role}; removed together from")
        lines.extend(f"    {tensor} dim {d}" for tensor, d in group.members)
        if group.multiple > 1:
            lines.append(f"  a plan keeps a multiple of {group.multiple} indices: {graph.why_multiple(atom)}")
        if group.lower_bound > 1:
            lines.append(f"  it must keep at least {group.lower_bound} indices: {graph.why_kept(atom)}")
        forward = [
            dependency
            for node in graph.nodes
            for dependency in node.dependencies
            if dependency.target in node.outputs
            and any(atom in atoms(step) for pair in dependency.index_map.steps for step in pair)
        ]
        if forward:
            lines.append("  because of")
            sentences = list(dict.fromkeys(f"    {dependency} ({dependency.why})" for dependency in forward))
            lines.extend(sentences[:LONGEST])
            if len(sentences) > LONGEST:
                lines.append(f"    ... and {len(sentences) - LONGEST} more, in graph.dependencies")
        if atom in bases:
            lines.append(f"  each index of {graph.group_of[bases[atom]].name} may lose its own of it (dg.cut_each)")
        for balance in graph.balances:
            if atom in balance.atoms:
                others = ", ".join(graph.group_of[other].name for other in balance.atoms if other != atom)
                lines.append(f"  it must lose as many indices as {others}: {balance.reason}")
    return "\n".join(lines)
