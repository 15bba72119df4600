"""Rules of Fourier transforms: positions along a transformed axis are mixed, other axes pass."""

from __future__ import annotations

from collections.abc import Iterator

from depgraph.rules.common import family, passed, pinned
from depgraph.solving.statements import Call, Equal, Rule, Statement

_MIXED = "{} mixes its positions"


def _transform(call: Call) -> Iterator[Statement]:
    x, out = call["self"], call.out
    dims = {int(dim) % x.ndim for dim in call["dim"]}
    yield from passed(x, out, dims)
    for dim in dims:
        yield from pinned((x[dim], out[dim]), _MIXED.format(call.op))


def _shift(call: Call) -> Iterator[Statement]:
    """The halves of an axis change places, and where it is halved depends on its size: it is pinned."""
    x, out, argument = call["self"], call.out, call["dim"]
    dims = set(range(x.ndim)) if argument is None else {int(dim) % x.ndim for dim in argument}
    yield from passed(x, out, dims)
    for dim in dims:
        yield from pinned((x[dim], out[dim]), f"{call.op} turns it by half of its size")


def _short_time(call: Call) -> Iterator[Statement]:
    """`stft` and its inverse, with or without a batch axis; frequencies, frames and samples are pinned."""
    x, out = call["self"], call.out
    batch = min(x.ndim, out.ndim) - 1
    for before, after in zip(x.axes[:batch], out.axes[:batch], strict=True):
        yield Equal(before, after)
    for value in (*call.inputs, out):
        yield from pinned(value.axes[batch if value in (x, out) else 0 :], _MIXED.format(call.op))


RULES: dict[str, Rule] = {
    **family("_fft_c2c _fft_r2c _fft_c2r", _transform, "MATMUL"),
    **family("fft_fftshift fft_ifftshift", _shift, "SLICE"),
    **family("stft istft", _short_time, "MATMUL"),
}
