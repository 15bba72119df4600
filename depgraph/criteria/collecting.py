"""Runs batches through a model without changing it, and adds up the sums of all ranks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from attrs import field, frozen
from torch import nn

from depgraph.criteria.checks import is_flag
from depgraph.criteria.gathering import Tensors
from depgraph.criteria.options import Options
from depgraph.criteria.reductions import Importances
from depgraph.criteria.sums import readable
from depgraph.errors import PlanError
from depgraph.graph.graph import Graph
from depgraph.progress import shown
from depgraph.running import together

Loss = Callable[[nn.Module, Any], torch.Tensor]


@frozen(kw_only=True)
class DataDriven(Options):
    """What the criteria that read data have in common, besides `Options`.

    The batches are read once, one at a time, and what is kept does not grow with their number. The model is run in
    evaluation mode and left as it was: parameters, their gradients and flags, buffers such as running statistics, training
    flags, attributes, hooks, and torch's random state. Tensors of half precision are accumulated in single precision. Where
    `torch.distributed` is initialised, each rank reads its own batches, and all get the scores of all of them.

    Attributes:
        progress: show a progress bar; needs the package tqdm.
        training: run the model in training mode instead, with dropout and batch statistics.
        combine: add up the ranks' sums; False where the ranks do not hold copies of one model.

    A criterion of one's own derives from it and fills in `measure`:

    >>> import depgraph as dg
    >>> from depgraph.running import untouched
    >>> @frozen(kw_only=True)
    ... class LargestOutput(DataDriven):
    ...     batches: list
    ...     def measure(self, graph, model, tensors):
    ...         with untouched(model, self.training):
    ...             outputs = torch.cat([model[0](batch) for batch in self.read(self.batches)])
    ...         return {"0.weight:0": tuple(outputs.amax(0).tolist())}
    >>> model = nn.Sequential(nn.Linear(1, 2, bias=False), nn.Linear(2, 1))
    >>> _ = model[0].weight.data.copy_(torch.tensor([[1.0], [3.0]]))
    >>> graph = dg.trace(model, torch.zeros(1, 1))
    >>> dg.score(graph, model, LargestOutput(batches=[torch.ones(1, 1), torch.full((1, 1), 2.0)]))
    {'0.weight:0': (2.0, 6.0)}
    """

    progress: bool = field(default=False, validator=is_flag)
    training: bool = field(default=False, validator=is_flag)
    combine: bool = field(default=True, validator=is_flag)

    def measure(self, graph: Graph, model: nn.Module, tensors: Tensors) -> Importances:
        """Group name to one number per index."""
        raise NotImplementedError

    def read(self, batches: Iterable[Any]) -> Iterator[Any]:
        """The batches, with a bar where one is wanted."""
        return shown(batches, type(self).__name__, "batch", self.progress)

    def together(self, sums: Iterable[torch.Tensor]) -> None:
        """Add up tensors over all ranks, in place, where there are several."""
        if self.combine:
            together(sums)


def refuse_meta(tensors: Tensors) -> None:
    """Refuse a model without data before a batch is read."""
    for name, tensor in tensors.items():
        readable(name, tensor)


def counted(count: float) -> float:
    """The number of batches or samples. Refuses none."""
    if not count:
        raise PlanError("there was no batch: batches= is empty. A generator can be read only once; pass a list or a loader.")
    return count


def losses(loss: Loss, model: nn.Module, batch: Any, number: int) -> torch.Tensor:
    """The losses of one batch as a vector: of one entry for a scalar, else one for each sample."""
    values = loss(model, batch)
    if not isinstance(values, torch.Tensor):
        raise PlanError(f"expected the loss to be a tensor, met {type(values).__name__} for batch {number}.")
    if values.ndim > 1 or not values.numel():
        raise PlanError(
            f"expected the loss to be a scalar, or a vector of one loss per sample, met the shape {tuple(values.shape)} "
            f"for batch {number}."
        )
    if not values.requires_grad:
        raise PlanError(
            f"the loss of batch {number} has no gradient: compute it from the model that the function is given, without "
            "torch.no_grad, detach or item."
        )
    total = float(values.detach().sum())
    if not math.isfinite(total):
        raise PlanError(f"the loss of batch {number} is {total}; leave that batch out, or check the model.")
    return values.reshape(-1)
