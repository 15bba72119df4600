"""The next step of a pruned model is that of a run in which what goes was masked, for every optimizer of torch."""

import copy
import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

import depgraph as dg
from depgraph.execution import optimizers
from depgraph.testing import modules, plans
from tests.laws.refuting import refuted
from tests.laws.test_drops import WAYS, Stack

pytestmark = pytest.mark.models

X = torch.randn(2, 3, 4, 4)

ELEMENTWISE = {
    "momentum": lambda held: torch.optim.SGD(held, lr=0.05, momentum=0.9, weight_decay=0.01),
    "nesterov": lambda held: torch.optim.SGD(held, lr=0.05, momentum=0.9, nesterov=True),
    "adam": lambda held: torch.optim.Adam(held, lr=0.01, amsgrad=True),
    "adamw": lambda held: torch.optim.AdamW(held, lr=0.01),
    "nadam": lambda held: torch.optim.NAdam(held, lr=0.01),
    "radam": lambda held: torch.optim.RAdam(held, lr=0.01),
    "rmsprop": lambda held: torch.optim.RMSprop(held, lr=0.01, centered=True, momentum=0.5),
    "adagrad": lambda held: torch.optim.Adagrad(held, lr=0.01),
    "adadelta": torch.optim.Adadelta,
    "adamax": torch.optim.Adamax,
    "asgd": torch.optim.ASGD,
    "rprop": torch.optim.Rprop,
}
MEMORYLESS = {"asgd"}
"""Until its `t0` its average is a copy of the parameter, so that one without a past goes to the same place."""

FEW = settings(max_examples=max(settings().max_examples // 7, 1))
"""Each example runs all optimizers."""


@st.composite
def perceptrons(draw):
    """A convolution and linear layers, whose weights are whole matrices to Muon and Adafactor."""
    first, second, third = (draw(st.integers(2, 6)) for _ in range(3))
    torch.manual_seed(draw(st.integers(0, 99)))
    return nn.Sequential(
        *(nn.Conv2d(3, first, 3), nn.Flatten(), nn.Linear(4 * first, second), nn.ReLU()),
        *(nn.Linear(second, third), nn.ReLU(), nn.Linear(third, 3)),
    )


@st.composite
def pruned(draw, networks):
    """A model in double precision and a plan that removes something."""
    model = draw(networks)
    plan = draw(plans(dg.trace(model, X)))  # what a mask can do: elements leave in a law of their own
    assume(plan.cuts)
    return model.double().train(), plan


def gradients(model, seed):
    """A gradient for each parameter, drawn."""
    draws = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=draws, dtype=torch.double)


@torch.no_grad()
def mask_along(plan, model, tensors_of):
    """Zero what goes in tensors that have a parameter's shape: its gradient, or its momentum."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name, dims in plan.kept.items():
        for dim, kept in dims.items() if name in parameters else ():
            gone = torch.tensor(list(kept.complement(plan.sizes[name][dim])))
            for tensor in tensors_of(parameters[name]):
                tensor.index_fill_(dim, gone, 0.0)


def step(model, optimizer, seed, plan=None):
    """A step with drawn gradients, masked ones where a plan is given."""
    gradients(model, seed)
    if plan is not None:
        mask_along(plan, model, lambda parameter: [parameter.grad])
    optimizer.step()


def prune_(plan, model, optimizer):
    """In place, with the gradients that are there."""
    dg.optimizers.carry_optimizer_(plan, model, optimizer, dg.execute_(plan, model))


def assert_goes_on(small, going_on, masked, its, plan):
    """The law: what is kept of the masked model and of its optimizer's state is what the pruned ones have."""
    kept = dict(dg.execute(plan, masked).named_parameters())
    for name, parameter in small.named_parameters():
        torch.testing.assert_close(parameter, kept[name], atol=1e-13, rtol=1e-12)
    state, expected = going_on.state_dict()["state"], dg.optimizers.carry_state(plan, masked, its)["state"]
    torch.testing.assert_close(state, expected, atol=1e-13, rtol=1e-12)


def trained(model, make):
    """An optimizer of the model after two steps."""
    optimizer = make(model.parameters())
    for seed in (1, 2):
        step(model, optimizer, seed)
    return optimizer


@FEW
@given(pruned(perceptrons() | modules(("residual", "recurrent"))))
def test_the_next_step_is_that_of_a_masked_run(case):
    """Whatever came before, for each optimizer; the gradients from before the cut are used after it."""
    for make in ELEMENTWISE.values():
        model, plan = copy.deepcopy(case[0]), case[1]
        optimizer = trained(model, make)
        masked, its = copy.deepcopy((model, optimizer))
        dg.mask_(plan, masked)
        step(masked, its, 3, plan)
        gradients(model, 3)
        prune_(plan, model, optimizer)
        optimizer.step()
        assert_goes_on(model, optimizer, masked, its, plan)


@pytest.mark.parametrize("kind", sorted(ELEMENTWISE.keys() - MEMORYLESS))
def test_that_law_refutes_an_optimizer_without_its_past_and_one_with_that_of_others(kind):
    """A new optimizer goes elsewhere, and so does one whose state was cut at other indices."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 6), nn.ReLU(), nn.Linear(6, 3)).double()
    graph = dg.trace(model, X.double())
    plan, other = (dg.cut(graph, "1.weight", gone, dim=0) for gone in ([0, 3], [1, 2]))
    optimizer = trained(model, ELEMENTWISE[kind])
    masked, its = copy.deepcopy((model, optimizer))
    dg.mask_(plan, masked)
    step(masked, its, 3, plan)
    for its_plan in (None, other, plan):
        small, theirs = copy.deepcopy((model, optimizer))
        gradients(small, 3)
        replaced = dg.execute_(plan, small)
        if its_plan is None:
            theirs = ELEMENTWISE[kind](small.parameters())
        else:
            dg.optimizers.carry_optimizer_(its_plan, small, theirs, replaced)
        theirs.step()
        if its_plan is plan:
            assert_goes_on(small, theirs, masked, its, plan)
        else:
            refuted(assert_goes_on, small, theirs, masked, its, plan, says="not close")


def masked_run(model, plan, make, past):
    """How far a step takes the masked model, cut as the plan says, and the pruned one; and the sizes of the masked parameters.

    The run is masked from its first step; or its past is any, and weights and the state are masked now; or not even then.
    """
    optimizer = make(model)
    if past == "masked":
        dg.mask_(plan, model)
    for seed in (1, 2):
        step(model, optimizer, seed, plan if past == "masked" else None)
    if past == "any":
        dg.mask_(plan, model)
        mask_along(plan, model, lambda parameter: optimizer.state.get(parameter, {}).values())
    small, theirs = copy.deepcopy((model, optimizer))
    gradients(small, 3)
    prune_(plan, small, theirs)
    start, small_start = values(model), values(small)
    theirs.step()
    step(model, optimizer, 3, plan)
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    moved(small, small_start)
    moved(model, start)
    return values(small), values(dg.execute(plan, model)), sizes


def values(model):
    """Copies of the parameters."""
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


@torch.no_grad()
def moved(model, start):
    """Put how far each parameter went in its place."""
    for name, parameter in model.named_parameters():
        parameter.sub_(start[name])


def assert_proportional(pruned, masked, factors_of, tolerance=1e-9):
    """The law of updates that take means over a tensor: the direction is the same, and how much longer a step is, is known."""
    for name, step_ in pruned.items():
        low, high = factors_of(name, tuple(step_.shape))
        factor = float(step_.norm() / masked[name].norm()) if masked[name].norm() else low
        assert low * (1 - tolerance) <= factor <= high * (1 + tolerance), f"{name!r} goes {factor} times as far"
        beside = float((step_ - masked[name] * factor).norm() / step_.norm()) if step_.norm() else 0.0
        assert beside <= tolerance, f"{name!r} goes another way, by {beside:.2%} of a step"


def adafactor(model, d=1.0, eps2=1e-3):
    """Torch's."""
    return torch.optim.Adafactor(model.parameters(), lr=0.05, d=d, eps=(None, eps2))


def transformers_adafactor(model, d=1.0, eps2=1e-3):
    """The one that its Trainer offers; its factors lack the axes that they average."""
    from transformers.optimization import Adafactor

    options = {"relative_step": False, "scale_parameter": True}
    return Adafactor(model.parameters(), lr=0.05, eps=(1e-30, eps2), clip_threshold=d, **options)


ADAFACTORS = [adafactor, pytest.param(transformers_adafactor, marks=pytest.mark.needs("transformers"))]


@FEW
@given(case=pruned(perceptrons()))
@pytest.mark.parametrize("make", ADAFACTORS)
def test_adafactor_goes_the_masked_way_as_far_as_its_means_say(make, case):
    """Of a run that was masked from its start. The length of a step has root mean squares in it, which zeros make smaller.

    It is proportional to that of the parameter, as long as that is above `eps2`, and where it is clipped to the inverse of that
    of the update. Without clipping it is longer by the root of how many times the parameter is smaller.
    """
    for options, powers in (({"d": 1e9, "eps2": 0.0}, (1, 1)), ({}, (-1, 1))):
        model, plan = copy.deepcopy(case[0]), case[1]
        pruned, masked, sizes = masked_run(model, plan, lambda held, more=options: make(held, **more), "masked")
        assert_proportional(pruned, masked, root_of_sizes(sizes, *powers))


def root_of_sizes(sizes, low, high):
    """Bounds of the factor: powers of the root of how many times a parameter is smaller."""

    def factors(name, shape):
        root = math.sqrt(sizes[name] / math.prod(shape))
        return root**low, root**high

    return factors


@pytest.mark.parametrize("make", ADAFACTORS)
def test_that_law_refutes_factors_that_are_only_cut(make, monkeypatch):
    """Means of rows over all columns are mixed with means over those that stay: the direction is another one."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)).double()
    graph = dg.trace(model, X.double())
    plan = dg.cut(graph, "1.weight", [0, 3], dim=0).then(
        dg.cut(dg.cut(graph, "1.weight", [0, 3], dim=0).apply(graph), "3.weight", [2], dim=0)
    )
    right = masked_run(copy.deepcopy(model), plan, make, "masked")
    assert_proportional(*right[:2], root_of_sizes(right[2], -1, 1))

    def only_cut(entry):
        held = entry.state["row_var" if "row_var" in entry.state else "exp_avg_sq_row"] if entry.parameter.ndim > 1 else None
        if held is None or not isinstance(entry.value, torch.Tensor) or entry.value.numel() == 1:
            return None
        rows = entry.value is held
        dims = ((0, None) if rows else (None, 1)) if entry.value.ndim == 2 else ((0,) if rows else (1,))
        return entry.along(*dims)

    monkeypatch.setattr(optimizers, "_factor", only_cut)
    wrong = masked_run(copy.deepcopy(model), plan, make, "masked")
    refuted(assert_proportional, *wrong[:2], root_of_sizes(wrong[2], -1, 1), says="another way|times as far")


def estimates(optimizer):
    """The second moment of each weight that two factors stand for."""
    for state in optimizer.state.values():
        if "row_var" in state:
            yield state["row_var"] * state["col_var"] / state["row_var"].mean(-2, keepdim=True)
        elif "exp_avg_sq_row" in state:
            row, column = state["exp_avg_sq_row"].unsqueeze(-1), state["exp_avg_sq_col"].unsqueeze(-2)
            yield row * column / row.mean(-2, keepdim=True)


@FEW
@given(case=pruned(perceptrons()))
@pytest.mark.parametrize("make", ADAFACTORS)
def test_factors_stand_for_what_they_stood_for(make, case):
    """Whatever came before: the second moment that is estimated of each weight that stays is the same bit of information."""
    model, plan = copy.deepcopy(case[0]), case[1]
    optimizer = trained(model, lambda _: make(model))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    moments = dict(zip([names[id(key)] for key in optimizer.state if key.ndim > 1], estimates(optimizer), strict=True))
    prune_(plan, model, optimizer)
    for (name, before), after in zip(moments.items(), estimates(optimizer), strict=True):
        for dim, kept in plan.kept.get(name, {}).items():
            before = before.index_select(dim, torch.tensor(list(kept)))
        torch.testing.assert_close(after, before, atol=0, rtol=1e-12)


def muon(adjust):
    """Muon for the matrices of a model."""

    def make(model):
        return torch.optim.Muon([held for held in model.parameters() if held.ndim == 2], lr=0.05, adjust_lr_fn=adjust)

    return make


def adjusted(plan, adjust):
    """By how much Muon's step is longer because the matrix has another shape."""

    def length(rows, columns):
        return math.sqrt(max(1, rows / columns)) if adjust == "original" else 0.2 * math.sqrt(max(rows, columns))

    def factors(name, shape):
        before = [plan.sizes.get(name, {}).get(dim, size) for dim, size in enumerate(shape)]
        factor = length(*shape) / length(*before) if len(shape) == 2 else 1.0
        return factor, factor

    return factors


def in_double_precision(gradient, coefficients, count, eps):
    """Muon's iteration without its rounding to bfloat16."""
    a, b, c = coefficients
    x = gradient / gradient.norm().clamp(min=eps)
    for _ in range(count):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x


@FEW
@given(case=pruned(perceptrons()))
@pytest.mark.parametrize("adjust", ["original", "match_rms_adamw"])
def test_muon_goes_the_masked_way_as_far_as_its_shapes_say(adjust, case):
    """Once weights, gradients and momentum are masked: rows and columns of zeros stay zeros and change nothing else.

    Its own iteration rounds to bfloat16; here it is done without, and in the next test with it.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch.optim._muon._zeropower_via_newtonschulz", in_double_precision)
        pruned, masked, _ = masked_run(copy.deepcopy(case[0]), case[1], decayless(muon(adjust)), "any")
    assert_proportional(pruned, masked, adjusted(case[1], adjust))


def decayless(make):
    """Without weight decay, which goes its own way beside the update, element by element."""

    def made(model):
        optimizer = make(model)
        for group in optimizer.param_groups:
            group["weight_decay"] = 0.0
        return optimizer

    return made


def test_that_law_refutes_a_momentum_that_was_not_masked_and_holds_with_rounding():
    """With what goes still in the momentum the orthogonal matrix is another one; rounding to bfloat16 costs digits."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 32), nn.ReLU(), nn.Linear(32, 24), nn.ReLU(), nn.Linear(24, 16)).double()
    graph = dg.trace(model, X.double())
    plan = dg.plan(graph, dg.score(graph, model, dg.criteria.Random(0)), ratio=0.5)
    right, wrong = (masked_run(copy.deepcopy(model), plan, decayless(muon("original")), past) for past in ("any", "unmasked"))
    assert_proportional(*right[:2], adjusted(plan, "original"), tolerance=0.03)
    refuted(assert_proportional, *wrong[:2], adjusted(plan, "original"), tolerance=0.03, says="another way|times as far")


def shorter(way):
    """A stack of blocks in double precision, and a plan by which two of them leave and others lose inner features."""
    torch.manual_seed(0)
    model, x = Stack(["relu", "linear", "relu", "linear"], way).double(), torch.randn(2, 3, 4).double()
    graph = dg.trace(model, x)
    cut = dg.cut(graph, "blocks.block_1.inner.weight" if way == "dict" else "blocks.1.inner.weight", [1, 4], dim=0)
    return model, x, cut.then(dg.drop(cut.apply(graph), "blocks", [0, 2]))


@pytest.mark.parametrize("way", WAYS)
def test_elements_that_leave_take_their_state_along(way):
    """Groups lose their parameters and names; the others go on under new names, by each of the three ways."""
    model, x, plan = shorter(way)
    named = dict(model.named_parameters())
    kinds = (True, False)
    groups = [{"params": [item for item in named.items() if ("norm" in item[0]) == norms]} for norms in kinds]
    optimizer = torch.optim.Adam(groups)
    for seed in (1, 2):
        step(model, optimizer, seed)
    (others, its), small = copy.deepcopy((model, optimizer)), dg.execute(plan, model)
    names = [[name for name in small.state_dict() if ("norm" in name) == norms] for norms in kinds]
    expected = {plan.name_after(name): optimizer.state[held]["exp_avg"] for name, held in named.items()}
    going_on = torch.optim.Adam([{"params": [(name, small.get_parameter(name)) for name in group]} for group in names])
    going_on.load_state_dict(dg.optimizers.carry_state(plan, model, optimizer))
    dg.optimizers.carry_optimizer_(plan, small, optimizer, dg.parameter_map(model, small, plan))
    prune_(plan, others, its)
    for network, one in ((small, optimizer), (small, going_on), (others, its)):
        held = dict(network.named_parameters())
        assert [group["param_names"] for group in one.param_groups] == names
        assert [[id(held[name]) for name in group] for group in names] == [
            [id(parameter) for parameter in group["params"]] for group in one.param_groups
        ]
        assert {id(parameter) for parameter in one.state} == {id(parameter) for parameter in held.values()}
        for name, parameter in held.items():
            whole = dg.teacher_view(plan, plan.name_before(name), expected[name])
            assert torch.equal(one.state[parameter]["exp_avg"], whole)
    step(others, its, 3)
    others(x)


def test_what_left_is_not_told_from_what_the_model_never_held_but_by_the_map():
    """With elements that leave, a parameter of something else stays if it is mapped to itself, and leaves otherwise."""
    model, _, plan = shorter("list")
    stranger = nn.Parameter(torch.ones(3, dtype=torch.double))
    optimizer = torch.optim.SGD([*model.parameters(), stranger], lr=0.1, momentum=0.9)
    other_model, other = copy.deepcopy((model, optimizer))
    prune_(plan, model, optimizer)
    assert {id(held) for held in optimizer.param_groups[0]["params"]} == {id(held) for held in model.parameters()}
    (its,) = (held for held in other.param_groups[0]["params"] if held.shape == (3,))
    replaced = dg.execute_(plan, other_model)
    dg.optimizers.carry_optimizer_(plan, other_model, other, replaced | {its: its})
    assert other.param_groups[0]["params"][-1] is its
