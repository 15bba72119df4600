"""What the rules of several families share."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence

from depgraph.equations import Axis, Call, Equal, Pin, Rule, RuleFunction, Statement, Term, Value

POSITIONS = "its positions are computed by {}, they are no channels"
TAKEN = "{} takes positions of it that are computed in forward"


def broadcast(axes: Sequence[Axis], onto: Sequence[Term]) -> Iterator[Statement]:
    """Right-aligned equality; an axis of size 1 says nothing."""
    for axis, target in zip(reversed(axes), reversed(onto), strict=False):
        if axis.size != 1 and axis.size == target.size:
            yield Equal(axis, target)


def passed(x: Value, out: Value, but: Container[int] = ()) -> Iterator[Statement]:
    """Axes of the same place are equal, except those listed."""
    for dim, (before, after) in enumerate(zip(x.axes, out.axes, strict=True)):
        if dim not in but:
            yield Equal(before, after)


def matched(one: Axis, other: Axis, reason: str) -> Iterator[Statement]:
    """Axes of equal size are equal; where one reaches only into the beginning of the other, both stay."""
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


def pin_all(call: Call, reason: str) -> Iterator[Statement]:
    """Nothing that the call touches may lose an index."""
    for value in (*call.inputs, *call.outputs):
        for axis in value.axes:
            yield Pin(axis, reason)


def family(names: str, equations: RuleFunction, kind: str) -> dict[str, Rule]:
    """One rule for several ATen operators."""
    return {f"aten.{name}": Rule(equations, kind) for name in names.split()}
