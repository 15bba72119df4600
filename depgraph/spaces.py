"""What an axis ranges over: independent indices, such indices backwards, a row-major product, or spaces laid end to end.

Terms are kept canonical by the constructors `product`, `laid_end_to_end` and `backwards`: products and sums are flat,
factors of size 1 are dropped, a sum is distributed over the factors that follow it, and only atoms are reversed. So equal
spaces are equal values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import TypeAlias

from attrs import field, frozen

from depgraph.indices import IndexSet


@frozen(cache_hash=True)
class Atom:
    """`size` independent indices. Two axes with the same atom lose the same indices."""

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


@frozen
class Leaf:
    """One place where an atom stands in a space.

    Index i of the atom owns the flat blocks ``[base + i * stride, base + (i + 1) * stride)`` for each base that
    `offset` and the outer `loops` of (count, stride) give. Where the atom is read backwards, i counts from its last index.
    """

    atom: Atom
    offset: int
    loops: tuple[tuple[int, int], ...]
    stride: int
    backwards: bool = False

    def turned(self, indices: IndexSet) -> IndexSet:
        """Indices of the atom as places here, or places here as indices of the atom."""
        return indices.mirrored(self.atom.size) if self.backwards else indices

    def bases(self) -> Iterator[int]:
        """Where each block run of the atom begins."""
        starts = [self.offset]
        for count, stride in self.loops:
            starts = [start + step * stride for start in starts for step in range(count)]
        yield from starts


@lru_cache(maxsize=65536)
def leaves(space: Space) -> tuple[Leaf, ...]:
    """Every place of every atom, in reading order."""
    if isinstance(space, Atom):
        return (Leaf(space, 0, (), 1),)
    if isinstance(space, Reversed):
        return (Leaf(space.atom, 0, (), 1, True),)
    found: list[Leaf] = []
    if isinstance(space, Sum):
        offset = 0
        for part in space.parts:
            found.extend(Leaf(x.atom, x.offset + offset, x.loops, x.stride, x.backwards) for x in leaves(part))
            offset += part.size
        return tuple(found)
    outer, inner = 1, space.size
    for factor in space.factors:
        inner //= factor.size
        around = ((outer, factor.size * inner),) if outer > 1 else ()
        for x in leaves(factor):
            loops = around + tuple((count, stride * inner) for count, stride in x.loops)
            found.append(Leaf(x.atom, x.offset * inner, loops, x.stride * inner, x.backwards))
        outer *= factor.size
    return tuple(found)


def image(space: Space, cut: Mapping[Atom, IndexSet]) -> IndexSet:
    """The flat indices of `space` that go when the given indices of its atoms go.

    >>> image(Product((Atom(0, 2), Atom(1, 3))), {Atom(1, 3): IndexSet.of([2])})
    IndexSet('2,5')
    """
    if isinstance(space, Atom):
        return cut.get(space) or IndexSet()
    intervals: list[tuple[int, int]] = []
    for leaf in leaves(space):
        chosen = leaf.turned(cut.get(leaf.atom) or IndexSet())
        if chosen:
            for base in leaf.bases():
                intervals.extend((base + a * leaf.stride, base + b * leaf.stride) for a, b in chosen.intervals)
    return IndexSet(tuple(intervals))


def preimage(space: Space, flat: IndexSet) -> dict[Atom, IndexSet]:
    """The largest cut of the atoms whose image lies inside `flat`.

    >>> preimage(Product((Atom(0, 2), Atom(1, 3))), IndexSet.of([2, 5]))
    {Atom(id=1, size=3): IndexSet('2')}
    """
    result: dict[Atom, IndexSet] = {}
    for leaf in leaves(space):
        inside = leaf.turned(result.get(leaf.atom, IndexSet.range(0, leaf.atom.size)))
        for base in leaf.bases():
            here = flat & IndexSet.range(base, base + leaf.atom.size * leaf.stride)
            whole = ((-((base - a) // leaf.stride), (b - base) // leaf.stride) for a, b in here.intervals)
            inside = inside & IndexSet(tuple(interval for interval in whole if interval[0] < interval[1]))
        result[leaf.atom] = leaf.turned(inside)
    return {atom: chosen for atom, chosen in result.items() if chosen}


@frozen
class IndexMap:
    """How removed indices of one axis become removed indices of another: through the atoms that they share.

    The map takes flat indices of the first `steps` space to flat indices of the last one: the removal closes over
    whole atom indices that it touches at each step.

    >>> channels = Atom(0, 3)
    >>> flatten = IndexMap.between(channels, product(channels, Atom(1, 4)))
    >>> flatten(IndexSet.of([1]))
    IndexSet('4-7')
    >>> IndexMap.between(channels, channels).is_identity
    True
    """

    steps: tuple[tuple[Space, Space], ...] = ()

    @classmethod
    def between(cls, source: Space, target: Space) -> IndexMap:
        """The map that the shared atoms of two spaces give."""
        return cls(((source, target),))

    @property
    def is_identity(self) -> bool:
        """Whether every index passes through unchanged (one independent space on both sides)."""
        return all(source == target and isinstance(source, (Atom, Reversed)) for source, target in self.steps)

    def then(self, other: IndexMap) -> IndexMap:
        """First this map, then the other one."""
        steps = self.steps + other.steps
        return IndexMap(tuple(step for step in steps if not IndexMap((step,)).is_identity))

    def __call__(self, removed: IndexSet) -> IndexSet:
        """The indices of the last space that go when these of the first one go."""
        for source, target in self.steps:
            removed = image(target, touched(source, removed))
        return removed

    def __str__(self) -> str:
        if self.is_identity:
            return "identity"
        return ", then ".join(f"{source} -> {target}" for source, target in self.steps)


def touched(space: Space, flat: IndexSet) -> dict[Atom, IndexSet]:
    """The atom indices that own at least one of the flat indices."""
    result: dict[Atom, IndexSet] = {}
    for leaf in leaves(space):
        for base in leaf.bases():
            here = flat & IndexSet.range(base, base + leaf.atom.size * leaf.stride)
            spread = ((((a - base) // leaf.stride), -((base - b) // leaf.stride)) for a, b in here.intervals)
            hit = leaf.turned(IndexSet(tuple(spread)))
            if hit:
                result[leaf.atom] = result.get(leaf.atom, IndexSet()) | hit
    return result
