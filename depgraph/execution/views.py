"""The part of an original's tensors that a pruned model has: what features and weights are compared with in distillation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NoReturn

import torch
from attrs import evolve

from depgraph.algebra.indices import IndexSet
from depgraph.algebra.spaces import Space, atoms
from depgraph.errors import MismatchError, PlanError, UnknownNameError
from depgraph.execution.fitting import other_sizes
from depgraph.execution.slicing import positions_of
from depgraph.graph.graph import Graph
from depgraph.graph.records import Tensor
from depgraph.messages import shortened
from depgraph.plans.plan import Plan, PrunedAxis, refuse_other_graph
from depgraph.wrappers import PREFIXES, unprefixed


def teacher_view(plan: Plan, name: str, tensor: torch.Tensor, *, graph: Graph | None = None) -> torch.Tensor:
    """The slice of a tensor of the original that the pruned model's tensor of that name must match.

    So a student learns from its teacher's features without projections in between: they are the same indices of the same space.
    Gradients flow through it. Dimensions that the plan does not cut, such as batches, may have any size.

    Args:
        plan: the plan that made the student of the teacher.
        name: of a parameter or buffer; or, with `graph`, of a module, for what it returns, or of a value in the graph, such as
            ``layer.relu:0``: one of the `outputs` of ``graph.operations``. Prefixes of wrappers are looked through.
        tensor: the teacher's.
        graph: the graph of the teacher that the plan was made for: it knows the axes of activations. Without it a name that the
            plan does not cut is taken for a tensor that stays as it is.

    Raises:
        PlanError: the arguments are of other types.
        UnknownNameError: the graph has no tensor and no module of that name.
        MismatchError: the tensor has not the sizes that the plan expects, may be one of several values of a module that are cut
            differently, or leaves with an element of a list; or the plan is for another graph.

    >>> import depgraph as dg
    >>> from torch import nn
    >>> teacher, x = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), torch.randn(3, 4)
    >>> graph = dg.trace(teacher, x)
    >>> plan = dg.cut(graph, "0.weight", [2, 6], dim=0)
    >>> student = dg.execute(plan, teacher)
    >>> torch.equal(dg.teacher_view(plan, "2.weight", teacher[2].weight), student[2].weight)
    True
    >>> features = dg.teacher_view(plan, "1", teacher[:2](x), graph=graph)
    >>> torch.allclose(features, student[:2](x))
    True
    """
    if not isinstance(plan, Plan) or not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
        raise PlanError(
            "expected a Plan, a name and a tensor, in this order, met "
            f"({', '.join(type(item).__name__ for item in (plan, name, tensor))})."
        )
    if plan.problems:
        raise MismatchError("the plan is damaged:", plan.problems, "Make a new plan.")
    if _leaves(plan, name):
        raise MismatchError("the student has no such tensor:", [f"{name!r} leaves with an element of a list"], "Leave it out.")
    kept = _kept_of_weight(plan, name, tensor) if graph is None else _kept_of_any(plan, name, tensor, graph)
    for dim, indices in kept.items():
        tensor = tensor.index_select(dim, positions_of(indices).to(tensor.device))
    return tensor


def _leaves(plan: Plan, name: str) -> bool:
    """Whether what has this name, with the prefixes of wrappers or without, goes with an element of a list."""
    while plan.name_after(name) is not None:
        prefix = next((prefix for prefix in PREFIXES if name.startswith(prefix)), None)
        if prefix is None:
            return False
        name = name.removeprefix(prefix)
    return True


def _kept_of_weight(plan: Plan, name: str, tensor: torch.Tensor) -> Mapping[int, IndexSet]:
    """What stays of each dimension of a parameter or buffer, by the plan alone."""
    aliases = {alias: first for names in plan.tied for first in names if first in plan.kept for alias in names}
    known = unprefixed(name, {*plan.kept, *aliases})
    if known is None:
        return {}
    known = known if known in plan.kept else aliases[known]
    problems = [*other_sizes(name, plan.sizes[known], tuple(tensor.shape))]
    if problems:
        raise MismatchError("the tensor does not fit:", problems, "Pass the teacher's, which the plan was made for.")
    return plan.kept[known]


def _kept_of_any(plan: Plan, name: str, tensor: torch.Tensor, graph: Graph) -> Mapping[int, IndexSet]:
    """The same of whatever a graph holds."""
    if not isinstance(graph, Graph):
        raise PlanError(f"expected graph= to be what dg.trace gives, met {type(graph).__name__}.")
    refuse_other_graph(plan, graph, "Pass the graph of the teacher, which the plan was made for.")
    kept = [(value, _kept_of_axes(plan, value.axes)) for value in _values(name, graph)]
    fitting = [(value, dims) for value, dims in kept if _fits(value, dims, tensor)]
    if not fitting or any(dims != fitting[0][1] for _, dims in fitting):
        _refuse(name, fitting or kept, tensor)
    return fitting[0][1]


def _kept_of_axes(plan: Plan, axes: tuple[Space, ...]) -> Mapping[int, IndexSet]:
    """What stays of each dimension that the plan cuts: evaluated as if these were the axes of a parameter."""
    cut = {cut.atom for cut in plan.cuts}
    reached = [PrunedAxis("value", dim, space) for dim, space in enumerate(axes) if cut & set(atoms(space))]
    return evolve(plan, axes=tuple(reached)).kept.get("value", {})


def _values(name: str, graph: Graph) -> list[Tensor]:
    """The tensor of a name, or the values that a module of that name returns."""
    known = unprefixed(name, graph.by_name)
    if known is not None:
        return [graph.tensor(known)]
    module = unprefixed(name, graph.returned)
    if module is None:
        raise UnknownNameError(
            "parameter, buffer, value or module with values of its own", name, [*graph.by_name, *graph.returned]
        )
    return [graph.tensor(value) for value in graph.returned[module]]


def _fits(value: Tensor, kept: Mapping[int, IndexSet], tensor: torch.Tensor) -> bool:
    shape = tuple(tensor.shape)
    return len(shape) == len(value.axes) and all(shape[dim] == value.shape[dim] for dim in kept)


def _refuse(name: str, found: Sequence[tuple[Tensor, Mapping[int, IndexSet]]], tensor: torch.Tensor) -> NoReturn:
    """Say which values there are under the name."""
    values = "; ".join(f"{value.name!r} of shape {value.shape}, cut along {[*dims] or 'nothing'}" for value, dims in found)
    problem = f"{shortened(repr(name))}: a tensor of shape {tuple(tensor.shape)}, and the graph has {shortened(values)}"
    if len(found) == 1:
        raise MismatchError("the tensor does not fit:", [problem], "Pass the teacher's; sizes along cut dimensions count.")
    raise MismatchError("the tensor may be one of several, or is none of them:", [problem], "Pass the name of one of them.")
