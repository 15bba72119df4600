"""Masking is removing without the removing, each law with a wrong implementation that it refutes."""

import copy

import attrs
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn

import depgraph as dg
from depgraph import testing
from depgraph.plans.making import plan_of
from depgraph.testing import modules, network, normalised_atoms, plans
from tests.laws.refuting import refuted

pytestmark = pytest.mark.models

X = torch.randn(2, 3, 4, 4)


@st.composite
def pruned(draw):
    """A module, its graph, and a plan that removes something."""
    model = draw(modules())
    graph = dg.trace(model, X)
    plan = draw(plans(graph))
    assume(plan.cuts)
    return model, graph, plan


def unaveraged(graph, plan):
    """The part of a plan over which nothing is normalised."""
    left_out = normalised_atoms(graph)
    left_out |= {atom for balance in graph.balances if left_out & set(balance.atoms) for atom in balance.atoms}
    return plan_of(graph, {cut.atom: cut.removed for cut in plan.cuts if cut.atom not in left_out})


def values(model):
    """Names and bits of everything that a model holds."""
    return {name: testing.tensor_bytes(tensor) for name, tensor in model.state_dict().items()}


def unversioned(model):
    """A snapshot without the counters of writes, which go up when numbers are put back, too."""
    held, *rest = testing.snapshot(model)
    return [(name, number, *more) for name, number, _, *more in held], rest


def put_in_zeros(plan, model, dims_of=lambda name, dims: dims):
    """A mask by hand, in which some dimensions may be forgotten."""
    wrong = copy.deepcopy(model)
    for name, dims in plan.kept.items():
        parameter = dict(wrong.named_parameters()).get(name)
        for dim, kept in dims_of(name, dims).items() if parameter is not None else ():
            gone = kept.complement(plan.sizes[name][dim])
            parameter.data.index_fill_(dim, torch.tensor(list(gone)), 0.0)
    return wrong


def assert_masked_as_removed(masked, small, x):
    """The law of masks: a masked model computes what the smaller one does."""
    torch.testing.assert_close(masked(x), small(x), atol=1e-9, rtol=1e-9)


@given(pruned())
def test_masked_computes_what_removed_computes(case):
    """In double precision the masked and the pruned model give the same numbers where nothing normalises across the cut."""
    model, graph, plan = case
    plan = unaveraged(graph, plan)
    assume(plan.cuts)
    model = model.double()
    assert_masked_as_removed(dg.mask(plan, model), dg.execute(plan, model), X.double())


def test_that_law_refutes_a_mask_that_forgets_the_biases():
    """With only the weights of the producing side zeroed, biases still speak through BatchNorm and its consumers."""
    torch.manual_seed(0)
    model = network(["residual"], 4, 3, 2, False).double()
    graph = dg.trace(model, X.double())
    plan = unaveraged(graph, dg.plan(graph, dg.score(graph, model, dg.criteria.Random(3)), ratio=0.5))
    small = dg.execute(plan, model)
    producing = put_in_zeros(plan, model, lambda name, dims: {0: dims[0]} if name.endswith("weight") and 0 in dims else {})
    assert not torch.allclose(producing(X.double()), small(X.double()), atol=1e-6)
    refuted(assert_masked_as_removed, producing, small, X.double())
    assert_masked_as_removed(dg.mask(plan, model), small, X.double())


def test_across_a_layer_norm_masked_is_not_removed():
    """What the module says: LayerNorm divides by the number of channels, so the two differ by nature."""
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 2)), torch.randn(3, 4)
    graph = dg.trace(model, x)
    plan = dg.cut(graph, "0.weight", [0, 3], dim=0)
    assert graph.group("0.weight", dim=0).atom in normalised_atoms(graph)
    refuted(assert_masked_as_removed, dg.mask(plan, model), dg.execute(plan, model), x)
    assert not torch.allclose(dg.mask(plan, model)(x), dg.execute(plan, model)(x), atol=1e-3)


def assert_kept(plan, masked, model):
    """The law of what stays: executing the plan on the mask gives the bits that executing it on the model gives."""
    assert values(dg.execute(plan, masked)) == values(dg.execute(plan, model))


@given(pruned())
def test_mask_then_execute_is_execute(case):
    """What is kept is kept bit for bit, and only what goes was written."""
    model, _, plan = case
    assert_kept(plan, dg.mask(plan, model), model)


def test_that_law_refutes_a_mask_of_the_kept_indices():
    """Zeroing what stays is noticed."""
    model = network(["residual"], 4, 3, 2, False)
    graph = dg.trace(model, X)
    plan = dg.cut(graph, "1.first.weight", [0, 1, 2], dim=0)
    swapped = attrs.evolve(plan, cuts=tuple(attrs.evolve(c, removed=c.removed.complement(c.atom.size)) for c in plan.cuts))
    refuted(assert_kept, plan, dg.mask(swapped, model), model)


@given(pruned())
def test_masking_twice_is_masking_once(case):
    """The mask of a masked model is that model; the original is untouched throughout."""
    model, _, plan = case
    before = testing.snapshot(model)
    once = dg.mask(plan, model)
    assert values(dg.mask(plan, once)) == values(once)
    assert testing.snapshot(model) == before


def assert_restored(model, before):
    """The law of undoing: every bit is as it was, in the same tensors."""
    assert unversioned(model) == before


@given(pruned())
def test_in_place_is_the_same_and_is_undone(case):
    """`mask_` writes what `mask` makes, into the same parameters; restoring gives every bit back."""
    model, _, plan = case
    expected, before = values(dg.mask(plan, model)), unversioned(model)
    with dg.mask_(plan, model):
        assert values(model) == expected
        assert [id(p) for p in model.parameters()] == [number for _, number, *_ in before[0][: len(list(model.parameters()))]]
    assert_restored(model, before)


def test_the_undo_law_refutes_a_restore_that_adds_zeros():
    """A negative zero is another bit pattern than zero; a restore by adding up what was saved loses it."""
    model, x = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)), torch.randn(1, 2)
    with torch.no_grad():
        model[0].bias[1] = -0.0
        model[0].weight[1, 0] = float("nan")
    plan, before = dg.cut(dg.trace(model, x), "0.weight", [1], dim=0), unversioned(model)
    saved = [parameter.detach().clone() for parameter in model.parameters()]
    held = dg.mask_(plan, model)
    refuted(assert_restored, model, before)
    with torch.no_grad():
        for parameter, old in zip(model.parameters(), saved, strict=True):
            parameter.add_(torch.where(old != parameter, old, 0.0))
    torch.testing.assert_close(list(model.parameters()), saved, rtol=0, atol=0, equal_nan=True)
    refuted(assert_restored, model, before)
    held.restore()
    assert_restored(model, before)


@given(modules(), st.data())
def test_overlapping_masks_come_off_in_any_order(model, data):
    """Two masks in place give the original back, whichever is restored first."""
    graph = dg.trace(model, X)
    before = unversioned(model)
    held = [dg.mask_(data.draw(plans(graph)), model) for _ in range(2)]
    for one in data.draw(st.permutations(held)):
        one.restore()
    assert_restored(model, before)
