"""Patterns that name groups: by role, by name, by the layers that they reach, and by the side on which they reach them."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping
from typing import TypeVar

from depgraph.algebra.spaces import Atom, atoms
from depgraph.errors import PlanError, UnknownNameError
from depgraph.graph.graph import Graph
from depgraph.graph.groups import Group

V = TypeVar("V")


INNER = frozenset({"channel", "head_dim"})
"""Roles that are cut unless told otherwise."""


SIDES = ("in", "out")


def groups_at(graph: Graph, pattern: str) -> tuple[Group, ...]:
    """The groups that a pattern names, in the graph's order.

    ``*`` names every group that a plain number cuts, ``role:head`` those of a role. Else the pattern is a group's name, or a
    layer or parameter by dotted path or glob, and names the groups that reach into it; with ``:in`` or ``:out`` behind
    it only those along which it reads, or along which it returns.

    Raises:
        UnknownNameError: the pattern names nothing in this graph. A layer without groups, and a role that is known, are fine.
    """
    if not isinstance(pattern, str):
        raise PlanError(f"expected a pattern such as 'layer1.*', 'role:head' or '*', met {_met(pattern)}")
    if pattern == "*":
        return tuple(group for group in graph.groups if group.role in INNER)
    if pattern.startswith("role:"):
        role = pattern.removeprefix("role:")
        found = tuple(group for group in graph.groups if group.role == role)
        if not found:
            raise UnknownNameError("group or role", pattern, _names(graph))
        return found
    if pattern in graph.groups_by_name:
        return (graph.groups_by_name[pattern],)
    layer, _, side = pattern.rpartition(":")
    held = _selected(graph, layer if side in SIDES else pattern, pattern)
    if side in SIDES:
        reached = _reached(graph, layer, side)
        return tuple(group for group in graph.groups if group.atom in reached)
    return tuple(group for group in graph.groups if any(tensor in held for tensor, _ in group.members))


def _met(pattern: object) -> str:
    """What stands where a pattern should, and how to name it. A graph is data: it knows modules by their names only."""
    if isinstance(pattern, type) and hasattr(pattern, "named_modules"):
        kind = pattern.__name__
        return f"the class {kind}; pass [name for name, module in model.named_modules() if isinstance(module, {kind})]."
    if hasattr(pattern, "named_modules"):
        return f"a module, {type(pattern).__name__}; pass its name, which is dg.name_of(model, module)."
    return f"{pattern!r}."


def refuse_pinned(graph: Graph, patterns: Iterable[str]) -> None:
    """Raise `PlanError` for the patterns of which nothing can be pruned, with what pins all that they name."""
    problems = [
        f"{pattern!r} names no group: {_why_none(graph, pattern)}"
        for pattern in dict.fromkeys(listed(patterns))
        if pattern != "*" and not groups_at(graph, pattern)
    ]
    if problems:
        lines = "".join(f"\n  - {problem}" for problem in problems)
        raise PlanError(f"expected patterns of what can be pruned, met some of which nothing can be:{lines}\nLeave them out.")


def _why_none(graph: Graph, pattern: str) -> str:
    layer, _, side = pattern.rpartition(":")
    if side in SIDES:
        reached = _reached(graph, layer, side)
        own = {atom for name in _selected(graph, layer, pattern) for space in graph.tensor(name).axes for atom in atoms(space)}
        reasons = list(dict.fromkeys(graph.reasons[atom] for atom in graph.reasons if atom in (reached & own or reached)))
    else:
        tensors = _selected(graph, pattern, pattern)
        reasons = [str(pinned) for pinned in graph.pinned if pinned.tensor in tensors]
    more = f"; and {len(reasons) - _MOST_REASONS} more" if len(reasons) > _MOST_REASONS else ""
    told = "; ".join(reasons[:_MOST_REASONS]) + more
    return f"all of it is pinned ({told})." if told else "it holds no parameter with an axis of more than one index."


_MOST_REASONS = 3


def _selected(graph: Graph, layer: str, pattern: str) -> frozenset[str]:
    """The parameters and buffers of a module and what is below it, or the one that is named; a glob names any of these."""
    names = {name: tensor.name for name, tensor in graph.by_name.items() if tensor.kind != "value"}
    chosen = {owner for name, owner in names.items() if layer in _starts(name) or _region(name, layer) is not None}
    if not chosen and layer not in {operation.name for operation in graph.operations}:
        modules = {start for name in names for start in _starts(name)}
        raise UnknownNameError("layer, parameter, group or role", pattern, {*modules, *_names(graph)})
    return frozenset(chosen)


def _names(graph: Graph) -> list[str]:
    roles = dict.fromkeys(f"role:{group.role}" for group in graph.groups)
    return [*graph.groups_by_name, *roles, "*"]


def _reached(graph: Graph, layer: str, side: str) -> set[Atom]:
    """Atoms of what each named layer reads from outside of it, or of what it returns to the outside."""
    names = [name for operation in graph.operations for name in (operation.name, *operation.inputs) if ":" not in name]
    regions = {region for name in dict.fromkeys(names) if (region := _region(name, layer)) is not None}
    reached: set[Atom] = set()
    for region in regions:
        ours = [
            operation
            for operation in graph.operations
            if _within(operation.name, region) or any(_within(name, region) for name in operation.inputs if ":" not in name)
        ]
        made = {name for operation in ours for name in operation.outputs}
        read = {name for operation in ours for name in operation.inputs if graph.tensor(name).kind == "value"}
        border = read - made
        if side == "out":
            mine = {operation.name for operation in ours}
            outside = {name for operation in graph.operations if operation.name not in mine for name in operation.inputs}
            border = {name for name in made if name in outside or name not in read}
        reached.update(atom for name in border for space in graph.tensor(name).axes for atom in atoms(space))
    return reached


def _starts(name: str) -> list[str]:
    """The leading parts of a dotted name: the modules around it, and itself."""
    pieces = name.split(".")
    return [".".join(pieces[:k]) for k in range(1, len(pieces) + 1)]


def _region(name: str, layer: str) -> str | None:
    """The shortest leading part of a dotted name that the pattern matches."""
    return next((start for start in _starts(name) if fnmatch.fnmatchcase(start, layer)), None)


def _within(name: str, region: str) -> bool:
    return name == region or name.startswith(region + ".")


def values_by_group(graph: Graph, table: Mapping[str, V] | V) -> dict[str, V]:
    """Group name to the value of the last pattern that names it; a plain value stands for ``*``."""
    pairs: Mapping[str, V] = table if isinstance(table, Mapping) else {"*": table}
    found: dict[str, V] = {}
    for pattern, value in pairs.items():
        found.update({group.name: value for group in groups_at(graph, pattern)})
    return found


def chosen_groups(graph: Graph, ignore: Iterable[str], only: Iterable[str] | None) -> tuple[Group, ...]:
    """The groups that `only` reaches, or all, without those that `ignore` reaches; in both ``*`` is every group."""
    if only is not None:
        refuse_pinned(graph, only)
    kept = set(graph.groups_by_name) if only is None else _union(graph, only)
    left = _union(graph, ignore)
    return tuple(group for group in graph.groups if group.name in kept and group.name not in left)


def defaults(graph: Graph, only: Iterable[str] | None) -> tuple[str, ...]:
    """The groups that are cut without being given a ratio of their own: inner widths, and what `only` names by role or name."""
    named = {pattern for pattern in listed(only or ()) if pattern.startswith("role:") or pattern in graph.groups_by_name}
    explicit = _union(graph, named)
    return tuple(group.name for group in graph.groups if group.role in INNER or group.name in explicit)


def _union(graph: Graph, patterns: Iterable[str]) -> set[str]:
    found: set[str] = set()
    for pattern in listed(patterns):
        found.update(group.name for group in (graph.groups if pattern == "*" else groups_at(graph, pattern)))
    return found


def listed(patterns: Iterable[str]) -> tuple[str, ...]:
    """The patterns that are given as one, or as several of them. A container of modules is one thing that is no pattern."""
    if isinstance(patterns, str) or hasattr(patterns, "named_modules") or not isinstance(patterns, Iterable):
        return (patterns,)  # type: ignore[return-value]  # what is no pattern is refused where it is looked up
    return tuple(patterns)
