"""Prove operator rules by probing: call the real operator without the slices that a rule says may go, and compare.

A rule is sound if, for every index that its solution lets go, the operator on the smaller operands gives the smaller
output. It is minimal if no smaller removal has that property, and if what it pins could not go.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, combinations, product
from types import MappingProxyType
from typing import Any

import torch
from attrs import field, frozen

from depgraph.algebra.index_maps import image
from depgraph.algebra.indices import IndexSet
from depgraph.algebra.spaces import Atom, atoms
from depgraph.rules import RULES
from depgraph.solving.statements import Rule
from depgraph.testing.invocations import NUMBERS, AxisPlace, CallSolution, Invocation, Slices, sliced, solved
from depgraph.tracing.custom_rules import rule_table

_MAX_RUNS = 96
"""Calls that the search for a smaller removal makes at most for one index."""


@frozen
class Mixed:
    """Axes over which an operator computes with all positions, so that removing one changes what the others become.

    Attributes:
        axes: such axes as (operand, dim); the operand by its key path, such as ``args[0]``. Empty: every axis.
        fill: the neutral element. The slices that go are overwritten with it before; the others must then come out the same.
            None: there is none, and only the shapes are compared.

    >>> x = torch.tensor([[0.5, 2.0, 3.0, 7.0]], dtype=torch.float64)
    >>> probe(torch.prod, (x, 1), mixed=[Mixed((("args[0]", 1),), fill=1.0)]).refuted       # 1 is the neutral element
    ()
    >>> print(probe(torch.prod, (x, 1), mixed=[Mixed((("args[0]", 1),), fill=0.0)]).refuted[0])
    too little is coupled: without args[0] dim 1 [0] output has other values than the output without them
    """

    axes: tuple[AxisPlace, ...] = ()
    fill: float | None = None


@frozen
class Findings:
    """What probing one call found.

    Attributes:
        ops: the operators that were called.
        removals: how many removals were compared.
        refuted: what is wrong with the rules, as sentences.
        needless: pinned axes of which every index could go, with the reason of the pin, as sentences.
        mixed: whether an axis declared as mixed was seen to be so.
        stated: whether the rules say that they mix indices that can go.
        seen: whether these were seen to be mixed.

    >>> findings = probe(torch.relu, (torch.tensor([[-1.0, 2.0, 3.0], [4.0, -5.0, 6.0], [7.0, 8.0, -9.0]]),))
    >>> findings == Findings(("aten.relu",), removals=6)               # each index of each axis, nothing refuted
    True
    """

    ops: tuple[str, ...]
    removals: int = 0
    refuted: tuple[str, ...] = ()
    needless: tuple[str, ...] = ()
    mixed: bool = field(default=False)
    stated: bool = field(default=False)
    seen: bool = field(default=False)


def assert_rule_sound(
    op: Callable[..., Any],
    args: Iterable[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    rules: Mapping[str, Rule] = RULES,
    mixed: Sequence[Mixed] = (),
    pins_by_choice: bool = False,
    checked: bool = True,
    chosen: Mapping[str, int] = MappingProxyType({}),
) -> Findings:
    """Prove the rules of an operator on one call: nothing too little is coupled, nothing too much, nothing pinned without need.

    Args:
        op: the operator, or any function of tensors; an operator of ``torch.library`` as well.
        args: its positional arguments. Use axes of at least 3 indices, and data without repeated values.
        kwargs: its keyword arguments.
        rules: the operator table; ``RULES | {"mylib.op": Rule(...)}`` for an own operator.
        mixed: axes over which the operator averages, normalises or the like.
        pins_by_choice: allow the rule to pin what could go.
        checked: whether the operator refuses operands whose sizes disagree. If it may crash instead, it is not called on
            such operands: what is coupled or pinned too much then goes unseen.
        chosen: operands that hold numbers of indices which the data have chosen, by key path, each with how many indices
            there are. When one of these goes, the data have chosen others, and the numbers behind it move up.

    Returns:
        The findings; ``removals`` tells how many removals were compared.

    Raises:
        AssertionError: a rule is refuted; the message says which removal shows it.

    >>> import torch
    >>> assert_rule_sound(torch.cat, ([torch.randn(3), torch.randn(4)],)).removals
    8
    """
    findings = probe(op, args, kwargs, rules=rules, mixed=mixed, checked=checked, chosen=chosen)
    wrong = findings.refuted + (() if pins_by_choice else findings.needless)
    if wrong:
        raise AssertionError(f"the rules of {', '.join(findings.ops) or op} are refuted:\n  - " + "\n  - ".join(wrong))
    return findings


def probe(
    op: Callable[..., Any],
    args: Iterable[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    rules: Mapping[str, Rule] = RULES,
    mixed: Sequence[Mixed] = (),
    checked: bool = True,
    chosen: Mapping[str, int] = MappingProxyType({}),
) -> Findings:
    """As `assert_rule_sound`, but returns what is wrong instead of raising it. Arguments as there.

    >>> from depgraph.rules import Pin
    >>> def cautious(call):
    ...     yield Pin(call["self"][0], "its indices are numbered")
    ...     yield Pin(call.out[0], "its indices are numbered")
    >>> findings = probe(torch.relu, (torch.arange(3.0),), rules=RULES | {"aten.relu": Rule(cautious)})
    >>> findings.refuted, len(findings.needless), findings.needless[0]  # doctest: +ELLIPSIS
    ((), 2, 'args[0] dim 0 is pinned without need (its indices are numbered (...)): every index of it could go')
    """
    call = Invocation.of(op, args, kwargs or {}, chosen)
    table = rule_table(rules)
    solution = solved(call, table)
    if solution.faults:
        return Findings(solution.ops, refuted=solution.faults)
    bench = _Bench(call, solution, tuple(mixed), checked)
    refuted = list(chain.from_iterable(bench.examined(removals) for removals in bench.removals()))
    needless: list[str] = []
    if solution.pins and checked and Mixed() not in mixed:
        free = _Bench(call, solved(call, table, lifted=True), tuple(mixed), checked)
        needless = list(_needless(bench, free))
    return Findings(solution.ops, bench.count, tuple(refuted), tuple(needless), bench.mixed, bench.stated, bench.seen)


AtomRemoval = Mapping[Atom, IndexSet]
"""The indices that atoms lose together."""


Cell = tuple[AxisPlace, int]
"""One index of one axis."""


class _Bench:
    """One call with its solution, its outputs, and counts of the comparisons. It does not leave `probe`."""

    def __init__(self, call: Invocation, solution: CallSolution, mixed: tuple[Mixed, ...], checked: bool) -> None:
        self.call, self.solution, self.checked = call, solution, checked
        self.outputs = call.outputs()
        self.count = 0
        self.mixed = self.stated = self.seen = False
        self._fill: dict[Atom, float | None] = {}
        output_atoms = {atom for (name, _), space in solution.axes.items() if name in self.outputs for atom in atoms(space)}
        operand_atoms = {
            atom for (name, _), space in solution.axes.items() if name not in self.outputs for atom in atoms(space)
        }
        self._fill.update(dict.fromkeys(operand_atoms - output_atoms, 0.0))
        self._declared: set[Atom] = set()
        self._random = Mixed() in mixed
        for entry in mixed:
            for place in entry.axes or solution.axes:
                for atom in atoms(solution.axes[place]):
                    self._fill[atom] = entry.fill
                    self._declared.add(atom)

    def removals(self) -> Iterator[Sequence[AtomRemoval]]:
        """For each free atom: each index alone, then two if there are more; balanced atoms lose equally many."""
        together = {atom: balance for balance in self.solution.balances for atom in balance}
        everything = dict.fromkeys(
            atom for space in chain(self.solution.axes.values(), self.solution.numbers.values()) for atom in atoms(space)
        )
        for classes in dict.fromkeys(together.get(atom, (atom,)) for atom in everything if atom not in self.solution.pins):
            if any(atom.size < 2 for atom in classes):
                continue
            least = min(atom.size for atom in classes)
            singles = [{atom: _only((index + k) % atom.size) for k, atom in enumerate(classes)} for index in _sample(least)]
            yield [*singles, dict.fromkeys(classes, IndexSet.of([0, least - 2]))] if least > 3 else singles

    def examined(self, removals: Sequence[AtomRemoval]) -> Iterator[str]:
        """What is wrong with the removals of an atom: one does not commute with the operator, or of each a part does alone."""
        smaller = ""
        needed = False
        for cut in removals:
            wrong = self.unsound(cut)
            if wrong is not None:
                yield wrong
                return
            if self.checked and not needed and all(len(indices) == 1 for indices in cut.values()):
                part = self.too_much(cut)
                smaller, needed = smaller or part or "", part is None
        if smaller and not needed:
            yield smaller

    def unsound(self, cut: AtomRemoval) -> str | None:
        """What shows that a removal does not commute with the operator."""
        self.count += 1
        slices, numbers = self._slices(cut), self._numbers(cut)
        fill = self._fill_of(cut)
        stated = self.solution.mixed is not None and bool(self.solution.mixed.intersection(cut))
        declared = bool(self._declared.intersection(cut))
        if (stated or declared) and self.differs(self.call, slices, numbers) is not None:
            self.mixed, self.seen = self.mixed or declared, self.seen or stated
            if declared and not stated and self.solution.mixed is not None and not self._random:
                return f"the traits name no mixing, but without {_listed(slices, numbers, self.call)} others change"
        self.stated = self.stated or stated
        wrong = self.differs(self.base(slices, fill), slices, numbers, compared=fill is not None)
        return None if wrong is None else f"too little is coupled: without {_listed(slices, numbers, self.call)} {wrong}"

    def too_much(self, cut: AtomRemoval) -> str | None:
        """What shows that a part of a removal could go alone. Axes that would shrink to 1 broadcast and show nothing."""
        slices, numbers = self._slices(cut), self._numbers(cut)
        if any(self.solution.axes[place].size - len(indices) <= 1 for place, indices in slices.items()):
            return None
        smaller = self._smaller(cut, slices, numbers)
        if smaller is None:
            return None
        part = _listed(*smaller, self.call)
        return f"too much is coupled: {_listed(slices, numbers, self.call)} go together, but {part} could go alone"

    def differs(self, base: Invocation, slices: Slices, numbers: Mapping[str, int], compared: bool = True) -> str | None:
        """How the output of the smaller call differs from the smaller output; None if it does not."""
        try:
            outputs = self.outputs if base is self.call else base.outputs()
            smaller = base.without(slices, numbers).outputs()
        except Exception as error:  # noqa: BLE001 - whatever the operator raises is a finding
            return f"the operator raises {type(error).__name__}: {str(error).strip().splitlines()[0]}"
        return _difference(smaller, {name: sliced(name, tensor, slices) for name, tensor in outputs.items()}, compared)

    def _slices(self, cut: AtomRemoval) -> dict[AxisPlace, IndexSet]:
        """The indices that each axis loses."""
        return {place: indices for place, space in self.solution.axes.items() if (indices := image(space, cut))}

    def _numbers(self, cut: AtomRemoval) -> dict[str, int]:
        """The integer arguments that count something, as they are without the indices."""
        return {name: space.size - len(image(space, cut)) for name, space in self.solution.numbers.items()}

    def _fill_of(self, cut: AtomRemoval) -> float | str | None:
        """With what to fill before comparing; ``exact``: with nothing; None: only shapes are compared."""
        fills = [self._fill.get(atom, "exact") for atom in cut]
        return None if None in fills else fills[0]

    def base(self, slices: Slices, fill: float | str | None) -> Invocation:
        """The call with which a smaller one is compared: what goes is overwritten with the neutral element before."""
        call = self.call.avoiding(slices)
        return call.filled(slices, fill) if isinstance(fill, float) else call

    def _smaller(self, cut: AtomRemoval, slices: Slices, numbers: Mapping[str, int]) -> tuple[Slices, Mapping[str, int]] | None:
        """A proper part of a removal that commutes with the operator as well; one of two balanced atoms is none."""
        fill = self._fill_of(cut)
        base = self.base(slices, fill)
        outputs = base.outputs()
        atomic = [self._slices({atom: indices}) for atom, indices in cut.items()]
        cells = [(place, index) for place, indices in slices.items() for index in indices]
        operand_cells = [cell for cell in cells if cell[0][0] not in self.outputs]
        output_cells = [cell for cell in cells if cell[0][0] in self.outputs]
        before = self.call.numbers
        changed = [name for name, number in numbers.items() if number != before[name]]
        for operand_part in _parts(operand_cells, fill is None):
            for choice in product((True, False), repeat=len(changed)):
                choice_numbers = {
                    name: numbers[name] if new else before[name] for name, new in zip(changed, choice, strict=True)
                }
                if not operand_part and not any(choice):
                    continue
                try:
                    smaller = base.without(_slices_of(operand_part), choice_numbers).outputs()
                except Exception:  # noqa: BLE001 - an operator may refuse a part of a removal in any way
                    continue
                for output_part in _outputs_of(output_cells, smaller, outputs):
                    part = _slices_of((*operand_part, *output_part))
                    if not part or _consists_of(part, atomic):
                        continue
                    expected = {name: sliced(name, tensor, part) for name, tensor in outputs.items()}
                    if _difference(smaller, expected, compared=fill is not None) is None:
                        return part, choice_numbers
        return None


def _needless(bench: _Bench, free: _Bench) -> Iterator[str]:
    """Pinned axes of which every index could go, as the rule says without its pins or with the same index of other axes."""
    pinned = [
        place for place, space in bench.solution.axes.items() if space.size > 1 and set(atoms(space)) & set(bench.solution.pins)
    ]
    released = {atom for place in pinned for atom in atoms(free.solution.axes[place])}
    removable: set[Atom] = set()
    for removals in free.removals():
        if released.intersection(*removals[:1]) and all(free.unsound(cut) is None for cut in removals):
            removable.update(removals[0])
    for place in pinned:
        reason = next(bench.solution.pins[atom] for atom in atoms(bench.solution.axes[place]) if atom in bench.solution.pins)
        freed_atoms = [atom for atom in atoms(free.solution.axes[place]) if atom.size > 1]
        is_pinned = all(atom in bench.solution.pins for atom in atoms(bench.solution.axes[place]))
        if (freed_atoms and removable.issuperset(freed_atoms)) or (is_pinned and _goes_with_others(bench, place, pinned)):
            yield f"{place[0]} dim {place[1]} is pinned without need ({reason}): every index of it could go"


def _goes_with_others(bench: _Bench, place: AxisPlace, pinned: Sequence[AxisPlace]) -> bool:
    """Whether each index of an axis could go if the same index of some other pinned axes went, and numbers followed."""
    size = bench.solution.axes[place].size
    others = [other for other in pinned if other != place and bench.solution.axes[other].size == size][:6]
    numbers = {name: number - 1 for name, number in bench.call.numbers.items() if number == size}
    for chosen in chain.from_iterable(combinations(others, count) for count in range(len(others) + 1)):
        group = (place, *chosen)
        only_operands = all(axis[0] not in bench.outputs for axis in group)
        for followed in ({}, numbers) if numbers else ({},):
            if not followed and all(axis[0] in bench.outputs for axis in group):
                continue
            for index in range(size):
                slices = dict.fromkeys(group, _only(index))
                if bench.differs(bench.base(slices, 0.0 if only_operands else "exact"), slices, followed) is not None:
                    break
            else:
                return True
    return False


def _consists_of(slices: Slices, atomic: Sequence[Slices]) -> bool:
    """Whether a removal consists of whole removals of single atoms."""
    rest = {(place, index) for place, indices in slices.items() for index in indices}
    for part in atomic:
        cells = {(place, index) for place, indices in part.items() for index in indices}
        if cells <= rest:
            rest -= cells
    return not rest


def _only(index: int) -> IndexSet:
    return IndexSet.of([index])


def _sample(size: int) -> Sequence[int]:
    """All indices of a small axis; the first two, the middle and the last one of a longer axis."""
    return range(size) if size <= 4 else (0, 1, size // 2, size - 1)


def _slices_of(cells: Iterable[Cell]) -> dict[AxisPlace, IndexSet]:
    """Cells by axis."""
    by_axis: dict[AxisPlace, set[int]] = {}
    for place, index in cells:
        by_axis.setdefault(place, set()).add(index)
    return {place: IndexSet.of(indices) for place, indices in by_axis.items()}


def _parts(cells: Sequence[Cell], whole_operands: bool) -> Iterator[tuple[Cell, ...]]:
    """Parts of the removed cells: all of them where they are few, else those that leave an axis, a rank or a cell out."""
    operands = dict.fromkeys(place[0] for place, _ in cells)
    left_out = [tuple(cell for cell in cells if cell[0][0] != name) for name in operands]
    if whole_operands:
        yield from left_out
    elif 2 ** len(cells) <= _MAX_RUNS:
        yield from chain.from_iterable(combinations(cells, count) for count in range(len(cells) + 1))
    else:
        ranks: dict[int, list[Cell]] = {}
        last_rank: dict[AxisPlace, int] = {}
        for cell in cells:
            rank = last_rank[cell[0]] = last_rank.get(cell[0], -1) + 1
            ranks.setdefault(rank, []).append(cell)
        places = dict.fromkeys(cell[0] for cell in cells)
        one_axis = [tuple(cell for cell in cells if cell[0] == place) for place in places]
        without_axis = [tuple(cell for cell in cells if cell[0] != place) for place in places]
        one_cell = [(cell,) for cell in cells]
        without_cell = [tuple(other for other in cells if other != cell) for cell in cells]
        candidates = chain(left_out, map(tuple, ranks.values()), one_axis, without_axis, one_cell, without_cell)
        yield from list(dict.fromkeys(candidates))[:_MAX_RUNS]
        yield tuple(cells)


def _outputs_of(
    cells: Sequence[Cell], smaller: Mapping[str, torch.Tensor], outputs: Mapping[str, torch.Tensor]
) -> Iterator[tuple[Cell, ...]]:
    """The parts of the outputs' removed cells that give outputs of the sizes of the smaller call's outputs."""
    if smaller.keys() != outputs.keys() or any(smaller[name].ndim != tensor.ndim for name, tensor in outputs.items()):
        return
    cells_of: dict[AxisPlace, list[Cell]] = {}
    for cell in cells:
        cells_of.setdefault(cell[0], []).append(cell)
    choices = []
    for (name, dim), axis_cells in cells_of.items():
        if dim == NUMBERS:
            choices.append([(), tuple(axis_cells)])
            continue
        missing = outputs[name].shape[dim] - smaller[name].shape[dim]
        if not 0 <= missing <= len(axis_cells):
            return
        choices.append(list(combinations(axis_cells, missing))[:_MAX_RUNS])
    for parts in list(product(*choices))[:_MAX_RUNS] if len(choices) < 8 else ():
        yield tuple(chain.from_iterable(parts))


def _difference(outputs: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor], compared: bool) -> str | None:
    """How outputs differ from those that are expected, in shapes or, if they are `compared`, in values."""
    if outputs.keys() != expected.keys():
        return f"it returns {len(outputs)} tensors instead of {len(expected)}"
    for name, tensor in expected.items():
        output = outputs[name]
        if output.shape != tensor.shape:
            return f"{name} has the shape {tuple(output.shape)}, expected {tuple(tensor.shape)}"
        if compared and tensor.numel() and not _close(output, tensor):
            return f"{name} has other values than the output without them"
    return None


def _close(left: torch.Tensor, right: torch.Tensor) -> bool:
    """Whether two tensors of one shape are equal up to rounding in their type."""
    if left.dtype != right.dtype:
        return False
    if not (left.is_floating_point() or left.is_complex()):
        return bool((left == right).all())
    tolerance = 1e-9 if left.dtype in {torch.float64, torch.complex128} else 1e-4
    return torch.allclose(left, right, rtol=tolerance, atol=tolerance, equal_nan=True)


def _listed(slices: Slices, numbers: Mapping[str, int], call: Invocation) -> str:
    """Slices and changed numbers as text."""
    axes = [f"{name} {'numbers' if dim == NUMBERS else f'dim {dim}'} [{indices}]" for (name, dim), indices in slices.items()]
    before = call.numbers
    return ", ".join([*axes, *(f"{name}={number}" for name, number in numbers.items() if number != before.get(name))])
