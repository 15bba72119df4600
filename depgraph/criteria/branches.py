"""Criteria of residual branches: how much the attention or the MLP of a layer alone changes what passes through."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch
from attrs import field, frozen
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from depgraph.criteria.blocks import channels_of, wide
from depgraph.criteria.checks import is_flag, is_function, is_iterable
from depgraph.criteria.collecting import counted
from depgraph.criteria.gathering import Tensors
from depgraph.criteria.reductions import Importances
from depgraph.errors import PlanError
from depgraph.graph.branches import Branch, BranchFlow, Stream, named_modules
from depgraph.graph.graph import Graph
from depgraph.progress import shown
from depgraph.running import Forward, run, together, untouched


def _patterns(value: str | Iterable[str] | None) -> tuple[Any, ...] | None:
    if not (value is None or isinstance(value, Iterable)):
        raise PlanError(f"expected branches= as dotted paths of modules or globs, met {value!r}.")
    return (value,) if isinstance(value, str) else None if value is None else tuple(value)


@frozen
class BranchInfluence:
    """How much a residual branch alone changes the stream to which it is added: 1 minus the mean cosine of before and after.

    `S = 1 - E[ cos(x, x + M(LN(x))) ]`, over all samples and positions; the vectors lie along the channels. He et al., "What
    Matters in Transformers? Not All Attention is Needed" (2406.15786), the score of attention and MLP. What feeds the branch,
    such as its normalisation, and what comes behind it before the sum count as parts of it; of branches that run beside each
    other, each is added to `x` alone. The batches are read once. The model is run in evaluation mode and left as it was. Where
    `torch.distributed` is initialised, each rank reads its own batches, and all get the numbers of all of them.

    `dg.score` returns one number for each branch, by the path of the module that runs it. The lowest are for
    `dg.drop_branches`. A branch that no batch reaches scores infinitely.

    Attributes:
        batches: an iterable of batches.
        branches: the modules that run the branches, by dotted path or glob, such as ``model.layers.*.mlp``; by default all that
            may leave by themselves and lie in no other one.
        forward: from (model, batch) to anything; by default the model is called with the batch.
        progress: show a progress bar; needs the package tqdm.

    >>> import depgraph as dg
    >>> class Layer(nn.Module):
    ...     def __init__(self, gain):
    ...         super().__init__()
    ...         self.mlp = nn.Linear(2, 2, bias=False)
    ...         _ = self.mlp.weight.data.copy_(gain * torch.tensor([[0.0, 1.0], [-1.0, 0.0]]))     # a quarter turn
    ...     def forward(self, x):
    ...         return x + self.mlp(x)
    >>> model = nn.Sequential(Layer(1.0), Layer(0.0), Layer(2.0))
    >>> graph = dg.trace(model, torch.zeros(1, 2))
    >>> scores = dg.score(graph, model, dg.criteria.BranchInfluence([torch.eye(2)]))
    >>> {path: round(value, 4) for path, (value,) in scores.items()}
    {'0.mlp': 0.2929, '1.mlp': 0.0, '2.mlp': 0.5528}
    >>> least = sorted(scores, key=scores.get)[:2]
    >>> print(dg.drop_branches(graph, least))
    <Plan: 0 groups, 0 axes, 0 attributes>
      0.mlp adds nothing
      1.mlp adds nothing
    """

    batches: Iterable[Any] = field(validator=is_iterable, repr=False, eq=False)
    branches: tuple[str, ...] | None = field(default=None, converter=_patterns, kw_only=True)
    forward: Forward = field(default=run, validator=is_function, repr=False, kw_only=True)
    progress: bool = field(default=False, validator=is_flag, kw_only=True)

    def measure(self, graph: Graph, model: nn.Module, tensors: Tensors) -> Importances:
        """Path of a branch's module to its one number."""
        streams = self._streams(graph)
        device = next((tensor.device for tensor in model.parameters()), torch.device("cpu"))
        totals = {path: torch.zeros(2, device=device) for path in streams}
        sums, number = _Sums(), 0
        with untouched(model, training=False), torch.no_grad():
            for path, stream in streams.items():
                sums.watch(model, path, stream, partial(_add, totals[path], channels_of(graph, stream.name)))
            for batch in shown(self.batches, type(self).__name__, "batch", self.progress):
                with sums:
                    self.forward(model, batch)
                sums.forget()
                number += 1
        together(totals.values())
        counted(number)
        return {path: (_mean(total),) for path, total in totals.items()}

    def _streams(self, graph: Graph) -> dict[str, Stream]:
        """What the branches are added to, by their paths in the order of forward."""
        flow, problems = BranchFlow(graph), list[str]()
        branches: list[Branch]
        if self.branches is None:
            branches = [*flow.outermost]
            problems += [] if branches else ["no module of the graph runs a branch that may leave: dg.drop_branches says why."]
        else:
            paths, wrong = named_modules(graph, self.branches)
            branches, kept = flow.asked(paths)
            problems += [*map(str, wrong), *(f"{problem}." for problem in kept)]
        streams = {} if problems else {branch.path: flow.stream(branch) for branch in branches}
        problems += [_NO_STREAM.format(path) for path, stream in streams.items() if stream is None]
        if problems:
            raise PlanError.of(problems)
        return {path: stream for path, stream in streams.items() if stream is not None}


_NO_STREAM = "{}: no module around it is given what it is made from, and its sum has another term; leave it out of branches=."
"""Why a branch has no score."""


def _add(total: torch.Tensor, dim: int, stream: torch.Tensor, added: torch.Tensor) -> None:
    """Count how far a branch turns the stream."""
    before = wide(stream)
    cosines = nn.functional.cosine_similarity(before, before + wide(added), dim=dim).clamp(-1, 1)
    total += torch.stack([(1 - cosines).sum(), cosines.new_tensor(cosines.numel())]).to(total)


def _mean(total: torch.Tensor) -> float:
    value, count = total.tolist()
    return value / count if count else math.inf


OnSum = Callable[[torch.Tensor, torch.Tensor], None]
"""Told of the stream and of what a branch adds to it."""


class _Sums(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Within it, what branches give is followed to the sum in which it is added to the stream.

    Between a module and the sum lie views, scales and the like, which no hook sees.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._on_sum: dict[str, OnSum] = {}
        self._direct: set[str] = set()
        self._streams: dict[str, torch.Tensor] = {}
        self._given: dict[int, tuple[torch.Tensor, str]] = {}

    def watch(self, model: nn.Module, path: str, stream: Stream, on_sum: OnSum) -> None:
        """Let the modules of a branch tell what passes."""
        self._on_sum[path] = on_sum

        def entered(module: nn.Module, args: Any, kwargs: Mapping[str, Any]) -> None:
            self._streams[path] = {**dict(zip(map(str, range(len(args))), args, strict=True)), **kwargs}[stream.key].clone()

        def left(place: int | None, module: nn.Module, args: Any, result: Any) -> None:
            self._lose(path)
            self._follow(result if place is None else result[place], path)

        if stream.path is None:
            self._direct.add(path)
        else:
            model.get_submodule(stream.path).register_forward_pre_hook(entered, with_kwargs=True)
        model.get_submodule(path).register_forward_hook(partial(left, stream.returned))
        for name in stream.behind:
            model.get_submodule(name).register_forward_pre_hook(lambda module, args: self._lose(path))
            model.get_submodule(name).register_forward_hook(partial(left, None))

    def forget(self) -> None:
        """Let go of what one forward made."""
        self._streams.clear()
        self._given.clear()

    def _follow(self, tensor: torch.Tensor, path: str) -> None:
        self._given[id(tensor)] = tensor, path  # held, so that no other tensor gets its number

    def _lose(self, path: str) -> None:
        self._given = {key: item for key, item in self._given.items() if item[1] != path}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        met = [item for item in tree_leaves((args, kwargs)) if isinstance(item, torch.Tensor)] if self._given else []
        followed = [self._given[id(item)] for item in met if id(item) in self._given]
        name = func.overloadpacket.__name__.removesuffix("_")
        if followed and len(met) == 2 and name in _SIGNS:
            for tensor, path in followed:
                other = met[1] if met[0] is tensor else met[0]
                self._summed(path, other, tensor * _SIGNS[name])
        result = func(*args, **kwargs)
        if len(met) == 1 and followed and isinstance(result, torch.Tensor):
            self._follow(result, followed[0][1])
        return result

    def _summed(self, path: str, other: torch.Tensor, added: torch.Tensor) -> None:
        stream = other if path in self._direct else self._streams.pop(path, None)
        if stream is not None:
            self._on_sum[path](stream, added)
        self._lose(path)


_SIGNS = {"add": 1, "sub": -1}
"""Operators of sums, and the sign with which a branch counts beside the stream, whichever comes first."""
