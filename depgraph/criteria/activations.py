"""Criteria that read the activations between layers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from attrs import field, frozen
from torch import nn

from depgraph.algebra.spaces import Atom, Space, atoms
from depgraph.criteria.checks import is_function, is_iterable, is_positive
from depgraph.criteria.collecting import DataDriven, counted, refuse_meta
from depgraph.criteria.gathering import GroupIndices, Member, Members, Tensors, gathered
from depgraph.criteria.layers import Layer, layers_of
from depgraph.criteria.reductions import Importances
from depgraph.criteria.sums import marginals, real
from depgraph.errors import PlanError
from depgraph.graph.graph import Graph
from depgraph.moments.watching import LayerCall, NormCall, OnCall, Watch
from depgraph.running import Forward, run, untouched


class AxisMoments:
    """Streaming sums of one axis of an activation: count, mean of the absolute values, mean, squared deviations, squares."""

    count: torch.Tensor
    absolute: torch.Tensor
    sum: torch.Tensor
    deviations: torch.Tensor
    squares: torch.Tensor

    def __init__(self, size: int, device: torch.device) -> None:
        exact = torch.float32 if device.type == "mps" else torch.float64
        self.count = torch.zeros((), dtype=exact, device=device)
        self.absolute, self.sum, self.deviations, self.squares = torch.zeros(4, size, dtype=exact, device=device)

    def add(self, values: torch.Tensor, dim: int) -> None:
        """Read one activation, by all of its places but the axis."""
        values = real(values.detach())
        others = [other for other in range(values.ndim) if other != dim % values.ndim]
        count = values.numel() // values.shape[dim] if values.shape[dim] else 0
        if not count:
            return
        total = values.sum(others) if others else values
        shape = [1] * values.ndim
        shape[dim] = -1
        deviations = (values - (total / count).view(shape)).square()
        deviations = deviations.sum(others) if others else deviations
        exact = total.to(self.sum.dtype)
        if self.count:
            gap = exact / count - self.sum / self.count
            self.deviations += gap.square() * (self.count * count / (self.count + count))
        self.deviations += deviations
        self.absolute += values.abs().sum(others) if others else values.abs()
        self.squares += values.square().sum(others) if others else values.square()
        self.sum += exact
        self.count += count

    def combine(self, together: Any) -> None:
        """Make the sums those of all ranks."""
        own_mean, own_count = self.sum / self.count.clamp(min=1), self.count.clone()
        together([self.count, self.absolute, self.sum, self.squares])
        self.deviations += own_count * (own_mean - self.sum / self.count.clamp(min=1)).square()
        together([self.deviations])


def _adding(weights: Tensors, inputs: Mapping[str, AxisMoments], outputs: Mapping[str, AxisMoments]) -> OnCall:
    """What adds up the inputs and outputs of layers, by the parameter that is the weight, as a whole."""

    def on_call(event: LayerCall | NormCall) -> Any:
        result = event.run()
        if isinstance(event, LayerCall) and not event.call.on_left:
            name, dim = event.weight.name, 1 if event.call.kind == "convolution" else -1
            if name in weights and math.prod(event.weight.shape) == weights[name].numel():
                for moments, values in ((inputs.get(name), event.x), (outputs.get(name), result)):
                    if moments is not None and len(moments.sum) == values.shape[dim]:
                        moments.add(values, dim)
        return result

    return on_call


@frozen
class _OnActivations(DataDriven):
    batches: Iterable[Any] = field(validator=is_iterable, repr=False, eq=False)
    forward: Forward = field(default=run, validator=is_function, repr=False, kw_only=True)

    def moments(
        self, model: nn.Module, tensors: Tensors, in_sizes: Mapping[str, int], out_sizes: Mapping[str, int]
    ) -> tuple[dict[str, AxisMoments], dict[str, AxisMoments]]:
        """Moments of the inputs and of the outputs of some layers, by the weight's name, along axes of the given sizes."""
        weights = {name: tensors[name] for name in {**in_sizes, **out_sizes}}
        refuse_meta(weights)
        inputs = {name: AxisMoments(size, tensors[name].device) for name, size in in_sizes.items()}
        outputs = {name: AxisMoments(size, tensors[name].device) for name, size in out_sizes.items()}
        watch, number = Watch(weights, _adding(weights, inputs, outputs)), 0
        with untouched(model, self.training), torch.no_grad(), watch:
            for batch in self.read(self.batches):
                self.forward(model, batch)
                watch.forget()
                number += 1
        count = torch.tensor(float(number), device=next((tensor.device for tensor in weights.values()), None))
        self.together([count])
        counted(float(count))
        for moments in (*inputs.values(), *outputs.values()):
            moments.combine(self.together)
        return (
            {name: moments for name, moments in inputs.items() if moments.count},
            {name: moments for name, moments in outputs.items() if moments.count},
        )


_STATISTICS = ("absolute", "mean", "variance", "norm")


@frozen
class Activation(_OnActivations):
    """How active an index is: a member's importance of index i is a statistic of what a layer reads at i.

    The members are the inputs of the convolutions and linear layers that read the index; where none does (queries and keys of
    attention), the outputs of those that make it. The statistic is over all samples and positions, summed over the places
    of the index in that axis: ``absolute``, the mean of abs(x); ``mean``, abs of the mean; ``variance``, the mean of
    (x - mean) ** 2; ``norm``, the root of the mean of x ** 2. Hu et al., "Network Trimming" (2016), use how often a unit is
    not zero; Molchanov et al., "Pruning Convolutional Neural Networks for Resource Efficient Inference" (ICLR 2017), mean and
    deviation; An et al., "Fluctuation-based Adaptive Structured Pruning for Large Language Models" (AAAI 2024), the variance.

    Attributes:
        batches: an iterable of batches.
        statistic: ``absolute``, ``mean``, ``variance`` or ``norm``.
        forward: from (model, batch) to anything; by default the model is called with the batch as `trace` does it:
            arguments from a tuple or list, keywords from a mapping of names of its parameters.

    >>> import depgraph as dg
    >>> model = torch.nn.Sequential(torch.nn.Linear(1, 2, bias=False), torch.nn.Linear(2, 1))
    >>> _ = model[0].weight.data.copy_(torch.tensor([[1.0], [-3.0]]))
    >>> graph = dg.trace(model, torch.randn(1, 1))
    >>> dg.score(graph, model, dg.criteria.Activation([torch.tensor([[1.0]]), torch.tensor([[3.0]])], normaliser="none"))
    {'0.weight:0': (2.0, 6.0)}
    """

    statistic: str = field(default="absolute", kw_only=True)

    @statistic.validator
    def _known(self, attribute: Any, value: object) -> None:
        if value not in _STATISTICS:
            raise PlanError(f"expected statistic= to be one of {_STATISTICS}, met {value!r}.")

    def measure(self, graph: Graph, model: nn.Module, tensors: Tensors) -> Importances:
        """Group name to one number per index."""
        layers = {name: uses[0] for name, uses in layers_of(graph).items() if self._takes_part(uses[0])}
        inputs, outputs = _layers_by_atom(layers, "in_space"), _layers_by_atom(layers, "out_space")
        members: Members = {}
        spaces: dict[Member, Space] = {}
        in_sizes: dict[str, int] = {}
        out_sizes: dict[str, int] = {}
        for group in graph.groups:
            sides = [(name, layers[name].in_dim, layers[name].in_space, in_sizes) for name in inputs.get(group.atom, ())]
            if not sides:
                sides = [
                    (name, layers[name].out_dim, layers[name].out_space, out_sizes) for name in outputs.get(group.atom, ())
                ]
            for name, dim, space, sizes in sides:
                sizes[name] = space.size
                spaces[name, dim] = space
            if sides:
                members[group.name] = tuple((name, dim) for name, dim, _, _ in sides)
        if graph.groups and not members:
            raise PlanError("no group reaches a convolution or linear layer whose activations could be read.")
        in_moments, out_moments = self.moments(model, tensors, in_sizes, out_sizes)
        if members and not in_moments and not out_moments:
            raise PlanError("forward ran none of the layers that the graph knows; pass the model's own inputs.")

        def vector(member: Member, indices: GroupIndices) -> torch.Tensor | None:
            name, dim = member
            moments = (in_moments if dim == layers[name].in_dim else out_moments).get(name)
            return None if moments is None else gathered(self._value(moments).float(), spaces[member], indices)

        return self.assembled(graph, members, vector)

    def _takes_part(self, layer: Layer) -> bool:
        return self.types is None or layer.operation.type in self.types

    def _value(self, moments: AxisMoments) -> torch.Tensor:
        if self.statistic == "absolute":
            return moments.absolute / moments.count
        if self.statistic == "mean":
            return (moments.sum / moments.count).abs()
        if self.statistic == "variance":
            return moments.deviations / moments.count
        return (moments.squares / moments.count).sqrt()


def _layers_by_atom(layers: Mapping[str, Layer], side: str) -> dict[Atom, list[str]]:
    """The weights of the layers that have each atom in their input, or in their output."""
    weights: dict[Atom, list[str]] = {}
    for name, layer in layers.items():
        for atom in atoms(getattr(layer, side)):
            weights.setdefault(atom, []).append(name)
    return weights


@frozen
class Wanda(_OnActivations):
    """Weights and activations: a member's importance of index i is the sum of abs(w_oj) * ||x_j|| over the weights that i owns.

    ||x_j|| is the Euclidean norm of what the layer reads at its input j, over all samples and positions. Sun et al., "A
    Simple and Effective Pruning Approach for Large Language Models" (ICLR 2024), summed over whole indices. Only
    convolutions and linear layers take part.

    Attributes:
        batches: an iterable of batches.
        p: the exponent of the product, such as 2 for squares.
        forward: as for `Activation`.

    >>> import depgraph as dg
    >>> model = torch.nn.Sequential(torch.nn.Linear(1, 2, bias=False), torch.nn.Linear(2, 1))
    >>> _ = model[0].weight.data.copy_(torch.tensor([[1.0], [-3.0]])), model[1].weight.data.copy_(torch.tensor([[2.0, 1.0]]))
    >>> graph = dg.trace(model, torch.randn(1, 1))
    >>> inputs = [torch.tensor([[3.0]]), torch.tensor([[4.0]])]                    # ||x|| = 5; 5 and 15 after the first layer
    >>> dg.score(graph, model, dg.criteria.Wanda(inputs, reduction="sum", normaliser="none"))        # 1*5 + 2*5, 3*5 + 1*15
    {'0.weight:0': (15.0, 30.0)}
    """

    p: float = field(default=1, kw_only=True, validator=is_positive)

    def measure(self, graph: Graph, model: nn.Module, tensors: Tensors) -> Importances:
        """Group name to one number per index."""
        layers = {name: uses[0] for name, uses in layers_of(graph).items()}
        axes = {name: tuple(axis for axis in axes if axis[0] in layers) for name, axes in self.members(graph).items()}
        members = {name: weights for name, weights in axes.items() if weights}
        if graph.groups and not members:
            raise PlanError("no group has a weight of a convolution or linear layer; Wanda measures nothing else.")
        in_sizes = {name: layers[name].in_space.size for weights in members.values() for name, _ in weights}
        moments, _ = self.moments(model, tensors, in_sizes, {})
        if members and not moments:
            raise PlanError("forward ran none of the layers that the graph knows; pass the model's own inputs.")

        def sums(name: str, dims: tuple[int, ...]) -> dict[int, torch.Tensor]:
            if name not in moments:
                return {}
            weight, norms, layer = tensors[name], moments[name].squares.sqrt().float(), layers[name]

            def element(slab: torch.Tensor, rows: slice) -> torch.Tensor:
                return (real(slab).abs() * _norms_like_rows(norms, weight, layer.in_dim, rows)).pow(self.p)

            return marginals(name, weight, dims, element)

        return self.summed(graph, members, sums)


def _norms_like_rows(norms: torch.Tensor, weight: torch.Tensor, in_dim: int, rows: slice) -> torch.Tensor:
    """The norm of the input that each weight multiplies, for some rows of a layer's weight.

    They broadcast against the rows. In a grouped convolution each block of rows reads channels of its own.
    """
    rest = (1,) * (weight.ndim - 2)
    if in_dim == 0:
        return norms[rows].view(-1, 1, *rest)
    blocks = norms.view(-1, weight.shape[1])
    numbers = torch.arange(rows.start, rows.stop, device=norms.device) // (weight.shape[0] // len(blocks))
    return blocks[numbers].view(len(numbers), -1, *rest)
