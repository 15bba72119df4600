"""Execution in place that empties what it replaces: the same model, all or nothing, and little memory."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import depgraph as dg
from depgraph import testing
from depgraph.execution import releasing
from tests.execution.test_interrupted import WRITERS, hoarding, interrupted, recurrent, state, tied, trained

ROOT = Path(__file__).parents[2]
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.bool, torch.complex64)


@st.composite
def cuts(draw):
    """A tensor of any layout, and indices that stay of some of its dimensions."""
    shape = draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    dims = draw(st.sets(st.sampled_from(range(len(shape))), min_size=1))
    order = draw(st.permutations(range(len(shape))))
    dtype = draw(st.sampled_from(DTYPES))
    seed = draw(st.integers(0, 99))
    values = torch.randn([shape[dim] for dim in order], generator=torch.Generator().manual_seed(seed)).mul(9).to(dtype)
    kept = {dim: sorted(draw(st.sets(st.integers(0, shape[dim] - 1), min_size=1))) for dim in sorted(dims)}
    tensor = values.permute([order.index(dim) for dim in range(len(shape))])
    return tensor, {dim: torch.tensor(indices) for dim, indices in kept.items()}


def assert_comes_back(tensor, positions):
    """What is taken is what index by index is there; afterwards the tensor is empty, and then as it was, to the bit."""
    bits, stride, expected = testing.tensor_bytes(tensor), tensor.stride(), tensor.clone()
    for dim, index in positions.items():
        expected = expected.index_select(dim, index)
    wanted = testing.tensor_bytes(expected)
    releases = releasing.Releasing()
    taken = releases.taken(tensor, positions)
    assert testing.tensor_bytes(taken) == wanted and tensor.numel() == 0
    releases.undo()
    assert testing.tensor_bytes(tensor) == bits and tensor.stride() == stride
    assert testing.tensor_bytes(taken) == wanted


@given(cuts())
def test_what_is_taken_and_what_is_left_make_up_the_whole(cut):
    """Of every dtype, order in memory and set of dimensions; NaN and negative zero are bits like others."""
    tensor, positions = cut
    if tensor.dtype.is_floating_point:
        tensor[(0,) * tensor.ndim], tensor[(-1,) * tensor.ndim] = float("nan"), -0.0
    assert_comes_back(tensor.clone(), positions)  # of its own memory, in the same order


@pytest.mark.parametrize("wrong", ["_rests", "_put"])
def test_the_law_refutes_what_forgets_a_part(monkeypatch, wrong):
    """Without the blocks that go, or without writing them, the tensor is another one."""
    monkeypatch.setattr(releasing, wrong, lambda *args: ())
    with pytest.raises(AssertionError):
        assert_comes_back(torch.ones(3, 4), {0: torch.tensor([1]), 1: torch.tensor([0, 2])})


def test_what_something_else_shares_keeps_its_values():
    """A view, a part of a flat buffer, and a tensor of a class of its own are cut as ever."""
    flat, own = torch.arange(12.0), torch.ones(2, 3)
    view = own[0]
    for tensor in (flat[:6].view(2, 3), own, torch.ones(2, 3).as_subclass(type("Mine", (torch.Tensor,), {}))):
        assert releasing.Releasing().taken(tensor, {0: torch.tensor([1])}).shape == (1, 3)
        assert tensor.shape == (2, 3)
    assert view.tolist() == [1, 1, 1]


def content(model):
    """All tensors with their memory order and bits, and the sizes that modules name."""
    tensors = {
        name: (tensor.stride(), testing.tensor_bytes(tensor))
        for name, tensor in (*model.named_parameters(remove_duplicate=False), *model.named_buffers())
    }
    return tensors, repr(model)


def without_gradients(make):
    model, x, plan, optimizer = trained(make)
    optimizer.zero_grad()
    return model, x, plan, optimizer


@pytest.mark.parametrize("make", [hoarding, recurrent, tied])
def test_the_result_is_that_of_execute(make):
    """Bits, strides, ties and hooks; what was replaced is empty, and leads to what stands in its place."""
    model, x, plan, _ = without_gradients(make)
    expected = dg.execute(plan, model)
    old = dict(model.named_parameters())
    replaced = dg.execute_(plan, model, release=True)
    assert torch.equal(model(x), expected(x)) and content(model) == content(expected)
    for name, new in model.named_parameters():
        assert old[name] is new or (replaced[old[name]] is new and old[name].numel() == 0)


def test_channels_last_and_buffers():
    """Memory formats stay, running statistics are cut, and a model on the meta device is, too."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 3)).eval()
    model.to(memory_format=torch.channels_last)
    plan = dg.cut(dg.trace(model, torch.zeros(1, 3, 8, 8)), "0.weight", [2, 6], dim=0)
    expected = dg.execute(plan, model)
    empty = dg.execute(dg.Plan.empty(dg.trace(model, torch.zeros(1, 3, 8, 8))), model).to("meta")
    dg.execute_(plan, empty, release=True)
    assert {n: t.shape for n, t in empty.state_dict().items()} == {n: t.shape for n, t in expected.state_dict().items()}
    dg.execute_(plan, model, release=True)
    assert content(model) == content(expected)
    assert model[2].weight.is_contiguous(memory_format=torch.channels_last)


class Residual(nn.Module):
    """A block that may leave."""

    def __init__(self):
        super().__init__()
        self.inner, self.outer = nn.Linear(4, 6), nn.Linear(6, 4)

    def forward(self, x):
        return x + self.outer(torch.relu(self.inner(x)))


def test_elements_that_leave():
    """What a plan drops keeps its values, for nothing takes its place; the others are cut and come back if need be."""
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(3, 4), Residual(), Residual(), Residual()), torch.randn(2, 3)
    first = dg.drop(dg.trace(model, x), "", [2])
    plan = first.then(dg.cut(first.apply(dg.trace(model, x)), "1.inner.weight", [0, 5], dim=0))
    expected, dropped, before, line = dg.execute(plan, model), model[2].inner.weight, state([model], {}), 1
    while interrupted(lambda: dg.execute_(plan, model, release=True), 40 * line, WRITERS):
        assert state([model], {})[1] == before[1]
        line += 1
    assert line > 2 and content(model) == content(expected) and dropped.shape == (6, 4)


@pytest.mark.models
@pytest.mark.parametrize("make", [hoarding, tied])
def test_an_interruption_at_any_line_brings_everything_back(make):
    """Every bit of what was emptied, in the same objects."""
    model, x, plan, optimizer = without_gradients(make)
    before, line = state([model, optimizer], {}), 1
    writers = (*WRITERS, "depgraph/execution/releasing.py")
    while interrupted(lambda: dg.execute_(plan, model, release=True), line, writers):
        assert state([model, optimizer], {})[1] == before[1], f"interrupted before line {line}"
        line += 1
    assert line > 40 and state([model, optimizer], {})[1] != before[1]
    model(x)


def test_what_could_not_be_brought_back_is_refused():
    """Gradients and a repair; nothing was changed."""
    model, x, plan, optimizer = trained(tied)
    before = state([model], {})[1]
    with pytest.raises(dg.errors.PlanError, match=r"gradients, of 'embedding.weight' and 0 others; call zero_grad"):
        dg.execute_(plan, model, release=True)
    repair = dg.refit(plan, model, [x, x], holdout=0.5)
    optimizer.zero_grad()
    with pytest.raises(dg.errors.PlanError, match="met repair="):
        dg.execute_(plan, model, repair=repair, release=True)
    optimizer.zero_grad()
    assert state([model], {})[1] != before and model(x).shape == (1, 3, 20)


@pytest.mark.models
def test_beside_the_model_there_is_no_more_than_its_largest_tensor():
    """Measured in a process of its own, and that it is the option that does it."""
    script = str(ROOT / "docs/benchmarks/memory.py")
    run = subprocess.run([sys.executable, script, "--test"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    rows = json.loads(run.stdout)
    for row in rows.values():
        assert row["release"] <= 1.1 * row["largest"] + 3 * 2**22 < row["plain"]
