"""What `check` says of plans: nothing of those that are made, its sentence of each damaged one, which no file brings in."""

import json

import attrs
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import depgraph as dg
from depgraph import codec
from depgraph.algebra.index_maps import image, leaves, summands
from depgraph.algebra.spaces import UNIT, Atom, Product, Reversed, Sum
from depgraph.plans.checking import check
from depgraph.plans.plan import Cut, Edit, Plan, PrunedAxis
from depgraph.testing import modules, plans

A, B, C = Atom(0, 8), Atom(1, 3), Atom(2, 5)
REMOVED = dg.IndexSet.of([1, 4])
SOUND = Plan(
    "a" * 64,
    "b" * 64,
    (Cut("a.weight:0", A, REMOVED), Cut("c.weight:0", C, dg.IndexSet.of([0]))),
    (PrunedAxis("a.weight", 0, A), PrunedAxis("b.weight", 1, Product((B, A))), PrunedAxis("c.weight", 0, Sum((C, B)))),
    (Edit("a.out_features", 8, 6), Edit("b.in_features", 24, 18)),
)


def with_axis(space, dim=0):
    return attrs.evolve(SOUND, axes=(PrunedAxis("a.aside", dim, space), *SOUND.axes))


def with_cut(*cuts):
    return attrs.evolve(SOUND, cuts=cuts)


def with_edit(path, old=8, new=6):
    return attrs.evolve(SOUND, edits=(Edit(path, old, new),))


RAGGED = Cut("a.weight:0", A, dg.IndexSet.of([1, 9, 18]), B)


IN_ROWS = Product((B, A))


def with_rows(cut, space=IN_ROWS):
    """A plan whose first group is cut row by row."""
    return attrs.evolve(SOUND, cuts=(cut, SOUND.cuts[1]), axes=(PrunedAxis("a.weight", 0, space), *SOUND.axes[1:]))


def with_rows_of_five(removed, gone=(1,)):
    """A plan of which whole rows go, too: the second group is the base."""
    cuts = (attrs.evolve(RAGGED, base=C, removed=dg.IndexSet.of(removed)), Cut("c.weight:0", C, dg.IndexSet.of(gone)))
    return attrs.evolve(with_rows(RAGGED, Product((C, A))), cuts=cuts, axes=(PrunedAxis("a.weight", 0, Product((C, A))),))


class Text(str):
    """A text that is no plain one."""


def deep(levels):
    """A space of so many levels, sums and products by turns."""
    space = A
    for level in range(levels):
        space = Sum((space, UNIT)) if level % 2 else Product((B, space))
    return space


DAMAGED = {
    "a base that is no fingerprint": (attrs.evolve(SOUND, base="x"), "base is no fingerprint"),
    "a result of the base": (attrs.evolve(SOUND, result="a" * 64), "leads to another graph exactly where"),
    "cuts in another order": (with_cut(*SOUND.cuts[::-1]), "not in the order of their atoms"),
    "a group that is cut twice": (with_cut(SOUND.cuts[0], *SOUND.cuts), "the atom of two cuts is 0"),
    "two groups of one name": (
        with_cut(SOUND.cuts[0], attrs.evolve(SOUND.cuts[1], group="a.weight:0")),
        "the group of two cuts",
    ),
    "nothing lost": (with_cut(attrs.evolve(SOUND.cuts[0], removed=dg.IndexSet()), SOUND.cuts[1]), "loses nothing"),
    "an index beyond": (with_cut(Cut("a.weight:0", A, dg.IndexSet.of([8])), SOUND.cuts[1]), "is to lose one beyond"),
    "a second index beyond": (with_cut(Cut("a.weight:0", A, dg.IndexSet.of([1, 8])), SOUND.cuts[1]), "is to lose one beyond"),
    "more than can be counted": (
        with_cut(Cut("a.weight:0", A, dg.IndexSet.range(0, 10**30)), SOUND.cuts[1]),
        "is to lose one beyond",
    ),
    "everything": (with_cut(Cut("a.weight:0", A, dg.IndexSet.range(0, 8)), SOUND.cuts[1]), "would lose its last index"),
    "a cut that reaches nothing": (with_cut(*SOUND.cuts, Cut("d", Atom(7, 4), REMOVED)), "no axis holds its atom"),
    "rows of unequal loss": (with_cut(attrs.evolve(RAGGED, removed=dg.IndexSet.of([1, 9]))), "equally many indices"),
    "rows beyond": (with_cut(attrs.evolve(RAGGED, removed=dg.IndexSet.of([1, 9, 24]))), "is to lose one beyond"),
    "a million million rows": (with_cut(attrs.evolve(RAGGED, base=Atom(5, 10**12))), "equally many indices"),
    "a million million rows that go": (
        with_cut(
            attrs.evolve(RAGGED, base=Atom(5, 10**12), removed=dg.IndexSet.of([1, 10])),
            SOUND.cuts[1],
            Cut("d", Atom(5, 10**12), dg.IndexSet.range(2, 10**12)),
        ),
        "come to more than 4,194,304 rows",
    ),
    "a row that loses all": (with_rows(attrs.evolve(RAGGED, removed=dg.IndexSet.of(range(8)))), "and not all, in each row"),
    "two rows that lose all": (
        with_rows(attrs.evolve(RAGGED, removed=dg.IndexSet.of(range(3, 19)))),
        "would lose a row's last",
    ),
    "a row that loses nothing": (with_rows(attrs.evolve(RAGGED, removed=dg.IndexSet.of([1, 18]))), "equally many indices"),
    "a row that goes and loses something": (with_rows_of_five([1, 8, 17, 26, 33]), "equally many indices"),
    "an axis without the rows": (with_rows(RAGGED, A), "not inside of its rows"),
    "rows behind the atom": (with_rows(RAGGED, Product((A, B))), "not inside of its rows"),
    "rows that are read backwards": (with_rows(RAGGED, Product((Reversed(B), A))), "not inside of its rows"),
    "an atom that is read backwards": (with_rows(RAGGED, Product((B, Reversed(A)))), "not inside of its rows"),
    "one part without the rows": (with_rows(RAGGED, Sum((Product((B, A)), A))), "not inside of its rows"),
    "rows of what is ragged": (with_cut(RAGGED, Cut("c.weight:0", C, REMOVED, A)), "itself cut ragged"),
    "a row that goes and loses": (
        with_cut(attrs.evolve(RAGGED, base=C, removed=dg.IndexSet.of([1, 9, 17, 25, 33])), SOUND.cuts[1]),
        "equally many indices",
    ),
    "axes in another order": (attrs.evolve(SOUND, axes=SOUND.axes[::-1]), "not in the order of their tensors"),
    "an axis that stands twice": (attrs.evolve(SOUND, axes=(SOUND.axes[0], *SOUND.axes)), "an axis that stands twice is"),
    "a dimension below 0": (with_axis(A, -1), "no dimension -1"),
    "a dimension beyond": (with_axis(A, 2**63), "no dimension 9223372036854775808"),
    "an axis without a cut": (with_axis(B), "holds nothing that is cut"),
    "two sizes of one atom": (with_axis(Product((Atom(1, 4), A))), "atom 1 has the sizes"),
    "a size below 0": (with_axis(Product((Atom(3, -2), Atom(4, -4)))), "number below 0, or a size"),
    "a size of 1": (with_axis(Product((Atom(3, 1), A))), "number below 0, or a size"),
    "a size beyond": (with_axis(Product((Atom(3, 2**47), Atom(4, 2**47)))), "larger than any axis"),
    "many blocks": (with_axis(Product((*(Atom(k + 3, 2) for k in range(28)), A))), "more than 4,194,304 blocks"),
    "many axes of many blocks": (
        attrs.evolve(
            SOUND,
            axes=(*(PrunedAxis(f"a.{k}", 0, Product((Atom(k + 9, 2**19 + k), A))) for k in range(5)), *SOUND.axes),
        ),
        "its axes come to more than 4,194,304 intervals",
    ),
    "a product in a product": (with_axis(Product((Product((B, C)), A))), "is not flat"),
    "a sum in a sum": (with_axis(Sum((Sum((B, C)), A))), "is not flat"),
    "a product of one": (with_axis(Product((A,))), "is not flat"),
    "a sum before a factor": (with_axis(Product((Sum((A, B)), C))), "a sum before another factor"),
    "a part without indices": (with_axis(Sum((A, Product((B, Atom(9, 0)))))), "has a part without indices"),
    "a factor of 1": (with_axis(Product((UNIT, A))), "is not flat"),
    "a size of 1 backwards": (with_axis(Sum((Reversed(Atom(3, 1)), A))), "number below 0, or a size"),
    "edits in another order": (attrs.evolve(SOUND, edits=SOUND.edits[::-1]), "not in the order of their paths"),
    "an attribute that is edited twice": (attrs.evolve(SOUND, edits=(SOUND.edits[0], *SOUND.edits)), "edited twice is"),
    "a size that grows": (with_edit("a.out_features", 8, 9), "makes a size smaller"),
    "a size that stays": (with_edit("a.out_features", 8, 8), "makes a size smaller"),
    "a size of nothing": (with_edit("a.out_features", 8, 0), "leaves at least 1"),
    "a size that was nothing": (with_edit("drop.p", 0, 1), "makes a size smaller"),
    "a global of a file": (with_edit("forward.__globals__.SECRET"), "names plain attributes"),
    "a default of a method": (with_edit("helper.__func__.__defaults__.0"), "names plain attributes"),
    "an attribute of the class": (with_edit("__class__.FLAGS.safe"), "names plain attributes"),
    "a buffer in the registry": (with_edit("bn._buffers.num_batches_tracked"), "names plain attributes"),
    "an empty step": (with_edit("a..out_features"), "names plain attributes"),
    "a size that is larger than any": (with_edit("a.out_features", 10**30, 6), "makes a size smaller"),
    "a number below 0": (attrs.evolve(SOUND, renumbered=((-1, 2),)), "a number of an atom is below 0"),
    "a number that is given twice": (
        attrs.evolve(SOUND, renumbered=((1, 2), (1, 3))),
        "in the result that is given twice is 1",
    ),
    "a name that is taken twice": (
        attrs.evolve(SOUND, renamed=(("x", "z"), ("y", "z"))),
        "in the base that is given twice is 'z'",
    ),
}


def test_a_sound_plan_has_no_problem():
    """Neither by hand, nor ragged, nor empty."""
    assert check(SOUND) == () and check(Plan("a" * 64, "a" * 64)) == ()
    assert check(with_rows(RAGGED)) == ()


@pytest.mark.parametrize("name", DAMAGED)
def test_what_is_wrong_is_told_and_no_file_brings_it_in(name):
    """Each damaged plan, with a valid digest, is refused at load with its sentence."""
    plan, sentence = DAMAGED[name]
    assert any(sentence in problem for problem in check(plan)), check(plan)
    content = codec._CONVERTER.unstructure(plan)
    document = {"format": "depgraph.plan", "version": 1, "digest": codec._digest(content), "content": content}
    with pytest.raises(dg.errors.DocumentError, match="does not hold a valid plan") as caught:
        codec.loads(json.dumps(document), "plan", Plan, check=check)
    assert len(str(caught.value)) < 4000


MISTYPED = {
    "a base that is no text": attrs.evolve(SOUND, base=b"a" * 64),
    "a list of cuts": attrs.evolve(SOUND, cuts=list(SOUND.cuts)),
    "a cut that is none": attrs.evolve(SOUND, cuts=("a.weight:0",)),
    "a set that is no index set": with_cut(attrs.evolve(SOUND.cuts[0], removed={1, 4}), SOUND.cuts[1]),
    "intervals in disorder": with_cut(
        attrs.evolve(SOUND.cuts[0], removed=dg.IndexSet._canonical([(4, 5), (1, 2)])), SOUND.cuts[1]
    ),
    "intervals of floats": with_cut(attrs.evolve(SOUND.cuts[0], removed=dg.IndexSet._canonical([(1.0, 2.0)])), SOUND.cuts[1]),
    "an atom of floats": with_cut(attrs.evolve(SOUND.cuts[0], atom=Atom(0, 8.0)), SOUND.cuts[1]),
    "a base that is no atom": with_cut(attrs.evolve(RAGGED, base=Product((B, C))), SOUND.cuts[1]),
    "a dimension that is a truth value": with_axis(A, True),
    "no space": with_axis("a"),
    "a product of texts": attrs.evolve(SOUND, axes=(PrunedAxis("a.aside", 0, Sum((Product(()), Atom("0", 8)))),)),
    "a space that is too deep": with_axis(deep(60)),
    "a space without a hash": with_axis(deep(900)),
    "a path that is no plain text": with_edit(Text("a.out_features")),
    "a size that is a truth value": with_edit("a.out_features", 8, True),
    "a pair of three": attrs.evolve(SOUND, renumbered=((1, 2, 3),)),
    "a pair of two kinds": attrs.evolve(SOUND, renamed=(("a", 1),)),
    "a target of words": attrs.evolve(SOUND, targets=(dg.plans.Target("macs", "many", 1.0),)),
}


@pytest.mark.parametrize("name", MISTYPED)
def test_fields_of_other_types_are_told_by_their_place(name):
    """What no file can bring in, but who builds a plan in process."""
    problems = check(MISTYPED[name])
    assert problems and all("is no" in problem for problem in problems), problems
    assert MISTYPED[name].problems == problems


def test_huge_numbers_are_told_by_their_length():
    """Python writes no integer of thousands of digits."""
    huge = 10**6000
    for plan in (with_edit("a.out_features", huge, 6), with_axis(Atom(huge, 8)), with_axis(A, huge), with_axis(Atom(5, huge))):
        assert check(plan) and all(len(problem) < 1000 for problem in check(plan))
    assert any("an integer of 19,932 bits" in problem for problem in check(with_edit("a.out_features", huge, 6)))


def test_rows_that_go_as_a_whole_are_none_of_a_ragged_cut():
    """Four rows of five stay, and lose one index each."""
    assert check(with_rows_of_five([1, 17, 26, 33])) == ()


@pytest.mark.parametrize("levels", [30, 49])
def test_deep_spaces_below_the_bound_are_looked_at(levels):
    """They are not refused for their depth."""
    assert not any("is no axes entry" in problem for problem in check(with_axis(deep(levels))))


def test_an_axis_without_elements_has_no_indices_to_list():
    """However many blocks its other factors claim."""
    space = Product((*(Atom(k + 3, 2) for k in range(40)), Atom(99, 0), A))
    assert attrs.evolve(SOUND, axes=(PrunedAxis("a.weight", 0, space),)).kept["a.weight"][0] == dg.IndexSet()
    rows = with_rows(RAGGED, Product((*(Atom(k + 3, 2) for k in range(40)), Atom(99, 0), B, A)))
    assert rows.kept["a.weight"][0] == dg.IndexSet()


def test_load_checks(tmp_path):
    """`Plan.load` is what users call."""
    codec.write(tmp_path / "plan.json", "plan", with_edit("forward.__globals__.SECRET"))
    with pytest.raises(dg.errors.DocumentError, match=r"names plain attributes .*, met 'forward.__globals__.SECRET'"):
        Plan.load(tmp_path / "plan.json")


@pytest.mark.parametrize(
    ("space", "sentence"),
    [
        (Product((Atom(3, -2), Atom(4, 4))), "the space (a3:-2 x a4:4) is larger than any axis"),
        (Product(tuple(Atom(k, -2) for k in range(8))), "the space (a0:-2 x a1:-2 x "),
        (Product(tuple(Atom(k, -2) for k in range(9))), "the space of 9 members is larger than any axis"),
        (Sum((Product((Atom(3, 2), Atom(4, 3))), Atom(5, 1))), "the space of 2 members has a number below 0"),
    ],
)
def test_a_long_or_nested_space_is_told_by_its_length(space, sentence):
    """A file may hold a term of any length, and a message has a line."""
    (problem,) = check(with_axis(space))
    assert problem.startswith(sentence)


def test_all_problems_are_told_at_once():
    """Not only the first of them."""
    problems = check(attrs.evolve(SOUND, base="x", edits=(Edit("__class__", 1, 2),)))
    assert len(problems) == 3


@given(st.data())
@settings(max_examples=30)
def test_plans_that_are_made_and_composed_are_sound(data):
    """Whatever is drawn, its rest, and both as one plan."""
    model, x = data.draw(modules()), torch.randn(2, 3, 4, 4)
    graph = dg.trace(model, x)
    first = data.draw(plans(graph, elements=True))
    second = data.draw(plans(first.apply(graph), elements=True))
    assert check(first) == check(second) == check(first.then(second)) == ()


def test_a_ragged_plan_is_sound():
    """Each head its own dims, and a head that goes as a whole."""

    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.heads, self.width = 3, 4
            self.qkv, self.out = nn.Linear(4, 36), nn.Linear(12, 4)

        def forward(self, x):
            q, k, v = self.qkv(x).view(len(x), -1, 3, self.heads, self.width).permute(2, 0, 3, 1, 4)
            return self.out((torch.softmax(q @ k.mT, -1) @ v).transpose(1, 2).reshape(len(x), -1, self.heads * self.width))

    graph = dg.trace(Attention(), torch.randn(2, 5, 4))
    (dims, heads), *_ = dg.ragged.ragged_groups(graph).items()
    scores = {dims: [[3.0, 1.0, 2.0, 0.0], [0.0, 1.0, 2.0, 3.0], [1.0, 3.0, 0.0, 2.0]], heads: [0.0, 1.0, 2.0]}
    plan = dg.plan(graph, scores, ratio={dims: 0.5, heads: 0.34})
    assert any(cut.base is not None for cut in plan.cuts) and len(plan.cuts) == 2 and check(plan) == ()


def test_places_of_atoms_beside_an_empty_one():
    """A product with a factor of no indices has no flat index, and its atoms' places are told none the less."""
    empty = Product((B, Atom(9, 0)))
    assert [(leaf.atom, leaf.stride) for leaf in leaves(empty)] == [(B, 0), (Atom(9, 0), 1)]
    assert [place.stride for place in summands(empty)[0].places] == [0, 1]
    assert image(empty, {B: dg.IndexSet.of([1])}) == dg.IndexSet()
