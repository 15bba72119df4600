"""Models from a name on the command line: an importable factory, or a folder as transformers has them; and their inputs.

Importing a factory runs the user's own module: it is named by hand. A folder brings no code along: the classes are those of
the installed transformers.
"""

from __future__ import annotations

import inspect
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from attrs import frozen
from torch import nn

from depgraph.cli.ending import UserCodeError, place_of
from depgraph.errors import DepgraphError, DocumentError, PlanError
from depgraph.hf import Saved, pruning
from depgraph.hf.building import library
from depgraph.hf.pruning import loaded, skeleton
from depgraph.messages import shortened
from depgraph.plans.plan import Plan

_SPEC = re.compile(r"(?:([A-Za-z_]\w*)=)?(\d+(?:x\d+)*)(?::(\w+))?")
_TOKENS = 8


@frozen(eq=False)
class Named:
    """A model with the inputs of one call.

    Attributes:
        model: the module.
        args: positional inputs.
        kwargs: inputs by keyword.
    """

    model: nn.Module
    args: tuple[torch.Tensor, ...]
    kwargs: Mapping[str, torch.Tensor]


def model_at(source: str, inputs: Sequence[str], *, weights: bool, checkpoint: str | None = None) -> Named:
    """The model that a name stands for, with inputs.

    Args:
        source: ``module:factory``, or a folder with a ``config.json``.
        inputs: the shapes of inputs, as ``1x3x224x224`` or ``input_ids=1x8:int64``.
        weights: whether the weights of a folder are needed; else it is built on `meta`.
        checkpoint: a state dict that is loaded into the model.

    Raises:
        PlanError: the name or a shape is none.
        UserCodeError: importing the module or calling the factory failed.
    """
    tensors = [_tensor(spec) for spec in inputs]
    names = [name for name, _ in tensors if name]
    if len(set(names)) < len(names):
        raise PlanError(f"expected one --input for each name, met {', '.join(names)}.")
    with users_code(source):
        model, main = _of_folder(Path(source), weights) if Path(source).is_dir() else (_of_factory(source), "")
    if main and not tensors:
        tensors = [_default_input(model, main)]
    if not tensors:
        raise PlanError("give the shape of each input, such as --input 1x3x224x224 or --input input_ids=1x8:int64.")
    if checkpoint is not None:
        _load(model, checkpoint)
    args = tuple(tensor for name, tensor in tensors if not name)
    return Named(model, args, {name: tensor for name, tensor in tensors if name})


@contextmanager
def users_code(what: str) -> Iterator[None]:
    """Turn what the user's code raises into `UserCodeError`, with where it was raised; depgraph's own errors pass."""
    try:
        yield
    except (DepgraphError, UserCodeError, MemoryError):
        raise
    except (Exception, SystemExit) as error:
        said = str(error) if not isinstance(error, SystemExit) else "it ends the process"
        raise UserCodeError(f"{what}: {type(error).__name__}{place_of(error)}: {said}") from error


def model_alone(source: str) -> nn.Module:
    """The model of ``module:factory`` or, without its weights, of a folder; without inputs."""
    with users_code(source):
        return _of_folder(Path(source), weights=False)[0] if Path(source).is_dir() else _of_factory(source)


def _of_factory(source: str) -> nn.Module:
    module_name, _, path = source.partition(":")
    if not all(step.isidentifier() for step in (*module_name.split("."), *path.split("."))):
        raise PlanError(f"expected module:factory or a folder with a config.json, met {source!r}.")
    sys.path.insert(0, os.getcwd())  # as `python -m` does; a console script has its own folder there
    try:
        value: Any = import_module(module_name)
    finally:
        sys.path.remove(os.getcwd())
    for step in path.split("."):
        value = getattr(value, step)
    if callable(value) and not isinstance(value, nn.Module):
        _check_takes_nothing(value, source)
    model = value if isinstance(value, nn.Module) or not callable(value) else value()
    if not isinstance(model, nn.Module):
        raise PlanError(f"{source} gives a {type(model).__name__}; expected an nn.Module, or a function that returns one.")
    return model.eval()


def _check_takes_nothing(factory: Callable[..., Any], source: str) -> None:
    """Raise `PlanError` for a factory that needs arguments."""
    try:
        inspect.signature(factory).bind()
    except TypeError as error:
        raise PlanError(f"{source} takes arguments ({error}); name a function that needs none, or a module.") from None
    except ValueError:  # built in, without a signature: the call will tell
        return


def _of_folder(folder: Path, weights: bool) -> tuple[nn.Module, str]:
    """The model of a folder, and the name of its main input."""
    quiet()
    model = (loaded if weights else skeleton)(folder)
    return model.eval(), str(model.main_input_name)


def prune_folder(plan: Plan, source: str, target: str, *, max_shard_size: str | None, replace: bool, progress: bool) -> Saved:
    """Prune a folder of transformers."""
    quiet()
    shards = {} if max_shard_size is None else {"max_shard_size": max_shard_size}
    return pruning.prune_folder(plan, source, target, replace=replace, progress=progress, **shards)


def quiet() -> None:
    """Let transformers show no bars: a command tells what it does in lines."""
    library().logging.disable_progress_bar()


def _default_input(model: nn.Module, main: str) -> tuple[str, torch.Tensor]:
    """An input for a model of transformers, by what its configuration says."""
    config: Any = model.config
    if main == "pixel_values" and hasattr(config, "image_size"):
        size = config.image_size if isinstance(config.image_size, int) else config.image_size[0]
        return _tensor(f"{main}=1x{getattr(config, 'num_channels', 3)}x{size}x{size}")
    if main == "input_ids":
        return _tensor(f"{main}=1x{_TOKENS}:int64")
    raise PlanError(f"give the shape of {main}, the main input of this model, such as --input {main}=1x80x300.")


def _tensor(spec: str) -> tuple[str, torch.Tensor]:
    """Name and tensor of a shape. Integers are zeros, which every vocabulary has, and masks ones."""
    parts = _SPEC.fullmatch(spec)
    name, shape, kind = parts.groups() if parts else ("", "", "")
    integral = bool(name) and name.endswith(("ids", "mask", "labels"))
    dtype = getattr(torch, kind or ("int64" if integral else "float32"), None)
    if parts is None or not isinstance(dtype, torch.dtype):
        raise PlanError(f"expected a shape such as 1x3x224x224, or name=1x8:int64, met {spec!r}.")
    sizes = tuple(map(int, shape.split("x")))
    try:
        return name or "", _filled(sizes, dtype, masks=(name or "").endswith("mask"))
    except (RuntimeError, TypeError, OverflowError, MemoryError):
        raise PlanError(f"no input of shape {shape} can be made: it is too large for the memory.") from None


def _filled(sizes: tuple[int, ...], dtype: torch.dtype, masks: bool) -> torch.Tensor:
    """Random floating numbers, or integers of one value."""
    if dtype.is_floating_point:
        return torch.randn(sizes, generator=torch.Generator().manual_seed(0)).to(dtype)
    return torch.ones(sizes, dtype=dtype) if masks else torch.zeros(sizes, dtype=dtype)


def _load(model: nn.Module, checkpoint: str) -> None:
    """Load a state dict into a model; nothing in the file is executed."""
    if checkpoint.endswith(".safetensors"):
        try:
            from safetensors import SafetensorError
            from safetensors.torch import load_file
        except ImportError:
            raise PlanError("safetensors is not installed; install depgraph[files].") from None
        try:
            state: Any = load_file(checkpoint)
        except SafetensorError as error:
            raise DocumentError(f"{checkpoint} is no file of safetensors, or is damaged ({error}).") from None
    else:
        try:
            state = torch.load(checkpoint, map_location="cpu", weights_only=True)
        except OSError:
            raise
        except Exception as error:  # noqa: BLE001  torch raises what it likes for damaged files
            raise DocumentError(f"{checkpoint} is no state dict: {shortened(str(error).splitlines()[0])}") from None
    try:
        model.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise DocumentError(f"{checkpoint} does not fit the model: {error}") from None


def criterion_of(name: str) -> Any:
    """The criterion of a name, of those that need no data."""
    from depgraph import criteria

    makers: dict[str, Callable[[], Any]] = {
        "magnitude": lambda: criteria.Magnitude(p=2),
        "l1": lambda: criteria.Magnitude(p=1),
        "bnscale": criteria.BNScale,
        "lamp": criteria.LAMP,
        "fpgm": criteria.FPGM,
        "random": lambda: criteria.Random(seed=0),
    }
    return makers[name]()
