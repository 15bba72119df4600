"""Folders of `torch.distributed.checkpoint`: what they hold, and what is written in their place, chunk by chunk.

A tensor lies there in chunks, each with its offset. What a plan keeps of a chunk is a chunk again, and its new offset follows
from the plan alone. So each file is pruned by itself, and each rank does its own. The list of chunks is a pickle: it is read
with the classes of such lists and no other ones, and chunks with ``weights_only=True``, so that no code of a folder is run.
"""

from __future__ import annotations

import io
import pathlib
import pickle  # noqa: TID251  the format is torch's; what is read makes values of a few listed classes only
import re
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import torch
import torch.distributed as dist
from attrs import evolve, frozen

from depgraph import codec
from depgraph.errors import DocumentError
from depgraph.execution.checkpoint_files import Entry, Piece, Tick
from depgraph.execution.slicing import positions_of
from depgraph.messages import shortened
from depgraph.plans.plan import Plan
from depgraph.wrappers import unprefixed

T = TypeVar("T")

METADATA = ".metadata"
_FIX = "Save the checkpoint again with torch.distributed.checkpoint.save."


class DistributedFolder:
    """A folder that `torch.distributed.checkpoint.save` wrote.

    Raises:
        DocumentError: it is none, is damaged, would run code, or its files are compressed.
    """

    suffixes = (".distcp",)
    metadata: Mapping[str, str] = {}

    def __init__(self, path: Path) -> None:
        self.path, self.contents = path, _read(path)
        tensors = {name: item for name, item in self.contents.state_dict_metadata.items() if hasattr(item, "chunks")}
        self.entries = {
            name: Entry(tuple(item.size), item.size.numel() * item.properties.dtype.itemsize, str(item.properties.dtype))
            for name, item in tensors.items()
        }
        self._files: dict[str, list[tuple[Any, Any]]] = {}
        for index, place in self.contents.storage_data.items():
            self._files.setdefault(place.relative_path, []).append((index, place))

    @property
    def names(self) -> Sequence[str]:
        """Everything that it holds: tensors, and what was saved as bytes."""
        return list(self.contents.state_dict_metadata)

    @property
    def together(self) -> Sequence[Sequence[str]]:
        """Names that stay in one file: here each by itself."""
        return [[name] for name in self.names]

    @property
    def files(self) -> Mapping[str, Sequence[tuple[Any, Any]]]:
        """Name of a file to what it holds, in order: the index of a chunk, and where it lies."""
        return {name: sorted(items, key=lambda item: int(item[1].offset)) for name, items in sorted(self._files.items())}

    def keys(self, name: str) -> Sequence[str]:
        """What a tensor may be called: its name, and that below a key such as ``model`` of what was saved."""
        path = (self.contents.planner_data or {}).get(name, (name,))
        return (name, path[-1]) if type(path[-1]) is str else (name,)

    def original(self, name: str) -> torch.Tensor:
        """A tensor as it is, put together."""
        item = self.contents.state_dict_metadata[name]
        whole = torch.empty(item.size, dtype=item.properties.dtype)
        for index, place in self.contents.storage_data.items():
            if index.fqn == name:
                chunk = self.chunk(place)
                where = index.offset or (0,) * chunk.ndim
                whole[tuple(slice(start, start + size) for start, size in zip(where, chunk.shape, strict=True))] = chunk
        return whole

    def chunk(self, place: Any) -> torch.Tensor:
        """The part of a tensor that lies at a place."""
        with (self.path / place.relative_path).open("rb") as file:
            try:
                tensor = torch.load(io.BufferedReader(_Part(file, place)), map_location="cpu", weights_only=True)
            except OSError:
                raise
            except Exception as error:  # noqa: BLE001  a damaged or hostile file may raise anything
                told = shortened(str(error).partition("\n")[0])
                raise DocumentError(
                    f"{self.path / place.relative_path} has no tensor at byte {place.offset} ({told}). {_FIX}"
                ) from None
        if not isinstance(tensor, torch.Tensor):
            raise DocumentError(f"{self.path / place.relative_path} has no tensor at byte {place.offset}. {_FIX}")
        return tensor

    def copied(self, place: Any) -> bytes:
        """The bytes that lie at a place."""
        with (self.path / place.relative_path).open("rb") as file:
            return _Part(file, place).readall()


class _Part(io.RawIOBase):
    """A part of a file, as a file."""

    def __init__(self, file: BinaryIO, place: Any) -> None:
        self._file, self._begin, self._length, self._at = file, place.offset, place.length, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = max(offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._length}[whence], 0)
        return self._at

    def readinto(self, buffer: Any) -> int:
        self._file.seek(self._begin + self._at)
        count = self._file.readinto(memoryview(buffer)[: max(self._length - self._at, 0)])  # type: ignore[attr-defined]
        self._at += count
        return int(count)


class _Reader(pickle.Unpickler):
    """Reads the list of a folder. It knows the classes that such a list consists of."""

    def find_class(self, module: str, name: str) -> Any:
        """One of the listed classes. Raises `DocumentError` for any other one, whatever it is."""
        from torch.distributed.checkpoint import filesystem, metadata

        if module == "torch" and isinstance(content := getattr(torch, name, None), torch.dtype):
            return content
        known = {
            **{(metadata.__name__, each): getattr(metadata, each) for each in (*metadata.__all__, "_MEM_FORMAT_ENCODING")},
            (filesystem.__name__, "_StorageInfo"): filesystem._StorageInfo,
            ("torch", "Size"): torch.Size,
            ("torch.serialization", "_get_layout"): torch.serialization._get_layout,
            ("collections", "OrderedDict"): OrderedDict,
            ("pathlib", "PosixPath"): pathlib.PurePosixPath,
            ("pathlib", "WindowsPath"): pathlib.PureWindowsPath,
            ("pathlib._local", "PosixPath"): pathlib.PurePosixPath,
            ("pathlib._local", "WindowsPath"): pathlib.PureWindowsPath,
        }
        if (module, name) not in known:
            raise DocumentError(f"it names {shortened(repr(f'{module}.{name}'))}, which lists of checkpoints do not need")
        return known[module, name]


def _read(path: Path) -> Any:
    """The list of chunks of a folder, with everything checked that is used of it."""
    try:
        with (path / METADATA).open("rb") as file:
            contents = _Reader(file).load()
        problems = [*_problems(path, contents)]
    except OSError:
        raise
    except Exception as error:  # noqa: BLE001  a damaged or hostile file may raise anything
        told = shortened(str(error).partition("\n")[0])
        raise DocumentError(f"{path / METADATA} is no list of a checkpoint ({type(error).__name__}: {told}). {_FIX}") from None
    if problems:
        raise DocumentError(f"{path / METADATA}: {'; '.join(problems[:10])}. {_FIX}")
    return contents


def _problems(path: Path, contents: Any) -> Iterator[str]:
    """What is wrong with a list. One of other types raises whatever it does."""
    from torch.distributed.checkpoint.metadata import BytesStorageMetadata, TensorStorageMetadata

    chunks = set()
    for name, item in contents.state_dict_metadata.items():
        if type(name) is not str or not isinstance(item, (TensorStorageMetadata, BytesStorageMetadata)):
            yield f"{shortened(repr(name))} is neither tensor nor bytes"
        for chunk in item.chunks if isinstance(item, TensorStorageMetadata) else ():
            chunks.add((name, tuple(chunk.offsets)))
            ends = zip(chunk.offsets, chunk.sizes, item.size, strict=True)
            if not all(0 <= begin <= begin + size <= end for begin, size, end in ends):
                yield f"{shortened(repr(name))} has a chunk outside of itself"
    lengths = {place.relative_path for place in contents.storage_data.values()}
    strange = [name for name in lengths if type(name) is not str or name in {"", ".", ".."} or re.search(r"[/\\:\0]", name)]
    if strange:
        yield f"it names files outside of its folder: {shortened(', '.join(map(repr, strange)))}"
        return
    sizes = {name: (path / name).stat().st_size for name in lengths}
    for index, place in contents.storage_data.items():
        told = f"{shortened(repr(index.fqn))} in {shortened(repr(place.relative_path))}"
        if place.transform_descriptors:
            yield f"{told} is compressed or encoded ({shortened(repr(list(place.transform_descriptors)))})"
        if not 0 <= place.offset <= place.offset + place.length <= sizes[place.relative_path]:
            yield f"{told} lies outside of the file"
        if index.fqn not in contents.state_dict_metadata:
            yield f"{told} is not listed"
        elif (
            hasattr(contents.state_dict_metadata[index.fqn], "chunks") and (index.fqn, tuple(index.offset or ())) not in chunks
        ):
            yield f"{told} lies at an offset that is not listed"


def with_optimizer_states(pieces: Mapping[str, Piece], plan: Plan) -> tuple[dict[str, Piece], list[str]]:
    """The pieces, by the model's names, of which the states of optimizers are cut like their parameters; and what cannot be."""
    kept_of, sizes_of = plan.kept, plan.sizes
    result, problems = dict(pieces), list[str]()
    for key, piece in pieces.items():
        found = re.search(r"(?:^|\.)state\.(.+)\.([^.]+)$", piece.name)
        name = unprefixed(found[1], kept_of) if found else None
        shape = piece.entry.shape
        if found and plan.drops:
            problems.append(f"{piece.name!r}: the state of an optimizer does not go along where elements of lists leave")
        elif found and found[1].isdigit() and shape and piece.entry.count > 1:
            problems.append(
                f"{piece.name!r}: the state of an optimizer by a number, which does not say whose it is; save what "
                "torch.distributed.checkpoint.state_dict.get_optimizer_state_dict gives"
            )
        elif name is not None and piece.entry.count > 1:
            if any(dim >= len(shape) or shape[dim] not in {1, size} for dim, size in sizes_of[name].items()):
                problems.append(f"{piece.name!r} has shape {shape}: expected the sizes of {name!r}, {dict(sizes_of[name])}")
                continue
            kept = {dim: indices for dim, indices in kept_of[name].items() if shape[dim] == sizes_of[name][dim]}
            result[key] = evolve(piece, kept=kept)
    return result, problems


@frozen(eq=False)
class _Chunk:
    """What is kept of a chunk.

    Attributes:
        offset: where it lies in the pruned tensor.
        sizes: how large it is.
        positions: what it keeps, counted from its begin, by dimension.
    """

    offset: tuple[int, ...]
    sizes: tuple[int, ...]
    positions: Mapping[int, torch.Tensor]


def _pruned(piece: Piece, offset: Sequence[int], sizes: Sequence[int]) -> _Chunk:
    """What a plan keeps of a chunk: its indices among the kept ones of each dimension, which ascend."""
    starts, counts, positions = list(offset), list(sizes), {}
    for dim, indices in piece.kept.items():
        kept = positions_of(indices)
        begin, end = torch.searchsorted(kept, torch.tensor([offset[dim], offset[dim] + sizes[dim]])).tolist()
        starts[dim], counts[dim], positions[dim] = begin, end - begin, kept[begin:end] - offset[dim]
    return _Chunk(tuple(starts), tuple(counts), positions)


def write_file(folder: Path, name: str, source: DistributedFolder, pieces: Mapping[str, Piece], tick: Tick) -> dict[Any, Any]:
    """Write one file of the target. What its chunks are called and where they lie, by their indices."""
    places: dict[Any, Any] = {}

    def fill(file: BinaryIO) -> None:
        for index, place in source.files[name]:
            if index.fqn not in pieces:
                continue
            piece, begin, where = pieces[index.fqn], file.tell(), index.offset
            if index.fqn not in source.entries:
                file.write(source.copied(place))
            elif piece.kept or piece.values is not None:
                tensor = source.chunk(place)
                new = _pruned(piece, where or (), tensor.shape)
                if not all(new.sizes) and tensor.numel():
                    continue
                where = torch.Size(new.offset)
                torch.save(_values(piece, new, tensor), file)
            else:
                file.write(source.copied(place))
            places[type(index)(piece.target, where)] = type(place)(name, begin, file.tell() - begin)
            tick()

    codec.write_new(folder / name, fill)
    return places


def _values(piece: Piece, new: _Chunk, tensor: torch.Tensor) -> torch.Tensor:
    if piece.values is not None:
        part = piece.values[tuple(slice(at, at + size) for at, size in zip(new.offset, new.sizes, strict=True))]
        return part.to(tensor.dtype).clone()
    for dim, index in new.positions.items():
        tensor = tensor.index_select(dim, index)
    return tensor


def write_list(folder: Path, source: DistributedFolder, pieces: Mapping[str, Piece], places: Mapping[Any, Any]) -> None:
    """Write the list of all chunks of the target."""
    listed: dict[str, Any] = {}
    for name, piece in pieces.items():
        item = source.contents.state_dict_metadata[name]
        if name in source.entries:
            chunks = [(chunk, _pruned(piece, chunk.offsets, chunk.sizes)) for chunk in item.chunks]
            left = [
                replace(chunk, offsets=torch.Size(new.offset), sizes=torch.Size(new.sizes))
                for chunk, new in chunks
                if all(new.sizes) or not all(item.size)
            ]
            item = replace(item, size=torch.Size(piece.entry.shape), chunks=left)
        listed[piece.target] = item
    known = source.contents.planner_data
    if isinstance(known, dict):
        known = {piece.target: _path_after(known[name], piece) for name, piece in pieces.items() if name in known}
    contents = replace(source.contents, state_dict_metadata=listed, planner_data=known, storage_data=dict(places))
    codec.write_new(folder / METADATA, lambda file: pickle.dump(contents, file))


def _path_after(path: Any, piece: Piece) -> Any:
    """Where a tensor lay in what was saved, with its new name."""
    if piece.target == piece.name:
        return path
    return (*path[:-1], piece.target.removeprefix(piece.name.removesuffix(path[-1])))


def write_folder(target: Path, source: DistributedFolder, pieces: Sequence[Piece], tick: Tick) -> None:
    """Write the target, whole or not at all. Where ranks are initialised, all do it together, each its own files.

    Raises:
        OSError: what writing raises; on the other ranks, too.
    """
    by_name = {piece.name: piece for piece in pieces}
    ranks, rank = (dist.get_world_size(), dist.get_rank()) if dist.is_available() and dist.is_initialized() else (1, 0)
    told: list[Any] = []

    def write_own(folder: Path) -> list[dict[Any, Any]]:
        names = list(source.files)[rank::ranks]
        return _of_ranks(lambda: [write_file(folder, name, source, by_name, tick) for name in names], ranks)

    def fill(folder: Path) -> None:
        told.append(_from_first(folder, ranks))
        places = {index: place for part in write_own(folder) for index, place in part.items()}
        write_list(folder, source, by_name, places)

    error: Exception | None = None
    try:
        if rank == 0:
            codec.write_whole_folder(target, fill)
        elif (folder := _from_first(None, ranks)) is not None:
            write_own(folder)
    except Exception as caught:  # noqa: BLE001  raised below, when all ranks know
        error = caught
    if rank == 0 and not told:
        _from_first(None, ranks)
    failed = _from_first(_text(error) if rank == 0 else None, ranks)
    if error is not None:
        raise error
    if failed:
        raise OSError(f"rank 0 could not write {target}: {failed}")


def on_all_ranks(work: Callable[[], T]) -> T:
    """What work gives, which every rank does by itself; where one fails, all do, so that none waits for it."""
    ranks = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
    results: list[T] = []
    _of_ranks(lambda: results.append(work()) or [], ranks)  # type: ignore[func-returns-value]
    return results[0]


def _of_ranks(work: Callable[[], list[T]], ranks: int) -> list[T]:
    """What all ranks give, laid end to end. Raises what this one raises, or `OSError` for what another one does."""
    if ranks == 1:
        return work()
    own, error = list[T](), None
    try:
        own = work()
    except Exception as caught:  # noqa: BLE001  raised below, when all ranks know
        error = caught
    of_ranks: list[Any] = [None] * ranks
    dist.all_gather_object(of_ranks, (own, _text(error)))
    if error is not None:
        raise error
    failed = [f"rank {rank} failed: {text}" for rank, (_, text) in enumerate(of_ranks) if text]
    if failed:
        raise OSError("; ".join(failed))
    return [item for part, _ in of_ranks for item in part]


def _from_first(value: Any, ranks: int) -> Any:
    """What the first rank has."""
    shared = [value]
    if ranks > 1:
        dist.broadcast_object_list(shared, src=0)
    return shared[0]


def _text(error: BaseException | None) -> str:
    return "" if error is None else f"{type(error).__name__}: {error}"
