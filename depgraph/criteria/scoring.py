"""Importance of every index of every group, as plain numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch
from torch import nn

from depgraph.algebra.ragged_sets import is_table
from depgraph.criteria import Importances, MemberScores
from depgraph.criteria.gathering import Tensors
from depgraph.errors import MismatchError, PlanError
from depgraph.graph.arguments import of_graph
from depgraph.graph.graph import Graph
from depgraph.graph.groups import Group
from depgraph.graph.ragged import bases_of, why_uniform
from depgraph.unsupported import supported
from depgraph.weights import named_tensors


@runtime_checkable
class Criterion(Protocol):
    """What the criteria of this package are. A plain function of graph and model is as good."""

    def measure(self, graph: Graph, model: nn.Module, tensors: Tensors) -> Importances:
        """Group name to one number per index; `tensors` are the model's parameters and buffers by all of their names."""
        ...


Scoring: TypeAlias = Callable[[Graph, nn.Module], Mapping[str, Any]]
"""A criterion of the user's own: group name to one number per index, as a sequence or a tensor."""


@of_graph
def score(graph: Graph, model: nn.Module, criterion: Criterion | Scoring) -> Importances:
    """The importance of every index of every group.

    Args:
        graph: the trace of this model.
        model: its weights are read, never written; criteria that read data run it, and leave it as it was.
        criterion: one of `depgraph.criteria`, such as `Magnitude`, or any function of the graph and the model, without its
            wrappers, that returns the like. It may leave groups out; what it returns is checked.

    Returns:
        Group name to one number per index, in the order of the model's own indices; higher is more important. A group in
        which no layer takes part is left out. With ``reduction="none"``: `MemberScores`.

    Raises:
        MismatchError: the model's parameters do not have the shapes that the graph says.
        UnsupportedError: the model is sharded, offloaded or quantised.
        PlanError: a criterion that reads weights meets a model on the `meta` device, no layer takes part, or a function
            returned names of no group, too few or too many numbers, or NaN.

    >>> import depgraph as dg
    >>> model = nn.Sequential(nn.Linear(1, 3, bias=False), nn.Linear(3, 1, bias=False))
    >>> _ = model[0].weight.data.copy_(torch.tensor([[1.0], [0.0], [3.0]]))
    >>> _ = model[1].weight.data.copy_(torch.tensor([[2.0, 1.0, 0.0]]))
    >>> graph = dg.trace(model, torch.zeros(1, 1))
    >>> dg.score(graph, model, dg.Magnitude(p=2, reduction="sum", normaliser="none"))     # 1 + 4, 0 + 1, 9 + 0
    {'0.weight:0': (5.0, 1.0, 9.0)}
    >>> dg.score(graph, model, lambda graph, model: {"0.weight:0": model[0].weight[:, 0]})
    {'0.weight:0': (1.0, 0.0, 3.0)}
    """
    if not (callable(criterion) or isinstance(criterion, Criterion)) or isinstance(criterion, type):
        raise PlanError(f"expected a criterion such as dg.Magnitude(p=2), or a function of graph and model, met {criterion!r}.")
    model = supported(model)
    tensors = named_tensors(model, every_name=True)
    problems = []
    for tensor in graph.tensors:
        if tensor.kind != "value":
            value = tensors.get(tensor.name)
            if value is None:
                problems.append(f"the model has no {tensor.kind} {tensor.name!r}")
            elif tuple(value.shape) != tensor.shape:
                problems.append(f"{tensor.name!r}: expected shape {tensor.shape}, met {tuple(value.shape)}")
    if problems:
        raise MismatchError("the graph was traced from another model:", problems, "Trace this model and score that graph.")
    if not isinstance(criterion, Criterion):
        return _checked(graph, criterion(graph, model))
    with torch.no_grad():
        return criterion.measure(graph, model, tensors)


def _checked(graph: Graph, returned: Any) -> Importances:
    """What a user's function returned, as plain numbers. Raises `PlanError` with everything that is wrong with it."""
    if isinstance(returned, MemberScores):
        return returned  # type: ignore[return-value]  # as from a criterion with reduction="none"
    if not isinstance(returned, Mapping):
        raise PlanError(f"expected the criterion to return group names with their numbers, met {type(returned).__name__}.")
    scores: Importances = {}
    problems = []
    lists = {item.path: item for item in graph.sequences}
    for name, given in returned.items():
        group = graph.groups_by_name.get(name)
        values = given.tolist() if hasattr(given, "tolist") else given
        if group is None and name in lists:
            problem = _element_problem(len(lists[name].elements), values)
        else:
            problem = "it is no group of the graph" if group is None else _problem(graph, group, values)
        if problem:
            problems.append(f"{name!r}: {problem}")
        else:
            scores[name] = tuple(tuple(row) for row in values) if is_table(values) else tuple(values)
    if problems:
        listed = "".join(f"\n  - {problem}" for problem in problems)
        raise PlanError(f"the criterion returned scores that do not fit the graph:{listed}\nNames are those of graph.groups.")
    return scores


def _problem(graph: Graph, group: Group, values: Any) -> str | None:
    """What is wrong with the numbers of a group, if anything is. Infinite ones mean something to `dg.plan`."""
    if not isinstance(values, Sequence) or isinstance(values, str):
        return f"expected one number per index, met {type(values).__name__}"
    if not is_table(values):
        return _row_problem(group, values)
    base = bases_of(graph).get(group.atom)
    if base is None:
        return f"expected one number per index, met a table, but {why_uniform(graph, group)}"
    if len(values) != base.size:
        return f"expected {base.size} rows, one per index of its base, met {len(values)}"
    return next((problem for row in values if (problem := _row_problem(group, row))), None)


def _element_problem(length: int, values: Any) -> str | None:
    """What is wrong with the numbers of a list's elements, if anything is."""
    if not isinstance(values, Sequence) or isinstance(values, str) or len(values) != length:
        return f"expected {length} numbers, one per element"
    strange = [value for value in values if not isinstance(value, (int, float)) or isinstance(value, bool) or math.isnan(value)]
    return f"expected numbers, met {strange[0]!r}" if strange else None


def _row_problem(group: Group, values: Sequence[Any]) -> str | None:
    if len(values) != group.size:
        return f"expected {group.size} numbers, one per index, met {len(values)}"
    strange = [value for value in values if not isinstance(value, (int, float)) or isinstance(value, bool)]
    if strange:
        return f"expected numbers, met {strange[0]!r}"
    return f"NaN at index {[*map(math.isnan, values)].index(True)}" if any(map(math.isnan, values)) else None
