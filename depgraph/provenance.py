"""Integers that remember where they came from: a literal, an attribute, the size of an axis, or arithmetic over these."""

from __future__ import annotations

import operator
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, TypeAlias

from attrs import frozen


@frozen
class Literal:
    """A number that stands in the forward code, or that came through something which forgot its origin."""

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
        return "the size of another axis"


@frozen
class Arithmetic:
    """An operation (``+``, ``-``, ``*`` or ``//``) over two expressions."""

    op: str
    left: Expression
    right: Expression

    def __str__(self) -> str:
        return f"{self.left} {self.op} {self.right}"


Expression: TypeAlias = Literal | Attribute | AxisSize | Arithmetic

EqualityListener: TypeAlias = Callable[["Expression", "Expression", int, object], None]
_listener: ContextVar[EqualityListener | None] = ContextVar("depgraph_equality_listener", default=None)


def listen(listener: EqualityListener | None) -> Any:
    """Hear of every comparison of sized integers that comes out equal. Returns a token for `unlisten`."""
    return _listener.set(listener)


def unlisten(token: Any) -> None:
    """Undo the `listen` that gave this token."""
    _listener.reset(token)


class Sized(int):
    """An `int` with an `expression`. It behaves as the int it is in every other respect.

    The `owner` is the trace that made it: one that a cache carries into another trace counts as a literal there.
    """

    expression: Expression
    owner: object

    def __new__(cls, value: int, expression: Expression, owner: object = None) -> Sized:
        """An integer with its origin."""
        made = super().__new__(cls, value)
        made.expression = expression
        made.owner = owner
        return made

    def __reduce__(self) -> Any:
        return int, (int(self),)

    def __copy__(self) -> Sized:
        return self

    def __deepcopy__(self, memo: object) -> Sized:
        return self

    def __eq__(self, other: object) -> bool:
        equal = int.__eq__(self, other) if isinstance(other, int) else NotImplemented
        if equal is True and isinstance(other, int) and not isinstance(other, bool):
            listener = _listener.get()
            if listener is not None:
                listener(self.expression, origin(other, self.owner), int(self), self.owner)
        return equal

    def __ne__(self, other: object) -> bool:
        equal = self.__eq__(other)
        return equal if equal is NotImplemented else not equal

    __hash__ = int.__hash__


def origin(value: int, owner: object = None) -> Expression:
    """Where an integer came from; a plain one, or one of another trace than the owner's, counts as a literal."""
    if isinstance(value, Sized) and (owner is None or value.owner is owner):
        return value.expression
    return Literal(int(value))


def _binary(symbol: str, function: Callable[[int, int], int], swapped: bool) -> Callable[[Sized, object], Any]:
    def method(self: Sized, other: object) -> Any:
        if type(other) is not int and not isinstance(other, Sized):
            name = f"__{'r' if swapped else ''}{function.__name__}__"
            return getattr(int, name)(self, other)
        left, right = (other, self) if swapped else (self, other)
        result = function(int(left), int(right))
        expression = Arithmetic(symbol, origin(left, self.owner), origin(right, self.owner))
        return Sized(result, expression, self.owner)

    return method


for _symbol, _function in (("+", operator.add), ("-", operator.sub), ("*", operator.mul), ("//", operator.floordiv)):
    setattr(Sized, f"__{_function.__name__}__", _binary(_symbol, _function, False))
    setattr(Sized, f"__r{_function.__name__}__", _binary(_symbol, _function, True))
