"""Settings of the process that several threads may need to be otherwise at the same time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

T = TypeVar("T")


class Setting(Generic[T]):
    """A setting of the process that several threads may need to be otherwise at the same time.

    The first block writes it, and the last one that ends writes back what was there, in whichever thread. What somebody else
    has set in the meantime stays.
    """

    def __init__(self, read: Callable[[], T], write: Callable[[T], object], meanwhile: Callable[[T], T]) -> None:
        self._read, self._write, self._meanwhile = read, write, meanwhile
        self._lock = threading.Lock()
        self._running = 0
        self._before: list[T] = []

    @contextmanager
    def changed(self) -> Iterator[None]:
        """Under which the setting is otherwise."""
        with self._lock:
            if self._running == 0:
                self._before = [self._read()]
                self._write(self._meanwhile(self._before[0]))
            self._running += 1
        try:
            yield
        finally:
            with self._lock:
                self._running -= 1
                if self._running == 0 and self._read() == self._meanwhile(self._before[0]):
                    self._write(self._before[0])
