"""Repair of each layer by itself, from the moments of what the original layers read."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from depgraph.execution.repairs import LayerRepair
from depgraph.moments.layers import Layer
from depgraph.moments.sums import Moments, Sums, SumsInFiles
from depgraph.progress import shown
from depgraph.repair.kept import Kept, kept
from depgraph.repair.ridge import best, residual_of
from depgraph.repair.writing import Writer, row_of

Store: TypeAlias = dict[str, Sums] | SumsInFiles
"""Sums by name: those in memory may be let go."""


def loses_inputs(writer: Writer, layer: Layer) -> bool:
    """Whether the plan takes inputs from a layer, as far as it can be solved for."""
    name = layer.weight.name
    is_cut = name in writer.plan.kept and name in writer.after
    part = kept(writer.plan, layer.weight, writer.before[name]) if is_cut else None
    return part is not None and part.cut


def repaired_independently(
    writer: Writer, moments: Callable[[], Moments], ridges: Sequence[float], progress: bool
) -> tuple[list[LayerRepair], dict[str, str]]:
    """Solve for each layer that loses inputs: what was done, and what was left with the reason.

    Sums that nobody else holds are let go as soon as the last layer that reads them is solved.
    """
    known = moments()
    layers, reasons = known.layers, known.left
    stores = [sums if isinstance(sums, SumsInFiles) else dict(sums) for sums in (known.fitted, known.held_out)]
    del known
    rows: list[LayerRepair] = []
    work, left = _work(writer, layers, reasons, stores)
    readers = Counter(layer.reads for layer, _ in work)
    for layer, part in shown(work, "refit", "layer", progress):
        readers[layer.reads] -= 1
        rows.append(_solved(writer, layer, part, stores, not readers[layer.reads], ridges))
    return rows, left


def _work(
    writer: Writer, layers: Sequence[Layer], reasons: Mapping[str, str], stores: Sequence[Store]
) -> tuple[list[tuple[Layer, Kept]], dict[str, str]]:
    """The layers to solve for, and those that are left with the reason."""
    work, left = [], {}
    for layer in layers:
        name = layer.weight.name
        if name not in writer.plan.kept or name not in writer.after:
            continue
        part = kept(writer.plan, layer.weight, writer.before[name])
        if part is not None and not part.cut:
            continue
        reason = reasons.get(name)
        if reason is None and not all(layer.reads in sums for sums in stores):
            reason = "no sample reached it, or none of those that are held out"
        if part is None or reason is not None:
            left[name] = reason or "what is left of it is no rectangle in each block"
        else:
            work.append((layer, part))
    return work, left


def _solved(
    writer: Writer, layer: Layer, part: Kept, stores: Sequence[Store], is_last: bool, ridges: Sequence[float]
) -> LayerRepair:
    started = time.perf_counter()
    weight = part.all_columns(writer.before[layer.weight.name].detach().flatten(), layer.weight)
    residuals = []
    for sums in stores:
        found = sums[layer.reads].to(weight.device)
        if is_last and isinstance(sums, dict):
            del sums[layer.reads]
        residuals.append(residual_of(_of_blocks(found, part), weight, part.columns))
        del found
    del weight
    fit, held_out = residuals
    choice = best(fit, held_out, ridges, writer.may_move_bias(layer))
    row = row_of(layer, choice, fit, held_out, started)
    del fit, held_out, residuals  # a wide layer's take gigabytes
    writer.add(choice, layer, part)
    return row


def _of_blocks(sums: Sums, part: Kept) -> Sums:
    if len(part.blocks) == len(sums.total):
        return sums
    return Sums(sums.count, sums.total[part.blocks], sums.products[part.blocks])
