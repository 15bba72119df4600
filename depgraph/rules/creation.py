"""Rules of operators that make new tensors, and of those that only query tensors."""

from __future__ import annotations

from collections.abc import Iterator

from depgraph.rules.common import broadcast, elementwise, family, mixes_all, table
from depgraph.solving.statements import Call, Equal, Named, Pin, Rule, Statement, Traits, Value


def _created(call: Call) -> Iterator[Statement]:
    sizes = next((call[name] for name in ("size", "shape") if call[name] is not None), ())
    if len(sizes) == call.out.ndim:
        for axis, size in zip(call.out.axes, sizes, strict=True):
            yield Named(axis, size)
    else:
        for axis in call.out.axes:
            yield Pin(axis, f"it is made by {call.op}")


def _positions(call: Call) -> Iterator[Statement]:
    for value in call.outputs:
        for axis in value.axes:
            yield Pin(axis, f"its values are the positions that {call.op} counts")


def _eye(call: Call) -> Iterator[Statement]:
    rows, columns = call.out.axes
    yield Named(rows, call["n"])
    if call["m"] is not None:
        yield Named(columns, call["m"])
    if rows.size == columns.size:
        yield Equal(rows, columns)
    else:
        for axis in call.out.axes:
            yield Pin(axis, f"{call.op} makes a matrix that is not square")


def _drawn(call: Call) -> Iterator[Statement]:
    """Random numbers with means and deviations from tensors, or of a given size."""
    yield from elementwise(call) if call.inputs else _created(call)


def _unrelated(call: Call) -> Iterator[Statement]:
    """The result has no axis of an operand."""
    yield from ()


def _compared(call: Call) -> Iterator[Statement]:
    """Comparisons of whole tensors return one value; their operands match in shape."""
    values: tuple[Value, ...] = call.inputs
    for value in values[1:]:
        yield from broadcast(value.axes, values[0].axes)


_POSITIONS = """
    arange linspace logspace scalar_tensor range tril_indices triu_indices fft_fftfreq fft_rfftfreq
    bartlett_window blackman_window hamming_window hann_window kaiser_window
"""

_QUERIES = """
    _linalg_check_errors
    _assert_async _assert_tensor_metadata _assert_scalar _functional_assert_async _functional_assert_scalar sym_size
    is_nonzero sym_constrain_range sym_constrain_range_for_size _functional_sym_constrain_range
    _functional_sym_constrain_range_for_size _is_all_true _is_any_true _has_same_storage_numel is_same_size is_set_to
    is_pinned is_coalesced qscheme q_scale q_zero_point q_per_channel_axis _fused_sdp_choice _print record_stream _nnz
    dense_dim sparse_dim _dimI _dimV hash_tensor _make_dep_token _nested_get_min_seqlen _nested_get_max_seqlen
"""

RULES: dict[str, Rule] = {
    **family(
        "zeros ones full empty new_zeros new_ones new_full new_empty empty_permuted _efficientzerotensor",
        _created,
        "CREATE",
    ),
    **family("rand randn randint", _created, "CREATE", Traits((), draws=True)),
    **family(_POSITIONS, _positions, "CREATE"),
    **family("randperm", _positions, "CREATE", Traits((), draws=True)),
    **family("eye", _eye, "CREATE"),
    **family("normal", _drawn, "ELEMENTWISE", Traits((), draws=True)),
    **table("empty_strided new_empty_strided", "{} takes strides, which no other size follows"),
    **family(_QUERIES, _unrelated, "ELEMENTWISE", mixes_all),
    **family("equal allclose", _compared, "ELEMENTWISE", mixes_all),
}
