"""Faults while a pruned model of transformers is saved: each write fails, and kills at random times by SIGKILL.

``python -m tests.hf.killing KILLS SEED`` prints counts by form as JSON. One process loads torch; each run that
is killed is a fork of it.
"""

import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import pytest
import torch

import depgraph as dg
from depgraph import codec
from depgraph.hf import folders
from tests.zoo import transformers
from tests.zoo.language import small_transformers

FORMS = {
    "stock, new": (0.5, False),
    "stock, replaced": (0.5, True),
    "by the plan, new": (None, False),
    "by the plan, replaced": (None, True),
}
"""The share of all inner widths that goes, or None for layers that differ; and whether a folder is replaced."""


class Tokenizer:
    """What is asked of a tokenizer."""

    def save_pretrained(self, folder):
        (folder / "tokenizer.json").write_text("{}" * 50_000)


def subject(ratio):
    """A pruned model of a few hundred kilobytes with its plan."""
    torch.manual_seed(0)
    transformers().logging.disable_progress_bar()
    model, _, inputs = small_transformers("bert")()
    graph = dg.trace(model, inputs)
    inner = [group.name for group in graph.groups if "intermediate" in group.name]
    ratios = {name: ratio or 0.25 + 0.25 * place for place, name in enumerate(inner)}
    plan = dg.plan(graph, dg.score(graph, model, dg.Magnitude(p=2)), ratio=ratios)
    return plan, dg.execute(plan, model)


def save(subject, folder, **options):
    plan, model = subject
    return dg.hf.save_pretrained(plan, model, folder, max_shard_size="40KB", tokenizer=Tokenizer(), replace=True, **options)


def content(folder):
    """Each file of a folder with what is in it; None if there is no folder."""
    paths = sorted(folder.rglob("*")) if folder.exists() else None
    return None if paths is None else {path.name: path.read_bytes() for path in paths if path.is_file()}


def prepared(folder):
    """A folder with what was there before, and its content."""
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    return content(folder)


class Full(Exception):
    """What a disk says that takes no more."""


class Disk:
    """Fails at one write: the making or naming of a folder, the opening of a file, an fsync, half of a file of weights."""

    def __init__(self, patch, folder):
        self.folder, self.calls, self.stop = str(folder), 0, 0
        self.on = True
        sys.addaudithook(self.heard)  # it stays until the process ends
        for home, name in ((os, "fsync"), (codec, "exchanged")):
            patch.setattr(home, name, self.counting(getattr(home, name)))
        home = transformers().modeling_utils
        save_file = home.safe_save_file

        def half(tensors, path, **more):
            save_file(tensors, path, **more)
            size = os.path.getsize(path)
            try:
                self.write()
            except Full:
                os.truncate(path, size // 2)
                raise

        patch.setattr(home, "safe_save_file", half)

    def heard(self, event, args):
        if self.on and event in ("open", "os.mkdir", "os.rename") and str(args[0]).startswith(self.folder):
            flags = args[2] if event == "open" else os.O_WRONLY
            if isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR):
                self.write()

    def counting(self, function):
        def call(*args):
            self.write()
            return function(*args)

        return call

    def write(self):
        self.calls += 1
        if self.on and self.calls == self.stop:
            raise Full("no space left")


def failed(form):
    """Let each write of a save fail in turn; how many there are. Nothing changes, and nothing is left; then one completes."""
    ratio, replaces = FORMS[form]
    pruned = subject(ratio)
    config, solution = pruned[1].config.to_dict(), folders.solution_of(*pruned)
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        folder = Path(name)
        target = folder / "model"
        before = prepared(target) if replaces else None
        there = sorted(folder.rglob("*"))
        patch.setattr(folders, "solution_of", lambda plan, model: solution)
        disk = Disk(patch, folder)
        while True:
            disk.calls, disk.stop = 0, disk.stop + 1
            try:
                save(pruned, target)
            except Full:
                assert content(target) == before and sorted(folder.rglob("*")) == there, disk.stop
                assert pruned[1].config.to_dict() == config
            else:
                break
        disk.on = False
        assert disk.stop == disk.calls + 1, "a failure was swallowed"
        save(pruned, folder / "again")
        assert content(folder / "again") == content(target) != before
        dg.hf.from_pretrained(target)
    return disk.calls


def started(subject, target):
    """The number of a process that saves."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            save(subject, target)
            code = 0
        finally:
            os._exit(code)
    return child


def finished(child):
    """Wait for a process, and say whether it did its work."""
    return os.waitpid(child, 0)[1] == 0


def begun(folder, child):
    """Wait until a process has begun to write, or has ended."""
    while not list(folder.glob(".*.part")) and os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        time.sleep(0.0002)


def killed(form, kills, seed):
    """Kill runs while they write until so many were killed, and count what the folder is: as it was before, or new and whole.

    What is to be written is found once, in the first process. After the last kill another run follows, beside what the killed
    ones left, and has to complete.
    """
    ratio, replaces = FORMS[form]
    pruned, draw, counts = subject(ratio), random.Random(seed), Counter()
    solution, solve = folders.solution_of(*pruned), folders.solution_of
    folders.solution_of = lambda plan, model: solution
    try:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            target, wanted, old = (folder / name for name in ("target", "wanted", "old"))
            prepared(old)
            save(pruned, folder / "warm")  # whatever it imports is there in all forks
            child = started(pruned, wanted)
            begun(folder, child)
            start = time.perf_counter()
            assert finished(child), "a run that was left alone failed"
            took = time.perf_counter() - start
            new, before = content(wanted), content(old) if replaces else None
            while counts["killed"] < kills:
                shutil.rmtree(target, ignore_errors=True)
                if replaces:
                    shutil.copytree(old, target)
                child = started(pruned, target)
                begun(folder, child)
                time.sleep(draw.uniform(0, 1.2 * took))
                os.kill(child, signal.SIGKILL)
                died, met = not finished(child), content(target)
                assert met in (before, new), f"something half done after {counts}"
                assert died or met == new, "a run ended well, without its target"
                counts["killed" if died else "too late"] += 1
                counts["the old one"] += died and met == before
                counts["the new one"] += died and met == new
                left = list(folder.glob(".*.part"))
                counts["while it wrote"] += died and bool(left)
                for part in left if counts["killed"] < kills else ():
                    shutil.rmtree(part)
            assert finished(started(pruned, target)) and content(target) == new, "a second run did not complete"
            dg.hf.from_pretrained(target)
    finally:
        folders.solution_of = solve
    return dict(counts)


if __name__ == "__main__":
    torch.set_num_threads(1)
    kills, seed = map(int, sys.argv[1:])
    print(json.dumps({form: {"failed writes": failed(form), **killed(form, kills, seed)} for form in FORMS}))
