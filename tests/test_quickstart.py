"""The quickstart runs as a user runs it."""

import subprocess
import sys
from pathlib import Path


def test_the_quickstart_does_the_main_job(tmp_path):
    """It trains above 96 %, halves the MACs, verifies the square, and the saved file gives the same model again."""
    script = Path(__file__).parent.parent / "docs" / "quickstart.py"
    done = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True, check=True)
    rows = {line.split()[0]: line.split() for line in done.stdout.splitlines() if "%" in line}
    assert set(rows) == {"before", "pruned", "fine-tuned"}
    macs = {name: int(row[3].replace(",", "")) for name, row in rows.items()}
    assert macs["fine-tuned"] == macs["pruned"] <= 0.5 * macs["before"]
    assert float(rows["before"][1].rstrip("%")) > 96
    assert "identical outputs" in done.stdout and (tmp_path / "plan.json").exists()
