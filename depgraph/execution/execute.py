"""Apply a plan to a module's tensors: the only writer. It knows plans, not rules and not the tracer.

Everything is checked and every new tensor is made before the first write; a failure leaves the module as it was.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from depgraph.algebra.indices import IndexSet
from depgraph.errors import MismatchError, PlanError
from depgraph.plans.plan import Edit, Plan
from depgraph.wrappers import unwrap


def execute(plan: Plan, model: nn.Module) -> nn.Module:
    """A new module with the plan applied. The given one is untouched, and shares no tensor with it.

    Device, dtype, `requires_grad`, training flags, hooks and gradients are kept, gradients cut alongside. Tied parameters
    stay tied. `parameter_map` gives the old and new parameters in pairs.

    Raises:
        MismatchError: the model's shapes or attributes are not those that the plan expects; every mismatch is listed.
    """
    model = checked(plan, model)
    smaller = _prepared(plan, model)
    result = copied(model, {id(old): new for old, new in smaller.values()})
    for edit in plan.edits:
        _write(result, edit.path, edit.new)
    for module in result.modules():
        if isinstance(module, nn.RNNBase):
            module._init_flat_weights()
    return result


def execute_(plan: Plan, model: nn.Module) -> dict[nn.Parameter, nn.Parameter]:
    """Apply the plan in place, all or nothing.

    Returns:
        The map from each replaced parameter to the one that stands in its place, for optimizers and the like.

    Raises:
        MismatchError: the model's shapes or attributes are not those that the plan expects; nothing was changed.
    """
    model = checked(plan, model)
    smaller = _prepared(plan, model)
    replaced = {id(old): new for old, new in smaller.values()}
    undo: list[Callable[[], None]] = []
    try:
        for module in model.modules():
            for held in (module._parameters, module._buffers):
                for name, tensor in held.items():
                    if tensor is not None and id(tensor) in replaced:
                        undo.append(_setter(held, name, tensor))
                        held[name] = replaced[id(tensor)]  # type: ignore[assignment]
        for edit in plan.edits:
            _write(model, edit.path, edit.new)
            undo.append(_restorer(model, edit))
        for module in model.modules():
            _follow_elsewhere(module, replaced, undo)
    except BaseException:
        for action in reversed(undo):
            action()
        raise
    return {old: new for old, new in smaller.values() if isinstance(old, nn.Parameter)}  # type: ignore[misc]


def parameter_map(before: nn.Module, after: nn.Module) -> dict[nn.Parameter, nn.Parameter]:
    """Each parameter of a model with the one of the same name in its pruned copy."""
    new = dict(unwrap(after).named_parameters(remove_duplicate=False))
    return {old: new[name] for name, old in unwrap(before).named_parameters(remove_duplicate=False)}


def checked(plan: object, model: object) -> nn.Module:
    """The module inside of its wrappers. Raises `PlanError` for anything else than a plan and a module."""
    if not isinstance(plan, Plan) or not isinstance(model, nn.Module):
        met = f"({type(plan).__name__}, {type(model).__name__})"
        raise PlanError(f"expected a Plan and an nn.Module, in this order, met {met}. Nothing was changed.")
    return unwrap(model)


def copied(model: nn.Module, instead: Mapping[int, torch.Tensor]) -> nn.Module:
    """A copy that shares no tensor with the model; a tensor whose id is given is replaced by the given one."""
    memo: dict[int, Any] = dict(instead)
    for parameter in model.parameters():
        if id(parameter) not in memo:
            memo[id(parameter)] = like(parameter, parameter.detach().clone(), lambda gradient: gradient.clone())
    memo.update(_computed_tensors(model))
    result: nn.Module = copy.deepcopy(model, memo)
    return result


def _setter(held: Any, name: str, tensor: Any) -> Callable[[], None]:
    return lambda: held.__setitem__(name, tensor)


def _restorer(model: nn.Module, edit: Edit) -> Callable[[], None]:
    return lambda: _write(model, edit.path, edit.old)


def fitting(plan: Plan, model: nn.Module) -> dict[str, torch.Tensor]:
    """The parameters and buffers that the plan cuts, by name. Raises `MismatchError`, with everything that does not fit."""
    held: dict[str, torch.Tensor] = dict(model.named_parameters(remove_duplicate=False))
    held.update(model.named_buffers(remove_duplicate=False))
    problems = []
    for name, sizes in plan.sizes.items():
        tensor = held.get(name)
        if tensor is None:
            problems.append(f"the model has no parameter or buffer {name!r}")
            continue
        for dim, size in sizes.items():
            if dim >= tensor.ndim or tensor.shape[dim] != size:
                problems.append(f"{name!r}: expected size {size} in dimension {dim}, met shape {tuple(tensor.shape)}")
    for edit in plan.edits:
        try:
            met = _read(model, edit.path)
        except (AttributeError, KeyError, IndexError, TypeError):
            problems.append(f"the model has no attribute {edit.path!r}")
            continue
        if met != edit.old:
            problems.append(f"attribute {edit.path!r}: expected {edit.old}, met {met!r}")
    by_tensor: dict[int, tuple[str, Mapping[int, IndexSet]]] = {}
    for name, dims in plan.kept.items():
        if name in held:
            first = by_tensor.setdefault(id(held[name]), (name, dims))
            if first[1] != dims:
                problems.append(f"{first[0]!r} and {name!r} are one tensor here, but the plan cuts them differently")
    cut_names = set(plan.kept)
    for name, tensor in held.items():
        if id(tensor) in by_tensor and name not in cut_names:
            problems.append(f"{name!r} is tied to {by_tensor[id(tensor)][0]!r} here, but not in the model that was traced")
    if problems:
        raise MismatchError(
            "the plan does not fit this model:",
            problems,
            "Execute it on the model that it was made for, before any other change.",
        )
    return {name: held[name] for name in plan.kept}


def _prepared(plan: Plan, model: nn.Module) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Check the plan against the model, then make every new tensor. Name to (old, new); tied names share both."""
    held = fitting(plan, model)
    made: dict[int, torch.Tensor] = {}
    distinct = {id(kept): kept for dims in plan.kept.values() for kept in dims.values()}
    positions = {key: torch.tensor(list(kept), dtype=torch.long) for key, kept in distinct.items()}
    for name, dims in plan.kept.items():
        old = held[name]
        if id(old) not in made:
            made[id(old)] = _smaller(old, {dim: positions[id(kept)] for dim, kept in dims.items()})
    return {name: (held[name], made[id(held[name])]) for name in plan.kept}


def _smaller(tensor: torch.Tensor, positions: dict[int, torch.Tensor]) -> torch.Tensor:
    def select(source: torch.Tensor) -> torch.Tensor:
        result = source.detach()
        for dim, index in positions.items():
            result = result.index_select(dim, index.to(result.device))
        if source.ndim == 4 and source.is_contiguous(memory_format=torch.channels_last) and not source.is_contiguous():
            result = result.contiguous(memory_format=torch.channels_last)
        return result

    return like(tensor, select(tensor), select)


def like(old: torch.Tensor, data: torch.Tensor, select: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """A tensor of the old one's class and marks around new data."""
    if isinstance(old, nn.Parameter):
        new: torch.Tensor = nn.Parameter(data, requires_grad=old.requires_grad)
        if type(old) is not nn.Parameter and not isinstance(new, type(old)):
            new = data.as_subclass(type(old)).requires_grad_(old.requires_grad)
    else:
        new = data.requires_grad_(old.requires_grad)
    new.__dict__.update({key: value for key, value in old.__dict__.items() if key != "_is_param"})
    if old._backward_hooks:
        new._backward_hooks = old._backward_hooks
    if old.grad is not None:
        new.grad = select(old.grad)
    return new


def _holder(model: Any, path: str) -> tuple[Any, str]:
    *parents, last = path.split(".")
    holder = model
    for name in parents:
        holder = _step(holder, name)
    return holder, last


def _step(holder: Any, name: str) -> Any:
    if isinstance(holder, (list, tuple)):
        return holder[int(name)]
    if isinstance(holder, dict):
        return holder[name] if name in holder else holder[int(name)]
    return getattr(holder, name)


def _read(model: nn.Module, path: str) -> Any:
    return _step(*_holder(model, path))


def _write(model: nn.Module, path: str, value: Any) -> None:
    """Set an attribute by dotted path. A tuple on the way is replaced by one with the new element."""
    holder, last = _holder(model, path)
    if isinstance(holder, tuple):
        position = int(last)
        items = (*holder[:position], value, *holder[position + 1 :])
        _write(model, path.rpartition(".")[0], torch.Size(items) if isinstance(holder, torch.Size) else items)
    elif isinstance(holder, list):
        holder[int(last)] = value
    elif isinstance(holder, dict):
        holder[last if last in holder else int(last)] = value
    elif isinstance(holder, nn.Module):
        setattr(holder, last, value)
    else:
        object.__setattr__(holder, last, value)  # configs may be frozen, or map names when they are set


def _follow_elsewhere(module: nn.Module, replaced: dict[int, torch.Tensor], undo: list[Callable[[], None]]) -> None:
    """A module may hold its parameters in lists, tuples or dicts of its own, too: let these hold the new ones."""
    for name, content in list(module.__dict__.items()):
        if name in _STATE or isinstance(content, torch.Tensor):
            continue
        new = _swapped(content, replaced)
        if new is not content:
            undo.append(_setter(module.__dict__, name, content))
            module.__dict__[name] = new
    if isinstance(module, nn.RNNBase):
        module._init_flat_weights()
        undo.insert(0, module._init_flat_weights)  # undone last, when the old weights are back in their places


_STATE = frozenset(vars(nn.Module()))


def _swapped(content: Any, replaced: dict[int, torch.Tensor]) -> Any:
    """The same container with the new tensors; the container itself if it holds none of the old ones."""
    if isinstance(content, torch.Tensor):
        return replaced.get(id(content), content)
    if type(content) in {list, tuple}:
        items = [_swapped(item, replaced) for item in content]
        unchanged = all(new is old for new, old in zip(items, content, strict=True))
        return content if unchanged else type(content)(items)
    if type(content) is dict:
        made = {key: _swapped(item, replaced) for key, item in content.items()}
        return content if all(made[key] is item for key, item in content.items()) else made
    return content


def _computed_tensors(model: nn.Module) -> dict[int, torch.Tensor]:
    """Copies of tensors that modules keep from a forward, such as weight_norm's weight: deepcopy refuses these."""
    found: dict[int, torch.Tensor] = {}
    for module in model.modules():
        for content in module.__dict__.values():
            if isinstance(content, torch.Tensor) and not content.is_leaf:
                found[id(content)] = content.detach().clone()
    return found
