"""Tensors with a JSON header in one file of safetensors: no code is stored, and none is run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from attrs import frozen

from depgraph import codec
from depgraph.errors import DocumentError, PlanError
from depgraph.weights import tensors_digest

T = TypeVar("T")


@frozen
class _Document:
    """What the header holds: the value without its tensors, and a digest of these."""

    content: str
    tensors: str


def save(path: str | Path, kind: str, header: Any, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write tensors and a header, whole or not at all, as `codec.write` does.

    Raises:
        PlanError: safetensors is not installed.
    """
    torch_files = _safetensors()
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    document = _Document(codec.dumps(kind, header), tensors_digest(plain))
    metadata = {"depgraph": codec.dumps(f"{kind}_file", document)}
    codec.write_whole(path, lambda file: torch_files.save_file(plain, file.name, metadata))  # `save` would copy them all


def load(path: str | Path, kind: str, cls: type[T]) -> tuple[T, dict[str, torch.Tensor]]:
    """Read what `save` wrote, given the class of the header.

    Raises:
        DocumentError: the file is damaged, edited, foreign or of another version.
        PlanError: safetensors is not installed.
    """
    _safetensors()
    from safetensors import SafetensorError, safe_open

    fix = f"Pass a file that a {kind}'s save() wrote."
    try:
        with safe_open(str(path), framework="pt") as file:
            text = (file.metadata() or {}).get("depgraph")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
    except SafetensorError as error:
        raise DocumentError(f"{path} is no file of safetensors, or is damaged ({error}). {fix}") from None
    if text is None:
        raise DocumentError(f"{path} was not written by depgraph: it has no header of ours. {fix}")
    document = codec.loads(text, f"{kind}_file", _Document, str(path))
    header = codec.loads(document.content, kind, cls, str(path))
    if document.tensors != tensors_digest(tensors):
        raise DocumentError(f"{path} was edited or damaged: its tensors do not match their digest. {fix}")
    return header, tensors


def _safetensors() -> Any:
    try:
        import safetensors.torch as torch_files
    except ImportError:
        raise PlanError("files of tensors need the package safetensors; install depgraph[files].") from None
    return torch_files
