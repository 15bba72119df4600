"""Graphs as frozen data, with cheap queries."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from attrs import field, frozen

from depgraph import codec
from depgraph.algebra.spaces import Atom, Space, atoms
from depgraph.errors import PinnedError, PlanError, UnknownNameError
from depgraph.graph.checking import check
from depgraph.graph.drawing import dot_of, networkx_of
from depgraph.graph.groups import Coverage, Group, Pinned, coverage_of, groups_of, reasons_of
from depgraph.graph.nodes import Dependency, Node, nodes_of
from depgraph.graph.records import (
    Balance,
    FreeAxis,
    LowerBound,
    ModuleCall,
    ModuleSequence,
    NamedIndex,
    Operation,
    OpType,
    PinnedAtom,
    SizeAttribute,
    SizeMultiple,
    Tensor,
    TraceMode,
    UnreadAttribute,
)
from depgraph.graph.uses import offsets_of, returned_of, uses_of

if TYPE_CHECKING:
    from networkx import DiGraph

    from depgraph.graph.summary import GraphSummary


@frozen
class Graph:
    """The dependency graph of a model. It holds no module and no tensor, and never changes.

    Attributes:
        operations: the recorded operator calls in order.
        tensors: parameters, buffers and values with their axes' spaces.
        attributes: module attributes that follow axes.
        pinned_atoms: what must not be touched.
        balances: groups that must lose equally many indices.
        mode: ``fake``, or ``real`` where forward ran on the example inputs because it reads data.
        lower_bounds: groups that keep more than one index. They say what may go, not what is there: equality leaves them out.
        unread: integer attributes that forward did not read and that may count something prunable, such as the ``in_channels``
            that only a method for deployment reads. No plan edits them by itself; equality leaves them out.
        sequences: lists of several modules, from which elements may leave (`depgraph.drop`); equality leaves them out.
        free: axes of inputs, outputs and vocabularies that may lose indices, as `free=` of `trace` asked for.
        indices: integers that stand for single indices of a free vocabulary, such as the id of padding.
        calls: how forward called the modules that hold parameters, in the order in which they returned; equality leaves them
            out.

    >>> import torch, depgraph as dg
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> graph = dg.trace(model, torch.zeros(3, 4))
    >>> graph.params, graph.macs                    # 4 * 8 + 8 + 8 * 2 + 2, and 3 * (4 * 8 + 8 * 2)
    (58, 144)
    >>> [node.name for node in graph.nodes], graph.tensor("2.weight").shape
    (['input[0]', '0', '1', '2', 'output'], (2, 8))
    >>> graph.group("2.weight", 1) == graph.group("0.weight", 0)
    True
    >>> print(graph.pinned[0])
    0.weight dim 1: it is a dimension of the model's input[0]
    >>> isinstance(graph, dg.Graph), graph == dg.trace(model, torch.ones(3, 4))
    (True, True)
    """

    operations: tuple[Operation, ...]
    tensors: tuple[Tensor, ...]
    attributes: tuple[SizeAttribute, ...] = ()
    pinned_atoms: tuple[PinnedAtom, ...] = ()
    balances: tuple[Balance, ...] = ()
    mode: TraceMode = "fake"
    lower_bounds: tuple[LowerBound, ...] = field(default=(), eq=False, metadata=codec.LATE)
    multiples: tuple[SizeMultiple, ...] = field(default=(), eq=False, metadata=codec.LATE)
    unread: tuple[UnreadAttribute, ...] = field(default=(), eq=False, metadata=codec.LATE)
    sequences: tuple[ModuleSequence, ...] = field(default=(), eq=False, metadata=codec.LATE)
    free: tuple[FreeAxis, ...] = field(default=(), metadata=codec.LATE)
    indices: tuple[NamedIndex, ...] = field(default=(), metadata=codec.LATE)
    calls: tuple[ModuleCall, ...] = field(default=(), eq=False, metadata=codec.LATE)

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
        parts: list[str] = []
        objects = {id(space): space for tensor in self.tensors for space in tensor.axes}  # the graph holds them meanwhile
        objects.update((id(space), space) for item in self.operations for cost in item.costs for space in cost.axes)
        texts = {key: str(space) for key, space in objects.items()}

        def text(space: Space) -> str:
            return texts.get(id(space)) or str(space)

        for operation in self.operations:
            costs = ";".join(f"{cost.scale}*{'*'.join([texts[id(axis)] for axis in cost.axes])}" for cost in operation.costs)
            line = (operation.name, operation.type.value, operation.op, operation.module_class)
            further = ("further",) if operation.further else ()
            parts.append(repr((*line, operation.inputs, operation.outputs, costs, *further)))
        for tensor in self.tensors:
            axes = tuple([texts[id(axis)] for axis in tensor.axes])
            parts.append(repr((tensor.name, tensor.kind, tensor.aliases, axes)))
        for attribute in self.attributes:
            parts.append(repr((attribute.path, text(attribute.space))))
        parts.append(repr([text(pinned.atom) for pinned in self.pinned_atoms]))
        parts.append(repr([tuple(map(text, balance.atoms)) for balance in self.balances]))
        if self.free:
            parts.append(repr([(item.name, item.dim, item.kind, str(item.space)) for item in self.free]))
            parts.append(repr([(item.path, item.index, str(item.space)) for item in self.indices]))
        return hashlib.sha256("".join(parts).encode()).hexdigest()

    @cached_property
    def by_name(self) -> Mapping[str, Tensor]:
        """Every tensor by its name and its aliases."""
        return MappingProxyType({name: tensor for tensor in self.tensors for name in (tensor.name, *tensor.aliases)})

    @cached_property
    def reasons(self) -> Mapping[Atom, str]:
        """Why each pinned atom is pinned."""
        return MappingProxyType({pinned.atom: pinned.reason for pinned in self.pinned_atoms})

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """Everything that can be pruned, in the order of the parameters."""
        bounds = {item.atom: item.size for item in self.lower_bounds}
        multiples = {item.atom: item.of for item in self.multiples}
        return groups_of(self.tensors, self.operations, self.reasons, bounds, multiples, self.free)

    @cached_property
    def group_of(self) -> Mapping[Atom, Group]:
        """Each prunable atom's group."""
        return MappingProxyType({group.atom: group for group in self.groups})

    @cached_property
    def groups_by_name(self) -> Mapping[str, Group]:
        """Each group by its name."""
        return MappingProxyType({group.name: group for group in self.groups})

    @cached_property
    def pinned(self) -> tuple[Pinned, ...]:
        """Every parameter or buffer axis that holds something pinned, with the reason."""
        axes: list[Pinned] = []
        for tensor in self.tensors:
            if tensor.kind == "value":
                continue
            for dim, space in enumerate(tensor.axes):
                axes.extend(Pinned(tensor.name, dim, reason) for reason in reasons_of(space, self.reasons))
        return tuple(axes)

    @cached_property
    def coverage(self) -> Coverage:
        """How many parameters lie in prunable groups, and by what the others are pinned."""
        return coverage_of(self.tensors, self.group_of, self.reasons)

    @cached_property
    def uses(self) -> Mapping[str, tuple[tuple[Operation, int], ...]]:
        """The operations in which each parameter, or a view of it, is an operand, and at which place."""
        return MappingProxyType({name: tuple(places) for name, places in uses_of(self.tensors, self.operations).items()})

    @cached_property
    def offsets(self) -> frozenset[str]:
        """The parameters that are only ever added: biases."""
        return offsets_of(self.by_name, self.uses)

    @cached_property
    def returned(self) -> Mapping[str, tuple[str, ...]]:
        """By a module's dotted path the values that are made inside of it and read outside: what it returns, call by call."""
        return MappingProxyType(returned_of(self.operations))

    @cached_property
    def nodes(self) -> tuple[Node, ...]:
        """Layers and virtual operations, in the order of the forward."""
        return nodes_of(self.tensors, self.operations, self.group_of)

    @cached_property
    def dependencies(self) -> tuple[Dependency, ...]:
        """Every dependency between neighbouring nodes."""
        return tuple(dependency for node in self.nodes for dependency in node.dependencies)

    @cached_property
    def _nodes_by_name(self) -> Mapping[str, Node]:
        return MappingProxyType({node.name: node for node in self.nodes})

    @cached_property
    def _boundary(self) -> Mapping[str, Tensor]:
        """The model's inputs and outputs by the names of their nodes."""
        inputs = {item.name: item.outputs[0] for item in self.operations if item.type is OpType.INPUT}
        outputs = {item.name: item.inputs[0] for item in self.operations if item.type is OpType.OUTPUT}
        return MappingProxyType({name: self.by_name[tensor] for name, tensor in (inputs | outputs).items()})

    def node(self, name: str) -> Node:
        """The node with this name.

        Raises:
            UnknownNameError: no such node; the message has near names.
        """
        if name not in self._nodes_by_name:
            raise UnknownNameError("node", name, self._nodes_by_name)
        return self._nodes_by_name[name]

    def tensor(self, name: str) -> Tensor:
        """The parameter, buffer or value with this name or alias, or the input or output of the model.

        Raises:
            UnknownNameError: no such tensor; the message has near names.
        """
        if name not in self.by_name and name in self._boundary:
            return self._boundary[name]
        if name not in self.by_name:
            raise UnknownNameError("tensor", name, {**self.by_name, **self._boundary})
        return self.by_name[name]

    def axis(self, name: str, dim: int) -> Space:
        """The space of one dimension of a tensor.

        Raises:
            UnknownNameError: no such tensor.
            PlanError: it has no such dimension.
        """
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
        groups = [self.group_of[atom] for atom in atoms(space) if atom in self.group_of]
        if not groups:
            raise PinnedError(name, dim, self.why_pinned(space))
        if len(groups) > 1:
            names = ", ".join(str(group) for group in groups)
            raise PlanError(
                f"axis {dim} of {name!r} is made of several groups, {space}: choose one of {names} from graph.groups."
            )
        return groups[0]

    def why_pinned(self, space: Space) -> str:
        """The reasons of the pinned atoms of a space, as one text."""
        return "; ".join(reasons_of(space, self.reasons)) or "its size is 1, and the last index is never removed"

    def why_kept(self, atom: Atom) -> str:
        """Why more than one index of a group must stay."""
        return next((item.reason for item in self.lower_bounds if item.atom == atom), "the last index is never removed")

    def why_multiple(self, atom: Atom) -> str:
        """Why what stays of a group is a multiple of a number."""
        return next((item.reason for item in self.multiples if item.atom == atom), "any number of indices will do")

    def summary(self, depth: int | None = None) -> GraphSummary:
        """What `print` shows of a graph, as data: its modules as a tree with repeated layers folded, groups, what is pinned.

        Args:
            depth: how many levels of modules are shown; None: all.

        Raises:
            PlanError: `depth` is no such number.

        >>> import torch, depgraph as dg
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> graph = dg.trace(model, torch.zeros(1, 4))
        >>> print(graph)
        5 operations, 58 parameters (96.6% of them in 1 group), 48 MACs
        <BLANKLINE>
        module  class   output  weight  parameters  MACs  can be pruned
        0       Linear  1x8     8x4             40    32  0: channel
        1       ReLU    1x8
        2       Linear  1x2     2x8             18    16  1: channel
        <BLANKLINE>
        group       role     size  axes
        0.weight:0  channel     8     3
        <BLANKLINE>
        pinned
          2 parameters: it is a dimension of the model's output (2.weight:0, 2.bias:0)
          it is a dimension of the model's input[0] (0.weight:1)
        >>> graph.summary(depth=1).modules[0].params, graph
        (40, <Graph: 5 operations, 1 groups, 58 parameters, 48 MACs>)
        """
        from depgraph.graph.summary import summary_of

        return summary_of(self, depth)

    def __str__(self) -> str:
        return str(self.summary())

    def __repr__(self) -> str:
        return (
            f"<Graph: {len(self.operations)} operations, {len(self.groups)} groups, {self.params:,} parameters, "
            f"{self.macs:,} MACs>"
        )

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(repr(self))  # else IPython and Hypothesis print every field

    def _repr_html_(self) -> str:
        return self.summary()._repr_html_()

    def __rich__(self) -> Any:
        return self.summary().__rich__()

    def to_dot(self) -> str:
        """The nodes as a DOT document, which graphviz draws.

        >>> import torch, depgraph as dg
        >>> graph = dg.trace(torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2)), torch.zeros(1, 4))
        >>> print(*graph.to_dot().splitlines()[-4:], sep="\\n")
          "input[0]" -> "0" [style=dashed];
          "0" -> "1" [label="outputs -> inputs"];
          "1" -> "output" [style=dashed];
        }
        """
        return dot_of(self.nodes)

    def to_networkx(self) -> DiGraph[str]:
        """The nodes as a `networkx.DiGraph`, with the type, operator and pruning dimension of each.

        An edge is `forced` where a removal at one end forces one at the other; `axes` says of what.

        >>> import torch, depgraph as dg
        >>> graph = dg.trace(torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2)), torch.zeros(1, 4))
        >>> [*graph.to_networkx().edges(data="forced")]
        [('input[0]', '0', False), ('0', '1', True), ('1', 'output', False)]
        """
        return networkx_of(self.nodes)

    def save(self, path: str | Path) -> None:
        """Write the graph as versioned JSON."""
        codec.write(path, "graph", self)

    @classmethod
    def load(cls, path: str | Path) -> Graph:
        """Read what `save` wrote.

        Raises:
            DocumentError: the file is damaged, edited, foreign or of another version, or its graph breaks an invariant.
        """
        return codec.read(path, "graph", cls, check)
