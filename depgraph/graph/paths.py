"""What a dotted path of an attribute may step through: names of plain data, and objects that hold nothing else.

The tracer names no attribute by any other path, and execution follows no other: a path in a file says which integer of the
model's own data follows, and cannot lead anywhere else in the process.
"""

from __future__ import annotations

import dataclasses
from collections import OrderedDict, defaultdict
from types import SimpleNamespace
from typing import Any

SEQUENCES = (list,)
"""Containers whose elements are named by their position and can be replaced."""
MAPPINGS = (dict, OrderedDict, defaultdict)
"""Containers whose values are named by their key."""

_REGISTRIES = frozenset({"_parameters", "_buffers", "_modules"})


def is_step(name: object) -> bool:
    """Whether a name can be a step of a path. What Python itself adds to objects, such as ``__class__``, can not.

    >>> [name for name in ("out_features", "0", "_width", "__class__", "_buffers", "a.b", "") if is_step(name)]
    ['out_features', '0', '_width']
    """
    return type(name) is str and bool(name) and "." not in name and not name.startswith("__") and name not in _REGISTRIES


def step_of(key: object, mapping: dict[Any, Any]) -> str | None:
    """The step that names a key of a mapping; None where no step does, or where it would name another key, too.

    >>> step_of(8, {8: "heads"}), step_of(8, {8: "heads", "8": "width"}), step_of(True, {True: 3})
    ('8', None, None)
    """
    if type(key) is int:
        return None if str(key) in mapping else str(key)
    return key if isinstance(key, str) and is_step(key) else None


def key_of(step: str, mapping: dict[Any, Any]) -> str | int | None:
    """The key of a mapping that a step names; None where it has no such key."""
    if step in mapping:
        return step
    number = _number(step.removeprefix("-"))
    if number is None:
        return None
    key = -number if step.startswith("-") else number
    return key if key in mapping else None


def position_of(step: str, length: int) -> int | None:
    """The position in a sequence that a step names, counted from its beginning; None where it has no such element."""
    number = _number(step)
    return number if number is not None and number < length else None


def is_config(content: Any) -> bool:
    """Whether an object is plain data with attributes: a namespace, a dataclass, a configuration."""
    if not hasattr(content, "__dict__") or callable(content):
        return False
    return (
        isinstance(content, SimpleNamespace) or dataclasses.is_dataclass(content) or "config" in type(content).__name__.lower()
    )


def _number(digits: str) -> int | None:
    """What decimal digits say, written in the one way in which `str` writes it."""
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 18):
        return None
    return int(digits) if digits == "0" or digits[0] != "0" else None
