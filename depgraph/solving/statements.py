"""The vocabulary in which operators state what they know about the spaces of their operands.

A traced model is a list of `Call`s over `Value`s. A rule reads one call and yields statements about its axes. The classes
have no slots: a trace makes many thousands of them, and frozen ones with slots take twice as long to make.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

from attrs import field, frozen


class Axis(NamedTuple):
    """A dimension of a recorded value. A tuple, for nothing else is compared and hashed as often."""

    value: int
    dim: int
    size: int


@frozen(eq=False)
class Fresh:
    """A space of its own, with no name outside of the call that makes it. Compared by identity."""

    size: int


@frozen(slots=False)
class Times:
    """A row-major product of terms."""

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
    """Terms laid end to end."""

    parts: tuple[Term, ...]

    @property
    def size(self) -> int:
        """Sum of the sizes."""
        return sum(part.size for part in self.parts)


@frozen(slots=False)
class Backwards:
    """A term read from its last index to its first."""

    term: Term

    @property
    def size(self) -> int:
        """That of the term."""
        return self.term.size


@frozen(slots=False)
class Known:
    """A space that a solver already holds, by its number there."""

    size: int
    root: int


Term: TypeAlias = Axis | Fresh | Times | Plus | Backwards | Known


@frozen(slots=False)
class Equal:
    """Both terms range over the same space."""

    left: Term
    right: Term


@frozen(slots=False)
class Pin:
    """Nothing may be removed from the term."""

    term: Term
    reason: str


@frozen(slots=False)
class Named:
    """The call names the size of the term with an integer argument, which has a provenance."""

    term: Term
    size: int


@frozen(slots=False)
class Balanced:
    """The terms must keep equal sizes, without being index by index the same."""

    terms: tuple[Term, ...]
    reason: str


@frozen(slots=False)
class Larger:
    """The term is larger than a number or than another term; were it not any more, the operator would do something else."""

    term: Term
    than: Term | int
    reason: str


@frozen(slots=False)
class Work:
    """Multiply-accumulates: `scale` times the product of the sizes of the axes."""

    axes: tuple[Term, ...]
    scale: int = 1


Statement: TypeAlias = Equal | Pin | Named | Balanced | Larger | Work


@frozen(slots=False)
class Value:
    """A tensor that the traced forward met: a number and a shape, no data; and whether it holds truth values."""

    id: int
    shape: tuple[int, ...]
    boolean: bool = False

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
    """

    mixes: tuple[Axis, ...] | None = None
    draws: bool = False
    offsets: tuple[Value, ...] = ()
    weight: Weight | None = None


POINTWISE = Traits(mixes=())
"""Those of an operator that treats each position by itself."""


@frozen
class Rule:
    """What an operator states, how its node is typed, and its traits.

    Attributes:
        equations: reads a call and yields its statements.
        type: name of the `OpType` of the operator's node.
        traits: its `Traits`, or a function of a call that gives them.
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
