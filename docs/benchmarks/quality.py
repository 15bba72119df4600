"""What is left of a network's quality, beside Torch-Pruning at equal MACs; writes docs/quality.md, its numbers and its plots.

Run it with ``tox run -e quality``, or ``python docs/benchmarks/quality.py``; with ``--quick`` on a small grid,
with ``--only digits`` or
``--only minilm`` on one network, with ``--only repair`` on what `dg.refit` brings back, with ``--page`` to write the page anew
from the numbers.

For each criterion and ratio Torch-Pruning prunes first. depgraph is then given the MACs that are left as its budget, so it
never has more. Both are judged, fine-tuned in the same way from the same seeds, and judged again.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
DOCS = Path(__file__).resolve().parents[1]
sys.path += [str(DOCS.parent), str(DOCS / "examples")]

import torch  # noqa: E402
from attrs import evolve  # noqa: E402
from torch import nn  # noqa: E402

import depgraph as dg  # noqa: E402
from quality_page import write_page  # noqa: E402
from quality_repair import measure_repair  # noqa: E402
from quality_subjects import Digits, MiniLM, copied  # noqa: E402

Subject = Digits | MiniLM
Row = dict[str, Any]
LAYERS = {dg.OpType.CONV, dg.OpType.LINEAR}

OURS: dict[str, Callable[[Subject, int], Any]] = {
    "Magnitude L2": lambda subject, seed: dg.Magnitude(p=2),
    "Magnitude L1": lambda subject, seed: dg.Magnitude(p=1),
    "BNScale": lambda subject, seed: dg.criteria.BNScale(),
    "FPGM": lambda subject, seed: dg.criteria.FPGM(),
    "Taylor": lambda subject, seed: dg.criteria.Taylor(*_batches(subject, seed)),
    "Hessian": lambda subject, seed: dg.criteria.Hessian(*_batches(subject, seed)),
    "Activation": lambda subject, seed: dg.criteria.Activation(_batches(subject, seed)[0], forward=subject.forward),
    "Random": lambda subject, seed: dg.criteria.Random(seed),
}
MATCHED: dict[str, dict[str, Callable[[Subject, int], Any]]] = {
    "digits": {
        "FPGM": lambda subject, seed: dg.criteria.FPGM(p=2),
        "Taylor": lambda subject, seed: dg.criteria.Taylor(*_batches(subject, seed), types=LAYERS),
        "Hessian": lambda subject, seed: dg.criteria.Hessian(*_batches(subject, seed), normaliser="mean"),
    },
    "minilm": {
        "Magnitude L2": lambda subject, seed: dg.Magnitude(p=2, normaliser="none"),
        "Magnitude L1": lambda subject, seed: dg.Magnitude(p=1, normaliser="none"),
        "FPGM": lambda subject, seed: dg.criteria.FPGM(p=2, normaliser="none"),
        "Taylor": lambda subject, seed: dg.criteria.Taylor(*_batches(subject, seed), normaliser="none"),
        "Hessian": lambda subject, seed: dg.criteria.Hessian(*_batches(subject, seed), normaliser="none"),
    },
}
"""Where the defaults differ in a way that counts: ours with the options that Torch-Pruning's have."""

THEIRS = {
    "Magnitude L2": ("GroupMagnitudeImportance", {"p": 2}),
    "Magnitude L1": ("GroupMagnitudeImportance", {"p": 1}),
    "BNScale": ("BNScaleImportance", {}),
    "FPGM": ("FPGMImportance", {}),
    "Taylor": ("GroupTaylorImportance", {}),
    "Hessian": ("GroupHessianImportance", {}),
    "Activation": ("ActivationImportance", {}),
    "Random": ("RandomImportance", {}),
}


def _batches(subject: Subject, seed: int) -> tuple[list[Any], Any]:
    batch, loss = subject.calibration(seed)
    return [batch], loss


def peer_pruned(subject: Subject, criterion: str, setting: str, ratio: float, seed: int) -> nn.Module:
    """A copy of the network as Torch-Pruning leaves it. Its default dicts are shared between pruners, so new ones are given."""
    import torch_pruning as tp

    model = copied(subject.model(seed)).eval()
    kind, options = THEIRS[criterion]
    importance = getattr(tp.importance, kind)(**options)
    groups: dict[str, Any] = {"in_channel_groups": {}, "out_channel_groups": {}, "num_heads": {}}
    example = subject.example if isinstance(subject, MiniLM) else subject.example["x"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        told = groups | subject.peer(model, setting, ratio)
        pruner = tp.pruner.BasePruner(model, example, importance=importance, pruning_ratio=ratio, **told)
        _calibrate(subject, model, importance, criterion, seed)
        torch.manual_seed(seed)
        pruner.step()
    subject.set_by_hand(model, pruner)
    model.zero_grad()
    return model


def _calibrate(subject: Subject, model: nn.Module, importance: Any, criterion: str, seed: int) -> None:
    """What the docstrings of its data-driven criteria ask for."""
    batch, loss = subject.calibration(seed)
    if criterion == "Taylor":
        loss(model, batch).mean().backward()
    elif criterion == "Hessian":
        importance.zero_grad()
        for each in loss(model, batch):
            model.zero_grad()
            each.backward(retain_graph=True)
            importance.accumulate_grad(model)
    elif criterion == "Activation":
        with importance.compute_importance(model), torch.no_grad():
            subject.forward(model, batch)


def counts(subject: Subject, model: nn.Module) -> tuple[int, int]:
    """MACs on the example, and parameters."""
    graph = dg.trace(model, kwargs=subject.example)
    return graph.macs, graph.params


def measure(subject: Subject, criteria: Sequence[str], quick: bool, say: Callable[[str], None]) -> dict[str, Any]:
    """These criteria at every ratio in every setting, by both libraries."""
    ratios = subject.ratios[2:3] if quick else subject.ratios
    rows: list[Row] = []
    before = {seed: subject.judge(subject.model(seed), (seed,))[0] for seed in subject.seeds}
    graphs = {seed: dg.trace(subject.model(seed), kwargs=subject.example) for seed in subject.seeds}
    for criterion in (name for name in subject.criteria if name in criteria):
        for seeds in subject.seeds_together(criterion):
            seed, graph = seeds[0], graphs[seeds[0]]
            ours = OURS[criterion](subject, seed)
            scores, tables = dg.score(graph, subject.model(seed), ours), None
            if any(options.get("ragged") for _, options in subject.best) and hasattr(ours, "ragged"):
                tables = dg.score(graph, subject.model(seed), evolve(ours, ragged=True))
            matched = MATCHED[subject.name].get(criterion)
            alike = None
            if matched is not None:
                alike = subject.joined(graph, dg.score(graph, subject.model(seed), matched(subject, seed)))
            for ratio in ratios:

                def note(library: str, setting: str, model: nn.Module, ratio: float = ratio) -> int:
                    macs, params = counts(subject, model)
                    found = subject.judge(model, seeds)  # noqa: B023 - called before the next turn
                    tuned: list[float | None] = [None] * len(found)
                    if subject.is_tuned(criterion, setting, ratio):  # noqa: B023
                        subject.tune(model, seeds[0])  # noqa: B023
                        tuned = [*subject.judge(model, seeds)]  # noqa: B023
                    for each, value, after in zip(seeds, found, tuned, strict=True):  # noqa: B023
                        rows.append(
                            {"library": library, "setting": setting, "criterion": criterion, "ratio": ratio, "seed": each,  # noqa: B023
                             "macs": macs, "params": params, "value": value, "tuned": after}
                        )  # fmt: skip
                    return macs

                limits = {}
                for setting in subject.settings:
                    peer = peer_pruned(subject, criterion, setting, ratio, seed)
                    limits[setting] = note("theirs", setting, peer)
                    for library, held in (("ours", scores), ("matched", alike)):
                        if held is not None:
                            model = ours_pruned(subject, seed, graph, held, limits[setting], subject.ours(setting))
                            note(library, setting, model)
                for setting, options in subject.best if criterion != "Random" else ():
                    limit = limits[subject.settings[0]]
                    ranked = tables if options.get("ragged") else scores
                    told = {name: value for name, value in options.items() if name != "ragged"}
                    if ranked is not None:
                        note("ours", setting, ours_pruned(subject, seed, graph, ranked, limit, told))
            say(f"{subject.name}: {criterion}, seeds {seeds}")
    graph = graphs[subject.seeds[0]]
    return {"macs": graph.macs, "params": graph.params, "before": list(before.values()), "rows": rows}


def ours_pruned(
    subject: Subject, seed: int, graph: dg.Graph, scores: dict[str, Any], limit: int, options: dict[str, Any]
) -> nn.Module:
    """The network as depgraph leaves it within a limit of MACs. Groups that the criterion does not rank are left."""
    unranked = [group.name for group in graph.groups if group.name not in scores]
    plan = dg.plan(graph, scores, macs=limit, ignore=unranked, **options)
    return dg.execute(plan, copied(subject.model(seed)).eval())


def main() -> None:
    """Measure, then write the numbers, the plots and the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small grid on little data: to see that it runs")
    parser.add_argument("--only", choices=["digits", "minilm", "repair"], help="one part")
    parser.add_argument("--page", action="store_true", help="write the page from the numbers of an earlier run")
    parser.add_argument("--criteria", nargs="+", choices=list(OURS), help="only these; the others' numbers are kept")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument("--out", type=Path, default=DOCS, help="folder of the page; the numbers go to benchmarks/ in it")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    store = options.out / "benchmarks" / "quality.json"
    store.parent.mkdir(parents=True, exist_ok=True)
    if not options.page:
        start = time.perf_counter()

        def say(line: str) -> None:
            print(f"{time.perf_counter() - start:6.0f} s  {line}", flush=True)

        earlier = json.loads(store.read_text()) if (options.only or options.criteria) and store.exists() else {}
        found: dict[str, Any] = dict(earlier)
        for kind in (Digits, MiniLM):
            if options.only in (None, kind.name):
                criteria = options.criteria or kind.criteria
                kept = [row for row in earlier.get(kind.name, {}).get("rows", ()) if row["criterion"] not in criteria]
                found[kind.name] = measure(kind(options.quick), criteria, options.quick, say)
                found[kind.name]["rows"] = sorted(
                    [*kept, *found[kind.name]["rows"]],
                    key=lambda row: kind.criteria.index(row["criterion"]),
                )
        if options.only == "repair" or not (options.only or options.criteria):
            found["repair"] = measure_repair(Digits(options.quick), MiniLM(options.quick), peer_pruned, options.quick, say)
        found["quick"] = options.quick
        found["versions"] = {
            "Python": platform.python_version(),
            **{name: version(name) for name in ("torch", "transformers", "torch-pruning", "scikit-learn")},
        }
        store.write_text(_readable(found))
    write_page(json.loads(store.read_text()), options.out)


def _readable(found: dict[str, Any]) -> str:
    """JSON with one line for each row."""
    parts = []
    for name, value in found.items():
        if isinstance(value, dict) and "rows" in value:
            rows = ",\n   ".join(json.dumps(row) for row in value["rows"])
            rest = {key: held for key, held in value.items() if key != "rows"}
            parts.append(f'"{name}": {json.dumps(rest)[:-1]}, "rows": [\n   {rows}]}}')
        else:
            parts.append(f"{json.dumps(name)}: {json.dumps(value)}")
    return "{" + ",\n ".join(parts) + "}\n"


if __name__ == "__main__":
    main()
