"""The frozen records of which a graph is made."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import Literal, TypeAlias

from attrs import evolve, field, frozen

from depgraph import codec
from depgraph.algebra.spaces import UNIT, Atom, Space


class OpType(enum.Enum):
    """What kind of node an operator makes.

    >>> import torch, depgraph as dg
    >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU()).eval()
    >>> [node.type.name for node in dg.trace(model, torch.zeros(1, 3, 5, 5)).nodes]
    ['INPUT', 'CONV', 'BN', 'ELEMENTWISE', 'OUTPUT']
    >>> OpType("bn") is OpType.BN
    True
    """

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


TensorKind: TypeAlias = Literal["parameter", "buffer", "value"]


Interface: TypeAlias = Literal["input", "output", "vocabulary"]
"""What those who call a model have to know of an axis: how many features they pass or get, or which ids there are."""


TraceMode: TypeAlias = Literal["fake", "real"]
"""On what the forward ran: fake tensors, or the example inputs themselves."""


@frozen
class Tensor:
    """A parameter, buffer, input or intermediate value, and the space of each of its axes.

    Attributes:
        name: dotted name of a parameter or buffer; ``node:k`` for the k-th output of a node.
        kind: ``parameter``, ``buffer`` or ``value``.
        axes: one space per dimension.
        aliases: further names of a tied parameter.
    """

    name: str
    kind: TensorKind
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

    @classmethod
    def of(cls, axes: Iterable[Space], scale: int) -> Cost:
        """A cost without factors of 1, the others in one order: only their product counts."""
        return cls(tuple(sorted((axis for axis in axes if axis != UNIT), key=str)), scale)

    @property
    def macs(self) -> int:
        """The number, at the present sizes."""
        count = self.scale
        for axis in self.axes:
            count *= axis.size
        return count


AxisPlace = tuple[str, int]
"""A dimension of a tensor, by the tensor's name."""


@frozen
class LayerWeight:
    """Which operand is the weight of a layer.

    Attributes:
        operand: its position among the inputs.
        inner: its dimension that is contracted with the layer's input.
        outer: its dimension that becomes an axis of the layer's result.
        read: the dimension of the input that `inner` is contracted with.
        made: the dimension of the result that `outer` becomes.
    """

    operand: int
    inner: int
    outer: int
    read: AxisPlace
    made: AxisPlace


@frozen
class OperationTraits:
    """What the operator table says of an operation beside its spaces; as `depgraph.rules.Traits`, by names.

    Attributes:
        mixes: dimensions of inputs and outputs along which indices are averaged, normalised or added up; None: unknown.
        draws: whether it draws numbers, in evaluation too.
        offsets: positions of the inputs that are only added.
        weight: which input is the weight of a layer.
        chooses: dimensions of which the data choose indices, and whose numbers something reads.
    """

    mixes: tuple[AxisPlace, ...] | None = None
    draws: bool = False
    offsets: tuple[int, ...] = ()
    weight: LayerWeight | None = None
    chooses: tuple[AxisPlace, ...] = field(default=(), metadata=codec.LATE)


@frozen
class Operation:
    """One recorded operator call, without its derived neighbourhood. `Node` is the view that a reader wants.

    Those of further calls (`also=` of `trace`) are `further`: what they say of the parameters holds, and they cost nothing.
    """

    name: str
    type: OpType
    op: str
    module_class: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    costs: tuple[Cost, ...] = ()
    where: str = field(default="", eq=False)
    traits: OperationTraits = field(default=OperationTraits(), eq=False, metadata=codec.LATE)
    further: bool = field(default=False, metadata=codec.LATE)

    def costing(self, costs: Iterable[Cost]) -> Operation:
        """The same operation with other costs."""
        new = tuple(costs)
        if not new and not self.costs:
            return self
        return Operation(
            self.name,
            self.type,
            self.op,
            self.module_class,
            self.inputs,
            self.outputs,
            new,
            self.where,
            self.traits,
            self.further,
        )


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
class UnreadAttribute:
    """An integer attribute that forward did not read, and that is as large as axes of the layers of its module.

    Attributes:
        path: dotted path from the model's root.
        spaces: what it may count: spaces of these axes or parts of them, all of the attribute's size.
    """

    path: str
    spaces: tuple[Space, ...]

    @property
    def value(self) -> int:
        """The attribute's value."""
        return self.spaces[0].size


@frozen
class FreeAxis:
    """An axis of the model's interface that `free=` of `trace` lets lose indices: who calls the model must follow.

    Attributes:
        name: an input or output, such as ``input[0]`` or ``output['logits']``; for a vocabulary the parameter that ids look up.
        dim: the dimension, from 0 up.
        kind: ``input``, ``output`` or ``vocabulary``.
        space: what the axis ranges over.

    >>> import torch, depgraph as dg
    >>> graph = dg.trace(torch.nn.Linear(4, 3), torch.zeros(1, 4), free=["output:-1"])
    >>> graph.free
    (FreeAxis(name='output', dim=1, kind='output', space=Atom(id=0, size=3)),)
    >>> [(group.name, group.role) for group in graph.groups]
    [('weight:0', 'output')]
    """

    name: str
    dim: int
    kind: Interface
    space: Space


@frozen
class NamedIndex:
    """An integer that stands for one index of a vocabulary, such as ``padding_idx``: it follows when others before it go.

    Attributes:
        path: dotted path of the attribute; empty where the number stands in the forward code.
        index: the index.
        space: the vocabulary.
        reason: what the number is used for.
    """

    path: str
    index: int
    space: Space
    reason: str = field(eq=False)


def place_of(item: NamedIndex) -> tuple[str, int]:
    """By what named indices are sorted."""
    return item.path, item.index


@frozen
class ModuleSequence:
    """A `ModuleList`, `Sequential` or `ModuleDict` of several elements, and what forward does with it as a list.

    Attributes:
        path: its dotted path; empty where it is the model itself.
        elements: the names of its elements, in order.
        numbered: whether they are named by their positions, so that those behind a gap move up.
        counts: paths of integers that say how many elements there are.
        positions: paths below the elements of integers that say where each stands, such as ``self_attn.layer_idx``; where
            there are several, an element has some of them.
        entries: paths of lists of texts that have one for each element, such as ``config.layer_types``, with what they hold.
        fixed: positions that may not become vacant, with the reason: forward reaches for an element by its number or name.
        problem: why none of its elements may leave; empty where nothing speaks against it.

    >>> import torch, depgraph as dg
    >>> model = torch.nn.Sequential(*(torch.nn.Linear(4, 4) for _ in range(3)))
    >>> [(item.path, item.elements, item.numbered) for item in dg.trace(model, torch.zeros(1, 4)).sequences]
    [('', ('0', '1', '2'), True)]
    """

    path: str
    elements: tuple[str, ...]
    numbered: bool
    counts: tuple[str, ...] = ()
    positions: tuple[str, ...] = ()
    entries: tuple[tuple[str, tuple[str, ...]], ...] = ()
    fixed: tuple[tuple[int, str], ...] = ()
    problem: str = ""

    @property
    def prefix(self) -> str:
        """What the dotted names of its elements begin with."""
        return f"{self.path}." if self.path else ""

    @property
    def followed(self) -> tuple[str, ...]:
        """The paths of all integers that follow when elements leave."""
        return (*self.counts, *(f"{self.prefix}{element}.{path}" for element in self.elements for path in self.positions))

    def with_names(self, name: Callable[[str], str]) -> ModuleSequence:
        """The list with other paths."""
        entries = tuple(sorted((name(path), texts) for path, texts in self.entries))
        return evolve(
            self, path=name(self.path) if self.path else "", counts=tuple(sorted(map(name, self.counts))), entries=entries
        )


@frozen
class ModuleCall:
    """How forward called a module that holds parameters: what it was given, and what it returned.

    Attributes:
        path: the module's dotted path.
        takes: the tensors among its arguments, each by its position or keyword.
        arguments: how many arguments there were.
        returns: the tensors that it returned, in order; an empty text where None stood.
        alone: whether it returned one tensor, and no tuple.
        problem: why another module cannot be called in its place; empty where nothing speaks against it.

    >>> import torch, depgraph as dg
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> [(call.path, call.takes, call.returns) for call in dg.trace(model, torch.zeros(1, 4)).calls[:2]]
    [('0', (('0', 'input[0]:0'),), ('0:0',)), ('2', (('0', '1:0'),), ('2:0',))]
    """

    path: str
    takes: tuple[tuple[str, str], ...]
    arguments: int
    returns: tuple[str, ...]
    alone: bool
    problem: str = ""

    def with_names(self, name: Callable[[str], str]) -> ModuleCall:
        """The call with other names of modules and tensors."""
        takes = tuple((key, name(tensor)) for key, tensor in self.takes)
        return evolve(self, path=name(self.path), takes=takes, returns=tuple(item and name(item) for item in self.returns))


@frozen
class Balance:
    """Groups that must keep equal sizes, such as the halves of a `chunk(2)`; their indices stay independent."""

    atoms: tuple[Atom, ...]
    reason: str = field(eq=False)


@frozen
class LowerBound:
    """The smallest size of an atom, and why forward would take another branch below it."""

    atom: Atom
    size: int
    reason: str


@frozen
class SizeMultiple:
    """The number of which an atom's size is to stay a multiple, and why an operator asks for it."""

    atom: Atom
    of: int
    reason: str


@frozen
class PinnedAtom:
    """An atom from which nothing may be removed."""

    atom: Atom
    reason: str = field(eq=False)


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
