"""Items of which some are known to go together: the union-find of everything that ties groups."""

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
        """Let two items, and all that go with them, go together; the representative of `one` is that of all."""
        stays, goes = self.representative(one), self.representative(other)
        self._parents[goes] = stays
        self._parents.setdefault(stays, stays)

    def representative(self, item: Item) -> Item:
        """The item that stands for all that go with one; an item that was never joined stands for itself."""
        parents = self._parents
        parent = parents.get(item, item)
        while parent != item:
            parents[item] = item = parents[parent]  # halve the path, for the next time
            parent = parents[item]
        return item

    def members(self, item: Item) -> list[Item]:
        """All that go with an item, itself among them."""
        representative = self.representative(item)
        return [other for other in self._parents if self.representative(other) == representative] or [item]

    def dissolve(self, item: Item) -> list[Item]:
        """Take a class apart; its members."""
        members = self.members(item)
        for member in members:
            self._parents.pop(member, None)
        return members
