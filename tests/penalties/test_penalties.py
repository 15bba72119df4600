"""Penalties in training loops: exact values, wrappers, mixed precision, two processes, and what is refused."""

import pytest
import torch
from torch import nn

import depgraph as dg
from depgraph import testing
from tests.ranks import printed_by_ranks


def chain():
    """Conv, BatchNorm, ReLU, Conv."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3))


X = torch.randn(2, 3, 8, 8)


def norms(model):
    """Squared norm of each channel of the chain."""
    produced = model[0].weight.square().sum((1, 2, 3)) + model[0].bias.square()
    return produced + model[1].weight.square() + model[1].bias.square() + model[3].weight.square().sum((0, 2, 3))


def test_exact_values():
    """Group lasso, its square and network slimming on a chain, with one strength and with one per channel."""
    model = chain()
    graph, per = dg.trace(model, X), torch.arange(6.0)
    torch.testing.assert_close(dg.penalties.group_lasso(graph, model, 0.1), 0.1 * norms(model).sqrt().sum())
    torch.testing.assert_close(
        dg.penalties.group_l2(graph, model, {"0.weight:0": per.tolist()}), (per * norms(model)).sum() / 2
    )
    nn.init.normal_(model[1].weight)
    torch.testing.assert_close(dg.penalties.scale_l1(graph, model, 0.1), 0.1 * model[1].weight.abs().sum())
    gradients = dg.penalties.penalty_gradients(dg.penalties.scale_l1(graph, model, {"0.weight:0": per}), model)
    assert set(gradients) == {"1.weight"} and torch.equal(gradients["1.weight"], per * model[1].weight.sign())


def test_the_model_and_its_gradients_are_left_alone():
    """A penalty reads; `penalty_gradients` returns and does not write `.grad`."""
    model = chain()
    graph, before = dg.trace(model, X), testing.snapshot(model)
    gradients = dg.penalties.penalty_gradients(dg.penalties.group_l2(graph, model, 0.5), model)
    assert testing.snapshot(model) == before
    torch.testing.assert_close(gradients["3.weight"], 0.5 * model[3].weight)
    assert "3.bias" not in gradients


def test_heads_take_part_when_they_are_named():
    """A plain number is for the groups that a plain ratio cuts; heads have a strength by name."""
    model = testing.network(["attention"], 4, 3, 2, False)
    graph = dg.trace(model, torch.randn(2, 3, 4, 4))
    inner = {group.name: 0.1 for group in graph.groups if group.role in {"channel", "head_dim"}}
    assert len(inner) < len(graph.groups)
    assert dg.penalties.group_lasso(graph, model, 0.1) == dg.penalties.group_lasso(graph, model, inner)
    head = next(group.name for group in graph.groups if group.role == "head")
    assert dg.penalties.group_lasso(graph, model, {**inner, head: 0.1}) > dg.penalties.group_lasso(graph, model, inner)


def test_wrappers_are_looked_through():
    """The module inside, and the names that wrappers give, with and without duplicates of tied weights."""
    model = chain()
    graph, wrapped = dg.trace(model, X), nn.DataParallel(chain())
    expected = dg.penalties.group_lasso(graph, model, 0.1)
    for given in (wrapped, dict(wrapped.named_parameters()), wrapped.named_parameters(), torch.compile(model)):
        assert dg.penalties.group_lasso(graph, given, 0.1) == expected
    assert "module.0.weight" in dg.penalties.penalty_gradients(dg.penalties.group_lasso(graph, wrapped, 0.1), wrapped)


def test_frozen_parameters_count_and_have_no_gradient():
    """A frozen weight is part of its channel's norm."""
    model = chain()
    graph = dg.trace(model, X)
    expected = dg.penalties.group_lasso(graph, model, 0.1).item()
    model[0].weight.requires_grad_(False)
    penalty = dg.penalties.group_lasso(graph, model, 0.1)
    assert penalty.item() == expected and "0.weight" not in dg.penalties.penalty_gradients(penalty, model)
    model.requires_grad_(False)
    assert dg.penalties.penalty_gradients(dg.penalties.group_lasso(graph, model, 0.1), model) == {}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_types_are_summed_in_single_precision(dtype):
    """A sum of 4096 squares in half precision would stall; the gradient comes back in the type of the weight."""
    model = nn.Sequential(nn.Linear(4096, 2, bias=False), nn.ReLU(), nn.Linear(2, 1, bias=False)).to(dtype)
    with torch.no_grad():
        model[0].weight.fill_(1.0)
        model[2].weight.fill_(0.0)
    graph = dg.trace(model, torch.zeros(1, 4096, dtype=dtype))
    penalty = dg.penalties.group_lasso(graph, model, 1.0)
    assert penalty.dtype == torch.float32 and penalty.item() == 2 * 64
    gradient = dg.penalties.penalty_gradients(penalty, model)["0.weight"]
    assert gradient.dtype == dtype and torch.equal(gradient, torch.full_like(gradient, 1 / 64))


def test_autocast_changes_nothing_and_a_scaler_is_undone():
    """Inside autocast the penalty is that outside; scaled with the loss and unscaled, gradients are those of the plain sum."""
    model = chain()
    graph = dg.trace(model, X)
    plain = dg.penalties.group_lasso(graph, model, 0.1)
    with torch.autocast("cpu", torch.bfloat16):
        loss, penalty = model(X).float().square().mean(), dg.penalties.group_lasso(graph, model, 0.1)
    assert penalty.dtype == torch.float32 and torch.equal(penalty, plain)
    expected = torch.autograd.grad(loss + penalty, list(model.parameters()), retain_graph=True)
    apart = torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale(loss + penalty).backward()
    scaler.unscale_(optimiser)
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, atol=1e-6, rtol=1e-4)
    added = dg.penalties.penalty_gradients(dg.penalties.group_lasso(graph, model, 0.1), model)
    for (name, _), gradient, alone in zip(model.named_parameters(), expected, apart, strict=True):
        torch.testing.assert_close(alone + added.get(name, 0.0), gradient, atol=1e-6, rtol=1e-4)


PROGRAM = """
import sys, torch, torch.distributed as dist
from torch import nn
import depgraph as dg
rank, folder = int(sys.argv[1]), sys.argv[2]
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
x = torch.randn(8, 4)
graph = dg.trace(model, x)
dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
wrapped = nn.parallel.DistributedDataParallel(model)
optimiser = torch.optim.SGD(wrapped.parameters(), lr=0.1)
for step in range(3):
    loss = wrapped(x[4 * rank : 4 * rank + 4]).square().mean()
    names = wrapped if step % 2 else dict(wrapped.named_parameters())
    optimiser.zero_grad()
    if step < 2:
        (loss + dg.penalties.group_lasso(graph, names, 0.05)).backward()
    else:
        loss.backward()
        for name, gradient in dg.penalties.penalty_gradients(dg.penalties.group_lasso(graph, names, 0.05), wrapped).items():
            wrapped.get_parameter(name).grad += gradient
    optimiser.step()
torch.save(model.state_dict(), f"{folder}/{rank}.pt")
dist.barrier()
dist.destroy_process_group()
"""


def test_two_processes_train_as_one(tmp_path):
    """Under DistributedDataParallel both ranks end at the weights of one process with the whole batch."""
    printed_by_ranks(PROGRAM, tmp_path, seconds=240)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    x = torch.randn(8, 4)
    graph, optimiser = dg.trace(model, x), torch.optim.SGD(model.parameters(), lr=0.1)
    bare = {name: value.clone() for name, value in model.state_dict().items()}
    for _ in range(3):
        optimiser.zero_grad()
        (model(x).square().mean() + dg.penalties.group_lasso(graph, model, 0.05)).backward()
        optimiser.step()
    for name, value in model.state_dict().items():
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], value)
        assert not torch.equal(value, bare[name])


def test_growing_strengths_drive_out_what_a_plan_names():
    """With the strengths of a plan growing step by step, the named channels vanish and the others live."""
    model = chain().train()
    graph = dg.trace(model, X)
    plan, strengths = dg.cut(graph, "0.weight", [1, 4], dim=0), dg.penalties.strengths_of(graph)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(60):
        strengths = dg.penalties.grow(strengths, plan, delta=0.2, ceiling=4.0)
        optimiser.zero_grad()
        (0.01 * model(X).square().mean() + dg.penalties.group_l2(graph, model, strengths)).backward()
        optimiser.step()
    assert strengths == {"0.weight:0": (0.0, 4.0, 0.0, 0.0, 4.0, 0.0)}
    left = norms(model).sqrt()
    assert left[[1, 4]].max() < 1e-3 < 0.5 < left[[0, 2, 3, 5]].min()


def test_what_does_not_fit_is_refused():
    """Another model, unknown groups, wrong lengths, no scales, no gradients, scores that do not fit: each by name."""
    model = chain()
    graph = dg.trace(model, X)
    with pytest.raises(dg.errors.MismatchError, match=r"'0.weight': expected shape \(6, 3, 3, 3\), met \(5, 3, 3, 3\)"):
        dg.penalties.group_lasso(graph, nn.Sequential(nn.Conv2d(3, 5, 3)), 0.1)
    with pytest.raises(dg.errors.MismatchError, match=r"there is no parameter '1.weight'"):
        dg.penalties.group_lasso(graph, {"0.weight": model[0].weight}, 0.1)
    with pytest.raises(dg.errors.UnknownNameError, match=r"no group is called '0.weight'; did you mean '0.weight:0'"):
        dg.penalties.group_lasso(graph, model, {"0.weight": 0.1})
    with pytest.raises(dg.errors.PlanError, match=r"has 6 indices, its strengths have the shape \(2,\)"):
        dg.penalties.group_l2(graph, model, {"0.weight:0": [1.0, 2.0]})
    bare = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    with pytest.raises(dg.errors.PlanError, match=r"no group holds a scale of these normalisations"):
        dg.penalties.scale_l1(dg.trace(bare, torch.zeros(1, 3)), bare, 0.1)
    with torch.no_grad(), pytest.raises(dg.errors.PlanError, match=r"outside of torch.no_grad"):
        dg.penalties.penalty_gradients(dg.penalties.group_lasso(graph, model, 0.1), model)
    with pytest.raises(dg.errors.PlanError, match=r"has 6 indices, its scores are none"):
        dg.penalties.grow(dg.penalties.strengths_of(graph), {}, delta=1.0)
    with pytest.raises(dg.errors.PlanError, match=r"hold NaN"):
        dg.penalties.graded_strengths({"g": [1.0, float("nan")]}, 1.0)
    with pytest.raises(dg.errors.PlanError, match=r"0 or more, met -1"):
        dg.penalties.grow({"g": [1.0]}, {"g": [1.0]}, delta=-1)
    with pytest.raises(dg.errors.PlanError, match=r"the plan cuts '0.weight:0', which has no strength"):
        dg.penalties.grow({}, dg.cut(graph, "0.weight", [1], dim=0), delta=1)


def test_all_strengths_that_do_not_fit_are_named():
    """Two groups with strengths of another length are two problems of one error."""
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2))
    graph = dg.trace(model, torch.zeros(1, 3))
    first, second = (group.name for group in graph.groups)
    with pytest.raises(dg.errors.PlanError, match=rf"'{first}' has 4 indices.*\(2,\); group '{second}' has 5 indices.*\(1,\)"):
        dg.penalties.group_lasso(graph, model, {first: [1.0, 2.0], second: [1.0]})
