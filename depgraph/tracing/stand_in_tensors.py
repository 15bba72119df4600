"""What a traced forward gets in place of the model's tensors: fake ones, or copies; and states that it must not move."""

from __future__ import annotations

import logging
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from depgraph.errors import TraceError
from depgraph.graph.records import TraceMode
from depgraph.tracing.shape_cache import FakeFactory, Replay

_LOG = logging.getLogger("torch._subclasses.fake_tensor")


class FakeTensors:
    """Stand-ins of the same shapes, strides, dtypes and devices, without data."""

    mode: TraceMode = "fake"

    def __init__(self) -> None:
        self._fake_mode = FakeTensorMode(allow_non_fake_inputs=True)
        self._fakes = FakeFactory(self._fake_mode)

    def like(self, tensor: torch.Tensor, device: torch.device | None = None) -> torch.Tensor:
        """A fake tensor; to be called outside of the fake mode."""
        if isinstance(tensor, FakeTensor):
            raise TraceError("expected real or meta tensors, met fake ones. Trace outside of FakeTensorMode.")
        device = device or tensor.device
        if tensor.layout is not torch.strided:
            with self._fake_mode:
                return torch.empty(tensor.shape, dtype=tensor.dtype, device=device)
        return self._fakes.make(tensor.shape, tensor.stride(), tensor.dtype, device)

    def beside(self, tensor: torch.Tensor) -> torch.Tensor:
        """A copy of a tensor that is neither parameter, buffer nor input: the fake mode knows its data, and may write to it."""
        return tensor.detach().clone()

    def keep(self, tensor: torch.Tensor) -> None:
        """Nothing: no data can be written."""

    @contextmanager
    def context(self) -> Iterator[None]:
        """Under which the forward runs; torch's log of what fails there is off, for the exception tells it."""
        before, _LOG.disabled = _LOG.disabled, True
        try:
            with self._fake_mode:
                yield
        finally:
            _LOG.disabled = before

    def caller(self) -> Callable[..., Any]:
        """How an operator is called."""
        return Replay(self._fakes)


class RealTensors:
    """Copies of buffers and inputs, and parameters as they are: one that forward writes to is put back afterwards."""

    mode: TraceMode = "real"

    def __init__(self) -> None:
        self._parameters: dict[int, torch.UntypedStorage] = {}
        self._kept: dict[int, torch.UntypedStorage] = {}

    def like(self, tensor: torch.Tensor, device: torch.device | None = None) -> torch.Tensor:
        """A tensor with the same data, no history and a version of its own."""
        if isinstance(tensor, nn.Parameter) and tensor.layout is torch.strided:
            storage = tensor.untyped_storage()
            self._parameters[storage.data_ptr()] = storage
            return tensor.data
        return tensor.detach().clone()

    def beside(self, tensor: torch.Tensor) -> torch.Tensor:
        """A copy of a tensor that is neither parameter, buffer nor input: forward may write to it."""
        return tensor.detach().clone()

    def keep(self, tensor: torch.Tensor) -> None:
        """Remember the data of a parameter that is about to be written to."""
        if tensor.layout is torch.strided:
            place = tensor.untyped_storage().data_ptr()
            if place in self._parameters and place not in self._kept:
                self._kept[place] = self._parameters[place].clone()  # type: ignore[no-untyped-call]

    @contextmanager
    def context(self) -> Iterator[None]:
        """Under which the forward runs; parameters that it wrote to get their data back."""
        try:
            yield
        finally:
            for place, before in self._kept.items():
                self._parameters[place].copy_(before)

    def caller(self) -> Callable[..., Any]:
        """How an operator is called."""
        return self._call

    def _call(self, func: Any, args: Any, kwargs: Any) -> Any:
        for position, name in _written_arguments(func):
            given = args[position] if position < len(args) else kwargs.get(name)
            for tensor in given if isinstance(given, (list, tuple)) else (given,):
                if isinstance(tensor, torch.Tensor):
                    self.keep(tensor)
        return func(*args, **kwargs)


@cache
def _written_arguments(func: Any) -> tuple[tuple[int, str], ...]:
    """Positions and names; a higher-order operator has no schema, and its parts are called one by one."""
    arguments = func._schema.arguments if hasattr(func, "_schema") else ()
    return tuple(
        (position, argument.name)
        for position, argument in enumerate(arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
    )


def same_draws(device: torch.device | None) -> AbstractContextManager[Any]:
    """Under which torch draws random numbers and leaves its generators as they were."""
    return torch.random.fork_rng(devices=[device] if device is not None and device.type == "cuda" else [])


@contextmanager
def same_draws_elsewhere() -> Iterator[None]:
    """Under which Python and NumPy draw random numbers and leave their generators as they were."""
    numpy: Any = sys.modules.get("numpy")
    ours, theirs = random.getstate(), None if numpy is None else numpy.random.get_state()
    try:
        yield
    finally:
        random.setstate(ours)
        if numpy is not None:
            numpy.random.set_state(theirs)
