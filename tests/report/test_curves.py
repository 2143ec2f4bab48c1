"""The picture of a training run: that it is one, and which curves are on it."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from irverify.errors import FileError
from irverify.report import curves
from irverify.report.curves import draw_curves
from irverify.train.checkpoint import Row
from irverify.train.recipe import parse_recipe
from tests.train.recipes import table

TERMS = {
    "robust": {"loss": "ibp", "kappa": {"from": 1.0, "to": 0.5, "end": 3}},
    "l1": {"loss": "l1", "weight": 2e-3},
}
RECIPE = parse_recipe(table(TERMS))


def row(epoch: int, measured: float | None) -> Row:
    return {
        "epoch": epoch, "step": 10 * epoch, "eps": 0.01 * epoch, "rate": 1e-3, "robust.kappa": 1 / epoch,
        "loss": 3.0 / epoch, "robust": 2.0 / epoch, "l1": 500.0 / epoch, "clean accuracy": measured,
        "PGD accuracy": measured, "certified accuracy": measured, "seconds": 0.5,
    }  # fmt: skip


ROWS = [row(1, None), row(2, 0.75), row(3, None), row(4, 0.875)]


def drawn(monkeypatch: pytest.MonkeyPatch, folder: Path, rows: list[Row]) -> list[dict[str, list[float]]]:
    """The curves of each panel, by their names."""
    kept: list[Figure] = []
    plain = Figure.savefig

    def keep(figure: Figure, *args: object, **options: object) -> None:
        kept.append(figure)
        plain(figure, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Figure, "savefig", keep)
    draw_curves(folder, RECIPE, rows)
    return [{str(line.get_label()): list(line.get_ydata()) for line in axes.lines} for axes in kept[0].axes]  # type: ignore[arg-type]


def test_curves(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    accuracies, losses, radii, schedules = drawn(monkeypatch, tmp_path, ROWS)
    assert accuracies["clean, 87.5 % at last"] == [75.0, 87.5]
    assert list(losses) == ["whole loss", "robust", "l1 x weight"]
    assert losses["l1 x weight"] == pytest.approx([1.0, 1 / 2, 1 / 3, 1 / 4])
    assert radii["in training"] == pytest.approx([0.01, 0.02, 0.03, 0.04])
    assert schedules["robust.kappa, up to 1"] == pytest.approx([1, 1 / 2, 1 / 3, 1 / 4])
    assert schedules["learning rate, up to 0.001"] == [1, 1, 1, 1]


@pytest.mark.parametrize("rows", [[row(1, 0.5)], [row(1, None)], []])
def test_short_runs(rows: list[Row], tmp_path: Path) -> None:
    content = draw_curves(tmp_path, RECIPE, rows).read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", content[16:24])
    assert (width, height) == (1950, 960)


def test_one_term_is_the_whole_loss(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tests.report.test_curves.RECIPE", parse_recipe(table({"robust": {"loss": "ibp"}})))
    rows = [{**entry, "loss": entry["robust"]} for entry in ROWS]
    assert list(drawn(monkeypatch, tmp_path, rows)[1]) == ["robust"]


def test_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=curves.FILE):
        draw_curves(tmp_path / "no", RECIPE, ROWS)


def test_prunings_are_marked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    rows: list[Row] = [{**entry, "clean accuracy before pruning": None} for entry in ROWS]
    for place in (1, 3):
        rows[place]["clean accuracy before pruning"] = 0.5
    assert curves.pruned_after(rows) == [2.0, 4.0]
    assert all("pruning" in panel for panel in drawn(monkeypatch, tmp_path, rows))
    assert curves.pruned_after(ROWS) == []
