"""A folder of transformers in, the folder of the pruned model out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from attrs import frozen
from torch import nn

from depgraph.errors import DocumentError, MismatchError, PlanError
from depgraph.execution.execute import execute_
from depgraph.hf.building import Config, built, library
from depgraph.hf.folders import PLAN, Saved, class_of, from_pretrained, save_pretrained
from depgraph.hf.keys import RECORD
from depgraph.messages import shortened
from depgraph.plans.plan import Plan
from depgraph.progress import ticks

_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".onnx", ".gguf", ".index.json")
"""How the names of files end that hold weights, or say where these are."""


def prune_folder(
    plan: Plan,
    source: str | Path,
    target: str | Path,
    *,
    max_shard_size: int | str = "5GB",
    replace: bool = False,
    progress: bool = False,
) -> Saved:
    """Prune the model in a folder of transformers, and write the folder of the pruned model, whole or not at all.

    The configuration follows as with `save_pretrained`, and all files but those of weights are copied: tokenizers, processors,
    model cards. The class is that which the configuration names, of the installed transformers; no code of the folder is run.
    The model is loaded as a whole, in the type in which it is saved.

    Args:
        plan: what is removed; it was made for a model of this class, as the folder has it.
        source: a folder with a ``config.json`` and weights, or one that `save_pretrained` wrote.
        target: where to; it must not exist, or be replaced.
        max_shard_size: the largest size of a file of weights, in bytes or as in ``"5GB"``.
        replace: whether a folder that exists is replaced whole.
        progress: show a progress bar over loading, pruning and saving; needs the package tqdm.

    Raises:
        PlanError: the plan is none, or the target exists.
        DocumentError: the source is no folder of transformers.
        MismatchError: the plan does not fit the model, or the folder lacks weights of it.

    >>> import torch, depgraph as dg
    >>> plan = dg.Plan.load("plan.json")                                                            # doctest: +SKIP
    >>> print(dg.hf.prune_folder(plan, "original", "small"))                                        # doctest: +SKIP
    small: transformers loads it; changed keys: intermediate_size 128 -> 64
    >>> linear = torch.nn.Linear(4, 2)
    >>> dg.hf.prune_folder(dg.Plan.empty(dg.trace(linear, torch.zeros(1, 4))), "elsewhere", "small")
    Traceback (most recent call last):
        ...
    depgraph.errors.DocumentError: 'elsewhere' has no config.json; expected a folder of transformers.
    """
    if not isinstance(plan, Plan):
        raise PlanError(
            f"expected a Plan, met {type(plan).__name__}; load a file with dg.Plan.load(path). Nothing was changed."
        )
    source, target = Path(source), Path(target)
    with ticks(3, "prune_folder", "step", progress) as tick:
        model = loaded(source)
        before = _plan_before(source)
        tick()
        execute_(plan, model)
        tick()
        saved = save_pretrained(
            plan if before is None else before.then(plan),
            model,
            target,
            tokenizer=_Others(source),
            max_shard_size=max_shard_size,
            replace=replace,
        )
        tick()
    return saved


def opened(folder: Path) -> tuple[type[Any], Config]:
    """The class and the configuration of a folder of transformers. Raises `DocumentError` for any other folder."""
    if not (folder / "config.json").is_file():
        raise DocumentError(f"{str(folder)!r} has no config.json; expected a folder of transformers.")
    transformers = library()
    try:
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise DocumentError(f"{folder} is no folder of transformers: {shortened(str(error).splitlines()[0])}") from None
    return class_of(transformers, config.architectures), config


def skeleton(folder: Path) -> nn.Module:
    """The model of a folder without its weights, on `meta`."""
    model_class, config = opened(folder)
    return from_pretrained(folder) if (folder / PLAN).is_file() else built(model_class, config)


def loaded(folder: Path) -> nn.Module:
    """The model of a folder with its weights, in the type in which they are saved."""
    model_class, _ = opened(folder)
    if (folder / PLAN).is_file():
        return from_pretrained(folder, model_class=model_class)  # type: ignore[no-any-return]
    try:
        model, info = model_class.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, dtype="auto", output_loading_info=True
        )
    except OSError as error:
        told = shortened(str(error).splitlines()[0])
        raise DocumentError(f"{folder} has no weights that transformers finds: {told}") from None
    if problems := [f"no weights for {name!r}" for name in sorted(info["missing_keys"])]:
        fix = f"Save it as a {model_class.__name__}, which its configuration names, or let it name the class that was saved."
        raise MismatchError(f"{folder} lacks weights:", problems, fix)
    return model.eval()  # type: ignore[no-any-return]


def _plan_before(folder: Path) -> Plan | None:
    """The plan that leads from a folder's configuration to its model, where that gives another one."""
    if not (folder / PLAN).is_file():
        return None
    record = json.loads((folder / "config.json").read_text(encoding="utf-8")).get(RECORD)
    return None if isinstance(record, dict) and record.get("stock") else Plan.load(folder / PLAN)


@frozen
class _Others:
    """The files of a folder that hold no weights, saved along as a tokenizer is."""

    folder: Path

    def save_pretrained(self, target: Path) -> None:
        """Copy what is not there yet: the model's own files are new ones."""
        for path in sorted(self.folder.rglob("*")):
            inside = path.relative_to(self.folder)
            hidden = any(step.startswith(".") for step in inside.parts)
            if path.is_file() and not hidden and not path.name.endswith(_WEIGHTS) and not (target / inside).exists():
                (target / inside).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target / inside)
