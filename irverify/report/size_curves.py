"""Curves of how large networks are for a verifier, as a table and as a picture (paper 1, figures 2 and 3)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from irverify.pipeline.catalog import Value, print_value
from irverify.report.lines import COLOURS, Line, Panel, draw_panels
from irverify.report.points import ATTACK, Point
from irverify.report.sizes import Margin, by_activation, plain_number
from irverify.report.tables import table

MODEL = "model"
FEW = len(COLOURS) - 1
"""So many activations, and fewer, are shown one by one beside their sum."""
VISIBLE = 0.01
"""Nonzero parameters that differ by a smaller share of the largest number make no panel."""
MARGINS: dict[str, Margin] = {"margin positive": "positive", "not positive": "not positive", "open": "open"}
"""How the table calls what came of the smallest margins."""


def curve_tables(name: str, points: Sequence[Point]) -> str:
    """The points as tables for people, a row each, `name` above what they stand at, without what was not measured."""
    several = len({point.model for point in points}) > 1
    networks = {
        "nonzeros": [plain_number(point.size.nonzeros) for point in points],
        "neurons": [plain_number(point.size.neurons) for point in points],
        "pruned": [plain_number(point.pruned) if _pruned(points) else "" for point in points],
        "output change": [_cell(point.change) for point in points],
        "accuracy": [_cell(point.size.accuracy) for point in points],
        "PGD accuracy": [_cell(point.resistant) for point in points],
        MODEL: [point.model if several else "" for point in points],
    }
    unstable = {
        "all": [_cell(point.unstable) for point in points],
        **{layer: [_cell(count) for count in counts] for layer, counts in _by_layer(points).items()},
    }
    programs = {
        "binaries": [_cell(None if (program := point.size.program) is None else program.binaries) for point in points],
        "s to solve": [_cell(point.seconds) for point in points],
        **{
            heading: [plain_number(point.margins(margin)) if point.solved else "" for point in points]
            for heading, margin in MARGINS.items()
        },
    }
    titles = {"Networks": networks, f"Unstable neurons, {_over(points)}": unstable, "Mixed-integer programs": programs}
    at = [word_of(point.x) for point in points]
    tables = [_columns(title, (name, at), columns) for title, columns in titles.items()]
    return "\n".join(text for text in tables if text)


def _columns(title: str, at: tuple[str, list[str]], columns: dict[str, list[str]]) -> str:
    """A table of the columns that have something to say; nothing where none has."""
    shown = {heading: cells for heading, cells in columns.items() if any(cells)}
    if not shown:
        return ""
    numbers = [heading for heading in (at[0], *shown) if heading != MODEL]
    rows = list(zip(at[1], *shown.values(), strict=True))
    return f"{title}\n{table((at[0], *shown), rows, numbers).render()}"


def _over(points: Sequence[Point]) -> str:
    count = points[-1].regions
    return f"mean over {count} region{'s' if count != 1 else ''}"


def draw_curve(path: Path, name: str, points: Sequence[Point]) -> None:
    """Draws what was measured as a .png, .svg or .pdf file: unstable neurons, seconds of solving, accuracies, neurons
    and parameters that are left. FileError where it cannot be written."""
    numbers = [point.x for point in points if _is_number(point.x)]
    if len(numbers) == len(points):
        points = sorted(points, key=lambda point: _finite(point.x))
        draw_panels(path, name, _panels(points, [_finite(point.x) for point in points]))
    else:
        places = [float(place) for place in range(len(points))]
        draw_panels(path, name, _panels(points, places), [word_of(point.x) for point in points])


def _panels(points: Sequence[Point], at: Sequence[float]) -> list[Panel]:
    """What there is to draw; `at` is where the points stand."""

    def line(name: str, values: Sequence[float | None]) -> Line:
        known = [(x, y) for x, y in zip(at, values, strict=True) if y is not None]
        return Line(name, [x for x, _ in known], [y for _, y in known])

    def panel(title: str, beside: str, *lines: Line, close: bool = False) -> Panel:
        return Panel(title, beside, tuple(line for line in lines if line.y), close)

    solving = f"until the margin's sign is known, limit {points[0].limit or 0:g} s"
    left = [float(point.size.neurons) for point in points]
    gone = [float(point.pruned) if _pruned(points) else None for point in points]
    weights = [float(point.size.nonzeros) for point in points]
    panels = [
        panel("Unstable neurons", _over(points), *(line(name, counts) for name, counts in _by_layer(points).items()),
              line("all", [point.unstable for point in points])),
        panel("Solving the mixed-integer program", "mean seconds a region",
              line(solving, [point.seconds for point in points])),
        panel("Accuracy", "inputs (%)", line("clean", [_percent(point.size.accuracy) for point in points]),
              line(f"PGD ({ATTACK})", [_percent(point.resistant) for point in points]),
              line("margin positive", [_percent(_proved(point)) for point in points]), close=True),
        panel("Neurons", "elements", line("left", left), line("pruned", gone)) if len(set(left)) > 1 else None,
        panel("Nonzero parameters", "entries", line("left", weights))
        if max(weights) - min(weights) > VISIBLE * max(weights) else None,
    ]  # fmt: skip
    return [panel for panel in panels if panel is not None and panel.lines] or [
        panel("Nonzero parameters", "entries", line("left", weights))
    ]


def _by_layer(points: Sequence[Point]) -> dict[str, list[float | None]]:
    """Unstable neurons of each activation at each point, where there are a few. Networks whose activations are called
    differently are compared by their order."""
    found = [by_activation(point.size) for point in points]
    names = max((list(layers) for layers in found), key=len)
    if not 1 < len(names) <= FEW:
        return {}
    if all(set(layers) <= set(names) for layers in found):  # one that has gone is stable throughout
        return {f"%{name}": [layers.get(name, 0.0) for layers in found] for name in names}
    counts = [[*layers.values(), *[None] * (len(names) - len(layers))] for layers in found]
    return {f"layer {place + 1}": [count[place] for count in counts] for place in range(len(names))}


def _proved(point: Point) -> float | None:
    return point.margins("positive") / len(point.solved) if point.solved else None


def _pruned(points: Sequence[Point]) -> bool:
    return any(point.pruned for point in points)


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def _is_number(x: Value) -> bool:
    return isinstance(x, int | float) and not isinstance(x, bool) and math.isfinite(x)


def _finite(x: Value) -> float:
    assert isinstance(x, int | float)
    return float(x)


def word_of(x: Value) -> str:
    """What a point stands at, in few characters."""
    return f"{x:g}" if isinstance(x, float) else print_value(x)


def _cell(number: float | None) -> str:
    return "" if number is None else plain_number(number)
