"""Biases for layers that have none: by their mean, what goes is made up for exactly where it is constant."""

import copy

import pytest
import torch
from torch import nn

import depgraph as dg
from depgraph import testing
from depgraph.errors import MismatchError, PlanError


def _case(kind=nn.Linear):
    """Two layers without biases, of which the first gives two constants beside what it reads."""
    torch.manual_seed(0)
    options = {} if kind is nn.Linear else {"kernel_size": 1}
    model = nn.Sequential(
        kind(4, 6, **options), nn.Softplus(), kind(6, 5, bias=False, **options), kind(5, 3, bias=False, **options)
    )
    model[0].weight.data[4:] = 0
    x = torch.randn(64, 4) if kind is nn.Linear else torch.randn(16, 4, 3, 3)
    return model, x, dg.cut(dg.trace(model, x[:2]), "0.weight", [4, 5], dim=0)


@pytest.mark.parametrize("kind", [nn.Linear, nn.Conv2d])
@pytest.mark.parametrize("mode", ["independent", "sequential"])
def test_constants_that_go_are_made_up_for_by_a_new_bias(kind, mode):
    """On new inputs, too; without the option something is missing, and no bias comes."""
    model, x, plan = _case(kind)
    before = testing.snapshot(model)
    repair = dg.refit(plan, model, [x], mode=mode, add_bias=True, dtype=torch.float64)
    assert repair.added == ("2.bias",) and "2.bias: added" in str(repair)
    assert testing.snapshot(model) == before
    small, new = dg.execute(plan, model, repair=repair), torch.randn_like(x)
    torch.testing.assert_close(small(new), model(new))
    assert small[2].bias.requires_grad and small[3].bias is None
    plain = dg.refit(plan, model, [x], mode=mode)
    assert not plain.added and dg.execute(plan, model, repair=plain)[2].bias is None
    assert not torch.allclose(dg.execute(plan, model)(new), model(new), atol=1e-3)


def test_outputs_that_go_have_no_bias():
    """A layer may lose inputs and outputs: its new bias has the outputs that stay."""
    model, x, plan = _case()
    both = dg.cut(dg.trace(model, x[:2]), "2.weight", [1], dim=0)
    graph = dg.trace(model, x[:2])
    plan = plan.then(dg.cut(plan.apply(graph), "2.weight", [1], dim=0))
    assert both.kept["2.weight"] != plan.kept["2.weight"]
    repair = dg.refit(plan, model, [x], add_bias=True)
    assert repair.values["2.bias"].shape == (4,) and dg.execute(plan, model, repair=repair)(x).shape == (64, 3)


def test_in_place_and_from_a_file_it_is_the_same(tmp_path):
    """The state dict of the one loads into the other, and has the new name."""
    model, x, plan = _case()
    repair = dg.refit(plan, model, [x], add_bias=True)
    repair.save(tmp_path / "repair.safetensors")
    read = type(repair).load(tmp_path / "repair.safetensors")
    small, own = dg.execute(plan, model, repair=read), copy.deepcopy(model)
    dg.execute_(plan, own, repair=repair)
    assert "2.bias" in small.state_dict()
    own.load_state_dict(small.state_dict())
    assert torch.equal(own(x), small(x))


def test_where_nobody_would_read_it_it_is_refused(tmp_path):
    """A checkpoint, moments, another step, and a layer that has a bias meanwhile; nothing is changed."""
    model, x, plan = _case()
    repair = dg.refit(plan, model, [x], add_bias=True)
    torch.save(model.state_dict(), tmp_path / "model.pt")
    with pytest.raises(
        MismatchError, match=r"'2\.bias': the repair adds this bias, of which a model that reads the checkpoint"
    ):
        dg.prune_checkpoint(plan, tmp_path / "model.pt", tmp_path / "small.pt", repair=repair)
    assert not (tmp_path / "small.pt").exists()
    with pytest.raises(PlanError, match="without new biases: leave out add_bias=True"):
        dg.refit(plan, model, dg.moments.collect(model, [x]), add_bias=True)
    options = {"steps": 1, "target": {"ratio": 0.4}, "repair": lambda plan, model: dg.refit(plan, model, [x], add_bias=True)}
    steps = dg.iterate(model, x[:2], dg.Magnitude(p=2), **options)
    with pytest.raises(PlanError, match="the next step would not know them"):
        list(steps)
    model[2].bias = nn.Parameter(torch.zeros(5))
    before = testing.snapshot(model)
    with pytest.raises(MismatchError, match="the model has no layer without a bias '2'"):
        dg.execute_(plan, model, repair=repair)
    assert testing.snapshot(model) == before
