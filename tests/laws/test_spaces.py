"""Law 7: images and index maps against brute force over coordinates."""

from itertools import product as pairs

from hypothesis import example, given
from hypothesis import strategies as st

from depgraph.algebra.index_maps import IndexMap, image, preimage
from depgraph.algebra.indices import IndexSet
from depgraph.algebra.spaces import (
    UNIT,
    Atom,
    Product,
    Reversed,
    Space,
    Sum,
    atoms,
    backwards,
    laid_end_to_end,
    product,
    substitute,
)
from depgraph.testing import index_sets, spaces
from tests.laws.refuting import refuted


def coordinates(space: Space) -> list[frozenset[tuple[Atom, int]]]:
    """For each flat index, the atom indices on which it depends: the meaning of a space, by brute force."""
    if isinstance(space, Atom):
        return [frozenset({(space, i)}) for i in range(space.size)]
    if isinstance(space, Reversed):
        return coordinates(space.atom)[::-1]
    if isinstance(space, Sum):
        return [entry for part in space.parts for entry in coordinates(part)]
    return [frozenset().union(*combination) for combination in pairs(*map(coordinates, space.factors))]


def brute_image(space: Space, cut: dict[Atom, IndexSet]) -> set[int]:
    """The flat indices that depend on a removed atom index."""
    return {k for k, entry in enumerate(coordinates(space)) if any(i in cut.get(atom, ()) for atom, i in entry)}


@st.composite
def cut_spaces(draw, cuts=1):
    """A space, and so many times a removal from each of its atoms."""
    space = draw(spaces())
    return space, *({atom: draw(index_sets(atom.size)) for atom in atoms(space)} for _ in range(cuts))


A, B = Atom(0, 2), Atom(1, 3)
CORNERS = (
    *(UNIT, A, backwards(A), product(A, A), product(A, B), product(A, backwards(A)), laid_end_to_end(A, A, UNIT, B)),
    laid_end_to_end(backwards(B), UNIT, B), product(laid_end_to_end(A, UNIT), B), product(B, laid_end_to_end(A, UNIT)),
)  # fmt: skip
"""A single index, an axis by itself, one atom twice, forwards and backwards, in a product and in a sum."""


def first_of(space: Space) -> dict[Atom, IndexSet]:
    """The removal of one index of each atom."""
    return {atom: IndexSet.of([0]) for atom in atoms(space)}


def all_of(space: Space) -> dict[Atom, IndexSet]:
    """The removal of whole axes."""
    return {atom: IndexSet.range(0, atom.size) for atom in atoms(space)}


def nothing_of(space: Space) -> dict[Atom, IndexSet]:
    """The empty removal."""
    return {atom: IndexSet() for atom in atoms(space)}


def with_corners(*makers):
    """A law that holds in the corners, too: for each of these spaces with what the functions make of it."""

    def decorate(test):
        for space in CORNERS:
            for make in makers:
                test = example(make(space))(test)
        return test

    return decorate


def assert_image(image_of, case):
    """The law of images: what brute force over coordinates says."""
    space, cut = case
    assert set(image_of(space, cut)) == brute_image(space, cut)


@given(cut_spaces())
@with_corners(lambda s: (s, first_of(s)), lambda s: (s, all_of(s)), lambda s: (s, nothing_of(s)))
def test_images_mean_what_coordinates_say(case):
    """`image` is brute force over coordinates; size is their number."""
    space, _ = case
    assert_image(image, case)
    assert space.size == len(coordinates(space))


def test_an_image_without_strides_is_refuted():
    """Treating a product as if its last factor were its first breaks the law, and so does reading backwards as forwards."""
    refuted(
        lambda case: assert_image(lambda space, cut: image(product(*space.factors[::-1]), cut), case),
        (product(A, B), {B: IndexSet.of([2])}),
    )
    refuted(lambda case: assert_image(lambda space, cut: image(space.atom, cut), case), (backwards(B), {B: IndexSet.of([2])}))


@given(cut_spaces(2))
@with_corners(lambda s: (s, first_of(s), all_of(s)), lambda s: (s, first_of(s), nothing_of(s)))
def test_images_distribute_over_union(case):
    """Removing two sets removes the union of what each removes."""
    space, cut, other = case
    both = {atom: cut[atom] | other[atom] for atom in cut}
    assert image(space, both) == image(space, cut) | image(space, other)


@given(spaces().flatmap(lambda space: st.tuples(st.just(space), index_sets(space.size))))
@with_corners(
    lambda s: (s, IndexSet.range(0, s.size)), lambda s: (s, IndexSet.of([0])), lambda s: (s, IndexSet.of([s.size - 1])),
    lambda s: (s, IndexSet.range(1, s.size)), lambda s: (s, IndexSet()), lambda s: (s, image(s, first_of(s))),
)  # fmt: skip
def test_the_preimage_is_the_largest_cut_inside(case):
    """Its image lies inside, and no further index of any atom would."""
    space, flat = case
    cut = preimage(space, flat)
    assert image(space, cut) <= flat
    for atom in atoms(space):
        for i in range(atom.size):
            inside = brute_image(space, {atom: IndexSet.of([i])}) <= set(flat)
            assert (i in cut.get(atom, ())) == inside


def rebuilt(space: Space) -> Space:
    """The same term built anew from canonical pieces, nested to the right."""
    if isinstance(space, Product) and len(space.factors) > 1:
        return product(rebuilt(space.factors[0]), product(*map(rebuilt, space.factors[1:])), UNIT)
    if isinstance(space, Sum):
        return laid_end_to_end(rebuilt(space.parts[0]), laid_end_to_end(*map(rebuilt, space.parts[1:])))
    return space


@given(spaces())
@with_corners(lambda s: s)
def test_canonical_forms_mean_the_same_and_are_equal(space):
    """Another nesting of the same term is the same value, with the same coordinates."""
    assert rebuilt(space) == space
    assert coordinates(rebuilt(space)) == coordinates(space)
    assert substitute(space, lambda atom: atom) == space
    assert eval(repr(space)) == space, "the text of a value is the expression that makes it"


@st.composite
def chains(draw):
    """Four spaces, and two sets of indices of the first."""
    chain = tuple(draw(spaces()) for _ in range(4))
    return chain, draw(index_sets(chain[0].size)), draw(index_sets(chain[0].size))


@given(chains())
@with_corners(
    lambda s: ((s, s, s, s), IndexSet.of([0]), IndexSet.range(0, s.size)),
    lambda s: ((s, product(A, B), s, B), IndexSet.of([0]), IndexSet.of([s.size - 1])),
    lambda s: ((s, UNIT, A, s), IndexSet.range(0, s.size), IndexSet()),
)
def test_index_maps_compose(case):
    """Composition is associative, and each map distributes over union; also where spaces repeat and steps are left out."""
    (a, b, c, d), x, y = case
    f, g, h = IndexMap.between(a, b), IndexMap.between(b, c), IndexMap.between(c, d)
    assert f.then(g).then(h) == f.then(g.then(h))
    assert f.then(g)(x) == g(f(x))
    assert f(x | y) == f(x) | f(y)


@given(st.integers(2, 9).flatmap(lambda size: st.tuples(st.just(size), index_sets(size))))
@example((2, IndexSet.of([0])))
@example((2, IndexSet.range(0, 2)))
@example((9, IndexSet.of([8])))
def test_the_identity_passes_indices_through(case):
    """Between equal atoms nothing changes, and composing with it changes nothing; the text says which map it is."""
    size, x = case
    atom = Atom(0, size)
    same = IndexMap.between(atom, atom)
    other = IndexMap.between(atom, product(atom, Atom(1, 3)))
    assert str(same) == str(same.then(same)) == str(IndexMap()) == "identity"
    assert str(other) == f"{atom} -> {product(atom, Atom(1, 3))}"
    assert str(other.then(other)) == f"{other}, then {other}"
    assert same(x) == x
    assert same.then(other) == other


@given(spaces(), spaces())
@example(product(Atom(0, 2), Atom(1, 3)), Atom(0, 6))
@example(backwards(Atom(0, 3)), Atom(0, 3))
@example(product(backwards(Atom(0, 2)), Atom(1, 2)), UNIT)
def test_what_is_called_an_identity_is_one(space, other):
    """An identity passes every index through, also where it was left out of a chain; between unlike spaces there is none."""
    same = IndexMap.between(space, space)
    for index in range(space.size):
        only = IndexSet.of([index])
        assert not same.is_identity or same(only) == only
        assert same.then(same)(only) == same(same(only))
        assert same.then(IndexMap.between(space, other))(only) == IndexMap.between(space, other)(same(only))
    assert IndexMap.between(space, other).is_identity == (space == other and isinstance(space, (Atom, Reversed)))


def test_a_product_is_no_identity():
    """One index of a product takes its whole row and column along: a map that leaves the step out would lose them."""
    rows = product(Atom(0, 2), Atom(1, 3))
    step, only = IndexMap.between(rows, rows), IndexSet.of([0])
    assert not step.is_identity and not step.then(IndexMap()).is_identity
    assert set(step(only)) == {0, 1, 2, 3}
    assert step.then(step).steps == step.steps * 2


@given(cut_spaces())
@with_corners(lambda s: (s, first_of(s)), lambda s: (s, all_of(s)), lambda s: (s, nothing_of(s)))
def test_removal_and_shrinking_agree(case):
    """The survivors of an axis are as many as the axis of the shrunk space has indices."""
    space, cut = case
    cut = {atom: IndexSet.of(list(gone)[: atom.size - 1]) for atom, gone in cut.items()}

    def smaller(atom: Atom) -> Space:
        size = atom.size - len(cut[atom])
        return UNIT if size == 1 else Atom(atom.id, size)

    assert substitute(space, smaller).size == space.size - len(image(space, cut))
