"""How long `dg.pareto` takes on a graph of the shape of a Llama of 70 billion parameters; writes docs/benchmarks/pareto.json.

Run it with ``tox run -e pareto``. The model is on the meta device and has no weights; scores and losses are random numbers:
losses that rise with what is removed, ever faster, at sixteen widths of each layer's feed-forward and at each number of
key-value heads. What is found is checked against the budget.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

import depgraph as dg  # noqa: E402
from depgraph.choosing.tables import Curve, Order, Table  # noqa: E402
from tests.zoo import transformers  # noqa: E402

STORE = ROOT / "docs/benchmarks/pareto.json"
SIDES: dict[str, list[dict[str, float]]] = {
    "macs": [{"macs": 0.5 + 0.025 * k} for k in range(20)],
    "memory": [{"memory": 0.5 + 0.025 * k} for k in range(20)],
    "macs and memory": [{"macs": 0.6 + 0.02 * k, "memory": 0.97 - 0.02 * k} for k in range(20)],
}


def llama(layers: int) -> dg.Graph:
    """The graph of a Llama 3 of 70 billion parameters, with so many of its 80 layers."""
    library = transformers()
    config = library.LlamaConfig(
        hidden_size=8192,
        intermediate_size=28672,
        num_hidden_layers=layers,
        num_attention_heads=64,
        num_key_value_heads=8,
        vocab_size=128256,
        max_position_embeddings=8192,
    )
    with torch.device("meta"):
        model = library.LlamaForCausalLM(config).eval()
    tokens = torch.zeros(1, 16, dtype=torch.long, device="meta")
    return dg.trace(model, kwargs={"input_ids": tokens, "use_cache": False})


def random_table(graph: dg.Graph, seed: int) -> Table:
    """Losses of a random scale and curvature for each feed-forward, at 15 widths, and for each set of key-value heads."""
    draw = random.Random(seed)
    curves = []
    for group in graph.groups:
        counts = range(1792, 26881, 1792) if group.size == 28672 else range(1, 8) if group.role == "head" else ()
        if counts:
            scale, power = draw.lognormvariate(0, 1), draw.uniform(1, 3)
            noise = [draw.uniform(0.9, 1.1) for _ in counts]
            losses = tuple(scale * (count / group.size) ** power * each for count, each in zip(counts, noise, strict=True))
            order = list(range(group.size))
            draw.shuffle(order)
            curves.append(Curve((Order(group.name, None, (tuple(order),)),), tuple(counts), losses))
    return Table(graph.fingerprint, 0.0, tuple(curves))


def measured(name: str, graph: dg.Graph, table: Table, budgets: list[dict[str, float]], **options: Any) -> dict[str, Any]:
    """Seconds of twenty budgets, and of the plan of the first of them."""
    memory = dg.Memory(2, 8192, batch=16) if any("memory" in budget for budget in budgets) else None
    start, busy = time.perf_counter(), time.process_time()
    found = dg.pareto(graph, table, budgets, memory_model=memory, **options)
    seconds, busy = time.perf_counter() - start, time.process_time() - busy
    start = time.perf_counter()
    plan = found[0].plan
    planned = time.perf_counter() - start
    assert all(target.realised <= target.requested for each in found for target in each.targets)
    assert plan.result == plan.apply(graph).fingerprint
    row = {
        "case": name,
        "curves": len(table.curves),
        "budgets": len(budgets),
        "found": len(found),
        "seconds": round(seconds, 2),
        "CPU seconds": round(busy, 2),
        "seconds of one plan": round(planned, 2),
    }
    print(row, flush=True)
    return row


def main() -> None:
    """Measure, and write the numbers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=80)
    parser.add_argument("--out", type=Path, default=STORE)
    options = parser.parse_args()
    start = time.perf_counter()
    graph = llama(options.layers)
    traced = round(time.perf_counter() - start, 1)
    print(f"traced in {traced} s: {graph.params:,} parameters", flush=True)
    table = random_table(graph, 0)
    rows = [measured(name, graph, table, budgets) for name, budgets in SIDES.items()]
    rows.append(measured("macs, five plans each", graph, table, SIDES["macs"], top_k=5))
    versions = {"Python": platform.python_version(), **{name: version(name) for name in ("torch", "scipy", "transformers")}}
    found = {
        "layers": options.layers,
        "params": graph.params,
        "seconds of the trace": traced,
        "rows": rows,
        "versions": versions,
    }
    options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
