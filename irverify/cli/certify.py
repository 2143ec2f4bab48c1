"""`irverify certify`: which images of a data set are certified."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from irverify.cli.loading import check_model, load_model
from irverify.cli.numbers import Numbers
from irverify.cli.options import Batch, Clip, Device, Dtype, Images, Index, Json, Memory, Model, Norm, Radii, Seed
from irverify.cli.progress import Tally
from irverify.cli.regions import Perturbation, check_perturbation, indices_of, question_of
from irverify.cli.streams import encode, write, write_file
from irverify.errors import FileError, UsageError

if TYPE_CHECKING:
    from irverify.certify import ByAnalysis, ByDriver, Question, Sweep

DRIVER = "exact"
"""The method that is the whole driver."""
WITHOUT_BOUNDS = ("gap", "stability")
"""Analyses that say something else."""
FILE = "certify.json"


@dataclass
class _Job:
    """What is asked for, and the sweeps over the data set, one for each radius, as far as they have come."""

    model: str
    wanted: Perturbation
    method: str | None
    numbers: Numbers
    batch: int | None
    timeout: float | None
    seed: int
    clip: tuple[float, float] | None = None
    """The range that inputs are kept in, once the data set is known."""
    sweeps: list[Sweep] = field(default_factory=list)

    def certifier(self, question: Question) -> ByAnalysis | ByDriver:
        from irverify.certify import ByAnalysis, ByDriver, Settings
        from irverify.verify import Options

        if self.method in (None, DRIVER):
            return ByDriver(question, Options(timeout=self.timeout, seed=self.seed))
        assert self.method is not None
        dtype, memory = self.numbers.torch_dtype, self.numbers.memory
        assert dtype is not None
        half = None if memory is None else max(1, memory // 2)  # for values, and for what the analysis has in flight
        settings = Settings(dtype, self.numbers.check_device(), self.batch, None if half is None else half * 2**20)
        return ByAnalysis(question, replace(self.numbers, memory=half).limited(self.method), settings, self.method)

    def content(self) -> dict[str, object]:
        """The job for JSON: the counts of one radius beside what was asked, those of several under `runs`."""
        wanted = self.wanted
        asked = {
            "model": self.model, "data": wanted.data, "norm": wanted.norm, "clip": self.clip,
            "method": self.method or DRIVER, "dtype": self.numbers.dtype, "device": self.numbers.device,
        }  # fmt: skip
        runs = [sweep.content() for sweep in self.sweeps]
        return {**asked, **runs[0]} if len(runs) == 1 else {**asked, "runs": runs}


def certify(
    model: Model,
    data: Images,
    eps: Radii,
    norm: Norm = "inf",
    clip: Clip = None,
    first: Annotated[int | None, typer.Option("--first", metavar="N", help="Take the first N images, not all.")] = None,
    index: Index = None,
    method: Annotated[
        str | None,
        typer.Option("--method", metavar="M", help="The bounds of this analysis alone; without it, the whole driver."),
    ] = None,
    timeout: Annotated[
        float | None, typer.Option("--timeout", metavar="S", help="Limit of the whole driver for each image.")
    ] = None,
    batch: Batch = None,
    dtype: Dtype = "float64",
    device: Device = "cpu",
    memory: Memory = None,
    seed: Seed = 0,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help=f"Write {FILE} there; also what there is when stopped.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Count the images of a data set that are certified: every input within eps of the image has the image's label.

    With --method the bounds of one analysis decide, a batch of images at a time; `irverify passes` lists them. Without
    it, or with --method exact, every image goes through attacks, bounds and exact search. A misclassified image is
    falsified.
    """
    radii = _radii(eps)
    job = _Job(
        model, Perturbation(data, radii[0], norm, clip, first, index), method, Numbers(dtype, device, memory), batch,
        timeout, seed,
    )  # fmt: skip
    check_perturbation(job.wanted)
    check_model(model)
    _check_method(job)
    if out is not None:
        _make_folder(out)
    question = question_of(load_model(model), job.wanted)
    job.clip = question.clip
    try:
        _sweep(job, question, radii)
    finally:
        if out is not None and job.sweeps:
            write_file(out / FILE, encode("certify", job.content()) + "\n")
    write(encode("certify", job.content()) if as_json else _report(job.sweeps))


def _sweep(job: _Job, question: Question, radii: list[float]) -> None:
    """Runs the sweeps of all radii; what they find goes into `job` as it comes."""
    from irverify.certify import Sweep

    indices = indices_of(job.wanted, len(question.images), usual=len(question.images))
    question.check(indices)
    with Tally(len(indices) * len(radii)) as tally:
        for radius in radii:
            certifier = job.certifier(question.at(radius))
            sweep = Sweep(radius)
            job.sweeps.append(sweep)
            begun = time.perf_counter()
            for outcomes in certifier.outcomes(indices):
                sweep.outcomes += outcomes
                sweep.seconds = time.perf_counter() - begun
                tally.advance(len(outcomes), f"eps {radius:g}: {_counts(sweep)}")


def _radii(text: str) -> list[float]:
    try:
        radii = [float(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"expected --eps to be numbers such as 0.1 or 0.05,0.1, got {text!r}") from None
    for radius in radii:
        if not 0 <= radius < math.inf:
            raise UsageError(f"expected --eps to be finite and >= 0, got {radius}")
    return radii


def _check_method(job: _Job) -> None:
    """Raises UsageError where method and options do not go together; needs no torch."""
    if job.timeout is not None and not (0 < job.timeout < math.inf):
        raise UsageError(f"expected --timeout to be a positive number of seconds, got {job.timeout}")
    if job.method in (None, DRIVER):
        if job.batch is not None or job.numbers != Numbers():
            hint = "give --method, such as --method crown"
            raise UsageError("the whole driver computes in float64 on the CPU, an image at a time", hint=hint)
        return
    if job.timeout is not None:
        raise UsageError("--timeout is for the whole driver", hint="leave --method out, or --timeout")
    from irverify.pipeline.catalog import CATALOG, find
    from irverify.pipeline.text import parse_pipeline

    assert job.method is not None
    steps = parse_pipeline(job.method)
    last = find(steps[-1].name) if steps else None
    if last is None or last.kind != "analysis" or last.name in WITHOUT_BOUNDS:
        methods = [entry.name for entry in CATALOG.values() if entry.kind == "analysis"]
        known = ", ".join(name for name in (*methods, DRIVER) if name not in WITHOUT_BOUNDS)
        reason = "an estimate proves nothing" if last is not None and last.kind == "estimator" else "it gives no bounds"
        raise UsageError(f"--method {job.method} certifies nothing: {reason}", hint=f"there are {known}")


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"cannot be made: {error.strerror or error}", where=str(out)) from error


def _counts(sweep: Sweep) -> str:
    return ", ".join(f"{count} {status}" for status, count in sweep.counts().items() if count)


def _report(sweeps: list[Sweep]) -> str:
    """One row for each radius, and what each stage did."""
    from irverify.certify.outcome import STATUSES
    from irverify.report.tables import table

    def share(count: int, whole: int) -> str:
        return f"{count} ({100 * count / whole:.2f} %)" if count else "0"

    headings = ("eps", "images", "correct", *STATUSES, "seconds", "images/s")
    rows = []
    for sweep in sweeps:
        n = len(sweep.outcomes)
        counts = [share(count, n) for count in (sweep.correct, *sweep.counts().values())]
        rate = f"{n / sweep.seconds:.1f}" if sweep.seconds > 0 else "-"
        rows.append((f"{sweep.eps:g}", str(n), *counts, f"{sweep.seconds:.2f}", rate))
    stages = [
        (f"{sweep.eps:g}", name, str(row["certified"]), str(row["falsified"]), f"{row['seconds']:.2f}")
        for sweep in sweeps
        for name, row in sweep.per_stage().items()
    ]
    parts = [table(headings, rows, headings).render()]
    words = ("eps", "stage", "certified", "falsified", "seconds")
    parts.append(table(words, stages, ("eps", "certified", "falsified", "seconds")).render())
    return "\n".join(parts)
