"""Plans applied to quantised weights: cut where a slice has its own scales, refused by name elsewhere."""

import copy
import doctest
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils._pytree import tree_map

import depgraph as dg
from tests.laws.refuting import refuted

X = torch.randn(3, 8)
RECIPE = Path(__file__).parents[2] / "docs" / "recipes" / "prune_then_quantise.md"


class Blocks(torch.Tensor):
    """Numbers of 8 bits with a scale for each block of a row, in the way of torchao's classes."""

    __module__ = "torchao.stand_in"
    forgets_scales = False

    def __new__(cls, numbers, scales, block):
        return torch.Tensor._make_wrapper_subclass(cls, numbers.shape, dtype=scales.dtype)

    def __init__(self, numbers, scales, block):
        self.numbers, self.scales, self.block = numbers, scales, block

    @classmethod
    def of(cls, weight, block):
        parts = weight.detach().unflatten(1, (-1, block))
        scales = parts.abs().amax(2) / 127
        return cls((parts / scales[..., None]).round().to(torch.int8).flatten(1), scales, block)

    def dequantize(self):
        return (self.numbers.unflatten(1, (-1, self.block)) * self.scales[..., None]).flatten(1)

    def __tensor_flatten__(self):
        return ["numbers", "scales"], self.block

    @classmethod
    def __tensor_unflatten__(cls, parts, block, size, stride):
        return cls(parts["numbers"], parts["scales"], block)

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        if name == "slice":
            weight, dim, start, end = args
            if dim == 1 and end % weight.block and end < weight.shape[1]:
                raise ValueError(f"{end} is no multiple of the block of {weight.block}")
            step = 1 if dim == 0 else weight.block
            scales = weight.scales if cls.forgets_scales else weight.scales.narrow(dim, start // step, (end - start) // step)
            return cls(weight.numbers.narrow(dim, start, end - start), scales, weight.block)
        if name in ("detach", "clone", "alias"):
            return cls(*(function(part) for part in (args[0].numbers, args[0].scales)), args[0].block)
        plain = tree_map(lambda item: item.dequantize() if isinstance(item, Blocks) else item, (args, kwargs or {}))
        return function(*plain[0], **plain[1])


class Forgetful(Blocks):
    """Slices numbers, and leaves their scales where they were."""

    __module__ = "torchao.stand_in"
    forgets_scales = True


def mlp():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 6), nn.ReLU(), nn.Linear(6, 2)).eval()


GRAPH = dg.trace(mlp(), X)


def quantised(block, kind=Blocks):
    """The network with blocks of the given width in the layer in the middle, and one scale for all of a row in the first."""
    model = mlp()
    model[0].weight = nn.Parameter(kind.of(model[0].weight, 8), requires_grad=False)
    model[2].weight = nn.Parameter(kind.of(model[2].weight, block), requires_grad=False)
    return model


def dequantised(model):
    """The same network in floating point, with the numbers that the quantised weights stand for."""
    model = copy.deepcopy(model)
    for layer in model.modules():
        if hasattr(getattr(layer, "weight", None), "dequantize") and hasattr(layer.weight, "__tensor_flatten__"):
            layer.weight = nn.Parameter(layer.weight.dequantize().clone(), requires_grad=False)
    return model


def stand_for_the_same(small, reference):
    """The quantised network's weights stand for those of the other one, bit for bit."""
    expected = reference.state_dict()
    for name, tensor in dequantised(small).state_dict().items():
        assert torch.equal(tensor, expected[name]), f"{name} stands for other numbers"


@given(st.sets(st.integers(0, 5), min_size=1, max_size=5), st.sets(st.integers(0, 2), max_size=2))
def test_what_is_cut_stands_for_what_would_have_been_cut(rows, blocks):
    """Any rows, and whole blocks of columns; in a copy and in place."""
    removed = {"2.weight:0": [*rows], "0.weight:0": [4 * block + index for block in blocks for index in range(4)]}
    plan = dg.combine(GRAPH, [{name: indices for name, indices in removed.items() if indices}])
    model = quantised(4)
    small, reference = dg.execute(plan, model), dg.execute(plan, dequantised(model))
    assert type(small[2].weight) is Blocks and small[2].weight.shape == (6 - len(rows), 12 - 4 * len(blocks))
    stand_for_the_same(small, reference)
    torch.testing.assert_close(small(X), reference(X))
    assert model[2].weight.shape == (6, 12)
    dg.execute_(plan, model)
    stand_for_the_same(model, reference)


def test_other_rows_are_refuted():
    model = quantised(4)
    reference = dg.execute(dg.cut(GRAPH, "2.weight", [1], dim=0), dequantised(model))
    small = dg.execute(dg.cut(GRAPH, "2.weight", [2], dim=0), model)
    refuted(stand_for_the_same, small, reference, says=r"2\.weight stands for other numbers")


@pytest.mark.parametrize(
    ("model", "removed", "says"),
    [
        (quantised(4), [1], r"'2\.weight' \(Blocks\): its class does not slice it in dimension 1: 11 is no multiple of"),
        (quantised(4), [0, 1, 2, 4], r"'2\.weight' \(Blocks\): in dimension 1 its blocks of 4 stay or go as a whole"),
        (quantised(12), [0, 1, 2, 3], r"its class does not slice it in dimension 1: 8 is no multiple of the block of 12"),
        (quantised(4, Forgetful), [0, 1, 2, 3], r"'0\.weight' \(Forgetful\): .*its scales spans(.|\n)*'2\.weight'"),
    ],
    ids=["part of a block", "parts of blocks", "one scale for a row", "scales that stay"],
)  # fmt: skip
def test_what_has_no_scales_is_refused_by_name(model, removed, says):
    """With the weight and its class; nothing is changed, whether in a copy or in place."""
    before = copy.deepcopy(model)
    for execute in (dg.execute, dg.execute_):
        with pytest.raises(dg.errors.UnsupportedError, match=says) as caught:
            execute(dg.cut(GRAPH, "0.weight", removed, dim=0), model)
        assert "quantise the pruned one" in str(caught.value) and "Nothing was changed" in str(caught.value)
    assert model[0].weight.shape == (12, 8) and model[0].out_features == 12
    stand_for_the_same(model, dequantised(before))


def test_a_slice_that_stands_for_other_numbers_is_refused(monkeypatch):
    """Whatever a class says of its slices, the numbers are compared."""
    monkeypatch.setattr(
        Blocks,
        "__tensor_unflatten__",
        classmethod(lambda cls, parts, block, *_: cls(parts["numbers"] + 1, parts["scales"], block)),
    )
    with pytest.raises(
        dg.errors.UnsupportedError, match=r"'2\.weight' \(Blocks\): what is left in dimension 0 would stand for other"
    ):
        dg.execute(dg.cut(GRAPH, "2.weight", [1], dim=0), quantised(4))


def test_what_is_more_than_cutting_is_refused():
    """Traces, scores and repairs are those of the network in floating point."""
    model, plan = quantised(4), dg.cut(GRAPH, "2.weight", [1], dim=0)
    repair = dg.refit(plan, mlp(), [torch.randn(64, 8)])
    for use in (
        lambda: dg.trace(model, X),
        lambda: dg.score(GRAPH, model, dg.Magnitude(p=2)),
        lambda: dg.mask(plan, model),
        lambda: dg.execute(plan, model, repair=repair),
        lambda: dg.execute_(plan, model, repair=repair),
    ):
        with pytest.raises(dg.errors.UnsupportedError, match="torchao keeps quantised weights"):
            use()


CONFIGURATIONS = {
    "Int8WeightOnlyConfig": (True, True),
    "Int8DynamicActivationInt8WeightConfig": (True, True),
    "Float8WeightOnlyConfig": (True, True),
    "IntxWeightOnlyConfig": (False, False),
    "Int8DynamicActivationIntxWeightConfig": (False, True),
}
"""Of torchao: whether any columns can go, and whether whole blocks of 32."""


@pytest.mark.models
@pytest.mark.needs("torchao")
@pytest.mark.parametrize("name", CONFIGURATIONS)
@pytest.mark.filterwarnings("ignore")
def test_models_that_torchao_has_quantised(name):
    import torchao.quantization

    torch.manual_seed(0)
    model, x = (
        nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 8)).eval(),
        torch.randn(3, 64),
    )
    graph = dg.trace(model, x)
    torchao.quantization.quantize_(model, getattr(torchao.quantization, name)())
    for removed, defined in zip(([1, 5, 6], [*range(32, 64)]), CONFIGURATIONS[name], strict=True):
        plan = dg.cut(graph, "0.weight", removed, dim=0)
        if defined:
            small = dg.execute(plan, model)
            reference = dg.execute(plan, dequantised(model))
            stand_for_the_same(small, reference)
            torch.testing.assert_close(small(x), reference(x), rtol=0, atol=0.02)
        else:
            with pytest.raises(
                dg.errors.UnsupportedError, match=r"'2\.weight' \(\w+\): its class does not slice it in dimension 1"
            ):
                dg.execute(plan, model)


@pytest.mark.models
@pytest.mark.needs("torchao")
@pytest.mark.filterwarnings("ignore")
def test_the_part_of_the_recipe_that_needs_torchao():
    """The recipe's examples, those included that are skipped where torchao is not installed."""
    text = RECIPE.read_text().replace("  # doctest: +SKIP", "")
    test = doctest.DocTestParser().get_doctest(text, {}, RECIPE.name, str(RECIPE), 0)
    assert doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test).failed == 0 and "torchao" in text
