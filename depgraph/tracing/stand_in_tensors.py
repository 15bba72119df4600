"""What a traced forward gets in place of the model's tensors: fake ones, or copies."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
        """Does nothing, for fake tensors have no data to save."""

    @contextmanager
    def context(self) -> Iterator[None]:
        """The context of forward. Torch's log of failures in it is off for this thread, for the exception says the same."""
        thread = threading.get_ident()

        def of_another_thread(record: logging.LogRecord) -> bool:
            return record.thread != thread

        _LOG.addFilter(of_another_thread)
        try:
            with self._fake_mode:
                yield
        finally:
            _LOG.removeFilter(of_another_thread)

    def caller(self) -> Callable[..., Any]:
        """How an operator is called."""
        return Replay(self._fakes)


class RealTensors:
    """Copies of buffers and inputs, and parameters as they are: one that forward writes to is put back afterwards."""

    mode: TraceMode = "real"

    def __init__(self) -> None:
        self._parameters: dict[int, torch.UntypedStorage] = {}
        self._saved: dict[int, torch.UntypedStorage] = {}

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
            address = tensor.untyped_storage().data_ptr()
            if address in self._parameters and address not in self._saved:
                self._saved[address] = self._parameters[address].clone()  # type: ignore[no-untyped-call]

    @contextmanager
    def context(self) -> Iterator[None]:
        """The context of forward; at the end parameters that it wrote to get their data back."""
        try:
            yield
        finally:
            for address, data in self._saved.items():
                self._parameters[address].copy_(data)

    def caller(self) -> Callable[..., Any]:
        """How an operator is called."""
        return self._call

    def _call(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Call an operator after the data of parameters that it writes to are saved."""
        for position, name in _written_arguments(func):
            argument = args[position] if position < len(args) else kwargs.get(name)
            for tensor in argument if isinstance(argument, (list, tuple)) else (argument,):
                if isinstance(tensor, torch.Tensor):
                    self.keep(tensor)
        return func(*args, **kwargs)


@cache
def _written_arguments(func: Any) -> tuple[tuple[int, str], ...]:
    """Positions and names of arguments that an operator writes to; a higher-order one has no schema, but its parts do."""
    arguments = func._schema.arguments if hasattr(func, "_schema") else ()
    return tuple(
        (position, argument.name)
        for position, argument in enumerate(arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
    )
