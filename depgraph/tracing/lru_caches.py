"""Take functions out of their caches while a model is traced: a cache outlives the trace, and hides operators from it."""

from __future__ import annotations

import functools
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def uncached(model: nn.Module) -> Iterator[None]:
    """Call the functions under `functools.lru_cache` as they are, in the classes of a model's modules and beside them.

    Otherwise a fake tensor would stay in a cache for forwards to come, and a value that an earlier forward has left there
    would take the place of the operators that made it.
    """
    changed: list[tuple[Any, str, Any]] = []
    try:
        for holder in _holders(model):
            for name, content in list(vars(holder).items()):
                plain = _without_cache(content)
                if plain is not None:
                    setattr(holder, name, plain)
                    changed.append((holder, name, content))
        yield
    finally:
        for holder, name, content in reversed(changed):
            setattr(holder, name, content)


def _holders(model: nn.Module) -> list[Any]:
    """The classes of the modules, torch's own aside, and the Python modules that these are written in."""
    kinds = {kind: None for module in model.modules() for kind in type(module).__mro__ if not _is_of_torch(kind)}
    files = {kind.__module__: None for kind in kinds}
    return [*kinds, *(sys.modules[name] for name in files if name in sys.modules)]


def _is_of_torch(kind: type) -> bool:
    return kind is object or kind.__module__ == "torch" or kind.__module__.startswith("torch.")


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
