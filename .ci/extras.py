"""Each extra alone: the wheel with it, beside nothing but what the package depends on, does what the extra is there for.

`package.py` calls `check`. Raises `AssertionError` or `CalledProcessError` at the first thing that is wrong.
"""

import re
import subprocess
import venv
import zipfile
from email.parser import Parser
from pathlib import Path

from running import ROOT, environment, run

MODEL = """
import os, subprocess, sys
from importlib.util import find_spec
import torch, depgraph as dg
torch.manual_seed(0)
model, x = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2)), torch.randn(3, 4)
graph = dg.trace(model, x)
plan = dg.cut(graph, "0.weight", [1, 5], dim=0)
table = dg.choosing.tabulate(graph, {"0.weight:0": range(8)}, [0.25, 0.5], lambda plan: sum(cut.count for cut in plan.cuts))
command = os.path.join(sys.prefix, "bin", "depgraph")
"""
# the smallest use of each; without the extra it fails, and what it says names the extra
USES = {
    "cli": """
graph.save("graph.json")
assert "0.weight" in subprocess.run([command, "show", "graph.json"], check=True, stdout=subprocess.PIPE, text=True).stdout
""",
    "files": """
repair = dg.refit(plan, model, [x])
repair.save("repair.safetensors")
assert dg.Repair.load("repair.safetensors").plan == plan.fingerprint
""",
    "hf": """
if find_spec("transformers") is None:
    os.makedirs("saved")
    open("saved/config.json", "w").close()
    plan.save("saved/depgraph_plan.json")
    dg.hf.from_pretrained("saved")
from transformers import LlamaConfig, LlamaForCausalLM
sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
llama, asked = LlamaForCausalLM(LlamaConfig(vocab_size=32, **sizes)).eval(), {"input_ids": torch.arange(8)[None]}
graph = dg.trace(llama, kwargs=asked)
plan = dg.cut(graph, "model.layers.0.mlp.gate_proj.weight", range(8), dim=0)
small = dg.execute(plan, llama)
assert dg.hf.save_pretrained(plan, small, "small").stock
with torch.no_grad():
    assert torch.equal(dg.hf.from_pretrained("small")(**asked).logits, small(**asked).logits)
""",
    "plots": """
table.plot().savefig("table.svg")
""",
    "progress": """
dg.score(graph, model, dg.criteria.Taylor([x], lambda model, x: model(x).square().mean(), progress=True))
""",
    "search": """
(best,) = dg.pareto(graph, table, {"params": 0.8})
assert best.counts["0.weight:0"] == 2
""",
    "test": """
dg.testing.assert_lawful(model, x)
""",
}
# nothing fails without these
ALSO = {
    "rich": """
import io
from rich.console import Console
out = io.StringIO()
Console(file=out, force_terminal=True, color_system="standard").print(graph.summary())
assert "\\x1b[" in out.getvalue()
""",
}
# for the work on the package itself: their environments in tox.ini use them, here only what they ask for is looked up
DEVELOPMENT = {"docs", "examples", "site", "zoo"}


def check(base: Path, wheel: Path, folder: Path) -> None:
    """Every extra of a wheel that is installed at `base`, each in an environment of its own that sees what is there."""
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        extras = set(Parser().parsestr(archive.read(metadata).decode()).get_all("Provides-Extra"))
        told = set(re.findall(r"depgraph\[(\w+)\]", "".join(archive.read(name).decode() for name in archive.namelist())))
    assert extras == {*USES, *ALSO, *DEVELOPMENT}, extras
    assert told <= extras, told
    asked = f"{wheel}[{','.join(sorted(DEVELOPMENT))}]"
    run(*_pip(base), "--dry-run", asked)
    for extra, use in {**USES, **ALSO}.items():
        if extra in USES:
            _refused(base, extra, use, folder)
        run(_beside(base, wheel, extra, folder), "-c", MODEL + use, where=folder)
        print(f"{extra}: used" + (", and named where it is missing" if extra in USES else ""))


def _pip(environment: Path) -> tuple[object, ...]:
    python = environment / "bin" / "python"
    return python, "-m", "pip", "install", "--quiet", "--constraint", ROOT / "constraints.txt"


def _beside(base: Path, wheel: Path, extra: str, folder: Path) -> Path:
    """An interpreter that sees all that is at `base`, and has the wheel and one extra of its own."""
    own = folder / f"extra-{extra}"
    venv.create(own, with_pip=True)
    (shared,), (site,) = base.glob("lib/python*/site-packages"), own.glob("lib/python*/site-packages")
    (site / "base.pth").write_text(f"{shared}\n")
    run(*_pip(own), "--no-deps", "--force-reinstall", wheel)
    run(*_pip(own), f"{wheel}[{extra}]")
    assert not (site / "torch").exists()
    return own / "bin" / "python"


def _refused(base: Path, extra: str, use: str, folder: Path) -> None:
    """Without the extra, the error says which it is."""
    seen = subprocess.run(
        [str(base / "bin" / "python"), "-c", MODEL + use], cwd=folder, env=environment(), capture_output=True, text=True
    )
    assert seen.returncode != 0 and f"install depgraph[{extra}]" in seen.stderr, (extra, seen.stderr)
