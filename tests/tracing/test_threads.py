"""Whatever traces overlap in threads, the process is afterwards as it was, and no number is drawn twice."""

import logging
import os
import random
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy
import pytest
import torch
from torch import nn

import depgraph as dg
from depgraph import process
from depgraph.solving.statements import Rule

X = torch.randn(1, 4)


@pytest.fixture
def hasty():
    """Threads take turns often."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def settings():
    log = logging.getLogger("torch._subclasses.fake_tensor")
    return torch.backends.mha.get_fastpath_enabled(), log.disabled, list(log.filters), torch._dynamo.eval_frame._stance.stance


def in_threads(*work):
    """Run each in a thread of its own, and raise what one of them raised."""
    errors = []

    def guarded(function):
        try:
            function()
        except BaseException as error:  # noqa: BLE001  raised again below
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(function,)) for function in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    if errors:
        raise errors[0]


def mlp():
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))


class Twice(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, gradient):
        return gradient * 2


class Calls(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x):
        return self.b(Twice.apply(self.a(x)))


def test_settings_of_torch_come_back_whatever_overlaps(hasty):
    """Eight threads trace and score; the fast path, the log, the compiler, caches and classes are as they were."""
    model = nn.Sequential(*[nn.Linear(4, 4) for _ in range(4)])
    graph = dg.trace(model, X)
    before, forward = settings(), Twice.forward
    rules = dg.RULES | {Twice: Rule(lambda call: [])}
    recorded = [operation.op for operation in dg.trace(Calls(), X, rules=rules).operations]
    found = []

    def traces():
        for _ in range(6):
            found.append(dg.trace(model, X) == graph)

    def traces_functions():
        for _ in range(6):
            found.append([operation.op for operation in dg.trace(Calls(), X, rules=rules).operations] == recorded)

    def scores():
        own = mlp()
        own_graph = dg.trace(own, X)
        for _ in range(6):
            dg.score(own_graph, own, dg.criteria.Taylor([X], lambda m, batch: m(batch).sum()))

    in_threads(*[traces] * 4, *[traces_functions] * 2, *[scores] * 2)
    assert found == [True] * 36
    assert settings() == before and Twice.forward is forward
    compiled = []
    torch.compile(lambda y: y.sin() + 1, backend=lambda graph_module, _: compiled.append(1) or graph_module)(X)
    assert compiled


class Waits(nn.Module):
    """Lets another thread work in the middle of its forward."""

    def __init__(self, during, draws=False, needs_data=False):
        super().__init__()
        self.a, self.b, self.drop = nn.Linear(4, 8), nn.Linear(8, 2), nn.Dropout(0.5)
        self.__dict__["during"], self.draws, self.needs_data = [during], draws, needs_data

    def forward(self, x):
        h = self.drop(self.a(x))
        if self.needs_data and h.sum().item() > 1e9:
            return h
        if self.draws:
            random.random(), numpy.random.rand(), torch.rand(1)
        self.during[0]()
        return self.b(h)


def seeded():
    random.seed(3), numpy.random.seed(3), torch.manual_seed(3)


def draw():
    return random.random(), numpy.random.rand(), torch.rand(1).item()


@pytest.mark.parametrize("needs_data", [False, True])
def test_numbers_of_another_thread_are_not_drawn_twice(needs_data):
    """One thread draws while another one traces: the numbers that it goes on with are new ones, in their order."""
    seeded()
    expected = [draw() for _ in range(4)]
    inside, go_on = threading.Event(), threading.Event()

    def during():
        inside.set()
        assert go_on.wait(60)

    model = Waits(during, needs_data=needs_data).eval()
    thread = threading.Thread(target=dg.trace, args=(model, X))
    seeded()
    drawn = [draw()]
    thread.start()
    assert inside.wait(60)
    drawn.append(draw())
    go_on.set()
    thread.join(60)
    drawn += [draw(), draw()]
    assert drawn == expected


@pytest.mark.parametrize("needs_data", [False, True])
def test_a_seed_that_forward_sets_is_undone_beside_other_threads(needs_data):
    model = Waits(lambda: torch.manual_seed(12345), needs_data=needs_data).eval()
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    in_threads(lambda: dg.trace(model, X))
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("kind", ["nobody", "a bar", "a queue"])
def test_numbers_that_forward_draws_are_drawn_again(kind):
    """Alone, and beside threads that draw nothing: those of progress bars and of a loader's queues."""
    model, stop = Waits(lambda: None, draws=True, needs_data=True).train(), threading.Event()

    def waits():
        stop.wait(60)

    waits.__module__ = {"a bar": "tqdm._monitor", "a queue": "multiprocessing.queues"}.get(kind)
    thread = threading.Thread(target=waits) if kind != "nobody" else None
    seeded()
    expected = draw()
    seeded()
    if thread:
        thread.start()
    dg.trace(model, X)
    assert draw() == expected
    stop.set()
    if thread:
        thread.join(60)


@pytest.mark.parametrize("working", [False, True])
def test_a_pool_that_waits_for_work_draws_nothing(working):
    """Torch's compiler keeps one; one that works may have drawn."""
    model, begun, stop = Waits(lambda: None, draws=True).train(), threading.Event(), threading.Event()
    with ThreadPoolExecutor(2) as pool:
        pool.submit(time.sleep, 0).result()
        while not working and any(map(process._may_draw, set(threading.enumerate()) - {threading.current_thread()})):
            time.sleep(0.01)  # the result is there before the worker waits again
        work = pool.submit(lambda: begun.set() or stop.wait(60)) if working else None
        assert work is None or begun.wait(60)
        seeded()
        expected = draw()
        seeded()
        dg.trace(model, X)
        assert (draw() == expected) is not working
        stop.set()
        assert work is None or work.result()


def test_operators_of_another_thread_are_not_recorded():
    """A class that a rule takes as one operator is changed for the time of the trace; others may call it."""
    rules = dg.RULES | {Twice: Rule(lambda call: [])}
    model = Calls()
    expected = dg.trace(model, X, rules=rules)

    def calls_too():
        other = torch.ones(3, 4, requires_grad=True)
        Twice.apply(other).sum().backward()
        assert other.grad.tolist() == [[2.0] * 4] * 3

    class Beside(Calls):
        def forward(self, x):
            in_threads(calls_too)
            return super().forward(x)

    graph = dg.trace(Beside(), X, rules=rules)
    assert [operation.op for operation in graph.operations] == [operation.op for operation in expected.operations]


def test_a_log_of_another_thread_is_written_meanwhile():
    log, seen = logging.getLogger("torch._subclasses.fake_tensor"), []
    handler = logging.Handler()
    handler.emit = lambda record: seen.append(record.getMessage())
    log.addHandler(handler)

    def during():
        log.error("of the trace")
        in_threads(lambda: log.error("of another thread"))

    try:
        dg.trace(Waits(during).eval(), X)
    finally:
        log.removeHandler(handler)
    assert seen == ["of another thread"]


def test_a_trace_inside_of_a_trace_is_no_deadlock():
    graphs = []
    dg.trace(Waits(lambda: graphs.append(process.ONE_AT_A_TIME.acquire(timeout=5))).eval(), X)
    assert graphs == [True]
    process.ONE_AT_A_TIME.release()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked on POSIX only")
def test_a_process_forked_beside_a_trace_can_trace():
    """The fork waits until nobody traces, so that the child finds settings as they are and no lock that nobody releases."""
    inside = threading.Event()
    model = Waits(lambda: inside.set()).eval()
    thread = threading.Thread(target=lambda: [dg.trace(model, X) for _ in range(5)])
    thread.start()
    assert inside.wait(60)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            free = process.ONE_AT_A_TIME.acquire(timeout=5)
            code = 0 if free and torch.backends.mha.get_fastpath_enabled() else 2
        finally:
            os._exit(code)
    thread.join(60)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
