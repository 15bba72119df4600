"""Mappings that a frozen value hands out: read-only, and its own."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any


def read_only(items: Mapping[str, Any]) -> Mapping[str, Any]:
    """A copy of a mapping that nobody can write to.

    >>> given = {"a": 1}
    >>> frozen = read_only(given)
    >>> given["a"] = 2
    >>> frozen["a"]
    1
    """
    return MappingProxyType(dict(items))
