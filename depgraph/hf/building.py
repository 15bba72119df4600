"""Models built from a configuration without weights, and what is compared of two of them."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from torch import nn

from depgraph.errors import MismatchError, PlanError
from depgraph.execution.fitting import other_sizes
from depgraph.plans.plan import Plan
from depgraph.weights import named_tensors

Config: TypeAlias = Any
"""A `transformers.PreTrainedConfig`."""

Form: TypeAlias = Mapping[str, Any]
"""What a configuration decides about a model: the shape of each tensor and the value of each plain attribute, by path."""

_PLAIN = (bool, int, float, str)

_WIDTHS = frozenset({"in_channels", "out_channels", "in_features", "out_features", "num_embeddings", "embedding_dim"})
"""What torch's own layers say of their weights' shapes, and never read."""


def checked_model(plan: object, model: object) -> Any:
    """The model, if it is one of transformers, to which the plan was applied.

    Raises `PlanError` for other arguments, `MismatchError` for a model with other shapes.
    """
    if not isinstance(plan, Plan) or not isinstance(model, nn.Module) or not hasattr(model, "config"):
        met = f"({type(plan).__name__}, {type(model).__name__})"
        raise PlanError(f"expected a Plan and a model of transformers, met {met}. Nothing was changed.")
    transformers = library()
    if not isinstance(model, transformers.PreTrainedModel):
        raise PlanError(
            f"expected a model of transformers, met {type(model).__name__}. Use plan.save and torch.save. Nothing was changed."
        )
    problems = [*_unpruned(plan, model)]
    if problems:
        raise MismatchError(
            "the model is not what the plan leads to:", problems, "Pass the plan with what dg.execute(plan, model) returned."
        )
    return model


def _unpruned(plan: Plan, model: nn.Module) -> Iterator[str]:
    """The axes of a plan that a model does not have as they are after it."""
    tensors = named_tensors(model, every_name=True)
    for before, dims in plan.kept.items():
        name = plan.name_after(before) or before
        shape = tuple(tensors[name].shape) if name in tensors else ()
        yield from other_sizes(name, {dim: len(kept) for dim, kept in dims.items()}, shape)


def library() -> Any:
    """The package transformers. Raises `PlanError` where it is not installed."""
    try:
        import transformers
    except ImportError:
        raise PlanError("dg.hf needs the package transformers; install depgraph[hf].") from None
    return transformers


def built(model_class: type[nn.Module], config: Config, *, buffers: bool = False) -> nn.Module:
    """A model of the class on `meta`, in evaluation mode; with `buffers`, these have their values, on the CPU.

    The random numbers of the process are not drawn.
    """
    own = copy.deepcopy(config)
    if not buffers:
        with torch.device("meta"):
            return model_class(own).eval()
    with torch.random.fork_rng(devices=()), _parameters_on_meta(), torch.device("cpu"):
        return model_class(own).eval()


def keys_asked_for(model_class: type[nn.Module], config: Config) -> set[str]:
    """The names that a class asks its configuration for, and that this one lacks: a default stands in, as for ``head_dim``."""
    asked: set[str] = set()
    kind = type(config)

    class Watched(kind):  # type: ignore[misc, valid-type]
        def __getattribute__(self, name: str) -> Any:
            try:
                return super().__getattribute__(name)
            except AttributeError:
                asked.add(name)
                raise

    own = copy.deepcopy(config)
    own.__class__ = Watched
    with torch.device("meta"):
        try:
            model_class(own)
        except Exception:  # noqa: BLE001  a class that looks at its configuration's class may refuse; then nothing is known
            return set()
    return {name for name in asked if name.isidentifier() and not name.startswith("_")}


@contextmanager
def _parameters_on_meta() -> Iterator[None]:
    """Let each parameter that is registered lose its values at once, before anything is initialised."""
    register = nn.Module.register_parameter

    def on_meta(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        register(module, name, parameter)
        if parameter is not None and not parameter.is_meta:
            meta = nn.Parameter(parameter.detach().to("meta"), requires_grad=parameter.requires_grad)
            module._parameters[name] = meta

    nn.Module.register_parameter = on_meta  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]


def form_of(model: nn.Module, without: Iterable[str] = ()) -> dict[str, Any]:
    """The shapes of all tensors and the plain attributes of all modules, but for paths that do not count."""
    form: dict[str, Any] = {}
    for name, tensor in named_tensors(model, every_name=True).items():
        form[name] = tuple(tensor.shape)
    for prefix, module in model.named_modules(remove_duplicate=False):
        start = f"{prefix}." if prefix else ""
        for name, value in vars(module).items():
            is_width = name in _WIDTHS and type(module).__module__.startswith("torch.nn.")
            if not name.startswith("_") and not is_width and _is_plain(value):
                form[f"{start}{name}"] = tuple(value) if isinstance(value, list) else value
    for path in without:
        form.pop(path, None)
    return form


def _is_plain(value: object) -> bool:
    if isinstance(value, (tuple, list)):
        return all(type(item) in _PLAIN for item in value)
    return type(value) in _PLAIN


def unsaved_buffers(model: nn.Module) -> dict[str, torch.Tensor]:
    """The buffers that no checkpoint holds."""
    saved = model.state_dict().keys()
    return {name: buffer for name, buffer in model.named_buffers(remove_duplicate=False) if name not in saved}


def differences(expected: Form, met: Form) -> list[str]:
    """The paths at which two models are not alike."""
    return [path for path in {**expected, **met} if path not in expected or path not in met or expected[path] != met[path]]
