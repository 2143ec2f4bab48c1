"""Progress on stderr: few lines where nobody watches, rate and time left where somebody does."""

from __future__ import annotations

import io
import sys

import pytest

from irverify.cli.progress import Tally


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("irverify.cli.progress.time.monotonic", clock)
    return clock


def test_lines_get_rarer(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    """Every 5 seconds at first, then after a tenth of the time so far, at last every minute; and the last one."""
    with Tally(7200) as tally:
        for done in range(1, 7201):
            clock.now += 1.0
            tally.advance(lambda done=done: [f"{done} certified"])  # type: ignore[misc]
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "irverify: 5 of 7200, 1.0/s, 1 h 59 min left: 5 certified"
    assert lines[-1] == "irverify: 7200 of 7200, 1.0/s, 0 s left: 7200 certified"
    assert 100 < len(lines) < 150


def test_what_was_known_before_is_no_speed(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Tally(100, known=90) as tally:
        for _ in range(3):
            clock.now += 20.0
            tally.advance(lambda: ["x", "y"])
    assert capsys.readouterr().err.splitlines() == [
        "irverify: 91 of 100, 20.0 s each: x; y",
        "irverify: 92 of 100, 20.0 s each: x; y",
        "irverify: 93 of 100, 20.0 s each, 2 min 20 s left: x; y",
    ]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_live_line_in_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "160")
    with Tally(5, known=2) as tally:
        tally.advance(lambda: ["0 certified"])
        tally.advance(lambda: ["1 certified"])
        tally.advance(lambda: ["2 certified", "by [crown] 2"])
    shown = terminal.getvalue()
    assert "5/5" in shown
    assert "0 s left" in shown
    assert "2 certified" in shown
    assert "by [crown] 2" in shown
