"""Candidate cuts, to be accepted one by one. The accepted ones are a set: their order does not matter, and no state is kept."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from attrs import frozen

from depgraph.algebra.indices import IndexSet
from depgraph.algebra.numbers import is_whole
from depgraph.algebra.ragged_sets import is_table
from depgraph.algebra.spaces import Atom
from depgraph.choosing.costs import Savings
from depgraph.choosing.coupled import coupled_groups
from depgraph.choosing.scores import Scores, fitting, mean_of
from depgraph.errors import MismatchError, PlanError, UnknownNameError
from depgraph.graph.arguments import of_graph
from depgraph.graph.graph import Graph
from depgraph.graph.groups import INTERFACE, Group
from depgraph.plans.indices import index_set
from depgraph.plans.making import plan_of
from depgraph.plans.plan import Plan, refuse_other_graph


@frozen
class Share:
    """What one group would lose.

    Attributes:
        group: its name.
        indices: original indices.
        scores: their importances, in the order of the indices.

    >>> import torch, depgraph as dg
    >>> class Halves(torch.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.inner, self.left, self.right = torch.nn.Linear(4, 6), torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    ...     def forward(self, x):
    ...         left, right = self.inner(x).chunk(2, -1)          # equal parts: both groups lose equally many
    ...         return self.left(left) + self.right(right)
    >>> graph = dg.trace(Halves(), torch.zeros(1, 4))
    >>> first, second = dg.candidates(graph, {"inner.weight:0[0]": [0.1, 0.2, 0.3], "inner.weight:0[1]": [0.3, 0.2, 0.1]})
    >>> first.group, first.indices, first.partners
    ('inner.weight:0[0]', IndexSet('0'), (Share(group='inner.weight:0[1]', indices=IndexSet('2'), scores=(0.1,)),))
    """

    group: str
    indices: IndexSet
    scores: tuple[float, ...]


@frozen
class Candidate:
    """A cut that may be taken or left, and what it saves when it is the only one.

    Attributes:
        base: fingerprint of the graph.
        group: name of the group that loses.
        indices: its original indices that go.
        scores: their importances, in the order of the indices.
        partners: groups that are balanced with it and lose equally many.
        params: parameters that go with the whole cut, partners included.
        macs: multiply-accumulates that go.

    >>> import torch, depgraph as dg
    >>> graph = dg.trace(torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 2)), torch.zeros(1, 4))
    >>> first, second = dg.candidates(graph, {"0.weight:0": [0.3, 0.1, 0.2]})
    >>> isinstance(first, dg.choosing.Candidate), first.removed, first.params     # a row of 4, its bias, a column of 2
    (True, {'0.weight:0': IndexSet('1')}, 7)
    >>> first.macs                                                                # 4 in the first layer, 2 in the second
    6
    """

    base: str
    group: str
    indices: IndexSet
    scores: tuple[float, ...]
    partners: tuple[Share, ...]
    params: int
    macs: int

    @property
    def removed(self) -> dict[str, IndexSet]:
        """Group name to the indices that go, partners included. An edited copy of it is as good as a candidate."""
        return {self.group: self.indices, **{share.group: share.indices for share in self.partners}}


@of_graph
def candidates(graph: Graph, scores: Scores, plan: Plan | None = None, *, step: int = 1) -> Iterator[Candidate]:
    """The cuts that one may choose from, the least important first.

    Args:
        graph: the traced model.
        scores: group name to one importance per index.
        plan: a plan for this graph: each of its groups, with the groups balanced with it, is one candidate. Without a plan
            every group offers all its indices down to its lower bound, `step` at a time and the lowest first; those of the
            model's interface offer none.
        step: how many indices of a group each candidate without a plan takes.

    Yields:
        Candidates by ascending mean score; equal ones in the order of `graph.groups`.

    Raises:
        PlanError: scores that do not fit the graph, or a `step` below 1.
        MismatchError: the plan was made for another graph.

    >>> import torch, depgraph as dg
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
    >>> graph = dg.trace(model, torch.randn(1, 4))
    >>> first, second = dg.candidates(graph, {"0.weight:0": [0.3, 0.1, 0.2]})
    >>> first.group, first.indices, first.scores, first.params, first.macs
    ('0.weight:0', IndexSet('1'), (0.1,), 7, 6)
    >>> dg.combine(graph, [second, first]) == dg.combine(graph, [first, second])
    True
    """
    if not isinstance(scores, Mapping):
        raise PlanError(f"expected scores by group name, met {type(scores).__name__}; use dg.score(graph, model, criterion).")
    if not is_whole(step, least=1):
        raise PlanError(f"expected step= as a whole number of indices from 1 up, met {step!r}.")
    if plan is None:
        inner = [coupling for coupling in coupled_groups(graph) if INTERFACE.isdisjoint(group.role for group in coupling)]
        cuts = [cut for coupling in inner for cut in _lowest_first(coupling, scores, step)]
    else:
        refuse_other_graph(plan, graph, "Make the plan on this graph.")
        cuts = [cut for coupling in coupled_groups(graph) if (cut := _planned(coupling, plan))]
    savings = Savings(graph)
    return iter(sorted((_candidate(graph, savings, cut, scores) for cut in cuts), key=_mean))


@of_graph
def combine(graph: Graph, accepted: Iterable[Candidate | Mapping[str, Iterable[int]]]) -> Plan:
    """The plan that makes every accepted cut: the union of their indices, whatever the order.

    Args:
        graph: the graph of which the candidates are.
        accepted: candidates, or mappings from group names to original indices, such as an edited `Candidate.removed`.

    Raises:
        PlanError: balanced groups would lose unequally many (the message says which lack how many), or a group everything.
        MismatchError: a candidate of another graph.
        UnknownNameError: a mapping names no group of the graph.

    >>> import torch, depgraph as dg
    >>> graph = dg.trace(torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 2)), torch.zeros(1, 4))
    >>> first, second = dg.candidates(graph, {"0.weight:0": [0.3, 0.1, 0.2]})
    >>> dict(dg.combine(graph, [second, first]).removed), dict(dg.combine(graph, [first]).removed)
    ({'0.weight:0': IndexSet('1-2')}, {'0.weight:0': IndexSet('1')})
    >>> dict(dg.combine(graph, [first, {"0.weight:0": [0]}]).removed)             # a mapping is as good as a candidate
    {'0.weight:0': IndexSet('0-1')}
    """
    removed: dict[Atom, IndexSet] = {}
    for item in accepted:
        if isinstance(item, Candidate):
            if item.base != graph.fingerprint:
                problem = f"{item.group!r}: expected fingerprint {item.base[:12]}, met {graph.fingerprint[:12]}"
                raise MismatchError("a candidate was made for another graph:", [problem], "Ask for candidates of this graph.")
        elif not isinstance(item, Mapping):
            raise PlanError(f"expected candidates or mappings of group name to indices, met {type(item).__name__}.")
        for name, indices in (item.removed if isinstance(item, Candidate) else item).items():
            if name not in graph.groups_by_name:
                raise UnknownNameError("group", name, graph.groups_by_name)
            group = graph.groups_by_name[name]
            removed[group.atom] = removed.get(group.atom, IndexSet()) | index_set(f"group {name}", group.size, indices)
    problems = []
    for balance in graph.balances:
        counts = {graph.group_of[atom].name: len(removed.get(atom, IndexSet())) for atom in balance.atoms}
        max_count = max(counts.values())
        lacking = [f"{name} lacks {max_count - count}" for name, count in counts.items() if count < max_count]
        if lacking:
            full = ", ".join(name for name, count in counts.items() if count == max_count)
            problems.append(f"with {max_count} of {full}: {', '.join(lacking)} ({balance.reason})")
    if problems:
        raise PlanError(
            f"balanced groups must lose equally many indices; {'; '.join(dict.fromkeys(problems))}. "
            "Accept as many of each. Nothing was changed."
        )
    return plan_of(graph, removed)


def _lowest_first(coupling: Sequence[Group], scores: Scores, step: int) -> Iterator[dict[Group, IndexSet]]:
    """All removable indices of coupled groups, `step` of each group at a time, by rising score within each group."""
    orders = {group: sorted(range(group.size), key=_uniform_scores(group, scores).__getitem__) for group in coupling}
    max_removable = min(group.size - group.lower_bound for group in coupling)
    for start in range(0, max_removable, step):
        yield {group: IndexSet.of(order[start : min(start + step, max_removable)]) for group, order in orders.items()}


def _planned(coupling: Sequence[Group], plan: Plan) -> dict[Group, IndexSet]:
    """The indices that a plan removes from coupled groups."""
    ragged = [cut.group for cut in plan.cuts if cut.base is not None]
    if ragged:
        raise PlanError(f"the plan's cut of {ragged[0]!r} is ragged; candidates take the same indices in each row.")
    removed = {cut.atom: cut.removed for cut in plan.cuts}
    return {group: removed[group.atom] for group in coupling if group.atom in removed}


def _uniform_scores(group: Group, scores: Scores) -> Sequence[float]:
    values: Any = scores.get(group.name)
    if values is not None and is_table(values):
        raise PlanError(
            f"the scores of group {group.name!r} are a table; candidates take the same indices in each of its rows."
        )
    return fitting(group, values)


def _candidate(graph: Graph, savings: Savings, cut: Mapping[Group, IndexSet], scores: Scores) -> Candidate:
    shares = []
    for group, indices in cut.items():
        values = _uniform_scores(group, scores)
        shares.append(Share(group.name, indices, tuple(float(values[index]) for index in indices)))
    first, *partners = shares
    params, macs = savings.of({group.atom: indices for group, indices in cut.items()})
    return Candidate(graph.fingerprint, first.group, first.indices, first.scores, tuple(partners), params, macs)


def _mean(candidate: Candidate) -> float:
    values = [*candidate.scores, *(value for share in candidate.partners for value in share.scores)]
    return mean_of(values)
