"""Names of repeated layers as one: ``layers.0-31.mlp`` for the same of 32 layers."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence

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


def folded(names: Iterable[tuple[str, Hashable]]) -> list[Folded]:
    """Names with what belongs to each, those with the same and with numbers that follow one another as one name.

    >>> [item.name for item in folded((f"layers.{k}.mlp.{part}", part == "up") for k in range(4) for part in ("up", "down"))]
    ['layers.0-3.mlp.up', 'layers.0-3.mlp.down']
    >>> [item.name for item in folded([("a.0.w", 1), ("a.1.w", 2), ("a.2.w", 2), ("a.4.w", 2)])]
    ['a.0.w', 'a.1-2.w', 'a.4.w']
    """
    items: list[tuple[tuple[str, ...], Hashable, Folded]] = [
        (tuple(name.split(".")), key, Folded(name, name, 1)) for name, key in names
    ]
    most = max((sum(part.isdecimal() for part in parts) for parts, _, _ in items), default=0)
    for place in range(most):  # from the last number of a name to the first
        items = _folded_at(items, place)
    return [item for _, _, item in items]


def _folded_at(
    items: Sequence[tuple[tuple[str, ...], Hashable, Folded]], place: int
) -> list[tuple[tuple[str, ...], Hashable, Folded]]:
    """The names with runs in one place: that of a number, counted from the end."""
    result: list[tuple[tuple[str, ...], Hashable, Folded]] = []
    open_runs: dict[Hashable, tuple[int, int]] = {}
    for parts, key, item in items:
        numbers = [k for k, part in enumerate(parts) if part[:1].isdecimal() and part.replace("-", "").isdecimal()]
        if len(numbers) <= place or not parts[numbers[-1 - place]].isdecimal():
            result.append((parts, key, item))
            continue
        at = numbers[-1 - place]
        number = int(parts[at])
        like = (parts[:at], parts[at + 1 :], key, item.count)
        position, last = open_runs.get(like, (-1, -2))
        if last + 1 == number and position >= 0:
            before, _, joint = result[position]
            run = (*parts[:at], f"{before[at].split('-')[0]}-{number}", *parts[at + 1 :])
            result[position] = (run, key, evolve(joint, name=".".join(run), count=joint.count + item.count))
            open_runs[like] = (position, number)
        else:
            open_runs[like] = (len(result), number)
            result.append((parts, key, item))
    return result
