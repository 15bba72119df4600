"""The one check of indices that users pass, for cuts by hand and for candidates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from depgraph.algebra.indices import IndexSet
from depgraph.algebra.numbers import is_whole
from depgraph.errors import PlanError


def index_set(whose: str, size: int, indices: Any) -> IndexSet:
    """The indices as a set.

    Args:
        whose: what has the indices, for messages, such as ``axis 0 of '0.weight'``.
        size: how many there are.
        indices: positions from 0 up, each once.

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
    if isinstance(indices, IndexSet):
        if indices and indices.intervals[-1][1] > size:
            raise PlanError.of([f"{whose} has the indices 0 to {size - 1}, met {indices.intervals[-1][1] - 1}."])
        return indices
    if not isinstance(indices, Iterable) or isinstance(indices, (str, bytes)):
        raise PlanError.of([f"expected a list of indices of {whose}, met {indices!r}; pass {[indices]!r}."])
    listed = list(indices)
    non_integers = [index for index in listed if not is_whole(index, least=-(2**63))]
    integers = [index for index in listed if is_whole(index, least=-(2**63))]
    outside = sorted({index for index in integers if not 0 <= index < size})
    repeated = sorted(index for index, count in Counter(integers).items() if count > 1)
    problems = []
    if non_integers:
        problems.append(f"expected integers as indices of {whose}, met {non_integers[0]!r}; pass a list such as [2, 6, 9].")
    if outside:
        problems.append(f"{whose} has the indices 0 to {size - 1}, met {outside}.")
    if repeated:
        problems.append(f"indices of {whose} are given more than once: {repeated}; give each once.")
    if problems:
        raise PlanError.of(problems)
    return IndexSet.of(listed)
