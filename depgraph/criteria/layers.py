"""The layers in which a parameter is the weight."""

from __future__ import annotations

from attrs import frozen

from depgraph.algebra.spaces import Space
from depgraph.graph.graph import Graph
from depgraph.graph.records import Operation, OpType


@frozen
class Layer:
    """A convolution or product in which a parameter is the weight.

    Attributes:
        operation: the operation.
        in_dim: the weight's dimension that meets what the layer reads.
        out_dim: the weight's dimension that becomes what the layer makes.
        read: the space of the channels that it reads.
        made: the space of the channels that it makes.
    """

    operation: Operation
    in_dim: int
    out_dim: int
    read: Space
    made: Space


def layers_of(graph: Graph) -> dict[str, list[Layer]]:
    """The layers of which each parameter is the weight itself, not a view of it."""
    found: dict[str, list[Layer]] = {}
    for operation in graph.operations:
        name = operation.op.rpartition(".")[2]
        place = 2 if name == "addmm" else 1
        if len(operation.inputs) <= place or not operation.outputs:
            continue
        x, weight = (graph.by_name[operation.inputs[at]] for at in (place - 1, place))
        if weight.kind != "parameter" or x.kind != "value" or len(weight.axes) < 2:
            continue
        if operation.type in {OpType.CONV, OpType.DEPTHWISE_CONV}:
            dims, channel = ((0, 1) if "transpose" in name else (1, 0)), 1 - len(weight.axes)
        elif len(weight.axes) == 2 and operation.type is OpType.LINEAR:
            dims, channel = (1, 0), -1
        elif len(weight.axes) == 2 and name in {"mm", "matmul", "addmm"}:
            dims, channel = (0, 1), -1
        else:
            continue
        out = graph.by_name[operation.outputs[0]]
        found.setdefault(weight.name, []).append(Layer(operation, *dims, x.axes[channel], out.axes[channel]))
    return found
