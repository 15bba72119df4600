"""Rules of Fourier transforms: positions along a transformed axis are mixed, other axes pass."""

from __future__ import annotations

from collections.abc import Iterator

from depgraph.equations import Call, Equal, Rule, Statement
from depgraph.rules.common import family, passed, pinned

_MIXED = "{} mixes its positions"


def _transform(call: Call) -> Iterator[Statement]:
    x, out = call["self"], call.out
    dims = {int(dim) % x.ndim for dim in call["dim"]}
    yield from passed(x, out, dims)
    for dim in dims:
        yield from pinned((x[dim], out[dim]), _MIXED.format(call.op))


def _short_time(call: Call) -> Iterator[Statement]:
    """`stft` and back: signals with or without a batch axis; frequencies, frames and samples stay."""
    x, out = call["self"], call.out
    batch = min(x.ndim, out.ndim) - 1
    for before, after in zip(x.axes[:batch], out.axes[:batch], strict=True):
        yield Equal(before, after)
    for value in (*call.inputs, out):
        yield from pinned(value.axes[batch if value in (x, out) else 0 :], _MIXED.format(call.op))


RULES: dict[str, Rule] = {
    **family("_fft_c2c _fft_r2c _fft_c2r", _transform, "MATMUL"),
    **family("stft istft", _short_time, "MATMUL"),
}
