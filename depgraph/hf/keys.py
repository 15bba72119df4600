"""The numbers of a configuration by dotted keys, in its dictionary and in the object itself."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

from depgraph.execution.attributes import holders
from depgraph.graph.paths import is_step, key_of
from depgraph.hf.building import Config
from depgraph.plans.plan import Plan

RECORD = "depgraph"
"""The entry of a configuration that says what pruning changed in it."""


def numbers_in(content: Any, prefix: str = "") -> Iterator[tuple[str, int | None]]:
    """The whole numbers of a configuration's dictionary, and what is None there, which may stand for one."""
    items = content.items() if isinstance(content, dict) else enumerate(content)
    for key, value in items:
        path = f"{prefix}{key}"
        if isinstance(value, (dict, list)):
            yield from () if key == RECORD else numbers_in(value, f"{path}.")
        elif type(value) is int or (value is None and isinstance(content, dict)):
            yield path, value


def with_values(content: dict[str, Any], values: Mapping[str, int | None]) -> dict[str, Any]:
    """A copy of a configuration's dictionary with other values at some keys."""
    result = copy.deepcopy(content)
    for path, value in values.items():
        *steps, last = path.split(".")
        holder: Any = result
        for step in steps:
            holder = holder[int(step) if isinstance(holder, list) else step]
        holder[int(last) if isinstance(holder, list) else last] = value
    return result


def set_values(config: Config, values: Mapping[str, int | None]) -> dict[str, int | None]:
    """Write values to a configuration itself; what stood there before is returned."""
    before: dict[str, int | None] = {}
    for path, value in values.items():
        *steps, last = path.split(".")
        holder: Any = config
        for step in steps:
            holder = _item(holder, step)
        before[path] = _item(holder, last) if steps or hasattr(config, last) else None
        if isinstance(holder, list):
            holder[int(last)] = value
        elif isinstance(holder, tuple):
            position = int(last)
            set_whole(config, steps, (*holder[:position], value, *holder[position + 1 :]))
        elif isinstance(holder, dict):
            holder[key_of(last, holder)] = value
        else:
            setattr(holder, last, value)
    return before


def set_whole(config: Config, steps: list[str], value: Any) -> None:
    """Replace a whole entry of a configuration, such as a tuple."""
    holder: Any = config
    for step in steps[:-1]:
        holder = _item(holder, step)
    if isinstance(holder, dict):
        holder[key_of(steps[-1], holder)] = value
    else:
        setattr(holder, steps[-1], value)


def _item(holder: Any, step: str) -> Any:
    if isinstance(holder, (list, tuple)):
        return holder[int(step)]
    return holder[key_of(step, holder)] if isinstance(holder, dict) else getattr(holder, step)


def moved_ids(plan: Plan) -> dict[str, tuple[int, int]]:
    """Keys of the configuration that stand for ids of tokens, with the old and the new one."""
    moves = ((edit.path.partition("."), edit) for edit in plan.moves)
    return {key: (edit.old, edit.new) for (root, _, key), edit in moves if root == "config"}


def original_config(plan: Plan, model: Any, moved: bool = False) -> Config:
    """The configuration that a pruned model was built from: a copy, without what the plan and `update_config_` wrote to it.

    With `moved` the ids of tokens that it holds are the new ones.
    """
    copies: dict[int, Any] = {}
    config = copy.deepcopy(model.config, copies)
    for edit in plan.edits if moved else plan.writes:
        holder = holders(model, edit.path)[-1]
        own, last = copies.get(id(holder)), edit.path.rpartition(".")[2]
        if own is None or own is holder:
            continue
        if isinstance(own, list):
            own[int(last)] = edit.old
        elif isinstance(own, dict):
            own[key_of(last, own)] = edit.old
        else:
            vars(own)[last] = edit.old
    before, added = recorded(config)
    set_values(config, before)
    for name in (*added, RECORD):
        vars(config).pop(name, None)
    return config


def recorded(config: Config) -> tuple[dict[str, int | None], list[str]]:
    """What `update_config_` found at the keys that it changed, and which keys it added."""
    record = getattr(config, RECORD, None)
    record = record if isinstance(record, dict) else {}
    added = record.get("added")
    return checked_values(record.get("before")), [name for name in added if is_step(name)] if isinstance(added, list) else []


def checked_values(values: object) -> dict[str, int | None]:
    """What a file says of keys: whole numbers at plain names. Anything else in it is left out, for files are data."""
    if not isinstance(values, dict):
        return {}
    return {
        key: value
        for key, value in values.items()
        if type(key) is str and all(map(_is_plain_step, key.split("."))) and (type(value) is int or value is None)
    }


def _is_plain_step(step: str) -> bool:
    return is_step(step) and not step.startswith("_")
