"""Which elements leave their lists: the least important ones of each list that has scores."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from attrs import evolve

from depgraph.algebra.indices import IndexSet
from depgraph.algebra.numbers import is_number, is_whole
from depgraph.choosing.scores import Scores
from depgraph.errors import PlanError
from depgraph.graph.drops import Drop
from depgraph.graph.graph import Graph

Depth: TypeAlias = float | Mapping[str, float | int]


def drops_at(graph: Graph, scores: Scores, depth: Depth | None) -> tuple[Drop, ...]:
    """The elements that go.

    Args:
        graph: the traced model.
        scores: path of a list to one importance per element; the lowest go first, infinite ones never.
        depth: the fraction of each scored list that goes, in [0, 1); or a mapping from paths to fractions or whole numbers.

    Raises:
        PlanError: no such list, numbers out of range, or scores that do not fit; all at once.
    """
    if depth is None:
        return ()
    sequences = {item.path: item for item in graph.sequences}
    scored = [path for path in sequences if path in scores]
    table: Mapping[str, float | int] = depth if isinstance(depth, Mapping) else dict.fromkeys(scored, depth)
    problems = [] if table or isinstance(depth, Mapping) else [_NO_SCORES]
    if not isinstance(depth, Mapping) and not (is_number(depth) and 0 <= depth < 1):
        problems.append(f"expected depth= in [0, 1), the fraction of elements to remove, or a mapping, met {depth!r}.")
        table = {}
    drops = []
    for path, wanted in table.items():
        values = scores.get(path)
        problem = _problem(path, wanted, values, len(sequences[path].elements) if path in sequences else None)
        if problem or values is None:
            problems.append(problem)
            continue
        order = sorted(range(len(values)), key=lambda place: values[place])  # type: ignore[arg-type, return-value]
        free = [place for place in order if values[place] != math.inf]
        count = wanted if type(wanted) is int else math.floor(wanted * len(values) + 1e-9)
        if count > len(free):
            problems.append(f"expected to remove {count} elements of {path!r}, but only {len(free)} may leave.")
        elif count:
            drops.append(Drop(evolve(sequences[path], fixed=(), problem=""), IndexSet.of(free[: int(count)])))
    if problems:
        raise PlanError.of(problems)
    return tuple(drops)


_NO_SCORES = (
    "depth= needs scores of the elements of a list, by the list's path: "
    "{**dg.score(graph, model, dg.Magnitude()), **dg.score(graph, model, dg.criteria.BlockInfluence(batches))}."
)


def _is_score(value: object) -> bool:
    """Whether a value is a number; an infinite one says that its element stays."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and not math.isnan(value)


def _problem(path: str, wanted: object, values: Sequence[object] | None, length: int | None) -> str:
    """What is wrong with what is asked of a list, or nothing."""
    if length is None:
        return f"depth= names {path!r}, which is no list of modules of the graph."
    if values is None:
        return f"there are no scores for the elements of {path!r}; use dg.criteria.BlockInfluence(batches)."
    if len(values) != length or not all(map(_is_score, values)):
        return f"the list {path!r} has {length} elements, expected as many numbers as its scores, met {values!r:.60}."
    if not (is_whole(wanted, least=0) and wanted < length) and not (is_number(wanted) and 0 <= wanted < 1):
        return f"expected depth= of {path!r} as a fraction in [0, 1) or a whole number below {length}, met {wanted!r}."
    return ""
