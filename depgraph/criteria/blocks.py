"""Criteria of whole elements of lists of modules: how much a block changes what passes through it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from attrs import field, frozen
from torch import nn

from depgraph.algebra.numbers import is_whole
from depgraph.algebra.spaces import atoms
from depgraph.criteria.checks import is_flag, is_function, is_iterable
from depgraph.criteria.collecting import counted
from depgraph.criteria.gathering import Tensors
from depgraph.criteria.reductions import Importances
from depgraph.criteria.sums import real
from depgraph.errors import PlanError
from depgraph.graph.drops import ElementFlow
from depgraph.graph.graph import Graph
from depgraph.graph.records import ModuleSequence
from depgraph.progress import shown
from depgraph.running import Forward, run, together, untouched


@frozen(eq=False)
class _Watched:
    """A list whose elements are measured.

    Attributes:
        sequence: the list.
        free: the positions of elements that may leave and that hold parameters.
        dim: the dimension of what passes through along which directions are compared: the last that parameters have, too.
    """

    sequence: ModuleSequence
    free: tuple[int, ...]
    dim: int


def watched_lists(graph: Graph, lists: Iterable[str] | None) -> list[_Watched]:
    """The lists from which elements may leave: the named ones, or all that lie in no element of another one of them."""
    named = None if lists is None else tuple(lists)
    known = [item.path for item in graph.sequences]
    unknown = [path for path in named or () if path not in known]
    if unknown:
        raise PlanError.of([f"the graph has no list of modules {path!r}; it has {known}." for path in unknown])
    found: list[_Watched] = []
    parameters = [tensor for tensor in graph.tensors if tensor.kind == "parameter"]
    for sequence in graph.sequences:
        if named is None and any(sequence.path.startswith(outer.sequence.prefix) for outer in found):
            continue
        if named is not None and sequence.path not in named:
            continue
        flow = ElementFlow(graph, sequence)
        holding = {flow.position_of(tensor.name) for tensor in parameters}
        places = [] if flow.problems else [place for place in range(len(sequence.elements)) if place in holding]
        free = tuple(place for place in places if not flow.problems_of(place))
        if free:
            (given, *_) = flow.redirected(free[0])
            found.append(_Watched(sequence, free, channels_of(graph, given)))
    return found


def channels_of(graph: Graph, name: str) -> int:
    """The dimension along which directions of a value are compared: the last that parameters have, too; positions have none."""
    learned = {atom for tensor in graph.tensors if tensor.kind == "parameter" for axis in tensor.axes for atom in atoms(axis)}
    axes = graph.tensor(name).axes
    return max((dim for dim, axis in enumerate(axes) if not learned.isdisjoint(atoms(axis))), default=len(axes) - 1)


def _paths(value: Iterable[str] | None) -> tuple[str, ...] | None:
    if isinstance(value, str) or not (value is None or isinstance(value, Iterable)):
        raise PlanError(f"expected lists= as several paths, such as [{value!r}], met {value!r}.")
    return None if value is None else tuple(value)


@frozen(kw_only=True)
class _OnElements:
    """What the criteria of elements have in common.

    The batches are read once. The model is run in evaluation mode and left as it was. Where `torch.distributed` is
    initialised, each rank reads its own batches, and all get the numbers of all of them.

    Attributes:
        lists: dotted paths of the lists; by default all from which elements may leave and that lie in no other one.
        forward: from (model, batch) to anything; by default the model is called with the batch.
        progress: show a progress bar; needs the package tqdm.
    """

    lists: tuple[str, ...] | None = field(default=None, converter=_paths)
    forward: Forward = field(default=run, validator=is_function, repr=False)
    progress: bool = field(default=False, validator=is_flag)

    def _distances(
        self,
        graph: Graph,
        model: nn.Module,
        batches: Iterable[Any],
        span: int,
        distance: Callable[[torch.Tensor], torch.Tensor],
    ) -> Importances:
        """For each list and position the mean distance between what enters the element and what leaves the span's last one."""
        lists = watched_lists(graph, self.lists)
        if not lists:
            raise PlanError("no list of modules has an element that may leave: dg.drop says why for each.")
        device = next((tensor.device for tensor in model.parameters()), torch.device("cpu"))
        sums = {item.sequence.path: torch.zeros(len(item.sequence.elements), 2, device=device) for item in lists}
        number = 0
        with untouched(model, training=False), torch.no_grad():
            for item in lists:
                _observe(model, item, span, sums[item.sequence.path], distance)
            for batch in shown(batches, type(self).__name__, "batch", self.progress):
                self.forward(model, batch)
                number += 1
        together(sums.values())
        counted(number)
        return {item.sequence.path: tuple(_means(item, span, sums[item.sequence.path])) for item in lists}


def _means(item: _Watched, span: int, sums: torch.Tensor) -> Iterator[float]:
    """The mean of each position; infinite where an element of the span may not leave, or was not reached."""
    totals = sums.tolist()
    for place in range(len(totals)):
        total, count = totals[place]
        whole = all(other in item.free for other in range(place, place + span))
        yield total / count if whole and count else math.inf


def _observe(
    model: nn.Module, item: _Watched, span: int, sums: torch.Tensor, distance: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    """Let the elements of a list tell what enters and leaves them."""
    entered: dict[int, torch.Tensor] = {}

    def left(place: int, module: nn.Module, args: Any, kwargs: Mapping[str, Any], result: Any) -> None:
        leaves: list[torch.Tensor] = [leaf for leaf in torch.utils._pytree.tree_leaves(result) if torch.is_tensor(leaf)]
        if not leaves:
            return
        given = leaves[0]
        taken = [leaf for leaf in torch.utils._pytree.tree_leaves((args, kwargs)) if torch.is_tensor(leaf)]
        taken = [leaf for leaf in taken if leaf.shape == given.shape]
        if taken:
            entered[place] = taken[0]
        start = entered.get(place - span + 1)
        if start is not None and start.shape == given.shape:
            cosines = nn.functional.cosine_similarity(wide(start), wide(given), dim=item.dim).clamp(-1, 1)
            values = distance(cosines)
            sums[place - span + 1] += torch.stack([values.sum(), values.new_tensor(values.numel())]).to(sums)

    container = model.get_submodule(item.sequence.path)
    for place, element in enumerate(container.children()):
        element.register_forward_hook(partial(left, place), with_kwargs=True)


def wide(tensor: torch.Tensor) -> torch.Tensor:
    """In single precision at least: a cosine near 1 has no digits left in half precision."""
    values = real(tensor.detach())
    return values if values.dtype == torch.float64 else values.float()


@frozen
class BlockInfluence(_OnElements):
    """How much an element of a list changes what passes through it: 1 minus the mean cosine of what enters and leaves.

    `BI_i = 1 - E[ x_i . x_{i+1} / (|x_i| |x_{i+1}|) ]`, over all samples and positions; the vectors lie along the channels.
    Men et al., "ShortGPT: Layers in Large Language Models are More Redundant Than You Expect" (2403.03853),
    equation 1. What may not leave, or holds no parameters, scores infinitely.

    Attributes:
        batches: an iterable of batches.

    >>> import depgraph as dg
    >>> class Block(nn.Linear):
    ...     def forward(self, x):
    ...         return x + super().forward(x)
    >>> model = nn.Sequential(*(Block(2, 2, bias=False) for _ in range(3)))
    >>> for block, gain in zip(model, (1.0, 0.0, 1.0)):
    ...     _ = block.weight.data.copy_(gain * torch.tensor([[0.0, 1.0], [-1.0, 0.0]]))   # x and a quarter turn of it
    >>> graph = dg.trace(model, torch.zeros(1, 2))
    >>> scores = dg.score(graph, model, dg.criteria.BlockInfluence([torch.eye(2)]))
    >>> [round(value, 4) for value in scores[""]]
    [0.2929, 0.0, 0.2929]
    >>> print(dg.plan(graph, scores, depth=0.34))
    <Plan: 0 groups, 0 axes, 0 attributes>
      the model: 1 of 3 elements go: 1
    """

    batches: Iterable[Any] = field(validator=is_iterable, repr=False, eq=False, kw_only=False)

    def measure(self, graph: Graph, model: nn.Module, tensors: Tensors) -> Importances:
        """Path of a list to one number for each of its elements."""
        return self._distances(graph, model, self.batches, 1, lambda cosines: 1 - cosines)


@frozen
class AngularDistance(_OnElements):
    """How far a run of elements turns what passes through it: the angle between what enters the first and leaves the last.

    `d(x_i, x_{i+n}) = arccos( x_i . x_{i+n} / (|x_i| |x_{i+n}|) ) / pi`, averaged over samples and positions, as the number of
    element i. Gromov et al., "The Unreasonable Ineffectiveness of the Deeper Layers" (2403.17887), equation 4: there the run
    with the least distance goes, and the vectors are those of the last position; here those of all.

    Attributes:
        batches: an iterable of batches.
        span: how many elements in a row, n.

    >>> import depgraph as dg
    >>> class Block(nn.Linear):
    ...     def forward(self, x):
    ...         return x + super().forward(x)
    >>> model = nn.Sequential(*(Block(2, 2, bias=False) for _ in range(3)))
    >>> for block in model:
    ...     _ = block.weight.data.copy_(torch.tensor([[0.0, 1.0], [-1.0, 0.0]]))              # 45 degrees each
    >>> graph = dg.trace(model, torch.zeros(1, 2))
    >>> scores = dg.score(graph, model, dg.criteria.AngularDistance([torch.eye(2)], span=2))
    >>> [round(value, 4) for value in scores[""]]
    [0.5, 0.5, inf]
    """

    batches: Iterable[Any] = field(validator=is_iterable, repr=False, eq=False, kw_only=False)
    span: int = field(default=1, kw_only=True)

    @span.validator
    def _is_span(self, attribute: Any, value: Any) -> None:
        if not is_whole(value, least=1):
            raise PlanError(f"expected span= as a whole number of elements from 1 up, met {value!r}.")

    def measure(self, graph: Graph, model: nn.Module, tensors: Tensors) -> Importances:
        """Path of a list to one number for each position at which a run may begin."""
        return self._distances(graph, model, self.batches, self.span, lambda cosines: cosines.double().acos().float() / math.pi)
