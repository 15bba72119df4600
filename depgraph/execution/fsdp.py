"""What `fully_shard` keeps beside each parameter, made anew for a parameter of another size.

A module under `fully_shard` (FSDP2) gathers a parameter by a record of its own (`FSDPParam`): its whole size, the padded memory
of the shard, the gathered tensor. torch has no call that changes these. But it makes the record of a parameter on the `meta`
device as well, and the record takes the memory of a shard that is put in its place later, as where a model is sharded on `meta`
and then loaded. So a fresh record is made for each new parameter by torch's own constructor, and the old one, to which hooks
and groups lead, takes over its content.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from depgraph.errors import UnsupportedError

_OWN = ("_module_info", "_post_load_hook_handle", "_param_fqn", "_orig_param_uid")
"""What a record keeps: where its parameter is, and its names."""


def records(model: nn.Module) -> Iterator[Any]:
    """The record of each parameter that `fully_shard` manages."""
    for module in model.modules():
        if any(kind.__name__ == "FSDPModule" for kind in type(module).__mro__):
            state = module._get_fsdp_state()  # type: ignore[operator]
            groups = getattr(state, "_fsdp_param_groups", None) or [state._fsdp_param_group]  # several since torch 2.12
            for group in groups:
                if group is not None and module in group.modules[:1]:
                    yield from group.fsdp_params


def spec_before(record: Any) -> Any:
    """How a parameter was spread already when `fully_shard` met it, by tensor parallelism; None for a plain one."""
    return (getattr(record, "_unsharded_dtensor_spec", None) or record._tp_spec) if record.is_dtensor else None


def to_shards(model: nn.Module) -> None:
    """Put the shards of parameters that a forward has left gathered in their places again."""
    for module in model.modules():
        if any(kind.__name__ == "FSDPModule" for kind in type(module).__mro__):
            module.reshard()  # type: ignore[operator]


class Regrouping:
    """The records of the new parameters: made when this is, written by `write`, and put back by `restore`.

    Args:
        model: whose parameters are replaced.
        new_of: the new parameters by the ids of the old ones. They take over their memory, padded as a record needs it.

    Raises:
        UnsupportedError: this torch keeps its records in another way.
    """

    def __init__(self, model: nn.Module, new_of: Mapping[int, torch.Tensor]) -> None:
        self._changes: list[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = []
        try:
            for record in records(model):
                if (new := new_of.get(id(record.sharded_param))) is not None:
                    own = {name: vars(record)[name] for name in _OWN if name in vars(record)}
                    self._changes.append((vars(record), dict(vars(record)), {**vars(_fresh(record, new)), **own}))
        except (AttributeError, TypeError) as error:
            raise UnsupportedError(
                "the records of fully_shard cannot be made anew:",
                [
                    f"torch {torch.__version__} keeps them in a way that this depgraph does not know ({error}). Prune the "
                    "checkpoint with dg.prune_checkpoint, execute the plan on the model on the meta device, shard that, load."
                ],
            ) from error

    def write(self) -> None:
        """Let each record know its new parameter."""
        for content, _, new in self._changes:
            _become(content, new)

    def restore(self) -> None:
        """Let each record know its old one."""
        for content, old, _ in self._changes:
            _become(content, old)


def _become(content: dict[str, Any], other: Mapping[str, Any]) -> None:
    content.clear()
    content.update(other)


def _fresh(record: Any, new: Any) -> Any:
    """The record that `fully_shard` would make of a parameter of the new one's size; the new one is the parameter in it."""
    from torch.distributed.fsdp import CPUOffloadPolicy, OffloadPolicy
    from torch.distributed.tensor import DTensor

    nowhere = nn.Module()
    information = type(record._module_info)(nowhere, "parameter")
    whole = torch.empty(new.shape, dtype=new.dtype, device="meta")
    if (spec := spec_before(record)) is not None:
        whole = DTensor.from_local(
            _shard_sizes(whole, spec), spec.mesh, spec.placements, run_check=False, shape=whole.shape, stride=whole.stride()
        )
    fresh = type(record)(
        nn.Parameter(whole, requires_grad=new.requires_grad),
        information,
        record.mesh_info,
        record.post_forward_mesh_info,
        record.device,
        lambda _: record.fsdp_placement,
        record.mp_policy,
        CPUOffloadPolicy(pin_memory=record.pin_memory) if record.offload_to_cpu else OffloadPolicy(),
    )
    fresh.sharded_param = nowhere.parameter = new
    fresh.reset_sharded_param()
    if hasattr(record, "orig_dtype"):  # a forward has run, which notes them once
        fresh.init_dtype_attrs(record.mp_policy)
    return fresh


def _shard_sizes(whole: torch.Tensor, spec: Any) -> torch.Tensor:
    """A tensor as large as the shard of the whole, which other means than `fully_shard` divide evenly."""
    for place, placement in enumerate(spec.placements):
        if hasattr(placement, "dim"):
            whole = whole.narrow(placement.dim, 0, whole.shape[placement.dim] // spec.mesh.size(place))
    return torch.empty(whole.shape, dtype=whole.dtype, device="meta")
