"""Copies of modules that share no tensor with the original."""

from __future__ import annotations

import copy
import types
from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import nn

from depgraph.execution.fitting import overlaps
from depgraph.execution.slicing import like
from depgraph.running import outside_inference_mode


@outside_inference_mode
def copied(model: nn.Module, instead: Mapping[int, torch.Tensor]) -> nn.Module:
    """A copy that shares no tensor with the model; a tensor whose id is given is replaced by the given one."""
    memo: dict[int, Any] = dict(instead)
    tied = {name for pair in overlaps(model) for name in pair}
    storages: dict[int, torch.UntypedStorage] = {}
    for name, parameter in model.named_parameters():
        if id(parameter) not in memo:
            values = _same_place(parameter, storages) if name in tied else parameter.detach().clone()
            memo[id(parameter)] = like(parameter, values, lambda gradient: gradient.clone())
    memo.update(_computed_tensors(model))
    modules = list(model.modules())
    for module in modules:
        for content in vars(module).values():  # a dozen empty dictionaries for hooks in each module, which deepcopy takes apart
            if type(content) is OrderedDict and not content and not vars(content):
                memo.setdefault(id(content), OrderedDict())
    if not any(map(_has_own_copying, {type(module) for module in modules})):
        _copy_trees(modules, memo)
    for module in reversed(modules):  # the innermost first: deepcopy does not go from one into the next
        copy.deepcopy(module, memo)
    result: nn.Module = memo[id(model)]
    return result


def _same_place(parameter: nn.Parameter, storages: dict[int, torch.UntypedStorage]) -> torch.Tensor:
    """The same place in a copy of the parameter's storage: what shares memory in the model shares it in the copy."""
    storage = parameter.untyped_storage()
    if storage.data_ptr() not in storages:
        storages[storage.data_ptr()] = storage.clone()  # type: ignore[no-untyped-call]
    values = torch.empty(0, dtype=parameter.dtype, device=parameter.device)
    return values.set_(storages[storage.data_ptr()], parameter.storage_offset(), parameter.shape, parameter.stride())


_COPYING = ("__deepcopy__", "__reduce__", "__reduce_ex__", "__getstate__", "__getnewargs__", "__getnewargs_ex__", "__slots__")


def _has_own_copying(kind: type[nn.Module]) -> bool:
    """Whether a class of modules says itself how it is copied. Torch's own layers only add what old pickles lack to a state."""
    own = [vars(base) for base in kind.__mro__ if base not in nn.Module.__mro__]
    restores = any("__setstate__" in names and not names["__module__"].startswith("torch.nn.modules.") for names in own)
    return restores or any(name in names for names in own for name in _COPYING)


def _copy_trees(modules: Sequence[nn.Module], memo: dict[int, Any]) -> None:
    """Put the copy of each module in the memo as deepcopy would make it, which asks a dozen questions for each attribute.

    Registries and plain values come first, so that a class that is copied in a way of its own meets modules that are whole.
    """
    for module in modules:
        memo[id(module)] = object.__new__(type(module))
    others: list[tuple[dict[str, Any], str, Any]] = []
    for module in modules:
        clone, state = memo[id(module)], module.__getstate__()  # type: ignore[no-untyped-call]
        for name, content in state.items():
            if name in ("_parameters", "_modules") and type(content) is dict:
                state[name] = {key: memo.get(id(item)) for key, item in content.items()}
            elif type(content) not in _VALUES:
                state[name] = memo.get(id(content), content)
                others.append((vars(clone), name, content))
        clone.__setstate__(state)
    for state, name, content in others:
        state[name] = copy.deepcopy(content, memo)


_VALUES = frozenset({int, float, bool, str, type(None)})


def _computed_tensors(model: nn.Module) -> dict[int, torch.Tensor]:
    """Detached copies of tensors that modules keep from a forward, however deep: deepcopy refuses these.

    Such are weight_norm's weight, losses and features in lists, attention maps in a dataclass.
    """
    computed: dict[int, torch.Tensor] = {}
    seen: set[int] = set()
    pending: list[Any] = [model]
    while pending:
        content = pending.pop()
        if id(content) in seen or isinstance(content, _WITHOUT_TENSORS):
            continue
        seen.add(id(content))
        if isinstance(content, torch.Tensor):
            if not content.is_leaf:
                computed[id(content)] = content.detach().clone()
            continue
        if isinstance(content, dict):
            pending.extend(content.values())
        elif isinstance(content, (list, tuple, set, frozenset, deque)):
            pending.extend(content)
        pending.extend(getattr(content, "__dict__", {}).values())
        pending.extend(getattr(content, name) for name in _slots(type(content)) if hasattr(content, name))  # type: ignore[arg-type]
    return computed


_WITHOUT_TENSORS = (str, bytes, int, float, type, types.FunctionType, types.BuiltinFunctionType, types.ModuleType)
"""What holds no tensor, or is not copied."""


@cache
def _slots(kind: type) -> tuple[str, ...]:
    """The names of attributes that a class keeps in slots, such as those of a dataclass with ``slots=True``."""
    return tuple(
        name
        for base in kind.__mro__
        for name, content in vars(base).items()
        if isinstance(content, types.MemberDescriptorType) and not base.__module__.startswith(("builtins", "torch"))
    )
