"""Attributes that forward does not read: which are listed, what is added to a plan, and reparametrisation after it."""

import json

import attrs
import pytest
import torch
from torch import nn

import depgraph as dg
from depgraph import codec
from depgraph.algebra.spaces import Atom
from depgraph.graph.checking import check as graph_problems
from depgraph.graph.records import UnreadAttribute
from depgraph.plans import Edit, Unread
from depgraph.plans.checking import check

X = torch.randn(1, 3, 6, 6)


class Fusing(nn.Module):
    """A block whose method for deployment reads what its forward does not."""

    def __init__(self, channels):
        super().__init__()
        self.in_chs, self.groups, self.depth = channels, channels, 3
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.identity = nn.BatchNorm2d(channels)

    def forward(self, x):
        return self.conv(x) + self.identity(x)

    def fuse(self):
        norm, inner = self.identity, self.in_chs // self.groups
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        kernel = torch.zeros(self.in_chs, inner, 3, 3)
        for index in range(self.in_chs):
            kernel[index, index % inner, 1, 1] = 1
        fused = nn.Conv2d(self.in_chs, self.in_chs, 3, padding=1, groups=self.groups)
        fused.weight.data = self.conv.weight.data + kernel * scale.view(-1, 1, 1, 1)
        fused.bias.data = norm.bias.data - norm.running_mean * scale
        return fused


def fusing():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 1), Fusing(8), nn.Conv2d(8, 2, 1)).eval()
    return model, dg.trace(model, X)


def half(graph, model, **options):
    return dg.plan(graph, dg.score(graph, model, dg.Magnitude(p=2)), **(options or {"ratio": 0.5}))


def edited(plan):
    """The plan with an edit of each attribute that it lists."""
    for attribute in plan.unread:
        (size,) = attribute.sizes
        plan = plan.edit(attribute.path, size)
    return plan


def test_a_block_is_fused_after_pruning():
    """What only the fusing method reads is listed; edited, the method gives the same function."""
    model, graph = fusing()
    plan = half(graph, model)
    assert plan.unread == (Unread("1.groups", 8, (4,)), Unread("1.in_chs", 8, (4,)))
    with pytest.raises(RuntimeError):
        dg.execute(plan, model)[1].fuse()
    plan = edited(plan)
    assert plan.unread == () and plan.added == ("1.groups", "1.in_chs") and plan.problems == ()
    assert {Edit("1.groups", 8, 4), Edit("1.in_chs", 8, 4), Edit("1.conv.groups", 8, 4)} <= set(plan.edits)
    for small in (dg.execute(plan, model), model):
        if small is model:
            dg.execute_(plan, model)
        with torch.no_grad():
            inner = small[0](X)
            assert torch.allclose(small[1].fuse()(inner), small[1](inner), atol=1e-6)


def test_an_added_edit_is_saved_applied_and_composed(tmp_path):
    """A plan with one is a value as any other; the graphs of both orders list the same, and so does a trace of the result."""
    model, graph = fusing()
    first = edited(half(graph, model))
    first.save(tmp_path / "plan.json")
    again = dg.Plan.load(tmp_path / "plan.json")
    assert again == first and again.unread_attributes == first.unread_attributes
    assert first != half(graph, model)
    small, after = dg.execute(first, model), first.apply(graph)
    traced = dg.trace(small, X)
    assert traced == after and traced.unread == after.unread and [item.value for item in after.unread] == [4, 4]
    assert graph_problems(after) == ()
    second = edited(half(after, small))
    both = first.then(second)
    assert both.problems == () and both.added == first.added and both.unread == ()
    assert Edit("1.in_chs", 8, 2) in both.edits
    assert both.apply(graph) == second.apply(after) and both.apply(graph).unread == second.apply(after).unread
    assert dg.execute(both, model)[1].in_chs == 2
    assert dg.Plan.empty(graph).then(first) == first == first.then(dg.Plan.empty(after))
    assert dg.schedules.remainder(graph, first, both) == second
    with pytest.raises(dg.errors.MismatchError, match=r"'1.groups' became 4, which the second plan keeps larger"):
        dg.schedules.remainder(graph, first, half(graph, model, ratio=0.75))


def test_what_is_not_edited_is_listed_by_the_whole_plan():
    """A second step does not know what the first left behind; both together do."""
    model, graph = fusing()
    first = half(graph, model)
    after = first.apply(graph)
    assert after.unread == () == dg.trace(dg.execute(first, model), X).unread
    second = half(after, dg.execute(first, model))
    assert second.unread == () and first.then(second).unread == (Unread("1.groups", 8, (2,)), Unread("1.in_chs", 8, (2,)))


class Heads(nn.Module):
    """Attention as transformers writes it: the number of heads is stored, the width of one is read."""

    def __init__(self):
        super().__init__()
        self.num_heads, self.head_dim, self.all_head_size, self.size = 4, 6, 24, 10
        self.q, self.k, self.v, self.out = (nn.Linear(*sizes) for sizes in ((10, 24), (10, 24), (10, 24), (24, 10)))
        self.r = {"default": 10}

    def forward(self, x):
        q, k, v = (layer(x).view(len(x), -1, self.head_dim).transpose(0, 1) for layer in (self.q, self.k, self.v))
        return self.out((torch.softmax(q @ k.mT, -1) @ v).transpose(0, 1).flatten(1))


class Stack(nn.Module):
    def __init__(self):
        super().__init__()
        self.width, self.layers = 10, nn.ModuleList([Heads(), Heads()])
        self.first, self.last = nn.Linear(3, 10), nn.Linear(10, 2)

    def forward(self, x):
        x = self.first(x)
        for layer in self.layers:
            x = x + layer(x)
        return self.last(x)


def test_heads_products_and_containers():
    """A factor of an axis counts, the product of all heads, a dictionary's value, and the width of layers beside a list."""
    model = Stack().eval()
    graph = dg.trace(model, torch.randn(5, 3))
    scores = dg.score(graph, model, dg.Magnitude(p=2))
    plan = dg.plan(graph, scores, ratio={"layers.0.q:out": 0.5, "role:channel": 0.2}, only=["role:head", "role:channel"])
    listed = {item.path: item.sizes for item in plan.unread}
    assert listed == {
        "layers.0.num_heads": (2,), "layers.0.all_head_size": (12,), "layers.0.size": (8,), "layers.1.size": (8,),
        "layers.0.r.default": (8,), "layers.1.r.default": (8,), "width": (8,),
    }  # fmt: skip
    small = dg.execute(edited(plan), model)
    assert small.layers[0].r == {"default": 8} and model.layers[0].r == {"default": 10}
    assert (small.width, small.layers[0].num_heads, small.layers[1].num_heads) == (8, 2, 4)


class Config:
    def __init__(self):
        self.num_heads = 4


def test_a_configuration_speaks_of_all_layers():
    """One integer for all of them: where these are cut differently, each size is told, and none is chosen."""
    model = Stack().eval()
    model.config = Config()
    graph = dg.trace(model, torch.randn(5, 3))
    scores = dg.score(graph, model, dg.Magnitude(p=2))
    all_alike = dg.plan(graph, scores, ratio=0.5, only=["role:head"])
    assert Unread("config.num_heads", 4, (2,)) in all_alike.unread
    one = dg.plan(graph, scores, ratio={"layers.1.q:out": 0.5}, only=["role:head"])
    assert Unread("config.num_heads", 4, (2, 4)) in one.unread


def test_what_forward_reads_is_not_listed():
    """Neither what it gives to an operator nor what it compares, nor what equals no size."""

    class Reading(nn.Module):
        def __init__(self):
            super().__init__()
            self.given, self.compared, self.other = 8, 8, 7
            self.inner, self.last = nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, x):
            x = self.inner(x)
            assert x.shape[1] == self.compared
            return self.last(x.view(-1, self.given))

    graph = dg.trace(Reading(), torch.randn(3, 4))
    assert graph.unread == ()
    assert dg.cut(graph, "inner.weight", [1], dim=0).unread == ()


PLAN = half(*reversed(fusing()))
WRONG = {
    "a path that is edited": (("1.conv.groups", 2), {"old": 8}, "edited by this plan, for forward reads it: 8 becomes 4"),
    "a value that is larger": (("1.in_chs", 9), {}, "makes a size smaller, and leaves at least 1, met 8 to 9"),
    "no value": (("1.in_chs", 0), {}, "leaves at least 1, met 8 to 0"),
    "a value of another type": (("1.in_chs", 4.0), {}, "as a whole number, met 4.0"),
    "another present value": (("1.in_chs", 4), {"old": 6}, "present value of '1.in_chs' to be 8, met old=6"),
    "a present value that is not known": (("1.in_chz", 4), {}, "did you mean '1.in_chs', '1.groups'|did you mean '1.in_chs'"),
    "nothing like it": (("x", 4), {}, "does not know the present value of 'x': give it with old="),
    "a path through Python's own": (("forward.__globals__.SECRET", 4), {"old": 7}, "names plain attributes of modules"),
    "no path": ((7, 4), {}, "expected the path of an attribute, such as 'layer1.0.width', met 7"),
    "two at once": (("x", "4"), {}, "2 problems"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_added(case):
    """Each with what was expected, what came, and the fix."""
    given, options, says = WRONG[case]
    with pytest.raises(dg.errors.PlanError, match=says) as caught:
        PLAN.edit(*given, **options)
    assert "othing was changed" in str(caught.value)


def test_an_edit_is_added_once():
    """The second time it is there already."""
    with pytest.raises(dg.errors.PlanError, match="is edited by this plan already: 8 becomes 4"):
        PLAN.edit("1.in_chs", 4).edit("1.in_chs", 2)


def test_an_attribute_of_which_the_graph_knows_nothing():
    """It is added with its present value, and checked against the model."""
    model, graph = fusing()
    plan = half(graph, model).edit("1.depth", 2, old=3)
    assert dg.execute(plan, model)[1].depth == 2 and plan.apply(graph) == half(graph, model).apply(graph)
    only = dg.Plan.empty(graph).edit("1.depth", 2, old=3)
    assert dg.execute(only, model)[1].depth == 2 and only.apply(graph) == graph
    with pytest.raises(dg.errors.MismatchError, match=r"attribute '1.depth': expected 5, met 3"):
        dg.execute(half(graph, model).edit("1.depth", 2, old=5), model)
    with pytest.raises(dg.errors.MismatchError, match=r"the first plan sets '1.depth' to 2, the second one expects 3"):
        only.then(only)


def test_what_forward_reads_cannot_be_added_to_a_graph():
    """The plan does not know that an attribute follows which it does not edit; its graph does."""
    _, graph = fusing()
    plan = dg.Plan.empty(graph).edit("0.out_channels", 4, old=8)
    with pytest.raises(dg.errors.MismatchError, match=r"'0.out_channels' was added, but forward reads this"):
        plan.apply(graph)


GROUP = PLAN.cuts[0].atom


def unread(path, *spaces):
    return {"unread_attributes": (UnreadAttribute(path, spaces),)}


DAMAGED = {
    "added twice": ({"added": ("1.in_chs", "1.in_chs")}, "not in the order of their paths, each once"),
    "added and not there": ({"added": ("1.groups",)}, "'1.groups' is called added, but is not there"),
    "added that is no text": ({"added": (3,)}, "added.0. is no added entry"),
    "unread in another order": ({"unread_attributes": PLAN.unread_attributes[::-1]}, "unread attributes are not in the order"),
    "unread twice": ({"unread_attributes": PLAN.unread_attributes[:1] * 2}, "an unread attribute that stands twice is"),
    "unread of nothing": (unread("a"), "is no unread_attributes entry"),
    "unread of two sizes": (unread("a", GROUP, Atom(9, 5)), "may count spaces of one size"),
    "unread of another atom's size": (unread("a", Atom(GROUP.id, 5)), "has the sizes [58] and [58]"),
    "unread and edited": (unread("0.out_channels", GROUP), "called unread, but its edit is not an added one"),
    "tied in another order": ({"tied": (("b", "c"), ("a", "d"))}, "the tied names are not in their order"),
    "tied twice": ({"tied": (("a", "a"),)}, "a tied name that stands twice is 'a'"),
    "tied and cut otherwise": (
        {"tied": (("0.weight", "2.weight"),)},
        "'0.weight' and '2.weight' are called tied, but are not cut",
    ),
    "tied to nothing": ({"tied": (("0.weight",),)}, "is no tied entry"),
    "unread under a strange path": (unread("__class__.x", GROUP), "names plain attributes"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_plans(case):
    """Told by name, and a file with them is refused."""
    fields, says = DAMAGED[case]
    plan = attrs.evolve(PLAN.edit("1.in_chs", 4), **fields)
    assert check(plan)
    with pytest.raises(dg.errors.MismatchError, match=says):
        dg.execute(plan, fusing()[0])


@pytest.mark.parametrize(
    ("attributes", "says"),
    [
        ((UnreadAttribute("0.out_channels", (GROUP,)),), "follows an axis, and is called unread as well"),
        (PLAN.unread_attributes[::-1], "not in the order of their paths"),
        (PLAN.unread_attributes[:1] * 2, "the unread attribute '1.groups' is there more than once"),
        ((UnreadAttribute("a.__class__", (GROUP,)),), "names plain data"),
        ((UnreadAttribute("a", ()),), "may count spaces of one size"),
        ((UnreadAttribute("a", (Atom(77, 8),)),), "may count what no axis holds"),
    ],
)
def test_damaged_graphs(attributes, says):
    """Each invariant of what a graph lists."""
    _, graph = fusing()
    assert graph_problems(graph) == () and any(
        says in problem for problem in graph_problems(attrs.evolve(graph, unread=attributes))
    )


def test_files_from_before_are_read():
    """They know of no such attributes; a graph and a plan without any are written as they were before."""
    _, graph = fusing()
    for kind, cls, value, names in (("graph", dg.Graph, graph, ["unread"]), ("plan", dg.Plan, PLAN, ["unread_attributes"])):
        content = json.loads(codec.dumps(kind, value))["content"]
        for name in names:
            del content[name]
        document = {"format": f"depgraph.{kind}", "version": 1, "digest": codec._digest(content), "content": content}
        old = codec.loads(json.dumps(document), kind, cls)
        assert old == value and not getattr(old, names[0])
        assert json.loads(codec.dumps(kind, old))["content"] == content
    assert "added" not in json.loads(codec.dumps("plan", PLAN))["content"]


def test_all_that_a_glob_names():
    """One call edits what patterns name; what may be of several sizes, or is not there, is told."""
    model, graph = fusing()
    plan = half(graph, model)
    assert [item.path for item in plan.unread] == ["1.groups", "1.in_chs"]
    assert plan.edit_unread("*.in_chs", "*.groups") == plan.edit_unread("1.in_chs", "1.*") == edited(plan)
    assert plan.edit_unread("*.in_chs") == plan.edit("1.in_chs", 4)
    assert plan.edit_unread() == plan
    with pytest.raises(dg.errors.PlanError, match=r"'\*.width' names no unread attribute; there are '1.groups', '1.in_chs'"):
        plan.edit_unread("*.width")
    several = attrs.evolve(plan, unread_attributes=(UnreadAttribute("1.in_chs", (plan.cuts[0].atom, Atom(90, 8))),))
    with pytest.raises(dg.errors.PlanError, match=r"'1.in_chs' may have to be one of 4, 8: say which by plan.edit"):
        several.edit_unread("1.in_chs")


class Kernel(nn.Module):
    """Convolves with the weight of a layer that it never calls, as state space models do, and reads its groups or not."""

    def __init__(self, reads=False, transposed=False):
        super().__init__()
        self.reads, self.inner = reads, nn.Conv1d(3, 8, 1)
        self.layer = (nn.ConvTranspose1d if transposed else nn.Conv1d)(8, 8, 3, groups=8)
        self.outer = nn.Conv1d(8, 2, 1)

    def forward(self, x):
        x = self.inner(x)
        weight = self.layer.weight.squeeze(1) if not self.reads else self.layer.weight[:, 0]
        convolve = nn.functional.conv_transpose1d if isinstance(self.layer, nn.ConvTranspose1d) else nn.functional.conv1d
        groups = self.layer.groups if self.reads else x.shape[1]
        return self.outer(convolve(x, weight.unsqueeze(1), self.layer.bias, groups=groups))


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("reads", [False, True])
def test_a_depthwise_layer_whose_weight_others_use_stays_one(reads, transposed):
    """Its channels and groups follow, so that the layer itself runs on what it was made for: a state space's convolution."""
    torch.manual_seed(0)
    model, x = Kernel(reads, transposed), torch.randn(1, 3, 9)
    graph = dg.trace(model, x)
    plan = half(graph, model)
    small = dg.execute(plan, model)
    assert (small.layer.in_channels, small.layer.out_channels, small.layer.groups) == (4, 4, 4)
    assert torch.equal(small.outer(small.layer(small.inner(x))), small(x))
    assert plan.unread == () and dg.trace(small, x) == plan.apply(graph)


def test_a_depthwise_layer_of_two_multiples_is_left():
    """Where a layer makes two channels of each, its groups are no count of its results, and nothing says of what."""

    class Doubling(Kernel):
        def __init__(self):
            super().__init__()
            self.layer, self.outer = nn.Conv1d(8, 16, 3, groups=8), nn.Conv1d(16, 2, 1)

    model, x = Doubling(), torch.randn(1, 3, 9)
    graph = dg.trace(model, x)
    small = dg.execute(half(graph, model), model)
    assert small(x).shape == (1, 2, 7) and small.layer.in_channels == small.inner.out_channels


class Repeating(nn.Module):
    """Compares how often keys are repeated with one, and repeats them in a step alone, as attention over groups does."""

    def __init__(self):
        super().__init__()
        self.repeats = 4
        self.queries, self.keys, self.out = nn.Linear(3, 2 * 4 * 5), nn.Linear(3, 2 * 5), nn.Linear(2 * 4 * 5, 3)

    def forward(self, x, step=False):
        q, k = self.queries(x).unflatten(-1, (2, -1, 5)), self.keys(x).unflatten(-1, (2, 1, 5))
        if self.repeats > 1 and step:
            k = k.expand(-1, -1, self.repeats, -1)
        return self.out((q * k).flatten(-3))


def test_what_forward_only_compares_is_listed():
    """The comparison comes out as before whatever goes, so nothing has followed the number: other calls need the edit."""
    torch.manual_seed(0)
    model, x = Repeating(), torch.randn(6, 3)
    graph = dg.trace(model, x)
    group = next(group for group in graph.groups if group.size == 4)
    plan = dg.plan(graph, dg.score(graph, model, dg.Magnitude()), ratio={group.name: 0.5})
    assert Unread("repeats", 4, (2,)) in plan.unread
    with pytest.raises(RuntimeError):
        dg.execute(plan, model)(x, step=True)
    small = dg.execute(plan.edit("repeats", 2), model)
    assert torch.equal(small(x, step=True), small(x))
    followed = dg.trace(model, x, also=[dg.Call((x, True))])
    group = next(group for group in followed.groups if group.size == 4)
    plan = dg.plan(followed, dg.score(followed, model, dg.Magnitude()), ratio={group.name: 0.5})
    assert plan.unread == () and dg.execute(plan, model).repeats == 2
