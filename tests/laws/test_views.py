"""What a teacher shows is what its student has: features and weights of a masked model, in the indices that stay."""

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

import depgraph as dg
from depgraph.plans.making import plan_of
from depgraph.testing import modules, network, normalised_atoms, plans
from tests.laws.refuting import refuted
from tests.laws.test_drops import WAYS, Stack

pytestmark = pytest.mark.models

X = torch.randn(2, 3, 4, 4)


@st.composite
def pruned(draw):
    """A module in double precision, its graph, and a plan over which nothing is normalised."""
    model = draw(modules())
    graph = dg.trace(model, X)
    plan, left_out = draw(plans(graph)), normalised_atoms(graph)
    left_out |= {atom for balance in graph.balances if left_out & set(balance.atoms) for atom in balance.atoms}
    plan = plan_of(graph, {cut.atom: cut.removed for cut in plan.cuts if cut.atom not in left_out})
    assume(plan.cuts)
    return model.double(), graph, plan


def features(model, x):
    """What each module returned, where that is one tensor of numbers, in every call."""
    found = {}

    def keep(name):
        def hook(module, arguments, result):
            if isinstance(result, torch.Tensor):
                found.setdefault(name, []).append(result.detach())

        return hook

    handles = [module.register_forward_hook(keep(name)) for name, module in model.named_modules() if name]
    model(x)
    for handle in handles:
        handle.remove()
    return found


def assert_shows(view, teacher, student):
    """The law: the view of each of the teacher's features is the student's. Returns how many were compared."""
    count = 0
    for name, results in student.items():
        for result, whole in zip(results, teacher[name], strict=True):
            torch.testing.assert_close(view(name, whole), result, atol=1e-9, rtol=1e-9)
            count += 1
    return count


@settings(max_examples=max(settings().max_examples // 3, 1))
@given(pruned())
def test_what_a_masked_teacher_shows_is_what_the_student_has(case):
    """The features of every module, a block as well as a layer, with another batch than the traced one; weights and buffers.

    Weights by the plan alone, and by the graph as well.
    """
    model, graph, plan = case
    x, masked, small = torch.randn(3, 3, 4, 4, dtype=torch.double), dg.mask(plan, model), dg.execute(plan, model)
    teacher, student = features(masked, x), features(small, x)
    assert assert_shows(lambda name, whole: dg.teacher_view(plan, name, whole, graph=graph), teacher, student) > 5
    tensors = small.state_dict()
    for name, tensor in masked.state_dict().items():
        assert torch.equal(dg.teacher_view(plan, name, tensor), tensors[name])
        assert torch.equal(dg.teacher_view(plan, name, tensor, graph=graph), tensors[name])


def test_that_law_refutes_the_first_channels():
    """As many channels, but the first ones, are not what the student has."""
    torch.manual_seed(0)
    model = network(["residual", "concat"], 4, 3, 2, False).double()
    graph = dg.trace(model, X.double())
    plan = dg.cut(graph, "1.first.weight", [0, 2], dim=0)
    teacher, student = features(dg.mask(plan, model), X.double()), features(dg.execute(plan, model), X.double())
    refuted(assert_shows, lambda name, whole: whole[:, : student[name][0].shape[1]], teacher, student, says="not close")


@pytest.mark.parametrize("way", WAYS)
def test_a_shorter_student_has_what_the_teacher_shows_without_its_elements(way):
    """Of a teacher with the identity in the place of each element that left, and masked: under the names of the teacher."""
    torch.manual_seed(0)
    model, x = Stack(["relu", "attention", "linear", "relu"], way).double().eval(), torch.randn(2, 3, 4).double()
    graph = dg.trace(model, x)
    name = "blocks.block_2" if way == "dict" else "blocks.2"
    cut = dg.cut(graph, f"{name}.inner.weight", [1, 4], dim=0)
    plan = cut.then(dg.drop(cut.apply(graph), "blocks", [0, 3]))
    masked, small = dg.mask(cut, model), dg.execute(plan, model)
    teacher_names = {plan.name_before(name): name for name, _ in small.named_modules() if name}
    for place, element in enumerate([*masked.blocks._modules]):
        if place in (0, 3):
            masked.blocks._modules[element] = nn.Identity()
    teacher, student = features(masked, x), features(small, x)
    student = {base: student[name] for base, name in teacher_names.items() if name in student}
    assert assert_shows(lambda name, whole: dg.teacher_view(plan, name, whole, graph=graph), teacher, student) > 8
    gone = "blocks.block_0" if way == "dict" else "blocks.0"
    for name, options in ((f"{gone}.inner.weight", {}), (f"module.{gone}.inner.bias", {}), (gone, {"graph": graph})):
        with pytest.raises(dg.errors.MismatchError, match="leaves with an element of a list"):
            dg.teacher_view(plan, name, torch.ones(6), **options)
