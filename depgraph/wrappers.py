"""Look through wrappers that hold the module which a user means."""

from __future__ import annotations

import sys
from collections.abc import Collection, Container, Iterable, Iterator
from typing import TypeAlias

from torch import nn
from torch.optim.swa_utils import AveragedModel

from depgraph.errors import PlanError

PREFIXES = ("module.", "_orig_mod.")
"""What wrappers put before the names of parameters: `DataParallel`, `DistributedDataParallel` and averages; `torch.compile`."""


Selector: TypeAlias = str | nn.Module | type[nn.Module]
"""What may stand for a pattern where there is a model: a module of it, or a class, which stands for all modules of it."""


def unprefixed(name: str, known: Container[str]) -> str | None:
    """The known name that is left when the prefixes of wrappers are taken off; None if there is none.

    >>> unprefixed("module._orig_mod.0.weight", {"0.weight"})
    '0.weight'
    >>> unprefixed("module.weight", {"module.weight"})
    'module.weight'
    """
    while name not in known:
        prefix = next((prefix for prefix in PREFIXES if name.startswith(prefix)), None)
        if prefix is None:
            return None
        name = name.removeprefix(prefix)
    return name


def is_sharded(tensor: object) -> bool:
    """Whether a tensor is spread over ranks: a `DTensor`, told by the name of its class, so that nothing is imported for it."""
    return any(kind.__name__ == "DTensor" for kind in type(tensor).__mro__)


def own_class(module: nn.Module) -> type[nn.Module]:
    """The class of a module: under `fully_shard`, which puts a class of its own before it, the one that it had."""
    kinds = type(module).__mro__
    sharding = [place for place, kind in enumerate(kinds) if kind.__name__ == "FSDPModule"]
    return kinds[sharding[0] + 1] if sharding else type(module)


def divides(hook: object) -> bool:
    """Whether a hook is one of `fully_shard` or of tensor parallelism, which gather and divide what modules compute with."""
    return str(getattr(hook, "__module__", "")).startswith(("torch.distributed.fsdp.", "torch.distributed.tensor."))


def unprefixed_below(name: str, paths: Collection[str]) -> str | None:
    """The same for a name that lies below one of some paths, each with its last dot.

    >>> unprefixed_below("module.blocks.0.weight", ["blocks."]), unprefixed_below("module.head.weight", ["blocks."])
    ('blocks.0.weight', None)
    """
    while not any(name.startswith(path) for path in paths):
        prefix = next((prefix for prefix in PREFIXES if name.startswith(prefix)), None)
        if prefix is None:
            return None
        name = name.removeprefix(prefix)
    return name


def unwrap(model: nn.Module) -> nn.Module:
    """The module inside `torch.compile`, `DataParallel`, `DistributedDataParallel` and `AveragedModel` wrappers."""
    while True:
        if _is_compiled(model):
            model = model._orig_mod  # type: ignore[assignment]
        elif isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel, AveragedModel)):
            model = model.module
        else:
            return model


def _is_compiled(model: nn.Module) -> bool:
    """Whether `torch.compile` has made a module. Its compiler, which takes a second to load, is not loaded to ask."""
    compiler = sys.modules.get("torch._dynamo.eval_frame")
    return compiler is not None and isinstance(model, compiler.OptimizedModule)


def name_of(model: nn.Module, module: nn.Module) -> str:
    """The dotted path of a module inside a model; the empty string for the model itself.

    Raises:
        ValueError: the module is not part of the model.

    >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
    >>> name_of(model, model[0])
    '0'
    """
    for name, candidate in unwrap(model).named_modules():
        if candidate is module:
            return str(name)
    raise ValueError(f"this {type(module).__name__} is not part of the {type(model).__name__}; pass one of its own submodules.")


def names_of(model: nn.Module, selected: Selector | Iterable[Selector]) -> tuple[str, ...]:
    """Patterns for `plan`, which takes a graph and no model: the dotted paths of modules, and of all modules of a class.

    Args:
        model: the model that was traced.
        selected: a module of it, a class of modules, a pattern, or several of these. Patterns stay as they are. Of a class
            those modules count that hold parameters or buffers, themselves or inside: no group reaches into the others.

    Raises:
        PlanError: a module that is not part of the model, is the model itself, or holds no tensor; a class without any such
            module; or something else. All are told at once.

    >>> model = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 2))
    >>> names_of(model, [model[3], nn.LayerNorm, "0:out"])
    ('3', '1', '0:out')
    """
    inner = unwrap(model)
    several = [selected] if isinstance(selected, (str, nn.Module, type)) or not isinstance(selected, Iterable) else [*selected]
    names: dict[str, None] = {}
    problems = []
    for selector in several:
        found = [selector] if isinstance(selector, str) else list(_names_in(inner, selector))
        names.update(dict.fromkeys(found))
        if not found:
            problems.append(_why_nothing(inner, selector))
    if problems:
        lines = "".join(f"\n  - {problem}" for problem in problems)
        raise PlanError(f"expected modules of the model, classes of such, or patterns:{lines}\nNothing was changed.")
    return tuple(names)


def _names_in(model: nn.Module, selector: object) -> Iterator[str]:
    """The names of the modules inside of a model that hold tensors and that are the given one, or of the given class."""
    for name, module in model.named_modules():
        chosen = isinstance(module, selector) if isinstance(selector, type) else module is selector
        if name and chosen and _holds_tensors(module):
            yield name


def _holds_tensors(module: nn.Module) -> bool:
    return any(True for _ in module.parameters()) or any(True for _ in module.buffers())


def _why_nothing(model: nn.Module, selector: object) -> str:
    if isinstance(selector, type):
        return f"no module inside of the {type(model).__name__} is a {selector.__name__} with parameters or buffers"
    if not isinstance(selector, nn.Module):
        return f"{selector!r} is no module, no class and no pattern"
    kind = type(selector).__name__
    if selector is model:
        return f"this {kind} is the model itself; write '*' for all of its groups"
    if all(module is not selector for module in model.modules()):
        return f"this {kind} is not part of the {type(model).__name__}; pass one of its own submodules"
    return f"this {kind} holds no parameter and no buffer, so no group reaches into it"
