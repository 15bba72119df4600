"""Laws 1 to 6, 8 and 10 on random small modules, each with a wrong implementation that it refutes."""

import copy
import os
from itertools import combinations

import attrs
import pytest
import torch
from hypothesis import assume, event, given, settings
from hypothesis import strategies as st

import depgraph as dg
from depgraph import codec, testing
from depgraph.algebra.spaces import atoms
from depgraph.plans import plan_files
from depgraph.plans.making import plan_of
from depgraph.solving.statements import Equal
from depgraph.testing import KINDS, index_sets, laws, modules, network, plans
from tests.laws.refuting import refuted
from tests.processes import elsewhere, graph_and_plan

pytestmark = pytest.mark.models

X = torch.randn(2, 3, 4, 4)


@st.composite
def pruned(draw):
    """A module, its graph, and a plan that removes something."""
    model = draw(modules())
    graph = dg.trace(model, X)
    plan = draw(plans(graph))
    return model, graph, plan


@given(modules())
def test_law_1_and_2_tracing_changes_nothing_and_is_deterministic(model):
    """Parameters, buffers, flags, hooks, attributes, grad mode and random state stay; two traces are the same bytes."""
    testing.assert_pure(model, X)


def test_law_1_refutes_a_tracer_that_runs_the_model(monkeypatch):
    """A training-mode forward on the real model moves BatchNorm's statistics; the check sees it."""

    def running(model, example_inputs, kwargs=None):
        model(example_inputs)
        return dg.trace(model, example_inputs, kwargs)

    model = network(["residual"], 3, 2, 2, False).train()
    testing.assert_pure(model, X)
    monkeypatch.setattr(laws, "trace", running)
    refuted(testing.assert_pure, model, X, says=r"law 1 \(purity\): trace changed the model")


def test_law_2_refutes_a_tracer_that_counts_its_traces(monkeypatch):
    """A name that goes on counting from one trace to the next is another graph each time."""
    traces = []

    def counting(*args):
        traces.append(dg.trace(*args))
        first, *others = traces[-1].operations
        return attrs.evolve(traces[-1], operations=(attrs.evolve(first, op=f"{first.op}_{len(traces)}"), *others))

    monkeypatch.setattr(laws, "trace", counting)
    refuted(testing.assert_pure, network(["residual"], 3, 2, 2, False), X, says=r"law 2 \(determinism\): two traces differ")


def test_law_2_holds_in_another_process():
    """The bytes of a graph and a plan do not depend on the process or on its hash seed."""
    assert elsewhere(graph_and_plan) == graph_and_plan()


@given(pruned())
def test_law_3_the_square(case):
    """Tracing the executed model gives the graph that the plan promises, and it runs."""
    model, graph, plan = case
    small = testing.assert_square(graph, plan, model, X)
    assert small(X).shape == model(X).shape


def test_law_3_refutes_an_executor_that_forgets_a_member():
    """A plan without one of its axes gives a model that does not trace, or another graph."""
    model = network(["gate"], 4, 2, 2, False)
    graph = dg.trace(model, X)
    plan = dg.plan(graph, dg.score(graph, model, dg.criteria.Random(0)), ratio=0.5)
    for position in range(len(plan.axes)):
        wrong = attrs.evolve(plan, axes=plan.axes[:position] + plan.axes[position + 1 :])
        refuted(testing.assert_square, graph, wrong, model, X, by=(AssertionError, RuntimeError, ValueError))


def assert_composition(graph, model, p, q, both):
    """Law 4: both plans as one do what they do one after the other, to graphs and to modules."""
    assert both.apply(graph) == q.apply(p.apply(graph)), "another graph"
    once, twice = (small.state_dict().values() for small in (dg.execute(both, model), dg.execute(q, dg.execute(p, model))))
    assert all(torch.equal(a, b) for a, b in zip(once, twice, strict=True)), "other numbers"


@given(modules(), st.data())
def test_law_4_composition(model, data):
    """`p.then(q)` is first p then q, on graphs and on modules; `then` is associative; the empty plan is its unit."""
    graph = dg.trace(model, X)
    p = data.draw(plans(graph))
    q = data.draw(plans(p.apply(graph)))
    r = data.draw(plans(q.apply(p.apply(graph))))
    assert_composition(graph, model, p, q, p.then(q))
    assert p.then(q).then(r) == p.then(q.then(r))
    testing.assert_unit(graph, p)


@given(modules(tuple(kind for kind in KINDS if kind not in {"split", "halves"})), st.data())
def test_law_4_independent_plans_commute(model, data):
    """Plans of different groups give the same plan in either order (halves of a split are not independent)."""
    graph = dg.trace(model, X)
    wide = [group for group in graph.groups if group.size > 2]
    cuts = {group.atom: data.draw(index_sets(group.size, group.size - 2)) for group in wide}
    cuts = {atom: gone for atom, gone in cuts.items() if gone}
    assume(len(cuts) > 1)
    whole = plan_of(graph, cuts)
    first, *rest = cuts
    p, q = plan_of(graph, {first: cuts[first]}), plan_of(graph, {atom: cuts[atom] for atom in rest})

    def after(plan, wanted):
        then = plan.apply(graph)
        by_id = {group.atom.id: group.atom for group in then.groups}
        return plan_of(then, {by_id[atom.id]: cuts[atom] for atom in wanted})

    assert p.then(after(p, rest)) == q.then(after(q, [first])) == whole


def test_law_4_refutes_adding_up_indices():
    """Reading the second plan's indices as original ones gives another model: too large a one, or one with other numbers."""
    model = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.ReLU(), torch.nn.Linear(5, 2))
    graph = dg.trace(model, torch.zeros(1, 3))
    p = dg.cut(graph, "0.weight", [0], dim=0)
    q = dg.cut(p.apply(graph), "0.weight", [0], dim=0)
    assert p.then(q).kept["0.weight"][0] == dg.IndexSet.of([2, 3, 4])
    assert_composition(graph, model, p, q, p.then(q))
    refuted(assert_composition, graph, model, p, q, dg.cut(graph, "0.weight", [0], dim=0), says="another graph")
    q = dg.cut(p.apply(graph), "0.weight", [1], dim=0)
    assert_composition(graph, model, p, q, p.then(q))
    refuted(assert_composition, graph, model, p, q, dg.cut(graph, "0.weight", [0, 1], dim=0), says="other numbers")


@given(pruned())
def test_law_5_round_trip(case):
    """Graphs and plans load as the values that were saved."""
    _, graph, plan = case
    testing.assert_round_trip(graph, plan)


@given(pruned())
def test_law_5_refutes_an_edited_file(case):
    """One changed digit is noticed."""
    _, _, plan = case
    assume(plan.cuts)
    text = plan_files.dumps(plan)
    fingerprint = plan.base
    edited = text.replace(fingerprint, fingerprint[::-1]) if fingerprint != fingerprint[::-1] else text + "x"
    refuted(plan_files.loads, edited, by=dg.errors.DocumentError, says="edited or damaged")


def test_law_5_refutes_a_file_that_loses_something(monkeypatch):
    """A reader that forgets the edits of a plan, or the balances of a graph."""
    model = network(["halves"], 3, 2, 2, False)
    graph = dg.trace(model, X)
    plan = dg.plan(graph, dg.score(graph, model, dg.criteria.Random(0)), ratio=0.5)
    testing.assert_round_trip(graph, plan)
    for module, lost, says in ((plan_files, "edits", "the plan changed"), (codec, "balances", "the graph changed")):

        def forgetful(*args, loads=module.loads, lost=lost, **more):
            return attrs.evolve(loads(*args, **more), **{lost: ()})

        monkeypatch.setattr(module, "loads", forgetful)
        refuted(testing.assert_round_trip, graph, plan, says=says)


@given(pruned())
def test_law_6_zero_channels(case):
    """Removing indices whose parameters are zero leaves the output, in double precision."""
    model, graph, plan = case
    event(f"groups are compared: {testing.assert_zero_channels(graph, plan, model, X) > 0}")


def assert_same_function(small, masked):
    """Law 6 on two modules that are given."""
    torch.testing.assert_close(small(X), masked(X), atol=1e-5, rtol=0)


def test_law_6_refutes_a_wrong_index_map():
    """Cutting the wrong channels of one consumer changes the output."""
    torch.manual_seed(0)
    model = network(["residual"], 4, 3, 2, False)
    graph = dg.trace(model, X)
    plan = dg.plan(graph, dg.score(graph, model, dg.criteria.Random(3)), ratio=0.5)
    assert testing.assert_zero_channels(graph, plan, model, X) > 0
    masked = copy.deepcopy(model)
    for name, dims in plan.kept.items():
        parameter = dict(masked.named_parameters()).get(name)
        for dim, kept in dims.items():
            if parameter is not None:
                gone = torch.tensor(list(kept.complement(plan.sizes[name][dim])))
                parameter.data.index_fill_(dim, gone, 0.0)
    assert_same_function(dg.execute(plan, masked), masked)
    refuted(assert_same_function, dg.execute(plan, model), model)
    small, kept = dg.execute(plan, masked), list(plan.kept["1.last.weight"][1])
    others = [(index + 1) % masked[1].last.in_channels for index in kept]
    small[1].last.weight = torch.nn.Parameter(
        masked[1].last.weight[list(plan.kept["1.last.weight"].get(0, range(4)))][:, others]
    )
    refuted(assert_same_function, small, masked)


class Scaled(torch.nn.Module):
    """Linear attention that divides by the root of an attribute, as forward code does."""

    def __init__(self):
        super().__init__()
        self.width = 4
        self.query, self.key, self.value = (torch.nn.Linear(6, 8) for _ in range(3))
        self.out = torch.nn.Linear(8, 6)

    def forward(self, x):
        q, k, v = (layer(x).view(*x.shape[:2], -1, self.width).transpose(1, 2) for layer in (self.query, self.key, self.value))
        return self.out((q @ k.transpose(-1, -2) / self.width**0.5 @ v).transpose(1, 2).flatten(2))


def test_law_6_leaves_out_what_forward_divides_by():
    """Fewer head dims are another scale: masking queries and keys is not removing them, while heads are compared."""
    torch.manual_seed(0)
    model, x = Scaled().eval(), torch.randn(2, 3, 6)
    graph = dg.trace(model, x)
    plan = dg.plan(graph, dg.score(graph, model, dg.criteria.Random(0)), ratio={"role:head_dim": 0.5, "role:head": 0.5})
    query = graph.groups_by_name["query.weight:0[1]"]
    assert query.role == "head_dim" and query.atom in testing.normalised_atoms(graph)
    assert testing.assert_zero_channels(graph, plan, model, x) == 1
    narrow = dg.plan(graph, dg.score(graph, model, dg.criteria.Random(0)), ratio={"role:head_dim": 0.5})
    masked = copy.deepcopy(model)
    for name, dims in narrow.kept.items():
        parameter = masked.get_parameter(name)
        for dim, kept in dims.items():
            parameter.data.index_fill_(dim, torch.tensor(list(kept.complement(parameter.shape[dim]))), 0.0)
    assert torch.allclose(dg.execute(narrow, masked)(x), masked(x) * 2**0.5 + masked.out.bias * (1 - 2**0.5), atol=1e-5)


@given(pruned())
def test_law_8_atomicity(case):
    """A plan for another graph is refused, and the module is bit-identical."""
    model, _, plan = case
    assume(plan.cuts)
    testing.assert_atomic(plan, model)


def test_law_8_refutes_writing_before_checking(monkeypatch):
    """An executor that finds out too late has halved a weight; one that checks nothing executes what does not fit."""
    model = network(["residual"], 4, 3, 2, False)
    plan = dg.cut(dg.trace(model, X), "1.first.weight", [0, 1], dim=0)

    def late(plan, model):
        model[0].weight = torch.nn.Parameter(model[0].weight[:2])
        return dg.execute_(plan, model)

    testing.assert_atomic(plan, model)
    monkeypatch.setattr(laws, "execute_", late)
    refuted(testing.assert_atomic, plan, model, says=r"law 8 \(atomicity\): MismatchError.* left a changed module")
    monkeypatch.setattr(laws, "execute_", lambda plan, model: {})
    refuted(testing.assert_atomic, plan, model, says=r"law 8 \(atomicity\): a plan for another graph was executed")


def alone(graph, group):
    """The plan that takes one index of a group, and of those with which it is balanced."""
    partners = next((balance.atoms for balance in graph.balances if group.atom in balance.atoms), (group.atom,))
    return plan_of(graph, {atom: dg.IndexSet.of([0]) for atom in partners})


def runs(plan, model):
    """Whether the model that the plan leaves runs."""
    try:
        dg.execute(plan, model)(X)
    except (RuntimeError, ValueError):
        return False
    return True


def assert_sound_and_minimal(graph, plan, model, rules=dg.RULES, parts=()):
    """Law 9: what the plan leaves runs and is what was promised; what a part of its axes leaves does not run.

    Parts are all of them where these are few, else each axis alone, all without each, and those that are given.
    """
    assert runs(plan, model), "what a group leaves does not run"
    assert dg.trace(dg.execute(plan, model), X, rules=rules) == plan.apply(graph), "what a group leaves is something else"
    every, count = range(len(plan.axes)), len(plan.axes)
    sizes = range(1, count) if count <= 5 else {1, count - 1}
    for part in (*parts, *(chosen for size in sizes for chosen in combinations(every, size))):
        axes = tuple(plan.axes[position] for position in part)
        cuts = tuple(cut for cut in plan.cuts if any(cut.atom in atoms(axis.space) for axis in axes))
        partial = attrs.evolve(plan, axes=axes, cuts=cuts)
        assert len(axes) in {0, count} or not runs(partial, model), f"a part is enough: {axes}"


@given(modules(), st.data())
@settings(max_examples=15 if os.environ.get("HYPOTHESIS_PROFILE") != "long" else 200)
def test_law_9_soundness_and_minimality(model, data):
    """Each group alone prunes to a model that runs; with a part of its members alone it does not.

    One index that is left of two would broadcast, so larger groups are asked.
    """
    graph = dg.trace(model, X)
    plans_of_groups = [alone(graph, group) for group in graph.groups if group.size > 2]
    assume(plans_of_groups)
    for plan in plans_of_groups:
        part = data.draw(st.sets(st.integers(0, len(plan.axes) - 1)))
        assert_sound_and_minimal(graph, plan, model, parts=[sorted(part)])


class Beside(torch.nn.Module):
    """Two branches that meet in one call, which treats each of them by itself."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.d = (torch.nn.Conv2d(*sizes, 1) for sizes in ((3, 4), (3, 4), (4, 2), (4, 2)))

    def forward(self, x):
        one, other = torch._foreach_abs([self.a(x), self.b(x)])
        return self.c(one) + self.d(other)


def test_law_9_refutes_a_rule_that_couples_too_much_or_too_little():
    """Where a rule ties two branches, half of the group is enough; where it says nothing, what the plan leaves does not run."""
    model, right = Beside(), dg.RULES["aten._foreach_abs"]
    graph = dg.trace(model, X)
    assert len(graph.groups) == 2
    for group in graph.groups:
        assert_sound_and_minimal(graph, alone(graph, group), model)

    def greedy(call):
        yield from right.equations(call)
        yield Equal(call.outputs[0][1], call.outputs[1][1])

    def free(call):
        yield from ()

    for rule, groups, parts, says in ((greedy, 1, [(0, 1, 4), (2, 3, 5)], "a part is enough"), (free, 4, (), "does not run")):
        rules = dg.RULES | {"aten._foreach_abs": dg.Rule(rule)}
        wrong = dg.trace(model, X, rules=rules)
        assert len(wrong.groups) == groups
        refuted(assert_sound_and_minimal, wrong, alone(wrong, wrong.groups[0]), model, rules, parts, says=says)


def test_a_rule_that_couples_what_a_concat_keeps_apart():
    """Both branches are one group then, though the model runs with one of them narrower."""
    model = torch.nn.ModuleDict({"a": torch.nn.Conv2d(3, 4, 1), "b": torch.nn.Conv2d(3, 4, 1), "c": torch.nn.Conv2d(8, 2, 1)})
    model.forward = lambda x: model["c"](torch.cat([model["a"](x), model["b"](x)], 1))

    def greedy(call):
        yield from dg.RULES["aten.cat"].equations(call)
        yield Equal(call["tensors"][0][1], call["tensors"][1][1])

    graph = dg.trace(model, X, rules=dg.RULES | {"aten.cat": dg.Rule(greedy, "CONCAT")})
    (group,) = graph.groups
    assert {name for name, _ in group.members} == {"a.weight", "a.bias", "b.weight", "b.bias", "c.weight"}
    small = dg.execute(dg.cut(dg.trace(model, X), "a.weight", [0], dim=0), model)
    assert small["b"].out_channels == 4 and small["c"].in_channels == 7


@given(pruned())
def test_law_10_cost(case):
    """Parameters and MACs of the promised graph are those that PyTorch counts on the executed model."""
    model, graph, plan = case
    testing.assert_cost(plan.apply(graph), dg.execute(plan, model), X)


def test_law_10_refutes_the_cost_of_the_unpruned_graph():
    """The check tells the graph before from the graph after."""
    model = network(["residual"], 4, 3, 2, False)
    graph = dg.trace(model, X)
    plan = dg.plan(graph, dg.score(graph, model, dg.criteria.Random(0)), ratio=0.5)
    small = dg.execute(plan, model)
    refuted(testing.assert_cost, graph, small, X, says=r"law 10 \(cost\): .* parameters promised")
    deaf = attrs.evolve(plan.apply(graph), operations=tuple(attrs.evolve(o, costs=()) for o in plan.apply(graph).operations))
    refuted(testing.assert_cost, deaf, small, X, says=r"law 10 \(cost\): 0 MACs promised")
