"""Layers too wide for double precision, or for working on all of their outputs together."""

import pytest
import torch
from torch import nn

import depgraph as dg
from depgraph.moments import sums
from depgraph.moments.sums import Sums
from depgraph.repair import ridge


def _repaired(bias):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 12), nn.Tanh(), nn.Linear(12, 5, bias=bias))
    x = torch.randn(90, 4)
    graph = dg.trace(model, x)
    plan = dg.plan(graph, dg.score(graph, model, dg.Magnitude(p=2)), ratio=0.5)
    return dg.refit(plan, model, list(x.split(30)), mode="independent")


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("at_once", [1, 24, 36])
def test_outputs_worked_on_in_parts_give_the_same_repair(monkeypatch, bias, at_once):
    """One output together, two, three with a rest of two, or all: the values and the errors are the same."""
    whole = _repaired(bias)
    monkeypatch.setattr(ridge, "AT_ONCE", at_once)
    parts = _repaired(bias)
    torch.testing.assert_close(dict(parts.values), dict(whole.values))
    for one, other in zip(parts.layers, whole.layers, strict=True):
        assert one.choice == other.choice
        assert (*one.fitted, *one.held_out) == pytest.approx((*other.fitted, *other.held_out))


@pytest.mark.parametrize("widest", [1, 4096])
@pytest.mark.parametrize("stripe", [1, 2, 3, 256])
def test_sums_are_added_in_place_by_half(monkeypatch, widest, stripe):
    """A wide layer has no room for two matrices of its inputs by its inputs; what is below the diagonal mirrors the rest."""
    rows = torch.arange(20.0).view(1, 4, 5).sin()
    monkeypatch.setattr(sums, "WIDEST_IN_DOUBLE", widest)
    monkeypatch.setattr(sums, "STRIPE", stripe)
    first = Sums.none(rows).with_half_of(rows[:, :2])
    both = first.with_half_of(rows[:, 2:]).mirrored()
    assert both.products.data_ptr() == first.products.data_ptr()
    assert both.products.dtype == (torch.float32 if widest == 1 else torch.float64)
    assert both.count == 4
    torch.testing.assert_close(both.total, rows.sum(1).to(both.total))
    torch.testing.assert_close(both.products, (rows.mT @ rows).to(both.products), rtol=1e-5, atol=1e-6)


def test_a_singular_matrix_is_factorised_again_from_what_it_was():
    """The first attempt overwrites its copy alone; the note tells what was added."""
    x = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])[None].double()
    moved, note = ridge._divided(torch.ones(1, 1, 2).double(), lambda: x.clone() - 1e-13 * torch.eye(2).double(), 0.0)
    assert "singular" in note and torch.isfinite(moved).all()
