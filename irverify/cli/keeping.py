"""What a sweep of `certify` leaves: a store and `FILE` in a folder, and what it has found where it is stopped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from irverify.cli.streams import encode, note, write_file
from irverify.cli.sweeps import Job
from irverify.errors import FileError, IRVerifyError

if TYPE_CHECKING:
    from irverify.certify import Sweep
    from irverify.certify.store import Store

FILE = "certify.json"
REASONS = 3
"""How many reasons of errors are told."""


@contextmanager
def kept(job: Job, out: Path | None) -> Iterator[Store | None]:
    """The store in a folder, and `FILE` there at the end. What was found by a job that is stopped is told as well."""
    if out is None:
        with _told(job, "; with --out they would have been kept"):
            yield None
        return
    from irverify.certify.store import Store

    with Store(out, job.identity) as store:
        try:
            with _told(job, f" and kept in {out}; the same command goes on from there"):
                yield store
        except BaseException:
            with suppress(IRVerifyError):  # why it was stopped matters more
                _write_content(job, out)
            raise
        try:
            _write_content(job, out)
        except IRVerifyError as error:  # stdout has its one answer already
            note(f"error: {error}")
            raise typer.Exit(1) from error


@contextmanager
def _told(job: Job, where: str) -> Iterator[None]:
    """Tells what a job has found that is stopped."""
    try:
        yield
    except BaseException:
        done = sum(len(sweep.found) for sweep in job.sweeps)
        if done:
            note(f"{done} of {job.total} decided{where}\n{tables(job.sweeps)}")
        raise


def tables(sweeps: list[Sweep]) -> str:
    from irverify.report.sweeps import sweep_tables  # brings torch

    return sweep_tables(sweeps)


def _write_content(job: Job, out: Path) -> None:
    """Writes `FILE`, as a whole or not at all."""
    if not any(sweep.found for sweep in job.sweeps):
        return
    temporary = out / f".{FILE}.tmp"
    try:
        write_file(temporary, encode("certify", job.content()) + "\n")
        temporary.replace(out / FILE)
    except OSError as error:
        raise FileError(f"cannot be written: {error.strerror or error}", where=str(out / FILE)) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def tell_errors(sweeps: list[Sweep]) -> None:
    """Tells why images could not be asked, the most frequent reasons first."""
    reasons = Counter(outcome.reason for sweep in sweeps for outcome in sweep.outcomes if outcome.status == "error")
    for reason, count in reasons.most_common(REASONS):
        note(f"error of {count} image{'s' if count > 1 else ''}: {reason}")


def make_folder(out: Path) -> None:
    """Makes the folder where it is not there. FileError where that is impossible."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"cannot be made: {error.strerror or error}", where=str(out)) from error
