"""Times and measures pruning of a checkpoint beside a plain copy, kills it, and writes docs/checkpoints.md.

Run it from the root of a clone: ``python docs/benchmarks/checkpoints.py``; ``--gib 1`` for a smaller one. It needs twice as
much of the disk at ``--folder``. What is compared runs in turns, each run in a process of its own; medians are reported.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "checkpoints.md"
TARGET, KILLS = 1.3, 60
WIDTH, INNER = 2048, 5632

MAKE = """
import json, sys, torch, depgraph as dg
from safetensors.torch import save_file
from torch import nn
folder, gib = sys.argv[1], float(sys.argv[2])
class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.gate, self.up = nn.LayerNorm(2048), nn.Linear(2048, 5632, bias=False), nn.Linear(2048, 5632, bias=False)
        self.down = nn.Linear(5632, 2048, bias=False)
    def forward(self, x):
        h = self.norm(x)
        return x + self.down(nn.functional.silu(self.gate(h)) * self.up(h))
count = max(round(gib * 2**30 / 2 / (3 * 2048 * 5632 + 4096)), 4)
with torch.device("meta"):
    blocks = [Block() for _ in range(count)]
    model = nn.Sequential(nn.Embedding(32000, 2048), *blocks, nn.Linear(2048, 32000, bias=False)).bfloat16()
graph = dg.trace(model, torch.zeros(1, 4, dtype=torch.long, device="meta"))
dg.plan(graph, dg.score(graph, model, dg.criteria.Random(0)), ratio=0.5).save(folder + "/plan.json")
parts = [[] for _ in range(4)]
for place, name in enumerate(model.state_dict()):
    parts[place * 4 // len(model.state_dict())].append(name)
index = {}
for number, part in enumerate(parts, 1):
    file = f"model-{number:05}-of-00004.safetensors"
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items() if name in part}
    state = {name: torch.empty(shape, dtype=torch.bfloat16).normal_() for name, shape in shapes.items()}
    save_file(state, f"{folder}/model/{file}", {"format": "pt"})
    index.update(dict.fromkeys(part, file))
json.dump({"metadata": {}, "weight_map": index}, open(folder + "/model/model.safetensors.index.json", "w"))
"""
"""Weights of a language model of blocks as Llama's, in bfloat16, in four shards, and a plan that takes half of everything."""

WATCHED = """
import json, os, resource, sys, time
import torch, safetensors.torch, depgraph as dg
from pathlib import Path
folder, source, target = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
plan = dg.Plan.load(folder / "plan.json")
plan.problems, plan.kept
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
start, cpu = time.perf_counter(), time.process_time()
{work}
seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps([seconds, cpu, (peak - before) * 1024]))
"""
PRUNE = "dg.prune_checkpoint(plan, source, target)"
COPY = """
target.mkdir()
for path in sorted(source.glob("*.safetensors")):
    safetensors.torch.save_file(safetensors.torch.load_file(path), target / path.name, {"format": "pt"})
"""
SYNCED = (
    COPY
    + """    with (target / path.name).open("rb") as file:
        os.fsync(file.fileno())
"""
)


def measured(work: str, *arguments: Path) -> list[float]:
    """Seconds, seconds of CPU time, and bytes of memory at most, of a run in another process."""
    command = [sys.executable, "-c", WATCHED.replace("{work}", work.strip()), *map(str, arguments)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    result: list[float] = json.loads(run.stdout)
    return result


def compared(gib: float, runs: int, folder: Path) -> dict[str, object]:
    """Prune a checkpoint, and copy what was kept, in turns."""
    (folder / "model").mkdir()
    subprocess.run([sys.executable, "-c", MAKE, str(folder), str(gib)], cwd=ROOT, check=True)
    kept, rows = folder / "kept", {name: list[list[float]]() for name in ("prune", "copy", "copy, on the disk")}
    measured(PRUNE, folder, folder / "model", kept)
    for turn in range(runs):
        for name, work, source in (
            ("prune", PRUNE, folder / "model"),
            ("copy", COPY, kept),
            ("copy, on the disk", SYNCED, kept),
        ):
            target = folder / f"target {turn}"
            rows[name].append(measured(work, folder, source, target))
            subprocess.run(["rm", "-r", str(target)], check=True)
    sizes = [{path.name: path.stat().st_size for path in place.glob("*.safetensors")} for place in (folder / "model", kept)]
    medians = {name: [statistics.median(column) for column in zip(*each, strict=True)] for name, each in rows.items()}
    return {"sizes": [sum(each.values()) for each in sizes], "shard": max(sizes[1].values()), "rows": medians}


def page(found: dict[str, object], kills: dict[str, dict[str, int]]) -> str:
    """The page of what was found."""
    before, after = found["sizes"]  # type: ignore[misc]
    rows: dict[str, list[float]] = found["rows"]  # type: ignore[assignment]
    shard: int = found["shard"]  # type: ignore[assignment]
    pruned, plain, synced = (seconds for seconds, _, _ in rows.values())
    verdict = "met" if pruned <= TARGET * synced else "missed"
    lines = [
        "# Checkpoints",
        "",
        "Written by `tox run -e checkpoints` (`docs/benchmarks/checkpoints.py`), never by hand.",
        "",
        f"torch {version('torch')}, safetensors {version('safetensors')}; {os.cpu_count()} CPUs.",
        "",
        "## Time and memory",
        "",
        f"`dg.prune_checkpoint` of a language model in bfloat16, {before / 2**30:.2f} GiB in four shards, by a plan that takes "
        f"half of every group: {after / 2**30:.2f} GiB are kept, {shard / 2**30:.2f} GiB in the largest shard. "
        "Beside it a plain copy of what was kept by `safetensors.torch.load_file` and `save_file`, which leaves the content to "
        "the system's cache, and the same with an fsync of each file, as `prune_checkpoint` does it.",
        "",
        "| | seconds | CPU seconds | peak memory, mapped files included, MiB |",
        "| --- | ---: | ---: | ---: |",
        *(f"| {name} | {seconds:.2f} | {cpu:.2f} | {peak / 2**20:.0f} |" for name, (seconds, cpu, peak) in rows.items()),
        "",
        f"Target: at most {TARGET} times the seconds of a copy that is on the disk: {pruned / synced:.2f}, {verdict}. "
        f"To the copy that is not: {pruned / plain:.2f}.",
        "",
        "## Kills",
        "",
        "A process that prunes a checkpoint of 3.4 MiB is killed (SIGKILL) at random times. At the target is what was there "
        "before, or the new one, whole; a run after the last one completes.",
        "",
        "| form | killed | of these while it wrote | old target | new target | too late |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
        *(
            f"| {form} | {counts['killed']} | {counts['while it wrote']} | {counts['the old one']} | {counts['the new one']} "
            f"| {counts['too late']} |"
            for form, counts in kills.items()
        ),
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure, kill, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gib", type=float, default=4, help="size of the checkpoint that is pruned")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--kills", type=int, default=KILLS, help="kills of each form")
    parser.add_argument("--folder", type=Path, default=None, help="where the files are written; they are removed")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        found = compared(options.gib, options.runs, Path(folder))
    run = [sys.executable, "-m", "tests.killing", str(options.kills), "0"]
    kills = json.loads(subprocess.run(run, cwd=ROOT, capture_output=True, text=True, check=True).stdout)
    PAGE.write_text(page(found, kills))


if __name__ == "__main__":
    main()
