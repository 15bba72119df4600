"""Files of checkpoints: what they hold, read piece by piece, and written as pieces come. No code of a file is run.

A file of safetensors is copied block by block, so that memory is needed for a block and not for a tensor. One of
`torch.save` is mapped into memory, and its pruned tensors are held until they are written.
"""

from __future__ import annotations

import ctypes
import json
import zipfile
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TypeAlias

import torch
from attrs import Factory, field, frozen

from depgraph.algebra.indices import IndexSet
from depgraph.errors import DocumentError, PlanError
from depgraph.execution.slicing import like, positions_of, selected
from depgraph.messages import shortened

Kept: TypeAlias = Mapping[int, IndexSet]
"""Dimension to the indices that stay."""

Tick: TypeAlias = Callable[[], object]
"""Called for each tensor that is written."""

BLOCK = 4 * 2**20
"""So many bytes of a tensor are copied at once: they stay in the processor's cache while they are selected."""

MAPPED = 256 * 2**20
"""When so many bytes of a file were read through a mapping, it is made anew: pages that were read count as memory."""


@frozen
class Entry:
    """What a file says of one of its tensors.

    Attributes:
        shape: its shape.
        size: its bytes.
        kind: its dtype, as the file names it.
    """

    shape: tuple[int, ...]
    size: int
    kind: str

    @property
    def count(self) -> int:
        """Number of elements."""
        count = 1
        for size in self.shape:
            count *= size
        return count

    @property
    def packed(self) -> bool:
        """Whether several elements share a byte, so that single ones cannot be taken."""
        return self.size < self.count

    def after(self, kept: Kept) -> Entry:
        """The same of what is kept."""
        shape = tuple(len(kept[dim]) if dim in kept else size for dim, size in enumerate(self.shape))
        smaller = Entry(shape, 0, self.kind)
        return smaller if not self.count else Entry(shape, smaller.count * self.size // self.count, self.kind)


class CheckpointFile(Protocol):
    """What pieces come from: what it says of its tensors, and these as they are."""

    @property
    def path(self) -> Path:
        """Where it is."""

    @property
    def suffixes(self) -> tuple[str, ...]:
        """How the names of such files end."""

    @property
    def metadata(self) -> Mapping[str, str]:
        """What it says beside its tensors."""

    @property
    def entries(self) -> Mapping[str, Entry]:
        """What it says of each tensor."""

    @property
    def names(self) -> Sequence[str]:
        """Everything that it holds, in its order."""

    @property
    def together(self) -> Sequence[Sequence[str]]:
        """Names that stay in one file."""

    def original(self, name: str) -> Any:
        """A tensor as it is."""


@frozen(eq=False)
class Piece:
    """What is written under a name: a tensor of a file, or what is kept of it, or new values. Or what is no tensor, as it is.

    Attributes:
        name: its name in the source.
        target: its name in the target.
        file: the file that holds it.
        kept: what stays of its dimensions; empty for a tensor that is copied.
        values: what is written instead, in the shape that stays.
    """

    name: str
    file: CheckpointFile
    kept: Kept = field(factory=dict)
    values: torch.Tensor | None = None
    target: str = field(default=Factory(lambda piece: piece.name, takes_self=True))

    @property
    def entry(self) -> Entry:
        """What the target says of it."""
        return self.file.entries.get(self.name, Entry((), 0, "")).after(self.kept)


class SafetensorsFile:
    """A file of safetensors. What it says of itself was checked by that package when this is made.

    Raises:
        DocumentError: it is no such file, or damaged.
        PlanError: safetensors is not installed.
    """

    suffixes = (".safetensors",)

    def __init__(self, path: Path) -> None:
        try:
            from safetensors import SafetensorError, safe_open
        except ImportError:
            raise PlanError("files of safetensors need the package safetensors; install depgraph[files].") from None
        self.path, self._open = path, safe_open
        try:
            self._mapping()
        except SafetensorError as error:
            raise DocumentError(
                f"{path} is no file of safetensors, or is damaged ({error}). Download or save it again."
            ) from None
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
        self.metadata: dict[str, str] = header.pop("__metadata__", None) or {}
        self.entries = {
            name: Entry(tuple(item["shape"]), item["data_offsets"][1] - item["data_offsets"][0], item["dtype"])
            for name, item in header.items()
        }
        self._begins = {name: 8 + length + item["data_offsets"][0] for name, item in header.items()}
        self._positions: dict[int, tuple[IndexSet, torch.Tensor]] = {}

    @property
    def names(self) -> Sequence[str]:
        """Everything that it holds, in its order."""
        return list(self.entries)

    @property
    def together(self) -> Sequence[Sequence[str]]:
        """Names that stay in one file: here each by itself."""
        return [[name] for name in self.entries]

    def original(self, name: str) -> torch.Tensor:
        """A tensor as it is, over the file's own memory."""
        tensor: torch.Tensor = self._mapping().get_tensor(name)
        return tensor

    def blocks(self, piece: Piece) -> Iterator[torch.Tensor | bytes]:
        """The bytes of a piece in turn. Rows that go are not read."""
        if piece.values is not None:
            yield piece.values.to(self.original(piece.name).dtype)
        elif not piece.kept:
            yield from self._copied(piece.name)
        else:
            yield from self._selected(piece.name, piece.kept)

    def _copied(self, name: str) -> Iterator[bytes]:
        with self.path.open("rb") as file:
            file.seek(self._begins[name])
            left = self.entries[name].size
            while left and (block := file.read(min(left, BLOCK))):
                left -= len(block)
                yield block

    def _selected(self, name: str, kept: Kept) -> Iterator[torch.Tensor]:
        entry = self.entries[name]
        rows = self._index(kept[0]).tolist() if 0 in kept else list(range(entry.shape[0]))
        others = {dim: self._index(indices) for dim, indices in kept.items() if dim != 0}
        row = max(entry.size // entry.shape[0], 1)
        mapped = MAPPED
        for run in _runs(rows, max(BLOCK // row, 1)):
            if mapped >= MAPPED:
                handle, mapped = self._mapping(), 0
            block = handle.get_slice(name)[run[0] : run[-1] + 1]
            mapped += len(run) * row
            if len(run) < block.shape[0]:
                block = block.index_select(0, torch.tensor(run) - run[0])
            for dim, index in others.items():
                block = _taken(block, dim, index)
            yield block.contiguous()

    def _index(self, indices: IndexSet) -> torch.Tensor:
        """The indices as a tensor; those of one space are one object, which many tensors share."""
        if id(indices) not in self._positions:
            self._positions[id(indices)] = indices, positions_of(indices)  # held, so that the number stays its own
        return self._positions[id(indices)][1]

    def _mapping(self) -> Any:
        return self._open(str(self.path), framework="pt")


class TorchFile:
    """A state dict that `torch.save` wrote, read with ``weights_only=True``.

    Raises:
        DocumentError: it is none, is damaged, or would run code.
    """

    suffixes = (".pt", ".pth", ".bin", ".ckpt")
    metadata: Mapping[str, str] = {}

    def __init__(self, path: Path) -> None:
        self.path, self._state = path, _loaded(path)
        tensors = {name: value for name, value in self._state.items() if isinstance(value, torch.Tensor)}
        if not tensors or not all(type(name) is str for name in self._state):
            keys = shortened(", ".join(map(repr, self._state)))
            raise DocumentError(
                f"{path}: expected a state dict, of texts to tensors, met one with the keys {keys}. Save the state dict of the "
                "model by itself: torch.save(checkpoint['state_dict'], path)."
            )
        self.entries = {
            name: Entry(tuple(tensor.shape), tensor.numel() * tensor.element_size(), str(tensor.dtype))
            for name, tensor in tensors.items()
        }

    @property
    def names(self) -> Sequence[str]:
        """Everything that it holds, in its order: tensors, and what a module keeps as extra state."""
        return list(self._state)

    @property
    def together(self) -> Sequence[Sequence[str]]:
        """Names that stay in one file: those of one and the same tensor, which is stored once."""
        groups: dict[Any, list[str]] = {}
        for name, value in self._state.items():
            groups.setdefault(_place(value) or name, []).append(name)
        return list(groups.values())

    @property
    def attributes(self) -> dict[str, Any]:
        """What the state dict has beside its items: the versions of its modules."""
        return dict(getattr(self._state, "__dict__", {}))

    def original(self, name: str) -> Any:
        """A tensor as it is, over the file's own memory; or what is no tensor."""
        return self._state[name]

    def pruned(self, piece: Piece) -> Any:
        """What is written for a piece."""
        value = self._state[piece.name]
        if piece.values is not None:
            return like(value, piece.values.to(value.dtype), lambda gradient: gradient)
        if piece.kept:
            return selected(value, {dim: positions_of(indices) for dim, indices in piece.kept.items()})
        alone = _place(value) is None or value.untyped_storage().nbytes() == value.numel() * value.element_size()
        return value if alone else value.clone()  # a storage is written whole, whatever part of it a tensor needs


def write_pieces(file: BinaryIO, pieces: Sequence[Piece], tick: Tick) -> None:
    """Write pieces to one file of the form that they come from.

    Raises:
        OSError: a source changed meanwhile, or what writing raises.
    """
    if all(isinstance(piece.file, SafetensorsFile) for piece in pieces):
        _write_safetensors(file, pieces, tick)
    else:
        _write_state(file, pieces, tick)


def _write_safetensors(file: BinaryIO, pieces: Sequence[Piece], tick: Tick) -> None:
    entries = {piece: piece.entry for piece in pieces}
    # the largest elements come first, so that all are aligned
    order = sorted(entries, key=lambda piece: (-(entries[piece].size // max(entries[piece].count, 1)), piece.target))
    metadata = {key: text for source in {piece.file: 0 for piece in pieces} for key, text in source.metadata.items()}
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    end = 0
    for piece in order:
        item, begin = entries[piece], end
        end += item.size
        header[piece.target] = {"dtype": item.kind, "shape": item.shape, "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    with ThreadPoolExecutor(1) as reader:
        for piece in order:
            assert isinstance(piece.file, SafetensorsFile)
            if sum(_write(file, block) for block in _ahead(piece.file.blocks(piece), reader)) != entries[piece].size:
                raise OSError(f"{piece.file.path} changed while {shortened(repr(piece.name))} was read. Run again.")
            tick()


def _ahead(blocks: Iterator[torch.Tensor | bytes], reader: ThreadPoolExecutor) -> Iterator[torch.Tensor | bytes]:
    """The blocks, of which the next one is read while one is written."""
    coming = reader.submit(next, blocks, None)
    while (block := coming.result()) is not None:
        coming = reader.submit(next, blocks, None)
        yield block


def _write(file: BinaryIO, block: torch.Tensor | bytes) -> int:
    """Write the bytes of a block, and return how many there were."""
    if isinstance(block, bytes):
        return file.write(block)
    size = block.numel() * block.element_size()
    return file.write((ctypes.c_char * size).from_address(block.data_ptr())) if size else 0


def _write_state(file: BinaryIO, pieces: Sequence[Piece], tick: Tick) -> None:
    files = {piece.file: 0 for piece in pieces}
    first = {(source, name): names[0] for source in files for names in source.together for name in names}
    state: dict[str, Any] = OrderedDict()
    for source in files:
        assert isinstance(source, TorchFile)
        vars(state).update(source.attributes)
    written: dict[tuple[CheckpointFile, str], Any] = {}
    for piece in pieces:
        assert isinstance(piece.file, TorchFile)
        same = piece.file, first[piece.file, piece.name]
        if same not in written:
            written[same] = piece.file.pruned(piece)
        state[piece.target] = written[same]
        tick()
    torch.save(state, file)


_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def _taken(block: torch.Tensor, dim: int, index: torch.Tensor) -> torch.Tensor:
    """The elements of a dimension. Single ones come fastest by `gather` on integers: thrice as fast for bfloat16."""
    if dim != block.ndim - 1 or block.element_size() not in _WORDS:
        return block.index_select(dim, index)
    words = block.contiguous().view(_WORDS[block.element_size()])
    return words.gather(dim, index.expand(*block.shape[:-1], -1)).view(block.dtype)


def _runs(positions: list[int], most: int) -> Iterator[list[int]]:
    """Positions in turn, such that those of one run lie within so many."""
    begin = 0
    while begin < len(positions):
        end = bisect_left(positions, positions[begin] + most, begin)
        yield positions[begin:end]
        begin = end


def _place(value: object) -> Any:
    """Where a tensor's elements lie: equal for one tensor under two names. None for what lies nowhere."""
    if not isinstance(value, torch.Tensor) or value.layout is not torch.strided or not value.numel():
        return None
    return value.untyped_storage().data_ptr(), value.storage_offset(), value.dtype, tuple(value.shape), value.stride()


def _loaded(path: Path) -> Mapping[str, Any]:
    """The state dict of a file. One in the form of before torch 1.6 is read whole, for it cannot be mapped."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except OSError:
        raise
    except Exception as error:  # noqa: BLE001  a damaged or hostile file may raise anything
        told = shortened(str(error).partition("\n")[0])
        raise DocumentError(
            f"{path} cannot be read as a state dict without running code, or is damaged ({type(error).__name__}: {told}). Save "
            "model.state_dict() by torch.save, or by safetensors."
        ) from None
    if not isinstance(state, dict):
        raise DocumentError(f"{path}: expected a state dict, met a {type(state).__name__}. Save model.state_dict().")
    return state
