"""Penalties that drive whole indices of groups to zero, so that removing them costs little: functions of graph and weights.

Each returns a scalar that is differentiable in the parameters: add it to the loss of any loop. It is the same on every rank
of a distributed run, so averaging gradients leaves it as it is; under a gradient scaler it belongs to the loss that is scaled.
`penalty_gradients` gives the gradients alone, to be added after the backward (after `unscale_`, where there is a scaler).
Numbers are accumulated in single precision at least, whatever the type of the weights. Where an index is zero already, the
gradient of its norm is zero.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeAlias

import torch
from torch import nn

from depgraph.criteria.gathering import GroupIndices, gathered
from depgraph.criteria.sums import real
from depgraph.errors import MismatchError, PlanError, UnknownNameError
from depgraph.graph.arguments import of_graph
from depgraph.graph.graph import Graph
from depgraph.graph.groups import Group
from depgraph.graph.patterns import INNER
from depgraph.graph.records import OpType
from depgraph.unsupported import supported
from depgraph.wrappers import unprefixed

Parameters: TypeAlias = nn.Module | Mapping[str, torch.Tensor] | Iterable[tuple[str, torch.Tensor]]
"""A model, wrapped or not, or its named parameters."""


Strength: TypeAlias = float | Mapping[str, float | Sequence[float] | torch.Tensor]
"""One number for every group that a plain ratio would cut; or group names to a number, or to one number per index."""


@of_graph
def group_lasso(graph: Graph, parameters: Parameters, strength: Strength) -> torch.Tensor:
    """Group lasso over the graph's groups: sum of ``strength * norm(w[i])`` over all indices i.

    w[i] holds everything that goes when index i goes: rows, columns, biases, scales and shifts, as `Magnitude` measures it.
    Yuan and Lin, "Model Selection and Estimation in Regression with Grouped Variables" (JRSS B, 2006), without its weights
    for the sizes of groups; give these as strengths.

    Args:
        graph: the traced model.
        parameters: the model, or its named parameters; the prefixes of DistributedDataParallel and torch.compile are looked
            through.
        strength: one number, or a mapping from group names to numbers; groups that it does not name are left out.

    Raises:
        MismatchError: parameters are missing or have other shapes than in the graph.
        UnknownNameError, PlanError: a strength for no group, or of another length.
        UnsupportedError: the model is sharded, offloaded or quantised.

    >>> import depgraph as dg
    >>> model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 1, bias=False))
    >>> graph = dg.trace(model, torch.zeros(1, 2))
    >>> _ = model[0].weight.data.copy_(torch.tensor([[1.0, 2.0], [0.0, 0.0]]))
    >>> _ = model[1].weight.data.copy_(torch.tensor([[2.0, 0.0]]))
    >>> group_lasso(graph, model, 0.1).item()  # 0.1 * sqrt(1 + 4 + 4)
    0.30000001192092896
    """
    return _total(graph, parameters, strength, torch.square, _root)


@of_graph
def group_l2(graph: Graph, parameters: Parameters, strength: Strength) -> torch.Tensor:
    """Half the sum of ``strength * norm(w[i]) ** 2``, so that the gradient is ``strength * w[i]``.

    With strengths from `grow` this is growing regularisation (Wang et al., ICLR 2021); with those from
    `graded_strengths` the sparse training of DepGraph (Fang et al., CVPR 2023). Arguments and errors as in `group_lasso`.

    >>> import depgraph as dg
    >>> model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 1, bias=False))
    >>> graph = dg.trace(model, torch.zeros(1, 2))
    >>> _ = model[0].weight.data.copy_(torch.tensor([[1.0, 2.0], [0.0, 1.0]]))
    >>> _ = model[1].weight.data.copy_(torch.tensor([[2.0, 0.0]]))
    >>> group_l2(graph, model, 1.0).item()                                  # (1 + 4 + 4) / 2 + 1 / 2
    5.0
    >>> group_l2(graph, model, {"0.weight:0": [0.0, 3.0]}).item()           # a strength of its own for each index: 3 * 1 / 2
    1.5
    """
    return _total(graph, parameters, strength, torch.square, lambda squares: squares / 2)


@of_graph
def scale_l1(
    graph: Graph, parameters: Parameters, strength: Strength, *, types: Iterable[OpType] = (OpType.BN,)
) -> torch.Tensor:
    """Network slimming: sum of ``strength * abs(scale)`` over the scales of normalisations.

    Liu et al., "Learning Efficient Convolutional Networks through Network Slimming" (ICCV 2017), the penalty of equation 1.
    Scales of pinned channels take no part. Arguments as in `group_lasso`, and `types`: whose scales; ``OpType.LN``,
    ``OpType.GN`` and ``OpType.IN`` are possible, too.

    Raises:
        PlanError: no group has such a scale.
        MismatchError, UnknownNameError: as in `group_lasso`.

    >>> import depgraph as dg
    >>> model = nn.Sequential(nn.Conv2d(1, 3, 1), nn.BatchNorm2d(3), nn.Conv2d(3, 1, 1)).eval()
    >>> _ = model[1].weight.data.copy_(torch.tensor([1.0, -2.0, 0.5]))
    >>> scale_l1(dg.trace(model, torch.zeros(1, 1, 4, 4)), model, 2.0).item()     # 2 * (1 + 2 + 0.5)
    7.0
    """
    scales = _scales(graph, frozenset(types))
    if not any((name, dim) in scales for group in graph.groups for name, dim in group.members):
        raise PlanError("no group holds a scale of these normalisations, with which network slimming works; use group_lasso.")
    return _total(graph, parameters, strength, torch.abs, lambda sums: sums, scales)


def penalty_gradients(penalty: torch.Tensor, parameters: Parameters) -> dict[str, torch.Tensor]:
    """The gradient of a penalty for each parameter that it reaches, by the names that are given. No `.grad` is written.

    Args:
        penalty: a scalar, such as `group_lasso` returns.
        parameters: the model, or its named parameters, as for the penalty.

    Raises:
        PlanError: the penalty was computed under ``no_grad``, or reaches nothing that is trained.

    >>> import depgraph as dg
    >>> model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    >>> graph = dg.trace(model, torch.zeros(1, 2))
    >>> gradients = penalty_gradients(group_l2(graph, model, 0.5), model)
    >>> sorted(gradients), torch.equal(gradients["0.bias"], 0.5 * model[0].bias)
    (['0.bias', '0.weight', '1.weight'], True)
    """
    trained = {name: tensor for name, tensor in _named_parameters(parameters).items() if tensor.requires_grad}
    if not trained:
        return {}
    if not penalty.requires_grad:
        raise PlanError("the penalty depends on no parameter that is trained; compute it outside of torch.no_grad().")
    gradients = torch.autograd.grad(penalty, list(trained.values()), allow_unused=True)
    return {name: gradient for name, gradient in zip(trained, gradients, strict=True) if gradient is not None}


def _named_parameters(parameters: Parameters) -> dict[str, torch.Tensor]:
    if isinstance(parameters, nn.Module):
        return dict(parameters.named_parameters())
    return dict(parameters.items() if isinstance(parameters, Mapping) else parameters)


def _root(squares: torch.Tensor) -> torch.Tensor:
    """The square root, whose gradient at zero is zero."""
    live = squares > 0
    return torch.where(live, torch.where(live, squares, 1.0).sqrt(), 0.0)


def _scales(graph: Graph, types: frozenset[OpType]) -> frozenset[tuple[str, int]]:
    """Axes of the parameters by which normalisations multiply: the first parameter that each one reads."""
    scales: set[tuple[str, int]] = set()
    for operation in graph.operations:
        if operation.type in types:
            parameters = [tensor for name in operation.inputs if (tensor := graph.tensor(name)).kind == "parameter"]
            scales |= {(tensor.name, dim) for tensor in parameters[:1] for dim in range(len(tensor.axes))}
    return frozenset(scales)


def _total(
    graph: Graph,
    parameters: Parameters,
    strength: Strength,
    of_weight: Callable[[torch.Tensor], torch.Tensor],
    of_index: Callable[[torch.Tensor], torch.Tensor],
    axes: frozenset[tuple[str, int]] | None = None,
) -> torch.Tensor:
    """Sum over indices of a function of the sum over an index's weights of a function of the weight."""
    axes_of = {tensor.name: tensor.axes for tensor in graph.tensors if tensor.kind == "parameter"}
    factors = {
        group: (members, factor)
        for group, factor in _factors(graph, strength).items()
        if (members := [item for item in group.members if item[0] in axes_of and (axes is None or item in axes)])
    }
    names = {name for members, _ in factors.values() for name, _ in members}
    weights = _by_graph_name(graph, parameters, names)
    powers = {name: of_weight(real(tensor)) for name, tensor in weights.items()}
    total: torch.Tensor | None = None
    for group, (members, factor) in factors.items():
        sums: torch.Tensor | None = None
        for name, dim in members:
            part = gathered(_along(powers[name], dim), axes_of[name][dim], GroupIndices(group.atom))
            sums = part if sums is None else sums + part.to(sums.device)
        assert sums is not None, "a group without members was left out"
        weighted = of_index(sums) * (factor if isinstance(factor, float) else factor.to(sums))
        total = weighted.sum() if total is None else total + weighted.sum().to(total.device)
    return torch.zeros(()) if total is None else total


def _along(powers: torch.Tensor, dim: int) -> torch.Tensor:
    """The sum over all dimensions but one."""
    others = [other for other in range(powers.ndim) if other != dim]
    return powers.sum(others) if others else powers


def _factors(graph: Graph, strength: Strength) -> dict[Group, float | torch.Tensor]:
    """Each group that takes part with its strength."""
    if not isinstance(strength, Mapping):
        return {group: float(strength) for group in graph.groups if group.role in INNER}
    factors: dict[Group, float | torch.Tensor] = {}
    problems = []
    for name, value in strength.items():
        if name not in graph.groups_by_name:
            raise UnknownNameError("group", name, graph.groups_by_name)
        group = graph.groups_by_name[name]
        factor = float(value) if isinstance(value, (int, float)) else torch.as_tensor(value)
        if isinstance(factor, torch.Tensor) and factor.shape != (group.size,):
            problems.append(f"group {name!r} has {group.size} indices, its strengths have the shape {tuple(factor.shape)}")
        factors[group] = factor
    if problems:
        raise PlanError(f"{'; '.join(problems)}; give one per index.")
    return factors


def _by_graph_name(graph: Graph, parameters: Parameters, names: Iterable[str]) -> dict[str, torch.Tensor]:
    """The named parameters by their names in the graph, whatever wrappers and aliases the given ones have."""
    by_given_name = _named_parameters(supported(parameters) if isinstance(parameters, nn.Module) else parameters)
    by_name = {unprefixed(name, graph.by_name): tensor for name, tensor in by_given_name.items()}
    tensors = {graph.by_name[name].name: tensor for name, tensor in by_name.items() if name is not None}
    problems = []
    for name in sorted(names):
        shape = graph.tensor(name).shape
        if name not in tensors:
            problems.append(f"there is no parameter {name!r}")
        elif tuple(tensors[name].shape) != shape:
            problems.append(f"{name!r}: expected shape {shape}, met {tuple(tensors[name].shape)}")
    if problems:
        raise MismatchError(
            "the graph was traced from another model:", problems, "Trace this model, and pass all of its named parameters."
        )
    return {name: tensors[name] for name in names}
