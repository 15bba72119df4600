"""Take back what a traced forward leaves outside of the model: tensors of the trace, which stand for no data.

Attributes and containers of the model are copied for the trace. Hooks are called as they are, for they may change what forward
computes, and so are functions and objects of the user's own that modules hold; these may keep their arguments (features for
distillation, a cache). The contents of all containers that they can reach are saved before, and a container with a tensor of
the trace afterwards gets its content back.
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

from depgraph.wrappers import divides

_MAX_DEPTH = 6
"""How many steps lead from a hook to what it keeps: an object, its dictionary, a list in it, and the like."""

_MAX_LENGTH, _MAX_CONTAINERS = 1000, 10_000
"""A container of more elements is passed over, and so are further containers: they are data, and keep no results."""

_CONTAINERS = (dict, list, set, deque)


def hooks_of(model: nn.Module) -> Iterator[Any]:
    """The hooks that run when forward does."""
    for module in model.modules():
        hooks = (*module._forward_pre_hooks.values(), *module._forward_hooks.values())
        yield from (hook for hook in hooks if not divides(hook))
    yield from nn.modules.module._global_forward_pre_hooks.values()
    yield from nn.modules.module._global_forward_hooks.values()


@contextmanager
def restoring_containers(roots: Iterable[Any], is_traced: Callable[[torch.Tensor], bool]) -> Iterator[None]:
    """Inside, tensors of the trace may be put in containers that the roots reach; at the end these get their content back.

    Args:
        roots: hooks, and objects that modules hold.
        is_traced: whether a tensor belongs to the trace.
    """
    saved: dict[Any, tuple[Any, Any]] = {}
    for root in roots:
        _save(root, saved, 0)
    try:
        yield
    finally:
        for holder, content in saved.values():
            if _has_traced(_content(holder), is_traced, 0):
                _restore(holder, content)


@frozen(eq=False)
class _Global:
    """A global name that a function mentions, and may write."""

    namespace: dict[str, Any]
    name: str


def _save(item: Any, saved: dict[Any, tuple[Any, Any]], depth: int) -> None:
    """Save the content of every container, closure and object that an item leads to."""
    if depth > _MAX_DEPTH or isinstance(item, (str, bytes, int, float, type, types.ModuleType, torch.Tensor)):
        return
    if isinstance(item, (types.CellType, _Global, *_CONTAINERS)):
        key = (id(item.namespace), item.name) if isinstance(item, _Global) else id(item)
        if key in saved:
            return
        content = _content(item)
        if len(content) > _MAX_LENGTH or len(saved) > _MAX_CONTAINERS:
            return
        saved[key] = item, content
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
        _save(part, saved, depth + 1)


def _content(holder: Any) -> Any:
    """The content of a container, a closure's cell or a global name, as a new plain container."""
    if isinstance(holder, types.CellType):
        return [] if holder == types.CellType() else [holder.cell_contents]
    if isinstance(holder, _Global):
        return [holder.namespace[holder.name]] if holder.name in holder.namespace else []
    return dict(holder) if isinstance(holder, dict) else list(holder)


def _has_traced(content: Any, is_traced: Callable[[torch.Tensor], bool], depth: int) -> bool:
    """Whether a tensor of the trace is in some content, also inside of containers that forward made."""
    if isinstance(content, torch.Tensor):
        return is_traced(content)
    if depth > _MAX_DEPTH or not isinstance(content, (*_CONTAINERS, tuple, frozenset)):
        return False
    items = list(content.values() if isinstance(content, dict) else content)
    return any(_has_traced(item, is_traced, depth + 1) for item in items)


def _restore(holder: Any, content: Any) -> None:
    """Give a container, a cell or a global name its content back; one that was empty or not defined is so again."""
    if isinstance(holder, types.CellType):
        if content:
            holder.cell_contents = content[0]
        else:
            del holder.cell_contents
    elif isinstance(holder, _Global):
        if content:
            holder.namespace[holder.name] = content[0]
        else:
            del holder.namespace[holder.name]
    elif isinstance(holder, list):
        holder[:] = content
    else:
        holder.clear()
        (holder.extend if isinstance(holder, deque) else holder.update)(content)
