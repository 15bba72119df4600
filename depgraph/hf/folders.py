"""Folders as transformers has them, with the plan beside the weights: written whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from attrs import frozen

from depgraph import codec
from depgraph.errors import MismatchError, PlanError
from depgraph.execution.execute import execute_
from depgraph.hf.building import built, checked_model, library, unsaved_buffers
from depgraph.hf.keys import RECORD, Number, checked_values, set_values
from depgraph.hf.solving import Solution, described, same_values, solution_of
from depgraph.plans.plan import Plan
from depgraph.weights import named_tensors

PLAN, BUFFERS = "depgraph_plan.json", "depgraph_buffers.safetensors"
_SHOWN = 3


@frozen
class Saved:
    """What `save_pretrained` wrote.

    Attributes:
        folder: where.
        stock: whether `from_pretrained` of transformers loads the folder and gives the same model.
        keys: configuration key to (old value, new value).
        problems: why not, a sentence each.

    >>> import depgraph as dg
    >>> print(dg.hf.Saved(Path("small"), True, {"intermediate_size": (64, 32)}, ()))
    small: transformers loads it; changed keys: intermediate_size 64 -> 32
    """

    folder: Path
    stock: bool
    keys: dict[str, tuple[Number | None, Number | None]]
    problems: tuple[str, ...]

    def __str__(self) -> str:
        keys = described({key: new for key, (_, new) in self.keys.items()}, {key: old for key, (old, _) in self.keys.items()})
        if self.stock:
            return f"{self.folder}: transformers loads it; changed keys: {keys}"
        more = f"; and {len(self.problems) - _SHOWN} more" if len(self.problems) > _SHOWN else ""
        return (
            f"{self.folder}: load it with dg.hf.from_pretrained, for no configuration gives this model: "
            f"{'; '.join(self.problems[:_SHOWN])}{more}"
        )


def save_pretrained(
    plan: Plan,
    model: Any,
    folder: str | Path,
    *,
    tokenizer: Any = None,
    max_shard_size: int | str = "5GB",
    replace: bool = False,
) -> Saved:
    """Write a pruned model of transformers to a folder, from which it can be loaded.

    Where a configuration with other numbers gives the pruned model, the folder has this configuration, and transformers itself
    loads it. Where layers differ, this takes a class that reads the sizes in question from the configuration's
    ``per_layer_config``, which few do. Where no configuration gives the model, the folder has the original one, and
    `dg.hf.from_pretrained` loads it, whatever the class. Which it is, and why, is what is returned. The plan is in the folder,
    either way.

    transformers computes buffers that no checkpoint holds, such as rotary frequencies, in their own precision. A model that was
    cast as a whole, as by ``.to(torch.bfloat16)``, has rounded ones, and differs from a stock model by as much;
    `dg.hf.from_pretrained` gives rounded ones back where it applies the plan.

    Args:
        plan: what was removed.
        model: what `dg.execute` returned, fine-tuned or not. It is not changed.
        folder: where to; it must not exist, or be replaced.
        tokenizer: a tokenizer or processor that is saved along.
        max_shard_size: the largest size of a file of weights, in bytes or as in ``"5GB"``.
        replace: whether a folder that exists is replaced whole.

    Raises:
        PlanError: the arguments are no plan and no model of transformers, or the folder exists.
        MismatchError: the model is not what the plan makes of a model with its configuration.

    >>> import depgraph as dg
    >>> model = LlamaForCausalLM.from_pretrained("original")                                        # doctest: +SKIP
    >>> graph = dg.trace(model, kwargs={"input_ids": torch.arange(8)[None]})                        # doctest: +SKIP
    >>> plan = dg.plan(graph, dg.score(graph, model, dg.Magnitude()), ratio={"*.mlp": 0.5})         # doctest: +SKIP
    >>> print(dg.hf.save_pretrained(plan, dg.execute(plan, model), "small"))                        # doctest: +SKIP
    small: transformers loads it; changed keys: intermediate_size 128 -> 64
    >>> linear = torch.nn.Linear(4, 2)
    >>> dg.hf.save_pretrained(dg.Plan.empty(dg.trace(linear, torch.zeros(1, 4))), linear, "small")
    Traceback (most recent call last):
        ...
    depgraph.errors.PlanError: expected a Plan and a model of transformers, met (Plan, Linear). Nothing was changed.
    """
    checked_model(plan, model)
    folder = Path(folder)
    check_new(folder, replace)
    solution = solution_of(plan, model)
    restored = None if not solution.problems else _restored(plan, model, solution)
    folder.parent.mkdir(parents=True, exist_ok=True)
    codec.write_whole_folder(
        folder,
        lambda empty: _write(empty, plan, model, solution, restored, tokenizer, max_shard_size),
        replace=replace,
    )
    keys = {key: (solution.before.get(key), value) for key, value in solution.values.items()}
    return Saved(folder, not solution.problems, keys, solution.problems)


def check_new(folder: Path, replace: bool) -> None:
    """Raise `PlanError` for a folder that exists and may not be replaced."""
    if folder.exists() and not (replace and folder.is_dir()):
        fix = "give replace=True to replace it whole" if folder.is_dir() else "it is a file"
        raise PlanError(f"{str(folder)!r} exists: expected a new folder; {fix}. Nothing was changed.")


def _restored(plan: Plan, model: Any, solution: Solution) -> Any:
    """What `from_pretrained` will make of the folder, before the weights come."""
    restored = built(type(model), solution.original, buffers=True)
    execute_(plan, restored)
    fresh, own = (named_tensors(each, every_name=True) for each in (restored, model))
    problems = [
        f"{name!r}: expected shape {tuple(fresh[name].shape)}, met {tuple(own[name].shape)}"
        if name in fresh and name in own
        else f"{name!r} is in one of the two models only"
        for name in {**fresh, **own}
        if name not in fresh or name not in own or fresh[name].shape != own[name].shape
    ]
    if problems:
        raise MismatchError(
            "the model is not what the plan makes of a model with its configuration:",
            problems,
            "Pass the plan together with what dg.execute(plan, model) returned.",
        )
    return restored


def _write(
    folder: Path, plan: Plan, model: Any, solution: Solution, restored: Any, tokenizer: Any, max_shard_size: int | str
) -> None:
    config, attributes = model.config, dict(vars(model.config))
    stock = restored is None
    try:
        model.save_pretrained(folder, max_shard_size=max_shard_size, save_original_format=stock)
        stored = solution.config if stock else solution.original
        stored.architectures, stored.dtype = config.architectures, config.dtype
    finally:
        vars(config).clear()
        vars(config).update(attributes)
    record: dict[str, Any] = {"stock": stock, "values": solution.values}
    if not stock:
        record.update(
            before=solution.before,
            added=list(solution.added),
            note="load this folder with depgraph.hf.from_pretrained: its layers are not what this file says",
        )
    setattr(stored, RECORD, record)
    stored.to_json_file(folder / "config.json", use_diff=False)
    plan.save(folder / PLAN)
    if not stock:
        fresh = unsaved_buffers(restored)
        other = {
            name: buffer
            for name, buffer in unsaved_buffers(model).items()
            if buffer.dtype != fresh[name].dtype or not same_values(buffer, fresh[name])
        }
        if other:
            from safetensors.torch import save_file

            save_file({name: buffer.detach().cpu().clone() for name, buffer in other.items()}, folder / BUFFERS)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)


def from_pretrained(
    folder: str | Path,
    *,
    model_class: type[Any] | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
) -> Any:
    """The pruned model that `save_pretrained` wrote, in evaluation mode. The original weights are not needed.

    Args:
        folder: what `save_pretrained` wrote.
        model_class: the model's class, if it is none of transformers' own.
        device: where the model is to be.
        dtype: of its floating-point weights; None keeps what was saved. Buffers that no checkpoint holds keep theirs.

    Raises:
        PlanError: the folder was not written by `save_pretrained`, or its class is unknown.
        DocumentError: the plan in the folder is damaged.
        MismatchError: plan, configuration and weights do not belong together.

    >>> import depgraph as dg
    >>> small = dg.hf.from_pretrained("small", dtype=torch.bfloat16)                # doctest: +SKIP
    >>> dg.hf.from_pretrained("elsewhere")
    Traceback (most recent call last):
        ...
    depgraph.errors.PlanError: 'elsewhere' has no config.json and no depgraph_plan.json: pass what dg.hf.save_pretrained wrote.
    """
    folder = Path(folder)
    missing = [name for name in ("config.json", PLAN) if not (folder / name).is_file()]
    if missing:
        raise PlanError(f"{str(folder)!r} has no {' and no '.join(missing)}: pass what dg.hf.save_pretrained wrote.")
    transformers = library()
    stored = json.loads((folder / "config.json").read_text())
    record = stored.get(RECORD)
    record = record if isinstance(record, dict) else {}
    model_class = model_class or class_of(transformers, stored.get("architectures"))
    plan = Plan.load(folder / PLAN)
    if record.get("stock"):
        return model_class.from_pretrained(folder, **({} if dtype is None else {"dtype": dtype})).to(device).eval()
    config = model_class.config_class.from_pretrained(folder)
    if hasattr(config, RECORD):
        delattr(config, RECORD)
    model: Any = built(model_class, config, buffers=True)
    execute_(plan, model)
    _load(model, folder, dtype)
    set_values(model.config, checked_values(record.get("values")))
    setattr(model.config, RECORD, {"before": record.get("before"), "added": record.get("added")})
    if model.can_generate() and (folder / "generation_config.json").is_file():
        model.generation_config = transformers.GenerationConfig.from_pretrained(folder)
    return model.to(device).eval()


def class_of(transformers: Any, names: Any) -> type[Any]:
    """The first class of transformers that a configuration names as its architectures."""
    for name in names or ():
        found = getattr(transformers, name, None)
        if isinstance(found, type) and issubclass(found, transformers.PreTrainedModel):
            return found
    raise PlanError(f"no class of transformers is called {names}; give model_class=. Nothing was changed.")


def _load(model: Any, folder: Path, dtype: torch.dtype | None) -> None:
    """Put the folder's weights in the place of what has no values. Raises `MismatchError` where they do not fit."""
    from safetensors.torch import load_file

    paths = [path for path in sorted(folder.glob("*.safetensors")) if path.name != BUFFERS]
    weights = {name: tensor for path in paths for name, tensor in load_file(path).items()}
    expected = model.state_dict(keep_vars=True)
    problems = [
        f"{name!r}: expected shape {tuple(expected[name].shape)}, met {tuple(tensor.shape)}"
        if name in expected
        else f"the model has no {name!r}"
        for name, tensor in weights.items()
        if name not in expected or expected[name].shape != tensor.shape
    ]
    tied = {id(expected[name]) for name in weights if name in expected}
    problems += [f"no weights for {name!r}" for name, tensor in expected.items() if tensor.is_meta and id(tensor) not in tied]
    if problems:
        raise MismatchError("the folder's weights are not those of its plan:", problems, "Save the model again.")
    if dtype is not None:
        weights = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in weights.items()}
    flags = {name: parameter.requires_grad for name, parameter in model.named_parameters(remove_duplicate=False)}
    model.load_state_dict(weights, strict=False, assign=True)
    model.tie_weights()
    for name, parameter in model.named_parameters(remove_duplicate=False):
        parameter.requires_grad_(flags[name] and parameter.is_floating_point())
    if (folder / BUFFERS).is_file():
        buffers = dict(model.named_buffers(remove_duplicate=False))
        for name, values in load_file(folder / BUFFERS).items():
            module, _, last = name.rpartition(".")
            if name in buffers:
                model.get_submodule(module)._buffers[last] = values
    absent = [name for name, tensor in named_tensors(model, every_name=True).items() if tensor.is_meta]
    if absent:
        problems = [f"{name!r} has no values" for name in absent]
        raise MismatchError("the folder lacks weights:", problems, "Save the model again.")
