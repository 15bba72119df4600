"""Small multiples of lines with bands, as SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

Band = tuple[float, float, float, float]
"""x, and of y the mean, the least and the most."""

WIDTH, HEIGHT, LEFT, TOP, GAP_X, GAP_Y, COLUMNS = 250, 170, 66, 86, 34, 62, 3
LOOKS = {"depgraph": ("#0b62a4", ""), "Torch-Pruning": ("#d1601b", "6 3"), "random choice": ("#8a8a8a", "2 3")}
OTHERS = (("#2f8f4e", ""), ("#7a4fa3", "8 2 2 2"))
"""Colours and dashes: of names that recur, and of the others in turn."""


def small_multiples(
    title: str, panels: Mapping[str, Mapping[str, Sequence[Band]]], x_label: str, y_label: str, low: float, high: float = 1.0
) -> str:
    """One panel for each criterion, one line for each library; all share their axes.

    Args:
        title: above everything.
        panels: title of the panel to name of the line to its points.
        x_label: below each column; x are percentages.
        y_label: beside each row.
        low: the least y that is shown.
        high: the most y that is shown.
    """
    names = list(dict.fromkeys(name for lines in panels.values() for name in lines))
    looks = _looks(names)
    points = [point for lines in panels.values() for line in lines.values() for point in line]
    most = max(point[0] for point in points)
    right = max(20.0, -(-most // 10) * 10 if most <= 60 else -(-most // 20) * 20)
    rows = -(-len(panels) // COLUMNS)
    width = LEFT + min(COLUMNS, len(panels)) * (WIDTH + GAP_X)
    height = TOP + rows * (HEIGHT + GAP_Y)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="Helvetica, Arial, sans-serif" font-size="11" fill="#222222">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        f'<text x="{LEFT}" y="24" font-size="15" font-weight="bold">{escape(title)}</text>',
        *_legend(names, looks),
    ]
    for number, (name, lines) in enumerate(panels.items()):
        left = LEFT + number % COLUMNS * (WIDTH + GAP_X)
        top = TOP + number // COLUMNS * (HEIGHT + GAP_Y)
        labels = (x_label, y_label if number % COLUMNS == 0 else "")
        parts += _axes(name, left, top, right, (low, high), labels)
        for line, found in reversed(lines.items()):
            parts += _line(found, looks[line], left, top, right, low, high)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _legend(names: Sequence[str], looks: Mapping[str, tuple[str, str]]) -> list[str]:
    parts, x = [], float(LEFT)
    for name in names:
        colour, dash = looks[name]
        parts.append(f'<line x1="{x}" y1="46" x2="{x + 26}" y2="46" stroke="{colour}" stroke-width="2.2"{dash}/>')
        parts.append(f'<text x="{x + 32}" y="50">{escape(name)}</text>')
        x += 58 + 6.0 * len(name)
    return parts


def _looks(names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """The colour of each name, and its dashes as an attribute."""
    others = [name for name in names if name not in LOOKS]
    looks = LOOKS | {name: OTHERS[number % len(OTHERS)] for number, name in enumerate(others)}
    return {name: (colour, f' stroke-dasharray="{dash}"' if dash else "") for name, (colour, dash) in looks.items()}


def _axes(name: str, left: float, top: float, right: float, shown: tuple[float, float], labels: tuple[str, str]) -> list[str]:
    low, high = shown
    parts = [f'<text x="{left}" y="{top - 8}" font-weight="bold">{escape(name)}</text>']
    for step in range(6):
        y, value = top + HEIGHT * (1 - step / 5), low + (high - low) * step / 5
        parts.append(f'<line x1="{left}" y1="{y:.1f}" x2="{left + WIDTH}" y2="{y:.1f}" stroke="#e4e4e4"/>')
        parts.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{value:.2f}</text>')
    every = 10 if right <= 60 else 20
    for value in range(0, int(right) + 1, every):
        x = left + WIDTH * value / right
        parts.append(f'<line x1="{x:.1f}" y1="{top + HEIGHT}" x2="{x:.1f}" y2="{top + HEIGHT + 4}" stroke="#555555"/>')
        parts.append(f'<text x="{x:.1f}" y="{top + HEIGHT + 16}" text-anchor="middle">{value}</text>')
    parts.append(f'<path d="M{left} {top}V{top + HEIGHT}H{left + WIDTH}" fill="none" stroke="#555555"/>')
    parts.append(f'<text x="{left + WIDTH / 2}" y="{top + HEIGHT + 32}" text-anchor="middle">{escape(labels[0])}</text>')
    if labels[1]:
        x, y = left - 44, top + HEIGHT / 2
        parts.append(f'<text x="{x}" y="{y}" text-anchor="middle" transform="rotate(-90 {x} {y})">{escape(labels[1])}</text>')
    return parts


def _line(
    found: Sequence[Band], look: tuple[str, str], left: float, top: float, right: float, low: float, high: float
) -> list[str]:
    def place(x: float, y: float) -> str:
        inside = min(max(y, low), high)
        return f"{left + WIDTH * x / right:.1f},{top + HEIGHT * (high - inside) / (high - low):.1f}"

    colour, dash = look
    ordered = sorted(found)
    band = [place(x, most) for x, _, _, most in ordered] + [place(x, least) for x, _, least, _ in reversed(ordered)]
    line = [place(x, mean) for x, mean, _, _ in ordered]
    marks = [place(x, mean).split(",") for x, mean, _, _ in ordered]
    return [
        f'<polygon points="{" ".join(band)}" fill="{colour}" fill-opacity="0.14"/>',
        f'<polyline points="{" ".join(line)}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>',
        *(f'<circle cx="{x}" cy="{y}" r="2.4" fill="{colour}"/>' for x, y in marks),
    ]
