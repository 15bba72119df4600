"""The solver against brute force: what it couples is what the equations say, index by index."""

from functools import cache

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from depgraph.algebra.index_maps import image
from depgraph.algebra.indices import IndexSet
from depgraph.algebra.spaces import atoms
from depgraph.errors import RuleError
from depgraph.solving.statements import Axis, Backwards, Equal, Fresh, Known, Pin, Plus, Term, Times
from depgraph.solving.unification import Solver, forwards, is_reversed, reversed_
from tests.laws.refuting import refuted

SIZES = (2, 3, 4, 5, 6, 7, 8, 10, 12)


AXES = [Axis(value, 0, size) for value, size in enumerate(SIZES * 2)]


@cache
def terms(size: int, depth: int = 2) -> st.SearchStrategy[Term]:
    """Terms of one size over the axes; made once, for a strategy takes longer to be made than to draw from."""
    same = [axis for axis in AXES if axis.size == size]
    choices: list[st.SearchStrategy[Term]] = [st.sampled_from(same)] if same else []
    if depth:
        choices.append(st.deferred(lambda: st.builds(Backwards, terms(size, depth - 1))))
        for k in range(2, size):
            if size % k == 0:
                choices.append(st.builds(lambda a, b: Times((a, b)), terms(k, depth - 1), terms(size // k, depth - 1)))
            if k in SIZES and size - k in SIZES:
                choices.append(st.builds(lambda a, b: Plus((a, b)), terms(k, depth - 1), terms(size - k, depth - 1)))
    return st.one_of(choices) if choices else st.nothing()


@cache
def equations_of(size: int) -> st.SearchStrategy[Equal]:
    """Two terms of one size are equal."""
    return st.builds(Equal, terms(size), terms(size))


equations = st.sampled_from(SIZES[2:]).flatmap(equations_of)


def only(index: int) -> IndexSet:
    """One index."""
    return IndexSet.of([index])


def flat(term: Term, removed: dict[Axis, set[int]]) -> set[int]:
    """The flat indices of a term that go when the given indices of its axes go."""
    if isinstance(term, Axis):
        return removed[term]
    if isinstance(term, Backwards):
        return {term.size - 1 - i for i in flat(term.term, removed)}
    children = term.factors if isinstance(term, Times) else term.parts
    result: set[int] = set()
    if isinstance(term, Plus):
        offset = 0
        for child in children:
            result |= {offset + i for i in flat(child, removed)}
            offset += child.size
        return result
    inner, outer = term.size, 1
    for child in children:
        inner //= child.size
        for i in flat(child, removed):
            result |= {(o * child.size + i) * inner + k for o in range(outer) for k in range(inner)}
        outer *= child.size
    return result


def assert_satisfied(stated, spaces, cut):
    """The law of the solver: both sides of each equation lose the same indices."""
    removed = {axis: set(image(space, cut)) for axis, space in spaces.items()}
    for equation in stated:
        assert flat(equation.left, removed) == flat(equation.right, removed)


@given(st.lists(equations, min_size=1, max_size=4), st.data())
def test_every_removal_the_solution_allows_satisfies_the_equations(stated, data):
    """Cut any unpinned atom: both sides of every equation lose the same flat indices."""
    solver = Solver()
    for equation in stated:
        solver.state(equation, "a test")
    solution = solver.solution(AXES)
    free = [a for space in solution.spaces.values() for a in atoms(space) if a not in solution.pins]
    assume(free)
    atom = data.draw(st.sampled_from(free))
    index = data.draw(st.integers(0, atom.size - 1))
    assert_satisfied(stated, solution.spaces, {atom: only(index)})


def test_a_missing_equation_is_refuted():
    """Without the equation between two axes, cutting one does not cut the other: the law would fail."""
    a, b = Axis(0, 0, 4), Axis(1, 0, 4)
    spaces = Solver().solution([a, b]).spaces
    refuted(assert_satisfied, [Equal(a, b)], spaces, {spaces[a]: only(1)})


def test_factors_are_found():
    """768 = 12 x 64 on one side splits 768 on the other; a sum splits a product's first factor."""
    solver = Solver()
    x, heads, width, first, second = Axis(0, 0, 24), Axis(1, 0, 4), Axis(2, 0, 6), Axis(3, 0, 6), Axis(4, 0, 18)
    solver.state(Equal(x, Times((heads, width))), "a reshape")
    solver.state(Equal(x, Plus((first, second))), "a split")
    solution = solver.solution([x, first, second, heads])
    assert list(map(str, solution.spaces.values())) == ["(a1:6 + (a0:3 x a1:6))", "a1:6", "(a0:3 x a1:6)", "(1 + a0:3)"]


def test_what_does_not_nest_is_pinned_with_its_reason():
    """4 x 6 against 6 x 4 cannot be expressed by independent factors."""
    solver = Solver()
    a, b, c, d = Axis(0, 0, 4), Axis(1, 0, 6), Axis(2, 0, 6), Axis(3, 0, 4)
    solver.state(Equal(Times((a, b)), Times((c, d))), "aten.view in f at m.py:1")
    solution = solver.solution([a, b, c, d])
    assert len(solution.pins) == 4
    assert all("aten.view in f at m.py:1: the sizes on both sides do not nest" in reason for reason in solution.pins.values())


def spaces_of(statements, *axes):
    """The spaces of some axes as text under the given equations."""
    solver = Solver()
    for left, right in statements:
        solver.state(Equal(left, right), "a test")
    return [str(space) for space in solver.solution(axes).spaces.values()]


def test_a_cut_inside_a_block_sets_that_block_apart():
    """10 = 5 x 2 cut at 5: two whole blocks, one that lies across, two whole ones; only the one across stays."""
    x, blocks, width, left, right = (Axis(number, 0, size) for number, size in enumerate((10, 5, 2, 5, 5)))
    found = spaces_of([(x, Times((blocks, width))), (x, Plus((left, right)))], left, right, blocks)
    assert found == ["((a0:2 x (1 + 1)) + 1)", "(1 + (a1:2 x (1 + 1)))", "(a0:2 + 1 + a1:2)"]


def test_factors_are_shared_up_to_their_common_divisor():
    """4 x 6 against 6 x 4: the outer halves and the inner halves agree, and only 2 x 3 against 3 x 2 in between is pinned."""
    a, b, c, d = (Axis(number, 0, size) for number, size in enumerate((4, 6, 6, 4)))
    assert spaces_of([(Times((a, b)), Times((c, d)))], a, b, c, d) == [
        "(a0:2 x a1:2)", "(a2:3 x a3:2)", "(a0:2 x a4:3)", "(a5:2 x a3:2)",
    ]  # fmt: skip


def test_an_axis_that_equals_itself_backwards_is_folded():
    """Where x = reversed x, the second half is the first one backwards; an index in the middle stays."""
    even, odd = Axis(0, 0, 6), Axis(1, 0, 5)
    assert spaces_of([(even, Backwards(even))], even) == ["(a0:3 + ~a0:3)"]
    assert spaces_of([(odd, Backwards(odd))], odd) == ["(a0:2 + 1 + ~a0:2)"]


def test_backwards_runs_through_sums_and_products():
    """Reversed twice is as it was; a reversed product reverses each factor, a reversed sum its order."""
    x, y, a, b = (Axis(number, 0, size) for number, size in enumerate((6, 6, 2, 3)))
    assert spaces_of([(x, Times((a, b))), (y, Backwards(x))], a, b, y) == ["a0:2", "a1:3", "(~a0:2 x ~a1:3)"]
    assert set(spaces_of([(x, Backwards(y)), (y, Backwards(x))], x, y)) == {"a0:6", "~a0:6"}
    part, rest = Axis(4, 0, 2), Axis(5, 0, 4)
    assert spaces_of([(x, Plus((part, rest))), (y, Backwards(x))], part, rest, y) == ["a0:2", "a1:4", "(~a1:4 + ~a0:2)"]


def test_a_pin_reaches_every_part():
    """Pinning an axis before or after it is split pins its parts."""
    for order in (0, 1):
        solver = Solver()
        x, y, z = Axis(0, 0, 5), Axis(1, 0, 2), Axis(2, 0, 3)
        statements = [Pin(x, "asked"), Equal(x, Plus((y, z)))]
        for statement in statements if order else reversed(statements):
            solver.state(statement, "a test")
        assert set(solver.solution([x, y, z]).pins.values()) == {"asked"}
        assert len(solver.solution([x, y, z]).pins) == 2


SAME_SIZE = 5
directions = st.tuples(st.integers(0, SAME_SIZE - 1), st.integers(0, SAME_SIZE - 1), st.booleans())


def classes_of(size, equations):
    """Which indices of which axes go together, by merging sets: (axis, index) pairs."""
    classes = [{(axis, index)} for axis in range(SAME_SIZE) for index in range(size)]
    for one, other, turned in equations:
        for index in range(size):
            pair = {(one, index), (other, size - 1 - index if turned else index)}
            both = [found for found in classes if found & pair]
            classes = [found for found in classes if found not in both] + [set().union(*both)]
    return classes


def assert_classes(size, solution, classes):
    """The law of directions: removing one index of one atom removes just one class."""
    axes = [Axis(number, 0, size) for number in range(SAME_SIZE)]
    atoms_met = dict.fromkeys(atom for axis in axes for atom in atoms(solution.spaces[axis]))
    removed = [
        {(number, place) for number, axis in enumerate(axes) for place in image(solution.spaces[axis], {atom: only(index)})}
        for atom in atoms_met
        for index in range(atom.size)
    ]
    middles = {(number, size // 2) for number in range(SAME_SIZE)} if size % 2 else set()
    assert all(found in classes for found in removed)
    assert all(found in removed or found <= middles for found in classes)  # the middle of what is folded stays


@given(st.integers(4, 7), st.lists(directions, max_size=6), st.integers(0, SAME_SIZE - 1))
@example(4, [(0, 1, True), (1, 2, True), (2, 3, True)], 3)
@example(5, [(0, 1, True), (2, 3, True), (0, 3, False), (0, 0, True)], 2)
@example(5, [(0, 0, True), (1, 1, True), (0, 1, True)], 1)
def test_directions_are_those_of_merged_sets(size, equations, pinned):
    """Axes that are equal forwards or backwards lose just the indices that brute force merges; a pin reaches just its class."""
    solver = Solver()
    axes = [Axis(number, 0, size) for number in range(SAME_SIZE)]
    for number, (one, other, turned) in enumerate(equations):
        solver.state(Equal(axes[one], Backwards(axes[other]) if turned else axes[other]), "a test")
        if number == len(equations) // 2:
            solver.state(Pin(Backwards(axes[pinned]), "asked"), "a test")
    solver.state(Pin(axes[pinned], "asked again"), "a test")
    solution = solver.solution(axes)
    classes = classes_of(size, equations)
    assert_classes(size, solution, classes)
    together = {axis for found in classes if (pinned, 0) in found for axis, _ in found}
    for number, axis in enumerate(axes):
        assert all((atom in solution.pins) == (number in together) for atom in atoms(solution.spaces[axis]))
        assert all(solver.reason(leaf) is not None for leaf in solver.leaves(solver.term(axis))) == (number in together)


def test_a_direction_that_is_lost_is_refuted():
    """A solver for which backwards is forwards breaks the law, and so does one that couples too little."""
    axes = [Axis(number, 0, 4) for number in range(SAME_SIZE)]
    for stated in (Equal(axes[0], axes[1]), None):
        solver = Solver()
        if stated is not None:
            solver.state(stated, "a test")
        refuted(assert_classes, 4, solver.solution(axes), classes_of(4, [(0, 1, True)]))


def test_directions_have_helpers():
    """Reversed twice is as before; a variable and its leaves are told forwards, in whatever direction they are asked for."""
    solver = Solver()
    x, y = Axis(0, 0, 6), Axis(1, 0, 6)
    solver.state(Equal(y, Backwards(x)), "a test")
    root = solver.term(x)
    assert reversed_(reversed_(root)) == root != reversed_(root) == solver.term(y)
    assert is_reversed(root) != is_reversed(reversed_(root))
    assert forwards(root) == forwards(reversed_(root)) == solver.variable(root) == solver.variable(reversed_(root))
    assert solver.leaves(root) == solver.leaves(reversed_(root)) == [forwards(root)]
    assert solver.term(Known(6, reversed_(root))) == reversed_(root)


def test_a_structure_backwards_has_its_children_backwards():
    """A sum is read from its last part, a product keeps the order of its factors; sizes and reasons are the same."""
    solver = Solver()
    a, b, c, d = Axis(0, 0, 2), Axis(1, 0, 3), Axis(2, 0, 2), Axis(3, 0, 3)
    total, block = solver.term(Plus((a, b))), solver.term(Times((c, d)))
    assert solver.parts(reversed_(total)) == [reversed_(solver.term(b)), reversed_(solver.term(a))]
    assert solver.factors(reversed_(block)) == [reversed_(solver.term(c)), reversed_(solver.term(d))]
    assert solver.size(reversed_(total)) == 5 and solver.size(reversed_(block)) == 6
    solver.pin(reversed_(total), "asked")
    assert [solver.reason(solver.term(axis)) for axis in (a, b, c)] == ["asked", "asked", None]


def test_the_solution_does_not_depend_on_the_order_of_asking():
    """Each term has its space, up to the numbers of atoms; what is asked for twice is there once, nothing can be written."""
    solver = Solver()
    x, y, fresh = Axis(0, 0, 6), Axis(1, 0, 2), Fresh(3)
    solver.state(Equal(x, Times((y, fresh))), "a test")
    one, other = solver.solution([x, y, fresh]), solver.solution([fresh, x, fresh, y])
    assert set(one.spaces) == set(other.spaces) == {x, y, fresh}
    for solution in (one, other):
        assert solution.spaces[x].factors == (solution.spaces[y], solution.spaces[fresh])
    for mapping in (one.spaces, one.pins):
        with pytest.raises(TypeError):
            mapping[x] = None


def test_an_equation_of_unlike_sizes_is_refused():
    """The text says where, which sizes, and what to do."""
    with pytest.raises(RuleError, match=r"a test: the rule equates sizes 2 and 3; correct the operator's rule"):
        Solver().state(Equal(Axis(0, 0, 2), Axis(1, 0, 3)), "a test")
