"""Compute the shape of an operator's result once for each distinct call: the layers of a model repeat each other."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from attrs import evolve, field, frozen
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

_PLAIN = (bool, float, type(None), str, torch.dtype, torch.device, torch.layout, torch.memory_format)


@frozen
class _Layout:
    """What the one result of a call looks like; `offset` where it is a view of the first operand."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    offset: int | None = None


_MAX_CALLS = 1 << 14
"""How many calls are remembered beyond a trace: some ten megabytes."""


_layouts: dict[Any, _Layout | int] = {}
"""The results of torch's own operators, of earlier traces, too. Torch's fake mode keeps them as well, under longer keys."""


@frozen(eq=False)
class FakeFactory:
    """Makes the fake tensors of one mode, faster than their class does: beside shapes, those of one device are all alike."""

    mode: FakeTensorMode
    _states: dict[torch.device, dict[str, Any]] = field(factory=dict)

    def make(self, shape: tuple[int, ...], stride: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> FakeTensor:
        """A fake tensor without a history; also where the mode is active."""
        with torch._C._DisableTorchDispatch():
            return self._fake(torch.empty_strided(shape, stride, dtype=dtype, device="meta"), device)

    def view(self, base: FakeTensor, layout: _Layout) -> FakeTensor:
        """A fake tensor in the memory of another one."""
        with torch._C._DisableTorchDispatch():
            plain = torch.empty(0, dtype=layout.dtype, device="meta")
            plain.set_(base.untyped_storage(), layout.offset or 0, layout.shape, layout.stride)
            return self._fake(plain, layout.device)

    def _fake(self, plain: torch.Tensor, device: torch.device) -> FakeTensor:
        """The fake tensor of a meta tensor; the first of a device gives the state that all of them share."""
        if device not in self._states:
            first = FakeTensor(self.mode, plain, device)
            self._states[device] = dict(vars(first))
            return first
        fake: FakeTensor = torch.Tensor._make_subclass(
            FakeTensor, plain, False, dispatch_device=True, device_for_backend_keys=device
        )
        torch._C._set_warn_deprecated_on_mutable_data_ptr(fake)
        vars(fake).update(self._states[device])
        return fake


class _Opaque(Exception):
    """An argument says more than its shape does."""


@frozen(eq=False)
class Replay:
    """Calls operators under a fake mode, and answers a repeated call with a new fake tensor of the known shape.

    Only what is sure to depend on shapes alone is answered so: one dense result, nothing written but the first operand in its
    shape, and no known data. A call that returned its k-th tensor itself does so again.

    Attributes:
        fakes: makes the answers.
        layouts: the results of torch's own operators, by call.
        layouts_of_trace: those of other operators; in the next trace they may have another kernel.
    """

    fakes: FakeFactory
    layouts: dict[Any, _Layout | int] = field(default=_layouts)
    layouts_of_trace: dict[Any, _Layout | int] = field(factory=dict)

    def __call__(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The result of the call."""
        if not _repeatable(func):
            return func(*args, **kwargs)
        tensors: list[FakeTensor] = []
        try:
            signature = self._signature((*args, *kwargs.values()), tensors)
        except _Opaque:
            return func(*args, **kwargs)
        key = (func, signature, tuple(kwargs), torch.get_default_dtype())
        layouts = self.layouts if func.namespace == "aten" else self.layouts_of_trace
        layout = layouts.get(key)
        if isinstance(layout, int):
            return tensors[layout]
        if layout is not None:
            if layout.offset is not None:
                return self.fakes.view(tensors[0], layout)
            return self.fakes.make(layout.shape, layout.stride, layout.dtype, layout.device)
        result = func(*args, **kwargs)
        if len(layouts) >= _MAX_CALLS:
            layouts.clear()
        same = next((position for position, tensor in enumerate(tensors) if tensor is result), None)
        if same is not None:
            layouts[key] = same
        elif tensors and _is_plain(result):
            fresh = _Layout(tuple(result.size()), result.stride(), result.dtype, result.fake_device)
            offset = result.storage_offset()
            if result.untyped_storage()._cdata == tensors[0].untyped_storage()._cdata:
                layouts[key] = evolve(fresh, offset=offset)
            elif offset == 0:
                layouts[key] = fresh
        return result

    def _signature(self, items: Any, tensors: list[FakeTensor]) -> tuple[Any, ...]:
        """The arguments as a key, tensors by their layout; appends the tensors to the list."""
        parts: list[Any] = []
        for item in items:
            if type(item) is FakeTensor:
                if item.constant is not None or item.fake_mode is not self.fakes.mode or item.layout is not torch.strided:
                    raise _Opaque
                tensors.append(item)
                lazy = item.is_conj(), item.is_neg()
                parts.append((item.size(), item.stride(), item.storage_offset(), item.dtype, item.fake_device, lazy))
            elif isinstance(item, _PLAIN):
                parts.append((type(item), item))
            elif isinstance(item, int):
                parts.append(int(item))
            elif isinstance(item, (tuple, list)):
                parts.append(self._signature(item, tensors))
            else:
                raise _Opaque
        return tuple(parts)


def _is_plain(result: Any) -> bool:
    """Whether a result is a dense fake tensor that its layout describes completely."""
    return (
        type(result) is FakeTensor
        and result.constant is None
        and result.layout is torch.strided
        and not (result.requires_grad or result.is_conj() or result.is_neg())
    )


@cache
def _repeatable(func: Any) -> bool:
    """Whether the operator returns one tensor, and writes nothing but, in place, the numbers of the first operand."""
    schema = func._schema
    if len(schema.returns) != 1 or str(schema.returns[0].type) != "Tensor":
        return False
    written = [argument.name for argument in schema.arguments if argument.alias_info and argument.alias_info.is_write]
    return not written or (written == ["self"] and func.namespace == "aten" and torch.Tag.inplace_view not in func.tags)
