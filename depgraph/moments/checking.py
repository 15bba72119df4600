"""Refuses moments that are not those of a model."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from depgraph.errors import MismatchError, PlanError
from depgraph.messages import shortened
from depgraph.moments.sums import Moments


def check_moments(moments: object, source: str, tensors: Mapping[str, torch.Tensor]) -> None:
    """Refuse moments of other weights, such as a damaged file may hold, and what is none."""
    if not isinstance(moments, Moments):
        raise PlanError(f"expected what dg.moments.collect gives, met {type(moments).__name__}.")
    problems = [] if moments.source == source else ["they were collected from other weights than the model has"]
    for layer in moments.layers:
        for layout in (layer.weight, layer.bias):
            if layout is not None:
                tensor = tensors.get(layout.name)
                if tensor is None or not layout.fits(tensor.numel()):
                    problems.append(
                        f"the model has no parameter {shortened(repr(layout.name))} with the layout that they tell of"
                    )
        blocks, _, inputs = layer.weight.shape
        for sums in (moments.fitted.get(layer.reads), moments.held_out.get(layer.reads)):
            if sums is not None and sums.products.shape != (blocks, inputs, inputs):
                problems.append(f"the sums of {shortened(repr(layer.reads))} have another shape than its layer's inputs")
    if problems:
        raise MismatchError("the moments do not fit this model:", problems, "Collect them anew with dg.moments.collect.")
