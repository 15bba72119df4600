"""Products, linear algebra and Fourier transforms, each between a producer and a consumer of channels: laws and layouts."""

import pytest
import torch
from torch.nn import functional as F

from tests.rules.test_operators import IMAGE, ROWS, SEQUENCE, TOKENS, cases, check, on, why

aten = torch.ops.aten


def gram(x):
    """A matrix that can be inverted, of the size of the tokens."""
    return x @ x.transpose(1, 2) + torch.eye(x.shape[1], dtype=x.dtype)


@cases([
    ("kron outside", lambda x: torch.kron(x, x.new_ones(1, 2)), "a8 -> a8 x 2", on(ROWS)),
    ("kron inside", lambda x: torch.kron(x.new_ones(2), x), "a8 -> 2 x a8", on(ROWS)),
    ("inner", lambda x: torch.inner(torch.inner(x, x), x.T), "a8 -> a8", on(ROWS)),
    ("tensordot", lambda x: torch.tensordot(x, x.new_ones(6, 3), ([2], [0])).mean(-1), "a8 -> a8"),
    ("tensordot over channels", lambda x: x * torch.tensordot(x, x, ([1, 0], [1, 0])).mean(), "a8 -> a8"),
    ("addbmm", lambda x: x @ torch.addbmm(x.mean(0).T @ x.mean(0), x.transpose(1, 2), x), "a8 -> a8",
     on(TOKENS)),
    ("addr", lambda x: torch.addr(x, x.mean(1), x.mean(0)), "a8 -> a8", on(ROWS)),
    ("baddbmm", lambda x: torch.baddbmm(x, x @ x.transpose(1, 2), x), "a8 -> a8", on(TOKENS)),
    ("addmm with an activation", lambda x: aten._addmm_activation(x.new_zeros(x.shape[1]), x @ x.T, x), "a8 -> a8", on(ROWS)),
    ("chain of products", lambda x: x * torch.linalg.multi_dot([x.T, x]).mean(), "8 -> 8",
     on(ROWS, why="literal 8")),
    ("distances of rows", lambda x: x * torch.cdist(x, x).mean(), "a8 -> a8", on(TOKENS)),
    ("pairs of rows", lambda x: x * torch.pdist(x).mean(), "a8 -> a8", on(ROWS)),
    ("cosine_similarity", lambda x: x * F.cosine_similarity(x, x.relu() + 1, dim=1)[:, None], "a8 -> a8"),
    ("pairwise_distance", lambda x: x * F.pairwise_distance(x, x.relu())[:, None], "a8 -> a8", on(ROWS)),
    ("trilinear", lambda x: aten._trilinear(x, x, x, [], [], [], [], 1), "a8 -> a8", on(ROWS)),
])  # fmt: skip
def test_products(operator, expected, options):
    """Contracted axes are equal, the others pass; a Kronecker product is a product of spaces."""
    check(operator, expected, **options)


def test_tensordot_ties_both_operands():
    """Negative control for the layouts above: halves that are contracted with each other are one group."""
    check(lambda x: x * torch.tensordot(*x.chunk(2, 1), ([0, 1, 2, 3], [0, 1, 2, 3])), "a4 + a4 -> a4 + a4")


@cases([
    ("inverse of space", lambda x: torch.linalg.inv(x + 9 * torch.eye(6)), "a8 -> a8"),
    ("inverse of channels", lambda x: x @ torch.linalg.inv(x.transpose(1, 2) @ x + torch.eye(8)), "8 -> 8",
     on(TOKENS, why="works on a matrix as a whole")),
    ("solve", lambda x: torch.linalg.solve(gram(x), x), "a8 -> a8", on(TOKENS)),
    ("solve in batches of channels", lambda x: torch.linalg.solve(x + 9 * torch.eye(6, dtype=x.dtype), x), "a8 -> a8"),
    ("decompose channels alone", lambda x: x * torch.linalg.lu_factor(x)[0].mean() * torch.linalg.inv_ex(x)[1][..., None, None],
     "a8 -> a8"),
    ("solve triangular", lambda x: torch.linalg.solve_triangular(gram(x).tril(), x, upper=False), "a8 -> a8", on(TOKENS)),
    ("solve from the right", lambda x: torch.linalg.solve(gram(x), x.transpose(1, 2), left=False).transpose(1, 2), "8 -> 8",
     on(TOKENS, why="works on a matrix as a whole")),
    ("cholesky_solve", lambda x: torch.cholesky_solve(x, torch.linalg.cholesky(gram(x))), "a8 -> a8", on(TOKENS)),
    ("lu_solve", lambda x: torch.linalg.lu_solve(*torch.linalg.lu_factor(gram(x)), x), "a8 -> a8", on(TOKENS)),
    ("svd", lambda x: x * torch.linalg.svdvals(x).mean(-1)[..., None, None], "a8 -> a8"),
    ("qr", lambda x: torch.linalg.qr(x)[0], "a8 -> a8"),
    ("det", lambda x: x * torch.linalg.det(x)[..., None, None], "a8 -> a8"),
    ("eigh", lambda x: x * torch.linalg.eigvalsh(x)[..., None, :], "a8 -> a8"),
    ("matrix_norm", lambda x: x * torch.linalg.matrix_norm(x)[..., None, None], "a8 -> a8"),
    ("nuclear norm", lambda x: x * torch.linalg.matrix_norm(x, "nuc")[..., None, None], "a8 -> a8"),
    ("matrix_power", lambda x: torch.linalg.matrix_power(x, 3), "a8 -> a8"),
    ("matrix_exp", torch.matrix_exp, "a8 -> a8"),
    ("trace", lambda x: x * torch.trace(x.T @ x), "a8 -> a8", on(ROWS)),
    ("diagonal of space", lambda x: x.diagonal(0, 2, 3).mean(-1), "a8 -> a8"),
    ("diagonal of channels", lambda x: (x.T @ x).diagonal()[None], "a8 -> a8", on(ROWS)),
    ("a diagonal aside", lambda x: (x.T @ x).diagonal(1)[None], "8 -> 7", on(ROWS, why="takes a part of it")),
    ("diagonal_scatter", lambda x: x.diagonal_scatter(x[..., 0], 0, 2, 3), "a8 -> a8"),
    ("diag_embed", lambda x: torch.diag_embed(x).sum(-1), "a8 -> a8", on(ROWS)),
    ("diag_embed above", lambda x: torch.diag_embed(x, 1).sum(-1), "a8 -> a8 + 1", on(ROWS)),
    ("diag_embed below", lambda x: torch.diag_embed(x, -2).sum(-2), "a8 -> a8 + 2", on(ROWS)),
    ("diag_embed below, rows", lambda x: torch.diag_embed(x, -2).sum(-1), "a8 -> 2 + a8", on(ROWS)),
    ("block_diag", lambda x: torch.block_diag(x, x), "a8 -> a8 + a8", on(ROWS)),
    ("block_diag of vectors", lambda x: torch.block_diag(x.mean(0), x), "a8 -> a8 + a8", on(ROWS)),
    ("meshgrid xy", lambda x: x * torch.meshgrid(x.mean(0), x.mean(1), indexing="xy")[0], "a8 -> a8", on(ROWS)),
    ("meshgrid ij", lambda x: x * torch.meshgrid(x.mean(1), x.mean(0), indexing="ij")[1], "a8 -> a8", on(ROWS)),
    *((f"rot90 by {k}", lambda x, k=k: torch.rot90(x, k, (1, 2)).mean(1 if k % 2 else 2), f"a8 -> {text}", on(SEQUENCE))
      for k, text in ((-1, "~a8"), (0, "a8"), (1, "a8"), (2, "~a8"), (3, "~a8"))),
])  # fmt: skip
def test_matrices(operator, expected, options):
    """Functions of matrices keep the matrix; batches pass, and so do right-hand sides; diagonals and blocks are exact."""
    check(operator, expected, **options)


@cases([
    *((name, lambda x, name=name: getattr(torch.fft, name)(x, dim=2).abs().mean(-1), "a8 -> a8", {})
      for name in ("fft", "ifft", "rfft", "irfft", "hfft", "ihfft")),
    ("fft2 and back", lambda x: torch.fft.ifft2(torch.fft.fft2(x)).real, "a8 -> a8"),
    ("fftn", lambda x: torch.fft.fftn(x, dim=(2, 3)).imag, "a8 -> a8"),
    ("to another length", lambda x: torch.fft.irfft(torch.fft.rfft(x, n=8, dim=-1), n=6), "a8 -> a8"),
    ("of channels", lambda x: torch.fft.fft(x, dim=1).real, "8 -> 8", why("aten._fft_r2c mixes its positions")),
    ("back over channels", lambda x: torch.fft.ifft(x.to(torch.complex64), dim=1).real.to(x.dtype), "8 -> 8",
     why("aten._fft_c2c mixes its positions")),
    ("fftshift of space", lambda x: torch.fft.fftshift(x, dim=(2, 3)), "a8 -> a8"),
    ("fftshift of channels", lambda x: torch.fft.fftshift(x, dim=1), "8 -> 8", why("turns it by half of its size")),
    ("ifftshift of all", lambda x: torch.fft.ifftshift(x), "8 -> 8", why("turns it by half of its size")),
    ("as complex numbers", lambda x: torch.view_as_real(torch.view_as_complex(torch.stack([x, x], -1))).sum(-1), "a8 -> a8"),
    ("frequencies", lambda x: x * torch.fft.rfftfreq(10)[:6], "a8 -> a8"),
])  # fmt: skip
def test_spectra(operator, expected, options):
    """Transformed axes are pinned, the others pass."""
    check(operator, expected, **options)


SIGNAL = (2, 3, 32)


@pytest.mark.parametrize("back", [False, True])
def test_short_time_transforms(back):
    """Channels that are folded into the batch of signals come out of it again."""

    def operator(x):
        window = torch.ones(4, dtype=x.dtype)
        y = torch.stft(x.flatten(0, 1), 4, window=window, return_complex=True)
        if back:
            return torch.istft(y, 4, window=window).view(x.shape[0], -1, x.shape[2])
        return y.abs().mean((1, 2)).view(x.shape[0], -1)

    check(operator, "a8 -> a8", SIGNAL)


def test_written_strides_are_pinned():
    """A view by strides that no size gives reads other elements at any other size; by the tensor's own it passes channels."""
    check(lambda x: x.as_strided(x.shape, x.stride()), "a8 -> a8", IMAGE)
    plain = lambda x: tuple(map(int, x.stride()))  # noqa: E731
    check(lambda x: x.as_strided(x.shape, plain(x)), "8 -> 8", IMAGE, why="reads memory by strides")
