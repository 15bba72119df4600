"""Kernels below the operators that models call: reached by direct call, or on devices of their own.

Where a kernel runs on this machine all laws are checked; else the square is, on the meta device, with the shapes of an
operator that means the same.
"""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import depgraph as dg
from depgraph import testing
from tests.rules.test_operators import IMAGE, TOKENS, lawful, single_cuts

aten = torch.ops.aten
linear = F.linear


class Kernel(nn.Module):
    """A function of an input and parameters of given shapes."""

    def __init__(self, function, *shapes):
        super().__init__()
        self.function = function
        self.p = nn.ParameterList(nn.Parameter(torch.randn(shape)) for shape in shapes)

    def forward(self, x):
        return self.function(x, *self.p)


def groups(graph):
    """The groups with their sizes."""
    return {group.name: group.size for group in graph.groups}


def squared_on_meta(model, x):
    """Every single cut of a model on the meta device keeps the square; returns the graph."""
    model, x = model.eval().to("meta"), x.to("meta")
    graph = testing.assert_pure(model, x)
    for plan in single_cuts(graph):
        testing.assert_square(graph, plan, model, x)
        testing.assert_round_trip(graph, plan)
    return graph


@pytest.fixture(scope="module", autouse=True)
def meta_kernels():
    """Shapes for kernels that exist on other devices only, told by operators that mean the same."""
    library = torch.library.Library("aten", "IMPL")

    def convolution(x, w, b, padding, stride, dilation, groups, transposed=False, output_padding=(0, 0)):
        return aten.convolution(x, w, b, stride, padding, dilation, transposed, output_padding, groups)

    def with_z(x, w, z, alpha, b, stride, padding, dilation, groups):
        return torch.relu(convolution(x, w, b, padding, stride, dilation, groups) + z)

    def fused_gru(a, b, hx, ib=None, hb=None):
        return torch.empty_like(hx), hx.new_empty(hx.shape[0], 5 * hx.shape[1])

    def depthwise(x, w, size, b, stride, padding, dilation):
        return convolution(x, w, b, padding, stride, dilation, x.shape[1])

    def elementwise_norm(x, w, b, mean, invstd, eps):
        return torch.empty_like(x)

    made = {
        "cudnn_convolution": lambda x, w, p, s, d, g, *flags: convolution(x, w, None, p, s, d, g),
        "cudnn_convolution_transpose": lambda x, w, p, o, s, d, g, *flags: convolution(x, w, None, p, s, d, g, True, o),
        "cudnn_convolution_relu": lambda x, w, b, s, p, d, g: convolution(x, w, b, p, s, d, g),
        "cudnn_convolution_add_relu": with_z,
        "miopen_convolution": lambda x, w, b, p, s, d, g, *flags: convolution(x, w, b, p, s, d, g),
        "miopen_depthwise_convolution": lambda x, w, b, p, s, d, g, *flags: convolution(x, w, b, p, s, d, g),
        "_mps_convolution": lambda x, w, b, p, s, d, g: convolution(x, w, b, p, s, d, g),
        "_conv_depthwise2d": depthwise,
        "batch_norm_elemt": elementwise_norm,
        "mkldnn_linear": lambda x, w, b=None: F.linear(x, w, b),
        "_thnn_fused_gru_cell": fused_gru,
    }
    for name, function in made.items():
        library.impl(name, function, "Meta")
    yield
    library._destroy()


# --- convolutions ------------------------------------------------------------------------------------------------------------

POINT, SQUARE = (8, 3, 1, 1), ([1, 1], [1, 1], [1, 1])


def between(kernel):
    """A pointwise convolution, the kernel, a pointwise convolution."""
    return lambda x, first, *held: F.conv2d(kernel(F.conv2d(x, first), *held[:-1]), held[-1])


@pytest.mark.parametrize(
    ("kernel", "weight", "bias"),
    [
        (lambda x, w, b: aten.slow_conv_dilated2d(x, w, [3, 3], b), (6, 8, 3, 3), True),
        (lambda x, w, b: aten.slow_conv_transpose2d(x, w, [3, 3], b), (8, 6, 3, 3), True),
        (lambda x, w, b: aten.convolution(x, w, b, *SQUARE, False, [0, 0], 1), (6, 8, 3, 3), True),
        (lambda x, w, b: aten._convolution(x, w, b, *SQUARE, True, [0, 0], 1, False, False, True, True), (8, 6, 3, 3), True),
    ],
)
def test_convolution_kernels(kernel, weight, bias):
    """Each of them ties channels as `conv2d` does."""
    graph = lawful(Kernel(between(kernel), POINT, weight, (6,), (2, 6, 1, 1)), torch.randn(IMAGE))
    assert sorted(groups(graph).values()) == [6, 8]


CUDNN = (False, False, True)


@pytest.mark.parametrize(
    ("kernel", "weight", "expected"),
    [
        (lambda x, w, b: aten.cudnn_convolution(x, w, *SQUARE, 1, *CUDNN), (6, 8, 3, 3), [6, 8]),
        (lambda x, w, b: aten.cudnn_convolution_transpose(x, w, [1, 1], [0, 0], *SQUARE[1:], 1, *CUDNN), (8, 6, 3, 3), [6, 8]),
        (lambda x, w, b: aten.cudnn_convolution_relu(x, w, b, *SQUARE, 1), (6, 8, 3, 3), [6, 8]),
        (lambda x, w, b: aten.cudnn_convolution_add_relu(x, w, x, 1.0, b, *SQUARE, 1), (8, 8, 3, 3), [8]),
        (lambda x, w, b: aten.miopen_convolution(x, w, b, *SQUARE, 1, False, True), (6, 8, 3, 3), [6, 8]),
        (lambda x, w, b: aten.miopen_depthwise_convolution(x, w, None, *SQUARE, x.shape[1], False, True), (8, 1, 3, 3), [8]),
        (lambda x, w, b: aten._mps_convolution(x, w, b, *SQUARE, 1), (6, 8, 3, 3), [6, 8]),
        (lambda x, w, b: aten._conv_depthwise2d(x, w, [3, 3], None, *SQUARE), (8, 1, 3, 3), [8]),
        (lambda x, w, b: aten._conv_depthwise2d(x, w, [3, 3], None, *SQUARE), (16, 1, 3, 3), [2, 8]),
    ],
)  # fmt: skip
def test_convolution_kernels_of_other_devices(kernel, weight, expected):
    """cuDNN, MIOpen and MPS name their arguments otherwise; depthwise kernels count their blocks by the channels."""
    outputs = 6 if 6 in weight else weight[0]
    graph = squared_on_meta(Kernel(between(kernel), POINT, weight, (outputs,), (2, outputs, 1, 1)), torch.randn(IMAGE))
    assert (
        sorted(group.size for group in graph.groups if "p.2" not in group.name or group.size != 6 or 6 in expected) == expected
    )


def test_time_first_convolution():
    """`conv_tbc` has time, batch, channels; its kernel time, inputs, outputs."""
    model = Kernel(
        lambda x, a, w, b, z: linear(aten.conv_tbc(linear(x, a), w, b, 1), z), (8, 4), (3, 8, 6), (6,), (2, 6)
    )  # fmt: skip
    graph = lawful(model, torch.randn(5, 2, 4))
    assert sorted(groups(graph).values()) == [6, 8]
    assert graph.group("p.1", 2).members == (("p.1", 2), ("p.2", 0), ("p.3", 1))


# --- normalisations ----------------------------------------------------------------------------------------------------------

STATISTICS = (POINT, (8,), (8,), (8,), (8,), (2, 8, 1, 1))


@pytest.mark.parametrize(
    "kernel",
    [
        lambda x, w, b, m, v: aten.native_batch_norm(x, w, b, m, v, False, 0.1, 1e-5)[0],
        lambda x, w, b, m, v: aten._native_batch_norm_legit(x, w, b, m, v, False, 0.1, 1e-5)[0],
        lambda x, w, b, m, v: aten._native_batch_norm_legit_no_training(x, w, b, m, v, 0.1, 1e-5)[0],
        lambda x, w, b, m, v: aten._native_batch_norm_legit_functional(x, w, b, m, v, False, 0.1, 1e-5)[0],
        lambda x, w, b, m, v: aten._batch_norm_impl_index(x, w, b, m, v, False, 0.1, 1e-5, False)[0],
        lambda x, w, b, m, v: aten._batch_norm_no_update(x, w, b, m, v, 0.1, 1e-5)[0],
        lambda x, w, b, m, v: aten._batch_norm_with_update(x, w, b, m, v, 0.1, 1e-5)[0],
        lambda x, w, b, m, v: sum(aten.native_batch_norm(x, w, b, m, v, True, 0.1, 1e-5)[1:])[:, None, None] * x,
    ],
)
def test_batch_norm_kernels(kernel):
    """Weights, running statistics and those that are returned have one number for each channel."""
    function = between(lambda x, w, b, m, v: kernel(x, w, b, m.clone(), v.abs()))
    graph = lawful(Kernel(function, *STATISTICS), torch.randn(IMAGE))
    assert groups(graph) == {"p.0:0": 8}
    assert {f"p.{k}" for k in (1, 2, 3, 4)} <= {name for name, _ in graph.groups[0].members}


@pytest.mark.parametrize(
    "kernel",
    [
        lambda x, w, b, m, v: aten.cudnn_batch_norm(x, w, b, m, v, False, 0.1, 1e-5)[0],
        lambda x, w, b, m, v: aten.miopen_batch_norm(x, w, b, m, v, False, 0.1, 1e-5)[0],
        lambda x, w, b, m, v: aten.batch_norm_elemt(x, w, b, m, v, 1e-5),
    ],
)
def test_batch_norm_kernels_of_other_devices(kernel):
    """The same on the meta device."""
    graph = squared_on_meta(Kernel(between(kernel), *STATISTICS), torch.randn(IMAGE))
    assert groups(graph) == {"p.0:0": 8} and len(graph.groups[0].members) == 6


@pytest.mark.parametrize(
    "kernel",
    [
        lambda y, w, b: aten.native_layer_norm(y, [y.shape[-1]], w, b, 1e-5)[0],
        lambda y, w, b: y - aten.native_layer_norm(y, [y.shape[-1]], w, b, 1e-5)[1] + b,
        lambda y, w, b: aten._fused_rms_norm(y, [y.shape[-1]], w, 1e-5)[0] + b,
    ],
)
def test_trailing_norm_kernels(kernel):
    """Means and scales that are returned have size 1 where the norm runs, and the other axes of the input."""
    model = Kernel(lambda x, a, w, b, z: linear(kernel(linear(x, a), w, b), z), (8, 4), (8,), (8,), (2, 8))
    assert "p.0:0" in groups(lawful(model, torch.randn(TOKENS)))


def test_group_norm_kernel():
    """Its sizes are told by the caller: from a shape they follow, as literals they pin; means count the groups."""

    def follows(x, w, b):
        sizes = (x.shape[0], x.shape[1], x.shape[2] * x.shape[3])
        y, mean, _ = aten.native_group_norm(x, w, b, *sizes, 2, 1e-5)
        return y + mean.mean() * 0

    told = Kernel(
        between(lambda x, w, b: aten.native_group_norm(x, w, b, 2, 8, 36, 2, 1e-5)[0]), POINT, (8,), (8,), (2, 8, 1, 1)
    )
    graph = lawful(Kernel(between(follows), POINT, (8,), (8,), (2, 8, 1, 1)), torch.randn(IMAGE))
    assert groups(graph) == {"p.0:0[1]": 4}
    assert groups(lawful(told, torch.randn(IMAGE))) == {}


# --- attention ---------------------------------------------------------------------------------------------------------------


def heads_first(kernel):
    """A projection to two heads, the kernel over (batch, heads, tokens, width), a projection back."""

    def function(x, first, last):
        y = linear(x, first).unflatten(-1, (2, -1)).transpose(1, 2)
        return linear(kernel(y, y, y).transpose(1, 2).flatten(2), last)

    return Kernel(function, (16, 4), (2, 16))


@pytest.mark.parametrize(
    "kernel",
    [
        lambda q, k, v: aten._scaled_dot_product_flash_attention_for_cpu(q, k, v)[0],
        lambda q, k, v: aten._scaled_dot_product_attention_math(q, k, v)[0],
        lambda q, k, v: aten._scaled_dot_product_attention_math(q, k, v)[1] @ v,
    ],
)
def test_attention_kernels(kernel):
    """Widths of heads are a group, in the results and in the weights that a kernel returns."""
    assert groups(lawful(heads_first(kernel), torch.randn(TOKENS))) == {"p.0:0[1]": 8}


@pytest.mark.parametrize(
    "kernel",
    [
        lambda q, k, v: aten._scaled_dot_product_flash_attention(q, k, v)[0],
        lambda q, k, v: aten._scaled_dot_product_efficient_attention(q, k, v, None, True)[0],
        lambda q, k, v: aten._scaled_dot_product_cudnn_attention(q, k, v, None, True)[0],
        lambda q, k, v: aten._scaled_dot_product_attention_math_for_mps(q, k, v)[0],
    ],
)
def test_attention_kernels_of_other_devices(kernel):
    """The same for those that this machine has no kernel for."""
    assert groups(squared_on_meta(heads_first(kernel), torch.randn(2, 8, 4))) == {"p.0:0[1]": 8}


@pytest.mark.parametrize(
    "kernel",
    [
        lambda q: aten._flash_attention_forward(q, q, q, None, None, q.shape[1], q.shape[1], 0.0, False, False)[0],
        lambda q: aten._efficient_attention_forward(q, q, q, None, None, None, None, None, 0.0, 0, True)[0],
    ],
)
def test_attention_kernels_with_tokens_first(kernel):
    """Tokens before heads: the width of heads is a group all the same."""
    model = Kernel(lambda x, a, z: linear(kernel(linear(x, a).unflatten(-1, (2, -1))).flatten(2), z), (16, 4), (2, 16))
    assert groups(squared_on_meta(model, torch.randn(2, 8, 4))) == {"p.0:0[1]": 8}


class Whole(nn.Module):
    """One kernel for all of attention, or for a layer of a transformer; its sizes are attributes."""

    def __init__(self, layer):
        super().__init__()
        self.layer, self.width, self.heads = layer, 8, 2
        shapes = [(24, 8), (24,), (8, 8), (8,)]
        if layer:
            shapes += [(8,)] * 4 + [(12, 8), (12,), (8, 12), (8,)]
        self.p = nn.ParameterList(nn.Parameter(torch.randn(shape)) for shape in shapes)
        self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x):
        y, p = self.first(x), list(self.p)
        if self.layer:
            y = aten._transformer_encoder_layer_fwd(y, self.width, self.heads, *p[:4], True, False, 1e-5, *p[4:])
        else:
            y = aten._native_multi_head_attention(y, y, y, self.width, self.heads, *p)[0]
        return self.last(y)


@pytest.mark.parametrize("layer", [False, True])
def test_kernels_for_whole_layers(layer):
    """Heads and their width are groups, attributes follow; the inner width of the layer is another group."""
    model = Whole(layer)
    graph = lawful(model, torch.randn(TOKENS), masking=False)
    assert groups(graph) == {"p.0:0[1]": 2, "p.0:0[2]": 4, **({"p.8:0": 12} if layer else {})}
    (plan, *_) = single_cuts(graph)
    assert {edit.path for edit in plan.edits} >= {"heads", "width"}


def test_biased_heads():
    """Queries, keys and values by head, from one projection."""

    def function(x, a, b, z):
        q, k, v = aten._transform_bias_rescale_qkv(linear(x, a), b, 2)
        return linear((q + k * v).transpose(1, 2).flatten(2), z)

    graph = lawful(Kernel(function, (24, 4), (24,), (2, 8)), torch.randn(TOKENS), masking=False)
    assert groups(graph) == {"p.0:0[2]": 4}


flex = pytest.importorskip("torch.nn.attention.flex_attention", reason="this torch has no flex attention")


class Flex(nn.Module):
    """Flex attention over heads whose number is an attribute."""

    def __init__(self, **options):
        super().__init__()
        self.options, self.heads = options, 2
        self.first, self.last = nn.Linear(4, 16), nn.Linear(16, 2)

    def forward(self, x):
        y = self.first(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        return self.last(flex.flex_attention(y, y, y, **self.options).transpose(1, 2).flatten(2))


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize(
    ("options", "expected", "why"),
    [
        ({}, {"first.weight:0[0]": 2, "first.weight:0[1]": 8}, ""),
        ({"score_mod": lambda score, b, h, q, k: score + h}, {"first.weight:0[1]": 8}, "may tell heads apart"),
    ],
)
def test_flex_attention(options, expected, why):
    """Widths of heads are a group; heads are one where no function is given that might tell them apart."""
    model, x = Flex(**options).eval(), torch.randn(TOKENS)
    graph = testing.assert_pure(model, x)
    assert groups(graph) == expected
    assert graph.node("flex_attention").type is dg.OpType.ATTENTION
    assert why in " ".join(pinned.reason for pinned in graph.pinned)
    for plan in single_cuts(graph):
        small = testing.assert_square(graph, plan, model, x)
        with torch.no_grad():
            assert small(x).shape == model(x).shape
        testing.assert_zero_channels(graph, plan, model, x)


# --- recurrence --------------------------------------------------------------------------------------------------------------


class Cells(nn.Module):
    """A cell that walks over time."""

    def __init__(self, kind, **options):
        super().__init__()
        self.first, self.cell, self.last = nn.Linear(4, 6), kind(6, 5, **options), nn.Linear(5, 2)

    def forward(self, x):
        state = None
        for step in self.first(x).unbind(1):
            state = self.cell(step, state)
        return self.last(state[0] if isinstance(state, tuple) else state)


@pytest.mark.parametrize("kind", [nn.LSTMCell, nn.GRUCell, nn.RNNCell, lambda *a: nn.RNNCell(*a, nonlinearity="relu")])
@pytest.mark.parametrize("bias", [True, False])
def test_cells(kind, bias):
    """Hidden and input sizes of cells are groups, and their attributes follow."""
    model = Cells(kind) if bias else Cells(lambda *a: type(kind(*a))(*a, bias=False))
    graph = lawful(model, torch.randn(TOKENS))
    assert sorted(groups(graph).values()) == [5, 6]
    edits = {edit.path for plan in single_cuts(graph) for edit in plan.edits}
    assert {"cell.hidden_size", "cell.input_size"} <= edits


class Packed(nn.Module):
    """A recurrent network over sequences of different lengths."""

    def __init__(self, kind, **options):
        super().__init__()
        self.first = nn.Linear(4, 6)
        self.recurrent = kind(6, 5, batch_first=True, bidirectional=True, **options)
        self.last = nn.Linear(10, 2)

    def forward(self, x):
        packed = nn.utils.rnn.pack_padded_sequence(self.first(x), torch.tensor([3, 5]), batch_first=True, enforce_sorted=False)
        out, _ = self.recurrent(packed)
        return self.last(nn.utils.rnn.pad_packed_sequence(out, batch_first=True)[0])


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("layers", [1, 2])
def test_packed_sequences(kind, layers):
    """The rows are counted by the data; hidden and input sizes stay prunable."""
    graph = lawful(Packed(kind, num_layers=layers), torch.randn(TOKENS))
    assert graph.mode == "real" and sorted(groups(graph).values()) == [5, 6]


def test_mkldnn_layer():
    """One layer of an LSTM as oneDNN takes it."""

    def function(x, a, *rest):
        *weights, h, c, z = rest
        made = aten.mkldnn_rnn_layer(linear(x, a), *weights, h, c, False, [], 2, h.shape[-1], 1, True, False, False, False)
        return linear(made[0], z)

    shapes = [(6, 4), (20, 6), (20, 5), (20,), (20,), (1, 2, 5), (1, 2, 5), (2, 5)]
    assert sorted(groups(lawful(Kernel(function, *shapes), torch.randn(7, 2, 4))).values()) == [5, 6]


@pytest.mark.parametrize(
    ("function", "gates"),
    [
        (lambda x, a, b, h, i, j, z: linear(aten._thnn_fused_lstm_cell(linear(x, a), linear(x, b), h, i, j)[0], z), 4),
        (lambda x, a, b, h, i, j, z: linear(aten._thnn_fused_gru_cell(linear(x, a), linear(x, b), h, i, j)[0], z), 3),
    ],
)
def test_fused_cells(function, gates):
    """Gates lie one after the other in the products, biases and weights."""
    wide = 5 * gates
    model = Kernel(function, (wide, 4), (wide, 4), (2, 5), (wide,), (wide,), (2, 5))
    assert groups(squared_on_meta(model, torch.randn(2, 4))) == {"p.0:0[1]": 5}


def test_cudnn_layer():
    """CuDNN takes a list of weights, and returns what it keeps beside the states."""

    def function(x, a, *rest):
        *weights, h, c, z = rest
        made = aten._cudnn_rnn(linear(x, a), weights, 4, None, h, c, 2, h.shape[-1], 0, 1, False, 0.0, False, False, [], None)
        return linear(made[0], z)

    shapes = [(6, 4), (20, 6), (20, 5), (20,), (20,), (1, 2, 5), (1, 2, 5), (2, 5)]
    assert sorted(groups(squared_on_meta(Kernel(function, *shapes), torch.randn(7, 2, 4))).values()) == [5, 6]
