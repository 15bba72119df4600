"""Sample calls of layers and windows: operator -> forms, each a function of draws."""

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from tests.laws.drawing import Sample, call


def convolved(name, spatial, transposed=False):
    """Forms of a convolution: plain, grouped and depthwise, batched or not, with and without bias, strides and dilations."""

    def form(d, groups=1, batched=True):
        per = d.size() if groups < 3 else 1
        inside, outside = per * groups, d.size() * groups
        x = d.tensor(*([d.size()] if batched else []), inside, *[5] * spatial)
        w = d.tensor(*((inside, outside // groups) if transposed else (outside, inside // groups)), *[3] * spatial)
        bias = d.tensor(outside) if d.flag() else None
        step, room = [d.integers(1, 2)] * spatial, [d.integers(0, 1)] * spatial
        if name in {"convolution", "_convolution"}:
            more = (False, False, True, False) if name == "_convolution" else ()
            return call(name, x, w, bias, step, room, [1] * spatial, transposed, [0] * spatial, groups, *more)
        tail = ([0] * spatial, groups, [1] * spatial) if transposed else ([1] * spatial, groups)
        return call(f"{name}.input" if transposed and spatial > 1 else name, x, w, bias, step, room, *tail)

    return [
        form,
        lambda d: form(d, 2),
        lambda d: form(d, 4),
        lambda d: form(d, batched=name in {"convolution", "_convolution"}),
    ]


def _written_out(name):
    """A convolution whose numbers are written as keywords, in another order than the schema's and not told apart by value."""
    return lambda d: call(name, d.tensor(3, 6, 9), d.tensor(4, 3, 3), stride=[3], padding=[1], groups=2, dilation=[2])


def _product(name, *shapes, bias=None, more=()):
    """A product of matrices whose axes are lettered; equal letters are equally long."""

    def form(d):
        size = {letter: d.size() for letter in "abmnk"}
        operands = [d.tensor(*(size[letter] for letter in shape)) for shape in shapes]
        if bias is not None:
            operands.insert(0, d.tensor(*(size.get(letter, 1) for letter in bias)))
        return call(name, *operands, *more)

    return form


def _einsum(equation):
    def form(d):
        size = {letter: d.size() for letter in "abcdijkhqe"}
        shapes = [term.replace("...", "e") for term in equation.partition("->")[0].split(",")]
        return call("einsum", equation, [d.tensor(*(size[letter] for letter in shape)) for shape in shapes])

    return form


def _attention(d, heads=(), masked=False, **options):
    batch, queries, keys, width, value = (d.size() for _ in range(5))
    q, k, v = (
        d.tensor(batch, *n, *rest)
        for n, rest in zip(heads or ((), (), ()), ((queries, width), (keys, width), (keys, value)), strict=True)
    )
    mask = d.tensor(batch, *(heads or ((),))[0], queries, keys) if masked else None
    key_axis = tuple((f"args[{n}]", operand.ndim - 2) for n, operand in ((1, k), (2, v)))
    return Sample(_plain_attention, (q, k, v, mask, 0.0), {"scale": 0.5, **options}, key_axis)


def _plain_attention(*args, **kwargs):
    """Attention with the one kernel that refuses operands whose sizes disagree."""
    with sdpa_kernel(SDPBackend.MATH):
        return torch.nn.functional.scaled_dot_product_attention(*args, **kwargs)


def _causal(d):
    n, width = d.size(), d.size()
    x = [d.tensor(d.size(), n, width)]
    x += [d.tensor(x[0].shape[0], n, width) for _ in range(2)]
    return Sample(_plain_attention, (*x, None, 0.0, True), {"scale": 0.5})


def _grouped_attention(d):
    return _attention(d, heads=((6,), (3,), (3,)), enable_gqa=True)


def _channel_normed(name, training, spatial=1):
    def form(d):
        n, c = d.size(), d.size()
        x = d.tensor(n, c, *[4] * spatial)
        mean, var = (None, None) if training and d.flag() else (d.tensor(c), d.tensor(c, kind="unit"))
        scale = (d.tensor(c), d.tensor(c)) if d.flag() else (None, None)
        mixed = [0, *range(2, x.ndim)] if name == "batch_norm" else [*range(2, x.ndim)]
        over = tuple(("args[0]", dim) for dim in mixed) if training else ()
        return call(name, x, *scale, mean, var, training, 0.1, 1e-5, False, over=over)

    return form


def _group_normed(groups):
    def form(d):
        c = groups * d.size()
        scale = (d.tensor(c), d.tensor(c)) if d.flag() else ()
        return call("group_norm", d.tensor(d.size(), c, 4), groups, *scale, over=(("args[0]", 1), ("args[0]", 2)))

    return form


def _trailing_normed(name, count, parameters):
    def form(d):
        shape = d.shape(count, 3)
        scale = [d.tensor(*shape[len(shape) - count :]) for _ in range(parameters)] if d.flag() else []
        over = tuple(("args[0]", dim) for dim in range(len(shape) - count, len(shape)))
        return call(name, d.tensor(*shape), list(shape[len(shape) - count :]), *scale, over=over)

    return form


def _embedded(*shape):
    return lambda d: call("embedding", d.tensor(6, d.size()), d.below(6, *shape))


def _bagged(mode):
    def form(d):
        return call("embedding_bag", d.tensor(6, d.size()), d.below(6, 8), torch.tensor([0, 3, 5]), False, mode)

    return form


def _weight_normed(name):
    def form(d):
        shape = d.shape(2, 3)
        dim = d.choice([0, len(shape) - 1])
        g = d.tensor(*(size if position == dim else 1 for position, size in enumerate(shape)))
        over = tuple(("args[0]", position) for position in range(len(shape)) if position != dim)
        return call(name, d.tensor(*shape), g, dim, over=over)

    return form


def recurrent(name, gates, layers=1, directions=1, projected=False, batched=True, biased=True):
    """Forms of a recurrent kernel; of a bidirectional one, each direction has its own weights."""

    def form(d):
        time, batch, inputs, hidden = (d.size() for _ in range(4))
        hidden += 3 * projected  # a kernel is told of a projection by its narrower state alone
        first = d.flag()
        shape = ((batch, time) if first else (time, batch)) if batched else (time,)
        visible = 3 if projected else hidden
        params = []
        for layer in range(layers):
            for _ in range(directions):
                below = inputs if layer == 0 else visible * directions
                params += [d.tensor(gates * hidden, below), d.tensor(gates * hidden, visible)]
                params += [d.tensor(gates * hidden), d.tensor(gates * hidden)] if biased else []
                params += [d.tensor(visible, hidden)] if projected else []
        around = (batch,) if batched else ()
        state = d.tensor(layers * directions, *around, visible)
        hx = [state, d.tensor(layers * directions, *around, hidden)] if name == "lstm" else state
        x = d.tensor(*shape, inputs)
        held = ("args[1][0]", "args[1][1]") if name == "lstm" else ("args[1]",)
        over = tuple((state_name, state.ndim - 1) for state_name in held)
        return call(f"{name}.input", x, hx, params, biased, layers, 0.0, False, directions == 2, first and batched, over=over)

    return form


def _cells(name, gates):
    forms = [recurrent(name, gates), recurrent(name, gates, biased=False), recurrent(name, gates, layers=2)]
    return [*forms, recurrent(name, gates, directions=2), recurrent(name, gates, layers=2, directions=2)]


CELL_ROWS = {
    "lstm": [*_cells("lstm", 4), recurrent("lstm", 4, projected=True)],
    "gru": _cells("gru", 3),
    "rnn_tanh": _cells("rnn_tanh", 1),
    "rnn_relu": _cells("rnn_relu", 1),
}

LAYER_ROWS = {
    **{f"conv{n}d": convolved(f"conv{n}d", n) + ([_written_out("conv1d")] if n == 1 else []) for n in (1, 2, 3)},
    **{f"conv_transpose{n}d": convolved(f"conv_transpose{n}d", n, True) for n in (1, 2, 3)},
    **{name: convolved(name, 1) + convolved(name, 2, True)[:2] for name in ("convolution", "_convolution")},
    "linear": [
        _product("linear", "abk", "nk"), _product("linear", "k", "nk"), lambda d: (
            lambda k, n: call("linear", d.tensor(d.size(), k), d.tensor(n, k), d.tensor(n)))(d.size(), d.size()),
    ],
    "matmul": [
        _product("matmul", "amk", "akn"), _product("matmul", "mk", "kn"), _product("matmul", "k", "kn"),
        _product("matmul", "mk", "k"),
        _product("matmul", "k", "k"), _product("matmul", "abmk", "bkn"), _product("matmul", "amk", "k"),
        _product("matmul", "mk", "akn"),
    ],
    "mm": [_product("mm", "mk", "kn")],
    "bmm": [_product("bmm", "amk", "akn")],
    "mv": [_product("mv", "mk", "k")],
    "dot": [_product("dot", "k", "k")],
    "vdot": [_product("vdot", "k", "k")],
    "addmm": [_product("addmm", "mk", "kn", bias="mn"), _product("addmm", "mk", "kn", bias="n"),
        _product("addmm", "mk", "kn", bias="m1")],
    "baddbmm": [_product("baddbmm", "amk", "akn", bias="amn"), _product("baddbmm", "amk", "akn", bias="1n")],
    "addmv": [_product("addmv", "mk", "k", bias="m")],
    "outer": [_product("outer", "m", "n")],
    "inner": [_product("inner", "mk", "nk"), _product("inner", "k", "k"), _product("inner", "amk", "nk")],
    "kron": [_product("kron", "mk", "nb"), _product("kron", "m", "n")],
    "tensordot": [_product("tensordot", "mk", "kn", more=([1], [0])),
        _product("tensordot", "akm", "kna", more=([0, -2], [2, 0]))],
    "einsum": [
        _einsum(text) for text in (
            "ij,jk->ik", "ij,jk", "bhqe,bhke->bhqk", "...ij,...jk->...ik", "ij->ji", "ij->j", "i,j->ij", "ab,bc,cd->ad",
            "aij,ajk")
    ],
    "bilinear": [
        lambda d: (lambda n, a, b, c: call("bilinear", d.tensor(n, a), d.tensor(n, b), d.tensor(c, a, b), d.tensor(c)))(
            *(d.size() for _ in range(4)))
    ],
    "scaled_dot_product_attention": [
        _attention, lambda d: _attention(d, masked=True), lambda d: _attention(d, heads=((3,), (3,), (3,)), masked=True),
        _grouped_attention, _causal,
    ],
    "batch_norm": [_channel_normed("batch_norm", training, n) for training in (False, True) for n in (0, 1, 2)],
    "instance_norm": [_channel_normed("instance_norm", training, n) for training in (False, True) for n in (1, 2)],
    "group_norm": [_group_normed(1), _group_normed(3)],
    "layer_norm": [_trailing_normed("layer_norm", n, 2) for n in (1, 2)],
    "rms_norm": [_trailing_normed("rms_norm", n, 1) for n in (1, 2)],
    "embedding": [_embedded(4), _embedded(3, 4), _embedded()],
    "embedding_bag": [_bagged(mode) for mode in (0, 1, 2)],
    "_weight_norm": [_weight_normed("_weight_norm")],
    "_weight_norm_interface": [_weight_normed("_weight_norm_interface")],
    "prelu": [
        lambda d: (lambda s: call("prelu", d.tensor(*s), d.tensor(s[1])))(d.shape(2, 3)),
        lambda d: call("prelu", d.tensor(*d.shape(1, 3)), d.tensor(1)),
    ],
}  # fmt: skip


def pooled(name, spatial, *more, vec=False):
    """A window over the trailing dimensions, batched or not."""
    return [
        lambda d: call(name, d.tensor(d.size(), d.size(), *[6] * spatial), *more),
        lambda d: call(name, d.tensor(d.size(), *([d.size()] if vec else []), *[6] * spatial), *more),
    ]


def _pools():
    found = {}
    for n in (1, 2, 3):
        window, result = [3] * n, [4] * n
        for name in (f"max_pool{n}d", f"avg_pool{n}d", f"max_pool{n}d_with_indices"):
            found[name] = pooled(name, n, window, [2] * n)
        for name in (f"adaptive_avg_pool{n}d", f"adaptive_max_pool{n}d", *([f"_adaptive_avg_pool{n}d"] if n > 1 else [])):
            found[name] = pooled(name, n, result)
        for name in (f"upsample_nearest{n}d", f"_upsample_nearest_exact{n}d"):
            found[name] = [*pooled(name, n, [9] * n, vec=True), *pooled(f"{name}.vec", n, None, [1.5] * n, vec=True)]
    for name, n in (
        ("upsample_linear1d", 1),
        ("upsample_bilinear2d", 2),
        ("upsample_bicubic2d", 2),
        ("upsample_trilinear3d", 3),
    ):
        found[name] = [*pooled(name, n, [9] * n, False, vec=True), *pooled(f"{name}.vec", n, None, True, [1.5] * n, vec=True)]
    for name in ("_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa"):
        found[name] = pooled(name, 2, [9, 9], False, vec=True)
    return found


def _fractional(n):
    def form(d):
        batch, channels = d.size(), d.size()
        x = d.tensor(batch, channels, *[7] * n)
        return call(f"fractional_max_pool{n}d", x, [2] * n, [3] * n, d.tensor(batch, channels, n, kind="unit"))

    return [form]


def _unpooled(n, *more):
    def form(d):
        x = d.tensor(d.size(), d.size(), *[6] * n)
        values, positions = getattr(torch.nn.functional, f"max_pool{n}d")(x, 2, return_indices=True)
        return call(f"max_unpool{n}d", values, positions, [6] * n, *more)

    return [form]


def _sampled(name, n):
    def form(d):
        batch = d.size()
        return call(name, d.tensor(batch, d.size(), *[4] * n), d.tensor(batch, *[3] * n, n), d.integers(0, 1), 0, False)

    return [form]


WINDOW_ROWS = {
    **_pools(),
    **{f"fractional_max_pool{n}d": _fractional(n) for n in (2, 3)},
    "max_unpool2d": _unpooled(2),
    "max_unpool3d": _unpooled(3, [2] * 3, [0] * 3),
    "grid_sampler": _sampled("grid_sampler", 2) + _sampled("grid_sampler", 3),
    "grid_sampler_2d": _sampled("grid_sampler_2d", 2),
    "grid_sampler_3d": _sampled("grid_sampler_3d", 3),
    "im2col": [
        lambda d: call("im2col", d.tensor(d.size(), d.size(), 5, 5), [3, 2], [1, 1], [0, 0], [1, 1]),
        lambda d: call("im2col", d.tensor(d.size(), 5, 5), [2, 2], [1, 1], [1, 0], [2, 1]),
    ],
    "col2im": [
        lambda d: call("col2im", d.tensor(d.size(), d.size() * 6, 12), [5, 5], [3, 2], [1, 1], [0, 0], [1, 1]),
        lambda d: call("col2im", d.tensor(d.size() * 6, 12), [5, 5], [3, 2], [1, 1], [0, 0], [1, 1]),
    ],
    "pixel_shuffle": [lambda d: call("pixel_shuffle", d.tensor(*d.shape(0, 2), d.size() * 4, 3, 3), 2)],
    "pixel_unshuffle": [lambda d: call("pixel_unshuffle", d.tensor(*d.shape(0, 2), d.size(), 6, 6), 2)],
    **{
        name: [lambda d, name=name: call(name, d.tensor(d.size(), 3 * d.size(), 4), 3)]
        for name in ("channel_shuffle", "native_channel_shuffle")
    },
    "unfold": [
        lambda d: call("unfold", d.tensor(d.size(), 8, d.size()), d.choice([1, -2]), 3, d.integers(1, 3)),
        lambda d: call("unfold", d.tensor(), 0, 1, 1),
    ],
}
