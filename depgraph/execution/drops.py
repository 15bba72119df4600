"""Elements leave a model's lists of modules, and what says their places and their number follows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from depgraph.execution.attributes import read, write
from depgraph.graph.drops import Drop
from depgraph.messages import shortened
from depgraph.plans.plan import Plan

_LISTS = (nn.ModuleList, nn.Sequential, nn.ModuleDict)


def drop_elements(plan: Plan, model: nn.Module) -> None:
    """Let the elements go. The plan fits the model; its edits, under the names from before, are made, and its branches gone."""
    for path, value in _values_after(plan, model):
        write(model, path, value)
    for drop in sorted(plan.drops, key=lambda drop: -len(drop.sequence.path)):  # the innermost first
        container = model.get_submodule(drop.sequence.path)
        vars(container)["_modules"] = {new: container._modules[name] for name, new in drop.left.items()}


def written_paths(plan: Plan, model: nn.Module) -> Iterator[str]:
    """The attributes that change because elements go, under the names from before."""
    for drop in plan.drops:
        yield from (*drop.sequence.counts, *(path for path, _ in drop.sequence.entries))
        yield from (path for path, _ in _places(plan, drop, model))


def _places(plan: Plan, drop: Drop, model: nn.Module) -> Iterator[tuple[str, int]]:
    """The paths of what says where an element that stays stands, with its place from before.

    Of several paths an element has some. One that has none of them has no place to follow: all are told, as missing.
    """
    for place in drop.removed.complement(len(drop.sequence.elements)):
        element = f"{drop.sequence.prefix}{drop.sequence.elements[place]}"
        paths = [f"{element}.{path}" for path in drop.sequence.positions]
        paths = [path for path in paths if plan.name_after(path) is not None]
        held = [path for path in paths if _plain(model, path) is not None]
        yield from ((path, place) for path in held or paths)


def _values_after(plan: Plan, model: nn.Module) -> Iterator[tuple[str, Any]]:
    for drop in plan.drops:
        left = list(drop.removed.complement(len(drop.sequence.elements)))
        yield from ((path, len(left)) for path in drop.sequence.counts)
        yield from ((path, [texts[place] for place in left]) for path, texts in drop.sequence.entries)
        yield from ((path, left.index(place)) for path, place in _places(plan, drop, model))


def other_sequences(plan: Plan, model: nn.Module) -> Iterator[str]:
    """The lists of modules that are not as the plan expects them, one sentence each."""
    counted: dict[str, int] = {}
    for drop in plan.drops:
        sequence = drop.sequence
        container = _container(model, sequence.path)
        if not isinstance(container, _LISTS) or tuple(container._modules) != sequence.elements:
            expected = f"a list of {len(sequence.elements)} modules named {shortened(', '.join(sequence.elements))}"
            yield f"{shortened(repr(sequence.path))}: expected {expected}, met {_described(container)}"
            continue
        expected_values = [(path, len(sequence.elements)) for path in sequence.counts]
        for path, value in (*expected_values, *_places(plan, drop, model)):
            met = _plain(model, path)
            if type(met) is not int or met != value:
                yield f"attribute {shortened(repr(path))}: expected {value}, met {shortened(repr(met))}"
        for path, texts in sequence.entries:
            met = _plain(model, path)
            if type(met) is not list or met != list(texts):
                yield f"attribute {shortened(repr(path))}: expected {shortened(repr(list(texts)))}, met {shortened(repr(met))}"
        for path in (*sequence.counts, *(path for path, _ in sequence.entries)):
            left = len(drop.left)
            if counted.setdefault(path, left) != left:
                yield f"attribute {shortened(repr(path))} says how long several lists are: drop as many elements of each"


def _plain(model: nn.Module, path: str) -> Any:
    try:
        return read(model, path)
    except LookupError:
        return None


def _container(model: nn.Module, path: str) -> nn.Module | None:
    """The module of a path, by registries alone; None if there is none."""
    module: nn.Module | None = model
    for step in path.split(".") if path else ():
        module = module._modules.get(step) if module is not None else None
    return module


def _described(container: nn.Module | None) -> str:
    if container is None:
        return "none"
    return f"{type(container).__name__} of {len(container._modules)}"
