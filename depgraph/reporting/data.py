"""What the page shows, as plain data: small, in one order, and without anything that graph and plans do not say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, SupportsFloat

from attrs import define, field

from depgraph.algebra.indices import IndexSet
from depgraph.algebra.ragged_sets import Removal
from depgraph.algebra.spaces import Atom, Space, atoms
from depgraph.choosing import engines
from depgraph.graph.graph import Graph
from depgraph.graph.groups import Group, reasons_of
from depgraph.graph.records import Operation
from depgraph.plans.plan import Cut, Plan, gone_from
from depgraph.reporting.bars import LONGEST, SHORTEST, heat_strip, numbers, share_strip
from depgraph.reporting.cards import Costs, cards
from depgraph.reporting.drawing import encoded, frames
from depgraph.reporting.folding import Encoded, folded_names, folded_tree, module_tree, pattern_of, unfolded
from depgraph.reporting.freeing import way_out

FORM = 1
"""The form of the data, which the page asks for."""

LONGEST_TEXT = 160
"""Characters of indices that the page writes out; the plan's file has all."""

AT_ONCE = 2
"""So many plans have strips of full length and texts; of more ones each has its share of them."""


@define(slots=False)
class Outcome:
    """A plan with the graph that it leads to."""

    plan: Plan
    result: Graph
    removals: Mapping[Atom, Removal]
    cuts: Mapping[Atom, Cut]
    _gone: dict[Space, IndexSet] = field(factory=dict)

    @classmethod
    def of(cls, graph: Graph, plan: Plan) -> Outcome:
        """The plan applied to its graph."""
        return cls(plan, plan.apply(graph), {cut.atom: cut.removal for cut in plan.cuts}, {cut.atom: cut for cut in plan.cuts})

    def size(self, space: Space) -> int:
        """How long an axis is after the plan."""
        removal = self.removals.get(space) if isinstance(space, Atom) else None
        return space.size - (len(removal) if removal is not None else len(self._removed(space)))

    def strip(self, space: Space, cells: int) -> str:
        """Which indices of an axis go; empty where none does."""
        if isinstance(space, Atom) and (cut := self.cuts.get(space)) is not None:
            return share_strip(cut.removed, space.size * (cut.base.size if cut.base is not None else 1), cells)
        removed = self._removed(space)
        return share_strip(removed, space.size, cells) if removed else ""

    def _removed(self, space: Space) -> IndexSet:
        """The flat indices that go."""
        if space not in self._gone:
            self._gone[space] = gone_from(space, self.removals)
        return self._gone[space]


@define
class Table:
    """Values, each once, by the order in which they were asked for."""

    places: dict[Any, int] = field(factory=dict)

    def place(self, value: Any) -> int:
        """Where a value stands."""
        return self.places.setdefault(value, len(self.places))

    @property
    def values(self) -> list[Any]:
        """The values in order."""
        return list(self.places)


def report_data(
    graph: Graph,
    plans: Sequence[Plan],
    scores: Mapping[str, Iterable[SupportsFloat]] | None,
    found: engines.Report | None,
    costs: Costs,
    *,
    in_turn: bool = False,
) -> Encoded:
    """Everything that the page shows.

    Its parts refer to each other by their places: the tree, the spaces of axes, the groups, the nodes, and the texts that stand
    in it often. Where sizes after the plans stand, there is one for each plan. `in_turn`: the plans are shown one at a time.
    """
    outcomes = [Outcome.of(graph, plan) for plan in plans]
    share = AT_ONCE / max(AT_ONCE, len(plans))
    places = {group.atom: place for place, group in enumerate(graph.groups)}
    root = module_tree(tensor for tensor in graph.tensors if tensor.kind != "value")
    tree = folded_tree(root, {item.name: item.module_class for item in graph.operations})
    tensors = list(unfolded(root))
    spaces, reasons, texts, widths = Table(), Table(), Table(), Table()
    texts.place("")
    axes = [spaces.place(space) for tensor in tensors for space in tensor.axes]
    for group in graph.groups:
        spaces.place(group.atom)
    cells = max(SHORTEST, int(LONGEST * share))
    space_rows = [_space_row(graph, space, places, outcomes, reasons, texts, cells) for space in spaces.values]
    drawn = {frame.path: encoded(frame, widths.place) for frame in frames(graph, tree)}
    length = int(LONGEST_TEXT * share)
    return {
        "form": FORM,
        "plans": len(plans),
        "in_turn": in_turn,
        "cards": cards(graph, [(outcome.plan, outcome.result) for outcome in outcomes], costs),
        "tree": tree,
        "axes": axes,
        "aliases": {tensor.name: list(tensor.aliases) for tensor in tensors if tensor.aliases},
        "spaces": space_rows,
        "groups": [_group_row(graph, group, spaces, places, outcomes, scores, texts, length) for group in graph.groups],
        "balances": [[item.reason, [places[atom] for atom in item.atoms if atom in places]] for item in graph.balances],
        "frames": drawn,
        "widths": [_width_row(space, places, outcomes) for space in widths.values],
        "reasons": [[reason, way_out(reason)] for reason in reasons.values],
        "nodes": _nodes(graph, places, outcomes),
        "pinned": _pinned(graph),
        "coverage": [graph.coverage.prunable, graph.coverage.total],
        "edits": [_edits(outcome.plan) for outcome in outcomes],
        "unread": [_unread(outcome.plan) for outcome in outcomes],
        "drops": [_drops(outcome.plan) for outcome in outcomes],
        "branches": [_branches(outcome.plan) for outcome in outcomes],
        "engine": _engine(found),
        "difference": None if in_turn else _difference(plans),
        "texts": texts.values,
    }


def _space_row(
    graph: Graph,
    space: Space,
    places: Mapping[Atom, int],
    outcomes: Sequence[Outcome],
    reasons: Table,
    texts: Table,
    cells: int,
) -> list[Any]:
    """Its text, size, sizes after, strips, groups and why it is pinned."""
    why = [reasons.place(reason) for reason in reasons_of(space, graph.reasons)]
    after, strips = [item.size(space) for item in outcomes], [texts.place(item.strip(space, cells)) for item in outcomes]
    return [str(space), space.size, after, strips, _groups_in(space, places), why]


def _width_row(space: Space, places: Mapping[Atom, int], outcomes: Sequence[Outcome]) -> list[Any]:
    """Of an axis of a tensor that passes between boxes: its size, sizes after, and groups."""
    return [space.size, [item.size(space) for item in outcomes], _groups_in(space, places)]


def _groups_in(space: Space, places: Mapping[Atom, int]) -> list[int]:
    return [places[atom] for atom in dict.fromkeys(atoms(space)) if atom in places]


def _group_row(
    graph: Graph,
    group: Group,
    spaces: Table,
    places: Mapping[Atom, int],
    outcomes: Sequence[Outcome],
    scores: Mapping[str, Iterable[SupportsFloat]] | None,
    texts: Table,
    length: int,
) -> Encoded:
    """What the page says of one group; its members are found by its space."""
    row: Encoded = {"name": group.name, "role": group.role, "space": spaces.place(group.atom)}
    if group.lower_bound > 1:
        row["bound"], row["why"] = group.lower_bound, graph.why_kept(group.atom)
    if group.multiple > 1:
        row["multiple"] = [group.multiple, graph.why_multiple(group.atom)]
    removed = [texts.place(_removed(outcome.cuts.get(group.atom), graph, length)) for outcome in outcomes]
    if any(removed):
        row["removed"] = removed
    balances = [place for place, item in enumerate(graph.balances) if group.atom in item.atoms]
    if balances:
        row["balanced"] = balances
    if scores is not None and group.name in scores:
        strip, low, high = heat_strip(numbers(scores[group.name]))
        row["heat"] = [strip, float(f"{low:.3g}"), float(f"{high:.3g}")]
    return row


def _removed(cut: Cut | None, graph: Graph, length: int) -> str:
    """The indices that a group loses, the first ones of many."""
    if cut is None:
        return ""
    text = str(IndexSet(cut.removed.intervals[:length]))  # more than are shown, for each has a digit
    if len(text) > length:
        text = text[:length].rpartition(",")[0] + ", …"
    return text if cut.base is None else f"each index of {graph.group_of[cut.base].name} its own, as row * size + index: {text}"


def _nodes(graph: Graph, groups: Mapping[Atom, int], outcomes: Sequence[Outcome]) -> Encoded:
    """Nodes by columns, and what flows between them.

    Names are written as how many characters they share with the one before, and the others. `edges` are runs of four numbers:
    by how much the target is further than that of the edge before, how far back the source is, which of `sides`, and which of
    `sets`, the groups that go together at both ends. The first set is empty: there nothing is forced.
    """
    operators, classes, places, sides, sets = Table(), Table(), Table(), Table(), Table()
    sets.place(())
    names, columns, last = [], [], ""
    for operation in graph.operations:
        shared = _shared(last, operation.name)
        names.append([shared, operation.name[shared:]])
        last = operation.name
        columns.append(
            [operators.place(f"{operation.type.value} {operation.op}"), classes.place(operation.module_class),
             places.place(operation.where)]
        )  # fmt: skip
    return {
        "names": names,
        "columns": columns,
        "operators": operators.values,
        "classes": classes.values,
        "where": places.values,
        "edges": _edges(graph, groups, sides, sets),
        "sides": sides.values,
        "sets": [list(together) for together in sets.values],
        "macs": _macs(graph, outcomes),
    }


def _edges(graph: Graph, groups: Mapping[Atom, int], sides: Table, sets: Table) -> list[int]:
    place_of = {node.name: place for place, node in enumerate(graph.nodes)}
    forced: dict[tuple[int, int], dict[tuple[int, int], None]] = {}
    for node in graph.nodes:
        for name in node.inputs:
            forced.setdefault((place_of[node.name], place_of[name]), {})
    for node in graph.nodes:
        for item in node.dependencies:
            pair = forced.get((place_of[item.target], place_of[item.source]))
            if pair is None or item.source != node.name:
                continue
            found = dict.fromkeys(atom for step in item.index_map.steps for space in step for atom in atoms(space))
            together = tuple(sorted(groups[atom] for atom in found if atom in groups))
            pair[sides.place(f"{item.source_axis} {item.target_axis}"), sets.place(together)] = None
    edges, before = list[int](), 0
    for (target, source), kinds in sorted(forced.items()):
        for side, together_place in kinds or {(0, 0): None}:
            edges += [target - before, target - source, side, together_place]
            before = target
    return edges


def _macs(graph: Graph, outcomes: Sequence[Outcome]) -> list[list[int]]:
    """The nodes that cost something: their place, and their MACs before and after each plan."""
    after = [{item.name: _macs_of(item) for item in outcome.result.operations} for outcome in outcomes]
    rows = []
    for place, operation in enumerate(graph.operations):
        if before := _macs_of(operation):
            names = [outcome.plan.name_after(operation.name) for outcome in outcomes]
            rows.append([place, before, *(table.get(name or "", 0) for table, name in zip(after, names, strict=True))])
    return rows


def _macs_of(operation: Operation) -> int:
    return sum(cost.macs for cost in operation.costs)


def _pinned(graph: Graph) -> list[Encoded]:
    """Pinned axes by reason, those that hold the most elements first."""
    alike: dict[str, list[str]] = {}
    firsts: dict[str, str] = {}
    for axis in graph.pinned:
        pattern = pattern_of(axis.reason)
        firsts.setdefault(pattern, axis.reason)
        alike.setdefault(pattern, []).append(f"{axis.tensor} dim {axis.dim}")
    sizes = {pattern: sum(_numel(graph, name) for name in axes) for pattern, axes in alike.items()}
    order = sorted(alike, key=lambda pattern: (-sizes[pattern], pattern))
    return [
        {
            "reason": firsts[pattern],
            "free": way_out(firsts[pattern]),
            "count": len(alike[pattern]),
            "axes": folded_names(alike[pattern]),
        }
        for pattern in order
    ]


def _numel(graph: Graph, axis: str) -> int:
    return graph.tensor(axis.split(" ")[0]).numel


def _edits(plan: Plan) -> list[list[Any]]:
    """Edits by their sizes; those that differ in the numbers of layers alone together."""
    alike: dict[tuple[int, int, bool], list[str]] = {}
    for edit in plan.writes:
        alike.setdefault((edit.old, edit.new, edit.path in plan.added), []).append(edit.path)
    rows = [[name, old, new, added] for (old, new, added), paths in alike.items() for name in folded_names(paths)]
    return sorted(rows)


def _unread(plan: Plan) -> list[list[Any]]:
    alike: dict[tuple[int, tuple[int, ...]], list[str]] = {}
    for item in plan.unread:
        alike.setdefault((item.value, item.sizes), []).append(item.path)
    return sorted([name, value, list(sizes)] for (value, sizes), paths in alike.items() for name in folded_names(paths))


def _drops(plan: Plan) -> list[Encoded]:
    return [
        {
            "path": item.sequence.path,
            "prefix": item.sequence.prefix,
            "removed": [item.sequence.elements[place] for place in item.removed],
            "count": len(item.sequence.elements),
            "left": [[name, new] for name, new in item.left.items() if name != new],
        }
        for item in plan.drops
    ]


def _branches(plan: Plan) -> list[Encoded]:
    """Residual branches that leave, with what goes with them."""
    return [{"path": item.path, "beside": list(item.beside)} for item in plan.branches]


def _engine(found: engines.Report | None) -> Encoded | None:
    if found is None:
        return None
    alike: dict[tuple[str, ...], list[str]] = {}
    for item in found.findings:
        size = f"{item.size:g}" if isinstance(item.size, float) else str(item.size)
        alike.setdefault((item.what, size, item.needs, item.effect, item.why, item.source), []).append(item.layer)
    rows = [[", ".join(folded_names(layers)), *row] for row, layers in alike.items()]
    return {"name": found.engine, "count": len(found.findings), "rows": rows}


def _difference(plans: Sequence[Plan]) -> Encoded | None:
    """What only one of two plans removes, by group."""
    if len(plans) < 2:
        return None
    one, other = plans
    return {"rows": [[item.group, len(item.first), len(item.second)] for item in one.diff(other).cuts]}


def _shared(one: str, other: str) -> int:
    """How many characters two names begin with together."""
    for place, (left, right) in enumerate(zip(one, other, strict=False)):
        if left != right:
            return place
    return min(len(one), len(other))
