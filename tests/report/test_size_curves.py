"""Curves of sizes: what stands in the tables and on the pictures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from irverify.report import size_curves
from irverify.report.lines import Panel
from irverify.report.points import Point
from irverify.report.size_curves import curve_tables, draw_curve
from irverify.report.sizes import Program, Size

SOLVED = Program(5, 6, 2, 20, 0.1, 4.0, "positive")
UNASKED = Program(5, 6, 2, 20, 0.1, None, "not positive")
FIRST = Point(
    0.0, "a.onnx", 100, Size(900, 800, 90, {"r": 30.0, "s.open": 10.5, "s.whole": 2.0}, SOLVED, 0.96), 25, None, 0.88,
    (SOLVED, replace(SOLVED, solving=2.0, margin="open"), UNASKED), 10.0,
)  # fmt: skip
SECOND = replace(FIRST, x=0.5, size=Size(900, 400, 40, {"r": 12.0}, None, 0.92), resistant=None, solved=())


def drawn(monkeypatch: pytest.MonkeyPatch, *points: Point) -> tuple[dict[str, Panel], list[str] | None]:
    """The panels that would be drawn, by their titles, and the words below."""
    kept: list[tuple[list[Panel], list[str] | None]] = []

    def keep(path: Path, below: str, panels: list[Panel], words: list[str] | None = None) -> None:
        kept.append((panels, words))

    monkeypatch.setattr(size_curves, "draw_panels", keep)
    draw_curve(Path("a.png"), "x", points)
    panels, words = kept[0]
    return {panel.title: panel for panel in panels}, words


def test_tables() -> None:
    text = curve_tables("share", [FIRST, SECOND])
    networks, unstable, programs = ([row.split() for row in part.splitlines()] for part in text.split("\n\n"))
    assert networks[1] == ["share", "nonzeros", "neurons", "pruned", "accuracy", "PGD", "accuracy"]
    assert networks[3:] == [["0", "800", "90", "10", "0.96", "0.88"], ["0.5", "400", "40", "60", "0.92"]]
    assert unstable[0] == ["Unstable", "neurons,", "mean", "over", "25", "regions"]
    assert unstable[1] == ["share", "all", "%r", "%s"]
    assert unstable[3:] == [["0", "42.5", "30", "12.5"], ["0.5", "12", "12", "0"]]
    assert programs[3:] == [["0", "2", "3", "1", "1", "1"], ["0.5"]]


def test_tables_leave_out_what_nobody_measured() -> None:
    text = curve_tables("x", [Point("neuron", "a.onnx", 7, Size(10, 9, 7))])
    assert text.splitlines()[0].split() == ["Networks"]
    assert text.splitlines()[1].split() == ["x", "nonzeros", "neurons"]
    assert len(text.splitlines()) == 4


def test_panels(monkeypatch: pytest.MonkeyPatch) -> None:
    panels, words = drawn(monkeypatch, SECOND, FIRST)
    assert words is None
    assert [line.name for line in panels["Unstable neurons"].lines] == ["%r", "%s", "all"]
    assert all(list(line.x) == [0.0, 0.5] for line in panels["Unstable neurons"].lines)
    assert list(panels["Unstable neurons"].lines[2].y) == [42.5, 12.0]
    (seconds,) = panels["Solving the mixed-integer program"].lines
    assert (list(seconds.x), list(seconds.y)) == ([0.0], [3.0])
    assert "limit 10 s" in seconds.name
    clean, pgd, positive = panels["Accuracy"].lines
    assert (list(clean.y), list(pgd.y)) == ([96.0, 92.0], [88.0])
    assert list(positive.y) == pytest.approx([100 / 3])
    assert [list(line.y) for line in panels["Neurons"].lines] == [[90, 40], [10, 60]]
    assert "Nonzero parameters" in panels


def test_only_what_differs_has_a_panel(monkeypatch: pytest.MonkeyPatch) -> None:
    same = replace(FIRST, imported=90, solved=())
    panels, _ = drawn(monkeypatch, same, replace(same, x=1.0))
    assert list(panels) == ["Unstable neurons", "Accuracy"]


def test_there_is_always_something_to_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    panels, _ = drawn(monkeypatch, Point(1.0, "a.onnx", 7, Size(10, 9, 7)))
    assert list(panels) == ["Nonzero parameters"]


@pytest.mark.parametrize("values", [("neuron", "channel"), (None, 2.0), (True, False), (1.0, float("inf"))])
def test_words_stand_at_places(monkeypatch: pytest.MonkeyPatch, values: tuple[str | float | None, ...]) -> None:
    panels, words = drawn(monkeypatch, *(replace(FIRST, x=value) for value in values))
    assert words is not None
    assert len(words) == 2
    assert list(panels["Accuracy"].lines[0].x) == [0.0, 1.0]


def test_networks_with_other_names_are_compared_by_order() -> None:
    other = replace(FIRST, size=replace(FIRST.size, unstable={"u": 3.0, "v": 4.0, "w": 5.0}), model="b.onnx")
    _, unstable, _ = curve_tables("x", [FIRST, other]).split("\n\n")
    rows = [row.split() for row in unstable.splitlines()]
    assert rows[1] == ["x", "all", "layer", "1", "layer", "2", "layer", "3"]
    assert rows[3:] == [["0", "42.5", "30", "12.5"], ["0", "12", "3", "4", "5"]]


def test_many_activations_are_only_summed(monkeypatch: pytest.MonkeyPatch) -> None:
    deep = replace(FIRST, size=replace(FIRST.size, unstable={f"r{place}": 1.0 for place in range(7)}))
    panels, _ = drawn(monkeypatch, deep)
    assert [line.name for line in panels["Unstable neurons"].lines] == ["all"]


def test_neurons_that_nobody_prunes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks of several sizes."""
    small = Point(1.0, "a.onnx", 7, Size(10, 9, 7))
    panels, _ = drawn(monkeypatch, small, Point(2.0, "b.onnx", 70, Size(100, 90, 70)))
    assert [line.name for line in panels["Neurons"].lines] == ["left"]
    alike, _ = drawn(monkeypatch, replace(small, imported=9), replace(small, x=2.0, imported=9))
    assert "Neurons" not in alike
