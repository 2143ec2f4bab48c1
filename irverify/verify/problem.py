"""One problem while it is being decided: a network, a region, a property, and what is known so far."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from irverify.attacks import Candidate
from irverify.errors import UnsupportedError
from irverify.ir.graph import Graph
from irverify.passes.ibp import Ibp
from irverify.passes.outward import OutwardIbp
from irverify.pipeline import Bounds, run
from irverify.properties import Property
from irverify.regions import Region
from irverify.verify.replay import Replay
from irverify.verify.verdict import Counterexample, Stage

ROUNDING = 1e-10
"""What a float64 bound must exceed to prove anything, relative to the largest magnitude of any value."""


@dataclass(frozen=True)
class Options:
    """How a problem is decided: `timeout` in seconds (None: no limit), `solver` (auto, highs, scip) and `threads` for
    it, `pipeline` (the passes whose bounds are used), `seed` of the attack, `progress` is told of each stage as it
    begins."""

    timeout: float | None = None
    solver: str = "auto"
    threads: int | None = None
    pipeline: str | None = None
    seed: int = 0
    progress: Callable[[str], None] | None = None


@dataclass
class Clock:
    """The time budget of a run, and the stages that have used it."""

    options: Options
    started: float = field(default_factory=time.monotonic)
    stages: list[Stage] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    def share(self, part: float) -> float | None:
        """The time of `time.monotonic` at which a stage that may take this part of the limit has to end."""
        if self.options.timeout is None:
            return None
        return min(self.started + self.options.timeout, time.monotonic() + part * self.options.timeout)

    def left(self) -> float | None:
        """Seconds until the limit, at least 0; None where there is none."""
        return None if self.options.timeout is None else max(0.0, self.options.timeout - self.seconds)

    @property
    def over(self) -> bool:
        return self.options.timeout is not None and self.seconds >= self.options.timeout

    @contextmanager
    def stage(self, name: str) -> Iterator[list[str]]:
        """Times one stage; what it appends to the list becomes the outcome."""
        if self.options.progress is not None:
            self.options.progress(name)
        begun, outcome = time.monotonic(), list[str]()
        try:
            yield outcome
        finally:
            self.stages.append(Stage(name, time.monotonic() - begun, "; ".join(outcome) or "nothing decided"))


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
    counterexample: Counterexample | None = None
    proofs: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Method -> the smallest margin that it refuted a disjunct by, and the tolerance that this exceeds."""
    reason: str | None = None

    def learn(self, bounds: Mapping[str, Bounds]) -> None:
        """Takes note of bounds of the values of `work`, and of the tolerance that their magnitudes ask for.

        A float64 bound of this network is wrong by at most about (terms in a sum) x (layers) x 1e-16 of the largest
        magnitude that occurs; `ROUNDING` covers a million of these.
        """
        self.bounds = {name: entry for name, entry in bounds.items() if name in self.work}
        if not math.isfinite(self.tolerance):  # the first bounds are the widest: they cover what others compute with
            ends = [side.abs().max() for entry in bounds.values() for side in (entry.lower, entry.upper)]
            try:
                largest = torch.stack(ends).max().clamp(min=1.0)
                self.tolerance = float(torch.maximum(ROUNDING * largest, self._rounding()))  # NaN stays NaN
            except UnsupportedError as error:  # rounded outward, the network is undefined somewhere: nothing is proved
                self.reason = str(error)

    def _rounding(self) -> Tensor:
        """Four times what rounding may have done to a bound of any open row: what intervals that are rounded outward
        lose against those that are not, which counts errors as the network amplifies them (weights that cancel)."""
        outer, plain = (run(self.work, step, self.regions).bounds for step in (OutwardIbp(), Ibp()))

        def joined(parts: Iterable[Tensor]) -> Tensor:
            return torch.cat([part.flatten() for part in parts])

        outputs, inputs = self.work.outputs, [node.name for node in self.work.inputs]
        lost = joined(
            torch.maximum(outer[name].upper - plain[name].upper, plain[name].lower - outer[name].lower)
            for name in outputs
        ).clamp(min=0)
        y = joined(torch.maximum(outer[name].lower.abs(), outer[name].upper.abs()) for name in outputs)
        x = joined(torch.maximum(plain[name].lower.abs(), plain[name].upper.abs()) for name in inputs)
        unit = torch.finfo(torch.float64).eps * (len(x) + len(y))
        errors = []
        for disjunct in self.open.disjuncts:
            size = disjunct.outputs.abs() @ y + disjunct.offset.abs()
            if disjunct.inputs is not None:
                size = size + disjunct.inputs.abs() @ x
            errors.append((disjunct.outputs.abs() @ lost + unit * size).max())
        return 4 * torch.stack(errors).max()

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

    def summary(self, refuted: int) -> str:
        """What a stage that refuted so many disjuncts has achieved, in words."""
        if self.counterexample is not None:
            return "found a counterexample"
        return f"refuted {refuted} of {refuted + len(self.open.disjuncts)}"


def element_type(graph: Graph) -> torch.dtype:
    """The element type that the network's inputs have."""
    return graph.inputs[0].type.dtype
