"""The modules of a graph as rows of a table: a tree in which those are one row that repeat."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from attrs import Factory, define, evolve, field, frozen

from depgraph.algebra.numbers import is_whole
from depgraph.algebra.spaces import Space, atoms
from depgraph.errors import PlanError
from depgraph.graph.folding import continues, ranged
from depgraph.graph.groups import Role, reasons_of
from depgraph.graph.modules import Module, modules_of

if TYPE_CHECKING:
    from depgraph.graph.graph import Graph

Rename = Callable[[str], "str | None"]

_SEQUENCE = 3
"""So many modules of different widths are folded at least: two say more by themselves than their range does."""


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
    """A module, or several that follow one another, whose names differ in a number alone.

    They are alike, or three and more of equal structure that return the same shape and differ in the widths inside, as the
    layers of a DenseNet do.

    Attributes:
        path: its dotted path, with ranges such as ``layers.0-31.mlp`` or ``denseblock1.denselayer1-6``.
        module_class: name of its class; empty where no operator ran in it but inside of its submodules.
        level: how many modules are around it.
        count: how many modules it stands for.
        output: the shape of what it returns; of several values that of the first. Empty where nothing reads it.
            Of modules that differ, the smallest sizes.
        tensors: its own parameters and buffers. Of modules that differ, with the smallest sizes.
        params: elements of the parameters of all these modules and their submodules; tied ones count once.
        params_after: likewise, after a plan.
        macs: multiply-accumulates of all of them.
        macs_after: likewise, after a plan.
        dropped: whether it leaves a list of modules by a plan.
        largest_output: of modules that differ, the largest sizes; else `output`.
        largest_tensors: of modules that differ, the tensors with the largest sizes and the most groups; else `tensors`.
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
    largest_output: tuple[int, ...] = field(default=Factory(lambda self: self.output, takes_self=True))
    largest_tensors: tuple[TensorSummary, ...] = field(default=Factory(lambda self: self.tensors, takes_self=True))

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition(".")[2]

    @property
    def main_tensor(self) -> TensorSummary | None:
        """The largest of its own parameters; None if it has none."""
        return self.main_tensors[0] if self.main_tensors else None

    @property
    def main_tensors(self) -> tuple[TensorSummary, TensorSummary] | None:
        """The same with the smallest sizes and with the largest."""
        own = [pair for pair in zip(self.tensors, self.largest_tensors, strict=True) if pair[0].kind == "parameter"]
        return max(own, key=lambda pair: _product(pair[0].shape), default=None)


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
    """A module with its submodules, or several.

    Attributes:
        first: the name of the first of them in the module around it.
        last: the name of the last of them.
        summary: the row of all of them.
        children: their submodules.
        like: what modules that are alike have in common.
        structure: what modules that differ in widths alone have in common.
    """

    first: str
    last: str
    summary: ModuleSummary
    children: list[_Branch]
    like: Hashable
    structure: Hashable

    @property
    def name(self) -> str:
        """What it is called in the module around it."""
        return ranged(self.first, self.last)


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
        name = path.rpartition(".")[2]
        like = (_without_names(summary), tuple((child.name, child.like) for child in children))
        structure = (_without_sizes(summary), tuple((child.name, child.structure) for child in children))
        return _Branch(name, name, summary, children, like, structure)

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
    return evolve(item, path="", tensors=tensors, largest_tensors=tensors)


def _without_sizes(item: ModuleSummary) -> Hashable:
    """What modules have in common that differ in widths alone: kinds of tensors, and roles of groups in their dimensions."""
    tensors = tuple(
        (
            tensor.name,
            tensor.kind,
            tensor.tied,
            tuple((frozenset(dict(axis.groups)), bool(axis.pinned)) for axis in tensor.axes),
        )
        for tensor in item.tensors
    )
    return item.module_class, len(item.output), item.dropped, tensors


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


def _joined(branches: Iterable[_Branch]) -> list[_Branch]:
    """Branches with those as one whose names follow one another: those that are alike, then those that differ in widths."""
    alike = [_as_one(run) for run in _runs(branches, lambda one, other: one.like == other.like)]
    runs = _runs(alike, _differ_in_widths)
    return [
        branch for run in runs for branch in ([_as_one(run)] if sum(item.summary.count for item in run) >= _SEQUENCE else run)
    ]


def _runs(branches: Iterable[_Branch], fit: Callable[[_Branch, _Branch], bool]) -> list[list[_Branch]]:
    """Branches by names that follow one another, of which each one fits the one before."""
    runs: list[list[_Branch]] = []
    for branch in branches:
        run = runs[-1] if runs else []
        if run and continues(run[0].first, run[-1].last, branch.first) and fit(run[-1], branch):
            run.append(branch)
        else:
            runs.append([branch])
    return runs


def _differ_in_widths(one: _Branch, other: _Branch) -> bool:
    """Whether two modules with submodules return the same shape, and what differs in them did so before a plan."""
    same = bool(one.children) and one.summary.output == other.summary.output and one.structure == other.structure
    return same and _alike_where_equal(one, other)


def _alike_where_equal(one: _Branch, other: _Branch) -> bool:
    """Whether a plan leaves as much of dimensions that have the same size."""
    pairs = zip(one.summary.tensors, other.summary.tensors, strict=True)
    axes = [pair for left, right in pairs for pair in zip(left.axes, right.axes, strict=True)]
    children = zip(one.children, other.children, strict=True)
    return all(left.size != right.size or left.after == right.after for left, right in axes) and all(
        _alike_where_equal(left, right) for left, right in children
    )


def _as_one(run: list[_Branch]) -> _Branch:
    """Branches of one structure as one, which has the sums of their numbers and the ranges of their sizes."""
    if len(run) == 1:
        return run[0]
    items = [branch.summary for branch in run]
    sums = {
        name: sum(getattr(item, name) for item in items) for name in ("count", "params", "params_after", "macs", "macs_after")
    }
    summary = evolve(
        items[0],
        output=_extreme(min, [item.output for item in items]),
        largest_output=_extreme(max, [item.largest_output for item in items]),
        tensors=_extreme_tensors(min, [item.tensors for item in items]),
        largest_tensors=_extreme_tensors(max, [item.largest_tensors for item in items]),
        **sums,
    )
    children = [_as_one(list(same)) for same in zip(*(branch.children for branch in run), strict=True)]
    like = run[0].like if all(branch.like == run[0].like for branch in run) else tuple(branch.like for branch in run)
    return evolve(run[0], last=run[-1].last, summary=summary, children=children, like=like)


def _extreme(of: Callable[[Iterable[int]], int], shapes: Iterable[tuple[int, ...]]) -> tuple[int, ...]:
    return tuple(of(sizes) for sizes in zip(*shapes, strict=True))


def _extreme_tensors(of: Callable[..., int], modules: Iterable[tuple[TensorSummary, ...]]) -> tuple[TensorSummary, ...]:
    """The tensors of modules of one structure, with the smallest or largest sizes."""
    return tuple(
        evolve(
            tensors[0],
            axes=tuple(
                evolve(
                    axes[0],
                    size=of(axis.size for axis in axes),
                    after=of(axis.after for axis in axes),
                    groups=of((axis.groups for axis in axes), key=_roles_first),
                )
                for axes in zip(*(tensor.axes for tensor in tensors), strict=True)
            ),
        )
        for tensors in zip(*modules, strict=True)
    )


def _roles_first(groups: tuple[tuple[Role, int], ...]) -> tuple[int, tuple[int, ...]]:
    """The order of the groups of one dimension in several modules: by how many they are, then by their sizes."""
    return len(groups), tuple(size for _, size in groups)


def _rows(branch: _Branch, level: int, path: str, depth: int | None) -> Iterator[ModuleSummary]:
    yield evolve(branch.summary, path=path, level=level)
    if depth is None or level + 1 < depth:
        for child in branch.children:
            yield from _rows(child, level + 1, f"{path}.{child.name}", depth)


def _product(sizes: tuple[int, ...]) -> int:
    count = 1
    for size in sizes:
        count *= size
    return count
