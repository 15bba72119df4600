"""The command `depgraph`: graphs, plans and checkpoints from a shell. `docs/cli.md` describes it.

Nothing of this package is imported by the others, and torch is loaded by those commands alone that need it.
"""

from __future__ import annotations

import os
import sys

__all__ = ["main"]


def main() -> None:
    """Run the command, as ``depgraph`` and ``python -m depgraph`` do."""
    try:
        import click  # noqa: F401
    except ImportError:
        sys.exit("depgraph: the command needs the package click; install depgraph[cli].")
    from depgraph.cli.commands import depgraph

    if sys.stdout is None:  # closed by who called: `depgraph show graph.json >&-`
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  it stays open until the process ends
    depgraph(prog_name="depgraph")
