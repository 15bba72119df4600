"""Converters and validators of what the criteria are given."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from depgraph.algebra.numbers import is_number
from depgraph.errors import PlanError
from depgraph.graph.records import OpType
from depgraph.running import are_batches


def op_types(value: Iterable[OpType] | OpType | None) -> frozenset[OpType] | None:
    """The chosen types as a set; None for all. Refuses anything else."""
    if value is None:
        return None
    try:
        chosen = frozenset([value] if isinstance(value, OpType) else value)
    except TypeError:
        raise PlanError(f"expected types= to be a set of dg.OpType, met {value!r}.") from None
    wrong = [item for item in chosen if not isinstance(item, OpType)]
    if wrong or not chosen:
        raise PlanError(f"expected types= to be a set of dg.OpType, such as {{dg.OpType.CONV}}, met {value!r}.")
    return chosen


def is_flag(instance: object, attribute: Any, value: object) -> None:
    """Refuse anything but a truth value."""
    if not isinstance(value, bool):
        raise PlanError(f"expected {attribute.name}= to be True or False, met {value!r}.")


def is_positive(instance: object, attribute: Any, value: Any) -> None:
    """Refuse anything but a positive number."""
    if not is_number(value) or not value > 0:
        raise PlanError(f"expected {attribute.name}= to be a positive number, met {value!r}.")


def is_function(instance: object, attribute: Any, value: Any) -> None:
    """Refuse what cannot be called."""
    if not callable(value):
        raise PlanError(f"expected {attribute.name}= to be a function of (model, batch), met {value!r}.")


def is_iterable(instance: object, attribute: Any, value: Any) -> None:
    """Refuse what cannot be read batch by batch."""
    if not are_batches(value):
        raise PlanError(
            f"expected {attribute.name}= to be an iterable of batches, such as a DataLoader, met {type(value).__name__}; "
            "put a single batch into a list."
        )
