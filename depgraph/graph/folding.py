"""Names of repeated layers as one: ``layers.0-31.mlp`` for the same of 32 layers."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from itertools import groupby
from typing import TypeAlias

from attrs import evolve, frozen


@frozen
class Folded:
    """Names that differ in numbers alone, as one.

    Attributes:
        name: with ranges in the place of these numbers.
        first: the first of the names.
        count: how many names they are.
    """

    name: str
    first: str
    count: int


_Item: TypeAlias = tuple[tuple[str, ...], Hashable, Folded]
"""The parts of a name, what belongs to it, and the name."""


def folded(names: Iterable[tuple[str, Hashable]]) -> list[Folded]:
    """Names with what belongs to each, those with the same and with numbers that follow one another as one name.

    >>> [item.name for item in folded((f"layers.{k}.mlp.{part}", part == "up") for k in range(4) for part in ("up", "down"))]
    ['layers.0-3.mlp.up', 'layers.0-3.mlp.down']
    >>> [item.name for item in folded([("a.0.w", 1), ("a.1.w", 2), ("a.2.w", 2), ("a.4.w", 2)])]
    ['a.0.w', 'a.1-2.w', 'a.4.w']
    >>> [item.name for item in folded((name, 0) for name in sorted(f"a.{k}" for k in range(12)))]      # 1, 10, 11, 2, ...
    ['a.0-11']
    """
    items: list[_Item] = [(tuple(name.split(".")), key, Folded(name, name, 1)) for name, key in names]
    most = max((sum(map(is_position, parts)) for parts, _, _ in items), default=0)
    for place in range(most):  # from the last number of a name to the first
        items = _folded_at(items, place)
    return [item for _, _, item in items]


def is_position(name: str) -> bool:
    """Whether a name is a number, written in the one way in which lists of modules write it.

    >>> [name for name in ("0", "12", "07", "a1", "1-2", "") if is_position(name)]
    ['0', '12']
    """
    return name.isascii() and name.isdecimal() and len(name) < 19 and (name == "0" or name[0] != "0")


def _folded_at(items: Sequence[_Item], place: int) -> list[_Item]:
    """The names with runs in one place, that of a number, counted from the end; each stands where its first name stood."""
    alike: dict[Hashable, list[tuple[int, int, int]]] = {}
    result: dict[int, _Item] = {}
    for position, (parts, key, item) in enumerate(items):
        numbers = [k for k, part in enumerate(parts) if all(map(is_position, part.split("-")))]
        if len(numbers) <= place or not is_position(parts[numbers[-1 - place]]):
            result[position] = items[position]
            continue
        at = numbers[-1 - place]
        alike.setdefault((parts[:at], parts[at + 1 :], key, item.count), []).append((int(parts[at]), position, at))
    for members in alike.values():
        members.sort()
        for _, run in groupby(enumerate(members), key=lambda pair: pair[1][0] - pair[0]):
            places = [member for _, member in run]
            result[min(position for _, position, _ in places)] = _joined([items[position] for _, position, _ in places], places)
    return [result[position] for position in sorted(result)]


def _joined(items: Sequence[_Item], places: Sequence[tuple[int, int, int]]) -> _Item:
    """Names as one, with the range of their numbers in the place where these stand."""
    (parts, key, first), (low, _, at), (high, _, _) = items[0], places[0], places[-1]
    if len(items) == 1:
        return items[0]
    run = (*parts[:at], f"{low}-{high}", *parts[at + 1 :])
    return run, key, evolve(first, name=".".join(run), count=sum(item.count for _, _, item in items))
