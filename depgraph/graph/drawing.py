"""Graphs in the forms of other tools: DOT for graphviz, and networkx."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from depgraph.graph.nodes import Node

if TYPE_CHECKING:
    from networkx import DiGraph


def edges_of(nodes: Iterable[Node]) -> Iterator[tuple[str, str, bool, str]]:
    """What flows from which node to which, whether a removal at one end forces one at the other, and which axes these are."""
    for node in nodes:
        for target in node.outputs:
            forced = [item for item in node.dependencies if item.target == target]
            axes = dict.fromkeys(f"{item.source_axis} -> {item.target_axis}" for item in forced)
            yield node.name, target, bool(forced), ", ".join(axes)


def dot_of(nodes: Iterable[Node]) -> str:
    """The nodes as a DOT document: solid edges where something prunable passes, dashed ones elsewhere."""
    nodes = tuple(nodes)
    lines = ["digraph {", '  node [shape=box, style=rounded, fontname="sans-serif"];']
    for node in nodes:
        lines.append(f"  {_quoted(node.name)} [label={_quoted(f'{node.name}', f'{node.type.value} {node.op}')}];")
    for source, target, forced, axes in edges_of(nodes):
        shown = f"label={_quoted(axes)}" if forced else "style=dashed"
        lines.append(f"  {_quoted(source)} -> {_quoted(target)} [{shown}];")
    return "\n".join([*lines, "}", ""])


def networkx_of(nodes: Iterable[Node]) -> DiGraph[str]:
    """The nodes as a directed graph of networkx."""
    import networkx

    nodes = tuple(nodes)
    graph: DiGraph[str] = networkx.DiGraph()
    for node in nodes:
        graph.add_node(
            node.name, type=node.type.value, op=node.op, module_class=node.module_class, pruning_dim=node.pruning_dim
        )
    for source, target, forced, axes in edges_of(nodes):
        graph.add_edge(source, target, forced=forced, axes=axes)
    return graph


def _quoted(*lines: str) -> str:
    """Text as a quoted identifier of DOT, each argument a line of it."""
    escaped = (line.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ") for line in lines)
    return '"' + "\\n".join(escaped) + '"'
