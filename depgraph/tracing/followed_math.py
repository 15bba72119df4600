"""Python's `math` with functions that know sizes: the result of one is computed from those among its arguments."""

from __future__ import annotations

import functools
import math
import types
from collections.abc import Callable
from typing import Any

from depgraph.solving.sized import Sized, SizedFloat, computed, let_escape, plain_int

SIZES = (Sized, SizedFloat)


def _function(plain: Callable[..., Any]) -> Callable[..., Any]:
    """A function of `math`, whose result is computed from the sizes among its arguments."""

    @functools.wraps(plain)
    def call(*args: Any, **named: Any) -> Any:
        sizes = [number for number in (*args, *named.values()) if type(number) in SIZES]
        if not sizes:
            return plain(*args, **named)
        result = plain(*map(plain_number, args), **{name: plain_number(number) for name, number in named.items()})
        if type(result) in (int, float):
            return computed(result, sizes[0].owner, *sizes)
        let_escape(sizes[0].owner, *sizes)
        return result

    return call


def plain_number(number: Any) -> Any:
    """The number without the sizes that it was computed from."""
    return plain_int(number) if type(number) is Sized else float.__float__(number) if type(number) is SizedFloat else number


_BY_METHOD = {"ceil", "floor", "trunc", "prod", "fsum", "sumprod", "dist"}
"""Functions that ask the number itself, or that multiply and add the numbers of a list."""

_FUNCTIONS = {
    plain: _function(plain)
    for name, plain in vars(math).items()
    if isinstance(plain, types.BuiltinFunctionType) and name not in _BY_METHOD and not name.startswith("_")
}

_MATH = types.ModuleType("math", math.__doc__)
vars(_MATH).update(vars(math))
vars(_MATH).update({plain.__name__: function for plain, function in _FUNCTIONS.items()})


def followed_twin(content: Any) -> Any:
    """What stands for `math` or one of its functions while a model is traced; None for anything else."""
    if content is math:
        return _MATH
    return _FUNCTIONS.get(content) if isinstance(content, types.BuiltinFunctionType) else None
