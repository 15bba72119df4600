"""The modules of a graph, read off the names of its tensors and operations: a graph holds no modules."""

from __future__ import annotations

import re
from collections.abc import Container, Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from attrs import define, field, frozen

from depgraph.graph.records import Operation, OpType, Tensor

if TYPE_CHECKING:
    from depgraph.graph.graph import Graph

_NO_MODULE = frozenset({OpType.INPUT, OpType.OUTPUT, OpType.PARAMETER})
_DEEPEST = 64
_NUMBER = re.compile(r"(_\d+)+$")


@frozen
class Module:
    """A module, by what the graph says of it.

    Attributes:
        path: its dotted path; empty for the model itself.
        module_class: the name of its class; empty where no operator ran in it but inside of its submodules.
        tensors: its own parameters and buffers by their local names, tied ones in each module that holds them.
        params: elements of its own parameters; tied ones count where they come first.
        macs: multiply-accumulates of its own operators, without those of its submodules.
        output: the shape of the first value that is made in it and read outside; empty if there is none.
    """

    path: str
    module_class: str
    tensors: Mapping[str, Tensor]
    params: int
    macs: int
    output: tuple[int, ...]


@define
class _Draft:
    module_class: str = ""
    tensors: dict[str, Tensor] = field(factory=dict)
    params: int = 0
    macs: int = 0
    output: tuple[int, ...] = ()


def modules_of(graph: Graph) -> Mapping[str, Module]:
    """Every module of which the graph knows, by its path, in the order of the forward; the model itself is the first.

    >>> import torch, depgraph as dg
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> modules = modules_of(dg.trace(model, torch.zeros(1, 4))).values()
    >>> [(module.path, module.module_class, module.params) for module in modules]
    [('', '', 0), ('0', 'Linear', 40), ('1', 'ReLU', 0), ('2', 'Linear', 18)]
    """
    drafts: dict[str, _Draft] = {"": _Draft()}
    own = owners_of(graph)
    for operation in graph.operations:
        if operation.name in own:
            draft = _draft(drafts, own[operation.name])
            draft.module_class = draft.module_class or operation.module_class
            draft.macs += sum(cost.macs for cost in operation.costs)
    for tensor in graph.tensors:
        if tensor.kind == "value":
            continue
        for name in (tensor.name, *tensor.aliases):
            path = _limited(name.rpartition(".")[0])
            draft = _draft(drafts, path)
            draft.tensors[name.removeprefix(path).removeprefix(".")] = tensor
            if tensor.kind == "parameter" and name == tensor.name:
                draft.params += tensor.numel
    for path, value in _returned(graph, own):
        if not drafts[path].output:
            drafts[path].output = graph.tensor(value).shape
    return MappingProxyType(
        {
            path: Module(path, item.module_class, MappingProxyType(item.tensors), item.params, item.macs, item.output)
            for path, item in drafts.items()
        }
    )


def prefixes(path: str) -> Iterator[str]:
    """The modules around a path and itself, from the outermost on, without the model itself."""
    parts = path.split(".") if path else []
    for k in range(1, len(parts) + 1):
        yield ".".join(parts[:k])


def owners_of(graph: Graph) -> dict[str, str]:
    """Name of each operation that ran in a module to the path of that module."""
    holders = {
        _limited(name.rpartition(".")[0])
        for tensor in graph.tensors
        if tensor.kind != "value"
        for name in (tensor.name, *tensor.aliases)
    }
    holders.update(_limited(f"{item.prefix}{element}") for item in graph.sequences for element in item.elements)
    known = {start for path in holders for start in prefixes(path)}
    classes = {operation.name: operation.module_class for operation in graph.operations}
    return {
        operation.name: _limited(_owner(operation, known, classes))
        for operation in graph.operations
        if operation.type not in _NO_MODULE
    }


def _owner(operation: Operation, known: Container[str], classes: Mapping[str, str]) -> str:
    """The module in which an operation ran, after which it is named, or after it and the operator, perhaps with a number."""
    name, base = operation.name, _NUMBER.sub("", operation.name)
    for path in (name, base):
        if path in known:
            return path
    short = operation.op.rpartition(".")[2].strip("_")
    around, _, last = base.rpartition(".")
    if last.strip("_") != short:
        return base if classes.get(base) == operation.module_class else name
    within = classes.get(around) == operation.module_class or _letters(operation.module_class) != _letters(short)
    return around if within else base


def _limited(path: str) -> str:
    """The first levels of a path: no model has more, and a small file must not make a large tree."""
    return path if path.count(".") < _DEEPEST else ".".join(path.split(".", _DEEPEST)[:_DEEPEST])


def _letters(name: str) -> str:
    return name.replace("_", "").lower()


def _draft(drafts: dict[str, _Draft], path: str) -> _Draft:
    for start in prefixes(path):
        drafts.setdefault(start, _Draft())
    return drafts[path]


def _returned(graph: Graph, own: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Paths of modules with values that are made inside of them and read outside."""
    makers = {value: own[item.name] for item in graph.operations if item.name in own for value in item.outputs}
    for reader in graph.operations:
        around = set(prefixes(own.get(reader.name, "")))
        for value in reader.inputs:
            yield from ((path, value) for path in prefixes(makers.get(value, "")) if path not in around)
