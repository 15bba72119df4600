"""The algebra of plans of one graph: difference, restriction, merging, rebasing and the way back, each with a wrong one."""

import copy

import attrs
import pytest
import torch
from hypothesis import assume, event, given, settings
from hypothesis import strategies as st
from torch import nn

import depgraph as dg
from depgraph.algebra.indices import IndexSet
from depgraph.algebra.ragged_sets import RaggedSet, united
from depgraph.algebra.spaces import Atom
from depgraph.graph.ragged import bases_of
from depgraph.plans.algebra import PlanDifference, remainder
from depgraph.plans.making import plan_of
from depgraph.testing import modules, tensor_bytes
from tests.laws.refuting import refuted
from tests.laws.test_drops import APART, stacks
from tests.laws.test_drops import X as BATCH
from tests.laws.test_models import X, pruned
from tests.laws.test_ragged import X as SEQUENCE
from tests.laws.test_ragged import attentions

pytestmark = pytest.mark.models


FEW = settings(max_examples=settings.default.max_examples // 2)
"""Models are costly to draw."""


@st.composite
def graphs(draw):
    """A module with its graph: of random blocks, or with heads that may each lose their own."""
    if draw(st.integers(0, 2)):
        model = draw(attentions())
        return model, dg.trace(model, SEQUENCE)
    model = draw(modules())
    return model, dg.trace(model, X)


def coupled(graph):
    """Groups that are cut together or not at all: balanced ones, and heads with what each of them loses."""
    of = {group.atom: {group.atom} for group in graph.groups}
    for pair in (*(balance.atoms for balance in graph.balances), *bases_of(graph).items()):
        whole = set().union(*(of[atom] for atom in pair))
        of.update(dict.fromkeys(whole, whole))
    return list({min(atoms): atoms for atoms in of.values()}.values())


@st.composite
def orders(draw, graph):
    """For each group an order of its indices, or one for each row, and how many may go at most."""
    bases = bases_of(graph)
    some = {group.atom: st.permutations(range(group.size)) for group in graph.groups}
    rows = {atom: [draw(order) for _ in range(bases[atom].size if atom in bases else 1)] for atom, order in some.items()}
    most = {group.atom: group.size - group.lower_bound for group in graph.groups}
    for balance in graph.balances:
        most.update(dict.fromkeys(balance.atoms, min(most[atom] for atom in balance.atoms)))
    return bases, rows, most


def part(drawn, counts, start=0):
    """The removals of so many indices of each group, in the orders that were drawn, from a place on."""
    bases, rows, most = drawn
    removed = {}
    for atom, count in counts.items():
        first = start * (most[atom] - count)  # from the front of what may go, or from its end
        sets = tuple(IndexSet.of(order[first : first + count]) for order in rows[atom])
        removed[atom] = RaggedSet(bases[atom], sets) if atom in bases else sets[0]
    return removed


@st.composite
def pairs(draw):
    """A graph and two plans of it which may remove the same indices, and which both together leave every group enough."""
    model, graph = draw(graphs())
    drawn = draw(orders(graph))
    balanced = {atom: balance.atoms[0] for balance in graph.balances for atom in balance.atoms}
    some = {atom: st.integers(min(1, most), most) for atom, most in drawn[2].items()}
    counts = {atom: draw(st.tuples(count, count)) for atom, count in some.items()}
    both = [{atom: counts[balanced.get(atom, atom)][side] for atom in counts} for side in (0, 1)]
    return model, graph, plan_of(graph, part(drawn, both[0])), plan_of(graph, part(drawn, both[1], start=1))


@st.composite
def split(draw):
    """A graph and a plan of it with a part of its groups, whole couplings, by name."""
    model, graph = draw(graphs())
    drawn = draw(orders(graph))
    counts = {}
    for together in coupled(graph):
        most = min(drawn[2][atom] for atom in together)
        count = draw(st.integers(min(1, most), most))
        counts.update(dict.fromkeys(together, count))
    chosen = [group for atoms in coupled(graph) if draw(st.booleans()) for group in atoms]
    plan = plan_of(graph, part(drawn, counts))
    return model, graph, plan, [graph.group_of[atom].name for atom in chosen]


def assert_rebased(graph, p, q, rebase):
    """Whichever plan comes first, both together come to the same; nothing is left of what is done, all where nothing is."""
    first, second = p.then(rebase(graph, q, p)), q.then(rebase(graph, p, q))
    assert first == second, "the order counts"
    assert first.apply(graph) == rebase(graph, q, p).apply(p.apply(graph)), "another graph"
    assert rebase(graph, p, dg.Plan.empty(graph)) == p, "on nothing it is another plan"
    assert not rebase(graph, p, p).cuts, "what is done is done again"
    both = united({cut.atom: cut.removal for cut in p.cuts}, {cut.atom: cut.removal for cut in q.cuts})
    assert first == plan_of(graph, both), "together they are not what any of them removes"


@FEW
@given(pairs())
def test_plans_are_rebased(case):
    """On modules, too: the plan and then the rebased other give the tensors that both give at once."""
    model, graph, p, q = case
    assert_rebased(graph, p, q, lambda graph, plan, onto: plan.rebase(graph, onto))
    once, twice = dg.execute(p.then(q.rebase(graph, p)), model), dg.execute(q.rebase(graph, p), dg.execute(p, model))
    assert [*map(tensor_bytes, once.state_dict().values())] == [*map(tensor_bytes, twice.state_dict().values())]
    event(f"both remove something: {bool(p.cuts and q.cuts)}, ragged: {any(cut.base for cut in p.cuts)}")


def chain():
    """Two groups in a row, and their graph."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2)).eval()
    return model, dg.trace(model, torch.zeros(1, 3))


def cuts(graph, **indices):
    return dg.cut_each(graph, {f"{name[1:]}.weight:0": list(chosen) for name, chosen in indices.items()})


def test_a_rebase_that_does_not_renumber_is_refuted():
    """The same indices in the smaller graph are others."""
    _, graph = chain()

    def unnumbered(graph, plan, onto):
        after = onto.apply(graph)
        return plan_of(after, {after.groups_by_name[cut.group].atom: cut.removed for cut in plan.cuts})

    p, q = cuts(graph, _0=[0]), cuts(graph, _0=[2])
    assert_rebased(graph, p, q, lambda graph, plan, onto: plan.rebase(graph, onto))
    refuted(assert_rebased, graph, p, q, unnumbered, says="the order counts")


def test_a_rebase_that_forgets_what_is_done_is_refuted():
    """What both remove goes twice."""
    _, graph = chain()

    def twice(graph, plan, onto):
        return remainder(graph, onto, plan) if plan != onto else cuts(onto.apply(graph), _0=[0])

    p = cuts(graph, _0=[0], _2=[1])
    refuted(assert_rebased, graph, p, dg.Plan.empty(graph), twice, by=(AssertionError, dg.DepgraphError))


def assert_merged(graph, p, q, merge):
    """Merging is commutative and idempotent, has the empty plan as its unit, and is one plan after the other."""
    both = merge(graph, [p, q])
    assert both == p.then(q.rebase(graph, p)), "it is not one after the other"
    assert both.apply(graph) == q.rebase(graph, p).apply(p.apply(graph)), "another graph"
    assert merge(graph, [q, p]) == both, "the order counts"
    assert merge(graph, [both, p]) == merge(graph, [both]) == both, "what is in it changes it"
    assert merge(graph, [p, dg.Plan.empty(graph)]) == p and merge(graph, []) == dg.Plan.empty(graph), "nothing is something"


def assert_restricted(graph, plan, names, restrict):
    """A part has the cuts of its groups alone, and makes the whole with the rest."""
    some, rest = restrict(plan, graph, names), restrict(plan, graph, "*", ignore=names)
    assert some.removed == {name: gone for name, gone in plan.removed.items() if name in names}, "other cuts"
    assert dg.merge(graph, [some, rest]) == plan, "the parts are not the whole"
    assert restrict(some, graph, names) == some and not restrict(some, graph, "*", ignore=names).cuts, "a part has parts"
    assert restrict(plan, graph, "*") == plan, "all of it is another plan"


@FEW
@given(split())
def test_plans_are_restricted_and_merged(case):
    """Any part of the groups, couplings taken whole."""
    _, graph, plan, names = case
    assert_restricted(graph, plan, names, dg.Plan.restrict)
    assert_merged(graph, plan.restrict(graph, names), plan.restrict(graph, "*", ignore=names), dg.merge)
    event(f"a true part: {0 < len(plan.restrict(graph, names).cuts) < len(plan.cuts)}")


def test_a_merge_that_takes_the_last_is_refuted():
    _, graph = chain()
    p, q = cuts(graph, _0=[1, 3]), cuts(graph, _2=[0])
    assert_merged(graph, p, q, dg.merge)
    refuted(assert_merged, graph, p, q, lambda graph, plans: [dg.Plan.empty(graph), *plans][-1], says="one after the other")


def test_a_restriction_that_takes_what_is_near_is_refuted():
    """Patterns name groups: the one that enters a layer is not the one that leaves it."""
    _, graph = chain()
    plan = cuts(graph, _0=[1, 3], _2=[0])

    def wide(plan, graph, patterns, ignore=()):
        return plan.restrict(graph, "2", ignore=["4"] if ignore else ())

    assert_restricted(graph, plan, ["0.weight:0"], dg.Plan.restrict)
    refuted(assert_restricted, graph, plan, ["0.weight:0"], wide, says="other cuts")


def assert_difference(p, q, diff):
    """It is false exactly for equal plans, the other way round it is mirrored, and it leads from one plan to the other."""
    found, mirrored = diff(p, q), diff(q, p)
    assert bool(found) == (p != q), "a difference where there is none, or none where there is one"
    sides = [[(cut.group, cut.first, cut.second) for cut in each.cuts] for each in (found, mirrored)]
    assert sides[0] == [(group, second, first) for group, first, second in sides[1]], "it is not mirrored"
    if not any(cut.base for plan in (p, q) for cut in plan.cuts):
        removed = dict(p.removed)
        for cut in found.cuts:
            removed[cut.group] = (removed.get(cut.group, IndexSet()) - cut.first) | cut.second
        assert {group: gone for group, gone in removed.items() if gone} == q.removed, "it leads elsewhere"


@FEW
@given(pairs(), st.booleans())
def test_plans_are_told_apart(case, same):
    """Two plans of a graph, equal ones among them."""
    _, graph, p, q = case
    other = plan_of(graph, {cut.atom: cut.removal for cut in p.cuts}) if same else q
    assert_difference(p, other, dg.Plan.diff)
    event(f"equal: {p == other}")


@FEW
@given(pruned(), st.sampled_from(["axes", "edits", "result", "renumbered"]))
def test_plans_that_differ_in_what_follows_are_told_apart(case, name):
    """A damaged plan, of which a field was changed that the cuts decide."""
    _, _, plan = case
    assume(plan.edits)
    wrong = {"result": "a" * 64, "renumbered": (*plan.renumbered, (10**6, 10**6 + 1))}.get(name, ())
    damaged = attrs.evolve(plan, **{name: wrong})
    assert plan.diff(damaged) == PlanDifference(fields=(name,))
    assert_difference(plan, damaged, dg.Plan.diff)


def test_a_difference_of_names_alone_is_refuted():
    """Both cut the same groups."""
    _, graph = chain()
    p, q = cuts(graph, _0=[1, 3]), cuts(graph, _0=[1, 4])

    def of_names(p, q):
        return PlanDifference() if p.removed.keys() == q.removed.keys() else p.diff(q)

    assert_difference(p, q, dg.Plan.diff)
    refuted(assert_difference, p, q, of_names, says="none where there is one")


def assert_inverted(plan, model, invert):
    """Back in their places they are what they were; executed again they are what was pruned; the rest is the fill."""
    small = dg.execute(plan, model)
    whole, state = invert(plan, small, model), model.state_dict()
    assert all(tensor_bytes(whole[name]) == tensor_bytes(tensor) for name, tensor in state.items()), "not what it was"
    filled = invert(plan, small.state_dict(), 7.0)
    again = copy.deepcopy(model)
    again.load_state_dict(filled)
    executed = dg.execute(plan, again).state_dict()
    assert all(tensor_bytes(executed[name]) == tensor_bytes(tensor) for name, tensor in small.state_dict().items()), (
        "executed again it is something else"
    )
    for name, dims in plan.kept.items():
        for dim, kept in dims.items():
            gone = torch.tensor(list(kept.complement(filled[name].shape[dim])))
            assert (filled[name].index_select(dim, gone) == 7).all(), "the rest is not the fill"


@FEW
@given(pairs(), st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.float64]))
def test_what_was_pruned_goes_back_to_its_places(case, dtype):
    """Plain and ragged cuts, modules and state dicts."""
    model, _, plan, _ = case
    assert_inverted(plan, model.to(dtype), dg.Plan.invert)


def test_a_way_back_to_the_front_is_refuted():
    """Tensors of the right shapes, with the kept ones in the wrong places."""
    model, graph = chain()
    plan = cuts(graph, _0=[0, 3], _2=[1])
    front = [attrs.evolve(cut, removed=IndexSet.range(cut.atom.size - cut.count, cut.atom.size)) for cut in plan.cuts]

    def to_the_front(plan, small, fill):
        return dg.Plan.invert(attrs.evolve(plan, cuts=tuple(front)), small, fill)

    assert_inverted(plan, model, dg.Plan.invert)
    refuted(assert_inverted, plan, model, to_the_front, says="not what it was")


@st.composite
def shorter(draw):
    """A network of blocks, and two plans of it by which elements leave and groups are cut, those of such elements too."""
    model, sides = draw(stacks(APART)), []
    graph = dg.trace(model, BATCH)
    drawn = draw(orders(graph))
    (sequence,) = graph.sequences
    stays = draw(st.integers(0, len(sequence.elements) - 1))
    for start in (0, 1):
        some = {atom: st.integers(0, most) for atom, most in drawn[2].items()}
        counts = {atom: draw(count) for atom, count in some.items()}
        for balance in graph.balances:
            counts.update(dict.fromkeys(balance.atoms, counts[balance.atoms[0]]))
        cut = plan_of(graph, part(drawn, counts, start))
        gone = draw(st.sets(st.integers(0, len(sequence.elements) - 1))) - {stays}
        sides.append((cut, dg.drop(graph, "blocks", sorted(gone))))
    return model, graph, sides


@FEW
@given(shorter())
def test_elements_that_leave_obey_the_algebra(case):
    """Widths and whole elements together: rebased, merged, restricted, told apart, and back in their places."""
    model, graph, ((cut, drop), (other, others)) = case
    p, q = dg.merge(graph, [cut, drop]), dg.merge(graph, [other, others])
    assert p == drop.then(cut.rebase(graph, drop)) == cut.then(drop.rebase(graph, cut))
    assert p.then(q.rebase(graph, p)) == q.then(p.rebase(graph, q))
    assert_difference(p, q, dg.Plan.diff)
    assert dg.merge(graph, [p.restrict(graph, list(p.removed)), p.restrict(graph, "*", ignore=list(p.removed))]) == p
    small = dg.execute(p, model)
    assert {name: tensor_bytes(tensor) for name, tensor in p.invert(small, model).items()} == {
        name: tensor_bytes(tensor) for name, tensor in model.state_dict().items()
    }
    event(f"elements leave by both: {bool(drop.drops and others.drops)}")


def test_a_merge_that_forgets_elements_is_refuted():
    """It takes the cuts of the plans alone."""
    model = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Tanh(), nn.Linear(6, 2))
    graph = dg.trace(model, torch.zeros(1, 3))
    cut, drop = cuts(graph, _0=[1]), dg.drop(graph, "", [2])

    def of_cuts(graph, plans):
        return dg.merge(graph, [plan.restrict(graph, list(plan.removed)) for plan in plans])

    assert_merged(graph, cut, drop, dg.merge)
    refuted(assert_merged, graph, cut, drop, of_cuts, says="one after the other")


def test_a_united_removal_of_two_bases_is_refused():
    """Rows of one group along two others have no union."""
    group, rows, columns = Atom(0, 4), Atom(1, 2), Atom(2, 2)
    sets = (IndexSet.of([0]), IndexSet.of([1]))
    with pytest.raises(dg.errors.PlanError, match="ragged along two others"):
        united({group: RaggedSet(rows, sets)}, {group: RaggedSet(columns, sets)})
