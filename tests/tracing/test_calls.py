"""Several calls of one model in one graph, and the warning about what none of them reaches."""

import warnings

import pytest
import torch
from torch import nn

import depgraph as dg
from depgraph.graph.checking import check

X = torch.randn(3, 4)


class Supervised(nn.Module):
    """A head beside the main one that only training uses, and a method that stops halfway."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm, self.drop = nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5)
        self.main, self.aux, self.beyond = nn.Linear(8, 2), nn.Linear(8, 3), nn.Linear(8, 5)

    def encode(self, x):
        return self.norm(self.stem(x)).relu()

    def project(self, x, scale=1.0):
        return self.beyond(self.encode(x) * scale)

    def forward(self, x):
        hidden = self.drop(self.encode(x))
        return (self.main(hidden), self.aux(hidden)) if self.training else self.main(hidden)


EVERY = (dg.Call(X, training=True), dg.Call(X, {"scale": 2.0}, method="project"))


def halved(graph):
    return dg.cut(graph, "stem.weight", [0, 2, 5], dim=0)


def test_without_the_call_training_fails_and_a_warning_says_so():
    """The graph of one call knows nothing of the head that training uses."""
    model = Supervised().eval()
    says = r"2 of the model's modules were not reached: 'aux', 'beyond'\..*training"
    with pytest.warns(dg.errors.UnreachedWarning, match=says):
        graph = dg.trace(model, X)
    small = dg.execute(halved(graph), model)
    assert small(X).shape == (3, 2)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        small.train()(X)


def test_what_every_call_says_holds():
    """Training and the other method run on what is left; the square closes; costs are those of the first call."""
    model = Supervised().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error", dg.errors.UnreachedWarning)
        graph = dg.trace(model, X, also=EVERY)
    assert check(graph) == () and not model.training
    assert [group.name for group in graph.groups] == ["stem.weight:0"]
    assert {name for name, _ in graph.groups[0].members} >= {"main.weight", "aux.weight", "beyond.weight", "norm.running_var"}
    assert graph.macs == dg.trace(model, X).macs and graph.params == sum(p.numel() for p in model.parameters())
    plan = halved(graph)
    small = dg.execute(plan, model)
    assert [tuple(out.shape) for out in small.train()(X)] == [(3, 2), (3, 3)] and small.project(X).shape == (3, 5)
    small.eval()
    assert dg.trace(small, X, also=EVERY) == plan.apply(graph)
    assert dg.Plan.empty(graph).then(plan) == plan


def test_calls_join_like_statements():
    """The same call twice says nothing new; the order of further calls does not matter to groups, pins and bounds."""
    model = Supervised().eval()

    def said(graph):
        return (
            [(group.name, group.size, group.role, group.members, group.lower_bound) for group in graph.groups],
            sorted(map(str, graph.pinned)),
            [attribute.path for attribute in graph.attributes],
        )

    once, twice = dg.trace(model, X), dg.trace(model, X, also=[dg.Call(X)])
    assert said(once) == said(twice) and once.macs == twice.macs
    assert said(dg.trace(model, X, also=EVERY)) == said(dg.trace(model, X, also=EVERY[::-1]))
    assert dg.trace(model, X, also=()) == once


def test_scores_and_criteria_take_such_a_graph():
    """Weights that only a further call reads count, their biases are offsets, and plans for the whole are made."""
    model = Supervised().eval()
    graph = dg.trace(model, X, also=EVERY)
    assert {"aux.bias", "beyond.bias", "main.bias"} <= graph.offsets
    criterion = dg.Magnitude(p=2, reduction="sum", normaliser="none")
    before = dg.score(graph, model, criterion)["stem.weight:0"]
    with torch.no_grad():
        model.aux.weight[:, 3] += 1.0
    after = dg.score(graph, model, criterion)["stem.weight:0"]
    assert [index for index, pair in enumerate(zip(before, after, strict=True)) if pair[0] != pair[1]] == [3]
    by_norm = lambda graph, model: dg.score(graph, model, dg.Magnitude(p=2))  # noqa: E731 - as in the guide
    *_, last = dg.iterate(model, X, by_norm, steps=2, target={"ratio": 0.5}, also=EVERY)
    assert last.model.train()(X)[1].shape == (3, 3)


def test_autocast_and_pure():
    """Casts are operators like others; nothing of the model, and no mode of torch, is changed."""
    model = Supervised().eval()
    before = dg.testing.snapshot(model)
    graph = dg.trace(model, X, also=[dg.Call(X, training=True, autocast=torch.bfloat16)])
    assert [group.name for group in graph.groups] == ["stem.weight:0"] and not torch.is_autocast_enabled("cpu")
    assert dg.testing.snapshot(model) == before


class Counting(nn.Module):
    """An attribute that is read only where there is a mask, as transformers' `num_key_value_groups`."""

    def __init__(self):
        super().__init__()
        self.heads, self.inner, self.out = 4, nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x, mask=None):
        y = self.inner(x)
        if mask is not None:
            y = (y.unflatten(-1, (self.heads, -1)) * mask).flatten(1)
        return self.out(y)


def test_an_attribute_that_only_another_call_reads_follows():
    """Cut without it the masked call fails; with it the attribute is edited, or the channels go in whole heads."""
    model, mask = Counting(), torch.ones(3, 1, 1)
    blind = dg.execute(dg.cut(dg.trace(model, X), "inner.weight", [0], dim=0), model)
    with pytest.raises(RuntimeError):
        blind(X, mask)
    graph = dg.trace(model, X, also=[dg.Call(X, {"mask": mask})])
    assert [(group.size, group.role) for group in graph.groups] == [(4, "block"), (2, "channel")]
    small = dg.execute(dg.cut(graph, "inner.weight", [2, 3], dim=0), model)
    assert small.heads == 3 and small(X, mask).shape == (3, 2)


@pytest.mark.parametrize(
    ("also", "message"),
    [
        (dg.Call(X), "expected also= as a list of dg.Call, met Call"),
        ([X], "expected also= as a list of dg.Call, met Tensor"),
        ([dg.Call(X, method="nothing")], "expected the name of a method of Supervised as method=, met 'nothing'"),
    ],
)
def test_wrong_calls_are_refused(also, message):
    with pytest.raises(dg.errors.TraceError, match=message):
        dg.trace(Supervised(), X, also=also)
