"""New values for what a plan leaves, as data: made by `depgraph.refit`, written by `execute`."""

from __future__ import annotations

import ctypes
import hashlib
from collections.abc import Iterator, Mapping
from types import MappingProxyType

import torch
from attrs import evolve, field, frozen
from torch import nn

from depgraph import codec
from depgraph.errors import MismatchError, PlanError
from depgraph.messages import shortened
from depgraph.plans.plan import Plan


@frozen
class LayerRepair:
    """What was done to one layer.

    Errors are sums of squared differences to what the original layer gave, as a share of its variance: 0 is perfect, 1 is as bad
    as a constant.

    Attributes:
        weight: name of the parameter, or of the running mean of a batch normalisation.
        choice: what was taken: ``ridge 0.01``, ``bias``, ``statistics`` or ``as it was``.
        rows: number of rows that it was fitted to.
        held_out_rows: number of rows that it was judged by.
        inputs: number of unknowns of each output.
        fitted: error on the fitted rows, before and after.
        held_out: error on the held-out rows, before and after.
        seconds: how long it took.
        note: what is to be said of it.
    """

    weight: str
    choice: str
    rows: int
    held_out_rows: int
    inputs: int
    fitted: tuple[float, float]
    held_out: tuple[float, float]
    seconds: float = field(default=0.0, eq=False)
    note: str = ""


def _read_only(values: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
    return MappingProxyType(dict(values))


@frozen(eq=False)
class Repair:
    """New values of parameters and buffers of a pruned model. It belongs to one plan and to one model's weights.

    Attributes:
        plan: digest of the plan.
        source: digest of the weights that it was made from.
        values: new values by name, in the shapes that the plan leaves.
        layers: what was done to each layer, in the order of the forward.
        left: weights that were left as the plan cuts them, each with the reason.
        mode: ``sequential`` or ``independent``.
        outputs: what the whole model's outputs miss on the held-out samples: by the plan alone, and repaired.
        note: what is to be said of the whole.
    """

    plan: str
    source: str
    values: Mapping[str, torch.Tensor] = field(converter=_read_only, repr=False)
    layers: tuple[LayerRepair, ...] = ()
    left: Mapping[str, str] = field(factory=dict, converter=lambda left: MappingProxyType(dict(left)))
    mode: str = ""
    outputs: tuple[float, float] = (0.0, 0.0)
    note: str = ""

    def problems(self, plan: Plan, model: nn.Module, sizes: Mapping[str, torch.Tensor]) -> Iterator[str]:
        """What speaks against writing it to this model, pruned by this plan, one sentence each.

        Args:
            plan: the plan that is executed.
            model: the model as it is before the plan.
            sizes: parameters and buffers as they are after the plan, of those that are in `values`.
        """
        if self.plan != plan_digest(plan):
            yield "the repair was made for another plan"
        for name, values in self.values.items():
            if name not in sizes:
                yield f"the model has no parameter or buffer {shortened(repr(name))}, of which the repair has new values"
            elif sizes[name].shape != values.shape:
                yield f"{name!r}: the repair has the shape {tuple(values.shape)}, the plan leaves {tuple(sizes[name].shape)}"
        if self.source != weights_digest(model):
            yield "the repair was made from other weights than the model has"

    def __str__(self) -> str:
        lines = [f"<Repair: {len(self.layers)} layers, {len(self.values)} tensors, {self.mode}>"]
        wide = max((len(layer.weight) for layer in self.layers), default=0)
        for layer in self.layers:
            before, after = layer.held_out
            note = f"; {layer.note}" if layer.note else ""
            lines.append(f"  {layer.weight:{wide}}  {before:8.2%} -> {after:8.2%}  {layer.choice}, {layer.rows:,} rows{note}")
        lines += [f"  {name}: left, {reason}" for name, reason in self.left.items()]
        if any(self.outputs):
            lines.append(f"  outputs: {self.outputs[0]:.2%} -> {self.outputs[1]:.2%}")
        if self.note:
            lines.append(f"  {self.note}")
        return "\n".join(lines)


def plan_digest(plan: Plan) -> str:
    """A digest of what a plan does; what it was made for does not count, as in its equality."""
    return hashlib.sha256(codec.dumps("plan", evolve(plan, targets=(), unread_attributes=())).encode()).hexdigest()


def weights_digest(model: nn.Module) -> str:
    """A digest of all parameters and buffers, by name, shape, type and value."""
    digest = hashlib.sha256()
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        if tensor.is_meta:
            raise PlanError(f"{name!r} is on the meta device: a repair needs a model with weights.")
        plain = tensor.detach().cpu().contiguous()
        digest.update((ctypes.c_char * (plain.numel() * plain.element_size())).from_address(plain.data_ptr()))
    return digest.hexdigest()


def checked_repair(repair: object, plan: Plan, model: nn.Module, sizes: Mapping[str, torch.Tensor]) -> Repair:
    """The repair, if it can be written. Raises `PlanError` for what is none, `MismatchError` with all that does not fit."""
    if not isinstance(repair, Repair):
        raise PlanError(f"expected repair= to be what dg.refit gives, met {type(repair).__name__}. Nothing was changed.")
    problems = list(repair.problems(plan, model, sizes))
    if problems:
        raise MismatchError(
            "the repair does not fit:", problems, "Make it anew with dg.refit(plan, model, batches). Nothing was changed."
        )
    return repair
