"""In which operations parameters are operands, which of them are only ever added, and which values modules return."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from depgraph.graph.records import Operation, OpType, Tensor

_PASSING = frozenset(
    {OpType.RESHAPE, OpType.PERMUTE, OpType.EXPAND, OpType.SLICE, OpType.SPLIT, OpType.UNBIND, OpType.ELEMENTWISE}
)


def uses_of(tensors: Iterable[Tensor], operations: Iterable[Operation]) -> dict[str, list[tuple[Operation, int]]]:
    """In which operations each parameter is an operand, and at which place; views of a parameter count as the parameter."""
    origin_of = {tensor.name: tensor.name for tensor in tensors if tensor.kind == "parameter"}
    uses: dict[str, list[tuple[Operation, int]]] = {}
    for operation in operations:
        origins = {origin_of.get(name) for name in operation.inputs}
        (single,) = origins if len(origins) == 1 else (None,)
        if single is not None and operation.type in _PASSING:
            origin_of.update(dict.fromkeys(operation.outputs, single))
            continue
        for place, name in enumerate(operation.inputs):
            if name in origin_of:
                uses.setdefault(origin_of[name], []).append((operation, place))
    return uses


def offsets_of(by_name: Mapping[str, Tensor], uses: Mapping[str, Sequence[tuple[Operation, int]]]) -> frozenset[str]:
    """The parameters that are only ever added: offsets of layers and normalisations, and bare vectors in a sum."""
    return frozenset(
        name
        for name, places in uses.items()
        if sum(size > 1 for size in by_name[name].shape) <= 1
        and all(place in operation.traits.offsets for operation, place in places)
    )


def returned_of(operations: Sequence[Operation]) -> dict[str, tuple[str, ...]]:
    """By a module's dotted path the values that are made inside of it and read outside: what it returns."""
    paths_of = {item.name: tuple(_paths(item.name)) for item in operations}
    makers = {value: item.name for item in operations if item.type is not OpType.INPUT for value in item.outputs}
    returned: dict[str, dict[str, None]] = {}
    for reader in operations:
        around = set(paths_of[reader.name])
        for value in reader.inputs:
            for path in paths_of[makers[value]] if value in makers else ():
                if path not in around:
                    returned.setdefault(path, {})[value] = None
    return {path: tuple(values) for path, values in returned.items()}


def _paths(name: str) -> Iterator[str]:
    """The dotted name of an operation, which is that of its module or begins with it, and those of the modules around it."""
    while name:
        yield name
        name = name.rpartition(".")[0]
