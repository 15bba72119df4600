"""Which tensors a model has, and a digest of their values, so that data made from one model is not applied to another."""

from __future__ import annotations

import ctypes
import hashlib
from collections.abc import Mapping

import torch
from torch import nn

from depgraph.errors import PlanError


def named_tensors(model: nn.Module, *, every_name: bool = False) -> dict[str, torch.Tensor]:
    """Parameters and buffers by name; of tied ones the first name, or each."""
    once = not every_name
    return {
        **dict(model.named_parameters(remove_duplicate=once)),
        **dict(model.named_buffers(remove_duplicate=once)),
    }


def weights_digest(model: nn.Module) -> str:
    """A digest of all parameters and buffers, by name, dtype, shape and value; the same on every device.

    Raises:
        PlanError: the model is on the `meta` device and has no values.
    """
    digest = hashlib.sha256()
    for name, tensor in named_tensors(model).items():
        if tensor.is_meta:
            raise PlanError(f"{name!r} is on the meta device: expected a model with weights. Load them first.")
        _add(digest, name, tensor)
    return digest.hexdigest()


def tensor_digest(tensor: torch.Tensor) -> str:
    """A digest of one tensor by dtype, shape and value, whatever its name."""
    digest = hashlib.sha256()
    _add(digest, "", tensor)
    return digest.hexdigest()


def tensors_digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """A digest of tensors by name, dtype, shape and value."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        _add(digest, name, tensors[name])
    return digest.hexdigest()


def _add(digest: hashlib._Hash, name: str, tensor: torch.Tensor) -> None:
    plain = tensor.detach().cpu().contiguous()
    digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
    digest.update((ctypes.c_char * (plain.numel() * plain.element_size())).from_address(plain.data_ptr()))
