"""Runs batches through a model and leaves it as it was."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
import torch.distributed as dist
from torch import nn

from depgraph.process import FUSED_ATTENTION, same_draws
from depgraph.wrappers import unwrap

P = ParamSpec("P")
T = TypeVar("T")

Forward = Callable[[nn.Module, Any], Any]
"""From a model and a batch to anything: how a batch is run."""


def outside_inference_mode(function: Callable[P, T]) -> Callable[P, T]:
    """Make tensors that can be trained, also under `torch.inference_mode`, whose own tensors autograd refuses for good."""

    @wraps(function)
    def outside(*args: P.args, **kwargs: P.kwargs) -> T:
        if not torch.is_inference_mode_enabled():
            return function(*args, **kwargs)
        with torch.inference_mode(False), torch.no_grad():
            return function(*args, **kwargs)

    return outside


@contextmanager
def untouched(model: nn.Module, training: bool, differentiable: Iterable[torch.Tensor] = ()) -> Iterator[None]:
    """Within it, forward may do what it likes to buffers, attributes and random states; afterwards the model is as it was.

    Args:
        model: the module.
        training: the mode to run it in.
        differentiable: parameters that are to require gradients meanwhile.
    """
    modules = list(model.modules())
    attributes = [dict(module.__dict__) for module in modules]
    registries = [
        (registry, dict(registry))
        for module in modules
        for registry in module.__dict__.values()
        if isinstance(registry, dict) and registry is not module.__dict__
    ]
    devices = {tensor.device for tensor in (*model.parameters(), *model.buffers())}
    flags = [(parameter, parameter.requires_grad) for parameter in differentiable]
    with same_draws(devices), FUSED_ATTENTION.changed():
        try:
            copies: dict[int, torch.Tensor] = {}
            for module in modules:
                for name, buffer in module._buffers.items():
                    if buffer is not None:
                        module._buffers[name] = copies.setdefault(id(buffer), buffer.detach().clone())
            model.train(training)
            for parameter, _ in flags:
                parameter.requires_grad_(True)
            yield
        finally:
            for parameter, flag in flags:
                parameter.requires_grad_(flag)
            for registry, content in registries:
                _put_back(registry, content)
            for module, content in zip(modules, attributes, strict=True):
                _put_back(module.__dict__, content)


def _put_back(target: dict[Any, Any], content: dict[Any, Any]) -> None:
    """Restore the content of a dictionary; one that is unchanged is not written to, for others may read it meanwhile."""
    if len(target) != len(content) or any(key not in target or target[key] is not content[key] for key in content):
        target.clear()
        target.update(content)


def run(model: nn.Module, batch: Any, kwargs: Mapping[str, Any] | None = None) -> Any:
    """A forward on a batch, as `arguments` reads it."""
    args, keywords = arguments(model, batch, kwargs)
    with mapping_explained(batch, args):
        return model(*args, **keywords)


def arguments(
    model: nn.Module, batch: Any, kwargs: Mapping[str, Any] | None = None, method: str = "forward"
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a call, by the one rule for example inputs and batches.

    A tuple or list holds positional arguments. A mapping that forward takes as keywords, such as a `BatchEncoding`, is passed
    by keyword. Anything else is the one argument; a mapping that is meant as it stands inside a tuple.

    >>> arguments(nn.Linear(4, 2), {"input": 1}), arguments(nn.Linear(4, 2), ({"input": 1},)), arguments(nn.Linear(4, 2), 1)
    (((), {'input': 1}), (({'input': 1},), {}), ((1,), {}))
    """
    keywords = dict(kwargs or {})
    if isinstance(batch, (tuple, list)):
        return tuple(batch), keywords
    if isinstance(batch, Mapping) and _takes(getattr(unwrap(model), method), batch, keywords):
        return (), {**batch, **keywords}
    return (batch,), keywords


def _takes(function: Callable[..., Any], batch: Mapping[Any, Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether the keys of a mapping are names of a function's parameters, and leave none out that it needs."""
    try:
        inspect.signature(function).bind(**batch, **kwargs)
    except (TypeError, ValueError):
        return False
    return True


@contextmanager
def mapping_explained(batch: Any, args: tuple[Any, ...]) -> Iterator[None]:
    """Note beside an error that a mapping was the one argument, for its keys are no names of parameters."""
    try:
        yield
    except Exception as error:
        if isinstance(batch, Mapping) and args:
            keys = ", ".join(map(repr, batch))
            error.add_note(
                f"The inputs, a mapping of {keys}, were passed as the one argument: forward does not take all of these keys as "
                "keywords, or needs others. Leave out what it does not take."
            )
        raise


def are_batches(value: object) -> bool:
    """Whether something can be read batch by batch: a single tensor, mapping or text could, too, but is one batch at most."""
    return not isinstance(value, (torch.Tensor, str, bytes, Mapping)) and hasattr(value, "__iter__")


def has_ranks() -> bool:
    """Whether `torch.distributed` is initialised."""
    return dist.is_available() and dist.is_initialized()


def together(sums: Iterable[torch.Tensor]) -> None:
    """Add up tensors over all ranks, in place, where `torch.distributed` is initialised."""
    if has_ranks():
        for tensor in sums:
            dist.all_reduce(tensor)


def gathered_from_ranks(items: dict[str, T]) -> dict[str, T]:
    """What any rank has, by name."""
    if not has_ranks():
        return items
    of_ranks: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(of_ranks, items)
    return {name: item for of_rank in of_ranks for name, item in of_rank.items()}
