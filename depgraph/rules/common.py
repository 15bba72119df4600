"""What the rules of several families share."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Sequence

from depgraph.solving.statements import (
    POINTWISE,
    Axis,
    Call,
    Equal,
    Moved,
    Pin,
    Rule,
    RuleFunction,
    Statement,
    Term,
    Traits,
    Value,
    pin_all,
)

POSITIONS = "its positions are computed by {}, they are no channels"
TAKES_POSITIONS = "{} takes positions of it that are computed in forward"


def broadcast(axes: Sequence[Axis], onto: Sequence[Term]) -> Iterator[Statement]:
    """Axes are equal from the last one on, as in broadcasting; an axis of size 1 is equal to none."""
    for axis, target in zip(reversed(axes), reversed(onto), strict=False):
        if axis.size != 1 and axis.size == target.size:
            yield Equal(axis, target)


def passed(x: Value, out: Value, but: Container[int] = ()) -> Iterator[Statement]:
    """Axes of the same dimension are equal, except those listed."""
    for dim, (before, after) in enumerate(zip(x.axes, out.axes, strict=True)):
        if dim not in but:
            yield Equal(before, after)


def matched(one: Axis, other: Axis, reason: str) -> Iterator[Statement]:
    """Axes of equal size are equal; where one covers only the beginning of the other, both are pinned."""
    if one.size == other.size:
        yield Equal(one, other)
    else:
        yield Pin(one, reason)
        yield Pin(other, reason)


def elementwise(call: Call) -> Iterator[Statement]:
    """Every input is broadcast to every output."""
    for out in call.outputs:
        for value in call.inputs:
            yield from broadcast(value.axes, out.axes)


def family(
    names: str, equations: RuleFunction, kind: str, traits: Traits | Callable[[Call], Traits] = POINTWISE
) -> dict[str, Rule]:
    """One rule for several ATen operators. Unless it states traits, they mix no indices."""
    return {f"aten.{name}": Rule(equations, kind, traits) for name in names.split()}


def moving(equations: RuleFunction, name: str = "self") -> RuleFunction:
    """The equations of an operator whose results hold values of one operand, each as it is."""

    def with_moves(call: Call) -> Iterator[Statement]:
        yield from equations(call)
        operand = call[name]
        if isinstance(operand, Value):
            for out in call.outputs:
                yield Moved(operand, out)

    return with_moves


def mixing(axes: Callable[[Call], Iterable[Axis]], *offsets: str) -> Callable[[Call], Traits]:
    """Traits of an operator that mixes the indices of some axes, and only adds the operands of these names."""

    def traits(call: Call) -> Traits:
        return Traits(tuple(axes(call)), offsets=operands(call, *offsets))

    return traits


def mixes_all(call: Call) -> Traits:
    """Every result may depend on every index of every operand."""
    return Traits(tuple(axis for value in (*call.inputs, *call.outputs) for axis in value.axes))


def operands(call: Call, *names: str) -> tuple[Value, ...]:
    """The tensors among the named arguments."""
    return tuple(call[name] for name in names if isinstance(call[name], Value))


def opaque(reason: str) -> Rule:
    """A rule that pins all that a call touches; the reason may name the operator with ``{}``."""

    def equations(call: Call) -> Iterator[Statement]:
        yield from pin_all(call, reason.format(call.op))

    return Rule(equations, "UNKNOWN")


def table(names: str, reason: str) -> dict[str, Rule]:
    """One `opaque` rule for several ATen operators."""
    return {f"aten.{name}": opaque(reason) for name in names.split()}


def pinned(axes: Iterable[Term], reason: str) -> Iterator[Statement]:
    """None of the axes may lose an index."""
    for axis in axes:
        yield Pin(axis, reason)


def values(item: object) -> Iterator[Value]:
    """An argument's value, or all of a list of values."""
    if isinstance(item, Value):
        yield item
    elif isinstance(item, (list, tuple)):
        for part in item:
            yield from values(part)


def named(call: Call, *names: str) -> Value | None:
    """The first tensor among the named arguments, for overloads have different names for the same operand."""
    return next((call[name] for name in names if isinstance(call[name], Value)), None)
