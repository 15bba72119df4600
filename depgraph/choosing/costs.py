"""What a graph costs at other sizes of its groups: parameters and MACs as polynomials, evaluated without a model."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import TypeAlias

from depgraph.algebra.index_maps import image
from depgraph.algebra.indices import IndexSet
from depgraph.algebra.spaces import Atom, Product, Reversed, Space, Sum, atoms
from depgraph.graph.graph import Graph

Terms: TypeAlias = Mapping[tuple[Space, ...], int | float]
"""A polynomial: products of the sizes of axes, with their coefficients."""


class CostPolynomial:
    """A cost as a function of the sizes of atoms.

    Each distinct space is evaluated once, in an order in which its parts come first; terms with the same factors are added
    up beforehand. So one evaluation is a few thousand integer operations on a large model.

    >>> import torch, depgraph as dg
    >>> graph = dg.trace(torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2)), torch.randn(1, 4))
    >>> params = CostPolynomial.of(graph, "params")
    >>> params({}), params({graph.groups[0].atom: 3})
    (58, 23)
    """

    def __init__(self, terms: Terms) -> None:
        self._slots: dict[Space, int] = {}
        self._atoms: dict[int, int] = {}
        self._own_sizes: list[int] = []
        self._steps: list[tuple[int, bool, tuple[int, ...]]] = []
        scales: dict[tuple[int, ...], int | float] = {}
        for axes, scale in terms.items():
            slots = tuple(sorted(self._slot(axis) for axis in axes if axis.size != 1))
            scales[slots] = scales.get(slots, 0) + scale
        self._terms = list(scales.items())

    @classmethod
    def of(cls, graph: Graph, what: str) -> CostPolynomial:
        """The polynomial of a graph's `params` or `macs`."""
        return cls(params_terms(graph) if what == "params" else macs_terms(graph))

    def __call__(self, sizes: Mapping[Atom, int]) -> int | float:
        """The cost where these atoms have the given sizes, and all others the sizes that they have in the graph."""
        values = list(self._own_sizes)
        for atom, size in sizes.items():
            if atom.id in self._atoms:
                values[self._atoms[atom.id]] = size
        value = values.__getitem__
        for slot, adds, parts in self._steps:
            values[slot] = sum(map(value, parts)) if adds else prod(map(value, parts))
        return sum([scale * prod(map(value, slots)) for slots, scale in self._terms])

    def _slot(self, space: Space) -> int:
        if isinstance(space, Reversed):
            space = space.atom
        known = self._slots.get(space)
        if known is not None:
            return known
        if isinstance(space, Atom):
            parts: tuple[int, ...] = ()
        else:
            parts = tuple(self._slot(child) for child in (space.factors if isinstance(space, Product) else space.parts))
        slot = self._slots[space] = len(self._slots)
        self._own_sizes.append(space.size)
        if isinstance(space, Atom):
            self._atoms[space.id] = slot
        else:
            self._steps.append((slot, isinstance(space, Sum), parts))
        return slot


def params_terms(graph: Graph) -> Terms:
    """The elements of all parameters."""
    terms: dict[tuple[Space, ...], int | float] = {}
    for tensor in graph.tensors:
        if tensor.kind == "parameter":
            terms[tensor.axes] = terms.get(tensor.axes, 0) + 1
    return terms


def macs_terms(graph: Graph) -> Terms:
    """The multiply-accumulates of one forward."""
    terms: dict[tuple[Space, ...], int | float] = {}
    for operation in graph.operations:
        for cost in operation.costs:
            terms[cost.axes] = terms.get(cost.axes, 0) + cost.scale
    return terms


class Savings:
    """What single cuts save: the terms of a graph's costs, each a product of axes, indexed by the atoms in them."""

    def __init__(self, graph: Graph) -> None:
        self.terms: list[tuple[tuple[Space, ...], int, bool]] = [
            (tensor.axes, 1, True) for tensor in graph.tensors if tensor.kind == "parameter"
        ]
        self.terms += [(cost.axes, cost.scale, False) for operation in graph.operations for cost in operation.costs]
        self._terms_of: dict[Atom, list[int]] = {}
        for number, (axes, _, _) in enumerate(self.terms):
            for atom in {atom for space in axes for atom in atoms(space)}:
                self._terms_of.setdefault(atom, []).append(number)

    def of(self, removed: Mapping[Atom, IndexSet]) -> tuple[int, int]:
        """Parameters and multiply-accumulates that a cut saves."""
        params = macs = 0
        for number in {number for atom in removed for number in self._terms_of.get(atom, ())}:
            axes, scale, is_parameter = self.terms[number]
            before = prod(space.size for space in axes)
            saved = scale * (before - prod(space.size - len(image(space, removed)) for space in axes))
            params, macs = (params + saved, macs) if is_parameter else (params, macs + saved)
        return params, macs
