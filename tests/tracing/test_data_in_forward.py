"""Forwards that read data in every way Python has: which mode they take, what they pin, and that nothing is left changed."""

import dataclasses
import random

import numpy
import pytest
import torch
from torch import nn

import depgraph as dg
from depgraph import testing
from tests.zoo import plain_routing

X = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))


class Between(nn.Module):
    """A function of the module and the features between two linear layers."""

    def __init__(self, function) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 2)
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(self.function(self, torch.relu(self.a(x))))


def between(function) -> Between:
    """The same weights each time, in evaluation mode."""
    torch.manual_seed(0)
    return Between(function).eval()


READS = {
    "item": lambda self, h: h * h.sum().item(),
    "int": lambda self, h: h * int(h.sum()),
    "float": lambda self, h: h / (1 + float(h.abs().max())),
    "if": lambda self, h: h * 2 if (h > 0).any() else h,
    "while": lambda self, h: next(h / k for k in (1, 2, 4) if not (h / k).sum() > 1e9),
    "equal": lambda self, h: h * 2 if torch.equal(h, h) else h,
    "allclose": lambda self, h: h * 2 if torch.allclose(h, h) else h,
    "contains": lambda self, h: h if 5.0 in h else h * 2,
    "rows": lambda self, h: h[: max(int((h.sum(1) > 0).sum()), 2)],
    "mask": lambda self, h: h[h.sum(1) > h.sum(1).median()],
    "nonzero": lambda self, h: h[(h.sum(1) >= 0).nonzero()[:, 0]],
    "where": lambda self, h: torch.zeros_like(h).index_add_(0, torch.where(h.sum(1) > 0)[0], h[torch.where(h.sum(1) > 0)[0]]),
    "list of rows": lambda self, h: h * sorted(h.sum(1).tolist())[0],
    "sorted": lambda self, h: h * sorted(h.sum(1))[0],
}


@pytest.mark.parametrize("name", READS)
def test_data_may_decide(name):
    """Forward runs on the example inputs, the channels stay prunable, and removing idle ones decides nothing else."""
    model = between(READS[name])
    graph = testing.assert_pure(model, X)
    assert graph.mode == "real" and [group.name for group in graph.groups] == ["a.weight:0"]
    plan = dg.cut(graph, "a.weight", [0, 3, 4], dim=0)
    testing.assert_zero_channels(graph, plan, model, X)
    with torch.no_grad():
        model.a.weight[[0, 3, 4]], model.a.bias[[0, 3, 4]] = 0.0, 0.0
    small = testing.assert_square(dg.trace(model, X), plan, model, X)
    testing.assert_cost(dg.trace(small, X), small, X)


@pytest.mark.parametrize("name", READS)
def test_fake_tensors_have_no_data(name):
    """With mode='fake' the error names the line and what to do."""
    with pytest.raises(
        dg.errors.TraceError, match=r"reads the data of a tensor .* at tracing/test_data_in_forward.py:\d+; .*mode='real'"
    ):
        dg.trace(between(READS[name]), X, mode="fake")


LEAVES = {
    "numpy": lambda self, h: torch.from_numpy(numpy.tanh(h.numpy())),
    "cpu numpy": lambda self, h: torch.as_tensor(h.detach().cpu().numpy() * 2),
    "asarray": lambda self, h: torch.from_numpy(numpy.asarray(h) + 1),
    "tolist": lambda self, h: h * h.mean(0).tolist()[0],
    "list": lambda self, h: h * torch.tensor(list(h[0])).max(),
    "dlpack": lambda self, h: torch.from_dlpack(h.clone()),
}


@pytest.mark.parametrize("name", LEAVES)
def test_data_that_leave_torch_pin(name):
    """What numpy or a list does with channels is not followed: they stay, and the reason says where they left."""
    model = between(LEAVES[name])
    graph = testing.assert_pure(model, X)
    assert graph.mode == "real" and not graph.groups
    reasons = [pinned.reason for pinned in graph.pinned]
    expected = "takes a fixed position" if name == "list" else "its data leave torch"
    assert any(expected in reason and "test_data_in_forward.py" in reason for reason in reasons)
    with pytest.raises(dg.errors.TraceError, match="reads the data of a tensor"):
        dg.trace(model, X, mode="fake")


def test_an_error_of_forward_is_its_own():
    """Only a lack of data leads to real mode: what the model raises by itself comes through."""
    with pytest.raises(RuntimeError, match="the model says so"):
        dg.trace(between(lambda self, h: (_ for _ in ()).throw(RuntimeError("the model says so"))), X)


def test_meta_models_have_no_data():
    """Real mode on a model without weights is refused by name, before forward runs."""
    with torch.device("meta"):
        model = between(lambda self, h: h)
    with pytest.raises(dg.errors.TraceError, match=r"met a model on the meta device.*Load the whole weights first"):
        dg.trace(model, X, mode="real")
    assert dg.trace(model, X).groups


class Writes(nn.Module):
    """Writes to its parameters, buffers, plain tensors, inputs and lists, and draws from every generator there is."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.drop, self.b = nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 2)
        self.register_buffer("mean", torch.zeros(6))
        self.seen, self.history = torch.zeros(6), [torch.zeros(6)]
        self.generator = torch.Generator().manual_seed(3)
        self.calls = 0

    def forward(self, x: torch.Tensor, more: "Batch") -> torch.Tensor:
        self.calls += 1
        self.a.weight.data.clamp_(-0.1, 0.1)
        self.b.weight.mul_(0.5)
        self.b.bias.copy_(torch.ones(2))
        x.mul_(2)
        more.extra.add_(1)
        h = self.drop(self.norm(self.a(x + more.extra)))
        self.mean.lerp_(h.mean(0), 0.1)
        self.seen += h.sum(0)
        self.history[0].add_(1)
        h = h + torch.rand(1, generator=self.generator) + torch.randn_like(h) + random.random() + numpy.random.rand()
        if h.sum().item() > 1e9:
            return h
        return self.b(h)


@dataclasses.dataclass
class Batch:
    """A tensor beside a number."""

    extra: torch.Tensor
    count: int = 1


def everything(model: Writes, batch: Batch) -> list[object]:
    """What the forward of `Writes` might have moved."""
    held = [*model.state_dict().values(), model.seen, model.history[0], X, batch.extra, torch.random.get_rng_state()]
    versions = [tensor._version for tensor in (*model.parameters(), *model.buffers(), model.seen, X, batch.extra)]
    states = [model.generator.get_state().tolist(), random.getstate(), str(numpy.random.get_state()), model.calls]
    return [[tensor.tolist() for tensor in held], versions, states]


@pytest.mark.parametrize("training", [False, True])
def test_real_mode_writes_nothing(training):
    """Parameters, buffers, other tensors, inputs in dataclasses and all generators are as they were, in value and version."""
    model, batch = Writes().train(training), Batch(torch.randn(5, 4))
    with torch.no_grad():
        before = everything(model, batch)
        graph = dg.trace(model, (X, batch))
        assert graph.mode == "real" and everything(model, batch) == before
        assert dg.trace(model, (X, batch)).fingerprint == graph.fingerprint
        model(X.clone(), batch)
        assert everything(model, batch) != before


def test_real_mode_writes_nothing_when_forward_fails():
    """What was written before an error is put back too."""

    def broken(self, h):
        self.a.weight.data.zero_()
        return h[int(h.sum() * 0) :, 7]

    model = between(broken)
    before = testing.snapshot(model)
    with pytest.raises(IndexError):
        dg.trace(model, X)
    assert testing.snapshot(model) == before


def test_a_write_through_numpy_is_put_back():
    """A parameter's array shares its memory; so it is kept before it is handed over."""

    def written(self, h):
        self.a.bias.detach().numpy()[:] = 7
        return h

    model = between(written)
    before = testing.snapshot(model)
    assert dg.trace(model, X).mode == "real"
    assert testing.snapshot(model) == before


@pytest.mark.parametrize("name", plain_routing.MODELS)
def test_routing_exits_filters_and_memories(name):
    """Networks that route, leave early, filter and prune tokens: half of everything goes, and the laws hold."""
    torch.manual_seed(0)
    model, args, kwargs = plain_routing.MODELS[name]()
    testing.assert_lawful(model, args, kwargs)


def test_the_square_in_real_mode_is_refuted_by_other_weights():
    """Sizes that data give may differ between two graphs, nothing else may."""
    torch.manual_seed(0)
    model, args, _ = plain_routing.MODELS["moe_where"]()
    graph = dg.trace(model, args)
    plan = dg.cut(graph, "experts.0.w1.weight", [0], dim=0)
    small = dg.execute(plan, model)
    assert testing.same(plan.apply(graph), dg.trace(small, args))
    other = dg.execute(dg.cut(graph, "experts.1.w1.weight", [0], dim=0), model)
    assert not testing.same(plan.apply(graph), dg.trace(other, args))
    assert not testing.same(graph, dg.trace(small, args))
