"""Pruning in steps is pruning at once, in original coordinates; and optimizers go on as if masked."""

import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn

import depgraph as dg
from depgraph import testing
from depgraph.testing import modules, network, normalised_atoms, plans
from tests.laws.refuting import refuted

pytestmark = pytest.mark.models

X = torch.randn(2, 3, 4, 4)


def by_norm(graph, model):
    """Scores of the present model."""
    return dg.score(graph, model, dg.Magnitude(p=2))


def bits(model):
    """Names and bits of everything that a model holds."""
    return {name: testing.tensor_bytes(tensor) for name, tensor in model.state_dict().items()}


def assert_composes(done, delta, plan):
    """The law of steps: what is done and the next step are the next plan."""
    assert done.then(delta) == plan


@given(modules(), st.integers(1, 4), st.sampled_from(["linear", "cubic"]), st.booleans())
def test_the_steps_compose_to_the_plan(model, steps, shape, budget):
    """Executing all deltas one by one is executing the last plan once; the model stays; every graph is the promised one."""
    before, graph = testing.snapshot(model), dg.trace(model, X)
    assume(any(group.size > 2 for group in graph.groups) and not graph.balances)
    target = {"params": 0.95} if budget else {"ratio": 0.6}
    done = dg.Plan.empty(graph)
    for step in dg.iterate(model, X, by_norm, steps=steps, target=target, shape=shape):
        assert_composes(done, step.delta, step.plan)
        done = step.plan
        assert step.plan.apply(graph) == step.graph
        assert bits(step.model) == bits(dg.execute(step.plan, model))
    assert step.number == steps and dict(step.target) == target
    assert dg.trace(step.model, X) == step.graph
    assert not budget or step.graph.params <= 0.95 * graph.params
    assert testing.snapshot(model) == before


def test_that_law_refutes_deltas_in_original_coordinates():
    """A second step whose indices are read as those of the first model removes something else."""
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2)), torch.zeros(1, 3)
    graph = dg.trace(model, x)
    first, second = dg.iterate(model, x, by_norm, steps=2, target={"ratio": 0.5})
    added = second.plan.removed["0.weight:0"] - first.plan.removed["0.weight:0"]
    assert second.delta.removed["0.weight:0"] != added
    wrong = dg.cut(first.graph, "0.weight", [index for index in added if index < 6], dim=0)
    refuted(assert_composes, first.plan, wrong, second.plan)
    assert_composes(first.plan, second.delta, second.plan)
    assert second.plan == dg.plan(graph, by_norm(graph, model), ratio=0.5)


@given(modules(), st.data())
def test_what_is_left_to_do_completes_the_plan(model, data):
    """`remainder` is the division of `then`: the first plan and what is left are the second one."""
    graph = dg.trace(model, X)
    done = data.draw(plans(graph))
    rest = data.draw(plans(done.apply(graph)))
    assert dg.schedules.remainder(graph, done, done.then(rest)) == rest
    assert dg.schedules.remainder(graph, dg.Plan.empty(graph), done) == done
    assert dg.schedules.remainder(graph, done, done) == dg.Plan.empty(done.apply(graph))


def test_that_law_refutes_going_back():
    """A plan that keeps what is gone is no continuation, and the error says what."""
    graph = dg.trace(nn.Sequential(nn.Linear(3, 8), nn.Linear(8, 2)), torch.zeros(1, 3))
    done, other = dg.cut(graph, "0.weight", [1, 2], dim=0), dg.cut(graph, "0.weight", [2, 5], dim=0)
    for wrong, says in (
        (other, r"group 0.weight:0 has lost 1, which the second plan keeps"),
        (dg.Plan.empty(done.apply(graph)), r"the second plan is for the graph"),
    ):
        refuted(dg.schedules.remainder, graph, done, wrong, by=dg.errors.MismatchError, says=says)


@given(modules(), st.data())
def test_lifted_scores_are_the_scores_of_what_is_left(model, data):
    """What is gone is below everything, the others have their own numbers, in order."""
    graph = dg.trace(model, X)
    done = data.draw(plans(graph))
    scores = dg.score(done.apply(graph), dg.execute(done, model), dg.criteria.Random(0)) if done.apply(graph).groups else {}
    found = dg.schedules.lifted(graph, done, scores)
    names = {base: name for name, base in done.renamed}
    for group in graph.groups:
        gone = done.removed.get(group.name, dg.IndexSet())
        assert [index for index, value in enumerate(found[group.name]) if value == -math.inf] == list(gone)
        kept = tuple(found[group.name][index] for index in gone.complement(group.size))
        assert kept == (scores[names.get(group.name, group.name)] if len(kept) > 1 else (math.inf,))


@given(st.integers(1, 12), st.floats(0.05, 1), st.sampled_from(["linear", "cubic", lambda done: done**2]))
def test_targets_tighten_to_the_last_one(steps, remain, shape):
    """Budgets fall and ratios rise from step to step, and the last target is the one that was asked for."""
    graph = dg.trace(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2)), torch.zeros(1, 4))
    found = dg.schedules.schedule(graph, {"macs": remain}, steps, shape)
    values = [target["macs"] for target in found]
    assert len(found) == steps and values == sorted(values, reverse=True) and values[-1] == remain
    ratios = [target["ratio"] for target in dg.schedules.schedule(graph, {"ratio": 0.5}, steps, shape)]
    assert ratios == sorted(ratios) and ratios[-1] == 0.5


def test_exact_targets():
    """Linear and cubic as in the papers; whole numbers count from the graph; mappings scale part by part."""
    graph = dg.trace(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2)), torch.zeros(1, 4))
    assert graph.macs == 48
    assert [t["ratio"] for t in dg.schedules.schedule(graph, {"ratio": 0.8}, 4)] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    cubic = [0.8 * (1 - (1 - k / 4) ** 3) for k in (1, 2, 3, 4)]
    assert [t["ratio"] for t in dg.schedules.schedule(graph, {"ratio": 0.8}, 4, "cubic")] == pytest.approx(cubic)
    assert dg.schedules.schedule(graph, {"macs": 24, "params": 0.5}, 2) == (
        {"macs": 36, "params": 0.75},
        {"macs": 24, "params": 0.5},
    )
    with pytest.raises(dg.errors.PlanError, match="needs latency_model="):
        dg.schedules.schedule(graph, {"latency": 24.0}, 2)
    assert dg.schedules.schedule(graph, {"latency": 24.0}, 2, latency_model=lambda held: held.macs)[0] == {"latency": 36.0}
    for wrong in ({"steps": 0}, {"shape": "square"}, {"shape": lambda done: 1 - done}, {"shape": lambda done: done / 2}):
        with pytest.raises(dg.errors.PlanError):
            dg.schedules.schedule(graph, {"ratio": 0.5}, **{"steps": 2, **wrong})
    with pytest.raises(dg.errors.PlanError, match=r"met \{'flops': 0.5\}"):
        dg.schedules.schedule(graph, {"flops": 0.5}, 2)


def test_scores_are_taken_from_the_trained_model():
    """What training between steps makes important stays: the scores are those of the present weights."""
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2)), torch.zeros(1, 3)
    plain = list(dg.iterate(model, x, by_norm, steps=2, target={"ratio": 0.5}))[-1].plan
    steps = dg.iterate(model, x, by_norm, steps=2, target={"ratio": 0.5})
    first = next(steps)
    victim = next(iter(plain.removed["0.weight:0"] - first.plan.removed["0.weight:0"]))
    with torch.no_grad():
        first.model[0].weight[list(first.plan.kept["0.weight"][0]).index(victim)] += 100
    trained = next(steps).plan
    assert victim not in trained.removed["0.weight:0"] and trained != plain
    assert len(trained.removed["0.weight:0"]) == len(plain.removed["0.weight:0"]) == 4


def test_small_steps_and_impossible_targets():
    """A step too small for any index is empty; a last target that cannot be reached is refused before anything is done."""
    model, x = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), torch.zeros(1, 3)
    steps = list(dg.iterate(model, x, by_norm, steps=5, target={"ratio": 0.5}))
    assert [len(step.plan.removed.get("0.weight:0", ())) for step in steps] == [0, 0, 1, 1, 2]
    assert not steps[0].delta.cuts and not steps[3].delta.cuts
    with pytest.raises(dg.errors.PlanError):
        next(dg.iterate(model, x, by_norm, steps=3, target={"macs": 0.01}))
    with pytest.raises(dg.errors.PlanError, match="NaN at index 0"):
        next(dg.iterate(model, x, lambda graph, held: {"0.weight:0": [math.nan] * 4}, steps=3, target={"ratio": 0.5}))
    with pytest.raises(dg.errors.PlanError, match="or as a function of graph and model"):
        dg.iterate(model, x, steps=3, target={"ratio": 0.5})


OPTIMIZERS = {
    "momentum": lambda held: torch.optim.SGD(held, lr=0.05, momentum=0.9, weight_decay=0.01),
    "adam": lambda held: torch.optim.Adam(held, lr=0.01, amsgrad=True),
    "adamw": lambda held: torch.optim.AdamW(held, lr=0.01),
    "rmsprop": lambda held: torch.optim.RMSprop(held, lr=0.01, centered=True),
}


def trained(kind, kinds=("residual", "concat", "grouped")):
    """A model without normalisation across channels, in double precision, after two steps; its optimizer, and a plan."""
    torch.manual_seed(0)
    model, x = network(list(kinds), 4, 3, 2, False).double().train(), X.double()
    optimizer = OPTIMIZERS[kind](model.parameters())
    graph = dg.trace(model, x)
    left_out = normalised_atoms(graph)
    scores = dg.score(graph, model, dg.criteria.Random(0))
    plan = dg.plan(graph, scores, ratio={group.name: 0.5 for group in graph.groups if group.atom not in left_out})
    for _ in range(2):
        advance(model, optimizer)
    return model, optimizer, plan


def advance(model, optimizer):
    """One step of training."""
    optimizer.zero_grad()
    (model(X.double()) - 1).square().mean().backward()
    optimizer.step()


def assert_goes_on(small, kept, atol):
    """The law of carried state: every parameter is what training of the masked model keeps."""
    for name, parameter in small.named_parameters():
        torch.testing.assert_close(parameter, kept[name], atol=atol, rtol=1e-6)


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_training_goes_on_as_if_masked(kind):
    """A step of the pruned model with the carried state gives the weights that a step of the masked model keeps."""
    model, optimizer, plan = trained(kind)
    small = dg.execute(plan, model)
    going_on, fresh, newborn = OPTIMIZERS[kind](small.parameters()), dg.execute(plan, model), None
    going_on.load_state_dict(dg.optimizers.carry_state(plan, model, optimizer))
    newborn = OPTIMIZERS[kind](fresh.parameters())
    dg.mask_(plan, model)
    for one, its in ((small, going_on), (fresh, newborn), (model, optimizer)):
        advance(one, its)
    kept = dict(dg.execute(plan, model).named_parameters())
    assert_goes_on(small, kept, 1e-7)
    refuted(assert_goes_on, fresh, kept, 1e-5)  # an optimizer without its past goes elsewhere


def test_the_same_optimizer_goes_on_after_pruning_in_place():
    """Taken before `execute_`, the state fits the same optimizer once its groups hold the new parameters."""
    model, optimizer, plan = trained("adam")
    small = dg.execute(plan, model)
    other = OPTIMIZERS["adam"](small.parameters())
    other.load_state_dict(dg.optimizers.carry_state(plan, model, optimizer))
    state = dg.optimizers.carry_state(plan, model, optimizer)
    replaced = dg.execute_(plan, model)
    for group in optimizer.param_groups:
        group["params"] = [replaced.get(parameter, parameter) for parameter in group["params"]]
    optimizer.load_state_dict(state)
    advance(small, other)
    advance(model, optimizer)
    assert bits(small) == bits(model)
    assert replaced and {id(held) for held in optimizer.state} <= {id(held) for held in model.parameters()}


def test_carrying_writes_nothing_and_keeps_options():
    """The optimizer is as it was; learning rates of several groups come along; step counters are kept."""
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    optimizer = torch.optim.Adam([{"params": model[0].parameters(), "lr": 0.5}, {"params": model[2].parameters()}], lr=0.1)
    plan = dg.cut(dg.trace(model, torch.zeros(1, 3)), "0.weight", [1], dim=0)
    model(torch.randn(5, 3)).square().sum().backward()
    optimizer.step()
    held = optimizer.state[model[0].weight]["exp_avg"].clone()
    state = dg.optimizers.carry_state(plan, model, optimizer)
    assert torch.equal(optimizer.state[model[0].weight]["exp_avg"], held)
    assert torch.equal(state["state"][0]["exp_avg"], held[[0, 2, 3]]) and state["state"][0]["step"] == 1
    assert state["state"][2]["exp_avg"].shape == (2, 3) and state["state"][3]["exp_avg"].shape == (2,)
    assert [group["lr"] for group in state["param_groups"]] == [0.5, 0.1]


def test_factored_moments_are_carried_and_unknown_states_are_refused():
    """Adafactor's rows and columns are cut where they are long; a state of another form is named, as are foreign parameters."""
    model = nn.Sequential(nn.Linear(3, 4, bias=False), nn.ReLU(), nn.Linear(4, 2, bias=False))
    plan = dg.cut(dg.trace(model, torch.zeros(1, 3)), "0.weight", [1], dim=0)
    optimizer = torch.optim.Adafactor(model.parameters())
    model(torch.randn(5, 3)).square().sum().backward()
    optimizer.step()
    state = dg.optimizers.carry_state(plan, model, optimizer)["state"]
    assert (state[0]["row_var"].shape, state[0]["col_var"].shape) == ((3, 1), (1, 3))
    assert (state[1]["row_var"].shape, state[1]["col_var"].shape) == ((2, 1), (1, 3))
    optimizer.state[model[0].weight]["blocks"] = torch.zeros(7)
    with pytest.raises(dg.errors.MismatchError, match=r"'0.weight': 'blocks' has shape \(7,\), the parameter \(4, 3\)"):
        dg.optimizers.carry_state(plan, model, optimizer)
    foreign = torch.optim.SGD(nn.Linear(5, 5).parameters(), lr=0.1)
    with pytest.raises(dg.errors.MismatchError, match=r"a parameter of shape \(5, 5\) that the model does not hold"):
        dg.optimizers.carry_state(plan, model, foreign)
    with pytest.raises(dg.errors.MismatchError, match="the plan does not fit this model"):
        dg.optimizers.carry_state(plan, dg.execute(plan, model), optimizer)
