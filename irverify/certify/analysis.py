"""A sweep by one analysis: bounds of the margins for a batch of images at a time."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from irverify.certify.memory import batch_size
from irverify.certify.outcome import CLEAN, Outcome, Status
from irverify.certify.question import Clean, Images, Question
from irverify.errors import UnsupportedError, UsageError, is_out_of_memory
from irverify.ir.graph import Graph, convert
from irverify.passes.tolerance import output_tolerance
from irverify.pipeline import Analysis, BoundsFault, parse_passes, run
from irverify.pipeline.manager import fitted
from irverify.pipeline.rows import specified
from irverify.pipeline.spec import spec_operands
from irverify.verify.bounding import check_method

RECHECK = "float64"
"""The stage that asks again in float64 where float32 is too close to tell."""


@dataclass(frozen=True)
class Settings:
    """How bounds are computed: the element type, the device; `batch` images at a time, or as many as `memory` bytes
    hold (None: what is usual)."""

    dtype: torch.dtype = torch.float64
    device: str = "cpu"
    batch: int | None = None
    memory: int | None = None


@dataclass
class _Bounded:
    """Smallest margins of a batch `[batch]` and what each must exceed; NaN exceeds nothing."""

    margin: Tensor
    tolerance: Tensor

    @property
    def certified(self) -> Tensor:
        return self.margin > self.tolerance


@dataclass
class ByAnalysis:
    """Certifies by the bounds of one analysis (or a pipeline that ends in one).

    An image is certified where every margin is bounded above a tolerance that covers rounding. With float32 the bounds
    that come closer to 0 than that are computed again in float64. UsageError for a method that gives no bounds.
    """

    question: Question
    method: str
    settings: Settings = field(default_factory=Settings)
    name: str = ""
    """What outcomes call the method, where not by its text."""

    def __post_init__(self) -> None:
        check_method(self.method)
        last = parse_passes(self.method)[-1]
        assert isinstance(last, Analysis)  # as was checked
        self._last = last
        self.name = self.name or self.method

    def outcomes(self, indices: Sequence[int]) -> Iterator[list[Outcome]]:
        """The outcomes of the images at these places of the data set, a batch at a time."""
        for copy in ("_graph", "_exact_graph"):  # of parameters that may have changed since an earlier sweep
            self.__dict__.pop(copy, None)
        step = self.settings.batch or batch_size(self._graph, self.settings.memory, self.settings.device)
        for start in range(0, len(indices), step):
            yield self._batch(self.question.take(indices[start : start + step]))

    def _batch(self, images: Images) -> list[Outcome]:
        begun = time.perf_counter()
        clean = self.question.clean(images)
        seconds = (time.perf_counter() - begun) / len(images)
        outcomes = [_first(images, place, said, seconds) for place, said in enumerate(clean)]
        rest = [place for place, outcome in enumerate(outcomes) if outcome.status == "unknown"]
        for place, outcome in zip(rest, self._bounded(images.select(rest)), strict=True):
            stages = {**outcomes[place].stages, **outcome.stages}
            outcomes[place] = replace(outcome, predicted=outcomes[place].predicted, stages=stages)
        return outcomes

    def _bounded(self, images: Images) -> list[Outcome]:
        """Outcomes by bounds. What goes wrong with a batch is asked again in halves, until it is one image's own."""
        if not len(images):
            return []
        try:
            return self._decided(images)
        except (UnsupportedError, BoundsFault) as error:
            if isinstance(error, UnsupportedError) and error.items:  # operators without a rule: no image has a chance
                raise
            if len(images) == 1:
                status: Status = "unknown" if isinstance(error, UnsupportedError) else "error"
                return [Outcome(images.indices[0], int(images.labels[0]), status, reason=str(error))]
        except (RuntimeError, MemoryError) as error:
            if len(images) == 1 or not is_out_of_memory(error):
                raise
        half = len(images) // 2
        return [
            *self._bounded(images.select(range(half))),
            *self._bounded(images.select(range(half, len(images)))),
        ]

    def _decided(self, images: Images) -> list[Outcome]:
        begun = time.perf_counter()
        bounded = self._bounds(images, self._graph)
        spent = {self.name: (time.perf_counter() - begun) / len(images)}
        if self.settings.dtype == torch.float64:
            return [self._outcome(images, bounded, place, spent) for place in range(len(images))]
        close = (~(bounded.margin.abs() > bounded.tolerance)).nonzero()[:, 0].tolist()
        begun = time.perf_counter()
        again = self._bounds(images.select(close), self._exact_graph) if close else bounded
        repeated = {**spent, RECHECK: (time.perf_counter() - begun) / max(1, len(close))}
        result = []
        for place in range(len(images)):
            if place in close:
                outcome = self._outcome(images.select(close), again, close.index(place), repeated)
            else:
                outcome = self._outcome(images, bounded, place, spent)
            result.append(outcome)
        return result

    def _outcome(self, images: Images, bounded: _Bounded, place: int, spent: dict[str, float]) -> Outcome:
        certified = bool(bounded.certified[place])
        margin, tolerance = float(bounded.margin[place]), float(bounded.tolerance[place])
        return Outcome(
            images.indices[place], int(images.labels[place]), "certified" if certified else "unknown",
            method=self.name if certified else None, bound=margin if math.isfinite(margin) else None,
            tolerance=tolerance, reason=None if certified else "the bounds are too loose", stages=spent,
        )  # fmt: skip

    def _bounds(self, images: Images, graph: Graph) -> _Bounded:
        regions = fitted(graph, self.question.region(images))
        operands = dict(zip(spec_operands(graph), self.question.rows(images.labels), strict=True))
        with torch.no_grad():
            state = run(graph, self.method, regions, operands=operands)
            (result,) = state.graph.outputs
            if result not in state.require(self._last).bounds:
                raise UsageError(
                    f"expected a method that bounds the margins, got {self.method!r}, which certifies nothing"
                )
            lower = state.bounds[result].lower
            tolerance = output_tolerance(graph, regions, operands)
        lower = torch.where(lower.isfinite(), lower, torch.full_like(lower, -math.inf))
        slack, place = (lower - tolerance).cpu().double().min(dim=1)
        margin = lower.cpu().double().gather(1, place[:, None])[:, 0]
        return _Bounded(margin, margin - slack)

    @cached_property
    def _exact_graph(self) -> Graph:
        """The network in float64 with the margins as its output, rewritten for analyses; its parameters are copies."""
        source = convert(self.question.graph, torch.float64, self.settings.device)
        return convert(specified(source, self.question.classes - 1))

    @cached_property
    def _graph(self) -> Graph:
        """The same in the element type of the sweep; rewritten before it is rounded."""
        if self.settings.dtype == torch.float64:
            return self._exact_graph
        return convert(self._exact_graph, self.settings.dtype)


def _first(images: Images, place: int, clean: Clean, seconds: float) -> Outcome:
    """What the image itself says; `unknown` where bounds have to be asked."""
    outcome = Outcome(
        images.indices[place], int(images.labels[place]), "unknown", clean.predicted, stages={CLEAN: seconds}
    )
    if not clean.finite:
        return replace(outcome, status="error", reason="the outputs for the image itself are not finite")
    return replace(outcome, status="falsified", method=CLEAN) if clean.falsified else outcome
