"""Sample calls of operators that move, join, cut, read and write positions: operator -> forms, each a function of draws."""

from math import prod

import torch

from tests.laws.drawing import Sample, call


def viewed(name, after=()):
    """Forms of a reshape: axes joined, an axis split, axes regrouped, a size left open, ones added, no elements."""
    return [
        lambda d: (lambda s: call(name, d.tensor(*s), [s[0], s[1] * s[2]], *after))(d.shape(3, 3)),
        lambda d: (lambda s: call(name, d.tensor(s[0], s[1] * s[2]), [*s], *after))(d.shape(3, 3)),
        lambda d: (lambda s: call(name, d.tensor(s[0] * s[1], s[2]), [s[0], -1], *after))(d.shape(3, 3)),
        lambda d: (lambda s: call(name, d.tensor(s[0] * s[1], s[2]), [s[0], s[1] * s[2]], *after))(d.shape(3, 3)),
        lambda d: (lambda s: call(name, d.tensor(*s), [1, prod(s), 1], *after))(d.shape(1, 3)),
        lambda d: call(name, d.tensor(0, 4), [4, 0], *after),
    ]


def _any(d, least=1):
    return d.tensor(*d.shape(least, 3))


def _two_dims(name):
    return [
        lambda d: (lambda x: call(name, x, d.dim(x.ndim), d.dim(x.ndim)))(_any(d)),
        lambda d: call(name, d.tensor(), 0, -1),
    ]


def _permuted(d):
    x = _any(d)
    order = d.distinct(x.ndim, x.ndim).tolist()
    return call("permute", x, [dim - x.ndim * d.integers(0, 1) for dim in order])


def _turned(name, low, high):
    return [lambda d: call(name, _any(d, low) if high > 2 else d.tensor(*d.shape(low, high)))]


def _interleaved(d):
    x = _any(d)
    return call("repeat_interleave.self_int", x, d.integers(2, 3), d.dim(x.ndim))


def strided(name):
    """Forms of reading by strides: blocks, joins, exchanges, slices, offsets, repetitions, windows, diagonals, overruns."""

    def of(read, least=3):
        def form(d):
            x = d.tensor(*(size + least - 2 for size in d.shape(2, 2)))
            return call(name, x, *read(*x.shape))

        return form

    def blocks(d):
        a, b, c = d.shape(3, 3)
        return call(name, d.tensor(a, b * c), [b, a, c], [c, b * c, 1])

    def windows(d):
        a, b, c = d.shape(3, 3)
        return call(name, d.tensor(a, 2 * b, c), [a, 2 * b - 1, 2, c], [2 * b * c, c, c, 1])

    return [
        blocks, windows, of(lambda a, b: ([a * b], [1])), of(lambda a, b: ([b, 1, a], [1, 5, b])),
        of(lambda a, b: ([a - 1, b], [b, 1])), of(lambda a, b: ([a, b - 1], [b, 1])),
        of(lambda a, b: ([a - 1, b], [b, 1], b)), of(lambda a, b: ([a, b - 1], [b, 1], 1)),
        of(lambda a, b: ([2, a, b], [0, b, 1])), of(lambda a, b: ([b], [1])), of(lambda a, b: ([a - 1, 2], [b + 1, 1])),
        of(lambda a, b: ([a * b - 1], [1])), of(lambda a, b: ([a, b], [b, 1], 0)), lambda d: call(name, d.tensor(), [], []),
    ]  # fmt: skip


SHAPE_ROWS = {
    "as_strided": strided("as_strided"),
    "as_strided_copy": strided("as_strided_copy"),
    "view": [*viewed("view"), lambda d: call("view.dtype", d.tensor(*d.shape(1, 2)), torch.int64)],
    "reshape": viewed("reshape"),
    "_unsafe_view": viewed("_unsafe_view"),
    "view_copy": viewed("view_copy"),
    "_reshape_alias": [lambda d: (lambda s: call("_reshape_alias", d.tensor(*s), [prod(s)], [1]))(d.shape(1, 3))],
    "flatten": [
        lambda d: call("flatten.using_ints", _any(d)),
        lambda d: call("flatten.using_ints", _any(d, 3), 1, -1),
        lambda d: call("flatten.using_ints", d.tensor()),
    ],
    "ravel": [lambda d: call("ravel", _any(d))],
    "squeeze": [
        lambda d: call("squeeze", d.tensor(d.size(), 1, d.size())),
        lambda d: call("squeeze.dim", d.tensor(d.size(), 1, d.size()), d.choice([1, -2, 0])),
        lambda d: call("squeeze.dims", d.tensor(1, d.size(), 1), [0, -1]),
        lambda d: call("squeeze_", d.tensor(d.size(), 1)),
    ],
    "unsqueeze": [
        lambda d: call("unsqueeze", _any(d), d.choice([0, 1, -1])),
        lambda d: call("unsqueeze_", _any(d), d.choice([0, 1, -1])),
        lambda d: call("unsqueeze", d.tensor(), 0),
    ],
    "view_as": [lambda d: (lambda s: call("view_as", d.tensor(prod(s)), d.tensor(*s)))(d.shape(2, 3))],
    "reshape_as": [lambda d: (lambda s: call("reshape_as", d.tensor(*s), d.tensor(prod(s))))(d.shape(2, 3))],
    "unflatten": [lambda d: (lambda a, b, c: call("unflatten.int", d.tensor(a, b * c), -1, [b, c]))(*d.shape(3, 3))],
    "view_as_real": [lambda d: call("view_as_real", d.tensor(*d.shape(0, 2), kind="complex"))],
    "view_as_complex": [lambda d: call("view_as_complex", d.tensor(*d.shape(0, 2), 2))],
    "permute": [_permuted],
    **{
        name: _two_dims(call_as)
        for name, call_as in (("transpose", "transpose.int"), ("swapaxes", "swapaxes"), ("swapdims", "swapdims"))
    },
    "t": _turned("t", 0, 2),
    "numpy_T": _turned("numpy_T", 1, 3),
    "mT": _turned("mT", 2, 3),
    "mH": _turned("mH", 2, 3),
    "adjoint": _turned("adjoint", 2, 3),
    "matrix_H": _turned("matrix_H", 2, 2),
    "expand": [
        lambda d: (lambda n, m: call("expand", d.tensor(n, 1), [n, m]))(d.size(), d.size()),
        lambda d: (lambda n, m: call("expand", d.tensor(n), [m, -1]))(d.size(), d.size()),
        lambda d: call("expand", d.tensor(), list(d.shape(1, 2))),
    ],
    "expand_as": [lambda d: (lambda s: call("expand_as", d.operand(s), d.tensor(*s)))(d.shape(2, 3))],
    "repeat": [
        lambda d: call("repeat", d.tensor(*d.shape(2, 2)), [d.integers(1, 3), d.integers(2, 3)]),
        lambda d: call("repeat", d.tensor(d.size()), [d.size(), d.integers(1, 3)]),
        lambda d: call("repeat", d.tensor(), [3]),
    ],
    "repeat_interleave": [
        _interleaved,
        lambda d: call("repeat_interleave.self_int", _any(d), 2),
        lambda d: call("repeat_interleave.self_Tensor", d.tensor(3, d.size()), torch.tensor([2, 1, 3]), 0, output_size=6),
    ],
}


def _joined(name):
    def form(d):
        shape = d.shape(1, 3)
        dim = d.dim(len(shape))
        sizes = [d.size() for _ in range(d.integers(1, 3))]
        at = dim % len(shape)
        return call(name, [d.tensor(*shape[:at], size, *shape[at + 1 :]) for size in sizes], dim)

    return [form, lambda d: (lambda n: call(name, [d.tensor(0), d.tensor(d.size(), n), d.tensor(1, n)]))(d.size())]


def _stacked(d):
    shape = d.shape(0, 2)
    return call("stack", [d.tensor(*shape) for _ in range(3)], d.dim(len(shape) + 1))


def _cut(name, of):
    """Forms along a drawn dimension; `of` gives the size of that dimension and the arguments."""

    def form(d):
        shape = d.shape(1, 3)
        dim = d.dim(len(shape))
        size, *args = of(d)
        at = dim % len(shape)
        return call(name, d.tensor(*shape[:at], size, *shape[at + 1 :]), *args, dim)

    return form


def _sections(d):
    sizes = [d.size() for _ in range(3)]
    return sum(sizes), sizes


def _ends(d):
    first, second, third = _sections(d)[1]
    return first + second + third, d.choice([[first, first + second], [first, -third]])


def _sliced(*args):
    """A slice of the middle of three axes; the operator takes the dimension first."""
    return lambda d: call("slice.Tensor", d.tensor(d.size(), 12, d.size()), d.choice([1, -2]), *args)


def _split(name):
    return [
        _cut(name, lambda d: (lambda n: (3 * n, n))(d.size())),
        _cut(name, lambda d: (3 * d.size() + 1, 3)),
        _cut(name, lambda d: (4, 4)),
    ]


def _chunked(name):
    return [_cut(name, lambda d: (3 * d.size(), 3)), _cut(name, lambda d: (7, 3)), _cut(name, lambda d: (4, 1))]


def _padded(name, count, *more):
    return lambda d: call(name, d.tensor(2, *(d.integers(4, 5) for _ in range(count + 1))), [1, 2] * count, *more)


def _shifted(name):
    return [
        lambda d: (lambda x: call(name, x, [d.dim(x.ndim)]))(_any(d)),
        lambda d: call(name, d.tensor(*d.shape(1, 2))),
    ]


JOINING_ROWS = {
    **{name: _shifted(name) for name in ("fft_fftshift", "fft_ifftshift")},
    **{name: _joined(name) for name in ("cat", "concat", "concatenate")},
    "stack": [_stacked],
    "split": [*_split("split.Tensor"), _cut("split.sizes", _sections)],
    "unsafe_split": _split("unsafe_split.Tensor"),
    "split_with_sizes": [_cut("split_with_sizes", _sections)],
    "unsafe_split_with_sizes": [_cut("unsafe_split_with_sizes", _sections)],
    "chunk": _chunked("chunk"),
    "unsafe_chunk": _chunked("unsafe_chunk"),
    "tensor_split": [
        *_chunked("tensor_split.sections"),
        _cut("tensor_split.indices", _ends),
        _cut("tensor_split.indices", lambda d: (4, [3, 9])),
        _cut("tensor_split.tensor_indices_or_sections", lambda d: (6, torch.tensor([2, 4]))),
    ],
    "glu": [lambda d: (lambda n: call("glu", d.tensor(d.size(), 2 * n), d.choice([1, -1])))(d.size())],
    "unbind": [lambda d: (lambda x: call("unbind.int", x, d.dim(x.ndim)))(_any(d))],
    "select": [lambda d: (lambda x: call("select.int", x, d.dim(x.ndim), d.choice([0, 1, -1])))(_any(d))],
    "slice": [
        _sliced(), _sliced(0, 12), _sliced(0, 2**62), _sliced(3), _sliced(None, 5), _sliced(3, 7), _sliced(-4), _sliced(2, -3),
        _sliced(None, None, 3), _sliced(1, None, 4), _sliced(1, 11, 4), _sliced(12), _sliced(4, 4), _sliced(0, 20),
    ],
    "narrow": [
        lambda d: call("narrow.Tensor", d.tensor(d.size(), 9), 1, torch.tensor(3), 4),
        lambda d: call("narrow", d.tensor(d.size(), 9), 1, 0, 4), lambda d: call("narrow", d.tensor(9, d.size()), -2, 3, 4),
        lambda d: call("narrow", d.tensor(d.size(), 9), 1, 5, 4), lambda d: call("narrow", d.tensor(d.size(), 9), 1, 0, 9),
    ],
    "pad": [
        _padded("pad", 1), _padded("pad", 2), _padded("pad", 1, "reflect"), _padded("pad", 2, "replicate"),
        _padded("pad", 1, "circular"),
        lambda d: call("pad", d.tensor(d.size(), 5), [-1, 2]),
        lambda d: call("pad", d.tensor(d.size(), 5), [0, 3], "constant", 0.5),
    ],
    "constant_pad_nd": [_padded("constant_pad_nd", 1), lambda d: call("constant_pad_nd", d.tensor(d.size(), 5), [0, -1, 2, 0])],
    **{f"{kind}_pad{n}d": [_padded(f"{kind}_pad{n}d", n)] for kind in ("reflection", "replication") for n in (1, 2, 3)},
    "flip": [lambda d: (lambda x: call("flip", x, [d.dim(x.ndim)]))(_any(d)), lambda d: call("flip", _any(d, 2), [0, 1])],
    "roll": [
        lambda d: call("roll", d.tensor(d.size(), 5), [d.integers(-4, 4)], [1]),
        lambda d: call("roll", d.tensor(4, 5), [1, -2], [0, 1]), lambda d: call("roll", d.tensor(d.size(), 4), [2]),
        lambda d: call("roll", d.tensor(d.size(), 4), [6], [-1]), lambda d: call("roll", d.tensor(d.size(), 4), [0], [-1]),
    ],
}  # fmt: skip


def _indexed(d):
    x = d.tensor(5, d.size(), d.size())
    return x, d.distinct(5, d.integers(3, 4))


def _written(d):
    """A tensor, a dimension, different positions along it, and slices to write there."""
    shape = (d.size(), 6)
    dim = d.choice([1, -1])
    count = d.integers(3, 5)
    return d.tensor(*shape), dim, d.distinct(6, count), d.tensor(shape[0], count)


def _spread(d, less=0):
    """A tensor, a dimension, positions along it for each place of the others, and as many values."""
    n = d.integers(4, 5)
    index = torch.stack([d.distinct(6, 4) for _ in range(n - less)])
    return d.tensor(n, 6), 1, index, d.tensor(n - less, 4)


def _ordered(d):
    return call("topk", d.tensor(d.size(), 7), d.size(), d.choice([1, -1]), over=(("args[0]", 1),))


def _ordered_backwards(d):
    """The least of the negative values, so that what is neutral to the greatest is so here as well."""
    least = lambda x, k, dim: torch.topk(-x, k, dim, largest=False)  # noqa: E731
    return Sample(least, (d.tensor(d.size(), 7), d.size(), d.choice([1, -1])), over=(("args[0]", 1),))


def _scalars(name, *more, source=False):
    return lambda d: call(name, d.tensor(), 0, torch.tensor([0]), *([d.tensor()] if source else []), *more)


INDEXING_ROWS = {
    "index": [
        lambda d: (lambda x, i: call("index.Tensor", x, [i]))(*_indexed(d)),
        lambda d: (lambda x, i: call("index.Tensor", x.transpose(0, 1).contiguous(), [None, i]))(*_indexed(d)),
        lambda d: (lambda x, i: call("index.Tensor", d.tensor(5, 5, d.size()), [i, i.clone()]))(*_indexed(d)),
        lambda d: (lambda x, i: call("index.Tensor", d.tensor(5, d.size(), 5), [i, None, i.clone()]))(*_indexed(d)),
        lambda d: call("index.Tensor", d.tensor(5, d.size()), [d.below(5, 3, 4)]),
        lambda d: call("index.Tensor", d.tensor(5, 4), [torch.tensor([True, False, True, True, False])]),
        lambda d: call("index.Tensor", d.tensor(5, 4), [d.tensor(5, 4) > 0]),
    ],
    **{
        ruled: [
            lambda d, name=name: (lambda x, i: call(name, x, [i], d.tensor(*i.shape, *x.shape[1:])))(*_indexed(d)),
            lambda d, name=name: (lambda x, i: call(name.rstrip("_"), x, [i], d.tensor(x.shape[2])))(*_indexed(d)),
            lambda d, name=name: (lambda n: call(name, d.tensor(n, 5), [None, d.below(5, 3)], d.tensor(n, 3)))(d.size()),
            lambda d, name=name: call(name, d.tensor(5, 4), [d.tensor(5, 4) > 0], d.tensor()),
        ]
        for ruled, name in (("index_put", "index_put_"), ("_index_put_impl", "_index_put_impl_"))
    },
    "index_select": [
        lambda d: (lambda x, i: call("index_select", x, d.choice([0, -3]), i))(*_indexed(d)),
        lambda d: call("index_select", d.tensor(), 0, torch.tensor([0])),
    ],
    "index_add": [
        lambda d: call("index_add", *_written(d)), lambda d: call("index_add_", *_written(d)),
        _scalars("index_add", source=True),
    ],
    "index_copy": [
        lambda d: call("index_copy", *_written(d)), lambda d: call("index_copy_", *_written(d)),
        _scalars("index_copy", source=True),
    ],
    "index_fill": [
        lambda d: call("index_fill.int_Scalar", *_written(d)[:3], 0.5),
        lambda d: call("index_fill_.int_Tensor", *_written(d)[:3], d.tensor()), _scalars("index_fill.int_Scalar", 0.5),
    ],
    "index_reduce": [lambda d: call("index_reduce", *_written(d), "amax"), _scalars("index_reduce", "prod", source=True)],
    "gather": [
        lambda d: call("gather", *_spread(d)[:3]), lambda d: call("gather", *_spread(d, less=1)[:3]),
        lambda d: call("gather", d.tensor(), 0, torch.tensor(0)),
    ],
    "take_along_dim": [
        lambda d: (lambda x, dim, i, _: call("take_along_dim", x, i, dim))(*_spread(d)),
        lambda d: call("take_along_dim", d.tensor(d.size(), 6), d.below(6, 4).view(1, 4), 1),
        lambda d: call("take_along_dim", d.tensor(3, 4), d.below(12, 5)),
    ],
    "scatter": [
        lambda d: call("scatter.src", *_spread(d)), lambda d: call("scatter.value", *_spread(d)[:3], 0.5),
        lambda d: call("scatter_.src", *_spread(d)), lambda d: call("scatter.src", *_spread(d, less=1)),
        lambda d: call("scatter.reduce", *_spread(d), reduce="multiply"),
    ],
    "scatter_add": [lambda d: call("scatter_add", *_spread(d)), lambda d: call("scatter_add_", *_spread(d))],
    "scatter_reduce": [
        lambda d: call("scatter_reduce.two", *_spread(d), "sum"), lambda d: call("scatter_reduce.two", *_spread(d), "amax"),
    ],
    "topk": [_ordered, _ordered_backwards, lambda d: call("topk", d.tensor(), 1, -1)],
}  # fmt: skip
