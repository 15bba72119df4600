"""Checkpoints pruned as files: names, metadata, shards, what is refused, what is read, and failures at any point."""

import json
import os
import resource
import struct
import subprocess
import sys
from pathlib import Path

import attrs
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save, save_file
from torch import nn

import depgraph as dg
from depgraph import codec
from depgraph.testing import snapshot
from tests import checkpoints
from tests.execution.test_interrupted import interrupted

ROOT = Path(__file__).parents[2]
X = torch.zeros(1, 4)


def subject(**options):
    """A network, and a plan that cuts rows and columns."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2), **options)
    graph = dg.trace(model, X)
    return model, dg.plan(graph, dg.score(graph, model, dg.criteria.Random(0)), ratio=0.5)


class Tied(nn.Module):
    """An embedding whose weight also is the last layer's, and a table that is not saved."""

    def __init__(self):
        super().__init__()
        self.embed, self.inner, self.head = nn.Embedding(9, 8), nn.Linear(8, 8), nn.Linear(8, 9, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("table", torch.arange(8.0), persistent=False)

    def forward(self, x):
        return self.head(self.inner(self.embed(x)) + self.embed(x) * self.table)


def tied():
    torch.manual_seed(0)
    model = Tied()
    return model, dg.cut(dg.trace(model, torch.zeros(1, 3, dtype=torch.long)), "embed.weight", [1, 4, 5], dim=1)


def test_a_file_is_what_safetensors_itself_writes(tmp_path):
    """The same bytes as its own writer gives for the executed model's tensors: order, padding and metadata."""
    model, plan = subject()
    save_file(model.state_dict(), tmp_path / "model.safetensors", {"format": "pt"})
    dg.prune_checkpoint(plan, tmp_path / "model.safetensors", tmp_path / "small.safetensors")
    small = dg.execute(plan, model)
    assert (tmp_path / "small.safetensors").read_bytes() == save(small.state_dict(), {"format": "pt"})


def test_what_files_say_beside_tensors_is_kept(tmp_path):
    """Metadata of safetensors; the versions of modules and extra state in a state dict; the index of shards."""

    class Counting(nn.BatchNorm1d):
        def get_extra_state(self):
            return {"calls": 3}

        def set_extra_state(self, state):
            self.calls = state["calls"]

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), Counting(8), nn.Linear(8, 2)).eval()
    plan = dg.cut(dg.trace(model, X), "0.weight", [2], dim=0)
    dg.prune_checkpoint(plan, checkpoints.save("torch", model.state_dict(), tmp_path), tmp_path / "small.pt")
    state = torch.load(tmp_path / "small.pt", weights_only=True)
    assert list(state) == list(model.state_dict()) and state._metadata == model.state_dict()._metadata
    small = dg.execute(plan, model)
    small.load_state_dict(state)
    assert small[1].calls == 3

    source = checkpoints.save("safetensors", checkpoints.state_of(model), tmp_path)
    dg.prune_checkpoint(plan, source, tmp_path / "small.safetensors")
    with safe_open(tmp_path / "small.safetensors", "pt") as file:
        assert file.metadata() == checkpoints.METADATA

    source = checkpoints.save("safetensors shards", checkpoints.state_of(model), tmp_path)
    dg.prune_checkpoint(plan, source, tmp_path / "small")
    assert [path.name for path in sorted((tmp_path / "small").iterdir())] == [
        path.name for path in sorted(source.iterdir()) if path.name != "config.json"
    ]
    before, after = (
        json.loads((folder / "model.safetensors.index.json").read_text()) for folder in (source, tmp_path / "small")
    )
    assert after["weight_map"] == before["weight_map"]
    assert after["metadata"] == {"total_size": sum(tensor.nbytes for tensor in load_all(tmp_path / "small")), "kept": True}


def load_all(folder):
    return checkpoints.load(folder).values()


def test_shards_are_as_large_as_asked(tmp_path):
    """Within the size, unless a single tensor is larger; one shard needs no index."""
    model, plan = subject()
    source = checkpoints.save("safetensors", model.state_dict(), tmp_path)
    dg.prune_checkpoint(plan, source, tmp_path / "small", max_shard_size=60)
    index = json.loads((tmp_path / "small" / "model.safetensors.index.json").read_text())
    shards = {path.name: load_file(path) for path in sorted((tmp_path / "small").glob("*.safetensors"))}
    assert index["weight_map"] == {name: shard for shard, state in shards.items() for name in state}
    sizes = [[tensor.nbytes for tensor in state.values()] for state in shards.values()]
    assert all(sum(shard) <= 60 or len(shard) == 1 for shard in sizes) and len(sizes) > 1
    assert next(iter(shards)) == f"model-00001-of-{len(shards):05}.safetensors"
    dg.prune_checkpoint(plan, tmp_path / "model.safetensors", tmp_path / "one", max_shard_size="1 KB")
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["model.safetensors"]
    dg.prune_checkpoint(dg.Plan.empty(dg.trace(model, X)), tmp_path / "small", tmp_path / "again", max_shard_size="5GB")
    assert len(list((tmp_path / "again").iterdir())) == 1


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_prefixes_of_wrappers_are_looked_through(tmp_path, prefix):
    """The target has them, too."""
    model, plan = subject()
    wrapped = {prefix + name: tensor for name, tensor in model.state_dict().items()}
    dg.prune_checkpoint(plan, checkpoints.save("safetensors", wrapped, tmp_path), tmp_path / "small.safetensors")
    small = {prefix + name: tensor for name, tensor in dg.execute(plan, model).state_dict().items()}
    checkpoints.assert_same(load_file(tmp_path / "small.safetensors"), small)


def test_other_names_are_given_by_a_function_that_the_error_tells(tmp_path):
    """A model inside of another one, and one around it."""
    model, plan = subject()
    small = dg.execute(plan, model).state_dict()
    longer = {f"bert.{name}": tensor for name, tensor in model.state_dict().items()}
    source = checkpoints.save("safetensors", longer, tmp_path)
    with pytest.raises(dg.errors.MismatchError) as caught:
        dg.prune_checkpoint(plan, source, tmp_path / "small.safetensors")
    rename = "rename=lambda name: name.removeprefix('bert.')"
    assert str(caught.value).endswith(f"Its names begin with 'bert.': pass {rename}. Nothing was changed.")
    dg.prune_checkpoint(plan, source, tmp_path / "small.safetensors", rename=lambda name: name.removeprefix("bert."))
    checkpoints.assert_same(load_file(tmp_path / "small.safetensors"), {f"bert.{name}": small[name] for name in small})

    outer = nn.ModuleDict({"base": model})
    outer.forward = lambda x: model(x)
    whole = dg.cut(dg.trace(outer, X), "base.0.weight", [1], dim=0)
    save_file(model.state_dict(), source)
    with pytest.raises(
        dg.errors.MismatchError, match=r"model's names begin with 'base.': pass rename=lambda name: 'base.' \+ name"
    ):
        dg.prune_checkpoint(whole, source, tmp_path / "small.safetensors")
    dg.prune_checkpoint(whole, source, tmp_path / "small.safetensors", rename=lambda name: f"base.{name}")
    checkpoints.assert_same(load_file(tmp_path / "small.safetensors"), dg.execute(whole, outer)["base"].state_dict())


@pytest.mark.parametrize("stored", ["embed.weight", "head.weight"])
def test_one_name_of_a_tied_tensor_is_enough(tmp_path, stored):
    """Whichever it is. Plans of before did not say what is tied: there every name is asked for."""
    model, plan = tied()
    assert plan.tied == (("embed.weight", "head.weight"),)
    state = {"inner.weight": model.inner.weight, "inner.bias": model.inner.bias, stored: model.embed.weight}
    source = checkpoints.save("safetensors", {name: tensor.detach() for name, tensor in state.items()}, tmp_path)
    dg.prune_checkpoint(plan, source, tmp_path / "small.safetensors", strict=False)
    small = dg.execute(plan, model).state_dict()
    checkpoints.assert_same(load_file(tmp_path / "small.safetensors"), {name: small[name] for name in state})
    (other,) = {"embed.weight", "head.weight"} - {stored}
    for kind, missing in ((plan, ["table"]), (attrs.evolve(plan, tied=()), [other, "table"])):
        with pytest.raises(dg.errors.MismatchError, match=r"persistent=False\), pass strict=False") as caught:
            dg.prune_checkpoint(kind, source, tmp_path / "other.safetensors")
        assert sorted(caught.value.problems) == sorted(f"the checkpoint has no tensor {name!r}" for name in missing)


def test_tied_tensors_of_a_state_dict_stay_one(tmp_path):
    """They are stored once; names that the plan does not tie are refused, as `execute` does."""
    model, plan = tied()
    source = checkpoints.save("torch", model.state_dict(), tmp_path)
    dg.prune_checkpoint(plan, source, tmp_path / "small.pt", strict=False)
    state = torch.load(tmp_path / "small.pt", weights_only=True)
    assert state["embed.weight"].data_ptr() == state["head.weight"].data_ptr() and state["head.weight"].shape == (9, 5)
    other, cut = subject()
    state = other.state_dict()
    state["extra"] = state["0.weight"]
    torch.save(state, source)
    with pytest.raises(
        dg.errors.MismatchError, match=r"'0.weight' and 'extra' are one tensor here, but the plan cuts them diff"
    ):
        dg.prune_checkpoint(cut, source, tmp_path / "small.pt")


def test_a_state_dict_keeps_layouts_and_no_more_than_it_holds(tmp_path):
    """Channels last stays so; a tensor that is a part of a large storage takes its own part along."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 2, 1)).to(memory_format=torch.channels_last)
    plan = dg.cut(dg.trace(model, torch.zeros(1, 3, 4, 4)), "0.weight", [1, 2], dim=0)
    state = {**model.state_dict(), "part": torch.zeros(100_000)[:3], "old": nn.Parameter(torch.ones(2))}
    torch.save(state, tmp_path / "model.pt")
    dg.prune_checkpoint(plan, tmp_path / "model.pt", tmp_path / "small.pt")
    after = torch.load(tmp_path / "small.pt", weights_only=True)
    assert after["0.weight"].is_contiguous(memory_format=torch.channels_last) and not after["0.weight"].is_contiguous()
    assert after["part"].untyped_storage().nbytes() == 12 and isinstance(after["old"], nn.Parameter)


def test_files_of_old_torch_are_read(tmp_path):
    """Of before 1.6: they cannot be mapped."""
    model, plan = subject()
    torch.save(model.state_dict(), tmp_path / "model.pth", _use_new_zipfile_serialization=False)
    dg.prune_checkpoint(plan, tmp_path / "model.pth", tmp_path / "small.pth")
    checkpoints.assert_same(checkpoints.load(tmp_path / "small.pth"), dg.execute(plan, model).state_dict())


@pytest.mark.parametrize("form", checkpoints.FORMS)
def test_every_mismatch_is_told_before_anything_is_written(tmp_path, form):
    """Shapes and names, all at once; nothing is there afterwards."""
    model, plan = subject()
    state = model.state_dict()
    state["0.weight"], state["2.weight"] = torch.zeros(7, 4), torch.zeros(6, 8, 1)[:, :5].clone()
    del state["2.bias"]
    source = checkpoints.save(form, state, tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(dg.errors.MismatchError) as caught:
        dg.prune_checkpoint(plan, source, tmp_path / f"small{source.suffix}")
    assert sorted(caught.value.problems) == [
        "'0.weight': expected size 8 in dimension 0, met shape (7, 4)",
        "'2.weight': expected size 8 in dimension 1, met shape (6, 5, 1)",
        "the checkpoint has no tensor '2.bias'",
    ]
    assert sorted(tmp_path.rglob("*")) == before


def damaged(plan):
    return attrs.evolve(plan, axes=plan.axes[::-1])


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"plan": 3}, "PlanError", "expected a Plan, met int"),
        ({"plan": damaged}, "MismatchError", "the plan is damaged"),
        ({"repair": {}}, "PlanError", "expected repair= to be what dg.refit gives, met dict"),
        ({"rename": {"a": "b"}}, "PlanError", "expected rename= as a function from name to name, met dict"),
        ({"rename": lambda name: "0.weight"}, "MismatchError", "the checkpoint has '0.weight' twice, as "),
        ({"max_shard_size": "5 XB"}, "PlanError", 'expected max_shard_size= as a number of bytes, or a text such as "5GB"'),
        ({"max_shard_size": 0}, "PlanError", "met 0"),
        ({"max_shard_size": True}, "PlanError", "met True"),
        ({"target": "full"}, "PlanError", "full is a folder. Name a file"),
        ({"target": "full", "max_shard_size": 1}, "PlanError", "full exists. Remove it, or name another folder"),
        ({"target": "small.pt"}, "PlanError", "expected a target that ends in .safetensors, as the source does"),
        ({"source": "full"}, "PlanError", "holds several checkpoints, or shards without an index: 'a.safetensors', 'b.saf"),
        ({"source": "."}, "PlanError", "holds several checkpoints, or shards without an index"),
        ({"source": "empty"}, "PlanError", "holds no checkpoint: expected an index or one file"),
    ],
)
def test_wrong_arguments_are_refused(tmp_path, change, error, says):
    """By what they are; nothing is written."""
    model, plan = subject()
    arguments = {"plan": plan, "source": "model.safetensors", "target": "small.safetensors", **change}
    (tmp_path / "full").mkdir(), (tmp_path / "empty").mkdir()
    for name in ("model", "full/a", "full/b", "second"):
        save_file(model.state_dict(), tmp_path / f"{name}.safetensors")
    plan = arguments.pop("plan")
    plan = damaged(subject()[1]) if plan is damaged else plan
    source, target = (tmp_path / arguments.pop(name) for name in ("source", "target"))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(getattr(dg.errors, error)) as caught:
        dg.prune_checkpoint(plan, source, target, **arguments)
    assert says in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_targets(tmp_path):
    """A file is replaced, also the source itself, and keeps its permissions; an empty folder is filled."""
    model, plan = subject()
    small = dg.execute(plan, model).state_dict()
    source = checkpoints.save("safetensors", model.state_dict(), tmp_path)
    source.chmod(0o600)
    (tmp_path / "folder").mkdir()
    dg.prune_checkpoint(plan, source, tmp_path / "folder", max_shard_size="1MB", progress=True)
    dg.prune_checkpoint(plan, source, source)
    for path in (source, tmp_path / "folder"):
        checkpoints.assert_same(checkpoints.load(path), small)
    assert source.stat().st_mode & 0o777 == 0o600


def test_a_repair_of_other_weights_is_refused(tmp_path):
    """Of the weights that it replaces; one that does not say what it was made from, and one of another plan, likewise."""
    model, plan = subject()
    repair = dg.refit(plan, model, [torch.randn(64, 4)])
    assert repair.values
    repair.save(tmp_path / "repair.safetensors")
    source = checkpoints.save("safetensors", model.state_dict(), tmp_path)
    small = dg.execute(plan, model, repair=repair).state_dict()
    dg.prune_checkpoint(plan, source, tmp_path / "small.safetensors", repair=dg.Repair.load(tmp_path / "repair.safetensors"))
    checkpoints.assert_same(load_file(tmp_path / "small.safetensors"), small)
    (name, *_) = repair.values
    other = {**model.state_dict(), name: model.state_dict()[name] + 1}
    save_file(other, source)
    unsaid = attrs.evolve(repair, originals={})
    foreign = attrs.evolve(repair, plan="0" * 64, values={"nowhere": torch.zeros(2), name: torch.zeros(1)})
    for kind, problems in (
        (repair, [f"{name!r}: the repair was made from other weights than the checkpoint has"]),
        (unsaid, [f"{each!r}: the repair was made from other weights than the checkpoint has" for each in repair.values]),
        (
            foreign,
            [
                "the repair was made for another plan",
                "the checkpoint has no parameter or buffer 'nowhere', of which the repair has new values",
                f"{name!r}: the repair has the shape (1,), the plan leaves {tuple(small[name].shape)}",
                f"{name!r}: the repair was made from other weights than the checkpoint has",
            ],
        ),
    ):
        with pytest.raises(dg.errors.MismatchError) as caught:
            dg.prune_checkpoint(plan, source, tmp_path / "other.safetensors", repair=kind)
        assert list(caught.value.problems) == problems
    assert not (tmp_path / "other.safetensors").exists()


class Evil:
    def __reduce__(self):
        return os.system, ("touch pwned",)


def raw(header, data=b""):
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


HOSTILE = {
    "code": ("model.pt", lambda path: torch.save({"a": Evil()}, path), "cannot be read as a state dict without running code"),
    "no pickle": ("model.pt", lambda path: path.write_bytes(b"nonsense"), "is damaged"),
    "half a file": ("model.pt", lambda path: path.write_bytes(half(path)), "is damaged"),
    "a list": ("model.pt", lambda path: torch.save([torch.ones(2)], path), "expected a state dict, met a list"),
    "nested": (
        "model.pt",
        lambda path: torch.save({"epoch": 3, "model": {"a": X}}, path),
        "met one with the keys 'epoch', 'model'",
    ),
    "numbers": ("model.pt", lambda path: torch.save({3: X}, path), "expected a state dict, of texts to tensors"),
    "no header": ("model.safetensors", lambda path: path.write_bytes(b"\xff" * 16), "is no file of safetensors, or is damaged"),
    "beyond the end": (
        "model.safetensors",
        lambda path: path.write_bytes(raw({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}, b"1234")),
        "is damaged",
    ),
    "not JSON": ("model.safetensors.index.json", lambda path: path.write_text("{"), "is no index of shards"),
    "deep": ("model.safetensors.index.json", lambda path: path.write_text("[" * 10**5), "is no index of shards"),
    "no map": ("model.safetensors.index.json", lambda path: path.write_text("{}"), "expected a weight_map from names"),
    "numbers in the map": (
        "model.safetensors.index.json",
        lambda path: path.write_text('{"weight_map": {"a": 3}}'),
        "expected a weight_map",
    ),
    **{
        place: (
            "model.safetensors.index.json",
            lambda path, place=place: path.write_text(index(place)),
            "outside of its folder",
        )
        for place in ("../secret.safetensors", "/etc/secret.safetensors", "a/../../b.safetensors", "..", "", "C:\\x", "a\0b")
    },
    "two forms": (
        "model.safetensors.index.json",
        lambda path: path.write_text(both(path)),
        "names files of safetensors and others",
    ),
    "elsewhere": (
        "model.safetensors.index.json",
        lambda path: path.write_text(elsewhere(path)),
        "'0.weight' is not in a.safetensors",
    ),
}


def half(path):
    torch.save({"a": torch.zeros(1000)}, path)
    return path.read_bytes()[:2000]


def index(*places):
    return json.dumps({"weight_map": {str(number): place for number, place in enumerate(places)}})


def both(path):
    save_file({"0": X}, path.with_name("a.safetensors"))
    torch.save({"1": X}, path.with_name("b.bin"))
    return index("a.safetensors", "b.bin")


def elsewhere(path):
    save_file({"1": X}, path.with_name("a.safetensors"))
    return '{"weight_map": {"0.weight": "a.safetensors"}}'


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files_are_data(tmp_path, monkeypatch, case):
    """No code of theirs runs, no path leads out of the folder, and what is wrong is told."""
    monkeypatch.chdir(tmp_path)
    name, write, says = HOSTILE[case]
    (tmp_path / "folder").mkdir()
    (tmp_path / "secret.safetensors").write_bytes(raw({}))
    write(tmp_path / "folder" / name)
    with pytest.raises((dg.errors.DocumentError, dg.errors.MismatchError)) as caught:
        dg.prune_checkpoint(subject()[1], tmp_path / "folder" / name, tmp_path / "small")
    assert says in str(caught.value) and len(str(caught.value)) < 2000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "secret.safetensors"]


def test_packed_numbers_are_copied_and_not_cut(tmp_path):
    """Four bits each: a tensor that the plan does not reach goes along as it is, one that it cuts is refused."""
    model, plan = subject()
    state = save(model.state_dict())
    length = struct.unpack("<Q", state[:8])[0]
    header, data = json.loads(state[8 : 8 + length]), state[8 + length :]
    packed = {"dtype": "F4", "shape": [2, 16], "data_offsets": [len(data), len(data) + 16]}
    (tmp_path / "model.safetensors").write_bytes(raw({**header, "packed": packed}, data + bytes(range(16))))
    dg.prune_checkpoint(plan, tmp_path / "model.safetensors", tmp_path / "small.safetensors")
    written = (tmp_path / "small.safetensors").read_bytes()
    after = json.loads(written[8 : 8 + struct.unpack("<Q", written[:8])[0]])
    assert after["packed"]["shape"] == [2, 16] and bytes(range(16)) in written
    renamed = {"2.bias": {**packed, "shape": [6, 2, 2]}, **{name: item for name, item in header.items() if name != "2.bias"}}
    renamed = {
        **renamed,
        "spare": header["2.bias"],
        "2.bias": {"dtype": "F4", "shape": [6, 4], "data_offsets": [len(data), len(data) + 12]},
    }
    (tmp_path / "model.safetensors").write_bytes(raw(renamed, data + bytes(12)))
    with pytest.raises(dg.errors.MismatchError, match=r"'2.bias': expected a plain tensor, met F4"):
        dg.prune_checkpoint(plan, tmp_path / "model.safetensors", tmp_path / "small.safetensors")


def test_rows_that_go_are_not_read(tmp_path):
    """Of a tensor of 2 GiB, four rows stay: the memory that is mapped and touched says what was read."""
    rows, columns = 2**15, 2**14
    model = nn.Sequential(nn.Embedding(4, 4), nn.Linear(4, rows, bias=False), nn.Linear(rows, 2, bias=False)).to("meta")
    plan = dg.cut(dg.trace(model, torch.zeros(1, 2, dtype=torch.long)), "1.weight", range(4, rows), dim=0)
    path = tmp_path / "model.safetensors"
    axes = tuple(axis for axis in plan.axes if axis.tensor == "1.weight")
    size = rows * columns * 4
    with path.open("wb") as file:
        file.write(raw({"1.weight": {"dtype": "F32", "shape": [rows, columns], "data_offsets": [0, size]}}))
        file.truncate(file.tell() + size)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    dg.prune_checkpoint(attrs.evolve(plan, axes=axes), path, tmp_path / "small.safetensors")
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    assert (tmp_path / "small.safetensors").stat().st_size < 2**20
    assert faults * resource.getpagesize() < 64 * 2**20


class Full(Exception):
    """What a disk says that takes no more."""


@pytest.mark.parametrize("form", ["safetensors", "safetensors shards", "torch", "torch shards"])
def test_a_failure_at_any_write_leaves_the_old_target(tmp_path, monkeypatch, form):
    """Each write, flush, fsync and rename fails in turn; the target is the old one, and nothing is left beside it."""
    model, plan = subject()
    source = checkpoints.save(form, model.state_dict(), tmp_path)
    target = tmp_path / f"small{source.suffix}"
    if not source.is_dir():
        target.write_bytes(b"the old one")
    before, there = checkpoints.content(target), sorted(tmp_path.rglob("*"))
    calls, stop = 0, -1

    def failing(function):
        def call(*args, **kwargs):
            nonlocal calls
            calls += 1
            if calls == stop:
                raise Full
            return function(*args, **kwargs)

        return call

    class Failing:
        def __init__(self, file):
            self.file, self.write, self.flush, self.fileno = file, failing(file.write), failing(file.flush), file.fileno

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self.file.close()

    opened = Path.open

    def opens(path, mode="r", *args, **kwargs):
        file = opened(path, mode, *args, **kwargs)
        return Failing(file) if "x" in mode else file

    monkeypatch.setattr(Path, "open", opens)
    for name in ("fsync", "replace"):
        monkeypatch.setattr(codec.os, name, failing(getattr(os, name)))
    for stop in range(1, 10**4):
        calls = 0
        try:
            dg.prune_checkpoint(plan, source, target)
        except (Full, RuntimeError) as error:  # torch.save turns the one into the other
            assert isinstance(error, Full) or isinstance(error.__context__, Full)
        else:
            break
        assert checkpoints.content(target) == before and sorted(tmp_path.rglob("*")) == there, stop
    assert stop == calls + 1 > 10
    checkpoints.assert_same(checkpoints.load(target), dg.execute(plan, model).state_dict())


@pytest.mark.models
@pytest.mark.parametrize("form", ["safetensors", "safetensors shards", "torch"])
def test_an_interruption_leaves_the_old_target_or_the_new_one(tmp_path, form):
    """Before each of the first lines that run, and then of each fortieth part of the run; a run after it completes."""
    model, plan = subject()
    source = checkpoints.save(form, model.state_dict(), tmp_path)
    target = tmp_path / f"small{source.suffix}"
    dg.prune_checkpoint(plan, source, target)
    new, state = checkpoints.content(target), snapshot(model)
    files = ("depgraph/execution/checkpoints.py", "depgraph/execution/checkpoint_files.py", "depgraph/codec.py")
    line, met = 1, set()
    while True:
        if target.is_dir():
            for file in (*target.iterdir(), target):
                file.rmdir() if file.is_dir() else file.unlink()
        elif not source.is_dir():
            target.write_bytes(b"the old one")
        before = checkpoints.content(target)
        if not interrupted(lambda: dg.prune_checkpoint(plan, source, target), line, files):
            break
        after = checkpoints.content(target)
        assert after in (before, new), line
        met.add(after == new)
        line += 1 + line // 40
    assert line > 200 and checkpoints.content(target) == new and snapshot(model) == state


@pytest.mark.models
def test_kills_leave_the_old_target_or_the_new_one():
    """Five of each form; `tox run -e checkpoints` has 60 of each. Then another run completes."""
    run = subprocess.run(
        [sys.executable, "-m", "tests.killing", "5", "0"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    for form, counts in json.loads(run.stdout).items():
        assert counts["killed"] == 5 == counts["the old one"] + counts["the new one"], form
