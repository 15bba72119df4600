"""State of optimizers: what is carried along beside moments, and which forms are refused."""

import copy
import re

import attrs
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

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


def in_place(model, plan, optimizer, **more):
    """Prune the model and let its optimizer go on."""
    replaced = dg.execute_(plan, model)
    dg.optimizers.carry_optimizer_(plan, model, optimizer, replaced, **more)
    return replaced


@pytest.mark.parametrize("other_object", [False, True])
def test_in_place_gives_the_state_dict_that_is_carried_otherwise(other_object):
    """Groups, options, and the state to the last bit; by the map of `execute_` as by that of `parameter_map`."""
    model, plan, optimizer = trained()
    optimizer.add_param_group({"params": [extra := nn.Parameter(torch.ones(3))], "lr": 0.7})
    del optimizer.param_groups[1]
    expected = dg.optimizers.carry_state(plan, model, optimizer)
    if other_object:
        small = dg.execute(plan, model)
        dg.optimizers.carry_optimizer_(plan, small, optimizer, dg.parameter_map(model, small))
    else:
        small = model
        in_place(model, plan, optimizer)
    torch.testing.assert_close(optimizer.state_dict(), expected, rtol=0, atol=0)
    assert [id(held) for held in optimizer.param_groups[0]["params"]] == [id(held) for held in small.parameters()]
    assert extra.shape == (3,)


def test_schedulers_scalers_and_hooks_go_on():
    """They hold the optimizer, its groups, its lists of parameters and its state: these stay the same objects."""
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), torch.randn(5, 3)
    plan = dg.cut(dg.trace(model, x), "0.weight", [1], dim=0)
    optimizer = torch.optim.AdamW([{"params": model[0].parameters(), "lr": 0.5}, {"params": model[2].parameters()}], lr=0.1)
    warmup = torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, total_iters=2)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 4)
    scheduler = torch.optim.lr_scheduler.SequentialLR(optimizer, [warmup, cosine], [2])
    scaler, calls = torch.amp.GradScaler("cpu", init_scale=64.0, growth_interval=2), []
    optimizer.register_step_post_hook(lambda *_: calls.append(1))
    objects = [optimizer.state, optimizer.param_groups, *optimizer.param_groups, *(g["params"] for g in optimizer.param_groups)]

    def advance(network):
        scaler.scale(network(x).square().mean()).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        scheduler.step()
        optimizer.zero_grad()

    rates = []
    for number in range(5):
        if number == 2:
            in_place(model, plan, optimizer)
        before = model[0].weight.detach().clone()
        advance(model)
        assert not torch.equal(before, model[0].weight)
        rates.append([group["lr"] for group in optimizer.param_groups])
    after = [optimizer.state, optimizer.param_groups, *optimizer.param_groups, *(g["params"] for g in optimizer.param_groups)]
    assert all(one is other for one, other in zip(objects, after, strict=True))
    assert len(calls) == 5 and scaler.get_scale() == 256.0
    reference = torch.optim.SGD([{"params": [nn.Parameter(torch.ones(1))], "lr": lr} for lr in (0.5, 0.1)])
    steps = torch.optim.lr_scheduler.SequentialLR(
        reference,
        [
            torch.optim.lr_scheduler.LinearLR(reference, 0.1, total_iters=2),
            torch.optim.lr_scheduler.CosineAnnealingLR(reference, 4),
        ],
        [2],
    )
    for rate in rates:
        reference.step()
        steps.step()
        assert rate == [group["lr"] for group in reference.param_groups]


def test_gradients_that_were_accumulated_before_count_after():
    """Half of a batch before the cut, half after it: the sum is that of a masked run."""
    model, plan, optimizer = trained()
    optimizer.zero_grad()
    x = torch.randn(6, 3)
    masked = dg.mask(plan, model)
    with dg.mask_(plan, model):
        model(x[:3]).square().sum().backward()
    in_place(model, plan, optimizer)
    model(x[3:]).square().sum().backward()
    masked(x).square().sum().backward()
    torch.testing.assert_close(model[0].weight.grad, masked[0].weight.grad[[0, 2, 3]])
    torch.testing.assert_close(model[2].weight.grad, masked[2].weight.grad[:, [0, 2, 3]])


class Rows(torch.optim.Optimizer):
    """Keeps the largest gradient of each row, and a history in a list."""

    def __init__(self, params):
        super().__init__(params, {"lr": 0.1})

    @torch.no_grad()
    def step(self):
        for parameter in self.param_groups[0]["params"]:
            state = self.state[parameter]
            state["rows"] = parameter.grad.abs().flatten(1).amax(1) if parameter.ndim > 1 else parameter.grad.abs()
            state.setdefault("history", []).append(parameter.grad.clone())
            parameter.sub_(0.1 * parameter.grad)


def follow(entry):
    """How the state of `Rows` follows its parameters."""
    if entry.key == "rows":
        return entry.along(0)
    if entry.key == "history":
        dims = [dim if dim in entry.kept else None for dim in range(entry.parameter.ndim)]
        return [attrs.evolve(entry, value=item).along(*dims) for item in entry.value]
    return None


def test_an_optimizer_of_ones_own_says_how_its_state_follows():
    """Without the function each entry is refused, by name; with it rows and a history are cut, in both ways."""
    model, plan, _ = trained()
    optimizer = Rows(model.parameters())
    optimizer.step()
    rows, history = (optimizer.state[model[0].weight][key] for key in ("rows", "history"))
    last = optimizer.state[model[2].weight]["rows"]
    with pytest.raises(dg.errors.MismatchError) as caught:
        dg.optimizers.carry_state(plan, model, optimizer)
    assert caught.value.problems == (
        "'0.weight': 'rows' has shape (4,), the parameter (4, 3)",
        "'0.weight': 'history' is a list; expected tensors and numbers",
        "'0.bias': 'history' is a list; expected tensors and numbers",
        "'2.weight': 'rows' has shape (2,), the parameter (2, 4)",
        "'2.weight': 'history' is a list; expected tensors and numbers",
    )
    assert "Say with follow= how it follows the parameters" in str(caught.value)
    carried = dg.optimizers.carry_state(plan, model, optimizer, follow=follow)["state"]
    in_place(model, plan, optimizer, follow=follow)
    for state in (carried[0], optimizer.state[model[0].weight]):
        assert torch.equal(state["rows"], rows[[0, 2, 3]]) and torch.equal(state["history"][0], history[0][[0, 2, 3]])
    assert torch.equal(optimizer.state[model[2].weight]["rows"], last)
    model(torch.randn(5, 3)).sum().backward()
    optimizer.step()


def test_a_function_that_says_nonsense_is_refused():
    """As many dimensions as the entry has, of the same sizes; nothing is carried."""
    model, plan, optimizer = trained()
    before = dict(optimizer.state)
    replaced = dg.execute_(plan, model)
    for dims in ((0,), (1, 0), (0, 1, 2)):
        with pytest.raises(dg.errors.PlanError, match=r"'momentum_buffer' of shape .* cannot follow the dimensions"):
            dg.optimizers.carry_optimizer_(plan, model, optimizer, replaced, follow=lambda entry, dims=dims: entry.along(*dims))
    assert list(optimizer.state.items()) == list(before.items())


def test_nothing_that_is_carried_shares_memory():
    """An entry of which nothing goes is copied as well."""
    model, plan, optimizer = trained()
    held = optimizer.state[model[0].weight]["columns"] = torch.ones(1, 3)
    carried = dg.optimizers.carry_state(plan, model, optimizer)["state"][0]["columns"]
    carried.fill_(7.0)
    assert held.tolist() == [[1.0, 1.0, 1.0]]


def test_a_history_over_all_parameters_is_refused():
    """LBFGS keeps flat vectors with the first parameter, which may be one that the plan does not cut; unused, it goes on."""
    model, x = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 4), nn.Linear(4, 2)), torch.randn(5, 3)
    plan = dg.cut(dg.trace(model, x), "1.weight", [1], dim=0)
    optimizer = torch.optim.LBFGS(model.parameters())
    dg.optimizers.carry_state(plan, model, optimizer)

    def closure():
        optimizer.zero_grad()
        loss = model(x).square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    with pytest.raises(dg.errors.MismatchError, match="LBFGS keeps its history in vectors over all parameters"):
        dg.optimizers.carry_state(plan, model, optimizer)
    replaced = dg.execute_(plan, model)
    with pytest.raises(dg.errors.MismatchError, match="LBFGS keeps its history in vectors over all parameters"):
        dg.optimizers.carry_optimizer_(plan, model, optimizer, replaced)


def test_what_belongs_to_another_model_is_told_all_at_once():
    """A map of another model, one that leaves a parameter out, a plan of other sizes; mapped to itself, a stranger stays."""
    model, plan, optimizer = trained()
    stranger = nn.Parameter(torch.ones(7))
    optimizer.add_param_group({"params": [stranger]})
    before = [list(group["params"]) for group in optimizer.param_groups], list(optimizer.state.items())
    replaced = dg.execute_(plan, model)
    carry = dg.optimizers.carry_optimizer_
    foreign = dict(zip(replaced, [nn.Parameter(torch.ones(5)), *list(replaced.values())[1:]], strict=True))
    left_out = dict(list(replaced.items())[1:])
    themselves = {new: new for new in replaced.values()}
    nothing = dg.Plan.empty(dg.trace(model, torch.randn(5, 3)))
    cases = [
        (plan, replaced, [r"trains a parameter of shape \(7,\) that neither the map nor the model holds"]),
        (plan, foreign, [r"leads to a parameter of shape \(5,\) that the model does not hold", r"of shape \(7,\)"]),
        (plan, left_out, [r"of shape \(4,", r"of shape \(7,\) that neither"]),
        (plan, themselves, [r"expected size 4 in dimension 0, met shape \(3"]),
        (nothing, replaced, [r"'0.weight': the plan makes shape \(4, 3\) of \(4, 3\)"]),
    ]
    for its_plan, parameter_map, says in cases:
        with pytest.raises(dg.errors.MismatchError) as caught:
            carry(its_plan, model, optimizer, parameter_map)
        assert all(re.search(text, "\n".join(caught.value.problems)) for text in says)
    with pytest.raises(dg.errors.PlanError, match=r"expected parameter_map to be what dg\.execute_ returned, met list"):
        carry(plan, model, optimizer, [])
    assert before == ([list(group["params"]) for group in optimizer.param_groups], list(optimizer.state.items()))
    carry(plan, model, optimizer, replaced | {stranger: stranger})
    assert optimizer.param_groups[1]["params"][0] is stranger


def test_a_second_call_changes_nothing():
    """What is carried over trains the new parameters already."""
    model, plan, optimizer = trained()
    replaced = in_place(model, plan, optimizer)
    before = [list(group["params"]) for group in optimizer.param_groups], list(optimizer.state.items())
    dg.optimizers.carry_optimizer_(plan, model, optimizer, replaced)
    assert before == ([list(group["params"]) for group in optimizer.param_groups], list(optimizer.state.items()))


@pytest.mark.parametrize("use_buffers", [False, True])
def test_an_average_of_the_weights_goes_on(use_buffers):
    """The averaged copy is pruned with the same plan, in place: what it becomes is what the masked run's average keeps."""
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3)), torch.randn(2, 3, 8, 8)
    plan = dg.cut(dg.trace(model, x), "0.weight", [1, 4], dim=0)
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=use_buffers)

    def drift(network, seed):
        draws = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for tensor in (*network.parameters(), *network.buffers()):
                if tensor.is_floating_point():
                    tensor.add_(torch.randn(tensor.shape, generator=draws))

    for seed in (1, 2):
        drift(model, seed)
        averaged.update_parameters(model)
    whole, its = copy.deepcopy((model, averaged))
    drift(whole, 3)
    model.load_state_dict(whole.state_dict())
    its.update_parameters(whole)
    dg.execute_(plan, model)
    dg.execute_(plan, averaged)
    averaged.update_parameters(model)
    expected = dg.execute(plan, its).state_dict()
    torch.testing.assert_close(averaged.module.state_dict(), expected, rtol=0, atol=0)
    assert averaged.n_averaged == 3 and averaged.module[0].out_channels == 4
    averaged(x)
    fresh = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    fresh.update_parameters(model)
    assert not torch.equal(fresh.module[0].weight, averaged.module[0].weight)
