"""Indices and scores as strips of a few characters: what one sees of them at the width of a bar."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import SupportsFloat

from depgraph.algebra.indices import IndexSet

LONGEST = 120
"""Cells of a strip at most; up to so many indices have one each."""

LEVELS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
"""A cell is one of these, from nothing to everything."""

UNKNOWN = "."
"""The cell of scores that are no numbers."""


def share_strip(removed: IndexSet, size: int) -> str:
    """Which share of the indices goes, cell by cell.

    >>> share_strip(IndexSet.parse("0-1,3"), 4), len(share_strip(IndexSet.parse("5"), 1000))
    ('__A_', 120)
    """
    cells = min(size, LONGEST)
    counts = [0.0] * cells
    for start, stop in removed.intervals:
        first, last = start * cells // size, (stop - 1) * cells // size
        if first == last:
            counts[first] += stop - start
            continue
        for cell in range(first, last + 1):
            begin, end = _edge(cell, size, cells), _edge(cell + 1, size, cells)
            counts[cell] += min(stop, end) - max(start, begin)
    return "".join(
        _level(count / (_edge(cell + 1, size, cells) - _edge(cell, size, cells))) for cell, count in enumerate(counts)
    )


def heat_strip(scores: Sequence[float]) -> tuple[str, float, float]:
    """The mean scores, cell by cell, between the lowest and the highest score, and these two.

    >>> heat_strip([0.0, 1.0, 4.0, math.nan])
    ('AQ_.', 0.0, 4.0)
    """
    finite = [score for score in scores if math.isfinite(score)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 0.0)
    size = len(scores)
    cells = min(size, LONGEST)
    strip = []
    for cell in range(cells):
        part = scores[_edge(cell, size, cells) : _edge(cell + 1, size, cells)]
        known = [score for score in part if math.isfinite(score)]
        mean = math.fsum(known) / len(known) if known else math.nan
        strip.append(_level((mean - low) / (high - low) if high > low else 0.5) if known else UNKNOWN)
    return "".join(strip), low, high


def numbers(scores: Iterable[SupportsFloat]) -> list[float]:
    """Scores as plain numbers, whatever holds them: tuples, ranges, tensors or arrays.

    >>> numbers(range(3))
    [0.0, 1.0, 2.0]
    """
    plain = scores.tolist() if hasattr(scores, "tolist") else scores
    return [float(score) for score in plain]


def _edge(cell: int, size: int, cells: int) -> int:
    """The first index of a cell: the smallest i with i * cells // size == cell."""
    return -(-cell * size // cells)


def _level(share: float) -> str:
    return LEVELS[min(len(LEVELS) - 1, max(0, round(share * (len(LEVELS) - 1))))]
