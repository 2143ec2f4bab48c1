"""Pictures of curves: their formats, their axes."""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.figure import Figure

from irverify.errors import FileError
from irverify.report.lines import Line, Panel, draw_panels

PANEL = Panel("some", "things", (Line("a", [0.0, 1.0, 2.0], [3.0, 2.0, 4.0]), Line("b", [0.0, 1.0], [1.0, 2.0])))


@pytest.mark.parametrize(("suffix", "begins"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")])
def test_formats(tmp_path: Path, suffix: str, begins: bytes) -> None:
    path = tmp_path / f"a{suffix}"
    draw_panels(path, "number", [PANEL])
    assert path.read_bytes().startswith(begins)


def test_the_same_curves_make_the_same_file(tmp_path: Path) -> None:
    for name in ("a.svg", "b.svg"):
        draw_panels(tmp_path / name, "number", [PANEL])
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_dollar_signs_are_no_mathematics(tmp_path: Path) -> None:
    word = r"$\nothing$"
    draw_panels(tmp_path / "a.svg", word, [Panel("some", "things", (Line(word, [0.0], [1.0]),))], [word])
    assert (tmp_path / "a.svg").exists()


def figure_of(
    monkeypatch: pytest.MonkeyPatch, folder: Path, panels: list[Panel], words: list[str] | None = None
) -> Figure:
    kept: list[Figure] = []
    monkeypatch.setattr("irverify.report.lines.write_figure", lambda figure, path: kept.append(figure))
    draw_panels(folder / "a.png", "number", panels, words)
    return kept[0]


@pytest.mark.parametrize(("count", "inches"), [(1, (5.2, 3.6)), (3, (15.6, 3.6)), (4, (10.4, 7.2)), (5, (15.6, 7.2))])
def test_panels_stand_in_rows(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, count: int, inches: tuple[float, float]
) -> None:
    figure = figure_of(monkeypatch, tmp_path, [PANEL] * count)
    assert len(figure.axes) == count
    assert tuple(figure.get_size_inches()) == pytest.approx(inches)


def test_axes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    wide = Panel("wide", "", (Line("a", [0.0, 1e-4, 1e-2], [90.0, 91.0, 92.0]),), close=True)
    (plain,) = figure_of(monkeypatch, tmp_path, [PANEL]).axes
    (logarithmic,) = figure_of(monkeypatch, tmp_path, [wide]).axes
    (worded,) = figure_of(monkeypatch, tmp_path, [PANEL], ["x", "y", "z"]).axes
    assert (plain.get_xscale(), plain.get_ylim()[0], plain.get_xlabel()) == ("linear", 0.0, "number")
    assert logarithmic.get_xscale() == "symlog"
    assert logarithmic.get_ylim()[0] > 80
    assert [label.get_text() for label in worded.get_xticklabels()] == ["x", "y", "z"]


def test_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"a\.png"):
        draw_panels(tmp_path / "no" / "a.png", "number", [PANEL])
