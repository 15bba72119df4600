"""A plan as text: what it removes, by itself, and with the graph what becomes of every module."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from attrs import asdict, frozen

from depgraph.graph.folding import folded
from depgraph.graph.graph import Graph
from depgraph.graph.module_rows import ModuleSummary, TensorSummary, module_summaries
from depgraph.graph.summary import label_of, shape_text, times, without_empty
from depgraph.graph.tables import Section, Shown, Table, listed, printable
from depgraph.plans.plan import Edit, Plan, Target


@frozen
class CutSummary:
    """What a group loses, or several that are alike, in layers that follow one another.

    Attributes:
        name: the group's name, with ranges in the place of numbers.
        role: its role.
        size: number of indices.
        after: how many stay.
        rows: in how many rows, each of which loses its own indices; 1 where the same go everywhere.
        count: how many groups it stands for.
    """

    name: str
    role: str
    size: int
    after: int
    rows: int
    count: int


@frozen
class PlanSummary(Shown):
    """What `Plan.summary` returns. As text it is a table.

    Attributes:
        params: elements of all parameters.
        params_after: how many remain.
        macs: multiply-accumulates of one forward.
        macs_after: how many remain.
        modules: the tree of modules with sizes before and after, each module before what it holds.
        cuts: what groups lose.
        drops: what leaves lists of modules, a sentence for each list.
        targets: the budgets that the plan was made for, with what it comes to.
        edits: the attributes that change, folded.

    >>> import torch, depgraph as dg
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> graph = dg.trace(model, torch.zeros(1, 4))
    >>> summary = dg.cut(graph, "0.weight", [2, 6], dim=0).summary(graph)
    >>> summary.params, summary.params_after, [(item.path, item.params_after) for item in summary.modules]
    (58, 44, [('0', 30), ('1', 0), ('2', 14)])
    >>> summary.modules[2].tensors[0].shape, summary.modules[2].tensors[0].after
    ((2, 8), (2, 6))
    """

    params: int
    params_after: int
    macs: int
    macs_after: int
    modules: tuple[ModuleSummary, ...]
    cuts: tuple[CutSummary, ...]
    drops: tuple[str, ...]
    targets: tuple[Target, ...]
    edits: tuple[Edit, ...]

    def sections(self) -> Iterator[Section]:
        """The totals, the tree, what groups lose, and what else changes."""
        params, macs = _change(self.params, self.params_after), _change(self.macs, self.macs_after)
        yield Section(f"parameters {params}, MACs {macs}", lines=tuple(map(_target_line, self.targets)))
        yield Section("", _module_table(self.modules))
        if self.drops:
            yield Section("dropped", lines=listed(self.drops, "in plan.drops"))
        if self.cuts:
            rows = tuple(
                (item.name, item.role, f"{item.size:,}", f"{item.after:,}", f"{item.after / item.size:.1%}", _rows_of(item),
                 times(item.count))
                for item in self.cuts
            )  # fmt: skip
            headings = ("group", "role", "size", "after", "kept", "rows", "groups")
            yield Section("", without_empty(Table(headings, rows, frozenset(range(2, 7)))))
        if self.edits:
            lines = [f"{edit.path}: {edit.old} -> {edit.new}" for edit in self.edits]
            yield Section("attributes", lines=listed(lines, "in plan.edits"))


@frozen
class PlanLines(Shown):
    """What a plan tells without its graph."""

    plan: Plan

    def sections(self) -> Iterator[Section]:
        """The lines that `print` shows."""
        first, *others = lines_of(self.plan)
        yield Section(first.strip("<>"), lines=tuple(line.strip() for line in others))

    def to_dict(self) -> dict[str, Any]:
        """What the plan says, with indices as text."""
        plan = self.plan
        cuts = [
            {"group": cut.group, "size": cut.atom.size, "count": cut.count, "removed": str(cut.removed)} for cut in plan.cuts
        ]
        return {
            "base": plan.base,
            "result": plan.result,
            "cuts": cuts,
            "drops": [{"path": drop.sequence.path, "removed": str(drop.removed)} for drop in plan.drops],
            "edits": [asdict(edit) for edit in plan.edits],
            "targets": [asdict(target) for target in plan.targets],
        }


def summary_of(plan: Plan, graph: Graph, depth: int | None = None) -> PlanSummary:
    """The summary of a plan and its graph: the function behind `Plan.summary`."""
    result = plan.apply(graph)
    return PlanSummary(
        params=graph.params,
        params_after=result.params,
        macs=graph.macs,
        macs_after=result.macs,
        modules=module_summaries(graph, depth, result, plan.name_after),
        cuts=tuple(_cuts(plan, graph)),
        drops=tuple(map(str, plan.drops)),
        targets=plan.targets,
        edits=tuple(_edits(plan)),
    )


def lines_of(plan: Plan) -> Iterator[str]:
    """What a plan tells without its graph: how much changes, what groups lose, and what its budgets come to."""
    yield f"<Plan: {len(plan.cuts)} groups, {len(plan.axes)} axes, {len(plan.edits)} attributes>"
    yield from (f"  {printable(str(drop))}" for drop in plan.drops)
    told = {cut.group: f"{cut.count} of {cut.atom.size} indices go" for cut in plan.cuts}
    for cut in plan.cuts:
        if cut.base is not None:
            told[cut.group] += f", of each of {cut.base.size} rows its own"
    lines = [f"{item.name}: {told[item.first]}" + _of_how_many(item.count) for item in folded(told.items())]
    yield from (f"  {printable(line)}" for line in listed(lines, "in plan.cuts"))
    yield from (f"  {_target_line(target)}" for target in plan.targets)


def _of_how_many(count: int) -> str:
    return f" in each of {count} groups" if count > 1 else ""


def _target_line(target: Target) -> str:
    return f"{target.name}: {target.realised:,} of at most {target.requested:,}"


def _cuts(plan: Plan, graph: Graph) -> Iterator[CutSummary]:
    keys = {
        cut.group: (
            graph.group_of[cut.atom].role,
            cut.atom.size,
            cut.atom.size - cut.count,
            1 if cut.base is None else cut.base.size,
        )
        for cut in plan.cuts
    }
    for item in folded(keys.items()):
        yield CutSummary(item.name, *keys[item.first], item.count)


def _edits(plan: Plan) -> Iterator[Edit]:
    keys = {edit.path: (edit.old, edit.new) for edit in plan.edits}
    for item in folded(keys.items()):
        yield Edit(item.name, *keys[item.first])


def _module_table(modules: tuple[ModuleSummary, ...]) -> Table:
    rows = []
    for item in modules:
        main = item.main_tensors
        rows.append(
            (
                label_of(item),
                item.module_class,
                shape_text(main[0].shape, main[1].shape) if main else "",
                _after(item, *main) if main else "",
                *_numbers(item.params, item.params_after),
                *_numbers(item.macs, item.macs_after),
            )
        )
    headings = ("module", "class", "weight", "after", "parameters", "after", "MACs", "after")
    return Table(headings, tuple(rows), frozenset({4, 5, 6, 7}), tuple(item.level for item in modules))


def _after(item: ModuleSummary, smallest: TensorSummary, largest: TensorSummary) -> str:
    if smallest.after == smallest.shape and largest.after == largest.shape:
        return ""
    return "gone" if item.dropped else shape_text(smallest.after, largest.after)


def _numbers(before: int, after: int) -> tuple[str, str]:
    """A number before and after, the second one where it differs."""
    return f"{before:,}" if before else "", f"{after:,}" if after != before else ""


def _change(before: int, after: int) -> str:
    return f"{before:,} -> {after:,} ({after / before:.1%})" if before else "0"


def _rows_of(item: CutSummary) -> str:
    return f"in each of {item.rows}" if item.rows > 1 else ""
