"""Whole layers in the zoo: which may leave, the square and the identity; writes docs/elements.md and its data.

Run it with ``tox run -e elements``, from the root of a clone. A run of some models merges its records with those that
docs/benchmarks/elements.json holds already:

    python docs/benchmarks/elements.py                      everything
    python docs/benchmarks/elements.py --only transformers/llama
    python docs/benchmarks/elements.py --page               docs/elements.md anew from docs/benchmarks/elements.json
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

import depgraph as dg  # noqa: E402
from depgraph.graph.drops import ElementFlow  # noqa: E402
from tests.zoo import catalogue  # noqa: E402
from tests.zoo.elements import proven  # noqa: E402

RECORDS, PAGE = ROOT / "docs/benchmarks/elements.json", ROOT / "docs/elements.md"
INTRODUCTION = """# Whole layers in the zoo

Written by `tox run -e elements` from `docs/benchmarks/elements.json`, never by hand. Of each model every list of modules is
looked at that holds parameters and lies in no element of another such list: how many of its elements `dg.drop` lets go, each by
itself. Of a list that lets some go, the one in the middle of these leaves: *square*, the trace of the model without it equals
the graph that the plan promises, and *told* where the plan says that it may not, because this element alone may have said
something of axes that stay (`plan.stricter`); *identity*, its outputs equal, bit for bit, those of the whole model in which
this element hands on what it is given.
"""


def examined(maker: Any) -> dict[str, Any]:
    """The record of a model."""
    torch.manual_seed(0)
    model, args, kwargs = maker()
    graph = dg.trace(model, args, kwargs)
    lists: list[dict[str, Any]] = []
    for sequence in graph.sequences:
        prefixes = [f"{item['path']}." if item["path"] else "" for item in lists]
        if any(sequence.path.startswith(prefix) for prefix in prefixes):
            continue
        flow = ElementFlow(graph, sequence)
        holding = {flow.position_of(tensor.name) for tensor in graph.tensors if tensor.kind == "parameter"} - {None}
        if not holding:
            continue
        record: dict[str, Any] = {"path": sequence.path, "elements": len(sequence.elements), "free": 0}
        lists.append(record)
        free, reasons = [], Counter(flow.problems)
        for place in () if flow.problems else sorted(holding):
            try:
                free.append((place, dg.drop(graph, sequence.path, [place])))
            except dg.errors.PlanError as error:
                reasons[str(error).removesuffix(" Nothing was changed.")] += 1
        record["free"] = len(free)
        if reasons:
            record["why"] = reasons.most_common(1)[0][0][:200]
        if free:
            place, plan = free[len(free) // 2]
            record |= proven(graph, plan, model, args, kwargs)
    return {"class": type(model).__name__, "lists": lists}


def makers() -> Iterator[tuple[str, Any]]:
    """The models with weights of all zoos, by zoo and name."""
    for zoo in ("plain", "torchvision", "timm", "transformers"):
        yield from ((f"{zoo}/{name}", maker) for name, maker in catalogue.ZOOS[zoo].models().items())


def page(records: dict[str, dict[str, Any]]) -> str:
    """The whole page."""
    lines = [INTRODUCTION]
    lists = [item for record in records.values() for item in record.get("lists", ())]
    free = [item for item in lists if item["free"]]
    models = [record for record in records.values() if any(item["free"] for item in record.get("lists", ()))]
    failed = sum("error" in record for record in records.values())
    squares = Counter((item.get("square", False), "stricter" in item) for item in free)
    lines.append(
        f"{len(records)} models, {failed} of which failed; {len(models)} have a list whose elements may leave: {len(free)} of "
        f"{len(lists)} lists. The square closes for {squares[True, False] + squares[True, True]} of these; it is open for "
        f"{squares[False, True]}, whose plans tell it, and for {squares[False, False]}, whose plans don't. The identity "
        f"computes the same for {sum(item.get('identity') is True for item in free)} of "
        f"{sum(item.get('identity') is not None for item in free)} with weights.\n"
    )
    lines += ["| model | list | may leave | square | identity | the others stay because |", "|---|---|---|---|---|---|"]
    for name, record in sorted(records.items()):
        if "error" in record:
            lines.append(f"| {name} | | | | | {_cell(record['error'])} |")
        for item in record.get("lists", ()):
            marks = [{True: "yes", False: "no"}.get(item.get(key), "") for key in ("square", "identity")]
            marks[0] += ", told" if "stricter" in item else ""
            why = _cell(item.get("why", ""))
            lines.append(f"| {name} | `{item['path']}` | {item['free']} of {item['elements']} | {' | '.join(marks)} | {why} |")
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "/").replace("\n", " ")[:160]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[], help="names, or beginnings of names, of models")
    parser.add_argument("--page", action="store_true", help="write the page alone")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    records = json.loads(RECORDS.read_text()) if RECORDS.exists() and (options.only or options.page) else {}
    for name, maker in () if options.page else makers():
        if options.only and not any(name.startswith(prefix) for prefix in options.only):
            continue
        try:
            records[name] = examined(maker)
        except Exception as error:  # noqa: BLE001  the table has what was raised
            records[name] = {"error": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"}
        print(name, json.dumps(records[name])[:300], flush=True)
        RECORDS.write_text(json.dumps(dict(sorted(records.items())), indent=1) + "\n")
    PAGE.write_text(page(records))


if __name__ == "__main__":
    main()
