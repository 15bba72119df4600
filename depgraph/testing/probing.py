"""Prove operator rules by probing: call the real operator without the slices that a rule says may go, and compare.

A rule is sound if, for every index that its solution lets go, the operator on the smaller operands gives the smaller
output. It is minimal if no smaller removal has that property, and if what it pins could not go.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, combinations, product
from typing import Any

import torch
from attrs import field, frozen

from depgraph.algebra.index_maps import image
from depgraph.algebra.indices import IndexSet
from depgraph.algebra.spaces import Atom, atoms
from depgraph.rules import RULES
from depgraph.solving.statements import Rule
from depgraph.testing.invocations import AxisPlace, Invocation, Lost, Solved, sliced, solved
from depgraph.tracing.custom_rules import rule_table

_MOST_RUNS = 96
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

    Returns:
        The findings; ``removals`` tells how many removals were compared.

    Raises:
        AssertionError: a rule is refuted; the message says which removal shows it.

    >>> import torch
    >>> assert_rule_sound(torch.cat, ([torch.randn(3), torch.randn(4)],)).removals
    8
    """
    findings = probe(op, args, kwargs, rules=rules, mixed=mixed, checked=checked)
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
    call = Invocation.of(op, args, kwargs or {})
    table = rule_table(rules)
    said = solved(call, table)
    if said.faults:
        return Findings(said.ops, refuted=said.faults)
    bench = _Bench(call, said, tuple(mixed), checked)
    refuted = list(chain.from_iterable(bench.examined(removals) for removals in bench.removals()))
    needless: list[str] = []
    if said.pins and checked and Mixed() not in mixed:
        free = _Bench(call, solved(call, table, lifted=True), tuple(mixed), checked)
        needless = list(_needless(bench, free))
    return Findings(said.ops, bench.count, tuple(refuted), tuple(needless), bench.mixed, bench.stated, bench.seen)


Removed = Mapping[Atom, IndexSet]


Cell = tuple[AxisPlace, int]


class _Bench:
    """One call with its solution, its outputs, and the comparisons that were made. It does not leave `probe`."""

    def __init__(self, call: Invocation, said: Solved, mixed: tuple[Mixed, ...], checked: bool) -> None:
        self.call, self.said, self.checked = call, said, checked
        self.whole = call.outputs()
        self.count = 0
        self.mixed = self.stated = self.seen = False
        self._level: dict[Atom, float | None] = {}
        shown = {atom for (name, _), space in said.axes.items() if name in self.whole for atom in atoms(space)}
        held = {atom for (name, _), space in said.axes.items() if name not in self.whole for atom in atoms(space)}
        self._level.update(dict.fromkeys(held - shown, 0.0))
        self._declared: set[Atom] = set()
        self._random = Mixed() in mixed
        for entry in mixed:
            for place in entry.axes or said.axes:
                for atom in atoms(said.axes[place]):
                    self._level[atom] = entry.fill
                    self._declared.add(atom)

    def removals(self) -> Iterator[Sequence[Removed]]:
        """For each free atom: each index alone, then two if there are more; balanced atoms lose equally many."""
        together = {atom: balance for balance in self.said.balances for atom in balance}
        everything = dict.fromkeys(
            atom for space in chain(self.said.axes.values(), self.said.numbers.values()) for atom in atoms(space)
        )
        for classes in dict.fromkeys(together.get(atom, (atom,)) for atom in everything if atom not in self.said.pins):
            if any(atom.size < 2 for atom in classes):
                continue
            least = min(atom.size for atom in classes)
            found = [{atom: _only((index + k) % atom.size) for k, atom in enumerate(classes)} for index in _few(least)]
            yield [*found, dict.fromkeys(classes, IndexSet.of([0, least - 2]))] if least > 3 else found

    def examined(self, removals: Sequence[Removed]) -> Iterator[str]:
        """What is wrong with the removals of an atom: one does not commute with the operator, or of each a part does alone."""
        smaller = ""
        needed = False
        for cut in removals:
            wrong = self.unsound(cut)
            if wrong is not None:
                yield wrong
                return
            if self.checked and not needed and all(len(indices) == 1 for indices in cut.values()):
                found = self.too_much(cut)
                smaller, needed = smaller or found or "", found is None
        if smaller and not needed:
            yield smaller

    def unsound(self, cut: Removed) -> str | None:
        """What shows that a removal does not commute with the operator."""
        self.count += 1
        lost, numbers = self._lost(cut), self._numbers(cut)
        level = self._agreement(cut)
        stated = self.said.mixed is not None and bool(self.said.mixed.intersection(cut))
        declared = bool(self._declared.intersection(cut))
        if (stated or declared) and self.differs(self.call, lost, numbers) is not None:
            self.mixed, self.seen = self.mixed or declared, self.seen or stated
            if declared and not stated and self.said.mixed is not None and not self._random:
                return f"the traits name no mixing, but without {_listed(lost, numbers, self.call)} others change"
        self.stated = self.stated or stated
        wrong = self.differs(self.base(lost, level), lost, numbers, compared=level is not None)
        return None if wrong is None else f"too little is coupled: without {_listed(lost, numbers, self.call)} {wrong}"

    def too_much(self, cut: Removed) -> str | None:
        """What shows that a part of a removal could go alone. Axes that would shrink to 1 broadcast and show nothing."""
        lost, numbers = self._lost(cut), self._numbers(cut)
        if any(self.said.axes[place].size - len(gone) <= 1 for place, gone in lost.items()):
            return None
        smaller = self._smaller(cut, lost, numbers)
        if smaller is None:
            return None
        part = _listed(*smaller, self.call)
        return f"too much is coupled: {_listed(lost, numbers, self.call)} go together, but {part} could go alone"

    def differs(self, base: Invocation, lost: Lost, numbers: Mapping[str, int], compared: bool = True) -> str | None:
        """How the output of the smaller call differs from the smaller output; None if it does not."""
        try:
            whole = self.whole if base is self.call else base.outputs()
            met = base.without(lost, numbers).outputs()
        except Exception as error:  # noqa: BLE001 - whatever the operator raises is a finding
            return f"the operator raises {type(error).__name__}: {str(error).strip().splitlines()[0]}"
        return _difference(met, {name: sliced(name, tensor, lost) for name, tensor in whole.items()}, compared)

    def _lost(self, cut: Removed) -> dict[AxisPlace, IndexSet]:
        return {place: gone for place, space in self.said.axes.items() if (gone := image(space, cut))}

    def _numbers(self, cut: Removed) -> dict[str, int]:
        return {name: space.size - len(image(space, cut)) for name, space in self.said.numbers.items()}

    def _agreement(self, cut: Removed) -> float | str | None:
        """With what to fill before comparing; ``exact``: with nothing; None: only shapes are compared."""
        levels = [self._level.get(atom, "exact") for atom in cut]
        return None if None in levels else levels[0]

    def base(self, lost: Lost, level: float | str | None) -> Invocation:
        """The call with which a smaller one is compared: what goes is overwritten with the neutral element before."""
        return self.call.filled(lost, level) if isinstance(level, float) else self.call

    def _smaller(self, cut: Removed, lost: Lost, numbers: Mapping[str, int]) -> tuple[Lost, Mapping[str, int]] | None:
        """A proper part of a removal that commutes with the operator as well; one of two balanced atoms is none."""
        level = self._agreement(cut)
        base = self.base(lost, level)
        whole = base.outputs()
        atomic = [self._lost({atom: indices}) for atom, indices in cut.items()]
        held = [(place, index) for place, gone in lost.items() if place[0] not in self.whole for index in gone]
        shown = [(place, index) for place, gone in lost.items() if place[0] in self.whole for index in gone]
        before = self.call.numbers
        changed = [name for name, number in numbers.items() if number != before[name]]
        for kept in _parts(held, level is None):
            for choice in product((True, False), repeat=len(changed)):
                chosen = {name: numbers[name] if new else before[name] for name, new in zip(changed, choice, strict=True)}
                if not kept and not any(choice):
                    continue
                try:
                    met = base.without(_gathered(kept), chosen).outputs()
                except Exception:  # noqa: BLE001 - an operator may refuse a part of a removal in any way
                    continue
                for part in _outputs_of(shown, met, whole):
                    both = _gathered((*kept, *part))
                    if not both or _made_of(both, atomic):
                        continue
                    if (
                        _difference(
                            met, {name: sliced(name, tensor, both) for name, tensor in whole.items()}, level is not None
                        )
                        is None
                    ):
                        return both, chosen
        return None


def _needless(bench: _Bench, free: _Bench) -> Iterator[str]:
    """Pinned axes of which every index could go, as the rule says without its pins or with the same index of other axes."""
    pinned = [place for place, space in bench.said.axes.items() if space.size > 1 and set(atoms(space)) & set(bench.said.pins)]
    released = {atom for place in pinned for atom in atoms(free.said.axes[place])}
    fine: set[Atom] = set()
    for removals in free.removals():
        if released.intersection(*removals[:1]) and all(free.unsound(cut) is None for cut in removals):
            fine.update(removals[0])
    for place in pinned:
        reason = next(bench.said.pins[atom] for atom in atoms(bench.said.axes[place]) if atom in bench.said.pins)
        inside = [atom for atom in atoms(free.said.axes[place]) if atom.size > 1]
        whole = all(atom in bench.said.pins for atom in atoms(bench.said.axes[place]))
        if (inside and fine.issuperset(inside)) or (whole and _goes_with_others(bench, place, pinned)):
            yield f"{place[0]} dim {place[1]} is pinned without need ({reason}): every index of it could go"


def _goes_with_others(bench: _Bench, place: AxisPlace, pinned: Sequence[AxisPlace]) -> bool:
    """Whether each index of an axis could go if the same index of some other pinned axes went, and numbers followed."""
    size = bench.said.axes[place].size
    others = [other for other in pinned if other != place and bench.said.axes[other].size == size][:6]
    numbers = {name: number - 1 for name, number in bench.call.numbers.items() if number == size}
    for chosen in chain.from_iterable(combinations(others, count) for count in range(len(others) + 1)):
        group = (place, *chosen)
        inside = all(axis[0] not in bench.whole for axis in group)
        for edited in ({}, numbers) if numbers else ({},):
            if not edited and all(axis[0] in bench.whole for axis in group):
                continue
            for index in range(size):
                lost = dict.fromkeys(group, _only(index))
                if bench.differs(bench.base(lost, 0.0 if inside else "exact"), lost, edited) is not None:
                    break
            else:
                return True
    return False


def _made_of(lost: Lost, atomic: Sequence[Lost]) -> bool:
    """Whether a removal consists of whole removals of single atoms."""
    rest = {(place, index) for place, gone in lost.items() for index in gone}
    for part in atomic:
        cells = {(place, index) for place, gone in part.items() for index in gone}
        if cells <= rest:
            rest -= cells
    return not rest


def _only(index: int) -> IndexSet:
    return IndexSet.of([index])


def _few(size: int) -> Sequence[int]:
    return range(size) if size <= 4 else (0, 1, size // 2, size - 1)


def _gathered(cells: Iterable[Cell]) -> dict[AxisPlace, IndexSet]:
    found: dict[AxisPlace, set[int]] = {}
    for place, index in cells:
        found.setdefault(place, set()).add(index)
    return {place: IndexSet.of(indices) for place, indices in found.items()}


def _parts(cells: Sequence[Cell], whole_operands: bool) -> Iterator[tuple[Cell, ...]]:
    """Parts of the removed cells: all of them where they are few, else those that leave an axis, a rank or a cell out."""
    operands = dict.fromkeys(place[0] for place, _ in cells)
    left_out = [tuple(cell for cell in cells if cell[0][0] != name) for name in operands]
    if whole_operands:
        yield from left_out
    elif 2 ** len(cells) <= _MOST_RUNS:
        yield from chain.from_iterable(combinations(cells, count) for count in range(len(cells) + 1))
    else:
        ranks: dict[int, list[Cell]] = {}
        seen: dict[AxisPlace, int] = {}
        for cell in cells:
            rank = seen[cell[0]] = seen.get(cell[0], -1) + 1
            ranks.setdefault(rank, []).append(cell)
        places = dict.fromkeys(cell[0] for cell in cells)
        one_axis = [tuple(cell for cell in cells if cell[0] == place) for place in places]
        without_axis = [tuple(cell for cell in cells if cell[0] != place) for place in places]
        one_cell = [(cell,) for cell in cells]
        without_cell = [tuple(other for other in cells if other != cell) for cell in cells]
        candidates = chain(left_out, map(tuple, ranks.values()), one_axis, without_axis, one_cell, without_cell)
        yield from list(dict.fromkeys(candidates))[:_MOST_RUNS]
        yield tuple(cells)


def _outputs_of(
    shown: Sequence[Cell], met: Mapping[str, torch.Tensor], whole: Mapping[str, torch.Tensor]
) -> Iterator[tuple[Cell, ...]]:
    """The parts of the outputs' removed cells that give outputs of the sizes that were met."""
    if met.keys() != whole.keys() or any(met[name].ndim != tensor.ndim for name, tensor in whole.items()):
        return
    here: dict[AxisPlace, list[Cell]] = {}
    for cell in shown:
        here.setdefault(cell[0], []).append(cell)
    choices = []
    for (name, dim), cells in here.items():
        missing = whole[name].shape[dim] - met[name].shape[dim]
        if not 0 <= missing <= len(cells):
            return
        choices.append(list(combinations(cells, missing))[:_MOST_RUNS])
    for parts in list(product(*choices))[:_MOST_RUNS] if len(choices) < 8 else ():
        yield tuple(chain.from_iterable(parts))


def _difference(met: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor], compared: bool) -> str | None:
    if met.keys() != expected.keys():
        return f"it returns {len(met)} tensors instead of {len(expected)}"
    for name, tensor in expected.items():
        other = met[name]
        if other.shape != tensor.shape:
            return f"{name} has the shape {tuple(other.shape)}, expected {tuple(tensor.shape)}"
        if compared and tensor.numel() and not _close(other, tensor):
            return f"{name} has other values than the output without them"
    return None


def _close(left: torch.Tensor, right: torch.Tensor) -> bool:
    if left.dtype != right.dtype:
        return False
    if not (left.is_floating_point() or left.is_complex()):
        return bool((left == right).all())
    loose = 1e-9 if left.dtype in {torch.float64, torch.complex128} else 1e-4
    return torch.allclose(left, right, rtol=loose, atol=loose, equal_nan=True)


def _listed(lost: Lost, numbers: Mapping[str, int], call: Invocation) -> str:
    """The lost indices and changed numbers as text."""
    axes = [f"{name} dim {dim} [{gone}]" for (name, dim), gone in lost.items()]
    before = call.numbers
    return ", ".join([*axes, *(f"{name}={number}" for name, number in numbers.items() if number != before.get(name))])
