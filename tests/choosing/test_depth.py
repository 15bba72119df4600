"""Layers chosen by their scores: which go, together with widths and budgets, and what is refused."""

import itertools
import math

import pytest
import torch
from torch import nn

import depgraph as dg
from depgraph.errors import PlanError
from tests.laws.test_drops import Stack

X = torch.randn(2, 3, 4)


@pytest.fixture(scope="module")
def stack():
    torch.manual_seed(0)
    model = Stack(["relu", "attention", "relu", "linear"], "slice").eval()
    return model, dg.trace(model, X)


def scores_of(model, graph, elements):
    return {**dg.score(graph, model, dg.Magnitude(p=2)), "blocks": elements}


def left(graph, plan):
    """The blocks that stay, by their names before."""
    return [name for name in graph.sequences[0].elements if plan.name_after(f"blocks.{name}.norm.weight") is not None]


def test_the_lowest_go_first_and_infinite_ones_never(stack):
    model, graph = stack
    scores = scores_of(model, graph, [0.3, 0.1, 0.2, math.inf])
    assert left(graph, dg.plan(graph, scores, depth=0.25)) == ["0", "2", "3"]
    assert left(graph, dg.plan(graph, scores, depth={"blocks": 3})) == ["3"]
    assert left(graph, dg.plan(graph, scores, depth=0.2)) == ["0", "1", "2", "3"]
    with pytest.raises(PlanError, match="expected to remove 3 elements of 'blocks', but only 2 may leave"):
        dg.plan(graph, scores_of(model, graph, [math.inf, math.inf, 0.1, 0.2]), depth={"blocks": 3})


def test_widths_are_chosen_among_what_stays(stack):
    """A ratio of the widths that stay, and a budget's fraction of the whole model."""
    model, graph = stack
    scores = scores_of(model, graph, [0.3, 0.1, 0.2, 0.4])
    both = dg.plan(graph, scores, depth=0.25, ratio=0.5)
    assert {cut.group.split(".")[1] for cut in both.cuts if cut.group.startswith("blocks")} == {"0", "2", "3"}
    small = dg.execute(both, model)
    assert len(small.blocks) == 3 and small(X).shape == (2, 3, 2)
    assert dg.trace(small, X) == both.apply(graph)
    budget = dg.plan(graph, scores, depth=0.25, params=0.5)
    assert budget.drops == both.drops
    assert budget.apply(graph).params <= graph.params // 2 < dg.plan(graph, scores, depth=0.25).apply(graph).params
    assert budget.targets[0].realised == budget.apply(graph).params


def test_a_measure_of_ones_own(stack):
    """Any function of graph and model: here how much the output moves when an element is left out."""
    model, graph = stack

    def moved(graph, model):
        with torch.no_grad():
            result = model(X)
            return {
                "blocks": [
                    (dg.execute(dg.drop(graph, "blocks", [place]), model)(X) - result).square().sum().item()
                    for place in range(4)
                ]
            }

    measured = dg.score(graph, model, moved)
    plan = dg.plan(graph, measured, depth={"blocks": 1})
    assert list(plan.drops[0].removed) == [min(range(4), key=measured["blocks"].__getitem__)]
    with pytest.raises(PlanError, match="expected 4 numbers, one per element"):
        dg.score(graph, model, lambda graph, model: {"blocks": [1.0]})


@pytest.mark.parametrize("dim", [-1, 1])
def test_block_influence_is_what_the_paper_says(dim):
    """By hand, on blocks over the last axis and over channels; an element without parameters is never chosen."""

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Conv2d(4, 4, 1) if dim == 1 else nn.Linear(4, 4)

        def forward(self, x):
            return x + self.layer(x)

    torch.manual_seed(0)
    first = nn.Conv2d(3, 4, 1) if dim == 1 else nn.Linear(3, 4)
    model = nn.Sequential(first, Block(), Block(), nn.ReLU())
    x = torch.randn(2, 3, 5, 5) if dim == 1 else torch.randn(2, 5, 3)
    graph = dg.trace(model, x)
    found = dg.score(graph, model, dg.criteria.BlockInfluence([x, 2 * x]))[""]
    expected = []
    with torch.no_grad():
        for part in (x, 2 * x):
            values = [part := layer(part) for layer in model]
            pairs = itertools.pairwise(values)
            expected.append([(1 - nn.functional.cosine_similarity(a, b, dim=dim)).mean().item() for a, b in pairs])
    mean = torch.tensor(expected).mean(0)[:2].tolist()
    assert found[0] == found[3] == math.inf
    assert found[1:3] == pytest.approx(mean, rel=1e-4)


def test_what_is_asked_wrongly_is_told_at_once(stack):
    model, graph = stack
    scores = scores_of(model, graph, [0.3, 0.1, 0.2, 0.4])
    for depth, told in [
        (1.0, r"expected depth= in \[0, 1\)"),
        ({"blocks": 4}, "whole number below 4"),
        ({"layers": 0.5}, "no list of modules of the graph"),
    ]:
        with pytest.raises(PlanError, match=told):
            dg.plan(graph, scores, depth=depth)
    with pytest.raises(PlanError, match="needs scores of the elements"):
        dg.plan(graph, dg.score(graph, model, dg.Magnitude(p=2)), depth=0.5)
    with pytest.raises(PlanError, match="4 elements, expected as many numbers"):
        dg.plan(graph, {**scores, "blocks": [1.0]}, depth=0.5)
    with pytest.raises(PlanError, match=r"expected lists= as several paths, such as \['blocks'\]"):
        dg.criteria.BlockInfluence([X], lists="blocks")
    with pytest.raises(PlanError, match="span="):
        dg.criteria.AngularDistance([X], span=0)


def test_layers_and_widths_come_to_one_budget(stack):
    """A plan for each number of layers, all within the budget; what none can come to is refused."""
    model, graph = stack
    scores = scores_of(model, graph, [0.3, 0.1, 0.2, math.inf])
    plans = list(dg.choosing.plans_by_depth(graph, scores, "blocks", params=0.6))
    assert [sum(len(drop.removed) for drop in plan.drops) for plan in plans] == [0, 1, 2, 3]
    for plan in plans:
        assert plan.apply(graph).params <= 0.6 * graph.params
        assert dg.trace(dg.execute(plan, model), X) == plan.apply(graph)
    assert plans[1] == dg.plan(graph, scores, depth={"blocks": 1}, params=0.6)
    with pytest.raises(PlanError, match="params=5 is out of reach"):
        list(dg.choosing.plans_by_depth(graph, scores, "blocks", params=5))
    for options, told in [({"ratio": 0.5}, "a budget such as params="), ({"params": 0.5, "counts": [4]}, "counts= below 4")]:
        with pytest.raises(PlanError, match=told):
            list(dg.choosing.plans_by_depth(graph, scores, "blocks", **options))
    with pytest.raises(PlanError, match="a list of modules that has scores"):
        list(dg.choosing.plans_by_depth(graph, scores, "layers", params=0.5))
