"""Damaged files of plans and graphs, each with a valid digest, against the law of files. Writes docs/fuzz.md and its data.

Run it with ``tox run -e fuzz``. A seed and a number of documents say what is drawn; a document that breaks the law stops the
run, and is shown. The default suite judges some hundred documents by the same law (tests/laws/test_hostile_files.py).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
DATA, PAGE = ROOT / "docs/benchmarks/fuzz.json", ROOT / "docs/fuzz.md"
CHUNK = 2000
"""So many documents come from one seed: what Hypothesis remembers of a run grows with it."""

INTRODUCTION = """# Hostile files

Written by `tox run -e fuzz`, never by hand. Valid documents of plans and graphs are damaged as someone would who knows the
format: nodes of the JSON tree are replaced, deleted, doubled, inserted and moved; numbers become extremes, texts become paths
that lead out of the model; groups lose other indices, axes name other tensors, edits name other attributes. Then the digest is
computed anew. Each document must be refused, or do nothing but slice and count:

- *Refused at load*: a `DocumentError` of less than 4,000 characters.
- *Refused by execution*: a `MismatchError` of less than 10,000 characters, by `execute`, `execute_`, `mask`, `mask_` and
  `carry_state` alike, and the model is as it was, element for element.
- *Executed*: every parameter and buffer is the old one without some indices, in the old order; every integer that changed was
  an integer and is now between 1 and the old one; nothing else differs. The given model is untouched, and `execute_` comes to
  the same.
- *Graph loaded*: it saves and loads as the same value, and plans that are made on it obey all of the above, or are refused.

Whatever happens, globals, classes, functions and settings that paths could reach are as before, and no document takes ten
seconds. With the checks taken out the same documents break the law at once: the tests hold these negative controls.
"""


def run(kind: str, count: int, first: int, minutes: float) -> dict[str, Any]:
    """Judge so many documents of a kind, or fewer where they take longer, and tell how they fared."""
    from hypothesis import HealthCheck, Phase, given, seed, settings

    from tests import hostile

    judge: Callable[[Any, Any], None] = hostile.judge_plan if kind == "plan" else hostile.judge_graph
    contents, tally = hostile.seeds() if kind == "plan" else hostile.graph_seeds(), hostile.Tally()
    start, judged = time.perf_counter(), 0

    def one(content: Any) -> None:
        nonlocal judged
        judge(content, tally)
        judged += 1

    for number in range(first, first + -(-count // CHUNK)):
        options = settings(
            max_examples=min(CHUNK, count), deadline=None, database=None, phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        seed(number)(options(given(hostile.documents(contents))(one)))()
        if time.perf_counter() - start > 60 * minutes:
            break
        print(f"{kind}: {judged:,} documents, {time.perf_counter() - start:.0f} s, {dict(tally.outcomes)}", flush=True)
    return {
        "documents": judged,
        "seeds": [first, number],
        "outcomes": dict(sorted(tally.outcomes.items())),
        "longest message": tally.longest,
        "slowest": round(tally.slowest, 2),
        "seconds": round(time.perf_counter() - start),
    }


def page(data: dict[str, Any]) -> str:
    """The whole page."""
    rows = ["| | plans | graphs |", "|---|--:|--:|"]
    names = ("refused at load", "refused by execution", "executed", "loaded", "groups refused by a plan")
    titles = {"loaded": "graph loaded", "groups refused by a plan": "groups refused"}
    both = [data[kind] for kind in ("plan", "graph")]
    rows.append("| documents | " + " | ".join(f"{item['documents']:,}" for item in both) + " |")
    for name in names:
        counts = [item["outcomes"].get(name) for item in both]
        rows.append(
            f"| {titles.get(name, name)} | " + " | ".join("" if count is None else f"{count:,}" for count in counts) + " |"
        )
    rows.append("| longest message, characters | " + " | ".join(f"{item['longest message']:,}" for item in both) + " |")
    rows.append("| slowest document, seconds | " + " | ".join(f"{item['slowest']}" for item in both) + " |")
    note = (
        "A document that breaks the law ends the run without a page. *Groups refused*: of a loaded graph's first three\n"
        "groups, those of which no plan can take an index."
    )
    seeds = ", ".join(f"{kind}s: seeds {data[kind]['seeds'][0]} to {data[kind]['seeds'][1]}" for kind in ("plan", "graph"))
    return f"{INTRODUCTION}\n" + "\n".join(rows) + f"\n\n{note} {seeds[0].upper()}{seeds[1:]}, {CHUNK:,} documents each.\n"


def main() -> None:
    """Run, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plans", type=int, default=100_000, help="documents of plans; 0 keeps what the data say of them")
    parser.add_argument("--graphs", type=int, default=100_000, help="documents of graphs, likewise")
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--minutes", type=float, default=600, help="no seed is begun after so many, for each kind")
    options = parser.parse_args()
    for kind, count in (("plan", options.plans), ("graph", options.graphs)):
        if count:
            found = run(kind, count, options.seed, options.minutes)
            data = json.loads(DATA.read_text()) if DATA.exists() else {}
            DATA.write_text(json.dumps({**data, kind: found}, indent=1, sort_keys=True) + "\n")
    data = json.loads(DATA.read_text())
    if data.keys() == {"plan", "graph"}:
        PAGE.write_text(page(data))


if __name__ == "__main__":
    main()
