"""Rules of a user's own: for custom operators, for autograd functions, for module classes that are taken as one operator."""

import pytest
import torch
from torch import nn

import depgraph as dg
from depgraph import codec, testing
from depgraph.criteria.layers import layers_of
from depgraph.rules import RULES
from depgraph.solving.statements import (
    POINTWISE,
    Equal,
    Fresh,
    Named,
    Pin,
    Rule,
    Times,
    Traits,
    Weight,
    Work,
)

X = torch.randn(3, 4)


@pytest.fixture(scope="module")
def operators():
    """Two operators of one's own, with and without a kernel for fake tensors."""

    @torch.library.custom_op("depgraph_own::doubled", mutates_args=())
    def doubled(x: torch.Tensor) -> torch.Tensor:
        return x * 2

    @torch.library.custom_op("depgraph_own::unfakeable", mutates_args=())
    def unfakeable(x: torch.Tensor) -> torch.Tensor:
        return x * 3

    doubled.register_fake(torch.empty_like)
    library = torch.library.Library("depgraph_own", "FRAGMENT")
    library.define("bare(Tensor x) -> Tensor")
    library.impl("bare", lambda x: x * 4, "CPU")
    held = {"doubled": doubled, "unfakeable": unfakeable, "bare": torch.ops.depgraph_own.bare}
    yield {name: (lambda x, operator=operator: operator(x)) for name, operator in held.items()}
    library._destroy()


class Between(nn.Module):
    """A linear layer, something, a linear layer."""

    def __init__(self, something):
        super().__init__()
        self.first, self.something, self.last = nn.Linear(4, 6), something, nn.Linear(6, 2)

    def forward(self, x):
        return self.last(self.something(self.first(x)))


def passes(call):
    """Every axis passes."""
    for before, after in zip(call["x"].axes, call.out.axes, strict=True):
        yield Equal(before, after)


def pruned(model, rules, *, mode="auto", name="first.weight"):
    """Cut one index under a table of rules; the square holds and zeroed channels do not show. Returns graph and small model."""
    model.eval()
    before = testing.snapshot(model)
    graph = dg.trace(model, X, rules=rules, mode=mode)
    assert testing.snapshot(model) == before
    plan = dg.cut(graph, name, [1], dim=0)
    small = dg.execute(plan, model)
    assert dg.trace(small, X, rules=rules, mode=mode) == plan.apply(graph)
    testing.assert_zero_channels(graph, plan, model, X)
    testing.assert_round_trip(graph, plan)
    return graph, small


@pytest.mark.parametrize("key", ["depgraph_own::doubled", "depgraph_own.doubled"])
def test_a_custom_operator(operators, key):
    """Both ways to write an operator's name are taken."""
    graph, small = pruned(Between(operators["doubled"]), RULES | {key: Rule(passes, "CUSTOMIZED")})
    assert graph.node("doubled").type is dg.OpType.CUSTOMIZED and small.last.in_features == 5


@pytest.mark.parametrize("name", ["unfakeable", "bare"])
def test_a_custom_operator_without_a_fake_kernel(operators, name):
    """It runs on the example inputs, and the graph says so; asked for fake tensors, the error names it and the fix."""
    model, rules = Between(operators[name]), RULES | {f"depgraph_own::{name}": Rule(passes)}
    graph, _ = pruned(model, rules)
    assert graph.mode == "real"
    with pytest.raises(
        dg.errors.TraceError, match=rf"depgraph_own::{name}.*test_custom_rules.py:\d+.*register_fake.*mode='real'"
    ):
        dg.trace(model, X, rules=rules, mode="fake")
    with pytest.raises(dg.errors.TraceError, match="not on the meta device"):
        dg.trace(Between(operators[name]).to("meta"), X.to("meta"), rules=rules)


def test_an_operator_without_a_rule_is_named(operators):
    """The reason names the operator, the module and the line of forward that called it."""
    graph = dg.trace(nn.Sequential(Between(operators["doubled"])), X)
    (reason,) = {pinned.reason for pinned in graph.pinned if pinned.tensor == "0.first.bias"}
    assert reason.startswith(
        "there is no rule for depgraph_own.doubled (depgraph_own.doubled in 0 at tracing/test_custom_rules.py:"
    )


class Swish(torch.autograd.Function):
    """With a context, in the old style."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * torch.sigmoid(x)

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return gradient * torch.sigmoid(x)


class Shifted(torch.autograd.Function):
    """With `setup_context`, in the new style, and two results."""

    @staticmethod
    def forward(x, amount=1.0):
        return x + amount, x - amount

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.amount = inputs[1]

    @staticmethod
    def backward(ctx, *gradients):
        return sum(gradients), None


class Inherited(Swish):
    """Its forward is that of its base."""


swish = Swish.apply


def test_an_autograd_function_is_seen_through():
    """Without a rule the operators inside of it are recorded."""
    graph, _ = pruned(Between(swish), RULES)
    assert [node.op for node in graph.nodes][2:4] == ["aten.sigmoid", "aten.mul"]


@pytest.mark.parametrize(
    ("function", "call"), [(Swish, swish), (Shifted, lambda x: Shifted.apply(x, 2.0)[1]), (Inherited, Inherited.apply)]
)
def test_an_autograd_function_as_one_operator(function, call):
    """Its class as a key makes it one node, also where `apply` was taken off the class before; the class is left as it was."""

    def rule(call):
        for out in call.outputs:
            yield from (Equal(before, after) for before, after in zip(call["x"].axes, out.axes, strict=True))

    before = dict(vars(function))
    graph, _ = pruned(Between(call), RULES | {function: Rule(rule, "CUSTOMIZED")})
    (node,) = (node for node in graph.nodes if node.type is dg.OpType.CUSTOMIZED)
    assert node.op == f"tests.tracing.test_custom_rules.{function.__name__}"
    assert {"aten.sigmoid", "aten.mul", "aten.add"}.isdisjoint(node.op for node in graph.nodes)
    assert dict(vars(function)) == before


class Block(nn.Module):
    """Parameters of its own and of a layer, a buffer, attributes; heads that forward names."""

    def __init__(self, width=6, heads=3):
        super().__init__()
        self.heads = heads
        self.inner = nn.Linear(width, width)
        self.scale = nn.Parameter(torch.ones(width))
        self.unheard = nn.Parameter(torch.ones(width))
        self.register_buffer("shift", torch.zeros(width))

    def forward(self, x, *, factor=1.0, extra=None):
        x = self.inner(x).unflatten(-1, (self.heads, -1)).relu().flatten(-2)
        return {"out": x * self.scale * self.unheard[:1] + self.shift * factor}


class Holder(nn.Module):
    """Uses a block, whose result is a dict."""

    def __init__(self, block):
        super().__init__()
        self.first, self.block, self.last = nn.Linear(4, 6), block, nn.Linear(6, 2)

    def forward(self, x):
        return self.last(self.block(self.first(x), factor=0.5)["out"])


def block_rule(call):
    """The axes of `Block`: a linear layer whose outputs are heads."""
    x, out, weight, heads = call["x"], call.out, call["inner.weight"], call["heads"]
    blocks = Fresh(int(heads))
    yield Named(blocks, heads)
    yield Equal(x[0], out[0])
    yield Equal(x[1], weight[1])
    yield Equal(out[1], Times((blocks, Fresh(out.shape[1] // heads))))
    for value in (weight, call["inner.bias"], call["scale"], call["shift"]):
        yield Equal(value[0], out[1])
    yield Work((x[0], *weight.axes))


def test_a_module_class_as_one_operator():
    """One node, named by the module's path; the declared axes are cut and the attributes follow."""
    rules = RULES | {Block: Rule(block_rule, "CUSTOMIZED")}
    graph, small = pruned(Holder(Block()), rules)
    node = graph.node("block")
    assert (node.op, node.type, node.module_class) == ("tests.tracing.test_custom_rules.Block", dg.OpType.CUSTOMIZED, "Block")
    assert not any(other.op in {"aten.unflatten", "aten.relu"} for other in graph.nodes)
    assert small.block.inner.weight.shape == (6, 5)
    (group,) = (group for group in graph.groups if ("block.scale", 0) in group.members and group.size == 3)
    plan = dg.cut(graph, "block.scale", [0, 1], dim=0)
    assert ("block.inner.weight", 0) in group.members and ("last.weight", 1) in group.members
    assert dg.plans.Edit("block.heads", 3, 2) in plan.edits and dg.plans.Edit("block.inner.out_features", 6, 4) in plan.edits
    assert dg.execute(plan, Holder(Block()))(X).shape == (3, 2)


def test_what_the_rule_of_a_module_leaves_out_is_pinned():
    """A parameter, an operand or a result that the rule does not speak of keeps its indices, with that reason."""
    graph = dg.trace(Holder(Block()), X, rules=RULES | {Block: Rule(block_rule)})
    reasons = {pinned.tensor: pinned.reason for pinned in graph.pinned}
    assert reasons["block.unheard"].startswith(
        "the rule for tests.tracing.test_custom_rules.Block says nothing about it (tests"
    )
    graph = dg.trace(Holder(Block()), X, rules=RULES | {Block: Rule(lambda call: ())})
    assert graph.groups == ()
    free = Rule(lambda call: [Equal(axis, Fresh(axis.size)) for axis in call["x"].axes])
    graph = dg.trace(Holder(Block()), X, rules=RULES | {Block: free})
    assert [group.name for group in graph.groups] == ["first.weight:0"]


def test_a_wrong_declaration_is_refuted():
    """Negative control: a rule that calls an axis free which is not gives a model that breaks, and the square sees it."""
    free = Rule(lambda call: [Equal(axis, Fresh(axis.size)) for value in (call["x"], call.out) for axis in value.axes])
    with pytest.raises(RuntimeError, match="same reduction dim"):
        pruned(Holder(Block()), RULES | {Block: free})


def test_subclasses_and_nested_modules():
    """Only the very class is taken; a module inside of one that is taken is part of it."""

    class Narrower(Block):
        pass

    rules = RULES | {Block: Rule(block_rule)}
    assert "aten.unflatten" in {node.op for node in dg.trace(Holder(Narrower()), X, rules=rules).nodes}
    graph = dg.trace(Holder(Block()), X, rules=rules | {nn.Linear: Rule(lambda call: ())})
    assert [node.op.rpartition(".")[2] for node in graph.nodes if node.type is not dg.OpType.PARAMETER] == [
        "input", "Linear", "Block", "Linear", "output",
    ]  # fmt: skip


def test_a_name_that_is_argument_and_parameter():
    """The argument keeps the name; the parameter is found under `self.`, and everything is seen, in dicts too."""
    seen = {}

    class Clash(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(6))

        def forward(self, weight, *rest, **options):
            return weight * self.weight

    class Around(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.clash = nn.Linear(4, 6), Clash()

        def forward(self, x):
            y = self.a(x)
            return self.clash(y, y, deep={"k": [y]}).sum(-1)

    def rule(call):
        seen.update(call.args)
        yield from (Pin(axis, "told so") for axis in call.out.axes)

    dg.trace(Around(), X, rules=RULES | {Clash: Rule(rule)})
    assert seen["weight"].shape == (3, 6) and seen["self.weight"].shape == (6,)
    assert seen["rest"] == (seen["weight"],) and seen["deep"]["k"] == (seen["weight"],)


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("mylib", Rule(passes), r"'mylib': expected 'namespace::operator'"),
        ("aten.add.Tensor", Rule(passes), r"without an overload's name"),
        ("aten::add_", Rule(passes), r"write 'aten::add'"),
        ("aten::ad", Rule(passes), r"no such operator is registered"),
        (int, Rule(passes), r"<class 'int'>: expected a subclass of nn.Module or of torch.autograd.Function"),
        (7, Rule(passes), r"7: expected .* as key, met a int"),
        ("aten::add", passes, r"expected a Rule as value, met a function; write Rule"),
        ("aten::add", Rule(3), r"expected a function of a call in its Rule, met a int"),
        ("aten::add", Rule(passes, "CUSTOM"), r"expected the name of an OpType as its type, met 'CUSTOM'"),
    ],
)
def test_tables_that_cannot_be_used(key, value, told):
    """Wrong keys and values are refused before anything runs, with what was expected."""
    with pytest.raises(dg.errors.RuleError, match=told):
        dg.trace(nn.Linear(4, 2), X, rules=RULES | {key: value})


def test_all_problems_of_a_table_are_listed():
    """One error tells them all; a table that is no mapping is named."""
    with pytest.raises(dg.errors.RuleError, match=r"(?s)'a'.*'b'"):
        dg.trace(nn.Linear(4, 2), X, rules={"a": Rule(passes), "b": Rule(passes)})
    with pytest.raises(dg.errors.RuleError, match="met a list"):
        dg.trace(nn.Linear(4, 2), X, rules=[])


def test_a_compiled_function_inside_is_traced_through():
    """What forward compiles runs as the plain function while it is traced."""
    compiled = torch.compile(lambda x: torch.relu(x) * 2, fullgraph=True)
    pruned(Between(compiled), RULES)


def test_higher_order_operators_are_pinned():
    """Functions that torch runs as one operator are one node; what goes in and comes out is pinned, with the reason."""
    from torch._higher_order_ops.map import map as for_each

    class Rows(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(self, x):
            return self.last(for_each(lambda row: torch.relu(row), self.first(x)))

    graph = testing.assert_pure(Rows().eval(), X)
    reasons = {pinned.tensor: pinned.reason for pinned in graph.pinned}
    assert graph.groups == ()
    assert reasons["first.bias"].startswith("there is no rule for higher_order.map_impl")


def test_a_branch_not_taken_is_not_used():
    """Of `torch.cond` the graph holds the branch that the example inputs take; layers of the other one are pinned."""

    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.inner, self.last = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 2)

        def forward(self, x):
            y = self.first(x)
            return self.last(torch.cond(y.square().sum() < 0, lambda y: self.inner(y), lambda y: 2 * y, (y,)))

    graph = testing.assert_pure(Branches().eval(), X)
    reasons = {pinned.tensor: pinned.reason for pinned in graph.pinned}
    assert graph.mode == "real"
    assert [group.name for group in graph.groups] == ["first.weight:0"]
    assert reasons["inner.weight"] == "inner.weight is not used in forward"


class Heads(nn.Module):
    """Attention of two heads whose values pass through an operator of one's own."""

    def __init__(self, something):
        super().__init__()
        self.heads, self.width, self.something = 2, 3, something
        self.qkv, self.out = nn.Linear(4, 18), nn.Linear(6, 4)

    def forward(self, x):
        q, k, v = self.qkv(x).view(len(x), -1, 3, self.heads, self.width).permute(2, 0, 3, 1, 4)
        y = torch.softmax(q @ k.mT, -1) @ self.something(v)
        return self.out(y.transpose(1, 2).reshape(len(x), -1, self.heads * self.width))


def over_heads(call):
    """The traits of an operator that mixes heads."""
    return Traits(mixes=(call["x"][1], call.out[1]))


def test_an_operator_of_ones_own_is_ragged_by_its_traits(operators):
    """Without traits nobody knows what it mixes; stated to treat each position by itself, heads may differ behind it."""
    model, x, key = Heads(operators["doubled"]), torch.randn(1, 5, 4), "depgraph_own::doubled"
    unknown, stated, mixing = (
        dg.trace(model, x, rules=RULES | {key: Rule(passes, "CUSTOMIZED", traits)})
        for traits in (Traits(), POINTWISE, over_heads)
    )
    group = "qkv.weight:0[2]"
    assert not dg.ragged.ragged_groups(unknown) and "doubled in" in dg.ragged.why_uniform(unknown, group)
    assert not dg.ragged.ragged_groups(mixing) and "may mix the indices" in dg.ragged.why_uniform(mixing, group)
    assert dg.ragged.ragged_groups(stated) == {group: "qkv.weight:0[1]"}
    loaded = testing.same(stated, codec.loads(codec.dumps("graph", stated), "graph", dg.Graph))
    assert loaded and dg.ragged.ragged_groups(codec.loads(codec.dumps("graph", stated), "graph", dg.Graph))
    assert stated == unknown and stated.fingerprint == unknown.fingerprint


def test_traits_that_claim_too_much_are_refuted():
    """Negative control: a softmax that is said to treat each position by itself, and one that is said to mix the other axis."""
    softmax = RULES["aten.softmax"].equations
    over = [testing.Mixed((("args[0]", 1),))]
    args = (torch.randn(3, 5, dtype=torch.float64), 1)
    other = lambda call: Traits(mixes=(call["self"][0], call.out[0]))  # noqa: E731
    testing.assert_rule_sound(torch.softmax, args, mixed=over)
    for wrong in (POINTWISE, other):
        with pytest.raises(AssertionError, match="traits name no mixing"):
            testing.assert_rule_sound(
                torch.softmax, args, mixed=over, rules=RULES | {"aten.softmax": Rule(softmax, traits=wrong)}
            )


def test_an_operator_of_ones_own_is_a_layer_by_its_traits():
    """A module that is one operator states its weight and its offset: criteria of layers and of biases take part in it."""

    class Affine(nn.Linear):
        pass

    def rule(call):
        x, w, out = call["input"], call["weight"], call.out
        yield from (Equal(x[0], out[0]), Equal(x[1], w[1]), Equal(out[1], w[0]), Equal(call["bias"][0], w[0]))

    def traits(call):
        x, w, out = call["input"], call["weight"], call.out
        return Traits((), offsets=(call["bias"],), weight=Weight(w[1], w[0], x[-1], out[-1]))

    model = nn.Sequential(Affine(4, 6), nn.ReLU(), nn.Linear(6, 2))
    plain = dg.trace(model, X)
    both, last = ({"0.weight", "2.weight"}, {"0.bias", "2.bias"}), ({"2.weight"}, {"2.bias"})
    for stated, (layers, offsets) in ((traits, both), (Traits(), last)):
        graph = dg.trace(model, X, rules=RULES | {Affine: Rule(rule, "CUSTOMIZED", stated)})
        assert layers_of(graph).keys() == layers and graph.offsets == offsets
    assert layers_of(plain).keys() == {"0.weight", "2.weight"}


def test_traits_that_do_not_fit_pin(operators):
    """A function of traits that fails is a rule that fails: everything it touches stays, with the reason."""
    rules = RULES | {"depgraph_own::doubled": Rule(passes, traits=lambda call: Traits((call["nothing"][0],)))}
    graph = dg.trace(Between(operators["doubled"]), X, rules=rules)
    reasons = {pinned.tensor: pinned.reason for pinned in graph.pinned}
    assert reasons["first.bias"].startswith("the rule for depgraph_own.doubled does not fit this call (TypeError")
