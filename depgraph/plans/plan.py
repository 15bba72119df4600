"""Pruning plans: what to remove, as data. A plan returns new graphs, composes, and is enough to prune a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from difflib import get_close_matches
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeVar

from attrs import evolve, field, frozen

from depgraph import codec
from depgraph.algebra.index_maps import image
from depgraph.algebra.indices import IndexSet
from depgraph.algebra.ragged_sets import RaggedSet, Removal, ragged_image
from depgraph.algebra.spaces import Atom, Space, atoms, substitute
from depgraph.errors import MismatchError, PlanError
from depgraph.graph.arguments import check_graph
from depgraph.graph.branches import Branch
from depgraph.graph.canonical import shrunk_and_numbered
from depgraph.graph.drops import Drop, drop_problems, naming, renaming, without
from depgraph.graph.graph import Graph
from depgraph.graph.records import FreeAxis, UnreadAttribute
from depgraph.messages import shortened
from depgraph.plans.checking import check, edit_problems
from depgraph.plans.implied import (
    balance_problems,
    free_axes,
    index_problems,
    moved_indices,
    shorter_axes,
    smaller_atom,
    smaller_sizes,
)

if TYPE_CHECKING:
    from depgraph.execution.inversion import TensorDict, Tensors
    from depgraph.plans.algebra import PlanDifference
    from depgraph.plans.summary import PlanSummary

K = TypeVar("K", int, str)
V = TypeVar("V")


@frozen
class Cut:
    """The indices that one group loses, counted as in the base graph.

    Attributes:
        group: name of the group.
        atom: its identity in the graph's spaces.
        removed: the indices that go. Where each index of a base loses its own, such as each head its own dims: flat indices
            of the product of the base and the atom, row * size + index.
        base: the atom whose indices are the rows; None where the same indices go everywhere.

    >>> import torch, depgraph as dg
    >>> graph = dg.trace(torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2)), torch.zeros(1, 4))
    >>> dg.cut(graph, "0.weight", [2, 6], dim=0).cuts
    (Cut(group='0.weight:0', atom=Atom(id=0, size=8), removed=IndexSet('2,6'), base=None),)
    """

    group: str
    atom: Atom
    removed: IndexSet
    base: Atom | None = field(default=None, metadata=codec.LATE)

    @property
    def removal(self) -> Removal:
        """What goes: the indices, or, where each row loses its own, the rows."""
        return self.removed if self.base is None else RaggedSet.of_flat(self.base, self.atom.size, self.removed)

    @property
    def count(self) -> int:
        """By how many indices the group becomes smaller."""
        return len(self.removal)


@frozen
class PrunedAxis:
    """An axis of a parameter or buffer that a cut reaches.

    Attributes:
        tensor: dotted name of the parameter or buffer.
        dim: its dimension.
        space: the space of that axis in the base graph.

    >>> import torch, depgraph as dg
    >>> graph = dg.trace(torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2)), torch.zeros(1, 4))
    >>> plan = dg.cut(graph, "0.weight", [2, 6], dim=0)
    >>> plan.axes[0]
    PrunedAxis(tensor='0.bias', dim=0, space=Atom(id=0, size=8))
    >>> [(axis.tensor, axis.dim) for axis in plan.axes]
    [('0.bias', 0), ('0.weight', 0), ('1.weight', 1)]
    """

    tensor: str
    dim: int
    space: Space


@frozen
class Edit:
    """An integer attribute that follows the size of an axis.

    Attributes:
        path: its dotted path from the model.
        old: its value before the plan.
        new: its value after it.

    >>> import torch, depgraph as dg
    >>> graph = dg.trace(torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2)), torch.zeros(1, 4))
    >>> dg.cut(graph, "0.weight", [2, 6], dim=0).edits
    (Edit(path='0.out_features', old=8, new=6), Edit(path='1.in_features', old=8, new=6))
    """

    path: str
    old: int
    new: int


@frozen
class Unread:
    """An attribute that forward did not read, and that is as large as something that becomes smaller.

    Attributes:
        path: its dotted path from the model.
        value: its value, which stays unless `Plan.edit` gives it a new one.
        sizes: what it may have to be, from the smallest on: more than one where it is as large as several axes, of which
            some are cut otherwise or not at all.

    >>> import torch, depgraph as dg
    >>> class Block(torch.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.width, self.inner, self.outer = 8, torch.nn.Linear(4, 8), torch.nn.Linear(8, 2)
    ...     def forward(self, x):
    ...         return self.outer(self.inner(x))
    >>> dg.cut(dg.trace(Block(), torch.zeros(1, 4)), "inner.weight", [2, 6], dim=0).unread
    (Unread(path='width', value=8, sizes=(6,)),)
    """

    path: str
    value: int
    sizes: tuple[int, ...]


@frozen
class Target:
    """A budget that a plan was made for.

    Attributes:
        name: ``params``, ``active_params``, ``macs``, ``memory`` or ``latency``.
        requested: the most that was to remain, as a number of parameters, MACs or bytes, or in the latency model's unit.
        realised: what the plan's result costs.

    >>> import torch, depgraph as dg
    >>> graph = dg.trace(torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2)), torch.zeros(1, 4))
    >>> dg.plan(graph, {"0.weight:0": range(8)}, params=40).targets        # 58 parameters, 7 for each index
    (Target(name='params', requested=40, realised=37),)
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
        renumbered: (number in the result, number in the base) of atoms whose number changes because a size became 1; of all
            atoms where elements of lists go.
        renamed: (name in the result, name in the base) of groups, likewise.
        targets: the budgets that it was made for, with what it comes to. They say why, not what: equality leaves them out.
        added: paths of the edits that `edit` added, which do not follow from the cuts.
        unread_attributes: what `unread` looks at: attributes that forward did not read, with what they may count. Equality
            leaves them out.
        tied: names of one parameter each, of those that the plan cuts: a checkpoint may store it under any of them. Equality
            leaves them out.
        drops: the elements that leave lists of modules. All names are those of the base; `name_after` has the new ones.
        free: axes of the model's inputs, outputs and vocabularies that become shorter: who calls the model must follow.
        moves: edits of attributes that stand for an index of a vocabulary, such as ``padding_idx``: those before it go.
        branches: the residual branches that leave: in the places of their modules stand ones that add nothing.
        stricter: elements that go and may alone have split, tied or pinned axes of what stays, each with what speaks for it.
            The result still says what they said, so it may forbid what a trace of the pruned model allows: to go on from
            there, trace that model. Where it is empty, the result is that trace. Equality leaves it out.

    >>> import torch, depgraph as dg
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> graph = dg.trace(model, torch.zeros(1, 4))
    >>> plan = dg.cut(graph, "0.weight", [2, 6], dim=0)
    >>> print(plan)
    <Plan: 1 groups, 3 axes, 2 attributes>
      0.weight:0: 2 of 8 indices go
    >>> plan.kept["2.weight"][1], plan.apply(graph).params, graph.params
    (IndexSet('0-1,3-5,7'), 44, 58)
    >>> again = dg.cut(plan.apply(graph), "0.weight", [0, 2], dim=0)       # of what is left: the indices 0 and 3
    >>> dict(plan.then(again).removed)
    {'0.weight:0': IndexSet('0,2-3,6')}
    >>> plan.then(again).apply(graph) == again.apply(plan.apply(graph))
    True
    """

    base: str
    result: str
    cuts: tuple[Cut, ...] = ()
    axes: tuple[PrunedAxis, ...] = ()
    edits: tuple[Edit, ...] = ()
    renumbered: tuple[tuple[int, int], ...] = ()
    renamed: tuple[tuple[str, str], ...] = ()
    targets: tuple[Target, ...] = field(default=(), eq=False)
    added: tuple[str, ...] = field(default=(), metadata=codec.LATE)
    unread_attributes: tuple[UnreadAttribute, ...] = field(default=(), eq=False, metadata=codec.LATE)
    tied: tuple[tuple[str, ...], ...] = field(default=(), eq=False, metadata=codec.LATE)
    drops: tuple[Drop, ...] = field(default=(), metadata=codec.LATE)
    free: tuple[FreeAxis, ...] = field(default=(), metadata=codec.LATE)
    moves: tuple[Edit, ...] = field(default=(), metadata=codec.LATE)
    branches: tuple[Branch, ...] = field(default=(), metadata=codec.LATE)
    stricter: tuple[tuple[str, str], ...] = field(default=(), eq=False, metadata=codec.LATE)

    @classmethod
    def empty(cls, graph: Graph) -> Plan:
        """The plan that removes nothing: the unit of `then`."""
        return cls(graph.fingerprint, graph.fingerprint)

    @cached_property
    def problems(self) -> tuple[str, ...]:
        """What is wrong with the plan, one sentence each: empty unless its fields were written by hand."""
        return check(self)

    @cached_property
    def kept(self) -> Mapping[str, Mapping[int, IndexSet]]:
        """Parameter or buffer name to dimension to the original indices that stay."""
        removed: dict[Atom, Removal] = {cut.atom: cut.removal for cut in self.cuts}
        kept_of = {space: gone_from(space, removed).complement(space.size) for space in {axis.space for axis in self.axes}}
        return self._by_axis(lambda space: kept_of[space])

    @cached_property
    def kept_inputs(self) -> Mapping[str, Mapping[int, IndexSet]]:
        """Input to dimension to the original indices that stay: what is passed to the pruned model must be cut to them.

        >>> import torch, depgraph as dg
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Conv2d(4, 2, 3))
        >>> graph = dg.trace(model, torch.zeros(1, 3, 8, 8), free=["input:1"])
        >>> plan = dg.cut(graph, "input[0]", [2], dim=1)
        >>> dict(plan.kept_inputs["input[0]"])
        {1: IndexSet('0-1')}
        """
        return self._kept_of("input")

    @cached_property
    def kept_outputs(self) -> Mapping[str, Mapping[int, IndexSet]]:
        """Output to dimension to the original indices that stay, such as the classes that a pruned classifier has left."""
        return self._kept_of("output")

    @cached_property
    def kept_ids(self) -> Mapping[str, IndexSet]:
        """Table of a vocabulary to the original ids that stay: the place of an id among them is its new one."""
        return MappingProxyType({name: dims[dim] for name, dims in self._kept_of("vocabulary").items() for dim in dims})

    def _kept_of(self, kind: str) -> Mapping[str, Mapping[int, IndexSet]]:
        removed: dict[Atom, Removal] = {cut.atom: cut.removal for cut in self.cuts}
        table: dict[str, dict[int, IndexSet]] = {}
        for item in self.free:
            if item.kind == kind:
                table.setdefault(item.name, {})[item.dim] = gone_from(item.space, removed).complement(item.space.size)
        return MappingProxyType({name: MappingProxyType(dims) for name, dims in table.items()})

    @property
    def leaving(self) -> tuple[Drop | Branch, ...]:
        """What leaves as a whole: elements of lists of modules, and residual branches."""
        return (*self.drops, *self.branches)

    @property
    def writes(self) -> tuple[Edit, ...]:
        """Every integer that the plan writes to a model: sizes, and indices that move."""
        return (*self.edits, *self.moves)

    @cached_property
    def sizes(self) -> Mapping[str, Mapping[int, int]]:
        """Parameter or buffer name to dimension to the size that is expected before the plan."""
        return self._by_axis(lambda space: space.size)

    def _by_axis(self, value_of: Callable[[Space], V]) -> Mapping[str, Mapping[int, V]]:
        """Tensor to dimension to a value of the axis's space, read-only at both levels."""
        table: dict[str, dict[int, V]] = {}
        for axis in self.axes:
            table.setdefault(axis.tensor, {})[axis.dim] = value_of(axis.space)
        return MappingProxyType({name: MappingProxyType(dims) for name, dims in table.items()})

    @cached_property
    def removed(self) -> Mapping[str, IndexSet]:
        """Group name to the original indices that go; where each row loses its own, flat ones, as in `Cut`."""
        return MappingProxyType({cut.group: cut.removed for cut in self.cuts})

    @cached_property
    def unread(self) -> tuple[Unread, ...]:
        """Attributes that equal a size that changes, but that no edit reaches, because forward did not read them.

        The layers count that belong to the module that holds the attribute. Fusing a block, exchanging a classifier or saving a
        configuration may read such attributes; `edit` adds an edit of one.
        """
        edited = {edit.path for edit in self.edits}
        smaller = {cut.atom: smaller_atom(cut.atom, cut.count) for cut in self.cuts}
        result = []
        for item in self.unread_attributes:
            sizes = {substitute(space, lambda atom: smaller.get(atom, atom)).size for space in item.spaces}
            if item.path not in edited and sizes != {item.value}:
                result.append(Unread(item.path, item.value, tuple(sorted(sizes))))
        return tuple(result)

    def name_after(self, name: str) -> str | None:
        """The name that a tensor, module or attribute of the base has in the result; None if it goes.

        What lies below an element or a branch that leaves goes; a module that one that adds nothing replaces keeps its name.

        >>> import torch, depgraph as dg
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> plan = dg.drop(dg.trace(model, torch.zeros(1, 4)), "", [1])
        >>> plan.name_after("0.weight"), plan.name_after("1.inplace"), plan.name_after("2.weight"), plan.name_before("1.weight")
        ('0.weight', None, '1.weight', '2.weight')
        """
        return self._renaming(name)

    def name_before(self, name: str) -> str:
        """The name in the base of what has this name in the result."""
        return self._naming(name)

    @cached_property
    def _renaming(self) -> Callable[[str], str | None]:
        return renaming(self.leaving)

    @cached_property
    def _naming(self) -> Callable[[str], str]:
        return naming(self.drops)

    def edit(self, path: str, new: int, *, old: int | None = None) -> Plan:
        """The plan with one more edit, of an integer that forward does not read.

        Args:
            path: the attribute's dotted path from the model, such as those in `unread`.
            new: its new value, smaller than the present one, and at least 1.
            old: its present value; needed where `unread_attributes` does not have it.

        Raises:
            PlanError: the path is edited already or leads to no plain attribute, its present value is not known, or the new
                one is not smaller. All problems are told at once.

        >>> import torch, depgraph as dg
        >>> class Block(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.width, self.inner, self.outer = 8, torch.nn.Linear(4, 8), torch.nn.Linear(8, 2)
        ...     def forward(self, x):
        ...         return self.outer(self.inner(x))
        >>> model = Block()
        >>> plan = dg.cut(dg.trace(model, torch.zeros(1, 4)), "inner.weight", [2, 6], dim=0)
        >>> for attribute in plan.unread:
        ...     plan = plan.edit(attribute.path, attribute.sizes[0])
        >>> dg.execute(plan, model).width, plan.unread
        (6, ())
        """
        known = {item.path: item.value for item in self.unread_attributes}
        problems = [*_other_values(path, new, old, known)]
        if not problems:
            edited = next((edit for edit in self.edits if edit.path == path), None)
            if edited is not None:
                way = "edited by this plan already" if path in self.added else "edited by this plan, for forward reads it"
                problems = [f"attribute {shortened(repr(path))} is {way}: {edited.old} becomes {edited.new}."]
            else:
                extra = Edit(path, known.get(path, old), new)  # type: ignore[arg-type]
                problems = [f"{problem}." for problem in edit_problems([extra])]
        if problems:
            raise PlanError.of(problems)
        edits = sorted((*self.edits, extra), key=lambda edit: edit.path)
        return evolve(self, edits=tuple(edits), added=tuple(sorted((*self.added, path))))

    def edit_unread(self, *patterns: str) -> Plan:
        """The plan with an edit of each attribute in `unread` that a dotted path or glob names, such as ``*.hidden_size``.

        That an attribute is as large as an axis may be chance: so it is you who says which ones count it.

        Raises:
            PlanError: a pattern names no unread attribute, or one that may have to be of several sizes, for which `edit` takes
                the right one. All problems are told at once.

        >>> import torch, depgraph as dg
        >>> class Block(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.width, self.inner, self.outer = 8, torch.nn.Linear(4, 8), torch.nn.Linear(8, 2)
        ...     def forward(self, x):
        ...         return self.outer(self.inner(x))
        >>> model = torch.nn.Sequential(Block())
        >>> plan = dg.cut(dg.trace(model, torch.zeros(1, 4)), "0.inner.weight", [2, 6], dim=0)
        >>> dg.execute(plan.edit_unread("*.width"), model)[0].width
        6
        """
        named = {pattern: [item for item in self.unread if fnmatchcase(item.path, pattern)] for pattern in patterns}
        paths = [item.path for item in self.unread]
        problems = [
            f"{shortened(repr(pattern))} names no unread attribute; there are {', '.join(map(repr, paths[:6])) or 'none'}."
            for pattern, items in named.items()
            if not items
        ]
        chosen = {item.path: item for items in named.values() for item in items}
        problems += [
            f"{shortened(repr(path))} may have to be one of {', '.join(map(str, item.sizes))}: say which by plan.edit."
            for path, item in chosen.items()
            if len(item.sizes) != 1
        ]
        if problems:
            raise PlanError.of(problems)
        plan = self
        for path, item in chosen.items():
            plan = plan.edit(path, item.sizes[0])
        return plan

    def apply(self, graph: Graph) -> Graph:
        """The graph after the cut. The given graph does not change.

        What the plan says of itself is compared with the graph: its groups, the axes and attributes that follow from its
        cuts, and the fingerprint of the result.

        Raises:
            MismatchError: the graph is not the one that the plan was made for, or the plan promises what is not true.
        """
        check_graph(graph, "a module is pruned by dg.execute(plan, model)")
        refuse_other_graph(
            self, graph, "Trace the model that the plan was made for, with inputs of the same shape, or make a new plan."
        )
        problems = [*self.problems] or [*self._unknown_groups(graph)]
        problems = problems or [*drop_problems(graph, self.leaving)]
        if not problems:
            added = {edit.path: edit.new for edit in self.edits if edit.path in self.added}
            result = shrunk_and_numbered(graph, {cut.atom: cut.removal for cut in self.cuts}, added, self.leaving)[0]
            problems = [*self._inconsistencies(graph, result)]
        if problems:
            raise MismatchError("the plan is damaged:", problems, "Make a new plan for this graph.")
        return result

    def _unknown_groups(self, graph: Graph) -> Iterator[str]:
        """Cuts of groups, or along bases, that the graph does not have."""
        for cut in self.cuts:
            group = graph.group_of.get(cut.atom)
            if group is None or group.name != cut.group:
                yield f"the graph has no group {shortened(repr(cut.group))} of atom {cut.atom}"
            if cut.base is not None and cut.base not in graph.group_of:
                yield f"group {shortened(repr(cut.group))}: its rows are of atom {cut.base}, which is no group of the graph"

    def _inconsistencies(self, graph: Graph, result: Graph) -> Iterator[str]:
        """Axes, edits, balances and a result that do not follow from the cuts."""
        graph = without(graph, self.leaving)
        removed = {cut.atom: cut.removal for cut in self.cuts}
        yield from balance_problems(graph, removed)
        if self.axes != ordered_axes(PrunedAxis(*axis) for axis in shorter_axes(graph, removed)):
            yield "its axes are not those that its cuts reach"
        added = set(self.added)
        implied = {(edit.path, edit.old, edit.new) for edit in self.edits if edit.path not in added}
        if implied != set(smaller_sizes(graph, removed)):
            yield "its edits are not those that its cuts ask for"
        yield from index_problems(graph, removed)
        if self.free != free_axes(graph, removed):
            yield "its axes of inputs, outputs and vocabularies are not those that its cuts reach"
        if {(edit.path, edit.old, edit.new) for edit in self.moves} != set(moved_indices(graph, removed)):
            yield "its moves of indices are not those that its cuts ask for"
        for attribute in graph.attributes if added else ():
            if attribute.path in added:
                yield f"the edit of {shortened(repr(attribute.path))} was added, but forward reads this attribute as a size"
        if result.fingerprint != self.result:
            yield f"it promises the fingerprint {self.result[:12]} of its result, met {result.fingerprint[:12]}"

    def then(self, other: Plan) -> Plan:
        """One plan that does what this plan and then the other one do. Its targets are those of the last cut.

        Raises:
            MismatchError: the other plan was not made for this plan's result.
        """
        from depgraph.plans.composing import composed

        return composed(self, other)

    def diff(self, other: Plan) -> PlanDifference:
        """In what this plan and another one of the same graph differ: false where they are equal, and printed readably.

        Raises:
            MismatchError: the other plan was made for another graph.

        >>> import torch, depgraph as dg
        >>> graph = dg.trace(torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2)), torch.zeros(1, 4))
        >>> print(dg.cut(graph, "0.weight", [2, 6], dim=0).diff(dg.cut(graph, "0.weight", [2, 3, 4], dim=0)))
        <PlanDifference: 1 groups, 0 edits>
          0.weight:0: only the first removes 6; only the second removes 3-4
        """
        from depgraph.plans.algebra import difference

        return difference(self, other)

    def restrict(self, graph: Graph, patterns: str | Iterable[str], *, ignore: str | Iterable[str] = ()) -> Plan:
        """The plan that makes only the cuts of the groups that patterns name, with what follows from these cuts.

        Of the edits that `edit` added those stay that give an attribute a size that it may have to have by these cuts; others
        are to be added anew. Elements leave lists where ``*`` is among the patterns. So the rest of the plan is
        ``plan.restrict(graph, "*", ignore=patterns)``, and `merge` makes the whole of the two again.

        Args:
            graph: the graph that the plan was made for.
            patterns: which groups, as in `dg.plan(only=)`: names of groups, layers or parameters, globs, ``role:head``; ``*``
                is every group.
            ignore: groups to leave out of these, likewise.

        Raises:
            MismatchError: the plan was made for another graph.
            PlanError: a part of balanced groups, which must lose equally many indices, or a group that loses other indices
                for each index of another one, some of which the plan removes, without that one.
            UnknownNameError: a pattern names nothing in the graph.

        >>> import torch, depgraph as dg
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 6), torch.nn.Linear(6, 2))
        >>> graph = dg.trace(model, torch.zeros(1, 4))
        >>> plan = dg.plan(graph, dg.score(graph, model, dg.Magnitude()), ratio=0.5)
        >>> dict(plan.restrict(graph, "3:in").removed) == {"2.weight:0": plan.removed["2.weight:0"]}
        True
        >>> parts = [plan.restrict(graph, "3:in"), plan.restrict(graph, "*", ignore="3:in")]
        >>> dg.merge(graph, parts) == plan
        True
        """
        from depgraph.plans.algebra import restricted

        return restricted(graph, self, patterns, ignore)

    def rebase(self, graph: Graph, onto: Plan) -> Plan:
        """What is left to do of this plan when another plan of the same graph has been applied meanwhile, in its numbers.

        Whichever of the two comes first, both together come to the same: ``onto.then(plan.rebase(graph, onto))`` is
        ``plan.then(onto.rebase(graph, plan))``. What both remove goes once.

        Args:
            graph: the graph that both were made for.
            onto: the plan that was applied.

        Raises:
            MismatchError: one of them was made for another graph.
            PlanError: both together remove more than a group allows, or balanced groups lose unequally many indices.

        >>> import torch, depgraph as dg
        >>> graph = dg.trace(torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2)), torch.zeros(1, 4))
        >>> plan, onto = (dg.cut(graph, "0.weight", indices, dim=0) for indices in ([2, 6], [0, 2]))
        >>> dict(plan.rebase(graph, onto).removed)                  # what was 6 is 4 by now
        {'0.weight:0': IndexSet('4')}
        """
        from depgraph.plans.algebra import rebased

        return rebased(graph, self, onto)

    def invert(self, small: Tensors, fill: float | Tensors = 0.0) -> TensorDict:
        """Pruned tensors back in full-size ones, each number in the place from which it came; for growing back and comparing.

        Executing the plan on the result gives the pruned tensors again. Tensors that the plan does not cut are handed on as
        they are; none is written to. Names are those before the plan; of elements that left a list the tensors are those of
        `fill`, if it has them.

        Args:
            small: what is left: the pruned module, or a mapping from names to tensors such as its state dict.
            fill: what stands in the other places: a number, or the tensors from before the plan, by name or as a module.

        Raises:
            MismatchError: tensors that the plan cuts are missing, or have other sizes than it leaves; all are listed.
            PlanError: arguments of another kind.

        >>> import torch, depgraph as dg
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.Linear(4, 1))
        >>> plan = dg.cut(dg.trace(model, torch.zeros(1, 2)), "0.weight", [1, 2], dim=0)
        >>> plan.invert({"0.weight": torch.ones(2, 2), "0.bias": torch.ones(2), "1.weight": torch.ones(1, 2)}, fill=7)["0.bias"]
        tensor([1., 7., 7., 1.])
        >>> small = dg.execute(plan, model)
        >>> torch.equal(plan.invert(small, fill=model)["1.weight"], model[1].weight)
        True
        """
        from depgraph.execution.inversion import inverted

        return inverted(self, small, fill)

    def save(self, path: str | Path) -> None:
        """Write the plan as JSON, in the form that docs/plan-format.md describes; whole or not at all, and without code."""
        from depgraph.plans.plan_files import dumps

        codec.write_text(path, dumps(self))

    @classmethod
    def load(cls, path: str | Path) -> Plan:
        """Read what `save` wrote, now or with version 1 of the format.

        Raises:
            DocumentError: the file is damaged, edited, foreign or of another version.
        """
        from depgraph.plans.plan_files import loads

        return loads(codec.read_text(path, "plan"), str(path))

    def summary(self, graph: Graph, depth: int | None = None) -> PlanSummary:
        """What the plan does to a graph, as data and, printed, as a table: the tree of modules before and after it.

        Args:
            graph: the graph that it was made for.
            depth: how many levels of modules are shown; None: all.

        Raises:
            MismatchError: the plan was made for another graph, or is damaged.
            PlanError: `depth` is no such number.

        >>> import torch, depgraph as dg
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> graph = dg.trace(model, torch.zeros(1, 4))
        >>> plan = dg.plan(graph, {"0.weight:0": range(8)}, params=40)
        >>> print(plan.summary(graph))
        parameters 58 -> 37 (63.8%), MACs 48 -> 30 (62.5%)
          params: 37 of at most 40
        <BLANKLINE>
        module  class   weight  after  parameters  after  MACs  after
        0       Linear  8x4     5x4            40     25    32     20
        1       ReLU
        2       Linear  2x8     2x5            18     12    16     10
        <BLANKLINE>
        group       role     size  after   kept
        0.weight:0  channel     8      5  62.5%
        <BLANKLINE>
        attributes
          0.out_features: 8 -> 5
          2.in_features: 8 -> 5
        """
        from depgraph.plans.summary import summary_of

        return summary_of(self, graph, depth)

    def __str__(self) -> str:
        from depgraph.plans.summary import lines_of

        return "".join(f"{line}\n" for line in lines_of(self)).rstrip("\n")

    def __repr__(self) -> str:
        drops = f", {len(self.drops)} shorter lists" if self.drops else ""
        branches = f", {len(self.branches)} branches" if self.branches else ""
        return f"<Plan: {len(self.cuts)} groups, {len(self.axes)} axes, {len(self.edits)} attributes{drops}{branches}>"

    def _repr_html_(self) -> str:
        from depgraph.plans.summary import PlanLines

        return PlanLines(self)._repr_html_()


def refuse_other_graph(plan: Plan, graph: Graph, fix: str) -> None:
    """Raise `MismatchError` if the plan was made for another graph; `fix` says what to do."""
    if graph.fingerprint != plan.base:
        problem = f"expected fingerprint {plan.base[:12]}, met {graph.fingerprint[:12]}"
        raise MismatchError("the plan was made for another graph:", [problem], fix)


def cuts_of(removals: Mapping[Atom, Removal], groups: Mapping[Atom, str]) -> tuple[Cut, ...]:
    """Removals as cuts of named groups, in the order of the atoms."""
    cuts = []
    for atom, removal in removals.items():
        flat, base = (removal.flat(atom.size), removal.base) if isinstance(removal, RaggedSet) else (removal, None)
        cuts.append(Cut(groups[atom], atom, flat, base))
    return tuple(sorted(cuts, key=lambda cut: cut.atom.id))


def gone_from(space: Space, removed: Mapping[Atom, Removal]) -> IndexSet:
    """The flat indices of a space that go."""
    parts = {atom: removal for atom in atoms(space) if (removal := removed.get(atom)) is not None}
    gone = image(space, {atom: removal for atom, removal in parts.items() if isinstance(removal, IndexSet)})
    for atom, rows in parts.items():
        if isinstance(rows, RaggedSet):
            gone = gone | ragged_image(space, atom, rows)
    return gone


def _other_values(path: object, new: object, old: object, known: Mapping[str, int]) -> Iterator[str]:
    """What is wrong with the arguments of `Plan.edit`, before the edit itself is looked at."""
    if type(path) is not str:
        yield f"expected the path of an attribute, such as 'layer1.0.width', met {path!r}."
        return
    if type(new) is not int:
        yield f"expected the new value of {shortened(repr(path))} as a whole number, met {new!r}."
    if old is None and path not in known:
        near = get_close_matches(path, known, 3)
        hint = f"did you mean {', '.join(map(repr, near))}? Else give" if near else "give"
        yield f"this plan does not know the present value of {shortened(repr(path))}: {hint} it with old=."
    elif old is not None and (type(old) is not int or known.get(path, old) != old):
        expected = known.get(path, "a whole number")
        yield f"expected the present value of {shortened(repr(path))} to be {expected}, met old={old!r}."


def ordered_axes(axes: Iterable[PrunedAxis]) -> tuple[PrunedAxis, ...]:
    """Axes by tensor and dimension, so that equal plans are equal values."""
    return tuple(sorted(axes, key=lambda axis: (axis.tensor, axis.dim)))
