"""Indices that a user names, checked in one place for all cuts by hand and candidates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from depgraph.algebra.indices import IndexSet
from depgraph.algebra.numbers import is_whole
from depgraph.errors import PlanError


def index_set(whose: str, size: int, given: Any) -> IndexSet:
    """The indices as a set.

    Args:
        whose: what has the indices, for messages, such as ``axis 0 of '0.weight'``.
        size: how many there are.
        given: positions from 0 up, each once.

    Raises:
        PlanError: no list of whole numbers, indices that there are not, or such that are given twice; all at once.

    >>> index_set("axis 0 of 'a.weight'", 4, [2, 0])
    IndexSet('0,2')
    >>> index_set("axis 0 of 'a.weight'", 4, [2, 2, 7])
    Traceback (most recent call last):
        ...
    depgraph.errors.PlanError: 2 problems; nothing was changed:
      - axis 0 of 'a.weight' has the indices 0 to 3, met [7].
      - indices of axis 0 of 'a.weight' are given more than once: [2]; give each once.
    """
    if isinstance(given, IndexSet):
        if given and given.intervals[-1][1] > size:
            raise PlanError.of([f"{whose} has the indices 0 to {size - 1}, met {given.intervals[-1][1] - 1}."])
        return given
    if not isinstance(given, Iterable) or isinstance(given, (str, bytes)):
        raise PlanError.of([f"expected a list of indices of {whose}, met {given!r}; pass {[given]!r}."])
    asked = list(given)
    strange = [index for index in asked if not is_whole(index, least=-(2**63))]
    whole = [index for index in asked if is_whole(index, least=-(2**63))]
    outside = sorted({index for index in whole if not 0 <= index < size})
    repeated = sorted(index for index, count in Counter(whole).items() if count > 1)
    problems = []
    if strange:
        problems.append(f"expected integers as indices of {whose}, met {strange[0]!r}; pass a list such as [2, 6, 9].")
    if outside:
        problems.append(f"{whose} has the indices 0 to {size - 1}, met {outside}.")
    if repeated:
        problems.append(f"indices of {whose} are given more than once: {repeated}; give each once.")
    if problems:
        raise PlanError.of(problems)
    return IndexSet.of(asked)
