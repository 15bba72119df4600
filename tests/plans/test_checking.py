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
    "a million million rows": (with_cut(attrs.evolve(RAGGED, base=Atom(5, 10**12))), "is to lose one beyond"),
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
    "many blocks": (with_axis(Product(tuple(Atom(k + 3, 2) for k in range(28)))), "more than 4,194,304 blocks"),
    "a product in a product": (with_axis(Product((Product((B, C)), A))), "is not flat"),
    "a sum in a sum": (with_axis(Sum((Sum((B, C)), A))), "is not flat"),
    "a product of one": (with_axis(Product((A,))), "is not flat"),
    "a sum before a factor": (with_axis(Product((Sum((A, B)), C))), "a sum before another factor"),
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
    assert check(with_cut(RAGGED, SOUND.cuts[1])) == ()


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
    first = data.draw(plans(graph))
    second = data.draw(plans(first.apply(graph)))
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
