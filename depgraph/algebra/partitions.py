"""Equivalence classes of items, by union-find: for everything that couples groups."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item", bound=Hashable)


class Partition(Generic[Item]):
    """Classes of items that were joined, each with a representative.

    It grows in place, and never leaves the function that made it.

    >>> ties = Partition()
    >>> ties.join("a", "b"); ties.join("c", "b")
    >>> ties.representative("a"), ties.representative("d")
    ('c', 'd')
    >>> ties.members("b")
    ['b', 'a', 'c']
    """

    def __init__(self) -> None:
        self._parents: dict[Item, Item] = {}

    def __iter__(self) -> Iterator[Item]:
        """The items that were joined to something, in the order in which they came."""
        return iter(self._parents)

    def __contains__(self, item: Item) -> bool:
        return item in self._parents

    def __bool__(self) -> bool:
        return bool(self._parents)

    def join(self, one: Item, other: Item) -> None:
        """Unite the classes of two items; the representative of `one` becomes that of all."""
        root, joined_root = self.representative(one), self.representative(other)
        self._parents[joined_root] = root
        self._parents.setdefault(root, root)

    def representative(self, item: Item) -> Item:
        """The item that stands for a whole class; an item that was never joined stands for itself."""
        parents = self._parents
        parent = parents.get(item, item)
        while parent != item:
            parents[item] = item = parents[parent]  # halve the path, for the next time
            parent = parents[item]
        return item

    def members(self, item: Item) -> list[Item]:
        """The class of an item, itself included."""
        representative = self.representative(item)
        return [other for other in self._parents if self.representative(other) == representative] or [item]

    def dissolve(self, item: Item) -> list[Item]:
        """Take a class apart; its members."""
        members = self.members(item)
        for member in members:
            self._parents.pop(member, None)
        return members
