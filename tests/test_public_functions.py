"""What all public functions have in common, found by walking over them: so that the next one has it too."""

from inspect import Parameter, isclass, ismodule, signature

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
