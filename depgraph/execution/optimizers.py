"""The state of an optimizer for the pruned model: momentum and moments lose what their parameters lose.

What holds where an update mixes the numbers of a tensor, as those of Muon and Adafactor do, is said in `docs/training.md`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from attrs import field, frozen
from torch import nn

from depgraph.algebra.indices import IndexSet
from depgraph.errors import MismatchError, PlanError
from depgraph.execution.fitting import checked, fitting, other_sizes
from depgraph.execution.slicing import positions_of, selected
from depgraph.messages import shortened
from depgraph.plans.plan import Plan
from depgraph.running import outside_inference_mode
from depgraph.unsupported import supported_in_shards

__all__ = ["StateEntry", "carry_optimizer_", "carry_state"]


@frozen(eq=False)
class StateEntry:
    """One entry of an optimizer's state, and what its parameter loses: what a function for `follow=` is asked with.

    Attributes:
        name: the parameter's name.
        key: under which the optimizer keeps the entry.
        value: the entry, before the plan.
        parameter: the parameter, before the plan.
        kept: what stays of the parameter's dimensions that the plan cuts.
        state: everything that the optimizer keeps for this parameter, by key.

    >>> kept = {0: IndexSet.of([0, 2])}
    >>> rows = StateEntry("weight", "rows", torch.tensor([1.0, 2.0, 3.0]), torch.zeros(3, 4), kept, {})
    >>> rows.along(0)
    tensor([1., 3.])
    """

    name: str
    key: Any
    value: Any
    parameter: torch.Tensor = field(repr=False)
    kept: Mapping[int, IndexSet]
    state: Mapping[Any, Any] = field(repr=False)

    def along(self, *dims: int | None) -> torch.Tensor:
        """The entry, cut where it follows its parameter.

        Args:
            dims: for each dimension of the entry the parameter's dimension that it follows; None for one that stays.

        Raises:
            PlanError: they are not as many as the entry has, or sizes differ.
        """
        shape = tuple(getattr(self.value, "shape", ()))
        pairs = list(zip(range(len(shape)), dims, strict=False))
        followed = {own: dim for own, dim in pairs if dim is not None and dim in self.kept}
        if len(dims) != len(shape) or any(shape[own] != self.parameter.shape[dim] for own, dim in followed.items()):
            raise PlanError(
                f"{self.name!r}: {self.key!r} of shape {shape} cannot follow the dimensions {dims} of a parameter of shape "
                f"{tuple(self.parameter.shape)}. Nothing was changed."
            )
        cut: torch.Tensor = selected(self.value, {own: positions_of(self.kept[dim]) for own, dim in followed.items()})
        return cut if followed else cut.clone()


Follow: TypeAlias = Callable[[StateEntry], Any]
"""How an entry of a state follows its parameter: the new entry, or None for the entry as optimizers usually keep it."""


@outside_inference_mode
def carry_state(
    plan: Plan, model: nn.Module, optimizer: torch.optim.Optimizer, *, follow: Follow | None = None
) -> dict[str, Any]:
    """The state dict with which an optimizer of the pruned model goes on where this one is. Nothing is written or shared.

    Take it before `execute_`. Load it into an optimizer with the same parameter groups over the pruned model's parameters;
    its options (learning rate and the like) come along.

    Args:
        plan: what is executed.
        model: the model before.
        optimizer: an optimizer over the model's parameters, whose state has a number for each weight (SGD, Adam and its kin,
            RMSprop, Adagrad, Muon and others), or means of rows and columns (Adafactor, torch's and that of transformers).
        follow: for other optimizers: a function that is asked for each entry of the state of a parameter that the plan cuts,
            and returns the new entry; or None, where the entry has a number for each weight, row or column.

    Raises:
        PlanError: the arguments are no plan and no module.
        MismatchError: the plan is for another model, the optimizer trains parameters that this model has not, or its state
            is of another form.

    >>> import depgraph as dg
    >>> model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    >>> optimizer = torch.optim.Adam(model.parameters())
    >>> model(torch.randn(5, 3)).sum().backward(); optimizer.step()
    >>> plan = dg.cut(dg.trace(model, torch.randn(5, 3)), "0.weight", [1], dim=0)
    >>> small = dg.execute(plan, model)
    >>> going_on = torch.optim.Adam(small.parameters())
    >>> going_on.load_state_dict(dg.optimizers.carry_state(plan, model, optimizer))
    >>> going_on.state[small[0].weight]["exp_avg"].shape
    torch.Size([3, 3])

    An optimizer of one's own, which keeps one number for each row of a matrix, in a vector:

    >>> optimizer.state[model[0].weight]["rows"] = torch.tensor([1.0, 2.0, 3.0, 4.0])
    >>> def rows(entry):
    ...     return entry.along(0) if entry.key == "rows" else None
    >>> dg.optimizers.carry_state(plan, model, optimizer, follow=rows)["state"][0]["rows"]
    tensor([1., 3., 4.])
    """
    model = checked(plan, model, supported_in_shards)
    fitting(plan, model)
    names, gone = _names_of(plan, model), _gone(plan, model)
    state = optimizer.state_dict()
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    numbers = [number for group in state["param_groups"] for number in group["params"]]
    problems = [*_of_all_parameters(optimizer)]
    carried: dict[Any, Any] = dict(state["state"])
    for parameter, number in zip(parameters, numbers, strict=True):
        if id(parameter) not in names:
            problems.append(f"the optimizer trains a parameter of shape {tuple(parameter.shape)} that the model does not hold")
        elif id(parameter) in gone:
            carried.pop(number, None)
        elif number in carried:
            entries = dict(_carried(plan, names[id(parameter)], parameter, carried[number], follow, problems))
            unchanged = {key: copy.deepcopy(value) for key, value in carried[number].items() if key not in entries}
            carried[number] = {key: entries.get(key, unchanged.get(key)) for key in carried[number]}
    _refuse(problems)
    others = copy.deepcopy({key: value for key, value in state.items() if key != "state"})
    number_of = {id(parameter): number for parameter, number in zip(parameters, numbers, strict=True)}
    left = [
        _left(plan, group, lambda parameter: None if id(parameter) in gone else number_of[id(parameter)])
        for group in optimizer.param_groups
    ]
    groups = [{**group, **lists} for group, lists in zip(others["param_groups"], left, strict=True)]
    return {**others, "param_groups": groups, "state": carried}


@outside_inference_mode
def carry_optimizer_(
    plan: Plan,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    parameter_map: Mapping[nn.Parameter, nn.Parameter],
    *,
    follow: Follow | None = None,
) -> None:
    """Let an optimizer train the pruned model from where it is, in place, all or nothing.

    Its groups hold the new parameters, its state is cut as they are, its options stay. It is the same object, so that learning
    rate schedulers, `GradScaler` and whatever else holds it go on as well. Gradients are with the new parameters already.

    Args:
        plan: what was executed.
        model: the model after: the one given to `execute_`, or what `execute` returned.
        optimizer: an optimizer over the parameters before.
        parameter_map: from each parameter before to the one after: what `execute_` returned, or `parameter_map(before, after)`.
            A parameter that belongs to something else than the model is mapped to itself. If the plan drops elements of lists,
            parameters of which neither the map nor the model knows are taken to have left with them.
        follow: as in `carry_state`, which refuses the same states: call it before `execute_` to know.

    Raises:
        PlanError: the arguments are no plan, no module and no map of parameters.
        MismatchError: the optimizer trains parameters of which the map and the model know nothing, the map belongs to
            another plan or model, or the state is of another form; nothing was changed.

    >>> import depgraph as dg
    >>> model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    >>> optimizer = torch.optim.Adam(model.parameters())
    >>> scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 10)
    >>> model(torch.randn(5, 3)).sum().backward(); optimizer.step(); scheduler.step()
    >>> plan = dg.cut(dg.trace(model, torch.randn(5, 3)), "0.weight", [1], dim=0)
    >>> replaced = dg.execute_(plan, model)
    >>> dg.optimizers.carry_optimizer_(plan, model, optimizer, replaced)
    >>> optimizer.state[model[0].weight]["exp_avg"].shape, optimizer.param_groups[0]["params"][0] is model[0].weight
    (torch.Size([3, 3]), True)
    """
    model = checked(plan, model, supported_in_shards)
    problems = [*plan.problems] or [*_foreign(plan, model, optimizer, parameter_map)]
    if not problems:
        names = _names_of(plan, model, plan.name_before)
        problems += _of_all_parameters(optimizer)
        states = _mapped(plan, names, optimizer, parameter_map, follow, problems)
    _refuse(problems)

    def after(parameter: nn.Parameter) -> nn.Parameter | None:
        return parameter_map.get(parameter, parameter if id(parameter) in names else None)

    groups = [_left(plan, group, after) for group in optimizer.param_groups]
    groups_before = [
        {name: list(group[name]) for name in left} for group, left in zip(optimizer.param_groups, groups, strict=True)
    ]
    states_before = dict(optimizer.state)
    try:
        _write(optimizer, groups, states)
    except BaseException:
        _write(optimizer, groups_before, states_before)
        raise


def _left(plan: Plan, group: Mapping[str, Any], after: Callable[[Any], Any]) -> dict[str, list[Any]]:
    """The lists of a group that go by its parameters: what these become, without those that leave, and names if it has any."""
    new = [after(parameter) for parameter in group["params"]]
    left = {"params": [parameter for parameter in new if parameter is not None]}
    if "param_names" in group:
        pairs = zip(group["param_names"], new, strict=True)
        left["param_names"] = [plan.name_after(name) or name for name, parameter in pairs if parameter is not None]
    return left


def _write(optimizer: torch.optim.Optimizer, groups: Sequence[Mapping[str, list[Any]]], states: Mapping[Any, Any]) -> None:
    """Exchange what the optimizer's own lists and its own mapping hold, which others may hold as well."""
    for group, lists in zip(optimizer.param_groups, groups, strict=True):
        for name, content in lists.items():
            group[name][:] = content
    optimizer.state.clear()
    optimizer.state.update(states)


def _foreign(
    plan: Plan, model: nn.Module, optimizer: torch.optim.Optimizer, parameter_map: Mapping[nn.Parameter, nn.Parameter]
) -> Iterator[str]:
    """What the map and the optimizer hold that is not of this plan and this model, one sentence each."""
    if not isinstance(parameter_map, Mapping):
        raise PlanError(
            f"expected parameter_map to be what dg.execute_ returned, met {type(parameter_map).__name__}. Nothing was changed."
        )
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(plan.name_before(name))
    for old, new in parameter_map.items():
        if id(new) not in names and old is not new:
            yield f"the map leads to a parameter of shape {tuple(new.shape)} that the model does not hold"
        for name in names.get(id(new), ()):
            sizes = plan.sizes.get(name, {})
            others = [*other_sizes(name, sizes, tuple(old.shape))]
            yield from others
            if not others and tuple(new.shape) != _after(plan, name, old):
                yield f"{name!r}: the plan makes shape {_after(plan, name, old)} of {tuple(old.shape)}, met {tuple(new.shape)}"
    for group in optimizer.param_groups if not plan.drops else ():
        for parameter in group["params"]:
            if parameter not in parameter_map and id(parameter) not in names:
                yield (
                    f"the optimizer trains a parameter of shape {tuple(parameter.shape)} that neither the map nor the model "
                    "holds; if it belongs to something else, add it to the map: {parameter: parameter}"
                )


def _after(plan: Plan, name: str, parameter: torch.Tensor) -> tuple[int, ...]:
    kept = plan.kept.get(name, {})
    return tuple(len(kept[dim]) if dim in kept else size for dim, size in enumerate(parameter.shape))


def _names_of(plan: Plan, model: nn.Module, base_name: Callable[[str], str] = str) -> dict[int, str]:
    """A name from before of each parameter of the model: of several one by which the plan knows it."""
    names: dict[int, str] = {}
    for name_here, parameter in model.named_parameters(remove_duplicate=False):
        name = base_name(name_here)
        if names.setdefault(id(parameter), name) not in plan.sizes and name in plan.sizes:
            names[id(parameter)] = name
    return names


def _gone(plan: Plan, model: nn.Module) -> set[int]:
    """The parameters that leave with elements of lists, under all of their names."""
    named = list(model.named_parameters(remove_duplicate=False))
    return {id(parameter) for _, parameter in named} - {id(held) for name, held in named if plan.name_after(name) is not None}


def _mapped(
    plan: Plan,
    names: Mapping[int, str],
    optimizer: torch.optim.Optimizer,
    parameter_map: Mapping[nn.Parameter, nn.Parameter],
    follow: Follow | None,
    problems: list[str],
) -> dict[Any, Any]:
    """The optimizer's state by the new parameters, in its order. What is not cut stays the same object."""
    states: dict[Any, Any] = {}
    for key, state in optimizer.state.items():
        new = parameter_map.get(key, key) if isinstance(key, nn.Parameter) else key
        if isinstance(new, nn.Parameter) and key not in parameter_map and id(new) not in names:
            continue  # it left with an element of a list
        if new is not key and id(new) in names:
            state = {**state, **dict(_carried(plan, names[id(new)], key, state, follow, problems))}
        states[new] = state
    return states


def _of_all_parameters(optimizer: torch.optim.Optimizer) -> Iterator[str]:
    """What an optimizer keeps of all parameters at once, with the first one."""
    if isinstance(optimizer, torch.optim.LBFGS) and optimizer.state:
        yield "LBFGS keeps its history in vectors over all parameters"


def _refuse(problems: Sequence[str]) -> None:
    if problems:
        raise MismatchError(
            "this optimizer's state cannot be carried over:",
            problems,
            "Say with follow= how it follows the parameters, or make a new optimizer for the pruned model.",
        )


def _carried(
    plan: Plan, name: str, parameter: torch.Tensor, state: Mapping[Any, Any], follow: Follow | None, problems: list[str]
) -> Iterator[tuple[Any, Any]]:
    """The entries of one parameter's state that change with it."""
    kept = plan.kept.get(name, {})
    for key, value in state.items() if kept else ():
        entry = StateEntry(name, key, value, parameter, kept, state)
        new = None if follow is None else follow(entry)
        if new is None:
            new = _factor(entry)
        if new is None:
            new = _elementwise(entry, problems)
        if new is not None:
            yield key, new


def _elementwise(entry: StateEntry, problems: list[str]) -> torch.Tensor | None:
    """An entry with a number for each weight, row or column, cut like the parameter; None for one that stays."""
    value, shape = entry.value, tuple(entry.parameter.shape)
    if isinstance(value, torch.Tensor) and value.numel() > 1:
        met = tuple(value.shape)
        if len(met) == len(shape) and all(size in {full, 1} for size, full in zip(met, shape, strict=True)):
            return entry.along(*(dim if size == shape[dim] else None for dim, size in enumerate(met)))
        problems.append(f"{entry.name!r}: {shortened(repr(entry.key))} has shape {met}, the parameter {shape}")
    elif isinstance(value, (list, tuple, dict)) and len(value):
        kind = type(value).__name__
        problems.append(f"{entry.name!r}: {shortened(repr(entry.key))} is a {kind}; expected tensors and numbers")
    return None


_FACTORS = (("row_var", "col_var", True), ("exp_avg_sq_row", "exp_avg_sq_col", False))
"""Keys of the factors of a moment, and whether the averaged axis stays, of size 1: Adafactor of torch, and of transformers."""

_FACTORS_OF = {key: factors for factors in _FACTORS for key in factors[:2]}


def _factor(entry: StateEntry) -> torch.Tensor | None:
    """One of two factors R and C of a second moment, which is ``R[i] * C[j] / mean(R)`` in each matrix; None for another entry.

    R are its means over columns, C those over rows. Of what stays they are means over fewer: R is multiplied by what the mean
    of C becomes, and C by what that of R becomes. So the moment of each weight that stays is what it was; and where the
    gradients of the others were zero, as in a masked run, R and C are what they would have been without them.
    """
    if entry.key not in _FACTORS_OF:
        return None
    row_key, column_key, stays = _FACTORS_OF[entry.key]
    row, column = entry.state.get(row_key), entry.state.get(column_key)
    shape = tuple(entry.parameter.shape)
    row_shape, column_shape = (*shape[:-1], 1), (*shape[:-2], 1, shape[-1])
    expected = (row_shape, column_shape) if stays else (shape[:-1], (*shape[:-2], shape[-1]))
    if len(shape) < 2 or row is None or column is None or (tuple(row.shape), tuple(column.shape)) != expected:
        return None
    row, column = row.reshape(row_shape), column.reshape(column_shape)
    last = len(shape) - 1
    own, other, averaged = (row, column, last) if entry.key == row_key else (column, row, last - 1)
    positions = {dim: positions_of(indices) for dim, indices in entry.kept.items()}
    result = selected(own, {dim: index for dim, index in positions.items() if dim != averaged})
    if averaged in positions:
        beside = selected(other, {dim: index for dim, index in positions.items() if dim < last - 1})
        before = beside.mean(averaged, keepdim=True)
        after = selected(beside, {averaged: positions[averaged]}).mean(averaged, keepdim=True)
        result = result * torch.where(before > 0, after / before, 1)
    return result if stays else result.squeeze(averaged)
