"""Which groups may lose other indices in each block of another group, such as other head dims in each head.

A group D may be ragged along a group B, its base, if every operator treats each index of B by itself wherever D
occurs. Then the operator on the part of one index of B is the operator itself with B cut down to that index, for which
any cut of D is exact; and the parts stand side by side as before, because each has lost as many. So it is required that

- every place of D in a tensor has B around it in the same axis, or in another axis of the tensor, once;
- no operator that D reaches holds B twice in a tensor or a cost, where it would pair one index of B with another;
- the operator states what it mixes (its traits), and that is not B, or D and B are one axis for it.

All of this is read off the graph. A group for which it is not known is uniform: all rows lose the same indices.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import product as all_choices

from depgraph.algebra.index_maps import Summand, summands
from depgraph.algebra.spaces import Atom, Space, atoms
from depgraph.errors import UnknownNameError
from depgraph.graph.arguments import of_graph
from depgraph.graph.graph import Graph
from depgraph.graph.groups import Group
from depgraph.graph.records import Operation, Tensor

__all__ = ["ragged_groups", "why_uniform"]


@of_graph
def ragged_groups(graph: Graph) -> dict[str, str]:
    """The groups that may be ragged, each with its base: for each index of the base other indices may go.

    Where a group has several bases, the first in reading order is given.

    >>> import torch, depgraph as dg
    >>> class Attention(torch.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.heads, self.width = 2, 3
    ...         self.qkv, self.out = torch.nn.Linear(4, 18), torch.nn.Linear(6, 4)
    ...     def forward(self, x):
    ...         q, k, v = self.qkv(x).view(len(x), -1, 3, self.heads, self.width).permute(2, 0, 3, 1, 4)
    ...         y = torch.softmax(q @ k.mT, -1) @ v
    ...         return self.out(y.transpose(1, 2).reshape(len(x), -1, self.heads * self.width))
    >>> dg.ragged.ragged_groups(dg.trace(Attention(), torch.randn(1, 5, 4)))
    {'qkv.weight:0[2]': 'qkv.weight:0[1]'}
    """
    return {graph.group_of[atom].name: graph.group_of[base].name for atom, base in bases_of(graph).items()}


@of_graph
def why_uniform(graph: Graph, group: str | Group) -> str | None:
    """Why all blocks of a group must lose the same indices; None where it may be ragged.

    Args:
        graph: the graph.
        group: a group or its name.

    Raises:
        UnknownNameError: the graph has no such group; the message has near names.

    >>> import torch, depgraph as dg
    >>> class Attention(torch.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.heads, self.width, self.scale = 2, 3, torch.nn.Parameter(torch.ones(3))
    ...         self.q, self.k, self.v, self.out = (torch.nn.Linear(6, 6) for _ in range(4))
    ...     def forward(self, x):
    ...         q, k, v = (layer(x).view(-1, self.heads, self.width).transpose(0, 1) for layer in (self.q, self.k, self.v))
    ...         y = torch.softmax((q * self.scale) @ k.mT, -1) @ v
    ...         return self.out(y.transpose(0, 1).flatten(1))
    >>> graph = dg.trace(Attention(), torch.zeros(5, 6))
    >>> [group.name for group in graph.groups]
    ['scale:0', 'q.weight:0[0]', 'v.weight:0[1]']
    >>> why_uniform(graph, "scale:0"), why_uniform(graph, "v.weight:0[1]")
    ('scale holds it without any of its blocks, so these share it', None)
    """
    name = group.name if isinstance(group, Group) else group
    if name not in graph.groups_by_name:
        raise UnknownNameError("group", name, graph.groups_by_name)
    facts = _Facts(graph)
    atom = graph.groups_by_name[name].atom
    reasons = [(base, facts.why_not(atom, base)) for base in facts.candidates(atom)]
    if not reasons:
        return f"no other group counts blocks of {name}"
    if any(reason is None for _, reason in reasons):
        return None
    first_without = facts.first_without(atom, [base for base, _ in reasons])
    if first_without is not None:
        return f"{first_without} holds it without any of its blocks, so these share it"
    return "; ".join(f"along {graph.group_of[base].name}: {reason}" for base, reason in reasons)


def bases_of(graph: Graph) -> dict[Atom, Atom]:
    """The atoms of groups that may be ragged, each with its base; of several bases the first in reading order."""
    facts = _Facts(graph)
    bases = {}
    for group in graph.groups:
        base = next((base for base in facts.candidates(group.atom) if facts.why_not(group.atom, base) is None), None)
        if base is not None:
            bases[group.atom] = base
    return bases


def ragged_problems(graph: Graph, bases: Mapping[Atom, Atom]) -> Iterator[str]:
    """Why atoms may not be ragged along the given bases."""
    facts = _Facts(graph) if bases else None
    for atom, base in bases.items():
        assert facts is not None, "there are bases"
        reason = facts.why_not(atom, base) if base in graph.group_of else f"{base} is no group"
        if reason is not None:
            yield (
                f"group {graph.group_of[atom].name} must lose the same indices everywhere: {reason}. "
                "Cut the same indices in each block."
            )


class _Facts:
    """Tensors and operations of a graph, indexed to answer whether one atom may be ragged along another."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.tensors_of: dict[Atom, list[Tensor]] = {}
        self.operations_of: dict[str, list[Operation]] = {}
        for tensor in graph.tensors:
            for atom in dict.fromkeys(atom for space in tensor.axes for atom in atoms(space)):
                if atom in graph.group_of:
                    self.tensors_of.setdefault(atom, []).append(tensor)
        for operation in graph.operations:
            for name in dict.fromkeys((*operation.inputs, *operation.outputs)):
                self.operations_of.setdefault(name, []).append(operation)

    def candidates(self, atom: Atom) -> tuple[Atom, ...]:
        """Groups that stand around an atom in the axes of parameters."""
        bases: dict[Atom, None] = {}
        for tensor in self.tensors_of.get(atom, ()):
            if tensor.kind == "parameter":
                for term in (term for space in tensor.axes for term in summands(space)):
                    order = [place.atom for place in term.places]
                    if atom in order:
                        bases.update(dict.fromkeys(order[: order.index(atom)]))
        return tuple(sorted((base for base in bases if base in self.graph.group_of), key=lambda base: base.id))

    def first_without(self, atom: Atom, bases: Iterable[Atom]) -> str | None:
        """The first tensor that holds an atom without any of its bases; parameters and buffers come first."""
        base_set = set(bases)
        for tensor in sorted(self.tensors_of[atom], key=lambda tensor: tensor.kind == "value"):
            if not any(base_set.intersection(atoms(space)) for space in tensor.axes):
                return tensor.name
        return None

    def why_not(self, atom: Atom, base: Atom) -> str | None:
        """Why an atom may not be ragged along a base; None if it may."""
        return next(self._problems(atom, base), None)

    def _problems(self, atom: Atom, base: Atom) -> Iterator[str]:
        rows = self.graph.group_of[base].name
        for tensor in sorted(self.tensors_of[atom], key=lambda tensor: tensor.kind == "value"):
            for cell in _cells(tensor.axes, atom, base):
                problem = _layout_problem(cell)
                if problem:
                    yield f"{tensor.name} {problem.format(rows=rows)}"
                if tensor.kind != "value" and _count(cell, _ATOM) and not _in_one_axis(cell):
                    yield f"{tensor.name} holds it and {rows} in separate dimensions, where a row would be gathered"
        names = dict.fromkeys(tensor.name for tensor in self.tensors_of[atom])
        for operation in dict.fromkeys(op for name in names for op in self.operations_of.get(name, ())):
            yield from self._operation_problems(operation, atom, base, rows)

    def _operation_problems(self, operation: Operation, atom: Atom, base: Atom, rows: str) -> Iterator[str]:
        place = f"{operation.op} in {operation.name}"
        tensors = [self.graph.tensor(name) for name in dict.fromkeys((*operation.inputs, *operation.outputs))]
        for axes in (*(tensor.axes for tensor in tensors), *(cost.axes for cost in operation.costs)):
            for cell in _cells(axes, atom, base):
                if _count(cell, _BASE) > 1 or _count(cell, _ATOM) > 1:
                    yield f"{place} pairs indices of {rows} with others of it"
                if any(backwards for marks in cell for _, backwards in marks):
                    yield f"{place} reads indices of {rows} backwards"
        if self._may_mix(operation, atom, base):
            yield f"{place} may mix the indices of {rows}"

    def _may_mix(self, operation: Operation, atom: Atom, base: Atom) -> bool:
        """Whether an operator mixes indices of the base that stay, along an axis that does not hold the atom as well.

        An axis that it sums over is in no result; the results then hold the atom without the base, or neither of them.
        """
        mixes = operation.traits.mixes
        if mixes is None:
            return True
        stays = any(base in atoms(space) for name in operation.outputs for space in self.graph.tensor(name).axes)
        return stays and any(
            _place(cell, _BASE) == dim and not _in_one_axis(cell)
            for name, dim in mixes
            for cell in _cells(self.graph.tensor(name).axes, atom, base)
            if _count(cell, _ATOM)
        )


_ATOM, _BASE = "atom", "base"


_Cell = tuple[tuple[tuple[str, bool], ...], ...]
"""For one choice of terms, one for each axis: which of the two atoms stand there in which order, and whether backwards."""


def _cells(axes: Iterable[Space], atom: Atom, base: Atom) -> list[_Cell]:
    kinds = {atom: _ATOM, base: _BASE}

    def marks(term: Summand) -> tuple[tuple[str, bool], ...]:
        return tuple((kinds[place.atom], place.backwards) for place in term.places if place.atom in kinds)

    return list(all_choices(*(sorted(set(map(marks, summands(space)))) for space in axes)))


def _layout_problem(cell: _Cell) -> str | None:
    """What is wrong with how a tensor that holds the atom is laid out."""
    count, bases = _count(cell, _ATOM), _count(cell, _BASE)
    if count == 0:
        return None if bases <= 1 else "holds {rows} twice"
    if count > 1:
        return "holds it twice"
    if bases == 0:
        return "holds it without {rows}"
    if bases > 1:
        return "holds {rows} twice"
    if any(backwards for marks in cell for _, backwards in marks):
        return "holds it, or {rows}, backwards"
    if any(len(marks) > 1 and marks[0][0] == _ATOM for marks in cell):
        return "holds {rows} inside of it"
    return None


def _in_one_axis(cell: _Cell) -> bool:
    """Whether the atom and its base stand in one axis."""
    return _place(cell, _BASE) == _place(cell, _ATOM)


def _count(cell: _Cell, kind: str) -> int:
    return sum(mark == kind for marks in cell for mark, _ in marks)


def _place(cell: _Cell, kind: str) -> int:
    return next((dim for dim, marks in enumerate(cell) if any(mark == kind for mark, _ in marks)), -1)
