"""Whether widths searched by distances to the whole model's outputs beat uniform ones; writes docs/benchmarks/searches.json.

Run it with ``tox run -e searches``; then ``python docs/benchmarks/search.py --page`` has it in docs/allocations.md. On the two
networks of quality.md. Every method has the same scores, the same groups and the same budget. What is searched by is measured
on data that are not judged. ``--only minilm --seed 0 --tables FOLDER`` measures in parts.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
DOCS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(DOCS.parent), str(DOCS / "examples")]

import torch  # noqa: E402
from torch import nn  # noqa: E402

import depgraph as dg  # noqa: E402
from quality_page import shown, values, verdict  # noqa: E402
from quality_subjects import Digits, MiniLM, copied  # noqa: E402

Subject = Digits | MiniLM
Row = dict[str, Any]
STORE = DOCS / "benchmarks" / "searches.json"
BUDGETS = {"digits": (0.65, 0.5, 0.35), "minilm": (0.8, 0.65, 0.5)}
RATIOS = {"digits": [k / 8 for k in range(1, 8)], "minilm": [k / 6 for k in range(1, 6)]}
SAMPLES = {"digits": 256, "minilm": 64}
KINDS = {"digits": "kl", "minilm": "cka"}
ONLY: dict[str, list[str] | None] = {"digits": None, "minilm": ["role:head", "role:channel"]}
SCOPES = {"uniform": "group", "global": "global", "isomorphic": "isomorphic"}
OURS = {"digits": ("pareto", "rounds", "evolve"), "minilm": ("pareto", "best of five")}
BESIDE = (*SCOPES, "evolve, as many")


class Case:
    """One trained network with its scores, and the distance that all searches see."""

    def __init__(self, subject: Subject, seed: int) -> None:
        self.name, self.seed, self.only, self.ratios = subject.name, seed, ONLY[subject.name], RATIOS[subject.name]
        self.model = copied(subject.model(seed)).eval()
        self.graph = dg.trace(self.model, kwargs=subject.example)
        batch, loss = subject.calibration(seed)
        self.scores = dg.score(self.graph, self.model, dg.criteria.Taylor([batch], loss))
        batches = subject.unlabelled(seed + 50, SAMPLES[subject.name])
        forward = subject.embed if isinstance(subject, MiniLM) else subject.forward
        self.distance = dg.output_distance(self.model, batches, KINDS[subject.name], forward=forward)
        self.known: dict[dg.Plan, float] = {}
        self.evaluations = 0

    def evaluate(self, model: nn.Module) -> float:
        """The distance of a model that is masked, counted."""
        self.evaluations += 1
        return self.distance(model)

    def measured(self, plan: dg.Plan) -> float:
        """The distance with a plan's mask."""
        if plan not in self.known:
            with dg.mask_(plan, self.model):
                self.known[plan] = self.evaluate(self.model)
        return self.known[plan]

    def table(self, around: dg.Plan | None = None, path: Path | None = None) -> dg.choosing.Table:
        """Of all groups, with all others whole or as a plan has them."""
        arguments = self.graph, self.model, self.evaluate, self.ratios, self.scores
        return dg.sensitivity(*arguments, only=self.only, around=around, path=path)

    def policies(self, budget: float) -> dict[str, dg.Plan]:
        """What needs no table."""
        return {
            name: dg.plan(self.graph, self.scores, macs=budget, scope=scope, only=self.only) for name, scope in SCOPES.items()
        }

    def best_of(self, plans: Iterable[dg.Plan], table: dg.choosing.Table, budget: float) -> dg.Plan:
        """The plan of the smallest measured distance, of some and five that a table leads to."""
        found = dg.pareto(self.graph, table, {"macs": budget}, top_k=5)
        return min([*plans, *(each.plan for each in found)], key=self.measured)

    def rounds(self, table: dg.choosing.Table, budget: float, count: int) -> dg.Plan:
        """The best plan of a table, then of tables around the best so far."""
        best = self.best_of(self.policies(budget).values(), table, budget)
        for _ in range(count):
            best = self.best_of([best], self.table(around=best), budget)
        return best

    def evolved(self, budget: float, counts: Sequence[int]) -> list[dg.Plan]:
        """The best plan of `dg.evolve` after so many evaluations each; it starts from the policies and knows no table."""
        self.known.clear()
        found: list[dg.Plan] = []
        search = dg.evolve(
            self.graph, self.policies(budget).values(), self.scores, lambda plan: -self.measured(plan), seed=self.seed
        )
        before = None
        for step in search:
            while len(found) < len(counts) and step.evaluations > counts[len(found)]:
                found.append((before or step).best)
            if len(found) == len(counts):
                return found
            before = step
        raise AssertionError("generations have no end")


def measure(subject: Subject, seed: int, folder: Path, say: Callable[[str], None]) -> list[Row]:
    """Rows of each budget and method."""
    rows: list[Row] = []
    case = Case(subject, seed)
    start = time.perf_counter()
    table = case.table(path=folder / f"{subject.name}-{seed}.json")
    seconds, of_table = round(time.perf_counter() - start, 1), 1 + sum(len(curve.counts) for curve in table.curves)
    say(f"{subject.name}: seed {seed}, {of_table} evaluations of {len(table.curves)} curves, {seconds} s")
    for budget in BUDGETS[subject.name]:
        case.evaluations = 0
        (best,) = dg.pareto(case.graph, table, {"macs": budget})
        plans, evaluations = case.policies(budget) | {"pareto": best.plan}, {"pareto": of_table}
        if subject.name == "minilm":
            plans["best of five"] = case.best_of([], table, budget)
            evaluations["best of five"] = of_table + case.evaluations
        else:
            plans["rounds"] = case.rounds(table, budget, 2)
            evaluations["rounds"] = of_table + case.evaluations
            counts = of_table, evaluations["rounds"]
            plans["evolve, as many"], plans["evolve"] = case.evolved(budget, counts)
            evaluations |= {"evolve, as many": counts[0], "evolve": counts[1]}
        for name, plan in plans.items():
            small = dg.execute(plan, case.model)
            distance = case.distance(small)
            (value,) = subject.judge(small, (seed,))
            tuned = None
            if budget == BUDGETS[subject.name][1] and subject.name == "digits":
                subject.tune(small, seed)
                (tuned,) = subject.judge(small, (seed,))
            row: Row = {"seed": seed, "budget": budget, "method": name, "value": value, "tuned": tuned}
            row |= {"macs": plan.apply(case.graph).macs / case.graph.macs, "distance": distance}
            row |= {"evaluations": evaluations.get(name), "predicted": best.loss if name == "pareto" else None}
            rows.append(row | {"seconds of a table": seconds})
        say(f"{subject.name}: seed {seed}, budget {budget}")
    return rows


COMPARED = """\
## What it gains

Written by `tox run -e searches`; the numbers are in [searches.json](benchmarks/searches.json). The networks are those of
[quality.md](quality.md): a residual network on digits, and a pretrained MiniLM that embeds sentences. All methods have the same
Taylor scores of the same groups, and the same budget of MACs.

Searched is by `kl` of 256 images on digits and by `cka` of 64 sentences on MiniLM, on data without labels that are not judged.
Judged is another measure on other data. A table has few widths of each group, so an allocation often has a little less than the
budget. Nothing is trained on here.

| method | how |
|---|---|
| uniform, global, isomorphic | the three policies: `dg.plan` with `scope="group"`, `"global"`, `"isomorphic"`; no search |
| pareto | `dg.pareto` on the table: the widths whose losses add up to least |
| best of five | five allocations of the table by `top_k=5`; the one whose measured distance is smallest |
| rounds | the best of five and the three policies; then twice a table around the best so far, `around=`, and its best of five |
| evolve | `dg.evolve` from the three policies by its own moves, without a table, after as many evaluations as `rounds` has |
| evolve, as many | the same after as many evaluations as one table has |

*Better* and *worse* are meant of means that differ by more than the seeds' spread, as in quality.md; the last columns say so of
the search that they name, beside the method of the row.
"""
TUNED = """\
**Searched widths do not win after fine-tuning.** It was measured on digits at half of the MACs alone: there training makes up
for what the policies lose. What `pareto` and `rounds` leave has a little fewer MACs than what the others leave."""
ADDITIVE = """\
**A table does not foretell the distance of all cuts together.** It ranks allocations; how far it is off depends on the network.
With the cuts of `pareto` the distance is {} what the table predicts. So measure what is chosen."""


def _networks(found: dict[str, Any]) -> list[tuple[str, list[Row]]]:
    return [(name, found[name]["rows"]) for name in BUDGETS if name in found]


def gains(found: dict[str, Any]) -> list[str]:
    """The lines about what is gained without training."""
    lines = [COMPARED]
    for name, rows in _networks(found):
        metric = found[name]["metric"].capitalize()
        lines += [f"### {name}", "", f"{metric}, mean and range over the seeds. {_effort(rows)}", ""]
        lines += [*_summary(name, rows, "value"), *_table(name, rows, "value")]
    return lines


def tuned(found: dict[str, Any]) -> list[str]:
    """The lines about what is left of it after training."""
    lines = [TUNED, ""]
    for name, rows in _networks(found):
        if trained := [row for row in rows if row["tuned"] is not None]:
            lines += [*_summary(name, trained, "tuned"), *_table(name, trained, "tuned")]
    return lines


def additive(found: dict[str, Any]) -> list[str]:
    """The lines about whether the distances of single groups add up."""
    told = []
    for name, rows in _networks(found):
        ratios = [row["distance"] / row["predicted"] for row in rows if row["predicted"] is not None]
        told.append(f"{min(ratios):.1f} to {max(ratios):.1f} times on {name}")
    lines = [ADDITIVE.format(" and ".join(told)), ""]
    for name, rows in _networks(found):
        lines += [f"| {name}, MACs | seed | predicted for pareto |" + "".join(f" {each} |" for each in _methods(rows))]
        lines += ["|---" * (3 + len(_methods(rows))) + "|"]
        for budget in sorted({row["budget"] for row in rows}, reverse=True):
            for seed in sorted({row["seed"] for row in rows}):
                at = {row["method"]: row for row in rows if (row["budget"], row["seed"]) == (budget, seed)}
                measured = " | ".join(f"{at[method]['distance']:.4f}" for method in _methods(rows))
                lines.append(f"| {budget} | {seed} | {at['pareto']['predicted']:.4f} | {measured} |")
        lines.append("")
    return lines


def _methods(rows: list[Row]) -> list[str]:
    return list(dict.fromkeys(row["method"] for row in rows))


def _effort(rows: list[Row]) -> str:
    """Evaluations and seconds."""
    seconds = list({row["seed"]: row["seconds of a table"] for row in rows}.values())
    told = []
    for method in dict.fromkeys(row["method"] for row in rows if row["evaluations"]):
        counts = [row["evaluations"] for row in rows if row["method"] == method]
        told.append(f"{method} {min(counts)}" + (f" to {max(counts)}" if min(counts) < max(counts) else ""))
    return f"Evaluations of the model: {'; '.join(told)}. Seconds for one table: {', '.join(map(str, seconds))}."


def _summary(name: str, rows: list[Row], field: str) -> list[str]:
    """In how many cells each search is better, and by how much."""
    budgets = sorted({row["budget"] for row in rows})
    lines = [
        "Cells are a budget and another method each:",
        "",
        "| search | beside | better | level | worse | smallest, mean and largest gain of one seed |",
        "|---" * 6 + "|",
    ]
    for search in OURS[name]:
        words, gained = [], []
        for budget in budgets:
            for method in SCOPES:
                sides = [[row for row in rows if (row["budget"], row["method"]) == (budget, each)] for each in (search, method)]
                words.append(verdict(*(values(side, field) for side in sides)))
                gained += [one - other for one, other in zip(*(values(side, field) for side in sides), strict=True)]
        counts = " | ".join(str(words.count(word)) for word in ("better", "level", "worse"))
        gain = f"{min(gained):+.3f}, {sum(gained) / len(gained):+.3f}, {max(gained):+.3f}"
        lines.append(f"| {search} | the three policies | {counts} | {gain} |")
    return [*lines, ""]


def _table(name: str, rows: list[Row], field: str) -> list[str]:
    ours = OURS[name]
    lines = ["| MACs asked | method | MACs that remain | value |" + "".join(f" {each} beside it |" for each in ours)]
    lines.append("|---" * (4 + len(ours)) + "|")
    for budget in sorted({row["budget"] for row in rows}, reverse=True):
        at = {method: [row for row in rows if (row["budget"], row["method"]) == (budget, method)] for method in _methods(rows)}
        for method, held in at.items():
            macs = sum(values(held, "macs")) / len(held)
            words = [verdict(values(at[each], field), values(held, field)) if method in BESIDE else "" for each in ours]
            lines.append(f"| {budget} | {method} | {macs:.3f} | {shown(values(held, field))} | {' | '.join(words)} |")
    return [*lines, ""]


def keep(subject: Subject, seed: int, rows: list[Row]) -> None:
    """Write the numbers of one seed, beside those that are there."""
    found: dict[str, Any] = json.loads(STORE.read_text()) if STORE.exists() else {}
    others = [row for row in found.get(subject.name, {}).get("rows", ()) if row["seed"] != seed]
    found[subject.name] = {"rows": sorted([*others, *rows], key=lambda row: row["seed"]), "metric": subject.metric}
    found["versions"] = {
        "Python": platform.python_version(),
        **{name: version(name) for name in ("torch", "scipy", "transformers", "scikit-learn")},
    }
    STORE.write_text(json.dumps(found, indent=1) + "\n")


def main() -> None:
    """Measure, and write the numbers of each seed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=list(BUDGETS), help="one network; the other's numbers are kept")
    parser.add_argument("--seed", type=int, help="one seed of it; the others' numbers are kept")
    parser.add_argument("--tables", type=Path, help="a folder that keeps the tables, so that a run that ended goes on")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    start = time.perf_counter()

    def say(line: str) -> None:
        print(f"{time.perf_counter() - start:6.0f} s  {line}", flush=True)

    for kind in (Digits, MiniLM):
        if options.only in (None, kind.name):
            subject = kind(False)
            for seed in subject.seeds if options.seed is None else (options.seed,):
                with tempfile.TemporaryDirectory() as folder:
                    keep(subject, seed, measure(subject, seed, options.tables or Path(folder), say))


if __name__ == "__main__":
    main()
