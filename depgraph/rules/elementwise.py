"""Rules of element-wise operators, and of those that run along an axis without changing shapes."""

from __future__ import annotations

from collections.abc import Iterator

from depgraph.rules.common import broadcast, elementwise, family, mixes_all, mixing, moving, passed, pinned, values
from depgraph.solving.statements import Accumulated, Axis, Call, Equal, Moved, Pin, Rule, Scale, Statement, Traits, Value


def _same(call: Call) -> Iterator[Statement]:
    """The result is the first input; another one only has the type or device."""
    yield from broadcast(call.inputs[0].axes, call.out.axes)


def _along(reason: str, *names: str) -> Rule:
    """Element-wise in all axes but one, whose positions matter: it is pinned."""

    def equations(call: Call) -> Iterator[Statement]:
        yield from elementwise(call)
        dim = next((call[name] for name in names if call[name] is not None), -1)
        for value in (*call.inputs[:1], *call.outputs):
            if value.ndim:
                yield Pin(value[int(dim)], reason.format(call.op))

    return Rule(equations, traits=Traits(mixes=()))


def _scaled(call: Call) -> Iterator[Statement]:
    """A product or quotient by a number."""
    yield from elementwise(call)
    yield from (Scale(call[name]) for name in ("self", "other") if isinstance(call[name], int))


def _added(call: Call) -> Traits:
    return Traits(mixes=(), offsets=call.inputs)


def _normalised(call: Call) -> tuple[Axis, ...]:
    x = call["self"]
    axes = () if not x.ndim else (x[int(call["dim"] if call["dim"] is not None else -1)],)
    return (*axes, *(call.out[axis.dim] for axis in axes))


def _renormalised(call: Call) -> tuple[Axis, ...]:
    """Mixed axes: the norms are taken over all axes but one."""
    x = call["self"]
    return tuple(value[dim] for value in (x, call.out) for dim in range(x.ndim) if dim != int(call["dim"]) % x.ndim)


def _sorted(call: Call) -> Iterator[Statement]:
    """The values in their order; whatever numbers of indices they are, fewer of them keep theirs."""
    yield from _along("{} runs along it, so its order matters", "dim").equations(call)
    yield Moved(call["self"], call.out)


def _accumulated(call: Call) -> Iterator[Statement]:
    """Sums from the first position on. Their order matters, unless they are counts of what the data choose."""
    x, out = call["self"], call.out
    yield from elementwise(call)
    if x.ndim:
        yield Accumulated(x, out, x[int(call["dim"])], f"{call.op} runs along it, so its order matters")


def _triangle(call: Call) -> Iterator[Statement]:
    """A square triangle stays one if each row is removed together with its column."""
    yield from elementwise(call)
    rows, columns = call.out.axes[-2:]
    next_diagonal = 1 if call.op == "aten.triu" else -1
    if rows.size == columns.size and call["diagonal"] in {None, 0, next_diagonal}:
        yield Equal(rows, columns)
    else:
        yield from pinned((rows, columns), f"{call.op} depends on its positions")


def _chosen(call: Call) -> Iterator[Statement]:
    """`where` with a condition alone returns the positions where it holds."""
    if call["self"] is None:
        for value in (*call.inputs, *call.outputs):
            yield from pinned(value.axes, f"{call.op} counts the positions where its condition holds")
    else:
        yield from elementwise(call)


def _per_channel(call: Call) -> Iterator[Statement]:
    """One scale and one zero point for each index of an axis."""
    x = call["self"]
    axis = int(call["axis"]) % x.ndim
    for out in call.outputs:
        yield from passed(x, out)
    for name in ("scale", "scales", "zero_point", "zero_points"):
        if isinstance(call[name], Value):
            yield Equal(call[name][0], x[axis])


def _observed(call: Call) -> Iterator[Statement]:
    """Quantisation-aware training: values are rounded to a scale from the minimum and maximum, of all or of each channel.

    An observer without observations has states of other sizes; at the first call they take the size of the channels.
    """
    x = call["self"]
    for out in call.outputs[:2]:
        yield from passed(x, out)
    names = ("running_min", "running_max", "scale", "zero_point")
    for place, name in enumerate(names):
        for state in (call[name], *call.outputs[2 + place : 3 + place]):
            if call["per_row_fake_quant"] and state.ndim and x.ndim:
                yield from broadcast(state.axes, (x[int(call["ch_axis"])],))


def _observed_axes(call: Call) -> tuple[Axis, ...]:
    x = call["self"]
    channel = int(call["ch_axis"]) % x.ndim if call["per_row_fake_quant"] and x.ndim else None
    return tuple(value[dim] for value in (x, *call.outputs[:2]) for dim in range(x.ndim) if dim != channel)


def _lists(call: Call) -> Iterator[Statement]:
    """Element-wise between the k-th tensors of each list; a single tensor is broadcast to all of them."""
    lists = [list(values(item)) for item in call.args.values() if isinstance(item, (list, tuple))]
    longest = max(map(len, lists), default=0)
    lists = [items for items in lists if len(items) == longest]
    singles = [item for item in call.args.values() if isinstance(item, Value)]
    results = [list(call.outputs)] if len(call.outputs) == longest else []
    for operands in zip(*lists, *results, strict=True):
        widest = max(operands, key=lambda value: value.ndim)
        for value in (*operands, *singles):
            yield from broadcast(value.axes, widest.axes)


POSITION_BY_POSITION = """
    abs acos acosh _add_relu addcdiv addcmul alpha_dropout angle asin asinh atan atan2 atanh
    bitwise_and bitwise_left_shift bitwise_not bitwise_or bitwise_right_shift bitwise_xor ceil celu clamp clamp_max
    clamp_min complex _conj conj _conj_copy _conj_physical conj_physical contiguous copysign cos cosh
    deg2rad dequantize digamma dropout elu empty_like eq erf erfc erfinv exp exp2 expm1
    _fake_quantize_learnable_per_tensor_affine fake_quantize_per_tensor_affine
    fake_quantize_per_tensor_affine_cachemask _fake_quantize_per_tensor_affine_cachemask_tensor_qparams
    feature_alpha_dropout feature_dropout fill floor floor_divide fmax fmin fmod frac frexp full_like _fused_dropout
    gcd ge gelu greater greater_equal gt hardshrink hardsigmoid hardswish hardtanh heaviside hypot i0 igamma igammac
    __ilshift__ imag int_repr __irshift__ isclose isfinite isinf isnan isneginf isposinf _lazy_clone lcm ldexp le
    leaky_relu lerp less less_equal lgamma lift lift_fresh log log10 log1p log2 log_sigmoid
    log_sigmoid_forward logaddexp logaddexp2 logical_and logical_not logical_or logical_xor logit __lshift__ lt
    masked_fill _masked_scale maximum minimum mish mvlgamma nan_to_num native_dropout ne neg _neg_view
    _neg_view_copy negative nextafter not_equal ones_like _pin_memory polar polygamma positive pow _prelu_kernel
    quantize_per_tensor quantize_per_tensor_dynamic rad2deg real reciprocal relu relu6 remainder resolve_conj
    resolve_neg round rrelu rrelu_with_noise rrelu_with_noise_functional __rshift__ rsqrt rsub selu sgn sigmoid sign
    signbit silu sin sinc sinh softplus softshrink special_airy_ai special_bessel_j0 special_bessel_j1
    special_bessel_y0 special_bessel_y1 special_chebyshev_polynomial_t special_chebyshev_polynomial_u
    special_chebyshev_polynomial_v special_chebyshev_polynomial_w special_entr special_erfcx special_expit
    special_hermite_polynomial_h special_hermite_polynomial_he special_i0e special_i1 special_i1e
    special_laguerre_polynomial_l special_legendre_polynomial_p special_log_ndtr special_modified_bessel_i0
    special_modified_bessel_i1 special_modified_bessel_k0 special_modified_bessel_k1 special_ndtri
    special_scaled_modified_bessel_k0 special_scaled_modified_bessel_k1 special_shifted_chebyshev_polynomial_t
    special_shifted_chebyshev_polynomial_u special_shifted_chebyshev_polynomial_v
    special_shifted_chebyshev_polynomial_w special_spherical_bessel_j0 special_xlog1py special_zeta sqrt square
    subtract tan tanh threshold trunc xlogy zero zeros_like
"""
DRAWN = """
    bernoulli binomial cauchy exponential geometric log_normal normal_functional poisson rand_like randint_like randn_like
    random _standard_gamma uniform
"""

COPIES = "alias alias_copy clone detach detach_copy lift_fresh_copy _to_copy"
"""Operators whose result is their first operand, perhaps of another type or place."""

SOFTMAX = "_log_softmax log_softmax _masked_softmax _safe_softmax _softmax softmax"

SCALED = "div mul multiply true_divide"

POINTWISE = f"{POSITION_BY_POSITION} {COPIES} copy {SCALED} {DRAWN} add sub"
"""Operators in which each position of the result depends on the same position of the operands alone."""


FOREACH = """
    abs acos add addcdiv addcmul asin atan ceil clamp_max clamp_min clone copy cos cosh div erf erfc exp expm1 floor
    frac lerp lgamma log log10 log1p log2 max maximum minimum mul neg norm pow powsum reciprocal round rsqrt sigmoid
    sign sin sinh sqrt sub tan tanh trunc zero
"""

RULES: dict[str, Rule] = {
    **family(POSITION_BY_POSITION, elementwise, "ELEMENTWISE"),
    **family(COPIES, moving(elementwise), "ELEMENTWISE"),
    **family("copy", moving(elementwise, "src"), "ELEMENTWISE"),
    **family(SCALED, _scaled, "ELEMENTWISE"),
    **family(DRAWN, elementwise, "ELEMENTWISE", Traits(mixes=(), draws=True)),
    **family("add sub", elementwise, "ELEMENTWISE", _added),
    **family(SOFTMAX, elementwise, "ELEMENTWISE", mixing(_normalised)),
    **family("renorm", elementwise, "ELEMENTWISE", mixing(_renormalised)),
    **{f"aten._foreach_{name}": Rule(_lists, traits=Traits(mixes=())) for name in FOREACH.split()},
    **{f"aten._foreach_{name}": Rule(_lists, traits=mixes_all) for name in ("max", "norm", "powsum")},
    **family("where", _chosen, "ELEMENTWISE"),
    **family(
        "quantize_per_channel fake_quantize_per_channel_affine_cachemask _fake_quantize_learnable_per_channel_affine",
        _per_channel,
        "ELEMENTWISE",
    ),
    **family(
        "_fused_moving_avg_obs_fq_helper _fused_moving_avg_obs_fq_helper_functional",
        _observed,
        "ELEMENTWISE",
        mixing(_observed_axes),
    ),
    **{
        f"aten.{name}": _along("{} runs along it, so its order matters", "dim")
        for name in ("cumprod", "logcumsumexp", "argsort", "cummax", "cummin", "_logcumsumexp")
    },
    **family("cumsum", _accumulated, "ELEMENTWISE", mixing(_normalised)),
    **family("sort", _sorted, "ELEMENTWISE"),
    **family("to type_as", moving(_same), "ELEMENTWISE"),
    "aten.linalg_cross": _along("{} mixes its three positions", "dim"),
    **family("tril triu", _triangle, "ELEMENTWISE"),
}
