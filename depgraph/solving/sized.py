"""Integers that remember where they came from, and tell a listener what happens to them."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from fractions import Fraction
from typing import Any, Protocol

from depgraph.solving.expressions import Arithmetic, Computed, Expression, Literal


class Listener(Protocol):
    """Hears what happens to sized numbers beside arithmetic."""

    def fact(self, left: Expression, right: Expression, size: int, owner: object) -> None:
        """Two integers were compared and found equal."""

    def unlike(self, left: Expression, right: Expression, size: int, owner: object) -> None:
        """Two integers were compared and found different; `size` is the left one."""

    def below(self, left: Expression, right: Expression, owner: object) -> None:
        """An integer was compared with another one, and found to be smaller."""

    def escape(self, sources: tuple[Expression, ...], owner: object) -> None:
        """A number computed from these sizes became a plain integer, which nothing can follow."""


_listener: ContextVar[Listener | None] = ContextVar("depgraph_listener", default=None)


def listen(listener: Listener | None) -> Any:
    """Let a listener hear of sized numbers. Returns a token for `unlisten`."""
    return _listener.set(listener)


def unlisten(token: Any) -> None:
    """Undo the `listen` that gave this token."""
    _listener.reset(token)


plain_int = int.__int__
"""The integer without its origin, which no listener hears of."""


class Sized(int):
    """An `int` with an `expression`. It behaves as the int it is in every other respect.

    The `owner` is the trace that made it: one that a cache carries into another trace counts as a literal there.
    """

    expression: Expression
    owner: object

    def __new__(cls, value: int, expression: Expression, owner: object = None) -> Sized:
        """An integer with its origin."""
        number = super().__new__(cls, value)
        number.expression = expression
        number.owner = owner
        return number

    def __reduce_ex__(self, protocol: Any) -> Any:
        let_escape(self.owner, self)
        return int, (plain_int(self),)

    def __copy__(self) -> Sized:
        return self

    def __deepcopy__(self, memo: object) -> Sized:
        return self

    def __eq__(self, other: object) -> bool:
        equal = int.__eq__(self, other) if isinstance(other, int) else NotImplemented
        if isinstance(other, int) and not isinstance(other, bool):
            listener = _listener.get()
            if listener is not None:
                heard = listener.fact if equal is True else listener.unlike
                heard(self.expression, origin(other, self.owner), plain_int(self), self.owner)
        return equal

    def __ne__(self, other: object) -> bool:
        equal = self.__eq__(other)
        return equal if equal is NotImplemented else not equal

    def __bool__(self) -> bool:
        return self != 0 if isinstance(self.expression, Arithmetic) else plain_int(self) != 0

    def __neg__(self) -> Sized:
        return Sized(-plain_int(self), Arithmetic("-", Literal(0), self.expression), self.owner)

    def __abs__(self) -> Sized:
        return Sized.__neg__(self) if self < 0 else self

    def __divmod__(self, other: Any) -> Any:
        return self // other, self % other

    def __rdivmod__(self, other: Any) -> Any:
        return other // self, other % self

    def __pos__(self) -> Sized:
        return self

    def __invert__(self) -> Any:
        return -self - 1

    def __trunc__(self) -> Sized:
        return self

    def __ceil__(self) -> Sized:
        return self

    def __floor__(self) -> Sized:
        return self

    def __round__(self, digits: Any = None) -> Any:
        return self if digits is None or digits >= 0 else computed(int.__round__(self, digits), self.owner, self)

    def __pow__(self, other: Any, modulo: Any = None) -> Any:
        return computed(pow(plain_int(self), _plain(other), modulo), self.owner, self, other)

    def __rpow__(self, other: Any, modulo: Any = None) -> Any:
        return computed(pow(_plain(other), plain_int(self), modulo), self.owner, self, other)

    def __truediv__(self, other: Any) -> Any:
        return _quotient(self, other, computed(plain_int(self) / _plain(other), self.owner, self, other))

    def __rtruediv__(self, other: Any) -> Any:
        return _quotient(other, self, computed(_plain(other) / plain_int(self), self.owner, self, other))


class SizedFloat(float):
    """A `float` that was computed from sizes. Rounded to an integer it counts as computed from them.

    One that is the quotient of two integers knows these, so that comparisons of it are ones of sizes.
    """

    sources: tuple[Expression, ...]
    owner: object
    ratio: tuple[int, int] | None = None

    def __new__(cls, value: float, sources: tuple[Expression, ...], owner: object) -> SizedFloat:
        """A number with its sources."""
        number = super().__new__(cls, value)
        number.sources = sources
        number.owner = owner
        return number

    def __reduce_ex__(self, protocol: Any) -> Any:
        let_escape(self.owner, self)
        return float, (float.__float__(self),)

    def __deepcopy__(self, memo: object) -> SizedFloat:
        return self

    def __neg__(self) -> Any:
        return computed(-float.__float__(self), self.owner, self)

    def __pos__(self) -> SizedFloat:
        return self

    def __abs__(self) -> Any:
        return computed(abs(float.__float__(self)), self.owner, self)

    def __divmod__(self, other: Any) -> Any:
        return self // other, self % other

    def __rdivmod__(self, other: Any) -> Any:
        return other // self, other % self

    def __trunc__(self) -> Any:
        return computed(float.__trunc__(self), self.owner, self)

    def __ceil__(self) -> Any:
        return computed(math.ceil(float.__float__(self)), self.owner, self)

    def __floor__(self) -> Any:
        return computed(math.floor(float.__float__(self)), self.owner, self)

    def __round__(self, digits: Any = None) -> Any:
        return computed(float.__round__(self, digits), self.owner, self)


def _plain(number: Any) -> Any:
    """The number without its origin."""
    if isinstance(number, Sized):
        return plain_int(number)
    return float.__float__(number) if isinstance(number, SizedFloat) else number


def _quotient(numerator: Any, denominator: Any, result: Any) -> Any:
    """The result of a division, which knows of which integers."""
    if isinstance(result, SizedFloat) and isinstance(numerator, int) and isinstance(denominator, int):
        result.ratio = numerator, denominator
    return result


def _ratio_of(number: Any) -> tuple[int, int] | None:
    """A number as a quotient of two integers, which are sizes where it is made from some; None where it is no such."""
    if isinstance(number, SizedFloat):
        return number.ratio
    if isinstance(number, int):
        return number, 1
    if not math.isfinite(number):
        return None
    short = Fraction(number).limit_denominator(_LARGEST_DENOMINATOR)  # what was written as 1 / 3 is meant so
    return (short if float(short) == number else Fraction(number)).as_integer_ratio()


_LARGEST_DENOMINATOR = 10**6


def _heard_as_sizes(name: str, left: Any, right: Any) -> bool:
    """Tell of a comparison of quotients as one of products; false where it is none, or rounding decides it."""
    listener, first_ratio, second_ratio = _listener.get(), _ratio_of(left), _ratio_of(right)
    owner = next((side.owner for side in (left, right) if isinstance(side, (Sized, SizedFloat))), None)
    if listener is None or first_ratio is None or second_ratio is None:
        return listener is None
    (a, b), (c, d) = first_ratio, second_ratio
    if plain_int(b) <= 0 or plain_int(d) <= 0:
        return False
    products = _product(a, d), _product(c, b)
    first, second = map(plain_int, products)
    compare = getattr(operator, name)
    if compare(first, second) != compare(_plain(left), _plain(right)):
        return False
    if name in {"eq", "ne"}:
        heard = listener.fact if first == second else listener.unlike
        heard(origin(products[0], owner), origin(products[1], owner), first, owner)
        return True
    low, high = products if name in {"lt", "le"} else products[::-1]
    strict = name in {"lt", "gt"}
    if compare(first, second):
        _hear_order(low, high, strict, owner)
    else:
        _hear_order(high, low, not strict, owner)
    return True


def _product(one: int, other: int) -> int:
    """The product; one factor where the other is 1."""
    return one if type(other) is int and other == 1 else other if type(one) is int and one == 1 else one * other


def computed(value: Any, owner: object, *operands: Any) -> Any:
    """A number that remembers the sizes among its operands, where it can."""
    if type(value) is int:
        return Sized(value, Computed(value, _sources(owner, operands)), owner)
    return SizedFloat(value, _sources(owner, operands), owner) if type(value) is float else value


def _sources(owner: object, operands: Iterable[object]) -> tuple[Expression, ...]:
    """What the sizes and floats of one trace among some operands were made from."""
    sources: list[Expression] = []
    for operand in operands:
        if isinstance(operand, SizedFloat) and operand.owner is owner:
            sources.extend(operand.sources)
        elif isinstance(operand, Sized) and operand.owner is owner:
            sources.append(operand.expression)
    return tuple(dict.fromkeys(sources))


def origin(value: int, owner: object = None) -> Expression:
    """Where an integer came from; a plain one, or one of another trace than the owner's, counts as a literal."""
    if isinstance(value, Sized) and (owner is None or value.owner is owner):
        return value.expression
    return Literal(plain_int(value))


def sized_in(items: Iterable[object]) -> list[Expression]:
    """The expressions of the sizes among some arguments, in lists and slices too."""
    expressions: list[Expression] = []
    for item in items:
        if type(item) is Sized:
            expressions.append(item.expression)
        elif isinstance(item, (tuple, list)):
            expressions += sized_in(item)
        elif isinstance(item, slice):
            expressions += sized_in((item.start, item.stop, item.step))
        elif isinstance(item, Mapping):
            expressions += sized_in(item.values())
    return expressions


def _binary(symbol: str, function: Callable[[Any, Any], Any], swapped: bool) -> Callable[[Sized, object], Any]:
    def method(self: Sized, other: object) -> Any:
        if type(other) is float or isinstance(other, SizedFloat):
            number: Any = float.__float__(other)
            return computed(
                function(number, plain_int(self)) if swapped else function(plain_int(self), number), self.owner, self, other
            )
        if type(other) is not int and not isinstance(other, Sized):
            if isinstance(other, (list, tuple, str, bytes)):
                let_escape(self.owner, self)  # which is so many times as long
            name = f"__{'r' if swapped else ''}{function.__name__}__"
            return getattr(int, name)(self, other)
        left, right = (other, self) if swapped else (self, other)
        result = function(plain_int(left), plain_int(right))
        expression = Arithmetic(symbol, origin(left, self.owner), origin(right, self.owner))
        return Sized(result, expression, self.owner)

    return method


for _symbol, _function in zip(
    ("+", "-", "*", "//", "%"), (operator.add, operator.sub, operator.mul, operator.floordiv, operator.mod), strict=True
):
    setattr(Sized, f"__{_function.__name__}__", _binary(_symbol, _function, False))
    setattr(Sized, f"__r{_function.__name__}__", _binary(_symbol, _function, True))


def _bitwise(function: Callable[[Any, Any], Any], swapped: bool) -> Callable[[Sized, object], Any]:
    def method(self: Sized, other: object) -> Any:
        if not isinstance(other, int):
            return NotImplemented
        left, right = (plain_int(side) for side in ((other, self) if swapped else (self, other)))
        return computed(function(left, right), self.owner, self, other)

    return method


for _function in (operator.and_, operator.or_, operator.xor, operator.lshift, operator.rshift):
    _name = _function.__name__.strip("_")
    setattr(Sized, f"__{_name}__", _bitwise(_function, False))
    setattr(Sized, f"__r{_name}__", _bitwise(_function, True))


def _ordering(name: str) -> Callable[[Sized, object], Any]:
    """A comparison by order, which a listener hears as ``low < high``."""
    function, strict, swapped = getattr(operator, name), name in {"lt", "gt"}, name in {"gt", "ge"}

    def method(self: Sized, other: object) -> Any:
        if isinstance(other, SizedFloat):
            if not _heard_as_sizes(name, self, other):
                let_escape(self.owner, self, other)
        elif isinstance(other, (int, float)) and _listener.get() is not None:
            low, high = (other, self) if swapped else (self, other)
            if function(plain_int(self), float(other) if isinstance(other, float) else plain_int(other)):
                _hear_order(low, high, strict, self.owner)
            else:
                _hear_order(high, low, not strict, self.owner)
        elif not isinstance(other, (int, float)):
            return NotImplemented
        return function(plain_int(self), float.__float__(other) if isinstance(other, float) else plain_int(other))

    return method


def _hear_order(low: float, high: float, strict: bool, owner: object) -> None:
    """Tell of ``low < high`` or ``low <= high``; a number that is no integer is rounded to one that says the same."""
    listener = _listener.get()
    if listener is None or not (math.isfinite(low) and math.isfinite(high)):
        return
    left = origin(low if isinstance(low, int) else math.floor(low) if strict else math.ceil(low), owner)
    right = origin(high if isinstance(high, int) else math.ceil(high) if strict else math.floor(high), owner)
    if not strict and isinstance(left, Literal):
        left = Literal(left.value - 1)
    elif not strict:
        right = Literal(right.value + 1) if isinstance(right, Literal) else Arithmetic("+", right, Literal(1))
    listener.below(left, right, owner)


def let_escape(owner: object, *operands: object) -> None:
    """Tell of sizes from which forward computed something that is not followed."""
    listener = _listener.get()
    if listener is not None:
        listener.escape(_sources(owner, operands), owner)


def _float_method(function: Callable[[Any, Any], Any], swapped: bool) -> Callable[[SizedFloat, object], Any]:
    def method(self: SizedFloat, other: object) -> Any:
        if not isinstance(other, (int, float)):
            return NotImplemented
        left, right = (other, self) if swapped else (self, other)
        numbers = [plain_int(side) if isinstance(side, int) else float.__float__(side) for side in (left, right)]
        return computed(function(*numbers), self.owner, self, other)

    return method


for _function in (operator.add, operator.sub, operator.mul, operator.truediv, operator.floordiv, operator.mod, operator.pow):
    setattr(SizedFloat, f"__{_function.__name__}__", _float_method(_function, False))
    setattr(SizedFloat, f"__r{_function.__name__}__", _float_method(_function, True))


def _float_ordering(name: str) -> Callable[[SizedFloat, object], Any]:
    function = getattr(operator, name)

    def method(self: SizedFloat, other: object) -> Any:
        if not isinstance(other, (int, float)):
            return NotImplemented
        if not _heard_as_sizes(name, self, other):
            let_escape(self.owner, self, other)
        return function(float.__float__(self), float.__float__(other) if isinstance(other, float) else plain_int(other))

    return method


for _name in ("lt", "le", "gt", "ge"):
    setattr(Sized, f"__{_name}__", _ordering(_name))
for _name in ("lt", "le", "gt", "ge", "eq", "ne"):
    setattr(SizedFloat, f"__{_name}__", _float_ordering(_name))


def _heard(kind: type, name: str) -> Callable[..., Any]:
    """A method of `int` or `float` whose result is a plain one: what it was computed from has escaped."""
    method = getattr(kind, name)

    def heard(self: Any, *args: Any, **kwargs: Any) -> Any:
        let_escape(self.owner, self)
        return method(self, *args, **kwargs)

    return heard


for _name in ("__hash__", "__int__", "__repr__", "__format__", "as_integer_ratio", "bit_count", "bit_length", "to_bytes"):
    setattr(Sized, _name, _heard(int, _name))
for _name in ("__hash__", "__int__", "__repr__", "__format__", "__bool__", "as_integer_ratio", "hex", "is_integer"):
    setattr(SizedFloat, _name, _heard(float, _name))
for _name in ("real", "numerator"):
    setattr(Sized, _name, property(lambda self: self))
Sized.conjugate = SizedFloat.conjugate = lambda self: self  # type: ignore[method-assign,assignment]
SizedFloat.real = property(lambda self: self)  # type: ignore[assignment]
