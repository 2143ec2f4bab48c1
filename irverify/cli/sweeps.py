"""What `certify` was asked for, in a form that worker processes can be sent, and the sweeps that answer it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from irverify.cli.loading import load_model
from irverify.cli.numbers import Numbers
from irverify.cli.progress import Tally
from irverify.cli.regions import Perturbation, indices_of, question_of
from irverify.cores import usable_cores
from irverify.errors import UsageError

if TYPE_CHECKING:
    from irverify.certify import Question, Settings, Sweep
    from irverify.certify.certifier import Certifier, Maker, Source
    from irverify.certify.store import Store

DRIVER = "exact"
"""The method that is the whole driver."""


@dataclass(frozen=True)
class Recipe:
    """The model, the data set and the method that decide about images; calling it loads them.

    `workers` processes share the work (0: this one does it), each with its part of the processor cores.
    """

    model: str
    wanted: Perturbation
    method: str
    numbers: Numbers
    batch: int | None
    timeout: float | None
    seed: int
    workers: int
    attack: str | None = None
    """A protocol of the papers, run first; the whole driver's own attacks follow."""
    solver: str = "auto"
    identity: tuple[tuple[str, str], ...] = ()
    """What the command has found the question to be; one who loads another one refuses it."""

    @property
    def threads(self) -> int:
        return max(1, usable_cores() // max(1, self.workers))

    @property
    def worker_memory(self) -> int | None:
        """The bytes that a worker may use; None: any number. Single analyses keep to a limit by themselves."""
        memory = self.numbers.memory
        return None if memory is None or self.method != DRIVER else memory * 2**20

    @property
    def chunk(self) -> int:
        """The most images that a worker is given at once: a batch of a single analysis."""
        from irverify.certify.crew import CHUNK
        from irverify.certify.memory import LARGEST, LARGEST_ON_GPU

        if self.method == DRIVER:
            return CHUNK
        return self.batch or (LARGEST if self.numbers.device == "cpu" else LARGEST_ON_GPU)

    def question(self) -> Question:
        return question_of(load_model(self.model), self.wanted)

    def __call__(self) -> Maker:
        from irverify.certify.fingerprint import identity

        question = self.question()
        found = tuple(identity(question, self.settings()).items())
        if self.identity and found != self.identity:
            hint = "a Python model has to build the same network each time, and files must not change meanwhile"
            raise UsageError(
                "a worker process has loaded another network, or other images", where=self.model, hint=hint
            )
        return lambda eps: self.certifier(question.at(eps))

    def certifier(self, question: Question) -> Certifier:
        from irverify.certify import ByAnalysis, ByDriver
        from irverify.verify import Options

        if self.method == DRIVER:
            options = Options(
                timeout=self.timeout, solver=self.solver, threads=self.threads, attack=self.attack, seed=self.seed
            )
            return ByDriver(question, options, None if self.worker_memory is None else self.worker_memory // 4)
        settings, method = analysis_settings(self.numbers, self.batch, self.method)
        return ByAnalysis(question, method, settings, self.method)

    def settings(self) -> dict[str, str]:
        """What verdicts depend on beside network, images and ball."""
        return {
            "method": self.method,
            "numbers": str(self.numbers.dtype),
            "attack": self.attack or "usual",
            "solver": self.solver,
            "seed": str(self.seed),
        }


def analysis_settings(numbers: Numbers, batch: int | None, method: str) -> tuple[Settings, str]:
    """How an analysis computes its bounds, and its text with the memory that it may take."""
    from irverify.certify import Settings

    dtype, memory = numbers.torch_dtype, numbers.memory
    assert dtype is not None
    half = None if memory is None else max(1, memory // 2)  # for values, and for what the analysis has in flight
    settings = Settings(dtype, numbers.check_device(), batch, None if half is None else half * 2**20)
    return settings, replace(numbers, memory=half).limited(method)


class Job:
    """The sweeps over some images of a data set, one for each radius, as far as they have come."""

    def __init__(self, recipe: Recipe, question: Question, indices: Sequence[int], radii: Sequence[float]) -> None:
        from irverify.certify.fingerprint import identity
        from irverify.certify.sweeping import begun

        self.identity = identity(question, recipe.settings())
        self.recipe, self.question = replace(recipe, identity=tuple(self.identity.items())), question
        self.sweeps: list[Sweep] = [begun(eps, indices) for eps in radii]
        self.total = len(indices) * len(radii)

    def run(self, store: Store | None) -> None:
        """Decides what is open."""
        from irverify.certify.sweeping import proceed, resume, still_open

        limit = self.recipe.timeout
        for sweep in self.sweeps:
            resume(sweep, store)
        todo = [still_open(sweep, store, limit) for sweep in self.sweeps]
        with self._source() as source, Tally(self.total, self.total - sum(map(len, todo))) as tally:
            for sweep, indices in zip(self.sweeps, todo, strict=True):
                for _ in proceed(sweep, indices, source, store, limit):
                    tally.advance(partial(_summary, sweep))

    @contextmanager
    def _source(self) -> Iterator[Source]:
        """What decides images: this process, or others."""
        if not self.recipe.workers:
            from irverify.certify.certifier import in_this_process

            yield in_this_process(lambda eps: self.recipe.certifier(self.question.at(eps)))
            return
        from irverify.certify.crew import Crew
        from irverify.certify.messages import Setup

        recipe = self.recipe
        setup = Setup(recipe, recipe.threads, recipe.worker_memory)
        with Crew(self.question, setup, recipe.workers, recipe.timeout, recipe.chunk) as crew:
            yield crew.outcomes

    def content(self) -> dict[str, object]:
        """The job for JSON: the counts of one radius beside what was asked, those of several under `runs`."""
        recipe, wanted = self.recipe, self.recipe.wanted
        asked = {
            "model": recipe.model, "data": wanted.data, "part": wanted.part, "held_out": wanted.held_out,
            "norm": wanted.norm, "clip": self.question.clip,
            "method": recipe.method, "dtype": recipe.numbers.dtype, "device": recipe.numbers.device,
            "time_limit": recipe.timeout, "attack": recipe.attack, "solver": recipe.solver,
        }  # fmt: skip
        runs = [sweep.content() for sweep in self.sweeps]
        return {**asked, **runs[0]} if len(runs) == 1 else {**asked, "runs": runs}


def job_of(recipe: Recipe, radii: Sequence[float]) -> Job:
    """The job of a recipe: model and images are loaded, and checked to fit together."""
    question = recipe.question()
    indices = indices_of(recipe.wanted, len(question.images), usual=len(question.images))
    question.check(indices)
    return Job(replace(recipe, workers=min(recipe.workers, len(indices))), question, indices, radii)


def _summary(sweep: Sweep) -> tuple[str, ...]:
    """Counts by verdict, and by the stage that decided."""
    counts = ", ".join(f"{count} {status}" for status, count in sweep.counts().items() if count)
    by = Counter(outcome.decided_by for outcome in sweep.found.values() if outcome.decided_by is not None)
    stages = ", ".join(f"{stage} {count}" for stage, count in by.most_common())
    return (f"eps {sweep.eps:g}: {counts}", *((f"decided by {stages}",) if stages else ()))
