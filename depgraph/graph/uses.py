"""In which operations parameters are operands, and which of them are only ever added."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from depgraph.graph.records import Operation, OpType, Tensor

_NORMS = frozenset({OpType.BN, OpType.LN, OpType.GN, OpType.IN})


_PASSING = frozenset(
    {OpType.RESHAPE, OpType.PERMUTE, OpType.EXPAND, OpType.SLICE, OpType.SPLIT, OpType.UNBIND, OpType.ELEMENTWISE}
)


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
