"""Rules of attention: one kernel for queries, keys and values."""

from __future__ import annotations

from collections.abc import Iterator

from depgraph.rules.common import broadcast, family, mixing, named, passed, pinned
from depgraph.solving.statements import (
    Axis,
    Balanced,
    Call,
    Equal,
    Fresh,
    Named,
    Pin,
    Rule,
    Statement,
    Term,
    Times,
    Traits,
    Value,
    Work,
    pin_all,
)

_MASKS = ("attn_mask", "attn_bias")


def _heads(q: Axis, k: Axis, v: Axis, out: Axis) -> Iterator[Statement]:
    """Each key head belongs to one query head, or to several adjacent ones (grouped queries)."""
    yield Equal(v, k)
    yield Equal(out, q)
    if q.size == k.size:
        yield Equal(q, k)
    else:
        yield Equal(q, Times((k, Fresh(q.size // k.size))))


def _attention(call: Call) -> Iterator[Statement]:
    """Shapes with heads before tokens. Several kernels have the same arguments."""
    q, k, v, mask, out = call["query"], call["key"], call["value"], named(call, *_MASKS), call.out
    yield Equal(q[-1], k[-1])
    yield Equal(k[-2], v[-2])
    yield Equal(out[-1], v[-1])
    yield Equal(out[-2], q[-2])
    grouped = bool(call["enable_gqa"]) and q.ndim > 2 and q.shape[-3] != k.shape[-3]
    if grouped:
        yield from _heads(q[-3], k[-3], v[-3], out[-3])
    leading = -3 if grouped else -2
    for value in (q, k, v):
        yield from broadcast(value.axes[:leading], out.axes[:leading])
    if mask is not None:
        yield from broadcast(mask.axes, (*out.axes[:-1], k[-2]))
    if "flash" in call.op:
        yield Balanced((q[-1], v[-1]), f"{call.op} needs queries and values of the same width")
    if call["is_causal"]:
        yield from pinned((q[-2], k[-2]), f"{call.op} masks what comes later, so its order matters")
    for value in call.outputs[1:]:
        yield from _further_result(value, (*out.axes[:-1], k[-2]), call)
    if call.op in _COUNTED:
        batch = out.axes[:-1]
        yield Work((*batch, k[-2], q[-1]))
        yield Work((*batch, k[-2], v[-1]))


def _further_result(value: Value, axes: tuple[Axis, ...], call: Call) -> Iterator[Statement]:
    """A further result: sums or weights of the softmax have axes of the output; anything else is pinned."""
    for length in (len(axes) - 1, len(axes)):
        if value.shape == tuple(axis.size for axis in axes[:length]):
            for before, after in zip(axes, value.axes, strict=False):
                yield Equal(before, after)
            return
    yield from pinned(value.axes, f"it is what {call.op} keeps for its gradient")


_COUNTED = {
    *("aten.scaled_dot_product_attention", "aten._scaled_dot_product_flash_attention"),
    *("aten._scaled_dot_product_efficient_attention", "aten._scaled_dot_product_cudnn_attention"),
    "aten._scaled_dot_product_attention_math",
}
"""Kernels whose work PyTorch's counter of FLOPs counts."""


def _attended(call: Call, tokens: int) -> list[Axis]:
    """Mixed axes: the softmax runs over the keys, and products of queries and keys are divided by the root of their width."""
    q, k, v = call["query"], call["key"], call["value"]
    return [q[-1], k[-1], k[tokens], v[tokens]]


def _tokens_first(call: Call) -> Iterator[Statement]:
    """Shapes with tokens before heads, as in the kernels below `scaled_dot_product_attention` and those of variable lengths."""
    q, k, v, bias = call["query"], call["key"], call["value"], named(call, "bias", "attn_bias")
    out = call["out"] if isinstance(call["out"], Value) else call.out
    yield Equal(q[-1], k[-1])
    yield Equal(out[-1], v[-1])
    yield from _heads(q[-2], k[-2], v[-2], out[-2])
    for before, after in zip(q.axes[:-2], out.axes[:-2], strict=True):
        yield Equal(before, after)
    for before, after in zip(k.axes[:-2], v.axes[:-2], strict=True):
        yield Equal(before, after)
    if q.ndim == 4 and q.shape[0] == k.shape[0]:
        yield Equal(q[0], k[0])
    if bias is not None:
        yield from broadcast(bias.axes, (*out.axes[:-3], out[-2], out[-3], k[-3]))
    others = [value for value in call.inputs if value not in (q, k, v, bias, out)]
    for value in (*others, *(value for value in call.outputs if value is not out)):
        yield from pinned(value.axes, f"{call.op} takes or keeps it beside the tokens")


def _projections(call: Call, x: Value, heads: int, blocks: Fresh) -> Iterator[Statement]:
    """One matrix projects to queries, keys and values, another one back; each of the three has the width of the tokens."""
    inner = Fresh(x.shape[-1] // blocks.size)
    stream, three = Times((blocks, inner)), Fresh(3)
    yield Pin(three, f"it counts the queries, keys and values of {call.op}")
    yield Named(blocks, heads)
    yield Named(stream, call["embed_dim"])
    yield Equal(x[-1], stream)
    yield Equal(call["qkv_weight"][0], Times((three, stream)))
    yield Equal(call["qkv_bias"][0], call["qkv_weight"][0])
    for axis in (call["qkv_weight"][1], *call["proj_weight"].axes, call["proj_bias"][0], call.out[-1]):
        yield Equal(axis, stream)
    for before, after in zip(x.axes[:-1], call.out.axes, strict=False):
        yield Equal(before, after)
    if isinstance(call["mask"], Value):
        yield from pinned((*call["mask"].axes, *x.axes[:-1]), f"{call.op} masks positions")


def _native_attention(call: Call) -> Iterator[Statement]:
    """Queries, keys and values of one shape. The attention weights are averaged over heads, or one for each head."""
    q, blocks = call["query"], Fresh(int(call["num_head"]))
    yield from _projections(call, q, call["num_head"], blocks)
    for name in ("key", "value"):
        yield from passed(call[name], q)
    tokens = (q[0], blocks, q[1], q[1])
    for value in call.outputs[1:]:
        if value.ndim in {3, 4}:
            for axis, target in zip(value.axes, tokens if value.ndim == 4 else (q[0], q[1], q[1]), strict=True):
                yield Equal(axis, target)
        else:
            yield from pinned(value.axes, f"{call.op} returns it beside the tokens")


def _encoder_layer(call: Call) -> Iterator[Statement]:
    x = call["src"]
    yield from _projections(call, x, call["num_heads"], Fresh(int(call["num_heads"])))
    for name in ("norm_weight_1", "norm_bias_1", "norm_weight_2", "norm_bias_2", "ffn_bias_2"):
        yield Equal(call[name][0], x[-1])
    wide, back = call["ffn_weight_1"], call["ffn_weight_2"]
    yield Equal(wide[1], x[-1])
    yield Equal(back[0], x[-1])
    for axis in (call["ffn_bias_1"][0], back[1]):
        yield Equal(axis, wide[0])


def _biased_heads(call: Call) -> Iterator[Statement]:
    """The split of one projection with its bias into queries, keys and values by head, on the fast path of nested tensors."""
    qkv, bias, blocks = call["qkv"], call["qkv_bias"], Fresh(int(call["num_heads"]))
    yield Named(blocks, call["num_heads"])
    three = Fresh(3)
    yield Pin(three, f"it counts the queries, keys and values of {call.op}")
    yield Equal(bias[0], qkv[-1])
    for out in call.outputs:
        yield Equal(qkv[-1], Times((three, blocks, out[-1])))
        yield Equal(out[1], blocks)
        yield Equal(out[0], qkv[0])
        yield Equal(out[2], qkv[1])


_PLAIN_MODIFIERS = {"_identity", "noop_mask"}
"""Functions of torch's `flex_attention` that change no score."""


def _flex(call: Call) -> Iterator[Statement]:
    """Functions may change scores by position and head: tokens are pinned, and heads where such a function is passed."""
    q, k, v, out = call["query"], call["key"], call["value"], call.out
    if any(value.ndim != 4 for value in (q, k, v, out)):
        yield from pin_all(call, f"{call.op} is understood for batches of heads only")
        return
    yield Equal(q[-1], k[-1])
    yield Equal(v[-1], out[-1])
    heads: list[Term] = [q[1], k[1]]
    yield from _heads(q[1], k[1], v[1], out[1])
    yield Equal(q[0], out[0])
    for value in (k, v):
        yield from broadcast(value.axes[:1], out.axes[:1])
    yield Equal(q[2], out[2])
    yield Equal(k[2], v[2])
    functions = [call["score_mod"], *(part for part in call["block_mask"] or () if callable(part))]
    if any(getattr(function, "__name__", "") not in _PLAIN_MODIFIERS for function in functions):
        yield from pinned(heads, f"a function that is given to {call.op} may tell heads apart")
    yield from pinned((q[2], k[2]), f"{call.op} masks it in blocks")
    for value in call.outputs[1:]:
        yield from _further_result(value, (*out.axes[:-1], k[2]), call)
    for value in call.inputs:
        if value not in (q, k, v):
            yield from pinned(value.axes, f"{call.op} takes it beside the tokens")


RULES: dict[str, Rule] = {
    **family(
        "scaled_dot_product_attention _scaled_dot_product_flash_attention _scaled_dot_product_flash_attention_for_cpu "
        "_scaled_dot_product_efficient_attention _scaled_dot_product_cudnn_attention _scaled_dot_product_attention_math "
        "_scaled_dot_product_attention_math_for_mps _scaled_dot_product_fused_attention_overrideable",
        _attention,
        "ATTENTION",
        mixing(lambda call: _attended(call, -2)),
    ),
    **family(
        "_flash_attention_forward _flash_attention_forward_no_dropout_inplace _efficient_attention_forward "
        "_cudnn_attention_forward",
        _tokens_first,
        "ATTENTION",
        mixing(lambda call: _attended(call, -3)),
    ),
    **family("_native_multi_head_attention", _native_attention, "MHA", Traits()),
    **family("_transformer_encoder_layer_fwd", _encoder_layer, "MHA", Traits()),
    **family("_transform_bias_rescale_qkv", _biased_heads, "RESHAPE", mixing(lambda call: [out[-1] for out in call.outputs])),
    "higher_order.flex_attention": Rule(_flex, "ATTENTION", mixing(lambda call: _attended(call, -2))),
}
