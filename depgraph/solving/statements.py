"""The vocabulary in which operators state what they know about the spaces of their operands.

A traced model is a list of `Call`s over `Value`s. A rule reads one call and yields statements about its axes. The classes
have no slots: a trace makes many thousands of them, and frozen ones with slots take twice as long to make.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, TypeAlias

from attrs import field, frozen


class Axis(NamedTuple):
    """A dimension of a recorded value. A tuple, for nothing else is compared and hashed as often.

    Attributes:
        value: the number of the `Value`.
        dim: the dimension, counted from 0.
        size: how many indices it has.

    >>> x = Value(0, shape=(5, 4))
    >>> x[1]
    Axis(value=0, dim=1, size=4)
    """

    value: int
    dim: int
    size: int


@frozen(eq=False)
class Fresh:
    """A space of its own, with no name outside of the call that makes it. Compared by identity.

    Attributes:
        size: how many indices it has.

    >>> Fresh(3).size, Fresh(3) == Fresh(3)
    (3, False)

    As a factor it stands for what no operand has as an axis, such as the blocks that a channel shuffle transposes:

    >>> import torch, depgraph as dg
    >>> def shuffle(call):
    ...     before, after, groups = call["input"], call.out, call["groups"]
    ...     blocks, inner = Fresh(int(groups)), Fresh(before.shape[1] // groups)
    ...     yield Named(blocks, groups)
    ...     yield Equal(before[0], after[0])
    ...     yield Equal(before[1], Times((blocks, inner)))
    ...     yield Equal(after[1], Times((inner, blocks)))
    >>> model = torch.nn.Sequential(torch.nn.Conv2d(4, 6, 1), torch.nn.ChannelShuffle(3), torch.nn.Conv2d(6, 2, 1))
    >>> graph = dg.trace(model, torch.zeros(1, 4, 1, 1), rules=dg.RULES | {torch.nn.ChannelShuffle: dg.Rule(shuffle)})
    >>> print(graph.axis("0.weight", 0), graph.axis("2.weight", 1))
    (a0:3 x a1:2) (a1:2 x a0:3)
    """

    size: int


@frozen(slots=False)
class Times:
    """A row-major product of terms: the last factor runs fastest.

    Attributes:
        factors: the terms, the slowest first.

    >>> x = Value(0, shape=(5, 4, 9))
    >>> Times((x[1], x[2])).size                   # what a flatten from dimension 1 on makes
    36
    >>> import torch, depgraph as dg
    >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.Flatten(), torch.nn.Linear(36, 2))
    >>> graph = dg.trace(model, torch.zeros(5, 3, 3, 3))
    >>> print(graph.axis("2.weight", 1))
    (a0:4 x a3:3 x a4:3)
    """

    factors: tuple[Term, ...]

    @property
    def size(self) -> int:
        """Product of the sizes."""
        size = 1
        for factor in self.factors:
            size *= factor.size
        return size


@frozen(slots=False)
class Plus:
    """Terms laid end to end.

    Attributes:
        parts: the terms, the first indices first.

    >>> from depgraph.rules import RULES
    >>> x, y, out = Value(0, (5, 4)), Value(1, (5, 6)), Value(2, (5, 10))
    >>> call = Call("aten.cat", {"tensors": (x, y), "dim": 1}, (out,), "", "Net", True, "net.py:7")
    >>> Equal(out[1], Plus((x[1], y[1]))) in RULES["aten.cat"].equations(call)
    True
    """

    parts: tuple[Term, ...]

    @property
    def size(self) -> int:
        """Sum of the sizes."""
        return sum(part.size for part in self.parts)


@frozen(slots=False)
class Backwards:
    """A term read from its last index to its first.

    Attributes:
        term: what is read.

    >>> from depgraph.rules import RULES
    >>> x, out = Value(0, (5, 4)), Value(1, (5, 4))
    >>> call = Call("aten.flip", {"self": x, "dims": (1,)}, (out,), "", "Net", True, "net.py:7")
    >>> Equal(out[1], Backwards(x[1])) in RULES["aten.flip"].equations(call)
    True
    """

    term: Term

    @property
    def size(self) -> int:
        """That of the term."""
        return self.term.size


@frozen(slots=False)
class Known:
    """A term that a solver has already, by its number there."""

    size: int
    root: int


Term: TypeAlias = Axis | Fresh | Times | Plus | Backwards | Known


@frozen(slots=False)
class Equal:
    """Both terms range over the same space: what one loses the other loses, index by index.

    >>> from depgraph.rules import RULES
    >>> x, out = Value(0, (5, 4)), Value(1, (5, 4))
    >>> call = Call("aten.relu", {"self": x}, (out,), "", "ReLU", True, "net.py:7")
    >>> set(RULES["aten.relu"].equations(call)) == {Equal(x[0], out[0]), Equal(x[1], out[1])}
    True
    """

    left: Term
    right: Term


@frozen(slots=False)
class Pin:
    """Nothing may be removed from the term.

    Attributes:
        term: what must stay whole.
        reason: a clause that says why; errors and `explain` show it.

    >>> import torch, depgraph as dg
    >>> def relu(call):
    ...     yield Equal(call["input"][0], call.out[0])
    ...     yield Equal(call["input"][1], call.out[1])
    ...     yield Pin(call.out[1], "the next stage reads these channels by number")
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.ReLU(), torch.nn.Linear(6, 2))
    >>> graph = dg.trace(model, torch.zeros(1, 4), rules=dg.RULES | {torch.nn.ReLU: dg.Rule(relu)})
    >>> print(len(graph.groups), graph.why_pinned(graph.axis("0.weight", 0)))  # doctest: +ELLIPSIS
    0 the next stage reads these channels by number (torch.nn.modules.activation.ReLU in 1 at ...)
    """

    term: Term
    reason: str


@frozen(slots=False)
class Named:
    """The call names the size of the term with an integer argument, which has a provenance.

    An attribute from which the integer comes then follows the term; a literal pins it.

    Attributes:
        term: whose size it is.
        size: the integer, as the call holds it.

    >>> import torch, depgraph as dg
    >>> class Heads(torch.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.heads, self.inner, self.out = 3, torch.nn.Linear(4, 6), torch.nn.Linear(2, 1)
    ...     def forward(self, x):
    ...         return self.out(self.inner(x).unflatten(1, (self.heads, -1)).sum(1))
    >>> plan = dg.cut(dg.trace(Heads(), torch.zeros(1, 4)), "inner.weight", [0, 1], dim=0)     # one head of two channels
    >>> plan.edits[0]                                        # the rule of aten.unflatten yields Named(blocks, self.heads)
    Edit(path='heads', old=3, new=2)
    """

    term: Term
    size: int


@frozen(slots=False)
class Balanced:
    """The terms must keep equal sizes, without being index by index the same.

    Attributes:
        terms: what must stay equally long.
        reason: a clause that says why.

    >>> from depgraph.rules import RULES
    >>> x, left, right = Value(0, (5, 6)), Value(1, (5, 3)), Value(2, (5, 3))
    >>> call = Call("aten.chunk", {"self": x, "chunks": 2, "dim": 1}, (left, right), "", "Net", True, "net.py:7")
    >>> Balanced((left[1], right[1]), "aten.chunk needs equal parts") in RULES["aten.chunk"].equations(call)
    True
    """

    terms: tuple[Term, ...]
    reason: str


@frozen(slots=False)
class Larger:
    """One size is larger than another one; were it not any more, the operator would do something else.

    Attributes:
        term: the larger one: a term, or a number that follows from sizes.
        than: what it stays above, likewise.
        reason: a clause that says why.

    >>> import torch, depgraph as dg
    >>> def relu(call):
    ...     yield Equal(call["input"][0], call.out[0])
    ...     yield Equal(call["input"][1], call.out[1])
    ...     yield Larger(call.out[1], 2, "the kernel reads 3 channels at once")
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.ReLU(), torch.nn.Linear(6, 2))
    >>> (group,) = dg.trace(model, torch.zeros(1, 4), rules=dg.RULES | {torch.nn.ReLU: dg.Rule(relu)}).groups
    >>> group.lower_bound
    3
    """

    term: Term | int
    than: Term | int
    reason: str


@frozen(slots=False)
class Multiple:
    """The operator takes sizes of a term that a number divides, or is slow with others. What a plan chooses keeps to it.

    Attributes:
        term: the term.
        of: the number; a term that it does not divide now is free.
        reason: a clause that says why.

    >>> import torch, depgraph as dg
    >>> def relu(call):
    ...     yield Equal(call["input"][0], call.out[0])
    ...     yield Equal(call["input"][1], call.out[1])
    ...     yield Multiple(call.out[1], 4, "the kernel reads 4 channels at once")
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 12), torch.nn.ReLU(), torch.nn.Linear(12, 2))
    >>> graph = dg.trace(model, torch.zeros(1, 4), rules=dg.RULES | {torch.nn.ReLU: dg.Rule(relu)})
    >>> print(graph.groups[0])
    0.weight:0 (12 indices, in multiples of 4, 3 axes)
    >>> dg.execute(dg.plan(graph, {"0.weight:0": range(12)}, ratio=0.5), model)[0].out_features
    8
    """

    term: Term
    of: int
    reason: str


@frozen(slots=False)
class Scale:
    """The call multiplies or divides by an integer argument that follows from a size, as a mean that is written by hand does.

    No index depends on it, so the size stays free. Any other integer that a call is given, and that no statement names, pins
    the size from which it follows: a stride, a position, a number of classes.

    Attributes:
        size: the integer, as the call holds it.

    >>> import torch, depgraph as dg
    >>> class Mean(torch.nn.Module):
    ...     def forward(self, x):
    ...         return x.sum(1, keepdim=True) / x.shape[1]
    >>> class Rolled(torch.nn.Module):
    ...     def forward(self, x):
    ...         return x.sum(1, keepdim=True).roll(x.shape[1], 0)
    >>> for module in (Mean(), Rolled()):                 # the rule of aten.div yields Scale(x.shape[1]), that of roll nothing
    ...     graph = dg.trace(torch.nn.Sequential(torch.nn.Linear(4, 6), module), torch.zeros(3, 4))
    ...     print([str(group) for group in graph.groups])
    ['0.weight:0 (6 indices, 2 axes)']
    []
    """

    size: int


@frozen(slots=False)
class Work:
    """Multiply-accumulates: `scale` times the product of the sizes of the axes.

    Attributes:
        axes: the terms that are run over.
        scale: a constant factor; 0 where the work is none but the axes meet.

    >>> from depgraph.rules import RULES
    >>> x, weight, out = Value(0, (5, 4)), Value(1, (8, 4)), Value(2, (5, 8))
    >>> call = Call("aten.linear", {"input": x, "weight": weight}, (out,), "0", "Linear", True, "net.py:7")
    >>> Work((x[0], weight[0], weight[1])) in RULES["aten.linear"].equations(call)        # 5 * 8 * 4
    True
    """

    axes: tuple[Term, ...]
    scale: int = 1


Meaning: TypeAlias = Literal["number", "count", "end"]
"""What the values of a tensor say of indices: which one, how often each was chosen, or the sums of these counts up to each."""


@frozen(slots=False)
class Chosen:
    """The data choose indices of a term, and the values of a result say which.

    Without an index the data could not choose it, as if it had lost every comparison; the numbers of those behind it move up.

    Attributes:
        result: the tensor whose values say it.
        term: of which the indices are.
        meaning: how they say it.

    >>> from depgraph.rules import RULES
    >>> x, values, numbers = Value(0, (5, 8)), Value(1, (5, 2)), Value(2, (5, 2))
    >>> call = Call("aten.topk", {"self": x, "k": 2, "dim": 1}, (values, numbers), "", "Router", True, "net.py:7")
    >>> Chosen(numbers, x[1]) in RULES["aten.topk"].equations(call)
    True
    """

    result: Value
    term: Term
    meaning: Meaning = "number"


@frozen(slots=False)
class Taken:
    """The values of an operand are taken as what the data chose of a term; if nothing says that they are, the term is pinned.

    Attributes:
        operand: the tensor whose values are taken.
        term: of which they number indices, or count choices.
        reason: a clause that says why the term is pinned where they are other numbers.
        meaning: as what they are taken.

    >>> import torch, depgraph as dg
    >>> class Router(torch.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.gate, self.biases = torch.nn.Linear(4, 8), torch.nn.Parameter(torch.zeros(8, 4))
    ...     def forward(self, x):
    ...         return x + self.biases[self.gate(x).argmax(-1)]
    >>> (group,) = dg.trace(Router(), torch.zeros(3, 4)).groups        # the rule of aten.index yields Taken(numbers, biases[0])
    >>> group.role, group.members
    ('expert', (('biases', 0), ('gate.weight', 0), ('gate.bias', 0)))
    """

    operand: Value
    term: Term
    reason: str
    meaning: Meaning = "number"


@frozen(slots=False)
class Accumulated:
    """A result holds the sums of an operand's values from the first one on; of counts of choices they are the ends.

    Attributes:
        operand: what is summed.
        result: the sums.
        term: along which.
        reason: a clause that says why the term is pinned where the values are no counts.

    >>> from depgraph.rules import RULES
    >>> x, out = Value(0, (8,)), Value(1, (8,))
    >>> call = Call("aten.cumsum", {"self": x, "dim": 0}, (out,), "", "Experts", True, "net.py:7")
    >>> [type(statement).__name__ for statement in RULES["aten.cumsum"].equations(call)]
    ['Equal', 'Accumulated']
    """

    operand: Value
    result: Value
    term: Term
    reason: str


@frozen(slots=False)
class Moved:
    """A result holds values of an operand, each as it is: a view, a copy, a selection.

    Attributes:
        operand: the tensor whose values they are; where there are several such statements, those of all operands.
        result: the tensor that holds them.

    >>> from depgraph.rules import RULES
    >>> x, out = Value(0, (5, 4)), Value(1, (20,))
    >>> call = Call("aten.view", {"self": x, "size": (20,)}, (out,), "", "Net", True, "net.py:7")
    >>> Moved(x, out) in RULES["aten.view"].equations(call)
    True
    """

    operand: Value
    result: Value


Statement: TypeAlias = Equal | Pin | Named | Balanced | Larger | Multiple | Scale | Work | Chosen | Taken | Accumulated | Moved


@frozen(slots=False)
class Value:
    """A tensor that the traced forward met: a number and a shape, no data.

    Attributes:
        id: its number in the recording.
        shape: its sizes.
        boolean: whether it holds truth values.
        itemsize: how many bytes each of its elements takes.

    >>> x = Value(0, shape=(5, 4))
    >>> x.ndim, x[-1], x.axes[0] == x[0]
    (2, Axis(value=0, dim=1, size=4), True)
    """

    id: int
    shape: tuple[int, ...]
    boolean: bool = False
    itemsize: int = 4

    def __getitem__(self, dim: int) -> Axis:
        return self.axes[dim]

    @cached_property
    def axes(self) -> tuple[Axis, ...]:
        """All dimensions, in order."""
        return tuple([Axis(self.id, dim, size) for dim, size in enumerate(self.shape)])

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)


@frozen(eq=False, slots=False)
class Call:
    """One operator call of the traced forward.

    Attributes:
        op: the operator, such as ``aten.conv2d``.
        args: its arguments by the schema's names; tensors are `Value`s, sizes may be `Sized`.
        outputs: the values it returned.
        module: dotted path of the module it ran in.
        module_class: that module's class.
        leaf: whether that module has no modules in it.
        where: file and line of the forward code.
        whole: the call stands for a whole module or function, of which nothing is known but what its rule states.
        unread: positions of outputs that nothing takes up, such as the indices of a maximum whose values count.

    >>> x, weight, out = Value(0, (5, 4)), Value(1, (8, 4)), Value(2, (5, 8))
    >>> call = Call("aten.linear", {"input": x, "weight": weight}, (out,), "0", "Linear", True, "net.py:7")
    >>> call["weight"].shape, call["bias"], call.out.shape
    ((8, 4), None, (5, 8))
    >>> call.inputs == (x, weight)
    True
    """

    op: str
    args: Mapping[str, Any]
    outputs: tuple[Value, ...]
    module: str
    module_class: str
    leaf: bool
    where: str
    whole: bool = False
    unread: frozenset[int] = frozenset()

    def __getitem__(self, name: str) -> Any:
        return self.args.get(name)

    @property
    def out(self) -> Value:
        """The first output."""
        return self.outputs[0]

    @cached_property
    def inputs(self) -> tuple[Value, ...]:
        """Every value among the arguments, in order."""
        values: list[Value] = []
        _gather(self.args.values(), values)
        return tuple(values)


def _gather(args: Iterable[Any], values: list[Value]) -> None:
    for arg in args:
        if isinstance(arg, Value):
            values.append(arg)
        elif isinstance(arg, (list, tuple)):
            _gather(arg, values)
        elif isinstance(arg, (dict, MappingProxyType)):
            _gather(arg.values(), values)


RuleFunction: TypeAlias = Callable[[Call], Iterable[Statement]]


@frozen(slots=False)
class Weight:
    """That an operand is the weight of a layer: two of its axes, with what the layer reads and makes along them.

    Attributes:
        inner: the weight's axis that meets what the layer reads.
        outer: the weight's axis that becomes what the layer makes.
        read: the axis of another operand that `inner` meets.
        made: the axis of the result that `outer` becomes.

    >>> from depgraph.rules import RULES
    >>> x, weight, out = Value(0, (5, 4)), Value(1, (8, 4)), Value(2, (5, 8))
    >>> call = Call("aten.linear", {"input": x, "weight": weight}, (out,), "0", "Linear", True, "net.py:7")
    >>> RULES["aten.linear"].traits_of(call).weight == Weight(inner=weight[1], outer=weight[0], read=x[1], made=out[1])
    True
    """

    inner: Axis
    outer: Axis
    read: Axis
    made: Axis


@frozen(slots=False)
class Traits:
    """What an operator does beside its equations, which say nothing of values.

    Attributes:
        mixes: the axes along which a result depends on other indices than its own: those that are averaged, normalised or
            added up. What a product contracts and what the equations pin need not be named. ``()``: each index of each axis
            is treated by itself. None: nobody says, and anything may be mixed.
        draws: whether it draws numbers, in evaluation too: another number of draws gives every later one another value.
        offsets: the operands that are only added.
        weight: which operand is the weight of a layer.
        chooses: the axes of which the data choose indices, and whose numbers something reads.

    >>> from depgraph.rules import RULES
    >>> x, out = Value(0, (5, 4)), Value(1, (5, 4))
    >>> call = Call("aten.softmax", {"self": x, "dim": 1}, (out,), "", "Softmax", True, "net.py:7")
    >>> RULES["aten.softmax"].traits_of(call) == Traits(mixes=(x[1], out[1]))
    True
    >>> RULES["aten.relu"].traits == Traits(mixes=())
    True
    """

    mixes: tuple[Axis, ...] | None = None
    draws: bool = False
    offsets: tuple[Value, ...] = ()
    weight: Weight | None = None
    chooses: tuple[Axis, ...] = ()


POINTWISE = Traits(mixes=())
"""Those of an operator that treats each position by itself."""


@frozen
class Rule:
    """What an operator states, how its node is typed, and its traits.

    Attributes:
        equations: reads a call and yields its statements.
        type: name of the `OpType` of the operator's node.
        traits: its `Traits`, or a function of a call that gives them.

    >>> import torch, depgraph as dg
    >>> class Negated(torch.nn.Module):
    ...     def forward(self, x):
    ...         return -x
    >>> def every_axis_passes(call):
    ...     for before, after in zip(call["x"].axes, call.out.axes):
    ...         yield Equal(before, after)
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 6), Negated(), torch.nn.Linear(6, 2))
    >>> rule = Rule(every_axis_passes, type="CUSTOMIZED", traits=Traits(mixes=()))
    >>> graph = dg.trace(model, torch.zeros(1, 4), rules=dg.RULES | {Negated: rule})
    >>> graph.node("1").type.name, [str(group) for group in graph.groups]
    ('CUSTOMIZED', ['0.weight:0 (6 indices, 3 axes)'])
    """

    equations: RuleFunction
    type: str = field(default="ELEMENTWISE")
    traits: Traits | Callable[[Call], Traits] = field(default=Traits())

    def traits_of(self, call: Call) -> Traits:
        """The traits that the operator has in a call."""
        return self.traits if isinstance(self.traits, Traits) else self.traits(call)


def pin_all(call: Call, reason: str) -> Iterator[Statement]:
    """Nothing that the call touches may lose an index."""
    for value in (*call.inputs, *call.outputs):
        for axis in value.axes:
            yield Pin(axis, reason)
