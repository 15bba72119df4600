"""Hypothesis strategies for index sets, spaces, plans and modules."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from torch import nn

from depgraph.algebra.indices import IndexSet
from depgraph.algebra.spaces import UNIT, Atom, Space, backwards, laid_end_to_end, product
from depgraph.graph.arguments import of_graph
from depgraph.graph.graph import Graph
from depgraph.plans.making import plan_of
from depgraph.plans.plan import Plan
from depgraph.testing.networks import KINDS, network


def index_sets(size: int, max_size: int | None = None) -> st.SearchStrategy[IndexSet]:
    """Subsets of ``range(size)``.

    Args:
        size: the number of indices to choose from.
        max_size: how many are chosen at most; all of them if it is not given.

    >>> from hypothesis import find
    >>> find(index_sets(5), lambda indices: len(indices) == 2)
    IndexSet('0-1')
    """
    if size == 0:
        return st.just(IndexSet())
    sets = st.sets(st.integers(0, size - 1), max_size=size if max_size is None else max_size)
    return sets.map(IndexSet.of)


@st.composite
def spaces(draw: st.DrawFn, max_atoms: int = 4, max_depth: int = 3) -> Space:
    """Canonical spaces over a few atoms, which may occur more than once.

    Args:
        draw: given by Hypothesis.
        max_atoms: how many different atoms there are at most, of 2 to 4 indices each.
        max_depth: how deep products and sums are nested at most.

    >>> from hypothesis import find
    >>> from depgraph.algebra.spaces import Sum
    >>> print(find(spaces(max_atoms=1, max_depth=1), lambda space: isinstance(space, Sum)))
    (a0:2 + a0:2)
    """
    pool = [Atom(number, size) for number, size in enumerate(draw(st.lists(st.integers(2, 4), min_size=1, max_size=max_atoms)))]

    leaves: list[Space] = [*pool, *map(backwards, pool), UNIT]

    def build(depth: int) -> Space:
        kind = draw(st.sampled_from(["atom", "atom", "product", "sum"] if depth else ["atom"]))
        if kind == "atom":
            return draw(st.sampled_from(leaves))
        children = [build(depth - 1) for _ in range(draw(st.integers(1, 3)))]
        return product(*children) if kind == "product" else laid_end_to_end(*children)

    return build(max_depth)


@of_graph
@st.composite
def plans(draw: st.DrawFn, graph: Graph) -> Plan:
    """Plans of a graph: any removal that keeps each group's lower bound and the balances.

    Args:
        draw: given by Hypothesis.
        graph: the graph to plan on.

    >>> from hypothesis import find
    >>> import depgraph as dg
    >>> graph = dg.trace(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2)), torch.zeros(1, 4))
    >>> dict(find(plans(graph), lambda plan: len(plan.cuts) > 0).removed)
    {'0.weight:0': IndexSet('0')}
    """
    removed = {group.atom: draw(index_sets(group.size, group.size - group.lower_bound)) for group in graph.groups}
    for balance in graph.balances:
        least = min(len(removed[atom]) for atom in balance.atoms)
        removed.update({atom: IndexSet.of(list(removed[atom])[:least]) for atom in balance.atoms})
    return plan_of(graph, removed)


@st.composite
def modules(draw: st.DrawFn, kinds: tuple[str, ...] = KINDS) -> nn.Module:
    """Random small classifiers of blocks: residuals, concats, shuffles, recurrence, attention and more (`KINDS`).

    They take inputs of the shape (batch, 3, 4, 4), return (batch, 5), and are in evaluation mode.

    Args:
        draw: given by Hypothesis.
        kinds: what the blocks may be.

    >>> from hypothesis import Phase, find, settings
    >>> first = settings(max_examples=1, phases=[Phase.generate])
    >>> find(modules(("glu",)), lambda model: True, settings=first)(torch.zeros(2, 3, 4, 4)).shape
    torch.Size([2, 5])
    """
    block_kinds = draw(st.lists(st.sampled_from(kinds), min_size=1, max_size=3))
    seed = draw(st.integers(0, 2**16))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return network(
            block_kinds, draw(st.integers(2, 6)), draw(st.integers(2, 4)), draw(st.integers(2, 3)), draw(st.booleans())
        )
