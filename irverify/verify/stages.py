"""The stages: attack, bounds, exact search, from cheap to dear, each only on what is still open.

Questions about one network share the cheap stages, a batch at a time; what stays open goes through the dear ones alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from irverify.attacks import Pgd, protocol
from irverify.errors import IRVerifyError, UsageError, is_out_of_memory
from irverify.pipeline import BoundsFault
from irverify.verify import attacking
from irverify.verify.attacking import FEW_INPUTS, free_inputs, seeded, strike
from irverify.verify.bounding import bound, check_method
from irverify.verify.problem import Clock, Options, Problem, achieved
from irverify.verify.splitting import split, splits
from irverify.verify.verdict import Verdict, VerdictName

ATTACK_SHARE = 0.1
"""The part of the time limit that one attack may take; what proves something must get its turn."""
BETWEEN = "alpha{steps=40,intermediate=8}"
"""What tightens the bounds in between too, before programs do."""
TIMES_CROWN = {"alpha": 10, BETWEEN: 40}
"""How many times what crown took these may take, about: a step is a pass of rows and back, of all of crown's for the
bounds in between."""
BOUND_SHARE = 0.3
"""The part of the time that is left which they may take: nobody ends them."""
Work: TypeAlias = Callable[[Sequence[Problem], float | None], dict[int, Exception]]
"""What a shared stage does with problems until a deadline; what went wrong, by the place of the problem."""


@dataclass
class Job:
    """One question while it is being decided: it holds where all its problems are decided without a counterexample.
    `fault` is what went wrong with it."""

    problems: Sequence[Problem]
    clock: Clock
    fault: Exception | None = None

    def __post_init__(self) -> None:
        if not self.problems:  # all of nothing would be verified
            raise UsageError("expected a query with a case at least, got none")

    @property
    def found(self) -> bool:
        return any(problem.counterexample is not None for problem in self.problems)

    @property
    def over(self) -> bool:
        """Nothing more is to be done."""
        return self.fault is not None or self.found or self.clock.over or not self.open

    @property
    def open(self) -> list[Problem]:
        return [problem for problem in self.problems if not problem.decided]

    @property
    def disjuncts(self) -> int:
        return sum(len(problem.open.disjuncts) for problem in self.problems)

    def verdict(self) -> Verdict:
        """Falsified where one problem is, verified where all are; else what went wrong is raised."""
        if self.fault is not None and not self.found:
            raise self.fault
        clock = self.clock
        verdict: VerdictName
        example = next((each.counterexample for each in self.problems if each.counterexample is not None), None)
        method = margin = tolerance = reason = None
        if example is not None:
            verdict, method = "falsified", clock.stages[-1].name
        elif not self.open:
            verdict = "verified"
            proofs = [(name, *proof) for problem in self.problems for name, proof in problem.proofs.items()]
            method = " & ".join(dict.fromkeys(name for name, _, _ in proofs))
            margin = min((smallest for _, smallest, _ in proofs), default=None)
            tolerance = max((needed for _, _, needed in proofs), default=None)
        elif clock.over:
            verdict, reason = "timeout", f"the limit of {clock.options.timeout:g} s came first"
            margin = self._floor()
        else:
            verdict, margin = "unknown", self._floor()
            reason = next((problem.reason for problem in self.open if problem.reason), "the bounds are too loose")
        return Verdict(verdict, method, margin, tolerance, example, clock.seconds, tuple(clock.stages), reason)

    def _floor(self) -> float | None:
        """What the smallest margin of all that is open is bounded by from below, where that is known."""
        floors = [problem.floor for problem in self.open]
        known = [floor for floor in floors if floor is not None]
        return min(known, default=None) if len(known) == len(floors) else None


def decide(jobs: Sequence[Job]) -> Iterator[Job]:
    """Decides questions about one network with the same options, and yields each as soon as nothing more is to be
    done: the cheap stages on all of them together, the dear ones on one after the other.

    Time that is shared counts for each its part, and what one waits for another counts for none.
    """
    waiting = list(jobs)
    options = waiting[0].clock.options
    alone = len(waiting) == 1
    for stage in _shared_stages(options):
        over = [job.over for job in waiting]  # asked once: time may run out between two askings
        yield from (job for job, done in zip(waiting, over, strict=True) if done)
        waiting = [job for job, done in zip(waiting, over, strict=True) if not done]
        if waiting:
            for job in waiting:
                job.clock.resume() if alone else job.clock.suspend()
            _share(stage, [job for job in waiting if any(stage.fits(problem, job.clock) for problem in job.open)])
    for job in waiting:
        if not job.over and options.pipeline is None:
            job.clock.resume()
            _go_on_alone(job)
            job.clock.suspend()
        yield job


@dataclass(frozen=True)
class Shared:
    """A stage that questions share: what it does with the problems that it `fits`."""

    name: str
    work: Work
    fits: Callable[[Problem, Clock], bool] = lambda problem, clock: True


def _shared_stages(options: Options) -> Iterator[Shared]:
    """The stages that questions share, from cheap to dear. A protocol of a paper is dearer than bounds, and of what
    these certify it finds nothing."""
    if options.pipeline is not None:
        check_method(options.pipeline)
    if options.attack is None:
        yield _attack(attacking.QUICK, options)
    for method in (options.pipeline,) if options.pipeline else ("ibp", "crown"):
        yield _bound(method)
    if options.attack is not None:
        yield _attack(protocol(options.attack), options)
    yield _attack(attacking.GUIDED, options)
    yield _attack(attacking.SAMPLED, options, FEW_INPUTS)
    if options.pipeline is None:
        yield _bound("alpha")


def _attack(how: Pgd, options: Options, inputs: int | None = None) -> Shared:
    """An attack on problems with up to so many free inputs (None: any number)."""

    def fits(problem: Problem, clock: Clock) -> bool:
        return problem.inner is not None and (inputs is None or free_inputs(problem) <= inputs)

    def work(problems: Sequence[Problem], deadline: float | None) -> dict[int, Exception]:
        return strike(problems, seeded(how, options.seed), deadline)

    return Shared(str(how), work, fits)


def _bound(method: str) -> Shared:
    return Shared(
        method,
        lambda problems, deadline: bound(problems, method),
        lambda problem, clock: _affordable(method, clock),
    )


def _affordable(method: str, clock: Clock) -> bool:
    """Whether bounds take no more than their share of the time that is left, going by what crown took."""
    left = clock.left()
    taken = sum(stage.seconds for stage in clock.stages if stage.name == "crown")
    return left is None or TIMES_CROWN.get(method, 0) * taken <= BOUND_SHARE * left


def _share(stage: Shared, jobs: Sequence[Job]) -> None:
    """One stage on the open problems of all jobs; each is charged its part of the seconds."""
    if not jobs:
        return
    jobs[0].clock.announce(stage.name)
    listed = [(job, problem) for job in jobs for problem in job.open if stage.fits(problem, job.clock)]
    before = [job.disjuncts for job in jobs]
    begun = time.monotonic()
    deadline = None
    limits = [job.clock.left() for job in jobs]
    if None not in limits:
        timeout = jobs[0].clock.options.timeout or 0.0
        deadline = begun + sum(min(left, ATTACK_SHARE * timeout) for left in limits if left is not None)
    faults = stage.work([problem for _, problem in listed], deadline)
    seconds = (time.monotonic() - begun) / len(jobs)
    for place, error in faults.items():
        listed[place][0].fault = error
    for job, disjuncts in zip(jobs, before, strict=True):
        told = [problem.reason for problem in job.open if problem.reason]
        refuted = disjuncts - job.disjuncts
        outcome = told[0] if told and not refuted else achieved(job.found, refuted, disjuncts)
        job.clock.charge(stage.name, seconds, outcome)


def _go_on_alone(job: Job) -> None:
    """The dear stages, on all problems of one question."""
    for stage in (_split, _optimize, _tighten, _thorough, _search):
        for problem in job.problems:
            if problem.decided or job.over:
                continue
            try:
                stage(problem, job.clock)
            except (IRVerifyError, BoundsFault) as error:
                job.fault = error
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                job.fault = error


def _split(problem: Problem, clock: Clock) -> None:
    if splits(problem):
        split(problem, clock)


def _optimize(problem: Problem, clock: Clock) -> None:
    if not _affordable(BETWEEN, clock):
        return
    with clock.stage(BETWEEN) as outcome:
        disjuncts = len(problem.open.disjuncts)
        faults = bound([problem], BETWEEN)
        outcome.append(problem.summary(disjuncts - len(problem.open.disjuncts)))
    for error in faults.values():
        raise error


def _tighten(problem: Problem, clock: Clock) -> None:
    from irverify.verify.exact import tighten_bounds  # brings scipy, which most instances do without

    tighten_bounds(problem, clock)


def _search(problem: Problem, clock: Clock) -> None:
    from irverify.verify.exact import search_exactly

    search_exactly(problem, clock)


def _thorough(problem: Problem, clock: Clock) -> None:
    how = seeded(attacking.THOROUGH, clock.options.seed)
    with clock.stage(str(how)) as outcome:
        faults = strike([problem], how, clock.share(ATTACK_SHARE))
        outcome.append(problem.summary(0))
    for error in faults.values():
        raise error
