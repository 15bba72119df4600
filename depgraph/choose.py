"""Choosing what to remove: scores and a target in, a plan out. Numbers only; no tensor is seen here."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeAlias

from depgraph.errors import PlanError, UnknownNameError
from depgraph.graph import Graph
from depgraph.indices import IndexSet
from depgraph.plans import Plan, plan_of
from depgraph.records import Group
from depgraph.spaces import Atom, Product, Reversed, Space

Scores: TypeAlias = Mapping[str, Sequence[float]]
"""Group name to one importance per index; the lowest go first."""

Ratio: TypeAlias = float | Mapping[str, float]

INNER = frozenset({"channel", "head_dim"})
"""Roles that are cut unless told otherwise."""


def plan(
    graph: Graph,
    scores: Scores,
    *,
    ratio: Ratio | None = None,
    params: float | None = None,
    macs: float | None = None,
    ignore: Iterable[str] = (),
) -> Plan:
    """A plan that removes the least important indices of each group.

    Exactly one target is given. Groups that count blocks of another group (the roles ``head``, ``kv_group``,
    ``conv_group`` and ``block``) are left unless a mapping `ratio` names them.

    Args:
        graph: the traced model.
        scores: what `score` returned, or any mapping of group name to importances.
        ratio: the fraction of each group's indices to remove, in [0, 1); the number is rounded down. Or a mapping from
            patterns to fractions, the last match counting: a group name, a glob over parameter names,
            a role such as ``role:head``, or ``*`` for every group that a plain number would cut.
        params: the fraction of the parameters that is to remain at most, in (0, 1].
        macs: the fraction of the multiply-accumulates that is to remain at most, in (0, 1].
        ignore: layers or parameters, by dotted path or glob; a group that reaches into one of them is left whole.

    Returns:
        The plan. For `params` and `macs` one common ratio is used: the smallest that meets the target.

    Raises:
        PlanError: no target or several, a target out of range or out of reach, scores that do not fit, or nothing to prune.
        UnknownNameError: a pattern that names nothing.
    """
    if not isinstance(graph, Graph):
        raise PlanError(f"expected a Graph, met {type(graph).__name__}; pass what dg.trace returned.")
    if not isinstance(scores, Mapping):
        raise PlanError(f"expected scores by group name, met {type(scores).__name__}; use dg.score(graph, model, criterion).")
    given = {name: value for name, value in (("ratio", ratio), ("params", params), ("macs", macs)) if value is not None}
    if len(given) != 1:
        raise PlanError(f"expected exactly one of ratio=, params= and macs=, met {sorted(given) or 'none'}.")
    ignored = graph.select(ignore)
    groups = [group for group in graph.groups if not any(tensor in ignored for tensor, _ in group.members)]
    order = _orders(groups, scores)
    if ratio is not None:
        ratios = _ratios(graph, groups, ratio)
        chosen = _lowest(graph, groups, order, ratios)
        if not chosen and any(value > 0 for value in ratios.values()):
            raise PlanError(
                "nothing can be removed at this ratio: every group is too small, or balanced with one that is left."
            )
        if not groups:
            raise PlanError(_nothing(graph))
        return plan_of(graph, chosen)
    return _within(graph, groups, order, "params" if params is not None else "macs", next(iter(given.values())))  # type: ignore[arg-type]


def _nothing(graph: Graph) -> str:
    if graph.groups:
        return "ignore= leaves no group to prune."
    reasons = "; ".join(str(pinned) for pinned in graph.pinned[:3])
    return f"the model has no group to prune. Pinned axes are listed in graph.pinned, such as: {reasons}"


def _orders(groups: Iterable[Group], scores: Scores) -> dict[str, list[int]]:
    orders = {}
    for group in groups:
        values = scores.get(group.name)
        if values is None:
            raise PlanError(f"there is no score for group {group.name!r}; use dg.score(graph, model, criterion) on this graph.")
        if len(values) != group.size:
            raise PlanError(
                f"group {group.name!r} has {group.size} indices, its scores are {len(values)}; score this graph anew."
            )
        if math.isnan(sum(values)) and any(map(math.isnan, values)):
            raise PlanError(f"the scores of group {group.name!r} hold NaN; check the model's weights.")
        orders[group.name] = sorted(range(group.size), key=values.__getitem__)
    return orders


def _ratios(graph: Graph, groups: Iterable[Group], ratio: Ratio) -> dict[str, float]:
    table = ratio if isinstance(ratio, Mapping) else {"*": ratio}
    for pattern, value in table.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1:
            raise PlanError(f"expected a ratio in [0, 1), met {value!r} for {pattern!r}; it is the fraction to remove.")
    chosen = {group.name: 0.0 for group in groups}
    for pattern, value in table.items():
        hits = [group for group in graph.groups if _fits(group, pattern)]
        if not hits and isinstance(ratio, Mapping):
            raise UnknownNameError(
                "group or role", pattern, [*graph.groups_by_name, *(f"role:{group.role}" for group in graph.groups), "*"]
            )
        chosen.update({group.name: value for group in hits if group.name in chosen})
    return chosen


def _fits(group: Group, pattern: str) -> bool:
    if pattern.startswith("role:"):
        return group.role == pattern.removeprefix("role:")
    if pattern == "*":
        return group.role in INNER
    return group.name == pattern or any(fnmatch.fnmatchcase(tensor, pattern) for tensor, _ in group.members)


def _lowest(
    graph: Graph, groups: Sequence[Group], order: Mapping[str, list[int]], ratios: Mapping[str, float]
) -> dict[Atom, IndexSet]:
    """The lowest indices of each group; balanced groups lose as many as the one that loses least."""
    counts = {group.atom: min(int(group.size * ratios[group.name] + 1e-9), group.size - 1) for group in groups}
    for balance in graph.balances:
        least = min(counts.get(atom, 0) for atom in balance.atoms)
        counts.update({atom: least for atom in balance.atoms if atom in counts})
    return {group.atom: IndexSet.of(order[group.name][: counts[group.atom]]) for group in groups if counts[group.atom]}


def _within(graph: Graph, groups: Sequence[Group], order: Mapping[str, list[int]], what: str, remain: float) -> Plan:
    if isinstance(remain, bool) or not isinstance(remain, (int, float)) or not 0 < remain <= 1:
        raise PlanError(f"expected {what}= in (0, 1], the fraction that is to remain, met {remain!r}.")
    total = graph.params if what == "params" else graph.macs
    cost = _cost(graph, what)
    pruned = [group for group in groups if group.role in INNER]
    steps = sorted({k / group.size for group in pruned for k in range(group.size)})

    def removal(step: int) -> dict[Atom, IndexSet]:
        return _lowest(graph, pruned, order, {group.name: steps[step] for group in pruned})

    def after(step: int) -> int:
        return cost({atom: atom.size - len(indices) for atom, indices in removal(step).items()})

    if remain == 1:
        return Plan.empty(graph)
    if not steps:
        raise PlanError(_nothing(graph))
    if after(len(steps) - 1) > remain * total:
        least = after(len(steps) - 1) / total
        raise PlanError(
            f"{what}={remain} is out of reach: with one index left in each group, {least:.4f} of the {what} remain."
        )
    low, high = 0, len(steps) - 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if after(middle) <= remain * total else (middle + 1, high)
    return plan_of(graph, removal(low))


def _cost(graph: Graph, what: str) -> Callable[[Mapping[Atom, int]], int]:
    """A function from atom sizes to the cost at these sizes."""
    if what == "params":
        terms = [(tensor.axes, 1) for tensor in graph.tensors if tensor.kind == "parameter"]
    else:
        terms = [(cost.axes, cost.scale) for operation in graph.operations for cost in operation.costs]

    def evaluate(sizes: Mapping[Atom, int]) -> int:
        memo: dict[Space, int] = {}

        def size(space: Space) -> int:
            found = memo.get(space)
            if found is None:
                if isinstance(space, Atom):
                    found = sizes.get(space, space.size)
                elif isinstance(space, Reversed):
                    found = size(space.atom)
                elif isinstance(space, Product):
                    found = math.prod(map(size, space.factors))
                else:
                    found = sum(map(size, space.parts))
                memo[space] = found
            return found

        return sum(scale * math.prod(map(size, axes)) for axes, scale in terms)

    return evaluate
