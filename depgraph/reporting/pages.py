"""The page: its template with style, script, layout library and data in their places."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from importlib.resources import files

from depgraph.reporting.folding import Encoded

_PLACE = re.compile(r"\{\{(\w+)\}\}")


def page(title: str, data: Encoded, text: str) -> str:
    """One HTML document. What comes from a model is in it as text alone: no name can become markup or code.

    Its policy allows exactly the style and scripts that are in it, by their digests, and no request.

    Args:
        title: its title.
        data: what `report_data` returns.
        text: what is shown where no script runs.
    """
    style, script, layout = (_part(name) for name in ("report.css", "report.js", "dagre.min.js"))
    values = {
        "title": html.escape(title),
        "style": style,
        "script": script,
        "layout": layout,
        "data": _inert(json.dumps(data, separators=(",", ":"), ensure_ascii=True)),
        "text": html.escape(text),
        "scripts": " ".join(_digest(part) for part in (layout, script)),
        "styles": _digest(style),
    }
    return _PLACE.sub(lambda found: values[found[1]], _part("report.html"))


def _part(name: str) -> str:
    return (files("depgraph.reporting") / "page" / name).read_text(encoding="utf-8")


def _inert(text: str) -> str:
    """JSON in which nothing can end or begin an element."""
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
