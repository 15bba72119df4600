"""The layers in which a parameter is the weight."""

from __future__ import annotations

from attrs import frozen

from depgraph.algebra.spaces import Space
from depgraph.graph.graph import Graph
from depgraph.graph.records import Operation


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
    layers: dict[str, list[Layer]] = {}
    for operation in graph.operations:
        place = operation.traits.weight
        if place is None:
            continue
        weight, x = graph.by_name[operation.inputs[place.operand]], graph.by_name[place.read[0]]
        if weight.kind == "parameter" and x.kind == "value":
            read, made = (graph.by_name[name].axes[dim] for name, dim in (place.read, place.made))
            layers.setdefault(weight.name, []).append(Layer(operation, place.inner, place.outer, read, made))
    return layers
