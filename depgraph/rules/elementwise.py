"""Rules of operators that treat every position alike, and of those that make new tensors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from depgraph.equations import Axis, Call, Equal, Named, Pin, Rule, Statement, Term, Value

POSITIONS = "its positions are computed by {}, they are no channels"


def broadcast(axes: Sequence[Axis], onto: Sequence[Term]) -> Iterator[Statement]:
    """Right-aligned equality; an axis of size 1 says nothing."""
    for axis, target in zip(reversed(axes), reversed(onto), strict=False):
        if axis.size != 1 and axis.size == target.size:
            yield Equal(axis, target)


def _elementwise(call: Call) -> Iterator[Statement]:
    for out in call.outputs:
        for value in call.inputs:
            yield from broadcast(value.axes, out.axes)


def _along(reason: str, *names: str) -> Rule:
    """Element-wise, but the positions of one dimension matter."""

    def equations(call: Call) -> Iterator[Statement]:
        yield from _elementwise(call)
        dim = next((call[name] for name in names if call[name] is not None), -1)
        for value in (*call.inputs[:1], *call.outputs):
            if value.ndim:
                yield Pin(value[int(dim)], reason.format(call.op))

    return Rule(equations)


def _triangle(call: Call) -> Iterator[Statement]:
    yield from _elementwise(call)
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
    "igamma",
    "isclose",
    "isfinite",
    "isinf",
    "isnan",
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
    "normal",
    "not_equal",
    "ones_like",
    "polar",
    "pow",
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
    "to",
    "true_divide",
    "trunc",
    "type_as",
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
    **{f"aten.{name}": Rule(_elementwise) for name in _POINTWISE},
    **{
        f"aten.{name}": _along("{} runs along it, so its order matters", "dim")
        for name in ("cumsum", "cumprod", "logcumsumexp", "sort", "argsort", "cummax", "cummin")
    },
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
