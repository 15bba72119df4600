"""Take back what a traced forward leaves outside of the model: tensors of the trace, which stand for no data.

Attributes and containers of the model are copied for the trace. Hooks are called as they are, for they may change what forward
computes, and so are functions and objects of the user's own that modules hold; these may keep what they are given (features
for distillation, a cache). Which containers they can reach is noted before, and what holds a tensor of the trace afterwards
gets its content back.
"""

from __future__ import annotations

import functools
import types
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from attrs import frozen
from torch import nn

_DEEPEST = 6
"""How many steps lead from a hook to what it keeps, at most: an object, its dictionary, a list in it, and the like."""

_LONGEST, _MOST = 1000, 10_000
"""A container of more elements is passed over, and of so many containers further ones: they are data, and keep no results."""

_CONTAINERS = (dict, list, set, deque)


def hooks_of(model: nn.Module) -> Iterator[Any]:
    """The hooks that run when forward does."""
    for module in model.modules():
        yield from module._forward_pre_hooks.values()
        yield from module._forward_hooks.values()
    yield from nn.modules.module._global_forward_pre_hooks.values()
    yield from nn.modules.module._global_forward_hooks.values()


@contextmanager
def taken_back(roots: Iterable[Any], of_trace: Callable[[torch.Tensor], bool]) -> Iterator[None]:
    """Under which tensors may be left in what the roots reach; containers that hold one afterwards get their content back.

    Args:
        roots: hooks, and objects that modules hold.
        of_trace: tells a tensor of the trace.
    """
    notes: dict[Any, tuple[Any, Any]] = {}
    for root in roots:
        _note(root, notes, 0)
    try:
        yield
    finally:
        for holder, before in notes.values():
            if _holds(_content(holder), of_trace, 0):
                _put_back(holder, before)


@frozen(eq=False)
class _Global:
    """A global name that a function mentions, and may write."""

    names: dict[str, Any]
    name: str


def _note(item: Any, notes: dict[Any, tuple[Any, Any]], depth: int) -> None:
    """Note the content of every container, closure and object that can be reached."""
    if depth > _DEEPEST or isinstance(item, (str, bytes, int, float, type, types.ModuleType, torch.Tensor)):
        return
    if isinstance(item, (types.CellType, _Global, *_CONTAINERS)):
        key = (id(item.names), item.name) if isinstance(item, _Global) else id(item)
        if key in notes:
            return
        content = _content(item)
        if len(content) > _LONGEST or len(notes) > _MOST:
            return
        notes[key] = item, content
        parts: Iterable[Any] = content.values() if isinstance(content, dict) else content
    elif isinstance(item, types.FunctionType):
        if item.__module__ is not None and item.__module__.partition(".")[0] == "torch":
            return
        parts = [*(item.__closure__ or ()), *(_Global(item.__globals__, name) for name in item.__code__.co_names)]
    elif isinstance(item, types.MethodType):
        parts = (item.__self__, item.__func__)
    elif isinstance(item, functools.partial):
        parts = (item.func, item.args, item.keywords)
    elif isinstance(item, (tuple, frozenset)):
        parts = item
    else:
        parts = (item.__dict__,) if isinstance(getattr(item, "__dict__", None), dict) else ()
    for part in parts:
        _note(part, notes, depth + 1)


def _content(holder: Any) -> Any:
    """A copy of what a container, a closure's cell or a global name holds, as a plain container."""
    if isinstance(holder, types.CellType):
        return [] if holder == types.CellType() else [holder.cell_contents]
    if isinstance(holder, _Global):
        return [holder.names[holder.name]] if holder.name in holder.names else []
    return dict(holder) if isinstance(holder, dict) else list(holder)


def _holds(content: Any, of_trace: Callable[[torch.Tensor], bool], depth: int) -> bool:
    """Whether a tensor of the trace stands in new containers, however deep."""
    if isinstance(content, torch.Tensor):
        return of_trace(content)
    if depth > _DEEPEST or not isinstance(content, (*_CONTAINERS, tuple, frozenset)):
        return False
    items = list(content.values() if isinstance(content, dict) else content)
    return any(_holds(item, of_trace, depth + 1) for item in items)


def _put_back(holder: Any, content: Any) -> None:
    if isinstance(holder, types.CellType):
        if content:
            holder.cell_contents = content[0]
        else:
            del holder.cell_contents
    elif isinstance(holder, _Global):
        if content:
            holder.names[holder.name] = content[0]
        else:
            del holder.names[holder.name]
    elif isinstance(holder, list):
        holder[:] = content
    else:
        holder.clear()
        (holder.extend if isinstance(holder, deque) else holder.update)(content)
