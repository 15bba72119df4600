"""Canonical terms, so that equal spaces are equal values: what keeps a term from being one, and the form of a mere size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from itertools import product as choices

from depgraph.algebra.spaces import Atom, Product, Reversed, Space, Sum, atoms, laid_end_to_end, product

LARGEST_SIZE = 2**48
"""No dimension of a tensor is longer, and no atom has a larger number."""
MAX_BLOCKS = 2**22
"""So many blocks of one axis may hold an atom's indices: work grows with their number."""


def term_problems(spaces: Iterable[Space]) -> Iterator[str]:
    """Terms that are not canonical, have no size or too many blocks, and atoms of two sizes. Nothing is expanded by a size."""
    sizes: dict[int, int] = {}
    for space in dict.fromkeys(spaces):
        problem = _problem(space)
        if problem is None and blocks(space) > MAX_BLOCKS:
            problem = f"stands for more than {MAX_BLOCKS:,} blocks"
        if problem is not None:
            yield f"the space {_shortened(space)} {problem}"
            continue
        for atom in atoms(space):
            if sizes.setdefault(atom.id, atom.size) != atom.size:
                yield f"atom {atom.id} has the sizes {sizes[atom.id]} and {atom.size}"


def _problem(space: Space) -> str | None:
    if isinstance(space, Reversed):
        return _problem(space.atom) if isinstance(space.atom, Atom) else "has a term backwards that is no atom"
    if isinstance(space, Atom):
        if not 0 <= space.id <= LARGEST_SIZE or space.size == 1 or not 0 <= space.size <= LARGEST_SIZE:
            return "has a number below 0, or a size that no prunable axis has"
        return None
    children = space.factors if isinstance(space, Product) else space.parts
    if not children and isinstance(space, Product):
        return None
    if len(children) < 2 or any(type(child) is type(space) for child in children):
        return "is not flat"
    if isinstance(space, Product) and (
        any(isinstance(factor, Sum) for factor in children[:-1]) or any(factor == Product(()) for factor in children)
    ):
        return "has a sum before another factor, or a factor of 1"
    if isinstance(space, Sum) and any(not part.size for part in children):
        return "has a part without indices"
    if not 0 <= space.size <= LARGEST_SIZE:
        return "is larger than any axis"
    return next((problem for child in children if (problem := _problem(child)) is not None), None)


def blocks(space: Space) -> int:
    """In how many separate places of the axis atoms stand: what an image may have to list."""
    if isinstance(space, Sum):
        return sum(map(blocks, space.parts))
    if isinstance(space, Product):
        outer, total = 1, 0
        for factor in space.factors:
            total += outer * blocks(factor)
            outer *= max(factor.size, 1)
        return total
    return 1


def sum_of_products(space: Space) -> Space:
    """A space of the same size, as a sum of products in the order of their atoms: the one form where only the size counts."""
    terms = (sorted(term, key=_number) for term in _monomials(space))
    return laid_end_to_end(*(product(*term) for term in sorted(terms, key=lambda term: list(map(_number, term)))))


def _number(atom: Atom) -> int:
    return atom.id


def _monomials(space: Space) -> list[tuple[Atom, ...]]:
    if isinstance(space, (Atom, Reversed)):
        return [atoms(space)]
    if isinstance(space, Sum):
        return [term for part in space.parts for term in _monomials(part)]
    return [tuple(chain(*choice)) for choice in choices(*map(_monomials, space.factors))]


def _shortened(space: Space) -> str:
    """A term as text, unless it is a long one."""
    inner = space.factors if isinstance(space, Product) else space.parts if isinstance(space, Sum) else ()
    if len(inner) > 8 or any(isinstance(item, (Product, Sum)) for item in inner):
        return f"of {len(inner)} members"
    if any(abs(number) > 10**20 for atom in atoms(space) for number in (atom.id, atom.size)):
        return "of huge numbers"  # Python writes none of thousands of digits
    return str(space)
