"""Measures what dg.execute_ needs of memory beside the model, and writes docs/memory.md and its data.

Run it from the root of a clone: ``python docs/benchmarks/memory.py``. Each figure is that of a process of its own: the highest
resident size while it executes, less that before, when the model was there.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE, DATA = ROOT / "docs/memory.md", ROOT / "docs/benchmarks/memory.json"
MODELS = {
    "32 linear layers": (32, 2048, 0, 0.5),
    "the same, a tenth goes": (32, 2048, 0, 0.1),
    "a large embedding": (8, 2048, 16384, 0.5),
}
LITTLE = {"linear layers": (16, 1024, 0, 0.5)}
MEASURE = """
import json, resource, sys, threading, time, torch, depgraph as dg
from torch import nn
layers, width, rows, ratio = *map(int, sys.argv[1:4]), float(sys.argv[4])
torch.set_num_threads(1)
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()
def stack():
    first = [nn.Embedding(rows, width)] if rows else [nn.Linear(width, width)]
    return nn.Sequential(*first, *(nn.Linear(width, width) for _ in range(layers)))
with torch.device("meta"):
    empty = stack()
    x = torch.zeros(1, 4, dtype=torch.long) if rows else torch.zeros(1, width)
graph = dg.trace(empty, x)
plan = dg.plan(graph, dg.score(graph, empty, dg.criteria.Random(0)), ratio=ratio)
plan.problems, plan.kept
def measured(release):
    warm = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
    dg.execute_(dg.cut(dg.trace(warm, torch.zeros(1, 4)), "0.weight", [1], dim=0), warm, release=release)
    model = stack()
    for parameter in model.parameters():
        parameter.data.fill_(1.0)
    peak, done = [0], threading.Event()
    def watch():
        while not done.is_set():
            peak[0] = max(peak[0], resident())
            time.sleep(0.0002)
    before = resident()
    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.perf_counter()
    dg.execute_(plan, model, release=release)
    seconds = time.perf_counter() - start
    done.set(); watcher.join()
    return peak[0] - before, seconds
print(json.dumps([measured(how == "release") for how in sys.argv[5:]]))
"""


def measured(model: tuple[int, int, int, float], *hows: str) -> list[tuple[int, float]]:
    """Bytes at most beside the model, and seconds, of executions one after the other in a process of their own."""
    command = [sys.executable, "-c", MEASURE, *map(str, model), *hows]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return [(peak, seconds) for peak, seconds in json.loads(run.stdout)]


def row(model: tuple[int, int, int, float], *, apart: bool = True) -> dict[str, float]:
    """What a model takes, and what execution in place takes beside it; `apart`: each in a process of its own."""
    layers, width, rows, _ = model
    first = rows or width
    sizes = [4 * first * width, *[4 * width * width] * layers]
    found: dict[str, float] = {"model": sum(sizes), "largest": max(sizes)}
    hows = ("plain", "release")
    rows_of = [measured(model, how)[0] for how in hows] if apart else measured(model, *hows)
    for how, (peak, seconds) in zip(hows, rows_of, strict=True):
        found[how], found[f"{how} seconds"] = peak, seconds
    return found


def page(rows: dict[str, dict[str, float]]) -> str:
    """The page of what was measured."""
    lines = [
        "# Memory of an execution in place",
        "",
        "Written by `tox run -e memory` (`docs/benchmarks/memory.py`), never by hand.",
        "",
        f"torch {version('torch')}, on the CPU, one thread. Weights in float32. *Beside*: the highest resident memory while "
        "`dg.execute_` runs, less that before, when the model was there; each in a process of its own. Without an option all "
        "new tensors are made before the first write. With `release=True` each old one is emptied when its successor is made, "
        "and what went of it is kept until the end, so that a failure brings it back: no more than the largest tensor is "
        "needed beside the model.",
        "",
        "| model | MiB | largest tensor | beside | beside, `release=True` | seconds | seconds, `release=True` |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, found in rows.items():
        sizes = [f"{found[key] / 2**20:.0f}" for key in ("model", "largest", "plain", "release")]
        seconds = [f"{found[f'{how} seconds']:.2f}" for how in ("plain", "release")]
        lines.append(f"| {name} | {' | '.join([*sizes, *seconds])} |")
    return "\n".join([*lines, ""])


def main() -> None:
    """Measure, and write the page; or print what a little model takes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--test", action="store_true", help="print the figures of a little model, and write nothing")
    options = parser.parse_args()
    rows = {name: row(model, apart=not options.test) for name, model in (LITTLE if options.test else MODELS).items()}
    if options.test:
        print(json.dumps(rows))
        return
    DATA.write_text(json.dumps(rows, indent=1) + "\n")
    PAGE.write_text(page(rows))


if __name__ == "__main__":
    main()
