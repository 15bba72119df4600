"""Where an integer came from: a literal, an attribute, the size of an axis, or arithmetic over these."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

from attrs import frozen


@frozen
class Literal:
    """A number that stands in the forward code, or whose origin is not followed."""

    value: int

    def __str__(self) -> str:
        return f"the literal {self.value}"


@frozen
class Attribute:
    """An integer that a module holds, by dotted path from the model's root."""

    path: str
    value: int = 0

    def __str__(self) -> str:
        return f"the attribute {self.path}"


@frozen
class AxisSize:
    """The size of a dimension of a recorded value."""

    value: int
    dim: int
    size: int

    def __str__(self) -> str:
        return "the size of an axis"


@frozen
class Arithmetic:
    """An operation (``+``, ``-``, ``*``, ``//`` or ``%``) over two expressions."""

    op: str
    left: Expression
    right: Expression

    def __str__(self) -> str:
        left, right = (f"({side})" if isinstance(side, Arithmetic) else str(side) for side in (self.left, self.right))
        return f"{left} {self.op} {right}"


@frozen
class Computed:
    """A number that was computed from sizes in a way that is not followed, such as rounding."""

    value: int
    sources: tuple[Expression, ...]

    def __str__(self) -> str:
        return f"a number computed from {' and '.join(map(str, self.sources))}"


Expression: TypeAlias = Literal | Attribute | AxisSize | Arithmetic | Computed


def parts_of(expression: Expression) -> Iterator[Expression]:
    """An expression and all that it is made of."""
    yield expression
    if isinstance(expression, Arithmetic):
        yield from parts_of(expression.left)
        yield from parts_of(expression.right)
    elif isinstance(expression, Computed):
        for source in expression.sources:
            yield from parts_of(source)
