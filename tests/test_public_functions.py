"""What all public functions have in common, found by walking over them: so that the next one has it too."""

import sys
from inspect import Parameter, isclass, ismodule, signature
from itertools import islice
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import depgraph as dg
from depgraph.graph.arguments import of_graph
from tests.laws.refuting import refuted


def public():
    """Every public function and class by its name, with that of its shelf."""
    for name in dg.__all__:
        value = getattr(dg, name)
        shelf = {f"{name}.{each}": getattr(value, each) for each in value.__all__} if ismodule(value) else {name: value}
        yield from ((each, item) for each, item in shelf.items() if callable(item))


def parameters(function):
    """The parameters of a function or class; none for what has no signature, as the name of a type."""
    try:
        return list(signature(function).parameters.values())
    except ValueError:
        return []


OF_GRAPHS = {
    name: function
    for name, function in public()
    if not isclass(function) and (given := parameters(function)) and str(given[0].annotation).strip("'") == "Graph"
}


def assert_refuses_what_is_no_graph(function):
    """A module, a plan, a path and nothing are refused by the first argument alone, whatever the others are."""
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    plan = dg.cut(dg.trace(model, torch.zeros(1, 4)), "0.weight", [0], dim=0)
    first, *others = parameters(function)
    needed = [item for item in others if item.default is Parameter.empty and item.kind is not Parameter.VAR_POSITIONAL]
    others = {item.name: None for item in needed if item.kind is not Parameter.VAR_KEYWORD}
    for wrong in (model, plan, "graph.json", None):
        for ask in (
            lambda wrong=wrong: function(wrong, **others),
            lambda wrong=wrong: function(**{first.name: wrong}, **others),
        ):
            try:
                ask()
            except dg.errors.PlanError as error:
                assert f"expected a Graph, met {type(wrong).__name__}" in str(error), error
                assert "dg." in str(error) or "pass" in str(error), error
            except Exception as error:
                raise AssertionError(f"{type(error).__name__}: {error}") from error
            else:
                raise AssertionError("nothing was said")


@pytest.mark.parametrize("name", OF_GRAPHS)
def test_a_function_of_a_graph_refuses_everything_else(name):
    """With the call that makes one, and not with an attribute that a module or plan does not have."""
    assert_refuses_what_is_no_graph(OF_GRAPHS[name])


def test_functions_that_look_first_are_refuted():
    """The negative control: one that takes what comes, and one that looks at it too late; with the check both pass."""

    def silent(graph: dg.Graph) -> None:
        return None

    def late(graph: dg.Graph, names: tuple[str, ...]) -> None:
        graph.tensor(names[0])

    for function in (silent, late):
        refuted(assert_refuses_what_is_no_graph, function)
        assert_refuses_what_is_no_graph(of_graph(function))
    assert len(OF_GRAPHS) > 30 and {"cut", "cut_each", "score", "plan", "sensitivity", "penalties.group_lasso"} <= set(
        OF_GRAPHS
    )


def reads_batches(function):
    """Whether a function or class is given data batch by batch."""
    return any(item.name in ("batches", "data", "loader") for item in parameters(function))


def assert_shows_progress(function):
    """Who waits for batches can see how far they are: by the parameter that all have."""
    given = {item.name: item for item in parameters(function)}
    assert "progress" in given, sorted(given)
    assert given["progress"].default is False and given["progress"].annotation in ("bool", bool), given["progress"]


@pytest.mark.parametrize("name", [name for name, function in public() if reads_batches(function)])
def test_whatever_reads_batches_can_show_its_progress(name):
    """Functions and criteria alike."""
    assert_shows_progress(dict(public())[name])


def test_readers_without_progress_are_refuted():
    """The negative control: no such parameter, or one that is on; and the walk finds those that are there."""
    refuted(assert_shows_progress, lambda model, batches: None)
    refuted(assert_shows_progress, lambda model, batches, progress=True: None)
    found = {name for name, function in public() if reads_batches(function)}
    assert {
        "refit",
        "moments.collect",
        "criteria.Wanda",
        "criteria.Taylor",
        "criteria.BlockInfluence",
        "criteria.BranchInfluence",
        "criteria.REAP",
    } <= found


class Bars:
    """A module in the place of tqdm that counts."""

    def __init__(self):
        self.made = []

    def tqdm(self, items=None, total=None, desc=None, unit=None):
        self.made.append(bar := Bar(items, len(items) if total is None and hasattr(items, "__len__") else total, desc))
        return bar


class Bar:
    """One of its bars."""

    def __init__(self, items, total, what):
        self.items, self.total, self.what, self.updates, self.closed = items, total, what, 0, False

    def __iter__(self):
        with self:
            for item in self.items:
                yield item
                self.update()

    def update(self):
        self.updates += 1

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.closed = True


def assert_counted(bars):
    """Every bar came to its end, and was closed."""
    assert bars.made and all(bar.updates == bar.total > 0 and bar.closed for bar in bars.made), [vars(bar) for bar in bars.made]


X = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))


class Block(nn.Module):
    """A residual block."""

    def __init__(self):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4))

    def forward(self, x):
        return x + self.mlp(x)


@pytest.fixture
def it(tmp_path):
    """A model with a list of blocks and its checkpoint, its graph, scores and a plan."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), Block(), Block(), Block(), nn.Linear(4, 2))
    torch.save(model.state_dict(), tmp_path / "model.pt")
    graph = dg.trace(model, X[:1])
    scores = dg.score(graph, model, dg.Magnitude(p=2))
    plan = dg.plan(graph, scores, ratio=0.25)
    return SimpleNamespace(model=model, graph=graph, scores=scores, plan=plan, folder=tmp_path)


def table(it):
    """Losses of each group."""
    loss = lambda plan: sum(len(gone) for gone in plan.removed.values())  # noqa: E731
    return dg.choosing.tabulate(it.graph, it.scores, [0.25, 0.5], loss)


BATCHES = [X[:2], X[2:4], X[4:]]
ELEMENTS = {"": [float("inf"), 1, 2, 3, float("inf")]}
LONG = {
    "Wanda": lambda it, **bar: dg.score(it.graph, it.model, dg.criteria.Wanda(BATCHES, **bar)),
    "BlockInfluence": lambda it, **bar: dg.score(it.graph, it.model, dg.criteria.BlockInfluence(BATCHES, **bar)),
    "BranchInfluence": lambda it, **bar: dg.score(it.graph, it.model, dg.criteria.BranchInfluence(BATCHES, **bar)),
    "collect": lambda it, **bar: dg.moments.collect(it.model, BATCHES, **bar),
    "refit": lambda it, **bar: dg.refit(it.plan, it.model, BATCHES, mode="independent", **bar),
    "refit in order": lambda it, **bar: dg.refit(it.plan, it.model, BATCHES, mode="sequential", **bar),
    "reconstruction_error": lambda it, **bar: dg.reconstruction_error(
        it.plan, dg.moments.collect(it.model, BATCHES), it.model, **bar
    ),
    "sensitivity": lambda it, **bar: dg.sensitivity(it.graph, it.model, lambda masked: 1.0, [0.5], it.scores, **bar),
    "pareto": lambda it, **bar: dg.pareto(it.graph, table(it), [{"params": 0.9}, {"params": 0.8}], **bar),
    "iterate": lambda it, **bar: [*dg.iterate(it.model, X[:1], dg.Magnitude(p=2), steps=2, target={"ratio": 0.5}, **bar)],
    "plans_by_depth": lambda it, **bar: [
        *dg.choosing.plans_by_depth(it.graph, {**it.scores, **ELEMENTS}, "", range(3), params=0.7, **bar)
    ],
    "prune_checkpoint": lambda it, **bar: dg.prune_checkpoint(it.plan, it.folder / "model.pt", it.folder / "small.pt", **bar),
}


@pytest.mark.parametrize("name", LONG)
def test_bars_count_to_their_totals(name, it, monkeypatch):
    """As many updates as were promised; no bar unless asked for; and without tqdm the error names the extra."""
    monkeypatch.setitem(sys.modules, "tqdm", bars := Bars())
    LONG[name](it)
    assert not bars.made
    LONG[name](it, progress=True)
    assert_counted(bars)
    monkeypatch.setitem(sys.modules, "tqdm", None)
    with pytest.raises(dg.errors.PlanError, match=r"install depgraph\[progress\]"):
        LONG[name](it, progress=True)


def test_generations_are_counted_as_they_come(it, monkeypatch):
    """An evolution has no end, so that its bar has no total."""
    monkeypatch.setitem(sys.modules, "tqdm", bars := Bars())
    generations = dg.evolve(it.graph, it.plan, lambda plan, draw: None, lambda plan: 0.0, progress=True)
    assert len([*islice(generations, 3)]) == 3
    assert [(bar.total, bar.updates) for bar in bars.made] == [(None, 2)]


def test_a_bar_that_stops_short_is_refuted():
    """The negative control."""
    bars = Bars()
    for _ in bars.tqdm([1, 2, 3]):
        break
    refuted(assert_counted, bars)
    refuted(assert_counted, Bars())
