"""Draws of shapes and data for samples of operator calls, and samples read off an operator's schema."""

import random

import torch
from attrs import field, frozen
from hypothesis import strategies as st

from depgraph.testing.probing import Mixed

RANDOM = (Mixed(),)
"""What is drawn anew or not initialised has no values to compare: every axis is judged by shapes."""


@frozen(eq=False)
class Sample:
    """A call of an operator: `over` are the axes across which it mixes positions, None where no value can be compared.

    `chosen` are the operands that hold numbers of indices which the data chose, with how many indices there are.
    """

    function: object
    args: tuple = ()
    kwargs: dict = field(factory=dict)
    over: tuple | None = ()
    chosen: dict = field(factory=dict)

    def __repr__(self):
        shown = [tuple(x.shape) if isinstance(x, torch.Tensor) else x for x in self.args]
        return f"{self.function} on {shown} {sorted(self.kwargs)}"


def aten(name):
    """The operator or overload of that name, such as ``add`` or ``add.Tensor``."""
    found = torch.ops.aten
    for part in name.split("."):
        found = getattr(found, part)
    return found


def exists(name):
    """Whether this torch has the operator, or its in-place form."""
    return any(hasattr(torch.ops.aten, packet) for packet in (name, f"{name}_"))


def call(name, *args, over=(), chosen=(), **kwargs):
    """A sample of an ATen operator."""
    return Sample(aten(name), args, kwargs, over, dict(chosen))


class Draw:
    """Sizes, flags and tensors from a source of integers."""

    def __init__(self, integers):
        self.integers = integers

    @classmethod
    def seeded(cls, seed):
        """Draws that depend on the seed alone."""
        return cls(random.Random(seed).randint)

    def choice(self, items):
        """One of the items."""
        return items[self.integers(0, len(items) - 1)]

    def flag(self):
        """True or false."""
        return bool(self.integers(0, 1))

    def size(self):
        """A size at which a removal leaves more than one index."""
        return self.integers(3, 5)

    def shape(self, least=1, most=3):
        """A shape of that many dimensions at least and at most."""
        return tuple(self.size() for _ in range(self.integers(least, most)))

    def dim(self, ndim):
        """A dimension, counted from the front or from the back."""
        return self.integers(-ndim, ndim - 1)

    def tensor(self, *shape, kind="float"):
        """Data without repeated values, but for integers and flags."""
        generator = torch.Generator().manual_seed(self.integers(0, 2**16))
        if kind == "int":
            return torch.randint(1, 7, shape, generator=generator)
        data = torch.rand(shape, generator=generator, dtype=torch.float64) * 3 - 1.5
        if kind == "complex":
            return torch.complex(data, torch.rand(shape, generator=generator, dtype=torch.float64))
        if kind == "bool":
            return data > 0
        return data.abs() / 1.6 + 0.01 if kind == "unit" else data

    def below(self, bound, *shape):
        """Positions of an axis of size `bound`; the last one is among them, so that none can go."""
        found = self.tensor(*shape, kind="int") % bound
        return found.index_fill(0, torch.tensor([0]), bound - 1) if found.numel() and found.ndim else found

    def distinct(self, bound, count):
        """Different positions of an axis of size `bound`."""
        generator = torch.Generator().manual_seed(self.integers(0, 2**16))
        return torch.randperm(bound, generator=generator)[:count]

    def operand(self, shape, kind="float"):
        """A tensor that broadcasts to the shape: whole, with an axis of size 1, or without the first ones."""
        way = self.integers(0, 3) if shape else 0
        if way == 1:
            shape = shape[1:]
        elif way == 2:
            dim = self.integers(0, len(shape) - 1)
            shape = (*shape[:dim], 1, *shape[dim + 1 :])
        return self.tensor(*shape, kind=kind)


def draws():
    """Draws from a seed that Hypothesis picks: calls are small as they are, and a failure costs many, so nothing is shrunk."""
    return st.integers(0, 2**16).map(Draw.seeded)


KINDS = {
    "int": "bitwise_and bitwise_left_shift bitwise_not bitwise_or bitwise_right_shift bitwise_xor gcd lcm "
    "__ilshift__ __irshift__ __lshift__ __rshift__",
    "complex": "_conj conj imag real resolve_conj",
    "unit": "bernoulli poisson binomial _standard_gamma",
}
_KIND_OF = {name: kind for kind, names in KINDS.items() for name in names.split()}
_PLAIN = {"Scalar": 1.4, "number": 1.4, "float": 0.6, "int": 1, "bool": True}


_WHOLE = {"rrelu_with_noise", "rrelu_with_noise_functional"}
"""Operators that do not broadcast."""


def overloads(name):
    """The overloads of an operator and of its in-place form that take tensors and numbers."""
    found = []
    for packet in (name, f"{name}_"):
        if hasattr(torch.ops.aten, packet):
            found += [
                getattr(getattr(torch.ops.aten, packet), overload) for overload in getattr(torch.ops.aten, packet).overloads()
            ]
    return [overload for overload in found if _is_plain(overload._schema.arguments)]


def _is_plain(arguments):
    usual = all(str(item.type) in {"Tensor", *_PLAIN} or item.has_default_value() or item.is_out for item in arguments)
    return usual and any(str(item.type) == "Tensor" for item in arguments)


def from_schema(d, overload, over=()):
    """A call with the arguments that the schema asks for: tensors that broadcast, numbers, and ``out=`` where it takes one."""
    schema = overload._schema
    name = schema.name.removeprefix("aten::")
    plain = name if name.endswith("__") else name.rstrip("_")
    kind = _KIND_OF.get(plain, "float")
    shape = d.shape(0, 3)
    first, args, kwargs = True, [], {}
    for argument in schema.arguments:
        if argument.is_out or (argument.has_default_value() and str(argument.type) != "Tensor"):
            continue
        if str(argument.type) == "Tensor":
            here = _kind_of_argument(plain, argument.name, kind)
            value = d.tensor(*shape, kind=here) if first or plain in _WHOLE else d.operand(shape, here)
            first = False
        else:
            value = 2 if kind == "int" else _PLAIN[str(argument.type)]
        if argument.kwarg_only:
            kwargs[argument.name] = value
        else:
            args.append(value)
    outs = [argument.name for argument in schema.arguments if argument.is_out]
    if outs:
        packet = getattr(torch.ops.aten, name)
        with torch.random.fork_rng(devices=[]):
            made = packet(*args, **kwargs)
        kwargs.update(
            {key: torch.zeros_like(value) for key, value in zip(outs, made if len(outs) > 1 else [made], strict=True)}
        )
    return Sample(overload, tuple(args), kwargs, over)


def _kind_of_argument(name, argument, kind):
    if argument in {"condition", "mask"} or (name == "native_dropout_backward" and argument == "mask"):
        return "bool"
    return "int" if name == "ldexp" and argument == "other" else kind
