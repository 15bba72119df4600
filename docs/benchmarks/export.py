"""Export pruned models: torch.export, ONNX and torch.compile; writes docs/export.md and its data.

Run it with ``tox run -e export``, from the root of a clone. Small models with random weights, on one thread. A run of some
models merges its records with those that docs/benchmarks/export.json holds already:

    python docs/benchmarks/export.py                  everything
    python docs/benchmarks/export.py --only llama     one model
    python docs/benchmarks/export.py --form onnx      one export, of all models
    python docs/benchmarks/export.py --page           docs/export.md anew from docs/benchmarks/export.json
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from torch import nn  # noqa: E402

import depgraph as dg  # noqa: E402
from tests.zoo import torchvision, transformers  # noqa: E402

RECORDS, PAGE = ROOT / "docs/benchmarks/export.json", ROOT / "docs/export.md"
PACKAGES = ("torch", "transformers", "onnx", "onnxscript", "onnxruntime")
INTRODUCTION = """# Pruned models, exported

Written by `tox run -e export` from `docs/benchmarks/export.json`, never by hand. Small models with random weights; half of
every group but heads goes (`ratio=0.5`, L2 magnitude), so that no width is what the class would give it. Each export is made
for any batch, and run on the example's, of two, and on one of three. *Difference*: the largest absolute difference to the
output of the pruned model in PyTorch, over both and over all outputs that are tensors. Seconds are those of the export and of
its first run, once, on one thread of a machine that does other work, so that they say no more than how long one waits.
"""
Exported = Callable[[dict[str, torch.Tensor]], list[torch.Tensor]]


def cnn() -> tuple[nn.Module, dict[str, Any]]:
    return torchvision().models.resnet18(num_classes=10).eval(), {"x": torch.randn(2, 3, 64, 64)}


def vit() -> tuple[nn.Module, dict[str, Any]]:
    options = {"num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 32, "patch_size": 8}
    config = transformers().ViTConfig(hidden_size=64, intermediate_size=128, **options)
    return transformers().ViTModel(config).eval(), {"pixel_values": torch.randn(2, 3, 32, 32)}


def llama() -> tuple[nn.Module, dict[str, Any]]:
    options = {"num_hidden_layers": 2, "num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": 100}
    config = transformers().LlamaConfig(hidden_size=64, intermediate_size=128, **options)
    return transformers().LlamaForCausalLM(config).eval(), {"input_ids": torch.randint(100, (2, 8)), "use_cache": False}


def bert() -> tuple[nn.Module, dict[str, Any]]:
    options = {"num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 100}
    config = transformers().BertConfig(hidden_size=64, intermediate_size=128, **options)
    inputs = {"input_ids": torch.randint(100, (2, 8)), "attention_mask": torch.ones(2, 8, dtype=torch.long)}
    return transformers().BertModel(config).eval(), inputs


MODELS = {"resnet18": cnn, "vit": vit, "llama": llama, "bert": bert}


def free_batch(inputs: dict[str, Any]) -> dict[str, Any]:
    """The first dimension of every tensor as one that may change."""
    return {name: {0: torch.export.Dim.DYNAMIC} if isinstance(value, torch.Tensor) else None for name, value in inputs.items()}


def with_torch_export(model: nn.Module, inputs: dict[str, Any]) -> Exported:
    """An exported program for any batch, saved and loaded again."""
    program = torch.export.export(model, (), inputs, dynamic_shapes=free_batch(inputs))
    with tempfile.TemporaryDirectory() as folder:
        torch.export.save(program, Path(folder) / "model.pt2")
        loaded = torch.export.load(Path(folder) / "model.pt2").module()
    return lambda given: tensors(loaded(**given))


def with_onnx(model: nn.Module, inputs: dict[str, Any]) -> Exported:
    """An ONNX file for any batch from the exporter that uses torch.export, run by ONNX Runtime."""
    import onnxruntime

    program = torch.onnx.export(model, (), kwargs=inputs, dynamo=True, dynamic_shapes=free_batch(inputs), verbose=False)
    with tempfile.TemporaryDirectory() as folder:
        program.save(str(Path(folder) / "model.onnx"))
        session = onnxruntime.InferenceSession(str(Path(folder) / "model.onnx"), providers=["CPUExecutionProvider"])
    names = [item.name for item in session.get_inputs()]
    return lambda given: [torch.from_numpy(each) for each in session.run(None, {name: given[name].numpy() for name in names})]


def with_compile(model: nn.Module, inputs: dict[str, Any]) -> Exported:
    """Compiled by inductor for any batch."""
    torch.compiler.reset()
    compiled = torch.compile(model, dynamic=True)
    return lambda given: tensors(compiled(**given))


FORMS = {
    "torch.export": with_torch_export,
    "ONNX (dynamo), ONNX Runtime": with_onnx,
    "torch.compile (inductor)": with_compile,
}


def tensors(outputs: Any) -> list[torch.Tensor]:
    """The tensors among a model's outputs."""
    if isinstance(outputs, torch.Tensor):
        return [outputs]
    values = outputs.values() if hasattr(outputs, "values") else outputs
    return [value for value in values if isinstance(value, torch.Tensor)]


def examined(name: str, forms: Sequence[str]) -> dict[str, Any]:
    """The record of a model, with the given exports."""
    torch.manual_seed(0)
    model, inputs = MODELS[name]()
    graph = dg.trace(model, kwargs=inputs)
    plan = dg.plan(graph, dg.score(graph, model, dg.Magnitude(p=2)), ratio=0.5)
    small = dg.execute(plan, model)
    record: dict[str, Any] = {"class": type(model).__name__, "params": [graph.params, plan.apply(graph).params]}
    for form in forms:
        try:
            record[form] = measured(small, inputs, FORMS[form])
        except Exception as error:  # noqa: BLE001  the table has what was raised
            record[form] = {"error": f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"}
    record["versions"] = {package: _version(package) for package in PACKAGES}
    return record


def measured(small: nn.Module, inputs: dict[str, Any], export: Callable[..., Exported]) -> dict[str, Any]:
    """The largest difference to the model itself, for two batches; and seconds, for the export and the first of them."""
    start = time.perf_counter()
    with torch.no_grad():
        exported = export(small, inputs)
        outputs = exported(inputs)
        seconds = time.perf_counter() - start
        three = {name: _three(value) for name, value in inputs.items()}
        pairs = [(outputs, tensors(small(**inputs))), (exported(three), tensors(small(**three)))]
    if any(len(met) != len(expected) for met, expected in pairs):
        raise AssertionError("the export returns another number of tensors")
    differences = [
        (one - other).abs().max().item() for met, expected in pairs for one, other in zip(met, expected, strict=True)
    ]
    return {"difference": max(differences), "seconds": round(seconds, 1)}


def _three(value: Any) -> Any:
    return torch.cat([value, value[:1]]) if isinstance(value, torch.Tensor) else value


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def page(records: dict[str, dict[str, Any]]) -> str:
    """The whole page."""
    lines = [["model", "export", "difference", "seconds"], ["---", "---", "---:", "---:"]]
    for name in (name for name in MODELS if name in records):
        record = records[name]
        for form in FORMS:
            row = record[form]
            title = f"{record['class']}, {record['params'][0]:,} → {record['params'][1]:,} parameters"
            if "error" in row:
                lines.append([title, form, f"**{row['error']}**", "-"])
            else:
                lines.append([title, form, f"{row['difference']:.1e}" if row["difference"] else "0", f"{row['seconds']}"])
    rows = [record[form] for record in records.values() for form in FORMS]
    worst = max((row["difference"] for row in rows if "error" not in row), default=0)
    done = sum("error" not in row for row in rows)
    used = {f"{package} {number}": None for record in records.values() for package, number in record["versions"].items()}
    summary = f"{done} of {len(rows)} exports run; the largest difference is {worst:.1e}. {', '.join(used)}.\n"
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{INTRODUCTION}\n{summary}\n{table}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", action="append", default=[])
    parser.add_argument("--form", default="")
    parser.add_argument("--page", action="store_true")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    records = json.loads(RECORDS.read_text()) if RECORDS.exists() else {}
    for name in () if arguments.page else arguments.only or MODELS:
        forms = [form for form in FORMS if arguments.form.lower() in form.lower()]
        records[name] = records.get(name, {}) | examined(name, forms)
        print(name, {form: records[name][form] for form in forms}, flush=True)
        RECORDS.write_text(json.dumps(records, indent=1, sort_keys=True) + "\n")
    PAGE.write_text(page(records))


if __name__ == "__main__":
    main()
