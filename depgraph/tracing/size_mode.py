"""The function mode under which a forward runs: it gives sizes a provenance where forward asks for them."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from functools import cache
from math import prod
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from depgraph.solving.expressions import Arithmetic, AxisSize, Literal
from depgraph.solving.sized import Sized, origin, plain_int, sized_in
from depgraph.solving.statements import Value
from depgraph.tracing.session import DataRead, Session, memory_order
from depgraph.tracing.size_arguments import sliced_dimensions


class SizeMode(TorchFunctionMode):
    """Gives sizes a provenance where forward asks for them, and keeps the arguments of each call as they were written."""

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.session = session
        self.opened: Any = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        answer = _ANSWERS.get(func)
        if answer is not None:
            return answer(self, func, args, kwargs)
        if func is torch.Tensor.__getitem__:
            self._reach_the_end(*args)
        if func is torch.nn.functional.interpolate and kwargs.get("scale_factor", args[2:3]):
            # it makes floats of them, from which nobody could tell the sizes any more
            self.session.escape(tuple(sized_in((kwargs.get("scale_factor"), args[2:3]))), self.session)
        if isinstance(func, _PYTHON_FUNCTION) and func is not self.opened:
            body = _without_override_check(func)
            if body is not None:
                before, self.opened = self.opened, func
                try:
                    with self:
                        return body(*args, **kwargs)
                finally:
                    self.opened = before
        # an operator is called below autocast, and cannot tell any more whether that is on
        autocasts = torch._C._is_any_autocast_enabled() and func not in _CASTS
        outer = self.session.function_entered(args, kwargs, func is _ASSIGN, autocasts)
        try:
            result = func(*args, **kwargs)
        finally:
            self.session.function_left(outer)
        if func in _FROM_DATA and not result.is_floating_point():
            # a position or a count; where it is made a float it only scales, as in attention
            self.session.escape(tuple(sized_in((*args, *kwargs.values()))), self.session)
        return result

    def _size(self, func: Any, args: Any, kwargs: Any) -> Any:
        tensor = args[0]
        plain = func(*args, **kwargs)
        value = self.session.known(tensor)
        if value is None:
            return plain
        if isinstance(plain, torch.Size):
            if tuple(plain) != value.shape:
                return plain
            return torch.Size([self._sized(value, dim, size) for dim, size in enumerate(plain)])
        dim = args[1] if len(args) > 1 else kwargs["dim"]
        return self._sized(value, dim % value.ndim, plain) if value.shape[dim] == plain else plain

    def _count(self, func: Any, args: Any, kwargs: Any) -> Any:
        """`len` gives a plain integer, which nothing can follow; the number of elements is a product of sizes."""
        plain = func(*args, **kwargs)
        value = self.session.known(args[0])
        if value is None:
            return plain
        sizes = [self._sized(value, dim, size) for dim, size in enumerate(value.shape)]
        if func is torch.Tensor.__len__:
            self.session.escape(tuple(origin(size) for size in sizes[:1] if size > 1), self.session)
            return plain
        return prod(sizes) if prod(value.shape) == plain else plain

    def _stride(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Where a tensor lies in memory without gaps, a stride is the product of the sizes of what lies further inside."""
        plain, tensor = func(*args, **kwargs), args[0]
        value = self.session.known(tensor)
        order = None if value is None else memory_order(tensor)
        if value is None or order is None or tuple(tensor.shape) != value.shape:
            return plain
        rows = {
            dim: prod(self._sized(value, inner, value.shape[inner]) for inner in order[place + 1 :])
            for place, dim in enumerate(order)
        }
        if isinstance(plain, tuple):
            return tuple(rows.get(dim, stride) for dim, stride in enumerate(plain))
        return rows.get((args[1] if len(args) > 1 else kwargs["dim"]) % value.ndim, plain)

    def _hand_over(self, func: Any, args: Any, kwargs: Any) -> Any:
        name = f"Tensor.{func.__name__}"
        if self.session.mode == "fake" and func is not torch.Tensor.tolist:
            raise DataRead(name)  # lists of fake numbers may be known: what torch.linspace made
        result = func(*args, **kwargs)
        self.session.hand_over(args[0], name)
        return result

    def _reach_the_end(self, tensor: torch.Tensor, index: Any) -> None:
        """A slice from a size that is 0, or to one beyond the end, takes what is there; torch may not even call an operator."""
        for dim, entry in sliced_dimensions(index, tensor.ndim):
            start, stop = entry.start, entry.stop
            if type(start) is Sized and plain_int(start) == 0:
                self.session.fact(origin(start, self.session), Literal(0), 0, self.session)
            if type(stop) is Sized and not entry.start and (value := self.session.known(tensor)) is not None:
                size = value.shape[dim]
                if plain_int(stop) >= size:
                    reach = Arithmetic("+", origin(stop, self.session), Literal(1))
                    self.session.below(AxisSize(value.id, dim, size), reach, self.session)

    def _sized(self, value: Value, dim: int, size: int) -> int:
        return Sized(size, AxisSize(value.id, dim, size), self.session) if size > 1 else size


_ANSWERS: dict[Any, Callable[..., Any]] = {
    **dict.fromkeys((torch.Tensor.shape.__get__, torch.Tensor.size), SizeMode._size),  # type: ignore[attr-defined]
    **dict.fromkeys((torch.Tensor.__len__, torch.Tensor.numel, torch.Tensor.nelement, torch.numel), SizeMode._count),
    torch.Tensor.stride: SizeMode._stride,
    **dict.fromkeys((torch.Tensor.tolist, torch.Tensor.numpy, torch.Tensor.__dlpack__), SizeMode._hand_over),
}
"""Functions that the mode answers by itself."""


_ASSIGN = torch.Tensor.__setitem__
_FROM_DATA = frozenset({torch.tensor, torch.as_tensor, torch.asarray, torch.scalar_tensor, torch.Tensor.new_tensor})
"""What makes a tensor of numbers that forward holds."""


_CASTS = frozenset(
    getattr(torch.Tensor, name)
    for names in (
        ("to", "type", "type_as", "cpu", "cuda"),
        ("double", "float", "half", "bfloat16", "cdouble", "cfloat", "chalf"),
        ("long", "int", "short", "char", "byte", "bool"),
    )
    for name in names
)
"""Functions by which forward casts by itself."""


_PYTHON_FUNCTION = types.FunctionType


_OVERRIDE_CHECKS = ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic")


@cache
def _open_globals(module: str) -> dict[str, Any]:
    """A copy of a torch module's globals in which functions do not hand over to the function mode again."""
    opened = dict(vars(sys.modules[module]))
    for name in _OVERRIDE_CHECKS:
        if name in opened:
            opened[name] = _never
    return opened


def _never(*_: Any) -> bool:
    return False


@cache
def _without_override_check(func: types.FunctionType) -> Callable[..., Any] | None:
    """The same Python function, free to run its body under the function mode, so that what it calls is seen."""
    module = func.__module__
    names = func.__code__.co_names
    if module not in sys.modules or func.__globals__ is not vars(sys.modules[module]):
        return None
    if not any(name in names and name in func.__globals__ for name in _OVERRIDE_CHECKS):
        return None
    opened = types.FunctionType(func.__code__, _open_globals(module), func.__name__, func.__defaults__, func.__closure__)
    opened.__kwdefaults__ = func.__kwdefaults__
    return opened
