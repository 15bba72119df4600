"""What a teacher shows: names of modules, values and weights, exact indices, and what is refused."""

from collections import OrderedDict

import attrs
import pytest
import torch
from torch import nn

import depgraph as dg
from tests.networks import UNet


class Block(nn.Module):
    """A residual block that uses its ReLU twice."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.relu = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1), nn.ReLU()

    def forward(self, x):
        return self.relu(x + self.b(self.relu(self.a(x))))


def residual():
    """A stem, a block and a head; what the stem and the block return is one group, inside of the block another one."""
    torch.manual_seed(0)
    parts = {
        "stem": nn.Conv2d(3, 4, 1),
        "block": Block(),
        "same": nn.Identity(),
        "flat": nn.Flatten(),
        "head": nn.Linear(16, 2),
    }
    model, x = nn.Sequential(OrderedDict(parts)), torch.randn(2, 3, 2, 2)
    graph = dg.trace(model, x)
    plan = dg.cut(graph, "block.a.weight", [1], dim=0)
    outside = dg.cut(plan.apply(graph), "stem.weight", [0, 2], dim=0)
    return model, x, graph, plan.then(outside)


def test_modules_values_and_weights_by_name():
    """A block is what it returns; one channel is four features behind a flatten; any batch will do."""
    _, _, graph, plan = residual()
    features = torch.arange(5 * 4 * 3 * 7.0).view(5, 4, 3, 7)
    assert torch.equal(dg.teacher_view(plan, "block", features, graph=graph), features[:, [1, 3]])
    assert torch.equal(dg.teacher_view(plan, "stem", features, graph=graph), features[:, [1, 3]])
    assert torch.equal(dg.teacher_view(plan, "block.a", features, graph=graph), features[:, [0, 2, 3]])
    assert torch.equal(dg.teacher_view(plan, "block.relu:0", features, graph=graph), features[:, [0, 2, 3]])
    flat = torch.arange(16.0)[None]
    assert dg.teacher_view(plan, "flat", flat, graph=graph)[0].tolist() == [4, 5, 6, 7, 12, 13, 14, 15]
    assert torch.equal(dg.teacher_view(plan, "head", torch.ones(3, 2), graph=graph), torch.ones(3, 2))
    assert torch.equal(dg.teacher_view(plan, "input[0]:0", features, graph=graph), features)


def test_a_module_that_is_called_twice_is_one_of_two_values():
    """They are cut differently: the values are named, and one of these names is to be passed."""
    _, _, graph, plan = residual()
    with pytest.raises(dg.errors.MismatchError) as caught:
        dg.teacher_view(plan, "block.relu", torch.ones(2, 4, 2, 2), graph=graph)
    assert caught.value.problems == (
        "'block.relu': a tensor of shape (2, 4, 2, 2), and the graph has 'block.relu:0' of shape (2, 4, 2, 2), cut along [1]; "
        "'block.relu.relu:0' of shape (2, 4, 2, 2), cut along [1]",
    )
    other = dg.cut(graph, "head.weight", range(4, 8), dim=1)
    assert dg.teacher_view(other, "block.relu.relu:0", torch.ones(2, 4, 2, 2), graph=graph).shape == (2, 3, 2, 2)


@pytest.mark.parametrize("name", ["blocks", "same", "block.c", "", "stem.wieght"])
def test_a_name_without_values_of_its_own_is_refused(name):
    """Also a module that only returns what it was given."""
    _, _, graph, plan = residual()
    with pytest.raises(dg.errors.UnknownNameError, match=f"no parameter, buffer, value or module .* is called '{name}'"):
        dg.teacher_view(plan, name, torch.ones(2, 4, 2, 2), graph=graph)


def test_tensors_of_other_sizes_are_refused():
    """The student's features, a weight that is cut already; by the graph and without it."""
    model, x, graph, plan = residual()
    small = dg.execute(plan, model)
    with pytest.raises(dg.errors.MismatchError, match=r"'stem': a tensor of shape \(2, 2, 2, 2\), and the graph has 'stem:0'"):
        dg.teacher_view(plan, "stem", small.stem(x), graph=graph)
    for options in ({}, {"graph": graph}):
        with pytest.raises(dg.errors.MismatchError, match=r"'?stem\.weight'?.*met shape|a tensor of shape"):
            dg.teacher_view(plan, "stem.weight", small.stem.weight, **options)
        with pytest.raises(dg.errors.MismatchError):
            dg.teacher_view(plan, "stem.weight", torch.ones(()), **options)


def test_other_graphs_and_other_arguments_are_refused():
    """The pruned model's graph, a plan that was edited by hand, arguments in another order."""
    model, _, graph, plan = residual()
    features = torch.ones(2, 4, 2, 2)
    with pytest.raises(dg.errors.MismatchError, match="the plan was made for another graph"):
        dg.teacher_view(plan, "stem", features, graph=plan.apply(graph))
    with pytest.raises(dg.errors.MismatchError, match="the plan is damaged"):
        dg.teacher_view(attrs.evolve(plan, cuts=plan.cuts[:1] * 2), "stem", features, graph=graph)
    with pytest.raises(dg.errors.PlanError, match=r"in this order, met \(Plan, Tensor, str\)"):
        dg.teacher_view(plan, features, "stem")
    with pytest.raises(dg.errors.PlanError, match=r"expected graph= to be what dg\.trace gives, met Sequential"):
        dg.teacher_view(plan, "stem", features, graph=model)


def test_names_of_wrappers_and_of_tied_parameters():
    """`DataParallel` puts a prefix before names; a tied weight has several, of which the plan knows one."""
    model = nn.Sequential(OrderedDict(embedding=nn.Embedding(20, 8), act=nn.ReLU(), head=nn.Linear(8, 20, bias=False)))
    model.head.weight = model.embedding.weight
    graph = dg.trace(model, torch.tensor([[1, 2, 3]]))
    plan = dg.cut(graph, "head.weight", [1, 4], dim=1)
    weight, kept = torch.randn(20, 8), [0, 2, 3, 5, 6, 7]
    for prefix in ("", "module.", "_orig_mod.", "module._orig_mod."):
        for name in ("embedding.weight", "head.weight"):
            for options in ({}, {"graph": graph}):
                assert torch.equal(dg.teacher_view(plan, prefix + name, weight, **options), weight[:, kept])
        assert dg.teacher_view(plan, f"{prefix}act", torch.ones(1, 3, 8), graph=graph).shape == (1, 3, 6)


def test_what_a_plan_does_not_cut_is_whole():
    """The very tensor, so that a loop over all weights needs no question; gradients flow through what is cut."""
    _, _, graph, plan = residual()
    bias = torch.ones(2, requires_grad=True)
    assert dg.teacher_view(plan, "head.bias", bias) is bias
    features = torch.ones(1, 4, 2, 2, requires_grad=True)
    dg.teacher_view(plan, "stem", features, graph=graph).sum().backward()
    assert features.grad[0, :, 0, 0].tolist() == [0, 1, 0, 1]


def test_heads_and_their_widths_are_two_axes():
    """Of attention as it lies in memory: batch, head, position, width."""

    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.heads, self.width, self.qkv, self.out = 4, 8, nn.Linear(16, 96), nn.Linear(32, 16)

        def forward(self, x):
            batch, length, _ = x.shape
            q, k, v = self.qkv(x).view(batch, length, 3, self.heads, self.width).permute(2, 0, 3, 1, 4)
            return self.out((torch.softmax(q @ k.transpose(-1, -2), -1) @ v).transpose(1, 2).reshape(batch, length, -1))

    model, x = Attention(), torch.randn(2, 5, 16)
    graph = dg.trace(model, x)
    heads = dg.cut(graph, "out.weight", range(8, 16), dim=1)
    names = {value.name: value.shape for value in graph.tensors if value.kind == "value"}
    product = next(name for name in names if "matmul" in name and names[name] == (2, 4, 5, 8))
    values = torch.randn(2, 4, 9, 8)
    assert torch.equal(dg.teacher_view(heads, product, values, graph=graph), values[:, [0, 2, 3]])


def test_levels_of_a_unet():
    """Each level is a Sequential of several layers that ends in a concat of another one."""
    torch.manual_seed(0)
    model, x = UNet().eval().double(), torch.randn(1, 1, 16, 16, dtype=torch.double)
    graph = dg.trace(model, x)
    plan = dg.plan(graph, dg.score(graph, model, dg.Magnitude(p=2)), ratio=0.5)
    masked, student = dg.mask(plan, model), dg.execute(plan, model)
    for name in ("down1", "down2", "bottom", "up2", "join2", "up1", "join1", "head"):
        found = []
        for network in (masked, student):
            handle = network.get_submodule(name).register_forward_hook(lambda *call, found=found: found.append(call[2]))
            network(x)
            handle.remove()
        assert found[1].shape[1] < found[0].shape[1] or name == "head"
        torch.testing.assert_close(dg.teacher_view(plan, name, found[0], graph=graph), found[1])
