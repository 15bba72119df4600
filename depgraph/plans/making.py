"""From removals to a plan: every check that a plan must pass, and what follows from its cuts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from depgraph.algebra.ragged_sets import RaggedSet, Removal, canonical, row_problem
from depgraph.algebra.spaces import Atom, atoms
from depgraph.errors import PlanError
from depgraph.graph.arguments import of_graph
from depgraph.graph.canonical import shrunk_and_numbered
from depgraph.graph.drops import Drop, drop_problems, without
from depgraph.graph.graph import Graph
from depgraph.graph.ragged import ragged_problems
from depgraph.plans.implied import balance_problems, free_axes, index_problems, moved_indices, shorter_axes, smaller_sizes
from depgraph.plans.plan import Edit, Plan, PrunedAxis, cuts_of, ordered_axes


@of_graph
def plan_of(graph: Graph, removed: Mapping[Atom, Removal], drops: Sequence[Drop] = ()) -> Plan:
    """The plan that removes the given indices of each group's atom, and the given elements of lists of modules.

    Args:
        graph: the traced model.
        removed: atom of a group to the original indices that go; a `RaggedSet` where each index of a base loses its own.
            Groups that go as a whole with the elements are left out.
        drops: which elements leave which lists.

    Raises:
        PlanError: a group would keep less than its lower bound, balanced groups would lose unequally many, or a group would
            lose other indices in each row although it is uniform, or elements may not leave. The error lists all problems at
            once.

    >>> import torch, depgraph as dg
    >>> graph = dg.trace(torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2)), torch.zeros(1, 4))
    >>> group = graph.groups_by_name["0.weight:0"]
    >>> plan_of(graph, {group.atom: dg.IndexSet.of([2, 6])}) == dg.cut(graph, "0.weight", [2, 6], dim=0)
    True
    """
    if problems := [f"{problem}." for problem in drop_problems(graph, drops)]:
        raise PlanError.of(problems)
    left = without(graph, drops)
    removed = canonical(
        {atom: removal for atom, removal in removed.items() if removal and (not drops or atom in left.group_of)}
    )
    if not removed and not drops:
        return Plan.empty(graph)
    problems = [*_group_problems(graph, removed)]
    if not problems:  # counts of wrong indices mean nothing
        problems = [*balance_problems(left, removed), *index_problems(left, removed)]
    if problems:
        raise PlanError.of(problems)
    result, base_numbers = shrunk_and_numbered(graph, removed, drops=drops)
    renamed: list[tuple[str, str]] = []
    if drops or any(atom.size - len(removal) == 1 for atom, removal in removed.items()):
        names = {group.atom.id: group.name for group in graph.groups}  # they follow the structure, not the sizes
        renamed = [(group.name, names[base_numbers[group.atom.id]]) for group in result.groups]
    axes = ordered_axes(PrunedAxis(*axis) for axis in shorter_axes(left, removed))
    reached = {axis.tensor for axis in axes}
    return Plan(
        base=graph.fingerprint,
        result=result.fingerprint,
        cuts=cuts_of(removed, {atom: graph.group_of[atom].name for atom in removed}),
        axes=axes,
        edits=tuple(sorted((Edit(*sizes) for sizes in smaller_sizes(left, removed)), key=lambda edit: edit.path)),
        renumbered=tuple(sorted((new, old) for new, old in base_numbers.items() if drops or new != old)),
        renamed=tuple(sorted((new, old) for new, old in renamed if drops or new != old)),
        unread_attributes=tuple(
            item for item in left.unread if any(atom in removed for space in item.spaces for atom in atoms(space))
        ),
        tied=tuple(sorted((item.name, *item.aliases) for item in left.tensors if item.aliases and item.name in reached)),
        drops=tuple(sorted(drops, key=lambda drop: drop.sequence.path)),
        free=free_axes(left, removed),
        moves=tuple(sorted((Edit(*move) for move in moved_indices(left, removed)), key=lambda edit: edit.path)),
    )


def _group_problems(graph: Graph, removed: Mapping[Atom, Removal]) -> Iterator[str]:
    """Removals that a group does not allow, whatever other groups lose."""
    ragged = {atom: removal for atom, removal in removed.items() if isinstance(removal, RaggedSet)}
    yield from ragged_problems(graph, {atom: removal.base for atom, removal in ragged.items()})
    for atom, removal in removed.items():
        group = graph.group_of[atom]
        if atom in ragged and (problem := row_problem(group.name, ragged[atom], removed.get(ragged[atom].base))) is not None:
            yield problem
            continue
        sets = removal.sets if isinstance(removal, RaggedSet) else (removal,)
        last = max((indices.intervals[-1][1] for indices in sets if indices), default=0) - 1
        if last >= atom.size:
            yield f"group {group.name} has the indices 0 to {atom.size - 1}, met {last}."
        elif len(removal) == atom.size:
            yield f"group {group.name} would lose its last index; leave at least one of {atom.size}."
        elif atom.size - len(removal) < group.lower_bound:
            yield (
                f"group {group.name} must keep at least {group.lower_bound} of its {atom.size} indices, because "
                f"{graph.why_kept(atom)}; asked to remove {len(removal)}."
            )
