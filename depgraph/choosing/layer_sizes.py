"""What an engine looks at: the sizes of layers and attentions after a plan, with the heads that lie in each axis."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from attrs import frozen

from depgraph.algebra.spaces import Atom, Space, Sum, atoms, substitute
from depgraph.graph.graph import Graph
from depgraph.graph.records import Operation, OpType, Tensor
from depgraph.plans.implied import smaller_atom
from depgraph.plans.plan import Plan

_COUNTS_HEADS = frozenset({"head", "kv_group"})
_OF_ATTENTION = frozenset({"head", "kv_group", "head_dim"})


@frozen
class Part:
    """A part of an axis, such as the queries of a joint projection.

    Attributes:
        size: number of indices.
        heads: how many heads lie in it; 0 for what is not of an attention.
    """

    size: int
    heads: int

    def per_rank(self, ranks: int) -> float:
        """How many indices one of several ranks holds; heads are shared out whole, and repeated where they are too few."""
        return self.size / self.heads * max(1, self.heads / ranks) if self.heads else self.size / ranks


@frozen
class LayerAxis:
    """The inputs or the outputs of a layer.

    Attributes:
        parts: what is laid end to end in it.
        whole: whether each rank holds all of it: the stream that all layers read and add to, and what the model returns.
    """

    parts: tuple[Part, ...]
    whole: bool

    @property
    def size(self) -> int:
        """Number of indices."""
        return sum(part.size for part in self.parts)

    def per_rank(self, ranks: int) -> float:
        """How many indices one of several ranks holds: not a whole number where they can't be shared out."""
        return self.size if self.whole else sum(part.per_rank(ranks) for part in self.parts)


@frozen
class SizedLayer:
    """A layer with a weight.

    Attributes:
        name: of the parameter.
        inputs: what a row of the weight ranges over.
        outputs: what it makes; None for an embedding, whose rows are looked up.
        last: whether it makes what the model returns: engines keep it as it is, in full precision.
    """

    name: str
    inputs: LayerAxis
    outputs: LayerAxis | None
    last: bool


@frozen
class SizedAttention:
    """An attention: how many heads its queries have, and how wide they are; a width of 0 is not known."""

    name: str
    heads: int
    head_dim: int
    value_dim: int


class Sizes:
    """The sizes of a graph's layers after a plan; without one, as they are."""

    def __init__(self, graph: Graph, plan: Plan | None = None) -> None:
        self._graph = graph
        counts = {cut.atom: cut.count for cut in plan.cuts} if plan is not None else {}
        self._smaller = {atom: smaller_atom(atom, count) for atom, count in counts.items()}
        self._stream = _stream(graph)
        self._returned = {
            name for operation in graph.operations if operation.type is OpType.OUTPUT for name in operation.inputs
        }

    def size(self, space: Space) -> int:
        """How many indices of a space remain."""
        return substitute(space, lambda atom: self._smaller.get(atom, atom)).size

    def layers(self) -> Iterator[SizedLayer]:
        """Every parameter that is the weight of a layer, once for each layer that reads it, in the order of the forward."""
        for operation in self._graph.operations:
            weight = _weight_of(operation, self._graph.tensor)
            if weight is None:
                continue
            tensor, inner, outer = weight
            last = any(name in self._returned for name in operation.outputs)
            inputs = self._axis(tensor.axes[inner])
            yield SizedLayer(tensor.name, inputs, None if outer is None else self._axis(tensor.axes[outer], last), last)

    def attentions(self) -> Iterator[SizedAttention]:
        """Every attention, whether one operator or products of queries, keys and values."""
        for operation in self._graph.operations:
            operands = [self._graph.tensor(name) for name in operation.inputs[:3]]
            products = operation.type is OpType.MATMUL and len(operands) == 2
            if not products and operation.type is not OpType.ATTENTION:
                continue
            if any(operand.kind != "value" or len(operand.axes) < 3 for operand in operands):
                continue
            heads = operands[0].axes[-3]
            if products and not self._has_role(heads, _COUNTS_HEADS):
                continue
            dims = [self._width(operand.axes[-1], products) for operand in (operands[0], operands[-1])]
            yield SizedAttention(operation.name.rpartition(".")[0] or operation.name, self.size(heads), *dims)

    def _width(self, space: Space, products: bool) -> int:
        return 0 if products and not self._has_role(space, frozenset({"head_dim"})) else self.size(space)

    def _has_role(self, space: Space, roles: frozenset[str]) -> bool:
        return any(self._role(atom) in roles for atom in atoms(space))

    def _role(self, atom: Atom) -> str:
        group = self._graph.group_of.get(atom)
        return "" if group is None else group.role

    def _axis(self, space: Space, whole: bool = False) -> LayerAxis:
        parts = space.parts if isinstance(space, Sum) else (space,)
        sized = tuple(Part(self.size(part), self._heads(part)) for part in parts)
        return LayerAxis(sized, whole or any(atom in self._stream for atom in atoms(space)))

    def _heads(self, space: Space) -> int:
        if not self._has_role(space, _OF_ATTENTION):
            return 0
        return math.prod(self.size(atom) for atom in dict.fromkeys(atoms(space)) if self._role(atom) in _COUNTS_HEADS)


def _weight_of(operation: Operation, tensor: Callable[[str], Tensor]) -> tuple[Tensor, int, int | None] | None:
    """The parameter that is an operation's weight, with its dimensions of inputs and outputs."""
    layer = operation.traits.weight
    if operation.type is OpType.DEPTHWISE_CONV:  # each output has one input
        return None
    if layer is not None:
        weight = tensor(operation.inputs[layer.operand])
        return (weight, layer.inner, layer.outer) if weight.kind == "parameter" else None
    if operation.type is OpType.EMBEDDING:
        weight = tensor(operation.inputs[0])
        return (weight, 1, None) if weight.kind == "parameter" else None
    return None


def _stream(graph: Graph) -> frozenset[Atom]:
    """The atoms of what all layers read and add to: embeddings have them, and norms take their means along them."""
    stream: set[Atom] = set()
    for operation in graph.operations:
        if operation.type is OpType.EMBEDDING:
            stream.update(atoms(graph.tensor(operation.inputs[0]).axes[1]))
        elif operation.type in {OpType.LN, OpType.REDUCE}:
            mixes = operation.traits.mixes or ()
            stream.update(atom for name, dim in mixes for atom in atoms(graph.tensor(name).axes[dim]))
    roles = {atom: group.role for atom, group in graph.group_of.items()}
    return frozenset(atom for atom in stream if roles.get(atom) not in _OF_ATTENTION)
