"""`irverify certify`: which images of a data set are certified."""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from irverify.cli.loading import check_model
from irverify.cli.numbers import Numbers
from irverify.cli.options import (
    Batch,
    Clip,
    Device,
    Dtype,
    HeldOut,
    Images,
    Index,
    Json,
    Memory,
    Model,
    Norm,
    Part,
    Radii,
    Seed,
)
from irverify.cli.regions import Perturbation, check_perturbation, indices_of, part_of
from irverify.cli.streams import encode, note, write, write_file
from irverify.cli.sweeps import DRIVER, Job, Recipe
from irverify.cores import usable_cores
from irverify.errors import FileError, IRVerifyError, UsageError

if TYPE_CHECKING:
    from irverify.certify import Sweep
    from irverify.certify.store import Store

WITHOUT_BOUNDS = ("gap", "stability")
"""Analyses that say something else."""
FILE = "certify.json"
REASONS = 3
"""How many reasons of errors are told."""


def certify(
    model: Model,
    data: Images,
    eps: Radii,
    norm: Norm = "inf",
    clip: Clip = None,
    first: Annotated[int | None, typer.Option("--first", metavar="N", help="Take the first N images, not all.")] = None,
    index: Index = None,
    part: Part = None,
    held_out: HeldOut = None,
    method: Annotated[
        str | None,
        typer.Option("--method", metavar="M", help="The bounds of this analysis alone; without it, the whole driver."),
    ] = None,
    timeout: Annotated[
        float | None, typer.Option("--timeout", metavar="S", help="Limit of the whole driver for each image.")
    ] = None,
    attack: Annotated[
        str | None,
        typer.Option(
            "--attack", metavar="A", help="In place of the driver's first attack: pgd-40, pgd-100 or pgd-200x10."
        ),
    ] = None,
    solver: Annotated[str, typer.Option("--solver", metavar="S", help="auto, scip, highs or cp-sat.")] = "auto",
    batch: Batch = None,
    dtype: Dtype = "float64",
    device: Device = "cpu",
    memory: Memory = None,
    seed: Seed = 0,
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers",
            metavar="N",
            min=1,
            help="Processes that share the images; without it, one for each core for the whole driver.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help=f"Keep what is decided there, and write {FILE}; go on from there."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Count the images of a data set that are certified: every input within eps of the image has the image's label.

    With --method the bounds of one analysis decide, a batch of images at a time; `irverify passes` lists them. Without
    it, or with --method exact, every image goes through attacks, bounds and exact search. A misclassified image is
    falsified. With --out, the same command goes on after whatever stopped it.
    """
    radii = _radii(eps)
    wanted = Perturbation(data, radii[0], norm, clip, first, index, part_of(part or "test"), held_out)
    method = DRIVER if method is None else method
    usual = usable_cores() if method == DRIVER else 0
    recipe = Recipe(
        model, wanted, method, Numbers(dtype, device, memory), batch, timeout, seed, workers or usual, attack, solver
    )
    check_perturbation(wanted)
    check_model(model)
    _check_method(recipe)
    if out is not None:
        _make_folder(out)
    question = recipe.question()
    indices = indices_of(wanted, len(question.images), usual=len(question.images))
    question.check(indices)
    job = Job(replace(recipe, workers=min(recipe.workers, len(indices))), question, indices, radii)
    with _kept(job, out) as store:
        job.run(store)
        _tell_errors(job.sweeps)
        write(encode("certify", job.content()) if as_json else _tables(job.sweeps))
        sys.stdout.flush()  # what is decided is told even where it cannot be written


@contextmanager
def _kept(job: Job, out: Path | None) -> Iterator[Store | None]:
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
            note(f"{done} of {job.total} decided{where}\n{_tables(job.sweeps)}")
        raise


def _tables(sweeps: list[Sweep]) -> str:
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


def _tell_errors(sweeps: list[Sweep]) -> None:
    """Tells why images could not be asked, the most frequent reasons first."""
    reasons = Counter(outcome.reason for sweep in sweeps for outcome in sweep.outcomes if outcome.status == "error")
    for reason, count in reasons.most_common(REASONS):
        note(f"error of {count} image{'s' if count > 1 else ''}: {reason}")


def _radii(text: str) -> list[float]:
    try:
        radii = [float(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"expected --eps to be numbers such as 0.1 or 0.05,0.1, got {text!r}") from None
    for radius in radii:
        if not 0 <= radius < math.inf:
            raise UsageError(f"expected --eps to be finite and >= 0, got {radius}")
    if len(set(radii)) < len(radii):
        raise UsageError(f"expected every radius once, got --eps {text}")
    return radii


def _check_method(recipe: Recipe) -> None:
    """Raises UsageError where method and options do not go together; needs torch for the whole driver alone."""
    if recipe.timeout is not None and not (0 < recipe.timeout < math.inf):
        raise UsageError(f"expected --timeout to be a positive number of seconds, got {recipe.timeout}")
    if recipe.method == DRIVER:
        if recipe.batch is not None or recipe.numbers != Numbers(memory=recipe.numbers.memory):
            hint = "give --method, such as --method crown"
            raise UsageError("the whole driver computes in float64 on the CPU, in batches of its own", hint=hint)
        _check_driver(recipe)
        return
    for name, given in (("timeout", recipe.timeout), ("attack", recipe.attack), ("solver", recipe.solver != "auto")):
        if given:
            raise UsageError(f"--{name} is for the whole driver", hint=f"leave --method out, or --{name}")
    from irverify.pipeline.catalog import CATALOG, find
    from irverify.pipeline.text import parse_pipeline

    steps = parse_pipeline(recipe.method)
    last = find(steps[-1].name) if steps else None
    if last is None or last.kind != "analysis" or last.name in WITHOUT_BOUNDS:
        methods = [entry.name for entry in CATALOG.values() if entry.kind == "analysis"]
        known = ", ".join(name for name in (*methods, DRIVER) if name not in WITHOUT_BOUNDS)
        reason = "an estimate proves nothing" if last is not None and last.kind == "estimator" else "it gives no bounds"
        raise UsageError(f"--method {recipe.method} certifies nothing: {reason}", hint=f"there are {known}")


def _check_driver(recipe: Recipe) -> None:
    from irverify.attacks import protocol
    from irverify.verify.exact import check_solver

    check_solver(recipe.solver)
    if recipe.attack is not None:
        protocol(recipe.attack)


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"cannot be made: {error.strerror or error}", where=str(out)) from error
