"""Sample calls of kernels below the layers, of cells, of operators on lists, and of copies of views: operator -> forms."""

import torch
from attrs import evolve
from torch.nn.attention.flex_attention import flex_attention

from depgraph.rules.elementwise import FOREACH
from tests.laws.drawing import Sample, aten, call, exists
from tests.laws.samples_layers import LAYER_ROWS
from tests.laws.samples_moving import INDEXING_ROWS, JOINING_ROWS, SHAPE_ROWS


def alike(forms, name):
    """The same calls of another operator that takes the same arguments."""
    return [lambda d, form=form: evolve(form(d), function=aten(name)) for form in forms]


_COPIES = {
    "_reshape_copy": "_unsafe_view", "_reshape_alias_copy": "_reshape_alias", "squeeze_copy": "squeeze",
    "unsqueeze_copy": "unsqueeze",
    "view_as_real_copy": "view_as_real", "view_as_complex_copy": "view_as_complex", "permute_copy": "permute",
    "expand_copy": "expand",
    "transpose_copy": "transpose", "t_copy": "t", "_stack": "stack", "split_copy": "unsafe_split", "unbind_copy": "unbind",
    "split_with_sizes_copy": "split_with_sizes", "select_copy": "select", "slice_copy": "slice", "narrow_copy": "narrow",
    "_unsafe_index": "index", "_unsafe_index_put": "_index_put_impl",
}  # fmt: skip
_VIEWS = {**SHAPE_ROWS, **JOINING_ROWS, **INDEXING_ROWS}
_IN_PLACE = {"squeeze": 3, "unsqueeze": 1}
"""The form of an operator that writes in place, which its copy does not have."""


def _outside(name):
    kept = [form for position, form in enumerate(_VIEWS[name]) if position != _IN_PLACE.get(name)]
    return kept[:5] if name == "index" else kept[:3] if name in {"_index_put_impl", "expand"} else kept


COPY_ROWS = {copy: alike(_outside(name), copy) for copy, name in _COPIES.items()}


NNPACK = torch._nnpack_available()
"""Whether NNPACK is there; asking also makes it ready."""

_NO_FAKE = "addc", "Tensor"
"""A tensor of numbers that must be on the CPU, where fake tensors are not."""


def _lists(name):
    """Forms of an operator on lists: with lists, with one number, with a number for each. In-place ones return nothing."""
    found = []
    if not exists(f"_foreach_{name}"):
        return found
    packet = aten(f"_foreach_{name}")
    for overload in (getattr(packet, each) for each in packet.overloads()):
        types = [str(item.type) for item in overload._schema.arguments if not item.has_default_value()]
        if (
            not any(item.is_out for item in overload._schema.arguments)
            and set(types) <= set(_LISTED)
            and (name[:4], types[-1]) != _NO_FAKE
        ):
            found.append(lambda d, overload=overload, types=tuple(types): _listed(d, overload, types))
    return found


def _listed(d, overload, types):
    shapes = [d.shape(0, 2), d.shape(1, 3)]
    return Sample(overload, tuple(_LISTED[kind](d, shapes) for kind in types), {}, _summed(overload, shapes))


def _summed(overload, shapes):
    if overload._schema.name.removeprefix("aten::_foreach_") in {"norm", "powsum", "max"}:
        return tuple((f"args[0][{n}]", dim) for n, shape in enumerate(shapes) for dim in range(len(shape)))
    return ()


_LISTED = {
    "List[Tensor]": lambda d, shapes: [d.tensor(*shape) for shape in shapes],
    "number": lambda d, shapes: 1.4,
    "List[number]": lambda d, shapes: [1.4, 0.6],
    "Tensor": lambda d, shapes: d.tensor(),
}

LIST_ROWS = {f"_foreach_{name}": _lists(name) for name in FOREACH.split()}


def _convolved(name, spatial, transposed=False, tail=()):
    """A kernel of convolutions that is told its kernel's size."""

    def form(d):
        inside, outside = d.size(), d.size()
        x = d.tensor(d.size(), inside, *[5] * spatial)
        w = d.tensor(*((inside, outside) if transposed else (outside, inside)), *[3] * spatial)
        bias = d.tensor(outside) if d.flag() else None
        return call(name, x, w, [3] * spatial, bias, [1] * spatial, [1] * spatial, *tail)

    return [form]


def _normed(name, *, training=None, switch=True):
    def form(d):
        n, c = d.size(), d.size()
        x = d.tensor(n, c, 4)
        trained = d.flag() if training is None else training
        over = tuple(("args[0]", dim) for dim in (0, 2)) if trained else ()
        more = (trained,) if switch else ()
        extra = (False,) if name == "_batch_norm_impl_index" else ()
        return call(
            name, x, d.tensor(c), d.tensor(c), d.tensor(c), d.tensor(c, kind="unit"), *more, 0.1, 1e-5, *extra, over=over
        )

    return [form]


def _grouped_norm(d):
    n, c = d.size(), 3 * d.size()
    return call(
        "native_group_norm",
        d.tensor(n, c, 4),
        d.tensor(c),
        d.tensor(c),
        n,
        c,
        4,
        3,
        1e-5,
        over=(("args[0]", 1), ("args[0]", 2)),
    )


def _trailing(name, *parameters):
    def form(d):
        a, b, c = d.shape(3, 3)
        given = [d.tensor(b, c) for _ in parameters]
        return call(name, d.tensor(a, b, c), [b, c], *given, 1e-5, over=(("args[0]", 1), ("args[0]", 2)))

    return [form]


def _cell(name, gates):
    def form(d):
        batch, inputs, hidden = d.shape(3, 3)
        state = d.tensor(batch, hidden)
        hx = [state, d.tensor(batch, hidden)] if gates == 4 else state
        weights = [d.tensor(gates * hidden, width) for width in (inputs, hidden)] + [d.tensor(gates * hidden) for _ in range(2)]
        held = ("args[1][0]", "args[1][1]") if gates == 4 else ("args[1]",)
        return call(name, d.tensor(batch, inputs), hx, *weights, over=tuple((place, 1) for place in held))

    return [form]


def _attended(name, **options):
    def form(d):
        batch, heads, queries, keys, width = d.shape(5, 5)
        q, k, v = (d.tensor(batch, heads, n, width) for n in (queries, keys, keys))
        return call(name, q, k, v, scale=0.5, over=(("args[1]", 2), ("args[2]", 2)), **options)

    return [form]


def _packed(d):
    return call("_pack_padded_sequence", d.tensor(3, 4, d.size()), torch.tensor([4, 2, 1]), True)


def _unpacked(d):
    return call("_pad_packed_sequence", d.tensor(7, d.size()), torch.tensor([3, 2, 1, 1]), d.flag(), 0.0, 4)


def _onednn(d):
    inside, outside = 2 * d.size(), 2 * d.size()
    x, w = d.tensor(d.size(), inside, 5, 5).float(), d.tensor(outside, inside // 2, 3, 3).float()
    return call("mkldnn_convolution", x, w, d.tensor(outside).float(), [1, 1], [1, 1], [1, 1], 2)


def _bytes(d, *shape):
    return d.tensor(*shape, kind="int").to(torch.int8)


def _whole_attention(weights):
    """Self-attention with its projections; a softmax runs across the tokens, and the result mixes them."""

    def form(d):
        heads, batch, tokens = d.shape(3, 3)
        width = heads * d.size()
        x = d.tensor(batch, tokens, width)
        given = [d.tensor(3 * width, width), d.tensor(3 * width), d.tensor(width, width), d.tensor(width)]
        return call(
            "_native_multi_head_attention", x, x.clone(), x.clone(), width, heads, *given, None, weights, d.flag(), over=None
        )

    return form


def _whole_layer(norm_first):
    """A layer of a transformer's encoder."""

    def form(d):
        heads, batch, tokens = d.shape(3, 3)
        width, wide = heads * d.size(), d.size()
        attention = [d.tensor(3 * width, width), d.tensor(3 * width), d.tensor(width, width), d.tensor(width)]
        norms = [d.tensor(width) for _ in range(4)]
        block = [d.tensor(wide, width), d.tensor(wide), d.tensor(width, wide), d.tensor(width)]
        options = d.flag(), norm_first, 1e-5
        return call(
            "_transformer_encoder_layer_fwd", d.tensor(batch, tokens, width), width, heads, *attention, *options, *norms,
            *block, over=tuple(("args[0]", dim) for dim in (1, 2)),
        )  # fmt: skip

    return form


def _biased(d):
    heads, batch, tokens = d.shape(3, 3)
    width = 3 * heads * d.size()
    return call("_transform_bias_rescale_qkv", d.tensor(batch, tokens, width), d.tensor(width), heads, over=(("output[0]", 3),))


def _onednn_layer(d):
    """A layer of an LSTM; its hidden units feed each other."""
    steps, batch, inputs, hidden = d.shape(4, 4)
    weights = [d.tensor(4 * hidden, inputs), d.tensor(4 * hidden, hidden), *(d.tensor(4 * hidden) for _ in range(2))]
    states = [d.tensor(1, batch, hidden) for _ in range(2)]
    given = [leaf.float() for leaf in (d.tensor(steps, batch, inputs), *weights, *states)]
    options = False, [], 2, hidden, 1, True, False, False, False
    return call("mkldnn_rnn_layer", *given, *options, over=(("args[5]", 2), ("args[6]", 2)))


def _masked(d):
    """Positions of two dimensions, or of the last one, behind a mask."""
    rows, columns, depth = d.shape(3, 3)
    if d.flag():
        given = [torch.arange(rows)[:, None] % 3, torch.arange(columns) % 3]
        return d.tensor(3, 3), d.tensor(rows, columns, kind="bool"), given, (rows, columns)
    return d.tensor(depth, 9), d.tensor(depth, columns, kind="bool"), [None, d.below(9, columns)], (depth, columns)


def _masked_index(d):
    x, mask, indices, _ = _masked(d)
    return call("_unsafe_masked_index", x, mask, indices, 0.5)


def _masked_index_put(d):
    x, mask, indices, shape = _masked(d)
    return call("_unsafe_masked_index_put_accumulate", x, mask, indices, d.tensor(*shape))


def _flexible(d):
    """Attention with scores as they are."""
    batch, heads, queries, keys, width, depth = d.shape(6, 6)
    q, k, v = d.tensor(batch, heads, queries, width), d.tensor(batch, heads, keys, width), d.tensor(batch, heads, keys, depth)
    return Sample(flex_attention, (q, k, v), {"scale": 0.5})


KERNEL_ROWS = {
    "_int_mm": [lambda d: (lambda a, b, c: call("_int_mm", _bytes(d, a, b), _bytes(d, b, c)))(*d.shape(3, 3))],
    "_weight_int8pack_mm": [lambda d: (lambda a, b, c:
        call("_weight_int8pack_mm", d.tensor(a, b).float(), _bytes(d, c, b), d.tensor(c).float()))(*d.shape(3, 3))],
    "_native_multi_head_attention": [_whole_attention(True), _whole_attention(False)],
    "_transformer_encoder_layer_fwd": [_whole_layer(True), _whole_layer(False)],
    "_transform_bias_rescale_qkv": [_biased],
    "mkldnn_rnn_layer": [_onednn_layer],
    "_unsafe_masked_index": [_masked_index],
    "_unsafe_masked_index_put_accumulate": [_masked_index_put],
    "_compute_linear_combination": [
        lambda d: (lambda n, m, rows: call("_compute_linear_combination", d.tensor(n, rows, 4), d.tensor(m, n)))(*d.shape(3, 3))
    ],
    "higher_order.flex_attention": [_flexible],
    "mkldnn_convolution": [_onednn],
    "thnn_conv2d": _convolved("thnn_conv2d", 2),
    "_slow_conv2d_forward": _convolved("_slow_conv2d_forward", 2),
    "slow_conv3d": _convolved("slow_conv3d", 3),
    "slow_conv3d_forward": _convolved("slow_conv3d_forward", 3),
    **{f"slow_conv_dilated{n}d": _convolved(f"slow_conv_dilated{n}d", n, tail=([1] * n,)) for n in (2, 3)},
    **{f"slow_conv_transpose{n}d": _convolved(f"slow_conv_transpose{n}d", n, True, ([0] * n, [1] * n)) for n in (2, 3)},
    "conv_tbc": [lambda d: (lambda i,
        o: call("conv_tbc", d.tensor(6, d.size(), i), d.tensor(3, i, o), d.tensor(o), 1))(*d.shape(2, 2))],
    "_embedding_bag": alike(LAYER_ROWS["embedding_bag"], "_embedding_bag"),
    "_embedding_bag_forward_only": alike(LAYER_ROWS["embedding_bag"], "_embedding_bag_forward_only"),
    "embedding_renorm": [
        lambda d: call("embedding_renorm_", d.tensor(6, d.size()), torch.tensor([1, 4]), 0.5, 2.0, over=(("args[0]", 1),))
    ],
    "native_batch_norm": _normed("native_batch_norm"),
    "_native_batch_norm_legit": _normed("_native_batch_norm_legit"),
    "_native_batch_norm_legit_functional": _normed("_native_batch_norm_legit_functional"),
    "_native_batch_norm_legit_no_training": _normed("_native_batch_norm_legit_no_training", training=False, switch=False),
    "_batch_norm_impl_index": _normed("_batch_norm_impl_index"),
    "_batch_norm_with_update": _normed("_batch_norm_with_update", training=True, switch=False),
    "_batch_norm_no_update": _normed("_batch_norm_no_update", training=False, switch=False),
    "_batch_norm_with_update_functional": _normed("_batch_norm_with_update_functional", training=True, switch=False),
    "batch_norm_update_stats": [
        lambda d: (lambda c: call("batch_norm_update_stats", d.tensor(4, c, 3), d.tensor(c), d.tensor(c, kind="unit"), 0.1,
            over=(("args[0]", 0), ("args[0]", 2))))(d.size())
    ],
    "native_group_norm": [_grouped_norm],
    "native_layer_norm": _trailing("native_layer_norm", "weight", "bias"),
    "_fused_rms_norm": _trailing("_fused_rms_norm", "weight"),
    "_scaled_dot_product_flash_attention_for_cpu": _attended("_scaled_dot_product_flash_attention_for_cpu"),
    "_scaled_dot_product_attention_math": _attended("_scaled_dot_product_attention_math"),
    "lstm_cell": _cell("lstm_cell", 4),
    "gru_cell": _cell("gru_cell", 3),
    "rnn_tanh_cell": _cell("rnn_tanh_cell", 1),
    "rnn_relu_cell": _cell("rnn_relu_cell", 1),
    "_pack_padded_sequence": [_packed],
    "_pad_packed_sequence": [_unpacked],
}  # fmt: skip

if NNPACK:
    KERNEL_ROWS["_nnpack_spatial_convolution"] = [
        lambda d: (lambda n, i, o: call("_nnpack_spatial_convolution", d.tensor(n, i, 5, 5).float(),
            d.tensor(o, i, 3, 3).float(), d.tensor(o).float(), [1, 1]))(*d.shape(3, 3))
    ]  # fmt: skip
