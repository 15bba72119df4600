"""Recurrent layers keep their weights in a flat list beside their parameters, and on a GPU in one block of memory."""

import pytest
import torch
from torch import nn

import depgraph as dg


class Counting(nn.LSTM):
    """Counts how often its weights are laid out."""

    times = 0

    def flatten_parameters(self):
        super().flatten_parameters()
        self.times += 1


class Two(nn.Module):
    """Two recurrent layers, one behind the other."""

    def __init__(self):
        super().__init__()
        self.a, self.b = Counting(4, 6, batch_first=True), Counting(6, 5, batch_first=True)
        self.head = nn.Linear(5, 2)

    def forward(self, x):
        return self.head(self.b(self.a(x)[0])[0])


@pytest.mark.parametrize("in_place", [False, True])
def test_weights_are_laid_out_before_the_first_forward(in_place):
    """A forward has nothing left to lay out, where an export or a captured graph of a GPU must not write.

    In place only a layer that was cut is laid out anew.
    """
    model, x = Two().eval(), torch.randn(2, 7, 4)
    plan = dg.cut(dg.trace(model, x), "head.weight", [1, 3], dim=1)
    assert {name.partition(".")[0] for name in plan.kept} == {"b", "head"}
    with dg.mask_(plan, model):
        expected = model(x)
    before = model.a.times, model.b.times
    if in_place:
        dg.execute_(plan, model)
        assert (model.a.times, model.b.times) == (before[0], before[1] + 1)
    small = model if in_place else dg.execute(plan, model)
    laid_out = small.a.times, small.b.times
    torch.testing.assert_close(small(x), expected)
    assert (small.a.times, small.b.times) == laid_out
    assert all(
        held is small.b.get_parameter(name)
        for held, name in zip(small.b._flat_weights, small.b._flat_weights_names, strict=True)
    )
    assert small.b.weight_hh_l0.shape == (4 * 3, 3)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("in_place", [False, True])
def test_weights_lie_in_one_block_on_a_gpu(in_place):
    """All weights of a cut layer are views of one storage, as cuDNN wants them."""
    model, x = Two().eval().cuda(), torch.randn(2, 7, 4, device="cuda")
    plan = dg.cut(dg.trace(model, x), "head.weight", [1, 3], dim=1)
    small = dg.execute(plan, model)
    if in_place:
        dg.execute_(plan, model)
        small = model
    assert len({weight.untyped_storage().data_ptr() for weight in small.b._flat_weights}) == 1
