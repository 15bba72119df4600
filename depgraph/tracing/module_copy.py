"""A shallow copy of a module tree to trace: fake tensors, and integers that remember their path. The model is only read."""

from __future__ import annotations

import copy
import dataclasses
import types
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from depgraph.graph.paths import MAPPINGS, SEQUENCES, is_config, is_step, step_of
from depgraph.graph.records import TensorKind
from depgraph.solving.expressions import Attribute
from depgraph.solving.interface import names_an_index
from depgraph.solving.recording import Declared, IntegerAttribute
from depgraph.solving.sized import Sized
from depgraph.solving.statements import Value
from depgraph.tracing.custom_rules import as_one_module
from depgraph.tracing.layer_attributes import POSITIONAL, followed, read_in_forward
from depgraph.tracing.module_lists import SharedModules, module_sequences, observed
from depgraph.tracing.session import Running, Session, class_name, named_leaves
from depgraph.tracing.stand_in_tensors import FakeTensors, RealTensors
from depgraph.wrappers import divides, own_class


def declare_stand_ins(model: nn.Module, tensors: FakeTensors | RealTensors, session: Session) -> dict[int, torch.Tensor]:
    """One stand-in for each distinct parameter and buffer, by the id of the tensor; the session learns of them."""
    stand_ins: dict[int, torch.Tensor] = {}
    names: dict[int, list[str]] = {}
    order: list[tuple[TensorKind, torch.Tensor]] = []
    kinds: tuple[tuple[TensorKind, Any], ...] = (("parameter", model.named_parameters), ("buffer", model.named_buffers))
    for kind, pairs in kinds:
        for name, tensor in pairs(remove_duplicate=False):
            names.setdefault(id(tensor), []).append(name)
            if len(names[id(tensor)]) == 1:
                order.append((kind, tensor))
    for kind, tensor in order:
        stand_in = tensors.like(tensor)
        if kind == "parameter":
            stand_in._is_param = True
        stand_ins[id(tensor)] = stand_in
        session.declare(stand_in, tensor, names[id(tensor)], kind)
    return stand_ins


def stand_in_inputs(inputs: Any, tensors: FakeTensors | RealTensors, session: Session, device: torch.device | None) -> Any:
    """The (args, kwargs) with a stand-in for each distinct tensor; a meta model gets meta inputs."""
    target = device if device is not None and device.type == "meta" else None
    stand_ins: dict[int, torch.Tensor] = {}
    for root, tree in (("input", inputs[0]), ("kwargs", inputs[1])):
        for name, tensor in named_leaves(root, tree):
            if id(tensor) not in stand_ins:
                stand_ins[id(tensor)] = tensors.like(tensor, target)
                session.given(name, stand_ins[id(tensor)], tuple(tensor.shape))
    return pytree.tree_map(partial(_stand_in_leaf, stand_ins), inputs)


def _stand_in_leaf(stand_ins: Mapping[int, torch.Tensor], leaf: Any) -> Any:
    """What stands in for a leaf of the inputs: a tensor, a dataclass that holds some, or a generator of random numbers."""
    if dataclasses.is_dataclass(leaf) and not isinstance(leaf, type):
        twin = copy.copy(leaf)
        for item in dataclasses.fields(leaf):
            object.__setattr__(twin, item.name, pytree.tree_map(partial(_stand_in_leaf, stand_ins), getattr(leaf, item.name)))
        return twin
    return leaf.clone_state() if isinstance(leaf, torch.Generator) else stand_ins.get(id(leaf), leaf)


def instrumented_copies(
    model: nn.Module,
    stand_ins: Mapping[int, torch.Tensor],
    tensors: FakeTensors | RealTensors,
    session: Session,
    whole: Mapping[type, str] | None = None,
) -> tuple[tuple[nn.Module, ...], list[Any]]:
    """The modules of a shallow copy of the tree, the root first, with stand-ins for tensors and sizes that remember their path.

    Modules of a class in `whole` are recorded as one operator of the name given there. The second result is what
    the modules hold that is not copied: objects and functions of the user's own.
    """
    copies: dict[int, nn.Module] = {}
    for module in model.modules():
        copies[id(module)] = object.__new__(own_class(module))
    shared, holders = SharedModules(model), _holders_of_parameters(model)
    for sequence in module_sequences(model):
        session.lists(sequence)
        observed(copies[id(model.get_submodule(sequence.path))], partial(session.reached_for, sequence.path))
    attributes = _AttributeCopies(copies, stand_ins, tensors, session)
    by_name = {name: declared for declared in session.declared for name in (declared.name, *declared.aliases)}
    for path, module in model.named_modules():
        clone = copies[id(module)]
        state = clone.__dict__
        state.update(module.__dict__)
        prefix = f"{path}." if path else ""
        attributes.module = path
        if isinstance(module, _CONTAINER_MODULES):
            session.container(path)
        for kind in ("_parameters", "_buffers"):
            registry = module.__dict__.get(kind, {})
            state[kind] = {name: stand_ins.get(id(tensor), tensor) for name, tensor in registry.items()}
        state["_modules"] = {name: copies.get(id(child), child) for name, child in module._modules.items()}
        state["_compiled_call_impl"] = None
        size_names = read_in_forward(module)
        if isinstance(module, nn.modules.conv._ConvNd):
            session.convolution(path)
        counted_terms = dict(followed(module, partial(_declared_value, by_name, prefix)))
        for name, content in module.__dict__.items():
            if (
                name not in _MODULE_STATE
                and name not in POSITIONAL
                and (size_names is None or name in size_names or name in counted_terms or not isinstance(content, (int, tuple)))
            ):
                state[name] = attributes.copy_of(content, prefix + name if is_step(name) else None)
        if isinstance(module, (nn.Embedding, nn.EmbeddingBag)) and type(module.padding_idx) is int:
            state["padding_idx"] = attributes.copy_of(module.padding_idx, f"{prefix}padding_idx")
        for name, term in counted_terms.items():
            session.followed(prefix + name, term, outside=size_names is not None and name not in size_names)
        state["_apply"] = partial(_apply_to_copy, clone)
        _follow_calls(clone, path, session, shared.at(path) if path in holders else None)
        if whole and own_class(module) in whole:
            as_one_module(clone, path, whole[own_class(module)], session)
    return tuple(copies.values()), attributes.uncopied


def _holders_of_parameters(model: nn.Module) -> set[str]:
    """The paths of the modules that hold parameters, themselves or in modules inside."""
    holders = set()
    for name, _ in model.named_parameters(remove_duplicate=False):
        while "." in name:
            name = name.rpartition(".")[0]
            if name in holders:
                break
            holders.add(name)
        holders.add("")
    return holders


def _declared_value(by_name: Mapping[str, Declared], prefix: str, name: str) -> Value | None:
    declared = by_name.get(prefix + name)
    return None if declared is None else declared.value


_MODULE_STATE = frozenset(vars(nn.Module()))
_CONTAINER_MODULES = (nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)


class _AttributeCopies:
    """Copies of attributes, with sizes that remember their path at every depth of lists, tuples, dicts and config objects.

    Containers are copied, so that what forward writes to them stays in the copy, whatever keys lead to them. Sizes get a path
    where a dotted path can name them; elsewhere they stay plain numbers.
    """

    def __init__(
        self,
        copies: Mapping[int, nn.Module],
        stand_ins: Mapping[int, torch.Tensor],
        tensors: FakeTensors | RealTensors,
        session: Session,
    ) -> None:
        self.copies, self.stand_ins, self.tensors, self.session = dict(copies), stand_ins, tensors, session
        self.shared: dict[int, Any] = {}
        self.module, self.config_depth = "", 0
        self.uncopied: list[Any] = []

    def copy_of(self, content: Any, path: str | None) -> Any:
        """The copy of an attribute. Of a container that two attributes share there is one copy, with the path of the first.

        Where no path can name the content, its tensors have stand-ins as well, but its integers are plain ones.
        """
        if type(content) is int:
            if path is None or (content <= 1 and not (content >= 0 and names_an_index(path))):
                return content
            self.session.holds(IntegerAttribute(path, content, self.module, self.config_depth > 0))
            return Sized(content, Attribute(path, content), self.session)
        if isinstance(content, (str, bytes, float, bool, type(None), torch.dtype, torch.device, type)):
            return content
        if isinstance(content, (torch.Tensor, torch.Generator)):
            return self._stand_in(content)
        if isinstance(content, nn.Module):
            return self._module(content)
        if isinstance(content, types.MethodType):
            owner = content.__self__
            return (
                types.MethodType(content.__func__, self._module(owner))
                if isinstance(owner, nn.Module)
                else self._uncopied(content)
            )
        if type(content) in {tuple, torch.Size}:
            return type(content)([self.copy_of(item, _below(path, str(position))) for position, item in enumerate(content)])
        if isinstance(content, tuple) and hasattr(content, "_make"):
            return content._make(self.copy_of(item, None) for item in content)
        if id(content) not in self.shared:
            self.shared[id(content)] = content  # a container may be in itself
            self.shared[id(content)] = self._container(content, path)
        return self.shared[id(content)]

    def _stand_in(self, content: torch.Tensor | torch.Generator) -> Any:
        """The stand-in of a tensor that is no parameter or buffer, or of a generator: one for all that share it."""
        if id(content) in self.stand_ins:
            return self.stand_ins[id(content)]
        if id(content) not in self.shared:
            stand_in = content.clone_state() if isinstance(content, torch.Generator) else self.tensors.beside(content)
            self.shared[id(content)] = stand_in
        return self.shared[id(content)]

    def _module(self, module: nn.Module) -> nn.Module:
        """The copy of a module. One that is registered nowhere, such as a teacher in a plain list, keeps its parameters."""
        if id(module) not in self.copies and not isinstance(module, torch.jit.ScriptModule):
            clone = self.copies[id(module)] = object.__new__(own_class(module))
            for name, content in module.__dict__.items():
                if name == "_parameters":
                    clone.__dict__[name] = dict(content)
                elif name in ("_modules", "_buffers") or name not in _MODULE_STATE:
                    clone.__dict__[name] = self.copy_of(content, None)
                else:
                    clone.__dict__[name] = content
        return self.copies.get(id(module), module)

    def _container(self, content: Any, path: str | None) -> Any:
        """The copy of a container, a configuration or a dataclass in slots; anything else stays as it is."""
        if isinstance(content, (dict, list, set, frozenset, deque)):
            return self._filled(content, path if type(content) in _NAMED else None)
        if not is_config(content) and not _is_in_slots(content):
            return self._uncopied(content)
        duplicate = self.shared[id(content)] = copy.copy(content)
        self.config_depth += 1
        for name, item in getattr(content, "__dict__", {}).items():
            object.__setattr__(duplicate, name, self.copy_of(item, _below(path, name if is_step(name) else None)))
        self.config_depth -= 1
        if _is_in_slots(content):  # no path leads there
            for field in dataclasses.fields(content):
                if hasattr(content, field.name):
                    object.__setattr__(duplicate, field.name, self.copy_of(getattr(content, field.name), None))
        return duplicate

    def _filled(self, content: Any, path: str | None) -> Any:
        """The same kind of container with copies of its elements."""
        if isinstance(content, frozenset):
            return frozenset(self.copy_of(item, None) for item in content)
        duplicate = self.shared[id(content)] = copy.copy(content)
        if isinstance(content, dict):
            copied_keys = any(isinstance(key, (nn.Module, torch.Tensor)) for key in content)
            if copied_keys:  # forward looks its keys up by their copies
                duplicate.clear()
            for key, item in content.items():
                value = self.copy_of(item, _below(path, step_of(key, content)))
                if copied_keys:
                    duplicate[self.copy_of(key, None)] = value
                else:
                    dict.__setitem__(duplicate, key, value)
        elif isinstance(content, list):
            list.__setitem__(
                duplicate, slice(None), [self.copy_of(item, _below(path, str(place))) for place, item in enumerate(content)]
            )
        else:
            items = [self.copy_of(item, None) for item in content]
            duplicate.clear()
            duplicate.extend(items) if isinstance(duplicate, deque) else duplicate.update(items)
        return duplicate

    def _uncopied(self, content: Any) -> Any:
        """What is no plain data stays as it is, and is listed: tensors of the trace are removed from it afterwards."""
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


def _apply_to_copy(clone: nn.Module, function: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> nn.Module:
    """`Module.to`, `half` and the like in forward: the function's results take the place of the copy's tensors."""
    for child in clone.children() if recurse else ():
        child._apply(function)  # type: ignore[no-untyped-call]
    for registry in (clone._parameters, clone._buffers):
        registry.update({name: function(tensor) for name, tensor in registry.items() if tensor is not None})  # type: ignore[misc]
    return clone


def _follow_calls(clone: nn.Module, path: str, session: Session, problem: str | None) -> None:
    """Keep the path of the running module. The hooks are the copy's own; the model's run as well.

    What the module takes and returns is told unless `problem` is None; that is why no other one can take its place.

    Not those that gather and divide tensors between ranks: stand-ins are as large as the whole ones.
    """
    label = Running(path, class_name(clone), not clone._modules)
    begins: list[int] = []

    def enter(module: nn.Module, args: Any) -> None:
        session.entered(label)
        begins.append(session.call_count)

    def leave(module: nn.Module, args: Any, kwargs: Any, result: Any) -> None:
        session.left(result)
        if problem is not None:
            session.module_returned(path, begins.pop(), args, kwargs, result, problem)

    for name, hook in (("_forward_pre_hooks", enter), ("_forward_hooks", leave)):
        hooks = clone.__dict__.get(name, {})
        hooks = type(hooks)((key, own) for key, own in hooks.items() if not divides(own))
        clone.__dict__[name] = type(hooks)({-1: hook, **hooks} if name == "_forward_pre_hooks" else {**hooks, -1: hook})
    with_kwargs = clone.__dict__.get("_forward_hooks_with_kwargs", OrderedDict())
    clone.__dict__["_forward_hooks_with_kwargs"] = type(with_kwargs)({**with_kwargs, -1: True})  # handles refer to it weakly
