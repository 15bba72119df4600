"""Several forwards that wait for each other at each layer, so that a layer is solved when all batches have come to it.

Running the whole network again for each layer would cost as many forwards as it has layers. Here each batch is run once:
its forward is a thread that stops at a layer, and goes on when the layer has its new weights. One thread runs at a time.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from attrs import define, field


class _Cancelled(BaseException):
    """Ends a forward that waits, when another one has failed."""


def _cuda_device() -> int | None:
    """The device that this thread works on; a new thread starts with the first one."""
    ready: bool = torch.cuda.is_available() and torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return torch.cuda.current_device() if ready else None


@define(eq=False)
class Task:
    """A forward that runs in steps.

    Attributes:
        run: the forward; it is given the task, to wait by.
        waits_at: the key of the place at which it waits; None when it has ended.
        offer: what it brings to that place.
    """

    run: Callable[[Task], Any]
    waits_at: Hashable | None = None
    offer: Any = None
    _answer: Any = None
    _cancelled: bool = False
    _error: BaseException | None = None
    _go: threading.Semaphore = field(factory=lambda: threading.Semaphore(0))
    _stopped: threading.Semaphore = field(factory=lambda: threading.Semaphore(0))
    _thread: threading.Thread | None = None

    def wait(self, key: Hashable, offer: Any) -> Any:
        """Stop at a place until the answer is there. Called by the forward."""
        self.waits_at, self.offer = key, offer
        self._stopped.release()
        self._go.acquire()
        if self._cancelled:
            raise _Cancelled
        answer, self._answer = self._answer, None
        return answer

    def start(self) -> None:
        """Run until the first place."""
        context, device = contextvars.copy_context(), _cuda_device()

        def body() -> None:
            try:
                if device is not None:
                    torch.cuda.set_device(device)
                with torch.no_grad():
                    context.run(self.run, self)
            except _Cancelled:
                self._cancelled = True
            except BaseException as error:  # noqa: BLE001  raised by `resume`, in the thread that waits
                self._error = error
            self.waits_at = self.offer = None
            self._stopped.release()

        self._thread = threading.Thread(target=body, name="depgraph-lockstep", daemon=True)
        self._thread.start()
        self._await()

    def resume(self, answer: Any) -> None:
        """Go on with an answer until the next place, or the end."""
        self._answer, self.offer = answer, None
        self._go.release()
        self._await()

    def cancel(self) -> None:
        """End a forward that waits."""
        if self._thread is not None and self._thread.is_alive():
            self._cancelled = True
            self._go.release()
            self._thread.join()

    def _await(self) -> None:
        self._stopped.acquire()
        if self._error is not None:
            raise self._error


def in_step(tasks: Sequence[Task], rank: Callable[[Any], Any], solve: Callable[[Hashable, list[Task]], list[Any]]) -> None:
    """Run all tasks to their ends.

    Args:
        tasks: the forwards.
        rank: the order of the places: where tasks wait at different ones, the first is dealt with first.
        solve: given a place and the tasks that wait there, the answer to each.
    """
    try:
        for task in tasks:
            task.start()
        while waiting := [task for task in tasks if task.waits_at is not None]:
            place = min((task.waits_at for task in waiting), key=rank)
            here = [task for task in waiting if task.waits_at == place]
            for task, answer in zip(here, solve(place, here), strict=True):
                task.resume(answer)
    finally:
        for task in tasks:
            task.cancel()
