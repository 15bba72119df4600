"""New values for what a plan leaves, as data: made by `depgraph.refit`, written by `execute`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import torch
from attrs import evolve, field, frozen
from torch import nn

from depgraph import codec, tensor_files
from depgraph.errors import MismatchError, PlanError
from depgraph.messages import shortened
from depgraph.plans.plan import Plan
from depgraph.read_only import read_only
from depgraph.weights import tensor_digest, weights_digest


@frozen
class LayerRepair:
    """What was done to one layer.

    Errors are sums of squared differences to what the original layer gave, as a share of its variance: 0 is perfect, 1 is
    as bad as a constant.

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

    >>> print(LayerRepair("1.weight", "ridge 0.01", 384, 128, 16, fitted=(0.5, 0.01), held_out=(0.5, 0.02)))
    1.weight: 50.00% -> 2.00% by ridge 0.01, 384 rows
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

    def __str__(self) -> str:
        before, after = self.held_out
        note = f"; {self.note}" if self.note else ""
        return f"{self.weight}: {before:.2%} -> {after:.2%} by {self.choice}, {self.rows:,} rows{note}"


@frozen
class _Header:
    """A repair without its tensors."""

    plan: str
    source: str
    layers: tuple[LayerRepair, ...]
    left: tuple[tuple[str, str], ...]
    mode: str
    outputs: tuple[float, float]
    note: str
    originals: tuple[tuple[str, str], ...]
    added: tuple[str, ...] = field(default=(), metadata=codec.LATE)


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
        outputs: what the whole model's outputs miss on the held-out samples, as a share of their squares: by the plan
            alone, and repaired. Both 0 where moments were given instead of batches.
        note: what is to be said of the whole.
        originals: digest of what the original has in the place of each new value, by name: a checkpoint is compared with it.
        added: names of biases among the values that the original does not have: `execute` adds them to its layers.

    >>> import depgraph as dg
    >>> _ = torch.manual_seed(0)
    >>> model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    >>> _ = model[0].weight.data[2].copy_(model[0].weight.data[1])                # the last two features are one
    >>> _ = model[0].bias.data[2].copy_(model[0].bias.data[1])
    >>> plan = dg.cut(dg.trace(model, torch.zeros(1, 4)), "0.weight", [2], dim=0)
    >>> repair = dg.refit(plan, model, [torch.randn(64, 4)], ridges=[1e-9])
    >>> print(repair)
    <Repair: 2 tensors, 1 layer solved, independent>
      1.weight: 33.32% -> 0.00% by ridge 1e-09, 48 rows
      outputs: 16.38% -> 0.00%
    >>> x, small = torch.randn(5, 4), dg.execute(plan, model, repair=repair)
    >>> torch.allclose(small(x), model(x), atol=1e-5)
    True
    """

    plan: str
    source: str
    values: Mapping[str, torch.Tensor] = field(converter=read_only, repr=False)
    layers: tuple[LayerRepair, ...] = ()
    left: Mapping[str, str] = field(factory=dict, converter=read_only)
    mode: str = ""
    outputs: tuple[float, float] = (0.0, 0.0)
    note: str = ""
    originals: Mapping[str, str] = field(factory=dict, converter=read_only, repr=False)
    added: tuple[str, ...] = ()

    def problems(self, plan: Plan, model: nn.Module, sizes: Mapping[str, torch.Tensor]) -> Iterator[str]:
        """What speaks against writing it to this model, pruned by this plan, one sentence each.

        Args:
            plan: the plan that is executed.
            model: the model as it is before the plan.
            sizes: parameters and buffers as they are after the plan, of those that are in `values`.
        """
        yield from self._misfits(plan, {name: tuple(tensor.shape) for name, tensor in sizes.items()}, "the model")
        for name in self.added:
            owner = name.rpartition(".")[0]
            registry = dict(model.named_modules()).get(owner, model)._parameters
            weight = sizes.get(f"{owner}.weight" if owner else "weight")
            if registry.get("bias", weight) is not None or weight is None or name not in self.values:
                yield f"the model has no layer without a bias {shortened(repr(owner))}, to which the repair adds one"
            elif tuple(self.values[name].shape) != weight.shape[:1]:
                yield f"{name!r}: the repair has the shape {tuple(self.values[name].shape)}, the plan leaves {weight.shape[:1]}"
        if self.source != weights_digest(model):
            yield "the repair was made from other weights than the model has"

    def problems_with_tensors(
        self, plan: Plan, sizes: Mapping[str, tuple[int, ...]], original: Callable[[str], torch.Tensor]
    ) -> Iterator[str]:
        """The same for a checkpoint. Of its weights those are compared in whose place the repair has new values.

        Args:
            plan: the plan by which the checkpoint is pruned.
            sizes: shapes after the plan, by the model's names.
            original: gives a tensor as it is before the plan, by the model's name.
        """
        yield from self._misfits(plan, sizes, "the checkpoint")
        for name in self.added:
            yield f"{name!r}: the repair adds this bias, of which a model that reads the checkpoint knows nothing"
        for name in self.values:
            if name in sizes and self.originals.get(name) != tensor_digest(original(name)):
                yield f"{name!r}: the repair was made from other weights than the checkpoint has"

    def _misfits(self, plan: Plan, sizes: Mapping[str, tuple[int, ...]], where: str) -> Iterator[str]:
        if self.plan != plan_digest(plan):
            yield "the repair was made for another plan"
        for name, values in self.values.items():
            if name in self.added:
                continue
            if name not in sizes:
                yield f"{where} has no parameter or buffer {shortened(repr(name))}, of which the repair has new values"
            elif sizes[name] != tuple(values.shape):
                yield f"{name!r}: the repair has the shape {tuple(values.shape)}, the plan leaves {sizes[name]}"

    def save(self, path: str | Path) -> None:
        """Write it as safetensors with a JSON header; no code is stored. Needs the package safetensors.

        The file is written whole or not at all.
        """
        left, originals = tuple(self.left.items()), tuple(self.originals.items())
        header = _Header(self.plan, self.source, self.layers, left, self.mode, self.outputs, self.note, originals, self.added)
        tensor_files.save(path, "repair", header, self.values)

    @classmethod
    def load(cls, path: str | Path) -> Repair:
        """Read what `save` wrote.

        Raises:
            DocumentError: the file is damaged, edited, foreign or of another version.
        """
        header, values = tensor_files.load(path, "repair", _Header)
        left, originals = dict(header.left), dict(header.originals)
        told = header.layers, left, header.mode, header.outputs, header.note, originals, header.added
        return cls(header.plan, header.source, values, *told)

    def __str__(self) -> str:
        solved = [layer for layer in self.layers if layer.held_out[0] or layer.fitted[0]]
        many = "layer" if len(solved) == 1 else "layers"
        lines = [f"<Repair: {len(self.values)} tensors, {len(solved)} {many} solved, {self.mode}>"]
        lines += [f"  {layer}" for layer in solved]
        lines += [f"  {name}: added" for name in self.added]
        lines += [f"  {name}: left, for {reason}" for name, reason in self.left.items()]
        if any(self.outputs):
            lines.append(f"  outputs: {self.outputs[0]:.2%} -> {self.outputs[1]:.2%}")
        if self.note:
            lines.append(f"  {self.note}")
        return "\n".join(lines)


def plan_digest(plan: Plan) -> str:
    """A digest of what a plan does; what it was made for does not count, as in its equality."""
    return hashlib.sha256(codec.dumps("plan", evolve(plan, targets=(), unread_attributes=(), tied=())).encode()).hexdigest()


def checked_repair(repair: object, problems_of: Callable[[Repair], Iterable[str]]) -> Repair:
    """The repair, if it can be written. Raises `PlanError` for what is none, `MismatchError` with all that does not fit."""
    if not isinstance(repair, Repair):
        raise PlanError(f"expected repair= to be what dg.refit gives, met {type(repair).__name__}. Nothing was changed.")
    problems = list(problems_of(repair))
    if problems:
        raise MismatchError(
            "the repair does not fit:", problems, "Make it anew with dg.refit(plan, model, batches). Nothing was changed."
        )
    return repair
