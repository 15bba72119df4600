"""Frozen all the way down: nothing that a graph or a plan hands out can be written to."""

import copy
from collections.abc import Iterator, Mapping
from functools import cached_property
from types import MappingProxyType
from typing import Any

import attrs
import pytest
import torch
from torch import nn

import depgraph as dg
from tests.frames import Frame


class Bent(Frame):
    """A normalised width that is halved: buffers, attributes, balances, pinned axes, several kinds of nodes."""

    def __init__(self) -> None:
        super().__init__(12, 6)
        self.norm = nn.BatchNorm1d(12)

    def between(self, x: torch.Tensor) -> torch.Tensor:
        left, right = self.norm(x).chunk(2, -1)
        return left * right


def names_of(kind: type) -> Iterator[str]:
    """The fields and properties of a class, private ones too."""
    slots = {name for base in kind.__mro__ for name in getattr(base, "__slots__", ()) if not name.startswith("__")}
    yield from sorted(slots)  # fields, and what attrs makes of cached properties
    yield from (name for name, member in vars(kind).items() if isinstance(member, (property, cached_property)))


def open_places(value: Any, path: str = "") -> Iterator[str]:
    """Where a value can be written to, by path."""
    if isinstance(value, MappingProxyType):
        for key, item in value.items():
            yield from open_places(item, f"{path}[{key}]")
    elif isinstance(value, tuple):
        for position, item in enumerate(value):
            yield from open_places(item, f"{path}[{position}]")
    elif isinstance(value, (dict, list, set, Mapping)):
        yield f"{path}: {type(value).__name__}"
    elif attrs.has(type(value)):
        for name in names_of(type(value)):
            yield from open_places(getattr(value, name), f"{path}.{name}")


def test_no_property_of_a_graph_or_a_plan_can_be_written_to():
    """Every field and property, and what lies in them, is frozen; what is read has been read through every property."""
    graph = dg.trace(Bent(), torch.randn(2, 8))
    plan = dg.cut_each(graph, {group.name: [0] for group in graph.groups})
    assert {"by_name", "reasons", "group_of", "groups_by_name", "uses"} <= {*names_of(dg.Graph)}
    assert {"kept", "sizes", "removed"} <= {*names_of(dg.Plan)}
    for value in (graph, plan, plan.apply(graph)):
        assert list(open_places(value)) == []


@attrs.frozen
class _Leaky:
    inner: tuple[Any, ...]

    @property
    def table(self) -> dict[str, int]:
        return {}


def test_the_walk_finds_what_is_open():
    """A dict that a property returns, and a list inside of a read-only mapping inside of a tuple, are found."""
    assert list(open_places(_Leaky((MappingProxyType({"a": [1]}),)))) == [".inner[0][a]: list", ".table: dict"]


def test_writing_is_refused_and_reading_again_gives_the_same():
    """At both levels; a plan that was read still copies, compares and executes."""
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    plan = dg.cut(dg.trace(model, torch.randn(1, 4)), "0.weight", [1], dim=0)
    with pytest.raises((TypeError, AttributeError)):
        plan.kept.pop("2.weight")
    with pytest.raises(TypeError):
        plan.kept["2.weight"][1] = dg.IndexSet()
    again = copy.deepcopy(plan)
    assert again == plan and again.kept == plan.kept == {**plan.kept}
    assert dg.execute(plan, model)(torch.randn(1, 4)).shape == (1, 2)
