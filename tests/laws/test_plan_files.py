"""The law of plan files: one text for equal plans, a line for each change, valid by the schema; each with a wrong way."""

import json

import attrs
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import depgraph as dg
from depgraph import codec
from depgraph.algebra.indices import IndexSet
from depgraph.algebra.spaces import Atom, Product
from depgraph.plans import plan_files
from depgraph.plans.making import plan_of
from depgraph.plans.plan import Cut, Plan, PrunedAxis
from tests import hostile
from tests.laws.refuting import refuted
from tests.laws.test_algebra import graphs, orders, part
from tests.laws.test_hostile_files import examples
from tests.plans.test_plan_files import validator

pytestmark = pytest.mark.models


FEW = settings(max_examples=settings.default.max_examples // 3)
"""Graphs are costly to draw, and their plans are written by few lines."""


@st.composite
def drawn_plans(draw):
    """A plan, plain or ragged, perhaps of two in turn, and with an edit that was added."""
    _, graph = draw(graphs())
    plan = dg.Plan.empty(graph)
    for _ in range(draw(st.integers(1, 2))):
        after = plan.apply(graph)
        drawn = draw(orders(after))
        counts = {atom: draw(st.integers(0, most)) for atom, most in drawn[2].items()}
        for balance in after.balances:
            counts.update(dict.fromkeys(balance.atoms, counts[balance.atoms[0]]))
        plan = plan.then(plan_of(after, part(drawn, counts)))
    return plan.edit("a.width", 3, old=5) if draw(st.booleans()) else plan


def assert_written(plan, dumps, loads):
    """What is written is read as the same plan, all its fields, and has one text."""
    text = dumps(plan)
    again = loads(text)
    assert attrs.asdict(again, recurse=False) == attrs.asdict(plan, recurse=False), "another plan"
    assert dumps(again) == text, "another text"


def assert_valid(text, check):
    """The schema takes it."""
    errors = [error.message for error in check.iter_errors(json.loads(text))]
    assert not errors, errors[:3]


@FEW
@given(drawn_plans(), st.booleans())
def test_plans_are_written_and_read(plan, bits):
    """Whether their indices are written as runs or, as long ones are, as bits."""
    with pytest.MonkeyPatch.context() as patch:
        if bits:
            patch.setattr(plan_files, "LONGEST_RUNS", 0)
        assert_written(plan, plan_files.dumps, plan_files.loads)


@pytest.mark.needs("jsonschema")
@FEW
@given(drawn_plans())
def test_every_plan_is_valid_by_the_schema(plan):
    """In both versions."""
    check = validator()
    assert_valid(plan_files.dumps(plan), check)
    assert_valid(codec.dumps("plan", plan), check)


@pytest.mark.needs("jsonschema")
def test_what_loads_is_valid_by_the_schema():
    """Of damaged documents, too: the schema refuses nothing that is a plan."""
    check, taken = validator(), []

    def judge(content, tally):
        text = hostile.text_of("plan", content, 2)
        try:
            plan_files.loads(text)
        except dg.errors.DocumentError:
            return
        taken.append(text)
        assert_valid(text, check)

    examples(judge, hostile.seeds(), 3 * settings.default.max_examples)
    assert len(taken) > 10


@pytest.mark.needs("jsonschema")
def test_a_schema_that_asks_for_more_is_refuted():
    """Of each part of a document that it could forget."""
    text = plan_files.dumps(hostile.made_plans()[-1])
    whole = validator()
    assert_valid(text, whole)
    for name in json.loads(text)["content"]:
        schema = json.loads(json.dumps(whole.schema))
        del schema["$defs"]["content2"]["properties"][name]
        refuted(assert_valid, text, type(whole)(schema), says=f"'{name}' was unexpected")


@given(st.integers(1, 400), st.integers(1, 3), st.data())
def test_any_set_is_written_as_runs_or_bits(size, rows, data):
    """Of any density; bits only where they are shorter, so that no cut takes more than a sixth of its size."""
    group = Atom(1, size + 1)
    base = Atom(0, rows) if rows > 1 else None
    flat = group.size * rows
    removed = IndexSet.of(data.draw(st.sets(st.integers(0, flat - 1), min_size=1)))
    cut = Cut("a.weight:0", group, removed, base)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan_files, "LONGEST_RUNS", data.draw(st.sampled_from([0, 100, 1024])))
        text = plan_files._removed_text(cut)
        longest = plan_files.LONGEST_RUNS
    assert plan_files._removed(plan_files.CutLine(cut.group, cut.atom, text, base)) == removed
    assert len(text) <= max(longest, 5 + 4 * -(-flat // 24))


def changed_lines(dumps, plan, other):
    """How many lines of two texts differ."""
    lines = [dumps(each).splitlines() for each in (plan, other)]
    assert len(lines[0]) == len(lines[1]), "lines come and go"
    return sum(a != b for a, b in zip(*lines, strict=True))


def assert_small_difference(dumps, plan, other):
    """Where one cut loses other indices, as many, its line and the digest differ."""
    assert changed_lines(dumps, plan, other) == 2, "more than its line"


@FEW
@given(drawn_plans(), st.data())
def test_a_change_of_one_cut_is_one_line(plan, data):
    """Whatever else the plan holds."""
    cuts = [place for place, cut in enumerate(plan.cuts) if cut.base is None and len(cut.removed) < cut.atom.size]
    assume(cuts)
    place = data.draw(st.sampled_from(cuts))
    cut = plan.cuts[place]
    order = data.draw(st.permutations(range(cut.atom.size)))
    moved = attrs.evolve(cut, removed=IndexSet.of(order[: cut.count]))
    assume(moved != cut)
    other = attrs.evolve(plan, cuts=(*plan.cuts[:place], moved, *plan.cuts[place + 1 :]))
    assert_small_difference(plan_files.dumps, plan, other)


def by_hand(**changes):
    """A plan with two cuts."""
    atoms = Atom(0, 4), Atom(1, 6)
    axes = (PrunedAxis("a", 0, atoms[0]), PrunedAxis("b", 0, atoms[1]), PrunedAxis("b", 1, Product(atoms)))
    cuts = (Cut("a:0", atoms[0], IndexSet.of([1])), Cut("b:0", atoms[1], IndexSet.of([2, 3])))
    return attrs.evolve(Plan("a" * 64, "b" * 64, cuts, axes), **changes)


def test_ways_to_write_that_lose_something_are_refuted():
    """A writer that forgets a field, and one that depends on something else than the plan."""
    plan, calls = by_hand(renumbered=((1, 2), (2, 3), (4, 9)), renamed=(("c", "d"),)), []
    assert_written(plan, plan_files.dumps, plan_files.loads)
    for name in ("axes", "renumbered", "renamed"):
        forgetful = lambda plan, name=name: plan_files.dumps(attrs.evolve(plan, **{name: plan.axes[:0]}))  # noqa: E731
        says, error = ("no axis holds", dg.errors.DocumentError) if name == "axes" else ("another plan", AssertionError)
        refuted(assert_written, plan, forgetful, plan_files.loads, says=says, by=error)

    def counting(plan):
        calls.append(plan)
        return plan_files.dumps(plan) + "\n" * len(calls)

    refuted(assert_written, plan, counting, plan_files.loads, says="another text")


def test_a_text_that_repeats_what_follows_is_refuted():
    """One that lists what is kept of each axis changes in many lines."""
    plan = by_hand()
    other = by_hand(cuts=(plan.cuts[0], attrs.evolve(plan.cuts[1], removed=IndexSet.of([0, 5]))))

    def repeating(plan):
        kept = "".join(f"{name} {dict(dims)}\n" for name, dims in plan.kept.items())
        return plan_files.dumps(plan) + kept

    assert_small_difference(plan_files.dumps, plan, other)
    refuted(assert_small_difference, repeating, plan, other, says="more than its line")
