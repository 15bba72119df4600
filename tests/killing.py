"""Kills of a process that prunes a checkpoint: at random times, by SIGKILL, and what is at the target then.

``python -m tests.killing KILLS SEED`` prints counts by form as JSON. One process loads torch; each run is a fork of it.
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

import torch
from torch import nn

import depgraph as dg
from tests import checkpoints

KILLED = ("safetensors", "safetensors shards", "torch")


def subject(width=384, layers=6):
    """A state of a few megabytes, and two plans for it."""
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(width, width) for _ in range(layers)))
    graph = dg.trace(model, torch.zeros(1, width))
    return checkpoints.state_of(model), [
        dg.plan(graph, dg.score(graph, model, dg.criteria.Random(0)), ratio=r) for r in (0.2, 0.4)
    ]


def started(plan, source, target):
    """The number of a process that prunes."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            dg.prune_checkpoint(plan, source, target)
            code = 0
        finally:
            os._exit(code)
    return child


def finished(child):
    """Wait for a process, and say whether it did its work."""
    return os.waitpid(child, 0)[1] == 0


def killed(form, kills, seed):
    """Kill runs until so many were killed, and count what is at the target: what was there before, or the new one, whole.

    After the last one another run follows, beside what the killed ones left, and has to complete.
    """
    state, (plan, other) = subject()
    draw, counts, took = random.Random(seed), Counter(), []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = checkpoints.save(form, state, folder)
        target, wanted, old = (folder / f"{name}{source.suffix}" for name in ("target", "wanted", "old"))
        dg.prune_checkpoint(plan, source, folder / f"warm{source.suffix}")  # whatever it imports is there in all forks
        for place, what in ((old, other), (wanted, plan)):
            start = time.perf_counter()
            assert finished(started(what, source, place)), "a run that was left alone failed"
            took.append(time.perf_counter() - start)
        new, before = checkpoints.content(wanted), None if source.is_dir() else checkpoints.content(old)
        assert new != before
        while counts["killed"] < kills:
            shutil.rmtree(target, ignore_errors=True) if source.is_dir() else shutil.copyfile(old, target)
            child = started(plan, source, target)
            time.sleep(draw.uniform(0, 1.2 * took[-1]))
            os.kill(child, signal.SIGKILL)
            died = not finished(child)
            met = checkpoints.content(target)
            assert met in (before, new), f"something half done after {counts}"
            assert died or met == new, "a run ended well, without its target"
            counts["killed" if died else "too late"] += 1
            counts["the old one"] += died and met == before
            counts["the new one"] += died and met == new
            left = list(folder.glob(".*.part"))
            counts["while it wrote"] += bool(left)
            for part in left if counts["killed"] < kills else ():
                shutil.rmtree(part) if part.is_dir() else part.unlink()
        if source.is_dir():
            shutil.rmtree(target, ignore_errors=True)
        assert finished(started(plan, source, target)) and checkpoints.content(target) == new, "a second run did not complete"
    return dict(counts)


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps({form: killed(form, int(sys.argv[1]), int(sys.argv[2])) for form in KILLED}))
