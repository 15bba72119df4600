"""Tables and lines as text, Markdown, HTML and for rich: what summaries are shown with.

Names come from files, which may come from anywhere: whatever they hold, they are shown as text and nothing else.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from html import escape
from typing import Any

from attrs import asdict, frozen

MOST_LINES = 40
"""So many lines has a list at most; tables of modules have as many as there are."""


@frozen
class Table:
    """Rows of texts.

    Attributes:
        headings: one for each column.
        rows: a text for each column.
        numbers: positions of the columns that are aligned at the right.
        levels: how deep each row is indented.
    """

    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numbers: frozenset[int] = frozenset()
    levels: tuple[int, ...] = ()

    def level(self, row: int) -> int:
        """How deep a row is indented."""
        return self.levels[row] if self.levels else 0


@frozen
class Section:
    """A part of what is shown: a heading with a table, or with lines below it."""

    title: str
    table: Table | None = None
    lines: tuple[str, ...] = ()


class Shown:
    """What can be shown as text, Markdown, HTML and by rich. Subclasses say of which sections they consist."""

    __slots__ = ()

    @abstractmethod
    def sections(self) -> Iterator[Section]:
        """What is shown, in order."""

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain data, for JSON."""
        return asdict(self)  # type: ignore[arg-type]  # subclasses are attrs classes

    def to_markdown(self) -> str:
        """The same as Markdown, for pull requests and issues."""
        return "\n\n".join(_markdown(section) for section in self.sections())

    def __str__(self) -> str:
        return "\n\n".join(_plain(section) for section in self.sections())

    def _repr_html_(self) -> str:
        return "".join(_html(section) for section in self.sections())

    def __rich__(self) -> Any:
        return rich_of(self.sections())


def listed(lines: Sequence[str], rest: str) -> tuple[str, ...]:
    """The first lines of a list, and where the others are.

    >>> listed(["line"] * 50, "in graph.groups")[-1]
    '... and 11 more, in graph.groups'
    """
    if len(lines) <= MOST_LINES:
        return tuple(lines)
    return (*lines[: MOST_LINES - 1], f"... and {len(lines) - MOST_LINES + 1} more, {rest}")


def printable(text: str) -> str:
    """A text without control characters, which a terminal would obey."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _plain(section: Section) -> str:
    lines = [printable(section.title)] if section.title else []
    lines += _plain_table(section.table) if section.table is not None else []
    return "\n".join([*lines, *(f"  {printable(line)}" for line in section.lines)])


def _plain_table(table: Table) -> Iterator[str]:
    rows = [table.headings, *(_indented(table, row, "  ", printable) for row in range(len(table.rows)))]
    widths = [max(len(row[column]) for row in rows) for column in range(len(table.headings))]
    for row in rows:
        cells = (
            cell.rjust(width) if column in table.numbers else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        yield "  ".join(cells).rstrip()


def _indented(table: Table, row: int, by: str, shown: Callable[[str], str]) -> tuple[str, ...]:
    first, *others = map(shown, table.rows[row])
    return (by * table.level(row) + first, *others)


def _markdown(section: Section) -> str:
    lines = [f"**{_for_markdown(section.title)}**", ""] if section.title else []
    if section.table is not None:
        table = section.table
        rules = ["---:" if column in table.numbers else "---" for column in range(len(table.headings))]
        rows = [table.headings, rules, *(_indented(table, row, "&emsp;", _for_markdown) for row in range(len(table.rows)))]
        lines += [f"| {' | '.join(row)} |" for row in rows]
    lines += [f"- {_for_markdown(line)}" for line in section.lines]
    return "\n".join(lines).rstrip()


def _for_markdown(text: str) -> str:
    text = printable(text).replace("&", "&amp;").replace("<", "&lt;")
    return "".join(f"\\{character}" if character in r"\`*_{}[]#|~" else character for character in text)


def _html(section: Section) -> str:
    parts = [f"<p><b>{_for_html(section.title)}</b></p>"] if section.title else []
    if section.table is not None:
        parts.append(_html_table(section.table))
    if section.lines:
        parts.append(f"<ul>{''.join(f'<li>{_for_html(line)}</li>' for line in section.lines)}</ul>")
    return "".join(parts)


def _html_table(table: Table) -> str:
    def row_of(cells: Iterable[str], tag: str, level: int = 0) -> str:
        shown = (
            f'<{tag} style="text-align: {"right" if column in table.numbers else "left"}'
            f'{f"; padding-left: {level + 0.5}em" if level and not column else ""}">{_for_html(cell)}</{tag}>'
            for column, cell in enumerate(cells)
        )
        return f"<tr>{''.join(shown)}</tr>"

    body = "".join(row_of(cells, "td", table.level(row)) for row, cells in enumerate(table.rows))
    return f"<table><thead>{row_of(table.headings, 'th')}</thead><tbody>{body}</tbody></table>"


def _for_html(text: str) -> str:
    return escape(printable(text))


def rich_of(sections: Iterable[Section]) -> Any:
    """The sections for rich, which must be installed."""
    from rich.console import Group
    from rich.table import Table as RichTable
    from rich.text import Text

    parts: list[Any] = []
    for section in sections:
        parts += [Text("")] if parts else []
        parts += [Text(printable(section.title), style="bold")] if section.title else []
        if section.table is not None:
            grid = RichTable(box=None, pad_edge=False, header_style="dim")
            for column, heading in enumerate(section.table.headings):
                right = column in section.table.numbers
                grid.add_column(heading, justify="right" if right else "left", no_wrap=right, overflow="fold")
            for row in range(len(section.table.rows)):
                grid.add_row(*map(Text, _indented(section.table, row, "  ", printable)))
            parts.append(grid)
        parts += [Text(f"  {printable(line)}") for line in section.lines]
    return Group(*parts)
