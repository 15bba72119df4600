"""The text of a plan's file: golden files of both versions, the schema, and what is refused that says a plan otherwise."""

import copy
import json
import signal
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest
import torch

import depgraph as dg
from depgraph import codec
from depgraph.algebra.spaces import Atom
from depgraph.plans import plan_files
from depgraph.plans.plan import Cut, Edit, Plan, PrunedAxis
from tests import hostile

GOLDEN = Path(__file__).parent / "golden"
NAMES = sorted(path.name.split(".")[0] for path in GOLDEN.glob("*.version1.json"))
FIELDS = ("targets", "unread_attributes", "tied")
"""What the equality of plans leaves out."""


def schema():
    """The schema in the package."""
    return json.loads((files("depgraph.plans") / "plan.schema.json").read_text())


def validator():
    import jsonschema

    jsonschema.Draft202012Validator.check_schema(schema())
    return jsonschema.Draft202012Validator(schema())


@pytest.mark.parametrize("name", NAMES)
def test_golden_files_load_and_are_written_anew(name):
    """Files of version 1 from before version 2 was there, and their texts in version 2, byte for byte."""
    old, new = (GOLDEN / f"{name}.version{version}.json" for version in (1, 2))
    first, second = Plan.load(old), Plan.load(new)
    assert first == second and all(getattr(first, field) == getattr(second, field) for field in FIELDS)
    assert plan_files.dumps(first) == plan_files.dumps(second) == new.read_text()
    assert codec.dumps("plan", second) == old.read_text()


def test_the_golden_files_hold_everything():
    """Each field is used in one of them."""
    loaded = [Plan.load(GOLDEN / f"{name}.version2.json") for name in NAMES]
    for field in ("cuts", "axes", "edits", "renumbered", "renamed", "targets", "added", "unread_attributes", "tied"):
        assert any(getattr(plan, field) for plan in loaded), field
    assert any(cut.base for plan in loaded for cut in plan.cuts)


def test_the_golden_drops_load():
    """Elements of lists that leave, numbered and named, came with version 2."""
    path = GOLDEN / "drops.version2.json"
    plan = Plan.load(path)
    assert [(drop.sequence.path, drop.sequence.numbered, str(drop.removed)) for drop in plan.drops] == [
        ("blocks", True, "1"),
        ("others", False, "0"),
    ]
    assert plan.drops[0].sequence.positions == ("place",) and plan.cuts and plan_files.dumps(plan) == path.read_text()


@pytest.mark.needs("jsonschema")
@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.json")), ids=lambda path: path.name)
def test_the_schema_takes_golden_files(path):
    validator().validate(json.loads(path.read_text()))


def content():
    """The golden plan with added edits."""
    return json.loads((GOLDEN / "edited.version2.json").read_text())["content"]


def changed(*path, to):
    """The content with another value at a place."""
    result = content()
    place = result
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = to
    return result


def without(*path):
    """The content without a place."""
    result = content()
    place = result
    for step in path[:-1]:
        place = place[step]
    del place[path[-1]]
    return result


AXES = content()["axes"]
EDITS = content()["edits"]
STRANGE = {
    "bits with another end": (changed("cuts", 0, "removed", to="bits:iB=="), "cuts is not written as"),
    "short runs as bits": (changed("cuts", 0, "removed", to="bits:iA=="), "cuts is not written as"),
    "a field too many": (changed("extra", to=1), "extra"),
    "no drops, written": (changed("drops", to=[{"path": "a", "removed": "0"}]), "loses none or one beyond"),
    "a drop of all": (changed("drops", to=[{"path": "a", "removed": "0", "length": 0}]), "loses none or one beyond"),
    "a drop of a class": (
        changed("drops", to=[{"path": "__class__", "removed": "0", "length": 3}]),
        "names something else than modules",
    ),
    "a list with names and numbers": (
        changed("drops", to=[{"path": "a", "removed": "0", "length": 2, "names": ["b", "c"]}]),
        "drops is not written as",
    ),
    "no cuts": (without("cuts"), "required field missing @ \\$.cuts"),
    "a base that is no fingerprint": (changed("base", to="G" * 64), "base is no fingerprint"),
    "numbers with zeros": (changed("cuts", 0, "removed", to="01,7"), "'01,7' is not a sorted list"),
    "no indices": (changed("cuts", 0, "removed", to=""), "loses nothing"),
    "indices as a list": (changed("cuts", 0, "removed", to=[3, 7]), "expected str"),
    "bits that are none": (changed("cuts", 0, "removed", to="bits:I!=="), "expected base 64 behind 'bits:', met 'bits:I!=='"),
    "no bits": (changed("cuts", 0, "removed", to="bits:"), "expected 8 bits, met 'bits:'"),
    "an edit of nothing": (changed("edits", 0, to=["", 8, 6]), "names plain attributes"),
    "an edit of a global": (changed("edits", 0, to=["a.__globals__.B", 8, 6]), "names plain attributes"),
    "an edit of a registry": (changed("edits", 0, to=["bn._buffers.n", 8, 6]), "names plain attributes"),
    "an edit to nothing": (changed("edits", 0, 2, to=0), "leaves at least 1"),
    "an edit of a truth value": (changed("edits", 0, 1, to=True), r"expected int @ \$.edits\[0\]\[1\]"),
    "an edit of two entries": (changed("edits", 0, to=["first.out_features", 8]), "edits"),
    "an axis without a dimension": (
        changed("axes", 0, "of", 0, to="first.bias"),
        "such as .*, met 'first.bias'",
    ),
    "an axis of dimension 00": (
        changed("axes", 0, "of", 0, to="first.bias:00"),
        "such as .*, met 'first.bias:(00|-1)'",
    ),
    "an axis below": (changed("axes", 0, "of", 0, to="first.bias:-1"), "such as .*, met 'first.bias:(00|-1)'"),
    "an axis twice": (changed("axes", 0, "of", to=[AXES[0]["of"][0], *AXES[0]["of"]]), "an axis that stands twice"),
    "a line without axes": (changed("axes", to=[{"space": [9, 8], "of": []}, *AXES]), "axes is not written as"),
    "an atom of size 1": (changed("cuts", 0, "atom", to=[0, 1]), "number below 0, or a size"),
    "an atom of three numbers": (changed("cuts", 0, "atom", to=[0, 8, 8]), "not a space"),
    "a space of one factor": (changed("axes", 0, "space", to={"product": [[0, 8]]}), "is not flat"),
    "a run of nothing": (changed("renumbered", to=[[3, 4, 0]]), "renumbered is not written as"),
    "a tie of one": (changed("tied", to=[["first.weight"]]), "is no tied entry"),
    "an unread one of nothing": (changed("unread", 0, "spaces", to=[]), "is no unread_attributes entry"),
}
"""What neither the schema nor `load` takes."""
UNSAID = {
    "runs that touch": (changed("cuts", 0, "removed", to="1-2,3"), "'1-2,3' is not a sorted list"),
    "runs in disorder": (changed("cuts", 0, "removed", to="5,1"), "'5,1' is not a sorted list"),
    "an index beyond": (changed("cuts", 0, "removed", to="3,8"), "is to lose one beyond"),
    "all indices": (changed("cuts", 0, "removed", to="0-7"), "would lose its last index"),
    "a run that goes back": (changed("cuts", 0, "removed", to="3-3"), "is not a sorted list"),
    "too many bits": (changed("cuts", 0, "removed", to="bits:iIiI"), "expected 8 bits, met 'bits:iIiI'"),
    "cuts in disorder": (changed("cuts", to=content()["cuts"][::-1]), "the cuts are not in the order"),
    "axes in disorder": (changed("axes", to=AXES[::-1]), "axes is not written as"),
    "names in disorder": (changed("axes", 0, "of", to=AXES[0]["of"][::-1]), "axes is not written as"),
    "a space in two lines": (
        changed("axes", to=[{**AXES[0], "of": AXES[0]["of"][:1]}, {**AXES[0], "of": AXES[0]["of"][1:]}, *AXES[1:]]),
        "axes is not written as",
    ),
    "edits in disorder": (changed("edits", to=EDITS[::-1]), "edits is not written as"),
    "an edit that is added, too": (changed("added", to=[EDITS[0]]), "an attribute that is edited twice"),
    "an element beyond": (changed("drops", to=[{"path": "a", "removed": "3", "length": 3}]), "loses none or one beyond"),
    "all elements": (changed("drops", to=[{"path": "a", "removed": "0-2", "length": 3}]), "would lose its last element"),
    "an element that is cut": (
        changed("drops", to=[{"path": "", "removed": "0", "names": ["first", "q"]}]),
        "goes with an element",
    ),
    "an endless list": (changed("drops", to=[{"path": "a", "removed": "0", "length": 2**40}]), "more than 262,144 elements"),
    "endless numbers": (changed("renumbered", to=[[3, 4, 2**60]]), "more than 262,144 atoms have other numbers"),
    "two runs for one": (changed("renumbered", to=[[3, 4, 1], [4, 5, 1]]), "renumbered is not written as"),
    "a number that stays": (changed("renumbered", to=[[3, 4, 2], [3, 5, 1]]), "given twice"),
    "a target that is no number": (
        changed("targets", to=[{"name": "macs", "requested": float("nan"), "realised": 1}]),
        "the target 'macs' is no finite number",
    ),
    "a fraction of an index": (changed("edits", 0, 2, to=6.0), r"expected int @ \$.edits\[0\]\[2\]"),
    "an axis of dimension 64": (changed("axes", 0, "of", 0, to="first.bias:64"), "has no dimension 64"),
}
"""What a schema cannot say."""


@pytest.mark.parametrize("name", [*STRANGE, *UNSAID])
def test_what_is_no_plan_is_refused(name):
    """With a valid digest; each in few words that name it."""
    said, sentence = {**STRANGE, **UNSAID}[name]
    with pytest.raises(dg.errors.DocumentError, match=sentence) as caught:
        plan_files.loads(hostile.text_of("plan", said, 2))
    assert len(str(caught.value)) < 1000


@pytest.mark.needs("jsonschema")
@pytest.mark.parametrize("name", [*STRANGE, *UNSAID])
def test_the_schema_refuses_what_it_can(name):
    """And lets pass what it says nothing of, so that the second table is no longer than it has to be."""
    said, _ = {**STRANGE, **UNSAID}[name]
    valid = validator().is_valid({"format": "depgraph.plan", "version": 2, "digest": "0" * 64, "content": said})
    assert valid == (name in UNSAID)


def test_versions_are_told_apart():
    """The content of one version is none of the other."""
    old = json.loads((GOLDEN / "half.version1.json").read_text())["content"]
    with pytest.raises(dg.errors.DocumentError, match="does not hold a valid plan"):
        plan_files.loads(hostile.text_of("plan", old, 2))
    with pytest.raises(dg.errors.DocumentError, match="does not hold a valid plan"):
        plan_files.loads(hostile.text_of("plan", content(), 1))


def wide(groups, size, removed):
    """A plan of so many groups of that size, by hand."""
    atoms = [Atom(number, size) for number in range(groups)]
    names = [f"layers.{number:02}.up.weight" for number in range(groups)]
    cuts = tuple(Cut(f"{name}:0", atom, removed) for name, atom in zip(names, atoms, strict=True))
    edits = tuple(Edit(name.replace("weight", "out_features"), size, size - len(removed)) for name in names)
    axes = tuple(PrunedAxis(name, 0, atom) for name, atom in zip(names, atoms, strict=True))
    return Plan("a" * 64, "b" * 64, cuts, axes, edits)


def test_scattered_indices_of_wide_groups_take_little_room():
    """Every third index of eighty groups of 28,672: as bits less than 400 KB, where runs would take five million characters."""
    scattered = dg.IndexSet.of(range(0, 28_672, 3))
    plan = wide(80, 28_672, scattered)
    text = plan_files.dumps(plan)
    assert 80 * len(str(scattered)) > 4_000_000 and len(text) < 420_000
    assert plan_files.loads(text) == plan
    one = wide(80, 28_672, dg.IndexSet.range(100, 20_000))
    assert '"removed": "100-19999"' in plan_files.dumps(one)


def test_a_small_change_is_a_small_difference():
    """Another index of one group: its line, and the digest."""
    model = hostile.victim()
    one, other = (dg.cut(dg.trace(model, torch.ones(2, 6)), "first.weight", lost, dim=0) for lost in ([1, 2], [1, 3]))
    lines = [plan_files.dumps(plan).splitlines() for plan in (one, other)]
    differ = [(a, b) for a, b in zip(*lines, strict=True) if a != b]
    assert [a.split('"')[1] for a, _ in differ] == ["digest", "group"]


KILLED = """
import os, signal, sys
from depgraph import Plan, codec
old, new, path, point = sys.argv[1:]
write, replace = codec.write_new, os.replace
def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)
def half(place, write_to):
    class Half:
        def write(self, data):
            file.write(data[: len(data) // 2])
            file.flush()
            die()
    with place.open("xb") as file:
        write_to(Half())
Plan.load(old).save(path)
if point == "half written":
    codec.write_new = half
elif point == "replaced":
    os.replace = lambda *args: (replace(*args), die())
else:
    setattr(os, point, die)
Plan.load(new).save(path)
"""


@pytest.mark.parametrize("point", ["half written", "fsync", "replace", "replaced"])
def test_a_process_that_is_killed_leaves_a_whole_file(point, tmp_path):
    """The old one until the new one has its name; the next save completes."""
    old, new, path = GOLDEN / "half.version2.json", GOLDEN / "ragged.version2.json", tmp_path / "plan.json"
    run = subprocess.run([sys.executable, "-c", KILLED, old, new, path, point], capture_output=True)
    assert run.returncode == -signal.SIGKILL, run.stderr
    assert path.read_text() == (new if point == "replaced" else old).read_text()
    Plan.load(new).save(path)
    assert path.read_text() == new.read_text()


def test_nothing_is_written_to_a_golden_content():
    """The tables above change copies."""
    before = copy.deepcopy(AXES)
    changed("axes", 0, "of", to=[])
    assert before == AXES == content()["axes"]
