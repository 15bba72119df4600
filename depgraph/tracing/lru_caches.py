"""Take functions out of their caches while a model is traced: a cache outlives the trace, and hides operators from it."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from depgraph.tracing.reached import Reached


@contextmanager
def uncached(reached: Reached) -> Iterator[None]:
    """Call functions under `functools.lru_cache` without what other forwards left there, wherever forward reaches them.

    Otherwise a fake tensor would stay in a cache for forwards to come; a value that an earlier forward has left there would
    take the place of the operators that made it; and of two layers that ask a helper for the same sizes, as einops has one,
    the second would be given those of the first.
    """
    undo: list[Callable[[], None]] = []
    try:
        for put, content, plain in reached.caches:
            put(_for_one_trace(plain))
            undo.append(functools.partial(put, content))
        yield
    finally:
        for put_back in reversed(undo):
            put_back()


_PLAIN = frozenset({int, float, bool, str, bytes, type(None), logging.Logger})
"""What says nothing of a size or tensor as an argument; loggers, for messages that are given once."""


def _for_one_trace(plain: Any) -> Any:
    """The function with a cache of its own for plain arguments; with sizes, tensors and objects that may hold some it runs."""
    if isinstance(plain, (staticmethod, classmethod)):
        return type(plain)(_for_one_trace(plain.__func__))
    results: dict[Any, Any] = {}

    @functools.wraps(plain)
    def call(*args: Any, **kwargs: Any) -> Any:
        if not {*map(type, args), *map(type, kwargs.values())} <= _PLAIN:
            return plain(*args, **kwargs)
        key = (args, *sorted(kwargs.items()))
        if key not in results:
            results[key] = plain(*args, **kwargs)
        return results[key]

    return call
