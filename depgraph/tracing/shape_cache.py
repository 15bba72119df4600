"""Compute the shape of an operator's result once for each distinct call: the layers of a model repeat each other."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from attrs import field, frozen
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

_PLAIN = (bool, float, type(None), str, torch.dtype, torch.device, torch.layout, torch.memory_format)


@frozen
class _Layout:
    """What the one result of a call looks like."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device


class _Opaque(Exception):
    """An argument says more than its shape does."""


@frozen(eq=False)
class Replay:
    """Calls operators under a fake mode, and answers a repeated call with a new fake tensor of the known shape.

    Only what is sure to depend on shapes alone is answered so: one dense result, nothing written, no known data, and as many
    elements as the operand where the result is a view of it. A call that returned its k-th tensor as it was does so again.
    """

    fake_mode: FakeTensorMode
    known: dict[Any, _Layout | int] = field(factory=dict)

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
        made = self.known.get(key)
        if isinstance(made, int):
            return tensors[made]
        if made is not None:
            with torch._C._DisableTorchDispatch():
                plain = torch.empty_strided(made.shape, made.stride, dtype=made.dtype, device="meta")
                return FakeTensor(self.fake_mode, plain, made.device)
        result = func(*args, **kwargs)
        same = next((position for position, tensor in enumerate(tensors) if tensor is result), None)
        if same is not None:
            self.known[key] = same
        elif tensors and _follows_from_shapes(func, result, tensors[0]):
            self.known[key] = _Layout(tuple(result.size()), result.stride(), result.dtype, result.fake_device)
        return result

    def _signature(self, items: Any, tensors: list[FakeTensor]) -> tuple[Any, ...]:
        """The arguments as a key, tensors by their layout; notes the tensors."""
        parts: list[Any] = []
        for item in items:
            if type(item) is FakeTensor:
                if item.constant is not None or item.fake_mode is not self.fake_mode or item.layout is not torch.strided:
                    raise _Opaque
                tensors.append(item)
                parts.append((item.size(), item.stride(), item.storage_offset(), item.dtype, item.fake_device))
            elif isinstance(item, _PLAIN):
                parts.append((type(item), item))
            elif isinstance(item, int):
                parts.append(int(item))
            elif isinstance(item, (tuple, list)):
                parts.append(self._signature(item, tensors))
            else:
                raise _Opaque
        return tuple(parts)


def _follows_from_shapes(func: Any, result: Any, operand: FakeTensor) -> bool:
    return (
        type(result) is FakeTensor
        and result.constant is None
        and result.layout is torch.strided
        and result.storage_offset() == 0
        and not result.requires_grad
        and (not _is_view(func) or result.numel() == operand.numel())
    )


@cache
def _repeatable(func: Any) -> bool:
    """Whether the operator writes nothing and returns one tensor."""
    schema = func._schema
    return not schema.is_mutable and len(schema.returns) == 1 and str(schema.returns[0].type) == "Tensor"


@cache
def _is_view(func: Any) -> bool:
    return any(argument.alias_info is not None for argument in func._schema.arguments)
