"""State of optimizers: what is carried along beside moments, and which forms are refused."""

import pytest
import torch
from torch import nn

import depgraph as dg


def trained():
    """A model, a plan of it, and its optimizer after one step."""
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), torch.randn(5, 3)
    plan = dg.cut(dg.trace(model, x), "0.weight", [1], dim=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(x).sum().backward()
    optimizer.step()
    return model, plan, optimizer


def test_further_entries_of_a_state_dict_are_carried():
    """Optimizers add entries of their own, which may sort before or behind the state; the carried ones are copies."""
    model, plan, optimizer = trained()
    entries = {"averages": [1.0], "version": [2]}
    optimizer.register_state_dict_post_hook(lambda optimizer, state: {**state, **entries})
    carried = dg.optimizers.carry_state(plan, model, optimizer)
    assert {name: carried[name] for name in entries} == entries
    assert all(carried[name] is not entry for name, entry in entries.items())


@pytest.mark.parametrize("shape", [(4, 7), (7, 3), (4, 3, 2), (12,), (4,)])
def test_a_state_of_another_form_is_refused(shape):
    """Which of its numbers belong to which index is not known."""
    model, plan, optimizer = trained()
    optimizer.state[model[0].weight]["sketch"] = torch.zeros(shape)
    with pytest.raises(dg.errors.MismatchError) as caught:
        dg.optimizers.carry_state(plan, model, optimizer)
    assert caught.value.problems == (f"'0.weight': 'sketch' has shape {shape}, the parameter (4, 3)",)


@pytest.mark.parametrize(("shape", "smaller"), [((4, 3), (3, 3)), ((4, 1), (3, 1)), ((1, 3), (1, 3)), ((), ()), ((1,), (1,))])
def test_a_number_for_each_weight_row_or_column_is_cut(shape, smaller):
    """An axis of size 1 stands for all indices, and stays."""
    model, plan, optimizer = trained()
    optimizer.state[model[0].weight]["scale"] = torch.ones(shape)
    carried = dg.optimizers.carry_state(plan, model, optimizer)
    assert tuple(carried["state"][0]["scale"].shape) == smaller
