"""The laws of repair: exact where it can be, never worse on what was held out, and nothing else changes."""

import copy

import pytest
import torch
from hypothesis import assume, event, given, settings
from hypothesis import strategies as st
from torch import nn

import depgraph as dg
from depgraph import testing
from depgraph.repair import independent, refit, ridge
from depgraph.testing import network, plans
from tests.laws import test_drops
from tests.laws.refuting import refuted
from tests.laws.test_models import X, pruned
from tests.repair.networks import ConvNet, Gated, settled

pytestmark = pytest.mark.models

NOTHING = [1e30]
"""A penalty so large that weights stay as the plan leaves them."""


def repaired(plan, model, batches, **options):
    """The repaired model, and the repair."""
    repair = dg.refit(plan, model, batches, **options)
    return dg.execute(plan, model, repair=repair), repair


@st.composite
def cases(draw):
    """A network, its graph, a plan that takes widths, elements of a list or both, and the shape of a sample."""
    if draw(st.booleans()):
        return *draw(pruned()), X.shape[1:]
    model, graph, drop = draw(test_drops.dropped())
    cut = draw(plans(drop.apply(graph)))
    return model, graph, drop.then(cut), test_drops.X.shape[1:]


def same_outputs(one, other, x):
    """Both give the same on these inputs."""
    with torch.no_grad():
        wanted, given = one(x), other(x)
    assert torch.allclose(wanted, given, atol=1e-4 * float(wanted.abs().max())), "the repaired network is not the original"


@st.composite
def with_duplicates(draw):
    """A network, a cut of channels that are affine combinations of those that stay, and inputs to calibrate by."""
    torch.manual_seed(draw(st.integers(0, 2**16)))
    width, kept = draw(st.integers(3, 6)), draw(st.integers(1, 2))
    mix = torch.randn(width - kept, kept)
    if draw(st.booleans()):
        model, x = Gated(4, width).eval(), torch.randn(160, 5)
        with torch.no_grad():
            model.gate.weight[kept:] = model.gate.weight[:1]  # so that products of the two are combinations, too
            model.gate.weight[1:kept] = model.gate.weight[:1]
            model.up.weight[kept:] = mix @ model.up.weight[:kept]
            model.up.bias[kept:] = mix @ model.up.bias[:kept]
        name = "up.weight"
    else:
        model, x = settled(ConvNet(width), torch.randn(40, 2, 5, 5)), torch.randn(40, 2, 5, 5)
        copies = torch.arange(width) % kept
        with torch.no_grad():
            for tensor in (*model.conv1.parameters(), *model.bn1.parameters(), *model.bn1.buffers()):
                if tensor.ndim:
                    tensor.copy_(tensor[copies])
        name = "conv1.weight"
    plan = dg.cut(dg.trace(model, x[:2]), name, range(kept, width), dim=0)
    return plan, model, x


@given(with_duplicates(), st.sampled_from(["sequential", "independent"]))
def test_what_combinations_of_others_did_is_made_up_for(case, mode):
    """Removed channels that are affine combinations of kept ones: the repaired network is the original, on new inputs, too."""
    plan, model, x = case
    small, _ = repaired(plan, model, [x], mode=mode, ridges=[1e-10], dtype=torch.float64)
    same_outputs(model, small, torch.randn_like(x))


def test_a_plan_without_its_repair_is_refuted():
    torch.manual_seed(0)
    model, x = Gated(4, 4).eval(), torch.randn(64, 5)
    plan = dg.cut(dg.trace(model, x[:2]), "up.weight", [2, 3], dim=0)
    refuted(same_outputs, model, dg.execute(plan, model), x, says="the repaired network is not the original")


@given(cases(), st.sampled_from(["sequential", "independent"]))
@settings(deadline=None)
def test_only_values_change(case, mode):
    """Shapes, the square and costs are those of the plan; the model stays as it was; no layer misses more when held out."""
    model, graph, plan, shape = case
    model.eval()
    batches = [torch.randn(6, *shape) for _ in range(2)]
    before = testing.snapshot(model)
    small, repair = repaired(plan, model, batches, mode=mode)
    assert testing.snapshot(model) == before
    assert dg.trace(small, torch.randn(2, *shape)) == plan.apply(graph)
    event(f"{len(repair.layers)} layers")
    never_worse(repair)


def never_worse(repair):
    """No layer, and not the whole, misses more of what was held out than by the plan alone."""
    for layer in repair.layers:
        before, after = layer.held_out
        assert after <= before + 1e-9, f"{layer.weight} misses more of what was held out"
    assert repair.outputs[1] <= repair.outputs[0], "the outputs miss more of what was held out"


def test_a_choice_by_fitted_rows_is_refuted(monkeypatch):
    """Features that have nothing to do with each other, and few rows: the fit is perfect, and worth nothing."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 32), nn.Linear(32, 16, bias=False))
    nn.init.eye_(model[0].weight)
    batches = [torch.randn(40, 32)]
    plan = dg.cut(dg.trace(model, batches[0]), "0.weight", range(0, 32, 2), dim=0)
    never_worse(dg.refit(plan, model, batches, ridges=[1e-9], holdout=0.5))
    monkeypatch.setattr(independent, "best", lambda fit, held_out, ridges, bias: ridge.solved(fit, 1e-9, bias))
    refuted(never_worse, dg.refit(plan, model, batches, holdout=0.5), says="misses more of what was held out")


@given(cases(), st.sampled_from(["sequential", "independent"]))
@settings(deadline=None)
def test_with_an_endless_penalty_weights_are_those_of_the_plan(case, mode):
    """λ → ∞: only biases and running statistics may move."""
    model, _, plan, shape = case
    model.eval()
    batches = [torch.randn(6, *shape)]
    small, _ = repaired(plan, model, batches, mode=mode, ridges=NOTHING, batch_norm=False)
    sliced = dict(dg.execute(plan, model).named_parameters())
    for name, parameter in small.named_parameters():
        if parameter.ndim > 1:
            assert torch.allclose(parameter, sliced[name], rtol=1e-5), name


def same_by_any_split(case, mode, borders, seed):
    """In double precision, a repair by one batch is that by its parts."""
    model, _, plan = case
    model = model.double().eval()
    x = torch.randn(9, *X.shape[1:], dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    parts = list(torch.tensor_split(x, sorted(borders)))
    options = {"mode": mode, "dtype": torch.float64, "holdout": 0.3}
    one, two = (dg.refit(plan, model, batches, **options) for batches in ([x], parts))
    assert [layer.choice for layer in one.layers] == [layer.choice for layer in two.layers]
    for name, values in one.values.items():
        assert torch.allclose(values, two.values[name], rtol=1e-6, atol=1e-8), f"{name} is solved otherwise"
    return one


@given(pruned(), st.sampled_from(["sequential", "independent"]), st.sets(st.integers(1, 8), max_size=3), st.integers(0, 2**16))
@settings(deadline=None)
def test_any_split_of_the_batches_gives_the_same_repair(case, mode, borders, seed):
    """The rows of a recurrent layer go by time, and are parted by it."""
    assume(not any(isinstance(module, nn.RNNBase) for module in case[0].modules()))
    same_by_any_split(case, mode, borders, seed)


def with_constants(constant):
    """A network with a layer of whose inputs so many are constant, and a plan that takes the last one but one."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = network(["residual"], 3, 2, 3, True)
        model[1].middle.weight[:constant] = 0
        model[1].middle.bias.abs_()
    graph = dg.trace(model, X)
    return model, graph, dg.cut(graph, "1.middle.weight", [4], dim=0)


@pytest.mark.parametrize("mode", ["sequential", "independent"])
def test_inputs_that_are_constant_up_to_rounding_are_left_to_the_bias(monkeypatch, mode):
    """Their variance is noise, what is divided by it another number for each split; and a lost constant the bias gives back."""
    same_by_any_split(with_constants(3), mode, {2, 5}, 0)
    all_constant = same_by_any_split(with_constants(6), mode, {2, 5}, 0)
    (layer,) = (layer for layer in all_constant.layers if layer.weight == "1.last.weight")
    assert layer.choice == "bias" and layer.held_out[0] > 1e-6 and layer.held_out[1] < 1e-12
    monkeypatch.setattr(ridge, "CONSTANT", -1.0)
    refuted(same_by_any_split, with_constants(3), mode, {2, 5}, 0, says="last.* is solved otherwise")


@given(st.lists(st.integers(1, 4), min_size=1, max_size=3), st.lists(st.integers(1, 4), min_size=1, max_size=3))
def test_moments_add_up(first, second):
    """Those of all batches are the sum of those of some and of the others; the order does not matter."""
    model = ConvNet(3, groups=3).eval()
    one, two = ([torch.randn(size, 2, 5, 5) for size in sizes] for sizes in (first, second))

    def of(batches):
        return dg.moments.collect(model, batches, holdout=0, rows_per_input=1e9, dtype=torch.float64)

    whole, added, turned = of([*one, *two]), of(one) + of(two), of(two) + of(one)
    assert whole.fitted.keys() == {"conv1.weight", "conv2.weight", "head.weight"}
    for name, sums in whole.fitted.items():
        for other in (added.fitted[name], turned.fitted[name]):
            assert sums.count == other.count
            assert torch.allclose(sums.total, other.total) and torch.allclose(sums.products, other.products)


def dead(draw_from):
    """A network with a channel that is zero wherever it is read."""
    model = Gated(4, draw_from)
    with torch.no_grad():
        model.up.weight[0] = 0
        model.up.bias[0] = 0
    return model.eval()


@given(st.integers(2, 6), st.sampled_from(["sequential", "independent"]))
def test_zero_channels_need_no_repair(inner, mode):
    """What removes nothing from any layer's result is repaired by nothing."""
    model, x = dead(inner), torch.randn(32, 5)
    plan = dg.cut(dg.trace(model, x[:2]), "up.weight", [0], dim=0)
    small, _ = repaired(plan, model, [x], mode=mode)
    for (name, one), two in zip(small.named_parameters(), dg.execute(plan, model).parameters(), strict=True):
        assert torch.allclose(one, two, atol=1e-6), name


class Breaks(Exception):
    """What a test's own operator raises."""


@pytest.mark.parametrize("mode", ["sequential", "independent"])
def test_a_failure_anywhere_leaves_the_model_as_it_was(mode):
    """An exception at each call of forward in turn, in the original, the pruned network and the comparison."""

    class Counting(Gated):
        def forward(self, x):
            type(self).calls += 1
            if type(self).calls == type(self).stop:
                raise Breaks
            return super().forward(x)

    Counting.calls, Counting.stop = 0, -1
    torch.manual_seed(0)
    model, batches = Counting(4, 6).eval(), [torch.randn(8, 5) for _ in range(3)]
    plan = dg.cut(dg.trace(model, batches[0]), "up.weight", [0, 3], dim=0)
    before = testing.snapshot(model)
    Counting.calls = 0
    dg.refit(plan, model, batches, mode=mode)
    total = Counting.calls
    assert total >= 5
    for stop in range(1, total + 1):
        Counting.calls, Counting.stop = 0, stop
        with pytest.raises(Breaks):
            dg.refit(plan, model, batches, mode=mode)
        assert testing.snapshot(model) == before, stop


@given(cases())
@settings(deadline=None)
def test_a_repair_in_place_is_that_of_a_copy(case):
    """`execute_` writes what `execute` writes; a repair of other weights is refused, and nothing is changed."""
    model, _, plan, shape = case
    assume(plan.cuts)
    model.eval()
    repair = dg.refit(plan, model, [torch.randn(6, *shape)])
    small = dg.execute(plan, model, repair=repair)
    other = copy.deepcopy(model)
    with torch.no_grad():
        next(other.parameters()).add_(1)
    before = testing.snapshot(other)
    with pytest.raises(dg.errors.MismatchError, match="made from other weights"):
        dg.execute_(plan, other, repair=repair)
    assert testing.snapshot(other) == before
    dg.execute_(plan, model, repair=repair)
    for (name, one), (_, two) in zip(model.state_dict().items(), small.state_dict().items(), strict=True):
        assert torch.equal(one, two), name


# elements that leave lists


class Idle(test_drops.Stack):
    """Residual blocks of which one adds nothing, and in another half of the inner channels are combinations of the others."""

    def __init__(self, way, idle, doubled):
        super().__init__(["relu"] * 4, way)
        blocks = list(self.blocks.children())
        with torch.no_grad():
            for tensor in blocks[idle].outer.parameters():
                tensor.zero_()
            for tensor in blocks[doubled].inner.parameters():
                tensor[3:] = tensor[:3] * torch.tensor([0.5, 1.0, 2.0]).view(3, *(1,) * (tensor.ndim - 1))
        self.eval()


@st.composite
def with_idle_blocks(draw):
    """Such a network, and a plan that takes both."""
    torch.manual_seed(draw(st.integers(0, 2**16)))
    idle, doubled = draw(st.permutations(range(4)))[:2]
    model = Idle(draw(st.sampled_from(test_drops.WAYS)), idle, doubled)
    graph = dg.trace(model, test_drops.X)
    element = list(model.blocks._modules)[doubled]
    cut = dg.cut(graph, f"blocks.{element}.inner.weight", [3, 4, 5], dim=0)
    return cut.then(dg.drop(cut.apply(graph), "blocks", [idle])), model


def made_up_for(plan, model, mode):
    """The repaired network is the original on all inputs, and the names of the repair are those of the original."""
    x = torch.randn(96, 3, 4, dtype=torch.float64)
    small, repair = repaired(plan, model.double(), [x[:64]], mode=mode, ridges=[1e-8], dtype=torch.float64)
    same_outputs(model, small, x[64:])
    assert repair.values.keys() <= model.state_dict().keys()
    assert all(plan.name_after(layer.weight) is not None for layer in repair.layers), "a layer that left was repaired"


@settings(max_examples=20)
@given(with_idle_blocks(), st.sampled_from(["sequential", "independent"]))
def test_layers_behind_a_gap_are_repaired_under_their_own_names(case, mode):
    """Elements move up, such as layers.7 to layers.6; what is solved for them is written to them."""
    plan, model = case
    made_up_for(plan, model, mode)


@pytest.mark.parametrize("mode", ["sequential", "independent"])
def test_names_of_the_result_are_refuted(monkeypatch, mode):
    """Taken for names of the original, those of the pruned model lead to other layers."""
    torch.manual_seed(0)
    model = Idle("list", 0, 2)
    graph = dg.trace(model, test_drops.X)
    cut = dg.cut(graph, "blocks.2.inner.weight", [3, 4, 5], dim=0)
    plan = cut.then(dg.drop(cut.apply(graph), "blocks", [0]))
    made_up_for(plan, model, mode)
    monkeypatch.setattr(refit, "base_names", lambda plan, model: {name: name for name in model.state_dict()})
    refuted(made_up_for, plan, model, mode, by=(AssertionError, RuntimeError, KeyError))


@settings(max_examples=10)
@given(with_idle_blocks())
def test_what_layers_will_miss_leaves_out_those_that_leave(case):
    """From moments alone, of the layers that stay: those that the repair solves, with the same errors."""
    plan, model = case
    moments = dg.moments.collect(model, [torch.randn(40, 3, 4)])
    found, repair = dg.reconstruction_error(plan, moments, model), dg.refit(plan, model, moments)
    assert found.layers == repair.layers
    assert all(plan.name_after(layer.weight) is not None for layer in found.layers)
