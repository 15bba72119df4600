"""Progress bars: the one place that knows tqdm. Functions that take long have a parameter ``progress``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from depgraph.errors import PlanError

T = TypeVar("T")


def shown(items: Iterable[T], what: str, unit: str, progress: bool) -> Iterator[T]:
    """The items, with a bar where one is wanted.

    Raises:
        PlanError: a bar is wanted, and tqdm is not installed.
    """
    if not progress:
        return iter(items)
    bar: Iterator[T] = iter(progress_bar(items, desc=what, unit=unit))
    return bar


@contextmanager
def ticks(total: int, what: str, unit: str, progress: bool) -> Iterator[Callable[[], object]]:
    """What is to be called after each of so many pieces of work, with a bar where one is wanted.

    Raises:
        PlanError: a bar is wanted, and tqdm is not installed.
    """
    if not progress:
        yield bool
        return
    with progress_bar(total=total, desc=what, unit=unit) as bar:
        yield bar.update


def progress_bar(*args: Any, **kwargs: Any) -> Any:
    """What tqdm gives. Raises `PlanError` where it is not installed."""
    try:
        from tqdm import tqdm
    except ImportError:
        raise PlanError("progress=True needs the package tqdm; install depgraph[progress], or leave it out.") from None
    return tqdm(*args, **kwargs)
