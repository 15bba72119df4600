"""Faults that models of users showed, each with the right value: outputs without keys, torch.fx, inference mode, names."""

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
