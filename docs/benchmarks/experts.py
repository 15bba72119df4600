"""Remove experts of mixtures of transformers, and compare with routers that can't choose them; writes docs/experts.md.

Run it with ``tox run -e experts``, from the root of a clone. The models are tiny and have random weights. A run of some
families merges its records with those that docs/benchmarks/experts.json holds already:

    python docs/benchmarks/experts.py                   everything
    python docs/benchmarks/experts.py --only mixtral    one family
    python docs/benchmarks/experts.py --page            docs/experts.md anew from docs/benchmarks/experts.json
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from torch import nn  # noqa: E402

import depgraph as dg  # noqa: E402
from tests.experts import without_choosing  # noqa: E402
from tests.zoo import transformers  # noqa: E402
from tests.zoo.language import TRANSFORMERS, inputs  # noqa: E402

RECORDS, PAGE = ROOT / "docs/benchmarks/experts.json", ROOT / "docs/experts.md"
EXPERTS = 6
"""How many experts each layer has; no other axis that a model compares is as long."""

FAMILIES: dict[str, dict[str, Any]] = {
    "mixtral": {"num_local_experts": EXPERTS},
    "qwen2_moe": {"num_experts": EXPERTS},
    "qwen3_moe": {"num_experts": EXPERTS},
    "qwen3_next": {"num_experts": EXPERTS},
    "deepseek_v2": {"n_routed_experts": EXPERTS},
    "deepseek_v3": {"n_routed_experts": EXPERTS, "n_group": 2, "topk_group": 2},
    "glm4_moe": {"n_routed_experts": EXPERTS},
    "ernie4_5_moe": {"moe_num_experts": EXPERTS},
    "olmoe": {"num_experts": EXPERTS},
    "phimoe": {"num_local_experts": EXPERTS},
    "gpt_oss": {"num_local_experts": EXPERTS},
    "jamba": {"num_experts": EXPERTS},
    "granitemoe": {"num_local_experts": EXPERTS, "num_experts_per_tok": 2},
    "jetmoe": {"num_local_experts": EXPERTS, "num_experts_per_tok": 2},
    "dbrx": {"ffn_config": {"ffn_hidden_size": 64, "moe_num_experts": EXPERTS, "moe_top_k": 2}},
    "switch_transformers": {"num_experts": EXPERTS},
}
INTRODUCTION = """# Experts of transformers

Written by `tox run -e experts` from `docs/benchmarks/experts.json`, never by hand. Tiny models with random weights, six
experts in each layer, with the implementation of experts that transformers takes by default. Experts 1 and 4 of each layer go
(of experts in two groups the second one of each).

- *oracle*: the largest difference of logits between the smaller model and the whole one whose routers compare minus infinity
  at the experts that go; *effect*: that between the smaller model and the whole one as it is.
- *trace*: the smaller model's trace equals the plan's graph. *REAP*: `dg.criteria.REAP` scores the experts of every layer.
- *loads*: `dg.hf.from_pretrained` loads the saved model, and every logit is equal; *stock*: transformers' own classes do.
"""


REMOVED = (1, 4)
"""The experts that go, of each layer."""


def small_model(family: str) -> tuple[Any, dict[str, Any]]:
    """The zoo's model of a family, with as many experts as here and larger weights, and its inputs."""
    model_class, config_class, options, kind = TRANSFORMERS[family]
    config = getattr(transformers(), config_class)(**{**options, **FAMILIES[family]})
    model = getattr(transformers(), model_class)(config).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.2)  # with those of the configuration all tokens would look alike
    return model, {**inputs(kind), "use_cache": False}


def examined(family: str) -> dict[str, Any]:
    """The record of a family."""
    torch.manual_seed(0)
    model, given = small_model(family)
    graph = dg.trace(model, kwargs=given)
    record: dict[str, Any] = {"class": type(model).__name__, "versions": {"transformers": version("transformers")}}
    groups = [group for group in graph.groups if group.role == "expert" and group.lower_bound < group.size]
    if not groups:
        routers = [item for item in graph.pinned if item.dim == 0 and ("router" in item.tensor or "gate.weight" in item.tensor)]
        return {**record, "reason": routers[0].reason}
    reap = dg.score(graph, model, dg.criteria.REAP([given]))
    plan = dg.plan(graph, worst(groups), ratio=1 / 3, only=[group.name for group in groups])
    return {**record, "groups": len(groups), "scored": len(reap), **compared(model, graph, plan, given)}


def worst(groups: list[dg.Group]) -> dict[str, tuple[float, ...]]:
    """Scores by which the experts that are to go are the least important; of a group of experts in each block the same."""
    gone = {group.name: {index % group.size for index in REMOVED} for group in groups}
    return {group.name: tuple(float(k not in gone[group.name]) for k in range(group.size)) for group in groups}


def compared(model: Any, graph: dg.Graph, plan: dg.Plan, given: dict[str, Any]) -> dict[str, Any]:
    """The smaller model beside the oracle, the whole model, the plan's graph, and what is loaded."""
    small = dg.execute(plan, model)
    with torch.no_grad():
        got, whole = small(**given).logits, model(**given).logits
    oracle = without_choosing(model, EXPERTS, REMOVED, **given).logits
    record = {"oracle": float((got - oracle).abs().max()), "effect": float((got - whole).abs().max())}
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        saved = dg.hf.save_pretrained(plan, small, Path(folder) / "model")
        loads = torch.equal(got, dg.hf.from_pretrained(saved.folder)(**given).logits)
        stock = saved.stock and torch.equal(got, type(model).from_pretrained(saved.folder).eval()(**given).logits)
    trace = dg.trace(small, kwargs=given) == plan.apply(graph)
    return {**record, "trace": trace, "loads": loads, "stock": stock, "problem": next(iter(saved.problems), "")}


def page(records: dict[str, dict[str, Any]]) -> str:
    """The whole page."""
    heads = ["family", "experts prunable", "oracle", "effect", "trace", "REAP", "loads", "stock"]
    lines = [heads, ["---"] * len(heads)]
    for family in (name for name in FAMILIES if name in records):
        record = records[family]
        if "reason" in record:
            lines.append([family, f"no: {_cell(record['reason'])}", *["-"] * 6])
            continue
        prunable = f"yes, {record['groups']} layer{'s' if record['groups'] > 1 else ''}"
        stock = "yes" if record["stock"] else f"no: {_cell(record['problem'])}"
        answers = [_answer(record["trace"]), _answer(record["scored"] >= record["groups"]), _answer(record["loads"])]
        lines.append([family, prunable, f"{record['oracle']:.1e}", f"{record['effect']:.1f}", *answers, stock])
    done = [record for record in records.values() if "oracle" in record]
    versions = sorted({record["versions"]["transformers"] for record in records.values()})
    summary = (
        f"Of {len(records)} families, experts of {len(done)} can be removed; the oracle's largest difference is "
        f"{max(record['oracle'] for record in done):.1e}. transformers {' and '.join(versions)}.\n"
    )
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{INTRODUCTION}\n{summary}\n{table}\n"


def _answer(value: bool) -> str:
    return "yes" if value else "**no**"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", action="append", default=[])
    parser.add_argument("--page", action="store_true")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    transformers().logging.disable_progress_bar()
    records = json.loads(RECORDS.read_text()) if RECORDS.exists() else {}
    for family in () if arguments.page else arguments.only or FAMILIES:
        records[family] = examined(family)
        print(family, records[family], flush=True)
        RECORDS.write_text(json.dumps(records, indent=1, sort_keys=True) + "\n")
    PAGE.write_text(page(records))


if __name__ == "__main__":
    main()
