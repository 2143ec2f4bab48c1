"""The course of a training run as one picture: accuracies, loss, radius, and what else follows a schedule."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from irverify.report.lines import GREY, Line, dress, new_figure, plot, write_figure
from irverify.train.checkpoint import Row
from irverify.train.recipe import Recipe

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FILE = "curves.png"
MEASURED = (("clean", "clean accuracy"), ("PGD", "PGD accuracy"), ("certified", "certified accuracy"))


def draw_curves(folder: Path, recipe: Recipe, rows: Sequence[Row]) -> Path:
    """Draws the log of a run as `FILE` in the folder, and returns its path. FileError where it cannot be written.

    Accuracies are those on test images, losses means over the training images of an epoch (each term times its weight
    at the end of the epoch), radii in raw input units. No display is needed.
    """
    figure = new_figure(13, 6.4, dpi=150)
    panels = figure.subplots(2, 2, sharex=True).flatten().tolist()
    for panel, draw in zip(panels, (_accuracies, _loss, _radius, _schedules), strict=True):
        draw(panel, recipe, rows)
        for number, epoch in enumerate(pruned_after(rows)):
            panel.axvline(epoch, color=GREY, linestyle=":", linewidth=0.8, label=None if number else "pruning")
        if panel.lines:
            panel.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8, frameon=False)  # beside the curves
        dress(panel)
    for panel in panels[2:]:
        panel.set_xlabel("epoch")
        panel.set_xlim(0, max([1, *(int(row["epoch"] or 0) for row in rows)]) * 1.02)
        panel.xaxis.get_major_locator().set_params(integer=True)
    figure.suptitle(f"{recipe.network} trained by {recipe.name}", fontsize=12)
    write_figure(figure, folder / FILE)
    return folder / FILE


def pruned_after(rows: Sequence[Row]) -> list[float]:
    """The epochs after which something was pruned."""
    return [float(row["epoch"] or 0) for row in rows if row.get("clean accuracy before pruning") is not None]


def _accuracies(axes: Axes, recipe: Recipe, rows: Sequence[Row]) -> None:
    lines = [_column(rows, column, name, 100.0) for name, column in MEASURED]
    plot(axes, [line._replace(name=f"{line.name}, {line.y[-1]:.1f} % at last") for line in lines if line.y])
    axes.set_title(f"Accuracy; PGD and certified ({recipe.evaluation.certify}) at eps {recipe.test_eps:g}", fontsize=10)
    axes.set_ylabel("test images (%)")
    axes.set_ylim(0, 102)


def _loss(axes: Axes, recipe: Recipe, rows: Sequence[Row]) -> None:
    terms = [
        Line(term.name if term.weight.last == 1 else f"{term.name} x weight", line.x, line.y)
        for term in recipe.terms
        if (line := _weighted(rows, term.name, term.weight.last)).y
    ]
    whole = _column(rows, "loss", "whole loss")
    plot(axes, terms if len(terms) == 1 and terms[0].y == whole.y else [whole, *terms])
    axes.set_title("Training loss", fontsize=10)
    axes.set_ylabel("mean over an epoch")


def _radius(axes: Axes, recipe: Recipe, rows: Sequence[Row]) -> None:
    plot(axes, [_column(rows, "eps", "in training")])
    axes.axhline(recipe.test_eps, color=GREY, linestyle=":", linewidth=1.2, label=f"tested at {recipe.test_eps:g}")
    norm = {"inf": "l-infinity", "2": "l2", "1": "l1"}[recipe.norm]
    axes.set_title("Radius of the perturbation", fontsize=10)
    axes.set_ylabel(f"eps ({norm}, raw input units)")
    axes.set_ylim(bottom=0)


def _schedules(axes: Axes, recipe: Recipe, rows: Sequence[Row]) -> None:
    """Each as a share of its largest value, since weights and rates differ by powers of ten."""
    names = [name for name in dict.fromkeys(name for row in rows for name in row) if "." in name]
    lines = []
    for name, column in (("learning rate", "rate"), *((name, name) for name in names)):
        line = _column(rows, column, name)
        largest = max(line.y, default=0.0)
        if largest > 0:
            lines.append(Line(f"{name}, up to {largest:.3g}", line.x, [value / largest for value in line.y]))
    plot(axes, lines)
    axes.set_title("Schedules", fontsize=10)
    axes.set_ylabel("share of the largest value")
    axes.set_ylim(0, 1.04)


def _column(rows: Sequence[Row], column: str, name: str, scale: float = 1.0) -> Line:
    """The rows in which a number stands."""
    found = [row for row in rows if row.get(column) is not None]
    return Line(name, [float(row["epoch"] or 0) for row in found], [float(row[column] or 0) * scale for row in found])


def _weighted(rows: Sequence[Row], term: str, weight: float) -> Line:
    """A term times its weight, which stands in the row where it follows a schedule."""
    points = []
    for row in rows:
        value, present = row.get(term), row.get(f"{term}.weight", weight)
        if value is not None and present is not None:
            points.append((float(row["epoch"] or 0), float(value) * float(present)))
    return Line(term, [epoch for epoch, _ in points], [value for _, value in points])
