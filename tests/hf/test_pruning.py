"""Folders of transformers by the command: traced and planned from files, pruned to folders that transformers itself loads."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

import depgraph as dg
from depgraph.cli.commands import depgraph
from tests.hf.test_folders import alike, inner, scored
from tests.laws.refuting import refuted
from tests.zoo import transformers

pytestmark = pytest.mark.needs("transformers", "safetensors")
OTHERS = {"tokenizer.json": "{}", "README.md": "a card", "1_Pooling/config.json": "{}"}
LEFT = {"pytorch_model.bin": "old weights", ".git/config": "", "model.onnx": "old weights", "weights.index.json": "{}"}


@pytest.fixture
def original(tmp_path, monkeypatch):
    """A folder with a small random Llama, as transformers saves it, and other files; its inputs, graph and scores."""
    monkeypatch.chdir(tmp_path)
    model, inputs, graph, scores = scored("llama_gqa")
    model.save_pretrained("original")
    for name, text in {**OTHERS, **LEFT}.items():
        (tmp_path / "original" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "original" / name).write_text(text)
    return model, inputs, graph, scores


def run(*args, code=0):
    """What a command line says: its answer on stdout, or on stderr why there is none."""
    result = CliRunner().invoke(depgraph, [*map(str, args)])
    assert result.exit_code == code, (result.stderr, result.exception)
    return result.stderr if code > 1 else result.stdout


def assert_gives(folder, load, model, inputs):
    """What a loader makes of a folder computes what a model does, bit for bit."""
    assert alike(model, load(folder), inputs), folder


def stock(name):
    """The loader of transformers."""
    return lambda folder: getattr(transformers(), name).from_pretrained(folder, local_files_only=True).eval()


def test_a_folder_is_traced_planned_checked_and_pruned(original):
    """Without a line of Python: the folder that comes out is loaded by transformers, and is the pruned model."""
    model, inputs, graph, _ = original
    run("trace", "original", "-o", "graph.json")
    assert dg.Graph.load("graph.json").groups == graph.groups
    only = [part for name in inner(graph) for part in ("--only", name)]
    run("plan", "original", "--ratio", "0.25", *only, "-o", "plan.json", "--save-graph", "base.json")
    plan = dg.Plan.load("plan.json")
    assert "original: fits" in run(
        "check", "plan.json", "--graph", "graph.json", "--model", "original", "--checkpoint", "original"
    )
    told = run("apply", "plan.json", "original", "small")
    assert told.startswith("small: transformers loads it; changed keys: intermediate_size") and "of the bytes of" in told
    load = stock(type(model).__name__)
    assert_gives("small", load, dg.execute(plan, model), inputs)
    refuted(assert_gives, "original", load, dg.execute(plan, model), inputs)
    assert all((Path("small") / name).read_text() == text for name, text in OTHERS.items())
    assert not any((Path("small") / name).exists() for name in LEFT)
    assert run("check", "plan.json", "--model", "small", "--checkpoint", "small", code=1).count("small: does not fit") == 2
    assert "exists" in run("apply", "plan.json", "original", "small", code=5)
    run("apply", "plan.json", "original", "small", "--force", "--max-shard-size", "50KB")
    assert Path("small/model.safetensors.index.json").exists()
    assert_gives("small", load, dg.execute(plan, model), inputs)


def test_layers_that_differ_are_pruned_too_and_again(original):
    """Then the folder is loaded by its plan; pruned once more, both plans lead from the original configuration."""
    model, inputs, graph, scores = original
    first = dg.plan(graph, scores, ratio={inner(graph)[0]: 0.5})
    saved = dg.hf.prune_folder(first, "original", "first")
    assert not saved.stock and saved.problems
    small = dg.execute(first, model)
    assert_gives("first", dg.hf.from_pretrained, small, inputs)
    again = dg.trace(small, kwargs=inputs)
    second = dg.plan(again, dg.score(again, small, dg.Magnitude(p=2)), ratio={inner(again)[1]: 0.25})
    second.save("second.json")
    assert json.loads(run("apply", "second.json", "first", "second", "--json"))["stock"] is False
    assert_gives("second", dg.hf.from_pretrained, dg.execute(second, small), inputs)


def test_the_type_of_the_weights_stays(original):
    """A folder of half precision stays one."""
    model, _, graph, scores = original
    model.to(torch.bfloat16).save_pretrained("half")
    dg.hf.prune_folder(dg.plan(graph, scores, ratio=0.5, only=inner(graph)), "half", "small")
    assert stock(type(model).__name__)("small").dtype == torch.bfloat16


def test_a_folder_that_does_not_fit_is_refused_and_nothing_is_written(original, tmp_path, monkeypatch):
    """Another model, weights that are missing, a class that transformers has not, and a disk that fails at the last file."""
    _, _, graph, scores = original
    plan = dg.plan(graph, scores, ratio=0.5, only=inner(graph))
    plan.save("plan.json")
    dg.hf.prune_folder(plan, "original", "small")
    before = sorted(tmp_path.rglob("*"))
    assert "met" in run("apply", "plan.json", "small", "out", code=6)
    assert "goes" not in run("apply", "plan.json", "nothing", "out", code=3)
    assert "are for checkpoints" in run("apply", "plan.json", "original", "out", "--no-strict", code=2)
    shutil.copytree("original", "other")
    config = json.loads(Path("other/config.json").read_text())
    for names, code in ((["LlamaForSequenceClassification"], 6), (["logging"], 5), ([], 5)):
        Path("other/config.json").write_text(json.dumps({**config, "architectures": names}))
        run("apply", "plan.json", "other", "out", code=code)
    shutil.rmtree("other")
    monkeypatch.setattr(shutil, "copyfile", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    run("apply", "plan.json", "original", "out", code=3)
    assert sorted(tmp_path.rglob("*")) == before
