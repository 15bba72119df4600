"""How large files of plans are, and how long they take to be written and read. Writes the table of docs/plan-format.md.

Run it with ``tox run -e plan-sizes``. Every group of a model loses a random 30 % of its indices: they have no pattern to
make them short. The language models are on `meta`, in the shapes of their configurations.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
DATA, PAGE = ROOT / "docs/benchmarks/plan_sizes.json", ROOT / "docs/plan-format.md"
BEGIN, END = "<!-- sizes: written by `tox run -e plan-sizes` -->\n", "<!-- sizes end -->\n"
RATIO = 0.3
TARGETS = {"ResNet-50": 60_000, "Llama of 70B": 2_000_000}
"""So many bytes a file has at most."""


def _vision(name: str) -> tuple[torch.nn.Module, tuple[torch.Tensor, ...]]:
    from tests import zoo

    size = 224 if name.startswith("vit") else 64
    return getattr(zoo.torchvision().models, name)().eval(), (torch.zeros(1, 3, size, size),)


def _llama(width: int, inner: int, layers: int, heads: int, shared: int) -> tuple[torch.nn.Module, tuple[torch.Tensor, ...]]:
    from tests import zoo

    transformers = zoo.transformers()
    config = transformers.LlamaConfig(
        hidden_size=width, intermediate_size=inner, num_hidden_layers=layers, num_attention_heads=heads,
        num_key_value_heads=shared, vocab_size=128_256, use_cache=False, attn_implementation="sdpa",
    )  # fmt: skip
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(config).bfloat16().eval()
    return model, (torch.zeros(1, 8, dtype=torch.long, device="meta"),)


MODELS: dict[str, Callable[[], tuple[torch.nn.Module, tuple[torch.Tensor, ...]]]] = {
    "ResNet-50": lambda: _vision("resnet50"),
    "ViT-B/16": lambda: _vision("vit_b_16"),
    "Llama of 8B": lambda: _llama(4096, 14_336, 32, 32, 8),
    "Llama of 70B": lambda: _llama(8192, 28_672, 80, 64, 8),
}


def measured(name: str) -> dict[str, Any]:
    """The sizes and times of one model's plan."""
    import depgraph as dg
    from depgraph import codec
    from depgraph.plans import plan_files

    model, inputs = MODELS[name]()
    graph = dg.trace(model, *inputs)
    ratio = {f"role:{role}": RATIO for role in sorted({group.role for group in graph.groups})}
    plan = dg.plan(graph, dg.score(graph, model, dg.criteria.Random(0)), ratio=ratio)
    start = time.perf_counter()
    text = plan_files.dumps(plan)
    written = time.perf_counter()
    assert plan_files.loads(text) == plan
    read = time.perf_counter()
    return {
        "groups": len(plan.cuts),
        "axes": len(plan.axes),
        "indices": sum(len(cut.removed) for cut in plan.cuts),
        "runs": sum(len(cut.removed.intervals) for cut in plan.cuts),
        "version 1": len(codec.dumps("plan", plan)),
        "version 2": len(text),
        "gzip": len(gzip.compress(text.encode(), mtime=0)),
        "write": round(written - start, 3),
        "read": round(read - written, 3),
    }


def table(data: dict[str, Any]) -> str:
    """The table of the page."""
    rows = [
        "| model | groups cut | axes | indices that go | runs of them | version 1, bytes | version 2, bytes | gzipped "
        "| seconds to write | to read |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    columns = ("groups", "axes", "indices", "runs", "version 1", "version 2", "gzip", "write", "read")
    for name, item in data.items():
        rows.append(f"| {name} | " + " | ".join(f"{item[column]:,}" for column in columns) + " |")
    said = [
        f"{name} takes {data[name]['version 2']:,} of at most {most:,} bytes" + ("" if _met(data, name) else ", missed")
        for name, most in TARGETS.items()
        if name in data
    ]
    return "\n".join(rows) + f"\n\nTargets: {'; '.join(said)}.\n"


def _met(data: dict[str, Any], name: str) -> bool:
    return bool(data[name]["version 2"] < TARGETS[name])


def page(text: str, data: dict[str, Any]) -> str:
    """The page with the table in its place."""
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n{table(data)}\n{END}{tail}"


def main() -> None:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=MODELS, action="append", help="of the others the data are kept")
    options = parser.parse_args()
    data = json.loads(DATA.read_text()) if DATA.exists() else {}
    for name in options.only or MODELS:
        data[name] = measured(name)
        print(name, data[name], flush=True)
    data = {name: data[name] for name in MODELS if name in data}
    DATA.write_text(json.dumps(data, indent=1) + "\n")
    PAGE.write_text(page(PAGE.read_text(), data))


if __name__ == "__main__":
    main()
