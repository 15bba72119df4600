"""What one trace gathers, and where in the forward code it stands."""

from __future__ import annotations

import dataclasses
import math
import os
import sys
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import attrs
import torch
from attrs import frozen
from torch.utils import _pytree as pytree

from depgraph.graph.records import ModuleSequence, TensorKind, TraceMode
from depgraph.solving.expressions import Attribute, AxisSize, Expression, Literal, parts_of
from depgraph.solving.recording import CalledModule, Declared, IntegerAttribute, Recording
from depgraph.solving.sized import origin, plain_int
from depgraph.solving.statements import Axis, Call, Term, Value
from depgraph.tracing.module_lists import Reach, as_used, reach

_TRUTH = (torch.bool, torch.uint8)


PLAIN = frozenset({int, bool, float, str, type(None), torch.dtype, torch.device, torch.layout, torch.memory_format})
"""Types of arguments in which there is no tensor."""


_LIBRARY = (torch.__path__[0] + os.sep, os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep)


def named_leaves(root: str, tree: Any) -> list[tuple[str, torch.Tensor]]:
    """The tensors of a pytree, dataclasses included, with their key paths."""
    tensors = []
    for key, leaf in _keyed_leaves(tree):
        name = root + key
        if isinstance(leaf, torch.Tensor):
            tensors.append((name, leaf))
        elif dataclasses.is_dataclass(leaf) and not isinstance(leaf, type):
            for item in dataclasses.fields(leaf):
                tensors.extend(named_leaves(f"{name}.{item.name}", getattr(leaf, item.name)))
    return tensors


def _keyed_leaves(tree: Any) -> list[tuple[str, Any]]:
    """The leaves with their key paths; by position where a class was registered as a pytree without a function for its keys."""
    try:
        return [(pytree.keystr(path), leaf) for path, leaf in pytree.tree_flatten_with_path(tree)[0]]
    except ValueError:
        return [(f"[{position}]", leaf) for position, leaf in enumerate(pytree.tree_leaves(tree))]


def class_name(module: torch.nn.Module) -> str:
    """The name of a module's class; one for all of torch.fx, which makes a class for each module and another for its copy."""
    return "GraphModule" if isinstance(module, torch.fx.GraphModule) else type(module).__name__


def memory_order(tensor: torch.Tensor) -> tuple[int, ...] | None:
    """The dimensions of more than one index as they lie in memory, outermost first; None where it has gaps or repetitions."""
    shape, strides = tensor.size(), tensor.stride()
    order = sorted((dim for dim, size in enumerate(shape) if size != 1), key=lambda dim: -strides[dim])
    row = 1
    for dim in reversed(order):
        if strides[dim] != row:
            return None
        row *= int(shape[dim])
    return tuple(order)


class DataRead(Exception):
    """Forward hands the data of a fake tensor to something other than torch."""

    def __init__(self, func: str) -> None:
        super().__init__(func)
        self.func = func


@frozen
class Running:
    """A module whose forward runs.

    Attributes:
        path: dotted path from the model's root.
        kind: the name of its class.
        leaf: whether it has no submodules.
    """

    path: str
    kind: str
    leaf: bool


@frozen
class _GroupedConvolution:
    """A call of a grouped convolution.

    Attributes:
        name: the attribute of the layer that counts the channels.
        channels: the axis of all blocks.
        weight: the weight it was called with.
        groups: where the number of groups came from.
        layer: the module that called it, if it has no submodules.
    """

    name: str
    channels: Axis
    weight: Value
    groups: Expression
    layer: str | None


class Session:
    """What one trace gathers, behind verbs: only the session writes its fields.

    Values go by the ids of their tensors, for a tensor is compared element by element. The session holds each of these
    tensors until it ends, so that no id is given to another one in the meantime.
    """

    def __init__(self, mode: TraceMode, keep: Callable[[torch.Tensor], None]) -> None:
        self.mode = mode
        self._keep = keep
        self._values: dict[int, tuple[torch.Tensor, Value]] = {}
        self._value_count = 0
        self._calls: list[Call] = []
        self._declared: list[Declared] = []
        self._inputs: list[tuple[str, Value]] = []
        self._constants: list[tuple[Value, str]] = []
        self._attributes: list[tuple[str, Term, bool]] = []
        self._grouped: list[_GroupedConvolution] = []
        self._convolutions: set[str] = set()
        self._integers: list[IntegerAttribute] = []
        self._containers: set[str] = set()
        self._sequences: dict[str, ModuleSequence] = {}
        self._reaches: dict[str, list[Reach]] = {}
        self._lists_of: dict[str, list[str]] = {}
        self._list_of: dict[str, str] = {}
        self._gave: dict[str, list[tuple[str, int]]] = {}
        self._gathered: dict[str, tuple[str, str]] = {}
        self._escapes: dict[tuple[Expression, ...], str] = {}
        self._facts: dict[tuple[Expression, Expression], str] = {}
        self._differences: dict[tuple[Expression, Expression], str] = {}
        self._orders: dict[tuple[Expression, Expression], str] = {}
        self._modules: list[Running] = [Running("", "", False)]
        self._module_calls: list[CalledModule] = []
        self._written: Any = ()
        self._assigning = False
        self._autocasts = False
        self._read: set[int] = set()
        self._muted = False

    @property
    def running(self) -> Running:
        """The module whose forward runs."""
        return self._modules[-1]

    @property
    def module(self) -> str:
        """Path of the running module."""
        return self._modules[-1].path

    @property
    def muted(self) -> bool:
        """Whether operators are parts of a call that is recorded as a whole."""
        return self._muted

    @property
    def written(self) -> Any:
        """The positional and keyword arguments of the running torch function as forward wrote them."""
        return self._written

    @property
    def assigning(self) -> bool:
        """Whether that function is an assignment to an index."""
        return self._assigning

    @property
    def autocasts(self) -> bool:
        """Whether a cast below that function is autocast's and not forward's own."""
        return self._autocasts

    @property
    def declared(self) -> tuple[Declared, ...]:
        """The parameters and buffers so far."""
        return tuple(self._declared)

    def declare(self, stand_in: torch.Tensor, tensor: torch.Tensor, names: Sequence[str], kind: TensorKind) -> None:
        """A parameter or buffer of the model with its stand-in; the names after the first are aliases."""
        value = self.value(stand_in, tuple(tensor.shape))
        self._values[id(tensor)] = (tensor, value)  # forward may hold the model's own in a closure
        self._declared.append(Declared(value, names[0], kind, names[0].rpartition(".")[0], tuple(names[1:])))

    def number_from(self, number: int) -> None:
        """Values from here on have numbers from this one up: those below belong to another forward."""
        self._value_count = max(self._value_count, number)

    def given(self, name: str, tensor: torch.Tensor, shape: tuple[int, ...]) -> None:
        """An input of the model."""
        self._inputs.append((name, self.value(tensor, shape)))

    def followed(self, attribute: str, term: Term, outside: bool) -> None:
        """A layer's attribute, by dotted path, that counts a term; `outside`: its own forward does not take it as a size."""
        self._attributes.append((attribute, term, outside))

    def convolution(self, path: str) -> None:
        """The module of this path is a convolution of torch, whose attributes count channels."""
        self._convolutions.add(path)

    def holds(self, integer: IntegerAttribute) -> None:
        """The model holds an integer that a path can name; forward reads it or not."""
        self._integers.append(integer)

    def container(self, path: str) -> None:
        """The module of this path is a mere list, dict or sequence of modules."""
        self._containers.add(path)

    def lists(self, sequence: ModuleSequence) -> None:
        """The model holds a list of modules."""
        self._sequences[sequence.path] = sequence
        self._lists_of.setdefault(sequence.path.rpartition(".")[0], []).append(sequence.path)
        self._list_of.update(dict.fromkeys((f"{sequence.prefix}{name}" for name in sequence.elements), sequence.path))

    def reached_for(self, path: str, key: Any) -> None:
        """Forward asks the list of this path for elements, or by `len` for how many it has."""
        self._reaches.setdefault(path, []).append(reach(key, where()))

    def entered(self, module: Running) -> None:
        """The forward of a module begins."""
        path = self._list_of.get(module.path)
        if path is not None:
            self._look_for_gathered(path, self._gave.get(path, []))
        self._modules.append(module)

    def left(self, result: Any = None) -> None:
        """The forward of the innermost module ends with a result."""
        module = self._modules.pop()
        path = self._list_of.get(module.path)
        given = next((leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, torch.Tensor)), None) if path else None
        if path is not None and given is not None:
            self._gave.setdefault(path, []).append((module.path, id(given)))
        del given
        for inner in self._lists_of.get(module.path, ()):
            self._look_for_gathered(inner, self._gave.pop(inner, []))

    def _look_for_gathered(self, path: str, gave: Sequence[tuple[str, int]]) -> None:
        """Note whether forward still holds what elements of a list gave, when the next ones have taken it."""
        for element, number in gave[:-1] if path not in self._gathered else ():
            tensor, _ = self._values.get(number, (None, None))
            if tensor is None or number == gave[-1][1]:
                continue
            views: int = tensor._use_count() > 1  # type: ignore[attr-defined]  # they hold it by one reference
            if sys.getrefcount(tensor) > _OWN_REFERENCES + views:
                self._gathered[path] = element, self.module or "the model"

    @property
    def call_count(self) -> int:
        """How many operators were called so far."""
        return len(self._calls)

    def module_returned(self, path: str, begins: int, args: Any, kwargs: Any, result: Any, problem: str) -> None:
        """A module that holds parameters was called with these arguments, and returned this."""
        given = [*((str(place), item) for place, item in enumerate(args)), *kwargs.items()]
        takes = [(key, self.known(item)) for key, item in given if isinstance(item, torch.Tensor)]
        alone = isinstance(result, torch.Tensor)
        items = (result,) if alone else result if type(result) is tuple else ()
        strange = next((item for item in items if item is not None and not isinstance(item, torch.Tensor)), None)
        if type(result) is not tuple and not alone:
            strange = result
        if strange is not None:
            problem = problem or f"it returns a {type(strange).__name__}"
        returns = tuple(self.known(item) if isinstance(item, torch.Tensor) else None for item in items)
        if any(value is None and item is not None for value, item in zip(returns, items, strict=True)):
            problem = problem or "it returns a tensor that no operator of forward made"
        known = tuple((key, value) for key, value in takes if value is not None)
        self._module_calls.append(CalledModule(path, begins, self.call_count, known, len(given), returns, alone, problem))

    def function_entered(self, args: Any, kwargs: Any, assigning: bool, autocasts: bool) -> tuple[Any, bool, bool]:
        """Forward calls a torch function with these arguments. Returns what `function_left` takes back."""
        outer = self._written, self._assigning, self._autocasts
        self._written, self._assigning, self._autocasts = (args, kwargs), assigning, autocasts
        return outer

    def function_left(self, outer: tuple[Any, bool, bool]) -> None:
        """The function has returned or failed; the one around it runs on."""
        self._written, self._assigning, self._autocasts = outer

    @contextmanager
    def whole(self) -> Iterator[None]:
        """While something runs whose operators are not recorded, for it is one call itself."""
        self._muted = True
        try:
            yield
        finally:
            self._muted = False

    def called(
        self, op: str, args: dict[str, Any], outputs: tuple[Value, ...], module: Running | None = None, whole: bool = False
    ) -> None:
        """An operator was called, in the running module or in the given one."""
        label = module or self._modules[-1]
        frozen_args = types.MappingProxyType(args)
        self._calls.append(Call(op, frozen_args, outputs, label.path, label.kind, label.leaf, where(), whole=whole))

    def grouped(self, name: str, channels: Axis, weight: Value, groups: int) -> None:
        """The channels of a grouped convolution, which an attribute of this name counts in the layer whose weight this is."""
        layer = self.module if self.running.leaf else None
        self._grouped.append(_GroupedConvolution(name, channels, weight, origin(groups, self), layer))

    def read(self, tensor: torch.Tensor) -> None:
        """Forward read the data of a tensor, if the trace knows it."""
        value = self.known(tensor)
        if value is not None:
            self._read.add(value.id)
            self._constants.append((value, f"forward reads its data ({self.module or 'the model'} at {where()})"))

    def same(self, tensor: torch.Tensor, value: Value) -> None:
        """A tensor has the value of another one."""
        self._values[id(tensor)] = (tensor, value)

    def known(self, tensor: torch.Tensor) -> Value | None:
        """The value of a tensor that the trace has met, as of its last call."""
        entry = self._values.get(id(tensor))
        return None if entry is None else entry[1]

    def value(self, tensor: torch.Tensor, shape: tuple[int, ...]) -> Value:
        """The value of a tensor; a new one if the tensor is new or was given another shape in place."""
        entry = self._values.get(id(tensor))
        if entry is not None and entry[1].shape == shape:
            return entry[1]
        value = Value(self._value_count, shape, tensor.dtype in _TRUTH, tensor.dtype.itemsize)
        self._value_count += 1
        self._values[id(tensor)] = (tensor, value)
        return value

    def data(self, item: Any) -> Any:
        """An argument without tensors: values in their place. A tensor that the trace has not met is a constant."""
        if type(item) in PLAIN:
            return item
        if isinstance(item, torch.Tensor):
            is_constant = id(item) not in self._values
            value = self.value(item, shape_of(item))
            if is_constant:
                self._constants.append((value, f"it is a constant that forward reads in {self.module or 'the model'}"))
            return value
        if isinstance(item, (list, tuple)):
            return tuple([self.data(part) for part in item])
        if isinstance(item, dict):
            return types.MappingProxyType({key: self.data(part) for key, part in item.items()})
        return item

    def hand_over(self, tensor: torch.Tensor, call: str) -> None:
        """The data of a tensor leave torch for code that can neither be followed nor told apart by index."""
        self._keep(tensor)
        value = self.known(tensor)
        if value is not None:
            at = f"{self.module or 'the model'} at {where()}"
            self._constants.append((value, f"its data leave torch through {call} ({at}), where nothing is followed"))

    def fact(self, left: Expression, right: Expression, size: int, owner: object) -> None:
        """Forward found two sizes equal."""
        if owner is self and left != right and (left, right) not in self._facts:
            self._facts[left, right] = where()

    def unlike(self, left: Expression, right: Expression, size: int, owner: object) -> None:
        """Forward found two sizes different."""
        if owner is self and (left, right) not in self._differences:
            self._differences[left, right] = where()

    def below(self, left: Expression, right: Expression, owner: object) -> None:
        """Forward found a size smaller than another one; what holds for all smaller sizes says nothing."""
        if owner is self and not _always_below(left, right) and (left, right) not in self._orders:
            self._orders[left, right] = where()

    def escape(self, sources: tuple[Expression, ...], owner: object) -> None:
        """A number computed from sizes became a plain one."""
        if owner is self and sources:
            self._escapes.setdefault(sources, where())

    def returned(self, outputs: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Forward has returned these. A result that nothing reads, but that is alive, is stored somewhere else, and is pinned.

        What only the returned objects hold, such as the keys and values in a cache, is no longer alive.
        """
        read = {value.id for call in self._calls for value in call.inputs}
        read |= {self._values[id(tensor)][1].id for _, tensor in outputs if id(tensor) in self._values}
        producers = {value.id: call for call in self._calls for value in call.outputs if value.ndim and value.id not in read}
        boundary = {declared.value.id for declared in self._declared} | {value.id for _, value in self._inputs}
        references = _references(self._values.values())
        for (_, value), count in zip(self._values.values(), references, strict=True):
            if value.id in producers and value.id not in boundary and count > _OWN_REFERENCES:
                call = producers[value.id]
                place = f"{call.op} in {call.module or 'the model'} at {call.where}"
                reason = f"it leaves forward by another way than the model's output, where anybody may read it ({place})"
                self._constants.append((value, reason))

    def _grouped_attributes(self) -> dict[str, Axis]:
        """The attributes of grouped convolutions that count all blocks, with the channels; of each layer's first call.

        A layer's own forward takes its `groups` as a size, which is followed. Where another module convolves with a layer's
        weight by itself, as a kernel of a state space does, its depthwise `groups` count the channels, too.
        """
        attributes: dict[str, Axis] = {}
        for call in self._grouped:
            layer = call.layer if call.layer in self._convolutions else self._layer_of(call.weight)
            if layer is None:
                continue
            attributes.setdefault(f"{layer}.{call.name}", call.channels)
            groups = Attribute(f"{layer}.groups", call.channels.size)
            depthwise = call.weight.shape[1] == 1 and call.weight.shape[0] == call.channels.size
            if call.layer is None and depthwise and groups not in parts_of(call.groups):
                attributes.setdefault(groups.path, call.channels)
        return attributes

    def _layer_of(self, weight: Value) -> str | None:
        """The convolution whose weight this is, viewed in another shape perhaps."""
        layers = {
            declared.value.id: name.removesuffix(".weight")
            for declared in self._declared
            for name in (declared.name, *declared.aliases)
            if name.endswith(".weight") and name.removesuffix(".weight") in self._convolutions
        }
        made_of = {
            call.outputs[0].id: call.inputs[0]
            for call in self._calls
            if len(call.outputs) == len(call.inputs) == 1
            and call.outputs[0].id != call.inputs[0].id
            and math.prod(call.outputs[0].shape) == math.prod(call.inputs[0].shape)
        }
        while weight.id not in layers and weight.id in made_of:
            weight = made_of[weight.id]
        return layers.get(weight.id)

    def recording(self, outputs: list[tuple[str, torch.Tensor]]) -> Recording:
        """Everything gathered, with the outputs that forward returned. The session ends here, and releases the tensors."""
        named = tuple((name, self.value(tensor, shape_of(tensor))) for name, tensor in outputs)
        used = [*(value for _, value in named), *(value for value, _ in self._constants)]
        read = self._read.union(value.id for value in used).union(value.id for call in self._calls for value in call.inputs)
        recording = Recording(
            mode=self.mode,
            value_count=self._value_count,
            calls=tuple(_with_unread(call, read) for call in self._calls),
            declared=tuple(self._declared),
            inputs=tuple(self._inputs),
            outputs=named,
            constants=tuple(self._constants),
            layer_attributes=(
                *self._attributes,
                *((path, axis, False) for path, axis in self._grouped_attributes().items()),
            ),
            escapes=tuple(self._escapes.items()),
            facts=tuple((left, right, where) for (left, right), where in self._facts.items()),
            differences=tuple((left, right, where) for (left, right), where in self._differences.items()),
            orders=tuple((left, right, where) for (left, right), where in self._orders.items()),
            integers=tuple(self._integers),
            containers=frozenset(self._containers),
            sequences=tuple(
                as_used(
                    sequence,
                    self._reaches.get(path, ()),
                    [part for sources in self._escapes for part in sources],
                    self._gathered.get(path),
                )
                for path, sequence in self._sequences.items()
            ),
            modules=tuple(self._module_calls),
        )
        self._values.clear()  # the sizes in the calls know their session: it would live until the garbage collector comes
        self._calls.clear()
        return recording


def _references(table: Iterable[tuple[object, object]]) -> list[int]:
    """How many references there are to the first of each pair."""
    return [sys.getrefcount(item) for item, _ in table]


(_OWN_REFERENCES,) = _references([(object(), None)])
"""Those of the table and of the count itself, which differ between versions of Python: 3.14 borrows where 3.11 adds one."""


def shape_of(tensor: torch.Tensor) -> tuple[int, ...]:
    """The sizes of a tensor as plain integers, whose use is not recorded."""
    return tuple(map(plain_int, tensor.shape))


def _always_below(left: Expression, right: Expression) -> bool:
    """Whether sizes that only shrink, and never below 1, keep the left one smaller."""
    if isinstance(left, Literal):
        return isinstance(right, Literal) or (left.value < 1 and isinstance(right, (AxisSize, Attribute)))
    return isinstance(right, Literal) and isinstance(left, (AxisSize, Attribute))


def _with_unread(call: Call, read: set[int]) -> Call:
    """The call with the positions of results that nothing reads: unread indices of a maximum, say, need not stay in place."""
    unread = frozenset(position for position, value in enumerate(call.outputs) if value.id not in read)
    return attrs.evolve(call, unread=unread) if unread else call


def where() -> str:
    """File and line of the forward code that is running: the innermost frame outside of torch and this package."""
    frame: types.FrameType | None = sys._getframe(1)
    while frame is not None:
        name = _short(frame.f_code.co_filename)
        if name is not None:
            return f"{name}:{frame.f_lineno}"
        if frame.f_globals.get("__name__") == _COMMAND:  # what called the command is none of the model's code
            break
        frame = frame.f_back
    return "a layer of torch"


_COMMAND = "depgraph.cli.commands"


@cache
def _short(name: str) -> str | None:
    """A file by its name and directory; None for one of torch, of this package, and for what is no file."""
    if name.startswith(_LIBRARY) or name.startswith("<"):
        return None
    return "/".join(name.replace(chr(92), "/").split("/")[-2:])


def raised_at(error: BaseException) -> str:
    """File and line of the forward code in which an error arose."""
    line, step = "an unknown line", error.__traceback__
    while step is not None:
        name = _short(step.tb_frame.f_code.co_filename)
        if name is not None:
            line = f"{name}:{step.tb_lineno}"
        step = step.tb_next
    return line
