"""Names of repeated layers as one: ``layers.0-31.mlp`` for the same of 32 layers, ``denselayer1-6`` for six modules."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Sequence
from typing import TypeAlias

from attrs import evolve, frozen

_NUMBER = re.compile(r"(?<![0-9])([0-9]{1,18})(?![0-9])")


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
"""The parts of a name (a number is every second one), what belongs to it, and the name."""


def folded(names: Iterable[tuple[str, Hashable]]) -> list[Folded]:
    """Names with what belongs to each, those with the same and with numbers that follow one another as one name.

    What stands behind a colon is a dimension, which is no number of a layer.

    >>> [item.name for item in folded((f"layers.{k}.mlp.{part}", part == "up") for k in range(4) for part in ("up", "down"))]
    ['layers.0-3.mlp.up', 'layers.0-3.mlp.down']
    >>> [item.name for item in folded([("a.0.w", 1), ("a.1.w", 2), ("a.2.w", 2), ("a.4.w", 2)])]
    ['a.0.w', 'a.1-2.w', 'a.4.w']
    >>> [item.name for item in folded((name, 0) for name in sorted(f"block{k}.fc.weight:0" for k in range(12)))]
    ['block0-11.fc.weight:0']
    """
    items: list[_Item] = [(_parts(name), key, Folded(name, name, 1)) for name, key in names]
    most = max((len(parts) // 2 for parts, _, _ in items), default=0)
    for place in reversed(range(most)):  # layers before what is numbered in a layer, such as conv1 and conv2
        items = _folded_at(items, place)
    return [item for _, _, item in items]


def continues(first: str, last: str, name: str) -> bool:
    """Whether a name is the next one after those from a first to a last, which differ in one number alone.

    >>> continues("layer1", "layer3", "layer4"), continues("conv1_1", "conv1_2", "conv2_2"), continues("09", "09", "10")
    (True, False, True)
    """
    place = _place(last, name)
    if place is None or (first != last and _place(first, last) != place):
        return False
    return _next(_NUMBER.split(last)[place]) == _NUMBER.split(name)[place]


def ranged(first: str, last: str) -> str:
    """The names from a first to a last one, which differ in one number alone, as one.

    >>> ranged("encoder_layer_0", "encoder_layer_11"), ranged("3", "3")
    ('encoder_layer_0-11', '3')
    """
    place = _place(first, last)
    if place is None:
        return first
    parts = _NUMBER.split(first)
    parts[place] += f"-{_NUMBER.split(last)[place]}"
    return "".join(parts)


def _place(one: str, other: str) -> int | None:
    """Which part of two names differs, if this is one number."""
    parts, others = _NUMBER.split(one), _NUMBER.split(other)
    if len(parts) != len(others):
        return None
    different = [place for place, (left, right) in enumerate(zip(parts, others, strict=True)) if left != right]
    return different[0] if len(different) == 1 and different[0] % 2 else None


def _next(number: str) -> str:
    """The next number, with as many zeros before it."""
    return str(int(number) + 1).zfill(len(number))


def _parts(name: str) -> tuple[str, ...]:
    """A name as texts and numbers in turn; the dimension belongs to the last text."""
    path, colon, dim = name.partition(":")
    *parts, last = _NUMBER.split(path)
    return (*parts, f"{last}{colon}{dim}")


def _folded_at(items: Sequence[_Item], place: int) -> list[_Item]:
    """The names with runs in one place, that of a number, counted from the end; each stands where its first name stood."""
    alike: dict[Hashable, list[tuple[int, int, str]]] = {}
    result: dict[int, _Item] = {}
    for position, (parts, key, item) in enumerate(items):
        at = len(parts) - 2 - 2 * place
        if at < 0:
            result[position] = items[position]
            continue
        together = alike.setdefault((parts[:at], parts[at + 1 :], key, item.count), [])
        together.append((int(parts[at]), position, parts[at]))
    for members in alike.values():
        for run in _runs(sorted(members)):
            positions = [position for _, position, _ in run]
            result[min(positions)] = _joined([items[position] for position in positions], place)
    return [result[position] for position in sorted(result)]


def _runs(members: Iterable[tuple[int, int, str]]) -> list[list[tuple[int, int, str]]]:
    """Members in the order of their numbers, those together that follow one another."""
    runs: list[list[tuple[int, int, str]]] = []
    for member in members:
        if runs and _next(runs[-1][-1][2]) == member[2]:
            runs[-1].append(member)
        else:
            runs.append([member])
    return runs


def _joined(items: Sequence[_Item], place: int) -> _Item:
    """Names as one, with the range of their numbers in the place where these stand."""
    (parts, key, first), (last, _, _) = items[0], items[-1]
    if len(items) == 1:
        return items[0]
    at = len(parts) - 2 - 2 * place
    run = (*parts[:at], f"{parts[at]}-{last[at]}", *parts[at + 1 :])
    return run, key, evolve(first, name="".join(run), count=sum(item.count for _, _, item in items))
