"""Whatever PyTorch's pytree takes as inputs and outputs, and models that hold their tensors in unusual ways."""

import dataclasses
import functools
from collections import OrderedDict, UserDict
from types import MappingProxyType

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import depgraph as dg
from depgraph import running, testing
from tests.zoo import vision

X = torch.randn(3, 4)


class Pair(nn.Module):
    """Two linear layers; what they take and return is up to a test."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)

    def both(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(torch.relu(self.a(x)))


@dataclasses.dataclass
class Result:
    """A dataclass output, as transformers have them."""

    logits: torch.Tensor
    hidden: torch.Tensor | None = None


def members(model, *args, **kwargs):
    """The axes of the one group, after all laws were checked."""
    testing.assert_lawful(model, *args, **kwargs)
    (group,) = dg.trace(model, *args, **kwargs).groups
    return group.members


def test_inputs_of_every_form():
    """A tensor, a tuple, a dict as the one argument, keywords, and nested containers with other things in them."""

    class Tuple(Pair):
        def forward(self, x, scale=2.0):
            return self.both(x) * scale

    class Dict(Pair):
        def forward(self, batch):
            return self.both(batch["x"]) + batch["more"][0]

    class Keywords(Pair):
        def forward(self, *, x, flag=None):
            return self.both(x) if flag is None else x

    expected = (("a.weight", 0), ("a.bias", 0), ("b.weight", 1))
    assert members(Tuple(), X) == members(Tuple(), (X,)) == members(Tuple(), [X, 0.5]) == expected
    assert members(Dict(), {"x": X, "more": [torch.zeros(2), "text"]}) == expected
    assert members(Keywords(), kwargs={"x": X, "flag": None}) == expected


class Named(Pair):
    """Takes two tensors by name, one of them needed."""

    def forward(self, x, more=None):
        y = self.both(x)
        return y if more is None else y + more


class OneMapping(Pair):
    """Takes one mapping, whose name is none of its keys; and one whose name is."""

    def forward(self, batch):
        return self.both(batch["x"]) + batch.get("batch", 0)


MAPPINGS = (dict, OrderedDict, UserDict, MappingProxyType)


@pytest.mark.parametrize("kind", MAPPINGS)
def test_a_mapping_of_parameters_is_passed_by_keyword(kind):
    """The graph, and what a batch gives, are those of keywords, whatever the mapping's class."""
    content = {"x": X, "more": torch.ones(2)}
    model, mapping = Named(), kind(content)
    assert (
        dg.trace(model, mapping)
        == dg.trace(model, kwargs=content)
        == dg.trace(model, kind({"x": X}), {"more": content["more"]})
    )
    assert torch.equal(running.run(model, mapping), model(**content))
    assert dict(mapping) == content


@pytest.mark.parametrize("kind", [dict, OrderedDict])
def test_another_mapping_is_the_one_argument(kind):
    """It is where its keys are no parameters, or leave one out; inside a tuple it always is."""
    model = OneMapping()
    other, own = kind({"x": X}), ({"x": X, "batch": torch.ones(2)},)
    assert dg.trace(model, other) == dg.trace(model, (other,)) and torch.equal(running.run(model, other), model(other))
    assert dg.trace(model, own).groups == dg.trace(model, other).groups
    assert torch.equal(running.run(model, own), model(*own))
    assert running.arguments(Named(), {"more": X}) == (({"more": X},), {})


@given(st.sets(st.sampled_from("abcd")), st.sets(st.sampled_from("abcd")), st.sets(st.sampled_from("abcde")))
def test_by_keyword_if_and_only_if_the_call_would_work(needed, optional, keys):
    """The rule against Python's own: keywords where a function of these parameters could be called with them."""
    names = [*sorted(needed), *(f"{name}=None" for name in sorted(optional - needed))]
    scope = {}
    exec(f"def forward(self, {', '.join(names)}): return None", scope)
    model = type("Model", (nn.Module,), {"forward": scope["forward"]})()
    batch = dict.fromkeys(sorted(keys))
    try:
        model(**batch)
    except TypeError:
        assert running.arguments(model, batch) == ((batch,), {})
    else:
        assert running.arguments(model, batch) == ((), batch)


def test_a_key_that_forward_does_not_take_is_told():
    """A misspelt key makes the mapping the one argument: the error says so, and others are left alone."""
    for call in (dg.trace, running.run):
        with pytest.raises(TypeError) as caught:
            call(Named(), {"x": X, "mroe": X})
        assert any("'x', 'mroe'" in note and "one argument" in note for note in caught.value.__notes__)
    with pytest.raises(TypeError) as other:
        dg.trace(Named(), (X, X, X))
    assert not hasattr(other.value, "__notes__")


def test_the_rule_holds_wherever_batches_are_taken():
    """Criteria, moments, repair and laws read a mapping as keywords, and a tuple around a mapping as one argument."""
    torch.manual_seed(0)
    x = torch.randn(8, 4)
    for model, batch, same in ((Named(), UserDict(x=x), x), (OneMapping(), ({"x": x},), {"x": x})):
        graph = dg.trace(model, batch)
        plan = dg.cut(graph, "a.weight", [1, 2], dim=0)
        one, two = (dg.score(graph, model, dg.criteria.Activation([each])) for each in (batch, same))
        assert {name: list(scores) for name, scores in one.items()} == {name: list(scores) for name, scores in two.items()}
        one, two = (dg.execute(plan, model, repair=dg.refit(plan, model, [each])) for each in (batch, same))
        assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
        testing.assert_lawful(model, batch)


@pytest.mark.needs("transformers")
def test_what_a_tokenizer_returns_is_traced():
    """A `BatchEncoding` and its lists of tensors, for a method as well."""
    from transformers import BatchEncoding

    from tests.zoo.language import seeded

    model = seeded("llama_gqa")
    content = {"input_ids": torch.arange(8)[None], "attention_mask": torch.ones(1, 8, dtype=torch.long)}
    encoding = BatchEncoding(content)
    graph = dg.trace(model, encoding, also=[dg.Call(encoding, training=True)])
    assert graph == dg.trace(model, kwargs=content, also=[dg.Call(kwargs=content, training=True)])


@pytest.mark.parametrize(
    ("output", "names"),
    [
        (lambda y: y, ["output"]),
        (lambda y: (y, None), ["output[0]"]),
        (lambda y: {"logits": y, "loss": None, "more": [y]}, ["output['logits']", "output['more'][0]"]),
        (lambda y: Result(y), ["output.logits"]),
        (lambda y: None, []),
    ],
)
def test_outputs_of_every_form(output, names):
    """Tensors are found in tuples, dicts, dataclasses and beside None, and their axes are pinned."""

    class Model(Pair):
        def forward(self, x):
            return output(self.both(x))

    graph = dg.trace(Model(), X)
    assert [node.name for node in graph.nodes if node.type is dg.OpType.OUTPUT] == names
    pinned = {(pin.tensor, pin.dim): pin.reason for pin in graph.pinned}
    if names:
        assert pinned["b.weight", 0] == f"it is a dimension of the model's {names[0]}"
    testing.assert_lawful(Model(), X)


def test_an_output_inside_a_dataclass_pins_what_it_holds():
    """A hidden state that is returned cannot lose a feature."""

    class Model(Pair):
        def forward(self, x):
            hidden = self.a(x)
            return Result(self.b(hidden), hidden)

    graph = dg.trace(Model(), X)
    assert not graph.groups
    assert dg.explain(graph, "a.weight", dim=0).endswith("pinned: it is a dimension of the model's output.hidden")


def test_a_batch_of_one():
    """A batch size of 1 is no broadcast: the same groups as with any other."""
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(1), nn.Linear(6 * 36, 4)).eval()
    one, more = (dg.trace(model, torch.randn(n, 3, 8, 8)) for n in (1, 5))
    assert [group.members for group in one.groups] == [group.members for group in more.groups]
    testing.assert_lawful(model, torch.randn(1, 3, 8, 8))


def test_a_reused_module_is_one_layer():
    """A layer that runs twice ties its inputs of both times, and is cut once."""

    class Reused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.shared, self.last = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 2)

        def forward(self, x):
            return self.last(self.shared(torch.relu(self.shared(self.first(x)))))

    model = Reused()
    assert members(model, X) == (
        ("first.weight", 0), ("first.bias", 0),
        ("shared.weight", 0), ("shared.weight", 1), ("shared.bias", 0), ("last.weight", 1),
    )  # fmt: skip
    names = [node.name for node in dg.trace(model, X).nodes]
    assert names.count("shared") == 1 and "shared_2" in names


def test_unwrapped_parameters_and_buffers_of_any_shape():
    """A scale, a bias table, a running buffer and a class token, used by plain arithmetic."""

    class Held(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 2)
            self.scale = nn.Parameter(torch.ones(8))
            self.table = nn.Parameter(torch.zeros(1, 5, 8))
            self.token = nn.Parameter(torch.zeros(1, 1, 8))
            self.register_buffer("offset", torch.zeros(8, 1))
            self.unused = nn.Parameter(torch.zeros(3))

        def forward(self, x):
            y = self.first(x) * self.scale + self.offset[:, 0]
            y = torch.cat([self.token.expand(y.shape[0], -1, -1), y], 1) + self.table
            return self.last(y[:, 0])

    x = torch.randn(2, 4, 4)
    assert set(members(Held(), x)) == {
        ("first.weight", 0), ("first.bias", 0), ("last.weight", 1), ("scale", 0), ("table", 2), ("token", 2), ("offset", 0),
    }  # fmt: skip
    graph = dg.trace(Held(), x)
    assert graph.node("scale").type is dg.OpType.PARAMETER
    assert "unused is not used in forward" in dg.explain(graph, "unused", dim=0)


def test_tracing_in_training_mode_and_inside_no_grad():
    """The mode does not change the groups, and BatchNorm's statistics are not touched."""
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.ReLU(), nn.Linear(8, 2)).train()
    with torch.no_grad():
        training = testing.assert_pure(model, X)
    assert [group.members for group in training.groups] == [group.members for group in dg.trace(model.eval(), X).groups]
    assert model[1].num_batches_tracked == 0


class Router(nn.Module):
    """Routers of mixtures convert a layer to the type in which they compute, in forward."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.gate = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.gate = self.gate.to(torch.float32)
        return self.gate(torch.relu(self.wide(x)))


@pytest.mark.parametrize("mode", ["fake", "real"])
def test_a_module_that_forward_converts(mode):
    """`Module.to` in forward acts on the copy that is traced: the model stays, and is pruned."""
    model = Router().eval()
    before = testing.snapshot(model)
    graph = dg.trace(model, X, mode=mode)
    assert testing.snapshot(model) == before
    assert graph.group("wide.weight", dim=0).size == 8


def test_a_parameter_without_elements():
    """Register tokens of which a config wants none are scored, and pruned alongside."""

    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.registers = nn.Parameter(torch.zeros(1, 0, 8))
            self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(torch.cat([self.registers.expand(len(x), -1, -1), self.a(x)[:, None]], 1))

    model = Tokens().eval()
    graph = dg.trace(model, X)
    plan = dg.plan(graph, dg.score(graph, model, dg.Magnitude(p=2)), ratio=0.5)
    assert testing.assert_square(graph, plan, model, X).registers.shape == (1, 0, 4)


@pytest.mark.needs("timm")
def test_a_shape_that_a_timm_model_keeps():
    """ConvFormer's layers hold their shape as a tuple, whose element is edited."""
    model, _, _ = vision.timm_models()["convformer_s18"]()
    graph = dg.trace(model, torch.randn(1, 3, 64, 64))
    plan = dg.plan(graph, dg.score(graph, model, dg.criteria.Random(0)), ratio=0.5)
    assert dg.plans.Edit("stages.2.blocks.0.res_scale1.shape.0", 320, 160) in plan.edits


def _cached_unless(condition):
    """A decorator that goes past its cache on a condition, as transformers' does under compilation."""

    def decorate(function):
        cached = functools.lru_cache(function)

        @functools.wraps(function)
        def wrapper(*args):
            return function(*args) if condition() else cached(*args)

        wrapper.cache_info = cached.cache_info
        return wrapper

    return decorate


@_cached_unless(lambda: False)
def _table(width):
    return torch.arange(width).float()


class Tabled(nn.Module):
    """A forward that reads tables from caches: one of its file, behind a wrapper, and one of its class."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 2)

    @staticmethod
    @functools.lru_cache(maxsize=2)
    def ones(width):
        return torch.ones(width)

    def forward(self, x):
        return self.last(self.first(x)) + _table(2) + self.ones(2)


def test_caches_are_left_alone():
    """No fake tensor stays in a cache; a trace is the same before and after a forward that fills it."""
    model, x = Tabled(), torch.randn(3, 4)
    before = dg.trace(model, x)
    assert _table.cache_info().currsize == Tabled.ones.cache_info().currsize == 0
    model(x)
    assert _table.cache_info().currsize == Tabled.ones.cache_info().currsize == 1
    assert dg.trace(model, x) == before
    assert {"aten.arange", "aten.ones"} <= {operation.op for operation in before.operations}


def test_an_axis_without_indices_is_no_group():
    """A model may hold a parameter of no rows, such as register tokens of which there are none."""

    class Registers(nn.Module):
        def __init__(self):
            super().__init__()
            self.registers = nn.Parameter(torch.zeros(1, 0, 4))
            self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(self, x):
            return self.last(self.first(torch.cat([self.registers.expand(len(x), -1, -1), x], 1)).mean(1))

    graph = dg.trace(Registers(), torch.randn(2, 3, 4))
    assert [group.name for group in graph.groups] == ["first.weight:0"]
