"""What follows from a graph's tensors and operations: its groups with their roles, its nodes and dependencies, its uses."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence

from depgraph.records import FEATURE_LAYERS, LAYERS, Coverage, Dependency, Group, Node, Operation, OpType, Tensor
from depgraph.spaces import Atom, IndexMap, Leaf, Space, atoms, leaves

_NORMS = frozenset({OpType.BN, OpType.LN, OpType.GN, OpType.IN})
_PASSING = frozenset(
    {OpType.RESHAPE, OpType.PERMUTE, OpType.EXPAND, OpType.SLICE, OpType.SPLIT, OpType.UNBIND, OpType.ELEMENTWISE}
)


def groups_of(
    tensors: Iterable[Tensor], operations: Iterable[Operation], pinned: Mapping[Atom, str], least: Mapping[Atom, int]
) -> tuple[Group, ...]:
    """The atoms with indices that occur in a parameter and are not pinned, in the order of the parameters."""
    tensors = tuple(tensors)
    members: dict[Atom, list[tuple[str, int]]] = {}
    names: dict[Atom, str] = {}
    for tensor in tensors:
        if tensor.kind == "value":
            continue
        for dim, space in enumerate(tensor.axes):
            here = atoms(space)
            for position, atom in enumerate(here):
                if atom in pinned or not atom.size:
                    continue
                members.setdefault(atom, []).append((tensor.name, dim))
                if tensor.kind == "parameter" and atom not in names:
                    names[atom] = f"{tensor.name}:{dim}" + (f"[{position}]" if len(here) > 1 else "")
    roles = _roles(tensors, operations, names)
    return tuple(Group(name, atom, tuple(members[atom]), roles[atom], least.get(atom, 1)) for atom, name in names.items())


def coverage_of(tensors: Iterable[Tensor], free: Container[Atom], reasons: Mapping[Atom, str]) -> Coverage:
    """How many elements of parameters lie in groups, and why the others do not."""
    total = prunable = 0
    pinned: dict[str, int] = {}
    for tensor in tensors:
        if tensor.kind != "parameter":
            continue
        total += tensor.numel
        held = [atom for space in tensor.axes for atom in atoms(space)]
        if any(atom in free for atom in held):
            prunable += tensor.numel
        else:
            reason = next((reasons[atom] for atom in held if atom in reasons), "it has no axis longer than 1")
            pinned[reason] = pinned.get(reason, 0) + tensor.numel
    return Coverage(total, prunable, tuple(sorted(pinned.items(), key=lambda item: (-item[1], item[0]))))


def _roles(tensors: Sequence[Tensor], operations: Iterable[Operation], free: Mapping[Atom, str]) -> dict[Atom, str]:
    """The role of each group, read off the structure: where it stands in products, and in which operators it does what."""
    outer: dict[Atom, bool] = {}
    inner: set[Atom] = set()
    around: dict[Atom, set[Atom]] = {}
    for tensor in tensors:
        for space in tensor.axes if tensor.kind != "value" else ():
            everything = leaves(space) if len(atoms(space)) > 1 else ()
            found = [leaf for leaf in everything if leaf.atom in free]
            for leaf in found:
                around.setdefault(leaf.atom, set()).update(other.atom for other in everything if _surrounds(other, leaf))
                if any(_surrounds(leaf, other) for other in found):
                    first = not any(_surrounds(other, leaf) for other in found)
                    outer[leaf.atom] = outer.get(leaf.atom, False) or first
                elif len({other.atom for other in found}) > 1:
                    inner.add(leaf.atom)
    batch, contracted, blocks = _attention_atoms(tensors, operations)
    roles = {}
    for atom in free:
        if atom in outer and (atom not in inner or atom in batch):
            repeated = "head" if outer[atom] else "kv_group"
            roles[atom] = repeated if atom in batch else "conv_group" if atom in blocks else "block"
        else:
            roles[atom] = "head_dim" if atom in contracted and around.get(atom, set()) & batch else "channel"
    return roles


def _surrounds(outer: Leaf, inner: Leaf) -> bool:
    """Whether the outer leaf counts blocks in which the inner one lies."""
    return (
        outer.atom != inner.atom
        and inner.stride < outer.stride
        and outer.offset <= inner.offset < outer.offset + outer.atom.size * outer.stride
    )


def _attention_atoms(tensors: Sequence[Tensor], operations: Iterable[Operation]) -> tuple[set[Atom], set[Atom], set[Atom]]:
    """Atoms of the batch axes of products of two values, of their last axes, and of the blocks of grouped convolutions."""
    by_name = {tensor.name: tensor for tensor in tensors}
    batch, last, blocks = set[Atom](), set[Atom](), set[Atom]()
    for operation in operations:
        if operation.type in {OpType.ATTENTION, OpType.MATMUL}:
            operands = [by_name[name] for name in operation.inputs[:3]]
            if sum(operand.kind == "value" for operand in operands) < 2:
                continue
            for operand in operands:
                for space in operand.axes[:-2]:
                    batch.update(atoms(space))
                for space in operand.axes[-2:]:
                    last.update(atoms(space))
        elif operation.type is OpType.CONV:
            x, weight = by_name[operation.inputs[0]], by_name[operation.inputs[1]]
            channels = len(x.axes) - len(weight.axes) + 1
            blocks.update(set(atoms(x.axes[channels])) - set(atoms(weight.axes[1])))
    return batch, last, blocks


def nodes_of(tensors: Iterable[Tensor], operations: Sequence[Operation], free: Mapping[Atom, Group]) -> tuple[Node, ...]:
    """The operations with their neighbours, and the dependencies that the shared groups give."""
    producer = {tensor: operation.name for operation in operations for tensor in operation.outputs}
    by_name = {tensor.name: tensor for tensor in tensors}
    before: dict[str, dict[str, None]] = {operation.name: {} for operation in operations}
    after: dict[str, dict[str, None]] = {operation.name: {} for operation in operations}
    forced: dict[str, list[Dependency]] = {operation.name: [] for operation in operations}
    types = {operation.name: operation.type for operation in operations}

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
    for operation in operations:
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
        for operation in operations
    )


def _sides(source: OpType, target: OpType) -> tuple[str, str]:
    """How the two ends of an edge are called in a sentence."""
    first = "outputs" if source in LAYERS else "features" if source in FEATURE_LAYERS else "channels"
    second = "inputs" if target in LAYERS else "features" if target in FEATURE_LAYERS else "channels"
    return first, second


def uses_of(tensors: Iterable[Tensor], operations: Iterable[Operation]) -> dict[str, list[tuple[Operation, int]]]:
    """In which operations each parameter is an operand, and at which place; views of a parameter count as the parameter."""
    origin = {tensor.name: tensor.name for tensor in tensors if tensor.kind == "parameter"}
    uses: dict[str, list[tuple[Operation, int]]] = {}
    for operation in operations:
        held = {origin.get(name) for name in operation.inputs}
        (single,) = held if len(held) == 1 else (None,)
        if single is not None and operation.type in _PASSING:
            origin.update(dict.fromkeys(operation.outputs, single))
            continue
        for place, name in enumerate(operation.inputs):
            if name in origin:
                uses.setdefault(origin[name], []).append((operation, place))
    return uses


def offsets_of(by_name: Mapping[str, Tensor], uses: Mapping[str, Sequence[tuple[Operation, int]]]) -> frozenset[str]:
    """The parameters that are only ever added: offsets of layers and normalisations, and bare vectors in a sum."""
    return frozenset(
        name
        for name, found in uses.items()
        if sum(size > 1 for size in by_name[name].shape) <= 1
        and all(_adds(operation, place, by_name[name].shape) for operation, place in found)
    )


def _adds(operation: Operation, place: int, shape: tuple[int, ...]) -> bool:
    if operation.type in {OpType.CONV, OpType.DEPTHWISE_CONV, OpType.LINEAR} or operation.type in _NORMS:
        return place > 1
    if operation.type is OpType.LSTM:
        return len(shape) == 1
    name = operation.op.rpartition(".")[2].rstrip("_")
    return name in {"add", "sub"} or (name in {"addmm", "addmv", "addbmm", "baddbmm"} and place == 0)
