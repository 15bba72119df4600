"""Let `int(n)`, `float(n)`, `len(x)`, `range(n)` and functions of `math` in forward know sizes: Python has plain numbers there.

What is called by one of these names, and only what is called, is exchanged in the code of the functions that forward reaches:
`isinstance(n, int)`, `dtype=int` and whatever else reads a name read what they did. All other numbers get the plain answer.
"""

from __future__ import annotations

import builtins
import dis
import functools
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from depgraph.solving.sized import Sized, computed, let_escape
from depgraph.tracing.followed_math import SIZES, plain_number
from depgraph.tracing.reached import Reached


@contextmanager
def numbers_followed(reached: Reached) -> Iterator[None]:
    """Under which the functions that forward reaches call the names below with sizes that stay sizes, and those of `math`."""
    own: list[tuple[types.FunctionType, types.CodeType]] = []
    try:
        for put, _, twin in reached.twins.values():
            put(twin)
        for function in reached.functions:
            code = function.__code__
            followed = _followed(code, _meant(function), code.co_filename)
            if followed is not code:
                own.append((function, code))
                function.__code__ = followed
        yield
    finally:
        for function, code in own:
            function.__code__ = code
        for put, plain, _ in reached.twins.values():
            put(plain)


def _meant(function: types.FunctionType) -> frozenset[str]:
    """The names that are Python's own in a function's module."""
    code: Any = function
    scope, python = code.__globals__, code.__builtins__
    return frozenset(name for name in _FOLLOWED if name not in scope and python.get(name) is getattr(builtins, name))


def _int(number: Any = 0, *base: Any, **named: Any) -> Any:
    """`int(number)`, which is the size itself, or follows the float that was computed from sizes."""
    return int(number, *base, **named) if base or named or type(number) not in SIZES else number.__trunc__()


def _float(number: Any = 0.0) -> Any:
    """`float(number)`, which is computed from the size."""
    return float(number) if type(number) not in SIZES else computed(float(plain_number(number)), number.owner, number)


def _range(*numbers: Any) -> range:
    """`range`, whose numbers decide how often something happens: nothing can follow them from here on."""
    for number in numbers:
        if type(number) is Sized:
            let_escape(number.owner, number)
    return range(*numbers)


def _len(container: Any) -> Any:
    """`len(container)`, which is the first size of a tensor."""
    return container.shape[0] if isinstance(container, torch.Tensor) and container.dim() else len(container)


_FOLLOWED: dict[str, Callable[..., Any]] = {"int": _int, "float": _float, "len": _len, "range": _range}


@functools.cache
def _followed(code: types.CodeType, names: frozenset[str], file: str) -> types.CodeType:
    """The code with calls of these names exchanged, that of the functions in it too; the same code where it calls none.

    The file is for the cache only: codes of two files may be equal.
    """
    constants = [_followed(item, names, file) if isinstance(item, types.CodeType) else item for item in code.co_consts]
    changed = any(new is not old for new, old in zip(constants, code.co_consts, strict=True))
    written, extended = bytearray(code.co_code), 0
    for offset in range(0, len(written), 2) if not names.isdisjoint(code.co_names) else ():
        operator, argument = written[offset], written[offset + 1] | extended
        extended = argument << 8 if operator == dis.EXTENDED_ARG else 0
        # the compiler asks for the NULL beside a name, which is the lowest bit, just where the name is called
        if operator == _LOAD_GLOBAL and argument & 1 and code.co_names[argument >> 1] in names:
            _load(written, offset, len(constants))
            constants.append(_FOLLOWED[code.co_names[argument >> 1]])
            changed = True
    return code.replace(co_code=bytes(written), co_consts=tuple(constants)) if changed else code


_LOAD_GLOBAL = dis.opmap["LOAD_GLOBAL"]


def _load(written: bytearray, offset: int, constant: int) -> None:
    """Load a constant to be called in the place of the name at an offset: what Python caches there is room for it."""
    before = offset - 2
    while before >= 0 and written[before] == dis.EXTENDED_ARG:
        written[before : before + 2] = _NOTHING
        before -= 2
    load = bytes((dis.EXTENDED_ARG, constant >> 8, dis.opmap["LOAD_CONST"], constant & 255))
    null = bytes((dis.opmap["PUSH_NULL"], 0))
    units = load + null if sys.version_info >= (3, 13) else null + load
    end = offset + 2
    while written[end] == _CACHE:
        end += 2
    written[offset:end] = units + _NOTHING * ((end - offset - len(units)) // 2)


_CACHE, _NOTHING = dis.opmap["CACHE"], bytes((dis.opmap["NOP"], 0))
