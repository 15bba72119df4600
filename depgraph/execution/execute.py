"""Apply a plan to a module's tensors: the only writer. It knows plans, not rules and not the tracer.

Everything is checked and every new tensor is made before the first write; a failure leaves the module as it was.
"""

from __future__ import annotations

import copy
import types
from array import array
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import nn

from depgraph.algebra.indices import IndexSet
from depgraph.collector import without_collections
from depgraph.errors import MismatchError, PlanError
from depgraph.execution.attributes import OWN_STATE, holders, other_attributes, other_in_copy, write
from depgraph.execution.drops import drop_elements, other_sequences, written_paths
from depgraph.execution.fsdp import Regrouping, to_shards
from depgraph.execution.quantised import quantised_slice, refuse_quantised
from depgraph.execution.releasing import Releasing, ordered_as
from depgraph.execution.repairs import Repair, checked_repair
from depgraph.execution.shards import cut_shard, shard_of, shard_problems, told_by_all_ranks, whole
from depgraph.messages import number_text, shortened
from depgraph.plans.checking import is_well_typed
from depgraph.plans.plan import Plan
from depgraph.running import outside_inference_mode
from depgraph.unsupported import is_made_of_parts, replaceable, sliceable, supported, supported_in_shards
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
    before, releasing = _State(model, [*(edit.path for edit in plan.writes), *written_paths(plan, model)]), Releasing()
    records: Regrouping | None = None
    try:
        smaller = _sliced(plan, tensors, releasing.taken) if release else smaller
        new_of = {id(old): new for old, new in smaller.values()}
        records = Regrouping(model, new_of)
        for old, new in smaller.values():
            _move_hooks(old, new)
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
    tied = {name for pair in _overlaps(model) for name in pair}
    storages: dict[int, torch.UntypedStorage] = {}
    for name, parameter in model.named_parameters():
        if id(parameter) not in memo:
            values = _same_place(parameter, storages) if name in tied else parameter.detach().clone()
            memo[id(parameter)] = like(parameter, values, lambda gradient: gradient.clone())
    memo.update(_computed_tensors(model))
    modules = list(model.modules())
    for module in modules:
        for content in vars(module).values():  # a dozen empty dictionaries for hooks in each module, which deepcopy takes apart
            if type(content) is OrderedDict and not content and not vars(content):
                memo.setdefault(id(content), OrderedDict())
    if not any(map(_has_own_copying, {type(module) for module in modules})):
        _copy_trees(modules, memo)
    for module in reversed(modules):  # the innermost first: deepcopy does not go from one into the next
        copy.deepcopy(module, memo)
    result: nn.Module = memo[id(model)]
    return result


def _same_place(parameter: nn.Parameter, storages: dict[int, torch.UntypedStorage]) -> torch.Tensor:
    """The same place in a copy of the parameter's storage: what shares memory in the model shares it in the copy."""
    storage = parameter.untyped_storage()
    if storage.data_ptr() not in storages:
        storages[storage.data_ptr()] = storage.clone()  # type: ignore[no-untyped-call]
    values = torch.empty(0, dtype=parameter.dtype, device=parameter.device)
    return values.set_(storages[storage.data_ptr()], parameter.storage_offset(), parameter.shape, parameter.stride())


_COPYING = ("__deepcopy__", "__reduce__", "__reduce_ex__", "__getstate__", "__getnewargs__", "__getnewargs_ex__", "__slots__")


def _has_own_copying(kind: type[nn.Module]) -> bool:
    """Whether a class of modules says itself how it is copied. Torch's own layers only add what old pickles lack to a state."""
    own = [vars(base) for base in kind.__mro__ if base not in nn.Module.__mro__]
    restores = any("__setstate__" in names and not names["__module__"].startswith("torch.nn.modules.") for names in own)
    return restores or any(name in names for names in own for name in _COPYING)


def _copy_trees(modules: Sequence[nn.Module], memo: dict[int, Any]) -> None:
    """Put the copy of each module in the memo as deepcopy would make it, which asks a dozen questions for each attribute.

    Registries and plain values come first, so that a class that is copied in a way of its own meets modules that are whole.
    """
    for module in modules:
        memo[id(module)] = object.__new__(type(module))
    others: list[tuple[dict[str, Any], str, Any]] = []
    for module in modules:
        clone, state = memo[id(module)], module.__getstate__()  # type: ignore[no-untyped-call]
        for name, content in state.items():
            if name in ("_parameters", "_modules") and type(content) is dict:
                state[name] = {key: memo.get(id(item)) for key, item in content.items()}
            elif type(content) not in _VALUES:
                state[name] = memo.get(id(content), content)
                others.append((vars(clone), name, content))
        clone.__setstate__(state)
    for state, name, content in others:
        state[name] = copy.deepcopy(content, memo)


_VALUES = frozenset({int, float, bool, str, type(None)})


def fitting(plan: Plan, model: nn.Module) -> dict[str, torch.Tensor]:
    """The parameters and buffers that the plan cuts, by name. Raises `MismatchError`, with everything that does not fit."""
    tensors = named_tensors(model, every_name=True)
    problems = [*plan.problems]
    if not problems or is_well_typed(plan):
        problems += [*_shape_problems(plan, tensors), *other_attributes(plan, model), *other_sequences(plan, model)]
    if not problems:  # sizes are those of tensors that are there: only now are indices listed
        problems += [*_tie_problems(plan, tensors), *_shared_memory(plan, model)]
    uneven = [] if problems else [*shard_problems(plan, tensors, model)]
    problems = told_by_all_ranks(plan, tensors, problems or uneven)
    if problems:
        raise MismatchError(
            "the plan is damaged:" if plan.problems else "the plan does not fit this model:",
            problems,
            "Make the plan with round_to= for these groups, so that ranks can divide what stays; or prune the checkpoint."
            if uneven
            else "Execute it on the model that it was made for, before any other change.",
        )
    return {name: tensors[name] for name in plan.kept}


def _shape_problems(plan: Plan, tensors: Mapping[str, torch.Tensor]) -> Iterator[str]:
    for name, sizes in plan.sizes.items():
        tensor = tensors.get(name)
        if tensor is None:
            yield f"the model has no parameter or buffer {shortened(repr(name))}"
            continue
        yield from other_sizes(name, sizes, tuple(tensor.shape))


def other_sizes(name: str, sizes: Mapping[int, int], shape: tuple[int, ...]) -> Iterator[str]:
    """The dimensions of a tensor that have other sizes than a plan expects, one sentence each."""
    for dim, size in sizes.items():
        if not 0 <= dim < len(shape) or shape[dim] != size:
            expected = f"expected size {number_text(size)} in dimension {number_text(dim)}"
            yield f"{name!r}: {expected}, met shape {shape}"


def _tie_problems(plan: Plan, tensors: Mapping[str, torch.Tensor]) -> Iterator[str]:
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


def _shared_memory(plan: Plan, model: nn.Module) -> Iterator[str]:
    """Two parameters that share memory would be separate after the cut, and diverge in training."""
    for one, other in _overlaps(model):
        if one in plan.kept or other in plan.kept:
            yield (
                f"{one!r} and {other!r} are two parameters that share memory, which a cut would part; make them one, as in "
                "`layer.weight = other_layer.weight`, or give each its own by `.clone()`, and trace again"
            )


def _overlaps(model: nn.Module) -> list[tuple[str, str]]:
    """Names of parameters that are different objects over the same memory. Disjoint parts of one flat buffer do not count."""
    by_storage: dict[int, list[tuple[int, int, str, nn.Parameter]]] = {}
    for name, parameter in model.named_parameters():
        if (
            parameter.layout is torch.strided
            and not (parameter.is_meta or is_made_of_parts(parameter) or is_sharded(parameter))
            and parameter.numel()
        ):
            start = int(parameter.storage_offset())
            last = sum((int(size) - 1) * int(step) for size, step in zip(parameter.shape, parameter.stride(), strict=True))
            place = parameter.untyped_storage().data_ptr()
            by_storage.setdefault(place, []).append((start, start + last, name, parameter))
    pairs = []
    for parts in by_storage.values():
        parts.sort(key=lambda part: part[0])
        for position, (_, end, name, parameter) in enumerate(parts):
            for start, _, other_name, other in parts[position + 1 :]:
                if start > end:
                    break
                if _share_elements(parameter, other):
                    pairs.append((name, other_name))
    return pairs


def _share_elements(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors that reach into the same stretch of a storage share a number there: columns may lie in between."""
    if one.dtype != other.dtype:
        return True
    marks = torch.zeros(one.untyped_storage().nbytes() // one.element_size(), dtype=torch.bool)
    marks.as_strided(one.shape, one.stride(), one.storage_offset()).fill_(True)
    return bool(marks.as_strided(other.shape, other.stride(), other.storage_offset()).any())


@outside_inference_mode
def _prepared(plan: Plan, model: nn.Module, repair: Repair | None) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Check the plan against the model, then make every new tensor. Name to (old, new); tied names share both."""
    smaller = _sliced(plan, fitting(plan, model))
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


def _index_selected(tensor: torch.Tensor, positions: Mapping[int, torch.Tensor]) -> torch.Tensor:
    """What the positions select of each dimension."""
    result = tensor.detach()
    for dim, index in positions.items():
        result = result.index_select(dim, index.to(result.device))
    return ordered_as(tensor, result)


@outside_inference_mode
def _sliced(
    plan: Plan, tensors: Mapping[str, torch.Tensor], take: Callable[..., torch.Tensor] = _index_selected
) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    new_of: dict[int, torch.Tensor] = {}
    distinct = {id(indices): indices for dims in plan.kept.values() for indices in dims.values()}
    positions = {number: positions_of(indices) for number, indices in distinct.items()}
    kept = {name: {dim: positions[id(indices)] for dim, indices in dims.items()} for name, dims in plan.kept.items()}
    refuse_quantised(tensors, kept)
    for name in plan.kept:
        old = tensors[name]
        if id(old) not in new_of:
            new_of[id(old)] = selected(old, kept[name], take)
    return {name: (tensors[name], new_of[id(tensors[name])]) for name in plan.kept}


def positions_of(indices: IndexSet) -> torch.Tensor:
    """The indices as a tensor that selects."""
    return torch.frombuffer(array("q", indices), dtype=torch.long)


def selected(
    tensor: torch.Tensor, positions: Mapping[int, torch.Tensor], take: Callable[..., torch.Tensor] = _index_selected
) -> torch.Tensor:
    """The tensor with what the positions select of each dimension, and its gradient cut alongside."""

    def select(source: torch.Tensor) -> torch.Tensor:
        if is_sharded(source):
            return cut_shard(source, positions)  # type: ignore[arg-type]
        return quantised_slice(source, positions) if is_made_of_parts(source) else take(source, positions)

    return like(tensor, select(tensor), select)


def like(old: torch.Tensor, data: torch.Tensor, select: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """A tensor of the old one's class and marks around new data."""
    if isinstance(old, nn.Parameter):
        new: torch.Tensor = nn.Parameter(data, requires_grad=old.requires_grad)
        if type(old) is not nn.Parameter and not isinstance(new, type(old)):
            new = data.as_subclass(type(old)).requires_grad_(old.requires_grad)
    else:
        new = data.requires_grad_(old.requires_grad)
    own = vars(new) if is_made_of_parts(old) else ("_is_param",)  # numbers and scales lie in its attributes
    new.__dict__.update({key: value for key, value in old.__dict__.items() if key not in own})
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


def _computed_tensors(model: nn.Module) -> dict[int, torch.Tensor]:
    """Detached copies of tensors that modules keep from a forward, however deep: deepcopy refuses these.

    Such are weight_norm's weight, losses and features in lists, attention maps in a dataclass.
    """
    computed: dict[int, torch.Tensor] = {}
    seen: set[int] = set()
    pending: list[Any] = [model]
    while pending:
        content = pending.pop()
        if id(content) in seen or isinstance(content, _WITHOUT_TENSORS):
            continue
        seen.add(id(content))
        if isinstance(content, torch.Tensor):
            if not content.is_leaf:
                computed[id(content)] = content.detach().clone()
            continue
        if isinstance(content, dict):
            pending.extend(content.values())
        elif isinstance(content, (list, tuple, set, frozenset, deque)):
            pending.extend(content)
        pending.extend(getattr(content, "__dict__", {}).values())
        pending.extend(getattr(content, name) for name in _slots(type(content)) if hasattr(content, name))  # type: ignore[arg-type]
    return computed


_WITHOUT_TENSORS = (str, bytes, int, float, type, types.FunctionType, types.BuiltinFunctionType, types.ModuleType)
"""What holds no tensor, or is not copied."""


@cache
def _slots(kind: type) -> tuple[str, ...]:
    """The names of attributes that a class keeps in slots, such as those of a dataclass with ``slots=True``."""
    return tuple(
        name
        for base in kind.__mro__
        for name, content in vars(base).items()
        if isinstance(content, types.MemberDescriptorType) and not base.__module__.startswith(("builtins", "torch"))
    )
