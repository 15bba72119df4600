"""The numbers of a configuration by dotted keys, in its dictionary and in the object itself."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from math import isfinite
from typing import Any, TypeAlias

from depgraph.execution.attributes import holders
from depgraph.graph.paths import is_step, key_of
from depgraph.hf.building import Config
from depgraph.plans.plan import Plan

RECORD = "depgraph"
"""The entry of a configuration that says what pruning changed in it."""

PER_LAYER = "per_layer_config"
"""The entry of a configuration in which transformers has other numbers for single layers, by their position."""

Number: TypeAlias = int | float
"""What a key says: a size, or a ratio of sizes."""


def numbers_in(content: Any, prefix: str = "") -> Iterator[tuple[str, Number | None]]:
    """The numbers of a configuration's dictionary, and what is None there, which may stand for one."""
    items = content.items() if isinstance(content, dict) else enumerate(content)
    for key, value in items:
        path = f"{prefix}{key}"
        if isinstance(value, (dict, list)):
            yield from () if key == RECORD else numbers_in(value, f"{path}.")
        elif type(value) in (int, float) or (value is None and isinstance(content, dict)):
            yield path, value


def with_values(content: dict[str, Any], values: Mapping[str, Number | None]) -> dict[str, Any]:
    """A copy of a configuration's dictionary with other values at some keys."""
    result = copy.deepcopy(content)
    for path, value in values.items():
        *steps, last = path.split(".")
        holder: Any = result
        for step in steps:
            key = _key(step, holder)
            if isinstance(holder, dict) and holder.get(key) is None:
                holder[key] = {}  # the entry of a layer that is as the others so far
            holder = holder[key]
        holder[_key(last, holder)] = value
    return result


def _key(step: str, holder: Any) -> Any:
    """What a step of a path is in a list, or in a dictionary, which may have numbers for keys."""
    if isinstance(holder, list):
        return int(step)
    key = key_of(step, holder)
    return step if key is None else key


def set_values(config: Config, values: Mapping[str, Number | None]) -> dict[str, Number | None]:
    """Write values to a configuration itself; what stood there before is returned."""
    before: dict[str, Number | None] = {}
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


@contextmanager
def all_or_nothing(config: Config, paths: Iterable[str]) -> Iterator[None]:
    """Where writing to these keys fails or is interrupted, every object on the way to them has its content back."""
    on_the_way: dict[int, Any] = {}
    for path in paths:
        holder = config
        for step in (*path.split(".")[:-1], None):
            on_the_way[id(holder)] = holder
            holder = None if step is None else _item(holder, step)
    holders = [
        item if isinstance(item, (dict, list)) else vars(item) for item in on_the_way.values() if type(item) is not tuple
    ]
    contents = [copy.copy(holder) for holder in holders]
    try:
        yield
    except BaseException:
        for holder, content in zip(holders, contents, strict=True):
            holder.clear()
            holder.extend(content) if isinstance(holder, list) else holder.update(content)
        raise


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
    for path, old in _before(plan, moved):
        holder = holders(model, path)[-1]
        own, last = copies.get(id(holder)), path.rpartition(".")[2]
        if own is None or own is holder:
            continue
        if isinstance(own, list):
            own[int(last)] = old
        elif isinstance(own, dict):
            own[key_of(last, own)] = old
        else:
            vars(own)[last] = old
    before, added = recorded(config)
    set_values(config, before)
    for name in (*added, RECORD):
        vars(config).pop(name, None)
    return config


def _before(plan: Plan, moved: bool) -> Iterator[tuple[str, Any]]:
    """The attributes that a plan changes outside of the elements of lists, by their paths, with what they held."""
    yield from ((plan.name_after(edit.path) or edit.path, edit.old) for edit in (plan.edits if moved else plan.writes))
    for drop in plan.drops:
        yield from ((path, len(drop.sequence.elements)) for path in drop.sequence.counts)
        yield from ((path, list(texts)) for path, texts in drop.sequence.entries)


def with_entries(content: Any, name: str, before: list[str], after: list[str]) -> Any:
    """A copy of a configuration's content in which a list of this name and content is another one, wherever it stands."""
    if isinstance(content, dict):
        return {
            key: after if key == name and value == before else with_entries(value, name, before, after)
            for key, value in content.items()
        }
    return [with_entries(item, name, before, after) for item in content] if isinstance(content, list) else content


def recorded(config: Config) -> tuple[dict[str, Number | None], list[str]]:
    """What `update_config_` found at the keys that it changed, and which keys it added."""
    record = getattr(config, RECORD, None)
    record = record if isinstance(record, dict) else {}
    added = record.get("added")
    return checked_values(record.get("before")), [name for name in added if is_step(name)] if isinstance(added, list) else []


def checked_values(values: object) -> dict[str, Number | None]:
    """What a file says of keys: numbers at plain names. Anything else in it is left out, for files are data."""
    if not isinstance(values, dict):
        return {}
    return {
        key: value
        for key, value in values.items()
        if type(key) is str and all(map(_is_plain_step, key.split("."))) and _is_number_or_none(value)
    }


def _is_number_or_none(value: object) -> bool:
    return value is None or type(value) is int or (type(value) is float and isfinite(value))


def _is_plain_step(step: str) -> bool:
    return is_step(step) and not step.startswith("_")
