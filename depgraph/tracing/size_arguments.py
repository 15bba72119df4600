"""Integers as forward wrote them, put in place of the plain ones that the dispatcher hands on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from depgraph.solving.sized import Sized, plain_int

_MASKS = frozenset({torch.bool, torch.uint8})
_LEAVES = frozenset({int, bool, float, str, type(None)})


def with_provenance(bound: dict[str, Any], written: Any, owner: object) -> dict[str, Any]:
    """The bound arguments of an operator call with the integers of the written call, which remember where they came from.

    `written` holds the positional and the keyword arguments of the function that was called; one of another trace than
    the `owner` counts as a literal.
    """
    if not _mentions(written, owner):
        return bound
    args, kwargs = written
    if "dim" in bound and "step" in bound and len(args) > 1:
        by_name = _slice_bounds(bound, args[1], owner)
        if by_name is not None:
            return bound | by_name
    by_keyword = {key: _spread(bound[key], item, owner) for key, item in kwargs.items() if key in bound} if kwargs else {}
    if by_keyword:
        bound = bound | {key: item for key, item in by_keyword.items() if item is not None}
    rest = [args, {key: item for key, item in kwargs.items() if by_keyword.get(key) is None}]
    sources = _sources(rest, owner)
    remaining = {key: item for key, item in bound.items() if by_keyword.get(key) is None}
    plain = list(map(plain_int, _integers(list(remaining.values()))))
    if plain == list(map(plain_int, sources)):
        queue = iter(sources)
        return bound | {key: _with_integers(item, lambda _: next(queue)) for key, item in remaining.items()}
    for key, item in bound.items():
        sizes = _beside_others(item, args[1:], owner)  # sizes one by one, as in x.view(2, count, 4)
        if sizes is not None:
            return bound | {key: sizes}
    by_position = {key: _spread(item, arg, owner) for (key, item), arg in zip(bound.items(), args, strict=False)}
    if len(args) <= len(bound) and all(item is not None or bound[key] is None for key, item in by_position.items()):
        return bound | by_position
    aligned = _aligned(plain, sources)
    if aligned is not None:
        queue = iter(aligned)
        return bound | {key: _with_integers(item, lambda _: next(queue)) for key, item in remaining.items()}
    by_size = {plain_int(source): source for source in reversed(sources) if type(source) is Sized}
    return bound | {key: _with_integers(item, lambda number: by_size.get(number, number)) for key, item in remaining.items()}


def _mentions(item: Any, owner: object) -> bool:
    """Whether a size of this trace is among the integers of an item."""
    if type(item) is Sized:
        return item.owner is owner
    if type(item) in _LEAVES:
        return False
    if isinstance(item, (tuple, list)):
        for part in item:
            if _mentions(part, owner):
                return True
    elif isinstance(item, dict):
        return bool(item) and _mentions(list(item.values()), owner)
    elif isinstance(item, slice):
        return _mentions((item.start, item.stop, item.step), owner)
    return False


def _integers(item: Any) -> list[int]:
    """The integers in nested containers, in order."""
    integers: list[int] = []
    _gather(item, integers)
    return integers


def _gather(item: Any, integers: list[int]) -> None:
    if isinstance(item, int):
        if not isinstance(item, bool):
            integers.append(item)
    elif isinstance(item, (tuple, list)):
        for part in item:
            _gather(part, integers)
    elif isinstance(item, dict):
        for part in item.values():
            _gather(part, integers)
    elif isinstance(item, slice):
        for part in (item.start, item.stop, item.step):
            _gather(part, integers)


def _sources(item: Any, owner: object) -> list[int]:
    """The integers in an item; those of another trace as plain ones."""
    return [number if type(number) is Sized and number.owner is owner else plain_int(number) for number in _integers(item)]


def _spread(item: Any, written: Any, owner: object) -> Any:
    """The bound argument with the integers that were written for it, one for each or one for all; None if they differ."""
    if isinstance(written, slice) or (isinstance(written, tuple) and any(isinstance(part, slice) for part in written)):
        return None  # an index, which is written in the place of a dimension
    sources = _sources(written, owner)
    plain = list(map(plain_int, _integers(item)))
    if len(sources) == 1:
        sources = sources * len(plain)
    if plain != list(map(plain_int, sources)):
        return _beside_others(item, written, owner)
    queue = iter(sources)
    return _with_integers(item, lambda _: next(queue)) if plain else item


def _slice_bounds(bound: Mapping[str, Any], index: Any, owner: object) -> dict[str, Any] | None:
    """The start, end and step of a slice as an index has them for its dimension; None where no slice stands there."""
    entries = index if isinstance(index, tuple) else (index,)
    slices = {dim: entry for dim, entry in _dimensions(entries, bound["self"].ndim) if isinstance(entry, slice)}
    entry = slices.get(bound["dim"])
    if entry is None:
        return None
    written = {"start": entry.start, "end": entry.stop, "step": entry.step}
    if any(isinstance(number, int) and plain_int(number) != bound[name] for name, number in written.items()):
        return None
    return {name: _sources(number, owner)[0] for name, number in written.items() if isinstance(number, int)}


def _dimensions(entries: tuple[Any, ...], ndim: int) -> Iterator[tuple[int, Any]]:
    """The entries of an index with the dimensions at which they are applied, one after the other.

    `ndim` is the number of dimensions where an entry behind the ellipsis is applied: what stands behind it is still to come.
    """
    dim = 0
    for position, entry in enumerate(entries):
        if entry is Ellipsis:
            later = entries[position + 1 :]
            for place, item in enumerate(later):
                yield ndim - sum(map(_width, later[place:])), item
            return
        yield dim, entry
        dim += entry is None or (_width(entry) if not isinstance(entry, int) or isinstance(entry, bool) else 0)


def sliced_dimensions(index: Any, ndim: int) -> Iterator[tuple[int, slice]]:
    """The dimensions of a tensor of which an index takes slices."""
    dim, entries = 0, index if isinstance(index, tuple) else (index,)
    for position, entry in enumerate(entries):
        if isinstance(entry, slice):
            yield dim, entry
        dim = ndim - sum(map(_width, entries[position + 1 :])) if entry is Ellipsis else dim + _width(entry)


def _width(entry: Any) -> int:
    """How many dimensions an entry of an index takes up."""
    if entry is None or isinstance(entry, bool):
        return 0
    return int(entry.ndim) if getattr(entry, "dtype", None) in _MASKS else 1


def _beside_others(item: Any, written: Any, owner: object) -> Any:
    """A tuple of numbers, some of them written as something else, such as a tensor of one element; None if others differ."""
    if not isinstance(item, tuple) or not isinstance(written, (tuple, list)) or not item or len(item) != len(written):
        return None
    pairs = list(zip(item, written, strict=True))
    if not all(type(number) is int and (not isinstance(entry, int) or plain_int(entry) == number) for number, entry in pairs):
        return None
    return tuple([_sources(entry, owner)[0] if isinstance(entry, int) else number for number, entry in pairs])


def _aligned(plain: list[int], sources: list[int]) -> list[int] | None:
    """The written numbers in their places among all that the dispatcher hands on, where the sizes alone are ambiguous.

    Sizes that a tensor gave are not among the written ones. None where sizes suffice, or where the order differs.
    """
    sized = {plain_int(source) for source in sources if type(source) is Sized}
    if all(
        plain.count(size) <= sum(plain_int(source) == size and type(source) is Sized for source in sources) for size in sized
    ):
        return None
    numbers, pending = [], list(sources)
    for number in reversed(plain):  # the dimension that indexing cuts is not written, and stands first
        numbers.append(pending.pop() if pending and plain_int(pending[-1]) == number else number)
    return None if pending else numbers[::-1]


def _with_integers(item: Any, change: Callable[[int], int]) -> Any:
    """An item with other integers in the places of those in nested tuples; truth values are none."""
    if isinstance(item, int):
        return item if isinstance(item, bool) else change(item)
    if isinstance(item, tuple):
        return tuple([_with_integers(part, change) for part in item])
    return item
