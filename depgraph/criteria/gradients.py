"""Criteria that estimate how much the loss changes, from its gradients."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from attrs import field, frozen
from torch import nn

from depgraph.criteria.checks import is_flag, is_function, is_iterable
from depgraph.criteria.collecting import DataDriven, Loss, counted, losses, refuse_meta
from depgraph.criteria.gathering import Members, Tensors
from depgraph.criteria.layers import layers_of
from depgraph.criteria.reductions import Importances, Normaliser, known_normaliser
from depgraph.criteria.sums import marginals
from depgraph.errors import PlanError
from depgraph.graph.graph import Graph
from depgraph.running import untouched


@frozen
class _OnLoss(DataDriven):
    batches: Iterable[Any] = field(validator=is_iterable, repr=False, eq=False)
    loss: Loss = field(validator=is_function, repr=False)
    normaliser: Normaliser = field(default="none", validator=known_normaliser, kw_only=True)

    def chosen(self, graph: Graph) -> Members:
        """The members whose parameters are to be differentiated."""
        return self.members(graph)

    def gathered(self, graph: Graph, model: nn.Module, tensors: Tensors) -> tuple[Members, dict[str, torch.Tensor]]:
        """What takes part, and for each parameter in it the mean over the samples of the gradient or of its square."""
        members = self.chosen(graph)
        parameters = {name: tensors[name] for axes in members.values() for name, _ in axes}
        refuse_meta(parameters)
        integral = [name for name, tensor in parameters.items() if not (tensor.is_floating_point() or tensor.is_complex())]
        if integral:
            names = ", ".join(map(repr, integral))
            raise PlanError(
                f"whole numbers have no gradient, but a group holds those of {names}; choose other layers with types=."
            )
        sums = {name: torch.zeros_like(tensor, dtype=_accumulating(tensor)) for name, tensor in parameters.items()}
        count = torch.zeros((), dtype=torch.float32, device=next((t.device for t in parameters.values()), None))
        with untouched(model, self.training, parameters.values()), torch.enable_grad():
            for number, batch in enumerate(self.read(self.batches)):
                count += self.accumulate(sums, parameters, losses(self.loss, model, batch, number))
        self.together([*sums.values(), count])
        total = counted(float(count))
        return members, {name: values.div_(total) for name, values in sums.items()}

    def accumulate(
        self, sums: Mapping[str, torch.Tensor], parameters: Mapping[str, torch.Tensor], batch_losses: torch.Tensor
    ) -> int:
        """Add what the losses of one batch give; returns the number of samples."""
        raise NotImplementedError


def _accumulating(tensor: torch.Tensor) -> torch.dtype:
    """Single precision for half precision, else the tensor's own."""
    narrow = {torch.complex32: torch.complex64} if tensor.is_complex() else {}
    return narrow.get(tensor.dtype, tensor.dtype) if tensor.is_complex() or tensor.element_size() >= 4 else torch.float32


def _gradients(
    loss: torch.Tensor, parameters: Mapping[str, torch.Tensor], again: bool = False
) -> list[tuple[str, torch.Tensor]]:
    """The gradients of a loss in the parameters that it depends on."""
    values = torch.autograd.grad(loss, list(parameters.values()), retain_graph=again, allow_unused=True)
    gradients = [(name, value.detach()) for name, value in zip(parameters, values, strict=True) if value is not None]
    if not gradients:
        raise PlanError("the loss does not depend on any parameter of a group; compute it from this model's output.")
    return gradients


@frozen
class Taylor(_OnLoss):
    """First-order Taylor expansion of the loss: a member's importance of index i is the sum of abs(w * g).

    w are the weights that i owns in the member, g = dL/dw, averaged over the batches; with ``multivariable=True`` it is
    abs(sum(w * g)), the expansion along the whole vector, in which opposite changes cancel. Molchanov et al., "Importance
    Estimation for Neural Network Pruning" (CVPR 2019). The unit is that of the loss, so groups compare with
    ``normaliser="none"``, too; but wide late layers have the smallest numbers, and where groups compete, quality is better with
    each group divided by its mean (docs/quality.md).

    Attributes:
        batches: an iterable of batches, such as a DataLoader.
        loss: from (model, batch) to a scalar, or to one loss per sample, which are averaged.
        multivariable: the absolute value of the sum instead of the sum of the absolute values.

    >>> import depgraph as dg
    >>> model = torch.nn.Sequential(torch.nn.Linear(1, 2, bias=False), torch.nn.Linear(2, 1, bias=False))
    >>> _ = model[0].weight.data.copy_(torch.tensor([[1.0], [3.0]])), model[1].weight.data.copy_(torch.tensor([[2.0, -1.0]]))
    >>> graph = dg.trace(model, torch.randn(1, 1))
    >>> output = dg.criteria.Taylor([torch.ones(1, 1)], lambda model, batch: model(batch).sum(), normaliser="none")
    >>> dg.score(graph, model, output)                    # |1 * 2|, |3 * -1|, on both sides
    {'0.weight:0': (2.0, 3.0)}
    """

    normaliser: Normaliser = field(default="mean", validator=known_normaliser, kw_only=True)
    multivariable: bool = field(default=False, validator=is_flag)

    def accumulate(
        self, sums: Mapping[str, torch.Tensor], parameters: Mapping[str, torch.Tensor], batch_losses: torch.Tensor
    ) -> int:
        """Add the gradient of the batch's mean loss."""
        for name, gradient in _gradients(batch_losses.mean(), parameters):
            sums[name].add_(gradient)
        return 1

    def measure(self, graph: Graph, model: nn.Module, tensors: Tensors) -> Importances:
        """Group name to one number per index."""
        members, gradients = self.gathered(graph, model, tensors)

        def sums(name: str, dims: tuple[int, ...]) -> dict[int, torch.Tensor]:
            def element(slab: torch.Tensor, rows: slice) -> torch.Tensor:
                change = gradients[name][rows] * slab.conj()
                change = change.real if change.is_complex() else change
                return change if self.multivariable else change.abs()

            return marginals(name, tensors[name], dims, element)

        return self.summed(graph, members, sums, torch.abs if self.multivariable else lambda vector: vector)


@frozen
class Hessian(_OnLoss):
    """Optimal Brain Damage: a member's importance of index i is the sum of w ** 2 * h / 2 over the weights that i owns.

    h is the diagonal of the Hessian, estimated by the mean over all samples of (dl/dw) ** 2, the empirical Fisher
    information. LeCun, Denker and Solla, "Optimal Brain Damage" (NeurIPS 1989). Its unit is that of the loss.

    Attributes:
        batches: an iterable of batches.
        loss: from (model, batch) to one loss per sample, such as a cross entropy with ``reduction="none"``; each is
            differentiated by itself. A scalar counts as one sample: then give batches of one.

    >>> import depgraph as dg
    >>> model = torch.nn.Sequential(torch.nn.Linear(1, 2, bias=False), torch.nn.Linear(2, 1, bias=False))
    >>> _ = model[0].weight.data.copy_(torch.tensor([[1.0], [3.0]])), model[1].weight.data.copy_(torch.tensor([[2.0, -1.0]]))
    >>> graph = dg.trace(model, torch.randn(1, 1))
    >>> output = dg.criteria.Hessian([torch.tensor([[1.0], [-1.0]])], lambda model, batch: model(batch)[:, 0])
    >>> dg.score(graph, model, output)                    # 1 * 4 / 2, 9 * 1 / 2; signs of samples do not cancel
    {'0.weight:0': (2.0, 4.5)}
    """

    def accumulate(
        self, sums: Mapping[str, torch.Tensor], parameters: Mapping[str, torch.Tensor], batch_losses: torch.Tensor
    ) -> int:
        """Add the squared gradient of each sample's loss."""
        for place, loss in enumerate(batch_losses):
            for name, gradient in _gradients(loss, parameters, place + 1 < len(batch_losses)):
                gradient = gradient.to(sums[name].dtype)
                sums[name].add_(gradient.abs().square() if gradient.is_complex() else gradient.square())
        return len(batch_losses)

    def measure(self, graph: Graph, model: nn.Module, tensors: Tensors) -> Importances:
        """Group name to one number per index."""
        members, curvatures = self.gathered(graph, model, tensors)

        def sums(name: str, dims: tuple[int, ...]) -> dict[int, torch.Tensor]:
            def element(slab: torch.Tensor, rows: slice) -> torch.Tensor:
                curvature = curvatures[name][rows]
                return slab.to(curvature.dtype).abs().square() * curvature.abs() / 2

            return marginals(name, tensors[name], dims, element)

        return self.summed(graph, members, sums)


@frozen
class OBDC(Hessian):
    """Channel-wise Optimal Brain Damage (C-OBD): as `Hessian`, over the filters that make the channel alone.

    Of each group only the output axes of convolutions and linear layers count, so that what reads the channel does not.
    Wang et al., "EigenDamage: Structured Pruning in the Kronecker-Factored Eigenbasis" (ICML 2019), section 3. A group that
    no such layer makes is measured by all of its members.

    Attributes:
        batches: an iterable of batches.
        loss: from (model, batch) to one loss per sample; a scalar counts as one sample.

    >>> import depgraph as dg
    >>> model = torch.nn.Sequential(torch.nn.Linear(1, 2, bias=False), torch.nn.Linear(2, 1, bias=False))
    >>> _ = model[0].weight.data.copy_(torch.tensor([[1.0], [3.0]])), model[1].weight.data.copy_(torch.tensor([[2.0, -1.0]]))
    >>> graph = dg.trace(model, torch.randn(1, 1))
    >>> loss = lambda model, batch: model(batch).sum()
    >>> apart = dg.score(graph, model, dg.criteria.OBDC([torch.ones(1, 1)], loss, reduction="none"))
    >>> dict(apart.members)
    {'0.weight:0': (('0.weight', 0),)}
    """

    def chosen(self, graph: Graph) -> Members:
        """The output axes of layers, where a group has any."""
        outputs = {(name, layer.out_dim) for name, layers in layers_of(graph).items() for layer in layers}
        return {name: tuple(axis for axis in axes if axis in outputs) or axes for name, axes in self.members(graph).items()}
