"""A recording of a forward becomes a `Graph` in three pure stages: what rules state, what follows, and the names of it all."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType

from attrs import evolve, field, frozen

from depgraph.algebra.spaces import Atom, Space, atoms
from depgraph.graph.canonical import renumber
from depgraph.graph.graph import Graph
from depgraph.graph.records import (
    Balance,
    Cost,
    LowerBound,
    ModuleCall,
    Operation,
    OperationTraits,
    OpType,
    PinnedAtom,
    SizeAttribute,
    SizeMultiple,
    Tensor,
    TensorKind,
    retyped,
)
from depgraph.solving.choices import CHOICES, Choices, ChoiceStatement, Content
from depgraph.solving.demands import (
    Below,
    Demand,
    Divisible,
    EqualSizes,
    Escape,
    FollowingAttribute,
    NamedSize,
    SizeFact,
    Unlike,
)
from depgraph.solving.expressions import Attribute, Expression, parts_of
from depgraph.solving.interface import (
    NOTHING_FREE,
    FreeInterface,
    always_inside,
    free_axes_of,
    implied_outputs,
    interface_of,
    named_indices,
    vocabulary_sizes,
)
from depgraph.solving.recording import CalledModule, Declared, Recording
from depgraph.solving.sized import origin, sized_in
from depgraph.solving.sizes import settle
from depgraph.solving.statements import (
    Axis,
    Backwards,
    Balanced,
    Call,
    Equal,
    Larger,
    Multiple,
    Named,
    Pin,
    Plus,
    Rule,
    Scale,
    Statement,
    Term,
    Times,
    Value,
    Work,
    pin_all,
)
from depgraph.solving.traits import named_traits
from depgraph.solving.unification import Solver
from depgraph.solving.unread import unread_attributes


@frozen(eq=False)
class Stated:
    """What rules say of a recorded forward, before anything is solved.

    Attributes:
        equations: equations and pins with where they come from, in the order in which they are stated: of two reasons for
            one pin the first one is shown.
        demands: what is said of sizes.
        work: the multiply-accumulates of each call, by its position in the recording.
        terms: the terms whose spaces the graph shows, in reading order.
        parameter_axes: the axes of the parameters.
        copies: axes that forward makes of equal parts.
        contents: what tensors say of indices that the data choose, by the numbers of their values.
    """

    equations: tuple[tuple[Equal | Pin, str], ...]
    demands: tuple[Demand, ...]
    work: tuple[tuple[Work, ...], ...]
    terms: tuple[Term, ...]
    parameter_axes: tuple[Axis, ...]
    copies: tuple[Axis, ...]
    contents: Mapping[int, Content]


@frozen(eq=False)
class Solved:
    """What follows from what was stated, in spaces.

    Attributes:
        spaces: the space of each term.
        pins: pinned atoms with their reasons.
        attributes: paths of integers with the spaces that they count.
        balances: atoms that lose equally many indices, with the reasons.
        lower_bounds: atoms with how many indices they keep at least, and the reasons.
        multiples: atoms with the number that divides what they keep, and the reasons.
    """

    spaces: Mapping[Term, Space]
    pins: Mapping[Atom, str]
    attributes: tuple[tuple[str, Space], ...]
    balances: tuple[tuple[tuple[Atom, ...], str], ...]
    lower_bounds: tuple[tuple[Atom, int, str], ...]
    multiples: tuple[tuple[Atom, int, str], ...]


@frozen
class _Draft:
    """An operation without the spaces of its costs, and the values of its outputs."""

    operation: Operation
    outputs: tuple[Value, ...]
    work: tuple[Work, ...] = field(factory=tuple)


def assemble(recording: Recording, rules: Mapping[str, Rule]) -> Graph:
    """The graph of a recording under an operator table. Pure: equal recordings give equal graphs."""
    interface = interface_of(recording, rules)
    if interface.vocabularies:
        spaces = solved(stated(recording, rules, boundary=False, interface=interface)).spaces
        interface = evolve(interface, freed=(*interface.freed, *implied_outputs(interface, recording, spaces)))
    statements = stated(recording, rules, interface=interface)
    return named(recording, rules, statements.work, solved(statements), interface)


def stated(
    recording: Recording,
    rules: Mapping[str, Rule],
    boundary: bool = True,
    contents: Mapping[int, Content] = MappingProxyType({}),
    interface: FreeInterface = NOTHING_FREE,
) -> Stated:
    """The first stage: what the rules say of each call, and the tracer of sizes.

    Without `boundary` the axes of the outputs are free as well, and their spaces are shown even where no call made them.
    Of the `interface`, nothing is pinned for being there. `contents` are what operands are said to hold.
    """
    choices = Choices(contents)
    equations: list[tuple[Equal | Pin, str]] = []
    demands: list[Demand] = []
    work: list[tuple[Work, ...]] = []
    free = interface.axes
    for name, value in recording.inputs:
        equations.extend(_pins(value, f"it is a dimension of the model's {name}", free))
    costed = recording.begins[0] if recording.begins else len(recording.calls)
    for position, call in enumerate(recording.calls):
        place = _place(call)
        call_work: list[Work] = []
        call_equations: list[tuple[Equal | Pin, str]] = []
        choice_statements: list[ChoiceStatement] = []
        statements = _statements(call, rules)
        for statement in statements:
            if isinstance(statement, Equal):
                call_equations.append((statement, place))
            elif isinstance(statement, Pin):
                if statement.term not in free or rules[call.op].type != "EMBEDDING":
                    call_equations.append((Pin(statement.term, f"{statement.reason} ({place})"), place))
            elif isinstance(statement, Work):
                call_work.append(statement)
            elif isinstance(statement, CHOICES):
                choice_statements.append(statement)
            elif not isinstance(statement, Scale):
                demands.append(_demand(statement, place))
        for following in choices.follow(call, choice_statements):
            explained = Pin(following.term, f"{following.reason} ({place})") if isinstance(following, Pin) else following
            equations.append((explained, place))
        equations.extend(call_equations)
        work.append(tuple(call_work) if position < costed else ())
        demands.extend(_unnamed(call, statements, place))
    for name, value in recording.outputs if boundary else ():
        equations.extend(_pins(value, f"it is a dimension of the model's {name}", free))
        equations.extend((pin, pin.reason) for pin in choices.left(value, f"they are the model's {name}"))
    equations.extend(interface.equations)
    for value, reason in recording.constants:
        equations.extend(_pins(value, reason))
        equations.extend((pin, pin.reason) for pin in choices.left(value, reason))
    used = {value.id for call in recording.calls for value in (*call.inputs, *call.outputs)}
    for declared in recording.declared:
        if declared.value.id not in used:
            equations.extend(_pins(declared.value, f"{declared.name} is not used in forward"))
    demands.extend(_recorded_demands(recording, interface))
    values = [declared.value for declared in recording.declared] + [value for _, value in recording.inputs]
    values += [value for call in recording.calls for value in call.outputs]
    values += [value for _, value in recording.outputs if not boundary or free]
    terms: list[Term] = [axis for value in values for axis in value.axes]
    terms += [axis for items in work for item in items for axis in item.axes]
    terms += [] if boundary else [content.term for content in choices.contents.values()]
    parameters = [declared.value for declared in recording.declared if declared.kind == "parameter"]
    parameter_axes = tuple(axis for value in parameters for axis in value.axes)
    copies = [axis for call in recording.calls if _repeats(call, rules) for value in call.outputs for axis in value.axes]
    return Stated(tuple(equations), tuple(demands), tuple(work), tuple(terms), parameter_axes, tuple(copies), choices.contents)


def solved(statements: Stated) -> Solved:
    """The second stage: unify the equations, settle the sizes, and read the spaces off. The solver does not leave it."""
    solver = Solver()
    for statement, place in statements.equations:
        solver.state(statement, place)
    sizes = settle(solver, statements.demands, statements.parameter_axes, statements.copies)
    terms = [*statements.terms, *(term for _, term in sizes.attributes)]
    terms += [term for balanced, _ in sizes.balances for term in balanced]
    terms += [term for term, _, _ in (*sizes.lower_bounds, *sizes.divisors)]
    solution = solver.solution(terms)
    spaces = solution.spaces
    return Solved(
        spaces,
        solution.pins,
        attributes=tuple((path, spaces[term]) for path, term in sizes.attributes),
        balances=tuple((tuple(_atom(spaces[term]) for term in balanced), reason) for balanced, reason in sizes.balances),
        lower_bounds=tuple((_atom(spaces[term]), size, reason) for term, size, reason in sizes.lower_bounds),
        multiples=tuple((_atom(spaces[term]), number, reason) for term, number, reason in sizes.divisors),
    )


def named(
    recording: Recording,
    rules: Mapping[str, Rule],
    work: Sequence[tuple[Work, ...]],
    solution: Solved,
    interface: FreeInterface = NOTHING_FREE,
) -> Graph:
    """The third stage: operations and tensors with their names and spaces, as a graph; `work` is that of each call."""
    spaces = solution.spaces
    drafts, names = _drafts(recording, rules, work)
    tensors = [_tensor(item.name, item.kind, item.value, spaces, item.aliases) for item in recording.declared]
    for draft in drafts:
        if draft.operation.type is not OpType.PARAMETER:
            for name, value in zip(draft.operation.outputs, draft.outputs, strict=True):
                tensors.append(_tensor(name, "value", value, spaces))
    by_name = {tensor.name: tensor for tensor in tensors}
    operations = []
    for draft in drafts:
        costs = tuple(Cost(tuple([spaces[axis] for axis in item.axes]), item.scale) for item in draft.work)
        operations.append(retyped(draft.operation.costing(costs), by_name))
    attributes = tuple(SizeAttribute(path, space) for path, space in solution.attributes)
    fixed = {*solution.pins, *(atom for balanced, _ in solution.balances for atom in balanced)}
    sizes, balances = vocabulary_sizes(interface, recording, spaces, dict(solution.attributes), fixed)
    graph = Graph(
        tuple(operations),
        tuple(tensors),
        (*attributes, *sizes),
        tuple(PinnedAtom(atom, reason) for atom, reason in solution.pins.items()),
        (*(Balance(balanced, reason) for balanced, reason in solution.balances), *balances),
        recording.mode,
        tuple(LowerBound(atom, size, reason) for atom, size, reason in solution.lower_bounds),
        multiples=tuple(SizeMultiple(atom, number, reason) for atom, number, reason in solution.multiples),
        free=free_axes_of(interface, spaces, {space for tensor in tensors for space in tensor.axes}),
        indices=named_indices(interface, spaces, solution.pins),
        calls=tuple(_module_call(item, names) for item in recording.modules),
    )
    graph = renumber(graph)[0]
    return evolve(graph, unread=unread_attributes(recording, graph), sequences=recording.sequences)


def _demand(statement: Named | Balanced | Larger | Multiple, place: str) -> Demand:
    """The demand on sizes that a statement makes."""
    if isinstance(statement, Multiple):
        return Divisible(statement.term, statement.of, f"{statement.reason} ({place})")
    if isinstance(statement, Named):
        return NamedSize(statement.term, statement.size, place)
    if isinstance(statement, Balanced):
        return EqualSizes(statement.terms, f"{statement.reason} ({place})")
    smaller, larger = (origin(side) if isinstance(side, int) else side for side in (statement.than, statement.term))
    return Below(smaller, larger, f"{statement.reason} ({place})")


def _unnamed(call: Call, statements: Iterable[Statement], place: str) -> Iterator[Escape]:
    """Sizes among a call's arguments that no statement of its rule names: strides, positions, counts of anything else."""
    expressions = sized_in(call.args.values())
    if not expressions:
        return
    named_parts: set[Expression] = set()
    for statement in statements:
        sizes: tuple[Term | int, ...] = ()
        if isinstance(statement, (Named, Scale)):
            sizes = (statement.size,)
        elif isinstance(statement, Larger):
            sizes = (statement.term, statement.than)
        named_parts.update(part for size in sizes if isinstance(size, int) for part in parts_of(origin(size)))
    for expression in expressions:
        if expression not in named_parts:
            yield Escape((expression,), f"{call.op} is given a number that follows from its size ({place})")


def _recorded_demands(recording: Recording, interface: FreeInterface) -> Iterator[Demand]:
    """What forward itself demands of sizes: its comparisons, its modules' attributes, the numbers that it computes."""
    for left, right, where in recording.facts:
        yield SizeFact(left, right, where)
    for left, right, where in recording.differences:
        yield Unlike(left, right, _compared(left, right, where))
    for left, right, where in recording.orders:
        if not always_inside(interface, left, right):
            yield Below(left, right, _compared(left, right, where))
    for path, term, outside in recording.layer_attributes:
        yield FollowingAttribute(Attribute(path), term, outside)
    for sources, where in recording.escapes:
        yield Escape(sources, f"forward computes its size in a way that is not understood (a number computed at {where})")


def _compared(left: Expression, right: Expression, where: str) -> str:
    return f"forward compares {left} with {right} at {where}"


def _statements(call: Call, rules: Mapping[str, Rule]) -> list[Statement]:
    """What the rule of a call states; pins of all that it touches if it has none, or one that fails or equates other sizes."""
    rule = rules.get(call.op)
    if rule is None:
        return list(pin_all(call, f"there is no rule for {call.op}"))
    try:
        rule.traits_of(call)
        statements = list(rule.equations(call))
    except Exception as error:  # noqa: BLE001 - a rule may be a user's own: its failure pins, and is shown in graph.pinned
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
    """Pins of what the rule of a whole module or function does not mention: nothing says that it may lose an index."""
    mentioned: set[Term] = set()
    for statement in statements:
        if isinstance(statement, Equal):
            mentioned.update((*_axes(statement.left), *_axes(statement.right)))
        elif isinstance(statement, Pin):
            mentioned.update(_axes(statement.term))
    for value in (*call.inputs, *call.outputs):
        for axis in value.axes:
            if axis not in mentioned:
                yield Pin(axis, f"the rule for {call.op} says nothing about it")


def _axes(term: Term) -> Iterator[Term]:
    """The axes and fresh spaces of which a term is made."""
    if isinstance(term, (Times, Plus)):
        for inner in term.factors if isinstance(term, Times) else term.parts:
            yield from _axes(inner)
    elif isinstance(term, Backwards):
        yield from _axes(term.term)
    else:
        yield term


def _place(call: Call) -> str:
    return f"{call.op} in {call.module or 'the model'} at {call.where}"


def _pins(value: Value, reason: str, free: Container[Axis] = ()) -> Iterator[tuple[Pin, str]]:
    """Nothing may be removed from the axes of a value, but from those that are free."""
    for axis in value.axes:
        if axis.size != 1 and axis not in free:
            yield Pin(axis, reason), reason


def _atom(space: Space) -> Atom:
    (atom,) = atoms(space)  # only single atoms are balanced or bounded
    return atom


def _tensor(name: str, kind: TensorKind, value: Value, spaces: Mapping[Term, Space], aliases: tuple[str, ...] = ()) -> Tensor:
    return Tensor(name, kind, tuple([spaces[axis] for axis in value.axes]), aliases)


def _module_call(item: CalledModule, names: _ValueNames) -> ModuleCall:
    """The call of a module, by the names of what it took when it began and of what it returned when it ended."""
    takes = tuple((key, name) for key, value in item.takes if (name := names.at(value, item.begins)))
    returns = tuple((value and names.at(value, item.ends)) or "" for value in item.returns)
    return ModuleCall(item.path, takes, item.arguments, returns, item.alone, item.problem)


class _ValueNames:
    """The names of values: of each the present one, and from which call on it had which."""

    def __init__(self) -> None:
        self.now: dict[int, str] = {}
        self._since: dict[int, list[tuple[int, str]]] = {}

    def give(self, value: Value, name: str, position: int) -> None:
        """The value has this name behind the call of this position."""
        self.now[value.id] = name
        self._since.setdefault(value.id, []).append((position, name))

    def at(self, value: Value, count: int) -> str:
        """The name that a value had after so many calls; an empty text for one without a name, such as a number."""
        names = [name for position, name in self._since.get(value.id, ()) if position < count]
        return names[-1] if names else ""


def _drafts(
    recording: Recording, rules: Mapping[str, Rule], work: Sequence[tuple[Work, ...]]
) -> tuple[list[_Draft], _ValueNames]:
    """Name the operations and what flows between them. A value that is written in place changes its producer."""
    names = _Names()
    drafts: list[_Draft] = []
    value_names = _ValueNames()
    current_names = value_names.now
    owners: dict[int, Declared] = {}
    for declared in recording.declared:
        if declared.value.id not in current_names:
            value_names.give(declared.value, declared.name, -1)
        owners.setdefault(declared.value.id, declared)
    for name, value in recording.inputs:
        drafts.append(_boundary(names.unique(name), OpType.INPUT, (), value))
        value_names.give(value, drafts[-1].operation.outputs[0], -1)
    parameters_with_node: set[int] = set()
    holders = {declared.owner for declared in recording.declared if declared.value.ndim}
    for position, (call, call_work) in enumerate(zip(recording.calls, work, strict=True)):
        further = bool(recording.begins) and position >= recording.begins[0]
        if position in recording.begins:  # a further forward begins with the parameters and buffers as the model has them
            for declared in recording.declared:
                value_names.give(declared.value, declared.name, position - 1)
        if not call.outputs or not any(value.ndim for value in (*call.inputs, *call.outputs)):
            continue  # scalars, such as a BatchNorm's count of batches, have no axes
        name = names.of(call, {owners[value.id].owner for value in call.inputs if value.id in owners}, holders)
        for value in call.inputs:
            parameter = owners.get(value.id)
            if parameter and parameter.owner != name and value.id not in parameters_with_node:
                parameters_with_node.add(value.id)
                operation = Operation(names.unique(parameter.name), OpType.PARAMETER, "parameter", "", (), (parameter.name,))
                drafts.append(_Draft(operation, (value,)))
        inputs = tuple(current_names[value.id] for value in call.inputs if value.id in current_names)
        outputs = tuple(f"{name}:{k}" for k in range(len(call.outputs)))
        kind = OpType[rules[call.op].type] if call.op in rules else OpType.UNKNOWN
        traits = named_traits(call, rules[call.op], current_names, outputs) if call.op in rules else OperationTraits()
        operation = Operation(name, kind, call.op, call.module_class, inputs, outputs, (), call.where, traits, further)
        drafts.append(_Draft(operation, call.outputs, call_work))
        for value, tensor in zip(call.outputs, outputs, strict=True):
            value_names.give(value, tensor, position)
    for name, value in recording.outputs:
        unique = names.unique(name)
        if value.id in current_names:
            drafts.append(_Draft(Operation(unique, OpType.OUTPUT, "output", "", (current_names[value.id],), ()), ()))
    return drafts, value_names


def _boundary(name: str, kind: OpType, inputs: tuple[str, ...], value: Value) -> _Draft:
    return _Draft(Operation(name, kind, kind.value, "", inputs, (f"{name}:0",)), (value,))


class _Names:
    """A module's path for its first own operator, the path with the operator's name for the others."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    def unique(self, name: str) -> str:
        """The name, with a number behind it from the second use on."""
        count = self._counts.get(name, 0) + 1
        self._counts[name] = count
        return name if count == 1 else self.unique(f"{name}_{count}")

    def of(self, call: Call, owners: Iterable[str], holders: Iterable[str]) -> str:
        """The name for a call that uses tensors of the `owners`; `holders` are all modules that hold tensors."""
        if call.module and call.module in owners:
            return self.unique(call.module)
        if call.module and call.leaf and call.module not in holders and call.module not in self._counts:
            return self.unique(call.module)
        short = call.op.rpartition(".")[2]
        return self.unique(f"{call.module}.{short}" if call.module else short)
