"""Prune timm and transformers models without an annotation, and write what came of it to docs/zoo.md.

Run it with ``tox run -e zoo``. For each model: half of each inner group, and separately a quarter of the heads where heads can
be pruned; executed, run, and the square closed. Where heads, head dims or hidden widths cannot be pruned, the table has the
reason that `depgraph.explain` gives.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from attrs import frozen
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import depgraph as dg
from depgraph.spaces import atoms
from tests.zoo import language, plain, vision

INNER = ("channel", "head_dim")


@frozen
class Row:
    """One model's line in the table."""

    name: str
    seconds: float
    roles: Counter[str]
    inner: str
    heads: str
    reasons: str


def attempt(graph: dg.Graph, model: nn.Module, args: Any, kwargs: Any, ratio: dict[str, float]) -> str:
    """Prune by a ratio per role, run, and close the square: the fraction of the parameters that remains, or what went wrong."""
    try:
        plan = dg.plan(graph, dg.score(graph, model, dg.Random(0)), ratio=ratio)
    except dg.PlanError as error:
        return f"refused: {str(error).split(':')[0]}"
    small = dg.execute(plan, model)
    promised = plan.apply(graph)
    if dg.trace(small, args, kwargs) != promised:
        return "the square does not close"
    try:
        with torch.no_grad():
            small(*args, **kwargs)
    except Exception as error:  # noqa: BLE001 - a failing forward is a result of this table
        return f"forward fails: {type(error).__name__}"
    return f"{promised.params / graph.params:.2f}"


def row(name: str, model: nn.Module, args: Any, kwargs: Any) -> Row:
    """Measure one model."""
    start = time.perf_counter()
    graph = dg.trace(model, args, kwargs)
    roles = Counter(group.role for group in graph.groups)
    seconds = time.perf_counter() - start
    inner = {f"role:{role}": 0.5 for role in INNER if roles[role]}
    # one query head per key-value head is another branch of the forward code: leave two
    several = [group for group in graph.groups if group.role == "head" or (group.role == "kv_group" and group.size > 2)]
    heads = {group.name: max(0.25, 1 / group.size) for group in several}
    return Row(
        name,
        seconds,
        roles,
        attempt(graph, model, args, kwargs, inner) if inner else "-",
        attempt(graph, model, args, kwargs, heads) if heads else "-",
        pinned_reasons(graph),
    )


def measured(name: str, make: Any) -> Row:
    """The row of a model, or one that says what its tracing raised."""
    try:
        return row(name, *make())
    except Exception as error:  # noqa: BLE001 - a model that cannot be traced is a result of this table
        return Row(name, 0.0, Counter(), f"raises {type(error).__name__}", "-", str(error).split("\n")[0][:200])


def pinned_reasons(graph: dg.Graph) -> str:
    """The commonest reasons why axes of weights are pinned, leaving out kernels, inputs, outputs and vocabularies."""
    usual = ("kernel axis", "the model's", "vocabulary", "is not used in forward")
    found: Counter[str] = Counter()
    for tensor in graph.tensors:
        if tensor.kind == "parameter" and len(tensor.axes) > 1:
            for space in tensor.axes[:2]:
                for reason in {graph.reasons[atom] for atom in atoms(space) if atom in graph.reasons and atom.size > 3}:
                    if not any(words in reason for words in usual):
                        found[re.sub(r" \((aten\S+) in .* at ", r" (\1 at ", reason)] += 1
    return "; ".join(f"{reason} [{count}]" for reason, count in found.most_common(2)) or "-"


INTRODUCTION = """# Models of the zoos

Written by `tox run -e zoo`: torchvision's classification and segmentation models, a small model of each of timm's families, and
small configurations of transformers. Random weights, no annotation, no patched forward. The columns channel to conv group count
groups by role. *Inner halved*: half of every group of role channel or head dim goes. *Quarter of heads*: a quarter of every
group of role head or KV group goes, at least one (`refused` where that cannot be). The number is the fraction of the parameters
that remains; it stands only where the pruned model ran and the square closed. Last column: why weights are pinned, beside
kernels, inputs, outputs and vocabularies, with the number of axes.
"""


def table(rows: list[Row]) -> list[str]:
    """A Markdown table."""
    head = [
        "model",
        "trace s",
        "channel",
        "head dim",
        "head",
        "KV group",
        "conv group",
        "inner halved",
        "quarter of heads",
        "pinned weights: why",
    ]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for item in rows:
        counts = [str(item.roles[role] or "-") for role in ("channel", "head_dim", "head", "kv_group", "conv_group")]
        cells = [item.name, f"{item.seconds:.2f}", *counts, item.inner, item.heads, item.reasons]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def main() -> None:
    """Write docs/zoo.md, or print what would be written for the models that are named."""
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("names", nargs="*", help="only these models, printed and not written")
    names = parser.parse_args().names
    sections = []
    zoos = (
        ("torchvision", vision.torchvision_models()),
        ("timm", vision.timm_models()),
        ("transformers", language.models()),
        ("plain", plain.models()),
    )
    for title, models in zoos:
        rows = []
        for name, make in models.items():
            if names and name not in names:
                continue
            torch.manual_seed(0)
            rows.append(measured(name, make))
            print(rows[-1].name, rows[-1].inner, rows[-1].heads, flush=True)
        sections += [f"## {title}", "", *table(rows), ""]
    text = [INTRODUCTION, *sections]
    if names:
        print("\n".join(sections))
    else:
        (Path(__file__).parent / "zoo.md").write_text("\n".join(text), encoding="utf-8")


if __name__ == "__main__":
    main()
