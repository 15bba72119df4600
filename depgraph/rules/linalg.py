"""Rules of linear algebra: matrices as a whole, diagonals, blocks."""

from __future__ import annotations

from collections.abc import Iterator

from depgraph.rules.common import broadcast, family, mixes_all, named, passed, pinned
from depgraph.solving.statements import Axis, Call, Equal, Fresh, Pin, Plus, Rule, Statement, Term, Value

_WHOLE = "{} works on a matrix as a whole"


def _batched(value: Value, batch: tuple[Axis, ...], reason: str) -> Iterator[Statement]:
    """Leading axes with the sizes of the batch are those of the batch; the others are pinned."""
    shared = len(batch) if value.shape[: len(batch)] == tuple(axis.size for axis in batch) else 0
    yield from broadcast(value.axes[:shared], batch[:shared])
    yield from pinned(value.axes[shared:], reason)


def _matrix(call: Call) -> Iterator[Statement]:
    """A decomposition or a function of matrices: their axes are pinned, batch axes pass."""
    batch = call.inputs[0].axes[:-2]
    for value in (*call.inputs, *call.outputs):
        yield from _batched(value, batch, _WHOLE.format(call.op))


def _solve(call: Call) -> Iterator[Statement]:
    """Systems of equations: the matrix is pinned. Columns of right-hand sides pass where the matrix is on the left."""
    reason = _WHOLE.format(call.op)
    right, out = named(call, "B", "self"), call.out
    assert right is not None, "a system has a right-hand side"
    batch = out.axes[:-2]
    side_by_side = right.shape == out.shape and out.ndim > 1 and call["left"] is not False
    side_by_side = side_by_side and all(value.ndim <= out.ndim for value in call.inputs)
    for value in (*call.inputs, *call.outputs):
        if side_by_side and value in (right, out):
            yield from broadcast(value.axes[:-2], batch)
            yield Pin(value[-2], reason)
        else:
            yield from _batched(value, batch, reason)
    if side_by_side:
        yield Equal(right[-1], out[-1])


def _trace(call: Call) -> Iterator[Statement]:
    rows, columns = call["self"].axes
    if rows.size == columns.size:
        yield Equal(rows, columns)
    else:
        yield from pinned((rows, columns), f"{call.op} ends before it does")


def _diagonal_of(x: Value, diagonal: Value, call: Call) -> Iterator[Statement]:
    """A diagonal of two axes of `x` is the last axis of `diagonal`; the others pass."""
    names = ("dim1", "dim2") if call["dim1"] is not None else ("axis1", "axis2")
    dims = [call[name] if call[name] is not None else default for name, default in zip(names, (0, 1), strict=True)]
    one, other = (int(dim) % x.ndim for dim in dims)
    rest = [axis for dim, axis in enumerate(x.axes) if dim not in (one, other)]
    for axis, target in zip(rest, diagonal.axes, strict=False):
        yield Equal(axis, target)
    if not call["offset"] and x.shape[one] == x.shape[other]:
        yield Equal(x[one], x[other])
        yield Equal(x[one], diagonal[-1])
    else:
        yield from pinned((x[one], x[other], diagonal[-1]), f"{call.op} takes a part of it")


def _diagonal(call: Call) -> Iterator[Statement]:
    yield from _diagonal_of(call["self"], call.out, call)


def _diagonal_scatter(call: Call) -> Iterator[Statement]:
    yield from passed(call["self"], call.out)
    yield from _diagonal_of(call["self"], call["src"], call)


def _diag_embed(call: Call) -> Iterator[Statement]:
    """The last axis becomes the diagonal of two. With an offset, zeros are before it in one axis and behind it in the other."""
    x, out, offset = call["self"], call.out, int(call["offset"] or 0)
    one, other = int(call["dim1"]) % out.ndim, int(call["dim2"]) % out.ndim
    for axis, target in zip(x.axes[:-1], (axis for d, axis in enumerate(out.axes) if d not in (one, other)), strict=True):
        yield Equal(axis, target)
    zeros = Fresh(abs(offset)), Fresh(abs(offset))
    for blank in zeros if offset else ():
        yield Pin(blank, f"{call.op} fills it with zeros")
    rows, columns = Plus((x[-1], zeros[0])), Plus((zeros[1], x[-1]))
    if offset < 0:
        rows, columns = columns, rows
    yield Equal(out[one], rows)
    yield Equal(out[other], columns)


def _block_diagonal(call: Call) -> Iterator[Statement]:
    """The rows of all matrices laid end to end, and so their columns; a vector is one row."""
    tensors: list[Value] = list(call["tensors"])
    for dim in (0, 1):
        parts: list[Term] = []
        for value in tensors:
            at = dim - (2 - value.ndim)
            parts.append(value[at] if at >= 0 else Fresh(1))
        yield Equal(call.out[dim], Plus(tuple(parts)))


def _combined(call: Call) -> Iterator[Statement]:
    """Weighted sums of the tensors along the first axis, one for each row of coefficients."""
    x, coefficients, out = call["input"], call["coefficients"], call.out
    yield Equal(coefficients[1], x[0])
    yield Equal(coefficients[0], out[0])
    yield from passed(x, out, {0})


RULES: dict[str, Rule] = {
    **family("_compute_linear_combination", _combined, "MATMUL"),
    **family(
        "_linalg_det _linalg_slogdet _linalg_eigh _linalg_eigvals linalg_eig linalg_eigvals _linalg_svd linalg_cholesky_ex "
        "cholesky cholesky_inverse linalg_inv_ex linalg_qr geqrf linalg_householder_product ormqr linalg_lu "
        "linalg_lu_factor_ex lu_unpack linalg_ldl_factor_ex linalg_matrix_exp linalg_pinv linalg_lstsq",
        _matrix,
        "MATMUL",
    ),
    **family(
        "linalg_solve_ex _linalg_solve_ex linalg_lu_solve cholesky_solve _cholesky_solve_helper linalg_solve_triangular "
        "triangular_solve linalg_ldl_solve",
        _solve,
        "MATMUL",
    ),
    **family("trace", _trace, "REDUCE", mixes_all),
    **family("diagonal diagonal_copy", _diagonal, "SLICE"),
    **family("diagonal_scatter", _diagonal_scatter, "SLICE"),
    **family("diag_embed", _diag_embed, "EXPAND"),
    **family("block_diag", _block_diagonal, "CONCAT"),
}
