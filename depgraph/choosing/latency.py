"""Latency models from a table: the latency of a graph is the sum of the measured latencies of its operations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from attrs import frozen

from depgraph.errors import PlanError
from depgraph.graph.arguments import of_graph
from depgraph.graph.graph import Graph
from depgraph.graph.records import Operation, OpType

__all__ = ["OperationForm", "form_of", "latency_table"]

_BOUNDARY = frozenset({OpType.INPUT, OpType.OUTPUT, OpType.PARAMETER})
"""Nodes that call no operator."""


OperandShape: TypeAlias = tuple[int, ...]


@frozen
class OperationForm:
    """Operator and shapes, which are all that the latency of an operation depends on here.

    Attributes:
        op: the ATen operator.
        inputs: shapes of its operands, weights and buffers among them.
        outputs: shapes of its results.

    >>> OperationForm("aten.relu", inputs=((1, 8),), outputs=((1, 8),)) == OperationForm("aten.relu", ((1, 8),), ((1, 8),))
    True
    """

    op: str
    inputs: tuple[OperandShape, ...]
    outputs: tuple[OperandShape, ...]


Measured: TypeAlias = Mapping[OperationForm, float] | Callable[[OperationForm], float]


@of_graph
def form_of(graph: Graph, operation: Operation) -> OperationForm:
    """The form that an operation has in a graph.

    Args:
        graph: the graph, whose sizes count.
        operation: one of ``graph.operations``.

    >>> import torch, depgraph as dg
    >>> graph = dg.trace(torch.nn.Linear(4, 8), torch.zeros(1, 4))
    >>> [form_of(graph, operation) for operation in graph.operations if "linear" in operation.op]
    [OperationForm(op='aten.linear', inputs=((1, 4), (8, 4), (8,)), outputs=((1, 8),))]
    """
    inputs, outputs = (tuple(graph.tensor(name).shape for name in names) for names in (operation.inputs, operation.outputs))
    return OperationForm(operation.op, inputs, outputs)


def latency_table(measured: Measured) -> Callable[[Graph], float]:
    """A latency model for `plan`: the sum over a graph's operations of what each form of operation costs.

    Operations of further calls (`also=` of `trace`) cost nothing, as everywhere.

    Args:
        measured: cost by `OperationForm`, or a function that measures one; it is called once for each distinct form that
            planning meets, so that a chain of equal layers is measured once.

    Returns:
        A function of a graph, whose result is in the unit of the costs. It raises `PlanError` for a form that the table does
        not have.

    Raises:
        PlanError: `measured` is neither a mapping nor a function.

    >>> import torch, depgraph as dg
    >>> graph = dg.trace(torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2)), torch.randn(1, 4))
    >>> def microseconds(form):                # in earnest: time torch.nn.functional.linear at these shapes
    ...     return form.inputs[1][0] if "linear" in form.op else 0
    >>> latency_model = dg.latency.latency_table(microseconds)
    >>> latency_model(graph)
    10
    >>> plan = dg.plan(graph, {"0.weight:0": range(8)}, latency=0.7, latency_model=latency_model)
    >>> len(plan.removed["0.weight:0"])
    3
    """
    if not callable(measured) and not isinstance(measured, Mapping):
        raise PlanError(f"expected costs by OperationForm, or a function that measures one, met {type(measured).__name__}.")
    costs: dict[OperationForm, float] = {}

    def cost(form: OperationForm) -> float:
        if form not in costs:
            if isinstance(measured, Mapping):
                if form not in measured:
                    raise PlanError(
                        f"the table has no {form}; measure it too, or pass a function that measures what it is asked."
                    )
                costs[form] = measured[form]
            else:
                costs[form] = measured(form)
        return costs[form]

    def latency_model(graph: Graph) -> float:
        runs = (operation for operation in graph.operations if not operation.further and operation.type not in _BOUNDARY)
        return sum(cost(form_of(graph, operation)) for operation in runs)

    return latency_model
