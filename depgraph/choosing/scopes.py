"""Who competes with whom: scopes of coupled groups, and the one order in which their units go."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from itertools import accumulate, chain, pairwise
from typing import TypeAlias

from depgraph.algebra.ragged_sets import Removal
from depgraph.algebra.spaces import Atom
from depgraph.choosing.coupled import Coupling
from depgraph.choosing.isomorphism import signatures
from depgraph.errors import PlanError
from depgraph.graph.graph import Graph
from depgraph.graph.patterns import groups_at, listed

Scope: TypeAlias = str | Iterable[str | tuple[str, ...]]
"""``group``, ``global``, ``isomorphic``, or patterns and tuples of patterns, each a set of groups that compete."""


POLICIES = ("group", "global", "isomorphic")


def scopes_of(graph: Graph, couplings: Sequence[Coupling], scope: Scope) -> tuple[tuple[int, ...], ...]:
    """The positions of the couplings that compete, scope by scope. A coupling that no scope names is a scope of its own.

    Raises:
        PlanError: no policy has this name.
        UnknownNameError: a pattern names nothing.
    """
    keys: list[Hashable]
    if isinstance(scope, str):
        if scope not in POLICIES:
            raise PlanError(
                f"expected scope= to be one of {', '.join(map(repr, POLICIES))}, or a list of tuples of patterns, "
                f"met {scope!r}."
            )
        if scope == "group":
            keys = list(range(len(couplings)))
        elif scope == "global":
            keys = [()] * len(couplings)
        else:
            alike = signatures(graph)
            keys = [tuple(alike[group.atom] for group in coupling.groups) for coupling in couplings]
    else:
        named = scope_positions(graph, scope)
        keys = []
        for position, coupling in enumerate(couplings):
            first = next((named[group.name] for group in coupling.groups if group.name in named), None)
            keys.append(("alone", position) if first is None else first)
    return positions_by_key(keys)


def scope_positions(graph: Graph, scopes: Iterable[str | tuple[str, ...]]) -> dict[str, int]:
    """Group name to the position of the last scope that names it."""
    named: dict[str, int] = {}
    for position, patterns in enumerate(scopes):
        for pattern in listed(patterns):
            named.update({group.name: position for group in groups_at(graph, pattern)})
    return named


def positions_by_key(keys: Sequence[Hashable]) -> tuple[tuple[int, ...], ...]:
    """Positions with equal keys together, in the order of their first."""
    positions_of: dict[Hashable, list[int]] = {}
    for position, key in enumerate(keys):
        positions_of.setdefault(key, []).append(position)
    return tuple(tuple(positions) for positions in positions_of.values())


def ranking(couplings: Sequence[Coupling], scope: Sequence[int]) -> list[int]:
    """The order in which a scope's units go, as positions of couplings: each time that one is named, its next unit goes.

    The least important unit goes first. Of equally important ones the one after which its coupling has lost the smaller
    fraction goes first, so that equal scores everywhere give equal ratios; then the one of the earlier group.
    """
    if len(scope) == 1:
        return [scope[0]] * len(couplings[scope[0]].steps)
    owners = [position for position in scope for _ in couplings[position].steps]
    fractions: list[float] = []
    for position in scope:
        count, size = len(couplings[position].groups), couplings[position].size
        fractions.extend([step * count / size for step in couplings[position].steps])
    importances = list(chain.from_iterable(couplings[position].importances for position in scope))
    order = sorted(range(len(owners)), key=fractions.__getitem__)
    order.sort(key=importances.__getitem__)
    return [owners[unit] for unit in order]


def interleaved(couplings: Sequence[Coupling], scopes: Iterable[Sequence[int]]) -> list[int]:
    """One order for the units of all scopes: each time the one goes after which its scope has lost the smallest fraction.

    Every prefix is a valid removal, and prefixes are nested: a plan that removes more removes whatever the smaller one did.
    """
    scopes = tuple(scopes)
    if len(scopes) == 1:
        return ranking(couplings, scopes[0])
    owners: list[int] = []
    fractions: list[float] = []
    for scope in scopes:
        if len(scope) == 1:
            (position,) = scope
            steps, size = couplings[position].steps, couplings[position].groups[0].size
            owners.extend([position] * len(steps))
            fractions.extend([step / size for step in steps])
            continue
        order = ranking(couplings, scope)
        total = sum(couplings[position].size for position in scope)
        owners.extend(order)
        fractions.extend(count / total for count in removed_counts(couplings, order))
    return [owners[unit] for unit in sorted(range(len(owners)), key=fractions.__getitem__)]


def removed_counts(couplings: Sequence[Coupling], order: Iterable[int]) -> list[int]:
    """How many indices are removed after each unit of an order, all units before it included."""
    order = tuple(order)
    increments = {position: iter(_increments(couplings[position])) for position in dict.fromkeys(order)}
    return list(accumulate(map(next, map(increments.__getitem__, order))))


def _increments(coupling: Coupling) -> list[int]:
    """How many indices each unit of a coupling removes, all groups together."""
    count = len(coupling.groups)
    return [(step - before) * count for before, step in pairwise((0, *coupling.steps))]


def units_up_to(couplings: Sequence[Coupling], order: Sequence[int], quota: float, over: bool) -> list[int]:
    """The longest beginning of an order that removes no more than a quota; with `over`, the shortest that removes no less."""
    counts = removed_counts(couplings, order)
    within = bisect_right(counts, quota + 1e-9)
    if over and within < len(counts) and (counts[within - 1] if within else 0) < int(quota + 1e-9):
        within += 1
    return list(order[:within])


def removal(couplings: Sequence[Coupling], order: Iterable[int]) -> dict[Atom, Removal]:
    """The removals that the units of an order make, by atom."""
    counts = Counter(order)
    removals: dict[Atom, Removal] = {}
    for position in sorted(counts):
        removals.update(couplings[position].removed(counts[position]))
    return removals
