"""A shallow copy of a module tree to trace: fake tensors, and integers that remember their path. The model is only read."""

from __future__ import annotations

import copy
import dataclasses
import types
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from depgraph.graph.paths import MAPPINGS, SEQUENCES, is_config, is_step, step_of
from depgraph.graph.records import TensorKind
from depgraph.solving.expressions import Attribute
from depgraph.solving.recording import Declared, IntegerAttribute
from depgraph.solving.sized import Sized
from depgraph.solving.statements import Value
from depgraph.tracing.custom_rules import as_one_module
from depgraph.tracing.layer_attributes import POSITIONAL, followed, read_in_forward
from depgraph.tracing.session import Running, Session, class_name, named_leaves
from depgraph.tracing.stand_in_tensors import FakeTensors, RealTensors


def held_tensors(model: nn.Module, tensors: FakeTensors | RealTensors, session: Session) -> dict[int, torch.Tensor]:
    """One stand-in for each distinct parameter and buffer, by the id of the model's own."""
    stand_ins: dict[int, torch.Tensor] = {}
    named: dict[int, list[str]] = {}
    order: list[tuple[TensorKind, torch.Tensor]] = []
    kinds: tuple[tuple[TensorKind, Any], ...] = (("parameter", model.named_parameters), ("buffer", model.named_buffers))
    for kind, pairs in kinds:
        for name, tensor in pairs(remove_duplicate=False):
            named.setdefault(id(tensor), []).append(name)
            if len(named[id(tensor)]) == 1:
                order.append((kind, tensor))
    for kind, tensor in order:
        stand_in = tensors.like(tensor)
        if kind == "parameter":
            stand_in._is_param = True
        stand_ins[id(tensor)] = stand_in
        session.declare(stand_in, tensor, named[id(tensor)], kind)
    return stand_ins


def given_tensors(inputs: Any, tensors: FakeTensors | RealTensors, session: Session, device: torch.device | None) -> Any:
    """The (args, kwargs) with a stand-in for each distinct tensor; a meta model gets meta inputs."""
    target = device if device is not None and device.type == "meta" else None
    made: dict[int, torch.Tensor] = {}
    for root, tree in (("input", inputs[0]), ("kwargs", inputs[1])):
        for name, tensor in named_leaves(root, tree):
            if id(tensor) not in made:
                made[id(tensor)] = tensors.like(tensor, target)
                session.given(name, made[id(tensor)], tuple(tensor.shape))
    return pytree.tree_map(partial(_given, made), inputs)


def _given(made: Mapping[int, torch.Tensor], leaf: Any) -> Any:
    """What stands in for a leaf of the inputs: a tensor, a dataclass that holds some, or a generator of random numbers."""
    if dataclasses.is_dataclass(leaf) and not isinstance(leaf, type):
        twin = copy.copy(leaf)
        for item in dataclasses.fields(leaf):
            object.__setattr__(twin, item.name, pytree.tree_map(partial(_given, made), getattr(leaf, item.name)))
        return twin
    return leaf.clone_state() if isinstance(leaf, torch.Generator) else made.get(id(leaf), leaf)


def instrumented_copies(
    model: nn.Module,
    fakes: Mapping[int, torch.Tensor],
    tensors: FakeTensors | RealTensors,
    session: Session,
    whole: Mapping[type, str] | None = None,
) -> tuple[tuple[nn.Module, ...], list[Any]]:
    """The modules of a shallow copy of the tree, the root first: their tensors are fake, and their sizes remember their path.

    Modules of a class in `whole` are recorded as one operator of the name given there. Beside the copy stands what the
    modules hold that was not copied: objects and functions of the user's own.
    """
    copies: dict[int, nn.Module] = {}
    for module in model.modules():
        copies[id(module)] = object.__new__(type(module))
    wrapping = _Wrapping(copies, fakes, tensors, session)
    by_name = {name: declared for declared in session.declared for name in (declared.name, *declared.aliases)}
    for path, module in model.named_modules():
        clone = copies[id(module)]
        state = clone.__dict__
        state.update(module.__dict__)
        prefix = f"{path}." if path else ""
        wrapping.module = path
        if isinstance(module, _CONTAINER_MODULES):
            session.container(path)
        for kind in ("_parameters", "_buffers"):
            held = module.__dict__.get(kind, {})
            state[kind] = {name: fakes.get(id(tensor), tensor) for name, tensor in held.items()}
        state["_modules"] = {name: copies.get(id(child), child) for name, child in module._modules.items()}
        state["_compiled_call_impl"] = None
        names = read_in_forward(module)
        if isinstance(module, nn.modules.conv._ConvNd):
            session.convolution(path)
        counted = dict(followed(module, partial(_declared_value, by_name, prefix)))
        for name, content in module.__dict__.items():
            if (
                name not in _MODULE_STATE
                and name not in POSITIONAL
                and (names is None or name in names or name in counted or not isinstance(content, (int, tuple)))
            ):
                state[name] = wrapping.of(content, prefix + name if is_step(name) else None)
        for name, term in counted.items():
            session.followed(prefix + name, term, outside=names is not None and name not in names)
        state["_apply"] = partial(_converted, clone)
        _follow_calls(clone, path, session)
        if whole and type(module) in whole:
            as_one_module(clone, path, whole[type(module)], session)
    return tuple(copies.values()), wrapping.uncopied


def _declared_value(by_name: Mapping[str, Declared], prefix: str, name: str) -> Value | None:
    found = by_name.get(prefix + name)
    return None if found is None else found.value


_MODULE_STATE = frozenset(vars(nn.Module()))
_CONTAINER_MODULES = (nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)


class _Wrapping:
    """Attributes with sizes that remember their path, at every depth of lists, tuples, dicts and config objects.

    Containers are copied, so that what forward writes to them stays in the copy, whatever keys lead to them. Sizes get a path
    where a dotted path can name them; elsewhere they stay plain numbers.
    """

    def __init__(
        self,
        copies: Mapping[int, nn.Module],
        fakes: Mapping[int, torch.Tensor],
        tensors: FakeTensors | RealTensors,
        session: Session,
    ) -> None:
        self.copies, self.fakes, self.tensors, self.session = dict(copies), fakes, tensors, session
        self.shared: dict[int, Any] = {}
        self.module, self.configs = "", 0
        self.uncopied: list[Any] = []

    def of(self, content: Any, path: str | None) -> Any:
        """The attribute as the copy holds it. What two holders share and can be written to keeps its first path.

        What no path can name holds stand-ins as well, but its integers are plain ones.
        """
        if type(content) is int:
            if path is None or content <= 1:
                return content
            self.session.holds(IntegerAttribute(path, content, self.module, self.configs > 0))
            return Sized(content, Attribute(path, content), self.session)
        if isinstance(content, (str, bytes, float, bool, type(None), torch.dtype, torch.device, type)):
            return content
        if isinstance(content, (torch.Tensor, torch.Generator)):
            return self._fake(content)
        if isinstance(content, nn.Module):
            return self._module(content)
        if isinstance(content, types.MethodType):
            owner = content.__self__
            return (
                types.MethodType(content.__func__, self._module(owner))
                if isinstance(owner, nn.Module)
                else self._as_it_is(content)
            )
        if type(content) in {tuple, torch.Size}:
            return type(content)([self.of(item, _below(path, str(position))) for position, item in enumerate(content)])
        if isinstance(content, tuple) and hasattr(content, "_make"):
            return content._make(self.of(item, None) for item in content)
        if id(content) not in self.shared:
            self.shared[id(content)] = content  # for what holds itself
            self.shared[id(content)] = self._container(content, path)
        return self.shared[id(content)]

    def _fake(self, content: torch.Tensor | torch.Generator) -> Any:
        """The stand-in of a tensor that is no parameter or buffer, or of a generator: one for all who hold it."""
        if id(content) in self.fakes:
            return self.fakes[id(content)]
        if id(content) not in self.shared:
            made = content.clone_state() if isinstance(content, torch.Generator) else self.tensors.beside(content)
            self.shared[id(content)] = made
        return self.shared[id(content)]

    def _module(self, module: nn.Module) -> nn.Module:
        """The copy of a module. One that is registered nowhere, such as a teacher in a plain list, keeps its parameters."""
        if id(module) not in self.copies and not isinstance(module, torch.jit.ScriptModule):
            clone = self.copies[id(module)] = object.__new__(type(module))
            for name, content in module.__dict__.items():
                if name == "_parameters":
                    clone.__dict__[name] = dict(content)
                elif name in ("_modules", "_buffers") or name not in _MODULE_STATE:
                    clone.__dict__[name] = self.of(content, None)
                else:
                    clone.__dict__[name] = content
        return self.copies.get(id(module), module)

    def _container(self, content: Any, path: str | None) -> Any:
        if isinstance(content, (dict, list, set, frozenset, deque)):
            return self._filled(content, path if type(content) in _NAMED else None)
        if not is_config(content) and not _is_in_slots(content):
            return self._as_it_is(content)
        made = self.shared[id(content)] = copy.copy(content)
        self.configs += 1
        for name, item in getattr(content, "__dict__", {}).items():
            object.__setattr__(made, name, self.of(item, _below(path, name if is_step(name) else None)))
        self.configs -= 1
        if _is_in_slots(content):  # where no path leads to
            for field in dataclasses.fields(content):
                if hasattr(content, field.name):
                    object.__setattr__(made, field.name, self.of(getattr(content, field.name), None))
        return made

    def _filled(self, content: Any, path: str | None) -> Any:
        """The same kind of container around the copies of what it holds."""
        if isinstance(content, frozenset):
            return frozenset(self.of(item, None) for item in content)
        made = self.shared[id(content)] = copy.copy(content)
        if isinstance(content, dict):
            copied_keys = any(isinstance(key, (nn.Module, torch.Tensor)) for key in content)
            if copied_keys:  # forward looks them up by what the copy holds
                made.clear()
            for key, item in content.items():
                value = self.of(item, _below(path, step_of(key, content)))
                if copied_keys:
                    made[self.of(key, None)] = value
                else:
                    dict.__setitem__(made, key, value)
        elif isinstance(content, list):
            list.__setitem__(made, slice(None), [self.of(item, _below(path, str(place))) for place, item in enumerate(content)])
        else:
            items = [self.of(item, None) for item in content]
            made.clear()
            made.extend(items) if isinstance(made, deque) else made.update(items)
        return made

    def _as_it_is(self, content: Any) -> Any:
        """What is no plain data is passed on; tensors of the trace that stay in it are taken back."""
        self.uncopied.append(content)
        return content


_NAMED = (*SEQUENCES, *MAPPINGS)
"""Containers whose elements a path can name and an edit can replace."""


def _is_in_slots(content: Any) -> bool:
    """Whether an object is a dataclass that keeps its values in slots."""
    return dataclasses.is_dataclass(content) and not hasattr(content, "__dict__")


def _below(path: str | None, step: str | None) -> str | None:
    """The path of what a step leads to; None where either has no name."""
    return None if path is None or step is None else f"{path}.{step}"


def _converted(clone: nn.Module, function: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> nn.Module:
    """`Module.to`, `half` and the like in forward: the copy holds what the function makes of its tensors."""
    for child in clone.children() if recurse else ():
        child._apply(function)  # type: ignore[no-untyped-call]
    for held in (clone._parameters, clone._buffers):
        held.update({name: function(tensor) for name, tensor in held.items() if tensor is not None})  # type: ignore[misc]
    return clone


def _follow_calls(clone: nn.Module, path: str, session: Session) -> None:
    """Keep the path of the running module. The hooks are the copy's own; the model's hooks run as well."""
    label = Running(path, class_name(clone), not clone._modules)

    def enter(module: nn.Module, args: Any) -> None:
        session.entered(label)

    def leave(module: nn.Module, args: Any, result: Any) -> None:
        session.left()

    for name, hook in (("_forward_pre_hooks", enter), ("_forward_hooks", leave)):
        present = clone.__dict__.get(name, {})
        clone.__dict__[name] = type(present)({-1: hook, **present} if name == "_forward_pre_hooks" else {**present, -1: hook})
