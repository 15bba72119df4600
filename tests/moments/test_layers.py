"""Every form of layer is a matrix that multiplies rows: rows times matrix is what the operator gives."""

import pytest
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from depgraph.moments.collecting import named_tensors
from depgraph.moments.watching import LayerCall, Watch
from tests.laws.refuting import refuted


def calls_of(module, forward):
    """The layer calls of a forward, each with its result."""
    met = []

    def on_call(event):
        result = event.run()
        if isinstance(event, LayerCall):
            met.append((event, result))
        return result

    with torch.no_grad(), Watch(named_tensors(module), on_call) as watch:
        forward()
    return met, watch


def holds(module, forward, count=1, bias=None, read=lambda call, x: call.rows(x)):
    """Rows times the matrix, and the bias if there is one, is what the layer gave."""
    met, watch = calls_of(module, forward)
    assert len(met) == count and not watch.others, (len(met), watch.others)
    tensors = named_tensors(module)
    for event, result in met:
        matrix = tensors[event.weight.name].detach().flatten()[event.weight.positions()]
        made = read(event.call, event.x) @ matrix.mT
        if event.bias is not None:
            made = made + tensors[event.bias.name].detach().flatten()[event.bias.positions()][:, None]
        assert torch.allclose(made, event.call.outputs(result), atol=1e-4), "rows times matrix is something else"
        assert event.weight.fits(tensors[event.weight.name].numel())
        assert bias is None or (event.bias is not None) == bias


@st.composite
def convolutions(draw):
    """A convolution in 1 to 3 dimensions, transposed or not, with an input."""
    dims, groups = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    transposed = draw(st.booleans())
    sizes = st.integers(1, 3)
    kernel = [draw(sizes) for _ in range(dims)]
    stride = [draw(sizes) for _ in range(dims)]
    dilation = [draw(sizes) for _ in range(dims)]
    padding = [draw(st.integers(0, 2)) for _ in range(dims)]
    kind = getattr(nn, f"Conv{'Transpose' if transposed else ''}{dims}d")
    options = {}
    if transposed:
        options["output_padding"] = [draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True)]
    layer = kind(
        groups * draw(st.integers(1, 2)),
        groups * draw(st.integers(1, 2)),
        kernel,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        bias=draw(st.booleans()),
        **options,
    )
    x = torch.randn(2, layer.in_channels, *(draw(st.integers(3, 7)) for _ in range(dims)))
    try:
        layer(x)
    except RuntimeError:
        assume(False)
    return layer, x


@given(convolutions())
@example((nn.Conv2d(4, 6, 3, padding="same", groups=2), torch.randn(2, 4, 5, 5)))
@example((nn.Conv2d(4, 4, 3, padding=1, groups=4), torch.randn(2, 4, 5, 5).contiguous(memory_format=torch.channels_last)))
def test_a_convolution_is_a_matrix_on_patches(case):
    layer, x = case
    holds(layer, lambda: layer(x))


def test_patches_of_another_stride_are_refuted():
    layer = nn.Conv2d(2, 3, 2, stride=2)
    x = torch.randn(1, 2, 4, 4)
    holds(layer, lambda: layer(x))
    refuted(
        holds, layer, lambda: layer(x), read=lambda call, x: call.rows(x.flip(-1)), says="rows times matrix is something else"
    )


@given(convolutions(), st.integers(1, 40))
def test_some_places_are_the_same_for_what_is_read_and_what_is_made(case, most):
    """No fewer than were asked for, where there are as many; and rows times matrix still is what the layer gave."""
    layer, x = case
    ((event, result),) = calls_of(layer, lambda: layer(x))[0]
    rows, made = event.call.rows(x, most), event.call.outputs(result, most)
    assert rows.shape[1] == made.shape[1] >= min(2 * most, event.call.outputs(result).shape[1])
    matrix = layer.weight.detach().flatten()[event.weight.positions()]
    expected = rows @ matrix.mT
    if event.bias is not None:
        expected = expected + layer.bias.detach()[event.bias.positions()][:, None]
    assert torch.allclose(expected, made, atol=1e-4)


class Functional(nn.Module):
    """A weight that forward uses as it likes."""

    def __init__(self, shape, use):
        super().__init__()
        self.weight, self.use = nn.Parameter(torch.randn(shape)), use

    def forward(self, x):
        return self.use(x, self.weight)


PRODUCTS = {
    "matmul": ((4, 5), (2, 3, 4), lambda x, w: x @ w),
    "transposed": ((5, 4), (2, 3, 4), lambda x, w: x @ w.T),
    "on the left": ((5, 4), (4, 7), lambda x, w: w @ x),
    "in batches": ((3, 4, 5), (3, 2, 4), torch.bmm),
    "heads by einsum": ((3, 4, 5), (2, 6, 3, 4), lambda x, w: torch.einsum("bthd,hde->bthe", x, w)),
    "a part": ((9, 4), (2, 3, 4), lambda x, w: F.linear(x, w[2:7])),
    "one of a stack": ((3, 5, 4), (2, 3, 4), lambda x, w: F.linear(x, w[1])),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_a_parameter_in_a_product_is_a_layer(name):
    shape, read, use = PRODUCTS[name]
    module, x = Functional(shape, use), torch.randn(read)
    holds(module, lambda: module(x))


@pytest.mark.parametrize("shape", [(6, 4), (2, 3, 4), (2, 2, 3, 4)])
@pytest.mark.parametrize("bias", [False, True])
def test_linear_of_any_rank_with_its_bias(shape, bias):
    layer = nn.Linear(4, 5, bias=bias)
    holds(layer, lambda: layer(torch.randn(shape)), bias=bias)


def test_attention_has_three_layers_in_one_weight():
    """Each reads its own rows of the weight and of the bias."""
    module = nn.MultiheadAttention(4, 2).eval()
    x, y = torch.randn(3, 2, 4), torch.randn(5, 2, 4)
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        holds(module, lambda: module(x, y, y), count=3, bias=True)
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


OTHER_USES = {
    "read by another operator": ((4, 5), lambda x, w: x @ w + w.sum(), "aten.sum"),
    "an embedding": ((9, 4), lambda x, w: F.embedding(x[..., 0].long().clamp(0, 8), w) @ w.T, "aten.embedding"),
    "both operands": ((4, 4), lambda x, w: x * 0 + (w @ w).sum(), "aten.mm"),
    "activated inside": ((5, 4), lambda x, w: torch._addmm_activation(x.new_zeros(5), x[0], w.T), "aten._addmm_activation"),
    "copied in another order": ((3, 4, 5), lambda x, w: torch.einsum("btd,hde->bthe", x, w), "aten._unsafe_view"),
    "scaled": ((5, 4), lambda x, w: torch.addmm(x.new_zeros(5), x[0], w.T, alpha=2), "aten.addmm"),
}


@pytest.mark.parametrize("name", OTHER_USES)
def test_what_else_uses_a_weight_is_told(name):
    """Such a weight must not be changed for the sake of one of its uses."""
    shape, use, operator = OTHER_USES[name]
    module = Functional(shape, use)
    _, watch = calls_of(module, lambda: module(torch.randn(2, 3, 4)))
    assert any(operator in other for other in watch.others["weight"]), watch.others


def test_a_bias_that_is_added_afterwards_belongs_to_the_layer():
    class Conv1D(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.bias = nn.Parameter(torch.randn(4, 5)), nn.Parameter(torch.randn(5))

        def forward(self, x):
            return x @ self.weight + self.bias

    module = Conv1D()
    ((event, _),), watch = calls_of(module, lambda: module(torch.randn(2, 3, 4)))
    assert watch.added[event.weight].name == "bias" and not watch.others
