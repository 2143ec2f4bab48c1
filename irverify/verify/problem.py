"""One problem while it is being decided: a network, a region, a property, and what is known so far."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from irverify.attacks import Candidate, protocol
from irverify.errors import UsageError
from irverify.ir.graph import Graph
from irverify.pipeline import Bounds
from irverify.properties import Disjunct, Property
from irverify.regions import Region
from irverify.verify.replay import Replay
from irverify.verify.verdict import Counterexample, Stage

SOLVERS = ("auto", "scip", "highs", "cp-sat")
NOTHING = "nothing decided"


@dataclass(frozen=True)
class Options:
    """How a problem is decided: `timeout` in seconds (None: no limit), `solver` (one of `SOLVERS`) and `threads` for
    it, `pipeline` (the passes whose bounds are used), `attack` (a protocol of `irverify.attacks` by name, behind the
    cheap bounds and in place of the quick attack that comes first), `seed` of the attacks, `progress` is told of each
    stage as it begins."""

    timeout: float | None = None
    solver: str = "auto"
    threads: int | None = None
    pipeline: str | None = None
    attack: str | None = None
    seed: int = 0
    progress: Callable[[str], None] | None = None

    def __post_init__(self) -> None:
        if self.solver not in SOLVERS:
            raise UsageError(f"expected one of the solvers {', '.join(SOLVERS)}, got {self.solver!r}")
        if self.attack is not None:
            protocol(self.attack)


@dataclass
class Clock:
    """The time budget of one question, and the stages that have used it.

    It runs from the start on; one that is suspended (`since` None) counts only what is charged to it: its part of
    stages that several questions share.
    """

    options: Options
    since: float | None = field(default_factory=time.monotonic)
    stages: list[Stage] = field(default_factory=list)
    spent: float = 0.0

    @property
    def seconds(self) -> float:
        return self.spent + (0.0 if self.since is None else time.monotonic() - self.since)

    def suspend(self) -> None:
        self.spent, self.since = self.seconds, None

    def resume(self) -> None:
        if self.since is None:
            self.since = time.monotonic()

    def share(self, part: float) -> float | None:
        """The time of `time.monotonic` at which a stage that may take this part of the limit has to end."""
        left = self.left()
        if left is None or self.options.timeout is None:
            return None
        return time.monotonic() + min(left, part * self.options.timeout)

    def left(self) -> float | None:
        """Seconds until the limit, at least 0; None where there is none."""
        return None if self.options.timeout is None else max(0.0, self.options.timeout - self.seconds)

    @property
    def over(self) -> bool:
        return self.options.timeout is not None and self.seconds >= self.options.timeout

    @contextmanager
    def stage(self, name: str) -> Iterator[list[str]]:
        """Times one stage; what it appends to the list becomes the outcome."""
        self.announce(name)
        begun, outcome = time.monotonic(), list[str]()
        try:
            yield outcome
        finally:
            self.stages.append(Stage(name, time.monotonic() - begun, "; ".join(outcome) or NOTHING))

    def charge(self, name: str, seconds: float, outcome: str) -> None:
        """Writes down a stage that was shared with others and took so many seconds of this question's time."""
        self.stages.append(Stage(name, seconds, outcome))
        if self.since is None:
            self.spent += seconds

    def announce(self, name: str) -> None:
        if self.options.progress is not None:
            self.options.progress(name)


@dataclass
class Problem:
    """One region and one property of one network, and what is known of them so far.

    `graph` is the network as compiled; `work` the same in float64, rewritten for analyses; `regions` its input regions
    (float64, one for each input, a batch of one); `inner` regions in the network's own element type for attacks (None
    where they hold no float of that type). `open` is the part of the property that is still undecided: the disjuncts
    of the violation that nothing has refuted. `tolerance` is what a float64 bound must exceed to refute one.
    """

    graph: Graph
    work: Graph
    regions: tuple[Region, ...]
    inner: tuple[Region, ...] | None
    replay: Replay
    open: Property
    bounds: dict[str, Bounds] = field(default_factory=dict)
    """The tightest known bounds of the values of `work`."""
    tolerance: float = math.inf
    tightened: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]] | None = None
    """Bounds from linear programs, once these have run."""
    nearest: dict[Disjunct, tuple[float, Candidate]] = field(default_factory=dict)
    """For each disjunct the smallest margin that an attack has met, in the network's own arithmetic, and where."""
    floor: float | None = None
    """A lower bound of the smallest margin of any open disjunct, by the relaxation or the search; it decides nothing.
    """
    counterexample: Counterexample | None = None
    proofs: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Method -> the smallest margin that it refuted a disjunct by, and the tolerance that this exceeds."""
    reason: str | None = None

    def learn(self, bounds: Mapping[str, Bounds]) -> None:
        """Takes note of bounds of the values of `work`."""
        self.bounds.update({name: entry for name, entry in bounds.items() if name in self.work})

    @property
    def decided(self) -> bool:
        return self.counterexample is not None or not self.open.disjuncts

    def refute(self, refuted: Sequence[int], method: str, bound: float, tolerance: float) -> None:
        """Drops disjuncts of `open` that `method` has shown to be unsatisfiable by a margin of at least `bound`."""
        if not refuted:
            return
        gone = set(refuted)
        kept = tuple(disjunct for index, disjunct in enumerate(self.open.disjuncts) if index not in gone)
        self.open = Property(kept, self.open.description)
        smallest = min(bound, self.proofs[method][0]) if method in self.proofs else bound
        self.proofs[method] = smallest, tolerance

    def accept(self, candidate: Candidate) -> bool:
        """Replays a candidate; keeps it where it is a counterexample."""
        self.counterexample = self.replay(candidate)
        return self.counterexample is not None

    def note(self, nearest: Mapping[Disjunct, tuple[float, Candidate]]) -> None:
        """Takes note of the points that an attack has come nearest to a violation with."""
        for disjunct, (margin, candidate) in nearest.items():
            if disjunct not in self.nearest or margin < self.nearest[disjunct][0]:
                self.nearest[disjunct] = margin, candidate

    def summary(self, refuted: int) -> str:
        """What a stage that refuted so many disjuncts has achieved, in words."""
        return achieved(self.counterexample is not None, refuted, refuted + len(self.open.disjuncts))


def achieved(found: bool, refuted: int, disjuncts: int) -> str:
    """What a stage has achieved, in words."""
    return "found a counterexample" if found else f"refuted {refuted} of {disjuncts}"


def element_type(graph: Graph) -> torch.dtype:
    """The element type that the network's inputs have."""
    return graph.inputs[0].type.dtype
