"""What the repaired layers of a plan will miss, from moments alone: no forward, of neither model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from attrs import field, frozen
from torch import nn

from depgraph.execution.fitting import checked
from depgraph.execution.repairs import LayerRepair
from depgraph.moments.checking import check_moments
from depgraph.moments.layers import Layer
from depgraph.moments.sums import Moments
from depgraph.plans.plan import Plan
from depgraph.read_only import read_only
from depgraph.repair.independent import repaired_independently
from depgraph.repair.kept import Kept
from depgraph.repair.names import base_names
from depgraph.repair.refit import RIDGES
from depgraph.repair.ridge import Change
from depgraph.repair.writing import Writer
from depgraph.weights import named_tensors, weights_digest


@frozen
class ReconstructionError:
    """What the layers of a plan miss of what they gave, each reading what it read in the original.

    Attributes:
        layers: the layers that lose inputs, in the order of the forward, with their errors before and after the repair.
        left: weights that a repair leaves as the plan cuts them, each with the reason; they are not in the totals.
    """

    layers: tuple[LayerRepair, ...]
    left: Mapping[str, str] = field(converter=read_only)

    @property
    def total(self) -> float:
        """What all repaired layers miss on held-out rows: the sum of their shares. Layers that lose no input miss nothing."""
        return sum(layer.held_out[1] for layer in self.layers)

    @property
    def unrepaired(self) -> float:
        """The same of the plan alone."""
        return sum(layer.held_out[0] for layer in self.layers)

    def __getitem__(self, weight: str) -> float:
        """What the repaired layer of a weight misses, as a share of the variance of what it gave; 0 if it loses no input."""
        return sum(layer.held_out[1] for layer in self.layers if layer.weight == weight)


class _Unwritten(Writer):
    """A writer that only says what might be written."""

    def add(self, change: Change, layer: Layer, part: Kept) -> None:
        """Nothing."""


def reconstruction_error(
    plan: Plan, moments: Moments, model: nn.Module, *, ridges: Sequence[float] = RIDGES, progress: bool = False
) -> ReconstructionError:
    """What the layers of a plan will miss after `dg.refit(plan, model, moments)`, without running either model.

    With C the second moments of what a layer reads, P the inputs that stay and R those that go, the least error of any weights
    is tr(W_R (C_RR - C_RP C_PP⁻¹ C_PR) W_Rᵀ) (LeCun et al. 1989, Hassibi and Stork 1993; ZipLM, arXiv 2302.04089). Here it is
    that of the weights that the repair takes, on rows that they were not fitted to. What the layers before have changed is not
    seen: each reads what it read in the original. It compares choices of
    what goes at the same widths, and tells which layer loses most; what the whole network loses it does not tell, and between
    plans of other widths the totals may mislead, for a layer that matters little may miss much.

    Args:
        plan: a plan for the model.
        moments: the moments of the model, with held-out samples.
        model: its weights are read, never written.
        ridges: as for `refit`.
        progress: show a progress bar over the layers; needs the package tqdm.

    Raises:
        MismatchError: the plan or the moments are not this model's.

    >>> import depgraph as dg
    >>> model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))
    >>> _ = model[0].weight.data.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]))   # the third: a sum
    >>> graph, known = dg.trace(model, torch.zeros(1, 2)), dg.moments.collect(model, [torch.randn(400, 2)])
    >>> found = reconstruction_error(dg.cut(graph, "0.weight", [2], dim=0), known, model)
    >>> found.unrepaired > 0.01, found.total < 1e-4
    (True, True)
    """
    model = checked(plan, model)
    tensors = named_tensors(model)
    check_moments(moments, weights_digest(model), tensors)
    with torch.no_grad():
        stay = {name: tensors[name] for name in base_names(plan, model).values()}
        writer = _Unwritten(plan, tensors, stay, moments.layers, moments.left)
        rows, left = repaired_independently(writer, lambda: moments, ridges, progress)
    return ReconstructionError(tuple(rows), left)
