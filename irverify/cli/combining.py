"""Two sweeps of `certify` side by side: two methods on one model, or two models."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from irverify.cli.keeping import FILE, kept, make_folder, tell_errors
from irverify.cli.methods import check_method, fitting
from irverify.cli.streams import encode, note, write, write_file
from irverify.cli.sweeps import DRIVER, Job, Recipe, job_of
from irverify.errors import IRVerifyError, UsageError

if TYPE_CHECKING:
    from irverify.certify import Combination

NAMES = ("first", "second")
"""What the two are called in tables, JSON and folders."""


def combine(first: Recipe, second: Recipe, radii: Sequence[float], out: Path | None, as_json: bool) -> None:
    """Runs both sweeps, one after the other, and says what is certified by either, by both, by one alone."""
    if (first.model, first.method) == (second.model, second.method):
        raise UsageError(f"expected two methods or two models, got {first.method} on {first.model} twice")
    if (first.method == DRIVER) != (second.method == DRIVER):  # each takes the options that are for its kind
        first, second = fitting(first), fitting(second)
    check_method(first)
    check_method(second, "--also")
    folders = [None if out is None else out / name for name in NAMES]
    for folder in folders:
        if folder is not None:
            make_folder(folder)
    jobs = [job_of(recipe, radii) for recipe in (first, second)]
    for job, folder in zip(jobs, folders, strict=True):
        with kept(job, folder):  # a store of another question is refused before anything runs
            pass
    for name, job, folder in zip(NAMES, jobs, folders, strict=True):
        note(f"{name}: {job.recipe.method} on {job.recipe.model}")
        with kept(job, folder) as store:
            job.run(store)
            tell_errors(job.sweeps)
    _answer(jobs[0], jobs[1], out, as_json)


def _answer(first: Job, second: Job, out: Path | None, as_json: bool) -> None:
    """Says what came of both; then writes it, which may fail with exit code 1."""
    from irverify.certify import Combination
    from irverify.report.combinations import combination_table

    one = first.identity["network"] == second.identity["network"]
    found = [Combination(a, b, one) for a, b in zip(first.sweeps, second.sweeps, strict=True)]
    content = encode("certify-combined", _content(first, second, found))
    names = [f"{job.recipe.method} on {job.recipe.model}" for job in (first, second)]
    write(content if as_json else combination_table(found, *names))
    sys.stdout.flush()
    if out is not None:
        try:
            write_file(out / FILE, content + "\n")
        except IRVerifyError as error:
            note(f"error: {error}")
            raise typer.Exit(1) from error


def _content(first: Job, second: Job, found: Sequence[Combination]) -> dict[str, object]:
    parts = {name: job.content() for name, job in zip(NAMES, (first, second), strict=True)}
    runs = [combination.content() for combination in found]
    one = found[0].one_network
    claim = "certified by either method on one network" if one else "certified by either of two networks"
    asked: dict[str, object] = {"one_network": one, "claim": claim, **parts}
    return {**asked, **runs[0]} if len(runs) == 1 else {**asked, "runs": runs}
