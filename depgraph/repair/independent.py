"""Repair of each layer by itself, from the moments of what the original layers read."""

from __future__ import annotations

import time
from collections.abc import Sequence

from depgraph.execution.repairs import LayerRepair
from depgraph.moments.layers import Layer
from depgraph.moments.sums import Moments, Sums
from depgraph.repair.kept import Kept, kept
from depgraph.repair.ridge import best, residual_of
from depgraph.repair.writing import Writer, row_of
from depgraph.running import shown


def loses_inputs(writer: Writer, layer: Layer) -> bool:
    """Whether the plan takes inputs from a layer, as far as it can be solved for."""
    name = layer.weight.name
    part = kept(writer.plan, layer.weight, writer.before[name]) if name in writer.plan.kept else None
    return part is not None and part.cut


def repaired_independently(
    writer: Writer, moments: Moments, ridges: Sequence[float], progress: bool
) -> tuple[list[LayerRepair], dict[str, str]]:
    """Solve for each layer that loses inputs: what was done, and what was left with the reason."""
    rows, left = [], {}
    for layer in shown(moments.layers, "refit", "layer", progress):
        started, name = time.perf_counter(), layer.weight.name
        if name not in writer.plan.kept:
            continue
        part = kept(writer.plan, layer.weight, writer.before[name])
        if part is not None and not part.cut:
            continue
        reason = moments.left.get(name)
        if reason is None and (layer.reads not in moments.fitted or layer.reads not in moments.held_out):
            reason = "no sample reached it, or none of those that are held out"
        if part is None or reason is not None:
            left[name] = reason or "what is left of it is no rectangle in each block"
            continue
        weight = part.all_columns(writer.before[name].detach().flatten(), layer.weight)
        fit, held_out = (
            residual_of(_of_blocks(sums[layer.reads], part), weight, part.columns)
            for sums in (moments.fitted, moments.held_out)
        )
        choice = best(fit, held_out, ridges, writer.may_move_bias(layer))
        writer.add(choice, layer, part)
        rows.append(row_of(layer, choice, fit, held_out, started))
    return rows, left


def _of_blocks(sums: Sums, part: Kept) -> Sums:
    if len(part.blocks) == len(sums.total):
        return sums
    return Sums(sums.count, sums.total[part.blocks], sums.products[part.blocks])
