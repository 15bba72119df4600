"""Pruning plans: what to remove, as data. A plan returns new graphs, composes, and is enough to prune a checkpoint."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from attrs import evolve, field, frozen

from depgraph import codec
from depgraph.errors import MismatchError, PlanError
from depgraph.graph import Graph, cost_of, renumber, tensor_with
from depgraph.indices import IndexSet
from depgraph.ragged import require_rows
from depgraph.records import Balance, Least, SizeAttribute, retyped
from depgraph.removals import Removal, canonical, check_rows, joined
from depgraph.rows import Rows, rows_image
from depgraph.spaces import UNIT, Atom, Space, atoms, image, substitute

K = TypeVar("K", int, str)


@frozen
class Cut:
    """The indices that one group loses, counted as in the base graph.

    Attributes:
        group: name of the group.
        atom: its identity in the graph's spaces.
        removed: the indices that go. Where each index of a base loses its own, such as each head its own dims: flat indices
            of the product of the base and the atom, row * size + index.
        base: the atom whose indices are the rows; None where the same indices go everywhere.
    """

    group: str
    atom: Atom
    removed: IndexSet
    base: Atom | None = field(default=None, metadata=codec.LATE)

    @property
    def lost(self) -> Removal:
        """What goes: the indices, or, where each row loses its own, the rows."""
        return self.removed if self.base is None else Rows.of_flat(self.base, self.atom.size, self.removed)

    @property
    def count(self) -> int:
        """By how many indices the group becomes smaller."""
        return len(self.lost)


@frozen
class PrunedAxis:
    """An axis of a parameter or buffer that a cut reaches, with its space in the base graph."""

    tensor: str
    dim: int
    space: Space


@frozen
class Edit:
    """An attribute that follows: dotted path, value before and after."""

    path: str
    old: int
    new: int


@frozen
class Target:
    """A budget that a plan was made for.

    Attributes:
        name: ``params``, ``macs`` or ``latency``.
        requested: the most that was to remain, as a number of parameters or MACs, or in the clock's unit.
        realised: what the plan's result costs.
    """

    name: str
    requested: float
    realised: float


@frozen
class Plan:
    """An immutable pruning plan.

    Attributes:
        base: fingerprint of the graph that it was made for.
        result: fingerprint of the graph that it leads to.
        cuts: what each group loses, in original indices.
        axes: every parameter and buffer axis that changes.
        edits: every integer attribute that changes.
        renumbered: (number in the result, number in the base) of atoms whose number changes because a size became 1.
        renamed: (name in the result, name in the base) of groups whose name changes for the same reason.
        targets: the budgets that it was made for, with what it comes to. They say why, not what: equality leaves them out.
    """

    base: str
    result: str
    cuts: tuple[Cut, ...] = ()
    axes: tuple[PrunedAxis, ...] = ()
    edits: tuple[Edit, ...] = ()
    renumbered: tuple[tuple[int, int], ...] = ()
    renamed: tuple[tuple[str, str], ...] = ()
    targets: tuple[Target, ...] = field(default=(), eq=False)

    @classmethod
    def empty(cls, graph: Graph) -> Plan:
        """The plan that removes nothing: the unit of `then`."""
        return cls(graph.fingerprint, graph.fingerprint)

    @cached_property
    def kept(self) -> dict[str, dict[int, IndexSet]]:
        """Parameter or buffer name to dimension to the original indices that stay."""
        removed = {cut.atom: cut.removed for cut in self.cuts if cut.base is None}
        ragged = {cut.atom: cut.lost for cut in self.cuts if cut.base is not None}
        result: dict[str, dict[int, IndexSet]] = {}
        seen: dict[Space, IndexSet] = {}
        for axis in self.axes:
            if axis.space not in seen:
                gone = image(axis.space, removed)
                for atom in atoms(axis.space):
                    if isinstance(rows := ragged.get(atom), Rows):
                        gone = gone | rows_image(axis.space, atom, rows)
                seen[axis.space] = gone.complement(axis.space.size)
            result.setdefault(axis.tensor, {})[axis.dim] = seen[axis.space]
        return result

    @cached_property
    def sizes(self) -> dict[str, dict[int, int]]:
        """Parameter or buffer name to dimension to the size that is expected before the plan."""
        result: dict[str, dict[int, int]] = {}
        for axis in self.axes:
            result.setdefault(axis.tensor, {})[axis.dim] = axis.space.size
        return result

    @property
    def removed(self) -> dict[str, IndexSet]:
        """Group name to the original indices that go; where each row loses its own, flat ones, as in `Cut`."""
        return {cut.group: cut.removed for cut in self.cuts}

    def apply(self, graph: Graph) -> Graph:
        """The graph after the cut. The given graph does not change.

        Raises:
            MismatchError: the graph is not the one that the plan was made for.
        """
        if not isinstance(graph, Graph):
            raise PlanError(f"expected a Graph, met {type(graph).__name__}; a module is pruned by dg.execute(plan, model).")
        if graph.fingerprint != self.base:
            raise MismatchError(
                "the plan was made for another graph:",
                [f"expected fingerprint {self.base[:12]}, met {graph.fingerprint[:12]}"],
                "Trace the model that the plan was made for, with inputs of the same shape, or make a new plan.",
            )
        return _shrunk(graph, {cut.atom: cut.lost for cut in self.cuts})[0]

    def then(self, other: Plan) -> Plan:
        """One plan that does what this plan and then the other one do. Its targets are those of the last cut.

        Raises:
            MismatchError: the other plan was not made for this plan's result.
        """
        if not isinstance(other, Plan):
            raise PlanError(f"expected a Plan, met {type(other).__name__}; load a file with dg.Plan.load(path).")
        if other.base != self.result:
            raise MismatchError(
                "the second plan does not start where the first one ends:",
                [f"the first plan leads to {self.result[:12]}, the second one starts at {other.base[:12]}"],
                "Make the second plan on first.apply(graph).",
            )
        numbers, names = dict(self.renumbered), dict(self.renamed)
        base_sizes = {atom.id: atom for axis in self.axes for atom in atoms(axis.space)}

        def lifted(atom: Atom) -> Atom:
            number = numbers.get(atom.id, atom.id)
            return base_sizes.get(number, Atom(number, atom.size))

        lost: dict[Atom, Removal] = {cut.atom: cut.lost for cut in self.cuts}
        groups = {cut.atom: cut.group for cut in self.cuts}
        second: dict[Atom, Removal] = {}
        for cut in other.cuts:
            atom = lifted(cut.atom)
            groups.setdefault(atom, names.get(cut.group, cut.group))
            gone = cut.lost
            second[atom] = Rows(lifted(gone.base), gone.sets) if isinstance(gone, Rows) else gone
        cuts = _cuts(joined(lost, second), groups)
        axes = {(axis.tensor, axis.dim): axis for axis in self.axes}
        for axis in other.axes:
            lift = PrunedAxis(axis.tensor, axis.dim, substitute(axis.space, lifted))
            axes.setdefault((axis.tensor, axis.dim), lift)
        before = {edit.path: edit.old for edit in (*other.edits, *self.edits)}
        after = {edit.path: edit.new for edit in (*self.edits, *other.edits)}
        return Plan(
            base=self.base,
            result=other.result,
            cuts=cuts,
            axes=_ordered_axes(axes.values()),
            edits=tuple(Edit(path, before[path], after[path]) for path in sorted(after) if before[path] != after[path]),
            renumbered=_composed(self.renumbered, other.renumbered),
            renamed=_composed(self.renamed, other.renamed),
            targets=other.targets if other.cuts else self.targets,
        )

    def save(self, path: str | Path) -> None:
        """Write the plan as versioned JSON; no code is stored."""
        codec.write(path, "plan", self)

    @classmethod
    def load(cls, path: str | Path) -> Plan:
        """Read what `save` wrote. Raises `DocumentError` for a damaged, edited or foreign file."""
        return codec.read(path, "plan", cls)

    def __str__(self) -> str:
        listed = "".join(f"\n  {cut.group}: {cut.count} of {cut.atom.size} indices go{_of_each(cut)}" for cut in self.cuts)
        met = "".join(f"\n  {item.name}: {item.realised:,} of at most {item.requested:,}" for item in self.targets)
        return f"<Plan: {len(self.cuts)} groups, {len(self.axes)} axes, {len(self.edits)} attributes>{listed}{met}"


def plan_of(graph: Graph, removed: Mapping[Atom, Removal]) -> Plan:
    """The plan that removes the given indices of each group's atom.

    Raises:
        PlanError: a group would keep less than its least size, balanced groups would lose unequally many, or a group would
            lose other indices in each row where nothing but the same is right.
    """
    removed = canonical({atom: lost for atom, lost in removed.items() if lost})
    if not removed:
        return Plan.empty(graph)
    require_rows(graph, {atom: lost.base for atom, lost in removed.items() if isinstance(lost, Rows)})
    for atom, lost in removed.items():
        group = graph.group_of[atom]
        if isinstance(lost, Rows):
            check_rows(group.name, lost, removed.get(lost.base))
        for indices in lost.sets if isinstance(lost, Rows) else (lost,):
            if indices and indices.intervals[-1][1] > atom.size:
                raise PlanError(
                    f"group {group.name} has the indices 0 to {atom.size - 1}, met {max(indices)}; nothing was changed."
                )
        if len(lost) == atom.size:
            raise PlanError(
                f"group {group.name} would lose its last index; leave at least one of {atom.size}. Nothing was changed."
            )
        if atom.size - len(lost) < group.least:
            raise PlanError(
                f"group {group.name} must keep at least {group.least} of its {atom.size} indices, because "
                f"{graph.why_kept(atom)}; asked to remove {len(lost)}. Nothing was changed."
            )
    for balance in graph.balances:
        counts = {graph.group_of[atom].name: len(removed.get(atom, ())) for atom in balance.atoms}
        if len(set(counts.values())) > 1:
            listed = ", ".join(f"{count} of {name}" for name, count in counts.items())
            raise PlanError(
                f"these groups must lose equally many indices, because {balance.reason}: asked for {listed}. "
                "Cut all of them by the same number. Nothing was changed."
            )
    result, numbers = _shrunk(graph, removed)
    axes: list[PrunedAxis] = []
    touched: dict[int, bool] = {}
    for tensor in graph.tensors:
        if tensor.kind == "value":
            continue
        for dim, space in enumerate(tensor.axes):
            if id(space) not in touched:
                touched[id(space)] = any(atom in removed for atom in atoms(space))
            if touched[id(space)]:
                axes.extend(PrunedAxis(name, dim, space) for name in (tensor.name, *tensor.aliases))
    edits = []
    gone: dict[int, int] = {}
    sizes = {atom: IndexSet.range(0, len(lost)) for atom, lost in removed.items()}
    for attribute in graph.attributes:
        space = attribute.space
        if id(space) not in gone:
            gone[id(space)] = len(image(space, sizes))
        if gone[id(space)]:
            edits.append(Edit(attribute.path, space.size, space.size - gone[id(space)]))
    renamed: list[tuple[str, str]] = []
    if any(atom.size - len(lost) == 1 for atom, lost in removed.items()):  # names follow the structure, not the sizes
        names = {group.atom.id: group.name for group in graph.groups}
        renamed = [(group.name, names[numbers[group.atom.id]]) for group in result.groups]
    return Plan(
        base=graph.fingerprint,
        result=result.fingerprint,
        cuts=_cuts(removed, {atom: graph.group_of[atom].name for atom in removed}),
        axes=_ordered_axes(axes),
        edits=tuple(sorted(edits, key=lambda edit: edit.path)),
        renumbered=tuple((new, old) for new, old in numbers.items() if new != old),
        renamed=tuple((new, old) for new, old in renamed if new != old),
    )


def _cuts(lost: Mapping[Atom, Removal], groups: Mapping[Atom, str]) -> tuple[Cut, ...]:
    cuts = []
    for atom, gone in lost.items():
        flat, base = (gone.flat(atom.size), gone.base) if isinstance(gone, Rows) else (gone, None)
        cuts.append(Cut(groups[atom], atom, flat, base))
    return tuple(sorted(cuts, key=lambda cut: cut.atom.id))


def _of_each(cut: Cut) -> str:
    return f", of each of {cut.base.size} rows its own" if cut.base is not None else ""


def _ordered_axes(axes: Iterable[PrunedAxis]) -> tuple[PrunedAxis, ...]:
    return tuple(sorted(axes, key=lambda axis: (axis.tensor, axis.dim)))


def _composed(first: tuple[tuple[K, K], ...], second: tuple[tuple[K, K], ...]) -> tuple[tuple[K, K], ...]:
    """Renamings from the last result to the first base. What the second moves is looked up in the first."""
    to_base = dict(first)
    moved = dict(second)
    result = {new: to_base.get(middle, middle) for new, middle in moved.items()}
    for middle, base in to_base.items():
        if middle not in moved:
            result[middle] = base
    return tuple(sorted((new, base) for new, base in result.items() if new != base))


def shrunk(graph: Graph, removed: Mapping[Atom, Removal]) -> Graph:
    """The graph without the given indices. Nothing is checked; `plan_of` does."""
    return _shrunk(graph, removed)[0]


def _shrunk(graph: Graph, removed: Mapping[Atom, Removal]) -> tuple[Graph, dict[int, int]]:
    """The graph with smaller atoms; and for each atom number in it the number in the given graph."""

    def smaller(atom: Atom) -> Space:
        gone = removed.get(atom)
        if not gone:
            return atom
        size = atom.size - len(gone)
        return UNIT if size == 1 else Atom(atom.id, size)

    objects = {id(space): space for tensor in graph.tensors for space in tensor.axes}  # many axes share few spaces
    objects.update((id(space), space) for item in graph.operations for cost in item.costs for space in cost.axes)
    memo = {
        space: substitute(space, smaller) if any(atom in removed for atom in atoms(space)) else space
        for space in dict.fromkeys(objects.values())
    }
    known = {key: memo[space] for key, space in objects.items()}

    def after(space: Space) -> Space:
        return memo[space] if space in memo else substitute(space, smaller)

    tensors = tuple(tensor_with(item, tuple([known[id(axis)] for axis in item.axes])) for item in graph.tensors)
    by_name = {tensor.name: tensor for tensor in tensors}
    operations = tuple(
        retyped(item.costing(cost_of([known[id(axis)] for axis in cost.axes], cost.scale) for cost in item.costs), by_name)
        for item in graph.operations
    )
    attributes = tuple(SizeAttribute(attribute.path, after(attribute.space)) for attribute in graph.attributes)
    balances = []
    for balance in graph.balances:
        members = [after(atom) for atom in balance.atoms]
        if all(isinstance(member, Atom) for member in members):
            balances.append(Balance(tuple(member for member in members if isinstance(member, Atom)), balance.reason))
    kept = [(after(item.atom), item) for item in graph.leasts]
    leasts = tuple(Least(atom, item.size, item.reason) for atom, item in kept if isinstance(atom, Atom))
    result = evolve(
        graph, operations=operations, tensors=tensors, attributes=attributes, balances=tuple(balances), leasts=leasts
    )
    if all(atom.size - len(gone) > 1 for atom, gone in removed.items()):
        return result, {atom.id: atom.id for space in memo for atom in atoms(space)}  # what is left is read in the same order
    return renumber(result)
