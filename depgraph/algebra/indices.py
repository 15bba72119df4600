"""Sets of indices as sorted disjoint intervals, so that a cut of a wide axis stays small."""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator
from itertools import chain, pairwise

from attrs import field, frozen


def _merged(intervals: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    merged: list[tuple[int, int]] = []
    for start, stop in sorted(intervals):
        if start >= stop:
            continue
        if merged and start <= merged[-1][1]:
            if stop > merged[-1][1]:
                merged[-1] = (merged[-1][0], stop)
        else:
            merged.append((start, stop))
    if merged and merged[0][0] < 0:
        raise ValueError(f"indices are counted from 0, got {merged[0][0]}")
    return tuple(merged)


@frozen(order=False)
class IndexSet:
    """A finite set of non-negative integers.

    The intervals ``(start, stop)`` are half open, sorted, disjoint and never adjacent, so equal sets are equal values.

    Raises:
        ValueError: an index below 0.

    >>> IndexSet.of([5, 1, 2, 3])
    IndexSet('1-3,5')
    >>> IndexSet.of([1, 2]) | IndexSet.of([3])
    IndexSet('1-3')
    """

    intervals: tuple[tuple[int, int], ...] = field(default=(), converter=_merged)

    @classmethod
    def of(cls, indices: Iterable[int]) -> IndexSet:
        """The set of the given integers; repeated ones count once."""
        ordered = sorted(set(map(int, indices)))
        if not ordered:
            return cls._canonical(())
        if ordered[0] < 0:
            raise ValueError(f"indices are counted from 0, got {ordered[0]}")
        gaps = [(before + 1, after) for before, after in pairwise(ordered) if before + 1 != after]
        starts, stops = [ordered[0], *(after for _, after in gaps)], [*(before for before, _ in gaps), ordered[-1] + 1]
        return cls._canonical(zip(starts, stops, strict=True))

    @classmethod
    def _canonical(cls, intervals: Iterable[tuple[int, int]]) -> IndexSet:
        """A set from intervals that are known to be sorted, disjoint and not adjacent: nothing is left to merge."""
        result = object.__new__(cls)
        object.__setattr__(result, "intervals", tuple(intervals))
        return result

    @classmethod
    def range(cls, start: int, stop: int) -> IndexSet:
        """The integers from `start` up to, without, `stop`."""
        return cls(((start, stop),))

    @classmethod
    def parse(cls, text: str) -> IndexSet:
        """Read the form that `str()` writes, such as ``"1-3,5"``.

        Raises:
            ValueError: any other text.
        """
        intervals = []
        for piece in filter(None, text.split(",")):
            first, _, last = piece.partition("-")
            intervals.append((int(first), int(last or first) + 1))
        result = cls(tuple(intervals))
        if str(result) != text:
            raise ValueError(f"{text!r} is not a sorted list of disjoint ranges such as '1-3,5'")
        return result

    def __str__(self) -> str:
        return ",".join(str(a) if b == a + 1 else f"{a}-{b - 1}" for a, b in self.intervals)

    def __repr__(self) -> str:
        return f"IndexSet({str(self)!r})"

    def __iter__(self) -> Iterator[int]:
        for start, stop in self.intervals:
            yield from range(start, stop)

    def __len__(self) -> int:
        return sum([stop - start for start, stop in self.intervals])

    def __bool__(self) -> bool:
        return bool(self.intervals)

    def __contains__(self, index: object) -> bool:
        if not isinstance(index, int):
            return False
        position = bisect.bisect_right(self.intervals, (index, float("inf"))) - 1
        return position >= 0 and index < self.intervals[position][1]

    def __or__(self, other: IndexSet) -> IndexSet:
        return IndexSet(self.intervals + other.intervals)

    def __and__(self, other: IndexSet) -> IndexSet:
        result: list[tuple[int, int]] = []
        left, right = iter(self.intervals), iter(other.intervals)
        mine, theirs = next(left, None), next(right, None)
        while mine is not None and theirs is not None:
            start = mine[0] if mine[0] > theirs[0] else theirs[0]
            if mine[1] < theirs[1]:
                if start < mine[1]:
                    result.append((start, mine[1]))
                mine = next(left, None)
            else:
                if start < theirs[1]:
                    result.append((start, theirs[1]))
                theirs = next(right, None)
        return IndexSet._canonical(result)

    def __sub__(self, other: IndexSet) -> IndexSet:
        if not self.intervals or not other.intervals:
            return self
        return self & other.complement(max(self.intervals[-1][1], other.intervals[-1][1]))

    def __le__(self, other: IndexSet) -> bool:
        """Whether every index of this set is in the other one."""
        return self & other == self

    def complement(self, size: int) -> IndexSet:
        """The indices of ``range(size)`` that are not in the set."""
        edges = [0, *chain.from_iterable(self.intervals), size]
        gaps = [*zip(edges[::2], edges[1::2], strict=True)]
        if len(edges) > 2 and edges[-2] > size:
            gaps = [(start, min(stop, size)) for start, stop in gaps if start < min(stop, size)]
        first, last = bool(gaps) and gaps[0][0] >= gaps[0][1], bool(gaps) and gaps[-1][0] >= gaps[-1][1]
        return IndexSet._canonical(gaps[first : len(gaps) - last])

    def shift(self, offset: int) -> IndexSet:
        """Every index plus `offset`."""
        return IndexSet(tuple((start + offset, stop + offset) for start, stop in self.intervals))

    def mirrored(self, size: int) -> IndexSet:
        """The same places of ``range(size)`` counted from its end.

        >>> IndexSet.of([0, 1, 4]).mirrored(6)
        IndexSet('1,4-5')
        """
        return IndexSet._canonical((size - stop, size - start) for start, stop in reversed(self.intervals))

    def renumber(self, removed: IndexSet) -> IndexSet:
        """The numbers that these indices have once `removed` is gone; indices in `removed` have none.

        >>> IndexSet.of([0, 2, 5]).renumber(IndexSet.of([1, 5]))
        IndexSet('0-1')
        """
        result = []
        gone = 0
        cuts = removed.intervals
        position = 0
        for start, stop in (self - removed).intervals:
            while position < len(cuts) and cuts[position][1] <= start:
                gone += cuts[position][1] - cuts[position][0]
                position += 1
            result.append((start - gone, stop - gone))
        return IndexSet(tuple(result))

    def lift(self, removed: IndexSet) -> IndexSet:
        """The inverse of `renumber`: the original numbers of indices counted after `removed` is gone.

        >>> IndexSet.of([0, 1]).lift(IndexSet.of([1, 5]))
        IndexSet('0,2')
        """
        if not self.intervals:
            return self
        kept = removed.complement(self.intervals[-1][1] + len(removed))
        result: list[tuple[int, int]] = []
        numbered = 0
        for start, stop in kept.intervals:
            here = self & IndexSet(((numbered, numbered + stop - start),))
            result.extend((a - numbered + start, b - numbered + start) for a, b in here.intervals)
            numbered += stop - start
        return IndexSet(tuple(result))
