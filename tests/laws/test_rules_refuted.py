"""Wrong rules are refuted, with the removal that shows it: too little is coupled, too much, or pinned without need."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import depgraph as dg
from depgraph.rules import RULES, Rule
from depgraph.rules.common import elementwise, passed
from depgraph.solving.statements import Equal, Fresh, Named, Pin, Plus, Times
from depgraph.testing.probing import Mixed, assert_rule_sound, probe
from tests.laws.refuting import refuted

pytestmark = pytest.mark.models


def data(*shape):
    """Data without repeated values."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def swapped_cat(call):
    """The parts of `cat` in the opposite order."""
    parts = tuple(value[0] for value in reversed(call["tensors"]))
    yield Equal(call.out[0], Plus(parts))


def crossed_product(call):
    """A product that couples the rows of one operand with the columns of the other."""
    a, b, out = call["self"], call["mat2"], call.out
    yield Equal(a[0], b[1])
    yield Equal(out[0], a[0])
    yield Equal(out[1], b[1])
    yield Equal(a[1], b[0])


def inverse_order(call):
    """`permute` with the inverse order."""
    for position, dim in enumerate(call["dims"]):
        yield Equal(call["self"][position], call.out[dim])


def greedy(call):
    """An element-wise operator whose channels go in pairs."""
    yield from elementwise(call)
    axis = call.out[0]
    yield Equal(axis, Times((Fresh(2), Fresh(axis.size // 2))))


def pinned(call):
    """An element-wise operator that pins its channels."""
    yield from elementwise(call)
    yield Pin(call.out[0], "caution")


def coupled_to_itself(call):
    """Rows and columns of a square matrix are said to be the same."""
    yield from elementwise(call)
    yield Equal(call.out[0], call.out[1])


def sizeless_split(call):
    """`split` whose sizes do not follow its parts."""
    yield Equal(call["self"][0], Plus(tuple(part[0] for part in call.outputs)))


def unnamed_groups(call):
    """A channel shuffle that forgets that its number of groups is named."""
    x, out = call["self"], call.out
    blocks, inside = Fresh(3), Fresh(x.shape[1] // 3)
    yield Equal(x[1], Times((blocks, inside)))
    yield Equal(out[1], Times((inside, blocks)))
    yield from passed(x, out, {1})


def sizes_only(call):
    """`as_strided` as if axes of equal size were the same, whatever the strides."""
    for axis, other in zip(call["self"].axes, call.out.axes, strict=True):
        yield Equal(axis, other)


def strideless(call):
    """`as_strided` whose strides do not follow the sizes."""
    yield from (Equal(axis, other) for axis, other in zip(call["self"].axes, call.out.axes, strict=True))
    yield from (Named(axis, size) for axis, size in zip(call.out.axes, call["size"], strict=True))


def silent(call):
    """A rule that says nothing."""
    yield from ()


def of_another_size(call):
    """A rule that equates what is not equally long."""
    yield Equal(call["self"][0], call["self"][1])


TOO_LITTLE, TOO_MUCH, NEEDLESS = "too little is coupled", "too much is coupled", "pinned without need"
WRONG = [
    ("aten.cat", swapped_cat, torch.cat, ([data(3), data(4)],), TOO_LITTLE),
    ("aten.mm", crossed_product, torch.mm, (data(4, 3), data(3, 4)), TOO_MUCH),
    ("aten.permute", inverse_order, torch.permute, (data(4, 4, 4), (1, 2, 0)), TOO_LITTLE),
    ("aten.cumsum", elementwise, torch.cumsum, (data(4), 0), TOO_LITTLE),
    ("aten.flip", elementwise, torch.flip, (data(4), [0]), TOO_LITTLE),
    ("aten.sort", elementwise, torch.sort, (data(4),), TOO_LITTLE),
    ("aten.relu", greedy, torch.relu, (data(6),), TOO_MUCH),
    ("aten.add", greedy, torch.add, (data(6), data(6)), TOO_MUCH),
    ("aten.relu", coupled_to_itself, torch.relu, (data(4, 4),), TOO_MUCH),
    ("aten.relu", pinned, torch.relu, (data(4),), NEEDLESS),
    ("aten.add", pinned, torch.add, (data(4), data(4)), NEEDLESS),
    ("aten.split_with_sizes", sizeless_split, torch.split_with_sizes, (data(7), [3, 4]), TOO_LITTLE),
    ("aten.channel_shuffle", unnamed_groups, torch.channel_shuffle, (data(3, 9, 4), 3), TOO_LITTLE),
    ("aten.as_strided", sizes_only, torch.as_strided, (data(4, 4), (4, 4), (1, 4)), TOO_LITTLE),
    ("aten.as_strided", strideless, torch.as_strided, (data(4, 5), (4, 5), (5, 1)), TOO_LITTLE),
    ("aten.relu", silent, torch.relu, (data(4),), TOO_LITTLE),
    ("aten.sum", silent, torch.sum, (data(3, 4), [1]), TOO_LITTLE),
    ("aten.relu", of_another_size, torch.relu, (data(3, 4),), "equates sizes 3 and 4"),
]


@pytest.mark.parametrize(("name", "rule", "function", "args", "words"), WRONG, ids=lambda item: getattr(item, "__name__", None))
def test_wrong_rules_are_refuted(name, rule, function, args, words):
    """A wrong rule is refuted in the right direction; the rule of the table is not."""
    assert_rule_sound(function, args, pins_by_choice=True)
    said = refuted(assert_rule_sound, function, args, rules=RULES | {name: Rule(rule)}, says=words)
    assert f"the rules of {name} are refuted" in said


def test_a_failing_rule_is_refuted():
    """A rule that raises says nothing, so that its operator would only be pinned: that is told."""
    refuted(
        assert_rule_sound,
        torch.relu,
        (data(4),),
        rules=RULES | {"aten.relu": Rule(lambda call: call.nothing)},
        says=r"the rule of aten.relu does not fit the call: AttributeError",
    )


def test_an_operator_without_a_rule_is_told():
    """Probing needs a rule."""
    rules = {name: rule for name, rule in RULES.items() if name != "aten.hardtanh"}
    refuted(assert_rule_sound, F.hardtanh, (data(4),), rules=rules, says=r"there is no rule for aten\.hardtanh")


def test_mixed_axes_must_be_declared():
    """A normalisation across an axis is refuted unless it is declared, and its other axes are compared exactly all the same."""
    mixed = (Mixed((("args[0]", 1),)),)
    refuted(assert_rule_sound, torch.softmax, (data(3, 4), 1), says=TOO_LITTLE)
    assert assert_rule_sound(torch.softmax, (data(3, 4), 1), mixed=mixed).mixed
    refuted(assert_rule_sound, torch.softmax, (data(3, 4), 0), mixed=mixed, says=TOO_LITTLE)


def test_neutral_elements_are_used():
    """A product agrees when what goes was 1 before, and not when it was 0."""
    assert_rule_sound(torch.prod, (data(3, 4), 1), mixed=(Mixed((("args[0]", 1),), fill=1.0),))
    refuted(assert_rule_sound, torch.prod, (data(3, 4), 1), mixed=(Mixed((("args[0]", 1),), fill=0.5),), says=TOO_LITTLE)


def test_operands_are_not_written_to():
    """In-place operators and ``out=`` work on copies."""
    x, out = data(4), torch.zeros(4, dtype=torch.float64)
    before = x.clone()
    assert_rule_sound(torch.ops.aten.add_.Tensor, (x, data(4)))
    assert_rule_sound(torch.add, (data(4), data(4)), {"out": out})
    assert torch.equal(x, before) and not out.any()


def test_findings_are_deterministic():
    """The same call gives the same findings."""
    args = (data(3, 4), data(4, 5))
    assert probe(torch.mm, args) == probe(torch.mm, args)


def test_an_operator_of_a_library_is_proven():
    """A custom operator with a rule of one's own: the right rule stands, a rule that forgets a coupling is refuted."""

    @torch.library.custom_op("depgraph_probing::gated", mutates_args=())
    def gated(x: torch.Tensor, gates: torch.Tensor, groups: int) -> torch.Tensor:
        return (x.unflatten(-1, (groups, -1)) * gates[:, None]).flatten(-2)

    @gated.register_fake
    def _(x, gates, groups):
        return torch.empty_like(x)

    def rule(call):
        x, blocks = call["x"], Fresh(call["groups"])
        yield Named(blocks, call["groups"])
        yield Equal(call["gates"][0], blocks)
        yield Equal(x[-1], Times((blocks, Fresh(x.shape[-1] // blocks.size))))
        yield from passed(x, call.out)

    def forgetful(call):
        return list(rule(call))[:1] + list(rule(call))[2:]

    args = (data(3, 12), data(3), 3)
    name = "depgraph_probing.gated"
    assert assert_rule_sound(gated, args, rules=RULES | {name: Rule(rule)}).ops == (name,)
    refuted(assert_rule_sound, gated, args, rules=RULES | {name: Rule(forgetful)}, says=TOO_LITTLE)


class Grouped(nn.Module):
    """A convolution in functional form whose numbers are written in another order than the schema's."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv1d(3, 8, 1)
        self.weight = nn.Parameter(data(6, 4, 3).float())
        self.last = nn.Conv1d(6, 2, 1)
        self.groups, self.dilation = 2, 2

    def forward(self, x):
        return self.last(F.conv1d(self.first(x), self.weight, groups=self.groups, dilation=self.dilation))


def test_numbers_are_told_apart_by_name():
    """Two equal numbers that are written as keywords keep their own origin: `groups` follows, `dilation` stays."""
    graph = dg.trace(Grouped(), torch.randn(1, 3, 9))
    followed = {attribute.path for attribute in graph.attributes}
    assert "groups" in followed and "dilation" not in followed
