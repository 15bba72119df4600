"""Wrong input: an error that names what was expected, what came, where, and the fix; and nothing has changed."""

from collections import OrderedDict

import pytest
import torch
from torch import nn

import depgraph as dg
from depgraph import testing

X = torch.randn(2, 4)


def chain() -> nn.Sequential:
    """Two linear layers with a ReLU between them."""
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


def test_scripted_modules_are_refused():
    """A scripted module, or one with a scripted part, names where it is."""
    model = nn.Sequential(nn.Linear(4, 4), torch.jit.script(nn.Linear(4, 4)))
    with pytest.raises(dg.errors.TraceError, match=r"expected a plain nn.Module, met a scripted one at 1"):
        dg.trace(model, X)


def test_lazy_modules_are_refused():
    """Uninitialised parameters have no sizes to speak of."""
    with pytest.raises(
        dg.errors.TraceError, match=r"met a lazy module \(LazyLinear\) at 0. Run one forward on real inputs first"
    ):
        dg.trace(nn.Sequential(nn.LazyLinear(3)), X)


def test_inputs_on_another_device_are_refused():
    """The error names the input, both devices and the call that moves it."""
    with pytest.raises(dg.errors.TraceError, match=r"expected inputs on cpu, where the model is, met input\[0\] on meta"):
        dg.trace(chain(), X.to("meta"))


def test_a_forward_that_raises_is_the_users_own():
    """The user's exception comes through as it is, and the model, modes and random state are as they were."""

    class Broken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.inner(x)
            raise KeyError("my own")

    model = Broken()
    before = testing.snapshot(model)
    with pytest.raises(KeyError, match="my own"):
        dg.trace(model, X)
    assert testing.snapshot(model) == before
    assert dg.trace(chain(), X).params == 67


def test_a_forward_that_reads_data_is_refused_with_its_line():
    """`.item()` has no answer on fake tensors; the error names the file and line."""

    class Reading(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * x.sum().item()

    with pytest.raises(dg.errors.TraceError, match=r"forward reads the data of a tensor .* at tests/test_bad_input.py:\d+"):
        dg.trace(Reading(), X, mode="fake")


def test_unknown_names_come_with_near_ones():
    """A typing error in a layer name suggests the right one, in every function that takes names."""
    model = nn.Sequential(OrderedDict(first=nn.Linear(4, 8), act=nn.ReLU(), second=nn.Linear(8, 3)))
    graph = dg.trace(model, X)
    scores = dg.score(graph, model, dg.Magnitude(p=2))
    for ask in (
        lambda: graph.node("frist"),
        lambda: graph.group("frist.weight", dim=0),
        lambda: dg.cut(graph, "frist.weight", [1], dim=0),
        lambda: dg.explain(graph, "frist.weight", dim=0),
        lambda: dg.plan(graph, scores, ratio=0.5, ignore=["frist"]),
    ):
        with pytest.raises(dg.errors.UnknownNameError, match=r"did you mean .*first") as caught:
            ask()
        assert any("first" in name for name in caught.value.near)
    with pytest.raises(ValueError, match="not part of the Sequential"):
        dg.name_of(model, nn.Linear(1, 1))


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        ([8], r"has the indices 0 to 7, met \[8\]"),
        ([-1], r"has the indices 0 to 7, met \[-1\]"),
        ([1, 2, 1], r"given more than once: \[1\]"),
        (list(range(8)), "all 8 indices .* would go; leave at least one"),
        ([1.5], "expected integers .* met 1.5"),
        ([True], "expected integers .* met True"),
    ],
)
def test_impossible_cuts_are_refused(indices, message):
    """Out of range, repeated, all, or no integers at all."""
    with pytest.raises(dg.errors.PlanError, match=message):
        dg.cut(dg.trace(chain(), X), "0.weight", indices, dim=0)


def test_pinned_axes_are_refused_with_their_reason():
    """Inputs, outputs and kernels are pinned, and the error says why."""
    graph = dg.trace(chain(), X)
    with pytest.raises(dg.errors.PinnedError, match=r"axis 0 of '2.weight' is pinned: it is a dimension of the model's output"):
        dg.cut(graph, "2.weight", [0], dim=0)
    with pytest.raises(dg.errors.PinnedError, match=r"model's input\[0\]"):
        graph.group("0.weight", dim=1)
    with pytest.raises(dg.errors.PlanError, match="has 2 dimensions, dim=2 is not one of them"):
        graph.group("0.weight", dim=2)


def test_an_index_that_cannot_go_alone_names_its_companions():
    """In a grouped convolution one channel goes with its like in each block, or with its whole block."""
    model = nn.Sequential(nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 3, groups=2), nn.Conv2d(6, 2, 1))
    graph = dg.trace(model, torch.randn(1, 3, 8, 8))
    with pytest.raises(dg.errors.PlanError, match=r"index 1 cannot go alone. Remove .*\[0-2\].* or .*\[1,4\]"):
        dg.cut(graph, "0.weight", [1], dim=0)
    assert dg.cut(graph, "0.weight", [1, 4], dim=0).kept["1.weight"] == {1: dg.IndexSet.of([0, 2])}
    assert dg.plans.Edit("1.groups", 2, 1) in dg.cut(graph, "0.weight", [0, 1, 2], dim=0).edits


def test_an_axis_of_several_groups_asks_for_one():
    """`graph.group` on a product names the groups to choose from."""
    model = nn.Sequential(nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 3, groups=2), nn.Conv2d(6, 2, 1))
    with pytest.raises(dg.errors.PlanError, match=r"several groups.*choose one of 0.weight:0\[0\].*0.weight:0\[1\]"):
        dg.trace(model, torch.randn(1, 3, 8, 8)).group("0.weight", dim=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "expected either ratio= or budgets, which are params=, active_params=, macs=, memory= and latency=, met none"),
        ({"ratio": 0.5, "macs": 0.5}, "met \\['macs', 'ratio'\\]"),
        ({"ratio": 1.0}, r"expected a ratio in \[0, 1\), met 1.0"),
        ({"ratio": "half"}, "met 'half'"),
        ({"macs": 0.0}, r"expected macs= in \(0, 1\]"),
        ({"params": 0.01}, "params=0.01 is out of reach: with one index left in each group, 0.\\d+ of the params remain"),
        ({"ratio": 0.05}, "nothing can be removed at this ratio"),
        ({"ratio": 0.5, "ignore": ["0"]}, "ignore= leaves no group to prune"),
    ],
)
def test_impossible_targets_are_refused(options, message):
    """No target, several, out of range, out of reach, or nothing left to prune: never a silent no-op."""
    model = chain()
    graph = dg.trace(model, X)
    with pytest.raises(dg.errors.PlanError, match=message):
        dg.plan(graph, dg.score(graph, model, dg.Magnitude(p=1)), **options)


def test_a_model_without_groups_says_what_is_pinned():
    """One linear layer has nothing to prune."""
    model = nn.Linear(4, 3)
    graph = dg.trace(model, X)
    with pytest.raises(
        dg.errors.PlanError, match=r"no group to prune. Pinned axes .* weight dim 0: it is a dimension of the model's output"
    ):
        dg.plan(graph, {}, ratio=0.5)


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ({}, "no score for group '0.weight:0'"),
        ({"0.weight:0": [1.0] * 7}, "has 8 indices, its scores are 7"),
        ({"0.weight:0": [float("nan")] * 8}, "hold NaN"),
    ],
)
def test_scores_that_do_not_fit_are_refused(scores, message):
    """Missing, too few, or not a number."""
    with pytest.raises(dg.errors.PlanError, match=message):
        dg.plan(dg.trace(chain(), X), scores, ratio=0.5)


def test_scoring_another_model_is_refused():
    """Every shape that does not fit is listed."""
    with pytest.raises(dg.errors.MismatchError, match=r"'0.weight': expected shape \(8, 4\), met \(6, 4\)"):
        dg.score(dg.trace(chain(), X), nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)), dg.criteria.Random(0))
    with pytest.raises(dg.errors.PlanError, match="expected p= to be a positive number, met 0"):
        dg.Magnitude(p=0)


def test_plans_for_another_graph_are_refused():
    """`apply` and `then` compare fingerprints."""
    graph, other = dg.trace(chain(), X), dg.trace(nn.Sequential(nn.Linear(4, 9), nn.ReLU(), nn.Linear(9, 3)), X)
    plan = dg.cut(graph, "0.weight", [1], dim=0)
    with pytest.raises(dg.errors.MismatchError, match="made for another graph"):
        plan.apply(other)
    with pytest.raises(dg.errors.MismatchError, match="does not start where the first one ends"):
        plan.then(plan)


def _documents(tmp_path):
    plan = dg.cut(dg.trace(chain(), X), "0.weight", [1], dim=0)
    path = tmp_path / "plan.json"
    plan.save(path)
    return plan, path, path.read_text()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text[: len(text) // 2], "not complete JSON"),
        (lambda text: text.replace('"removed": "1"', '"removed": "2"'), "edited or damaged"),
        (lambda text: text.replace('"version": 2', '"version": 3'), "schema version 3, this depgraph reads versions 1 and 2"),
        (lambda text: text.replace('"version": 2', '"version": true'), "schema version True, this depgraph reads"),
        (lambda text: text.replace("depgraph.plan", "other.plan"), "expected format 'depgraph.plan', met 'other.plan'"),
        (lambda text: "[]", "expected format 'depgraph.plan', met 'list'"),
        (lambda text: "", "not complete JSON"),
    ],
)
def test_damaged_files_are_refused(tmp_path, damage, message):
    """Truncated, edited, from the future, foreign, or empty."""
    plan, path, text = _documents(tmp_path)
    assert dg.Plan.load(path) == plan
    assert damage(text) != text
    path.write_text(damage(text))
    with pytest.raises(dg.errors.DocumentError, match=message):
        dg.Plan.load(path)


def test_a_graph_is_not_a_plan(tmp_path):
    """Each kind of document reads only its own."""
    graph = dg.trace(chain(), X)
    graph.save(tmp_path / "graph.json")
    assert dg.Graph.load(tmp_path / "graph.json") == graph
    with pytest.raises(dg.errors.DocumentError, match=r"expected format 'depgraph.plan', met 'depgraph.graph'"):
        dg.Plan.load(tmp_path / "graph.json")


def test_a_document_with_the_wrong_shape_names_the_field():
    """A digest that fits a content that does not: every problem with its path."""
    import json

    from depgraph import codec

    plan = dg.cut(dg.trace(chain(), X), "0.weight", [1], dim=0)
    document = json.loads(codec.dumps("plan", plan))
    document["content"]["edits"][0]["old"] = "eight"
    document["content"]["surprise"] = 1
    document["digest"] = codec._digest(document["content"])
    with pytest.raises(dg.errors.DocumentError, match=r"does not hold a valid plan: .*surprise.*") as caught:
        codec.loads(json.dumps(document), "plan", dg.Plan)
    assert "expected int @ $.edits[0].old" in str(caught.value)


def test_arguments_of_the_wrong_kind_are_named():
    """A function for a module, swapped arguments, one index for a list, a name or class for a criterion, a list for scores."""
    model = chain()
    graph = dg.trace(model, X)
    plan = dg.cut(graph, "0.weight", [1], dim=0)
    before = testing.snapshot(model)
    for ask, kind, message in (
        (lambda: dg.trace(model.forward, X), dg.errors.TraceError, "expected an nn.Module, met a method"),
        (lambda: dg.execute(model, plan), dg.errors.PlanError, r"in this order, met \(Sequential, Plan\)"),
        (lambda: dg.execute_(model, plan), dg.errors.PlanError, r"in this order, met \(Sequential, Plan\)"),
        (lambda: dg.cut(graph, "0.weight", 3, dim=0), dg.errors.PlanError, r"expected a list of indices .* met 3; pass \[3\]"),
        (lambda: dg.score(graph, model, "magnitude"), dg.errors.PlanError, "expected a criterion .* met 'magnitude'"),
        (lambda: dg.score(graph, model, dg.Magnitude), dg.errors.PlanError, "expected a criterion such as dg.Magnitude"),
        (lambda: dg.plan(graph, [1.0] * 8, ratio=0.5), dg.errors.PlanError, "expected scores by group name, met list"),
        (lambda: dg.plan(model, {}, ratio=0.5), dg.errors.PlanError, "expected a Graph, met Sequential"),
        (lambda: plan.apply(model), dg.errors.PlanError, "expected a Graph, met Sequential; a module is pruned by dg.execute"),
        (lambda: plan.then("plan.json"), dg.errors.PlanError, "expected a Plan, met str; load a file with dg.Plan.load"),
        (
            lambda: dg.plan(graph, {"0.weight:0": range(8)}, macs=True),
            dg.errors.PlanError,
            r"expected macs= in \(0, 1\].* met True",
        ),
        (lambda: dg.plan(graph, {"0.weight:0": range(8)}, ratio=False), dg.errors.PlanError, "met False"),
        (lambda: dg.plan(graph, {}, ratio=0.5, ignore="frist"), dg.errors.UnknownNameError, "is called 'frist'"),
    ):
        with pytest.raises(kind, match=message):
            ask()
    assert testing.snapshot(model) == before


def test_a_file_that_is_no_text_is_refused(tmp_path):
    """A checkpoint passed for a plan."""
    torch.save(chain().state_dict(), tmp_path / "model.pt")
    with pytest.raises(dg.errors.DocumentError, match=r"is no text|is not complete JSON"):
        dg.Plan.load(tmp_path / "model.pt")


def test_saving_leaves_no_half_written_file(tmp_path):
    """A save that fails leaves the old file, and nothing beside it."""
    plan = dg.cut(dg.trace(chain(), X), "0.weight", [1], dim=0)
    plan.save(tmp_path / "plan.json")
    text = (tmp_path / "plan.json").read_text()
    with pytest.raises(FileNotFoundError):
        plan.save(tmp_path / "missing" / "plan.json")
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"] and (tmp_path / "plan.json").read_text() == text
