"""Lists of modules, and what forward does with them as lists: which elements it names, and up to which count it goes.

An element can leave a list that forward runs over. Where forward reaches for elements by their numbers or names, takes a part
of the list, or keeps what the elements give and takes it by their places, another element would come in the place of one that
is gone: `as_used` says which may not leave, and why.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from functools import cache
from typing import Any

from attrs import evolve, frozen
from torch import nn

from depgraph.graph.paths import is_config, is_step
from depgraph.graph.records import ModuleSequence
from depgraph.solving.expressions import Attribute, Expression
from depgraph.solving.sized import origin, plain_int
from depgraph.tracing.layer_attributes import read_in_forward

_LISTS = (nn.ModuleList, nn.Sequential, nn.ModuleDict)


@frozen
class Reach:
    """What forward asked a list of modules for.

    Attributes:
        key: a number, a name, or the (start, stop, step) of a slice, as plain values.
        size: where the stop of a slice, or its origin, is known as a size: what it was computed from.
        where: file and line.
    """

    key: Any
    size: Expression | None
    where: str


def module_sequences(model: nn.Module) -> Iterator[ModuleSequence]:
    """The lists of several modules, by their first paths, with the integers and entries that go by an element's place."""
    shared = SharedModules(model)
    configs = list(_configs(model))
    for path, module in model.named_modules():
        if not isinstance(module, _LISTS) or len(module._modules) < 2 or None in module._modules.values():
            continue
        elements = tuple(module._modules)
        numbered = not isinstance(module, nn.ModuleDict) and elements == tuple(map(str, range(len(elements))))
        modules = [child for child in module._modules.values() if child is not None]
        values = [dict(_plain_values(child)) for child in modules]
        yield ModuleSequence(
            path,
            elements,
            numbered,
            positions=tuple(_positions(values)) if numbered else (),
            entries=tuple(_entries(modules, configs)) if numbered else (),
            problem=next(filter(None, (shared.at(f"{path}.{name}" if path else name) for name in elements)), "")
            or _chosen_by_place(modules, configs),
        )


class SharedModules:
    """The modules of a model to which several paths lead."""

    def __init__(self, model: nn.Module) -> None:
        paths: dict[int, list[str]] = {}
        for path, module in model.named_modules(remove_duplicate=False):
            paths.setdefault(id(module), []).append(path)
        self._shared = [found for found in paths.values() if len(found) > 1]

    def at(self, path: str) -> str:
        """Why the module at a path is no thing of its own: it is shared, or one in it is; empty where none is."""
        for first, second, *more in self._shared:
            if not path or any(name == path or name.startswith(f"{path}.") for name in (first, second, *more)):
                return f"{first!r} and {second!r} are one module"
        return ""


def _plain_values(element: nn.Module) -> Iterator[tuple[str, Any]]:
    """Numbers and texts that the modules in an element hold, by their paths from it; those of torch's own layers left out."""
    for path, module in element.named_modules():
        if read_in_forward(module) is None:
            for name, content in vars(module).items():
                if type(content) in {int, str} and is_step(name):
                    yield f"{path}.{name}" if path else name, content


def _positions(values: list[dict[str, Any]]) -> Iterator[str]:
    """Paths at which elements hold their own positions, under one name: each element does so at some of them.

    Elements of several kinds do so at several: ``mixer.place`` here, ``attention.place`` there.
    """
    by_name: dict[str, dict[str, None]] = {}
    for held in values:
        for path, content in held.items():
            if type(content) is int:
                by_name.setdefault(path.rpartition(".")[2], {})[path] = None
    for paths in by_name.values():
        own = [{held[path] for path in paths if path in held} for held in values]
        if all(numbers == {place} for place, numbers in enumerate(own)):
            yield from paths


def _entries(elements: list[nn.Module], configs: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Lists of texts in configurations that have one for each element, by their paths.

    The elements hold these texts, each its own, or differ in their modules just where the texts do.
    """
    values = [dict(_plain_values(element)) for element in elements]
    shared = set.intersection(*(set(held) for held in values))
    kinds = _kinds(elements)
    for path, config in configs:
        for name, content in vars(config).items():
            is_list = is_step(name) and type(content) is list and len(content) == len(elements)
            if not is_list or not all(type(text) is str for text in content):
                continue
            by_kind = len(set(content)) == len(set(kinds)) == len(set(zip(content, kinds, strict=True))) > 1
            if by_kind or any(content == [held[key] for held in values] for key in shared):
                yield f"{path}.{name}", tuple(content)


def _kinds(elements: list[nn.Module]) -> list[tuple[tuple[str, type], ...]]:
    """Which modules are in each element."""
    return [tuple((path, type(module)) for path, module in element.named_modules()) for element in elements]


def _chosen_by_place(elements: list[nn.Module], configs: Iterable[tuple[str, Any]]) -> str:
    """Why elements are chosen by their places: a configuration lists those of one kind, such as ``attn_layer_indices``."""
    kinds = _kinds(elements)
    for path, config in configs if len(set(kinds)) > 1 else ():
        for name, content in vars(config).items():
            if type(content) is not list or not all(type(place) is int and 0 <= place < len(kinds) for place in content):
                continue
            inside = {kinds[place] for place in content}
            if inside and inside.isdisjoint(kind for place, kind in enumerate(kinds) if place not in content):
                return f"{path}.{name} lists the places of its elements of one kind"
    return ""


def _configs(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Each configuration that a module holds, or that another one holds, by the first path to it."""
    seen: set[int] = set()
    for path, module in model.named_modules():
        pending = [(f"{path}.{name}" if path else name, content) for name, content in vars(module).items() if is_step(name)]
        while pending:
            place, content = pending.pop(0)
            if not isinstance(content, nn.Module) and is_config(content) and id(content) not in seen:
                seen.add(id(content))
                yield place, content
                pending += [(f"{place}.{name}", inner) for name, inner in vars(content).items() if is_step(name)]


class _Observed:
    """Mixed into the class of a list's copy: forward's reaches for elements are told to the session."""

    _modules: dict[str, nn.Module]

    def __getitem__(self, key: Any) -> Any:
        told = self.__dict__.pop(_TOLD, None)  # a class may use its own length and elements to answer
        try:
            if told is not None:
                told(key)
            return super().__getitem__(key)  # type: ignore[misc]
        finally:
            if told is not None:
                self.__dict__[_TOLD] = told

    def __getattr__(self, name: str) -> Any:
        told = self.__dict__.get(_TOLD)
        if told is not None and name in self._modules:
            told(name)
        return super().__getattr__(name)  # type: ignore[misc]

    def __len__(self) -> int:
        told = self.__dict__.get(_TOLD)
        if told is not None:
            told(len)
        return len(self._modules)


_TOLD = "_depgraph_told"


@cache
def _observed_class(kind: type) -> type:
    """A subclass of a container's class, of the same name, that tells what forward asks it for."""
    return type(kind.__name__, (_Observed, kind), {"__module__": kind.__module__, "__qualname__": kind.__qualname__})


def observed(clone: nn.Module, told: Callable[[Any], None]) -> None:
    """Let the copy of a list of modules tell what forward asks it for."""
    kind: Any = type(clone)
    if isinstance(clone, _LISTS) and kind.__len__ in {base.__len__ for base in _LISTS}:
        clone.__class__ = _observed_class(kind)
        clone.__dict__[_TOLD] = told


def reach(key: Any, where: str) -> Reach:
    """What forward asked for, without what a trace holds on to."""
    if isinstance(key, slice):
        plain = tuple(plain_int(part) if isinstance(part, int) else part for part in (key.start, key.stop, key.step))
        return Reach(plain, origin(key.stop) if isinstance(key.stop, int) else None, where)
    return Reach(plain_int(key) if isinstance(key, int) else key, None, where)


def as_used(
    sequence: ModuleSequence,
    reaches: Collection[Reach],
    escaped: Iterable[Expression],
    gathered: tuple[str, str] | None = None,
) -> ModuleSequence:
    """The list with what forward's reaches into it say: what counts it, and which elements may not leave, and why.

    Args:
        sequence: the list.
        reaches: what forward asked it for, in order.
        escaped: sizes of which forward made plain numbers, as `range` does.
        gathered: an element whose result forward holds when the next one has taken it, and the module in which it does.
    """
    length = len(sequence.elements)
    counts, fixed, problem = dict.fromkeys(sequence.counts), dict[int, str](), sequence.problem
    by_line: dict[str, list[int]] = {}
    for item in reaches:
        if isinstance(item.key, tuple):
            start, stop, step = item.key
            if start not in {None, 0} or step not in {None, 1} or not (stop is None or stop >= length):
                problem = problem or f"forward takes a part of it at {item.where}"
            elif isinstance(item.size, Attribute) and stop == length:
                counts[item.size.path] = None
        elif type(item.key) is int:
            by_line.setdefault(item.where, []).append(item.key)
        elif isinstance(item.key, str) and item.key in sequence.elements:
            fixed.setdefault(sequence.elements.index(item.key), f"forward asks for {item.key!r} at {item.where}")
    measured = any(item.key is len for item in reaches)
    counting = {part.path for part in escaped if isinstance(part, Attribute) and part.value == length}
    for line, numbers in by_line.items():
        if _is_loop(numbers, length) and (measured or counting):
            counts.update(dict.fromkeys(counting))
        elif _is_loop(numbers, length):
            problem = problem or f"forward asks for its elements by number at {line}, up to a number that is not its length"
        else:
            for number in set(numbers):
                behind = range(number % length, length) if number < 0 else range(number + 1)
                fixed.update((place, f"forward asks for element {number} at {line}") for place in behind if place not in fixed)
    if gathered is not None:
        why = f"{gathered[1]} keeps what {gathered[0]} gives, and may take it by its place"
        fixed = dict.fromkeys(range(length), why) | fixed
    return evolve(sequence, counts=tuple(sorted(counts)), fixed=tuple(sorted(fixed.items())), problem=problem)


def _is_loop(numbers: list[int], length: int) -> bool:
    """Whether these are all positions in turn, once or several times."""
    return len(numbers) % length == 0 and all(number == place % length for place, number in enumerate(numbers))
