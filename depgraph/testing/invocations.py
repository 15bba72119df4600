"""An operator call as data: its tensors and numbers, from which slices can be taken, and what its rules say of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import torch
from attrs import evolve, field, frozen
from torch import nn
from torch.utils import _pytree as pytree

from depgraph.algebra.indices import IndexSet
from depgraph.algebra.spaces import Atom, Space, atoms
from depgraph.solving import assembly
from depgraph.solving.choices import Content
from depgraph.solving.statements import Call, Equal, Fresh, Pin, Rule, Statement
from depgraph.tracing.custom_rules import RuleTable
from depgraph.tracing.trace import record

AxisPlace = tuple[str, int]
"""An axis of the call: the key path of an operand or output, and the dimension."""


Slices = Mapping[AxisPlace, IndexSet]
"""The slices that a removal takes from the tensors: of each axis, its indices."""


NUMBERS = -1
"""In place of a dimension: the values of a tensor, where they are numbers of indices that the data choose."""


@frozen(eq=False)
class Invocation:
    """One call of an operator, with names for its arguments: ``args[0]``, ``args[0][1]``, ``kwargs['out']``."""

    function: Callable[..., Any]
    names: tuple[str, ...]
    leaves: tuple[Any, ...]
    spec: Any
    chosen: Mapping[str, int] = field(factory=dict)

    @classmethod
    def of(
        cls,
        function: Callable[..., Any],
        args: Iterable[Any],
        kwargs: Mapping[str, Any],
        chosen: Mapping[str, int] = MappingProxyType({}),
    ) -> Invocation:
        """The call ``function(*args, **kwargs)``; the operands in `chosen` hold numbers of indices, of as many as it says."""
        arguments = {"args": tuple(args), "kwargs": dict(kwargs)}
        paths, spec = pytree.tree_flatten_with_path(arguments)
        names = tuple(pytree.keystr(path[:1])[2:-2] + pytree.keystr(path[1:]) for path, _ in paths)
        return cls(function, names, tuple(leaf for _, leaf in paths), spec, chosen)

    @property
    def operands(self) -> dict[str, torch.Tensor]:
        """The tensors among the arguments."""
        return {name: leaf for name, leaf in zip(self.names, self.leaves, strict=True) if isinstance(leaf, torch.Tensor)}

    @property
    def numbers(self) -> dict[str, int]:
        """The integers among the arguments."""
        return {name: leaf for name, leaf in zip(self.names, self.leaves, strict=True) if type(leaf) is int}

    def without(self, slices: Slices, numbers: Mapping[str, int]) -> Invocation:
        """The same call on operands without the slices, and with other numbers."""
        leaves = [
            numbers.get(name, sliced(name, leaf, slices) if isinstance(leaf, torch.Tensor) else leaf)
            for name, leaf in zip(self.names, self.leaves, strict=True)
        ]
        return evolve(self, leaves=tuple(leaves))

    def filled(self, slices: Slices, value: float) -> Invocation:
        """The same call with the slices of the operands overwritten instead."""
        leaves = list(self.leaves)
        for position, (name, leaf) in enumerate(zip(self.names, self.leaves, strict=True)):
            if isinstance(leaf, torch.Tensor):
                leaves[position] = leaf = leaf.clone()
                for dim in range(leaf.ndim):
                    leaf.index_fill_(dim, torch.tensor(list(slices.get((name, dim), ())), dtype=torch.long), _cast(leaf, value))
        return evolve(self, leaves=tuple(leaves))

    def avoiding(self, slices: Slices) -> Invocation:
        """The same call where the data have chosen others in place of the indices that go; itself where none are chosen."""
        removed = {name: slices[name, NUMBERS] for name in self.chosen if slices.get((name, NUMBERS))}
        leaves = list(self.leaves)
        for position, name in enumerate(self.names):
            if name in removed:
                kept = next(iter(removed[name].complement(self.chosen[name])))
                gone = torch.isin(leaves[position], torch.tensor(list(removed[name])))
                leaves[position] = leaves[position].masked_fill(gone, kept)
        return evolve(self, leaves=tuple(leaves)) if removed else self

    def outputs(self) -> dict[str, torch.Tensor]:
        """Call the operator on copies; the tensors and numbers that it returns, by name."""
        copies = [leaf.detach().clone() if isinstance(leaf, torch.Tensor) else leaf for leaf in self.leaves]
        arguments = pytree.tree_unflatten(copies, self.spec)
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            result = self.function(*arguments["args"], **arguments["kwargs"])
        for name, copy, leaf in zip(self.names, copies, self.leaves, strict=True):
            if isinstance(leaf, torch.Tensor) and copy.numel() != leaf.numel():
                raise ValueError(f"{name} was given the shape {tuple(copy.shape)} in place of {tuple(leaf.shape)}")
        return {f"output{path}": leaf for path, leaf in _tensors(result)}


def _cast(tensor: torch.Tensor, value: float) -> bool | int | float:
    """A number as the type of a tensor has it; 0 for one that no integer type is sure to hold, such as infinity."""
    if tensor.is_floating_point() or tensor.is_complex():
        return value
    return bool(value) if tensor.dtype is torch.bool else int(value) if abs(value) < 2**31 else 0


def _tensors(result: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors and numbers of a result with their key paths, numbers as tensors."""
    for path, leaf in pytree.tree_flatten_with_path(result)[0]:
        if isinstance(leaf, torch.Tensor):
            yield pytree.keystr(path), leaf
        elif isinstance(leaf, (bool, int, float)):
            yield pytree.keystr(path), torch.tensor(leaf)


def sliced(name: str, tensor: torch.Tensor, slices: Slices) -> torch.Tensor:
    """The tensor of this name without its slices."""
    for dim, size in enumerate(tensor.shape):
        indices = slices.get((name, dim))
        if indices:
            tensor = tensor.index_select(dim, torch.tensor(list(indices.complement(size)), dtype=torch.long))
    for number in sorted(slices.get((name, NUMBERS), ()), reverse=True):
        tensor = tensor - (tensor > number).to(tensor.dtype)
    return tensor


class _Alone(nn.Module):
    """The one call as a forward whose tensors are parameters and whose numbers are attributes."""

    def __init__(self, call: Invocation) -> None:
        super().__init__()
        self.call = call.function, call.spec
        self.leaves = [
            nn.Parameter(leaf.detach().clone(), requires_grad=False) if isinstance(leaf, torch.Tensor) else leaf
            for leaf in call.leaves
        ]
        for position, leaf in enumerate(self.leaves):
            if isinstance(leaf, nn.Parameter):
                self.register_parameter(f"leaf{position}", leaf)

    def forward(self) -> Any:
        """Return what the operator returns."""
        function, spec = self.call
        arguments = pytree.tree_unflatten(self.leaves, spec)
        return function(*arguments["args"], **arguments["kwargs"])


@frozen
class CallSolution:
    """The solution of what the rules state of a call.

    Attributes:
        ops: the operators that were called.
        axes: the space of each axis of operands and outputs, and of the indices whose numbers they hold.
        numbers: the space that an integer argument counts.
        pins: pinned atoms with their reasons.
        balances: atoms that must lose equally many indices.
        mixed: the atoms along which the rules say that indices are mixed; None where they do not say.
        faults: rules that do not fit the call.
    """

    ops: tuple[str, ...]
    axes: Mapping[AxisPlace, Space]
    numbers: Mapping[str, Space]
    pins: Mapping[Atom, str]
    balances: tuple[tuple[Atom, ...], ...]
    mixed: frozenset[Atom] | None
    faults: tuple[str, ...]


def solved(call: Invocation, table: RuleTable, lifted: bool = False) -> CallSolution:
    """Record the call with the real tracer, and solve what its rules state; `lifted` leaves their pins out."""
    recording = record(_Alone(call), rules=table)
    rules = table.by_name
    outputs = recording.outputs
    ops = tuple(operator_call.op for operator_call in recording.calls)
    faults = tuple(fault for operator_call in recording.calls for fault in _faults(operator_call, rules))
    if lifted:
        rules = {name: _without_pins(rule) for name, rule in rules.items() if name in ops}
    names = dict(zip((f"leaf{position}" for position in range(len(call.names))), call.names, strict=True))
    operands = {names[declared.name]: declared.value for declared in recording.declared}
    contents = {operands[name].id: Content(Fresh(size)) for name, size in call.chosen.items()}
    statements = assembly.stated(recording, rules, boundary=False, contents=contents)
    solution = assembly.solved(statements)
    values = operands | dict(outputs)
    axes = {(name, axis.dim): solution.spaces[axis] for name, value in values.items() for axis in value.axes}
    held = {name: statements.contents[value.id] for name, value in values.items() if value.id in statements.contents}
    axes |= {(name, NUMBERS): solution.spaces[item.term] for name, item in held.items() if item.meaning == "number"}
    numbers = {call.names[int(path.removeprefix("leaves."))]: space for path, space in solution.attributes}
    balances = tuple(balanced for balanced, _ in solution.balances)
    traits = [rules[operator_call.op].traits_of(operator_call) for operator_call in recording.calls if not faults]
    mixing = frozenset(atom for trait in traits for axis in trait.mixes or () for atom in atoms(solution.spaces[axis]))
    mixed = None if any(trait.mixes is None for trait in traits) else mixing
    return CallSolution(ops, axes, numbers, solution.pins, balances, mixed, faults)


def _without_pins(rule: Rule) -> Rule:
    """The rule with all its statements but pins."""

    def equations(call: Call) -> Iterator[Statement]:
        return (statement for statement in rule.equations(call) if not isinstance(statement, Pin))

    return evolve(rule, equations=equations)


def _faults(call: Call, rules: Mapping[str, Rule]) -> Iterator[str]:
    """How the rule of a recorded call does not fit it."""
    rule = rules.get(call.op)
    if rule is None:
        yield f"there is no rule for {call.op}"
        return
    try:
        rule.traits_of(call)
        statements = list(rule.equations(call))
    except Exception as error:  # noqa: BLE001 - any failure of a rule is a finding
        yield f"the rule of {call.op} does not fit the call: {type(error).__name__}: {error}"
        return
    for statement in statements:
        if isinstance(statement, Equal) and statement.left.size != statement.right.size:
            yield f"the rule of {call.op} equates sizes {statement.left.size} and {statement.right.size}"
