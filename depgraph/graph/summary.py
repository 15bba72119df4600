"""A graph as a table to look at: its modules as a tree with repeated layers folded, its groups, and what is pinned."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Iterator
from itertools import takewhile
from typing import TYPE_CHECKING

from attrs import frozen

from depgraph.graph.folding import folded
from depgraph.graph.groups import Role
from depgraph.graph.module_rows import AxisSummary, ModuleSummary, TensorSummary, module_summaries
from depgraph.graph.tables import Section, Shown, Table, listed

if TYPE_CHECKING:
    from depgraph.graph.graph import Graph

_SHOWN_AXES = 3
_MOST_ROLES = 4
_PLACE = re.compile(r" \([^()]* in [^()]*\)$")
"""Where a reason comes from: the operator, the module and the line. It differs from layer to layer."""


@frozen
class GroupSummary:
    """A group, or several that are alike, in layers that follow one another.

    Attributes:
        name: its name, with ranges in the place of numbers.
        role: its role.
        size: number of indices.
        axes: how many axes of parameters and buffers it reaches.
        count: how many groups it stands for.
        lower_bound: how many indices stay at least.
        multiple: what stays is a multiple of this.
    """

    name: str
    role: Role
    size: int
    axes: int
    count: int
    lower_bound: int
    multiple: int


@frozen
class PinnedSummary:
    """Axes that are pinned for one reason.

    Attributes:
        reason: why, without the place where forward says so, which `graph.pinned` has.
        axes: the axes, folded, each as ``tensor:dim``.
        params: elements of the parameters that lie in no group, for this reason first.
    """

    reason: str
    axes: tuple[str, ...]
    params: int


@frozen
class GraphSummary(Shown):
    """What `Graph.summary` returns. As text it is a table.

    Attributes:
        operations: number of operations.
        params: elements of all parameters.
        prunable: of these, elements of the parameters that lie in groups.
        macs: multiply-accumulates of one forward.
        modules: the tree of modules, each before what it holds.
        groups: what can be pruned.
        pinned: what can't be, by reason.
        limits: what couples groups or bounds their sizes, in a sentence each.

    >>> import torch, depgraph as dg
    >>> model = torch.nn.Sequential(*(torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU()) for _ in range(4)))
    >>> summary = dg.trace(model, torch.zeros(1, 8)).summary()
    >>> [(module.path, module.count, module.params) for module in summary.modules if module.level == 0]
    [('0', 1, 72), ('1-2', 2, 144), ('3', 1, 72)]
    >>> [(group.name, group.size, group.count) for group in summary.groups]
    [('0-2.0.weight:0', 8, 3)]
    """

    operations: int
    params: int
    prunable: int
    macs: int
    modules: tuple[ModuleSummary, ...]
    groups: tuple[GroupSummary, ...]
    pinned: tuple[PinnedSummary, ...]
    limits: tuple[str, ...]

    def sections(self) -> Iterator[Section]:
        """The tree, the groups, the limits and what is pinned."""
        count = sum(group.count for group in self.groups)
        share = f"{self.prunable / max(self.params, 1):.1%} of them in {several(count, 'group')}"
        yield Section(f"{self.operations:,} operations, {self.params:,} parameters ({share}), {self.macs:,} MACs")
        yield Section("", _module_table(self.modules))
        groups = [
            (
                item.name,
                item.role,
                f"{item.size:,}",
                _bounded(item.lower_bound),
                _bounded(item.multiple),
                str(item.axes),
                times(item.count),
            )
            for item in self.groups
        ]
        if groups:
            headings = ("group", "role", "size", "at least", "multiple of", "axes", "groups")
            yield Section("", without_empty(Table(headings, tuple(groups), frozenset(range(2, 7)))))
        if self.limits:
            yield Section("limits", lines=listed(self.limits, "in graph.balances, graph.lower_bounds and graph.multiples"))
        if self.pinned:
            yield Section("pinned", lines=listed([_pinned_line(item) for item in self.pinned], "in graph.pinned"))


def summary_of(graph: Graph, depth: int | None = None) -> GraphSummary:
    """The summary of a graph: the function behind `Graph.summary`."""
    return GraphSummary(
        operations=len(graph.operations),
        params=graph.params,
        prunable=graph.coverage.prunable,
        macs=graph.macs,
        modules=module_summaries(graph, depth),
        groups=_groups(graph),
        pinned=_pinned(graph),
        limits=tuple(_limits(graph)),
    )


def _groups(graph: Graph) -> tuple[GroupSummary, ...]:
    keys = {item.name: (item.role, item.size, len(item.members), item.lower_bound, item.multiple) for item in graph.groups}
    return tuple(
        GroupSummary(item.name, role, size, axes, item.count, bound, multiple)
        for item in folded(keys.items())
        for role, size, axes, bound, multiple in [keys[item.first]]
    )


def _pinned(graph: Graph) -> tuple[PinnedSummary, ...]:
    axes: dict[str, list[tuple[str, Hashable]]] = {}
    for item in graph.pinned:
        axes.setdefault(_of_any(graph, item.reason), []).append((f"{item.tensor}:{item.dim}", None))
    elements: dict[str, int] = {}
    for reason, count in graph.coverage.pinned:
        elements[_of_any(graph, reason)] = elements.get(_of_any(graph, reason), 0) + count
    reasons = dict.fromkeys((*elements, *axes))
    return tuple(
        PinnedSummary(reason, tuple(item.name for item in folded(axes.get(reason, ()))), elements.get(reason, 0))
        for reason in reasons
    )


def _of_any(graph: Graph, reason: str) -> str:
    """A reason without the tensor and the place of which it speaks, so that it is one for all layers."""
    subject, space, rest = _PLACE.sub("", reason).partition(" ")
    return f"it{space}{rest}" if subject in graph.by_name else f"{subject}{space}{rest}"


def _limits(graph: Graph) -> Iterator[str]:
    """A sentence for each balance, each lower bound and each multiple, or for those of layers that are alike."""
    sentences: list[tuple[list[str], str]] = []
    for balance in graph.balances:
        names = [graph.group_of[atom].name for atom in balance.atoms]
        sentences.append((names, f"{', '.join(names)} lose equally many indices: {balance.reason}"))
    for bound in graph.lower_bounds:
        if bound.atom in graph.group_of:
            name = graph.group_of[bound.atom].name
            sentences.append(([name], f"{name} keeps at least {bound.size} indices: {bound.reason}"))
    for item in graph.multiples:
        if item.atom in graph.group_of:
            name = graph.group_of[item.atom].name
            sentences.append(([name], f"{name} keeps a multiple of {item.of} indices: {item.reason}"))
    yield from _of_layers(sentences)


def _of_layers(sentences: Iterable[tuple[list[str], str]]) -> Iterator[str]:
    """Sentences about groups; those that differ in the number of a layer alone as one."""
    layers: dict[tuple[str, ...], dict[str, None]] = {}
    for names, sentence in sentences:
        layer = _layer_of(names)
        parts = re.split(rf"(?<!\S){re.escape(layer)}(?![^.,:\s])", sentence) if layer else [sentence]
        layers.setdefault(tuple(parts), {})[layer] = None
    for sentence_parts, names_of_layers in layers.items():
        for item in folded((name, None) for name in names_of_layers):
            yield item.name.join(sentence_parts)


def _layer_of(names: list[str]) -> str:
    """The innermost numbered module that has all these groups; empty if there is none."""
    paths = zip(*(name.partition(":")[0].split(".")[:-1] for name in names), strict=False)
    common = [steps[0] for steps in takewhile(lambda steps: len(set(steps)) == 1, paths)]
    while common and not any(character.isdigit() for character in common[-1]):
        common.pop()
    return ".".join(common)


def _module_table(modules: tuple[ModuleSummary, ...]) -> Table:
    rows = []
    for item in modules:
        main = item.main_tensors
        rows.append(
            (
                label_of(item),
                item.module_class,
                shape_text(item.output, item.largest_output),
                shape_text(main[0].shape, main[1].shape) if main else "",
                f"{item.params:,}" if item.params else "",
                f"{item.macs:,}" if item.macs else "",
                _prunable(*main) if main else "",
            )
        )
    headings = ("module", "class", "output", "weight", "parameters", "MACs", "can be pruned")
    return Table(headings, tuple(rows), frozenset({4, 5}), tuple(item.level for item in modules))


def label_of(item: ModuleSummary) -> str:
    """What stands in the first column: the last part of the path, and whether the module goes."""
    name = item.name or "(the model)"
    return f"{name} (dropped)" if item.dropped else name


def _prunable(smallest: TensorSummary, largest: TensorSummary) -> str:
    """The dimensions of a tensor that hold groups, with their roles."""
    dims: dict[str, list[str]] = {}
    for dim, pair in enumerate(zip(smallest.axes, largest.axes, strict=True)):
        if pair[1].groups:
            dims.setdefault(_roles(*pair), []).append(str(dim))
    return "; ".join(f"{', '.join(numbers)}: {roles}" for roles, numbers in dims.items())


def _roles(smallest: AxisSummary, largest: AxisSummary) -> str:
    """The roles of the groups in a dimension, with their sizes where they are several; of modules that differ without."""
    low, high = len(smallest.groups), len(largest.groups)
    if low != high or high > _MOST_ROLES:
        return f"{_range(low, high)} groups"
    alone = high == 1 and largest.groups[0][1] == largest.size
    same = smallest.size == largest.size and smallest.groups == largest.groups and not alone
    return " x ".join(f"{role} {size}" if same else role for role, size in largest.groups)


def shape_text(shape: tuple[int, ...], largest: tuple[int, ...] | None = None) -> str:
    """A shape as text, such as ``64x3x7x7``, or that of several tensors.

    >>> shape_text((128, 64, 1, 1), (128, 224, 1, 1))
    '128x64…224x1x1'
    """
    return "x".join(map(_range, shape, shape if largest is None else largest))


def _range(low: int, high: int) -> str:
    return str(low) if low == high else f"{low}…{high}"


def _pinned_line(item: PinnedSummary) -> str:
    count = f"{item.params:,} parameters: " if item.params else ""
    shown = ", ".join(item.axes[:_SHOWN_AXES])
    more = f" and {len(item.axes) - _SHOWN_AXES} more" if len(item.axes) > _SHOWN_AXES else ""
    return f"{count}{item.reason}" + (f" ({shown}{more})" if shown else "")


def without_empty(table: Table) -> Table:
    """The table without columns that say nothing."""
    full = [column for column in range(len(table.headings)) if any(row[column] for row in table.rows)]
    rows = tuple(tuple(row[column] for column in full) for row in table.rows)
    numbers = frozenset(place for place, column in enumerate(full) if column in table.numbers)
    return Table(tuple(table.headings[column] for column in full), rows, numbers, table.levels)


def _bounded(bound: int) -> str:
    return str(bound) if bound > 1 else ""


def times(count: int) -> str:
    """How many things a row stands for, where it stands for several."""
    return str(count) if count > 1 else ""


def several(count: int, noun: str) -> str:
    """A number with its noun.

    >>> several(1, "group"), several(1000, "group")
    ('1 group', '1,000 groups')
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
