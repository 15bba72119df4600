"""Apply a plan to a module's tensors: the only writer. It knows plans, not rules and not the tracer.

Everything is checked and every new tensor is made before the first write; a failure leaves the module as it was.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import nn

from depgraph.algebra.indices import IndexSet
from depgraph.errors import MismatchError, PlanError
from depgraph.plans.plan import Edit, Plan
from depgraph.unsupported import replaceable, supported
from depgraph.wrappers import unwrap

P = ParamSpec("P")
T = TypeVar("T")


def outside_inference_mode(function: Callable[P, T]) -> Callable[P, T]:
    """Make tensors that can be trained, also under `torch.inference_mode`, whose own tensors autograd refuses for good."""

    @wraps(function)
    def outside(*args: P.args, **kwargs: P.kwargs) -> T:
        if not torch.is_inference_mode_enabled():
            return function(*args, **kwargs)
        with torch.inference_mode(False), torch.no_grad():
            return function(*args, **kwargs)

    return outside


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
        UnsupportedError: the model is sharded, offloaded or quantised; or wrapped in `DistributedDataParallel`, which would
            not join the gradients of the new parameters: execute on the module inside, and wrap anew.
    """
    model = checked(plan, model, replaceable)
    smaller = _prepared(plan, model)
    for old, new in smaller.values():
        _move_hooks(old, new)
    new_of = {id(old): new for old, new in smaller.values()}
    parameters = {old: new for old, new in smaller.values() if isinstance(old, nn.Parameter)}
    before = _State(model, plan.edits)
    try:
        for module in model.modules():
            _replace_tensors(module, new_of)
        for edit in plan.edits:
            _write(model, edit.path, edit.new)
        return parameters  # type: ignore[return-value]
    except BaseException as error:
        before.restore(error)
        raise


class _State:
    """What a module tree holds before it is written to, and how to put it back: the very objects, in the same order.

    Noted are the attributes and the registries of every module, so that whatever a setter of the user's own writes beside the
    attribute of an edit goes back, too, and the objects between the modules and the edits, such as configs and lists.
    """

    def __init__(self, model: nn.Module, edits: Sequence[Edit]) -> None:
        self._model, self._edits = model, edits
        self._dicts: list[tuple[dict[Any, Any], dict[Any, Any]]] = []
        self._lists: list[tuple[list[Any], list[Any]]] = []
        holders = [holder for edit in edits for holder in _holders(model, edit.path)]
        own = [module.__dict__ for module in model.modules()]
        for holder in (*own, *(value for attributes in own for value in attributes.values()), *holders):
            if isinstance(holder, list):
                self._lists.append((holder, list(holder)))
            elif isinstance(holder, dict):
                self._dicts.append((holder, dict(holder)))
            elif (
                any(holder is other for other in holders) and not isinstance(holder, nn.Module) and hasattr(holder, "__dict__")
            ):
                self._dicts.append((vars(holder), dict(vars(holder))))

    def restore(self, error: BaseException) -> None:
        """Put everything back. What that raises becomes a note of the error, and keeps nothing else from going back."""
        for attributes, content in self._dicts:
            if len(attributes) != len(content) or any(
                key not in attributes or attributes[key] is not value for key, value in content.items()
            ):
                attributes.clear()
                attributes.update(content)
        for items, elements in self._lists:
            items[:] = elements
        for edit in reversed(self._edits):  # values behind slots, descriptors and the like
            try:
                if _read(self._model, edit.path) != edit.old:
                    _write(self._model, edit.path, edit.old)
            except Exception as failure:  # noqa: BLE001  the steps after it must run
                error.add_note(f"depgraph could not put back {edit.path!r}, which was {edit.old}: {failure!r}")


def parameter_map(before: nn.Module, after: nn.Module) -> dict[nn.Parameter, nn.Parameter]:
    """Each parameter of a model with the one of the same name in its pruned copy."""
    new = dict(unwrap(after).named_parameters(remove_duplicate=False))
    return {old: new[name] for name, old in unwrap(before).named_parameters(remove_duplicate=False)}


def checked(plan: object, model: object, inside: Callable[[nn.Module], nn.Module] = supported) -> nn.Module:
    """The module inside of its wrappers. Raises `PlanError` for anything else than a plan and a module."""
    if not isinstance(plan, Plan) or not isinstance(model, nn.Module):
        met = f"({type(plan).__name__}, {type(model).__name__})"
        raise PlanError(f"expected a Plan and an nn.Module, in this order, met {met}. Nothing was changed.")
    return inside(model)


@outside_inference_mode
def copied(model: nn.Module, instead: Mapping[int, torch.Tensor]) -> nn.Module:
    """A copy that shares no tensor with the model; a tensor whose id is given is replaced by the given one."""
    memo: dict[int, Any] = dict(instead)
    for parameter in model.parameters():
        if id(parameter) not in memo:
            memo[id(parameter)] = like(parameter, parameter.detach().clone(), lambda gradient: gradient.clone())
    memo.update(_computed_tensors(model))
    for module in model.modules():
        for content in vars(module).values():  # a dozen empty dictionaries for hooks in each module, which deepcopy takes apart
            if type(content) is OrderedDict and not content and not vars(content):
                memo.setdefault(id(content), OrderedDict())
    result: nn.Module = copy.deepcopy(model, memo)
    return result


def fitting(plan: Plan, model: nn.Module) -> dict[str, torch.Tensor]:
    """The parameters and buffers that the plan cuts, by name. Raises `MismatchError`, with everything that does not fit."""
    tensors: dict[str, torch.Tensor] = dict(model.named_parameters(remove_duplicate=False))
    tensors.update(model.named_buffers(remove_duplicate=False))
    problems = [*_misshapen(plan, tensors), *_other_attributes(plan, model), *_other_ties(plan, tensors)]
    if problems:
        raise MismatchError(
            "the plan does not fit this model:",
            problems,
            "Execute it on the model that it was made for, before any other change.",
        )
    return {name: tensors[name] for name in plan.kept}


def _misshapen(plan: Plan, tensors: Mapping[str, torch.Tensor]) -> Iterator[str]:
    for name, sizes in plan.sizes.items():
        tensor = tensors.get(name)
        if tensor is None:
            yield f"the model has no parameter or buffer {name!r}"
            continue
        for dim, size in sizes.items():
            if dim >= tensor.ndim or tensor.shape[dim] != size:
                yield f"{name!r}: expected size {size} in dimension {dim}, met shape {tuple(tensor.shape)}"


def _other_attributes(plan: Plan, model: nn.Module) -> Iterator[str]:
    for edit in plan.edits:
        try:
            met = _read(model, edit.path)
        except (AttributeError, KeyError, IndexError, TypeError, ValueError):
            yield f"the model has no attribute {edit.path!r}"
            continue
        if isinstance(met, torch.Tensor) or met != edit.old:
            yield f"attribute {edit.path!r}: expected {edit.old}, met {met!r}"


def _other_ties(plan: Plan, tensors: Mapping[str, torch.Tensor]) -> Iterator[str]:
    """One tensor under several names must be cut alike under all of them, the ones that the plan does not reach included."""
    first_of: dict[int, tuple[str, Mapping[int, IndexSet]]] = {}
    for name, dims in plan.kept.items():
        if name in tensors:
            first, cut = first_of.setdefault(id(tensors[name]), (name, dims))
            if cut != dims:
                yield f"{first!r} and {name!r} are one tensor here, but the plan cuts them differently"
    reached = set(plan.kept)
    for name, tensor in tensors.items():
        if id(tensor) in first_of and name not in reached:
            yield f"{name!r} is tied to {first_of[id(tensor)][0]!r} here, but not in the model that was traced"


@outside_inference_mode
def _prepared(plan: Plan, model: nn.Module) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Check the plan against the model, then make every new tensor. Name to (old, new); tied names share both."""
    tensors = fitting(plan, model)
    new_of: dict[int, torch.Tensor] = {}
    distinct = {id(kept): kept for dims in plan.kept.values() for kept in dims.values()}
    positions = {number: torch.tensor(list(kept), dtype=torch.long) for number, kept in distinct.items()}
    for name, dims in plan.kept.items():
        old = tensors[name]
        if id(old) not in new_of:
            new_of[id(old)] = _smaller(old, {dim: positions[id(kept)] for dim, kept in dims.items()})
    return {name: (tensors[name], new_of[id(tensors[name])]) for name in plan.kept}


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
    for hooks in _HOOKS:
        if content := getattr(old, hooks, None):
            setattr(new, hooks, type(content)(content))  # its own: a hook that is added later belongs to one model alone
    if old.grad is not None:
        new.grad = select(old.grad)
    return new


def _move_hooks(old: torch.Tensor, new: torch.Tensor) -> None:
    """Let a tensor that takes the place of another have that one's hooks, so that the user's handles still remove them."""
    for hooks in _HOOKS:
        if content := getattr(old, hooks, None):
            setattr(new, hooks, content)


_HOOKS = ("_backward_hooks", "_post_accumulate_grad_hooks")


def _holders(model: Any, path: str) -> list[Any]:
    """The objects on the way to an attribute, from the model to the one that has it."""
    holders = [model]
    for name in path.split(".")[:-1]:
        holders.append(_child(holders[-1], name))
    return holders


def _child(holder: Any, name: str) -> Any:
    if isinstance(holder, (list, tuple)):
        return holder[int(name)]
    if isinstance(holder, dict):
        return holder[name] if name in holder else holder[int(name)]
    return getattr(holder, name)


def _read(model: nn.Module, path: str) -> Any:
    return _child(_holders(model, path)[-1], path.rpartition(".")[2])


def _write(model: nn.Module, path: str, value: Any) -> None:
    """Set an attribute by dotted path. A tuple on the way is replaced by one with the new element."""
    holder, last = _holders(model, path)[-1], path.rpartition(".")[2]
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


def _replace_tensors(module: nn.Module, new_of: Mapping[int, torch.Tensor]) -> None:
    """Put new tensors in the place of old ones, in attributes and in containers of the module's own, too.

    Containers are replaced instead of written to. A recurrent layer's list of flat weights is one of them; it is made anew,
    because on a GPU the weights must lie in one block of memory.
    """
    touched = False
    for tensors in (module._parameters, module._buffers):
        for name, tensor in tensors.items():
            if tensor is not None and id(tensor) in new_of:
                tensors[name] = new_of[id(tensor)]  # type: ignore[assignment]
                touched = True
    for name, content in list(module.__dict__.items()):
        if name not in _OWN_STATE:
            new = _replaced(content, new_of)
            if new is not content:
                module.__dict__[name] = new
    if touched and isinstance(module, nn.RNNBase):
        module._init_flat_weights()


_OWN_STATE = frozenset(vars(nn.Module()))
"""What every module holds: its registries and hooks."""


def _replaced(content: Any, new_of: Mapping[int, torch.Tensor]) -> Any:
    """The same container with the new tensors; the container itself if it holds none of the old ones."""
    if isinstance(content, torch.Tensor):
        return new_of.get(id(content), content)
    if type(content) in {list, tuple}:
        items = [_replaced(item, new_of) for item in content]
        unchanged = all(new is old for new, old in zip(items, content, strict=True))
        return content if unchanged else type(content)(items)
    if type(content) is dict:
        values = {key: _replaced(item, new_of) for key, item in content.items()}
        return content if all(values[key] is item for key, item in content.items()) else values
    return content


def _computed_tensors(model: nn.Module) -> dict[int, torch.Tensor]:
    """Copies of tensors that modules keep from a forward, such as weight_norm's weight: deepcopy refuses these."""
    return {
        id(content): content.detach().clone()
        for module in model.modules()
        for content in module.__dict__.values()
        if isinstance(content, torch.Tensor) and not content.is_leaf
    }
