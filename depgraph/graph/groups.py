"""Groups, the things one prunes: which there are, what part each plays, and how much of a model lies in them."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Literal, TypeAlias

from attrs import frozen

from depgraph.algebra.index_maps import Leaf, leaves
from depgraph.algebra.spaces import Atom, Space, atoms
from depgraph.graph.records import FreeAxis, Operation, OpType, Tensor


@frozen
class Pinned:
    """An axis of a parameter or buffer from which nothing, or not everything, may be removed, and why."""

    tensor: str
    dim: int
    reason: str

    def __str__(self) -> str:
        return f"{self.tensor} dim {self.dim}: {self.reason}"


@frozen
class Coverage:
    """How much of a model can be pruned.

    Attributes:
        total: elements of all parameters.
        prunable: elements of the parameters of which at least one axis holds a group.
        pinned: (reason, elements) of the other parameters, the most first; each counts for the first reason of its axes.
    """

    total: int
    prunable: int
    pinned: tuple[tuple[str, int], ...]

    def __str__(self) -> str:
        listed = "".join(f"\n  {count:,} pinned: {reason}" for reason, count in self.pinned)
        return (
            f"{self.prunable:,} of {self.total:,} parameters ({self.prunable / max(self.total, 1):.1%}) lie in groups{listed}"
        )


Role: TypeAlias = Literal[
    "channel", "head_dim", "head", "kv_group", "conv_group", "expert", "block", "input", "output", "vocabulary"
]


INTERFACE = frozenset({"input", "output", "vocabulary"})
"""Roles of what those who call the model have to know: such groups lose indices only where a plan names them."""


@frozen
class Group:
    """Independent indices that are pruned together wherever they occur: the thing one prunes.

    Attributes:
        name: the first parameter axis in which it occurs, as ``tensor:dim``, with ``[k]`` where that axis holds several.
        atom: its identity in the graph's spaces.
        members: the parameter and buffer axes in which it occurs, as (tensor, dim).
        role: read off the structure. ``channel``; ``head_dim``, the width of attention heads; ``head``, which counts them;
            ``kv_group``, which counts the query heads of one key-value head; ``conv_group``, the blocks of a grouped
            convolution; ``expert``, of which the data choose some by number, such as the experts of a mixture; ``block``, any
            other count of blocks of another group. ``input``, ``output`` and ``vocabulary`` are of axes that `free=` of `trace`
            has set free.
        lower_bound: how many indices stay at least: with fewer, forward would take another branch.
        multiple: of what number a plan keeps a multiple: with others an operator's kernel refuses to run.

    >>> import torch, depgraph as dg
    >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.Conv2d(8, 2, 1)).eval()
    >>> (group,) = dg.trace(model, torch.zeros(1, 3, 6, 6)).groups
    >>> print(group)
    0.weight:0 (8 indices, 7 axes)
    >>> isinstance(group, dg.Group), group.size, group.role, group.members[:3]
    (True, 8, 'channel', (('0.weight', 0), ('0.bias', 0), ('1.weight', 0)))
    """

    name: str
    atom: Atom
    members: tuple[tuple[str, int], ...]
    role: Role
    lower_bound: int = 1
    multiple: int = 1

    @property
    def size(self) -> int:
        """Number of indices."""
        return self.atom.size

    def __str__(self) -> str:
        bound = f", at least {self.lower_bound} stay" if self.lower_bound > 1 else ""
        bound += f", in multiples of {self.multiple}" if self.multiple > 1 else ""
        return f"{self.name} ({self.size} indices{bound}, {len(self.members)} axes)"


def groups_of(
    tensors: Iterable[Tensor],
    operations: Iterable[Operation],
    pinned: Mapping[Atom, str],
    bounds: Mapping[Atom, int],
    multiples: Mapping[Atom, int],
    free: Iterable[FreeAxis] = (),
) -> tuple[Group, ...]:
    """The atoms with indices that occur in a parameter and are not pinned, in the order of the parameters."""
    tensors = tuple(tensors)
    members: dict[Atom, list[tuple[str, int]]] = {}
    names: dict[Atom, str] = {}
    for tensor in tensors:
        if tensor.kind == "value":
            continue
        for dim, space in enumerate(tensor.axes):
            axis_atoms = atoms(space)
            for position, atom in enumerate(axis_atoms):
                if atom in pinned or not atom.size:
                    continue
                members.setdefault(atom, []).append((tensor.name, dim))
                if tensor.kind == "parameter" and atom not in names:
                    names[atom] = f"{tensor.name}:{dim}" + (f"[{position}]" if len(axis_atoms) > 1 else "")
    roles = {**_roles(tensors, operations, names), **_interface_roles(free)}
    return tuple(
        Group(name, atom, tuple(members[atom]), roles[atom], bounds.get(atom, 1), multiples.get(atom, 1))
        for atom, name in names.items()
    )


def _interface_roles(free: Iterable[FreeAxis]) -> dict[Atom, Role]:
    """The roles of atoms in axes of the interface. A vocabulary is one in the outputs, too, and an input that is returned."""
    roles: dict[Atom, Role] = {}
    for kind in ("output", "input", "vocabulary"):
        roles.update({atom: kind for item in free if item.kind == kind for atom in atoms(item.space)})
    return roles


def reasons_of(space: Space, reasons: Mapping[Atom, str]) -> tuple[str, ...]:
    """Why an axis, or a part of it, is pinned: the reasons of its atoms, or that it has none left."""
    axis_atoms = atoms(space)
    if not axis_atoms and space.size > 1:
        return ("it falls into single indices: forward takes each by itself, or needs as many as there are",)
    return tuple(dict.fromkeys(reasons[atom] for atom in axis_atoms if atom in reasons))


def coverage_of(tensors: Iterable[Tensor], free: Container[Atom], reasons: Mapping[Atom, str]) -> Coverage:
    """How many elements of parameters lie in groups, and why the others do not."""
    total = prunable = 0
    pinned: dict[str, int] = {}
    for tensor in tensors:
        if tensor.kind != "parameter":
            continue
        total += tensor.numel
        tensor_atoms = [atom for space in tensor.axes for atom in atoms(space)]
        if any(atom in free for atom in tensor_atoms):
            prunable += tensor.numel
        else:
            axis_reasons = (reason for space in tensor.axes for reason in reasons_of(space, reasons))
            reason = next(axis_reasons, "it has no axis longer than 1")
            pinned[reason] = pinned.get(reason, 0) + tensor.numel
    return Coverage(total, prunable, tuple(sorted(pinned.items(), key=lambda item: (-item[1], item[0]))))


def _roles(tensors: Sequence[Tensor], operations: Iterable[Operation], free: Mapping[Atom, str]) -> dict[Atom, Role]:
    """The role of each group, read off the structure: where it stands in products, and in which operators it does what."""
    outer: dict[Atom, bool] = {}
    inner: set[Atom] = set()
    around: dict[Atom, set[Atom]] = {}
    axes = (space for tensor in tensors if tensor.kind != "value" for space in tensor.axes)
    for space in {id(space): space for space in axes}.values():  # many axes share few spaces
        all_leaves = leaves(space) if len(atoms(space)) > 1 else ()
        group_leaves = [leaf for leaf in all_leaves if leaf.atom in free]
        several = len({leaf.atom for leaf in group_leaves}) > 1
        if len({leaf.stride for leaf in all_leaves}) < 2:  # of parts laid end to end, often a hundred, none surrounds another
            inner.update(leaf.atom for leaf in group_leaves if several)
            continue
        for leaf in group_leaves:
            around.setdefault(leaf.atom, set()).update(other.atom for other in all_leaves if _surrounds(other, leaf))
            if any(_surrounds(leaf, other) for other in group_leaves):
                outermost = not any(_surrounds(other, leaf) for other in group_leaves)
                outer[leaf.atom] = outer.get(leaf.atom, False) or outermost
            elif several:
                inner.add(leaf.atom)
    batch, contracted, blocks = _attention_atoms(tensors, operations)
    chosen = _chosen_atoms(tensors, operations)
    roles: dict[Atom, Role] = {}
    for atom in free:
        if atom in chosen:
            roles[atom] = "expert"
        elif atom in outer and (atom not in inner or atom in batch):
            repeated: Role = "head" if outer[atom] else "kv_group"
            roles[atom] = repeated if atom in batch else "conv_group" if atom in blocks else "block"
        else:
            roles[atom] = "head_dim" if atom in contracted and around.get(atom, set()) & batch else "channel"
    return roles


def _chosen_atoms(tensors: Sequence[Tensor], operations: Iterable[Operation]) -> set[Atom]:
    """Atoms of the axes of which the data choose indices by number."""
    places = {place for operation in operations for place in operation.traits.chooses}
    names = {name for name, _ in places}
    axes = {tensor.name: tensor.axes for tensor in tensors if tensor.name in names}
    return {atom for name, dim in places for atom in atoms(axes[name][dim])}


def _surrounds(outer: Leaf, inner: Leaf) -> bool:
    """Whether the outer leaf counts blocks in which the inner one lies."""
    return (
        outer.atom != inner.atom
        and inner.stride < outer.stride
        and outer.offset <= inner.offset < outer.offset + outer.atom.size * outer.stride
    )


def _attention_atoms(tensors: Sequence[Tensor], operations: Iterable[Operation]) -> tuple[set[Atom], set[Atom], set[Atom]]:
    """Atoms of the batch axes of products of two values, of their last axes, and of the blocks of grouped convolutions."""
    by_name = {tensor.name: tensor for tensor in tensors}
    batch, last, blocks = set[Atom](), set[Atom](), set[Atom]()
    for operation in operations:
        if operation.type in {OpType.ATTENTION, OpType.MATMUL}:
            operands = [by_name[name] for name in operation.inputs[:3]]
            if sum(operand.kind == "value" for operand in operands) < 2:
                continue
            for operand in operands:
                for space in operand.axes[:-2]:
                    batch.update(atoms(space))
                for space in operand.axes[-2:]:
                    last.update(atoms(space))
        elif operation.type is OpType.CONV:
            x, weight = by_name[operation.inputs[0]], by_name[operation.inputs[1]]
            channels = len(x.axes) - len(weight.axes) + 1
            blocks.update(set(atoms(x.axes[channels])) - set(atoms(weight.axes[1])))
    return batch, last, blocks
