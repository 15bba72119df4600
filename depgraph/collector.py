"""Keep Python's garbage collector out of what allocates much and gives nothing back before it ends."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_LOCK = threading.Lock()


_running = 0
"""How many blocks are running, nested ones and those of other threads."""


_thresholds = (0, 0, 0)
"""The thresholds from before the first of them."""


@contextmanager
def without_collections() -> Iterator[None]:
    """Under which no collection starts by itself; `gc.collect()` still works.

    The first block sets the threshold of the youngest generation to 0, and the last one that ends sets it back, in whichever
    thread. `gc.disable` would not do: what a user disables or enables in the meantime could not be told from the block's own.
    So that switch is never touched, and thresholds that someone else has set in the meantime stay.
    """
    global _running, _thresholds
    with _LOCK:
        if _running == 0:
            _thresholds = gc.get_threshold()
            gc.set_threshold(0, *_thresholds[1:])
        _running += 1
    try:
        yield
    finally:
        with _LOCK:
            _running -= 1
            if _running == 0 and gc.get_threshold() == (0, *_thresholds[1:]):
                gc.set_threshold(*_thresholds)
