"""What the forward of a model reaches by name, as far as it can be read off the code."""

from __future__ import annotations

import functools
import sys
import types
from collections.abc import Callable, Container
from typing import Any

from torch import nn

from depgraph.tracing.followed_math import followed_twin

Put = Callable[[Any], None]


class Reached:
    """What the forwards of a model's modules name: functions, classes and Python modules, and what those name in turn.

    A method is reached where its name is read anywhere, for nobody knows the class of what it is read from.

    Attributes:
        caches: for each function under a cache how to replace it where it was found, the function, and the one without cache.
        twins: likewise for `math` and its functions, with those that know sizes.
        functions: whose code was read.
    """

    def __init__(self, model: nn.Module, method: str = "forward") -> None:
        self.caches: list[tuple[Put, Any, Any]] = []
        self.twins: dict[tuple[int, str], tuple[Put, Any, Any]] = {}
        self.functions: list[types.FunctionType] = []
        self._seen: set[int] = set()
        self._open: list[types.FunctionType] = []
        self._names: set[str] = {"forward", method}
        self._methods: dict[str, list[tuple[Any, Put]]] = {}
        for kind in dict.fromkeys(kind for module in model.modules() for kind in type(module).__mro__):
            self._found(kind, special=("__call__", "__getattr__"))
        for content in [content for module in model.modules() for content in vars(module).values()]:
            if isinstance(content, types.FunctionType):
                self._found(content)
        while self._open:
            self.functions.append(self._open.pop())
            self._read(self.functions[-1])

    def _found(self, item: Any, special: Container[str] | None = None) -> None:
        """A function or class. Of a class the methods are gone into whose names are read, and special ones, or those given."""
        if id(item) in self._seen or _is_foreign(getattr(item, "__module__", None)):
            return
        self._seen.add(id(item))
        if isinstance(item, types.FunctionType):
            self._open.append(item)
            return
        for name, content in list(vars(item).items()):
            put = functools.partial(setattr, item, name)
            if name in self._names or (name in special if special is not None else name.startswith("__")):
                self._named(content, put)
            else:
                self._methods.setdefault(name, []).append((content, put))

    def _named(self, content: Any, put: Put) -> None:
        """Something that stands under a name; a cache around it is noted, and what is inside is gone into."""
        plain = _without_cache(content)
        if plain is not None:
            self.caches.append((put, content, plain))
            content = plain
        if isinstance(content, (staticmethod, classmethod)):
            content = content.__func__
        for item in (content.fget, content.fset) if isinstance(content, property) else (content,):
            if isinstance(item, (types.FunctionType, type)):
                self._found(item)

    def _read(self, function: types.FunctionType) -> None:
        """The names that a function's code reads, in its globals and closure, and in the Python modules among them."""
        names, scope = _names(function.__code__), function.__globals__
        for name in names - self._names:
            self._names.add(name)
            for content, put in self._methods.pop(name, ()):
                self._named(content, put)
        for name in names:
            content = scope.get(name, sys.modules.get(name))  # the latter where a function imports by itself
            if isinstance(content, types.ModuleType):
                self._read_module(content, names)
            elif name in scope:
                self._named(content, functools.partial(scope.__setitem__, name))
            self._numbers(scope, name)
        for cell in function.__closure__ or ():
            content = None if cell == types.CellType() else cell.cell_contents
            if isinstance(content, types.ModuleType):
                self._read_module(content, names)
            else:
                self._named(content, functools.partial(setattr, cell, "cell_contents"))

    def _read_module(self, module: types.ModuleType, names: frozenset[str]) -> None:
        """What code that reads these names may take from a Python module."""
        if not _is_foreign(module.__name__):
            for name in names & vars(module).keys():
                self._named(vars(module)[name], functools.partial(vars(module).__setitem__, name))
                self._numbers(vars(module), name)

    def _numbers(self, scope: dict[str, Any], name: str) -> None:
        """Note under which global names `math` and its functions stand."""
        twin = followed_twin(scope.get(name))
        if twin is not None:
            self.twins[id(scope), name] = functools.partial(scope.__setitem__, name), scope[name], twin


@functools.cache
def _names(code: types.CodeType) -> frozenset[str]:
    """The names that code reads, that of the functions in it too."""
    inner = [_names(constant) for constant in code.co_consts if isinstance(constant, types.CodeType)]
    return frozenset(code.co_names).union(*inner)


@functools.cache
def _is_foreign(module: str | None) -> bool:
    """Whether a Python module is part of torch, of Python or of this package, whose caches are none of a model's own."""
    top = (module or "builtins").partition(".")[0]
    return top in {"torch", "depgraph", "numpy"} or (top in sys.stdlib_module_names and top != "__main__")


def _without_cache(content: Any) -> Any:
    """The function without its cache, also where a wrapper chooses between the two; None for anything else."""
    if isinstance(content, (staticmethod, classmethod)):
        plain = _without_cache(content.__func__)
        return None if plain is None else type(content)(plain)
    if isinstance(content, functools._lru_cache_wrapper):
        return content.__wrapped__
    plain = getattr(content, "__wrapped__", None) if isinstance(content, types.FunctionType) else None
    if plain is None:
        return None
    inside = [cell.cell_contents for cell in content.__closure__ or () if cell != types.CellType()]
    caches = [item for item in inside if isinstance(item, functools._lru_cache_wrapper)]
    return plain if any(cache.__wrapped__ is plain for cache in caches) else None
