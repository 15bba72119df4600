"""What an axis ranges over: independent indices, such indices backwards, a row-major product, or spaces laid end to end.

Terms are kept canonical by the constructors `product`, `laid_end_to_end` and `backwards`: products and sums are flat,
factors of size 1 are dropped, a sum is distributed over the factors that follow it, and only atoms are reversed. So equal
spaces are equal values.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple, TypeAlias

from attrs import field, frozen


class Atom(NamedTuple):
    """`size` independent indices. Two axes with the same atom lose the same indices. A tuple: atoms are keys everywhere."""

    id: int
    size: int

    def __str__(self) -> str:
        return f"a{self.id}:{self.size}"


@frozen(cache_hash=True)
class Reversed:
    """An atom read from its last index to its first, as `flip` does."""

    atom: Atom

    @property
    def size(self) -> int:
        """That of the atom."""
        return self.atom.size

    def __str__(self) -> str:
        return f"~{self.atom}"


@frozen(cache_hash=True)
class Product:
    """Row-major product: flat index = ((i1 * n2) + i2) * n3 + ..."""

    factors: tuple[Space, ...]
    size: int = field(init=False, eq=False, repr=False)

    def __attrs_post_init__(self) -> None:
        size = 1
        for factor in self.factors:
            size *= factor.size
        object.__setattr__(self, "size", size)

    def __str__(self) -> str:
        return "(" + " x ".join(map(str, self.factors)) + ")" if self.factors else "1"


@frozen(cache_hash=True)
class Sum:
    """Spaces laid end to end, as `cat` does."""

    parts: tuple[Space, ...]
    size: int = field(init=False, eq=False, repr=False)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "size", sum(part.size for part in self.parts))

    def __str__(self) -> str:
        return "(" + " + ".join(map(str, self.parts)) + ")"


Space: TypeAlias = Atom | Reversed | Product | Sum


UNIT = Product(())
"""The space of an axis of size 1: there is nothing to choose."""


def product(*factors: Space) -> Space:
    """The canonical row-major product.

    >>> str(product(Atom(0, 2), UNIT, product(Atom(1, 3), Atom(2, 4))))
    '(a0:2 x a1:3 x a2:4)'
    >>> str(product(laid_end_to_end(Atom(0, 2), Atom(1, 3)), Atom(2, 4)))
    '((a0:2 x a2:4) + (a1:3 x a2:4))'
    """
    flat: list[Space] = []
    for factor in factors:
        if isinstance(factor, Product):
            flat.extend(factor.factors)
        elif factor.size != 1:
            flat.append(factor)
    for position, factor in enumerate(flat[:-1]):
        if isinstance(factor, Sum):
            rest = flat[position + 1 :]
            return product(*flat[:position], laid_end_to_end(*(product(part, *rest) for part in factor.parts)))
    if len(flat) == 1:
        return flat[0]
    return Product(tuple(flat)) if flat else UNIT


def laid_end_to_end(*parts: Space) -> Space:
    """The canonical sum.

    >>> str(laid_end_to_end(Atom(0, 2), laid_end_to_end(Atom(1, 3), Atom(0, 2))))
    '(a0:2 + a1:3 + a0:2)'
    """
    flat: list[Space] = []
    for part in parts:
        if isinstance(part, Sum):
            flat.extend(part.parts)
        elif part.size == 1:
            flat.append(UNIT)
        elif part.size > 0:
            flat.append(part)
    return flat[0] if len(flat) == 1 else Sum(tuple(flat))


def backwards(space: Space) -> Space:
    """The space read from its last index to its first.

    >>> str(backwards(product(Atom(0, 2), laid_end_to_end(Atom(1, 3), Atom(2, 4)))))
    '(~a0:2 x (~a2:4 + ~a1:3))'
    """
    if isinstance(space, Atom):
        return Reversed(space)
    if isinstance(space, Reversed):
        return space.atom
    if isinstance(space, Product):
        return product(*map(backwards, space.factors))
    return laid_end_to_end(*map(backwards, reversed(space.parts)))


@lru_cache(maxsize=65536)
def atoms(space: Space) -> tuple[Atom, ...]:
    """The atoms of a space in the order in which they are read, each once."""
    if isinstance(space, Atom):
        return (space,)
    if isinstance(space, Reversed):
        return (space.atom,)
    children = space.factors if isinstance(space, Product) else space.parts
    return tuple(dict.fromkeys(atom for child in children for atom in atoms(child)))


def substitute(space: Space, change: Callable[[Atom], Space]) -> Space:
    """The canonical space in which each atom is replaced by ``change(atom)``."""
    if isinstance(space, Atom):
        return change(space)
    if isinstance(space, Reversed):
        return backwards(change(space.atom))
    if isinstance(space, Product):
        return product(*(substitute(factor, change) for factor in space.factors))
    return laid_end_to_end(*(substitute(part, change) for part in space.parts))
