"""Repair of each layer on what the repaired layers before it give, in the order of the forward."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from attrs import frozen
from torch import nn

from depgraph.execution.copying import copied
from depgraph.execution.repairs import LayerRepair
from depgraph.moments.collecting import Survey
from depgraph.moments.gathering import Gathered, Images, Reading, readings
from depgraph.moments.layers import Layer, Layout
from depgraph.moments.samples import Batch
from depgraph.moments.watching import LayerCall, NormCall, Watch
from depgraph.plans.plan import Plan
from depgraph.progress import ticks
from depgraph.repair.kept import Kept, kept
from depgraph.repair.lockstep import Task, in_step
from depgraph.repair.names import tensors_by
from depgraph.repair.ridge import Missing, best
from depgraph.repair.writing import Writer, row_of
from depgraph.running import Forward, together, untouched
from depgraph.weights import named_tensors

Place: TypeAlias = tuple[str, int]
"""A layer in original and pruned model alike: the weight's name, and how many other parts of it forward used before it."""


@frozen(eq=False)
class _Work:
    """A layer that is to be solved."""

    layer: Layer
    part: Kept


@frozen(eq=False)
class _Stop:
    """What a forward brings to a layer: what it reads there, and what it gives as it is."""

    batch: Batch
    is_original: bool
    call: LayerCall | NormCall
    result: Any


Pairs: TypeAlias = list[tuple[_Stop, _Stop]]
"""The stops of the original and of the pruned model, for each batch."""


@frozen(eq=False)
class Models:
    """The original and the pruned model.

    Attributes:
        original: as the batches are run through it.
        pruned: with the writer's tensors.
        names: from the pruned model's names of tensors to those of the original.
    """

    original: nn.Module
    pruned: nn.Module
    names: Mapping[str, str]


class _Places:
    """Numbers the parts of each weight in the order in which forward comes to them."""

    def __init__(self) -> None:
        self._numbers: dict[str, dict[Layout, int]] = {}

    def of(self, weight: Layout | str) -> Place:
        """The place of a weight, or of a batch normalisation by its running mean."""
        if isinstance(weight, str):
            return weight, 0
        numbers = self._numbers.setdefault(weight.name, {})
        return weight.name, numbers.setdefault(weight, len(numbers))


def repaired_in_order(
    writer: Writer,
    models: Models,
    batches: Sequence[Batch],
    survey: Survey,
    ridges: Sequence[float],
    forward: Forward,
    batch_norm: bool,
    dtype: torch.dtype,
    progress: bool,
) -> tuple[list[LayerRepair], dict[str, str]]:
    """Solve for each layer from the first that the plan reaches on, while both models run side by side.

    Args:
        writer: changes the values of the pruned model.
        models: both, which hold the writer's tensors.
        batches: the samples.
        survey: the layers in the order of the forward.
        ridges: the penalties to choose from.
        forward: how a batch is run.
        batch_norm: whether running statistics are re-estimated.
        dtype: in which rows are multiplied.
        progress: show a progress bar over the layers.

    Returns:
        What was done, and what was left with the reason.
    """
    names = _Places()
    order = {names.of(place): number for number, place in enumerate(survey.order)}
    work, left = _work(writer.plan, survey, writer, batch_norm)
    rows: list[LayerRepair] = []

    def solve(place: Any, tasks: list[Task]) -> list[Any]:
        tick()
        stops: list[_Stop] = [task.offer for task in tasks]
        pairs = _pairs(stops)
        item = work[place]
        if not pairs:
            left[place[0]] = "the forwards of the original and of the pruned model do not both come to it"
            return [stop.result for stop in stops]
        if isinstance(item, str):
            row = _statistics(writer, place[0], item, pairs)
        else:
            row = _solved(writer, item, pairs, ridges, dtype)
        rows.append(row)
        again = row.choice != "as it was"
        return [stop.call.run() if again and not stop.is_original else stop.result for stop in stops]

    original, pruned = models.original, models.pruned
    same = {name: name for name in writer.before}
    with untouched(original, training=False), ticks(len(work), "refit", "layer", progress) as tick:
        tasks = []
        for batch in batches:
            tasks.append(_task(original, dict(original.named_parameters()), same, batch, True, set(work), forward))
            tasks.append(_task(pruned, named_tensors(pruned), models.names, batch, False, set(work), forward))
        in_step(tasks, order.__getitem__, solve)
    return rows, left


def _work(plan: Plan, survey: Survey, writer: Writer, batch_norm: bool) -> tuple[dict[Place, _Work | str], dict[str, str]]:
    """What is to be solved, from the first layer on that the plan reaches; and what is left, with the reason."""
    work: dict[Place, _Work | str] = {}
    left: dict[str, str] = {}
    names = _Places()
    reached = any(not _has_layer(element, survey) for element in _elements_that_leave(plan))
    for weight in survey.order:
        place = names.of(weight)
        name = weight if isinstance(weight, str) else weight.name
        reached = reached or name not in writer.after or (name in plan.kept and not isinstance(weight, str))
        if not reached or name not in writer.after:
            continue
        if isinstance(weight, str):
            if batch_norm and weight not in survey.left:
                work[place] = survey.norms[weight]
            continue
        layer = survey.layers[weight]
        part = kept(plan, weight, writer.before[weight.name])
        reason = survey.left.get(weight.name) or _reason(layer, part)
        if reason is None and part is not None:
            work[place] = _Work(layer, part)
        else:
            left[weight.name] = str(reason)
    return work, left


def _elements_that_leave(plan: Plan) -> Iterator[str]:
    """The prefixes of the names in each."""
    for drop in plan.drops:
        yield from (f"{drop.sequence.prefix}{drop.sequence.elements[place]}." for place in drop.removed)


def _has_layer(prefix: str, survey: Survey) -> bool:
    """Whether forward comes to something under these names that says where it has come to."""
    return any((weight if isinstance(weight, str) else weight.name).startswith(prefix) for weight in survey.order)


def _reason(layer: Layer, part: Kept | None) -> str | None:
    if layer.calls > 1:
        return "forward calls it several times; mode='independent' solves for all of its calls together"
    if layer.copied:
        return "its weight is copied before it is used, such as to another dtype; mode='independent' solves for it"
    return "what is left of it is no rectangle in each block" if part is None else None


def _task(
    model: nn.Module,
    shared: Mapping[str, torch.Tensor],
    base: Mapping[str, str],
    batch: Batch,
    is_original: bool,
    work: set[Place],
    forward: Forward,
) -> Task:
    """The forward of one batch, on a copy of the module tree that is its own and shares the given tensors.

    What a forward keeps in attributes is so that of its batch alone, however the forwards take turns.
    """
    own = copied(model, {id(tensor): tensor for tensor in shared.values()}).eval()

    def body(task: Task) -> None:
        places = _Places()

        def on_call(event: LayerCall | NormCall) -> Any:
            place = places.of(event.mean if isinstance(event, NormCall) else event.weight)
            result = event.run()
            return task.wait(place, _Stop(batch, is_original, event, result)) if place in work else result

        with Watch(tensors_by(base, own), on_call):
            forward(own, batch.content)

    return Task(body)


def _pairs(stops: Sequence[_Stop]) -> Pairs:
    """The stops by batch, of those batches whose forwards both came."""
    originals = {id(stop.batch): stop for stop in stops if stop.is_original}
    return [(originals[id(stop.batch)], stop) for stop in stops if not stop.is_original and id(stop.batch) in originals]


def _solved(writer: Writer, work: _Work, pairs: Pairs, ridges: Sequence[float], dtype: torch.dtype) -> LayerRepair:
    started = time.perf_counter()
    x = Gathered(), Gathered()
    missing: list[Missing] = []
    for original, pruned in pairs:
        new = pruned.call
        assert isinstance(new, LayerCall)
        read = readings(original.batch, new.call, new.x, dtype)
        results = _results(work.part, read[0], original, pruned, dtype)
        parts = [Missing.of(item, *pair) for item, pair in zip(read, results, strict=True)]
        missing = [one + other for one, other in zip(missing, parts, strict=True)] if missing else parts
        for side, item in zip(x, read, strict=True):
            side.add(item)
    sums = x[0].sums(), x[1].sums()
    fit, held_out = (part.with_inputs(of).of_all_ranks() for part, of in zip(missing, sums, strict=True))
    choice = best(fit, held_out, ridges, writer.may_move_bias(work.layer))
    writer.add(choice, work.layer, work.part)
    return row_of(work.layer, choice, fit, held_out, started)


def _results(
    part: Kept, read: Reading, original: _Stop, pruned: _Stop, dtype: torch.dtype
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """What the pruned layer gives and what it should give, of the fitted samples and of those that are held out."""
    batch, old, new = original.batch, original.call, pruned.call
    assert isinstance(old, LayerCall) and isinstance(new, LayerCall)
    if isinstance(read, Images):
        height = original.result.shape[1] // old.call.groups
        channels = (part.blocks[:, None] * height + part.rows).flatten()
        whole = original.result.index_select(1, channels).to(dtype)
        given, wanted = (_split(batch, tensor) for tensor in (pruned.result.to(dtype), whole))
        return list(zip(given, wanted, strict=True))
    most = batch.places(new.call, new.x)
    given = batch.parts(new.call.outputs(pruned.result, most), dtype)
    everything = batch.parts(old.call.outputs(original.result, most), dtype)
    return [(now, _kept_outputs(part, whole)) for now, whole in zip(given, everything, strict=True)]


def _kept_outputs(part: Kept, rows: torch.Tensor) -> torch.Tensor:
    if len(rows) == 1:
        return rows.index_select(2, part.rows[0])
    blocks = rows[part.blocks] if len(part.blocks) != len(rows) else rows
    return blocks.gather(2, part.rows[:, None].expand(-1, blocks.shape[1], -1))


def _statistics(writer: Writer, mean: str, variance: str, pairs: Pairs) -> LayerRepair:
    """Take the mean and the variance of what a batch normalisation reads now, where that helps on held-out samples."""
    started = time.perf_counter()
    channels = writer.kept_indices(mean)
    count, average, spread = _moments_of([_split(new.batch, new.call.x)[0] for _, new in pairs])
    estimated = average.to(writer.after[mean]), spread.to(writer.after[variance])
    sums = count.new_zeros(2, 3)
    judged = 0
    for old, new in pairs:
        assert isinstance(new.call, NormCall)
        wanted = old.result[0].index_select(1, channels)
        misses = new.result[0] - wanted, new.call.normalised(new.call.x, *estimated).sub_(wanted)
        sides = [_split(new.batch, tensor.square_()) for tensor in (*misses, wanted)]
        sums += torch.stack([torch.stack([part.sum() for part in parts]) for parts in sides], 1).to(sums)
        judged += sides[0][1][:, :1].numel()
    together([sums])
    fitted, held_out = ((side[:2] / side[2] if side[2] else side.new_zeros(2)).tolist() for side in sums)
    if better := held_out[1] < held_out[0]:
        writer.replace(mean, estimated[0])
        writer.replace(variance, estimated[1])
    errors = [(before, after if better else before) for before, after in (fitted, held_out)]
    choice, seconds = "statistics" if better else "as it was", time.perf_counter() - started
    return LayerRepair(mean, choice, int(count), judged, 1, errors[0], errors[1], seconds)


def _moments_of(images: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """How many places there are in all, of all ranks, and the mean and the variance of each channel over them."""
    count = images[0].new_zeros((), dtype=torch.float64)
    total, squares = (images[0].new_zeros(images[0].shape[1], dtype=torch.float64) for _ in range(2))
    for image in images:
        if image.numel():
            places = image[:, 0].numel()
            mean, variance = (item.double() for item in _mean_and_variance(image))
            count += places
            total += places * mean
            squares += places * (variance + mean.square())
    together([count, total, squares])
    average = total / count
    return count, average, (squares / count - average.square()).clamp(min=0)


def _mean_and_variance(image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of each channel, over samples and places; on a CPU as a batch normalisation does it, in a quarter of the time."""
    if image.device.type == "cpu" and image.dtype in (torch.float32, torch.float64):
        found: tuple[torch.Tensor, torch.Tensor] = torch.ops.aten.batch_norm_update_stats(image, None, None, 0.0)
        return found
    variance, mean = torch.var_mean(image, (0, *range(2, image.ndim)), correction=0)
    return mean, variance


def _split(batch: Batch, tensor: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    border = batch.border(len(tensor))
    return tensor[:border], tensor[border:]
