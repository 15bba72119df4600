"""Equal layers as one, and many names as few."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any, TypeAlias

from attrs import define, field

from depgraph.graph.folding import continues
from depgraph.graph.records import Tensor

Encoded: TypeAlias = dict[str, Any]
"""A part of the page's data."""

_NUMBER = re.compile(r"(?<![^.])\d+(?=\.|$)")


@define
class Module:
    """A module in the making: what it is called in the module around it, its own tensors, and the modules in it."""

    name: str = ""
    tensors: list[Tensor] = field(factory=list)
    children: dict[str, Module] = field(factory=dict)


def module_tree(tensors: Iterable[Tensor]) -> Module:
    """The modules that hold parameters or buffers, by their dotted names."""
    root = Module()
    for tensor in tensors:
        *path, _ = tensor.name.split(".")
        module = root
        for step in path:
            module = module.children.setdefault(step, Module(step))
        module.tensors.append(tensor)
    return root


def folded_tree(module: Module, classes: dict[str, str], path: str = "") -> Encoded:
    """The tree with each run of numbered, equal neighbours folded to the first of them and the names of all.

    Axes are not in it: they are counted in the order of `unfolded`, so that a place in the tree knows its own.
    """
    children: list[Encoded] = []
    for name, child in module.children.items():
        encoded = folded_tree(child, classes, f"{path}{name}.")
        last = children[-1] if children else None
        if last is not None and _neighbours(last.get("members", [last["name"]]), name) and _equal(last, encoded):
            last.setdefault("members", [last["name"]]).append(name)
        else:
            children.append(encoded)
    tree: Encoded = {"name": module.name, "class": classes.get(path[:-1], "")}
    if module.tensors:
        tree["tensors"] = [[tensor.name.rpartition(".")[2], tensor.kind[0], list(tensor.shape)] for tensor in module.tensors]
    if children:
        tree["children"] = children
    return tree


def unfolded(module: Module) -> Iterable[Tensor]:
    """All tensors in the order of the tree: those of a module before those of the modules in it."""
    yield from module.tensors
    for child in module.children.values():
        yield from unfolded(child)


def _neighbours(members: Sequence[str], name: str) -> bool:
    return (members[-1].isdigit() and name.isdigit()) or continues(members[0], members[-1], name)


def _equal(one: Encoded, other: Encoded) -> bool:
    return all(one.get(key) == other.get(key) for key in ("class", "tensors", "children"))


def folded_names(names: Iterable[str]) -> list[str]:
    """Names that differ in numbers of layers alone as one, with the numbers.

    >>> folded_names(["h.0.fc.weight dim 0", "h.1.fc.weight dim 0", "h.2.fc.weight dim 0", "head.weight dim 0"])
    ['h.{0-2}.fc.weight dim 0', 'head.weight dim 0']
    """
    alike: dict[tuple[str, int, str], list[str]] = {}
    for name in dict.fromkeys(names):
        first, _, rest = name.partition(" ")
        pattern, count = _NUMBER.subn("*", first)
        alike.setdefault((pattern, count, rest), []).append(first)
    return [f"{_joined(same)} {rest}".rstrip() for (_, _, rest), same in alike.items()]


def pattern_of(text: str) -> str:
    """A sentence without the numbers of layers: equal for sentences that say the same of several layers.

    >>> pattern_of("it is compared in blocks.3.attn at models/vit.py:12")
    'it is compared in blocks.*.attn at models/vit.py:12'
    """
    return re.sub(r"(?<=\.)\d+(?=\.|\b)", "*", text)


def _joined(names: Sequence[str]) -> str:
    columns = zip(*(_NUMBER.findall(name) for name in names), strict=True)
    shown = iter([_runs(sorted({int(number) for number in column})) for column in columns])
    return _NUMBER.sub(lambda _: next(shown), names[0])


def _runs(present: Sequence[int]) -> str:
    """Numbers as ranges; one alone without braces."""
    if len(present) == 1:
        return str(present[0])
    runs = []
    for _, run in groupby(enumerate(present), key=lambda pair: pair[1] - pair[0]):
        members = [number for _, number in run]
        runs.append(str(members[0]) if len(members) == 1 else f"{members[0]}-{members[-1]}")
    return "{" + ",".join(runs) + "}"
