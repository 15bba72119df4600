"""Masks: exact values, marks, refusals, and models that are held in unusual ways."""

import pytest
import torch
from torch import nn

import depgraph as dg
from depgraph import testing
from tests import networks


def chain():
    """Conv, BatchNorm, ReLU, Conv."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3)).eval()
    nn.init.normal_(model[1].bias)
    return model


X = torch.randn(2, 3, 8, 8)


def planned(model, x=X, name="0.weight", indices=(1, 4)):
    """A plan by hand for the chain."""
    return dg.cut(dg.trace(model, x), name, list(indices), dim=0)


def test_exact_values():
    """Producing rows, scale, shift and consuming slices are zero; everything else, buffers included, is the original."""
    model = chain()
    masked = dg.mask(planned(model), model)
    gone, kept = [1, 4], [0, 2, 3, 5]
    for tensor in (masked[0].weight, masked[0].bias, masked[1].weight, masked[1].bias):
        assert not tensor[gone].any() and tensor[kept].all()
    assert not masked[3].weight[:, gone].any()
    assert torch.equal(masked[3].weight[:, kept], model[3].weight[:, kept])
    assert torch.equal(masked[3].bias, model[3].bias)
    assert torch.equal(masked[1].running_var, model[1].running_var)
    assert (masked[0].out_channels, masked[3].in_channels) == (6, 6)
    assert not masked[2](masked[1](masked[0](X)))[:, gone].any()


def test_marks_are_kept_and_nothing_is_shared():
    """Type, flags and gradients stay as in `execute`; writing to the copy does not reach the original."""
    model = chain().to(torch.bfloat16).train()
    model[3].bias.requires_grad_(False)
    model(X.bfloat16()).sum().backward()
    before = testing.snapshot(model)
    masked = dg.mask(planned(chain()), model)
    assert all(p.dtype == torch.bfloat16 for p in masked.parameters())
    assert masked.training and not masked[3].bias.requires_grad and masked[0].weight.requires_grad
    assert torch.equal(masked[0].weight.grad, model[0].weight.grad)
    with torch.no_grad():
        for tensor in (*masked.parameters(), *masked.buffers()):
            tensor.zero_()
    assert testing.snapshot(model) == before


@pytest.mark.parametrize("in_place", [False, True])
def test_a_foreign_plan_is_refused_whole(in_place):
    """The same check as in `execute`: every mismatch at once, and nothing written."""
    plan = planned(chain())
    other = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Linear(2, 2))
    before = testing.snapshot(other)
    with pytest.raises(dg.errors.MismatchError, match=r"'0.weight': expected size 6 in dimension 0, met shape") as caught:
        (dg.mask_ if in_place else dg.mask)(plan, other)
    assert len(caught.value.problems) >= 8 and testing.snapshot(other) == before
    with pytest.raises(dg.errors.PlanError, match=r"expected a Plan and an nn.Module, in this order, met \(Sequential, Plan\)"):
        (dg.mask_ if in_place else dg.mask)(other, plan)


def test_a_failure_in_the_middle_is_undone():
    """A parameter that refuses to be written leaves those before it as they were."""
    model = chain()
    plan = planned(model)
    model[3].weight = nn.Parameter(torch.ones(1, 6, 1, 1).expand(4, 6, 3, 3))
    before = [tensor.clone() for tensor in model.parameters()]
    with pytest.raises(RuntimeError, match="refers to a single memory location"):
        dg.mask_(plan, model)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_a_with_block_restores_after_an_error():
    """The mask comes off when the block raises; restoring again does nothing."""
    model = chain()
    before = [tensor.clone() for tensor in model.parameters()]
    with pytest.raises(KeyError), dg.mask_(planned(model), model) as held:
        assert not model[0].bias[1]
        raise KeyError
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    model[0].bias.data.fill_(7.0)
    held.restore()
    assert model[0].bias[1] == 7.0


def test_a_mask_is_not_taken_off_another_model():
    """Once the masked model was executed in place, there is nothing to restore into."""
    model = chain()
    plan = planned(model)
    held = dg.mask_(plan, model)
    dg.execute_(plan, model)
    with pytest.raises(dg.errors.MismatchError, match=r"'0.weight' is another tensor"):
        held.restore()


def test_what_was_trained_under_a_mask_stays():
    """Restoring writes the zeroed numbers only."""
    model = chain()
    before = model[0].weight.detach().clone()
    with dg.mask_(planned(model), model), torch.no_grad():
        model[0].weight[0] += 1
    assert torch.equal(model[0].weight[0], before[0] + 1) and torch.equal(model[0].weight[1:], before[1:])


def test_tied_weights_are_masked_once():
    """An embedding and the head that shares its weight stay one tensor with one mask."""
    model = nn.ModuleDict({"embedding": nn.Embedding(20, 8), "head": nn.Linear(8, 20, bias=False)})
    model["head"].weight = model["embedding"].weight
    model.forward = lambda tokens: model["head"](torch.relu(model["embedding"](tokens)))
    plan = dg.cut(dg.trace(model, torch.tensor([[1, 2]])), "head.weight", [0, 7], dim=1)
    before = model["head"].weight.detach().clone()
    masked = dg.mask(plan, model)
    assert masked["head"].weight is masked["embedding"].weight
    assert not masked["head"].weight[:, [0, 7]].any() and masked["head"].weight[:, 1:7].all()
    with dg.mask_(plan, model):
        assert not model["head"].weight[:, [0, 7]].any()
    assert torch.equal(model["head"].weight, before)


def test_models_on_the_meta_device_are_masked_without_data():
    """Shapes stay, and there is nothing to see."""
    with torch.device("meta"):
        model = chain()
    plan = planned(model)
    assert dg.mask(plan, model)[0].weight.is_meta
    with dg.mask_(plan, model):
        assert model[0].weight.is_meta


def test_complex_parameters_are_masked():
    """Real and imaginary parts go and come back."""
    model = nn.Sequential(nn.Linear(3, 4, dtype=torch.complex64), nn.Linear(4, 2, dtype=torch.complex64))
    x = torch.randn(2, 3, dtype=torch.complex64)
    plan, before = dg.cut(dg.trace(model, x), "0.weight", [2], dim=0), model[0].weight.detach().clone()
    with dg.mask_(plan, model):
        assert not model[0].weight[2].any() and not model[1].weight[:, 2].any()
        torch.testing.assert_close(model(x), dg.execute(plan, model)(x))
    assert torch.equal(model[0].weight, before)


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("norm", [torch.nn.utils.weight_norm, torch.nn.utils.parametrizations.weight_norm])
def test_weight_normalised_rows_lose_their_gain_and_keep_their_direction(norm):
    """A row of zeros divided by its length is not a number; a gain of zero is enough."""
    torch.manual_seed(0)
    model, x = nn.Sequential(norm(nn.Linear(4, 8)), nn.ReLU(), norm(nn.Linear(8, 3))), torch.randn(2, 4)
    plan = dg.cut(dg.trace(model, x), "0.bias", [1, 5], dim=0)
    masked = dg.mask(plan, model)
    torch.testing.assert_close(masked(x), dg.execute(plan, model)(x))
    assert not torch.allclose(masked(x), model(x))


def test_a_parametrisation_without_a_gain_is_masked_as_any_parameter():
    """Only weight norm has directions that stay; the rows of any other original are zeroed."""
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    torch.nn.utils.parametrize.register_parametrization(model[0], "weight", nn.Tanh())
    masked = dg.mask(planned(model, torch.randn(5, 3), "0.parametrizations.weight.original", (1, 3)), model)
    original = masked[0].parametrizations.weight.original
    assert original.any(1).tolist() == masked[0].weight.any(1).tolist() == [True, False, True, False]


def test_recurrent_layers_are_masked():
    """An LSTM computes with the masked weights, as its pruned twin does, and with the old ones afterwards."""
    torch.manual_seed(0)
    model = networks.SequenceClassifier().eval().double()
    tokens = torch.randint(0, 50, (2, 7))
    graph = dg.trace(model, tokens)
    plan = dg.plan(graph, dg.score(graph, model, dg.criteria.Random(0)), ratio=0.5)
    expected, small = model(tokens), dg.execute(plan, model)(tokens)
    torch.testing.assert_close(dg.mask(plan, model)(tokens), small)
    with dg.mask_(plan, model):
        torch.testing.assert_close(model(tokens), small)
    assert torch.equal(model(tokens), expected)


def test_autograd_notices_a_mask_between_forward_and_backward():
    """Weights that a backward needs were changed in place: PyTorch refuses instead of computing with the wrong ones."""
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    x = torch.randn(2, 3)
    plan = dg.cut(dg.trace(model, x), "0.weight", [1], dim=0)
    loss = model(x).sum()
    dg.mask_(plan, model)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_wrapped_models_are_masked_inside():
    """The module inside a wrapper is masked and restored."""
    model = chain()
    wrapped = nn.DataParallel(model)
    with dg.mask_(planned(model), wrapped):
        assert not model[0].bias[1]
    assert model[0].bias[1]
    assert type(dg.mask(planned(model), wrapped)) is nn.Sequential
