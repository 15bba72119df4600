"""The scripts among the documents run as a user runs them."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.models


def test_the_quickstart_does_the_main_job(tmp_path):
    """It trains above 96 %, halves the MACs, repairs most of the loss, and the saved file gives the same model again."""
    script = Path(__file__).parents[2] / "docs" / "examples" / "quickstart.py"
    command = [sys.executable, script, "--epochs", "6", "--samples", "900"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    rows = {line.split()[0]: line.split() for line in done.stdout.splitlines() if "%" in line}
    assert set(rows) == {"before", "pruned", "repaired", "fine-tuned"}
    macs = {name: int(row[3].replace(",", "")) for name, row in rows.items()}
    assert macs["fine-tuned"] == macs["repaired"] == macs["pruned"] <= 0.5 * macs["before"]
    accuracy = {name: float(row[1].rstrip("%")) for name, row in rows.items()}
    assert accuracy["before"] > 96
    assert accuracy["repaired"] > max(accuracy["pruned"] + 10, accuracy["before"] - 3)
    assert "identical outputs" in done.stdout and (tmp_path / "plan.json").exists()


def test_sparse_training_makes_pruning_cheap():
    """At equal cost and without fine-tuning, networks trained with a penalty keep more than the one trained without."""
    script = Path(__file__).parents[2] / "docs" / "examples" / "sparse_training.py"
    done = subprocess.run([sys.executable, script, "--samples", "700"], capture_output=True, text=True, check=True)
    rows = {line.split()[0]: line.split() for line in done.stdout.splitlines() if "%" in line and "remain" not in line}
    assert set(rows) == {"plain", "growing", "graded"}
    before, pruned = ({name: float(row[column].rstrip("%")) for name, row in rows.items()} for column in (1, 2))
    assert min(before.values()) > 96
    assert len({row[4] for row in rows.values()}) == 1
    assert min(pruned["growing"], pruned["graded"]) > pruned["plain"] + 5
