"""The garbage collector stays out of a trace, and is afterwards as the user had it."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator

import pytest
import torch
from torch import nn

import depgraph as dg
from depgraph.collector import without_collections


@pytest.fixture(autouse=True)
def thresholds() -> Iterator[tuple[int, int, int]]:
    before, enabled = gc.get_threshold(), gc.isenabled()
    gc.set_threshold(701, 11, 12)
    yield 701, 11, 12
    gc.set_threshold(*before)
    (gc.enable if enabled else gc.disable)()


class _Watching(nn.Module):
    """Allocates what would start collections, and fails if told to."""

    def __init__(self, fails: bool) -> None:
        super().__init__()
        self.fails = fails
        self.layer = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        _ALLOCATED.append([[] for _ in range(2000)])
        _SEEN.append((gc.get_threshold()[0], gc.get_count()[0] > 1000))
        if self.fails:
            raise ArithmeticError("forward's own")
        return self.layer(x)


_ALLOCATED: list[object] = []
_SEEN: list[tuple[int, bool]] = []


@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize("fails", [True, False])
def test_the_collector_is_as_before(thresholds: tuple[int, int, int], fails: bool, enabled: bool) -> None:
    (gc.enable if enabled else gc.disable)()
    _SEEN.clear()
    model = _Watching(fails)
    if fails:
        with pytest.raises(ArithmeticError):
            dg.trace(model, torch.zeros(1, 4))
    else:
        dg.trace(model, torch.zeros(1, 4))
    assert set(_SEEN) == {(0, True)}, "no collection has started in between"
    assert gc.get_threshold() == thresholds
    assert gc.isenabled() is enabled


def test_what_a_user_does_meanwhile_stays(thresholds: tuple[int, int, int]) -> None:
    with without_collections():
        gc.disable()
    assert not gc.isenabled()
    with without_collections():
        gc.set_threshold(5, 6, 7)
    assert gc.get_threshold() == (5, 6, 7)


def test_a_threshold_of_zero_stays() -> None:
    gc.set_threshold(0, 11, 12)
    with without_collections():
        pass
    assert gc.get_threshold() == (0, 11, 12)


def test_nested_blocks_end_with_the_outermost(thresholds: tuple[int, int, int]) -> None:
    with without_collections():
        with without_collections():
            pass
        assert gc.get_threshold() == (0, *thresholds[1:])
    assert gc.get_threshold() == thresholds


def test_blocks_of_two_threads_that_overlap_end_with_the_last_one(thresholds: tuple[int, int, int]) -> None:
    inside, leave = threading.Event(), threading.Event()

    def other() -> None:
        with without_collections():
            inside.set()
            assert leave.wait(10)

    thread = threading.Thread(target=other)
    with without_collections():
        thread.start()
        assert inside.wait(10)
    assert gc.get_threshold() == (0, *thresholds[1:]), "the other thread is still in its block"
    leave.set()
    thread.join()
    assert gc.get_threshold() == thresholds


def test_a_trace_leaves_nothing_for_the_collector() -> None:
    """Neither the tensors nor the modules of its copy wait for a collection."""
    model = nn.Sequential(*(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Unflatten(1, (2, 2)), nn.Flatten()) for _ in range(8)))
    dg.trace(model, torch.zeros(1, 4))
    gc.collect()
    gc.disable()
    before = sum(isinstance(item, (torch.Tensor, nn.Module)) for item in gc.get_objects())
    graph = dg.trace(model, torch.zeros(1, 4))
    after = sum(isinstance(item, (torch.Tensor, nn.Module)) for item in gc.get_objects())
    assert after == before
    assert len(graph.operations) > 8


def test_a_module_from_elsewhere_that_forward_takes_in_is_left_alone() -> None:
    outside = nn.Linear(4, 4)

    class Taking(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.taken = outside
            return self.taken(x)

    before = dict(vars(outside))
    dg.trace(Taking(), torch.zeros(1, 4))
    assert vars(outside) == before
