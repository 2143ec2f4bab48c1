"""Progress on stderr: a live line in a terminal, one line for each step elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from irverify.cli.streams import note

if TYPE_CHECKING:
    from rich.live import Live
    from rich.progress import Progress as Bar
    from rich.progress import TaskID


PAUSE, LONG_PAUSE = 5.0, 60.0
"""Seconds between two lines about a long run, where nobody watches a live one: at first, and later on."""
FEW = 3
"""Fewer steps than these say nothing about the rest: the first one has to wait for everything to start."""
GLANCE = 0.1
"""Seconds between two changes of a live line."""


class Progress:
    """Says what is going on. `total` steps, where it is known how many there are."""

    def __init__(self, total: int | None = None) -> None:
        self._total = total
        self._bar: Bar | None = None
        self._task: TaskID | None = None

    def __call__(self, text: str) -> None:
        """Says what is being done now."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, description=text)
        elif self._total is None:
            note(text)

    def advance(self, text: str) -> None:
        """Says what has been done, and counts it as a step."""
        if self._bar is not None and self._task is not None:
            self._bar.advance(self._task)
        else:
            note(text)

    def __enter__(self) -> Progress:
        if sys.stderr is not None and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
            from rich.progress import Progress as Bar

            counted = () if self._total is None else (BarColumn(bar_width=20), MofNCompleteColumn())
            columns = (SpinnerColumn(), *counted, TimeElapsedColumn(), TextColumn("{task.description}", markup=False))
            self._bar = Bar(*columns, console=Console(stderr=True), transient=True, redirect_stdout=False)
            self._task = self._bar.add_task("", total=self._total)
            self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


class Tally:
    """Counts what a long run has done: live in a terminal with rate and time left, elsewhere a line now and then, less
    often the longer it takes."""

    def __init__(self, total: int, known: int = 0) -> None:
        """`total` steps, of which so many were done by earlier runs."""
        self._total, self._known, self._done = total, known, known
        self._begun = self._said = time.monotonic()
        self._bar: Bar | None = None
        self._live: Live | None = None
        self._task: TaskID | None = None

    def advance(self, say: Callable[[], Sequence[str]]) -> None:
        """One more is done; `say()` tells in a few lines what came of all of them so far, and is asked as often as
        somebody reads."""
        self._done += 1
        now = time.monotonic()
        if self._done < self._total and now - self._said < self._pause(now):
            return
        self._said = now
        if self._live is None:
            note(f"{self._done} of {self._total}, {self._pace(now)}: {'; '.join(say())}")
        else:
            self._show(self._pace(now), say())

    def _show(self, pace: str, lines: Sequence[str]) -> None:
        from rich.console import Group
        from rich.text import Text

        assert self._bar is not None and self._task is not None and self._live is not None
        self._bar.update(self._task, completed=self._done, description=pace)
        texts = (Text(line, no_wrap=True, overflow="ellipsis") for line in lines)
        self._live.update(Group(self._bar, *texts))

    def _pause(self, now: float) -> float:
        return GLANCE if self._live is not None else min(max(PAUSE, (now - self._begun) / 10), LONG_PAUSE)

    def _pace(self, now: float) -> str:
        """The rate of this run, and how long the rest takes at it, once there is something to go by."""
        new = self._done - self._known
        rate = new / max(now - self._begun, 1e-9)
        pace = f"{rate:.1f}/s" if rate >= 1 else f"{1 / rate:.1f} s each"
        return pace if new < FEW else f"{pace}, {_duration((self._total - self._done) / rate)} left"

    def __enter__(self) -> Tally:
        if sys.stderr is not None and sys.stderr.isatty():
            from rich.console import Console
            from rich.live import Live
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
            from rich.progress import Progress as Bar

            text = TextColumn("{task.description}", markup=False)
            self._bar = Bar(BarColumn(bar_width=20), MofNCompleteColumn(), TimeElapsedColumn(), text)
            self._task = self._bar.add_task("starting", total=self._total, completed=self._known)
            self._live = Live(self._bar, console=Console(stderr=True), transient=True, redirect_stdout=False)
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None


def _duration(seconds: float) -> str:
    """Seconds in the units that a person reads."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
