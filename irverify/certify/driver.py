"""A sweep by the whole driver: attacks, bounds and exact search, the cheap stages for a batch of images at a time."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from irverify.certify.memory import batch_size
from irverify.certify.outcome import CLEAN, Outcome, Status
from irverify.certify.question import Images, Question
from irverify.errors import IRVerifyError
from irverify.ir.graph import Graph
from irverify.ir.ops import Relu
from irverify.properties import robust
from irverify.verify import Options, Verdict
from irverify.verify.driver import problem_of, with_float_outputs, working
from irverify.verify.problem import Clock, Problem
from irverify.verify.stages import Job, decide

STATUS: dict[str, Status] = {
    "verified": "certified", "falsified": "falsified", "unknown": "unknown", "timeout": "timeout",
}  # fmt: skip
BUILDING, SOLVING = ("lp-", "milp-"), ("milp (",)
"""How the stages that make bounds for a program, and that solve it, begin."""


@dataclass
class ByDriver:
    """Decides each image with all that there is; the time limit in `options` is for each image, and of a stage that
    images share each is charged its part."""

    question: Question
    options: Options = field(default_factory=Options)
    memory: int | None = None
    """Bytes that a batch may take (None: what is usual)."""

    def outcomes(self, indices: Sequence[int]) -> Iterator[list[Outcome]]:
        """The outcomes of the images at these places of the data set, each as soon as it is known."""
        graph = with_float_outputs(self.question.graph)
        work = working(graph)
        step = batch_size(work, self.memory, "cpu")
        for start in range(0, len(indices), step):
            yield from self._batch(self.question.take(indices[start : start + step]), graph, work)

    def _batch(self, images: Images, graph: Graph, work: Graph) -> Iterator[list[Outcome]]:
        begun = time.perf_counter()
        clean = self.question.clean(images)
        spent = {CLEAN: (time.perf_counter() - begun) / len(images)}
        first: dict[int, Outcome] = {}
        jobs: list[tuple[int, Job]] = []
        settled: list[Outcome] = []
        for place, said in enumerate(clean):
            index, label = images.indices[place], int(images.labels[place])
            outcome = Outcome(index, label, "unknown", said.predicted, stages=spent)
            if not said.finite:
                reason = "the outputs for the image itself are not finite"
                settled.append(dataclasses.replace(outcome, status="error", reason=reason))
            elif said.falsified:
                settled.append(dataclasses.replace(outcome, status="falsified", method=CLEAN))
            else:
                first[place] = outcome
                try:
                    problem = problem_of(graph, work, self.question.region(images.select([place])), robust(label))
                except IRVerifyError as error:
                    settled.append(dataclasses.replace(first.pop(place), status="error", reason=str(error)))
                    continue
                jobs.append((place, Job([problem], Clock(self.options, None))))
        if settled:
            yield settled
        places = {id(job): place for place, job in jobs}
        for job in decide([job for _, job in jobs]) if jobs else ():
            yield [_outcome(first[places[id(job)]], job)]


def _outcome(first: Outcome, job: Job) -> Outcome:
    """What has become of an image that bounds and attacks were asked about."""
    stages = {**first.stages, **_stages(job)}
    (problem,) = job.problems
    if job.fault is not None and not job.found:
        return dataclasses.replace(first, status="error", reason=str(job.fault), stages=stages)
    verdict = job.verdict()
    known: dict[str, Any] = {"attacked": _attacked(verdict), "unstable": _unstable(problem)}
    searched = any(name.startswith(SOLVING) for name in stages)
    if searched:
        known["build_seconds"] = sum(taken for name, taken in stages.items() if name.startswith(BUILDING))
        known["solve_seconds"] = sum(taken for name, taken in stages.items() if name.startswith(SOLVING))
    return dataclasses.replace(
        first, status=STATUS[verdict.verdict], method=verdict.method, bound=verdict.bound,
        tolerance=verdict.tolerance, reason=verdict.reason, stages=stages, **known,
    )  # fmt: skip


def _attacked(verdict: Verdict) -> bool | None:
    """Whether an attack found a counterexample; None where none has run."""
    if not any(stage.name.startswith("pgd") for stage in verdict.stages):
        return None
    return verdict.verdict == "falsified" and str(verdict.method).startswith("pgd")


def _unstable(problem: Problem) -> int | None:
    """How many ReLUs the tightest bounds leave open; None where there are no bounds of one."""
    total = 0
    for node in problem.work:
        if isinstance(node.op, Relu):
            name = node.inputs[0]
            if problem.tightened is not None and name in problem.tightened:
                lower, upper = problem.tightened[name]
            elif name in problem.bounds:
                lower, upper = problem.bounds[name].lower.numpy(), problem.bounds[name].upper.numpy()
            else:
                return None
            total += int(np.count_nonzero((lower < 0) & (upper > 0)))
    return total


def _stages(job: Job) -> dict[str, float]:
    """The seconds of each stage; one that ran twice counts once."""
    seconds: dict[str, float] = {}
    for stage in job.clock.stages:
        seconds[stage.name] = seconds.get(stage.name, 0.0) + stage.seconds
    return seconds
