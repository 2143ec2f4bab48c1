"""The process around a command: signals, standard streams, a quick start and a quick end."""

from __future__ import annotations

import atexit
import gc
import os
import signal
import sys
import time
import warnings
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn, TextIO

from irverify.allocator import keep_freed_memory
from irverify.cli.failures import failure_of, report
from irverify.cli.streams import note
from irverify.cli.threads import wait_quietly

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def run_process() -> NoReturn:
    """Runs the command line of this process and ends it with the exit code."""
    started = time.monotonic()
    wait_quietly()
    keep_freed_memory()
    gc.set_threshold(100_000, 50, 50)  # importing torch makes half a million objects; collecting meanwhile takes 0.3 s
    received: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        received.append(number)
        raise KeyboardInterrupt(number)

    for number in SIGNALS:
        signal.signal(number, stop)
    _claim_stdout()
    warnings.showwarning = _show_warning
    code = execute(sys.argv[1:], started, received)
    _leave(code)


def execute(arguments: Sequence[str], started: float | None = None, received: Sequence[int] = ()) -> int:
    """Runs one command and returns its exit code; whatever goes wrong becomes one message (`irverify.cli.failures`).

    `started` is when the process began (`time.monotonic`): a time limit counts from there. `received` holds the signals
    that have come in: after one, any exception is taken for what a library made of the interruption.
    """
    try:
        from irverify.cli.app import command

        begun = time.monotonic() if started is None else started
        with command().make_context("irverify", list(arguments), obj=begun) as context:
            context.command.invoke(context)
        sys.stdout.flush()
        return 0
    except BaseException as error:
        if received:  # torchrun interrupts a second time, and people do: what there is to say is still said
            _ignore_signals()
        cause = KeyboardInterrupt(received[-1]) if received else error
        return report(failure_of(cause), as_json="--json" in arguments)


def _ignore_signals() -> None:
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _claim_stdout() -> None:
    """Lets results alone reach standard output: what native libraries write to file descriptor 1 goes to stderr."""
    try:
        results = os.dup(1)
    except OSError:  # closed: the first result that is written says so
        return
    try:
        os.dup2(2, 1)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    old: TextIO = sys.stdout
    sys.stdout = os.fdopen(results, "w", encoding=old.encoding, errors="backslashreplace", newline=None)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    note(f"warning: {message}")


def _leave(code: int) -> NoReturn:
    """Ends the process without taking torch apart, which takes 0.2 s."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    try:
        atexit._run_exitfuncs()
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError, AttributeError):
                code = code or 1
        os._exit(code)
