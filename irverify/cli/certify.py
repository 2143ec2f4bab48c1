"""`irverify certify`: which images of a data set are certified."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from irverify.cli.cascades import CascadeJob, is_cascade, refuse_options
from irverify.cli.combining import combine
from irverify.cli.keeping import FILE, kept, make_folder, tables, tell_errors
from irverify.cli.loading import check_model
from irverify.cli.methods import check_method
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
    Part,
    Radii,
    Seed,
)
from irverify.cli.regions import Perturbation, check_perturbation, part_of
from irverify.cli.streams import encode, write
from irverify.cli.sweeps import DRIVER, Job, Recipe, job_of
from irverify.cores import usable_cores
from irverify.errors import UsageError


def certify(
    model: Model,
    data: Images,
    eps: Radii,
    norm: Annotated[
        str | None,
        typer.Option(
            "--norm", metavar="inf|2|1", help="Norm of the radius; without it inf, or what a cascade was trained for."
        ),
    ] = None,
    clip: Clip = None,
    first: Annotated[int | None, typer.Option("--first", metavar="N", help="Take the first N images, not all.")] = None,
    index: Index = None,
    part: Part = None,
    held_out: HeldOut = None,
    method: Annotated[
        str | None,
        typer.Option("--method", metavar="M", help="The bounds of this analysis alone; without it, the whole driver."),
    ] = None,
    also: Annotated[
        str | None,
        typer.Option("--also", metavar="M2", help="A second method beside --method: certified by either, both, one."),
    ] = None,
    also_model: Annotated[
        str | None,
        typer.Option("--also-model", metavar="MODEL2", help="A second model (by --also, if given, else --method)."),
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

    With --also or --also-model two sweeps stand side by side. MODEL may be a cascade that `irverify train --stages`
    has left (cascade.safetensors): the tables then say how many images stay at each stage.
    """
    radii = _radii(eps)
    wanted = Perturbation(data, radii[0], norm or "inf", clip, first, index, part_of(part or "test"), held_out)
    check_perturbation(wanted)
    check_model(model)
    numbers = Numbers(dtype, device, memory)
    if is_cascade(model):
        options = {
            "timeout": timeout, "attack": attack, "solver": None if solver == "auto" else solver, "workers": workers,
            "out": out, "also": also, "also-model": also_model,
        }  # fmt: skip
        refuse_options(options)
        job = CascadeJob(model, wanted, radii, method, numbers, batch)
        write(job.answer(as_json, keep_norm=norm is None))
        return
    chosen = DRIVER if method is None else method
    recipe = Recipe(model, wanted, chosen, numbers, batch, timeout, seed, 0, attack, solver)
    recipe = replace(recipe, workers=workers or _usual_workers(recipe.method))
    if also is None and also_model is None:
        check_method(recipe)
        if out is not None:
            make_folder(out)
        _sweep(job_of(recipe, radii), out, as_json)
        return
    second = replace(
        recipe, model=model if also_model is None else also_model, method=chosen if also is None else also
    )
    check_model(second.model)
    combine(recipe, replace(second, workers=workers or _usual_workers(second.method)), radii, out, as_json)


def _usual_workers(method: str) -> int:
    return usable_cores() if method == DRIVER else 0


def _sweep(job: Job, out: Path | None, as_json: bool) -> None:
    with kept(job, out) as store:
        job.run(store)
        tell_errors(job.sweeps)
        write(encode("certify", job.content()) if as_json else tables(job.sweeps))
        sys.stdout.flush()  # what is decided is told even where it cannot be written


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
