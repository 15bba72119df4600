"""Hypothesis strategies for index sets, spaces, plans and modules."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from torch import nn

from depgraph.algebra.indices import IndexSet
from depgraph.algebra.spaces import UNIT, Atom, Space, backwards, laid_end_to_end, product
from depgraph.graph.graph import Graph
from depgraph.plans.making import plan_of
from depgraph.plans.plan import Plan
from depgraph.testing.networks import KINDS, network


def index_sets(size: int, max_size: int | None = None) -> st.SearchStrategy[IndexSet]:
    """Subsets of ``range(size)``."""
    if size == 0:
        return st.just(IndexSet())
    chosen = st.sets(st.integers(0, size - 1), max_size=size if max_size is None else max_size)
    return chosen.map(IndexSet.of)


@st.composite
def spaces(draw: st.DrawFn, max_atoms: int = 4, max_depth: int = 3) -> Space:
    """Canonical spaces over a few atoms, which may occur more than once."""
    pool = [Atom(number, size) for number, size in enumerate(draw(st.lists(st.integers(2, 4), min_size=1, max_size=max_atoms)))]

    leaves: list[Space] = [*pool, *map(backwards, pool), UNIT]

    def build(depth: int) -> Space:
        kind = draw(st.sampled_from(["atom", "atom", "product", "sum"] if depth else ["atom"]))
        if kind == "atom":
            return draw(st.sampled_from(leaves))
        children = [build(depth - 1) for _ in range(draw(st.integers(1, 3)))]
        return product(*children) if kind == "product" else laid_end_to_end(*children)

    return build(max_depth)


@st.composite
def plans(draw: st.DrawFn, graph: Graph) -> Plan:
    """Plans of a graph: any removal that leaves each group its least size and keeps the balances."""
    removed = {group.atom: draw(index_sets(group.size, group.size - group.lower_bound)) for group in graph.groups}
    for balance in graph.balances:
        least = min(len(removed[atom]) for atom in balance.atoms)
        removed.update({atom: IndexSet.of(list(removed[atom])[:least]) for atom in balance.atoms})
    return plan_of(graph, removed)


@st.composite
def modules(draw: st.DrawFn, kinds: tuple[str, ...] = KINDS) -> nn.Module:
    """Random small classifiers of blocks: residuals, concats, shuffles, recurrence, attention and more (`KINDS`).

    They take inputs of the shape (batch, 3, 4, 4), and are in evaluation mode.
    """
    chosen = draw(st.lists(st.sampled_from(kinds), min_size=1, max_size=3))
    seed = draw(st.integers(0, 2**16))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return network(chosen, draw(st.integers(2, 6)), draw(st.integers(2, 4)), draw(st.integers(2, 3)), draw(st.booleans()))
