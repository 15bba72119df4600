"""Choosing what to remove: scores and a target in, a plan out. Numbers only; no tensor is seen here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import TypeAlias

from attrs import evolve

from depgraph.algebra.numbers import is_number, is_whole
from depgraph.choosing.budgets import LatencyModel, Number, budget_of, cut_where_met, terms_of
from depgraph.choosing.costs import CostPolynomial
from depgraph.choosing.coupled import Coupling, Limits, couplings_of
from depgraph.choosing.depth import Depth, drops_at
from depgraph.choosing.isomorphism import signatures
from depgraph.choosing.memory import Memory
from depgraph.choosing.scopes import Scope, interleaved, positions_by_key, ranking, removal, scopes_of, units_up_to
from depgraph.choosing.scores import Scores
from depgraph.collector import without_collections
from depgraph.errors import PlanError
from depgraph.graph.arguments import of_graph
from depgraph.graph.drops import Drop, drop_problems, without
from depgraph.graph.graph import Graph
from depgraph.graph.groups import Group
from depgraph.graph.patterns import chosen_groups, defaults, groups_at, refuse_pinned, values_by_group
from depgraph.plans.making import plan_of
from depgraph.plans.plan import Plan

Ratio: TypeAlias = float | Mapping[str | tuple[str, ...], float]


@of_graph
@without_collections()
def plan(
    graph: Graph,
    scores: Scores,
    *,
    ratio: Ratio | None = None,
    params: Number | None = None,
    macs: Number | None = None,
    active_params: Number | None = None,
    memory: Number | None = None,
    memory_model: Memory | None = None,
    latency: Number | None = None,
    latency_model: LatencyModel | None = None,
    scope: Scope = "group",
    max_ratio: float | Mapping[str, float] | None = None,
    min_width: int | Mapping[str, int] | None = None,
    round_to: int | Mapping[str, int] | None = None,
    rounding: str = "up",
    ignore: Iterable[str] = (),
    only: Iterable[str] | None = None,
    uniform: str | Iterable[str | tuple[str, ...]] = (),
    depth: Depth | None = None,
) -> Plan:
    """A plan that removes the least important indices of each group.

    Either a `ratio` is given, or budgets: one or several of `params`, `active_params`, `macs`, `memory` and `latency`; or
    `depth` alone. Groups that count blocks of another group (the roles ``head``, ``kv_group``, ``conv_group`` and ``block``),
    and experts, are left unless `only` or a mapping `ratio` names them.

    Patterns, wherever a mapping or a list takes them: ``*`` for every group that a plain number would cut; a role such as
    ``role:head``; a group's name; a layer or parameter by dotted path or glob, for every group that reaches into it, or,
    with ``:in`` or ``:out`` behind it, for those along which the layer reads or returns. Where several match, the last counts.

    Args:
        graph: the traced model.
        scores: what `score` returned, or any mapping of group name to importances. The lowest go first; of equal ones the
            first. Infinite ones never go. NaN is refused.
        ratio: the fraction of each group's indices to remove, in [0, 1); the number is rounded down. Or a mapping from
            patterns to fractions; a tuple of patterns as a key makes their groups compete for one ratio.
        params: what is to remain of the parameters at most: a fraction in (0, 1], or a whole number above 1.
        macs: the same of the multiply-accumulates.
        active_params: the same of the parameters that one token meets: of experts as many as the router's `topk` takes, where
            they are stacked in one parameter. Else it is what `params` is.
        memory: the same of the bytes that `memory_model` counts.
        memory_model: what is in memory: `dg.Memory(weights=2, cache_tokens=4096, batch=8)` counts weights and the cache. By
            default weights of two bytes.
        latency: the same of what `latency_model` says, where the number above 1 need not be whole.
        latency_model: a function of a graph that returns its cost in any unit, such as what `latency_table` makes.
        scope: who competes. ``group``: each group for itself, all lose the same fraction. ``global``: all indices of all
            groups, by importance. ``isomorphic``: those of groups with the same structure and role (Fang et al., "Isomorphic
            Pruning for Vision Models", ECCV 2024). Or a list of tuples of patterns: the groups of each tuple compete.
        max_ratio: the largest fraction that a group may lose, in [0, 1]; a number or a mapping from patterns.
        min_width: the smallest number of indices that a group keeps; a number or a mapping.
        round_to: what stays of a group that loses anything is a multiple of this, at least one; a number or a mapping.
        rounding: ``up``: no more goes than the ratio says; ``down``: no less, where the limits allow it.
        ignore: patterns of groups that are left whole.
        only: patterns of the groups that take part; all others are left whole. Naming a role such as ``role:head`` or a group
            by its name makes it take part even if it is left otherwise.
        uniform: patterns whose groups keep equal sizes under any budget, such as ``layers.*.up_proj:out``: engines and
            configurations that know one width for all layers load such a model. The groups of one pattern, or of one tuple of
            patterns, lose equally many indices, each its own. ``isomorphic``: those with the same structure, role and size do.
        depth: how many elements leave lists of modules, such as layers, before widths are chosen among what stays: the
            fraction of each list whose path has scores, rounded down, or a mapping from paths to fractions or whole numbers.
            Patterns then name what stays, and a budget's fraction is that of the whole model.

    Returns:
        The plan. For budgets its `targets` hold what was requested and realised: every budget is kept, and with one unit
        less removed one would not be. A smaller budget removes all that a larger one does.

    Raises:
        PlanError: no target or both kinds, a number out of range or out of reach, scores that do not fit, nothing to prune,
            or a pattern of what is to be pruned that names only what is pinned.
        UnknownNameError: a pattern that names nothing.

    >>> import torch, depgraph as dg
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> graph = dg.trace(model, torch.zeros(1, 4))
    >>> importances = {"0.weight:0": [0.5, 0.1, 0.9, 0.4, 0.2, 0.8, 0.7, 0.3]}
    >>> dict(dg.plan(graph, importances, ratio=0.25).removed)
    {'0.weight:0': IndexSet('1,4')}
    >>> print(dg.plan(graph, importances, macs=36))                   # of 48 MACs, 6 for each index
    <Plan: 1 groups, 3 axes, 2 attributes>
      0.weight:0: 2 of 8 indices go
      macs: 36 of at most 36
    """
    if not isinstance(scores, Mapping):
        raise PlanError(f"expected scores by group name, met {type(scores).__name__}; use {_scores_call(scores)}.")
    keywords = {"params": params, "macs": macs, "active_params": active_params, "memory": memory, "latency": latency}
    requested = {name: value for name, value in keywords.items() if value is not None}
    if (ratio is not None and requested) or (depth is None and ratio is None and not requested):
        given = [*sorted(requested), "ratio"] if ratio is not None else "none"
        raise PlanError(f"expected either ratio= or budgets, which are {_BUDGETS}, met {given}.")
    if (latency_model is None) != (latency is None):
        raise PlanError("latency= and latency_model= belong together: the budget, and the function that measures a graph.")
    if memory_model is not None and (memory is None or not isinstance(memory_model, Memory)):
        raise PlanError(f"expected memory= with memory_model= as a dg.Memory(...), met memory={memory!r}, {memory_model!r}.")
    drops = drops_at(graph, scores, depth)
    if ratio is None and not requested:
        return plan_of(graph, {}, drops)
    if drops:
        requested = {name: _of_whole(graph, name, value, latency_model, memory_model) for name, value in requested.items()}
        chosen = plan(
            left := _left(graph, drops),
            {group.name: scores[name] for group in left.groups if (name := graph.group_of[group.atom].name) in scores},
            ratio=ratio,
            **requested,
            memory_model=memory_model,
            latency_model=latency_model,
            scope=scope,
            max_ratio=max_ratio,
            min_width=min_width,
            round_to=round_to,
            rounding=rounding,
            ignore=ignore,
            only=only,
            uniform=uniform,
        )
        return evolve(plan_of(graph, {cut.atom: cut.removal for cut in chosen.cuts}, drops), targets=chosen.targets)
    limits = limits_of(graph, max_ratio, min_width, round_to, rounding)
    groups = chosen_groups(graph, ignore, only)
    alike = uniform_sets(graph, uniform)
    by_default = defaults(graph, only)
    if ratio is not None:
        ratios, tuple_positions = _ratios(graph, ratio, by_default)
        couplings = couplings_of(graph, groups, scores, limits, alike)
        if not groups:
            raise PlanError(_nothing_to_prune(graph, groups))
        units = _at_ratio(graph, couplings, ratios, tuple_positions, scope, rounding == "down")
        if not units and any(ratios.get(group.name) for group in groups):
            raise PlanError(
                "nothing can be removed at this ratio: every group is too small, at its lower bound, or balanced with one "
                "that is left."
            )
        return plan_of(graph, removal(couplings, units))
    couplings = couplings_of(graph, [group for group in groups if group.name in by_default], scores, limits, alike)
    budgets = [
        budget_of(graph, couplings, name, value, latency_model if name == "latency" else None, memory_model)
        for name, value in requested.items()
    ]
    order = interleaved(couplings, scopes_of(graph, couplings, scope))
    if not couplings and any(budget.limit < budget.total for budget in budgets):
        raise PlanError(_nothing_to_prune(graph, groups))
    count, targets = cut_where_met(couplings, order, budgets)
    return evolve(plan_of(graph, removal(couplings, order[:count])), targets=targets)


def _left(graph: Graph, drops: Sequence[Drop]) -> Graph:
    """What stays when elements leave, under the names of the whole. Raises `PlanError` where they may not."""
    if problems := [f"{problem}." for problem in drop_problems(graph, drops)]:
        raise PlanError.of(problems)
    return without(graph, drops)


_BUDGETS = "params=, active_params=, macs=, memory= and latency="


def _of_whole(
    graph: Graph, name: str, value: Number, latency_model: LatencyModel | None, memory_model: Memory | None
) -> Number:
    """A budget as what is to remain: a fraction is one of the whole graph."""
    if not is_number(value) or not 0 < value <= 1:
        return value
    if name == "latency":
        assert latency_model is not None, "checked before"
        return value * latency_model(graph)
    return int(value * CostPolynomial(terms_of(graph, name, memory_model))({}))


def default_couplings(
    graph: Graph,
    scores: Scores,
    limits: Limits,
    ignore: Iterable[str],
    only: Iterable[str] | None,
    uniform: str | Iterable[str | tuple[str, ...]],
) -> list[Coupling]:
    """What competes for a budget: of the groups that take part those that a plain number cuts, with what they lose together."""
    by_default = defaults(graph, only)
    groups = [group for group in chosen_groups(graph, ignore, only) if group.name in by_default]
    return [*couplings_of(graph, groups, scores, limits, uniform_sets(graph, uniform))]


def uniform_sets(graph: Graph, uniform: str | Iterable[str | tuple[str, ...]]) -> tuple[tuple[Group, ...], ...]:
    """The sets of groups that are to keep equal sizes. Raises `PlanError` for sets that have different ones."""
    if uniform == "isomorphic":
        structures = signatures(graph)
        alike = positions_by_key([(structures[group.atom], group.size) for group in graph.groups])
        return tuple(tuple(graph.groups[position] for position in positions) for positions in alike)
    items = [uniform] if isinstance(uniform, str) or not isinstance(uniform, Iterable) else [*uniform]
    strange = [item for item in items if not isinstance(item, (str, tuple))]
    if strange:
        raise PlanError(f"expected uniform= as a list of patterns, or of tuples of such, met {strange[0]!r} in it.")
    patterns = [(item,) if isinstance(item, str) else item for item in items]
    refuse_pinned(graph, tuple(chain.from_iterable(patterns)))
    sets, problems = [], []
    for names in patterns:
        groups = tuple({group.name: group for part in names for group in groups_at(graph, part)}.values())
        if len({group.size for group in groups}) > 1:
            sizes = ", ".join(f"{group.name!r} has {group.size}" for group in groups[:6])
            problems.append(
                f"the groups of uniform={names!r} cannot keep equal sizes, for theirs are different: {sizes}. "
                "Name those of one size together."
            )
        sets.append(groups)
    if problems:
        raise PlanError.of(problems)
    return tuple(sets)


def _scores_call(scores: object) -> str:
    return 'scores.reduce("mean")' if hasattr(scores, "reduce") else "dg.score(graph, model, criterion)"


def limits_of(
    graph: Graph,
    max_ratio: float | Mapping[str, float] | None,
    min_width: int | Mapping[str, int] | None,
    round_to: int | Mapping[str, int] | None,
    rounding: str = "up",
) -> Limits:
    """The limits of each group, from numbers or mappings of patterns. Raises `PlanError` for a number out of range."""
    if rounding not in ("up", "down"):
        raise PlanError(f"expected rounding= 'up' or 'down', met {rounding!r}.")
    for pattern, fraction in _pairs(max_ratio):
        if not is_number(fraction) or not 0 <= fraction <= 1:
            raise PlanError(f"expected max_ratio= in [0, 1], met {fraction!r} for {pattern!r}; it is the most that may go.")
    for name, limit in (("min_width", min_width), ("round_to", round_to)):
        for pattern, count in _pairs(limit):
            if not is_whole(count, least=1):
                raise PlanError(f"expected {name}= to be a whole number of at least 1, met {count!r} for {pattern!r}.")
    return Limits(
        max_ratios={} if max_ratio is None else values_by_group(graph, max_ratio),
        min_widths={} if min_width is None else values_by_group(graph, min_width),
        multiples={} if round_to is None else values_by_group(graph, round_to),
    )


def _pairs(table: object) -> Iterable[tuple[object, object]]:
    return table.items() if isinstance(table, Mapping) else () if table is None else (("*", table),)


def _nothing_to_prune(graph: Graph, groups: Sequence[Group]) -> str:
    if groups:
        roles = ", ".join(sorted({f"role:{group.role}" for group in groups}))
        return f"no group takes part, only such that are left unless named ({roles}) or that are balanced with one left out."
    if graph.groups:
        return "ignore= leaves no group to prune."
    reasons = "; ".join(str(pinned) for pinned in graph.pinned[:3])
    return f"the model has no group to prune. Pinned axes are listed in graph.pinned, such as: {reasons}"


def _ratios(graph: Graph, ratio: Ratio, by_default: Iterable[str]) -> tuple[dict[str, float], dict[str, int]]:
    """Group name to ratio; and, for the groups of a tuple of patterns, which compete, group name to the tuple's position."""
    table: Mapping[str | tuple[str, ...], float] = ratio if isinstance(ratio, Mapping) else {"*": ratio}
    for pattern, value in table.items():
        if not is_number(value) or not 0 <= value < 1:
            raise PlanError(f"expected a ratio in [0, 1), met {value!r} for {pattern!r}; it is the fraction to remove.")
    if not isinstance(ratio, Mapping):
        return dict.fromkeys(by_default, ratio), {}
    nonzero = (pattern if isinstance(pattern, tuple) else (pattern,) for pattern, value in table.items() if value)
    refuse_pinned(graph, tuple(chain.from_iterable(nonzero)))
    ratios: dict[str, float] = {}
    tuple_positions: dict[str, int] = {}
    for position, (pattern, value) in enumerate(table.items()):
        for part in pattern if isinstance(pattern, tuple) else (pattern,):
            for group in groups_at(graph, part):
                ratios[group.name] = value
                tuple_positions.pop(group.name, None)
                if not isinstance(pattern, str):
                    tuple_positions[group.name] = position
    return ratios, tuple_positions


def _at_ratio(
    graph: Graph,
    couplings: Sequence[Coupling],
    ratios: Mapping[str, float],
    tuple_positions: Mapping[str, int],
    scope: Scope,
    over: bool,
) -> list[int]:
    """The units that ratios remove, by the positions of their couplings.

    Each scope loses as many indices as its groups would, each at its own ratio. Coupled groups have one ratio, the smallest
    of theirs.
    """
    coupling_ratios = [min(ratios.get(group.name, 0.0) for group in coupling.groups) for coupling in couplings]
    keys: list[tuple[str, int]] = [("apart", -1)] * len(couplings)
    for number, positions in enumerate(scopes_of(graph, couplings, scope)):
        for position in positions:
            keys[position] = ("scope", number)
    for position, coupling in enumerate(couplings):
        named = [tuple_positions[group.name] for group in coupling.groups if group.name in tuple_positions]
        if named:
            keys[position] = ("apart", named[0])
    participating = [position for position, coupling_ratio in enumerate(coupling_ratios) if coupling_ratio > 0]
    units: list[int] = []
    for members in positions_by_key([keys[position] for position in participating]):
        competing = [participating[member] for member in members]
        quota = sum(coupling_ratios[position] * couplings[position].size for position in competing)
        units.extend(units_up_to(couplings, ranking(couplings, competing), quota, over))
    return units
