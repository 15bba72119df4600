"""Faults that models of users showed, each with the right value: outputs without keys, torch.fx, inference mode, names."""

import functools
from collections import OrderedDict

import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree

import depgraph as dg

X = torch.randn(3, 4)


def mlp():
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))


def half(graph, model):
    return dg.plan(graph, dg.score(graph, model, dg.Magnitude(p=2)), ratio=0.5)


class Output(OrderedDict):
    """As diffusers registers its outputs: without a function for keys."""


pytree.register_pytree_node(
    Output, lambda o: (list(o.values()), list(o)), lambda values, keys: Output(zip(keys, values, strict=True))
)


class Keyless(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = mlp()

    def forward(self, x):
        return Output(sample=self.body(x), rest=[x])


def test_outputs_of_a_class_without_keys_are_named_by_position():
    """Its leaves are outputs like others: what makes them is pinned."""
    graph = dg.trace(Keyless(), X)
    assert [group.name for group in graph.groups] == ["body.0.weight:0"]
    assert [node.name for node in graph.nodes if node.type is dg.OpType.OUTPUT] == ["output[0]", "output[1]"]


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 8), nn.Linear(4, 8), nn.Linear(16, 2)

    def forward(self, x):
        return self.c(torch.cat([self.a(x), self.b(x)], 1))


def test_the_square_of_a_graph_module_of_fx():
    """PyTorch's deepcopy gives the copy another class; a graph calls both by one name, so a second plan follows the first."""
    model = torch.fx.symbolic_trace(Branches())
    graph = dg.trace(model, X)
    plan = half(graph, model)
    small = dg.execute(plan, model)
    after = dg.trace(small, X)
    assert after == plan.apply(graph) and {"GraphModule", "Linear"} >= {item.module_class for item in after.operations} - {""}
    both = plan.then(half(after, small))
    assert dg.trace(dg.execute(both, model), X) == both.apply(graph)


@pytest.mark.parametrize("write", [dg.execute, dg.execute_, dg.mask])
def test_what_is_made_in_inference_mode_can_be_trained(write):
    """An evaluation script's decorator does not make weights that autograd refuses."""
    model = mlp()
    with torch.inference_mode():
        plan = half(dg.trace(model, X), model)
        result = write(plan, model)
        assert torch.is_inference_mode_enabled() and not torch.is_grad_enabled()
    small = result if isinstance(result, nn.Module) else model
    small(X).sum().backward()
    assert all(parameter.grad is not None and not parameter.is_inference() for parameter in small.parameters())


class Narrow(nn.Module):
    """Attention with head dims of 2: half of that leaves 1, so groups change their names."""

    def __init__(self, width=16, heads=4):
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.o = *(nn.Linear(width, width // 2) for _ in range(3)), nn.Linear(width // 2, width)

    def split(self, x):
        return x.reshape(*x.shape[:2], self.heads, x.shape[2] // self.heads).transpose(1, 2)

    def forward(self, x):
        q, k, v = (self.split(layer(x)) for layer in (self.q, self.k, self.v))
        y = torch.softmax(q @ k.mT, -1) @ v
        return self.o(y.transpose(1, 2).reshape(y.shape[0], y.shape[2], y.shape[1] * y.shape[3]))


class Two(nn.Module):
    def __init__(self, order):
        super().__init__()
        self.order = order
        self.i, self.out = nn.Linear(5, 16), nn.Linear(16, 3)
        self.layers = nn.ModuleDict({name: Narrow() for name in order})

    def forward(self, x):
        x = self.i(x)
        for name in self.order:
            x = x + self.layers[name](x)
        return self.out(x)


@pytest.mark.parametrize("order", [("a", "b"), ("b", "a")])
def test_the_empty_plan_is_the_unit_whatever_the_order_of_names(order):
    """Renamed groups stand in one order, also where layers are not in that of the alphabet."""
    model, x = Two(order).eval(), torch.randn(2, 7, 5)
    graph = dg.trace(model, x)
    plan = half(graph, model)
    assert len(plan.renamed) > 1
    assert dg.Plan.empty(graph).then(plan) == plan == plan.then(dg.Plan.empty(plan.apply(graph)))


class Halves(nn.Module):
    """One half attends, the other one passes by and only has to be as long (C2PSA, CSP blocks)."""

    def __init__(self, heads):
        super().__init__()
        self.heads = heads
        self.both, self.out = nn.Linear(4, 16), nn.Linear(16, 3)

    def forward(self, x):
        passing, attending = self.both(x).chunk(2, -1)
        attending = attending.view(*attending.shape[:-1], self.heads, -1)
        attending = (torch.softmax(attending @ attending.mT, -1) @ attending).flatten(-2)
        return self.out(torch.cat([passing, attending.relu()], -1))


@pytest.mark.parametrize("ratios", [(0.5, 0.0), (0.0, 0.5), (0.5, 0.5), (0.75, 0.5)])
def test_a_half_that_is_only_as_long_has_blocks_of_its_own(ratios):
    """Heads and widths of both halves are balanced, each with its own indices; down to one head the square closes."""
    model, x = Halves(2), torch.randn(2, 3, 4)
    graph = dg.trace(model, x)
    assert [(group.size, group.role) for group in graph.groups] == [(2, "block"), (4, "channel"), (2, "block"), (4, "channel")]
    assert [len(balance.atoms) for balance in graph.balances] == [2, 2]
    width, heads = ratios
    names = [group.name for group in graph.groups]
    chosen = dict(zip(names, (heads, width, heads, width), strict=True))
    plan = dg.plan(graph, dg.score(graph, model, dg.criteria.Random(3)), ratio=chosen)
    small = dg.execute(plan, model)
    assert small(x).shape == (2, 3, 3) and dg.trace(small, x) == plan.apply(graph)


class Supervised(nn.Module):
    """A head whose result is kept where the loss finds it, and whose inner width nobody reads from outside."""

    def __init__(self, keep):
        super().__init__()
        self.stem, self.main = nn.Linear(4, 6), nn.Linear(6, 2)
        self.inner, self.aux = nn.Linear(6, 5), nn.Linear(5, 3)
        self.keep, self.kept = keep, [None]

    def forward(self, x):
        hidden = self.stem(x).relu()
        self.keep(self, self.aux(self.inner(hidden).relu()))
        return self.main(hidden)


ELSEWHERE = {
    "a list": lambda module, result: module.kept.__setitem__(0, result),
    "an attribute": lambda module, result: setattr(module, "last", result),
    "a dictionary of the class": lambda module, result: SEEN.update(last=result),
}
SEEN = {}


@pytest.mark.parametrize("place", ELSEWHERE)
def test_results_that_leave_by_another_door_are_pinned(place):
    """Nothing reads them in forward, but the loss will; what is computed and dropped is free."""
    graph = dg.trace(Supervised(ELSEWHERE[place]), torch.randn(3, 4))
    assert "by another way than the model's output" in graph.why_pinned(graph.axis("aux.weight", 0))
    assert [group.name for group in graph.groups] == ["stem.weight:0", "inner.weight:0"]
    dropped = dg.trace(Supervised(lambda module, result: None), torch.randn(3, 4))
    assert "aux.weight:0" in dropped.groups_by_name


class Repeated(nn.Module):
    """Two layers that ask one helper, under a cache, for their sizes."""

    def __init__(self, sizes):
        super().__init__()
        self.first, self.second = Asking(sizes), Asking(sizes)

    def forward(self, x):
        return self.second(self.first(x))


class Asking(nn.Module):
    def __init__(self, sizes):
        super().__init__()
        self.sizes, self.heads, self.inner, self.out = sizes, 4, nn.Linear(4, 8), nn.Linear(8, 4)

    def forward(self, x):
        heads, width = self.sizes(self.inner.out_features, self.heads)
        return self.out(self.inner(x).unflatten(-1, (heads, width)).flatten(1))


@functools.lru_cache
def cached_sizes(width, heads):
    return heads, width // heads


def asked_through_a_name(width, heads):
    return cached_sizes(width, heads)


def test_a_trace_does_not_depend_on_what_ran_before():
    """A cache that a helper of a helper has: after a forward, a trace, another model, the graph is the same."""
    cached_sizes.cache_clear()
    model, x = Repeated(asked_through_a_name), torch.randn(3, 4)
    first = dg.trace(model, x)
    assert first == dg.trace(model, x)
    model(x)
    assert first == dg.trace(model, x)
    other = Repeated(asked_through_a_name)
    other(x)
    assert first == dg.trace(other, x) and first == dg.trace(model, x)
    assert [group.size for group in first.groups][:2] == [4, 2] and len(first.balances) == 0
    assert cached_sizes.cache_info().currsize == 1 and type(cached_sizes(8, 4)[0]) is int


def test_a_key_that_forgets_its_sizes_pins_them():
    """A cache of the model's own, under a text: the second layer is given what the first one's attribute named."""
    found = {}

    def sizes(width, heads):
        return found.setdefault(f"{width}/{heads}", (heads, width // heads))

    graph = dg.trace(Repeated(sizes), torch.randn(3, 4))
    assert "is not understood" in graph.why_pinned(graph.axis("second.inner.weight", 0))
    assert not any(group.role == "block" for group in graph.groups)


def test_axes_of_single_indices_say_so():
    """A width that is cut into pieces of one index is no group, and coverage and the list of pinned axes tell."""

    class Pieces(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.out = nn.Linear(4, 3), nn.Linear(1, 2)

        def forward(self, x):
            first, second, third = self.inner(x).split(1, -1)
            return self.out(first + second * third)

    graph = dg.trace(Pieces(), torch.randn(2, 4))
    reason = "it falls into single indices: forward takes each by itself, or needs as many as there are"
    assert graph.why_pinned(graph.axis("inner.weight", 0)) == reason
    assert reason in {pinned.reason for pinned in graph.pinned} and dict(graph.coverage.pinned)[reason] >= 3
    assert f"size 3: {reason}" in dg.explain(graph, "inner.weight", 0)


def test_a_cached_function_runs_once_for_plain_arguments():
    """Messages that are given once stay so in a trace; afterwards the cache is as it was, without a tensor of the trace."""
    seen = []

    @functools.lru_cache
    def once(message):
        seen.append(message)
        return torch.ones(3)

    class Noting(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(4, 3)

        def forward(self, x):
            return self.inner(x) * once("first") + once("first") + once("second")

    model = Noting()
    graph = dg.trace(model, torch.randn(2, 4))
    assert seen == ["first", "second"] and once.cache_info().currsize == 0
    assert graph == dg.trace(model, torch.randn(2, 4)) and type(once("first")) is torch.Tensor
