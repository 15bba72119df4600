"""A plan as a soft mask: what it would remove is zeroed, and every shape stays. Like execution it obeys plans alone.

Zeroed are the removed indices of every parameter axis that the plan reaches: weights and biases that make a channel, the
scale and shift of its normalisation, and the slices that read it. So the masked model computes what the pruned one computes,
up to the order in which floating-point numbers are summed, wherever nothing is averaged or normalised over the cut axis and
no factor is taken from its size. Where something is (LayerNorm and GroupNorm over the channels, the width of attention heads,
a mean or a softmax over the axis) the two differ by nature; `depgraph.testing.normalised_atoms` lists these groups.

Buffers stay as they are: they measure, and a variance of zero is no neutral value. Attributes stay, and so do gradients.
"""

from __future__ import annotations

from types import TracebackType

import torch
from torch import nn
from torch.nn.utils.parametrizations import _WeightNorm
from torch.nn.utils.weight_norm import WeightNorm

from depgraph.errors import MismatchError, PlanError
from depgraph.execution.copying import copied
from depgraph.execution.fitting import checked, fitting
from depgraph.execution.slicing import like
from depgraph.plans.plan import Plan
from depgraph.running import outside_inference_mode

Positions = dict[int, torch.Tensor]
"""The indices to zero, by dimension."""


@outside_inference_mode
def mask(plan: Plan, model: nn.Module) -> nn.Module:
    """A new module of the same shapes with zeros where `execute` would remove. The given one is untouched.

    Executing the plan on it gives what executing it on the original gives, bit for bit.

    Raises:
        PlanError: the arguments are no plan and no module, or the plan drops elements of lists.
        MismatchError: the model's shapes or attributes are not those that the plan expects; every mismatch is listed.

    >>> import depgraph as dg
    >>> model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    >>> x = torch.randn(5, 3)
    >>> plan = dg.cut(dg.trace(model, x), "0.weight", [1], dim=0)
    >>> masked = dg.mask(plan, model)
    >>> masked[0].weight[1].tolist(), masked[2].weight[:, 1].tolist()
    ([0.0, 0.0, 0.0], [0.0, 0.0])
    >>> torch.allclose(masked(x), dg.execute(plan, model)(x), atol=1e-6)
    True
    """
    model = checked(plan, model)
    masked: dict[int, torch.Tensor] = {}
    for parameter, positions in _zeroed(plan, model):
        values = parameter.detach().clone()
        for dim, index in positions.items():
            _as_real(values).index_fill_(dim, index.to(values.device), 0)
        masked[id(parameter)] = like(parameter, values, lambda gradient: gradient.clone())
    return copied(model, masked)


def mask_(plan: Plan, model: nn.Module) -> Masked:
    """Zero in place what `execute_` would remove, all or nothing; parameters stay the same objects.

    Returns:
        What can put the zeroed numbers back, bit for bit: by `restore()`, or at the end of a ``with`` block.

    Raises:
        PlanError: the arguments are no plan and no module, or the plan drops elements of lists.
        MismatchError: the model's shapes or attributes are not those that the plan expects; nothing was changed.

    >>> import depgraph as dg
    >>> model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    >>> plan = dg.cut(dg.trace(model, torch.randn(5, 3)), "0.weight", [1], dim=0)
    >>> before = model[0].bias.tolist()
    >>> with dg.mask_(plan, model):
    ...     print(model[0].bias[1].item())
    0.0
    >>> model[0].bias.tolist() == before
    True
    """
    model = checked(plan, model)
    zeroed = _zeroed(plan, model)
    masked = Masked(model, {name: id(tensor) for name, tensor in fitting(plan, model).items()})
    try:
        for parameter, positions in zeroed:
            masked._zero(parameter, positions)
        return masked
    except BaseException as error:
        masked._undo(error)
        raise


class Masked:
    """What `mask_` zeroed, and how to put it back.

    `restore` writes the numbers that were zeroed, where they were not zero before, and nothing else. So masks that overlap
    may be restored in any order, and what was trained under the mask stays.
    """

    def __init__(self, model: nn.Module, names: dict[str, int]) -> None:
        self._model, self._names = model, names
        self._saved: list[tuple[torch.Tensor, int, torch.Tensor, torch.Tensor]] = []

    def restore(self) -> None:
        """Put the zeroed numbers back; a second call does nothing.

        Raises:
            MismatchError: the model holds other parameters by now, as after `execute_`; nothing was changed.
        """
        if not self._saved:
            return
        tensors: dict[str, torch.Tensor] = dict(self._model.named_parameters(remove_duplicate=False))
        tensors.update(self._model.named_buffers(remove_duplicate=False))
        problems = [
            f"{name!r} is another tensor, or of another shape, than when it was masked"
            for name, number in self._names.items()
            if name not in tensors or id(tensors[name]) != number
        ]
        if problems:
            raise MismatchError(
                "the mask cannot be taken off this model:", problems, "Restore the model before it is executed or replaced."
            )
        self._put_back()

    @torch.no_grad()
    def _zero(self, parameter: nn.Parameter, positions: Positions) -> None:
        """Note numbers, then zero them."""
        for dim, index in positions.items():
            values, place = _as_real(parameter), index.to(parameter.device)
            saved = values.index_select(dim, place)
            self._saved.append((parameter, dim, index, saved))
            values.index_copy_(dim, place, torch.zeros_like(saved))  # unlike index_fill_, refuses expanded tensors

    @torch.no_grad()
    def _put_back(self) -> None:
        for parameter, dim, index, saved in reversed(self._saved):
            values = _as_real(parameter)
            place, old = index.to(values.device), saved.to(values.device, values.dtype)
            nonzero = (old != 0) | torch.signbit(old)
            values.index_copy_(dim, place, torch.where(nonzero, old, values.index_select(dim, place)))
        self._saved.clear()

    @torch.no_grad()
    def _undo(self, error: BaseException) -> None:
        """Put every number back, bit for bit. What that raises becomes a note of the error that made it necessary.

        Where the numbers are what they were nothing is written: the write that failed may be one that PyTorch refuses.
        """
        for parameter, dim, index, saved in reversed(self._saved):
            try:
                values = _as_real(parameter)
                place = index.to(values.device)
                if not values.is_meta and not torch.equal(_bits(values.index_select(dim, place)), _bits(saved)):
                    values.index_copy_(dim, place, saved)
            except Exception as failure:  # noqa: BLE001  the steps after it must run
                error.add_note(f"depgraph could not put back a parameter of shape {tuple(parameter.shape)}: {failure!r}")
        self._saved.clear()

    def __enter__(self) -> Masked:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.restore()


def _zeroed(plan: Plan, model: nn.Module) -> list[tuple[nn.Parameter, Positions]]:
    """Each parameter that the plan reaches, once, with the indices to zero."""
    if plan.drops:
        paths = ", ".join(repr(drop.sequence.path) for drop in plan.drops)
        raise PlanError.of(
            [f"a mask zeroes indices, and takes no elements out of lists, met a plan that drops some of {paths}."]
        )
    tensors, scaled = fitting(plan, model), _directions(model)
    zeroed: dict[int, tuple[nn.Parameter, Positions]] = {}
    for name, dims in plan.kept.items():
        tensor = tensors[name]
        if isinstance(tensor, nn.Parameter) and id(tensor) not in zeroed:
            removed = {dim: kept.complement(plan.sizes[name][dim]) for dim, kept in dims.items()}
            positions = {dim: torch.tensor(list(indices)) for dim, indices in removed.items() if (name, dim) not in scaled}
            zeroed[id(tensor)] = (tensor, positions)
    return list(zeroed.values())


def _directions(model: nn.Module) -> frozenset[tuple[str, int]]:
    """Dimensions of weight-normalised directions that a gain scales. A zero gain is enough; zero has no direction."""
    directions: set[tuple[str, int]] = set()
    for path, module in model.named_modules():
        prefix = f"{path}." if path else ""
        pairs = [
            (f"{hook.name}_v", getattr(module, f"{hook.name}_g"))
            for hook in module._forward_pre_hooks.values()
            if isinstance(hook, WeightNorm)
        ]
        parametrizations = getattr(module, "parametrizations", None)
        if isinstance(parametrizations, nn.ModuleDict):
            for name, steps in parametrizations.items():
                if isinstance(steps, nn.ModuleList) and any(isinstance(step, _WeightNorm) for step in steps):
                    pairs.append((f"parametrizations.{name}.original1", steps.original0))
        for name, gain in pairs:
            directions |= {(prefix + name, dim) for dim, size in enumerate(gain.shape) if size > 1}
    return frozenset(directions)


def _as_real(tensor: torch.Tensor) -> torch.Tensor:
    """A complex tensor as pairs of real numbers: leading dimensions are the same, and signs can be told."""
    return torch.view_as_real(tensor.detach()) if tensor.is_complex() else tensor.detach()


def _bits(values: torch.Tensor) -> torch.Tensor:
    return values.contiguous().view(torch.uint8)
