"""Damaged files of plans and graphs against the law of files, random programs against theirs. Writes docs/fuzz.md and its data.

Run it with ``tox run -e fuzz``. A seed and a number say what is drawn; a document or program that breaks its law stops the
run, and is shown. The default suite judges some hundred of each by the same laws (tests/laws/test_hostile_files.py and
test_programs.py).
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
PROGRAMS_CHUNK = 200
"""The same for programs."""
DATA, PAGE = ROOT / "docs/benchmarks/fuzz.json", ROOT / "docs/fuzz.md"
PLAN, OLD_PLAN, GRAPH = "plan", "plan of version 1", "graph"
CHUNK = 2000
"""So many documents come from one seed: what Hypothesis remembers of a run grows with it."""

INTRODUCTION = """# Hostile files and random programs

Written by `tox run -e fuzz`, never by hand.

## Hostile files

Valid documents of plans and graphs are damaged as someone would who knows the
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

PROGRAMS = """## Random programs

A program is a module of a few steps of {operators} operators, drawn as source text (`depgraph.testing.programs`). Each integer
that it hands to an operator is a literal, or is computed from the size of a value, an attribute of the module or one of
torch's layers, by {forms} expressions (`int(n * 0.5)`, `-(-n // 2)`, `math.gcd(n, 4)`, ...). Steps compare sizes, loop over
them, use them as keys, and lead results out of forward by other ways than its output. `assert_program_lawful` prunes each
group down to its lower bound, all of them, and a random part: outputs keep shapes and values, the trace of the smaller module
is the graph that the plan promised, and layers count what they have. With a fix taken out some of 400 programs breaks this:
the tests hold {controls} such negative controls.
"""


def run_programs(count: int, first: int, minutes: float) -> dict[str, Any]:
    """Judge so many programs, or fewer where they take longer, and tell how they fared."""
    from hypothesis import HealthCheck, Phase, given, seed, settings

    from depgraph.testing import assert_program_lawful, programs
    from depgraph.testing.random_programs import Program

    start, judged, pruned, plans, used = time.perf_counter(), 0, 0, 0, set()

    def one(program: Program) -> None:
        nonlocal judged, pruned, plans
        try:
            tried = assert_program_lawful(program.module(), program.example_inputs(), program.seed)
        except Exception as error:
            error.add_note(str(program))
            raise
        judged, pruned, plans = judged + 1, pruned + (tried > 0), plans + tried
        used.update(operator for operator, _ in program.steps)

    for number in range(first, first + -(-count // PROGRAMS_CHUNK)):
        options = settings(
            max_examples=min(PROGRAMS_CHUNK, count), deadline=None, database=None, phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        seed(number)(options(given(programs())(one)))()
        if time.perf_counter() - start > 60 * minutes:
            break
        print(f"{judged:,} programs, {plans:,} plans, {time.perf_counter() - start:.0f} s", flush=True)
    return {
        "programs": judged,
        "with groups": pruned,
        "plans": plans,
        "operators": len(used),
        "seeds": [first, number],
        "seconds": round(time.perf_counter() - start),
    }


def run(kind: str, count: int, first: int, minutes: float) -> dict[str, Any]:
    """Judge so many documents of a kind, or fewer where they take longer, and tell how they fared."""
    from hypothesis import HealthCheck, Phase, given, seed, settings

    from tests import hostile

    judges = {PLAN: hostile.judge_plan, OLD_PLAN: hostile.judge_old_plan, GRAPH: hostile.judge_graph}
    seeds = {PLAN: hostile.seeds, OLD_PLAN: hostile.old_seeds, GRAPH: hostile.graph_seeds}
    judge: Callable[[Any, Any], None] = judges[kind]
    contents, tally = seeds[kind](), hostile.Tally()
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
    kinds = (PLAN, OLD_PLAN, GRAPH)
    rows = ["| | plans | plans of version 1 | graphs |", "|---|--:|--:|--:|"]
    names = ("refused at load", "refused by execution", "executed", "loaded", "groups refused by a plan")
    titles = {"loaded": "graph loaded", "groups refused by a plan": "groups refused"}
    columns = [data[kind] for kind in kinds]
    rows.append("| documents | " + " | ".join(f"{item['documents']:,}" for item in columns) + " |")
    for name in names:
        counts = [item["outcomes"].get(name) for item in columns]
        rows.append(
            f"| {titles.get(name, name)} | " + " | ".join("" if count is None else f"{count:,}" for count in counts) + " |"
        )
    rows.append("| longest message, characters | " + " | ".join(f"{item['longest message']:,}" for item in columns) + " |")
    rows.append("| slowest document, seconds | " + " | ".join(f"{item['slowest']}" for item in columns) + " |")
    note = (
        "A document that breaks the law ends the run without a page. *Groups refused*: of a loaded graph's first three\n"
        "groups, those of which no plan can take an index."
    )
    seeds = ", ".join(f"{kind}: seeds {data[kind]['seeds'][0]} to {data[kind]['seeds'][1]}" for kind in kinds)
    files = f"{INTRODUCTION}\n" + "\n".join(rows) + f"\n\n{note}\n{seeds[0].upper()}{seeds[1:]}; {CHUNK:,} documents each.\n"
    return f"{files}\n{programs_part(data['programs'])}" if "programs" in data else files


def programs_part(found: dict[str, Any]) -> str:
    """What the page says of random programs."""
    from depgraph.testing.program_steps import _FORMS, OPERATORS
    from tests.laws.test_programs import TAKEN_OUT

    said = PROGRAMS.format(operators=len(OPERATORS), forms=len(_FORMS), controls=len(TAKEN_OUT))
    rows = ["| | |", "|---|--:|"]
    titles = ("programs", "of which something can be pruned", "plans executed", "operators met")
    for title, name in zip(titles, ("programs", "with groups", "plans", "operators"), strict=True):
        rows.append(f"| {title} | {found[name]:,} |")
    first, last = found["seeds"]
    note = (
        f"A program that breaks the law ends the run without a page. Seeds {first} to {last}, {PROGRAMS_CHUNK} programs each."
    )
    return f"{said}\n" + "\n".join(rows) + f"\n\n{note}\n"


def main() -> None:
    """Run, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plans", type=int, default=100_000, help="documents of plans; 0 keeps what the data say of them")
    parser.add_argument("--old-plans", type=int, default=100_000, help="of plans in version 1 of their format, likewise")
    parser.add_argument("--graphs", type=int, default=100_000, help="documents of graphs, likewise")
    parser.add_argument("--programs", type=int, default=2_000, help="random programs, likewise")
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--minutes", type=float, default=600, help="no seed is begun after so many, for each kind")
    options = parser.parse_args()
    counts = {PLAN: options.plans, OLD_PLAN: options.old_plans, GRAPH: options.graphs, "programs": options.programs}
    for kind, count in counts.items():
        if count:
            parts = (options.seed, options.minutes)
            found = run_programs(count, *parts) if kind == "programs" else run(kind, count, *parts)
            data = json.loads(DATA.read_text()) if DATA.exists() else {}
            DATA.write_text(json.dumps({**data, kind: found}, indent=1, sort_keys=True) + "\n")
    data = json.loads(DATA.read_text())
    if data.keys() >= {PLAN, OLD_PLAN, GRAPH}:
        PAGE.write_text(page(data))


if __name__ == "__main__":
    main()
