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
        in_dim: the weight's dimension that is contracted with the input.
        out_dim: the weight's dimension that becomes an axis of the output.
        in_space: the space of the input channels.
        out_space: the space of the output channels.
    """

    operation: Operation
    in_dim: int
    out_dim: int
    in_space: Space
    out_space: Space


def layers_of(graph: Graph) -> dict[str, list[Layer]]:
    """The layers of which each parameter is the weight itself, not a view of it."""
    layers: dict[str, list[Layer]] = {}
    for operation in graph.operations:
        trait = operation.traits.weight
        if trait is None:
            continue
        weight, x = graph.by_name[operation.inputs[trait.operand]], graph.by_name[trait.read[0]]
        if weight.kind == "parameter" and x.kind == "value":
            in_space, out_space = (graph.by_name[name].axes[dim] for name, dim in (trait.read, trait.made))
            layers.setdefault(weight.name, []).append(Layer(operation, trait.inner, trait.outer, in_space, out_space))
    return layers
