"""Refits the layers of a pruned model to what the original layers gave, without labels and without training."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal, TypeAlias

import torch
from torch import nn

from depgraph.execution.execute import checked, execute
from depgraph.execution.repairs import Repair, plan_digest, weights_digest
from depgraph.moments.collecting import Survey, collected, named_tensors, surveyed
from depgraph.moments.samples import Valid, batches_of
from depgraph.moments.sums import Moments
from depgraph.plans.plan import Plan
from depgraph.repair.guard import outputs_missed
from depgraph.repair.independent import loses_inputs, repaired_independently
from depgraph.repair.sequential import repaired_in_order
from depgraph.repair.writing import Writer
from depgraph.running import Forward, run

Mode: TypeAlias = Literal["auto", "sequential", "independent"]

RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""The penalties that are tried, as shares of each input's variance."""


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
    dtype: torch.dtype = torch.float32,
) -> Repair:
    """New values for the weights that a plan leaves, so that each layer gives what it gave before."""
    model = checked(plan, model)
    small = execute(plan, model).eval()
    before, after = named_tensors(model), named_tensors(small)
    with torch.no_grad():
        if isinstance(batches, Moments):
            writer = Writer(plan, before, after, batches.layers)
            rows, left = repaired_independently(writer, batches, ridges)
            return _repair(writer, model, rows=rows, left=left, mode="independent")
        read = batches_of(batches, holdout, rows_per_input, valid)
        survey = surveyed(model, read[0], forward)
        writer = Writer(plan, before, after, survey.layers.values())
        chosen = mode if mode != "auto" else _mode_for(survey)
        if chosen == "independent":
            sums = collected(model, read, survey, lambda layer: loses_inputs(writer, layer), forward, dtype)
            rows, left = repaired_independently(writer, sums, ridges)
        else:
            rows, left = repaired_in_order(writer, (model, small), read, survey, ridges, forward, batch_norm, dtype)
        plain = execute(plan, model).eval()
        missed = outputs_missed(model, [plain, small], read, forward)
    if missed[1] > missed[0]:
        note = (
            f"nothing is repaired: the whole network would miss {missed[1]:.2%} of its outputs on the held-out samples, and misses "
            f"{missed[0]:.2%} by the plan alone; more samples may help"
        )
        return _repair(writer, model, rows=rows, left=left, mode=chosen, outputs=(missed[0], missed[0]), note=note, values={})
    return _repair(writer, model, rows=rows, left=left, mode=chosen, outputs=(missed[0], missed[1]))


def _mode_for(survey: Survey) -> str:
    """Convolutions have many rows for each unknown, and are repaired in order."""
    return "sequential" if any(layer.call.kind == "convolution" for layer in survey.layers.values()) else "independent"


def _repair(writer: Writer, model: nn.Module, **fields: Any) -> Repair:
    fields.setdefault("values", {name: writer.after[name].detach().clone() for name in sorted(writer.changed)})
    fields["layers"] = tuple(fields.pop("rows"))
    return Repair(plan=plan_digest(writer.plan), source=weights_digest(model), **fields)
