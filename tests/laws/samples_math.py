"""Sample calls of losses, linear algebra, spectra, distances, counts and selections: operator -> forms."""

import torch

from tests.laws.drawing import call
from tests.laws.samples import dims_of, whole


def _shape_and_matrix(d):
    n = d.size()
    return n, d.tensor(d.size(), n, n)


def _matrix(name, *more, prepare=lambda x: x, **kwargs):
    """A function of square matrices, in a batch."""
    return [lambda d: call(name, prepare(_shape_and_matrix(d)[1]), *more, **kwargs)]


def _definite(x):
    """Symmetric positive definite matrices."""
    return x @ x.mT + 2 * torch.eye(x.shape[-1], dtype=x.dtype)


def _factored(x):
    return torch.linalg.cholesky(_definite(x))


def _triangular(x):
    return x.tril() + 2 * torch.eye(x.shape[-1], dtype=x.dtype)


def _system(name, *more, prepare=_definite, swapped=False, factors=None, **kwargs):
    """Systems of equations with right-hand sides side by side."""

    def form(d):
        n, x = _shape_and_matrix(d)
        right = d.tensor(x.shape[0], n, d.size())
        left = factors(prepare(x)) if factors else (prepare(x),)
        operands = (right, *left) if swapped else (*left, right)
        return call(name, *operands, *more, **kwargs)

    return [form]


def _lu(x):
    return torch.linalg.lu_factor(x)


def _ldl(x):
    return torch.linalg.ldl_factor(x)


def _qr(x):
    return torch.geqrf(x)


OBSERVERS = ("_fused_moving_avg_obs_fq_helper", "_fused_moving_avg_obs_fq_helper_functional")


_EVERY = (("args[0]", 0), ("args[0]", 1))


def _observed(name, each, observes=1):
    """Rounded to a scale that follows the least and the largest value of all, or of each row."""

    def form(d):
        n, c = d.shape(2, 2)
        k = n if each else 1
        states = torch.zeros(k) - 1, torch.ones(k), torch.full((k,), 0.1), torch.zeros(k, dtype=torch.int32)
        over = (_EVERY[1:] if each else _EVERY) if observes else ()
        switches = torch.tensor([observes]), torch.tensor([1])
        return call(name, d.tensor(n, c).float(), *switches, *states, 0.01, -128, 127, 0, each, over=over)

    return form


def _looked_up(d):
    return d.tensor(*d.shape()), torch.linspace(-1, 1, 6, dtype=torch.float64)


def _compared(name, *more, kind="float"):
    """A loss of predictions against targets of the same shape: element by element, averaged, or summed."""

    def form(d, way):
        shape = d.shape()
        over = tuple(("args[0]", dim) for dim in range(len(shape))) if way else ()
        return call(name, d.tensor(*shape, kind=kind), d.tensor(*shape, kind=kind), *more, way, over=over)

    return [lambda d, way=way: form(d, way) for way in (0, 1, 2)]


def _classed(name, *, spatial=0):
    """A loss of scores by class; targets number the classes."""

    def form(d):
        n, classes = d.size(), 6
        around = [4] * spatial
        weight = d.tensor(classes, kind="unit") if d.flag() else None
        scores = torch.log_softmax(d.tensor(n, classes, *around), 1)
        way = d.integers(0, 2)
        over = tuple(("args[0]", dim) for dim in (0, *range(2, scores.ndim))) if way else ()
        return call(name, scores, d.below(classes, n, *around), weight, way, -100, over=over)

    return [form]


LOSS_ROWS = {
    **{name: _compared(name) for name in ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss",
        "soft_margin_loss")},
    "binary_cross_entropy": _compared("binary_cross_entropy", None, kind="unit"),
    "binary_cross_entropy_with_logits": [
        *_compared("binary_cross_entropy_with_logits", None, None),
        lambda d: (lambda n, c: call(
            "binary_cross_entropy_with_logits", d.tensor(n, c), d.tensor(n, c), d.tensor(c), d.tensor(c), 0))(*d.shape(2, 2)),
    ],
    "kl_div": _compared("kl_div", kind="unit"),
    "poisson_nll_loss": _compared("poisson_nll_loss", True, False, 1e-8, kind="unit"),
    "cross_entropy_loss": [
        *_classed("cross_entropy_loss"), *_classed("cross_entropy_loss", spatial=1),
        lambda d: (lambda s: call("cross_entropy_loss", d.tensor(*s), d.tensor(*s, kind="unit"), None, 0))(d.shape(2, 3)),
    ],
    "nll_loss": _classed("nll_loss"),
    "nll_loss2d": _classed("nll_loss2d", spatial=2),
    "nll_loss_nd": _classed("nll_loss_nd") + _classed("nll_loss_nd", spatial=1),
    "nll_loss_forward": _classed("nll_loss_forward"),
    "nll_loss2d_forward": _classed("nll_loss2d_forward", spatial=2),
    "multi_margin_loss": [lambda d: (lambda n: call("multi_margin_loss", d.tensor(n, 6), d.below(6, n), 1, 1.0, None,
        0))(d.size())],
    **{
        name: [lambda d, name=name: (lambda n: call(name, d.tensor(n, 6), d.below(6, n, 6), 0))(d.size())]
        for name in ("multilabel_margin_loss", "multilabel_margin_loss_forward")
    },
}  # fmt: skip

LINEAR_ROWS = {
    **{
        name: _matrix(name)
        for name in (
            *("_linalg_det", "_linalg_slogdet", "_linalg_eigvals", "linalg_eig", "linalg_eigvals", "_linalg_svd",
                "linalg_inv_ex"),
            *("linalg_qr", "geqrf", "linalg_lu", "linalg_lu_factor_ex", "linalg_matrix_exp"),
        )
    },
    **{name: _matrix(name, prepare=_definite) for name in ("_linalg_eigh", "linalg_cholesky_ex", "cholesky",
        "linalg_ldl_factor_ex")},
    "cholesky_inverse": _matrix("cholesky_inverse", prepare=_factored),
    "linalg_pinv": _matrix("linalg_pinv", 1e-9),
    "linalg_householder_product": [lambda d: call("linalg_householder_product", *_qr(_shape_and_matrix(d)[1]))],
    "ormqr": [lambda d: (lambda x: call("ormqr", *_qr(x), d.tensor(*x.shape)))(_shape_and_matrix(d)[1])],
    "lu_unpack": [lambda d: call("lu_unpack", *_lu(_shape_and_matrix(d)[1]))],
    "linalg_lstsq": _system("linalg_lstsq", driver="gelsd"),
    "linalg_solve_ex": _system("linalg_solve_ex"),
    "_linalg_solve_ex": _system("_linalg_solve_ex"),
    "linalg_lu_solve": _system("linalg_lu_solve", factors=_lu),
    "linalg_ldl_solve": _system("linalg_ldl_solve", factors=_ldl),
    "cholesky_solve": _system("cholesky_solve", prepare=_factored, swapped=True),
    "_cholesky_solve_helper": _system("_cholesky_solve_helper", False, prepare=_factored, swapped=True),
    "linalg_solve_triangular": _system("linalg_solve_triangular", prepare=_triangular, upper=False),
    "triangular_solve": _system("triangular_solve", False, prepare=_triangular, swapped=True),
    "trace": [lambda d: (lambda n: call("trace", d.tensor(n, n)))(d.size()), lambda d: call("trace", d.tensor(3, 5))],
    **{
        name: [
            lambda d, name=name: (lambda n: call(name, d.tensor(n, n, d.size())))(d.size()),
            lambda d, name=name: (lambda n: call(name, d.tensor(n, d.size(), n), 0, 0, -1))(d.size()),
            lambda d, name=name: call(name, d.tensor(4, 6), 1),
        ]
        for name in ("diagonal", "diagonal_copy")
    },
    "diagonal_scatter": [
        lambda d: (lambda n: call("diagonal_scatter", d.tensor(n, n), d.tensor(n)))(d.size()),
        lambda d: call("diagonal_scatter", d.tensor(4, 6), d.tensor(4), 1),
    ],
    "diag_embed": [lambda d: call("diag_embed", d.tensor(*d.shape(1, 2)), d.integers(-1, 1))],
    "block_diag": [lambda d: call("block_diag",
        [d.tensor(*d.shape(2, 2)), d.tensor(*d.shape(1, 1)), d.tensor(*d.shape(2, 2))])],
    "addbmm": [lambda d: (lambda b, m, k,
        n: call("addbmm", d.tensor(m, n), d.tensor(b, m, k), d.tensor(b, k, n)))(*d.shape(4, 4))],
    "addr": [lambda d: (lambda m, n: call("addr", d.tensor(m, n), d.tensor(m), d.tensor(n)))(*d.shape(2, 2))],
    "_addmm_activation": [
        lambda d: (lambda m, k, n: call("_addmm_activation", d.tensor(n), d.tensor(m, k), d.tensor(k, n)))(*d.shape(3, 3))
    ],
    "_trilinear": [
        lambda d: (lambda n, a, b, c: call(
            "_trilinear", d.tensor(n, a), d.tensor(c, a, b), d.tensor(n, b), [1, 3], [0], [1, 2], [2, 3]))(*d.shape(4, 4))
    ],
    "cdist": [lambda d: (lambda b, m, n, k: call("cdist", d.tensor(b, m, k), d.tensor(b, n, k)))(*d.shape(4, 4))],
    "_cdist_forward": [
        lambda d: (lambda b, m, n, k: call("_cdist_forward", d.tensor(b, m, k), d.tensor(b, n, k), 1.0, None))(*d.shape(4, 4))
    ],
    "_euclidean_dist": [lambda d: (lambda m, n, k: call("_euclidean_dist", d.tensor(m, k), d.tensor(n, k)))(*d.shape(3, 3))],
    "pdist": [lambda d: call("pdist", d.tensor(*d.shape(2, 2)))],
    "_pdist_forward": [lambda d: call("_pdist_forward", d.tensor(*d.shape(2, 2)))],
    "dist": [lambda d: (lambda s: call("dist", d.tensor(*s), d.tensor(*s)))(d.shape())],
    "linalg__powsum": [dims_of("linalg__powsum", 2, empty=False)],
    "_aminmax": [whole("_aminmax")],
    "_logcumsumexp": [lambda d: (lambda x: call("_logcumsumexp", x, d.dim(x.ndim)))(d.tensor(*d.shape()))],
    "_fft_c2c": [lambda d: call("_fft_c2c", d.tensor(*d.shape(2, 3), kind="complex"), [1], 0, d.flag())],
    "_fft_r2c": [lambda d: call("_fft_r2c", d.tensor(*d.shape(2, 3)), [1], 0, d.flag())],
    "_fft_c2r": [lambda d: call("_fft_c2r", d.tensor(d.size(), 4, kind="complex"), [1], 0, 6)],
    "stft": [lambda d: call("stft", d.tensor(d.size(), 12), 4, 2, None, torch.ones(4, dtype=torch.float64),
        return_complex=True)],
    "istft": [
        lambda d: call("istft", d.tensor(d.size(), 3, 6, kind="complex"), 4, 2, None, torch.ones(4, dtype=torch.float64),
            length=8)
    ],
}  # fmt: skip

SELECTION_ROWS = {
    "rot90": [
        lambda d: call("rot90", d.tensor(*d.shape(2, 3)), d.integers(-1, 4), [0, 1]),
        lambda d: call("rot90", d.tensor(3, 4, 5), 1, [2, 0]),
    ],
    "meshgrid": [lambda d: call("meshgrid", [d.tensor(d.size()) for _ in range(d.integers(2, 3))])],
    "select_scatter": [
        lambda d: (lambda n, m: call("select_scatter", d.tensor(n, m), d.tensor(n), 1, d.choice([0, 1, -1])))(*d.shape(2, 2))
    ],
    "slice_scatter": [
        lambda d: (lambda n: call("slice_scatter", d.tensor(n, 9), d.tensor(n, 4), 1, 3, 7))(d.size()),
        lambda d: (lambda n: call("slice_scatter", d.tensor(n, 9), d.tensor(n, 3), 1, None, None, 3))(d.size()),
    ],
    "masked_select": [lambda d: (lambda s: call("masked_select", d.tensor(*s), d.tensor(*s) > 0))(d.shape())],
    "masked_scatter": [lambda d: (lambda s: call("masked_scatter", d.tensor(*s), d.tensor(*s) > 0, d.tensor(150)))(d.shape())],
    "nonzero": [lambda d: call("nonzero", d.tensor(*d.shape()))],
    "nonzero_static": [lambda d: call("nonzero_static", d.tensor(*d.shape()), size=4)],
    "argwhere": [lambda d: call("argwhere", d.tensor(*d.shape()))],
    "_unique2": [lambda d: call("_unique2", d.tensor(*d.shape()), True, True, True)],
    "_unique": [lambda d: call("_unique", d.tensor(*d.shape()), True, True)],
    "unique_dim_consecutive": [lambda d: call("unique_dim_consecutive", d.tensor(*d.shape(2, 2)), 0, True, True)],
    "unique_dim": [lambda d: call("unique_dim", d.tensor(*d.shape(2, 2)), 0, True, True, True)],
    "unique_consecutive": [lambda d: call("unique_consecutive", d.tensor(*d.shape()), True, True)],
    "take": [lambda d: call("take", d.tensor(3, 4), d.below(12, *d.shape()))],
    "put": [lambda d: (lambda n: call("put", d.tensor(3, 4), d.distinct(12, n), d.tensor(n)))(d.size())],
    "bucketize": [lambda d: call("bucketize.Tensor", *_looked_up(d))],
    "searchsorted": [
        lambda d: (lambda x, bounds: call("searchsorted.Tensor", bounds, x))(*_looked_up(d)),
        lambda d: (lambda n: call("searchsorted.Tensor", d.tensor(n, 5).sort().values, d.tensor(n, 3)))(d.size()),
    ],
    "isin": [lambda d: call("isin.Tensor_Tensor", d.tensor(*d.shape(), kind="int"), torch.tensor([1, 4, 5]))],
    "bincount": [lambda d: (lambda n: call("bincount", d.below(6, n), d.tensor(n)))(d.size())],
    "histc": [lambda d: call("histc", d.tensor(d.size(), d.size()), 5, -1.5, 1.5, over=_EVERY)],
    "histogram": [
        lambda d: call(
            "histogram.bins_tensor", d.tensor(3, d.size()), torch.linspace(-1.5, 1.5, 5, dtype=torch.float64), over=_EVERY)
    ],
    "multinomial": [lambda d: call("multinomial", d.tensor(d.size(), 6, kind="unit"), 4, True, over=None)],
    "segment_reduce": [lambda d: call("segment_reduce", d.tensor(6, d.size()), "sum", lengths=torch.tensor([2, 3, 1]))],
    "affine_grid_generator": [lambda d: (lambda n: call("affine_grid_generator", d.tensor(n, 2, 3), [n, 3, 4, 5],
        False))(d.size())],
    "_grid_sampler_2d_cpu_fallback": [
        lambda d: (lambda n: call(
            "_grid_sampler_2d_cpu_fallback", d.tensor(n, 4, 4, 4).float(), d.tensor(n, 3, 3, 2).float(), 0, 0, False))(d.size())
    ],
    "_upsample_lanczos2d_aa": [lambda d: call("_upsample_lanczos2d_aa", d.tensor(d.size(), d.size(), 6, 6), [9, 9], False)],
    "unfold_copy": [lambda d: call("unfold_copy", d.tensor(d.size(), 8, d.size()), d.choice([1, -2]), 3, d.integers(1, 3))],
    "fake_quantize_per_channel_affine_cachemask": [
        lambda d: (lambda n, c: call("fake_quantize_per_channel_affine_cachemask", d.tensor(n, c).float(),
            d.tensor(c, kind="unit").float(), torch.zeros(c, dtype=torch.int32), 1, -128, 127))(*d.shape(2, 2))
    ],
    "_fake_quantize_learnable_per_channel_affine": [
        lambda d: (lambda n, c: call("_fake_quantize_learnable_per_channel_affine", d.tensor(n, c).float(),
            d.tensor(c, kind="unit").float(), torch.zeros(c), 1, -128, 127))(*d.shape(2, 2))
    ],
    **{
        name: [_observed(name, True), _observed(name, False), _observed(name, True, 0), _observed(name, False, 0)]
        for name in OBSERVERS
    },
    "empty_permuted": [lambda d: call("empty_permuted", list(d.shape(2, 2)), [1, 0], over=None)],
    "_efficientzerotensor": [lambda d: call("_efficientzerotensor", list(d.shape(1, 2)), over=None)],
    "range": [lambda d: call("range.step", 1, d.size(), 1)],
    "tril_indices": [lambda d: call("tril_indices", d.size(), d.size())],
    "triu_indices": [lambda d: call("triu_indices", d.size(), d.size())],
    "randperm": [lambda d: call("randperm", d.size(), over=None)],
    "fft_fftfreq": [lambda d: call("fft_fftfreq", d.size())],
    "fft_rfftfreq": [lambda d: call("fft_rfftfreq", d.size())],
    **{
        f"{name}_window": [lambda d, name=name: call(f"{name}_window", d.size())]
        for name in ("bartlett", "blackman", "hamming", "hann", "kaiser")
    },
    "_is_all_true": [lambda d: call("_is_all_true", torch.arange(4 * d.size()).view(4, -1) > 0, over=_EVERY)],
    "_is_any_true": [lambda d: call("_is_any_true", d.tensor(*d.shape()) > 9)],
}  # fmt: skip
