"""What a repair costs, beside one forward over the same batches; writes its numbers for docs/repair.md.

Run it with ``python docs/benchmarks/repair_cost.py``. Each row is measured in a process of its own, with one thread: CPU time,
the least of three in turns with the forward, and the largest memory of the process beyond what one forward takes.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
DOCS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(DOCS.parent), str(DOCS / "examples"), str(DOCS / "benchmarks")]

import torch  # noqa: E402
from torch import nn  # noqa: E402

import depgraph as dg  # noqa: E402

NUMBERS = DOCS / "benchmarks" / "repair_cost.json"
Subject = tuple[nn.Module, list[Any], dict[str, Any]]


def digits() -> Subject:
    """The network of the quickstart, untrained, on 512 images."""
    from quickstart import DigitNet
    from quickstart import digits as images

    x = images()[0][:512]
    return DigitNet().eval(), list(x.split(128)), {}


def minilm() -> Subject:
    """The pretrained sentence encoder on 256 sentences."""
    from quality_subjects import MiniLM

    subject = MiniLM(quick=True)
    from quality_subjects import sentences

    texts = sentences("*.py")[:256]
    batches = [dict(subject.encode(texts[start : start + 32])) for start in range(0, 256, 32)]
    return subject.teacher, batches, {"valid": lambda batch: batch["attention_mask"]}


def resnet50() -> Subject:
    """64 images of 224 x 224."""
    from tests import zoo

    return zoo.torchvision().models.resnet50(weights=None).eval(), list(torch.randn(64, 3, 224, 224).split(16)), {}


SUBJECTS: dict[str, Callable[[], Subject]] = {"digits": digits, "MiniLM": minilm, "resnet50": resnet50}


def seconds(work: Callable[[], object]) -> float:
    """CPU seconds of one run."""
    before = time.process_time()
    work()
    return time.process_time() - before


def peak() -> float:
    """The largest memory of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@torch.no_grad()
def forwards(model: nn.Module, batches: list[Any]) -> None:
    """One forward over the batches."""
    for batch in batches:
        model(**batch) if isinstance(batch, dict) else model(batch)


def measure(name: str, mode: str) -> dict[str, Any]:
    """One row."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model, batches, options = SUBJECTS[name]()
    first = batches[0]
    graph = dg.trace(model, kwargs=first) if isinstance(first, dict) else dg.trace(model, first)
    plan = dg.plan(graph, dg.score(graph, model, dg.Magnitude(p=2)), macs=0.5)
    rounds = 1 if name == "resnet50" else 3
    forward = [seconds(lambda: forwards(model, batches))]
    before = peak()
    refit = []
    for _ in range(rounds):
        refit.append(seconds(lambda: dg.refit(plan, model, batches, mode=mode, **options)))
        forward.append(seconds(lambda: forwards(model, batches)))
    return {
        "subject": name, "mode": mode, "forward_s": min(forward), "refit_s": min(refit), "ratio": min(refit) / min(forward),
        "extra_mib": peak() - before, "weights_mib": sum(p.numel() * p.element_size() for p in model.parameters()) / 2**20,
    }  # fmt: skip


def main() -> None:
    """Measure all rows and write them."""
    if len(sys.argv) == 3:
        print(json.dumps(measure(*sys.argv[1:])))
        return
    rows = []
    for name in SUBJECTS:
        for mode in ("independent", "sequential"):
            command = [sys.executable, __file__, name, mode]
            rows.append(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1]))
            print(rows[-1], flush=True)
    NUMBERS.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
