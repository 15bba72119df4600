"""Graphs as frozen data: operations, tensors with the spaces of their axes, groups, pinned axes. Queries are cheap."""

from __future__ import annotations

import enum
import fnmatch
import hashlib
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path

from attrs import evolve, field, frozen

from depgraph import codec
from depgraph.errors import PinnedError, PlanError, UnknownNameError
from depgraph.spaces import UNIT, Atom, IndexMap, Leaf, Space, Sum, atoms, leaves, substitute


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

    @property
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
class Group:
    """Independent indices that are pruned together wherever they occur: the thing one prunes.

    Attributes:
        name: the first parameter axis in which it occurs, as ``tensor:dim``, with ``[k]`` where that axis holds several.
        atom: its identity in the graph's spaces.
        members: the parameter and buffer axes in which it occurs, as (tensor, dim).
        role: ``channel``, or ``outer`` where it counts blocks of another group (heads, convolution groups).
    """

    name: str
    atom: Atom
    members: tuple[tuple[str, int], ...]
    role: str

    @property
    def size(self) -> int:
        """Number of indices."""
        return self.atom.size

    def __str__(self) -> str:
        return f"{self.name} ({self.size} indices, {len(self.members)} axes)"


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


@frozen
class Graph:
    """The dependency graph of a model. It holds no module and no tensor, and never changes.

    Attributes:
        operations: the recorded operator calls in order.
        tensors: parameters, buffers and values with their axes' spaces.
        attributes: module attributes that follow axes.
        pinned_atoms: what must not be touched.
        balances: groups that must lose equally many indices.
    """

    operations: tuple[Operation, ...]
    tensors: tuple[Tensor, ...]
    attributes: tuple[SizeAttribute, ...] = ()
    pinned_atoms: tuple[PinnedAtom, ...] = ()
    balances: tuple[Balance, ...] = ()

    @cached_property
    def params(self) -> int:
        """Number of elements of all parameters, tied ones counted once."""
        return sum(tensor.numel for tensor in self.tensors if tensor.kind == "parameter")

    @cached_property
    def macs(self) -> int:
        """Multiply-accumulates of one forward on the example inputs (half of what `torch.utils.flop_counter` counts)."""
        return sum(cost.macs for operation in self.operations for cost in operation.costs)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over structure and sizes; equal graphs have equal ones. Reasons and source lines do not count."""
        digest = hashlib.sha256()
        known: dict[Space, str] = {}

        def text(space: Space) -> str:
            found = known.get(space)
            if found is None:
                found = known[space] = str(space)
            return found

        for operation in self.operations:
            costs = ";".join(f"{cost.scale}*{'*'.join(map(text, cost.axes))}" for cost in operation.costs)
            line = (operation.name, operation.type.value, operation.op, operation.module_class)
            digest.update(repr((*line, operation.inputs, operation.outputs, costs)).encode())
        for tensor in self.tensors:
            digest.update(repr((tensor.name, tensor.kind, tensor.aliases, tuple(map(text, tensor.axes)))).encode())
        for attribute in self.attributes:
            digest.update(repr((attribute.path, text(attribute.space))).encode())
        digest.update(repr([text(pinned.atom) for pinned in self.pinned_atoms]).encode())
        digest.update(repr([tuple(map(text, balance.atoms)) for balance in self.balances]).encode())
        return digest.hexdigest()

    @cached_property
    def by_name(self) -> Mapping[str, Tensor]:
        """Every tensor by its name and its aliases."""
        return {name: tensor for tensor in self.tensors for name in (tensor.name, *tensor.aliases)}

    @cached_property
    def reasons(self) -> Mapping[Atom, str]:
        """Why each pinned atom is pinned."""
        return {pinned.atom: pinned.reason for pinned in self.pinned_atoms}

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """Everything that can be pruned, in the order of the parameters."""
        members: dict[Atom, list[tuple[str, int]]] = {}
        names: dict[Atom, str] = {}
        inner, outer = set[Atom](), set[Atom]()
        for tensor in self.tensors:
            if tensor.kind == "value":
                continue
            for dim, space in enumerate(tensor.axes):
                here = atoms(space)
                free = [atom for atom in here if atom not in self.reasons]
                for atom in free:
                    members.setdefault(atom, []).append((tensor.name, dim))
                    if tensor.kind == "parameter" and atom not in names:
                        several = f"[{here.index(atom)}]" if len(here) > 1 else ""
                        names[atom] = f"{tensor.name}:{dim}{several}"
                for leaf in leaves(space) if len(free) > 1 else ():
                    around = any(
                        other.stride < leaf.stride and other.atom in free and _surrounds(leaf, other) for other in leaves(space)
                    )
                    (outer if around else inner).add(leaf.atom)
        roles = {atom: "outer" if atom in outer and atom not in inner else "channel" for atom in names}
        return tuple(Group(name, atom, tuple(members[atom]), roles[atom]) for atom, name in names.items())

    @cached_property
    def group_of(self) -> Mapping[Atom, Group]:
        """Each prunable atom's group."""
        return {group.atom: group for group in self.groups}

    @cached_property
    def groups_by_name(self) -> Mapping[str, Group]:
        """Each group by its name."""
        return {group.name: group for group in self.groups}

    @cached_property
    def pinned(self) -> tuple[Pinned, ...]:
        """Every parameter or buffer axis that holds something pinned, with the reason."""
        found: list[Pinned] = []
        for tensor in self.tensors:
            if tensor.kind == "value":
                continue
            for dim, space in enumerate(tensor.axes):
                reasons = [self.reasons[atom] for atom in atoms(space) if atom in self.reasons]
                found.extend(Pinned(tensor.name, dim, reason) for reason in dict.fromkeys(reasons))
        return tuple(found)

    @cached_property
    def nodes(self) -> tuple[Node, ...]:
        """Layers and virtual operations, in the order of the forward."""
        return _nodes(self)

    @cached_property
    def dependencies(self) -> tuple[Dependency, ...]:
        """Every dependency between neighbouring nodes."""
        return tuple(dependency for node in self.nodes for dependency in node.dependencies)

    @cached_property
    def _nodes_by_name(self) -> Mapping[str, Node]:
        return {node.name: node for node in self.nodes}

    def node(self, name: str) -> Node:
        """The node with this name. Raises `UnknownNameError` with near names."""
        if name not in self._nodes_by_name:
            raise UnknownNameError("node", name, self._nodes_by_name)
        return self._nodes_by_name[name]

    def tensor(self, name: str) -> Tensor:
        """The parameter, buffer or value with this name or alias."""
        if name not in self.by_name:
            raise UnknownNameError("tensor", name, self.by_name)
        return self.by_name[name]

    def axis(self, name: str, dim: int) -> Space:
        """The space of one dimension of a tensor."""
        axes = self.tensor(name).axes
        if not -len(axes) <= dim < len(axes):
            raise PlanError(f"{name!r} has {len(axes)} dimensions, dim={dim} is not one of them; nothing was changed.")
        return axes[dim]

    def group(self, name: str, dim: int) -> Group:
        """The group that a parameter's axis belongs to.

        Raises:
            UnknownNameError: no such tensor.
            PinnedError: the axis is pinned.
            PlanError: the axis holds several groups; the message names them.
        """
        space = self.axis(name, dim)
        found = [self.group_of[atom] for atom in atoms(space) if atom in self.group_of]
        if not found:
            raise PinnedError(name, dim, self.why_pinned(space))
        if len(found) > 1:
            listed = ", ".join(str(group) for group in found)
            raise PlanError(
                f"axis {dim} of {name!r} is made of several groups, {space}: choose one of {listed} from graph.groups."
            )
        return found[0]

    def why_pinned(self, space: Space) -> str:
        """The reasons of the pinned atoms of a space, as one text."""
        reasons = dict.fromkeys(self.reasons[atom] for atom in atoms(space) if atom in self.reasons)
        return "; ".join(reasons) or "its size is 1, and the last index is never removed"

    def select(self, patterns: Iterable[str]) -> frozenset[str]:
        """The parameters and buffers of the layers that the dotted paths or globs name.

        A pattern names a module (and what is below it), a parameter, or, as a glob, any of these.
        """
        chosen: set[str] = set()
        held = {name: tensor.name for name, tensor in self.by_name.items() if tensor.kind != "value"}
        for pattern in patterns:
            hits = {
                owner
                for name, owner in held.items()
                if name == pattern or name.startswith(pattern + ".") or _matches(name, pattern)
            }
            if not hits and pattern not in self._nodes_by_name:
                prefixes = {name.rsplit(".", 1)[0] for name in held if "." in name}
                raise UnknownNameError("layer or parameter", pattern, {*held, *prefixes})
            chosen |= hits
        return frozenset(chosen)

    def save(self, path: str | Path) -> None:
        """Write the graph as versioned JSON."""
        codec.write(path, "graph", self)

    @classmethod
    def load(cls, path: str | Path) -> Graph:
        """Read what `save` wrote. Raises `DocumentError` for anything else."""
        return codec.read(path, "graph", cls)


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


def renumber(graph: Graph) -> tuple[Graph, dict[int, int]]:
    """The graph with atoms numbered in reading order, and for each new number the old one.

    Attributes that count nothing prunable are dropped: they never change.
    """
    reasons = graph.reasons
    attributes = [item for item in graph.attributes if any(atom not in reasons for atom in atoms(item.space))]
    spaces = [
        *(axis for tensor in graph.tensors for axis in tensor.axes),
        *(axis for operation in graph.operations for cost in operation.costs for axis in cost.axes),
        *(attribute.space for attribute in attributes),
    ]
    old = list(dict.fromkeys(atom for space in dict.fromkeys(spaces) for atom in atoms(space)))
    new = {atom: Atom(number, atom.size) for number, atom in enumerate(old)}
    memo = {space: substitute(space, new.__getitem__) for space in dict.fromkeys(spaces)}
    balances = [
        Balance(tuple(sorted((new[atom] for atom in balance.atoms), key=lambda atom: atom.id)), balance.reason)
        for balance in graph.balances
    ]
    result = Graph(
        operations=tuple(
            item.costing(Cost(tuple(memo[axis] for axis in cost.axes), cost.scale) for cost in item.costs)
            for item in graph.operations
        ),
        tensors=tuple(
            Tensor(item.name, item.kind, tuple(memo[axis] for axis in item.axes), item.aliases) for item in graph.tensors
        ),
        attributes=tuple(SizeAttribute(item.path, _in_order(memo[item.space])) for item in sorted(attributes, key=lambda item: item.path)),
        pinned_atoms=tuple(
            PinnedAtom(new[atom], reason)
            for atom, reason in sorted(reasons.items(), key=lambda item: new[item[0]].id if item[0] in new else -1)
            if atom in new
        ),
        balances=tuple(sorted(balances, key=lambda balance: balance.atoms[0].id)),
    )
    return result, {new[atom].id: atom.id for atom in old}


def _in_order(space: Space) -> Space:
    """A space of the same size with the parts of a sum in one order; only the size of an attribute's space counts."""
    return Sum(tuple(sorted(space.parts, key=lambda part: (part == UNIT, str(part))))) if isinstance(space, Sum) else space


def _matches(name: str, pattern: str) -> bool:
    pieces = name.split(".")
    return any(fnmatch.fnmatchcase(".".join(pieces[:k]), pattern) for k in range(1, len(pieces) + 1))


def _surrounds(outer: Leaf, inner: Leaf) -> bool:
    """Whether the inner leaf begins inside the outer leaf's blocks."""
    return outer.offset <= inner.offset < outer.offset + outer.atom.size * outer.stride


def _nodes(graph: Graph) -> tuple[Node, ...]:
    producer = {tensor: operation.name for operation in graph.operations for tensor in operation.outputs}
    by_name = graph.by_name
    before: dict[str, dict[str, None]] = {operation.name: {} for operation in graph.operations}
    after: dict[str, dict[str, None]] = {operation.name: {} for operation in graph.operations}
    forced: dict[str, list[Dependency]] = {operation.name: [] for operation in graph.operations}
    types = {operation.name: operation.type for operation in graph.operations}
    free = graph.group_of

    def prunable(tensor: Tensor) -> list[Space]:
        return [space for space in tensor.axes if any(atom in free for atom in atoms(space))]

    def own_axes(operation: Operation) -> list[Space]:
        """Where a node's own indices live: what it passes on, and, for a layer, its parameters."""
        outputs = [space for name in operation.outputs for space in prunable(by_name[name])]
        held = [
            space
            for name in operation.inputs
            if name not in producer and by_name[name].kind != "value"
            for space in prunable(by_name[name])
        ]
        return held + outputs if types[operation.name] in LAYERS else outputs + held

    mapping: dict[str, bool] = {}
    dims: dict[str, int | None] = {}
    for operation in graph.operations:
        axes = own_axes(operation)
        passed: list[tuple[Space, Space]] = []
        for name in dict.fromkeys(operation.inputs):
            source = producer.get(name)
            if source is None or source == operation.name:
                continue
            before[operation.name][source] = None
            after[source][operation.name] = None
            for space in prunable(by_name[name]):
                shared = {atom for atom in atoms(space) if atom in free}
                target = next((axis for axis in axes if shared & set(atoms(axis))), space)
                passed.append((space, target))
                sides = _sides(types[source], types[operation.name])
                forth = Dependency(source, sides[0], operation.name, sides[1], IndexMap.between(space, target), operation.op)
                back = Dependency(operation.name, sides[1], source, sides[0], IndexMap.between(target, space), operation.op)
                if forth not in forced[source]:
                    forced[source].append(forth)
                    forced[operation.name].append(back)
        mapping[operation.name] = any(source != target for source, target in passed)
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
            inputs=tuple(before[operation.name]),
            outputs=tuple(after[operation.name]),
            dependencies=tuple(forced[operation.name]),
            pruning_dim=dims[operation.name],
            enable_index_mapping=mapping[operation.name],
        )
        for operation in graph.operations
    )


def _sides(source: OpType, target: OpType) -> tuple[str, str]:
    """How the two ends of an edge are called in a sentence."""
    first = "outputs" if source in LAYERS else "features" if source in FEATURE_LAYERS else "channels"
    second = "inputs" if target in LAYERS else "features" if target in FEATURE_LAYERS else "channels"
    return first, second
