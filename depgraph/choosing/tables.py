"""What it costs in quality to cut each group so far: curves of losses, as data that are saved and read again."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING

from attrs import evolve, field, frozen

from depgraph import codec
from depgraph.algebra.indices import IndexSet
from depgraph.algebra.numbers import is_number
from depgraph.algebra.ragged_sets import RaggedSet, Removal
from depgraph.algebra.spaces import Atom
from depgraph.choosing.choose import default_couplings, limits_of
from depgraph.choosing.coupled import Coupling
from depgraph.choosing.scores import Scores
from depgraph.collector import without_collections
from depgraph.errors import PlanError
from depgraph.graph.arguments import of_graph
from depgraph.graph.graph import Graph
from depgraph.plans.making import plan_of
from depgraph.plans.plan import Plan

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@frozen
class Order:
    """In which order the indices of a group go.

    Attributes:
        group: its name.
        base: the number of the atom whose indices are the rows, where each loses its own; None where one order holds.
        rows: for each row the indices, the least important first.

    >>> Order("0.weight:0", None, ((2, 0, 1),)).rows[0][:2]
    (2, 0)
    """

    group: str
    base: int | None
    rows: tuple[tuple[int, ...], ...]


@frozen
class Curve:
    """What is lost when groups that lose equally many indices are cut so far and all else stays.

    Attributes:
        orders: in which order the indices of each group go.
        counts: how many indices each of the groups loses, rising; 0 among them only in a table around a plan that cuts them.
        losses: the loss at each count; fewer than there are counts where a run was interrupted.

    >>> curve = Curve((Order("0.weight:0", None, ((2, 0, 1),)),), counts=(1, 2), losses=(0.5, 0.9))
    >>> curve.groups, curve.is_complete
    (('0.weight:0',), True)
    """

    orders: tuple[Order, ...]
    counts: tuple[int, ...]
    losses: tuple[float, ...] = ()

    @property
    def groups(self) -> tuple[str, ...]:
        """The names of the groups."""
        return tuple(order.group for order in self.orders)

    @property
    def is_complete(self) -> bool:
        """Whether every count has its loss."""
        return len(self.losses) == len(self.counts)

    def removed(self, graph: Graph, count: int) -> dict[Atom, Removal]:
        """What goes where each group loses so many indices."""
        removals: dict[Atom, Removal] = {}
        bases = {group.atom.id: group.atom for group in graph.groups}
        for order in self.orders if count else ():
            sets = tuple(IndexSet.of(row[:count]) for row in order.rows)
            removal = sets[0] if order.base is None else RaggedSet(bases[order.base], sets)
            removals[graph.groups_by_name[order.group].atom] = removal
        return removals


@frozen
class Table:
    """Curves of a graph's groups, for `dg.pareto`.

    Attributes:
        base: the graph's fingerprint.
        whole: the loss where nothing goes; in a table around a plan that of the plan.
        curves: of groups that are cut together, in the graph's order. No group is in two.
        around: by name how many indices each group loses while another one is measured; those that lose none are left out.

    >>> import torch, depgraph as dg
    >>> graph = dg.trace(torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2)), torch.zeros(1, 4))
    >>> def squared(plan):
    ...     return len(plan.removed.get("0.weight:0", ())) ** 2
    >>> table = tabulate(graph, {"0.weight:0": range(8)}, [0.25, 0.5], squared)
    >>> isinstance(table, Table), table.is_complete
    (True, True)
    >>> table.curves[0].counts, table.curves[0].losses, table.whole
    ((2, 4), (4, 16), 0)
    """

    base: str
    whole: float
    curves: tuple[Curve, ...]
    around: tuple[tuple[str, int], ...] = field(default=(), metadata=codec.LATE)

    @property
    def is_complete(self) -> bool:
        """Whether every curve has all of its losses."""
        return all(curve.is_complete for curve in self.curves)

    def save(self, path: str | Path) -> None:
        """Write the table as versioned JSON."""
        codec.write(path, "table", self)

    @classmethod
    def load(cls, path: str | Path) -> Table:
        """Read what `save` wrote, also of a run that was interrupted.

        Raises:
            DocumentError: the file is damaged, edited, foreign or of another version, or its table breaks an invariant.
        """
        return codec.read(path, "table", cls, check)

    def plot(self, columns: int = 4) -> Figure:
        """One small drawing for each curve: the loss over the fraction that is removed. Needs matplotlib.

        Raises:
            PlanError: matplotlib is not installed.
        """
        try:
            from matplotlib.figure import Figure
        except ImportError:
            raise PlanError("a drawing needs the package matplotlib; install depgraph[plots].") from None
        rows = max(1, math.ceil(len(self.curves) / columns))
        figure = Figure(figsize=(3 * columns, 2.2 * rows), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flat
        for curve, axis in zip(self.curves, axes, strict=False):
            size = len(curve.orders[0].rows[0])
            points = [(count / size, loss) for count, loss in zip(curve.counts, curve.losses, strict=False)]
            if 0 not in curve.counts:
                points = [(0.0, self.whole), *points]
            axis.plot(*zip(*points, strict=True), marker="o", markersize=3, color="black")
            if start := dict(self.around).get(curve.groups[0]):
                axis.axvline(start / size, linestyle=":", linewidth=1, color="black")
            more = f" and {len(curve.groups) - 1} more" if len(curve.groups) > 1 else ""
            axis.set_title(fill(curve.groups[0] + more, _TITLE, break_on_hyphens=False), fontsize=8)
        for axis in list(axes):
            axis.set_visible(False)
        figure.supxlabel("removed")
        figure.supylabel("loss")
        return figure


_TITLE = 40
"""So many characters of a title are as wide as a drawing."""


def check(table: Table) -> Sequence[str]:
    """What is wrong with a table."""
    problems = []
    names = [name for curve in table.curves for name in curve.groups]
    if len(set(names)) < len(names):
        problems.append("a group is in two curves")
    for curve in table.curves:
        where = f"the curve of {', '.join(curve.groups)}"
        sizes = {len(row) for order in curve.orders for row in order.rows}
        if not curve.orders or any(sorted(row) != [*range(len(row))] for order in curve.orders for row in order.rows):
            problems.append(f"{where} has no orders, or one that is no order of all indices")
        elif [*curve.counts] != sorted({*curve.counts}) or (curve.counts and curve.counts[0] < _least(table, curve)):
            problems.append(f"{where} has counts that do not rise from 1 up: {curve.counts}")
        elif curve.counts and curve.counts[-1] >= min(sizes):
            problems.append(f"{where} removes {curve.counts[-1]} of {min(sizes)} indices")
        if len(curve.losses) > len(curve.counts) or not all(map(is_number, curve.losses)):
            problems.append(f"{where} has {len(curve.counts)} counts, its losses are {curve.losses}")
    counts = {name: curve.counts for curve in table.curves for name in curve.groups}
    strange = [name for name, count in table.around if count not in counts.get(name, ())]
    if strange or len({name for name, _ in table.around}) < len(table.around):
        problems.append(f"it is around a plan that cuts {strange} at counts that no curve has, or a group twice")
    return problems


def _least(table: Table, curve: Curve) -> int:
    """The smallest count that a curve may have: what nothing loses is known unless the plan cuts it."""
    return 0 if {*curve.groups} & {name for name, _ in table.around} else 1


@without_collections()
def empty_table(
    graph: Graph,
    scores: Scores,
    ratios: Iterable[float],
    *,
    max_ratio: float | Mapping[str, float] | None = None,
    min_width: int | Mapping[str, int] | None = None,
    round_to: int | Mapping[str, int] | None = None,
    ignore: Iterable[str] = (),
    only: Iterable[str] | None = None,
    uniform: str | Iterable[str | tuple[str, ...]] = (),
    around: Plan | None = None,
) -> Table:
    """A table of which no loss is known yet. What it measures is said by the arguments, which are those of `tabulate`."""
    ratios = sorted({*ratios})
    if not ratios or not all(is_number(ratio) and 0 < ratio < 1 for ratio in ratios):
        raise PlanError(f"expected ratios= as fractions in (0, 1), those to remove of each group, met {ratios!r}.")
    limits = limits_of(graph, max_ratio, min_width, round_to)
    couplings = default_couplings(graph, scores, limits, ignore, only, uniform)
    starts = _starts(graph, around)
    curves = []
    for coupling in couplings:
        counts = {_step_at(coupling, ratio) for ratio in ratios} - {0}
        if start := starts.get(coupling.groups[0].name, 0):
            counts |= {0, start}
        if counts:
            curves.append(Curve(_orders(coupling), tuple(sorted(counts))))
    if not curves:
        raise PlanError("no group can lose an index at these ratios: every one is too small, at its lower bound, or left out.")
    table = Table(graph.fingerprint, math.nan, tuple(curves), tuple(sorted(starts.items())))
    if around is not None:
        _refuse_other_indices(graph, table, around)
    return table


def _starts(graph: Graph, around: Plan | None) -> dict[str, int]:
    """How many indices each group loses by a plan."""
    if around is None:
        return {}
    if not isinstance(around, Plan) or around.base != graph.fingerprint or around.drops:
        raise PlanError(
            "expected around= as a plan for this graph, without drops, "
            f"met {'a plan that is none' if isinstance(around, Plan) else type(around).__name__}."
        )
    return {cut.group: cut.count for cut in around.cuts}


def _refuse_other_indices(graph: Graph, table: Table, around: Plan) -> None:
    """Raise `PlanError` for a plan that isn't made of the curves: the losses of its groups would be those of other cuts."""
    counts = dict(table.around)
    made: dict[Atom, Removal] = {}
    for curve in table.curves:
        made.update(curve.removed(graph, counts.get(curve.groups[0], 0)))
    asked = {cut.atom: cut.removal for cut in around.cuts}
    other = [graph.group_of[atom].name for atom in {**made, **asked} if made.get(atom) != asked.get(atom)]
    if other:
        raise PlanError(
            f"around= cuts groups that the table doesn't, or removes other indices than these scores say, in {other[:6]}; "
            "make it by dg.plan or dg.pareto of the same scores, only=, ignore= and uniform=."
        )


def _step_at(coupling: Coupling, ratio: float) -> int:
    """The largest step that removes no more than a fraction."""
    most = ratio * coupling.groups[0].size + 1e-9
    return max((step for step in coupling.steps if step <= most), default=0)


def _orders(coupling: Coupling) -> tuple[Order, ...]:
    return tuple(
        Order(group.name, None if ranking.base is None else ranking.base.id, ranking.orders)
        for group, ranking in zip(coupling.groups, coupling.rankings, strict=True)
    )


@of_graph
def tabulate(
    graph: Graph,
    scores: Scores,
    ratios: Iterable[float],
    loss: Callable[[Plan], float],
    *,
    path: str | Path | None = None,
    shown: Callable[[Sequence[tuple[int, int]]], Iterable[tuple[int, int]]] = iter,
    max_ratio: float | Mapping[str, float] | None = None,
    min_width: int | Mapping[str, int] | None = None,
    round_to: int | Mapping[str, int] | None = None,
    ignore: Iterable[str] = (),
    only: Iterable[str] | None = None,
    uniform: str | Iterable[str | tuple[str, ...]] = (),
    around: Plan | None = None,
) -> Table:
    """What each group costs alone, by any function of a plan: each of them cut at each ratio, while all others stay.

    Args:
        graph: the traced model.
        scores: in which order the indices of a group go, as for `dg.plan`.
        ratios: the fractions of each group at which its loss is taken, in (0, 1); rounded down as by `dg.plan`.
        loss: a function of a plan, lower is better, such as
            ``lambda plan: dg.reconstruction_error(plan, moments, model).total``. It is called with the empty plan, too.
        path: a file that is written after each call. Where it exists, what it knows is not asked again.
        shown: what shows the progress: it is given the work and iterates over it.
        max_ratio: as for `dg.plan`.
        min_width: as for `dg.plan`.
        round_to: as for `dg.plan`.
        ignore: as for `dg.plan`.
        only: as for `dg.plan`.
        uniform: as for `dg.plan`. Groups that lose equally many, because of a balance or of `uniform`, are cut together and
            have one curve.
        around: a plan of the same scores. Each group is cut at each ratio, and left whole, while all others are cut as the
            plan says. What cuts cost together is more than the sum of what each costs alone; near the plan such a table has
            it right, for losses are then differences from that of the plan.

    Raises:
        PlanError: ratios out of range, scores that do not fit, a loss that is no number, nothing to cut, or a file whose table
            is of another graph, of other scores or ratios.
        DocumentError: the file is no table.

    >>> import torch, depgraph as dg
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> graph, known = dg.trace(model, torch.zeros(1, 4)), dg.moments.collect(model, [torch.randn(100, 4)])
    >>> scores = dg.score(graph, model, dg.criteria.Reconstruction(known))
    >>> def missed(plan):
    ...     return dg.reconstruction_error(plan, known, model).total
    >>> table = dg.choosing.tabulate(graph, scores, [0.25, 0.5, 0.75], missed)
    >>> table.whole, list(table.curves[0].losses) == sorted(table.curves[0].losses)
    (0, True)
    """
    asked = empty_table(
        graph, scores, ratios,
        max_ratio=max_ratio, min_width=min_width, round_to=round_to, ignore=ignore, only=only, uniform=uniform,
        around=around,
    )  # fmt: skip
    table = _resumed(asked, path)
    if math.isnan(table.whole):
        table = _kept(evolve(table, whole=_loss(loss, _plan_at(graph, table, {}))), path)
    starts = dict(table.around)
    work = [(c, p) for c, curve in enumerate(table.curves) for p in range(len(curve.losses), len(curve.counts))]
    for number, point in shown(work):
        curve = table.curves[number]
        count = curve.counts[point]
        known = count == starts.get(curve.groups[0], 0)
        value = table.whole if known else _loss(loss, _plan_at(graph, table, {number: count}))
        curves = list(table.curves)
        curves[number] = evolve(curve, losses=(*curve.losses, value))
        table = _kept(evolve(table, curves=tuple(curves)), path)
    return table


def _plan_at(graph: Graph, table: Table, counts: Mapping[int, int]) -> Plan:
    """The plan around which a table is, with other counts at some curves, by their numbers."""
    starts = dict(table.around)
    removed: dict[Atom, Removal] = {}
    for number, curve in enumerate(table.curves):
        removed.update(curve.removed(graph, counts.get(number, starts.get(curve.groups[0], 0))))
    return plan_of(graph, removed)


def _loss(loss: Callable[[Plan], float], plan: Plan) -> float:
    value = loss(plan)
    if not is_number(value):
        raise PlanError(f"expected a finite number as the loss of a plan, met {value!r}; tensors have item().")
    return value


def _resumed(asked: Table, path: str | Path | None) -> Table:
    """The table of the file, or an empty one. Raises `PlanError` where the file's is of another question."""
    if path is None or not Path(path).exists():
        return asked
    found = Table.load(path)
    bare = evolve(found, whole=math.nan, curves=tuple(evolve(curve, losses=()) for curve in found.curves))
    if (bare.base, bare.curves, bare.around) != (asked.base, asked.curves, asked.around):
        what = "another graph" if bare.base != asked.base else "other scores, ratios or groups, or around another plan"
        raise PlanError(f"{path} holds a table of {what}; give the arguments that it was made with, or another path=.")
    return found


def _kept(table: Table, path: str | Path | None) -> Table:
    if path is not None:
        table.save(path)
    return table
