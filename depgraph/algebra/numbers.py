"""What counts as a number of the user's: a truth value does not, though Python takes it for one."""

from __future__ import annotations

import math
from typing import TypeGuard


def is_whole(value: object, least: int = 0) -> TypeGuard[int]:
    """Whether a value is an integer from `least` up.

    >>> is_whole(1), is_whole(0, least=1), is_whole(True), is_whole(1.0)
    (True, False, False, False)
    """
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether a value is a finite integer or float.

    >>> is_number(0.5), is_number(2), is_number(True), is_number(float("inf"))
    (True, True, False, False)
    """
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
