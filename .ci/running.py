"""How the checks of this folder run a command."""

import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]


def environment() -> dict[str, str]:
    """Variables for a process that must not find the repository by its path."""
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}


def run(*command: object, where: Path = ROOT) -> None:
    """A command that must succeed, without the repository on its path."""
    subprocess.run([str(part) for part in command], cwd=where, check=True, env=environment())
