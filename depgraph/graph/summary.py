"""A graph as a table to look at: its modules as a tree with repeated layers folded, its groups, and what is pinned."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from itertools import groupby
from typing import TYPE_CHECKING

from attrs import define, evolve, field, frozen

from depgraph.algebra.numbers import is_whole
from depgraph.algebra.spaces import Space, atoms
from depgraph.errors import PlanError
from depgraph.graph.folding import folded, is_position
from depgraph.graph.groups import Role, reasons_of
from depgraph.graph.modules import Module, modules_of
from depgraph.graph.tables import Section, Shown, Table, listed

if TYPE_CHECKING:
    from depgraph.graph.graph import Graph

Rename = Callable[[str], "str | None"]

_SHOWN_AXES = 3
_PLACE = re.compile(r" \([^()]* in [^()]*\)$")
"""Where a reason comes from: the operator, the module and the line. It differs from layer to layer."""


@frozen
class AxisSummary:
    """A dimension of a parameter or buffer.

    Attributes:
        size: number of indices.
        after: how many of them a plan leaves; `size` without a plan.
        groups: role and size of each group in it.
        pinned: why it, or a part of it, is pinned; empty if nothing of it is.
    """

    size: int
    after: int
    groups: tuple[tuple[Role, int], ...]
    pinned: str


@frozen
class TensorSummary:
    """A parameter or buffer of a module.

    Attributes:
        name: its name inside of the module.
        kind: ``parameter`` or ``buffer``.
        axes: its dimensions.
        tied: whether it is one tensor with another one that comes first, and counts there.
    """

    name: str
    kind: str
    axes: tuple[AxisSummary, ...]
    tied: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """Its sizes."""
        return tuple(axis.size for axis in self.axes)

    @property
    def after(self) -> tuple[int, ...]:
        """Its sizes after a plan."""
        return tuple(axis.after for axis in self.axes)


@frozen
class ModuleSummary:
    """A module, or several that are alike and follow one another, which differ in their numbers alone.

    Attributes:
        path: its dotted path, with ranges such as ``layers.0-31.mlp``.
        module_class: name of its class; empty where no operator ran in it but inside of its submodules.
        level: how many modules are around it.
        count: how many modules it stands for.
        output: the shape of what it returns; of several values that of the first. Empty where nothing reads it.
        tensors: its own parameters and buffers: those of the first of them.
        params: elements of the parameters of all these modules and their submodules; tied ones count once.
        params_after: likewise, after a plan.
        macs: multiply-accumulates of all of them.
        macs_after: likewise, after a plan.
        dropped: whether it leaves a list of modules by a plan.
    """

    path: str
    module_class: str
    level: int
    count: int
    output: tuple[int, ...]
    tensors: tuple[TensorSummary, ...]
    params: int
    params_after: int
    macs: int
    macs_after: int
    dropped: bool = False

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition(".")[2]

    @property
    def main_tensor(self) -> TensorSummary | None:
        """The largest of its own parameters; None if it has none."""
        own = [tensor for tensor in self.tensors if tensor.kind == "parameter"]
        return max(own, key=lambda tensor: _product(tensor.shape), default=None)


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


def module_summaries(
    graph: Graph, depth: int | None, result: Graph | None = None, name_after: Rename = str
) -> tuple[ModuleSummary, ...]:
    """The tree of modules, those that are alike folded, down to a depth.

    Args:
        graph: the graph.
        depth: how many levels are shown; None: all.
        result: the graph after a plan.
        name_after: the name in it for a name in the graph; None for what is gone.
    """
    if depth is not None and not is_whole(depth, least=1):
        raise PlanError(f"expected depth= as the number of levels to show, at least 1, met {depth!r}.")
    before = modules_of(graph)
    after = before if result is None else modules_of(result)
    tree = _Tree(graph, result, name_after, before, after, _names_below(before))
    rows = [row for child in tree.children("") for row in _rows(child, 0, child.name, depth)]
    model = before[""]
    if model.tensors or model.macs:  # what belongs to the model itself and to none of its modules
        rows.insert(0, tree.row("", ()))
    return tuple(rows)


@define
class _Branch:
    """A module with its submodules, or several alike; `like` is what they have in common."""

    name: str
    summary: ModuleSummary
    children: list[_Branch]
    like: Hashable = field(default=None)


@frozen
class _Tree:
    """Builds the branches of a graph's modules, before and after a plan."""

    graph: Graph
    result: Graph | None
    name_after: Rename
    before: Mapping[str, Module]
    after: Mapping[str, Module]
    names: Mapping[str, list[str]]

    def children(self, path: str) -> list[_Branch]:
        """The submodules of a module, those that are alike as one."""
        return _joined([self._branch(f"{path}.{name}" if path else name) for name in self.names.get(path, ())])

    def _branch(self, path: str) -> _Branch:
        children = self.children(path)
        summary = self.row(path, [child.summary for child in children])
        alike = (_without_names(summary), tuple((child.name, child.like) for child in children))
        return _Branch(path.rpartition(".")[2], summary, children, alike)

    def row(self, path: str, below: Iterable[ModuleSummary]) -> ModuleSummary:
        """The row of one module, with what its submodules add to its numbers."""
        module = self.before[path]
        path_after = self.name_after(path)
        small = None if path_after is None else self.after.get(path_after)
        own = (module.params, small.params if small else 0, module.macs, small.macs if small else 0)
        numbers = [(item.params, item.params_after, item.macs, item.macs_after) for item in below]
        params, params_after, macs, macs_after = (sum(column) for column in zip(own, *numbers, strict=True))
        tensors = tuple(self._tensor(path, name) for name in module.tensors)
        return ModuleSummary(
            path=path,
            module_class=module.module_class,
            level=0,
            count=1,
            output=module.output,
            tensors=tensors,
            params=params,
            params_after=params_after,
            macs=macs,
            macs_after=macs_after,
            dropped=path_after is None,
        )

    def _tensor(self, path: str, local: str) -> TensorSummary:
        tensor, name = self.before[path].tensors[local], f"{path}.{local}" if path else local
        name_after = self.name_after(name)
        sizes = tensor.shape if self.result is None else _shape(self.result, name_after, len(tensor.axes))
        axes = tuple(self._axis(space, size) for space, size in zip(tensor.axes, sizes, strict=True))
        return TensorSummary(local, tensor.kind, axes, name != tensor.name)

    def _axis(self, space: Space, after: int) -> AxisSummary:
        groups = [self.graph.group_of[atom] for atom in dict.fromkeys(atoms(space)) if atom in self.graph.group_of]
        roles = tuple((group.role, group.size) for group in groups)
        return AxisSummary(space.size, after, roles, "; ".join(reasons_of(space, self.graph.reasons)))


def _without_names(item: ModuleSummary) -> Hashable:
    """What modules that are alike have in common. Reasons tell the layer, so that only whether there is one counts."""
    tensors = tuple(
        evolve(tensor, axes=tuple(evolve(axis, pinned="pinned" if axis.pinned else "") for axis in tensor.axes))
        for tensor in item.tensors
    )
    return evolve(item, path="", tensors=tensors)


def _names_below(paths: Iterable[str]) -> dict[str, list[str]]:
    names: dict[str, list[str]] = {}
    for path in paths:
        if path:
            above, _, name = path.rpartition(".")
            names.setdefault(above, []).append(name)
    return names


def _shape(graph: Graph, name: str | None, dims: int) -> tuple[int, ...]:
    """A tensor's sizes after a plan; those of one that is gone are 0."""
    return graph.tensor(name).shape if name is not None and name in graph.by_name else (0,) * dims


def _joined(branches: list[_Branch]) -> list[_Branch]:
    """Branches with those as one that are alike and are called by numbers that follow one another."""
    numbered = enumerate(branches)

    def run(item: tuple[int, _Branch]) -> Hashable:
        place, branch = item
        return (branch.like, int(branch.name) - place) if is_position(branch.name) else (branch.name, None)

    joined: list[_Branch] = []
    for _, group in groupby(numbered, key=run):
        members = [branch for _, branch in group]
        first = members[0]
        if len(members) > 1:
            first = evolve(_times_as_many(first, len(members)), name=f"{first.name}-{members[-1].name}")
        joined.append(first)
    return joined


def _times_as_many(branch: _Branch, count: int) -> _Branch:
    item = branch.summary
    numbers = {name: getattr(item, name) * count for name in ("count", "params", "params_after", "macs", "macs_after")}
    children = [_times_as_many(child, count) for child in branch.children]
    return evolve(branch, summary=evolve(item, **numbers), children=children)


def _rows(branch: _Branch, level: int, path: str, depth: int | None) -> Iterator[ModuleSummary]:
    yield evolve(branch.summary, path=path, level=level)
    if depth is None or level + 1 < depth:
        for child in branch.children:
            yield from _rows(child, level + 1, f"{path}.{child.name}", depth)


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
        axes.setdefault(_PLACE.sub("", item.reason), []).append((f"{item.tensor}:{item.dim}", None))
    elements: dict[str, int] = {}
    for reason, count in graph.coverage.pinned:
        elements[_PLACE.sub("", reason)] = elements.get(_PLACE.sub("", reason), 0) + count
    reasons = dict.fromkeys((*elements, *axes))
    return tuple(
        PinnedSummary(reason, tuple(item.name for item in folded(axes.get(reason, ()))), elements.get(reason, 0))
        for reason in reasons
    )


def _limits(graph: Graph) -> Iterator[str]:
    """A sentence for each balance, each lower bound and each multiple."""
    sentences = []
    for balance in graph.balances:
        names = ", ".join(graph.group_of[atom].name for atom in balance.atoms)
        sentences.append(f"{names} lose equally many indices: {balance.reason}")
    for bound in graph.lower_bounds:
        if bound.atom in graph.group_of:
            sentences.append(f"{graph.group_of[bound.atom].name} keeps at least {bound.size} indices: {bound.reason}")
    for item in graph.multiples:
        if item.atom in graph.group_of:
            sentences.append(f"{graph.group_of[item.atom].name} keeps a multiple of {item.of} indices: {item.reason}")
    yield from dict.fromkeys(sentences)


def _module_table(modules: tuple[ModuleSummary, ...]) -> Table:
    rows = tuple(
        (
            label_of(item),
            item.module_class,
            shape_text(item.output),
            shape_text(item.main_tensor.shape) if item.main_tensor else "",
            f"{item.params:,}" if item.params else "",
            f"{item.macs:,}" if item.macs else "",
            _prunable(item.main_tensor) if item.main_tensor else "",
        )
        for item in modules
    )
    headings = ("module", "class", "output", "weight", "parameters", "MACs", "can be pruned")
    return Table(headings, rows, frozenset({4, 5}), tuple(item.level for item in modules))


def label_of(item: ModuleSummary) -> str:
    """What stands in the first column: the last part of the path, and whether the module goes."""
    name = item.name or "(the model)"
    return f"{name} (dropped)" if item.dropped else name


def _prunable(tensor: TensorSummary) -> str:
    """The dimensions of a tensor that hold groups, with their roles."""
    told = []
    for dim, axis in enumerate(tensor.axes):
        if axis.groups:
            alone = len(axis.groups) == 1 and axis.groups[0][1] == axis.size
            parts = [role if alone else f"{role} {size}" for role, size in axis.groups]
            told.append(f"{dim}: {' x '.join(parts) if len(parts) < 5 else f'{len(parts)} groups'}")
    return "; ".join(told)


def shape_text(shape: tuple[int, ...]) -> str:
    """A shape as text, such as ``64x3x7x7``."""
    return "x".join(map(str, shape))


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


def _product(sizes: tuple[int, ...]) -> int:
    count = 1
    for size in sizes:
        count *= size
    return count
