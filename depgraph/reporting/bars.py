"""Indices and scores as strips of a few characters: what one sees of them at the width of a bar."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate
from operator import sub
from typing import SupportsFloat

from depgraph.algebra.indices import IndexSet

LONGEST = 120
"""Cells of a strip at most; up to so many indices have one each."""

SHORTEST = 12
"""Cells of a strip, where it is one of many."""

LEVELS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
"""A cell is one of these, from nothing to everything."""

UNKNOWN = "."
"""The cell of scores that are no numbers."""


def share_strip(removed: IndexSet, size: int, longest: int = LONGEST) -> str:
    """Which share of the indices goes, cell by cell, of which there are so many at most.

    >>> share_strip(IndexSet.parse("0-1,3"), 4), len(share_strip(IndexSet.parse("5"), 1000))
    ('__A_', 120)
    """
    cells = min(size, longest)
    starts, stops = [start for start, _ in removed.intervals], [stop for _, stop in removed.intervals]
    before: list[int] = [0, *accumulate(map(sub, stops, starts))]

    def gone_below(index: int) -> int:
        place = bisect_left(starts, index)
        return before[place] - (max(0, stops[place - 1] - index) if place else 0)

    edges = [_edge(cell, size, cells) for cell in range(cells + 1)]
    counts = [gone_below(edge) for edge in edges]
    return "".join(_level((counts[k + 1] - counts[k]) / (edges[k + 1] - edges[k])) for k in range(cells))


def heat_strip(scores: Sequence[float]) -> tuple[str, float, float]:
    """The mean scores, cell by cell, between the lowest and the highest score, and these two.

    >>> heat_strip([0.0, 1.0, 4.0, math.nan])
    ('AQ_.', 0.0, 4.0)
    """
    finite = scores if all(map(math.isfinite, scores)) else [score for score in scores if math.isfinite(score)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 0.0)
    size = len(scores)
    cells = min(size, LONGEST)
    strip = []
    for cell in range(cells):
        known = scores[_edge(cell, size, cells) : _edge(cell + 1, size, cells)]
        if finite is not scores:
            known = [score for score in known if math.isfinite(score)]
        mean = math.fsum(known) / len(known) if known else math.nan
        strip.append(_level((mean - low) / (high - low) if high > low else 0.5) if known else UNKNOWN)
    return "".join(strip), low, high


def numbers(scores: Iterable[SupportsFloat]) -> list[float]:
    """Scores as plain numbers, whatever holds them: tuples, ranges, tensors or arrays.

    >>> numbers(range(3))
    [0.0, 1.0, 2.0]
    """
    plain = scores.tolist() if hasattr(scores, "tolist") else scores
    return list(map(float, plain))


def _edge(cell: int, size: int, cells: int) -> int:
    """The first index of a cell: the smallest i with i * cells // size == cell."""
    return -(-cell * size // cells)


def _level(share: float) -> str:
    return LEVELS[min(len(LEVELS) - 1, max(0, round(share * (len(LEVELS) - 1))))]
