"""Nodes with their neighbourhood, and the dependencies that shared groups give."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from attrs import frozen

from depgraph.algebra.index_maps import IndexMap
from depgraph.algebra.spaces import Atom, Space, atoms
from depgraph.graph.groups import Group
from depgraph.graph.records import FEATURE_LAYERS, LAYERS, Operation, OpType, Tensor


@frozen
class Dependency:
    """A removal on one node that forces a removal on a neighbour.

    Attributes:
        source: name of the node whose removal comes first.
        source_axis: which of its axes: outputs, inputs, features or channels.
        target: name of the node that must follow.
        target_axis: which of its axes.
        index_map: removed flat indices of the source axis to those of the target axis.
        why: the operator that couples the two.

    >>> import torch, depgraph as dg
    >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3), torch.nn.Flatten(), torch.nn.Linear(8, 5))
    >>> graph = dg.trace(model, torch.zeros(1, 3, 4, 4))
    >>> dependency = graph.node("1").dependencies[-1]           # of the flatten, which makes 4 features of each channel
    >>> isinstance(dependency, dg.Dependency), str(dependency)
    (True, 'removing channels of 1 removes inputs of 2')
    >>> print(graph.node("0").dependencies[0].index_map(dg.IndexSet.of([1])))
    4-7
    """

    source: str
    source_axis: str
    target: str
    target_axis: str
    index_map: IndexMap
    why: str

    def __str__(self) -> str:
        return f"removing {self.source_axis} of {self.source} removes {self.target_axis} of {self.target}"


@frozen
class Node:
    """A layer or a virtual operation (concat, split, add, ...), with its neighbourhood.

    Attributes:
        name: the module's dotted path, or that of the surrounding module with the operator's name.
        type: its `OpType`.
        op: the ATen operator.
        module_class: class of the module it ran in.
        inputs: names of the nodes it reads from.
        outputs: names of the nodes that read from it.
        dependencies: what a removal here forces on the neighbours.
        pruning_dim: the dimension of its output along which something can be removed; None if there is none.
        enable_index_mapping: false where an index passes through unchanged.

    >>> import torch, depgraph as dg
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> node = dg.trace(model, torch.zeros(1, 4)).node("1")
    >>> print(node)
    <Node: 1 (elementwise, aten.relu)>
    >>> isinstance(node, dg.Node), node.inputs, node.outputs, node.pruning_dim
    (True, ('0',), ('2',), 1)
    """

    name: str
    type: OpType
    op: str
    module_class: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    dependencies: tuple[Dependency, ...]
    pruning_dim: int | None
    enable_index_mapping: bool

    def __str__(self) -> str:
        return f"<Node: {self.name} ({self.type.value}, {self.op})>"

    def details(self) -> str:
        """Everything the node holds, as text."""
        lines = [
            str(self),
            f"  inputs: {', '.join(self.inputs) or '-'}",
            f"  outputs: {', '.join(self.outputs) or '-'}",
            "  dependencies:" if self.dependencies else "  dependencies: -",
            *(f"    {dependency}" for dependency in self.dependencies),
            f"  enable_index_mapping={self.enable_index_mapping}, pruning_dim={self.pruning_dim}",
        ]
        return "\n".join(lines)


def nodes_of(tensors: Iterable[Tensor], operations: Sequence[Operation], free: Mapping[Atom, Group]) -> tuple[Node, ...]:
    """The operations with their neighbours, and the dependencies that the shared groups give."""
    producer = {tensor: operation.name for operation in operations for tensor in operation.outputs}
    by_name = {tensor.name: tensor for tensor in tensors}
    sources: dict[str, dict[str, None]] = {operation.name: {} for operation in operations}
    readers: dict[str, dict[str, None]] = {operation.name: {} for operation in operations}
    forced: dict[str, list[Dependency]] = {operation.name: [] for operation in operations}
    types = {operation.name: operation.type for operation in operations}

    def prunable(tensor: Tensor) -> list[Space]:
        return [space for space in tensor.axes if any(atom in free for atom in atoms(space))]

    def own_axes(operation: Operation) -> list[Space]:
        """The prunable axes of a node: of its outputs and of its parameters; a layer's parameters come first."""
        outputs = [space for name in operation.outputs for space in prunable(by_name[name])]
        parameters = [
            space
            for name in operation.inputs
            if name not in producer and by_name[name].kind != "value"
            for space in prunable(by_name[name])
        ]
        return parameters + outputs if types[operation.name] in LAYERS else outputs + parameters

    maps_indices: dict[str, bool] = {}
    dims: dict[str, int | None] = {}
    for operation in operations:
        axes = own_axes(operation)
        pairs: list[tuple[Space, Space]] = []
        for name in dict.fromkeys(operation.inputs):
            source = producer.get(name)
            if source is None or source == operation.name:
                continue
            sources[operation.name][source] = None
            readers[source][operation.name] = None
            for space in prunable(by_name[name]):
                shared = {atom for atom in atoms(space) if atom in free}
                target = next((axis for axis in axes if shared & set(atoms(axis))), space)
                pairs.append((space, target))
                sides = _sides(types[source], types[operation.name])
                forward = Dependency(source, sides[0], operation.name, sides[1], IndexMap.between(space, target), operation.op)
                backward = Dependency(operation.name, sides[1], source, sides[0], IndexMap.between(target, space), operation.op)
                if forward not in forced[source]:
                    forced[source].append(forward)
                    forced[operation.name].append(backward)
        maps_indices[operation.name] = any(source != target for source, target in pairs)
        dims[operation.name] = None
        for name in operation.outputs[:1]:
            spaces = by_name[name].axes
            dims[operation.name] = next(
                (dim for dim, space in enumerate(spaces) if any(atom in free for atom in atoms(space))), None
            )
    return tuple(
        Node(
            name=operation.name,
            type=operation.type,
            op=operation.op,
            module_class=operation.module_class,
            inputs=tuple(sources[operation.name]),
            outputs=tuple(readers[operation.name]),
            dependencies=tuple(forced[operation.name]),
            pruning_dim=dims[operation.name],
            enable_index_mapping=maps_indices[operation.name],
        )
        for operation in operations
    )


def _sides(source: OpType, target: OpType) -> tuple[str, str]:
    """What the indices at the two ends of a dependency are called: outputs, inputs, features or channels."""
    first = "outputs" if source in LAYERS else "features" if source in FEATURE_LAYERS else "channels"
    second = "inputs" if target in LAYERS else "features" if target in FEATURE_LAYERS else "channels"
    return first, second
