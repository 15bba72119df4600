"""Apply a plan to a module's tensors: the only writer. It knows plans, not rules and not the tracer.

Everything is checked and every new tensor is made before the first write; a failure leaves the module as it was.
"""

from __future__ import annotations

import copy
from collections import OrderedDict, defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from depgraph.collector import without_collections
from depgraph.errors import MismatchError, PlanError
from depgraph.execution.attributes import OWN_STATE, holders, other_in_copy, write
from depgraph.execution.copying import copied
from depgraph.execution.drops import drop_elements, written_paths
from depgraph.execution.fitting import checked, fitting
from depgraph.execution.fsdp import Regrouping, to_shards
from depgraph.execution.releasing import Releasing
from depgraph.execution.repairs import Repair, checked_repair
from depgraph.execution.shards import shard_of, whole
from depgraph.execution.slicing import like, move_hooks, sliced
from depgraph.plans.plan import Plan
from depgraph.running import outside_inference_mode
from depgraph.unsupported import replaceable, sliceable, supported, supported_in_shards
from depgraph.weights import named_tensors
from depgraph.wrappers import is_sharded, unwrap


@without_collections()
def execute(plan: Plan, model: nn.Module, *, repair: Repair | None = None) -> nn.Module:
    """A new module with the plan applied. The given one is untouched, and shares no tensor with it.

    Device, dtype, `requires_grad`, memory format, training flags, hooks and gradients are kept, gradients cut alongside. Tied
    parameters stay tied; ones that only share memory are refused where the plan would part them. A tensor that a forward left
    in an attribute, in whatever container, is copied without its history.

    `parameter_map` gives the old and new parameters in pairs.

    Args:
        plan: what to remove.
        model: the module that it was made for; compiled and data-parallel wrappers are looked through.
        repair: what `refit` gave for this plan and this model: new values for what stays.

    Raises:
        PlanError: the arguments are no plan and no module, or `repair` is none.
        MismatchError: the model's shapes or attributes are not those that the plan expects, or the repair belongs to another
            plan or to other weights; every mismatch is listed.

    >>> import depgraph as dg
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> plan = dg.cut(dg.trace(model, torch.zeros(1, 4)), "0.weight", [2, 6], dim=0)
    >>> small = dg.execute(plan, model)
    >>> small[0], small[2]
    (Linear(in_features=4, out_features=6, bias=True), Linear(in_features=6, out_features=2, bias=True))
    >>> model[0]
    Linear(in_features=4, out_features=8, bias=True)
    >>> torch.equal(small[2].weight, model[2].weight[:, [0, 1, 3, 4, 5, 7]])
    True
    """
    model = checked(plan, model, sliceable if repair is None else supported)
    smaller = _prepared(plan, model, repair)
    result = copied(model, {id(old): new for old, new in smaller.values()})
    problems = [*other_in_copy(plan, model, result)]
    if problems:
        raise MismatchError(
            "a copy of the model does not hold what is to be edited:", problems, "Use execute_, which changes the model itself."
        )
    for edit in plan.writes:
        write(result, edit.path, edit.new)
    _add_biases(result, repair)
    drop_elements(plan, result)
    for module in result.modules():
        if isinstance(module, nn.RNNBase):
            module._init_flat_weights()
    return result


def execute_(
    plan: Plan, model: nn.Module, *, repair: Repair | None = None, release: bool = False
) -> dict[nn.Parameter, nn.Parameter]:
    """Apply the plan in place, all or nothing; with a repair, its new values as well.

    A model that `fully_shard`, tensor parallelism or both have spread over ranks is pruned where it is: every rank calls this
    with the same plan, and they exchange what moves from one shard to another. No rank holds more than its shards, old and new,
    and what it sends and receives of one parameter. The model trains on; make optimizers anew, or carry their state.

    Every new tensor is made before the first write, while the old ones are there. With `release`, each replaced tensor is
    emptied as soon as its successor is made, and what went of it is kept until the end, so that a failure still brings all of
    it back: beside the model there is then never more than its largest tensor. One whose memory something else shares, such as
    a view of it, keeps its values.

    Args:
        plan: what to remove.
        model: the module that it was made for; compiled and data-parallel wrappers are looked through.
        repair: what `refit` gave for this plan and this model: new values for what stays.
        release: whether the replaced parameters lose their values, for whoever still holds them, and their memory.

    Returns:
        The map from each replaced parameter to the one that stands in its place, for optimizers and the like.

    Raises:
        PlanError: the arguments are no plan and no module; or `release` is asked for together with a repair, or of parameters
            that have gradients.
        MismatchError: the model's shapes or attributes are not those that the plan expects; nothing was changed.
        UnsupportedError: the model is offloaded or quantised; or `FullyShardedDataParallel` has flattened its parameters; or
            it is wrapped in `DistributedDataParallel`, which would not join the gradients of the new parameters: execute on
            the module inside, and wrap anew.

    >>> import depgraph as dg
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> plan = dg.cut(dg.trace(model, torch.zeros(1, 4)), "0.weight", [2, 6], dim=0)
    >>> first, last_bias = model[0].weight, model[2].bias
    >>> replaced = dg.execute_(plan, model)
    >>> replaced[first] is model[0].weight, tuple(model[0].weight.shape)
    (True, (6, 4))
    >>> last_bias in replaced, last_bias is model[2].bias          # what the plan does not reach stays the same object
    (False, True)
    """
    model = checked(plan, model, replaceable)
    if repair is not None:
        supported_in_shards(model)
    to_shards(model)
    smaller = {} if release else _prepared(plan, model, repair)
    tensors = _releasable(fitting(plan, model), repair) if release else {}
    before, releasing = _State(model, [*(edit.path for edit in plan.writes), *written_paths(plan)]), Releasing()
    records: Regrouping | None = None
    try:
        smaller = sliced(plan, tensors, releasing.taken) if release else smaller
        new_of = {id(old): new for old, new in smaller.values()}
        records = Regrouping(model, new_of)
        for old, new in smaller.values():
            move_hooks(old, new)
        records.write()
        for module in model.modules():
            _replace_tensors(module, new_of)
        for edit in plan.writes:
            write(model, edit.path, edit.new)
        _add_biases(model, repair)
        drop_elements(plan, model)
        return {old: new for old, new in smaller.values() if isinstance(old, nn.Parameter)}  # type: ignore[misc]
    except BaseException:
        try:
            before.restore()
            if records is not None:
                records.restore()
        finally:
            releasing.undo()
        raise


def _releasable(tensors: dict[str, torch.Tensor], repair: Repair | None) -> dict[str, torch.Tensor]:
    """The tensors, if what they are can be brought back from what stays and what goes. Raises `PlanError` else."""
    spread = [name for name, tensor in tensors.items() if is_sharded(tensor)]
    if spread:
        raise PlanError(f"release=True takes no weights that are spread over ranks, met {spread[0]!r}. Nothing was changed.")
    graded = list({id(tensor): name for name, tensor in reversed(tensors.items()) if tensor.grad is not None}.values())
    if repair is not None or graded:
        met = "repair=" if repair is not None else f"gradients, of {graded[-1]!r} and {len(graded) - 1} others"
        fix = "write the repair without release=" if repair is not None else "call zero_grad() first"
        raise PlanError(f"release=True brings back values that were cut, and no others: met {met}; {fix}. Nothing was changed.")
    return tensors


def _add_biases(model: nn.Module, repair: Repair | None) -> None:
    """Register the biases that a repair adds to layers without one."""
    for name in () if repair is None else repair.added:
        module = model.get_submodule(name.rpartition(".")[0])
        weight = module._parameters["weight"]
        assert repair is not None and weight is not None
        bias = repair.values[name].to(weight.device, weight.dtype, copy=True)
        module.register_parameter("bias", nn.Parameter(bias, requires_grad=weight.requires_grad))


class _State:
    """A module tree's content before it is written to, to be restored: the very objects, in the same order.

    Noted are the attributes and the registries of every module, so that whatever a setter of the user's own writes beside the
    attribute of an edit goes back, too, and the objects between the modules and the edits, such as configs and lists.
    """

    def __init__(self, model: nn.Module, paths: Sequence[str]) -> None:
        self._dicts: list[tuple[dict[Any, Any], dict[Any, Any]]] = []
        self._lists: list[tuple[list[Any], list[Any]]] = []
        own = [module.__dict__ for module in model.modules()]
        on_the_way = {id(holder): holder for path in paths for holder in holders(model, path)}
        configs = [vars(holder) for holder in on_the_way.values() if hasattr(holder, "__dict__")]
        inside = [value for attributes in own for value in attributes.values()]
        for holder in {id(item): item for item in (*own, *configs, *inside, *on_the_way.values())}.values():
            if isinstance(holder, list):
                self._lists.append((holder, list(holder)))
            elif isinstance(holder, dict):
                self._dicts.append((holder, dict(holder)))

    def restore(self) -> None:
        """Put everything back: each value in its place, in the same order."""
        for attributes, content in self._dicts:
            if len(attributes) != len(content) or any(
                key not in attributes or attributes[key] is not value for key, value in content.items()
            ):
                attributes.clear()
                attributes.update(content)
        for items, elements in self._lists:
            items[:] = elements


def parameter_map(before: nn.Module, after: nn.Module, plan: Plan | None = None) -> dict[nn.Parameter, nn.Parameter]:
    """Each parameter of a model with the one of the same name in its pruned copy.

    Args:
        before: the model that was given to `execute`.
        after: what it returned.
        plan: what was executed; needed where it drops elements of lists, for others move up. Theirs are left out.

    Raises:
        MismatchError: `after` lacks parameters of `before`.

    >>> import depgraph as dg
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> small = dg.execute(dg.cut(dg.trace(model, torch.zeros(1, 4)), "0.weight", [2, 6], dim=0), model)
    >>> [(tuple(old.shape), tuple(new.shape)) for old, new in dg.parameter_map(model, small).items()]
    [((8, 4), (6, 4)), ((8,), (6,)), ((2, 8), (2, 6)), ((2,), (2,))]
    """
    old, new = (dict(unwrap(model).named_parameters(remove_duplicate=False)) for model in (before, after))
    name_after = {name: name if plan is None else plan.name_after(name) for name in old}
    missing = [f"there is no parameter {name!r}" for name in name_after.values() if name is not None and name not in new]
    if missing:
        raise MismatchError(
            "the second model is no pruned copy of the first one:", missing, "Pass what dg.execute returned for that model."
        )
    return {old[name]: new[after] for name, after in name_after.items() if after is not None}


@outside_inference_mode
def _prepared(plan: Plan, model: nn.Module, repair: Repair | None) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Check the plan against the model, then make every new tensor. Name to (old, new); tied names share both."""
    smaller = sliced(plan, fitting(plan, model))
    if repair is not None:
        tensors = named_tensors(model)
        after = {name: smaller[name][1] if name in smaller else tensor for name, tensor in tensors.items()}
        for name, values in checked_repair(repair, lambda repair: _repair_problems(repair, plan, model, after)).values.items():
            if name in repair.added:
                continue
            if name not in smaller:
                data = torch.empty_like(tensors[name], requires_grad=False)
                smaller[name] = (tensors[name], like(tensors[name], data, lambda gradient: gradient.clone()))
            new = smaller[name][1].detach()
            new.copy_(shard_of(values, new) if is_sharded(new) else values)  # type: ignore[arg-type]
    return smaller


def _repair_problems(repair: Repair, plan: Plan, model: nn.Module, after: Mapping[str, torch.Tensor]) -> Iterable[str]:
    """What speaks against a repair. Of weights that are spread over ranks, those that it replaces are gathered one by one."""
    tensors = named_tensors(model)
    if not any(map(is_sharded, tensors.values())):
        return repair.problems(plan, model, after)
    if repair.added:
        return [f"it adds {', '.join(map(repr, repair.added))}: a model that is spread over ranks takes no new parameters"]
    sizes = {name: tuple(tensor.shape) for name, tensor in after.items()}
    return repair.problems_with_tensors(plan, sizes, lambda name: whole(tensors[name]))


def _replace_tensors(module: nn.Module, new_of: Mapping[int, torch.Tensor]) -> None:
    """Put new tensors in the place of old ones, in attributes and in containers of the module's own, too.

    Containers are replaced instead of written to. A recurrent layer's list of flat weights is one of them; it is made anew,
    because on a GPU the weights must lie in one block of memory.
    """
    has_new_tensors = False
    for tensors in (module._parameters, module._buffers):
        for name, tensor in tensors.items():
            if tensor is not None and id(tensor) in new_of:
                tensors[name] = new_of[id(tensor)]  # type: ignore[assignment]
                has_new_tensors = True
    for name, content in list(module.__dict__.items()):
        if name not in OWN_STATE:
            new = _replaced(content, new_of)
            if new is not content:
                module.__dict__[name] = new
    if has_new_tensors and isinstance(module, nn.RNNBase):
        module._init_flat_weights()


def _replaced(content: Any, new_of: Mapping[int, torch.Tensor]) -> Any:
    """The same container with the new tensors; the container itself if it holds none of the old ones."""
    if isinstance(content, torch.Tensor):
        return new_of.get(id(content), content)
    if type(content) in {list, tuple, set, frozenset, deque}:
        items = [_replaced(item, new_of) for item in content]
        unchanged = all(new is old for new, old in zip(items, content, strict=True))
        return content if unchanged else deque(items, content.maxlen) if type(content) is deque else type(content)(items)
    if type(content) in {dict, OrderedDict, defaultdict}:
        values = {key: _replaced(item, new_of) for key, item in content.items()}
        if all(values[key] is item for key, item in content.items()):
            return content
        new = copy.copy(content)
        new.update(values)
        return new
    return content
