"""Checkpoints pruned without the model: a plan names every tensor that it cuts, so that the files are enough.

Everything is checked before the first byte is written, and a target takes its name last, when all of it is on the disk.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Collection, Container, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import torch
from attrs import evolve, frozen

from depgraph import codec
from depgraph.errors import DocumentError, MismatchError, PlanError
from depgraph.execution.checkpoint_files import CheckpointFile, Piece, SafetensorsFile, Tick, TorchFile, write_pieces
from depgraph.execution.distributed_folders import (
    METADATA,
    DistributedFolder,
    on_all_ranks,
    with_optimizer_states,
    write_folder,
)
from depgraph.execution.fitting import other_sizes
from depgraph.execution.repairs import Repair, checked_repair
from depgraph.messages import shortened
from depgraph.plans.checking import is_well_typed
from depgraph.plans.plan import Plan
from depgraph.progress import ticks
from depgraph.wrappers import unprefixed, unprefixed_below

Rename: TypeAlias = Callable[[str], str]
"""From a name in the checkpoint to the model's name."""

_INDEX = ".index.json"
_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
_LONGEST_INDEX = 2**28
"""So many characters an index has at most."""


def prune_checkpoint(
    plan: Plan,
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    repair: Repair | None = None,
    rename: Rename | None = None,
    strict: bool = True,
    max_shard_size: int | str | None = None,
    progress: bool = False,
) -> None:
    """Write the checkpoint that the pruned model would have, without the model. Bit for bit what `execute` gives.

    A source is a file of safetensors, a state dict that `torch.save` wrote (read with ``weights_only=True``), a folder with
    shards of either and their index, or a folder of `torch.distributed.checkpoint`; the target has the same form.
    Tensors that the plan does not name are copied, metadata are kept. Of safetensors a few megabytes are in memory at a
    time, and rows that go are not read; of `torch.save` what one file of the target holds.

    A folder of `torch.distributed.checkpoint` is pruned chunk by chunk, with the states of optimizers in it. Where ranks are
    initialised, all of them call this together, and each writes its own files.

    The target appears whole or not at all: it is written under a temporary name beside it, which ends in ``.part`` and which a
    killed process leaves behind. A file is replaced; a folder must not exist, or be empty. Of a folder only the tensors
    and their index are written.

    Args:
        plan: what to remove.
        source: the checkpoint of the model that the plan was made for; a folder, or its index, where it is in shards.
        target: where the pruned one goes.
        repair: what `refit` gave for this plan: new values for what stays. Of the checkpoint's weights those are compared in
            whose place it has new ones.
        rename: gives the model's name for a name in the checkpoint, where the two differ. The prefixes of `DataParallel`,
            `DistributedDataParallel` and `torch.compile` are looked through without it. The target's names are the source's.
        strict: whether the checkpoint must have every tensor that the plan cuts, of tied ones under one name at least.
            Buffers that are not saved (``persistent=False``) may be cut as well: then False.
        max_shard_size: makes the target a folder with shards of at most so many bytes, such as ``"5GB"``; a larger
            tensor has a shard of its own. By default each file of the source becomes one of the target.
        progress: show a progress bar; needs the package tqdm.

    Raises:
        PlanError: the arguments are not of these kinds, the target exists, or a package is missing.
        DocumentError: a file is damaged, or is no checkpoint.
        MismatchError: names or shapes are not those that the plan expects; all are listed, and nothing is written.

    >>> import tempfile, pathlib, depgraph as dg
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> plan = dg.cut(dg.trace(model, torch.zeros(1, 4)), "0.weight", [2, 6], dim=0)
    >>> with tempfile.TemporaryDirectory() as name:
    ...     folder = pathlib.Path(name)
    ...     torch.save(model.state_dict(), folder / "model.pt")
    ...     dg.prune_checkpoint(plan, folder / "model.pt", folder / "small.pt")
    ...     state = torch.load(folder / "small.pt")
    >>> {name: tuple(tensor.shape) for name, tensor in state.items()}
    {'0.weight': (6, 4), '0.bias': (6,), '2.weight': (2, 6), '2.bias': (2,)}
    >>> torch.equal(state["2.weight"], dg.execute(plan, model)[2].weight)
    True
    """
    most = _checked_arguments(plan, repair, rename, max_shard_size)
    distributed = (Path(source) / METADATA).exists()

    def checked() -> tuple[_Checkpoint, list[Piece]]:
        checkpoint = _opened(Path(source))
        pieces = _pieces(plan, checkpoint, repair, rename, strict)
        _check_target(Path(target), checkpoint.is_folder or most is not None, checkpoint.files[0].suffixes)
        if distributed and most is not None:
            raise PlanError("max_shard_size= is for files of safetensors and torch.save. Nothing was changed.")
        return checkpoint, pieces

    checkpoint, pieces = on_all_ranks(checked) if distributed else checked()
    into_folder = checkpoint.is_folder or most is not None
    with ticks(len(pieces), "prune_checkpoint", "tensor", progress) as tick:
        if isinstance(checkpoint.files[0], DistributedFolder):
            write_folder(Path(target), checkpoint.files[0], pieces, tick)
        elif into_folder:
            codec.write_whole_folder(Path(target), lambda folder: _fill(folder, checkpoint, pieces, most, tick))
        else:
            codec.write_whole(Path(target), lambda file: write_pieces(file, pieces, tick))


def check_checkpoint(plan: Plan, source: str | os.PathLike[str], *, rename: Rename | None = None, strict: bool = True) -> None:
    """Everything that `prune_checkpoint` checks of a source, without writing anything.

    Args:
        plan: the plan.
        source: the checkpoint.
        rename: gives the model's name for a name in the checkpoint.
        strict: whether the checkpoint must have every tensor that the plan cuts.

    Raises:
        PlanError: the arguments are not of these kinds, or a package is missing.
        DocumentError: a file is damaged, or is no checkpoint.
        MismatchError: names or shapes are not those that the plan expects; all are listed.

    >>> import tempfile, pathlib, depgraph as dg
    >>> from torch import nn
    >>> plan = dg.cut(dg.trace(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2)), torch.zeros(1, 4)), "0.weight", [2], dim=0)
    >>> with tempfile.TemporaryDirectory() as name:
    ...     path = pathlib.Path(name) / "other.pt"
    ...     torch.save(nn.Linear(4, 8).state_dict(), path)
    ...     check_checkpoint(plan, path)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    depgraph.errors.MismatchError: the plan does not fit this checkpoint:
      - the checkpoint has no tensor '0.bias'
    ...
    """
    _checked_arguments(plan, None, rename, None)
    _pieces(plan, _opened(Path(source)), None, rename, strict)


@frozen(eq=False)
class _Checkpoint:
    """The files of a checkpoint.

    Attributes:
        files: each of them, in the order of their names.
        is_folder: whether they are the shards of a folder.
        stem: what the names of shards begin with.
        index: what the index says beside the places of tensors; None where there is no index.
    """

    files: tuple[CheckpointFile, ...]
    is_folder: bool
    stem: str
    index: Mapping[str, Any] | None = None

    def shards(self, pieces: Sequence[Piece], most: int | None) -> dict[str, list[Piece]]:
        """Name of a file to what goes into it: as in the source, or anew, where a largest size is given."""
        if most is None:
            by_file = {file.path.name: [piece for piece in pieces if piece.file is file] for file in self.files}
            return {name: shard for name, shard in by_file.items() if shard}
        by_name = {(piece.file, piece.name): piece for piece in pieces}
        shards: list[list[Piece]] = [[]]
        used = 0
        for file in self.files:
            for names in ([name for name in names if (file, name) in by_name] for names in file.together):
                size = by_name[file, names[0]].entry.size if names else 0
                if used and used + size > most:
                    shards.append([])
                    used = 0
                shards[-1].extend(by_name[file, name] for name in names)
                used += size
        suffix, count = self.files[0].path.suffix, len(shards)
        if count == 1:
            return {f"{self.stem}{suffix}": shards[0]}
        return {f"{self.stem}-{place:05}-of-{count:05}{suffix}": shard for place, shard in enumerate(shards, 1)}


def _checked_arguments(plan: object, repair: object, rename: object, max_shard_size: object) -> int | None:
    """The largest size of a shard in bytes. Raises `PlanError` with all that is wrong with the arguments."""
    problems = [] if isinstance(plan, Plan) else [f"expected a Plan, met {type(plan).__name__}."]
    if repair is not None and not isinstance(repair, Repair):
        problems.append(f"expected repair= to be what dg.refit gives, met {type(repair).__name__}.")
    if rename is not None and not callable(rename):
        problems.append(f"expected rename= as a function from name to name, met {type(rename).__name__}.")
    most = max_shard_size
    if isinstance(most, str):
        parts = re.fullmatch(r"(\d{1,15}) ?([KMG]?I?B?)", most.upper())
        most = int(parts[1]) * _UNITS[parts[2]] if parts and parts[2] in _UNITS else None
    if max_shard_size is not None and (type(most) is not int or most < 1):
        problems.append(f'expected max_shard_size= as a number of bytes, or a text such as "5GB", met {max_shard_size!r}.')
    if problems:
        raise PlanError.of(problems)
    return most  # type: ignore[return-value]


def _opened(path: Path) -> _Checkpoint:
    """The checkpoint that is a file, an index or a folder."""
    if path.name.endswith(_INDEX):
        return _of_index(path)
    if (path / METADATA).exists():
        return _Checkpoint((DistributedFolder(path),), True, path.stem)
    if not path.is_dir():
        return _Checkpoint((_file(path),), False, path.stem)
    for kind in (SafetensorsFile, TorchFile):
        indexes = [each for each in sorted(path.glob(f"*{_INDEX}")) if each.name.removesuffix(_INDEX).endswith(kind.suffixes)]
        files = [each for each in sorted(path.iterdir()) if each.suffix in kind.suffixes]
        found = indexes or files
        if len(found) > 1:
            names = shortened(", ".join(repr(each.name) for each in found))
            raise PlanError(f"{path} holds several checkpoints, or shards without an index: {names}. Pass one file or index.")
        if indexes:
            return _of_index(indexes[0])
        if files:
            return _Checkpoint((_file(files[0]),), True, files[0].stem)
    raise PlanError(
        f"{path} holds no checkpoint: expected an index or one file of {SafetensorsFile.suffixes[0]} or of torch.save."
    )


def _file(path: Path) -> CheckpointFile:
    return SafetensorsFile(path) if path.suffix in SafetensorsFile.suffixes else TorchFile(path)


def _of_index(path: Path) -> _Checkpoint:
    """The shards that an index names. It may come from anywhere: names that lead out of its folder are refused."""
    fix = "Download or save the checkpoint again."
    try:
        with path.open(encoding="utf-8") as file:
            content = json.loads(file.read(_LONGEST_INDEX))
    except (ValueError, RecursionError) as error:
        raise DocumentError(f"{path} is no index of shards ({shortened(str(error))}). {fix}") from None
    places = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(places, dict) or not places or not all(type(place) is str for place in places.values()):
        raise DocumentError(f"{path}: expected a weight_map from names of tensors to names of files. {fix}")
    names = sorted(set(places.values()))
    strange = [name for name in names if name in {"", ".", ".."} or re.search(r"[/\\:\0]", name)]
    if strange:
        raise DocumentError(f"{path} names files outside of its folder: {shortened(', '.join(map(repr, strange)))}. {fix}")
    files = tuple(_file(path.with_name(name)) for name in names)
    if len({type(file) for file in files}) > 1:
        raise DocumentError(f"{path} names files of safetensors and others. {fix}")
    problems = [*_other_places(places, files)]
    if problems:
        raise MismatchError(f"{path} does not fit its files:", problems, fix)
    rest = {key: value for key, value in content.items() if key != "weight_map"}
    return _Checkpoint(files, True, path.name.removesuffix(_INDEX).removesuffix(files[0].path.suffix), rest)


def _other_places(places: Mapping[str, str], files: Sequence[CheckpointFile]) -> Iterator[str]:
    """Tensors that are not where the index says."""
    listed = {(place, name) for name, place in places.items()}
    stored = {(file.path.name, name) for file in files for name in file.names}
    for place, name in sorted(listed - stored):
        yield f"{shortened(repr(name))} is not in {place}"
    for place, name in sorted(stored - listed):
        yield f"{shortened(repr(name))} is in {place}, and the index does not say so"


def _pieces(plan: Plan, checkpoint: _Checkpoint, repair: Repair | None, rename: Rename | None, strict: bool) -> list[Piece]:
    """What goes into the target. Raises `MismatchError` with everything that does not fit."""
    whole = [Piece(name, file) for file in checkpoint.files for name in file.names]
    known = {*plan.sizes, *(repair.values if repair is not None else ())} if is_well_typed(plan) else set()
    listed = [f"{drop.sequence.prefix}{element}." for drop in plan.drops for element in drop.sequence.elements]
    named = [(rename(piece.name) if rename else _model_name(piece, known, listed), piece) for piece in whole]
    by_name = dict(named)
    problems, missing = [*plan.problems], list[str]()
    if not problems or is_well_typed(plan):
        problems += _stored_twice(named)
        for name, sizes in plan.sizes.items():
            if name in by_name:
                problems += other_sizes(name, sizes, by_name[name].entry.shape)
        missing = [*_not_stored(plan, by_name, strict)]
        problems += [f"the checkpoint has no tensor {shortened(repr(name))}" for name in missing]
    if not problems:  # sizes are those of tensors that are there: only now are indices listed
        problems += [*_uncuttable(plan, by_name), *_other_ties(plan, checkpoint, named), *_unnameable(plan, named)]
    if problems:
        headline = "the plan is damaged:" if plan.problems else "the plan does not fit this checkpoint:"
        raise MismatchError(headline, problems, _fix(missing, list(by_name)))
    pruned = {name: evolve(piece, kept=plan.kept.get(name, {})) for name, piece in named}
    if isinstance(checkpoint.files[0], DistributedFolder):
        pruned, problems = with_optimizer_states(pruned, plan)
        if problems:
            raise MismatchError("the plan does not fit this checkpoint:", problems, _fix([], []))
    whole_pieces = pruned if repair is None else _repaired(plan, checkpoint, pruned, repair)
    return [evolve(piece, target=_target_name(plan, name, piece)) for name, piece in whole_pieces.items() if _stays(plan, name)]


def _model_name(piece: Piece, known: Container[str], listed: Collection[str]) -> str:
    """The model's name of a tensor that the plan cuts, or that lies in an element of a list; any other one's as it is."""
    keys = piece.file.keys(piece.name) if isinstance(piece.file, DistributedFolder) else (piece.name,)
    return next((name for key in keys if (name := unprefixed(key, known) or unprefixed_below(key, listed))), piece.name)


def _stays(plan: Plan, name: str) -> bool:
    return plan.name_after(name) is not None


def _target_name(plan: Plan, name: str, piece: Piece) -> str:
    """A tensor's name in the target: elements behind a gap move up, whatever stands before the model's name."""
    return piece.name.removesuffix(name) + (plan.name_after(name) or name) if plan.drops else piece.name


def _unnameable(plan: Plan, named: Sequence[tuple[str, Piece]]) -> Iterator[str]:
    """Tensors of elements that move up, whose names in the checkpoint do not end in those of the model."""
    for name, piece in named:
        if plan.name_after(name) not in {None, name} and not piece.name.endswith(name):
            told = f"{shortened(repr(piece.name))} is to be called {plan.name_after(name)!r}"
            yield f"{told}, but rename= gives no name for it: rename the checkpoint's tensors first"


def _stored_twice(named: Sequence[tuple[str, Piece]]) -> Iterator[str]:
    """Names of the checkpoint that come to one name of the model."""
    first: dict[str, str] = {}
    for name, piece in named:
        if name in first:
            both = f"{shortened(repr(first[name]))} and {shortened(repr(piece.name))}"
            yield f"the checkpoint has {shortened(repr(name))} twice, as {both}"
        first.setdefault(name, piece.name)


def _not_stored(plan: Plan, by_name: Mapping[str, Piece], strict: bool) -> Iterator[str]:
    """Tensors of the plan that the checkpoint should have: of tied ones one name is enough."""
    if not strict and any(name in by_name for name in plan.sizes):
        return
    also = {name: names for names in plan.tied for name in names}
    yield from (name for name in plan.sizes if not any(other in by_name for other in also.get(name, (name,))))


def _uncuttable(plan: Plan, by_name: Mapping[str, Piece]) -> Iterator[str]:
    """Tensors whose single elements cannot be taken."""
    for name in plan.sizes:
        if name in by_name:
            entry = by_name[name].entry
            if entry.packed or not entry.kind:
                yield f"{name!r}: expected a plain tensor, met {entry.kind or 'none'}"


def _other_ties(plan: Plan, checkpoint: _Checkpoint, named: Sequence[tuple[str, Piece]]) -> Iterator[str]:
    """One tensor under several names must be cut alike under all of them."""
    model_name = {(piece.file, piece.name): name for name, piece in named}
    for file in checkpoint.files:
        for names in file.together:
            first, *others = (model_name[file, name] for name in names)
            for other in others:
                if plan.kept.get(first) != plan.kept.get(other):
                    yield f"{first!r} and {other!r} are one tensor here, but the plan cuts them differently"


def _fix(missing: Sequence[str], stored: Sequence[str]) -> str:
    """What to do about a checkpoint that does not fit: names may only begin otherwise."""
    usual = "Prune the checkpoint of the model that the plan was made for."
    if not missing:
        return usual
    longer = {name.removesuffix(missing[0]) for name in stored if name.endswith(f".{missing[0]}")}
    for prefix in sorted(longer, key=len):
        if all(prefix + name in stored for name in missing):
            told = shortened(repr(prefix))
            return f"Its names begin with {told}: pass rename=lambda name: name.removeprefix({told})."
    shorter = {missing[0].removesuffix(name) for name in stored if missing[0].endswith(f".{name}")}
    for prefix in sorted(shorter, key=len):
        if all(name.startswith(prefix) and name.removeprefix(prefix) in stored for name in missing):
            told = shortened(repr(prefix))
            return f"The model's names begin with {told}: pass rename=lambda name: {told} + name."
    return f"{usual} Where these are buffers that are not saved (persistent=False), pass strict=False."


def _repaired(plan: Plan, checkpoint: _Checkpoint, pieces: dict[str, Piece], repair: Repair) -> dict[str, Piece]:
    """The pieces with the new values of a repair, under every name of a tensor. Raises `MismatchError` if it does not fit."""
    model_name = {(piece.file, piece.name): name for name, piece in pieces.items()}
    same = {name: names for names in plan.tied for name in names}
    for file in checkpoint.files:
        for names in file.together:
            if len(names) > 1:
                same.update(dict.fromkeys(own := tuple(model_name[file, name] for name in names), own))
    places = {name: [other for other in same.get(name, (name,)) if other in pieces] for name in repair.values}
    stored = {name: pieces[found[0]] for name, found in places.items() if found}
    sizes = {name: piece.entry.shape for name, piece in stored.items() if piece.entry.kind}

    def original(name: str) -> torch.Tensor:
        tensor: torch.Tensor = stored[name].file.original(stored[name].name)
        return tensor

    fitting = checked_repair(repair, lambda repair: repair.problems_with_tensors(plan, sizes, original))
    for name, values in fitting.values.items():
        pieces.update({other: evolve(pieces[other], values=values) for other in places[name]})
    return pieces


def _check_target(target: Path, into_folder: bool, suffixes: Sequence[str]) -> None:
    """Refuse a target that is there and cannot be replaced at once, or is named like a file of another form."""
    problem = ""
    if into_folder and target.exists() and not (target.is_dir() and not any(target.iterdir())):
        problem = f"{target} exists. Remove it, or name another folder."
    elif not into_folder and target.is_dir():
        problem = f"{target} is a folder. Name a file."
    elif (
        not into_folder and target.suffix not in suffixes and target.suffix in (*SafetensorsFile.suffixes, *TorchFile.suffixes)
    ):
        problem = f"expected a target that ends in {suffixes[0]}, as the source does, met {target.name!r}."
    if problem:
        raise PlanError.of([problem])


def _fill(folder: Path, checkpoint: _Checkpoint, pieces: Sequence[Piece], most: int | None, tick: Tick) -> None:
    """Write all shards, and their index."""
    shards = checkpoint.shards(pieces, most)
    for name, shard in shards.items():
        codec.write_new(folder / name, partial(write_pieces, pieces=shard, tick=tick))
    if len(shards) == 1 and (most is not None or checkpoint.index is None):
        return
    entries = [piece.entry for piece in pieces]
    index = checkpoint.index or {}
    known = index.get("metadata")
    metadata = dict(known) if isinstance(known, dict) else {}
    metadata["total_size"] = sum(entry.size for entry in entries)
    if "total_parameters" in metadata:
        metadata["total_parameters"] = sum(entry.count for entry in entries)
    places = {piece.target: name for name, shard in shards.items() for piece in shard}
    text = json.dumps({**index, "metadata": metadata, "weight_map": dict(sorted(places.items()))}, indent=2) + "\n"
    name = f"{checkpoint.stem}{checkpoint.files[0].path.suffix}{_INDEX}"
    codec.write_new(folder / name, lambda file: file.write(text.encode()))
