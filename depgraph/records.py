"""The frozen records of which a graph is made, and those that a reader gets from it."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from functools import cached_property

from attrs import evolve, field, frozen

from depgraph.spaces import Atom, IndexMap, Space


class OpType(enum.Enum):
    """What kind of node an operator makes."""

    CONV = "conv"
    DEPTHWISE_CONV = "depthwise_conv"
    LINEAR = "linear"
    BN = "bn"
    LN = "ln"
    GN = "gn"
    IN = "in"
    PRELU = "prelu"
    EMBEDDING = "embedding"
    PARAMETER = "parameter"
    LSTM = "lstm"
    MHA = "mha"
    ATTENTION = "attention"
    MATMUL = "matmul"
    CONCAT = "concat"
    SPLIT = "split"
    SLICE = "slice"
    UNBIND = "unbind"
    RESHAPE = "reshape"
    EXPAND = "expand"
    PERMUTE = "permute"
    POOL = "pool"
    REDUCE = "reduce"
    ELEMENTWISE = "elementwise"
    CREATE = "create"
    INPUT = "input"
    OUTPUT = "output"
    CUSTOMIZED = "customized"
    UNKNOWN = "unknown"


LAYERS = frozenset(
    {OpType.CONV, OpType.DEPTHWISE_CONV, OpType.LINEAR, OpType.EMBEDDING, OpType.LSTM, OpType.PARAMETER, OpType.MHA}
)
FEATURE_LAYERS = frozenset({OpType.BN, OpType.LN, OpType.GN, OpType.IN, OpType.PRELU})


@frozen
class Tensor:
    """A parameter, buffer, input or intermediate value, and the space of each of its axes.

    Attributes:
        name: dotted name of a parameter or buffer; ``node:k`` for the k-th output of a node.
        kind: ``parameter``, ``buffer`` or ``value``.
        axes: one space per dimension.
        aliases: further names under which a tied parameter is held.
    """

    name: str
    kind: str
    axes: tuple[Space, ...]
    aliases: tuple[str, ...] = ()

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """The sizes of the axes."""
        return tuple(axis.size for axis in self.axes)

    @property
    def numel(self) -> int:
        """Number of elements."""
        count = 1
        for axis in self.axes:
            count *= axis.size
        return count


@frozen
class Cost:
    """Multiply-accumulates of one operation: `scale` times the product of the sizes of some axes."""

    axes: tuple[Space, ...]
    scale: int = 1

    @property
    def macs(self) -> int:
        """The number, at the present sizes."""
        count = self.scale
        for axis in self.axes:
            count *= axis.size
        return count


@frozen
class Operation:
    """One recorded operator call, without its derived neighbourhood. `Node` is the view that a reader wants."""

    name: str
    type: OpType
    op: str
    module_class: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    costs: tuple[Cost, ...] = ()
    where: str = field(default="", eq=False)

    def costing(self, costs: Iterable[Cost]) -> Operation:
        """The same operation with other costs."""
        new = tuple(costs)
        if not new and not self.costs:
            return self
        return Operation(self.name, self.type, self.op, self.module_class, self.inputs, self.outputs, new, self.where)


@frozen
class SizeAttribute:
    """An integer attribute of a module that equals the size of a space.

    Attributes:
        path: dotted path from the model's root; elements of containers are named by their key or position.
        space: what it counts.
    """

    path: str
    space: Space


@frozen
class Balance:
    """Groups that must keep equal sizes, such as the halves of a `chunk(2)`; their indices stay independent."""

    atoms: tuple[Atom, ...]
    reason: str = field(eq=False)


@frozen
class Least:
    """An atom of which so many indices stay, and why forward would do something else with fewer."""

    atom: Atom
    size: int
    reason: str


@frozen
class PinnedAtom:
    """An atom from which nothing may be removed."""

    atom: Atom
    reason: str = field(eq=False)


@frozen
class Pinned:
    """An axis of a parameter or buffer from which nothing, or not everything, may be removed, and why."""

    tensor: str
    dim: int
    reason: str

    def __str__(self) -> str:
        return f"{self.tensor} dim {self.dim}: {self.reason}"


@frozen
class Coverage:
    """How much of a model can be pruned.

    Attributes:
        total: elements of all parameters.
        prunable: elements of the parameters of which at least one axis holds a group.
        pinned: (reason, elements) of the other parameters, the most first; each counts for the first reason of its axes.
    """

    total: int
    prunable: int
    pinned: tuple[tuple[str, int], ...]

    def __str__(self) -> str:
        listed = "".join(f"\n  {count:,} pinned: {reason}" for reason, count in self.pinned)
        return (
            f"{self.prunable:,} of {self.total:,} parameters ({self.prunable / max(self.total, 1):.1%}) lie in groups{listed}"
        )


@frozen
class Group:
    """Independent indices that are pruned together wherever they occur: the thing one prunes.

    Attributes:
        name: the first parameter axis in which it occurs, as ``tensor:dim``, with ``[k]`` where that axis holds several.
        atom: its identity in the graph's spaces.
        members: the parameter and buffer axes in which it occurs, as (tensor, dim).
        role: read off the structure. ``channel``; ``head_dim``, the width of attention heads; ``head``, which counts them;
            ``kv_group``, which counts the query heads of one key-value head; ``conv_group``, the blocks of a grouped
            convolution; ``block``, any other count of blocks of another group.
        least: how many indices stay at least: with fewer, forward would take another branch.
    """

    name: str
    atom: Atom
    members: tuple[tuple[str, int], ...]
    role: str
    least: int = 1

    @property
    def size(self) -> int:
        """Number of indices."""
        return self.atom.size

    def __str__(self) -> str:
        kept = f", at least {self.least} stay" if self.least > 1 else ""
        return f"{self.name} ({self.size} indices{kept}, {len(self.members)} axes)"


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


def retyped(operation: Operation, tensors: Mapping[str, Tensor]) -> Operation:
    """The operation with the type that its present sizes give: a convolution of one channel per block is depthwise."""
    if operation.type not in {OpType.CONV, OpType.DEPTHWISE_CONV} or len(operation.inputs) < 2:
        return operation
    x, weight = tensors[operation.inputs[0]], tensors[operation.inputs[1]]
    out = tensors[operation.outputs[0]]
    channels = -(len(weight.axes) - 1)
    depthwise = weight.shape[1] == 1 and x.shape[channels] > 1 and out.shape[channels] > 1
    kind = OpType.DEPTHWISE_CONV if depthwise else OpType.CONV
    return operation if operation.type is kind else evolve(operation, type=kind)
