"""Progress on stderr: a live line in a terminal, one line for each step elsewhere."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from irverify.cli.streams import note

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID


PAUSE = 5.0
"""Seconds between two lines about a long run, where nobody watches a live one."""


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
    """Counts what a long run has done: live in a terminal with rate and time left, elsewhere a line now and then."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._done = 0
        self._begun = self._said = time.monotonic()
        self._bar: Bar | None = None
        self._task: TaskID | None = None

    def advance(self, steps: int, text: str) -> None:
        """So many more are done; `text` says what came of all of them so far."""
        self._done += steps
        now = time.monotonic()
        rate = self._done / max(now - self._begun, 1e-9)
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, advance=steps, description=f"{rate:.1f}/s  {text}")
        elif now - self._said >= PAUSE or self._done == self._total:
            self._said = now
            left = (self._total - self._done) / rate
            note(f"{self._done} of {self._total}, {rate:.1f}/s, {left:.0f} s left: {text}")

    def __enter__(self) -> Tally:
        if sys.stderr is not None and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            elapsed, left = TimeElapsedColumn(), TimeRemainingColumn()
            text = TextColumn("{task.description}", markup=False)
            columns = (BarColumn(bar_width=20), MofNCompleteColumn(), elapsed, left, text)
            self._bar = Bar(*columns, console=Console(stderr=True), transient=True, redirect_stdout=False)
            self._task = self._bar.add_task("", total=self._total)
            self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
