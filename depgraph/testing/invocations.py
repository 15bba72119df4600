"""An operator call as data: its tensors and numbers, from which slices can be taken, and what its rules say of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from attrs import evolve, frozen
from torch import nn
from torch.utils import _pytree as pytree

from depgraph.algebra.indices import IndexSet
from depgraph.algebra.spaces import Atom, Space, atoms
from depgraph.solving import assembly
from depgraph.solving.statements import Equal, Pin, Rule, Statement
from depgraph.tracing.custom_rules import RuleTable
from depgraph.tracing.trace import record

AxisPlace = tuple[str, int]
"""An axis of the call: the key path of an operand or output, and the dimension."""


Lost = Mapping[AxisPlace, IndexSet]
"""What each axis loses."""


@frozen(eq=False)
class Invocation:
    """One call of an operator, with names for its arguments: ``args[0]``, ``args[0][1]``, ``kwargs['out']``."""

    function: Callable[..., Any]
    names: tuple[str, ...]
    leaves: tuple[Any, ...]
    spec: Any

    @classmethod
    def of(cls, function: Callable[..., Any], args: Iterable[Any], kwargs: Mapping[str, Any]) -> Invocation:
        """The call ``function(*args, **kwargs)``."""
        given = {"args": tuple(args), "kwargs": dict(kwargs)}
        paths, spec = pytree.tree_flatten_with_path(given)
        names = tuple(pytree.keystr(path[:1])[2:-2] + pytree.keystr(path[1:]) for path, _ in paths)
        return cls(function, names, tuple(leaf for _, leaf in paths), spec)

    @property
    def operands(self) -> dict[str, torch.Tensor]:
        """The tensors among the arguments."""
        return {name: leaf for name, leaf in zip(self.names, self.leaves, strict=True) if isinstance(leaf, torch.Tensor)}

    @property
    def numbers(self) -> dict[str, int]:
        """The integers among the arguments."""
        return {name: leaf for name, leaf in zip(self.names, self.leaves, strict=True) if type(leaf) is int}

    def without(self, lost: Lost, numbers: Mapping[str, int]) -> Invocation:
        """The same call on operands without the lost slices, and with other numbers."""
        leaves = [
            numbers.get(name, sliced(name, leaf, lost) if isinstance(leaf, torch.Tensor) else leaf)
            for name, leaf in zip(self.names, self.leaves, strict=True)
        ]
        return evolve(self, leaves=tuple(leaves))

    def filled(self, lost: Lost, value: float) -> Invocation:
        """The same call with the lost slices of the operands overwritten instead."""
        leaves = list(self.leaves)
        for position, (name, leaf) in enumerate(zip(self.names, self.leaves, strict=True)):
            if isinstance(leaf, torch.Tensor):
                leaves[position] = leaf = leaf.clone()
                for dim in range(leaf.ndim):
                    leaf.index_fill_(dim, torch.tensor(list(lost.get((name, dim), ())), dtype=torch.long), _as(leaf, value))
        return evolve(self, leaves=tuple(leaves))

    def outputs(self) -> dict[str, torch.Tensor]:
        """Call the operator on copies; the tensors and numbers that it returns, by name."""
        copies = [leaf.detach().clone() if isinstance(leaf, torch.Tensor) else leaf for leaf in self.leaves]
        given = pytree.tree_unflatten(copies, self.spec)
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            result = self.function(*given["args"], **given["kwargs"])
        for name, copy, leaf in zip(self.names, copies, self.leaves, strict=True):
            if isinstance(leaf, torch.Tensor) and copy.numel() != leaf.numel():
                raise ValueError(f"{name} was given the shape {tuple(copy.shape)} in place of {tuple(leaf.shape)}")
        return {f"output{path}": leaf for path, leaf in _tensors(result)}


def _as(tensor: torch.Tensor, value: float) -> bool | int | float:
    if tensor.is_floating_point() or tensor.is_complex():
        return value
    return bool(value) if tensor.dtype is torch.bool else int(value) if abs(value) < 2**31 else 0


def _tensors(result: Any) -> Iterator[tuple[str, torch.Tensor]]:
    for path, leaf in pytree.tree_flatten_with_path(result)[0]:
        if isinstance(leaf, torch.Tensor):
            yield pytree.keystr(path), leaf
        elif isinstance(leaf, (bool, int, float)):
            yield pytree.keystr(path), torch.tensor(leaf)


def sliced(name: str, tensor: torch.Tensor, lost: Lost) -> torch.Tensor:
    """The tensor without what its axes lose."""
    for dim, size in enumerate(tensor.shape):
        gone = lost.get((name, dim))
        if gone:
            tensor = tensor.index_select(dim, torch.tensor(list(gone.complement(size)), dtype=torch.long))
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
        given = pytree.tree_unflatten(self.leaves, spec)
        return function(*given["args"], **given["kwargs"])


@frozen
class Solved:
    """What the rules say of a call.

    Attributes:
        ops: the operators that were called.
        axes: the space of each axis of operands and outputs.
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


def solved(call: Invocation, table: RuleTable, lifted: bool = False) -> Solved:
    """Record the call with the real tracer, and solve what its rules state; `lifted` leaves their pins out."""
    recording = record(_Alone(call), rules=table)
    rules = table.by_name
    outputs = recording.outputs
    faults = tuple(fault for made in recording.calls for fault in _faults(made, rules))
    if lifted:
        rules = {name: _without_pins(rule) for name, rule in rules.items() if name in {made.op for made in recording.calls}}
    solution = assembly.solved(assembly.stated(recording, rules, boundary=False))
    names = dict(zip((f"leaf{position}" for position in range(len(call.names))), call.names, strict=True))
    values = {names[declared.name]: declared.value for declared in recording.declared} | dict(outputs)
    axes = {(name, axis.dim): solution.spaces[axis] for name, value in values.items() for axis in value.axes}
    numbers = {call.names[int(path.removeprefix("leaves."))]: space for path, space in solution.attributes}
    balances = tuple(balanced for balanced, _ in solution.balances)
    traits = [rules[made.op].traits_of(made) for made in recording.calls if not faults]
    mixing = frozenset(atom for trait in traits for axis in trait.mixes or () for atom in atoms(solution.spaces[axis]))
    mixed = None if any(trait.mixes is None for trait in traits) else mixing
    return Solved(tuple(made.op for made in recording.calls), axes, numbers, solution.pins, balances, mixed, faults)


def _without_pins(rule: Rule) -> Rule:
    def equations(call: Any) -> Iterator[Statement]:
        return (statement for statement in rule.equations(call) if not isinstance(statement, Pin))

    return evolve(rule, equations=equations)


def _faults(made: Any, rules: Mapping[str, Rule]) -> Iterator[str]:
    rule = rules.get(made.op)
    if rule is None:
        yield f"there is no rule for {made.op}"
        return
    try:
        rule.traits_of(made)
        statements = list(rule.equations(made))
    except Exception as error:  # noqa: BLE001 - any failure of a rule is a finding
        yield f"the rule of {made.op} does not fit the call: {type(error).__name__}: {error}"
        return
    for statement in statements:
        if isinstance(statement, Equal) and statement.left.size != statement.right.size:
            yield f"the rule of {made.op} equates sizes {statement.left.size} and {statement.right.size}"
