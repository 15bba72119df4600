"""Whether allocation on measured losses beats uniform cuts and a global ranking at equal MACs; writes docs/allocations.md.

Run it with ``tox run -e search``, or ``python docs/benchmarks/search.py``; with ``--only digits`` or ``--only minilm`` on one
network, with ``--page`` to write the page anew from the numbers of search.json, searches.json and pareto.json beside this file.

On the two networks of quality.md. Every method has the same scores, the same groups and the same budget. The table of
`dg.sensitivity` is measured on data that are not judged.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
DOCS = Path(__file__).resolve().parents[1]
sys.path += [str(DOCS.parent), str(DOCS / "examples")]

import torch  # noqa: E402
from torch import nn  # noqa: E402

import depgraph as dg  # noqa: E402
from quality_page import shown, values, verdict  # noqa: E402
from quality_subjects import Digits, MiniLM, copied  # noqa: E402
from searches import additive, gains, tuned  # noqa: E402

Subject = Digits | MiniLM
Row = dict[str, Any]
STORE, PAGE = DOCS / "benchmarks" / "search.json", DOCS / "allocations.md"
BUDGETS = {"digits": (0.65, 0.5, 0.35), "minilm": (0.8, 0.65, 0.5)}
RATIOS = {"digits": [k / 8 for k in range(1, 8)], "minilm": [k / 6 for k in range(1, 6)]}
SAMPLES = {"digits": 256, "minilm": 48}
ONLY: dict[str, list[str] | None] = {"digits": None, "minilm": ["role:head", "role:channel"]}
METHODS = ("uniform", "global", "isomorphic", "pareto")


def loss_of(subject: Subject, seed: int) -> Callable[[nn.Module], float]:
    """What the table is measured by: the mean loss on a calibration set other than that of the scores."""
    samples, subject.samples = subject.samples, SAMPLES[subject.name]
    batch, loss = subject.calibration(seed + 50)
    subject.samples = samples

    @torch.no_grad()
    def evaluate(model: nn.Module) -> float:
        return float(loss(model, batch).mean())

    return evaluate


def measure(subject: Subject, say: Callable[[str], None]) -> dict[str, Any]:
    """Rows of each seed, budget and method."""
    rows: list[Row] = []
    seconds = []
    for seed in subject.seeds:
        model = copied(subject.model(seed)).eval()
        graph = dg.trace(model, kwargs=subject.example)
        batch, loss = subject.calibration(seed)
        scores = dg.score(graph, model, dg.criteria.Taylor([batch], loss))
        only, ratios = ONLY[subject.name], RATIOS[subject.name]
        say(f"{subject.name}: seed {seed} scored")
        start = time.perf_counter()
        table = dg.sensitivity(graph, model, loss_of(subject, seed), ratios, scores, only=only)
        seconds.append(round(time.perf_counter() - start, 1))
        say(f"{subject.name}: {sum(len(curve.counts) for curve in table.curves)} cuts of {len(table.curves)} curves")
        for budget in BUDGETS[subject.name]:
            (best,) = dg.pareto(graph, table, {"macs": budget})
            scopes = {"uniform": "group", "global": "global", "isomorphic": "isomorphic"}
            plans = {name: dg.plan(graph, scores, macs=budget, scope=scope, only=only) for name, scope in scopes.items()}
            plans["pareto"] = best.plan
            for name, plan in plans.items():
                small = dg.execute(plan, model)
                (value,) = subject.judge(small, (seed,))
                tuned = None
                if budget == BUDGETS[subject.name][1] and subject.name == "digits":
                    subject.tune(small, seed)
                    (tuned,) = subject.judge(small, (seed,))
                row = {"seed": seed, "budget": budget, "method": name, "macs": plan.targets[0].realised / graph.macs}
                row |= {"value": value, "tuned": tuned, "loss": loss_of(subject, seed)(dg.execute(plan, model))}
                rows.append(row | {"predicted": best.loss if name == "pareto" else None, "whole": table.whole})
            say(f"{subject.name}: seed {seed}, budget {budget}")
    return {"rows": rows, "seconds of a table": seconds, "metric": subject.metric}


HEAD = """\
# Allocations

How many indices each group loses for one budget is a choice. `dg.plan` makes it from scores: equal ratios, one ranking, or a
ranking of each structure. A search asks the model itself what each width costs it. This page says how, what that gains, what
did not help, and how long it takes.

## What to do

1. Measure by the distance to the whole model's own outputs, `dg.output_distance`: it needs no labels. Take the kind that sees
   what is used of them: `kl` for logits, `cka` for embeddings that are compared with each other.
2. Make a table by `dg.sensitivity`: each group is cut at a few widths while all others stay whole. Name a `path`, so that a run
   that was interrupted goes on.
3. Let `dg.pareto` choose the widths for one budget or many, with `top_k=5`.
4. Measure these few with all their cuts, and take the best. The table ranks them, and is not exact about all cuts together.
5. If there is time, go on: a table around the best so far, `around=`, and its best of five; or `dg.evolve`, which needs no
   table and had the best means on digits after as many evaluations. Either gains less than the first table did.

Do this where the model is used as it is, or trained little. After fine-tuning, equal ratios were level or a little better, see
[what did not help](#what-did-not-help).

```python
>>> import torch
>>> from torch import nn
>>> import depgraph as dg
>>> model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2))
>>> inputs = torch.randn(64, 4)
>>> graph = dg.trace(model, inputs[:1])
>>> scores = dg.score(graph, model, dg.Magnitude(p=2))
>>> distance = dg.output_distance(model, [inputs], "kl")
>>> def measured(plan):
...     with dg.mask_(plan, model):
...         return distance(model)
>>> best = dg.plan(graph, scores, macs=0.5)                                 # what is to be beaten
>>> for around in (None, best):                                             # the second round is optional
...     table = dg.sensitivity(graph, model, distance, [0.25, 0.5, 0.75], scores, around=around and best)
...     best = min([best, *(each.plan for each in dg.pareto(graph, table, {"macs": 0.5}, top_k=5))], key=measured)
>>> measured(best) <= measured(dg.plan(graph, scores, macs=0.5)), best.apply(graph).macs <= 0.5 * graph.macs
(True, True)

```

`dg.pareto` needs scipy, `pip install 'depgraph[search]'`. [The guide](guide.md#search-on-measured-losses) has all arguments.
"""
LOSS = """\
**The loss of a task in the place of the distance.** Written by `tox run -e search`, an earlier measurement; the numbers are in
[search.json](benchmarks/search.json). Networks, scores, groups and budgets are those above, and the table is measured by the
mean loss on labelled data that are not judged. On digits it ranks as well as the distance. On MiniLM it is near 0 with any
single cut, and rises and falls by chance."""


def page(found: dict[str, Any], speed: dict[str, Any] | None) -> str:
    """The page: what to do, what it gains, what did not help, how long it takes."""
    searches = json.loads((DOCS / "benchmarks" / "searches.json").read_text())
    lines = [HEAD, *gains(searches), "## What did not help", "", *tuned(searches), *additive(searches), LOSS, ""]
    for name, subject in ((name, found[name]) for name in BUDGETS if name in found):
        lines += _by_loss(name, subject)
    if speed:
        lines += _times(speed)
    told = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
    return "\n".join([*lines, f"Measured with {told}, one thread.", ""])


def _by_loss(name: str, subject: dict[str, Any]) -> list[str]:
    """The lines about one network that is searched by its task's loss."""
    rows = subject["rows"]
    lines = [
        f"### {name}, by the loss",
        "",
        f"{subject['metric'].capitalize()}, mean and range over the seeds. {_seconds(subject)}",
    ]
    lines += ["", *_summary(rows), "", *_table(rows, "value")]
    if any(row["tuned"] is not None for row in rows):
        lines += ["After fine-tuning:", "", *_table([row for row in rows if row["tuned"] is not None], "tuned")]
    lines += ["The loss on the calibration set, as predicted and as measured:", ""]
    lines += ["| MACs | seed | whole | predicted for pareto | measured, pareto | uniform | global |", "|---" * 7 + "|"]
    for budget in sorted({row["budget"] for row in rows}, reverse=True):
        for seed in sorted({row["seed"] for row in rows}):
            at = {row["method"]: row for row in rows if (row["budget"], row["seed"]) == (budget, seed)}
            best = at["pareto"]
            measured = " | ".join(f"{at[method]['loss']:.4f}" for method in ("pareto", "uniform", "global"))
            lines.append(f"| {budget} | {seed} | {best['whole']:.4f} | {best['predicted']:.4f} | {measured} |")
    return [*lines, ""]


def _times(speed: dict[str, Any]) -> list[str]:
    """The lines about how long `dg.pareto` takes."""
    lines = [
        "## Time",
        "",
        SPEED.format(**speed),
        "",
        "| budgets of | curves | budgets | allocations | seconds | CPU seconds |",
    ]
    lines.append("|---" * 6 + "|")
    for row in speed["rows"]:
        columns = ("case", "curves", "budgets", "found", "seconds", "CPU seconds")
        lines.append("| " + " | ".join(str(row[column]) for column in columns) + " |")
    return [*lines, ""]


SPEED = """\
`dg.pareto` on the graph of a Llama of {layers} layers and {params:,} parameters on the meta device, with made-up losses at 15
widths of each feed-forward and 7 numbers of key-value heads; every result is exact. Written by `tox run -e pareto`."""


def _seconds(subject: dict[str, Any]) -> str:
    return "Seconds for one table: " + ", ".join(map(str, subject["seconds of a table"])) + "."


def _summary(rows: list[Row]) -> list[str]:
    """In how many cells pareto is better, and by how much the losses of single groups fall short of that of all."""
    words = [
        verdict(*(values([row for row in rows if (row["budget"], row["method"]) == (budget, each)], "value") for each in pair))
        for budget in {row["budget"] for row in rows}
        for pair in (("pareto", method) for method in METHODS[:-1])
    ]
    best = [row for row in rows if row["predicted"] is not None]
    sums = [row["predicted"] - row["whole"] for row in best]
    together = [row["loss"] - row["whole"] for row in best]
    count = {word: words.count(word) for word in ("better", "level", "worse")}
    if min(sums) > 0:
        ratios = [loss / total for loss, total in zip(together, sums, strict=True)]
        told = (
            f"What all cuts of an allocation lose together is {min(ratios):.1f} to {max(ratios):.1f} times the sum of what "
            "each loses alone: a table ranks allocations, it does not foretell losses."
        )
    else:
        told = (
            f"The sums of what each cut loses alone lie between {min(sums):.5f} and {max(sums):.5f}; "
            f"all cuts together lose {min(together):.5f} to {max(together):.5f}. So the table is mostly noise: likely because "
            "the calibration loss is near zero with any single cut; the distance to the whole model's outputs is not."
        )
    return [
        f"Of {len(words)} cells, a budget and another method each, `pareto` is better in {count['better']}, level in "
        f"{count['level']} and worse in {count['worse']}. {told}",
    ]


def _table(rows: list[Row], field: str) -> list[str]:
    lines = ["| MACs asked | method | MACs that remain | value | pareto beside it |", "|---" * 5 + "|"]
    for budget in sorted({row["budget"] for row in rows}, reverse=True):
        at = {method: [row for row in rows if (row["budget"], row["method"]) == (budget, method)] for method in METHODS}
        best = values(at["pareto"], field)
        for method, held in at.items():
            macs = sum(values(held, "macs")) / len(held)
            word = "" if method == "pareto" else verdict(best, values(held, field))
            lines.append(f"| {budget} | {method} | {macs:.3f} | {shown(values(held, field))} | {word} |")
    return [*lines, ""]


def main() -> None:
    """Measure, then write the numbers and the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=list(BUDGETS), help="one network; the other's numbers are kept")
    parser.add_argument("--page", action="store_true", help="write the page from the numbers of an earlier run")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    found: dict[str, Any] = json.loads(STORE.read_text()) if STORE.exists() else {}
    if not options.page:
        start = time.perf_counter()

        def say(line: str) -> None:
            print(f"{time.perf_counter() - start:6.0f} s  {line}", flush=True)

        for kind in (Digits, MiniLM):
            if options.only in (None, kind.name):
                found[kind.name] = measure(kind(False), say)
        found["versions"] = {
            "Python": platform.python_version(),
            **{name: version(name) for name in ("torch", "scipy", "transformers", "scikit-learn")},
        }
        STORE.write_text(json.dumps(found, indent=1) + "\n")
    speed = DOCS / "benchmarks" / "pareto.json"
    PAGE.write_text(page(found, json.loads(speed.read_text()) if speed.exists() else None))


if __name__ == "__main__":
    main()
