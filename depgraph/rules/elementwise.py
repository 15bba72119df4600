"""Rules of operators that treat every position alike, and of those that make new tensors."""

from __future__ import annotations

from collections.abc import Iterator

from depgraph.equations import Call, Named, Pin, Rule, Statement, Value
from depgraph.rules.common import broadcast, elementwise


def _same(call: Call) -> Iterator[Statement]:
    """Only the first input is passed on; another one lends its type or device."""
    yield from broadcast(call.inputs[0].axes, call.out.axes)


def _along(reason: str, *names: str) -> Rule:
    """Element-wise, but the positions of one dimension matter."""

    def equations(call: Call) -> Iterator[Statement]:
        yield from elementwise(call)
        dim = next((call[name] for name in names if call[name] is not None), -1)
        for value in (*call.inputs[:1], *call.outputs):
            if value.ndim:
                yield Pin(value[int(dim)], reason.format(call.op))

    return Rule(equations)


def _triangle(call: Call) -> Iterator[Statement]:
    yield from elementwise(call)
    for axis in call.out.axes[-2:]:
        yield Pin(axis, f"{call.op} depends on its positions")


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


def _nothing(call: Call) -> Iterator[Statement]:
    yield from ()


def _compared(call: Call) -> Iterator[Statement]:
    """Whole-tensor tests return one value and say nothing about indices; their operands match in shape."""
    values: tuple[Value, ...] = call.inputs
    for value in values[1:]:
        yield from broadcast(value.axes, values[0].axes)


_POINTWISE = [
    "abs",
    "acos",
    "acosh",
    "add",
    "addcdiv",
    "addcmul",
    "alias",
    "alpha_dropout",
    "angle",
    "asin",
    "asinh",
    "atan",
    "atan2",
    "atanh",
    "bernoulli",
    "bitwise_and",
    "bitwise_left_shift",
    "bitwise_not",
    "bitwise_or",
    "bitwise_right_shift",
    "bitwise_xor",
    "ceil",
    "celu",
    "clamp",
    "clamp_max",
    "clamp_min",
    "clone",
    "contiguous",
    "copy",
    "copysign",
    "cos",
    "cosh",
    "deg2rad",
    "detach",
    "digamma",
    "div",
    "dropout",
    "elu",
    "eq",
    "erf",
    "erfc",
    "erfinv",
    "exp",
    "exp2",
    "expm1",
    "feature_alpha_dropout",
    "feature_dropout",
    "fill",
    "floor",
    "floor_divide",
    "fmax",
    "fmin",
    "fmod",
    "frac",
    "full_like",
    "gcd",
    "ge",
    "gelu",
    "greater",
    "greater_equal",
    "gt",
    "hardshrink",
    "hardsigmoid",
    "hardswish",
    "hardtanh",
    "heaviside",
    "hypot",
    "i0",
    "igamma",
    "isclose",
    "isfinite",
    "isinf",
    "isnan",
    "isneginf",
    "isposinf",
    "lcm",
    "ldexp",
    "le",
    "leaky_relu",
    "lerp",
    "less",
    "less_equal",
    "lgamma",
    "lift_fresh",
    "log",
    "log10",
    "log1p",
    "log2",
    "log_sigmoid",
    "logaddexp",
    "logaddexp2",
    "logical_and",
    "logical_not",
    "logical_or",
    "logical_xor",
    "logit",
    "lt",
    "masked_fill",
    "maximum",
    "minimum",
    "mish",
    "mul",
    "multiply",
    "nan_to_num",
    "ne",
    "neg",
    "negative",
    "nextafter",
    "normal",
    "not_equal",
    "ones_like",
    "polar",
    "pow",
    "polygamma",
    "positive",
    "rad2deg",
    "rand_like",
    "randint_like",
    "randn_like",
    "real",
    "reciprocal",
    "relu",
    "relu6",
    "remainder",
    "round",
    "rrelu",
    "rsqrt",
    "rsub",
    "selu",
    "sgn",
    "sigmoid",
    "sign",
    "signbit",
    "sin",
    "sinc",
    "sinh",
    "silu",
    "softplus",
    "softshrink",
    "sqrt",
    "square",
    "sub",
    "subtract",
    "tan",
    "tanh",
    "threshold",
    "true_divide",
    "trunc",
    "uniform",
    "where",
    "xlogy",
    "zero",
    "zeros_like",
    "empty_like",
    "_to_copy",
    "_conj",
    "conj",
    "resolve_conj",
    "resolve_neg",
    "native_dropout",
    "imag",
    "float",
    "requires_grad_",
    "_safe_softmax",
    "softmax",
    "log_softmax",
    "_softmax",
    "_log_softmax",
    "complex",
    "special_expit",
    "fake_quantize_per_tensor_affine",
    "exponential",
    "log_normal",
    "cauchy",
    "geometric",
]

RULES: dict[str, Rule] = {
    **{f"aten.{name}": Rule(elementwise) for name in _POINTWISE},
    **{
        f"aten.{name}": _along("{} runs along it, so its order matters", "dim")
        for name in ("cumsum", "cumprod", "logcumsumexp", "sort", "argsort", "cummax", "cummin")
    },
    "aten.to": Rule(_same),
    "aten.type_as": Rule(_same),
    "aten.linalg_cross": _along("{} mixes its three positions", "dim"),
    "aten.tril": Rule(_triangle),
    "aten.triu": Rule(_triangle),
    **{
        f"aten.{name}": Rule(_created, "CREATE")
        for name in (
            *("zeros", "ones", "full", "empty", "rand", "randn", "randint"),
            *("new_zeros", "new_ones", "new_full", "new_empty"),
        )
    },
    **{f"aten.{name}": Rule(_positions, "CREATE") for name in ("arange", "linspace", "logspace", "eye", "scalar_tensor")},
    **{f"aten.{name}": Rule(_compared) for name in ("equal", "allclose")},
    **{f"aten.{name}": Rule(_nothing) for name in ("_assert_async", "_assert_tensor_metadata", "sym_size", "is_nonzero")},
}
