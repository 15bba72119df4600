"""A recording of a forward becomes a `Graph`: state every rule's equations, solve, settle sizes, name everything."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from attrs import field, frozen

from depgraph.algebra.spaces import Atom, Space, atoms
from depgraph.graph.canonical import renumber
from depgraph.graph.graph import Graph
from depgraph.graph.records import (
    Balance,
    Cost,
    LowerBound,
    Operation,
    OperationTraits,
    OpType,
    PinnedAtom,
    SizeAttribute,
    Tensor,
    retyped,
)
from depgraph.solving.demands import Below, Demand, EqualSizes, Escape, FollowingAttribute, NamedSize, Settled, SizeFact, Unlike
from depgraph.solving.expressions import Attribute, Expression, Literal
from depgraph.solving.recording import Declared, Recording
from depgraph.solving.sizes import settle
from depgraph.solving.statements import (
    Backwards,
    Balanced,
    Call,
    Equal,
    Larger,
    Named,
    Pin,
    Plus,
    Rule,
    Statement,
    Term,
    Times,
    Value,
    Work,
    pin_all,
)
from depgraph.solving.traits import named_traits
from depgraph.solving.unification import Solver


@frozen
class _Line:
    """An operation before its spaces are known."""

    operation: Operation
    outputs: tuple[Value, ...]
    work: tuple[Work, ...] = field(factory=tuple)


def assemble(recording: Recording, rules: Mapping[str, Rule]) -> Graph:
    """The graph of a recording under an operator table. Pure: equal recordings give equal graphs."""
    return _written(recording, *settled(recording, rules), rules)


def settled(
    recording: Recording, rules: Mapping[str, Rule], boundary: bool = True
) -> tuple[Solver, Settled, dict[int, list[Work]]]:
    """The solver that took in every statement, the sizes that follow, and the work of each call by its id.

    Without `boundary` the axes of the outputs are free as well.
    """
    solver = Solver()
    demands: list[Demand] = []
    work: dict[int, list[Work]] = {}
    for name, value in recording.inputs:
        _pin_axes(solver, value, f"it is a dimension of the model's {name}")
    for call in recording.calls:
        place = _place(call)
        for statement in _statements(call, rules):
            if isinstance(statement, Equal):
                solver.state(statement, place)
            elif isinstance(statement, Pin):
                solver.pin(solver.term(statement.term), f"{statement.reason} ({place})")
            elif isinstance(statement, Named):
                demands.append(NamedSize(statement.term, statement.size, place))
            elif isinstance(statement, Balanced):
                demands.append(EqualSizes(statement.terms, f"{statement.reason} ({place})"))
            elif isinstance(statement, Larger):
                smaller = Literal(statement.than) if isinstance(statement.than, int) else statement.than
                demands.append(Below(smaller, statement.term, f"{statement.reason} ({place})"))
            else:
                work.setdefault(id(call), []).append(statement)
    for name, value in recording.outputs if boundary else ():
        _pin_axes(solver, value, f"it is a dimension of the model's {name}")
    for value, reason in recording.constants:
        _pin_axes(solver, value, reason)
    used = {value.id for call in recording.calls for value in (*call.inputs, *call.outputs)}
    for declared in recording.declared:
        if declared.value.id not in used:
            _pin_axes(solver, declared.value, f"{declared.name} is not used in forward")
    demands.extend(SizeFact(left, right, where) for left, right, where in recording.facts)
    demands.extend(Unlike(left, right, _compared(left, right, where)) for left, right, where in recording.differences)
    demands.extend(Below(left, right, _compared(left, right, where)) for left, right, where in recording.orders)
    demands.extend(FollowingAttribute(Attribute(path), term) for path, term in recording.layer_attributes)
    demands.extend(Escape(sources, where) for sources, where in recording.escapes)
    held = [axis for declared in recording.declared if declared.kind == "parameter" for axis in declared.value.axes]
    copies = [axis for call in recording.calls if _repeats(call, rules) for value in call.outputs for axis in value.axes]
    return solver, settle(solver, demands, held, copies), work


def _compared(left: Expression, right: Expression, where: str) -> str:
    return f"forward compares {left} with {right} at {where}"


def _statements(call: Call, rules: Mapping[str, Rule]) -> list[Statement]:
    rule = rules.get(call.op)
    if rule is None:
        return list(pin_all(call, f"there is no rule for {call.op}"))
    try:
        rule.traits_of(call)
        statements = list(rule.equations(call))
    except Exception as error:  # noqa: BLE001 - a rule may be a user's own: its failure pins, and is told in graph.pinned
        return list(pin_all(call, f"the rule for {call.op} does not fit this call ({type(error).__name__}: {error})"))
    for statement in statements:
        if isinstance(statement, Equal) and statement.left.size != statement.right.size:
            reason = f"the rule for {call.op} equates sizes {statement.left.size} and {statement.right.size}"
            return list(pin_all(call, reason))
    return [*statements, *_unmentioned(call, statements)] if call.whole else statements


def _repeats(call: Call, rules: Mapping[str, Rule]) -> bool:
    """Whether new axes of a call's result hold equal parts."""
    return call.op in rules and rules[call.op].type in {"EXPAND", "CREATE"}


def _unmentioned(call: Call, statements: Iterable[Statement]) -> Iterator[Statement]:
    """What the rule of a whole module or function leaves out: nobody knows whether it may lose an index."""
    stated: set[Term] = set()
    for statement in statements:
        if isinstance(statement, Equal):
            stated.update((*_axes(statement.left), *_axes(statement.right)))
        elif isinstance(statement, Pin):
            stated.update(_axes(statement.term))
    for value in (*call.inputs, *call.outputs):
        for axis in value.axes:
            if axis not in stated:
                yield Pin(axis, f"the rule for {call.op} says nothing about it")


def _axes(term: Term) -> Iterator[Term]:
    if isinstance(term, (Times, Plus)):
        for inner in term.factors if isinstance(term, Times) else term.parts:
            yield from _axes(inner)
    elif isinstance(term, Backwards):
        yield from _axes(term.term)
    else:
        yield term


def _place(call: Call) -> str:
    return f"{call.op} in {call.module or 'the model'} at {call.where}"


def _pin_axes(solver: Solver, value: Value, reason: str) -> None:
    for axis in value.axes:
        if axis.size != 1:
            solver.pin(solver.term(axis), reason)


def _written(
    recording: Recording,
    solver: Solver,
    follow: Settled,
    work: Mapping[int, list[Work]],
    rules: Mapping[str, Rule],
) -> Graph:
    lines = _lines(recording, rules, work)
    values = [value for line in lines if line.operation.type is not OpType.PARAMETER for value in line.outputs]
    asked: list[Term] = [axis for declared in recording.declared for axis in declared.value.axes]
    asked += [axis for value in values for axis in value.axes]
    asked += [axis for line in lines for item in line.work for axis in item.axes]
    asked += [term for _, term in follow.attributes]
    asked += [term for terms, _ in follow.balances for term in terms]
    asked += [term for term, _, _ in follow.lower_bounds]
    solution = solver.solution(asked)
    spaces = iter(solution.spaces)
    tensors = [
        _tensor(declared.name, declared.kind, declared.value, spaces, declared.aliases) for declared in recording.declared
    ]
    for line in lines:
        if line.operation.type is not OpType.PARAMETER:
            for name, value in zip(line.operation.outputs, line.outputs, strict=True):
                tensors.append(_tensor(name, "value", value, spaces))
    costs = [tuple(Cost(tuple(next(spaces) for _ in item.axes), item.scale) for item in line.work) for line in lines]
    attributes = [SizeAttribute(path, next(spaces)) for path, _ in follow.attributes]
    balances = [Balance(tuple(_atom(next(spaces)) for _ in terms), reason) for terms, reason in follow.balances]
    lower_bounds = [LowerBound(_atom(next(spaces)), size, reason) for _, size, reason in follow.lower_bounds]
    by_name = {tensor.name: tensor for tensor in tensors}
    operations = tuple(
        retyped(
            o.costing(cost),
            by_name,
        )
        for o, cost in zip((line.operation for line in lines), costs, strict=True)
    )
    pinned = tuple(PinnedAtom(atom, reason) for atom, reason in solution.pins.items())
    graph = Graph(operations, tuple(tensors), tuple(attributes), pinned, tuple(balances), recording.mode, tuple(lower_bounds))
    return renumber(graph)[0]


def _atom(space: Space) -> Atom:
    (atom,) = atoms(space)  # only single atoms are balanced
    return atom


def _tensor(name: str, kind: str, value: Value, spaces: Iterator[Space], aliases: tuple[str, ...] = ()) -> Tensor:
    return Tensor(name, kind, tuple([next(spaces) for _ in value.shape]), aliases)


def _lines(recording: Recording, rules: Mapping[str, Rule], work: Mapping[int, list[Work]]) -> list[_Line]:
    """Name the operations and what flows between them. A value that is written in place changes its producer."""
    names = _Names()
    lines: list[_Line] = []
    current: dict[int, str] = {}
    owners: dict[int, Declared] = {}
    for declared in recording.declared:
        current.setdefault(declared.value.id, declared.name)
        owners.setdefault(declared.value.id, declared)
    for name, value in recording.inputs:
        lines.append(_boundary(names.unique(name), OpType.INPUT, (), value))
        current[value.id] = lines[-1].operation.outputs[0]
    shown: set[int] = set()
    holders = {declared.owner for declared in recording.declared if declared.value.ndim}
    for call in recording.calls:
        if not call.outputs or not any(value.ndim for value in (*call.inputs, *call.outputs)):
            continue  # scalars, such as a BatchNorm's count of batches, have no axes
        name = names.of(call, {owners[value.id].owner for value in call.inputs if value.id in owners}, holders)
        for value in call.inputs:
            declared_here = owners.get(value.id)
            if declared_here and declared_here.owner != name and value.id not in shown:
                shown.add(value.id)
                operation = Operation(
                    names.unique(declared_here.name), OpType.PARAMETER, "parameter", "", (), (declared_here.name,)
                )
                lines.append(_Line(operation, (value,)))
        inputs = tuple(current[value.id] for value in call.inputs if value.id in current)
        outputs = tuple(f"{name}:{k}" for k in range(len(call.outputs)))
        kind = OpType[rules[call.op].type] if call.op in rules else OpType.UNKNOWN
        traits = named_traits(call, rules[call.op], current, outputs) if call.op in rules else OperationTraits()
        operation = Operation(name, kind, call.op, call.module_class, inputs, outputs, (), call.where, traits)
        lines.append(_Line(operation, call.outputs, tuple(work.get(id(call), ()))))
        for value, tensor in zip(call.outputs, outputs, strict=True):
            current[value.id] = tensor
    for name, value in recording.outputs:
        unique = names.unique(name)
        if value.id in current:
            lines.append(_Line(Operation(unique, OpType.OUTPUT, "output", "", (current[value.id],), ()), ()))
    return lines


def _boundary(name: str, kind: OpType, inputs: tuple[str, ...], value: Value) -> _Line:
    return _Line(Operation(name, kind, kind.value, "", inputs, (f"{name}:0",)), (value,))


class _Names:
    """A module's path for its first own operator, the path with the operator's name for the others."""

    def __init__(self) -> None:
        self._taken: dict[str, int] = {}

    def unique(self, name: str) -> str:
        count = self._taken.get(name, 0) + 1
        self._taken[name] = count
        return name if count == 1 else self.unique(f"{name}_{count}")

    def of(self, call: Call, owners: Iterable[str], holders: Iterable[str]) -> str:
        """The name for a call that uses tensors of the `owners`; `holders` are all modules that hold tensors."""
        if call.module and call.module in owners:
            return self.unique(call.module)
        if call.module and call.leaf and call.module not in holders and call.module not in self._taken:
            return self.unique(call.module)
        short = call.op.rpartition(".")[2]
        return self.unique(f"{call.module}.{short}" if call.module else short)
