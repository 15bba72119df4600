"""Sample calls of every operator of the table but the layers: operator -> forms, each a function of draws.

Pointwise operators are read off their schemas, every overload with its in-place and ``out=`` form.
"""

import torch

from depgraph.rules.elementwise import POINTWISE
from tests.laws.drawing import call, from_schema, overloads


def schemas(name, skip=()):
    """One form for each overload of an operator."""
    return [
        lambda d, overload=overload: from_schema(d, overload)
        for overload in overloads(name)
        if f"{overload._schema.name.removeprefix('aten::')}.{overload._overloadname}" not in skip
    ]


def along(d, *names, ndim=3, **kwargs):
    """A tensor, one of its dimensions, and that place."""
    shape = d.shape(1, ndim)
    dim = d.dim(len(shape))
    return d.tensor(*shape), dim, (("args[0]", dim % len(shape)),)


def softmaxed(name, *more):
    """Softmax and its siblings along a dimension."""

    def form(d):
        x, dim, over = along(d)
        return call(name, x, dim, *more, over=over)

    return [form]


def ordered(name, **kwargs):
    """Operators that run along a dimension, whose order counts."""

    def form(d):
        x, dim, _ = along(d)
        return call(name, x, dim, **kwargs)

    return form


_DRAWN = """
    alpha_dropout bernoulli binomial cauchy dropout empty_like exponential feature_alpha_dropout feature_dropout geometric
    log_normal normal normal_functional poisson rand_like randint_like randn_like random rrelu rrelu_with_noise
    rrelu_with_noise_functional _standard_gamma uniform
"""
RANDOM = set(_DRAWN.split())
_OTHERS = """
    alpha_dropout binomial clamp contiguous dropout fake_quantize_per_tensor_affine feature_alpha_dropout feature_dropout fill
    _log_softmax log_softmax masked_fill native_dropout normal randint_like renorm _safe_softmax _softmax softmax
    _masked_softmax _fused_dropout int_repr _masked_scale _pin_memory quantize_per_tensor quantize_per_tensor_dynamic _conj_copy
    _fake_quantize_learnable_per_tensor_affine _fake_quantize_per_tensor_affine_cachemask_tensor_qparams
"""
_BY_HAND = set(_OTHERS.split())
_LIKE = {f"{name}.out" for name in ("full_like", "ones_like", "zeros_like", "empty_like", "rand_like", "randn_like")}

POINTWISE_ROWS = {name: schemas(name, _LIKE) for name in POINTWISE.split() if name not in _BY_HAND}


def _pair(d, kind="float"):
    shape = d.shape(0, 3)
    return d.tensor(*shape, kind=kind), d.operand(shape, kind)


def _dropped(name):
    return [
        lambda d: call(name, d.tensor(*d.shape(2, 3)), 0.5, True, over=None),
        lambda d: call(f"{name}_", d.tensor(*d.shape(2, 3)), 0.5, True, over=None),
        lambda d: call(name, d.tensor(*d.shape(2, 3)), 0.5, False),
    ]


def _scale():
    return torch.tensor([0.1], dtype=torch.float64), torch.tensor([3.0], dtype=torch.float64)


def _triangle(name, diagonal):
    """The part of square and of other matrices that lies on one side of a diagonal."""
    return lambda d: call(name, d.tensor(*d.choice([(4, 4), (2, 4, 4), d.shape(2, 3)])), diagonal)


def _renormed(name):
    def form(d):
        x = d.tensor(*d.shape(2, 3))
        dim = d.dim(x.ndim)
        over = tuple(("args[0]", other) for other in range(x.ndim) if other != dim % x.ndim)
        return call(name, x, 2, dim, 0.5, over=over)

    return form


def _masked_softmax(d):
    shape = d.shape(2, 3)
    mask = d.tensor(*shape) > 0
    return call("_masked_softmax", d.tensor(*shape), mask, len(shape) - 1, over=(("args[0]", len(shape) - 1),))


HAND_ROWS = {
    **{name: _dropped(name) for name in ("dropout", "alpha_dropout", "feature_dropout", "feature_alpha_dropout")},
    "native_dropout": [lambda d: call("native_dropout", d.tensor(*d.shape()), 0.5, True, over=None)],
    "clamp": [
        lambda d: call("clamp", d.tensor(*d.shape(0, 3)), -0.5, 0.5),
        lambda d: call("clamp.Tensor", *_pair(d)),
        lambda d: call("clamp_", d.tensor(*d.shape(0, 3)), max=0.5),
    ],
    "fill": [
        lambda d: call("fill.Scalar", d.tensor(*d.shape(0, 3)), 0.5),
        lambda d: call("fill_.Tensor", d.tensor(*d.shape(0, 3)), d.tensor()),
    ],
    "masked_fill": [
        lambda d: (lambda x, m: call("masked_fill.Scalar", x, m > 0, 0.5))(*_pair(d)),
        lambda d: (lambda x, m: call("masked_fill.Tensor", x, m > 0, d.tensor()))(*_pair(d)),
        lambda d: (lambda x, m: call("masked_fill_.Scalar", x, m > 0, 0.5))(*_pair(d)),
    ],
    "normal": [
        lambda d: call("normal.Tensor_Tensor", *_pair(d, "unit"), over=None),
        lambda d: call("normal_", d.tensor(*d.shape()), over=None),
        lambda d: call("normal.Tensor_float", d.tensor(*d.shape()), 0.5, over=None),
    ],
    "randint_like": [lambda d: call("randint_like", d.tensor(*d.shape(0, 3)), 9, over=None)],
    "where": [
        lambda d: (lambda x, y: call("where.self", x > 0, x, y))(*_pair(d)),
        lambda d: (lambda x, y: call("where.ScalarOther", x > 0, x, 0.5))(*_pair(d)),
        lambda d: call("where", d.tensor(*d.shape()) > 0),
    ],
    "fake_quantize_per_tensor_affine": [
        lambda d: call("fake_quantize_per_tensor_affine", d.tensor(*d.shape(0, 3)).float(), 0.1, 0, -128, 127)
    ],
    "_fake_quantize_learnable_per_tensor_affine": [
        lambda d: call("_fake_quantize_learnable_per_tensor_affine", d.tensor(*d.shape(0, 3)), *_scale(), 0, 255)
    ],
    "_fake_quantize_per_tensor_affine_cachemask_tensor_qparams": [
        lambda d: call(
            "_fake_quantize_per_tensor_affine_cachemask_tensor_qparams", d.tensor(*d.shape(0, 3)).float(), torch.tensor(0.1),
            torch.tensor(3, dtype=torch.int32), torch.tensor([1]), 0, 255)
    ],
    "renorm": [_renormed("renorm"), _renormed("renorm_")],
    "binomial": [lambda d: (lambda p: call("binomial", (9 * p).ceil(), p, over=None))(d.tensor(*d.shape(1, 3), kind="unit"))],
    "_masked_softmax": [_masked_softmax],
    "_conj_copy": [lambda d: call("_conj_copy", d.tensor(*d.shape(0, 3), kind="complex"))],
    "softmax": softmaxed("softmax.int"),
    "log_softmax": softmaxed("log_softmax.int"),
    "_softmax": softmaxed("_softmax", False),
    "_log_softmax": softmaxed("_log_softmax", False),
    "_safe_softmax": softmaxed("_safe_softmax"),
    "cumsum": [ordered("cumsum"), ordered("cumsum_")],
    "cumprod": [ordered("cumprod"), ordered("cumprod_")],
    "logcumsumexp": [ordered("logcumsumexp")],
    "sort": [ordered("sort"), lambda d: call("sort", d.tensor(*d.shape(1, 3))), lambda d: (
        lambda x, dim, _: call("sort.stable", x, stable=True, dim=dim, descending=True))(*along(d))],
    "argsort": [ordered("argsort"), lambda d: call("argsort", d.tensor(*d.shape(1, 3)))],
    "cummax": [ordered("cummax")],
    "cummin": [ordered("cummin")],
    "linalg_cross": [
        lambda d: (lambda n: call("linalg_cross", d.tensor(n, 3), d.tensor(n, 3)))(d.size()),
        lambda d: (lambda n: call("linalg_cross", d.tensor(3, n), d.tensor(3, 1), dim=0))(d.size()),
    ],
    "tril": [*(_triangle("tril", k) for k in (-1, 0, 1)), lambda d: call("tril_", d.tensor(*d.shape(2, 3)))],
    "triu": [*(_triangle("triu", k) for k in (-1, 0, 1)), lambda d: call("triu_", d.tensor(*d.shape(2, 3)))],
    "to": [
        lambda d: call("to.dtype", d.tensor(*d.shape(0, 3)), torch.float32),
        lambda d: call("to.other", d.tensor(*d.shape(0, 3)), d.tensor(*d.shape(0, 3), kind="int")),
    ],
    "type_as": [lambda d: call("type_as", d.tensor(*d.shape(0, 3)), d.tensor(*d.shape(0, 3), kind="int"))],
    **{name: [lambda d, name=name: call(name, list(d.shape(0, 3)))] for name in ("zeros", "ones")},
    "full": [lambda d: call("full", list(d.shape(0, 3)), 0.5)],
    "empty": [lambda d: call("empty.memory_format", list(d.shape(0, 3)), over=None)],
    "rand": [lambda d: call("rand", list(d.shape(0, 3)), over=None)],
    "randn": [lambda d: call("randn", list(d.shape(0, 3)), over=None)],
    "randint": [lambda d: call("randint", 9, list(d.shape(0, 3)), over=None)],
    **{
        name: [lambda d, name=name: call(name, d.tensor(*d.shape(0, 2)), list(d.shape(0, 3)))] for name in ("new_zeros",
            "new_ones")
    },
    "new_full": [lambda d: call("new_full", d.tensor(*d.shape(0, 2)), list(d.shape(0, 3)), 0.5)],
    "new_empty": [lambda d: call("new_empty", d.tensor(*d.shape(0, 2)), list(d.shape(0, 3)), over=None)],
    "arange": [
        lambda d: call("arange", d.size()),
        lambda d: call("arange.start", 2, 2 + d.size()),
        lambda d: call("arange.start_step", 1, 9, 2),
    ],
    "linspace": [lambda d: call("linspace", 0.5, 2.5, d.size())],
    "logspace": [lambda d: call("logspace", 0.5, 2.5, d.size())],
    "scalar_tensor": [lambda d: call("scalar_tensor", 0.5)],
    "eye": [lambda d: call("eye", d.size()), lambda d: call("eye.m", 4, d.size())],
    "equal": [lambda d: (lambda x: call("equal", x, x.clone()))(d.tensor(*d.shape()))],
    "allclose": [lambda d: (lambda x: call("allclose", x, x.clone()))(d.tensor(*d.shape()))],
}  # fmt: skip


def _dims(d, ndim):
    count = d.integers(1, ndim)
    start = d.integers(0, ndim - count)
    return [dim - ndim * d.integers(0, 1) for dim in range(start, start + count)]


def _over(dims, ndim):
    return tuple(("args[0]", dim % ndim) for dim in dims)


def whole(name, *more, kind="float", **kwargs):
    """A reduction of everything, also of a tensor without axes."""

    def form(d):
        shape = d.shape(0, 3)
        return call(name, d.tensor(*shape, kind=kind), *more, over=_over(range(len(shape)), len(shape)), **kwargs)

    return form


def dims_of(name, *before, keep=True, kind="float", empty=True, **kwargs):
    """A reduction of a list of dimensions; an empty list means all of them."""

    def form(d):
        shape = d.shape(1, 3)
        dims = _dims(d, len(shape)) if not empty or d.integers(0, 4) else []
        more = [d.flag()] if keep else []
        over = _over(dims or range(len(shape)), len(shape))
        return call(name, d.tensor(*shape, kind=kind), *before, dims, *more, over=over, **kwargs)

    return form


def one_dim(name, *before, keep=True, kind="float", over=True, **kwargs):
    """A reduction of one dimension."""

    def form(d):
        x, dim, place = along(d)
        x = x > 0 if kind == "bool" else x
        return call(name, x, *before, dim, *([d.flag()] if keep else []), over=place if over else (), **kwargs)

    return form


def without_axes(name, *more):
    """A reduction along a dimension of a tensor that has none."""
    return lambda d: call(name, d.tensor(), *more)


def _deviations(name):
    return [
        whole(name),
        dims_of(f"{name}.dim", empty=False),
        lambda d: (lambda x, dim, over: call(f"{name}.correction", x, [dim], correction=0, keepdim=True, over=over))(*along(d)),
    ]


def _extremes(name):
    return [
        whole(name),
        lambda d: call(f"{name}.other", *_pair(d)),
        one_dim(f"{name}.dim"),
        without_axes(f"{name}.dim", 0),
    ]


REDUCTION_ROWS = {
    "sum": [whole("sum"), dims_of("sum.dim_IntList"), dims_of("sum.dim_IntList", dtype=torch.float32)],
    "nansum": [whole("nansum"), dims_of("nansum", empty=False)],
    "mean": [whole("mean"), dims_of("mean.dim")],
    "nanmean": [whole("nanmean"), dims_of("nanmean", empty=False)],
    "amax": [dims_of("amax"), whole("amax")],
    "amin": [dims_of("amin"), whole("amin")],
    "aminmax": [
        whole("aminmax"),
        lambda d: (lambda x, dim, over: call("aminmax", x, dim=dim, keepdim=d.flag(), over=over))(*along(d)),
    ],
    "max": _extremes("max"),
    "min": _extremes("min"),
    "prod": [whole("prod"), one_dim("prod.dim_int")],
    **{name: _deviations(name) for name in ("var", "std", "var_mean", "std_mean")},
    "logsumexp": [dims_of("logsumexp", empty=False)],
    "norm": [whole("norm.Scalar"), dims_of("norm.ScalarOpt_dim", 2, empty=False)],
    "linalg_vector_norm": [whole("linalg_vector_norm"), dims_of("linalg_vector_norm", 1, empty=False)],
    "argmax": [one_dim("argmax"), lambda d: call("argmax", d.tensor(*d.shape()))],
    "argmin": [one_dim("argmin"), lambda d: call("argmin", d.tensor(*d.shape()))],
    "all": [whole("all", kind="bool"), one_dim("all.dim", kind="bool"), dims_of("all.dims", kind="bool", empty=False)],
    "any": [whole("any", kind="bool"), one_dim("any.dim", kind="bool"), dims_of("any.dims", kind="bool", empty=False)],
    "count_nonzero": [whole("count_nonzero"), dims_of("count_nonzero.dim_IntList", keep=False)],
    "median": [whole("median"), one_dim("median.dim", over=False)],
    "nanmedian": [whole("nanmedian"), one_dim("nanmedian.dim", over=False)],
    "mode": [one_dim("mode", over=False)],
    "kthvalue": [one_dim("kthvalue", 2, over=False)],
    "sum_to_size": [
        lambda d: call("sum_to_size", d.tensor(4, 5, 3), [1, 5, 3]),
        lambda d: call("sum_to_size", d.tensor(4, 5), [5]),
    ],
}
