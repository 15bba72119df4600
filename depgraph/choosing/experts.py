"""How many of a parameter's experts a token meets, where the graph tells."""

from __future__ import annotations

from depgraph.algebra.spaces import Space
from depgraph.choosing.costs import Terms
from depgraph.graph.graph import Graph
from depgraph.graph.records import Operation

_BY_EXPERT = frozenset({"aten._grouped_mm", "aten.index", "aten.index_select"})
"""Operators that take of a stack of experts those that other operands name."""


def active_terms(graph: Graph) -> Terms:
    """The parameters that one token meets, as a polynomial: of stacked experts as many as the router chooses."""
    met = experts_met(graph)
    terms: dict[tuple[Space, ...], int | float] = {}
    for tensor in graph.tensors:
        if tensor.kind == "parameter":
            axes, scale = (tensor.axes[1:], met[tensor.name]) if tensor.name in met else (tensor.axes, 1)
            terms[axes] = terms.get(axes, 0) + scale
    return terms


def experts_met(graph: Graph) -> dict[str, int]:
    """Names of parameters that hold experts along their first dimension, with how many of them one token meets.

    An expert is chosen by a `topk` over as many candidates as there are experts; the operation that reads the parameter takes
    what was made of its result, too. Experts that are modules of a list can't be told from other branches: all of them count.
    """
    chosen: dict[str, Operation] = {}
    order: dict[str, int] = {}
    for position, operation in enumerate(graph.operations):
        if operation.op == "aten.topk":
            order[operation.name] = position
            chosen[operation.outputs[1]] = operation
            continue
        sources = [chosen[name] for name in operation.inputs if name in chosen]
        if sources:
            latest = max(sources, key=lambda source: order[source.name])
            chosen.update(dict.fromkeys(operation.outputs, latest))
    met: dict[str, int] = {}
    for name, uses in graph.uses.items():
        shape = graph.tensor(name).shape
        counts = [_met(graph, operation, shape[0] if shape else 0, chosen) for operation, _ in uses]
        if counts and all(counts) and graph.tensor(name).kind == "parameter":
            met[name] = min(sum(counts), shape[0])
    return met


def _met(graph: Graph, operation: Operation, experts: int, chosen: dict[str, Operation]) -> int:
    """How many of so many experts one token takes in an operation; 0: it is not told."""
    if operation.op not in _BY_EXPERT:
        return 0
    routers = [chosen[name] for name in operation.inputs if name in chosen]
    sizes = [
        graph.tensor(router.outputs[0]).shape[-1] for router in routers if graph.tensor(router.inputs[0]).shape[-1] == experts
    ]
    return max(sizes, default=0)
