"""Where the path of an edit leads: through registered modules, and through plain data of modules and configurations.

A plan may come from a file, so nothing else is stepped through: no property or other descriptor is run, no class, function or
registry of tensors is reached, and only a value whose type is `int` itself is ever replaced.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from depgraph.graph.paths import MAPPINGS, SEQUENCES, is_config, is_step, key_of, position_of
from depgraph.messages import number_text, shortened
from depgraph.plans.plan import Plan

OWN_STATE = frozenset(vars(nn.Module()))
"""What every module holds: its registries and hooks."""


def holders(model: nn.Module, path: str) -> list[Any]:
    """The objects on the way to an attribute, from the model to the one that has it. Raises `LookupError` if there is none."""
    objects: list[Any] = [model]
    for step in path.split(".")[:-1]:
        objects.append(_child(objects[-1], step))
    return objects


def read(model: nn.Module, path: str) -> Any:
    """The value of an attribute. Raises `LookupError` if the path does not lead to plain data."""
    return _child(holders(model, path)[-1], path.rpartition(".")[2])


def write(model: nn.Module, path: str, value: Any) -> None:
    """Set an attribute that `read` finds. A tuple on the way is replaced by one with the new element.

    A module's attribute is set as its class sets attributes; everything else is replaced where it lies.
    """
    holder, last = holders(model, path)[-1], path.rpartition(".")[2]
    if isinstance(holder, tuple):
        position = int(last)
        items = (*holder[:position], value, *holder[position + 1 :])
        write(model, path.rpartition(".")[0], torch.Size(items) if isinstance(holder, torch.Size) else items)
    elif isinstance(holder, SEQUENCES):
        holder[int(last)] = value
    elif isinstance(holder, MAPPINGS):
        holder[key_of(last, holder)] = value
    elif isinstance(holder, nn.Module):
        setattr(holder, last, value)
    else:
        vars(holder)[last] = value  # configs may be frozen, or map names when they are set


def other_attributes(plan: Plan, model: nn.Module) -> Iterator[str]:
    """The edits of a plan that do not meet what they expect, one sentence each."""
    known_holders: dict[str, Any] = {}
    for edit in plan.writes:
        try:
            value = _child(_holder(model, edit.path, known_holders), edit.path.rpartition(".")[2])
        except LookupError:
            path = shortened(repr(edit.path))
            yield f"the model has no attribute {path} among the plain data of its modules and configurations"
            continue
        if type(value) is not int or value != edit.old:
            yield f"attribute {shortened(repr(edit.path))}: expected {number_text(edit.old)}, met {_described(value)}"


def other_in_copy(plan: Plan, model: nn.Module, copied: nn.Module) -> Iterator[str]:
    """The edits of a plan that a copy would not hold for itself: classes can say how they are copied."""
    yield from other_attributes(plan, copied)
    model_holders, copy_holders = dict[str, Any](), dict[str, Any]()
    for edit in plan.writes:
        holder = _holder(model, edit.path, model_holders)
        if not isinstance(holder, tuple) and holder is _holder(copied, edit.path, copy_holders):
            yield f"attribute {shortened(repr(edit.path))}: the copy shares it with the model"


def _holder(model: nn.Module, path: str, known_holders: dict[str, Any]) -> Any:
    """The object that has an attribute; those that are looked up already are in `known_holders`, by their paths."""
    prefix = path.rpartition(".")[0]
    if prefix not in known_holders:
        known_holders[prefix] = holders(model, path)[-1]
    return known_holders[prefix]


def _child(holder: Any, step: str) -> Any:
    """What one step leads to. Only modules lead to modules, by their registry."""
    if not is_step(step):
        raise LookupError(step)
    kind = type(holder)
    if isinstance(holder, nn.Module):
        if step in holder._modules:
            return holder._modules[step]
        if step in OWN_STATE or _is_described(kind, step):
            raise LookupError(step)
        value = holder.__dict__[step]
    elif kind in {*SEQUENCES, tuple, torch.Size}:
        position = position_of(step, len(holder))
        if position is None:
            raise LookupError(step)
        value = holder[position]
    elif kind in MAPPINGS:
        key = key_of(step, holder)
        if key is None:
            raise LookupError(step)
        value = holder[key]
    elif is_config(holder):
        value = vars(holder)[step]
    else:
        raise LookupError(step)
    if isinstance(value, nn.Module):
        raise LookupError(step)
    return value


def _is_described(kind: type, name: str) -> bool:
    """Whether a class answers for an attribute itself when it is set, as a property does."""
    return any(hasattr(type(vars(base)[name]), "__set__") for base in kind.__mro__ if name in vars(base))


def _described(value: Any) -> str:
    """A value that is not the expected integer, for messages: numbers and texts as they are, anything else by its type."""
    if type(value) is int:
        return number_text(value)
    return shortened(repr(value)) if type(value) in {bool, float, str, type(None)} else f"a {shortened(type(value).__name__)}"
