"""Tables for a terminal, a pipe or a file: the same text, as wide as it has to be."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """Rows of text under headings. Columns named in `numbers` are aligned to the right."""

    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numbers: frozenset[str] = frozenset()
    title: str = ""

    def render(self, width: int | None = None) -> str:
        """The table as text. `width` limits the lines: the last column is folded; None lets it be as wide as it is."""
        from rich.box import SIMPLE_HEAD
        from rich.console import Console
        from rich.table import Table as RichTable
        from rich.text import Text

        drawn = RichTable(
            box=SIMPLE_HEAD, pad_edge=False, show_edge=False, title=self.title or None, title_justify="left"
        )
        for index, heading in enumerate(self.headings):
            last = index == len(self.headings) - 1
            drawn.add_column(
                heading,
                justify="right" if heading in self.numbers else "left",
                no_wrap=not last,
                overflow="fold",
            )
        for row in self.rows:
            drawn.add_row(*(Text(cell) for cell in row))
        out = io.StringIO()
        Console(file=out, width=width or 10_000, color_system=None, safe_box=False).print(drawn)
        return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


def table(
    headings: Sequence[str], rows: Sequence[Sequence[str]], numbers: Sequence[str] = (), title: str = ""
) -> Table:
    return Table(tuple(headings), tuple(tuple(row) for row in rows), frozenset(numbers), title)


def number(value: float | None) -> str:
    """A number in few characters: four significant digits."""
    return "-" if value is None else f"{value:.4g}"
