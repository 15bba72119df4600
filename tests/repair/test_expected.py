"""What repaired layers will miss, from moments: the numbers of the repair itself, and of least squares."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import depgraph as dg
from depgraph.moments import Moments, collect
from tests.laws.refuting import refuted

pytestmark = pytest.mark.models


def made(seed=0):
    """Three layers, a plan that halves both widths, rows, and moments."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3)).double()
    x = torch.randn(400, 6, dtype=torch.float64)
    graph = dg.trace(model, x[:2])
    plan = dg.plan(graph, dg.score(graph, model, dg.Magnitude()), ratio=0.5)
    return model, graph, plan, x, collect(model, [x], dtype=torch.float64)


def is_what_the_repair_tells(found, repair):
    """Layer by layer, before and after, and in total."""
    assert found.layers == repair.layers
    assert found.total == pytest.approx(sum(layer.held_out[1] for layer in repair.layers))
    assert found.unrepaired == pytest.approx(sum(layer.held_out[0] for layer in repair.layers))
    assert [found[layer.weight] for layer in repair.layers] == [layer.held_out[1] for layer in repair.layers]


@settings(max_examples=10)
@given(seed=st.integers(0, 10**6))
def test_the_repair_finds_what_was_foretold(seed):
    """Without a forward and without writing anything."""
    model, graph, plan, _, known = made(seed)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = dg.reconstruction_error(plan, known, model)
    is_what_the_repair_tells(found, dg.refit(plan, model, known))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert found.total <= found.unrepaired
    less = dg.plan(graph, dg.score(graph, model, dg.Magnitude()), ratio=0.25)
    refuted(is_what_the_repair_tells, found, dg.refit(less, model, known))


def test_one_layer_by_hand():
    """The residual of least squares on the fitted rows, judged by the others, as a share of their variance."""
    model, graph, _, x, known = made()
    plan = dg.cut(graph, "0.weight", [1, 2, 5], dim=0)
    found = dg.reconstruction_error(plan, known, model, ridges=[0.0])
    with torch.no_grad():
        read = model[1](model[0](x))
        wanted = model[2](read)
    kept = [index for index in range(12) if index not in (1, 2, 5)]
    known_rows = torch.cat([read[:, kept], torch.ones(400, 1, dtype=x.dtype)], 1)
    best = torch.linalg.lstsq(known_rows[:300], wanted[:300]).solution
    missed = (wanted - known_rows @ best)[300:].square().sum()
    expected = float(missed / (wanted[300:] - wanted[300:].mean(0)).square().sum())
    assert [layer.weight for layer in found.layers] == ["2.weight"]
    assert found["2.weight"] == pytest.approx(expected, rel=1e-6)
    assert found.total == found["2.weight"]
    assert (found["0.weight"], found["4.weight"]) == (0, 0)
    assert dg.reconstruction_error(dg.Plan.empty(graph), known, model).total == 0


def test_layers_without_held_out_rows_are_told():
    """They are not in the totals."""
    model, _, plan, x, _ = made()
    found = dg.reconstruction_error(plan, collect(model, [x], holdout=0), model)
    assert (found.layers, found.total) == ((), 0)
    assert dict(found.left).keys() == {"2.weight", "4.weight"}
    with pytest.raises(TypeError):
        found.left["0.weight"] = "changed"


def test_moments_of_other_weights_and_plans_of_other_models_are_refused():
    """Both before anything is computed."""
    model, _, plan, x, known = made()
    other = collect(made(1)[0], [x])
    with pytest.raises(dg.errors.MismatchError, match="collected from other weights"):
        dg.reconstruction_error(plan, other, model)
    with pytest.raises(dg.errors.MismatchError):
        dg.reconstruction_error(plan, known, nn.Sequential(nn.Linear(6, 4)))
    damaged = Moments(known.source, known.layers, {"0.weight": known.fitted["2.weight"]}, known.held_out, known.left)
    with pytest.raises(dg.errors.MismatchError, match=r"'0\.weight' have another shape"):
        dg.reconstruction_error(plan, damaged, model)
