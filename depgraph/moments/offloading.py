"""Where the sums of what layers read are while they are gathered: all in memory, or in files but for those of one layer."""

from __future__ import annotations

import ctypes
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import torch
from attrs import define, field

from depgraph.moments.gathering import Gathered, Reading
from depgraph.moments.layers import Layer
from depgraph.moments.sums import Moments, Sums, of_all_ranks, write_folder
from depgraph.running import outside_inference_mode

Readings = tuple[Reading, Reading]
"""What a call reads of the samples that are fitted to, and of those that are held out."""


def offload_problems(offload: object, *, must_be_new: bool) -> Iterator[str]:
    """What is wrong with a folder for sums, one sentence each."""
    if offload is None:
        return
    if not isinstance(offload, (str, os.PathLike)):
        yield f"expected offload= to be the path of a folder, met {offload!r}."
        return
    path = Path(offload)
    if path.exists() and not path.is_dir():
        yield f"expected offload= to be a folder, met the file {path}."
    elif must_be_new and path.is_dir() and any(path.iterdir()):
        yield f"expected offload= to be a folder that is not there yet, or empty: {path} has something in it."


@define(eq=False)
class InMemory:
    """The sums of all layers, in memory."""

    _found: dict[str, tuple[Gathered, Gathered]] = field(factory=dict)

    def add(self, name: str, readings: Readings) -> None:
        """Add what a call reads to the sums of this name."""
        for side, reading in zip(self._found.setdefault(name, (Gathered(), Gathered())), readings, strict=True):
            side.add(reading)

    def moments(self, source: str, layers: Iterable[Layer], left: Mapping[str, str]) -> Moments:
        """All of it; what is gathered is let go as it is made sums of."""
        sums: tuple[dict[str, Sums], dict[str, Sums]] = ({}, {})
        for name in list(self._found):
            for store, side in zip(sums, self._found.pop(name), strict=True):
                if side:
                    store[name] = side.sums()
        fitted, held_out = (dict(of_all_ranks(store)) for store in sums)
        return Moments(source, tuple(layers), fitted, held_out, left)


class InFiles:
    """The sums of all layers in a folder, one file for what is fitted to and one for what is held out."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._gathering = folder, folder / "gathering"
        self._gathering.mkdir()
        self._sides = _Files(self._gathering, "fitted"), _Files(self._gathering, "held_out")

    def add(self, name: str, readings: Readings) -> None:
        """Add what a call reads to the sums of this name."""
        for side, reading in zip(self._sides, readings, strict=True):
            if reading:
                side.add(name, reading)

    def moments(self, source: str, layers: Iterable[Layer], left: Mapping[str, str]) -> Moments:
        """All of it, in files that are checked when they are read."""
        found = write_folder(self._folder, source, layers, self._sides, left)
        shutil.rmtree(self._gathering)
        return found


class _Files(Mapping[str, Sums]):
    """Sums by name, made at each access from the file in which they are gathered. Only this process reads these files."""

    def __init__(self, folder: Path, part: str) -> None:
        self._folder, self._part = folder, part
        self._found: dict[str, tuple[Path, torch.device, Gathered]] = {}

    @outside_inference_mode
    def add(self, name: str, reading: Reading) -> None:
        """Add what a call reads."""
        path = self._found[name][0] if name in self._found else self._folder / f"{self._part}.{len(self._found)}"
        gathered = self._read(name) if name in self._found else Gathered()
        gathered.add(reading)
        with path.open("wb") as file:
            self._found[name] = path, gathered.device, gathered.each(lambda tensor: _written(file, tensor))

    def _read(self, name: str) -> Gathered:
        path, device, shapes = self._found[name]
        with path.open("rb") as file:
            return shapes.each(lambda shape: _filled(file, shape, device))

    def __getitem__(self, name: str) -> Sums:
        return self._read(name).sums()

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)


def _written(file: BinaryIO, tensor: torch.Tensor) -> torch.Tensor:
    """The shape and dtype of a tensor, whose numbers go to a file."""
    plain = tensor.cpu().contiguous()
    file.write(_buffer(plain))
    return tensor.to("meta")


def _filled(file: BinaryIO, shape: torch.Tensor, device: torch.device) -> torch.Tensor:
    tensor = torch.empty(shape.shape, dtype=shape.dtype)
    file.readinto(_buffer(tensor))  # type: ignore[attr-defined]
    return tensor.to(device)


def _buffer(tensor: torch.Tensor) -> ctypes.Array[ctypes.c_char]:
    """The memory of a tensor."""
    return (ctypes.c_char * (tensor.numel() * tensor.element_size())).from_address(tensor.data_ptr())
