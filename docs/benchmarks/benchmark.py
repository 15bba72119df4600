"""Times depgraph side by side with a plain forward and with Torch-Pruning, and writes docs/benchmarks.md.

Run it from the root of a clone: ``python docs/benchmarks/benchmark.py``; with ``--quick`` for few repetitions. Everything
runs in one process on one thread; what is compared runs in turns (A B A B ...), after one run of each that does not count.
Reported are medians of CPU time, so that others on the machine count less. A job that fails is shown with its exception.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from attrs import field, frozen
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, os.environ.get("DEPGRAPH_CHECKOUT", str(ROOT)))

import depgraph as dg  # noqa: E402
from depgraph.tracing import module_copy  # noqa: E402
from depgraph.tracing import trace as tracing  # noqa: E402
from depgraph.tracing.size_mode import SizeMode  # noqa: E402
from tests import zoo  # noqa: E402
from tests.zoo.vision import classifier  # noqa: E402

PAGE = ROOT / "docs" / "benchmarks.md"
RATIO = 0.5
TRACE_TARGET, JOB_TARGET, LEAST_TARGET, SECONDS_TARGET, MEMORY_TARGET = 1.5, 5.0, 2.0, 2.0, 2.0
SCORE_TARGET = 1.5
LONG = (1_000, 10_000)
MACS, MANY, PLAN_TARGET, BUDGET_TARGET = 0.5, 500, 0.1, 5.0
PROVENANCE_TARGET, SLOPE_TARGET, LENGTHS = 1.3, 1.1, (4, 8, 16, 32, 64)


@frozen
class Subject:
    """A model to time, with its example inputs.

    Attributes:
        name: what the tables call it.
        make: builds the model.
        args: positional example inputs.
        kwargs: keyword example inputs.
        head: dotted path of the classifier, which Torch-Pruning is told to leave.
        peer: further options for Torch-Pruning's pruner, as its examples set them for this kind of model.
        ready: what its examples change in the model before the pruner is made.
        repair: what its examples change in the model after the step.
        extra: shown, but left out of the targets.
    """

    name: str
    make: Callable[[], nn.Module]
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(factory=dict)
    head: str = "fc"
    peer: Callable[[nn.Module], dict[str, Any]] = lambda model: {}
    ready: Callable[[nn.Module], None] = lambda model: None
    repair: Callable[[nn.Module], None] = lambda model: None
    extra: bool = False


@frozen
class Timing:
    """The seconds of the runs of one job, or the type of the exception that ended it."""

    seconds: tuple[float, ...] = ()
    error: str = ""

    @property
    def median(self) -> float | None:
        """The median of the runs; None for a job that failed."""
        return None if self.error or not self.seconds else statistics.median(self.seconds)

    def __str__(self) -> str:
        return self.error or f"{self.median:.4f}"


@frozen
class Job:
    """Something to time: `prepare` makes what `run` takes, outside of the timed region."""

    prepare: Callable[[], Any]
    run: Callable[[Any], Any]


class Elsewhere(float):
    """The seconds of a run in another process, as that process counted them: what the run of a job returns then."""


@frozen
class TraceRow:
    """A trace beside two plain forwards on fake tensors."""

    name: str
    trace: Timing
    forward: Timing
    converted: Timing


@frozen
class JobRow:
    """The whole job, done by both libraries, and by an earlier version of this one."""

    name: str
    ours: Timing
    theirs: Timing
    earlier: Timing | None
    before: int
    ours_kept: str
    theirs_kept: str
    extra: bool


def alternate(jobs: Sequence[Job], runs: int) -> list[Timing]:
    """Time jobs in turns, after one run of each that does not count."""
    seconds: list[list[float]] = [[] for _ in jobs]
    errors = [""] * len(jobs)
    for turn in range(runs + 1):
        for position, job in enumerate(jobs):
            if errors[position]:
                continue
            try:
                prepared = job.prepare()
                gc.collect()
                start = time.process_time()
                result = job.run(prepared)
                taken = result if isinstance(result, Elsewhere) else time.process_time() - start
            except Exception as error:  # noqa: BLE001 - a failure is a result, and is shown
                errors[position] = type(error).__name__
                continue
            if turn:
                seconds[position].append(taken)
    return [Timing(tuple(each), error) for each, error in zip(seconds, errors, strict=True)]


def quotient(one: Timing, other: Timing) -> float | None:
    """How many times the other takes what the one takes; None where either failed."""
    return None if one.median is None or other.median is None else other.median / one.median


def vision(name: str, **options: Any) -> Subject:
    """A torchvision classifier on one image."""
    return Subject(name, lambda: classifier(name), args=(torch.randn(1, 3, 224, 224),), **options)


def torchvision_transformer() -> Subject:
    """The ViT of torchvision; its example rounds to the number of heads, and sets `hidden_dim` after the step."""

    def repair(model: Any) -> None:
        model.hidden_dim = model.conv_proj.out_channels

    return vision("vit_b_16", head="heads.head", peer=lambda model: {"round_to": 12}, repair=repair)


def timm_transformer() -> Subject:
    """The ViT of timm; the reference's example patches the forward of attention, names its heads, and sets their size after."""

    def make() -> nn.Module:
        zoo.torchvision()
        import timm

        return timm.create_model("vit_base_patch16_224", pretrained=False).eval()

    def attentions(model: nn.Module) -> list[Any]:
        return [module for module in model.modules() if type(module).__name__ == "Attention"]

    def forward(self: Any, x: torch.Tensor, **_: Any) -> torch.Tensor:
        batch, tokens, _channels = x.shape
        q, k, v = self.qkv(x).reshape(batch, tokens, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        x = nn.functional.scaled_dot_product_attention(self.q_norm(q), self.k_norm(k), v)
        return self.proj_drop(self.proj(x.transpose(1, 2).reshape(batch, tokens, -1)))

    def ready(model: nn.Module) -> None:
        for module in attentions(model):
            module.forward = forward.__get__(module)

    def repair(model: nn.Module) -> None:
        for module in attentions(model):
            module.head_dim = module.qkv.out_features // (3 * module.num_heads)

    def options(model: nn.Module) -> dict[str, Any]:
        return {"num_heads": {module.qkv: module.num_heads for module in attentions(model)}, "round_to": 2}

    image = (torch.randn(1, 3, 224, 224),)
    name = "vit_base_patch16_224 (timm)"
    return Subject(name, make, image, head="head", peer=options, ready=ready, repair=repair, extra=True)


def llama_config(**sizes: Any) -> Any:
    """A configuration of transformers' Llama that returns no cache: Torch-Pruning cannot walk one."""
    zoo.torchvision()
    import transformers

    transformers.logging.set_verbosity_error()
    return transformers.LlamaConfig(use_cache=False, **sizes)


def llama(layers: int = 16, width: int = 256, extra: bool = False) -> Subject:
    """A Llama of 16 layers; the reference's example removes whole heads, so as to leave the rotary embedding alone."""
    heads = max(8, width // 64)

    def make() -> nn.Module:
        import transformers

        torch.manual_seed(0)
        sizes = {"hidden_size": width, "num_attention_heads": heads, "intermediate_size": 2 * width, "vocab_size": 1000}
        config = llama_config(num_hidden_layers=layers, **sizes)
        return transformers.LlamaForCausalLM(config).eval()

    def options(model: nn.Module) -> dict[str, Any]:
        layers = [module for module in model.modules() if hasattr(module, "q_proj")]
        by_layer = {layer: heads for module in layers for layer in (module.q_proj, module.k_proj, module.v_proj)}
        by_heads = {"prune_num_heads": True, "prune_head_dims": False, "head_pruning_ratio": RATIO}
        return {"num_heads": by_layer, "round_to": 4, **by_heads}

    tokens = {"input_ids": torch.zeros(1, 8, dtype=torch.long)}
    return Subject(f"Llama, {layers} layers, width {width}", make, kwargs=tokens, head="lm_head", peer=options, extra=extra)


def convert(model: nn.Module, mode: FakeTensorMode) -> nn.Module:
    """A copy of a model whose parameters and buffers are fake tensors of one mode."""
    held = (*model.parameters(), *model.buffers())
    return copy.deepcopy(model, {id(tensor): mode.from_tensor(tensor) for tensor in held})


def time_trace(subject: Subject, runs: int) -> TraceRow:
    """Tracing, beside a plain forward under a new fake mode, and beside one on weights that are fake already."""
    model = subject.make()
    held_mode = FakeTensorMode(allow_non_fake_inputs=True)
    held = convert(model, held_mode)

    def forward(target: nn.Module, mode: FakeTensorMode) -> None:
        with torch.no_grad(), mode:
            target(*subject.args, **subject.kwargs)

    jobs = (
        Job(lambda: None, lambda _: dg.trace(model, subject.args, subject.kwargs)),
        Job(lambda: None, lambda _: forward(model, FakeTensorMode(allow_non_fake_inputs=True))),
        Job(lambda: None, lambda _: forward(held, held_mode)),
    )
    return TraceRow(subject.name, *alternate(jobs, runs))


@frozen
class CostRow:
    """A trace with and without the provenance of sizes."""

    name: str
    followed: Timing
    plain: Timing


class _Blind(SizeMode):
    """A function mode that gives no size a provenance."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


def time_provenance(subject: Subject, runs: int) -> CostRow:
    """What it costs that sizes remember where they came from."""
    model = subject.make()

    def blind(_: Any) -> None:
        plain = mock.patch.object(module_copy._AttributeCopies, "copy_of", lambda copies, content, path, depth=0: content)
        with plain, mock.patch.object(tracing, "SizeMode", _Blind):
            dg.trace(model, subject.args, subject.kwargs)

    return CostRow(
        subject.name,
        *alternate(
            (Job(lambda: None, lambda _: dg.trace(model, subject.args, subject.kwargs)), Job(lambda: None, blind)), runs
        ),
    )


class _Dense(nn.Module):
    """Four layers that each see all before them, and a transition back to the width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(width + 8 * k, 8, 3, padding=1) for k in range(4))
        self.transition = nn.Conv2d(width + 32, width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = [x]
        for layer in self.layers:
            found.append(torch.relu(layer(torch.cat(found, 1))))
        return self.transition(torch.cat(found, 1))


class _Residual(nn.Module):
    """Two convolutions around an addition."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)
        self.second = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x + self.second(torch.relu(self.norm(self.first(x)))))


def chain(kind: str, length: int) -> Subject:
    """A chain of blocks or layers."""
    if kind == "Llama layers":
        return llama(length)
    block = {"residual blocks": _Residual, "dense blocks": _Dense}[kind]

    def make() -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 16, 3), *(block(16) for _ in range(length)), nn.Conv2d(16, 4, 1)).eval()

    return Subject(kind, make, (torch.randn(1, 3, 16, 16),))


def time_chain(kind: str, runs: int) -> tuple[str, dict[int, Timing]]:
    """The time of a trace, all groups included, by the length of a chain."""

    def job(subject: Subject) -> Job:
        model = subject.make()
        return Job(lambda: None, lambda _: len(dg.trace(model, subject.args, subject.kwargs).groups))

    return kind, dict(zip(LENGTHS, alternate([job(chain(kind, length)) for length in LENGTHS], runs), strict=True))


def time_flat(runs: int) -> list[tuple[str, dict[int, Timing]]]:
    """Tracing a chain of many linear layers, its groups included, and planning it, by the number of layers."""
    rows: list[tuple[str, dict[int, Timing]]] = [("`dg.trace` and `groups`", {}), (f"`dg.plan`, `ratio={RATIO}`", {})]
    for length in LONG:
        with torch.device("meta"):
            model = nn.Sequential(*(layer for _ in range(length) for layer in (nn.Linear(8, 8), nn.ReLU())))
        x = torch.zeros(1, 8)
        graph = dg.trace(model, x)
        assert len(graph.groups) == length - 1
        scores = dg.score(graph, model, dg.criteria.Random(0))

        def traced(_: Any, model: nn.Module = model, x: torch.Tensor = x) -> int:
            return len(dg.trace(model, x).groups)

        def planned(_: Any, graph: dg.Graph = graph, scores: Any = scores) -> dg.Plan:
            return dg.plan(graph, scores, ratio=RATIO)

        timings = alternate([Job(lambda: None, traced), Job(lambda: None, planned)], runs)
        for (_, by_length), timing in zip(rows, timings, strict=True):
            by_length[length] = timing
    return rows


def time_plans(runs: int) -> list[tuple[str, Timing]]:
    """The time of a plan for a chain of many convolutions, scores given, by what is asked for."""
    width, layers = 64, [nn.Conv2d(3, 64, 3)]
    for _ in range(MANY - 1):
        layers += [nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1)]
    with torch.device("meta"):
        model = nn.Sequential(*layers, nn.ReLU(), nn.Conv2d(width, 4, 1))
    graph = dg.trace(model, torch.zeros(1, 3, 16, 16))
    assert len(graph.groups) == MANY
    graph.fingerprint, graph.macs, graph.params  # noqa: B018 - computed once for a graph, not for a plan
    scores = dg.score(graph, model, dg.criteria.Random(0))
    asked: dict[str, dict[str, Any]] = {
        f"`ratio={RATIO}`": {"ratio": RATIO},
        f"`macs={MACS}`": {"macs": MACS},
        f'`macs={MACS}, scope="global"`': {"macs": MACS, "scope": "global"},
        f'`macs={MACS}, params={MACS}, scope="isomorphic", round_to=8`': {
            "macs": MACS, "params": MACS, "scope": "isomorphic", "round_to": 8
        },
    }  # fmt: skip
    jobs = [Job(lambda: None, lambda _, options=options: dg.plan(graph, scores, **options)) for options in asked.values()]
    return list(zip(asked, alternate(jobs, runs), strict=True))


def prune(subject: Subject, model: nn.Module) -> nn.Module:
    """The whole job with depgraph."""
    graph = dg.trace(model, subject.args, subject.kwargs)
    plan = dg.plan(graph, dg.score(graph, model, dg.Magnitude(p=2)), ratio=RATIO)
    return dg.execute(plan, model)


def prune_with_peer(subject: Subject, model: nn.Module) -> nn.Module:
    """The whole job with Torch-Pruning. Its default dicts are shared between pruners, so new ones are given."""
    import torch_pruning as tp

    example = subject.args[0] if subject.args else next(iter(subject.kwargs.values()))
    options = {"in_channel_groups": {}, "out_channel_groups": {}, "num_heads": {}, **subject.peer(model)}
    pruner = tp.pruner.BasePruner(
        model,
        example,
        importance=tp.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=RATIO,
        ignored_layers=[model.get_submodule(subject.head)],
        **options,
    )
    pruner.step()
    subject.repair(model)
    return model


def outcome(subject: Subject, pruned: Callable[[], nn.Module]) -> str:
    """Parameters that remain, and whether the pruned model still runs."""
    try:
        small = pruned()
        count = f"{sum(parameter.numel() for parameter in small.parameters()):,}"
    except Exception as error:  # noqa: BLE001 - a failure is a result, and is shown
        return type(error).__name__
    try:
        with torch.no_grad():
            small(*subject.args, **subject.kwargs)
    except Exception as error:  # noqa: BLE001 - the same
        return f"{count}, its forward fails: {type(error).__name__}"
    return count


class Earlier:
    """The whole job with another checkout of depgraph, in a process of its own that takes its turn when asked."""

    def __init__(self, checkout: Path, position: int) -> None:
        command = [sys.executable, __file__, "--answer", str(position)]
        environment = {**os.environ, "DEPGRAPH_CHECKOUT": str(checkout.resolve())}
        self._process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, step: str) -> Elsewhere:
        """Let it prepare, or run, and wait until it has: how long that took."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(step, file=self._process.stdin, flush=True)
        return Elsewhere(self._process.stdout.readline())  # an empty line, where it failed, is no number

    def end(self) -> None:
        """Let the process end."""
        self._process.communicate()


def answer(subject: Subject) -> None:
    """What a process of `Earlier` does: the steps of the job, one for each line that it reads."""
    model = subject.make()
    made = model
    for step in sys.stdin:
        start = time.process_time()
        if step.strip() == "prepare":
            made = copy.deepcopy(model)
            gc.collect()
        else:
            prune(subject, made)
        print(time.process_time() - start, flush=True)


def time_job(subject: Subject, runs: int, earlier: Earlier | None = None) -> JobRow:
    """The whole job with both libraries, each on a fresh copy of the model that is made outside of the timed region."""
    model = subject.make()

    def fresh() -> nn.Module:
        return copy.deepcopy(model)

    def fresh_for_peer() -> nn.Module:
        made = fresh()
        subject.ready(made)
        return made

    jobs: tuple[Job, ...] = (
        Job(fresh, lambda made: prune(subject, made)),
        Job(fresh_for_peer, lambda made: prune_with_peer(subject, made)),
    )
    if earlier is not None:
        jobs = (*jobs, Job(lambda: earlier.ask("prepare"), lambda _: earlier.ask("run")))
    ours, theirs, *others = alternate(jobs, runs)
    if earlier is not None:
        earlier.end()
    return JobRow(
        subject.name,
        ours,
        theirs,
        others[0] if others else None,
        sum(parameter.numel() for parameter in model.parameters()),
        outcome(subject, lambda: prune(subject, fresh())),
        outcome(subject, lambda: prune_with_peer(subject, fresh_for_peer())),
        subject.extra,
    )


@frozen
class ScoreRow:
    """Scores by magnitude beside one pass over the parameters."""

    name: str
    score: Timing
    one_pass: Timing


def time_score(subject: Subject, runs: int) -> ScoreRow:
    """`dg.score` with `Magnitude(p=2)`, beside the squares of every parameter, summed."""
    model = subject.make()
    graph = dg.trace(model, subject.args, subject.kwargs)
    parameters = [parameter.detach() for parameter in model.parameters()]

    def one_pass(_: Any) -> None:
        for parameter in parameters:
            parameter.pow(2).sum()

    jobs = (Job(lambda: None, lambda _: dg.score(graph, model, dg.Magnitude(p=2))), Job(lambda: None, one_pass))
    return ScoreRow(subject.name, *alternate(jobs, runs))


def peak_memory() -> float:
    """The most memory that this process has held, in GiB."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 2**20
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / 2**30 if sys.platform == "darwin" else most / 2**20


def large_model(runs: int) -> dict[str, Any]:
    """What a process of its own measures: a model of Llama-2-7B's shape without weights, traced and planned."""
    import transformers

    config = llama_config()
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(config).eval()
    tokens = {"input_ids": torch.zeros(1, 8, dtype=torch.long)}
    imported = peak_memory()
    start = time.process_time()
    graph = dg.trace(model, kwargs=tokens)
    groups = len(graph.groups)
    first = time.process_time() - start
    start = time.process_time()
    plan = dg.plan(graph, dg.score(graph, model, dg.criteria.Random(0)), ratio=RATIO)
    planned = time.process_time() - start
    scores = dg.score(graph, model, dg.criteria.Random(0))
    start = time.process_time()
    half = dg.plan(graph, scores, macs=MACS)
    solved = time.process_time() - start
    peak = peak_memory()
    again = alternate([Job(lambda: None, lambda _: dg.trace(model, kwargs=tokens).groups)], runs)[0]
    return {
        "parameters": graph.params,
        "groups": groups,
        "remaining": plan.apply(graph).params,
        "first": first,
        "again": again.median,
        "plan": planned,
        "solved": solved,
        "macs": half.apply(graph).macs / graph.macs,
        "imported": imported,
        "peak": peak,
    }


def measure_large_model(runs: int) -> dict[str, Any]:
    """`large_model` in a fresh process, so that its peak memory is its own."""
    command = [sys.executable, __file__, "--large-model", str(runs)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or ["no message"])[-1]}
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; all columns but the first are flush right."""
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def factor(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def verdict(met: bool) -> str:
    return "met" if met else "missed"


def trace_section(rows: Sequence[TraceRow]) -> str:
    """The first table."""
    heads = ("model", "`dg.trace`, s", "forward, s", "ratio", "forward, weights fake already, s", "ratio")
    cells = []
    for row in rows:
        ratios = factor(quotient(row.forward, row.trace)), factor(quotient(row.converted, row.trace))
        cells.append((row.name, str(row.trace), str(row.forward), ratios[0], str(row.converted), ratios[1]))
    first = [ratio for row in rows if (ratio := quotient(row.forward, row.trace)) is not None]
    second = [ratio for row in rows if (ratio := quotient(row.converted, row.trace)) is not None]
    return f"""## Tracing, beside a plain forward on fake tensors

`dg.trace(model, x)` from the model to the finished graph, beside the model's own forward under
`FakeTensorMode(allow_non_fake_inputs=True)` and `no_grad`. Such a forward converts each weight to a fake tensor on the way, as
the trace must, too. The last two columns are the harder comparison: a forward of a copy whose weights were converted before,
in a mode that is kept, so that nothing but the operators' shapes is left. Attention in `vit_b_16` takes PyTorch's fused path
in the plain forwards, one operator for a layer; the trace switches it off, because it must see the operators within.

{table(heads, cells)}

Target: a ratio of at most {TRACE_TARGET} to the forward. Worst {max(first, default=0):.2f}, median
{statistics.median(first or [0]):.2f}: {verdict(max(first, default=0) <= TRACE_TARGET)}. To the forward with weights that are
fake already: worst {max(second, default=0):.2f}, median {statistics.median(second or [0]):.2f}:
{verdict(max(second, default=0) <= TRACE_TARGET)}.
"""


def provenance_section(rows: Sequence[CostRow]) -> str:
    """The cost of provenance."""
    ratios = [ratio for row in rows if (ratio := quotient(row.plain, row.followed)) is not None]
    cells = [(row.name, str(row.followed), str(row.plain), factor(quotient(row.plain, row.followed))) for row in rows]
    return f"""## What the provenance of sizes costs

The same trace without the function mode and without integers that remember their path (its graph is then mostly pinned).

{table(("model", "`dg.trace`, s", "without provenance, s", "ratio"), cells)}

Target: at most {PROVENANCE_TARGET}. Worst {max(ratios, default=0):.2f}: {verdict(max(ratios, default=0) <= PROVENANCE_TARGET)}.
"""


def chain_section(chains: Sequence[tuple[str, dict[int, Timing]]]) -> str:
    """Growth with length."""
    cells, slopes = [], []
    for kind, timings in chains:
        first, last = timings[8].median or 1.0, timings[64].median or 1.0
        slopes.append(math.log(last / first) / math.log(8))
        cells.append((kind, *(str(timings[length]) for length in LENGTHS), f"{slopes[-1]:.2f}"))
    return f"""## Growth with the length of a chain

`dg.trace` and `groups`, seconds, by the number of blocks or layers; the slope is that of log time over log length, 8 to 64.

{table(("chain", *map(str, LENGTHS), "slope"), cells)}

Target: a slope of at most {SLOPE_TARGET}: {verdict(max(slopes) <= SLOPE_TARGET)}.
"""


def flat_section(rows: Sequence[tuple[str, dict[int, Timing]]]) -> str:
    """A flat chain of many layers."""
    cells, slopes = [], []
    for what, timings in rows:
        first, last = (timings[length].median or 1.0 for length in LONG)
        slopes.append(math.log(last / first) / math.log(LONG[1] / LONG[0]))
        cells.append((what, *(str(timings[length]) for length in LONG), f"{slopes[-1]:.2f}"))
    return f"""## A flat chain of {LONG[1]:,} layers

Linear layers of 8 features and activations in one `Sequential`, without weights; seconds, by the number of layers.

{table(("what", *(f"{length:,}" for length in LONG), "slope"), cells)}

Target: linear, a slope of at most {SLOPE_TARGET}: {verdict(max(slopes) <= SLOPE_TARGET)}.
"""


def score_section(rows: Sequence[ScoreRow]) -> str:
    """Scoring by magnitude."""
    ratios = [ratio for row in rows if (ratio := quotient(row.one_pass, row.score)) is not None]
    cells = [(row.name, str(row.score), str(row.one_pass), factor(quotient(row.one_pass, row.score))) for row in rows]
    return f"""## Scoring by magnitude

`dg.score(graph, model, dg.Magnitude(p=2))` from the weights to plain numbers, beside `p.pow(2).sum()` of each parameter.

{table(("model", "`dg.score`, s", "one pass, s", "ratio"), cells)}

Target: at most {SCORE_TARGET}. Worst {max(ratios, default=0):.2f}: {verdict(max(ratios, default=0) <= SCORE_TARGET)}.
"""


def job_section(rows: Sequence[JobRow], earlier: str) -> str:
    """The second table; `earlier` names the version that ran beside this one, if there is one."""
    heads = ["model", "depgraph, s", "Torch-Pruning, s", "times faster", "parameters", "depgraph keeps", "Torch-Pruning keeps"]
    heads[1:1] = [f"depgraph at {earlier}, s"] if earlier else []
    cells = []
    for row in rows:
        before = [] if row.earlier is None else [str(row.earlier)]
        times = factor(quotient(row.ours, row.theirs))
        counts = f"{row.before:,}", row.ours_kept, row.theirs_kept
        cells.append((row.name, *before, str(row.ours), str(row.theirs), times, *counts))
    factors = [times for row in rows if not row.extra and (times := quotient(row.ours, row.theirs)) is not None]
    old = [times for row in rows if not row.extra and row.earlier and (times := quotient(row.earlier, row.theirs)) is not None]
    compared = f" At {earlier}: median {statistics.median(old):.2f}, least {min(old):.2f}." if old else ""
    took_turns = f"The version {earlier} took its turns in a process of its own.\n" if earlier else ""
    median, least = statistics.median(factors or [0]), min(factors, default=0)
    return f"""## The whole job, beside Torch-Pruning {version("torch-pruning")}

Half of every group by L2 magnitude, on one image or eight tokens. depgraph: `trace`, `score`, `plan(ratio={RATIO})` and
`execute`. Torch-Pruning: the pruner's constructor and `step()` with `GroupMagnitudeImportance(p=2)`, `pruning_ratio={RATIO}`,
the classifier ignored, and the other settings of its own examples for such a model (heads and rounding for attention). Both
get a copy of the model of their own, made before the clock starts. Torch-Pruning writes into its copy, `execute` makes a new
model. What each keeps is the number of parameters after the job; a model that then cannot run is marked.
{took_turns}

{table(heads, cells)}

Of the first six, median {median:.2f} times faster, least {least:.2f}.{compared} Targets: {JOB_TARGET:.0f} times in the median:
{verdict(median >= JOB_TARGET)}; none under {LEAST_TARGET:.0f}: {verdict(least >= LEAST_TARGET)}.
"""


def plan_section(rows: Sequence[tuple[str, Timing]]) -> str:
    """How long choosing takes."""
    worst = max((timing.median for _, timing in rows if timing.median is not None), default=0.0)
    return f"""## Planning a model of {MANY} groups

`dg.plan` on a chain of {MANY} convolutions of 64 channels with batch norms, scores given, to the finished plan.

{table(("asked for", "seconds"), [(asked, str(timing)) for asked, timing in rows])}

Target: under {PLAN_TARGET} s. Worst {worst:.3f}: {verdict(worst < PLAN_TARGET)}.
"""


def large_section(found: dict[str, Any]) -> str:
    """The third table."""
    title = "## The shape of Llama-2-7B, without weights\n"
    if "error" in found:
        return f"{title}\nThe measurement failed: {found['error']}\n"
    memory = f"{found['peak']:.2f} ({found['imported']:.2f} of it before the trace)"
    rows = (
        ("parameters", f"{found['parameters']:,}"),
        ("groups", f"{found['groups']:,}"),
        ("parameters that the plan leaves", f"{found['remaining']:,}"),
        ("`trace` and `groups`, the first time, s", f"{found['first']:.2f}"),
        ("`trace` and `groups`, again, median, s", "-" if found["again"] is None else f"{found['again']:.2f}"),
        ("`score` with `Random(0)` and `plan`, s", f"{found['plan']:.2f}"),
        (f"`plan` with `macs={MACS}`, s", f"{found['solved']:.2f}"),
        ("MACs that it leaves", f"{found['macs']:.6f}"),
        ("peak memory of the process, GiB", memory),
    )
    return f"""{title}
`LlamaConfig()` of transformers (32 layers, 32 heads, hidden 4096, intermediate 11008) on the `meta` device, eight tokens,
traced and planned with `ratio={RATIO}` in a fresh process.

{table(("what", "value"), rows)}

Targets: under {SECONDS_TARGET:.0f} s, also the first time: {verdict(found["first"] < SECONDS_TARGET)};
under {MEMORY_TARGET:.0f} GiB: {verdict(found["peak"] < MEMORY_TARGET)}; a budget solved in seconds, here at most
{BUDGET_TARGET:.0f}: {verdict(found["solved"] <= BUDGET_TARGET)}.
"""


def introduction(runs: int) -> str:
    """What was measured with, and how."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("torchvision", "timm", "transformers", "torch-pruning"))
    return f"""# Benchmarks

Written by `tox run -e bench` (`docs/benchmarks/benchmark.py`), never by hand. Seconds are of CPU time, medians of {runs} runs
on one thread in one process; what is compared ran in turns (A B A B ...), after one run of each that does not count.

torch {torch.__version__}, Python {platform.python_version()}, {packages}; {platform.machine()}, {os.cpu_count()} CPUs.
"""


def main() -> None:
    """Measure everything, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two runs of everything; prints the page, and writes nothing")
    parser.add_argument("--runs", type=int, default=9, help="how often each job runs")
    parser.add_argument("--before", type=Path, help="a checkout of an earlier version, whose whole job is timed as well")
    parser.add_argument("--answer", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--large-model", type=int, metavar="RUNS", help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    if options.large_model is not None:
        print(json.dumps(large_model(options.large_model)))
        return
    pruned = [
        vision("resnet50"),
        vision("densenet121", head="classifier"),
        vision("mobilenet_v2", head="classifier.1"),
        vision("convnext_tiny", head="classifier.2"),
        torchvision_transformer(),
        llama(),
        llama(width=1024, extra=True),
        timm_transformer(),
    ]
    if options.answer is not None:
        answer(pruned[options.answer])
        return
    runs = 2 if options.quick else options.runs
    jobs = [time_job(subject, runs, options.before and Earlier(options.before, k)) for k, subject in enumerate(pruned)]
    before = [] if options.before is None else ["git", "-C", str(options.before), "rev-parse", "--short", "HEAD"]
    earlier = subprocess.run(before, capture_output=True, text=True, check=True).stdout.strip() if before else ""
    traced = [vision(name) for name in ("resnet18", "resnet50", "densenet121", "vit_b_16", "mobilenet_v3_large")]
    page = "\n".join(
        (
            introduction(runs),
            trace_section([time_trace(subject, runs) for subject in (*traced, llama())]),
            provenance_section([time_provenance(subject, runs) for subject in (*traced, llama())]),
            chain_section([time_chain(kind, runs) for kind in ("residual blocks", "dense blocks", "Llama layers")]),
            flat_section(time_flat(min(runs, 3))),
            score_section([time_score(subject, runs) for subject in (vision("resnet50"), vision("vit_b_16"), llama(4, 1024))]),
            job_section(jobs, earlier),
            plan_section(time_plans(runs)),
            large_section(measure_large_model(runs)),
        )
    )
    print(page)
    if not options.quick:
        PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
