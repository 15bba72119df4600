"""Forms of a model that cannot be pruned as they are: refused by name, before anything is traced, scored or written.

Each would fail far from its cause, or silently do something else: a sharded parameter has another shape on each rank, an
offloaded one has no data, a quantised one is packed in blocks whose layout only its kernel knows. They are recognised by the
names of classes and attributes, so that no package needs to be there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from depgraph.errors import UnsupportedError
from depgraph.wrappers import is_sharded, unwrap

_MAX_NAMES = 3

_SHARDED = "Prune the whole model before it is sharded, and shard the pruned one."
_QUANTISED = "Prune the model in floating point, and quantise the pruned one."
_DTENSOR = "DTensor spreads a parameter over ranks (fully_shard, tensor parallelism)"
_FORMS = {
    "FullyShardedDataParallel keeps flat, sharded parameters": _SHARDED,
    "DeepSpeed ZeRO keeps parameters apart, on other ranks": _SHARDED,
    _DTENSOR: (
        "dg.trace and dg.execute_ take such a model; this does not. Do it with the whole model before it is sharded, or gather "
        "the weights: torch.distributed.checkpoint.state_dict.get_model_state_dict with full_state_dict=True."
    ),
    "accelerate has put hooks (_hf_hook) in place of forward, which move or offload weights": (
        "Take them off with accelerate.hooks.remove_hook_from_module(model, recurse=True) and load the weights, then dispatch "
        "the pruned model anew."
    ),
    "torchao keeps quantised weights": _QUANTISED,
    "bitsandbytes keeps quantised weights": f"{_QUANTISED} Load it without quantization_config.",
    "weights are packed in integers (qweight, as GPTQ and AWQ do)": _QUANTISED,
    "torch.ao keeps quantised or packed weights": (
        f"{_QUANTISED} A model that is only prepared (prepare_qat, observers) has float weights: prune it before convert."
    ),
    "a class of tensors of its own, made of other tensors": "Prune a model of plain parameters, and convert the pruned one.",
}
"""What is met, and what to do."""


def supported(model: nn.Module) -> nn.Module:
    """The module inside of its wrappers. Raises `UnsupportedError` with every form that cannot be pruned, and where it is."""
    return _refused(model, lambda tensor: False)


def sliceable(model: nn.Module) -> nn.Module:
    """The same, for a model of which tensors are only cut: quantised ones that are made of tensors may be there."""
    return _refused(model, is_made_of_parts)


def is_made_of_parts(tensor: torch.Tensor) -> bool:
    """Whether a tensor is one of torchao's, made of tensors with its numbers, scales and zero points."""
    of_torchao = any(kind.__module__.partition(".")[0] == "torchao" for kind in type(tensor).__mro__)
    return of_torchao and bool(is_traceable_wrapper_subclass(tensor)) and hasattr(tensor, "dequantize")


def _refused(model: nn.Module, allowed: Callable[[torch.Tensor], bool]) -> nn.Module:
    inner = unwrap(model)
    places: dict[str, list[str]] = {}
    for path, module in inner.named_modules():
        for name, form in _forms(module, allowed):
            places.setdefault(form, []).append(f"{path}.{name}".strip(".") or "the model itself")
    if places:
        raise UnsupportedError(
            "this model cannot be pruned in the form that it has:",
            [f"{form}: {_listed(names)}. {_FORMS[form]}" for form, names in places.items()],
        )
    return inner


def supported_in_shards(model: nn.Module) -> nn.Module:
    """The same, where parameters may be spread over ranks."""
    return _refused(model, is_sharded)


def replaceable(model: nn.Module) -> nn.Module:
    """The same, for a model whose parameters are about to be replaced by other ones: none may be joined between ranks."""
    inner = _refused(model, lambda tensor: is_made_of_parts(tensor) or is_sharded(tensor))
    outer: nn.Module | None = model
    joined = [repr(path) for path, module in inner.named_modules() if isinstance(module, DistributedDataParallel)]
    while outer is not None and outer is not inner:
        if isinstance(outer, DistributedDataParallel):
            joined.append("the model itself")
        outer = getattr(outer, "_orig_mod", None) or getattr(outer, "module", None)
    if joined:
        raise UnsupportedError(
            "expected a model whose parameters may be replaced:",
            [
                f"DistributedDataParallel joins the gradients of the parameters that it was made with: {', '.join(joined)}. It "
                "would not join those of the new ones, and would not say so. Execute on the module inside, and wrap anew: "
                "dg.execute_(plan, wrapped.module); wrapped = DistributedDataParallel(wrapped.module). Or wrap what "
                "dg.execute(plan, wrapped) returns."
            ],
        )
    return inner


def _forms(module: nn.Module, allowed: Callable[[torch.Tensor], bool]) -> Iterator[tuple[str, str]]:
    """Names inside of a module, or the empty one for itself, with the form that is met there."""
    if any(kind.__name__ == "FullyShardedDataParallel" for kind in type(module).__mro__):
        yield "", "FullyShardedDataParallel keeps flat, sharded parameters"
    attributes = vars(module)
    if "_hf_hook" in attributes:
        yield "", "accelerate has put hooks (_hf_hook) in place of forward, which move or offload weights"
    if "qweight" in module._buffers or "qweight" in module._parameters:
        yield "qweight", "weights are packed in integers (qweight, as GPTQ and AWQ do)"
    for name, content in attributes.items():
        if isinstance(content, torch.ScriptObject) and "Packed" in content._type().qualified_name():
            yield name, "torch.ao keeps quantised or packed weights"
    for name, tensor in (*module._parameters.items(), *module._buffers.items()):
        form = None if tensor is None or allowed(tensor) else _form_of(tensor)
        if form is not None:
            yield f"{name} ({type(tensor).__name__})", form


def _form_of(tensor: torch.Tensor) -> str | None:
    kinds = type(tensor).__mro__
    if any(kind.__name__ == "FlatParameter" for kind in kinds) or getattr(tensor, "_is_flat_param", False):
        return "FullyShardedDataParallel keeps flat, sharded parameters"
    if hasattr(tensor, "ds_id") and hasattr(tensor, "ds_status"):
        return "DeepSpeed ZeRO keeps parameters apart, on other ranks"
    if any(kind.__name__ == "DTensor" for kind in kinds):
        return _DTENSOR
    for package in ("torchao", "bitsandbytes"):
        if any(kind.__module__.partition(".")[0] == package for kind in (*kinds, type(tensor.data))):
            return f"{package} keeps quantised weights"
    if tensor.is_quantized:
        return "torch.ao keeps quantised or packed weights"
    wraps: bool = is_traceable_wrapper_subclass(tensor)
    return "a class of tensors of its own, made of other tensors" if wraps else None


def _listed(names: list[str]) -> str:
    more = len(names) - _MAX_NAMES
    shown = ", ".join(name if name == "the model itself" else repr(name) for name in names[:_MAX_NAMES])
    return f"{shown} and {more} more" if more > 0 else shown
