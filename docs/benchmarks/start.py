"""Measures how long the package takes to start, and writes docs/start.md and its data.

Run it from the root of a clone: ``python docs/benchmarks/start.py``. Each figure is the median of processes of their own, all
of them after a first one that is not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[2]
PAGE, DATA = ROOT / "docs/start.md", ROOT / "docs/benchmarks/start.json"
MAKE = """
import sys, torch, depgraph as dg
graph = dg.trace(torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2)), torch.zeros(1, 4))
dg.cut(graph, "0.weight", [1], dim=0).save(sys.argv[1])
"""
CASES = {
    "`python -c pass`": ["-c", "pass"],
    "`import depgraph`": ["-c", "import depgraph"],
    "reading a plan with it": ["-c", "import depgraph as dg; dg.Plan.load({plan!r})"],
    "`import torch`": ["-c", "import torch"],
    "`import depgraph`, with all that `dg.trace` and `dg.execute` load": [
        "-c",
        "import depgraph as dg; dg.trace; dg.score; dg.execute",
    ],
}
COMMAND = {"`python -m depgraph --help`": ["-m", "depgraph", "--help"]}


def seconds(arguments: list[str], times: int) -> list[float]:
    """Medians over as many processes: CPU time, and from start to end."""
    found = []
    for _ in range(times + 1):
        before, begun = os.times(), time.perf_counter()
        subprocess.run([sys.executable, *arguments], cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
        after, ended = os.times(), time.perf_counter()
        used = after.children_user + after.children_system - before.children_user - before.children_system
        found.append((used, ended - begun))
    return [median(column) for column in zip(*found[1:], strict=True)]


def measured(times: int) -> dict[str, list[float]]:
    """Each case with its seconds."""
    with tempfile.TemporaryDirectory() as folder:
        plan = str(Path(folder) / "plan.json")
        subprocess.run([sys.executable, "-c", MAKE, plan], cwd=ROOT, check=True)
        cases = CASES | (COMMAND if find_spec("depgraph.__main__") else {})
        return {name: seconds([part.format(plan=plan) for part in arguments], times) for name, arguments in cases.items()}


def page(found: dict[str, list[float]], times: int) -> str:
    """The page of what was measured."""
    lines = [
        "# Starting",
        "",
        "Written by `tox run -e start` (`docs/benchmarks/start.py`), never by hand.",
        "",
        f"Seconds of a whole process, medians of {times}; from start to end counts what else the machine does. Names are",
        "loaded when they are asked for, so graphs and plans are read, and plans made, without torch.",
        "",
        "| process | CPU time | from start to end |",
        "| --- | ---: | ---: |",
        *(f"| {name} | {used:.2f} | {wall:.2f} |" for name, (used, wall) in found.items()),
    ]
    return "\n".join([*lines, ""])


def main() -> None:
    """Measure, and write the page; or print one measurement of each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--test", action="store_true", help="print one measurement of each, and write nothing")
    options = parser.parse_args()
    times = 1 if options.test else 5
    found = measured(times)
    if options.test:
        print(json.dumps(found))
        return
    DATA.write_text(json.dumps(found, indent=1) + "\n")
    PAGE.write_text(page(found, times))


if __name__ == "__main__":
    main()
