"""What one trace gathers, and where in the forward code it stands."""

from __future__ import annotations

import dataclasses
import os
import sys
import types
from collections.abc import Callable
from functools import cache
from typing import Any

import attrs
import torch
from torch.utils import _pytree as pytree

from depgraph.solving.expressions import Attribute, AxisSize, Expression, Literal
from depgraph.solving.recording import Declared, Recording
from depgraph.solving.statements import Axis, Call, Term, Value

_TRUTH = (torch.bool, torch.uint8)


PLAIN = frozenset({int, bool, float, str, type(None), torch.dtype, torch.device, torch.layout, torch.memory_format})
"""Types of arguments in which there is no tensor."""


_LIBRARY = (torch.__path__[0] + os.sep, os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep)


def named_leaves(root: str, tree: Any) -> list[tuple[str, torch.Tensor]]:
    """The tensors of a pytree, dataclasses included, with their key paths."""
    found = []
    for path, leaf in pytree.tree_flatten_with_path(tree)[0]:
        name = root + pytree.keystr(path)
        if isinstance(leaf, torch.Tensor):
            found.append((name, leaf))
        elif dataclasses.is_dataclass(leaf) and not isinstance(leaf, type):
            for item in dataclasses.fields(leaf):
                found.extend(named_leaves(f"{name}.{item.name}", getattr(leaf, item.name)))
    return found


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


class Session:
    """What one trace gathers. Tensors are kept alive until it ends, so that their ids stay theirs."""

    def __init__(self, mode: str, keep: Callable[[torch.Tensor], None]) -> None:
        self.mode, self.keep = mode, keep
        self.values: dict[int, tuple[torch.Tensor, Value]] = {}
        self.count = 0
        self.calls: list[Call] = []
        self.declared: list[Declared] = []
        self.inputs: list[tuple[str, Value]] = []
        self.constants: list[tuple[Value, str]] = []
        self.attributes: list[tuple[str, Term]] = []
        self.grouped: dict[str, tuple[str, Axis]] = {}
        self.convolutions: set[str] = set()
        self.escapes: dict[tuple[Expression, ...], str] = {}
        self.facts: dict[tuple[Expression, Expression], str] = {}
        self.differences: dict[tuple[Expression, Expression], str] = {}
        self.orders: dict[tuple[Expression, Expression], str] = {}
        self.modules: list[tuple[str, str, bool]] = [("", "", False)]
        self.written: Any = ()
        self.read: set[int] = set()
        self.muted = False
        self.assigning = False

    @property
    def module(self) -> str:
        """Path of the running module."""
        return self.modules[-1][0]

    def value(self, tensor: torch.Tensor, shape: tuple[int, ...]) -> Value:
        """The value of a tensor; a new one if the tensor is new or was given another shape in place."""
        known = self.values.get(id(tensor))
        if known is not None and known[1].shape == shape:
            return known[1]
        made = Value(self.count, shape, tensor.dtype in _TRUTH)
        self.count += 1
        self.values[id(tensor)] = (tensor, made)
        return made

    def data(self, item: Any) -> Any:
        """An argument without tensors: values in their place. A tensor that the trace has not met is a constant."""
        if type(item) in PLAIN:
            return item
        if isinstance(item, torch.Tensor):
            fresh = id(item) not in self.values
            value = self.value(item, tuple(map(int, item.shape)))
            if fresh:
                self.constants.append((value, f"it is a constant that forward reads in {self.module or 'the model'}"))
            return value
        if isinstance(item, (list, tuple)):
            return tuple([self.data(part) for part in item])
        if isinstance(item, dict):
            return types.MappingProxyType({key: self.data(part) for key, part in item.items()})
        return item

    def hand_over(self, tensor: torch.Tensor, call: str) -> None:
        """Note that the data of a tensor leave torch for code that can neither be followed nor told apart by index."""
        self.keep(tensor)
        if self.known(tensor):
            reason = (
                f"its data leave torch through {call} ({self.module or 'the model'} at {where()}), where nothing is followed"
            )
            self.constants.append((self.values[id(tensor)][1], reason))

    def known(self, tensor: torch.Tensor) -> bool:
        """Whether the trace has met the tensor."""
        return id(tensor) in self.values

    def fact(self, left: Expression, right: Expression, size: int, owner: object) -> None:
        """Note that forward found two sizes equal."""
        if owner is self and left != right and (left, right) not in self.facts:
            self.facts[left, right] = where()

    def unlike(self, left: Expression, right: Expression, size: int, owner: object) -> None:
        """Note that forward found two sizes different."""
        if owner is self and (left, right) not in self.differences:
            self.differences[left, right] = where()

    def below(self, left: Expression, right: Expression, owner: object) -> None:
        """Note that forward found a size smaller than another one; what holds for all smaller sizes says nothing."""
        if owner is self and not _always_below(left, right) and (left, right) not in self.orders:
            self.orders[left, right] = where()

    def escape(self, sources: tuple[Expression, ...], owner: object) -> None:
        """Note that a number computed from sizes became a plain one."""
        if owner is self:
            self.escapes.setdefault(sources, where())

    def recording(self, outputs: list[tuple[str, torch.Tensor]]) -> Recording:
        """Everything gathered, with the outputs that forward returned."""
        named = tuple((name, self.value(tensor, tuple(map(int, tensor.shape)))) for name, tensor in outputs)
        kept = [*(value for _, value in named), *(value for value, _ in self.constants)]
        read = self.read.union(value.id for value in kept).union(value.id for call in self.calls for value in call.inputs)
        return Recording(
            mode=self.mode,
            calls=tuple(_with_unread(call, read) for call in self.calls),
            declared=tuple(self.declared),
            inputs=tuple(self.inputs),
            outputs=named,
            constants=tuple(self.constants),
            layer_attributes=(
                *self.attributes,
                *((f"{path}.{name}", axis) for path, (name, axis) in self.grouped.items() if path in self.convolutions),
            ),
            escapes=tuple(self.escapes.items()),
            facts=tuple((left, right, where) for (left, right), where in self.facts.items()),
            differences=tuple((left, right, where) for (left, right), where in self.differences.items()),
            orders=tuple((left, right, where) for (left, right), where in self.orders.items()),
        )


def _always_below(left: Expression, right: Expression) -> bool:
    """Whether sizes that only shrink, and never below 1, keep the left one smaller."""
    if isinstance(left, Literal):
        return isinstance(right, Literal) or (left.value < 1 and isinstance(right, (AxisSize, Attribute)))
    return isinstance(right, Literal) and isinstance(left, (AxisSize, Attribute))


def _with_unread(call: Call, read: set[int]) -> Call:
    if len(call.outputs) < 2:
        return call
    unread = frozenset(position for position, value in enumerate(call.outputs) if value.id not in read)
    return attrs.evolve(call, unread=unread) if unread else call


def where() -> str:
    """File and line of the forward code that is running: the innermost frame outside of torch and this package."""
    frame: types.FrameType | None = sys._getframe(1)
    while frame is not None:
        name = _short(frame.f_code.co_filename)
        if name is not None:
            return f"{name}:{frame.f_lineno}"
        frame = frame.f_back
    return "a layer of torch"


@cache
def _short(name: str) -> str | None:
    """A file by its name and directory; None for one of torch, of this package, and for what is no file."""
    if name.startswith(_LIBRARY) or name.startswith("<"):
        return None
    return "/".join(name.replace(chr(92), "/").split("/")[-2:])


def raised_at(error: BaseException) -> str:
    """File and line of the forward code in which an error arose."""
    found, step = "an unknown line", error.__traceback__
    while step is not None:
        name = _short(step.tb_frame.f_code.co_filename)
        if name is not None:
            found = f"{name}:{step.tb_lineno}"
        step = step.tb_next
    return found
