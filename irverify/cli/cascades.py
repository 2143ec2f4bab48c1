"""`certify` on a cascade: how many images stay at each stage, and how well they fare there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from irverify.cli.keeping import REASONS
from irverify.cli.methods import check_analysis
from irverify.cli.numbers import Numbers
from irverify.cli.progress import Tally
from irverify.cli.regions import Perturbation, indices_of, question_of
from irverify.cli.streams import encode, note
from irverify.cli.sweeps import DRIVER, analysis_settings
from irverify.errors import UsageError

if TYPE_CHECKING:
    from irverify.certify import Ball, Cascade, CascadeSweep, Question, Settings
    from irverify.data import DataSet


def is_cascade(model: str) -> bool:
    """Whether a model is a file with a cascade; a broken file is none."""
    if not model.lower().endswith(".safetensors"):
        return False
    import safetensors

    try:
        with safetensors.safe_open(model, framework="np") as file:
            return "irverify.cascade" in (file.metadata() or {})
    except (safetensors.SafetensorError, OSError, ValueError):
        return False


def refuse_options(given: Mapping[str, object]) -> None:
    """Raises UsageError for options that a cascade has no use for."""
    for name, value in given.items():
        if value is not None:
            raise UsageError(f"--{name} is not for a cascade, whose rule goes by the bounds of one analysis")


@dataclass(frozen=True)
class CascadeJob:
    """What is asked about a cascade in a file; `method` None: the cascade's own."""

    model: str
    wanted: Perturbation
    radii: Sequence[float]
    method: str | None
    numbers: Numbers
    batch: int | None

    def answer(self, as_json: bool, keep_norm: bool) -> str:
        """Evaluates the cascade, in the norm that it was trained for where `keep_norm` says so, and tells what came
        of it."""
        if self.method == DRIVER:
            raise UsageError("--method exact is not for a cascade, whose rule goes by the bounds of one analysis")
        if self.method is not None:
            check_analysis(self.method)
        from irverify.certify.cascade_file import load_cascade

        cascade = load_cascade(self.model)
        wanted = replace(self.wanted, norm=cascade.norm) if keep_norm else self.wanted
        question = question_of(cascade.stages[0], wanted)
        sweeps = self._sweeps(replace(cascade, norm=question.norm), question)
        if as_json:
            return encode("certify-cascade", self._content(cascade, question, sweeps))
        from irverify.report.cascades import cascade_tables

        return cascade_tables(sweeps)

    def _sweeps(self, cascade: Cascade, question: Question) -> list[CascadeSweep]:
        from irverify.certify import Ball
        from irverify.certify.sweeping import begun

        indices = indices_of(self.wanted, len(question.images), usual=len(question.images))
        begun(question.eps, indices)  # raises for an image that is named twice
        question.check(indices)
        settings, method = analysis_settings(self.numbers, self.batch, self.method or cascade.method)
        balls = [Ball(eps, question.clip, method) for eps in self.radii]
        return sweeps_of(cascade, question.images, indices, balls, settings)

    def _content(self, cascade: Cascade, question: Question, sweeps: Sequence[CascadeSweep]) -> dict[str, object]:
        asked = {
            "cascade": self.model, "stages": len(cascade.stages), "trained_eps": cascade.eps, "data": self.wanted.data,
            "part": self.wanted.part, "held_out": self.wanted.held_out,
            "norm": question.norm, "clip": question.clip, "method": self.method or cascade.method,
            "dtype": self.numbers.dtype, "device": self.numbers.device,
        }  # fmt: skip
        runs = [sweep.content() for sweep in sweeps]
        return {**asked, **runs[0]} if len(runs) == 1 else {**asked, "runs": runs}


def sweeps_of(
    cascade: Cascade, images: DataSet, indices: Sequence[int], balls: Sequence[Ball], settings: Settings
) -> list[CascadeSweep]:
    """The sweeps of these images through a cascade, one for each radius; says how it goes."""
    from irverify.certify import CascadeSweep

    sweeps = [CascadeSweep(ball, tuple(indices), len(cascade.stages)) for ball in balls]
    with _told(sweeps), Tally(len(indices) * len(sweeps)) as tally:
        for sweep in sweeps:
            for _ in cascade.proceed(sweep, images, settings):
                tally.advance(partial(_summary, sweep))
    return sweeps


@contextmanager
def _told(sweeps: Sequence[CascadeSweep]) -> Iterator[None]:
    """Tells what was found where it is stopped, and why images could not be asked."""
    from irverify.report.cascades import cascade_tables

    try:
        yield
    except BaseException:
        if any(sweep.found for sweep in sweeps):
            note(f"stopped; so far\n{cascade_tables(sweeps)}")
        raise
    faults = Counter(way.last.fault for sweep in sweeps for way in sweep.passages if way.last.fault is not None)
    for reason, count in faults.most_common(REASONS):
        note(f"error of {count} image{'s' if count > 1 else ''}: {reason}")


def _summary(sweep: CascadeSweep) -> tuple[str, str]:
    """How a sweep stands."""
    stay = ", ".join(f"{counts.stay} at stage {counts.stage}" for counts in sweep.per_stage() if counts.stay)
    return (
        f"eps {sweep.ball.eps:g}: {sweep.correct} correct, {sweep.certified_cascade} certified (cascade)",
        f"stay: {stay}",
    )
