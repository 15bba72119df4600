"""Run a model's forward once on fake tensors and record every operator. The model is never written to.

The forward runs on a shallow copy of the module tree, in which parameters are fake tensors and the integers that forward
may read as sizes remember their path. A function mode gives such integers for `tensor.shape` too, and keeps the
arguments of a call as they were written; a dispatch mode records the operators, composite ones undecomposed.
"""

from __future__ import annotations

import copy
import dataclasses
import os
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import lru_cache
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from depgraph import provenance
from depgraph.assemble import Declared, Recording, assemble
from depgraph.equations import Axis, Call, Rule, Term, Value
from depgraph.errors import TraceError
from depgraph.graph import Graph
from depgraph.layer_attributes import followed, read_in_forward
from depgraph.provenance import Attribute, AxisSize, Expression, Sized
from depgraph.rules import RULES
from depgraph.wrappers import unwrap

_SKIPPED = frozenset({"prim.device", "aten.is_same_size", "aten._local_scalar_dense", "aten.set_"})
_LIBRARY = (torch.__path__[0] + os.sep, os.path.dirname(os.path.abspath(__file__)) + os.sep)


def trace(
    model: nn.Module,
    example_inputs: Any = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    rules: Mapping[str, Rule] = RULES,
) -> Graph:
    """The dependency graph of a model.

    The forward runs once, on fake tensors: no data, no memory for weights, any device. The model is left as it was.

    Args:
        model: any `nn.Module`; compiled and data-parallel wrappers are looked through.
        example_inputs: a tensor, a tuple or list of positional arguments, or a dict that is passed as the one argument.
        kwargs: keyword arguments of the forward.
        rules: the operator table; extend it with ``RULES | {...}``.

    Returns:
        The graph: nodes, groups, pinned axes with their reasons, parameter and MAC counts.

    Raises:
        TraceError: the model is scripted or not initialised, the inputs lie on another device, or forward needs data.
        Exception: whatever the model's own forward raises comes through as it is.

    >>> import torch, depgraph as dg
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> graph = dg.trace(model, torch.randn(1, 4))
    >>> [str(group) for group in graph.groups]
    ['0.weight:0 (8 indices, 3 axes)']
    """
    return assemble(record(model, example_inputs, kwargs), rules)


def record(model: nn.Module, example_inputs: Any = (), kwargs: Mapping[str, Any] | None = None) -> Recording:
    """What `trace` hands to the rules: the operator calls of one forward, without tensors."""
    model = unwrap(model)
    _refuse_untraceable(model)
    args = _positional(example_inputs)
    _check_devices(model, (args, dict(kwargs or {})))
    fake_mode = FakeTensorMode(allow_non_fake_inputs=True)
    session = _Session()
    with ExitStack() as stack:
        fakes = _fake_parameters(model, fake_mode, session)
        tree = _copied_tree(model, fakes, session)
        device = _only_device(model)
        fake_args, fake_kwargs = _fake_inputs((args, dict(kwargs or {})), fake_mode, session, device)
        fast_path = torch.backends.mha.get_fastpath_enabled()
        stack.callback(torch.backends.mha.set_fastpath_enabled, fast_path)
        torch.backends.mha.set_fastpath_enabled(False)
        token = provenance.listen(session.fact)
        stack.callback(provenance.unlisten, token)
        stack.enter_context(torch.random.fork_rng(devices=[]))
        stack.enter_context(torch.no_grad())
        stack.enter_context(fake_mode)
        stack.enter_context(_Recorder(session))
        stack.enter_context(_Sizes(session))
        stack.enter_context(torch._C._AutoDispatchBelowAutograd())
        try:
            result = tree(*fake_args, **fake_kwargs)
        except torch._subclasses.fake_tensor.DataDependentOutputException as error:
            raise TraceError(
                f"forward reads the data of a tensor ({error.func}) in {session.module or 'the model'} at {_where()}; fake tensors "
                "have none. Move that decision out of forward, or trace the submodule behind it."
            ) from error
    return session.recording(_named_leaves("output", result))


def _positional(example_inputs: Any) -> tuple[Any, ...]:
    return tuple(example_inputs) if isinstance(example_inputs, (tuple, list)) else (example_inputs,)


def _refuse_untraceable(model: nn.Module) -> None:
    for path, module in model.named_modules():
        where = path or "the model itself"
        if isinstance(module, torch.jit.ScriptModule):
            raise TraceError(f"expected a plain nn.Module, met a scripted one at {where}. Trace the module it was scripted from.")
        if isinstance(module, nn.modules.lazy.LazyModuleMixin) and module.has_uninitialized_params():
            raise TraceError(
                f"expected initialised parameters, met a lazy module ({type(module).__name__}) at {where}. "
                "Run one forward on real inputs first."
            )


def _only_device(model: nn.Module) -> torch.device | None:
    devices = {tensor.device for tensor in (*model.parameters(), *model.buffers())}
    return next(iter(devices)) if len(devices) == 1 else None


def _check_devices(model: nn.Module, inputs: Any) -> None:
    device = _only_device(model)
    if device is None or device.type == "meta":
        return
    for name, tensor in _named_leaves("input", inputs[0]) + _named_leaves("kwargs", inputs[1]):
        if tensor.device != device:
            raise TraceError(
                f"expected inputs on {device}, where the model is, met {name} on {tensor.device}. Move it with .to({str(device)!r})."
            )


def _named_leaves(root: str, tree: Any) -> list[tuple[str, torch.Tensor]]:
    """The tensors of a pytree, dataclasses included, with their key paths."""
    found = []
    for path, leaf in pytree.tree_flatten_with_path(tree)[0]:
        name = root + pytree.keystr(path)
        if isinstance(leaf, torch.Tensor):
            found.append((name, leaf))
        elif dataclasses.is_dataclass(leaf) and not isinstance(leaf, type):
            for item in dataclasses.fields(leaf):
                found.extend(_named_leaves(f"{name}.{item.name}", getattr(leaf, item.name)))
    return found


class _Session:
    """What one trace gathers. Tensors are kept alive until it ends, so that their ids stay theirs."""

    def __init__(self) -> None:
        self.values: dict[int, tuple[torch.Tensor, Value]] = {}
        self.count = 0
        self.calls: list[Call] = []
        self.declared: list[Declared] = []
        self.inputs: list[tuple[str, Value]] = []
        self.constants: list[tuple[Value, str]] = []
        self.attributes: list[tuple[str, Term]] = []
        self.grouped: dict[str, tuple[str, Axis]] = {}
        self.convolutions: set[str] = set()
        self.facts: dict[tuple[Expression, Expression], str] = {}
        self.modules: list[tuple[str, str, bool]] = [("", "", False)]
        self.written: list[Any] = []

    @property
    def module(self) -> str:
        return self.modules[-1][0]

    def value(self, tensor: torch.Tensor, shape: tuple[int, ...]) -> Value:
        """The value of a tensor; a new one if the tensor is new or was given another shape in place."""
        known = self.values.get(id(tensor))
        if known is not None and known[1].shape == shape:
            return known[1]
        made = Value(self.count, shape)
        self.count += 1
        self.values[id(tensor)] = (tensor, made)
        return made

    def known(self, tensor: torch.Tensor) -> bool:
        return id(tensor) in self.values

    def fact(self, left: Expression, right: Expression, size: int) -> None:
        if size > 1 and left != right and (left, right) not in self.facts:
            self.facts[left, right] = _where()

    def recording(self, outputs: list[tuple[str, torch.Tensor]]) -> Recording:
        named = tuple((name, self.value(tensor, tuple(map(int, tensor.shape)))) for name, tensor in outputs)
        return Recording(
            calls=tuple(self.calls),
            declared=tuple(self.declared),
            inputs=tuple(self.inputs),
            outputs=named,
            constants=tuple(self.constants),
            layer_attributes=(
                *self.attributes,
                *((f"{path}.{name}", axis) for path, (name, axis) in self.grouped.items() if path in self.convolutions),
            ),
            facts=tuple((left, right, where) for (left, right), where in self.facts.items()),
        )


def _where() -> str:
    """File and line of the forward code that is running: the innermost frame outside of torch and this package."""
    frame = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        if not name.startswith(_LIBRARY) and not name.startswith("<"):
            return f"{'/'.join(name.replace(chr(92), '/').split('/')[-2:])}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]
    return "a layer of torch"


def _fake_like(tensor: torch.Tensor, device: torch.device | None = None) -> torch.Tensor:
    """A fake tensor of the same shape, strides, dtype and device; to be called under the fake mode."""
    if isinstance(tensor, FakeTensor):
        raise TraceError("expected real or meta tensors, met fake ones. Trace outside of FakeTensorMode.")
    device = device or tensor.device
    if tensor.layout is not torch.strided:
        return torch.empty(tensor.shape, dtype=tensor.dtype, device=device)
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=device)


def _fake_parameters(model: nn.Module, fake_mode: FakeTensorMode, session: _Session) -> dict[int, torch.Tensor]:
    """One fake tensor for each distinct parameter and buffer, by the id of the real one."""
    fakes: dict[int, torch.Tensor] = {}
    named: dict[int, list[str]] = {}
    order: list[tuple[str, str, torch.Tensor]] = []
    for kind, pairs in (("parameter", model.named_parameters), ("buffer", model.named_buffers)):
        for name, tensor in pairs(remove_duplicate=False):
            named.setdefault(id(tensor), []).append(name)
            if len(named[id(tensor)]) == 1:
                order.append((name, kind, tensor))
    with fake_mode:
        for name, kind, tensor in order:
            fake = _fake_like(tensor)
            if kind == "parameter":
                fake._is_param = True  # type: ignore[attr-defined]
            fakes[id(tensor)] = fake
            value = session.value(fake, tuple(tensor.shape))
            owner = name.rpartition(".")[0]
            session.declared.append(Declared(value, name, kind, owner, tuple(named[id(tensor)][1:])))
    return fakes


def _fake_inputs(inputs: Any, fake_mode: FakeTensorMode, session: _Session, device: torch.device | None) -> Any:
    target = device if device is not None and device.type == "meta" else None
    made: dict[int, torch.Tensor] = {}
    for root, tree in (("input", inputs[0]), ("kwargs", inputs[1])):
        for name, tensor in _named_leaves(root, tree):
            if id(tensor) not in made:
                with fake_mode:
                    made[id(tensor)] = _fake_like(tensor, target)
                session.inputs.append((name, session.value(made[id(tensor)], tuple(tensor.shape))))
    return pytree.tree_map(lambda leaf: made.get(id(leaf), leaf), inputs)


def _copied_tree(model: nn.Module, fakes: Mapping[int, torch.Tensor], session: _Session) -> nn.Module:
    """A shallow copy of the module tree whose tensors are fake and whose sizes remember their path."""
    copies: dict[int, nn.Module] = {}
    paths: dict[int, str] = {}
    for path, module in model.named_modules():
        copies[id(module)] = object.__new__(type(module))
        paths[id(module)] = path
    wrapped: dict[int, Any] = {}
    by_name = {name: declared for declared in session.declared for name in (declared.name, *declared.aliases)}
    for path, module in model.named_modules():
        clone = copies[id(module)]
        state = clone.__dict__
        state.update(module.__dict__)
        prefix = f"{path}." if path else ""
        for kind in ("_parameters", "_buffers"):
            held = module.__dict__.get(kind, {})
            state[kind] = {name: fakes.get(id(tensor), tensor) for name, tensor in held.items()}
        state["_modules"] = {name: copies.get(id(child), child) for name, child in module._modules.items()}
        state["_compiled_call_impl"] = None
        names = read_in_forward(module)
        if isinstance(module, nn.modules.conv._ConvNd):
            session.convolutions.add(path)
        for name, content in module.__dict__.items():
            if name not in _MODULE_STATE and (names is None or name in names or not isinstance(content, (int, tuple))):
                state[name] = _wrapped(content, prefix + name, copies, fakes, wrapped, 0)
        for name, term in followed(module, lambda tensor, p=prefix: _declared_axis(by_name, p + tensor)):
            session.attributes.append((prefix + name, term))
        _follow_calls(clone, path, session)
    return copies[id(model)]


def _declared_axis(by_name: Mapping[str, Declared], name: str) -> Value | None:
    found = by_name.get(name)
    return None if found is None else found.value


_MODULE_STATE = frozenset(vars(nn.Module()))
_PLAIN_OBJECTS = (types.SimpleNamespace,)


def _wrapped(
    content: Any, path: str, copies: Mapping[int, nn.Module], fakes: Mapping[int, torch.Tensor], done: dict[int, Any], depth: int
) -> Any:
    """An attribute with sizes that remember their path, at every depth of lists, tuples, dicts and config objects."""
    if type(content) is int:
        return Sized(content, Attribute(path)) if content > 1 else content
    if isinstance(content, (str, bytes, float, bool, type(None), torch.dtype, torch.device, type)):
        return content
    if isinstance(content, torch.Tensor):
        return fakes.get(id(content), content)
    if isinstance(content, nn.Module):
        return copies.get(id(content), content)
    if isinstance(content, types.MethodType):
        owner = content.__self__
        return types.MethodType(content.__func__, copies[id(owner)]) if id(owner) in copies else content
    if id(content) in done:
        return done[id(content)]
    if depth > 3:
        return content
    again = lambda item, key: _wrapped(item, f"{path}.{key}", copies, fakes, done, depth + 1)  # noqa: E731
    made: Any = content
    if type(content) in {tuple, list}:
        items = [again(item, position) for position, item in enumerate(content)]
        made = items if isinstance(content, list) else tuple(items)
    elif type(content) is torch.Size:
        made = torch.Size([again(item, position) for position, item in enumerate(content)])
    elif type(content) is dict:
        made = {key: again(item, key) for key, item in content.items()}
    elif _is_config(content):
        made = copy.copy(content)
        done[id(content)] = made
        for key, item in vars(content).items():
            object.__setattr__(made, key, again(item, key))
    done[id(content)] = made
    return made


def _is_config(content: Any) -> bool:
    """Whether an object is plain data with attributes: a namespace, a dataclass, a configuration."""
    if not hasattr(content, "__dict__") or callable(content):
        return False
    return isinstance(content, _PLAIN_OBJECTS) or dataclasses.is_dataclass(content) or "config" in type(content).__name__.lower()


def _follow_calls(clone: nn.Module, path: str, session: _Session) -> None:
    """Keep the path of the running module. The hooks are the copy's own; the model's hooks run as well."""
    label = (path, type(clone).__name__, not clone._modules)

    def enter(module: nn.Module, args: Any) -> None:
        session.modules.append(label)

    def leave(module: nn.Module, args: Any, result: Any) -> None:
        session.modules.pop()

    for name, hook in (("_forward_pre_hooks", enter), ("_forward_hooks", leave)):
        present = clone.__dict__.get(name, {})
        clone.__dict__[name] = type(present)({-1: hook, **present} if name == "_forward_pre_hooks" else {**present, -1: hook})


class _Sizes(TorchFunctionMode):
    """Gives sizes a provenance where forward asks for them, and keeps the arguments of each call as they were written."""

    def __init__(self, session: _Session) -> None:
        super().__init__()
        self.session = session
        self.opened: Any = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is _SHAPE or func is _SIZE:
            return self._size(func, args, kwargs)
        if isinstance(func, _PYTHON_FUNCTION) and func is not self.opened:
            body = _without_override_check(func)
            if body is not None:
                before, self.opened = self.opened, func
                try:
                    with self:
                        return body(*args, **kwargs)
                finally:
                    self.opened = before
        written = self.session.written
        self.session.written = [args, kwargs]
        try:
            return func(*args, **kwargs)
        finally:
            self.session.written = written

    def _size(self, func: Any, args: Any, kwargs: Any) -> Any:
        tensor = args[0]
        plain = func(*args, **kwargs)
        if not self.session.known(tensor):
            return plain
        value = self.session.values[id(tensor)][1]
        if isinstance(plain, torch.Size):
            if tuple(plain) != value.shape:
                return plain
            return torch.Size([self._sized(value, dim, size) for dim, size in enumerate(plain)])
        dim = args[1] if len(args) > 1 else kwargs["dim"]
        return self._sized(value, dim % value.ndim, plain) if value.shape[dim] == plain else plain

    @staticmethod
    def _sized(value: Value, dim: int, size: int) -> int:
        return Sized(size, AxisSize(value.id, dim, size)) if size > 1 else size


_SHAPE = torch.Tensor.shape.__get__
_SIZE = torch.Tensor.size
_PYTHON_FUNCTION = types.FunctionType
_OVERRIDE_CHECKS = ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic")


@lru_cache(maxsize=None)
def _open_globals(module: str) -> dict[str, Any]:
    """A copy of a torch module's globals in which functions do not hand over to the function mode again."""
    opened = dict(vars(sys.modules[module]))
    for name in _OVERRIDE_CHECKS:
        if name in opened:
            opened[name] = _never
    return opened


def _never(*_: Any) -> bool:
    return False


@lru_cache(maxsize=None)
def _without_override_check(func: types.FunctionType) -> Callable[..., Any] | None:
    """The same Python function, free to run its body under the function mode, so that what it calls is seen."""
    module = func.__module__
    names = func.__code__.co_names
    if module not in sys.modules or func.__globals__ is not vars(sys.modules[module]):
        return None
    if not any(name in names and name in func.__globals__ for name in _OVERRIDE_CHECKS):
        return None
    opened = types.FunctionType(func.__code__, _open_globals(module), func.__name__, func.__defaults__, func.__closure__)
    opened.__kwdefaults__ = func.__kwdefaults__
    return opened


class _Recorder(TorchDispatchMode):
    """Records operators. Those without a rule are decomposed where PyTorch can."""

    def __init__(self, session: _Session) -> None:
        super().__init__()
        self.session = session

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name, parameters = _signature(func)
        if name not in RULES and name not in _SKIPPED and _decomposes(func):
            with self:
                return func.decompose(*args, **kwargs)
        bound: dict[str, Any] = {}
        if name not in _SKIPPED:
            for (key, default), position in zip(parameters, range(len(parameters)), strict=True):
                given = args[position] if position < len(args) else kwargs.get(key, default)
                bound[key] = self._data(given)
        result = func(*args, **kwargs)
        if name not in _SKIPPED:
            self._note(name, bound, result)
        return result

    def _data(self, item: Any) -> Any:
        if isinstance(item, torch.Tensor):
            session = self.session
            fresh = not session.known(item)
            value = session.value(item, tuple(map(int, item.shape)))
            if fresh:
                session.constants.append((value, f"it is a constant that forward reads in {session.module or 'the model'}"))
            return value
        if isinstance(item, (list, tuple)):
            return tuple(self._data(part) for part in item)
        return item

    def _note(self, name: str, bound: dict[str, Any], result: Any) -> None:
        session = self.session
        outputs = tuple(
            session.value(tensor, tuple(map(int, tensor.shape)))
            for tensor in (result if isinstance(result, (tuple, list)) else (result,))
            if isinstance(tensor, torch.Tensor)
        )
        path, kind, leaf = session.modules[-1]
        args = _with_provenance(bound, session.written)
        if name.startswith("aten.conv") and int(bound.get("groups") or 1) > 1 and leaf:
            transposed = "transpose" in name
            channels = (outputs[0] if transposed else bound["input"])[1 - bound["weight"].ndim]
            session.grouped.setdefault(path, ("out_channels" if transposed else "in_channels", channels))
        session.calls.append(Call(name, types.MappingProxyType(args), outputs, path, kind, leaf, _where()))


@lru_cache(maxsize=None)
def _signature(func: Any) -> tuple[str, tuple[tuple[str, Any], ...]]:
    """``aten.name`` without overload and trailing underscore, and the schema's parameters with defaults."""
    schema = func._schema
    namespace, _, name = schema.name.partition("::")
    if name.endswith("_") and not name.endswith("__"):
        name = name[:-1]
    parameters = tuple((arg.name, arg.default_value if arg.has_default_value() else None) for arg in schema.arguments)
    return f"{namespace}.{name}", parameters


@lru_cache(maxsize=None)
def _decomposes(func: Any) -> bool:
    return bool(torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"))


def _integers(item: Any) -> Iterator[int]:
    if isinstance(item, int) and not isinstance(item, bool):
        yield item
    elif isinstance(item, (tuple, list)):
        for part in item:
            yield from _integers(part)
    elif isinstance(item, dict):
        for part in item.values():
            yield from _integers(part)
    elif isinstance(item, slice):
        yield from _integers((item.start, item.stop, item.step))


def _with_provenance(bound: dict[str, Any], written: list[Any]) -> dict[str, Any]:
    """Put the integers of the written call in place of the plain ones that the dispatcher hands on."""
    sources = list(_integers(written))
    if not any(type(source) is Sized for source in sources):
        return bound
    plain = [int(number) for number in _integers(list(bound.values()))]
    if plain == [int(number) for number in sources]:
        queue = iter(sources)
        return {key: _replaced(item, lambda _: next(queue)) for key, item in bound.items()}
    by_size = {int(source): source for source in reversed(sources) if type(source) is Sized}
    return {key: _replaced(item, lambda number: by_size.get(number, number)) for key, item in bound.items()}


def _replaced(item: Any, change: Callable[[int], int]) -> Any:
    if isinstance(item, int) and not isinstance(item, bool):
        return change(item)
    if isinstance(item, tuple):
        return tuple(_replaced(part, change) for part in item)
    return item


__all__ = ["Axis", "record", "trace"]
