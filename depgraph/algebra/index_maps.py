"""Where each atom stands in a space, and what goes with its indices: images, preimages and index maps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache

from attrs import frozen

from depgraph.algebra.indices import IndexSet
from depgraph.algebra.spaces import Atom, Product, Reversed, Space, Sum


@frozen
class Leaf:
    """One place where an atom stands in a space, by itself: which flat blocks go with each of its indices.

    What goes with a cut is asked atom by atom, in as few and as long blocks as there are; `Summand` tells instead which
    indices of several atoms meet in one flat index. Neither gives the other cheaply: in ``a x (b + c)`` the atom a stands in
    one place, whose blocks span b and c, but in two products.

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
    places: list[Leaf] = []
    if isinstance(space, Sum):
        offset = 0
        for part in space.parts:
            places.extend(Leaf(x.atom, x.offset + offset, x.loops, x.stride, x.backwards) for x in leaves(part))
            offset += part.size
        return tuple(places)
    outer = 1
    for factor, inner in zip(space.factors, _strides(space), strict=True):
        around = ((outer, factor.size * inner),) if outer > 1 else ()
        for x in leaves(factor):
            loops = around + tuple((count, stride * inner) for count, stride in x.loops)
            places.append(Leaf(x.atom, x.offset * inner, loops, x.stride * inner, x.backwards))
        outer *= factor.size
    return tuple(places)


def _strides(space: Product) -> list[int]:
    """For each factor the size of all that follow it; a factor may have no indices."""
    strides, stride = list[int](), 1
    for factor in reversed(space.factors):
        strides.append(stride)
        stride *= factor.size
    return strides[::-1]


def image(space: Space, cut: Mapping[Atom, IndexSet]) -> IndexSet:
    """The flat indices of `space` that go when the given indices of its atoms go.

    >>> from depgraph.algebra.spaces import Product
    >>> image(Product((Atom(0, 2), Atom(1, 3))), {Atom(1, 3): IndexSet.of([2])})
    IndexSet('2,5')
    """
    if isinstance(space, Atom):
        return cut.get(space) or IndexSet()
    if not space.size:
        return IndexSet()  # its other factors may have any number of blocks
    intervals: list[tuple[int, int]] = []
    for leaf in leaves(space):
        removed = leaf.turned(cut.get(leaf.atom) or IndexSet())
        if removed:
            for base in leaf.bases():
                intervals.extend((base + a * leaf.stride, base + b * leaf.stride) for a, b in removed.intervals)
    return IndexSet(tuple(intervals))


def preimage(space: Space, flat: IndexSet) -> dict[Atom, IndexSet]:
    """The largest cut of the atoms whose image lies inside `flat`.

    >>> from depgraph.algebra.spaces import Product
    >>> preimage(Product((Atom(0, 2), Atom(1, 3))), IndexSet.of([2, 5]))
    {Atom(id=1, size=3): IndexSet('2')}
    """
    result: dict[Atom, IndexSet] = {}
    for leaf in leaves(space):
        inside = leaf.turned(result.get(leaf.atom, IndexSet.range(0, leaf.atom.size)))
        for base in leaf.bases():
            part = flat & IndexSet.range(base, base + leaf.atom.size * leaf.stride)
            whole = ((-((base - a) // leaf.stride), (b - base) // leaf.stride) for a, b in part.intervals)
            inside = inside & IndexSet(tuple(whole))  # blocks that are not whole give empty intervals
        result[leaf.atom] = leaf.turned(inside)
    return {atom: chosen for atom, chosen in result.items() if chosen}


@frozen
class IndexMap:
    """How removed indices of one axis become removed indices of another: through the atoms that they share.

    The map takes flat indices of the first `steps` space to flat indices of the last one: the removal closes over
    whole atom indices that it touches at each step.

    >>> from depgraph.algebra.spaces import product
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
            part = flat & IndexSet.range(base, base + leaf.atom.size * leaf.stride)
            spread = ((((a - base) // leaf.stride), -((base - b) // leaf.stride)) for a, b in part.intervals)
            owners = leaf.turned(IndexSet(tuple(spread)))
            if owners:
                result[leaf.atom] = result.get(leaf.atom, IndexSet()) | owners
    return result


@frozen
class Digit:
    """Where an atom's index counts in a flat index: by how much, and whether from its end."""

    atom: Atom
    stride: int
    backwards: bool = False


@frozen
class Summand:
    """One product of a space: flat index = offset + the sum of index times stride of its places, the outermost first.

    It says which atoms meet, and in which order, as ragged cuts ask; `Leaf` says what one atom owns.
    """

    offset: int
    places: tuple[Digit, ...]


@lru_cache(maxsize=65536)
def summands(space: Space) -> tuple[Summand, ...]:
    """The products whose sum a space is.

    >>> from depgraph.algebra.spaces import Product, Sum
    >>> for term in summands(Sum((Atom(0, 2), Product((Atom(1, 2), Atom(2, 3)))))):
    ...     print(term.offset, [place.stride for place in term.places])
    0 [1]
    2 [3, 1]
    """
    if isinstance(space, Atom):
        return (Summand(0, (Digit(space, 1),)),)
    if isinstance(space, Reversed):
        return (Summand(0, (Digit(space.atom, 1, True),)),)
    if isinstance(space, Sum):
        products: list[Summand] = []
        start = 0
        for part in space.parts:
            products.extend(Summand(term.offset + start, term.places) for term in summands(part))
            start += part.size
        return tuple(products)
    combined: Iterable[Summand] = (Summand(0, ()),)
    for factor, inner in zip(space.factors, _strides(space), strict=True):
        combined = [_inside(outer, term, inner) for outer in combined for term in summands(factor)]
    return tuple(combined)


def _inside(outer: Summand, term: Summand, inner: int) -> Summand:
    scaled = (Digit(place.atom, place.stride * inner, place.backwards) for place in term.places)
    return Summand(outer.offset + term.offset * inner, (*outer.places, *scaled))
