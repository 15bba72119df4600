"""The pruned model's values while they are made, and what is told of each layer."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Container, Iterable, Mapping

import torch

from depgraph.execution.repairs import LayerRepair
from depgraph.execution.slicing import positions_of
from depgraph.moments.layers import Layer, Layout
from depgraph.plans.plan import Plan
from depgraph.repair.kept import Kept
from depgraph.repair.ridge import NOTHING, Change, Residual


class Writer:
    """The values of a pruned model's tensors, to which changes are added.

    Attributes:
        plan: the plan.
        before: the original's tensors, by name.
        after: the pruned model's tensors, by their names in the original; changed in place. Those of elements that leave lists
            are not among them.
        changed: the names of those that were.
    """

    def __init__(
        self,
        plan: Plan,
        before: Mapping[str, torch.Tensor],
        after: Mapping[str, torch.Tensor],
        layers: Iterable[Layer],
        fixed: Container[str],
    ) -> None:
        self.plan, self.before, self.after = plan, before, after
        self.changed: set[str] = set()
        self._fixed = fixed
        self._users = Counter(layer.bias for layer in layers)

    def may_move_bias(self, layer: Layer) -> bool:
        """Whether a layer has a bias of its own: none may change what another layer adds."""
        return layer.bias is not None and self._users[layer.bias] == 1 and layer.bias.name not in self._fixed

    def kept_indices(self, name: str) -> torch.Tensor:
        """The original indices that stay of a vector."""
        tensor = self.before[name]
        indices = self.plan.kept.get(name, {}).get(0)
        return torch.arange(len(tensor), device=tensor.device) if indices is None else positions_of(indices).to(tensor.device)

    def add(self, change: Change, layer: Layer, part: Kept) -> None:
        """Add a change to a layer's weight and bias."""
        if change.weight is not None:
            places = part.blocks[:, None, None], part.rows[..., None], part.columns[:, None]
            self._add(layer.weight, places, change.weight)
        if change.bias is not None and layer.bias is not None:
            self._add(layer.bias, (part.blocks[:, None], part.rows), change.bias)

    def _add(self, layout: Layout, places: tuple[torch.Tensor, ...], values: torch.Tensor) -> None:
        """Add values at places of the original's matrices."""
        before, after = self.before[layout.name], self.after[layout.name].detach()
        matrices = values.new_zeros(layout.shape[: values.ndim])
        matrices[places] = values
        change = values.new_zeros(before.numel())
        layout.write(change, matrices)
        change = change.view(before.shape)
        for dim, indices in self.plan.kept.get(layout.name, {}).items():
            change = change.index_select(dim, positions_of(indices).to(change.device))
        self.replace(layout.name, (after + change).to(after))

    def replace(self, name: str, values: torch.Tensor) -> None:
        """Give a tensor other values, in place."""
        self.after[name].detach().copy_(values)
        self.changed.add(name)

    def values(self) -> dict[str, torch.Tensor]:
        """Copies of what changed, by name."""
        return {name: self.after[name].detach().clone() for name in sorted(self.changed)}


def row_of(layer: Layer, choice: Change, fit: Residual, held_out: Residual, started: float) -> LayerRepair:
    """What is told of a layer."""
    inputs = fit.x.shape[-1]
    notes = [choice.note] if choice.note else []
    if fit.count < 2 * inputs:
        notes.append(f"{fit.count:,} rows for {inputs:,} inputs are few; {4 * inputs:,} would be better")
    return LayerRepair(
        weight=layer.weight.name,
        choice=choice.name,
        rows=fit.count,
        held_out_rows=held_out.count,
        inputs=inputs,
        fitted=(fit.error(NOTHING), fit.error(choice)),
        held_out=(held_out.error(NOTHING), held_out.error(choice) if math.isnan(choice.missed) else choice.missed),
        seconds=time.perf_counter() - started,
        note="; ".join(notes),
    )
