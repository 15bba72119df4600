"""One forward over the batches, and the sums of what each layer reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from attrs import evolve
from torch import nn

from depgraph import codec
from depgraph.errors import PlanError
from depgraph.moments.gathering import readings
from depgraph.moments.layers import Call, Layer, Layout
from depgraph.moments.offloading import InFiles, InMemory, offload_problems
from depgraph.moments.samples import Batch, Valid, batches_of, option_problems
from depgraph.moments.sums import Moments
from depgraph.moments.watching import LayerCall, NormCall, Watch
from depgraph.progress import shown
from depgraph.running import Forward, outside_inference_mode, run, untouched
from depgraph.unsupported import supported
from depgraph.weights import named_tensors, weights_digest

Wanted = Callable[[Layer], bool]


class Survey:
    """The layers of a model as forward comes to them.

    Attributes:
        layers: by the place of the weight.
        order: what forward comes to, in order: places of weights, and the names of running means.
        norms: the name of each running variance by that of the running mean.
        left: weights, biases and running means that cannot be changed, each with the reason.
    """

    def __init__(self) -> None:
        self.layers: dict[Layout, Layer] = {}
        self.order: list[Layout | str] = []
        self.norms: dict[str, str] = {}
        self.left: dict[str, str] = {}
        self._recent: list[tuple[torch.Tensor, Call, str]] = []
        self._calls: dict[Layout, int] = {}

    def called(self, event: LayerCall | NormCall) -> None:
        """Note a call."""
        if isinstance(event, NormCall):
            if event.mean not in self.norms:
                self.order.append(event.mean)
            else:
                self.left[event.mean] = "forward calls it several times"
            self.norms[event.mean] = event.variance
            return
        calls = self._calls[event.weight] = self._calls.get(event.weight, 0) + 1
        known = self.layers.get(event.weight)
        if known is None:
            self.order.append(event.weight)
            self.layers[event.weight] = Layer(event.weight, event.bias, event.call, self._reads(event), 1, event.copied)
        elif calls > known.calls:
            self.layers[event.weight] = evolve(known, calls=calls, reads=_own(event.weight))

    def _reads(self, event: LayerCall) -> str:
        """The name of what a layer reads: that of an earlier layer that reads the same tensor in the same way."""
        for x, call, name in self._recent:
            if call == event.call and _same(x, event.x):
                return name
        name = _own(event.weight)
        self._recent = [(event.x, event.call, name), *self._recent[:3]]
        return name


def surveyed(model: nn.Module, batch: Batch, forward: Forward) -> Survey:
    """The layers that one forward comes to."""
    survey = Survey()

    def on_call(event: LayerCall | NormCall) -> Any:
        survey.called(event)
        return event.run()

    with untouched(model, training=False), torch.no_grad():
        tensors = named_tensors(model)
        with Watch(tensors, on_call) as watch:
            forward(model, batch.content)
    survey.layers = {place: evolve(layer, bias=layer.bias or watch.added.get(place)) for place, layer in survey.layers.items()}
    survey.left |= problems_of(watch, survey.layers.values(), tensors)
    return survey


def _own(weight: Layout) -> str:
    return f"{weight.name}+{weight.offset}" if weight.offset else weight.name


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors, both alive, hold the same elements in the same memory. Of inference tensors nobody knows."""
    if one.is_inference() or other.is_inference():
        return False
    places = [(x.data_ptr(), x.shape, x.stride(), x.dtype, x.device, x._version) for x in (one, other)]
    return places[0] == places[1]


def problems_of(watch: Watch, layers: Iterable[Layer], tensors: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """Parameters that cannot be solved for, each with the reason."""
    reasons = {
        name: f"{', '.join(sorted(operators))} uses it, which is no product and no convolution"
        for name, operators in watch.others.items()
    }
    by_name: dict[str, list[Layout]] = {}
    for layer in layers:
        by_name.setdefault(layer.weight.name, []).append(layer.weight)
        if layer.bias is not None and (others := watch.others.get(layer.bias.name)):
            reasons[layer.bias.name] = _used_by(others)
    for name, layouts in by_name.items():
        others = watch.others.get(name)
        if others:
            reasons[name] = _used_by(others)
        elif tensors[name].is_complex():
            reasons[name] = "it is complex"
        elif any(layout.repeats() for layout in layouts):
            reasons[name] = "it is broadcast over a batch of matrices"
        elif len(layouts) > 1 and _overlap(layouts):
            reasons[name] = "it is used in two ways, such as a matrix and its transpose"
    return reasons


def _used_by(operators: Iterable[str]) -> str:
    return f"{', '.join(sorted(operators))} uses it, too"


def _overlap(layouts: Sequence[Layout]) -> bool:
    positions = torch.cat([layout.positions().flatten() for layout in layouts])
    return bool(positions.bincount().max() > 1)


@outside_inference_mode
def collect(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    wanted: Callable[[str], bool] | None = None,
    holdout: float = 0.25,
    forward: Forward = run,
    valid: Valid | None = None,
    rows_per_input: float = 20,
    dtype: torch.dtype = torch.float32,
    offload: str | Path | None = None,
    progress: bool = False,
) -> Moments:
    """The moments of what each layer of a model reads, over one forward of each batch.

    One more forward of the first batch finds the layers. The model is run in evaluation mode, and left as it was. What is
    kept does not grow with the number of batches: for each layer a matrix of its inputs by its inputs, in double precision
    up to 4,096 inputs. Where `torch.distributed` is initialised, each rank reads its own batches, and all get the sums of
    all of them.

    Args:
        model: any module.
        batches: an iterable of batches, as many as fit in memory.
        wanted: given the name of a weight, whether its layer counts; by default all do.
        holdout: the share of the samples, the last ones, that is kept apart to judge by; 0 for none.
        forward: from (model, batch) to anything; by default the model is called with the batch as `trace` does it:
            arguments from a tuple or list, keywords from a mapping of names of its parameters.
        valid: from a batch to a mask of its places that count, such as ``lambda batch: batch["attention_mask"]``: others are
            left out of what layers read that have so many rows.
        rows_per_input: a convolution reads so many rows for each of its inputs, spread evenly over the places of all
            samples, or all that there are; or all, where overlapping patches make that less work.
        dtype: in which rows are multiplied: ``torch.float32`` or ``torch.float64``.
        offload: a folder for the sums, which must not exist yet, or be empty; it appears whole or not at all. Memory has room
            for one layer's then: each batch reads and writes the file of each layer, so that a few large batches are better
            than many small ones. `Moments.load` opens it again. Each rank needs one of its own. Needs the package safetensors.
        progress: show a progress bar; needs the package tqdm.

    Raises:
        PlanError: an argument is none of these, or there are too few samples.
        UnsupportedError: the model is sharded, offloaded or quantised.

    >>> import depgraph as dg
    >>> sums = collect(nn.Linear(2, 1), [torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0]])], holdout=0)
    >>> sums.fitted["weight"].count, sums.fitted["weight"].total.tolist(), sums.fitted["weight"].products.tolist()
    (2, [[4.0, 6.0]], [[[10.0, 14.0], [14.0, 20.0]]])
    """
    options = (batches, holdout, rows_per_input, forward, valid, dtype)
    problems = [*option_problems(*options, may_hold_none=True, wanted=wanted), *offload_problems(offload, must_be_new=True)]
    if problems:
        raise PlanError.of(problems)
    model = supported(model)
    read = batches_of(batches, holdout, rows_per_input, valid, least=2 if holdout else 1)
    chosen = None if wanted is None else lambda layer: wanted(layer.weight.name)
    with torch.no_grad():
        survey = surveyed(model, read[0], forward)
        gather = partial(collected, model, weights_digest(model), read, survey, chosen, forward, dtype, progress)
        if offload is None:
            return gather()
        codec.write_whole_folder(offload, lambda folder: gather(folder=folder))
        return Moments.load(offload)


def collected(
    model: nn.Module,
    source: str,
    batches: Sequence[Batch],
    survey: Survey,
    wanted: Wanted | None,
    forward: Forward,
    dtype: torch.dtype,
    progress: bool,
    folder: Path | None = None,
) -> Moments:
    """The same, of batches that are taken apart already, and of a model whose weights have the digest `source`.

    A folder for the sums must be there, and empty.
    """
    layers = dict(survey.layers)
    found = InMemory() if folder is None else InFiles(folder)
    calls: Counter[Layout] = Counter()
    read: set[tuple[str, int]] = set()

    def on_call(event: LayerCall | NormCall) -> Any:
        if isinstance(event, LayerCall):
            calls[event.weight] += 1
            new = Layer(event.weight, event.bias, event.call, _own(event.weight), 1, event.copied)
            layer = layers.setdefault(event.weight, new)
            key = layer.reads, calls[event.weight]
            if key not in read and (wanted is None or wanted(layer)):
                read.add(key)
                found.add(layer.reads, readings(batch, event.call, event.x, dtype))
        return event.run()

    with untouched(model, training=False), torch.no_grad():
        tensors = named_tensors(model)
        watch = Watch(tensors, on_call)
        for batch in shown(batches, "moments", "batch", progress):
            with watch:
                forward(model, batch.content)
            watch.forget()
            calls.clear()
            read.clear()
    left = survey.left | problems_of(watch, layers.values(), tensors)
    return found.moments(source, layers.values(), left)
