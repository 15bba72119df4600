"""Forwards that read data: they run on the example inputs, the graph says so, and the laws hold as ever."""

import logging

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

import depgraph as dg
from depgraph import testing

X = torch.randn(6, 8)


class Routed(nn.Module):
    """A mixture of experts that sends each row to one expert by index, as plain PyTorch code does."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(8, 12)
        self.gate = nn.Linear(12, 3)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(12, 10), nn.ReLU(), nn.Linear(10, 12)) for _ in range(3))
        self.norm = nn.BatchNorm1d(12)
        self.head = nn.Linear(12, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.norm(self.up(x)))
        choice = self.gate(y).argmax(-1)
        out = torch.zeros_like(y)
        for number, expert in enumerate(self.experts):
            rows = (choice == number).nonzero()[:, 0]
            if rows.numel() == 0:
                rows = torch.arange(1)
            out.index_add_(0, rows, expert(y[rows]))
        return self.head(out)


def routed() -> Routed:
    """The same weights each time."""
    torch.manual_seed(0)
    return Routed().eval()


def test_the_mode_is_chosen_and_told():
    """Fake where that can be; real where forward reads data; `graph.mode` says which."""
    assert dg.trace(nn.Linear(8, 2), X).mode == "fake"
    assert dg.trace(nn.Linear(8, 2), X, mode="real").mode == "real"
    assert dg.trace(routed(), X).mode == "real"
    with pytest.raises(dg.errors.TraceError, match="Trace with mode='real'"):
        dg.trace(routed(), X, mode="fake")
    with pytest.raises(dg.errors.TraceError, match="expected mode to be 'auto', 'fake' or 'real', met 'fast'"):
        dg.trace(routed(), X, mode="fast")
    with torch.device("meta"):
        model = Routed()
    with pytest.raises(dg.errors.TraceError, match="not on the meta device"):
        dg.trace(model, X)


def test_both_modes_give_the_same_graph():
    """Where no data is read, the operators are the same."""
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 36, 4)).eval()
    x = torch.randn(2, 3, 8, 8)
    assert dg.trace(model, x, mode="real").fingerprint == dg.trace(model, x, mode="fake").fingerprint


def test_routing_is_pruned():
    """Each expert's inner width is a group, the routed width another; the number of experts is pinned."""
    model = routed()
    graph = testing.assert_pure(model, X)
    assert [group.name for group in graph.groups] == [
        "up.weight:0", "experts.0.0.weight:0", "experts.1.0.weight:0", "experts.2.0.weight:0",
    ]  # fmt: skip
    plan = dg.plan(graph, dg.score(graph, model, dg.Magnitude(p=2)), ratio={"experts.*": 0.5})
    small = dg.execute(plan, model)
    assert small(X).shape == (6, 4) and small.experts[1][2].in_features == 5
    testing.assert_zero_channels(graph, plan, model, X)
    testing.assert_round_trip(graph, plan)


def test_real_mode_leaves_a_training_model_alone():
    """Running statistics and random state are not touched, though the forward runs."""
    model = routed().train()
    before = testing.snapshot(model)
    dg.trace(model, X)
    assert testing.snapshot(model) == before


def test_a_number_read_from_data_is_no_size():
    """`.item()` used as a factor says nothing about sizes; used as a size it is a literal, and pins."""

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(8, 6), nn.Linear(6, 2)

        def forward(self, x):
            return self.b(torch.relu(self.a(x)) * x.abs().max().item())

    assert dg.trace(Scaled(), X).mode == "real"
    testing.assert_lawful(Scaled(), X)


class Fitted(nn.Module):
    """Adds what has no shape in common, but on real tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.line(x)
        return y + torch.ones(5, 8) if isinstance(y, FakeTensor) else y


def test_a_failed_attempt_on_fake_tensors_logs_nothing(caplog):
    """What fails on fake tensors and runs on real ones is no error, and torch's log has none, but has outside of a trace."""
    log = logging.getLogger("torch._subclasses.fake_tensor")
    log.addHandler(caplog.handler)
    try:
        assert dg.trace(Fitted(), X).mode == "real"
        assert not caplog.records
        with FakeTensorMode(allow_non_fake_inputs=True) as fake, pytest.raises(RuntimeError):
            Fitted()(fake.from_tensor(X))
        assert caplog.records
        assert not log.disabled
    finally:
        log.removeHandler(caplog.handler)


class Chosen(nn.Module):
    """One of two branches, by the data or by a flag."""

    def __init__(self, flag: bool | None = None) -> None:
        super().__init__()
        self.up, self.down, self.flag = nn.Linear(8, 12), nn.Linear(12, 3), flag

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.up(x)
        condition = y.square().sum() > 0 if self.flag is None else self.flag
        return self.down(torch.cond(condition, lambda t: torch.relu(t), lambda t: t.flip(-1), (y,)))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_branch_that_cond_takes_is_recorded():
    """`torch.cond` reads its condition; the graph holds what the chosen branch calls, and no more."""
    graph = dg.trace(Chosen(), X)
    assert graph.mode == "real"
    operators = {operation.op for operation in graph.operations}
    assert "aten.relu" in operators
    assert not operators & {"aten.flip", "higher_order.cond"}
    assert graph.group("up.weight", 0).size == 12
    testing.assert_lawful(Chosen().eval(), X)
    with pytest.raises(dg.errors.TraceError, match=r"torch\.cond"):
        dg.trace(Chosen(), X, mode="fake")
    other = dg.trace(Chosen(False), X)
    assert "aten.flip" in {operation.op for operation in other.operations}
