"""docs/zoo.md from the records of docs/benchmarks/zoo.json: a summary, and a table for each zoo."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

Record = dict[str, Any]

TITLES = {
    "torchvision": "torchvision",
    "timm": "timm: a small model of each family",
    "transformers": "transformers",
    "plain": "Networks of our own",
    "timm-meta": "timm: every model, on the meta device",
}
COLUMNS = {
    "trace": "traced",
    "square": "square",
    "forward": "forward",
    "shapes": "shapes",
    "cost": "cost",
    "zero_channels": "zero channels",
    "round_trip": "round trip",
    "pure": "pure",
}
PEER = {
    "construct": "constructed",
    "prune": "pruned",
    "forward": "forward",
    "tenth": "a tenth removed",
    "zero_channels": "zero channels",
}
ROLES = ("channel", "head_dim", "head", "kv_group", "conv_group", "block")
LOW = 0.6
LAYERS: dict[str, Any] = json.loads(Path(__file__).with_name("elements.json").read_text())
"""Which elements of a model's lists may leave, as `docs/benchmarks/elements.py` found them."""

INTRODUCTION = """# Models of the zoos

Written by `tox run -e zoo` from `docs/benchmarks/zoo.json`, never by hand. Random weights, no annotation, no patched
forward. Of every model half of each group goes, balanced, by L2 magnitude, all roles, down to the lower bound of each. What
stands in the columns:

- *square*: tracing the executed model gives the graph that the plan promises. *forward*: it runs on real data; *shapes*: its
  outputs have the shapes they had. *cost*: its parameters and MACs are those that PyTorch counts. *zero channels*: where the
  removed indices' parameters are zero, removing them leaves the output, in double precision; groups across which something
  normalises are left out, and `-` says that no other group is there. *round trip*: graph and plan load as they were saved.
  *pure*: tracing leaves the model bit for bit, and tracing again gives the same bytes.
- *sound*: groups that were pruned alone, to a model that ran, of those tried (twelve of a large model's, evenly spaced,
  fewer where a forward takes long).
- *prunable*: the share of the parameters that lie in groups; *remain*: the share that the plan leaves. Below 60 % prunable
  the last column has what pins the others.
- *ratio*: median seconds of a trace over those of a plain forward on fake inputs; where forward reads data (mode *real*),
  of that as far as it comes, and then of a forward on data, as the trace does.
- *layers*: how many elements of lists of modules may leave, of those with parameters, by [another run](elements.md);
  **no** where a square or the identity in a layer's place did not hold there.
- *groups*: how many of the roles channel / head dim / head / KV group / conv group / block.

Large models of torchvision's families, and all of timm's once more, are on the `meta` device: traced, planned, executed, and
the square closed, without weights in memory.
"""

PEER_NOTE = """
Torch-Pruning 1.6.1, same models, within the limit of each run, `GroupMagnitudeImportance(p=2)`, half of every group, the
last linear layer that makes the classes ignored, and `num_heads` given where attention modules have it. *Pruned*: `step()`
returns. *Forward*: the pruned model runs, its output shapes kept. *Zero channels*: the parameters of the removed channels are
zeroed in a copy of the original, which must give what the pruned model gives, in evaluation mode and double precision; left
out are the groups that reach an axis across which something normalises, read off our graph, as in our own column.
"""


def page(records: Sequence[Record]) -> str:
    """The whole page."""
    zoos: dict[str, list[Record]] = defaultdict(list)
    for record in sorted(records, key=lambda record: record["model"]):
        zoos[record["zoo"]].append(record)
    parts = [INTRODUCTION, summary(zoos)]
    for zoo, title in TITLES.items():
        if zoos.get(zoo):
            table = by_family(zoos[zoo]) if zoo == "timm-meta" else by_model(zoos[zoo])
            parts.append(f"## {title}\n\n{made_with(zoos[zoo])}\n\n{table}{failures(zoos[zoo])}")
    return "\n".join(parts)


def summary(zoos: dict[str, list[Record]]) -> str:
    """The counts, a row for each zoo; Torch-Pruning's beneath."""
    heads = [
        "zoo",
        "models",
        *COLUMNS.values(),
        "lists of layers: square",
        "identity",
        "sound groups",
        "no rule",
        "median ratio",
        "worst ratio",
    ]
    rows = []
    for zoo in TITLES:
        found = zoos.get(zoo, [])
        if found:
            rows.append(
                [TITLES[zoo], str(len(found)), *(share(found, name) for name in COLUMNS), *lists_share(found), *measures(found)]
            )
    text = f"## Summary\n\nPassed, of those to which the check applies.\n\n{lay_out(heads, rows)}\n"
    rows = []
    for zoo in TITLES:
        pairs = [record for record in zoos.get(zoo, []) if "peer" in record]
        peers = [record["peer"] for record in pairs]
        if peers:
            ours = [share(pairs, name) for name in ("trace", "execute", "forward", "zero_channels")]
            rows.append([TITLES[zoo], str(len(peers)), *(share(peers, name) for name in PEER), *ours])
    if rows:
        heads = ["zoo", "models", *PEER.values(), "depgraph: traced", "pruned", "forward", "zero channels"]
        text += f"\n### Beside Torch-Pruning\n{PEER_NOTE}\n{lay_out(heads, rows)}\n"
    return text


def lists_share(records: Iterable[Record]) -> list[str]:
    """Of the lists from which elements may leave those where the square closed, and where the identity computed the same."""
    known = (LAYERS.get(f"{record['zoo']}/{record['model']}", {}) for record in records)
    lists = [item for record in known for item in record.get("lists", ()) if item["free"]]
    found = [[item[law] for item in lists if item.get(law) is not None] for law in ("square", "identity")]
    return [f"{sum(passed)}/{len(passed)}" if passed else "-" for passed in found]


def share(records: Iterable[Record], check: str) -> str:
    """How many records pass a check, of those to which it applies."""
    done = [record["checks"][check] for record in records if check in record["checks"]]
    applies = [text for text in done if not text.startswith("- ")]
    return f"{sum(text == 'ok' for text in applies)}/{len(applies)}" if applies else "-"


def measures(records: Iterable[Record]) -> list[str]:
    """Sound groups, operators without a rule, and the median and worst ratio of the traces."""
    records = list(records)
    checked = [record["soundness"] for record in records if "soundness" in record]
    unknown = sorted({op for record in records for op in record.get("unknown", ())})
    timed = [(record["seconds"]["ratio"], record["model"]) for record in records if "ratio" in record.get("seconds", {})]
    sound = f"{sum(one['sound'] for one in checked)}/{sum(one['checked'] for one in checked)}" if checked else "-"
    if not timed:
        return [sound, listed(unknown), "-", "-"]
    worst = max(timed)
    return [sound, listed(unknown), f"{statistics.median(ratio for ratio, _ in timed):.2f}", f"{worst[0]:.2f} ({worst[1]})"]


def listed(names: Iterable[str]) -> str:
    """Names with commas, or a dash."""
    return ", ".join(f"`{name}`" for name in names) or "-"


def by_model(records: list[Record]) -> str:
    """One row for each model."""
    peer = any("peer" in record for record in records)
    heads = [
        "model",
        *COLUMNS.values(),
        "sound",
        "prunable",
        "remain",
        "groups",
        "layers",
        "mode",
        "trace s",
        "ratio",
        "no rule",
    ]
    heads += ["Torch-Pruning: pruned", "forward", "remain", "zero channels"] if peer else []
    heads.append("why less than 60 % is prunable")
    rows = []
    for record in records:
        roles, seconds, sound = record.get("roles", {}), record.get("seconds", {}), record.get("soundness")
        cells = [record["model"], *(mark(record["checks"].get(name)) for name in COLUMNS)]
        cells += [
            f"{sound['sound']}/{sound['checked']}" if sound else "-",
            percent(record, "prunable"),
            percent(record, "remaining"),
        ]
        cells += ["/".join(str(roles.get(role, 0)) for role in ROLES), layers(record), mode(record)]
        cells += [number(seconds.get("trace", seconds.get("first trace"))), number(seconds.get("ratio"))]
        cells.append(listed(record.get("unknown", ())))
        cells += peer_cells(record.get("peer")) if peer else []
        rows.append([*cells, why(record)])
    return lay_out(heads, rows)


def mark(text: str | None) -> str:
    """A check in one word."""
    return "" if text is None else "yes" if text == "ok" else "-" if text.startswith("- ") else "**no**"


def mode(record: Record) -> str:
    """How the trace ran: on fake tensors, on the example inputs, or without weights in memory."""
    return str(record.get("device", record.get("mode", "-")))


def layers(record: Record) -> str:
    """How many elements of lists may leave, and whether the laws held for one of each list."""
    lists = LAYERS.get(f"{record['zoo']}/{record['model']}", {}).get("lists", ())
    if not lists:
        return "-"
    broken = any(False in (item.get("square"), item.get("identity")) for item in lists)
    return f"{sum(item['free'] for item in lists)}/{sum(item['elements'] for item in lists)}{' **no**' if broken else ''}"


def percent(record: Record, name: str) -> str:
    """A share in per cent."""
    return f"{100 * record[name]:.0f} %" if name in record else "-"


def number(value: float | None) -> str:
    """A number with two digits."""
    return "-" if value is None else f"{value:.2f}"


def peer_cells(record: Record | None) -> list[str]:
    """Torch-Pruning's columns."""
    if record is None:
        return [""] * 4
    checks = record["checks"]
    return [
        mark(checks.get("prune")),
        mark(checks.get("forward")),
        percent(record, "remaining"),
        mark(checks.get("zero_channels")),
    ]


def why(record: Record) -> str:
    """What pins a model of which little is prunable: reasons with their share of the parameters."""
    if record.get("prunable", 1.0) >= LOW:
        return ""
    return cell("; ".join(f"{100 * count / record['params']:.0f} %: {reason}" for reason, count in record["pinned"]))


def by_family(records: list[Record]) -> str:
    """One row for each family."""
    families: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        families[record["family"]].append(record)
    heads = [
        "family",
        "models",
        "traced",
        "executed",
        "square",
        "prunable, median",
        "no rule",
        "why less than 60 % is prunable",
    ]
    rows = []
    for family, found in sorted(families.items()):
        unknown = sorted({op for record in found for op in record.get("unknown", ())})
        prunable = [record["prunable"] for record in found if "prunable" in record]
        least = min((record for record in found if "prunable" in record), key=lambda one: one["prunable"], default={})
        middle = f"{100 * statistics.median(prunable):.0f} %" if prunable else "-"
        checks = (share(found, check) for check in ("trace", "execute", "square"))
        rows.append([family, str(len(found)), *checks, middle, listed(unknown), why(least)])
    return lay_out(heads, rows)


def failures(records: list[Record]) -> str:
    """Every check that failed, ours and Torch-Pruning's, with the first line of what was raised."""
    text = ""
    for title, chosen in (
        ("What failed", lambda record: record),
        ("What failed with Torch-Pruning", lambda record: record.get("peer")),
    ):
        lines = []
        for record in records:
            checks = (chosen(record) or {"checks": {}})["checks"]
            wrong = [
                (name, done) for name, done in checks.items() if done not in ("ok", "not reached") and not done.startswith("- ")
            ]
            lines += [f"- {record['model']}, {name}: {cell(done)}" for name, done in sorted(wrong)]
        if lines:
            text += f"\n### {title}: {TITLES[records[0]['zoo']]}\n\n" + "\n".join(lines) + "\n"
    return text


def made_with(records: list[Record]) -> str:
    """The versions of all records of a zoo."""
    found: dict[str, set[str]] = defaultdict(set)
    for record in records:
        for each in (record, record.get("peer", {})):
            for package, number in each.get("versions", {}).items():
                found[package].add(number)
    return ", ".join(f"{package} {' and '.join(sorted(numbers))}" for package, numbers in sorted(found.items())) + "."


def cell(text: str) -> str:
    """Text that may stand in a table."""
    return text.replace("|", "\\|").replace("<", "&lt;")


def lay_out(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
