"""What belongs to the whole process and not to one call: settings, generators of random numbers, and who may change them.

Work that needs a setting to be otherwise for a while (tracing, scoring with data) may overlap with such work in other
threads, and with threads that know nothing of it. Whatever overlaps, in the end everything is as it was.
"""

from __future__ import annotations

import concurrent.futures.thread
import os
import random
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from depgraph.settings import Setting

ONE_AT_A_TIME = threading.RLock()
"""Held by a trace: it calls functions without their caches and silences the compiler, which is undone in the reverse order."""

os.register_at_fork(before=ONE_AT_A_TIME.acquire, after_in_parent=ONE_AT_A_TIME.release, after_in_child=ONE_AT_A_TIME.release)


FUSED_ATTENTION: Setting[bool] = Setting(
    torch.backends.mha.get_fastpath_enabled, torch.backends.mha.set_fastpath_enabled, lambda enabled: False
)
"""Whether torch computes whole layers of attention in one operator, which hides their heads and the results of their parts."""


@contextmanager
def deeper(frames: int) -> Iterator[None]:
    """Under which Python runs that many frames inside of each other more than it did; to be held by one thread at a time."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(before + frames)
    try:
        yield
    finally:
        if sys.getrecursionlimit() == before + frames:
            sys.setrecursionlimit(before)


@contextmanager
def same_draws(devices: Iterable[torch.device | None]) -> Iterator[None]:
    """Under which torch's numbers are drawn on the CPU and some GPUs, and afterwards its generators are as they were.

    A generator serves all threads, and nothing tells who has drawn. So where another thread of the user's may have drawn, too,
    the generator goes on: put back, it would give numbers that the other thread has already. A seed that was set is undone.
    """
    indices = sorted({device.index or 0 for device in devices if device is not None and device.type == "cuda"})
    generators = [torch.default_generator, *(torch.cuda.default_generators[index] for index in indices)]
    before = [(generator, generator.get_state(), generator.initial_seed()) for generator in generators]
    alone = _alone()
    try:
        yield
    finally:
        alone = alone and _alone()
        for generator, state, seed in before:
            if alone or generator.initial_seed() != seed:
                generator.set_state(state)


@contextmanager
def same_draws_elsewhere() -> Iterator[None]:
    """The same for the generators of Python and NumPy."""
    numpy: Any = sys.modules.get("numpy")
    ours, theirs = random.getstate(), None if numpy is None else numpy.random.get_state()
    alone = _alone()
    try:
        yield
    finally:
        if alone and _alone():
            random.setstate(ours)
            if numpy is not None:
                numpy.random.set_state(theirs)


_DRAW_NOTHING = ("tqdm.", "multiprocessing.", "torch.utils.data.", "ipykernel.", "IPython.", "zmq.", "tornado.")
"""Where the threads come from that only show, move or wait: progress bars, queues of data loaders, notebooks."""


def _alone() -> bool:
    """Whether no thread but this one may draw random numbers."""
    return not any(_may_draw(thread) for thread in threading.enumerate() if thread is not threading.current_thread())


def _may_draw(thread: threading.Thread) -> bool:
    code = getattr(thread, "_target", None) or type(thread)
    if code is _POOL_WORKER:  # what torch compiles with has such a pool, and keeps it
        frame = sys._current_frames().get(thread.ident or 0)
        return frame is None or frame.f_code is not getattr(_POOL_WORKER, "__code__", None)
    return not f"{getattr(code, '__module__', None)}.".startswith(_DRAW_NOTHING)


_POOL_WORKER: Any = concurrent.futures.thread._worker
"""What a thread of a pool runs: where it runs nothing inside of that, it waits for work."""
