"""The law of checkpoints: pruned as files, they are what the executed model saves, bit for bit."""

import tempfile
from pathlib import Path

import attrs
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import depgraph as dg
from depgraph.execution import checkpoint_files
from tests import checkpoints
from tests.laws.refuting import refuted
from tests.laws.test_models import X, pruned

pytestmark = pytest.mark.models

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.float8_e4m3fn, torch.float8_e5m2)


def same_as_execute(plan, model, form, small, keep=0, **options):
    """The pruned checkpoint holds what the executed model does, under the names that the checkpoint has."""
    with tempfile.TemporaryDirectory() as folder:
        state = checkpoints.state_of(model)
        stored = state if form.startswith("torch") else checkpoints.untied(state, keep)
        source = checkpoints.save(form, stored, folder)
        before = checkpoints.content(source)
        target = Path(folder) / f"small{source.suffix}"
        dg.prune_checkpoint(plan, source, target, **options)
        assert checkpoints.content(source) == before, "the source was changed"
        assert not [path for path in Path(folder).iterdir() if path.name.endswith(".part")], "something was left behind"
        wanted = small.state_dict()
        after = [plan.name_after(name) for name in stored]
        checkpoints.assert_same(checkpoints.load(target), {name: wanted[name] for name in after if name is not None})


@given(pruned(), st.sampled_from(checkpoints.FORMS), st.sampled_from(DTYPES), st.integers(0, 1))
def test_a_pruned_checkpoint_is_that_of_the_executed_model(case, form, dtype, keep):
    """Every form and dtype, whichever name of a tied tensor is stored."""
    model, _, plan = case
    model = model.to(dtype)
    same_as_execute(plan, model, form, dg.execute(plan, model), keep)


@given(pruned(), st.sampled_from(("safetensors", "safetensors shards", "torch shards")), st.integers(1, 3000))
def test_the_size_of_shards_changes_no_number(case, form, most):
    """Shards of any size hold the same, each at most so much unless a single tensor is larger."""
    model, _, plan = case
    same_as_execute(plan, model, form, dg.execute(plan, model), max_shard_size=most)


@given(pruned(), st.integers(1, 64))
def test_the_size_of_blocks_changes_no_number(case, size):
    """However few bytes are copied at once, and however often the file is mapped anew."""
    model, _, plan = case
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint_files, "BLOCK", size)
        patch.setattr(checkpoint_files, "MAPPED", 2 * size)
        same_as_execute(plan, model, "safetensors", dg.execute(plan, model))


@given(pruned(), st.data())
def test_two_plans_in_turn_are_both_as_one(case, data):
    """A checkpoint pruned by one plan, and by another one after it, is that of both."""
    model, graph, first = case
    second = data.draw(dg.testing.plans(first.apply(graph), elements=True))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = checkpoints.save("safetensors", checkpoints.untied(checkpoints.state_of(model)), folder)
        for plan, start, end in (
            (first, source, "a"),
            (second, folder / "a.safetensors", "b"),
            (first.then(second), source, "c"),
        ):
            dg.prune_checkpoint(plan, start, folder / f"{end}.safetensors")
        checkpoints.assert_same(checkpoints.load(folder / "b.safetensors"), checkpoints.load(folder / "c.safetensors"))


@given(pruned(), st.sampled_from(checkpoints.FORMS))
def test_a_repair_is_written_as_execute_writes_it(case, form):
    """New values come to the same places."""
    model, _, plan = case
    repair = dg.refit(plan, model, [torch.randn(6, *X.shape[1:])])
    same_as_execute(plan, model, form, dg.execute(plan, model, repair=repair), repair=repair)


def subject():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Conv2d(6, 4, 3))
    return model, dg.cut(dg.trace(model, torch.zeros(1, 3, 8, 8)), "0.weight", [1, 4], dim=0)


@pytest.mark.parametrize("form", checkpoints.FORMS)
def test_a_plan_without_one_of_its_axes_is_refuted(form):
    model, plan = subject()
    small = dg.execute(plan, model)
    same_as_execute(plan, model, form, small)
    for place in range(len(plan.axes)):
        wrong = attrs.evolve(plan, axes=plan.axes[:place] + plan.axes[place + 1 :])
        refuted(same_as_execute, wrong, model, form, small, says=r" is torch")


def test_a_reader_that_takes_other_rows_is_refuted(monkeypatch):
    model, plan = subject()
    small, runs = dg.execute(plan, model), checkpoint_files._runs
    monkeypatch.setattr(checkpoint_files, "_runs", lambda rows, most: ([run[0], run[0], *run[2:]] for run in runs(rows, most)))
    refuted(same_as_execute, plan, model, "safetensors", small, says="has other numbers")
