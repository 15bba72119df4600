"""Where sizes come from: each mechanism on a ten-line module, with the exact attribute edits, pins and balances expected."""

import math
import types

import pytest
import torch
from torch import nn

import depgraph as dg
from depgraph import testing
from depgraph.algebra.spaces import atoms
from depgraph.solving.expressions import Arithmetic, Attribute, Literal
from depgraph.solving.sized import Sized, origin
from depgraph.solving.statements import Equal, Fresh, Times
from tests.frames import Frame

X = torch.randn(2, 6, 8)


def cut(model, indices=(0,), x=X, name="first.weight", dim=0):
    """Cut, check the laws, and return the edits that are no torch layer's own."""
    graph = dg.trace(model, x)
    plan = dg.cut(graph, name, list(indices), dim=dim)
    small = testing.assert_square(graph, plan, model, x)
    testing.assert_atomic(plan, model)
    assert small(x).shape == model(x).shape
    return [(edit.path, edit.old, edit.new) for edit in plan.edits if not edit.path.startswith(("first.", "last."))]


def test_an_attribute_follows_its_axis():
    """`self.width` names the last axis of a view."""

    class Model(Frame):
        def between(self, y):
            return y.view(y.shape[0], y.shape[1], self.width)

    assert cut(Model(width=12), (3, 4)) == [("width", 12, 10)]


def test_heads_and_head_dims_are_separate_attributes():
    """One factor each of the same axis."""

    class Model(Frame):
        def between(self, y):
            return y.view(*y.shape[:2], self.heads, self.width).flatten(2)

    assert cut(Model(heads=3, width=4), (0, 1, 2, 3)) == [("heads", 3, 2)]
    assert cut(Model(heads=3, width=4), (1, 5, 9)) == [("width", 4, 3)]


@pytest.mark.parametrize("build", [tuple, list])
def test_elements_of_containers_are_edited(build):
    """A size inside a tuple or list attribute is edited in place of the element."""

    class Model(Frame):
        def between(self, y):
            a, b = y.split(self.parts, dim=-1)
            return torch.cat([b, a], -1)

    model = Model(parts=build([4, 8]))
    assert cut(model, (0, 5, 6)) == [("parts.0", 4, 3), ("parts.1", 8, 6)]
    small = dg.execute(dg.cut(dg.trace(model, X), "first.weight", [0, 5, 6], dim=0), model)
    assert small.parts == build([3, 6]) and type(small.parts) is build and model.parts == build([4, 8])


def test_config_objects_and_dicts_are_edited():
    """Sizes in a config object and in a dict; the original's config is left alone."""

    class Model(Frame):
        def between(self, y):
            return y.view(*y.shape[:2], self.config.heads, -1).reshape(*y.shape[:2], self.sizes["wide"])

    config = types.SimpleNamespace(heads=3, other=7)
    model = Model(config=config, sizes={"wide": 12})
    assert cut(model, (0, 1, 2, 3)) == [("config.heads", 3, 2), ("sizes.wide", 12, 8)]
    assert config.heads == 3 and model.sizes == {"wide": 12}


def test_arithmetic_is_followed():
    """`C // self.heads` comes out right by editing `heads`; `3 * self.width` by editing `width`."""

    class Quotient(Frame):
        def between(self, y):
            b, n, c = y.shape
            return y.reshape(b, n, self.heads, c // self.heads).flatten(2)

    class Multiple(Frame):
        def between(self, y):
            q, k, v = y.view(*y.shape[:2], 3 * self.width).chunk(3, dim=-1)
            return q * k + v

    assert cut(Quotient(heads=3), (0, 1, 2, 3)) == [("heads", 3, 2)]
    assert cut(Multiple(outer=4, width=4), (0, 4, 8)) == [("width", 4, 3)]


def test_one_of_two_unknown_attributes_keeps_its_value():
    """In `self.channels // self.paths` the smaller one stays, and the other follows."""

    class Model(Frame):
        def between(self, y):
            a, b = torch.split(y, self.channels // self.paths, dim=-1)
            return a + b

    assert cut(Model(outer=6, channels=12, paths=2), (1, 7)) == [("channels", 12, 10)]


def test_a_size_from_another_axis_ties_the_two():
    """`.reshape(b, n, c)` with the input's c couples the inner width to it."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.inner, self.last = nn.Linear(8, 12), nn.Linear(12, 12), nn.Linear(12, 5)

        def forward(self, x):
            y = self.first(x)
            b, n, c = y.shape
            return self.last(self.inner(y).reshape(b, n, 3, -1).transpose(2, 3).reshape(b, n, c))

    graph = dg.trace(Model(), X)
    assert str(graph.axis("inner.weight", 0)) == str(graph.axis("inner.weight", 0))
    assert graph.axis("first.weight", 0).size == 12
    testing.assert_lawful(Model(), X)


def test_a_literal_pins_and_names_its_line():
    """`explain` says which literal, in which file and line."""

    class Model(Frame):
        def between(self, y):
            return y.view(2, 6, 12)

    graph = dg.trace(Model(), X)
    assert not graph.groups
    assert "it is named by the literal 12 (aten.view in the model at solving/test_sizes.py:" in dg.explain(
        graph, "first.weight", dim=0
    )


def test_only_the_named_part_of_a_slice_is_pinned():
    """`y[..., :4]` with a literal pins the first four and leaves the rest."""

    class Model(Frame):
        def between(self, y):
            return torch.cat([y[..., :4] * 2, y[..., 4:]], -1)

    graph = dg.trace(Model(), X)
    assert [group.size for group in graph.groups] == [8]
    assert cut(Model(), (5,)) == []


def test_a_slice_by_attribute_follows():
    """`y[..., : self.keep]` and `y[..., self.keep :]`."""

    class Model(Frame):
        def between(self, y):
            return torch.cat([y[..., self.keep :], torch.relu(y[..., : self.keep])], -1)

    assert cut(Model(keep=5), (0, 7)) == [("keep", 5, 4)]


def test_halves_stay_equal_without_being_coupled():
    """A chunk's halves lose equally many indices, each its own; a plan that does not is refused."""

    class Model(Frame):
        def between(self, y):
            a, b = y.chunk(2, dim=-1)
            return torch.cat([a, torch.sigmoid(b)], -1)

    graph = dg.trace(Model(), X)
    (balance,) = graph.balances
    assert [atom.size for atom in balance.atoms] == [6, 6] and "aten.chunk needs equal parts" in balance.reason
    assert cut(Model(), (0, 11)) == []
    with pytest.raises(
        dg.errors.PlanError, match=r"must lose equally many indices, because aten.chunk needs equal parts.*1 of first"
    ):
        dg.cut(graph, "first.weight", [0], dim=0)
    scores = {graph.groups[0].name: range(6), graph.groups[1].name: range(6)}
    plan = dg.plan(graph, scores, ratio={graph.groups[0].name: 0.5, graph.groups[1].name: 0.34})
    assert [len(removed) for removed in plan.removed.values()] == [2, 2]


def test_head_dims_that_one_attribute_names_are_balanced():
    """Queries and values need not agree index by index: they agree in number, because `width` names both."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.width = 4
            self.q, self.k, self.v, self.out = nn.Linear(8, 12), nn.Linear(8, 12), nn.Linear(8, 12), nn.Linear(12, 5)

        def forward(self, x):
            q, k, v = (layer(x).view(2, 6, -1, self.width).transpose(1, 2) for layer in (self.q, self.k, self.v))
            return self.out((torch.softmax(q @ k.mT, -1) @ v).transpose(1, 2).flatten(2))

    graph = dg.trace(Model(), X)
    names = [group.name for group in graph.groups]
    assert names == ["q.weight:0[0]", "q.weight:0[1]", "v.weight:0[1]"]
    assert [{graph.group_of[atom].name for atom in balance.atoms} for balance in graph.balances] == [set(names[1:])]
    testing.assert_lawful(Model(), X)


def test_an_attribute_read_by_two_layers_balances_them():
    """A config object shared by layers: their groups lose equally many, and no layer is corrupted."""

    class Layer(nn.Module):
        def __init__(self, config) -> None:
            super().__init__()
            self.config, self.up, self.down = config, nn.Linear(8, 12), nn.Linear(12, 8)

        def forward(self, x):
            return x + self.down(self.up(x).view(*x.shape[:2], self.config.heads, -1).tanh().flatten(2))

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            config = types.SimpleNamespace(heads=3)
            self.layers = nn.Sequential(Layer(config), Layer(config))

        def forward(self, x):
            return self.layers(x)

    graph = dg.trace(Model(), X)
    assert [len(balance.atoms) for balance in graph.balances] == [2]
    assert [a.path for a in graph.attributes if "heads" in a.path] == ["layers.0.config.heads"]
    testing.assert_lawful(Model(), X, ratio=0.4)
    plan = dg.plan(graph, dg.score(graph, Model(), dg.criteria.Random(0)), ratio={"*.up.weight": 0.34})
    small = dg.execute(plan, Model())
    assert small.layers[0].config is small.layers[1].config and small.layers[0].config.heads == 2


class Unlike(nn.Module):
    """One attribute, `width`, names an axis that is one piece, and one that a test gives."""

    def __init__(self) -> None:
        super().__init__()
        self.width, self.heads = 12, 3
        self.a, self.b, self.last = nn.Linear(8, 12), nn.Linear(8, 12), nn.Linear(24, 5)

    def forward(self, x):
        return self.last(torch.cat([self.a(x).view(2, 6, self.width), self.other(self.b(x)).view(2, 6, self.width)], -1))


def test_one_attribute_over_a_multiple_cuts_into_balanced_parts():
    """`width` names 12 indices here and 3 x 4 with a literal 4 there: four parts of the 12 lose as many as the 3."""

    class Model(Unlike):
        def other(self, y):
            return y.view(2, 6, -1, 4).flatten(2)

    graph = dg.trace(Model(), X)
    assert [group.size for group in graph.groups] == [3, 3, 3, 3, 3]
    assert [len(balance.atoms) for balance in graph.balances] == [5]
    testing.assert_lawful(Model(), X, ratio=0.4)


def test_one_attribute_over_a_product_factors_the_other():
    """`width` names 12 indices here and heads x 4 there: the 12 get two factors of their own, each balanced with its like."""

    class Model(Unlike):
        def other(self, y):
            return y.view(2, 6, self.heads, -1).flatten(2)

    graph = dg.trace(Model(), X)
    assert str(graph.axis("a.weight", 0)) == "(a0:3 x a1:4)" and str(graph.axis("b.weight", 0)) == "(a3:3 x a4:4)"
    assert [[atom.size for atom in balance.atoms] for balance in graph.balances] == [[3, 3], [4, 4]]
    testing.assert_lawful(Model(), X, ratio=0.4)


def test_an_attribute_that_must_fit_unlike_axes_pins_them():
    """A sum here and a product there cannot stay equal: pinned, with the reason; never a conflict in a plan."""

    class Model(Unlike):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.ModuleList([nn.Linear(8, 7), nn.Linear(8, 5)])

        def forward(self, x):
            a = torch.cat([layer(x) for layer in self.a], -1).view(2, 6, self.width)
            return self.last(torch.cat([a, self.b(x).view(2, 6, self.heads, -1).flatten(2).view(2, 6, self.width)], -1))

    graph = dg.trace(Model(), X)
    assert not graph.groups
    assert "must agree with another one in a way that only the present sizes do" in dg.explain(graph, "b.weight", dim=0)


def test_comparisons_are_facts():
    """`assert c == self.dim` makes `dim` follow; a comparison of two axes ties them; one with a literal pins."""

    class Attributed(Frame):
        def between(self, y):
            assert y.shape[-1] == self.dim
            return y.relu()

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.last = nn.Linear(8, 6), nn.Linear(8, 6), nn.Linear(12, 5)

        def forward(self, x):
            a, b = self.a(x), self.b(x)
            if a.shape[-1] != b.shape[-1]:
                raise ValueError("unequal branches")
            return self.last(torch.cat([a, b], -1))

    class Fixed(Frame):
        def between(self, y):
            return y if y.shape[-1] == 12 else y[..., 0]

    assert cut(Attributed(dim=12), (2,)) == [("dim", 12, 11)]
    assert dg.trace(Tied(), X).group("a.weight", dim=0) == dg.trace(Tied(), X).group("b.weight", dim=0)
    assert "compared with the literal 12 (a comparison at solving/test_sizes.py:" in dg.explain(
        dg.trace(Fixed(), X), "first.weight", 0
    )


def test_created_tensors_follow():
    """`torch.zeros(n, self.width)` makes an axis that follows; `torch.arange` makes positions that pin."""

    class Zeros(Frame):
        def between(self, y):
            return y + torch.zeros(self.width)

    class Positions(Frame):
        def between(self, y):
            return y + torch.arange(y.shape[-1])

    assert cut(Zeros(width=12), (2,)) == [("width", 12, 11)]
    graph = dg.trace(Positions(), X)
    assert not graph.groups and "positions that aten.arange counts" in dg.explain(graph, "first.weight", 0)


def test_functional_layer_norm_follows_its_shape():
    """`F.layer_norm(y, (self.width,))` follows; `(12,)` pins; `y.shape[-1:]` is free."""

    class Model(Frame):
        def between(self, y):
            return nn.functional.layer_norm(y, self.shape if self.mode else y.shape[-1:])

    class Literally(Frame):
        def between(self, y):
            return nn.functional.layer_norm(y, (12,))

    assert cut(Model(shape=(12,), mode=True), (2,)) == [("shape.0", 12, 11)]
    assert cut(Model(shape=(12,), mode=False), (2,)) == []
    assert not dg.trace(Literally(), X).groups


def test_einops_is_seen_through():
    """`rearrange` reaches the operators with sizes computed from the attribute that it was given."""
    einops = pytest.importorskip("einops", reason="einops is an extra of the tests")

    class Model(Frame):
        def between(self, y):
            return einops.rearrange(einops.rearrange(y, "b n (h d) -> b h n d", h=self.heads), "b h n d -> b n (h d)")

    graph = dg.trace(Model(heads=3), X)
    assert [(group.size, group.role) for group in graph.groups] == [(3, "block"), (4, "channel")]
    testing.assert_lawful(Model(heads=3), X, ratio=0.4)
    scores = dg.score(graph, Model(heads=3), dg.criteria.Random(0))
    assert "heads" in {edit.path for edit in dg.plan(graph, scores, ratio={"role:block": 0.5}).edits}


def test_the_model_is_not_written_to():
    """Attributes, containers and configs keep their very objects, and plain ints stay plain."""

    class Model(Frame):
        def between(self, y):
            return y.view(*y.shape[:2], self.parts[0], self.config.width).flatten(2)

    model = Model(parts=[3], config=types.SimpleNamespace(width=4))
    held = (model.parts, model.config, dict(model.__dict__))
    dg.trace(model, X)
    assert (model.parts, model.config) == held[:2] and model.parts is held[0] and model.config is held[1]
    assert type(model.parts[0]) is int and type(model.config.width) is int
    assert model.__dict__ == held[2]


def test_sized_integers_behave_as_integers():
    """They compare, hash, divide and print as the numbers that they are, and remember additions and products."""
    a, b = Sized(12, Attribute("a", 12)), Sized(4, Attribute("b", 4))
    assert (a + b, a - b, a * b, a // b, 2 * a, 30 - a, 48 // a) == (16, 8, 48, 3, 24, 18, 4)
    assert origin(a // b) == Arithmetic("//", Attribute("a", 12), Attribute("b", 4))
    assert origin(3) == Literal(3) and origin(a % 5) == Arithmetic("%", Attribute("a", 12), Literal(5))
    assert (a / 8, a**2, -a, str(a), f"{a:03d}", hash(a), {12: "x"}[a]) == (1.5, 144, -12, "12", "012", hash(12), "x")
    assert a == 12 and a != 13 and a > b and type(int(a)) is int


def test_a_size_that_a_cache_keeps_is_none_of_the_next_trace():
    """An `lru_cache` in user code may hand a size of one trace to another: the functions run without it."""
    import functools

    @functools.lru_cache
    def doubled(width):
        return [width, 2 * width]

    class Model(Frame):
        def between(self, y):
            return y.view(*y.shape[:2], -1, doubled(self.width)[0]).flatten(2)

    assert cut(Model(width=4), (0, 4, 8)) == [("width", 4, 3)]
    doubled.cache_clear()
    first, second = Model(width=4), Model(width=4)
    assert "[1]" in dg.trace(first, X).groups[1].name
    graph = dg.trace(second, X)
    assert [group.size for group in graph.groups] == [3, 4]
    testing.assert_lawful(second, X, ratio=0.4)


def test_tuples_are_each_modules_own():
    """Two modules that happen to hold one tuple object are edited apart."""

    class Layer(nn.Module):
        def __init__(self, shape) -> None:
            super().__init__()
            self.shape, self.up, self.down = shape, nn.Linear(8, 12), nn.Linear(12, 8)

        def forward(self, x):
            return self.down(self.up(x).unflatten(-1, self.shape).flatten(2))

    shape = (3, 4)
    model = nn.Sequential(Layer(shape), Layer(shape))
    small = dg.execute(dg.cut(dg.trace(model, X), "1.up.weight", [0, 1, 2, 3], dim=0), model)
    assert (small[0].shape, small[1].shape) == ((3, 4), (2, 4)) and small(X).shape == X.shape


@pytest.mark.parametrize(
    "half",
    [
        lambda y: int(y.shape[-1] / 2),
        lambda y: int(y.shape[-1] * 0.5),
        lambda y: round(y.shape[-1] * 0.5),
        lambda y: math.ceil(y.shape[-1] / 2),
        lambda y: math.floor(y.shape[-1] / 2),
        lambda y: y.shape[-1] % 7 + 1,
        lambda y: int(y.shape[-1] ** 0.5) + 3,
    ],
)
def test_numbers_that_were_rounded_pin_what_they_came_from(half):
    """A slice by `int(C / 2)` would move if C changed: both parts are pinned, and no pruned forward fails."""

    class Model(Frame):
        def between(self, y):
            return y[..., : half(y)]

    graph = dg.trace(Model(outer=6), X)
    assert not graph.groups
    assert dg.trace(Model(outer=6), X).pinned


def test_floor_division_and_negation_are_followed():
    """`C // 2`, `-(-C // 2)`, `divmod` and `numel` keep their origin; a negative bound follows its attribute."""

    class Halves(Frame):
        def between(self, y):
            return torch.cat([y[..., : y.shape[-1] // 2].relu(), y[..., y.shape[-1] // 2 :]], -1)

    class Tail(Frame):
        def between(self, y):
            return torch.cat([y[..., -self.keep :], y[..., : -self.keep].relu()], -1)

    class Counted(Frame):
        def between(self, y):
            return y.reshape(y.shape[0], y.shape[1], y.numel() // (y.shape[0] * y.shape[1])).relu()

    assert [len(balance.atoms) for balance in dg.trace(Halves(), X).balances] == [2]
    assert [group.size for group in dg.trace(Counted(), X).groups] == [12]
    testing.assert_lawful(Halves(), X, ratio=0.4)
    testing.assert_lawful(Counted(), X, ratio=0.4)
    assert cut(Tail(keep=5), (0, 11)) == [("keep", 5, 4)]


def test_sizes_of_positions_settle():
    """Padding computed from odd sizes comes out even nowhere; positions are constants, and the channels stay free."""

    class Same(nn.Conv2d):
        def forward(self, x):
            rows = x.shape[-1]
            out = -(-rows // self.step)
            pad = (out - 1) * self.step + (self.taps - 1) + 1 - rows
            return nn.functional.conv2d(nn.functional.pad(x, [pad // 2, pad - pad // 2] * 2), self.weight, self.bias, self.step)

    first, last = Same(3, 6, 7), Same(6, 2, 7)
    for layer in (first, last):
        layer.step, layer.taps = 2, 7
    model, x = nn.Sequential(first, nn.ReLU(), last), torch.randn(1, 3, 24, 24)
    assert [group.size for group in dg.trace(model, x).groups] == [6]
    testing.assert_lawful(model, x)


def test_a_division_with_a_remainder_pins():
    """From `13 // 2 == 6` nothing can be told about the 13: the axis stays, and no plan with a wrong old value is made."""

    class Model(Frame):
        def between(self, y):
            return y.view(*y.shape[:2], 2, self.odd // 2).flatten(2)

    graph = dg.trace(Model(odd=13), X)
    assert not any(attribute.path == "odd" for attribute in graph.attributes)
    assert "a way that is not understood" in dg.explain(graph, "first.weight", dim=0)


def test_frozen_configs_and_odd_keys():
    """A frozen dataclass is edited in the pruned copy alone; keys that no dotted path can name count as literals."""
    import dataclasses

    @dataclasses.dataclass(frozen=True)
    class Config:
        width: int

    class Model(Frame):
        def between(self, y):
            return y.view(*y.shape[:2], self.config.width)

    class Keyed(Frame):
        def between(self, y):
            return y.view(*y.shape[:2], self.sizes[("a", 1)])

    model = Model(config=Config(12))
    assert cut(model, (0, 3)) == [("config.width", 12, 10)] and model.config == Config(12)
    assert not dg.trace(Keyed(sizes={("a", 1): 12}), X).groups


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda y: y.detach().resize_(2, 6, 12), "aten.resize lays the same memory out anew"),
        (lambda y: torch.empty(0).set_(y.contiguous()).view(y.shape), "aten.set"),
    ],
)
def test_storage_that_is_exchanged_pins(change, reason):
    """Operators that give a tensor another storage or shape in place pin everything that they touch."""

    class Model(Frame):
        def between(self, y):
            return change(y)

    graph = dg.trace(Model(), X)
    assert not graph.groups
    assert reason in dg.explain(graph, "first.weight", dim=0)


class Conditional(nn.Module):
    """A depthwise convolution whose kernels are mixed for each sample, as in CondConv: the view divides two attributes."""

    def __init__(self):
        super().__init__()
        self.before, self.route, self.after = nn.Conv2d(3, 8, 1), nn.Linear(8, 4), nn.Conv2d(8, 2, 1)
        self.in_channels = self.out_channels = self.groups = 8
        self.weight = nn.Parameter(torch.randn(4, 8 * 9))

    def forward(self, x):
        x = torch.relu(self.before(x))
        batch, _, height, width = x.shape
        mixed = torch.sigmoid(self.route(x.mean((2, 3)))) @ self.weight
        kernels = mixed.view(batch * self.out_channels, self.in_channels // self.groups, 3, 3)
        y = torch.conv2d(x.reshape(1, -1, height, width), kernels, padding=1, groups=batch * self.groups)
        return self.after(y.view(batch, self.out_channels, height, width))


def test_a_quotient_of_one_keeps_its_attributes_together():
    """Where forward names a size of 1 as one attribute over another, both follow the axis that one of them counts."""
    model, x = Conditional().eval(), torch.randn(2, 3, 5, 5)
    graph = dg.trace(model, x)
    followed = {attribute.path: attribute.space for attribute in graph.attributes}
    assert followed["in_channels"] == followed["groups"] == followed["out_channels"] == followed["before.out_channels"]
    testing.assert_lawful(model, x)


def test_sizes_in_graphs_are_plain_integers():
    """A rule that takes a size with a provenance as that of a new space leaves no trace of it: plans write plain integers."""

    def blocks(call):
        yield Equal(call["input"][1], Times((Fresh(call["groups"]), call["weight"][1])))
        yield Equal(call["weight"][0], Times((Fresh(call["groups"]), Fresh(2))))
        yield Equal(call.out[1], call["weight"][0])

    rules = dg.RULES | {"aten.conv2d": dg.Rule(blocks, "CONV")}
    graph = dg.trace(nn.Sequential(nn.Conv2d(3, 6, 1, groups=3), nn.ReLU()), torch.randn(1, 3, 4, 4), rules=rules)
    found = [atom for tensor in graph.tensors for space in tensor.axes for atom in atoms(space)]
    assert found and {type(atom.size) for atom in found} == {int}


@pytest.mark.parametrize(
    "holds",
    [
        lambda n: n + 1 == 13,
        lambda n: n // 5 == 2,
        lambda n: n % 5 == 2,
        lambda n: n + round(n / 5) > 3,
        lambda n: round(n / 5) < n,
    ],
)
def test_what_only_the_present_size_makes_true_pins(holds):
    """Sums, quotients and remainders that are compared with numbers, and what is computed by rounding on either side."""

    class Model(Frame):
        def between(self, y):
            assert holds(y.shape[2])
            return y

    graph = dg.trace(Model(), X)
    why = graph.why_pinned(graph.axis("first.weight", 0))
    assert graph.groups == () and ("not understood" in why or "needs as many as there are" in why)
