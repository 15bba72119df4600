"""Save and load pruned models of many families of transformers; writes docs/families.md and its data.

Run it with ``tox run -e families``, from the root of a clone. The models are tiny and have random weights. A run of some
families merges its records with those that docs/benchmarks/families.json holds already:

    python docs/benchmarks/families.py                  everything
    python docs/benchmarks/families.py --only llama     one family
    python docs/benchmarks/families.py --kills 60       kills while folders are written: docs/benchmarks/folders.json
    python docs/benchmarks/families.py --page           docs/families.md anew from what was measured
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

import depgraph as dg  # noqa: E402
from tests.zoo import transformers  # noqa: E402
from tests.zoo.language import small_transformers  # noqa: E402

FAULTS = ROOT / "docs/benchmarks/folders.json"
RECORDS, PAGE = ROOT / "docs/benchmarks/families.json", ROOT / "docs/families.md"
FAMILIES = (
    "llama", "llama_gqa", "mistral", "qwen2", "qwen3", "gemma2", "phi3", "gpt2", "opt", "gpt_neox", "falcon", "bloom", "bert",
    "roberta", "distilbert", "electra", "deberta_v2", "t5", "bart", "vit", "deit", "dinov2", "swin", "clip", "whisper",
    "wav2vec2", "mamba", "mixtral",
)  # fmt: skip
UNIFORM = {
    "half": "`ratio=0.5`",
    "heads": "whole heads",
    "inner": "inner widths",
}
INTRODUCTION = """# Families of transformers: pruned, saved, loaded

Written by `tox run -e families` from `docs/benchmarks/families.json`, never by hand. Tiny models with random weights, L2
magnitude. Each pruned model is saved by `dg.hf.save_pretrained` and loaded again, in evaluation mode on one thread; *yes*:
every output is equal, bit for bit.

- `ratio=0.5`: half of every group but heads goes, head dims included. Most classes compute the scale of their attention from
  the size of a head, and rotary frequencies from their number, so that no stock model is equal: those of the pruned model stay
  as they were.
- *whole heads*: half of the heads go instead of head dims. *inner widths*: half of what lies inside of one layer goes, the
  inner width of its feed-forward network or experts; the model's width and its attention stay whole.
- The first three columns: transformers' own `from_pretrained` loads the folder; the configuration's keys that were found
  follow, or the first reason why no configuration gives this model.
- *not uniform*: a half of every second group of channels goes, a quarter of the others, so that layers differ;
  `dg.hf.from_pretrained` loads it.
"""

FAULTY = """
## Faults

A BERT in several files is saved while one write fails, each in turn: a folder is made or named, a file opened, half of a file
of weights written, a file synced. What was there is there, and nothing beside it. Then the process is killed (SIGKILL) at
random times after it has begun to write: the folder is as it was before, or new and whole, and a run after the last kill
completes.

| form | writes that failed | killed | of these while it wrote | as before | new | too late |
| --- | ---: | ---: | ---: | ---: | ---: | ---: |"""


def plans(graph: dg.Graph, scores: dict[str, Any]) -> dict[str, dg.Plan]:
    """A plan for each column."""
    roles = {group.role for group in graph.groups}
    inner = [group.name for group in graph.groups if group.role in {"channel", "block"} and _within_a_layer(group)]
    whole = {f"role:{role}": 0.5 for role in ("head", "kv_group") if role in roles}
    if len(whole) == 2:
        del whole["role:kv_group"]  # keys and values go with all queries that read them
    if "head_dim" in roles:
        whole["role:head_dim"] = 0
    channels = [group.name for group in graph.groups if group.role == "channel"]
    uneven = {name: 0.25 if position % 2 else 0.5 for position, name in enumerate(channels)}
    options: dict[str, dict[str, Any]] = {
        "half": {"ratio": 0.5},
        "heads": {"ratio": {"*": 0.5, **whole}},
        "inner": {"ratio": 0.5, "only": inner, "round_to": 4},
        "uneven": {"ratio": uneven, "round_to": 4, "min_width": 4},
    }
    found = {}
    for name, given in options.items():
        if (name == "inner" and not inner) or (name == "heads" and not whole):
            continue
        try:
            found[name] = dg.plan(graph, scores, **given)
        except dg.errors.PlanError as error:
            print(f"  {name}: {error}", file=sys.stderr)
    return found


def _within_a_layer(group: dg.Group) -> bool:
    """Whether a group's members lie in one numbered layer."""
    paths = [name.split(".") for name, _ in group.members]
    together = 0
    while all(len(path) > together and path[together] == paths[0][together] for path in paths):
        together += 1
    return any(step.isdigit() for step in paths[0][:together])


def examined(family: str) -> dict[str, Any]:
    """The record of a family."""
    torch.manual_seed(0)
    model, _, inputs = small_transformers(family)()
    graph = dg.trace(model, kwargs=inputs)
    scores = dg.score(graph, model, dg.Magnitude(p=2))
    record: dict[str, Any] = {"class": type(model).__name__, "versions": {"transformers": version("transformers")}}
    for name, plan in plans(graph, dict(scores)).items():
        try:
            record[name] = loaded(plan, model, inputs)
        except Exception as error:  # noqa: BLE001  the table has what was raised
            record[name] = {"error": f"{type(error).__name__}: {str(error).splitlines()[0]}"}
    return record


def loaded(plan: dg.Plan, model: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    """Save a pruned model, load it in both ways, and compare the outputs."""
    small = dg.execute(plan, model)
    expected = outputs(small, inputs)
    with tempfile.TemporaryDirectory() as folder:
        saved = dg.hf.save_pretrained(plan, small, Path(folder) / "model")
        ours = equal(expected, outputs(dg.hf.from_pretrained(saved.folder), inputs))
        stock = saved.stock and equal(expected, outputs(type(model).from_pretrained(saved.folder).eval(), inputs))
    return {"ours": ours, "stock": stock, "claimed": saved.stock, "keys": saved.keys, "problems": list(saved.problems[:3])}


def outputs(model: Any, inputs: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The tensors among a model's outputs."""
    torch.manual_seed(0)
    with torch.no_grad():
        return {name: value for name, value in model(**inputs).items() if isinstance(value, torch.Tensor)}


def equal(expected: dict[str, torch.Tensor], met: dict[str, torch.Tensor]) -> bool:
    """Whether there are outputs, and all are equal bit for bit."""
    return bool(expected) and expected.keys() == met.keys() and all(torch.equal(expected[name], met[name]) for name in expected)


def page(records: dict[str, dict[str, Any]]) -> str:
    """The whole page."""
    heads = ["family", *(f"stock: {title}" for title in UNIFORM.values()), "dg.hf: all of these", "not uniform"]
    lines = [heads, ["---"] * len(heads)]
    for family in (name for name in FAMILIES if name in records):
        record = records[family]
        uniform = [record.get(name) for name in UNIFORM]
        ours = [one for one in uniform if one]
        every = "yes" if all(one.get("ours") for one in ours) else "**no**"
        last = record.get("uneven", {})
        lines.append([family, *map(_stock, uniform), every, _ours(last)])
    counts = {name: sum(bool(record.get(name, {}).get("stock")) for record in records.values()) for name in UNIFORM}
    some = sum(any(record.get(name, {}).get("stock") for name in UNIFORM) for record in records.values())
    ours = sum(bool(record.get("uneven", {}).get("ours")) for record in records.values())
    versions = sorted({record["versions"]["transformers"] for record in records.values()})
    summary = (
        f"Of {len(records)} families, stock transformers loads {some} after at least one of the three uniform plans ("
        + ", ".join(f"{counts[name]} after {title}" for name, title in UNIFORM.items())
        + f"); `dg.hf.from_pretrained` loads {ours} whose layers differ. transformers {' and '.join(versions)}.\n"
    )
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{INTRODUCTION}\n{summary}\n{table}\n{_faults()}"


def _faults() -> str:
    """The section of what happens where a save fails or is killed; empty before it was measured."""
    if not FAULTS.exists():
        return ""
    columns = ("failed writes", "killed", "while it wrote", "the old one", "the new one", "too late")
    forms: dict[str, dict[str, int]] = json.loads(FAULTS.read_text())
    rows = "\n".join(f"| {form} | {' | '.join(str(counts[name]) for name in columns)} |" for form, counts in forms.items())
    return f"{FAULTY}\n{rows}\n"


def _stock(record: dict[str, Any] | None) -> str:
    if record is None:
        return "-"
    if "error" in record:
        return f"**{_cell(record['error'])}**"
    if record["claimed"]:
        keys = ", ".join(f"`{key}` {old} → {new}" for key, (old, new) in record["keys"].items()) or "none"
        return f"{'yes' if record['stock'] else '**no**'}: {keys}"
    return f"no: {_cell(record['problems'][0])}"


def _ours(record: dict[str, Any]) -> str:
    if "error" in record:
        return f"**{_cell(record['error'])}**"
    if not record:
        return "-"
    return f"{'yes' if record['ours'] else '**no**'}{' (stock as well)' if record['claimed'] else ''}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", action="append", default=[])
    parser.add_argument("--page", action="store_true")
    parser.add_argument("--kills", type=int, default=0, help="kills of each form, instead of families")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    transformers().logging.disable_progress_bar()
    records = json.loads(RECORDS.read_text()) if RECORDS.exists() else {}
    if arguments.kills:
        run = [sys.executable, "-m", "tests.hf.killing", str(arguments.kills), "0"]
        FAULTS.write_text(subprocess.run(run, cwd=ROOT, capture_output=True, text=True, check=True).stdout)
    for family in () if arguments.page or arguments.kills else arguments.only or FAMILIES:
        records[family] = examined(family)
        print(family, {name: records[family].get(name, {}).get("stock") for name in UNIFORM}, flush=True)
        RECORDS.write_text(json.dumps(records, indent=1, sort_keys=True) + "\n")
    PAGE.write_text(page(records))


if __name__ == "__main__":
    main()
