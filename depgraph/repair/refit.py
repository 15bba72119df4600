"""Refits the layers of a pruned model to what the original layers gave, without labels and without training."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import nn

from depgraph.algebra.numbers import is_number
from depgraph.errors import PlanError
from depgraph.execution.execute import execute
from depgraph.execution.fitting import checked
from depgraph.execution.repairs import LayerRepair, Repair, plan_digest
from depgraph.moments.checking import check_moments
from depgraph.moments.collecting import Survey, collected, surveyed
from depgraph.moments.offloading import offload_problems
from depgraph.moments.samples import Valid, batches_of, option_problems
from depgraph.moments.sums import Moments
from depgraph.plans.plan import Plan
from depgraph.repair.biases import with_zero_biases
from depgraph.repair.guard import outputs_missed
from depgraph.repair.independent import loses_inputs, repaired_independently
from depgraph.repair.names import base_names, tensors_by
from depgraph.repair.sequential import Models, repaired_in_order
from depgraph.repair.writing import Writer
from depgraph.running import Forward, outside_inference_mode, run
from depgraph.weights import named_tensors, tensor_digest, weights_digest

Mode: TypeAlias = Literal["auto", "sequential", "independent"]

RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""The penalties that are tried, as shares of each input's variance."""


@outside_inference_mode
def refit(
    plan: Plan,
    model: nn.Module,
    batches: Iterable[Any] | Moments,
    *,
    mode: Mode = "auto",
    ridges: Sequence[float] = RIDGES,
    holdout: float = 0.25,
    forward: Forward = run,
    valid: Valid | None = None,
    rows_per_input: float = 20,
    batch_norm: bool = True,
    add_bias: bool = False,
    dtype: torch.dtype = torch.float32,
    offload: str | Path | None = None,
    progress: bool = False,
) -> Repair:
    """New values for the weights that a plan leaves, so that each layer gives what it gave before, as far as it can.

    No labels are needed and nothing is trained: each linear layer y = W x + b that is left is solved for by least squares,
    so that from what it reads in the pruned network, x̃, it gives what the original layer gave, restricted to the outputs
    that stay:

        `W' = W_P + C_rx̃ (C_x̃x̃ + λ diag C_x̃x̃)⁻¹,   b' = b + μ_r − (W' − W_P) μ_x̃,   r = y − W_P x̃ − b`

    with W_P the weights that the plan leaves, C second moments (centred where the layer has a bias) and μ means. λ → ∞ is
    the plan alone. The last samples are held out: of no change, the bias alone, and each λ, a layer takes what misses least
    of rows that it was not fitted to. At last the whole network's outputs are compared on the held-out samples; if the plan
    alone misses less, nothing is repaired, and the repair says so. Layers are found by what operators multiply with
    parameters: products and convolutions of any kind, whatever module they are in.

    - ``sequential``: x̃ is what the repaired layers before it give. Both networks run once, side by side, all batches at a
      time. Best where rows are many, as in convolutions. Running statistics of batch normalisations are re-estimated where
      that helps.
    - ``independent``: x̃ is the part of the original's own x that stays, so that `W' = W C_:P C_PP⁻¹` for λ = 0: one forward,
      and none of the pruned network. The choice for deep residual networks with few rows. Layers that lose no input stay as
      they are.

    Where elements leave lists of modules, layers behind them read something else than in the original. A sequential repair fits
    those layers to it, whether they lose inputs or not; an independent one regresses on what they read in the original.
    All names are those of the original: the layers of a repair that are to move up are in it under the names from before.

    Sources: He et al., "Channel Pruning for Accelerating Very Deep Neural Networks" (ICCV 2017) for convolutions, CORP (arXiv
    2602.05243) and GRAIL (2602.23795) for transformers, FLAP (2312.11983) for the bias alone. Solving again for what stays, and
    the update of the optimal brain surgeon (Hassibi 1993; ZipLM 2302.04089; SlimGPT 2412.18110), are the same minimum.

    Args:
        plan: what is removed.
        model: the model that it was made for. It stays as it was.
        batches: an iterable of batches, such as a list or a loader, as many as fit in memory; or `Moments` of the model, of
            which the independent repair is made without running anything, and without the comparison of outputs.
        mode: ``sequential``, ``independent``, or ``auto``: sequential where the model has convolutions. Where rows are many
            for each input, sequential is the better choice for other models, too.
        ridges: the λ that are tried, as shares of each input's own variance.
        holdout: the share of the samples, the last ones, to judge by.
        forward: from (model, batch) to anything, of which the tensors are compared; by default the model is called with the
            batch as `trace` does it: arguments from a tuple or list, keywords from a mapping of names of its parameters.
        valid: from a batch to a mask of its places that count, such as ``lambda batch: batch["attention_mask"]``.
        rows_per_input: a convolution reads so many rows for each of its inputs, spread evenly over the places of all
            samples, or all that there are; or all, where overlapping patches make that less work.
        batch_norm: whether running statistics are re-estimated (sequential only).
        add_bias: whether linear layers and convolutions that lose inputs and have no bias get one: `Repair.added`. `execute`
            registers it as ``bias`` of the layer's module, which a model that is built anew does not have: a state dict
            of the result loads into a copy of it, and not into one that the plan alone has made.
        dtype: in which rows are multiplied: ``torch.float32`` or ``torch.float64``.
        offload: a folder for the sums of the independent mode, so that memory needs room for those of one layer at a time; a
            sequential repair holds no more anyway. What is written is deleted in the end. Needs the package safetensors.
        progress: show a progress bar; needs the package tqdm.

    Returns:
        The new values, to be given to `execute` or `execute_`, with what was done to each layer: ``print(repair)``.

    Raises:
        PlanError: an argument is none of these, there are fewer than two samples, or the model is on the `meta` device.
        MismatchError: the plan, or the moments, do not belong to this model.
        UnsupportedError: the model is sharded, offloaded or quantised.

    >>> import depgraph as dg
    >>> _ = torch.manual_seed(0)
    >>> model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))
    >>> x, new = torch.randn(256, 8), torch.randn(64, 8)
    >>> graph = dg.trace(model, x)
    >>> plan = dg.plan(graph, dg.score(graph, model, dg.Magnitude(p=2)), ratio=0.5)
    >>> repair = dg.refit(plan, model, [x])
    >>> for small in dg.execute(plan, model), dg.execute(plan, model, repair=repair):
    ...     with torch.no_grad():
    ...         print(f"{float((small(new) - model(new)).var() / model(new).var()):.3f}")
    0.309
    0.056
    """
    moments_given = isinstance(batches, Moments)
    problems = [*_problems(mode, ridges, moments_given, add_bias, offload), *offload_problems(offload, must_be_new=False)]
    problems += option_problems(
        () if moments_given else batches, holdout, rows_per_input, forward, valid, dtype, may_hold_none=False
    )
    if problems:
        raise PlanError.of(problems)
    model = checked(plan, model)
    source, digest = weights_digest(model), plan_digest(plan)
    added: tuple[str, ...] = ()
    if add_bias:
        plan, model, added = with_zero_biases(plan, model)
    small = execute(plan, model).eval()
    names = base_names(plan, model)
    tensors = named_tensors(model), tensors_by(names, small)
    with torch.no_grad():
        if isinstance(batches, Moments):
            check_moments(batches, source, tensors[0])
            writer = Writer(plan, *tensors, batches.layers, batches.left)
            rows, left = repaired_independently(writer, lambda: batches, ridges, progress)
            return _repair(writer, (digest, source), rows, _without_layer(writer, batches.left) | left, "independent")
        read = batches_of(batches, holdout, rows_per_input, valid)
        survey = surveyed(model, read[0], forward)
        writer = Writer(plan, *tensors, survey.layers.values(), survey.left)
        chosen = _mode_for(survey) if mode == "auto" else mode
        if chosen == "independent":
            wanted = cache(partial(loses_inputs, writer))
            with _folder(offload) as folder:
                moments = partial(collected, model, source, read, survey, wanted, forward, dtype, progress, folder)
                rows, left = repaired_independently(writer, moments, ridges, progress)
        else:
            models = Models(model, small, names)
            rows, left = repaired_in_order(writer, models, read, survey, ridges, forward, batch_norm, dtype, progress)
        missed, now = outputs_missed(model, [execute(plan, model).eval(), small], read, forward)
    return _repair(writer, (digest, source), rows, _without_layer(writer, survey.left) | left, chosen, (missed, now), added)


def _repair(
    writer: Writer,
    digests: tuple[str, str],
    rows: Sequence[LayerRepair],
    left: Mapping[str, str],
    mode: str,
    outputs: tuple[float, float] = (0.0, 0.0),
    added: Sequence[str] = (),
) -> Repair:
    """The repair, given two digests, or one that changes nothing where the outputs miss more than by the plan alone."""
    (missed, now), values, note = outputs, writer.values(), ""
    if not now <= missed:
        note = (
            f"nothing is repaired: the outputs would miss {now:.2%} on the held-out samples, and miss {missed:.2%} by the "
            "plan alone. More samples may help, or mode='independent'."
        )
        values, now = {}, missed
    new = tuple(name for name in added if name in values)
    originals = {name: tensor_digest(writer.before[name]) for name in values if name not in new}
    return Repair(*digests, values, tuple(rows), left, mode, (missed, now), note, originals, new)


@contextmanager
def _folder(offload: str | Path | None) -> Iterator[Path | None]:
    """A folder of this call's own in the given one, and nothing of it afterwards."""
    if offload is None:
        yield None
        return
    Path(offload).mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=offload, prefix="moments-") as folder:
        yield Path(folder)


def _problems(mode: object, ridges: object, moments_given: bool, add_bias: bool, offload: object) -> Iterator[str]:
    """What is wrong with the options of the repair itself, one sentence each."""
    if mode not in get_args(Mode):
        yield f"expected mode= to be one of {get_args(Mode)}, met {mode!r}."
    elif moments_given and mode == "sequential":
        yield "moments make an independent repair: leave out mode='sequential', or pass batches."
    if moments_given and add_bias:
        yield "moments know the layers as they are, without new biases: leave out add_bias=True, or pass batches."
    if moments_given and offload is not None:
        yield "moments are where they were collected to: leave out offload=, and pass it to dg.moments.collect."
    numbers = list(ridges) if isinstance(ridges, (list, tuple)) else []
    if not numbers or not all(is_number(ridge) and ridge >= 0 for ridge in numbers):
        yield f"expected ridges= as a list of numbers from 0 up, met {ridges!r}."


def _without_layer(writer: Writer, reasons: Mapping[str, str]) -> dict[str, str]:
    """The matrices among what the plan cuts that no layer multiplies with, such as recurrent weights and embeddings."""
    cut = [name for name in writer.plan.kept if name in reasons and name in writer.after]
    return {name: reasons[name] for name in cut if writer.before[name].ndim > 1}


def _mode_for(survey: Survey) -> str:
    """Convolutions have many rows for each unknown, and are repaired in order."""
    return "sequential" if any(layer.call.kind == "convolution" for layer in survey.layers.values()) else "independent"
