"""Rules of attention: queries, keys and values that one kernel takes together."""

from __future__ import annotations

from collections.abc import Iterator

from depgraph.equations import Call, Equal, Fresh, Rule, Statement, Times, Value, Work
from depgraph.rules.common import broadcast, family


def _attention(call: Call) -> Iterator[Statement]:
    q, k, v, mask, out = call["query"], call["key"], call["value"], call["attn_mask"], call.out
    yield Equal(q[-1], k[-1])
    yield Equal(k[-2], v[-2])
    yield Equal(out[-1], v[-1])
    yield Equal(out[-2], q[-2])
    yield from broadcast(q.axes[:-2], out.axes[:-2])
    shared = (k, v)
    if call["enable_gqa"] and q.ndim > 2 and q.shape[-3] != k.shape[-3]:
        heads = Times((k[-3], Fresh(q.shape[-3] // k.shape[-3])))
        yield Equal(q[-3], heads)
        yield Equal(v[-3], k[-3])
        for value in shared:
            yield from broadcast(value.axes[:-3], out.axes[:-3])
    else:
        for value in shared:
            yield from broadcast(value.axes[:-2], out.axes[:-2])
    if isinstance(mask, Value):
        yield from broadcast(mask.axes, (*out.axes[:-1], k[-2]))
    batch = out.axes[:-1]
    yield Work((*batch, k[-2], q[-1]))
    yield Work((*batch, k[-2], v[-1]))


RULES: dict[str, Rule] = {
    **family("scaled_dot_product_attention", _attention, "ATTENTION"),
}
