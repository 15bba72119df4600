"""An interruption at any line of what writes leaves everything as it was: every bit, and every object in its place."""

import linecache
import os
import sys
from collections import OrderedDict
from functools import cache
from types import SimpleNamespace

import attrs
import pytest
import torch
from torch import nn

import depgraph as dg
from depgraph import testing
from tests import networks

pytestmark = pytest.mark.models

WRITERS = (
    "depgraph/execution/execute.py",
    "depgraph/execution/fitting.py",
    "depgraph/execution/slicing.py",
    "depgraph/execution/copying.py",
    "depgraph/execution/attributes.py",
    "depgraph/execution/masking.py",
    "depgraph/execution/optimizers.py",
    "modules/rnn.py",
)


EVERY_LINE = os.environ.get("HYPOTHESIS_PROFILE") == "long"
"""Whether nothing is left out: a job is run as often as it has lines, so its time grows with their square."""


class Interruption(BaseException):
    """What no code expects, as Ctrl-C is."""


@cache
def counts(path, line):
    """Whether an interruption may come before a line: not before one that begins with ``with``.

    Python comes to it a second time before the context manager is left, and an exception between the two skips that, in any
    program.
    """
    return not linecache.getline(path, line).lstrip().startswith("with ")


def interrupted(call, line, writers=WRITERS):
    """Run the call and raise before the given line of a writer, counted as they run. Whether it came to that line."""
    left = line

    def called(frame, event, argument):
        return at_line if frame.f_code.co_filename.endswith(writers) else None

    def at_line(frame, event, argument):
        nonlocal left
        if event == "line" and counts(frame.f_code.co_filename, frame.f_lineno):
            left -= 1
            if left == 0:
                raise Interruption
        return at_line

    before = sys.gettrace()
    sys.settrace(called)
    try:
        call()
    except Interruption:
        return True
    finally:
        sys.settrace(before)
    return False


def state(thing, seen):
    """Everything that a tree of modules, containers and tensors holds: each object by its identity, tensors by their bits."""
    if id(thing) in seen or isinstance(thing, type) or (callable(thing) and not isinstance(thing, nn.Module)):
        return id(thing)
    seen[id(thing)] = thing
    if isinstance(thing, torch.Tensor):
        hooks = [state(getattr(thing, name), seen) for name in ("_backward_hooks", "_post_accumulate_grad_hooks")]
        grad = None if thing.grad is None else state(thing.grad, seen)
        return id(thing), tuple(thing.shape), thing.requires_grad, testing.tensor_bytes(thing), grad, hooks, vars(thing)
    if isinstance(thing, dict):
        keys = [id(key) if isinstance(key, torch.Tensor) else key for key in thing]
        return id(thing), [(key, state(value, seen)) for key, value in zip(keys, thing.values(), strict=True)]
    if isinstance(thing, (list, tuple)):
        return id(thing), [state(value, seen) for value in thing]
    if isinstance(thing, (nn.Module, SimpleNamespace, torch.optim.Optimizer)):
        return id(thing), state(vars(thing), seen)
    return id(thing), repr(thing)


class Hoarding(nn.Module):
    """Holds parameters and sizes wherever Python lets it: lists, tuples, dicts, configs, a buffer's second name."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 3)
        self.register_buffer("scale", torch.ones(8))
        self.alias = self.scale
        self.weights, self.more = [self.a.weight, self.b.weight], {"bias": (self.a.bias,), "none": None}
        self.config, self.sizes, self.shape = SimpleNamespace(width=8), [8, {"width": 8}], (8, 1)

    def forward(self, x):
        y = nn.functional.linear(x, self.weights[0], self.more["bias"][0]) * self.alias
        y = y.view(-1, self.config.width).view(-1, self.sizes[0]).view(-1, self.sizes[1]["width"]).view(-1, self.shape[0])
        return nn.functional.linear(torch.relu(y), self.weights[1], self.b.bias)


def hoarding():
    """A module with parameters in containers, sizes in configs, and hooks, trained for a step."""
    torch.manual_seed(0)
    return Hoarding(), torch.randn(2, 4), "a.weight"


def recurrent():
    """An LSTM, whose weights lie in a flat list too: of one layer and direction, or of all, which are four times as many."""
    torch.manual_seed(0)
    each = 2 if EVERY_LINE else 1
    return networks.SequenceClassifier(layers=each, directions=each), torch.randint(0, 50, (2, 7)), None


def tied():
    """An embedding and a head of one weight."""
    torch.manual_seed(0)
    model = nn.Sequential(OrderedDict(embedding=nn.Embedding(20, 8), act=nn.ReLU(), head=nn.Linear(8, 20, bias=False)))
    model.head.weight = model.embedding.weight
    return model, torch.tensor([[1, 2, 3]]), "head.weight"


def trained(make):
    """A model with hooks, gradients and an optimizer's state; a plan for it."""
    model, x, name = make()
    graph = dg.trace(model, x)
    if name is None:
        plan = dg.plan(graph, dg.score(graph, model, dg.criteria.Random(0)), ratio=0.5)
    else:
        plan = dg.cut(graph, name, [1, 4], dim=1 if make is tied else 0)
    first = next(model.parameters())
    first.register_hook(lambda gradient: None)
    first.register_post_accumulate_grad_hook(lambda parameter: None)
    first.mark = "a mark"
    optimizer = torch.optim.Adam(model.parameters())
    model(x).square().sum().backward()
    optimizer.step()
    return model, x, plan, optimizer


JOBS = {
    "execute_": lambda plan, model, optimizer: dg.execute_(plan, model),
    "execute": lambda plan, model, optimizer: dg.execute(plan, model),
    "mask_": lambda plan, model, optimizer: dg.mask_(plan, model),
    "mask": lambda plan, model, optimizer: dg.mask(plan, model),
    "carry_state": lambda plan, model, optimizer: dg.optimizers.carry_state(plan, model, optimizer),
}


STRIDES = {"carry_state": 7} if EVERY_LINE else {"carry_state": 7, "execute": 5, "mask": 5}
"""How many lines on the next interruption is, of jobs that write nothing and have the same lines for each tensor."""


@pytest.mark.parametrize("make", [hoarding, recurrent, tied])
@pytest.mark.parametrize("job", JOBS)
def test_an_interruption_at_any_line_changes_nothing(job, make):
    """Parameters, buffers, gradients, hooks, attributes, containers, flat weights, the optimizer: bits and objects."""
    model, x, plan, optimizer = trained(make)
    before, line = state([model, optimizer], {}), 1
    while interrupted(lambda: JOBS[job](plan, model, optimizer), line):
        assert state([model, optimizer], {})[1] == before[1], f"interrupted before line {line}"
        line += STRIDES.get(job, 1)
    assert line > 20
    assert (state([model, optimizer], {})[1] == before[1]) == (job in {"execute", "mask", "carry_state"})
    model(x)


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.Adafactor])
@pytest.mark.parametrize("make", [hoarding, tied])
def test_an_optimizer_that_is_carried_over_in_place_is_whole_at_any_line(make, kind):
    """Groups, state, options, the scheduler and the scaler: as they were at each line, and carried over at the end."""
    model, x, plan, _ = trained(make)
    optimizer = kind(model.parameters(), lr=0.1)
    scheduler, scaler = torch.optim.lr_scheduler.StepLR(optimizer, 1), torch.amp.GradScaler("cpu", init_scale=2.0)
    scaler.scale(model(x).square().sum()).backward()
    scaler.step(optimizer)
    scaler.update()
    scheduler.step()
    replaced = dg.execute_(plan, model)
    everything = [model, optimizer, scheduler.state_dict(), scaler.state_dict(), dict(replaced)]
    before, line = state(everything, {}), 1
    while interrupted(lambda: dg.optimizers.carry_optimizer_(plan, model, optimizer, replaced), line):
        assert state(everything, {})[1] == before[1], f"interrupted before line {line}"
        line += 1
    assert line > 20 and state(everything, {})[1] != before[1]
    assert scheduler.optimizer is optimizer and optimizer.param_groups[0]["lr"] == pytest.approx(0.01)
    held = {id(parameter) for parameter in model.parameters()}
    assert {id(parameter) for parameter in optimizer.param_groups[0]["params"]} == held
    assert {id(parameter) for parameter in optimizer.state} <= held


class OnceRefused(torch.utils._python_dispatch.TorchDispatchMode):
    """Raises at the n-th write of numbers, before it or after it."""

    def __init__(self, number, late):
        super().__init__()
        self.left, self.late = number, late

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        writes = func.overloadpacket.__name__ == "index_copy_"
        self.left -= writes
        if writes and self.left == 0:
            if self.late:
                func(*args, **(kwargs or {}))
            raise Interruption
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("late", [False, True])
def test_a_mask_that_fails_at_any_write_is_taken_off(late):
    """Negative zeros and NaN among the masked numbers come back, too; the write itself may have happened."""
    model, _, plan, optimizer = trained(hoarding)
    with torch.no_grad():
        model.a.bias[1], model.a.weight[1, 0] = -0.0, float("nan")
    before, number = state([model, optimizer], {}), 1
    while True:
        try:
            with OnceRefused(number, late):
                dg.mask_(plan, model)
            break
        except Interruption as error:
            assert not hasattr(error, "__notes__")
        assert state([model, optimizer], {})[1] == before[1]
        number += 1
    assert number == 4


class Stubborn(nn.Linear):
    """Its `in_features` writes a second attribute, and once locked it can be set no more."""

    def __setattr__(self, name, value):
        if name == "in_features" and getattr(self, "locked", False):
            raise RuntimeError("this attribute is read-only")
        super().__setattr__(name, value)
        if name == "in_features":
            super().__setattr__("half", value // 2)
            if "history" in self.__dict__:
                self.history.append(value)


def test_setters_that_refuse_to_go_back_hinder_no_other_step():
    """All edits but the last are written, then each setter refuses: all is as it was, and the first error is raised."""
    model = nn.Sequential(nn.Linear(4, 6), Stubborn(6, 6), Stubborn(6, 2))
    graph = dg.trace(model, torch.randn(1, 4))
    first = dg.cut(graph, "0.weight", [0], dim=0)
    plan = first.then(dg.cut(first.apply(graph), "1.weight", [0, 1], dim=0))
    object.__setattr__(model[2], "locked", True)
    model[1].history = []
    before = state([model], {})
    with pytest.raises(RuntimeError, match="read-only"):
        dg.execute_(plan, model)
    assert state([model], {})[1] == before[1]
    assert model[1].half == 3 and model[1].history == []


@pytest.mark.parametrize("name", ["0.weight", "0.bias"])
def test_ties_of_the_model_that_the_plan_does_not_know_are_refused(name):
    """A third layer that shares a cut weight would keep the old one: no half of it is pruned."""
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    plan = dg.cut(dg.trace(model, torch.randn(1, 4)), "0.weight", [0], dim=0)
    model.extra = nn.Linear(4, 6)
    setattr(model.extra, name[2:], model.get_parameter(name))
    before = state([model], {})
    for job in (dg.execute, dg.execute_, dg.mask, dg.mask_):
        with pytest.raises(dg.errors.MismatchError, match=f"'extra.{name[2:]}' is tied to '{name}' here, but not in the model"):
            job(plan, model)
    assert state([model], {})[1] == before[1]


@pytest.mark.parametrize("path", ["sizes.width", "alias", "sizes.7", "more.width"])
def test_edits_that_meet_something_else_are_refused(path):
    """A word in a list, a tensor where a number was, no such index, no such key: each is a mismatch, named."""
    model, x, _ = hoarding()
    plan = dg.cut(dg.trace(model, x), "a.weight", [1], dim=0)
    wrong = attrs.evolve(plan, edits=(*plan.edits, dg.plans.Edit(path, 8, 7)))
    with pytest.raises(dg.errors.MismatchError, match=f"attribute '{path}'"):
        dg.execute(wrong, model)


def test_hooks_of_the_copy_are_its_own():
    """A hook that is added to the pruned copy does not run for the model, and the model's own run for both."""
    model, x = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)), torch.randn(1, 4)
    plan, calls = dg.cut(dg.trace(model, x), "0.weight", [0], dim=0), []
    model[0].weight.register_hook(lambda gradient: calls.append("old"))
    model[0].weight.register_post_accumulate_grad_hook(lambda parameter: calls.append("accumulated"))
    for copied in (dg.execute(plan, model), dg.mask(plan, model)):
        copied[0].weight.register_hook(lambda gradient: calls.append("new"))
        calls.clear()
        model(x).sum().backward()
        assert calls == ["old", "accumulated"]
        calls.clear()
        copied(x).sum().backward()
        assert calls == ["old", "new", "accumulated"]


def test_a_hook_is_removed_by_its_handle_after_execution_in_place():
    """The parameter that takes the place of another has its hooks, not copies of them."""
    model, x, calls = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)), torch.randn(1, 4), []
    handle = model[0].weight.register_hook(lambda gradient: calls.append("hook"))
    dg.execute_(dg.cut(dg.trace(model, x), "0.weight", [0], dim=0), model)
    model(x).sum().backward()
    assert calls == ["hook"]
    handle.remove()
    model(x).sum().backward()
    assert calls == ["hook"]


@pytest.mark.parametrize("in_place", [False, True])
def test_a_second_name_of_a_buffer_follows(in_place):
    """A tensor that a module holds as a plain attribute beside its registry is the new one afterwards."""
    model, x, _ = hoarding()
    plan = dg.cut(dg.trace(model, x), "a.weight", [1], dim=0)
    expected = dg.mask(plan, model)(x)
    small = model if in_place else dg.execute(plan, model)
    if in_place:
        dg.execute_(plan, model)
    assert small.alias is small.scale and small.scale.shape == (7,)
    torch.testing.assert_close(small(x), expected)


def test_the_state_that_is_carried_over_is_shared_with_nothing():
    """Options of the parameter groups that are tensors are copied, too."""
    model, _, plan, _ = trained(hoarding)
    optimizer = torch.optim.Adam(model.parameters(), lr=torch.tensor(0.1))
    carried = dg.optimizers.carry_state(plan, model, optimizer)
    carried["param_groups"][0]["lr"].fill_(7.0)
    assert optimizer.param_groups[0]["lr"] == 0.1
