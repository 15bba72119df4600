"""Files of graphs and plans: written whole or not at all, by each call for itself, and refused in few words."""

import json
import os
import stat
import sys
import threading
from pathlib import Path

import pytest
import torch

import depgraph as dg
from depgraph import codec
from depgraph.algebra.spaces import Atom
from depgraph.graph.graph import Graph
from depgraph.graph.records import Tensor
from depgraph.plans import plan_files
from depgraph.plans.plan_files import PlanContent


def graph(size):
    return Graph((), (Tensor("weight", "parameter", (Atom(0, size),)),))


def test_two_threads_that_save_to_one_path_leave_a_whole_file(tmp_path):
    """Each call has a temporary file of its own: readers meet one graph or the other, and nothing else stays behind."""
    path, both, problems = tmp_path / "graph.json", (graph(3), graph(4)), []
    both[0].save(path)

    def save(value):
        for _ in range(40):
            try:
                value.save(path)
                assert Graph.load(path) in both
            except Exception as error:  # noqa: BLE001 - told by the main thread
                problems.append(error)

    threads = [threading.Thread(target=save, args=(both[k % 2],)) for k in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert problems == [] and [file.name for file in tmp_path.iterdir()] == ["graph.json"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_save_that_fails_leaves_the_old_file_and_no_other(tmp_path, monkeypatch, step):
    """Whichever step fails: the disk is full, the rename is refused."""
    path = tmp_path / "graph.json"
    graph(3).save(path)
    before = path.read_bytes()

    def failing(*_):
        raise OSError("no space left")

    monkeypatch.setattr(os, step, failing)
    with pytest.raises(OSError, match="no space left"):
        graph(4).save(path)
    assert path.read_bytes() == before and [file.name for file in tmp_path.iterdir()] == ["graph.json"]


def test_the_file_is_on_the_disk_before_it_takes_its_name(tmp_path, monkeypatch):
    """Otherwise a machine that stops between the two leaves an empty file under the name."""
    steps = []
    for name in ("fsync", "replace"):
        original = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *args, name=name, original=original: (steps.append(name), original(*args))[1])
    graph(3).save(tmp_path / "graph.json")
    assert steps == ["fsync", "replace"]


def test_links_and_permissions_stay(tmp_path):
    """A symbolic link is followed, and what it names keeps its mode."""
    real, link = tmp_path / "real.json", tmp_path / "link.json"
    graph(3).save(real)
    real.chmod(0o640)
    link.symlink_to(real)
    graph(4).save(link)
    assert link.is_symlink() and Graph.load(real) == graph(4) and stat.S_IMODE(real.stat().st_mode) == 0o640


@pytest.mark.parametrize("opening, closing", [("[", "]"), ('{"product":[', "]}")])
@pytest.mark.parametrize("depth", [300, 900, 100_000])
def test_nesting_is_refused(opening, closing, depth):
    """A file of brackets is no plan, however deep they go."""
    text = '{"format":"depgraph.plan","version":1,"digest":"x","content":' + opening * depth + closing * depth + "}"
    with pytest.raises(dg.errors.DocumentError, match=r"nested too deeply|does not match its digest"):
        codec.loads(text, "plan", dg.Plan)


def replaced(content):
    """Every plain value of a content, and the content with that value replaced by what another type would write for it.

    The scale of a cost may have a fraction.
    """
    if isinstance(content, dict):
        for key, item in content.items():
            others = ((old, {**content, key: new}) for old, new in replaced(item) if (key, type(new)) != ("scale", float))
            yield from others
    elif isinstance(content, list):
        for place, item in enumerate(content):
            yield from ((old, [*content[:place], new, *content[place + 1 :]]) for old, new in replaced(item))
    elif type(content) is int:
        yield from ((content, other) for other in (str(content), float(content), True, None))
    elif type(content) is bool:
        yield from ((content, other) for other in (int(content), str(content), ""))
    elif type(content) is str and not set(content) <= set("0123456789-,"):
        yield from ((content, other) for other in (1, True, [content]))


def test_no_type_stands_for_another():
    """Where a file holds "3" or true for 3, or 1 for true or for a text, it is refused: equal values have one text."""
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 1))
    graph = dg.trace(model, torch.randn(1, 2))
    plan, seen = dg.cut(graph, "0.weight", [1], dim=0), set()
    whole = dg.cut(dg.trace(model, torch.randn(1, 2)), "0.weight", [1, 2], dim=0).edit("width", 2, old=3)
    cases = [("graph", 1, graph), ("plan", 1, plan), *(("plan", 2, PlanContent.of(each)) for each in (plan, whole))]
    for kind, version, value in cases:
        for old, content in replaced(codec.content_of(value)):
            seen.add(type(old))
            document = {"format": f"depgraph.{kind}", "version": version, "digest": codec._digest(content), "content": content}
            try:
                met = (
                    plan_files.loads(json.dumps(document)) if kind == "plan" else codec.loads(json.dumps(document), kind, Graph)
                )
            except dg.errors.DocumentError as error:
                assert "does not hold a valid" in str(error)
            else:
                raise AssertionError(f"{old!r} was replaced, and {met} loaded")
    assert seen == {int, str, bool}


def test_the_first_ten_problems_are_told():
    """And how many more there are; ten of them leave none."""
    text = codec.dumps("graph", graph(3))
    for count, end in ((10, "problem 9. Save"), (11, "problem 9; and 1 more. Save"), (25, "problem 9; and 15 more. Save")):
        problems = [f"problem {number}" for number in range(count)]
        with pytest.raises(dg.errors.DocumentError, match=end):
            codec.loads(text, "graph", Graph, check=lambda _, problems=problems: problems)


def test_messages_are_short():
    """What a file holds is quoted by its beginning, and of many problems the first are told."""
    for document in ({"format": "x" * 10**6}, {"format": "depgraph.graph", "version": "9" * 10**6}):
        with pytest.raises(dg.errors.DocumentError) as caught:
            codec.loads(json.dumps(document), "graph", Graph)
        assert len(str(caught.value)) < 1000
    content = {"operations": [], "tensors": [{"name": k} for k in range(1000)]}
    document = {"format": "depgraph.graph", "version": 1, "digest": codec._digest(content), "content": content}
    with pytest.raises(dg.errors.DocumentError, match=r"; and [0-9]+ more. Save the graph again") as caught:
        codec.loads(json.dumps(document), "graph", Graph)
    assert len(str(caught.value)) < 4000


def test_a_folder_that_cannot_be_replaced_is_back(tmp_path, monkeypatch):
    """The one that stands there goes aside first; when the new one cannot take its name, it comes back."""
    target, rename = tmp_path / "model", Path.rename
    target.mkdir()
    (target / "notes.txt").write_text("mine")

    def failing(path, to):
        if path.name.endswith(".part"):
            raise OSError("no such luck")
        return rename(path, to)

    monkeypatch.setattr(codec, "exchanged", lambda one, other: False)
    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(OSError, match="no such luck"):
        codec.write_whole_folder(target, lambda folder: (folder / "new.txt").write_text("new"), replace=True)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["model", "notes.txt"]
    monkeypatch.setattr(Path, "rename", rename)
    codec.write_whole_folder(target, lambda folder: (folder / "new.txt").write_text("new"), replace=True)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["model", "new.txt"]


@pytest.mark.parametrize("step", [True, False])
def test_a_folder_is_replaced_in_one_step_where_the_system_can(tmp_path, monkeypatch, step):
    """Linux lets two folders change places, so that there is one at any moment; elsewhere two renames do. Nothing is left."""
    target, names = tmp_path / "model", []
    (target / "inner").mkdir(parents=True)
    (target / "inner/notes.txt").write_text("mine")
    if not step:
        monkeypatch.setattr(codec, "exchanged", lambda one, other: False)
    rename = Path.rename
    monkeypatch.setattr(Path, "rename", lambda path, to: (names.append(path.name), rename(path, to))[1])
    codec.write_whole_folder(target, lambda folder: (folder / "new.txt").write_text("new"), replace=True)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["model", "new.txt"]
    if step and sys.platform == "linux":
        assert names == []
    assert not codec.exchanged(tmp_path / "model", tmp_path / "absent")


def test_all_files_of_a_folder_are_on_the_disk_before_it_takes_its_name(tmp_path, monkeypatch):
    """Also those that another package writes, in folders inside."""
    synced, places, replace, fsync = set(), [], os.replace, os.fsync

    def replacing(one, other):
        places.append({path: path.stat().st_ino in synced for path in (one, *Path(one).rglob("*"))})
        replace(one, other)

    monkeypatch.setattr(os, "fsync", lambda number: (synced.add(os.fstat(number).st_ino), fsync(number)))
    monkeypatch.setattr(os, "replace", replacing)

    def fill(folder):
        (folder / "inner").mkdir()
        (folder / "inner/one.txt").write_text("1")
        (folder / "two.txt").write_text("2")

    codec.write_whole_folder(tmp_path / "model", fill)
    assert len(places) == 1 and len(places[0]) == 4 and all(places[0].values())
