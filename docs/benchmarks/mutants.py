"""Mutations of the package: how many of them the tests nearest to them notice. Writes docs/mutants.md and its data.

Run it with ``tox run -e mutants``. Cosmic Ray makes the mutations. All of them would take hours, so a seed draws some places
of each module and one mutation of each; ``--each`` says how many. Each is tested in a copy of the tree, in a forked process
that has torch loaded already.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
DATA, REASONS, PAGE = ROOT / "docs/benchmarks/mutants.json", ROOT / "docs/benchmarks/survivors.json", ROOT / "docs/mutants.md"

BAD, SQUARES, RAGGED = "tests/test_bad_input.py", "tests/laws/test_models.py", "tests/laws/test_ragged.py"
WRITING = [
    "depgraph/execution",
    "tests/execution/test_execution.py",
    "tests/execution/test_copies.py",
    "tests/execution/test_copied_content.py",
]
SHORT = "-k=not law_1_ and not law_2_ and not law_9_"
"""Without the laws of tracing and of groups, which take longest; the laws from 10 on stay."""

NEAREST = {
    "algebra": [
        "depgraph/algebra",
        "tests/laws/test_indices.py",
        "tests/laws/test_spaces.py",
        "tests/laws/test_polynomials.py",
        "tests/laws/test_partitions.py",
    ],
    "algebra/ragged_sets": ["depgraph/algebra", RAGGED, "tests/graph/test_ragged.py", "-k=not transformers"],
    "codec": ["depgraph/codec.py", "tests/test_codec.py", BAD, SQUARES, "tests/choosing/test_choosing.py", SHORT],
    "plans": [
        "depgraph/plans",
        BAD,
        SQUARES,
        RAGGED,
        "tests/plans",
        "tests/solving/test_bounds.py",
        SHORT,
    ],
    "solving": [
        "depgraph/solving",
        "tests/solving",
        "tests/laws/test_solver.py",
        "tests/laws/test_bounds.py",
        "tests/models/test_language_blocks.py",
        "tests/models/test_faults.py",
        SQUARES,
        SHORT,
    ],
    "execution": [*WRITING, "tests/execution/test_recurrent.py", "tests/execution/test_hostile.py", BAD],
    "execution/masking": ["depgraph/execution/masking.py", "tests/execution/test_masking.py", "tests/laws/test_masking.py"],
    "execution/optimizers": [
        "depgraph/execution/optimizers.py",
        "tests/execution/test_optimizers.py",
        "tests/execution/test_hostile.py",
        "tests/laws/test_schedules.py",
    ],
}
"""Module or folder to the tests that should notice a mutation of it. `tests/execution/test_interrupted.py` takes minutes."""

IGNORED = {"VariableReplacer", "VariableInserter", "ExceptionReplacer"}
"""Operators that are left out: two of them need names to be given, the third replaces by a class that is nowhere defined."""


def nearest(module: str) -> list[str]:
    """The tests of a module, or else of its folder."""
    return NEAREST.get(module) or NEAREST[module.partition("/")[0]]


def without_effect(source: str) -> set[tuple[int, int]]:
    """Places (line, column) where a mutation changes no behaviour: annotations, aliases of types and the sizes of caches."""
    places: set[tuple[int, int]] = set()
    for node in ast.walk(ast.parse(source)):
        parts = [getattr(node, "annotation", None), getattr(node, "returns", None)]
        if isinstance(node, ast.FunctionDef):
            parts += [item for item in node.decorator_list if "cache" in ast.unparse(item)]
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.BinOp) and isinstance(node.value.op, ast.BitOr):
            parts += [node.value] if isinstance(node.targets[0], ast.Name) and node.targets[0].id[:1].isupper() else []
        for part in filter(None, parts):
            start, stop = (part.lineno, part.col_offset - 1), (part.end_lineno or 0, part.end_col_offset or 0)
            lines = range(start[0], stop[0] + 1)
            places |= {(line, column) for line in lines for column in range(200) if start <= (line, column) < stop}
    return places


def mutations(path: Path) -> Iterator[tuple[tuple[int, int], str, int]]:
    """Place, operator and occurrence of each mutation of a file."""
    from cosmic_ray import plugins
    from cosmic_ray.ast import ast_nodes, get_ast_from_path

    tree, skipped = get_ast_from_path(path), without_effect(path.read_text())
    for name in plugins.operator_names():
        if name.partition("/")[2] in IGNORED:
            continue
        operator, occurrence = plugins.get_operator(name)(), 0
        for node in ast_nodes(tree):
            for start, _ in operator.mutation_positions(node):
                if tuple(start) not in skipped:
                    yield tuple(start), name, occurrence
                occurrence += 1


def drawn(path: Path, each: int, chance: random.Random) -> list[tuple[tuple[int, int], str, int]]:
    """Some places of a file, and one mutation of each."""
    by_place = defaultdict(list)
    for mutation in mutations(path):
        by_place[mutation[0]].append(mutation)
    places = sorted(by_place)
    return [chance.choice(by_place[place]) for place in sorted(chance.sample(places, min(each, len(places))))]


def passes(tests: list[str], limit: float) -> bool:
    """Whether the tests pass in a process of their own within so many seconds."""
    child = os.fork()
    if not child:
        os.setsid()
        with open(os.devnull, "w") as nothing:
            os.dup2(nothing.fileno(), 1)
            os.dup2(nothing.fileno(), 2)
        import pytest

        code = 1
        try:
            code = pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-W=ignore::pytest.PytestAssertRewriteWarning", *tests])
        finally:
            os._exit(int(code))
    end = time.monotonic() + limit
    while time.monotonic() < end:
        finished, status = os.waitpid(child, os.WNOHANG)
        if finished:
            return os.waitstatus_to_exitcode(status) == 0
        time.sleep(0.02)
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def lines_changed(before: str, after: str) -> str:
    """The first line that differs, before and after."""
    pairs = zip([*before.splitlines(), ""], [*after.splitlines(), ""], strict=False)
    old, new = next((old.strip(), new.strip()) for old, new in pairs if old != new)
    return f"{old} -> {new}"


def run(module: str, each: int, seed: int) -> dict[str, Any]:
    """Mutate one module of the tree in the working directory, and list what survives."""
    from cosmic_ray import plugins
    from cosmic_ray.mutating import use_mutation

    path, tests = Path("depgraph", f"{module}.py"), nearest(module)
    start = time.monotonic()
    assert passes(tests, 600), f"the tests of {module} fail before any mutation: {' '.join(tests)}"
    limit = 5 + 4 * (time.monotonic() - start)
    chosen = drawn(path, each, random.Random(f"{seed} {module}"))
    survivors = []
    for _, name, occurrence in chosen:
        with use_mutation(path, plugins.get_operator(name)(), occurrence) as (before, after):
            if passes(tests, limit):
                survivors.append(lines_changed(before, after))
                print(f"  {module}: {survivors[-1]}", flush=True)
    print(f"{module}: {len(chosen) - len(survivors)} of {len(chosen)} killed", flush=True)
    return {"mutants": len(chosen), "seed": seed, "survivors": survivors}


def page(results: dict[str, Any], reasons: dict[str, dict[str, str]]) -> str:
    """The table, and every survivor with its reason."""
    lines = [
        "# Mutants", "",
        "How many mutations of the package do the tests nearest to them notice? Written by `tox run -e mutants`; Cosmic",
        "Ray makes the mutations (another operator, comparison, number or truth value, a loop without a round, a decorator",
        "removed). A seed draws places of each module, and one mutation of each. Annotations and the sizes of caches are left",
        "out; a test run that hangs counts as a mutation noticed. *Equal* are survivors of which the list below says why they",
        "compute the same or differ in nothing that is promised; the score leaves them out. Modules not listed were not run.",
        "",
        "| module | mutants | killed | equal | open | score |", "|---|--:|--:|--:|--:|--:|",
    ]  # fmt: skip
    listed, total = [], [0, 0, 0, 0]
    for module, result in sorted(results.items()):
        known = reasons.get(module, {})
        equal = [text for text in result["survivors"] if text in known]
        missed = [text for text in result["survivors"] if text not in known]
        counts = [result["mutants"], result["mutants"] - len(equal) - len(missed), len(equal), len(missed)]
        total = [a + b for a, b in zip(total, counts, strict=True)]
        lines.append(row(module, counts))
        listed += [f"- {module}: {shown(text)}. {known[text]}" for text in equal]
        listed += [f"- {module}: {shown(text)}. **Open.**" for text in missed]
    return "\n".join([*lines, row("all", total), "", "## Survivors", "", *listed, ""])


def row(module: str, counts: list[int]) -> str:
    """A line of the table."""
    mutants, killed, equal, missed = counts
    score = f"{killed / (mutants - equal):.0%}" if mutants > equal else ""
    return f"| {module} | {mutants} | {killed} | {equal} | {missed} | {score} |"


def shown(text: str) -> str:
    """A mutation as code."""
    old, new = re.split(r" -> (?!.* -> )", text, maxsplit=1) if text.count(" -> ") == 1 else (text, "")
    return f"``{old}`` becomes ``{new}``" if new else f"``{old}``"


def main() -> None:
    """Mutate, test, write the data and the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("modules", nargs="*", help="rooms or modules, such as algebra or plans/plan; all of them by default")
    parser.add_argument("--each", type=int, default=20, help="mutants of each module")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--page", action="store_true", help="write the page from the data of an earlier run")
    options = parser.parse_args()
    results = json.loads(DATA.read_text()) if DATA.exists() else {}
    if not options.page:
        import hypothesis  # noqa: F401  (loaded once, before the forks)
        import torch

        torch.set_num_threads(1)
        sys.dont_write_bytecode = True
        files = sorted((*(ROOT / "depgraph").glob("*/*.py"), *(ROOT / "depgraph").glob("*.py")))
        modules = [str(file.relative_to(ROOT / "depgraph").with_suffix("")) for file in files if file.stat().st_size]
        modules = [module for module in modules if module.partition("/")[0] in NEAREST and "__init__" not in module]
        asked = options.modules or list(NEAREST)
        with tempfile.TemporaryDirectory() as folder:
            for name in ("depgraph", "tests"):
                shutil.copytree(ROOT / name, Path(folder, name), ignore=shutil.ignore_patterns("__pycache__"))
            for name in ("pyproject.toml", "README.md"):
                shutil.copy(ROOT / name, folder)
            os.chdir(folder)
            sys.path.insert(0, folder)
            for module in modules:
                if module in asked or module.partition("/")[0] in asked:
                    results[module] = run(module, options.each, options.seed)
                    DATA.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
            os.chdir(ROOT)
    PAGE.write_text(page(results, json.loads(REASONS.read_text())))


if __name__ == "__main__":
    main()
