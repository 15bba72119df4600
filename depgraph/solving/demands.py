"""What calls and comparisons demand of sizes, as data, and the balances and bounds that follow."""

from __future__ import annotations

from typing import TypeAlias

from attrs import frozen

from depgraph.solving.expressions import Attribute, Expression
from depgraph.solving.statements import Axis, Backwards, Fresh, Known, Plus, Term, Times


@frozen
class NamedSize:
    """A call named the size of a term with an integer."""

    term: Term
    size: int
    where: str


@frozen
class EqualSizes:
    """Terms that must keep equal sizes."""

    terms: tuple[Term, ...]
    reason: str


@frozen
class SizeFact:
    """Two expressions that forward compares, and that are equal."""

    left: Expression
    right: Expression
    where: str


@frozen
class Unlike:
    """Two expressions that forward compares, and that differ: were they to become equal, it would take another branch."""

    left: Expression
    right: Expression
    reason: str


@frozen
class FollowingAttribute:
    """An attribute of one of torch's layers that counts a term.

    Attributes:
        attribute: the attribute.
        term: what it counts.
        outside: the layer's own forward does not take it as a size; where another module's does, it is that of the term.
    """

    attribute: Attribute
    term: Term
    outside: bool = False


@frozen
class Escape:
    """Sizes that are used where nothing follows them: they stay as they are."""

    sources: tuple[Expression, ...]
    reason: str


@frozen
class Below:
    """One size is smaller than another one: were it not any more, forward would take another branch, or fail."""

    left: Expression | Term
    right: Expression | Term
    reason: str


@frozen
class Divisible:
    """A size of which a number is a divisor is to stay so."""

    term: Term
    by: int
    reason: str


Demand: TypeAlias = NamedSize | EqualSizes | SizeFact | Unlike | Below | Divisible | FollowingAttribute | Escape


@frozen
class Settled:
    """Attributes with the terms that they count; balanced terms, lower bounds and divisors of terms with their reasons."""

    attributes: tuple[tuple[str, Term], ...]
    balances: tuple[tuple[tuple[Term, ...], str], ...]
    lower_bounds: tuple[tuple[Term, int, str], ...]
    divisors: tuple[tuple[Term, int, str], ...] = ()


TERMS = (Axis, Fresh, Times, Plus, Backwards, Known)
