"""Curves as pictures: the look that all of them share. No display is needed."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from irverify.ir.program import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
"""Those of Okabe and Ito, which people tell apart whatever colours they see."""
DASHES = ("-", "--", "-.", ":")
GREY = "#666666"
MARKED = 30
"""So many points and fewer are marked."""
WIDE = 3
"""The most panels beside each other."""
DECADES = 100.0
"""Numbers of which the largest is so many times the smallest stand on a logarithmic axis."""
UNDATED = {".png": {"Software": "irverify"}, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
"""Kinds of pictures, by suffix, and what is written into them, so that the same curves make the same file."""


class Line(NamedTuple):
    """A curve: its name, where its points stand, their values."""

    name: str
    x: Sequence[float]
    y: Sequence[float]


@dataclass(frozen=True)
class Panel:
    """Curves over the same numbers; `beside` says what is counted. The vertical axis starts at 0, or where `close`
    near the least value."""

    title: str
    beside: str
    lines: tuple[Line, ...]
    close: bool = False


def draw_panels(path: Path, below: str, panels: Sequence[Panel], words: Sequence[str] | None = None) -> None:
    """Draws panels, whose horizontal axis is `below`, as a .png, .svg or .pdf file. FileError where it cannot be
    written. With `words` the points stand at 0, 1, ..., and are called so. Dollar signs in names mean themselves."""
    columns = min(WIDE, len(panels)) if len(panels) != WIDE + 1 else 2
    rows = -(-len(panels) // columns)
    figure = new_figure(5.2 * columns, 3.6 * rows, dpi=120)
    places: list[Axes] = figure.subplots(rows, columns, squeeze=False).flatten().tolist()
    for axes, panel in zip(places, panels, strict=False):
        plot(axes, panel.lines)
        axes.set_title(panel.title, fontsize=10)
        axes.set_xlabel(below, parse_math=False)
        axes.set_ylabel(panel.beside)
        _scale(axes, panel, words)
        dress(axes)
        for text in axes.legend(fontsize=8, frameon=False).get_texts():
            text.set_parse_math(False)
    for axes in places[len(panels) :]:
        axes.remove()
    write_figure(figure, path)


def new_figure(width: float, height: float, dpi: int) -> Figure:
    """An empty figure, its size in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=dpi, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def plot(axes: Axes, lines: Sequence[Line]) -> None:
    """Draws curves, each with its colour and dashes; few points are marked."""
    for number, line in enumerate(lines):
        axes.plot(
            line.x,
            line.y,
            color=COLOURS[number % len(COLOURS)],
            linestyle=DASHES[number % len(DASHES)],
            linewidth=1.6,
            marker="o" if len(line.y) <= MARKED else None,
            markersize=3,
            label=line.name,
        )


def dress(axes: Axes) -> None:
    """A light grid behind the curves, and no frame above and to the right."""
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def write_figure(figure: Figure, path: Path) -> None:
    """Writes a figure in the format of the file's suffix, as a whole or not at all. FileError where that is
    impossible."""
    from matplotlib import rc_context

    content = io.BytesIO()
    with rc_context({"svg.hashsalt": "irverify"}):  # else the names inside are others each time
        figure.savefig(content, format=path.suffix[1:], metadata=UNDATED[path.suffix])
    write_whole(path, content.getvalue())


def _scale(axes: Axes, panel: Panel, words: Sequence[str] | None) -> None:
    numbers = [number for line in panel.lines for number in line.x]
    above = [number for number in numbers if number > 0]
    if words is not None:
        axes.set_xticks(range(len(words)), words, parse_math=False)
    elif above and min(numbers) >= 0 and max(above) / min(above) >= DECADES:
        axes.set_xscale("symlog", linthresh=min(above))  # which has a place for 0
    if not panel.close:
        axes.set_ylim(bottom=0)
