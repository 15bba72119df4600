"""Folders of torch.distributed.checkpoint in one process: what is cut and copied, what is refused, and that no code is run."""

import os
import pickle  # noqa: TID251  lists of these folders are pickles: hostile ones are made here
import shutil
from dataclasses import replace

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

import depgraph as dg
from depgraph import codec
from depgraph.execution.checkpoints import prune_checkpoint
from tests.execution.test_shards import Residual

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.distributed is disabled.*:UserWarning")


def network():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(6, 3))
    x = torch.randn(4, 2, 3, 3)
    plan = dg.cut(dg.trace(model, x), "0.weight", [1, 4], dim=0)
    return model, x, plan


def loaded(folder, state):
    """What a folder holds under the keys and in the shapes of a state."""
    result = {name: torch.zeros_like(tensor) if isinstance(tensor, torch.Tensor) else None for name, tensor in state.items()}
    dcp.load(result, checkpoint_id=folder)
    return result


@pytest.fixture
def saved(tmp_path):
    """A folder with the state of a model, and what is needed to prune it."""
    model, _, plan = network()
    dcp.save({**model.state_dict(), "step": 3}, checkpoint_id=tmp_path / "full")
    return tmp_path / "full", tmp_path / "small", model, plan


def test_a_folder_is_what_execute_gives(saved):
    """Bit for bit; what is no tensor is copied; nothing else is left behind."""
    source, target, model, plan = saved
    prune_checkpoint(plan, source, target, progress=True)
    expected = {**dg.execute(plan, model).state_dict(), "step": 3}
    state = loaded(target, expected)
    assert state["step"] == 3
    assert all(torch.equal(state[name], tensor) for name, tensor in expected.items() if name != "step")
    assert sorted(path.name for path in target.parent.iterdir()) == ["full", "small"]


def test_a_repair_is_written(saved):
    source, target, model, plan = saved
    repair = dg.refit(plan, model.eval(), [network()[1]])
    prune_checkpoint(plan, source, target, repair=repair)
    expected = dg.execute(plan, model, repair=repair).state_dict()
    assert repair.values and all(torch.equal(loaded(target, expected)[name], tensor) for name, tensor in expected.items())
    shutil.rmtree(target)
    dcp.save({name: tensor + 1 for name, tensor in model.state_dict().items()}, checkpoint_id=source)
    with pytest.raises(dg.errors.MismatchError, match="other weights"):
        prune_checkpoint(plan, source, target, repair=repair)


@pytest.mark.parametrize("chunk", [1, 4, 5])
def test_chunks_stay_chunks(saved, chunk):
    """Wherever they begin, and whether or not something of them stays."""
    source, target, model, plan = saved
    prune_checkpoint(plan, cut_into_chunks(source, chunk), target)
    expected = dg.execute(plan, model).state_dict()
    assert all(torch.equal(loaded(target, expected)[name], tensor) for name, tensor in expected.items())


def cut_into_chunks(folder, rows):
    """The same checkpoint with so many rows in each chunk."""
    reader = dcp.FileSystemReader(folder)
    contents = reader.read_metadata()
    sized = {name: item for name, item in contents.state_dict_metadata.items() if hasattr(item, "size")}
    tensors = {name: torch.zeros(item.size, dtype=item.properties.dtype) for name, item in sized.items()}
    dcp.load(tensors, checkpoint_id=folder)
    places = {}
    with (folder / "chunks.distcp").open("wb") as file:
        for name, tensor in tensors.items():
            chunks = tensor.split(rows) if tensor.ndim else (tensor,)
            offsets = [torch.Size([place * rows, *[0] * (tensor.ndim - 1)][: tensor.ndim]) for place in range(len(chunks))]
            item = contents.state_dict_metadata[name]
            listed = [replace(item.chunks[0], offsets=at, sizes=part.shape) for at, part in zip(offsets, chunks, strict=True)]
            contents.state_dict_metadata[name] = replace(item, chunks=listed)
            for at, part in zip(offsets, chunks, strict=True):
                begin = file.tell()
                torch.save(part.clone(), file)
                place = next(place for index, place in contents.storage_data.items() if index.fqn == name)
                places[dcp.metadata.MetadataIndex(name, at)] = type(place)("chunks.distcp", begin, file.tell() - begin)
        kept = {index: place for index, place in contents.storage_data.items() if index.fqn not in tensors}
    (folder / ".metadata").write_bytes(pickle.dumps(replace(contents, storage_data={**kept, **places})))
    return folder


def test_moments_are_cut_and_numbers_of_parameters_refused(tmp_path):
    """Of an optimizer's state that names parameters; of one that counts them nobody knows whose it is."""
    model, x, plan = network()
    optimizer = torch.optim.Adam(model.parameters())
    model(x).sum().backward()
    optimizer.step()
    states = get_optimizer_state_dict(model, optimizer)
    dcp.save({"model": model.state_dict(), "optim": states}, checkpoint_id=tmp_path / "full")
    prune_checkpoint(plan, tmp_path / "full", tmp_path / "small")
    carried = dg.optimizers.carry_state(plan, model, optimizer)["state"]
    names = [name for name, _ in model.named_parameters()]
    expected = {f"optim.state.{name}.exp_avg_sq": carried[place]["exp_avg_sq"] for place, name in enumerate(names)}
    assert all(torch.equal(loaded(tmp_path / "small", expected)[name], tensor) for name, tensor in expected.items())
    dcp.save({"model": model.state_dict(), "optim": optimizer.state_dict()}, checkpoint_id=tmp_path / "numbered")
    with pytest.raises(dg.errors.MismatchError, match=r"'optim.state.0.exp_avg': .* does not say whose"):
        prune_checkpoint(plan, tmp_path / "numbered", tmp_path / "other")
    odd = {"state": {"0.weight": {"exp_avg": torch.zeros(5, 2)}}}
    dcp.save({"model": model.state_dict(), "optim": odd}, checkpoint_id=tmp_path / "odd")
    with pytest.raises(dg.errors.MismatchError, match=r"has shape \(5, 2\): expected the sizes of '0.weight'"):
        prune_checkpoint(plan, tmp_path / "odd", tmp_path / "other")
    dcp.save({"model": model.state_dict(), "average": model.state_dict()}, checkpoint_id=tmp_path / "twice")
    with pytest.raises(dg.errors.MismatchError, match=r"twice, as 'model\.0\.weight' and 'average\.0\.weight'"):
        prune_checkpoint(plan, tmp_path / "twice", tmp_path / "other")
    prune_checkpoint(plan, tmp_path / "twice", tmp_path / "renamed", rename=lambda name: name.removeprefix("model."))
    assert loaded(tmp_path / "renamed", {"model.0.weight": torch.zeros(4, 2, 3, 3)})["model.0.weight"].any()


def test_tensors_of_elements_that_leave_are_left_out(tmp_path):
    """The others move up, under keys of what was saved as well; states of optimizers are refused."""
    model, x = Residual(), torch.randn(2, 4)
    plan = dg.drop(dg.trace(model, x), "blocks", [1])
    dcp.save({"model": model.state_dict(), "step": 3}, checkpoint_id=tmp_path / "full")
    prune_checkpoint(plan, tmp_path / "full", tmp_path / "small")
    small = dg.execute(plan, model)
    state = {"model": {name: torch.zeros_like(tensor) for name, tensor in small.state_dict().items()}, "step": 0}
    dcp.load(state, checkpoint_id=tmp_path / "small")
    assert state["step"] == 3 and all(torch.equal(state["model"][name], tensor) for name, tensor in small.state_dict().items())
    listed = dcp.FileSystemReader(tmp_path / "small").read_metadata()
    assert set(listed.state_dict_metadata) == {"step", *(f"model.{name}" for name in small.state_dict())}
    moments = {"state": {"blocks.0.linear.weight": {"exp_avg": torch.zeros(4, 4)}}}
    dcp.save({"model": model.state_dict(), "optim": moments}, checkpoint_id=tmp_path / "trained")
    with pytest.raises(dg.errors.MismatchError, match="does not go along where layers or branches leave"):
        prune_checkpoint(plan, tmp_path / "trained", tmp_path / "other")


class Hostile:
    """What runs a command where a pickle is read without care."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def test_no_code_of_a_folder_is_run(saved):
    source, target, _, plan = saved
    contents = dcp.FileSystemReader(source).read_metadata()
    witness = target.parent / "ran"
    hostile = Hostile(f"touch {witness}")
    for damaged in (hostile, replace(contents, planner_data=hostile), replace(contents, storage_meta=hostile)):
        (source / ".metadata").write_bytes(pickle.dumps(damaged))
        with pytest.raises(dg.errors.DocumentError, match=r"system'?, which lists of checkpoints do not need"):
            prune_checkpoint(plan, source, target)
    (source / ".metadata").write_bytes(pickle.dumps(contents))
    name = next(place.relative_path for place in contents.storage_data.values())
    content = (source / name).read_bytes()
    (source / name).write_bytes(pickle.dumps(hostile).ljust(len(content), b"\0"))
    with pytest.raises(dg.errors.DocumentError, match="has no tensor at byte"):
        prune_checkpoint(plan, source, target)
    assert not witness.exists() and not target.exists()
    os.system(f"touch {witness}.too")
    assert witness.with_name("ran.too").exists()


def other(contents, **changes):
    """The list with something else said of one place."""
    index = next(index for index in contents.storage_data if index.fqn == "0.weight")
    return replace(contents, storage_data={**contents.storage_data, index: replace(contents.storage_data[index], **changes)})


def listing(contents, **items):
    """The list with something else, or more, in it."""
    return replace(contents, state_dict_metadata={**contents.state_dict_metadata, **items})


DAMAGES = {
    "outside of its folder": lambda contents: other(contents, relative_path="../full/__0_0.distcp"),
    "outside of the file": lambda contents: other(contents, offset=10**9),
    "compressed": lambda contents: other(contents, transform_descriptors=["zstd"]),
    "is not listed": lambda contents: replace(contents, state_dict_metadata={}),
    "neither tensor nor bytes": lambda contents: listing(contents, x=3),
    "chunk outside of itself": lambda contents: listing(
        contents, **{"0.weight": replace(contents.state_dict_metadata["0.weight"], size=torch.Size([1, 2, 3, 3]))}
    ),
    "no list of a checkpoint": lambda contents: 3,
}


@pytest.mark.parametrize("words", DAMAGES)
def test_a_damaged_list_is_refused(saved, words):
    source, target, _, plan = saved
    contents = dcp.FileSystemReader(source).read_metadata()
    (source / ".metadata").write_bytes(pickle.dumps(DAMAGES[words](contents)))
    with pytest.raises(dg.errors.DocumentError, match=words):
        prune_checkpoint(plan, source, target)
    assert [path.name for path in target.parent.iterdir()] == ["full"]


def test_arguments_for_other_forms_are_refused(saved):
    source, target, _, plan = saved
    with pytest.raises(dg.errors.PlanError, match="max_shard_size= is for"):
        prune_checkpoint(plan, source, target, max_shard_size="1GB")


@pytest.mark.parametrize("failing", [1, 2])
def test_a_failure_at_any_write_leaves_no_target(saved, failing, monkeypatch):
    source, target, _, plan = saved
    write_new, calls = codec.write_new, []

    def full(path, write_to):
        calls.append(path)
        if len(calls) == failing:
            raise OSError("full")
        write_new(path, write_to)

    monkeypatch.setattr(codec, "write_new", full)
    with pytest.raises(OSError, match="full"):
        prune_checkpoint(plan, source, target)
    assert [path.name for path in target.parent.iterdir()] == ["full"]
    monkeypatch.undo()
    prune_checkpoint(plan, source, target)
    assert target.exists()
