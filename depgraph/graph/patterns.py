"""Patterns that name groups: by role, by name, by the layers that they reach, and by the side on which they reach them."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping
from typing import TypeVar, get_args

from depgraph.algebra.spaces import Atom, atoms
from depgraph.errors import PlanError, UnknownNameError
from depgraph.graph.graph import Graph
from depgraph.graph.groups import INTERFACE, Group, Role

V = TypeVar("V")


INNER = frozenset({"channel", "head_dim"})
"""Roles of the groups that take part by default."""


ROLES = frozenset(get_args(Role))
"""All roles; a graph need not have groups of each."""


SIDES = ("in", "out")


def groups_at(graph: Graph, pattern: str, interface: bool = False) -> tuple[Group, ...]:
    """The groups that a pattern names, in the graph's order.

    ``*`` names every group that a plain number cuts, ``role:head`` those of a role. Else the pattern is a group's name, or a
    layer or parameter by dotted path or glob, and names the groups that reach into it; with ``:in`` or ``:out`` behind
    it only those along which it reads, or along which it returns. Groups of the model's interface (`INTERFACE`) are named by
    their own names and roles alone, unless `interface` says that those that a layer reaches are meant, too.

    Raises:
        UnknownNameError: the pattern names nothing in this graph. A layer without groups, and a role that is known, are fine.
    """
    if not isinstance(pattern, str):
        raise PlanError(f"expected a pattern such as 'layer1.*', 'role:head' or '*', met {_described(pattern)}")
    if pattern == "*":
        return tuple(group for group in graph.groups if group.role in INNER)
    if pattern.startswith("role:"):
        role = pattern.removeprefix("role:")
        groups = tuple(group for group in graph.groups if group.role == role)
        if not groups and role not in ROLES:
            raise UnknownNameError("group or role", pattern, _all_names(graph))
        return groups
    if pattern in graph.groups_by_name:
        return (graph.groups_by_name[pattern],)
    layer, _, side = pattern.rpartition(":")
    tensors = _selected(graph, layer if side in SIDES else pattern, pattern)
    reachable = [group for group in graph.groups if interface or group.role not in INTERFACE]
    if side in SIDES:
        side_atoms = _reached(graph, layer, side)
        return tuple(group for group in reachable if group.atom in side_atoms)
    return tuple(group for group in reachable if any(tensor in tensors for tensor, _ in group.members))


def _described(pattern: object) -> str:
    """A wrong pattern in words, with the pattern to write instead. A graph holds no module, only names of modules."""
    if isinstance(pattern, type) and hasattr(pattern, "named_modules"):
        kind = pattern.__name__
        return f"the class {kind}; pass dg.names_of(model, {kind}), the names of all modules of it."
    if hasattr(pattern, "named_modules"):
        return f"a module, {type(pattern).__name__}; pass its name, which is dg.names_of(model, module)."
    return f"{pattern!r}."


def refuse_pinned(graph: Graph, patterns: Iterable[str]) -> None:
    """Raise `PlanError` for patterns that name no group, with the reasons that pin the axes that they name."""
    problems = [
        f"{pattern!r} names no group: {_why_none(graph, pattern)}"
        for pattern in dict.fromkeys(listed(patterns))
        if pattern != "*" and not groups_at(graph, pattern)
    ]
    if problems:
        lines = "".join(f"\n  - {problem}" for problem in problems)
        raise PlanError(f"expected patterns of what can be pruned, met some of which nothing can be:{lines}\nLeave them out.")


def _why_none(graph: Graph, pattern: str) -> str:
    if interface := groups_at(graph, pattern, interface=True):
        names = ", ".join(f"{group.name!r} (role:{group.role})" for group in interface)
        return f"it holds what those who call the model have to know, {names}, which is named by its own name or role alone."
    layer, _, side = pattern.rpartition(":")
    if side in SIDES:
        side_atoms = _reached(graph, layer, side)
        own = {atom for name in _selected(graph, layer, pattern) for space in graph.tensor(name).axes for atom in atoms(space)}
        reasons = list(dict.fromkeys(graph.reasons[atom] for atom in graph.reasons if atom in (side_atoms & own or side_atoms)))
    else:
        tensors = _selected(graph, pattern, pattern)
        reasons = [str(pinned) for pinned in graph.pinned if pinned.tensor in tensors]
    if side in SIDES and not reasons and (groups := groups_at(graph, layer)):
        names = ", ".join(repr(group.name) for group in groups[:_MOST_REASONS])
        verb = "enters" if side == "in" else "leaves"
        return f"no tensor {verb} it, for it is no layer; name a group that reaches into it: {names}."
    more = f"; and {len(reasons) - _MOST_REASONS} more" if len(reasons) > _MOST_REASONS else ""
    listing = "; ".join(reasons[:_MOST_REASONS]) + more
    return f"all of it is pinned ({listing})." if listing else "it holds no parameter with an axis of more than one index."


_MOST_REASONS = 3


def _selected(graph: Graph, layer: str, pattern: str) -> frozenset[str]:
    """The parameters and buffers of a module and of its submodules, or the one that the pattern names; globs work for both."""
    names = {name: tensor.name for name, tensor in graph.by_name.items() if tensor.kind != "value"}
    chosen = {owner for name, owner in names.items() if layer in _prefixes(name) or _region(name, layer) is not None}
    if not chosen and layer not in {operation.name for operation in graph.operations}:
        modules = {start for name in names for start in _prefixes(name)}
        raise UnknownNameError("layer, parameter, group or role", pattern, {*modules, *_all_names(graph)})
    return frozenset(chosen)


def _all_names(graph: Graph) -> list[str]:
    roles = dict.fromkeys(f"role:{group.role}" for group in graph.groups)
    return [*graph.groups_by_name, *roles, "*"]


def _reached(graph: Graph, layer: str, side: str) -> set[Atom]:
    """The atoms of the values that enter the named layers from outside, or, for ``out``, of those that leave them."""
    names = [name for operation in graph.operations for name in (operation.name, *operation.inputs) if ":" not in name]
    regions = {region for name in dict.fromkeys(names) if (region := _region(name, layer)) is not None}
    border_atoms: set[Atom] = set()
    for region in regions:
        inside = [
            operation
            for operation in graph.operations
            if _within(operation.name, region) or any(_within(name, region) for name in operation.inputs if ":" not in name)
        ]
        outputs = {name for operation in inside for name in operation.outputs}
        inputs = {name for operation in inside for name in operation.inputs if graph.tensor(name).kind == "value"}
        border = inputs - outputs
        if side == "out":
            names_inside = {operation.name for operation in inside}
            inputs_outside = {
                name for operation in graph.operations if operation.name not in names_inside for name in operation.inputs
            }
            border = {name for name in outputs if name in inputs_outside or name not in inputs}
        border_atoms.update(atom for name in border for space in graph.tensor(name).axes for atom in atoms(space))
    return border_atoms


def _prefixes(name: str) -> list[str]:
    """The leading parts of a dotted name: the modules around it, and itself."""
    pieces = name.split(".")
    return [".".join(pieces[:k]) for k in range(1, len(pieces) + 1)]


def _region(name: str, layer: str) -> str | None:
    """The shortest leading part of a dotted name that the pattern matches."""
    return next((start for start in _prefixes(name) if fnmatch.fnmatchcase(start, layer)), None)


def _within(name: str, region: str) -> bool:
    return name == region or name.startswith(region + ".")


def values_by_group(graph: Graph, table: Mapping[str, V] | V) -> dict[str, V]:
    """Group name to the value of the last pattern that names it; a plain value stands for ``*``."""
    pairs: Mapping[str, V] = table if isinstance(table, Mapping) else {"*": table}
    values: dict[str, V] = {}
    for pattern, value in pairs.items():
        values.update({group.name: value for group in groups_at(graph, pattern)})
    return values


def chosen_groups(graph: Graph, ignore: Iterable[str], only: Iterable[str] | None) -> tuple[Group, ...]:
    """The groups that `only` reaches, or all, without those that `ignore` reaches; in both ``*`` is every group."""
    if only is not None:
        refuse_pinned(graph, only)
    included = set(graph.groups_by_name) if only is None else _names_at(graph, only)
    excluded = _names_at(graph, ignore, interface=True)
    return tuple(group for group in graph.groups if group.name in included and group.name not in excluded)


def defaults(graph: Graph, only: Iterable[str] | None) -> tuple[str, ...]:
    """Groups to which a plain ratio applies: those with the roles of `INNER`, and those that `only` names by role or name."""
    named = {pattern for pattern in listed(only or ()) if pattern.startswith("role:") or pattern in graph.groups_by_name}
    explicit = _names_at(graph, named)
    return tuple(group.name for group in graph.groups if group.role in INNER or group.name in explicit)


def _names_at(graph: Graph, patterns: Iterable[str], interface: bool = False) -> set[str]:
    names: set[str] = set()
    for pattern in listed(patterns):
        every = [group for group in graph.groups if interface or group.role not in INTERFACE]
        names.update(group.name for group in (every if pattern == "*" else groups_at(graph, pattern, interface)))
    return names


def listed(patterns: Iterable[str]) -> tuple[str, ...]:
    """One pattern, or several, as a tuple. A container of modules is iterable, but no list of patterns: it stays whole."""
    if isinstance(patterns, str) or hasattr(patterns, "named_modules") or not isinstance(patterns, Iterable):
        return (patterns,)  # type: ignore[return-value]  # `groups_at` refuses what is no pattern
    return tuple(patterns)
