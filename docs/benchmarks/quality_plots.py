"""Small multiples of lines with bands, drawn by matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, MultipleLocator

Band = tuple[float, float, float, float]
"""x, and of y the mean, the smallest and the largest."""

COLUMNS = 3
Style = str | tuple[int, tuple[int, int]]
LOOKS: dict[str, tuple[str, Style]] = {
    "depgraph": ("#0b62a4", "-"),
    "Torch-Pruning": ("#d1601b", "--"),
    "random choice": ("#8a8a8a", ":"),
}
OTHERS: tuple[tuple[str, Style], ...] = (("#2f8f4e", "-"), ("#7a4fa3", "-."), ("#b5892b", (0, (1, 1))))
"""Colours and line styles: of names that recur, and of the others in turn."""
SETTINGS = {
    "svg.fonttype": "path",  # looks the same whatever fonts a reader has
    "svg.hashsalt": "depgraph",  # equal numbers give equal files
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
}


def small_multiples(
    file: Path, title: str, panels: Mapping[str, Mapping[str, Sequence[Band]]], x_label: str, y_label: str, low: float
) -> None:
    """One panel for each criterion, one line for each library; all share their axes.

    Args:
        file: where the picture goes; its suffix says in which format.
        title: above everything.
        panels: title of the panel to name of the line to its points.
        x_label: below each column; x are percentages.
        y_label: on the left.
        low: the smallest y that is shown; the largest is 1.
    """
    looks = _looks(list(dict.fromkeys(name for lines in panels.values() for name in lines)))
    columns = min(COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    with plt.rc_context(SETTINGS):
        figure, grid = plt.subplots(
            rows,
            columns,
            figsize=(3.1 * columns, 2.2 * rows + 1.1),
            sharex=True,
            sharey=True,
            squeeze=False,
            layout="constrained",
        )
        for axes, (name, lines) in zip(grid.flat, panels.items(), strict=False):
            axes.set_title(name)
            for line, points in reversed(lines.items()):
                _draw(axes, points, line, *looks[line])
        for axes in grid.flat[len(panels) :]:
            axes.remove()
        for axes in grid.flat[max(0, len(panels) - columns) : len(panels)]:
            axes.tick_params(labelbottom=True)
            axes.set_xlabel(x_label)
        first = grid[0, 0]
        first.set_ylim(low, 1 + 0.03 * (1 - low))
        first.set_xlim(left=0)
        first.xaxis.set_major_locator(MultipleLocator(10 if first.get_xlim()[1] <= 60 else 20))
        first.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        figure.supylabel(y_label, fontsize=9.5)
        figure.suptitle(title, fontsize=12, fontweight="bold")
        handles = {handle.get_label(): handle for axes in grid.flat for handle in axes.get_lines()}
        across = min(COLUMNS, len(looks))
        figure.legend([handles[name] for name in looks], list(looks), loc="outside lower center", ncols=across, frameon=False)
        figure.savefig(file, dpi=110, metadata={"Date": None} if file.suffix == ".svg" else None)
        plt.close(figure)
    if file.suffix == ".svg":
        file.write_text("".join(f"{line.rstrip()}\n" for line in file.read_text().splitlines()))


def _looks(names: Sequence[str]) -> dict[str, tuple[str, Style]]:
    """The colour and the line style of each name."""
    others = [name for name in names if name not in LOOKS]
    looks = LOOKS | {name: OTHERS[number % len(OTHERS)] for number, name in enumerate(others)}
    return {name: looks[name] for name in names}


def _draw(axes: Axes, points: Sequence[Band], name: str, colour: str, style: Style) -> None:
    """The means as a line with a mark at each, the range over the seeds as a band."""
    x, mean, smallest, largest = zip(*sorted(points), strict=True)
    axes.fill_between(x, smallest, largest, color=colour, alpha=0.14, linewidth=0)
    axes.plot(x, mean, color=colour, linestyle=style, linewidth=1.7, marker="o", markersize=3, label=name)
