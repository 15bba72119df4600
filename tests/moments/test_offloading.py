"""Sums in files: the same bits as in memory, one layer's at a time, and whole or not at all."""

import gc
import weakref
from contextlib import suppress

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import depgraph as dg
from depgraph import codec, tensor_files, testing
from depgraph.errors import DocumentError, PlanError
from depgraph.moments import Moments, Sums, collect
from tests.laws.refuting import refuted
from tests.repair.networks import ConvNet, Gated


class Twice(nn.Module):
    """A layer that forward calls twice, one that it seldom comes to, and a wide convolution whose patches stay compact."""

    def __init__(self):
        super().__init__()
        self.conv, self.again, self.seldom = nn.Conv2d(16, 4, 3, padding=1), nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        x = self.conv(x).flatten(2).mT
        x = self.again(self.again(x))
        return self.seldom(x) if x.shape[0] > 2 else x


def subjects():
    """Networks, each with the shape of a sample."""
    return {"gated": (Gated(4, 6), (5,)), "convolutions": (ConvNet(6, groups=3), (2, 5, 5)), "twice": (Twice(), (16, 7, 7))}


def same_bits(one, other):
    """Both moments tell the same, to the last bit."""
    assert (one.source, one.layers, one.left) == (other.source, other.layers, other.left)
    for first, second in ((one.fitted, other.fitted), (one.held_out, other.held_out)):
        assert list(first) == list(second), "other names"
        for name in first:
            pair = first[name], second[name]
            assert pair[0].count == pair[1].count, name
            for kind in ("total", "products"):
                bits = [testing.tensor_bytes(getattr(sums, kind)) for sums in pair]
                assert bits[0] == bits[1], f"{name}: other {kind}"


@settings(max_examples=8)
@given(st.sampled_from(["gated", "convolutions", "twice"]), st.lists(st.integers(1, 4), min_size=1, max_size=4), st.data())
def test_files_have_the_bits_that_memory_has(tmp_path_factory, name, sizes, data):
    """Whatever the batches and the share that is held out; also when the folder is opened again."""
    torch.manual_seed(0)
    model, shape = subjects()[name]
    batches = [torch.randn(size, *shape) for size in sizes]
    options = {"holdout": data.draw(st.sampled_from([0, 0.3])) if sum(sizes) > 1 else 0}
    options["dtype"] = data.draw(st.sampled_from([torch.float32, torch.float64]))
    path = tmp_path_factory.mktemp("offload") / "moments"
    there, here = collect(model, batches, offload=path, **options), collect(model, batches, **options)
    same_bits(there, here)
    same_bits(Moments.load(path), here)
    assert not list(path.parent.glob(".*")) and not (path / "gathering").exists()


def test_another_order_of_sums_is_refuted(tmp_path):
    """Floating point sums of the same numbers in another order differ in their bits."""
    torch.manual_seed(0)
    batches = list(torch.randn(5, 3, 5, dtype=torch.float64))
    model, options = Gated(4, 6).double(), {"holdout": 0, "dtype": torch.float64}
    there = collect(model, batches, offload=tmp_path / "moments", **options)
    refuted(same_bits, there, collect(model, batches[::-1], **options), says="other products|other total")


@pytest.mark.parametrize("name", ["gated", "convolutions"])
def test_a_repair_has_the_same_bits_and_leaves_no_file(tmp_path, name):
    torch.manual_seed(0)
    model, shape = subjects()[name]
    model.eval()
    batches = [torch.randn(40, *shape) for _ in range(3)]
    plan = dg.cut(dg.trace(model, batches[0]), f"{'up' if name == 'gated' else 'conv1'}.weight", [0, 1], dim=0)
    folder = tmp_path / "some" / "folder"
    pairs = [
        [dg.refit(plan, model, batches, mode="independent", **options) for options in ({}, {"offload": folder})],
        [dg.refit(plan, model, collect(model, batches, **options)) for options in ({}, {"offload": tmp_path / "kept"})],
    ]
    for here, there in pairs:
        assert here.layers == there.layers and here.values.keys() == there.values.keys()
        assert all(torch.equal(values, there.values[name]) for name, values in here.values.items())
    assert pairs[1][0].values and not list(folder.iterdir())


def most_alive(monkeypatch, **options):
    """How many layers' second moments are in memory at once, at most, while five equal layers are repaired."""
    alive, most = weakref.WeakSet(), 0
    made = Sums.__init__

    def counted(self, count, total, products):
        nonlocal most
        made(self, count, total, products)
        if products.device.type != "meta":
            alive.add(products.untyped_storage())
            most = max(most, len({storage.data_ptr() for storage in alive}))

    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(6, 6) for _ in range(6)))
    batches = [torch.randn(16, 6) for _ in range(3)]
    graph = dg.trace(model, batches[0])
    plan = dg.plan(graph, dg.score(graph, model, dg.Magnitude(p=2)), ratio=0.5)
    monkeypatch.setattr(Sums, "__init__", counted)
    gc.collect()
    dg.refit(plan, model, batches, mode="independent", **options)
    return most


def test_memory_has_one_layer_at_a_time(tmp_path, monkeypatch):
    """Those of the rows to fit to and those held out, with a copy while they are written; without files those of all layers."""
    with monkeypatch.context() as patched:
        assert most_alive(patched) >= 10
    with monkeypatch.context() as patched:
        assert most_alive(patched, offload=tmp_path) <= 3


class Breaks(Exception):
    """What a test's own code raises."""


@pytest.mark.parametrize("where", ["forward", "save", "index"])
def test_what_is_interrupted_leaves_nothing(tmp_path, monkeypatch, where):
    """In a forward, while sums are written, and before the last file: no folder, no file beside it, no half of either."""

    class Counting(Gated):
        def forward(self, x):
            count()
            return super().forward(x)

    calls, stop = 0, 0

    def count():
        nonlocal calls
        calls += 1
        if calls == stop:
            raise Breaks

    def breaking(write):
        def broken(path, *args):
            count()
            write(path, *args)

        return broken

    if where != "forward":
        target, name = {"save": (tensor_files, "save"), "index": (codec, "write")}[where]
        monkeypatch.setattr(target, name, breaking(getattr(target, name)))
    model, batches = (Counting if where == "forward" else Gated)(4, 6).eval(), [torch.randn(4, 5) for _ in range(3)]
    collect(model, batches, offload=tmp_path / "whole")
    total, before = calls, testing.snapshot(model)
    plan = dg.cut(dg.trace(model, batches[0]), "up.weight", [0, 3], dim=0)
    for number in range(1, total + 1):
        calls, stop = 0, number
        with pytest.raises(Breaks):
            collect(model, batches, offload=tmp_path / "half")
        calls = 0
        with suppress(Breaks):  # of fewer layers it writes fewer files
            dg.refit(plan, model, batches, mode="independent", offload=tmp_path / "work")
        assert {path.name for path in tmp_path.iterdir()} <= {"whole", "work"}
        assert not (tmp_path / "work").exists() or not list((tmp_path / "work").iterdir())
        assert testing.snapshot(model) == before


@pytest.mark.parametrize("damage", ["half", "byte", "exchanged", "index"])
def test_damaged_files_are_refused(tmp_path, damage):
    """Half of a file, another byte, another layer's file, no index: each as soon as it is read."""
    model = Gated(4, 4)
    moments = collect(model, [torch.randn(8, 5)], offload=tmp_path / "m")
    first, second = tmp_path / "m" / "fitted.1.safetensors", tmp_path / "m" / "fitted.2.safetensors"
    content = first.read_bytes()
    names = list(moments.fitted)
    assert moments.fitted[names[1]].count == 6
    if damage == "half":
        first.write_bytes(content[: len(content) // 2])
    elif damage == "byte":
        first.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "exchanged":
        first.write_bytes(second.read_bytes())
    else:
        (tmp_path / "m" / "moments.json").write_text("{")
        with pytest.raises(DocumentError):
            Moments.load(tmp_path / "m")
        return
    with pytest.raises(DocumentError):
        moments.fitted[names[1]]
    assert Moments.load(tmp_path / "m").fitted[names[0]].count == 6


def test_what_a_forward_in_inference_mode_reads_is_added_up(tmp_path):
    model, batches = Gated(4, 4), [torch.randn(4, 5), torch.randn(4, 5)]
    forward = torch.inference_mode()(lambda model, batch: model(batch))
    there = collect(model, batches, forward=forward, offload=tmp_path / "m")
    same_bits(there, collect(model, batches, forward=forward))


def test_moments_in_files_add_up_and_are_saved_as_others(tmp_path):
    model, one, two = Gated(4, 4), [torch.randn(4, 5)], [torch.randn(4, 5)]
    here = collect(model, one) + collect(model, two)
    there = collect(model, one, offload=tmp_path / "one") + collect(model, two, offload=tmp_path / "two")
    same_bits(there, here)
    collect(model, one, offload=tmp_path / "three").save(tmp_path / "file")
    same_bits(Moments.load(tmp_path / "file"), collect(model, one))


def test_folders_that_cannot_be_are_refused(tmp_path):
    """A number, a file, a folder with something in it, and moments that are somewhere already; nothing is written."""
    model, batches = Gated(4, 4), [torch.randn(8, 5)]
    (tmp_path / "file").write_text("")
    plan = dg.cut(dg.trace(model, batches[0]), "up.weight", [0], dim=0)
    for offload, says in ((3, "the path of a folder, met 3"), (tmp_path / "file", "met the file")):
        with pytest.raises(PlanError, match=says):
            collect(model, batches, offload=offload)
        with pytest.raises(PlanError, match=says):
            dg.refit(plan, model, batches, offload=offload)
    with pytest.raises(PlanError, match=r"has something in it(.|\n)*"):
        collect(model, batches, offload=tmp_path)
    with pytest.raises(PlanError, match="leave out offload="):
        dg.refit(plan, model, collect(model, batches), offload=tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
