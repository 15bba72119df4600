"""The files that commands take: graphs and plans, told apart by what they say of themselves; scores; and output."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import click

from depgraph import codec
from depgraph.algebra.numbers import is_number
from depgraph.errors import DocumentError, PlanError
from depgraph.graph.graph import Graph
from depgraph.graph.tables import Shown
from depgraph.messages import shortened
from depgraph.plans.plan import Plan


def load(path: str) -> Graph | Plan:
    """The graph or plan of a file. Raises `DocumentError` for any other file."""
    kind = kind_of(path)
    if kind == "graph":
        return Graph.load(path)
    if kind == "plan":
        return Plan.load(path)
    raise DocumentError(f"{path} is neither a graph nor a plan; pass a file that graph.save() or plan.save() wrote.")


def load_graph(path: str) -> Graph:
    """The graph of a file. Raises `DocumentError` for any other file."""
    value = load(path)
    if not isinstance(value, Graph):
        raise DocumentError(f"{path} is a plan; expected a graph, such as `depgraph trace` writes.")
    return value


def load_plan(path: str) -> Plan:
    """The plan of a file. Raises `DocumentError` for any other file."""
    value = load(path)
    if not isinstance(value, Plan):
        raise DocumentError(f"{path} is a graph; expected a plan, such as `depgraph plan` writes.")
    return value


def kind_of(path: str) -> str:
    """What a document says that it is; empty where it says nothing."""
    try:
        with Path(path).open(encoding="utf-8") as file:
            head = file.read(4096)
    except UnicodeDecodeError:
        return ""
    found = re.match(r'\s*\{\s*"format":\s*"depgraph\.(graph|plan)"', head)
    return found[1] if found else ""


def load_scores(path: str) -> dict[str, list[float]]:
    """Scores from a file of JSON: an object from names of groups to lists of numbers.

    Raises:
        DocumentError: the file holds anything else.
    """
    try:
        content = json.loads(codec.read_text(path, "scores"))
    except (ValueError, RecursionError) as error:
        raise DocumentError(f"{path} is no JSON: {shortened(str(error))}") from None
    scores = content.get("scores", content) if isinstance(content, dict) else None
    if not isinstance(scores, dict) or not all(
        isinstance(values, list) and all(is_number(value) for value in values) for values in scores.values()
    ):
        raise DocumentError(f"{path}: expected an object from names of groups to lists of numbers, one for each index.")
    return scores


def show(value: Shown, form: str) -> None:
    """Print a summary in the form that was asked for; for people in colour where rich is installed and a terminal reads."""
    if form == "json":
        click.echo(json.dumps(value.to_dict(), indent=1))
    elif form == "markdown":
        click.echo(value.to_markdown())
    elif form == "html":
        click.echo(value._repr_html_())
    elif not (sys.stdout.isatty() and _printed_by_rich(value)):
        click.echo(str(value))


def _printed_by_rich(value: Any) -> bool:
    try:
        from rich.console import Console
    except ImportError:
        return False
    Console().print(value)
    return True


def refuse_existing(path: str | None, force: bool) -> None:
    """Raise `PlanError` for a file that would be written over."""
    if path is not None and Path(path).exists() and not force:
        raise PlanError(f"{path} exists; give --force to write over it.")


def size_of(path: str) -> int:
    """Bytes of a file, or of all files of a folder."""
    place = Path(path)
    return sum(file.stat().st_size for file in place.rglob("*") if file.is_file()) if place.is_dir() else place.stat().st_size
