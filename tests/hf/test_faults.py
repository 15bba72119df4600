"""Faults while a folder is written, or a configuration: what was there is there, or the new one is, whole."""

import json
import shutil

import pytest

from depgraph import codec
from depgraph.hf import folders
from tests.execution.test_interrupted import interrupted
from tests.hf import killing
from tests.zoo import transformers

pytestmark = pytest.mark.needs("transformers", "safetensors")
WRITERS = (
    "depgraph/hf/folders.py",
    "depgraph/codec.py",
    "transformers/modeling_utils.py",
    "transformers/configuration_utils.py",
)


@pytest.fixture
def pruned(monkeypatch):
    """A pruned model whose layers differ, with its plan; what is to be written is found once."""
    subject = killing.subject(None)
    solution = folders.solution_of(*subject)
    monkeypatch.setattr(folders, "solution_of", lambda plan, model: solution)
    return subject


@pytest.mark.models
def test_a_failure_at_any_write_leaves_what_was_there():
    """Each in turn; nothing is left beside the folder, the model is as it was, and a run after them completes."""
    assert killing.failed("by the plan, replaced") > 40


@pytest.mark.models
@pytest.mark.parametrize("step", [True, False])
def test_an_interruption_leaves_what_was_there_or_the_new_one(step, tmp_path, monkeypatch, pruned):
    """Before each of the first lines that run, and then of each eighth part of the run; in one step, or by two renames."""
    target = tmp_path / "model"
    if not step:
        monkeypatch.setattr(codec, "exchanged", lambda one, other: False)
    killing.save(pruned, target)
    new, config, line = killing.content(target), pruned[1].config.to_dict(), 1
    while True:
        shutil.rmtree(target)
        before = killing.prepared(target)
        if not interrupted(lambda: killing.save(pruned, target), line, WRITERS):
            break
        assert killing.content(target) in (before, new), line
        assert pruned[1].config.to_dict() == config, line
        for left in tmp_path.glob(".*"):  # what was interrupted while it cleaned up
            shutil.rmtree(left)
        line += 1 + line // 8
    assert line > 100 and killing.content(target) == new


def test_an_interruption_of_an_update_leaves_the_configuration():
    """At any line; nested entries, too."""
    from depgraph.hf import keys

    config = transformers().CLIPConfig(vision_config={"hidden_size": 48})
    config.more = {"sizes": [3, 4], "pair": (5, 6)}
    values = {"vision_config.hidden_size": 24, "more.sizes.1": 2, "more.pair.0": 1, "projection_dim": 7, "new": 9}
    inner, sizes = config.vision_config, config.more["sizes"]
    before, line = json.dumps(config.to_dict(), default=str), 1

    def update():
        with keys.all_or_nothing(config, values):
            keys.set_values(config, values)

    while interrupted(update, line, ("depgraph/hf/keys.py",)):
        assert json.dumps(config.to_dict(), default=str) == before and not hasattr(config, "new"), line
        assert config.vision_config is inner and config.more["sizes"] is sizes, line
        line += 1
    assert line > 40 and (inner.hidden_size, sizes, config.more["pair"], config.new) == (24, [3, 2], (1, 6), 9)


@pytest.mark.models
def test_kills_leave_what_was_there_or_the_new_one():
    """Three while a folder is replaced; `tox run -e families` has more, of each form. Then another run completes."""
    counts = killing.killed("by the plan, replaced", 3, 0)
    assert counts["killed"] == 3 == counts["the old one"] + counts["the new one"]
