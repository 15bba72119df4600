"""What needs no torch runs where torch cannot be imported."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import depgraph as dg

pytestmark = pytest.mark.models

ROOT = Path(__file__).parents[1]
BLOCKED = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "numpy"):
            raise ModuleNotFoundError(f"{name} is blocked")
sys.meta_path.insert(0, Blocked())
"""
LAWS = ["tests/laws/test_indices.py", "tests/laws/test_polynomials.py", "tests/laws/test_solver.py"]
WORK = """
import depgraph as dg
graph = dg.Graph.load("graph.json")
plan = dg.plan(graph, {group.name: range(group.size) for group in graph.groups}, macs=0.5)
again = dg.cut(plan.apply(graph), "0.weight", [0], dim=0)
plan.then(again).save("plan.json")
print(plan.then(again).apply(graph).fingerprint, dg.explain(graph, "0.weight", dim=0).splitlines()[0])
"""


def test_the_block_blocks():
    """The negative control: torch cannot be imported behind it, nor can what needs it."""
    run = subprocess.run([sys.executable, "-c", BLOCKED + "import depgraph; depgraph.trace"], capture_output=True, text=True)
    assert run.returncode != 0 and "torch is blocked" in run.stderr


def test_laws_of_the_rooms_run():
    """The tests of index sets, polynomials and the solver pass with torch and numpy blocked."""
    command = BLOCKED + f"import pytest; sys.exit(pytest.main({[*LAWS, '-q', '-p', 'no:cacheprovider']!r}))"
    run = subprocess.run([sys.executable, "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


def test_a_saved_graph_is_planned_as_with_torch(tmp_path):
    """Load, plan, apply, compose, explain and save without torch; the plan does to the model what it says."""
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2))
    graph = dg.trace(model, torch.randn(3, 4))
    graph.save(tmp_path / "graph.json")
    run = subprocess.run([sys.executable, "-c", BLOCKED + WORK], cwd=tmp_path, capture_output=True, text=True, check=True)
    plan = dg.Plan.load(tmp_path / "plan.json")
    small = dg.trace(dg.execute(plan, model), torch.randn(3, 4))
    assert run.stdout.split()[0] == small.fingerprint == plan.apply(graph).fingerprint
