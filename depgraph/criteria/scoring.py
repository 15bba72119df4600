"""Importance of every index of every group, as plain numbers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import nn

from depgraph.criteria import DataDriven, Importances
from depgraph.errors import MismatchError, PlanError
from depgraph.graph.graph import Graph
from depgraph.unsupported import supported


class Criterion(Protocol):
    """Anything that gives each index of each group an importance."""

    def __call__(self, graph: Graph, tensors: dict[str, torch.Tensor]) -> Importances:
        """Group name to one number per index."""
        ...


def score(graph: Graph, model: nn.Module, criterion: Criterion | DataDriven) -> Importances:
    """The importance of every index of every group.

    Args:
        graph: the trace of this model.
        model: its weights are read, never written; criteria that read data run it, and leave it as it was.
        criterion: one of `depgraph.criteria`, such as `Magnitude`, or any callable of the same form.

    Returns:
        Group name to one number per index, in the order of the model's own indices; higher is more important. A group in
        which no layer takes part is left out. With ``reduction="none"``: `MemberScores`.

    Raises:
        MismatchError: the model's parameters do not have the shapes that the graph says.
        UnsupportedError: the model is sharded, offloaded or quantised.
        PlanError: a criterion that reads weights meets a model on the `meta` device, or no layer takes part.

    >>> import depgraph as dg
    >>> model = nn.Sequential(nn.Linear(1, 3, bias=False), nn.Linear(3, 1, bias=False))
    >>> _ = model[0].weight.data.copy_(torch.tensor([[1.0], [0.0], [3.0]]))
    >>> _ = model[1].weight.data.copy_(torch.tensor([[2.0, 1.0, 0.0]]))
    >>> graph = dg.trace(model, torch.zeros(1, 1))
    >>> dg.score(graph, model, dg.Magnitude(p=2, reduction="sum", normaliser="none"))     # 1 + 4, 0 + 1, 9 + 0
    {'0.weight:0': (5.0, 1.0, 9.0)}
    >>> dg.score(graph, model, lambda graph, tensors: {"0.weight:0": tuple(tensors["0.weight"][:, 0].tolist())})
    {'0.weight:0': (1.0, 0.0, 3.0)}
    """
    if not (callable(criterion) or isinstance(criterion, DataDriven)) or isinstance(criterion, type):
        raise PlanError(f"expected a criterion such as dg.Magnitude(p=2), met {criterion!r}.")
    model = supported(model)
    tensors = dict(_named_tensors(model))
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
    with torch.no_grad():
        return criterion.measure(graph, model, tensors) if isinstance(criterion, DataDriven) else criterion(graph, tensors)


def _named_tensors(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    for path, module in model.named_modules(remove_duplicate=False):
        for registry in (module._parameters, module._buffers):
            for name, tensor in registry.items():
                if tensor is not None:
                    yield f"{path}.{name}" if path else name, tensor
