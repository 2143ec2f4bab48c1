"""Robust cascades (paper 5, sec. 3.3): networks of which each takes the inputs that those before it do not certify.

Every input stays at the first stage whose bounds certify that stage's own prediction for all inputs within the radius;
the last stage takes what is left. An image counts as certified by the cascade where the stage that it stays at
certifies its label. That is weaker than a verdict about the cascade as a classifier: an input near a certified image
is classified as the label by that stage, but its own ball may not be certified there, and then it goes on to another
stage, which may say something else (Mangal et al., On the Perils of Cascading Robust Classifiers, ICLR 2023). Hence
nothing here is called certified without "cascade" beside it, and nothing is an `Outcome`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from irverify.certify.analysis import ByAnalysis, Settings
from irverify.certify.certifier import isolated
from irverify.certify.outcome import Outcome
from irverify.certify.question import Images, Norm, Question
from irverify.data import DataSet
from irverify.errors import PropertyError
from irverify.ir.graph import Graph
from irverify.verify.bounding import check_method


@dataclass(frozen=True)
class OwnPrediction(Question):
    """Is every x with |x - image|_norm <= eps classified as the network classifies the image itself?

    The labels of the images that are taken are these classes. Where no logit is the largest one, or some are not
    finite, the image itself says so (`clean`), and no bounds are asked.
    """

    def take(self, indices: Sequence[int]) -> Images:
        images = super().take(indices)
        predicted = self._logits(images.pixels.to(self.graph.inputs[0].type.dtype)).argmax(dim=1)
        return replace(images, labels=predicted)


@dataclass(frozen=True)
class Visit:
    """What a stage, counted from 1, says of an image that reaches it: its prediction (None where there is none), and
    whether the bounds certify it; `fault` says why it could not be asked."""

    stage: int
    predicted: int | None
    certifies: bool
    bound: float | None = None
    tolerance: float | None = None
    fault: str | None = None


@dataclass(frozen=True)
class Passage:
    """The way of one image, the `index`-th of its data set, through a cascade: the stages that it reached."""

    index: int
    label: int
    visits: tuple[Visit, ...]

    @property
    def last(self) -> Visit:
        """At the stage that it stays at."""
        return self.visits[-1]

    @property
    def correct(self) -> bool:
        """The stage that it stays at classifies it as its label."""
        return self.last.fault is None and self.last.predicted == self.label

    @property
    def certified_cascade(self) -> bool:
        """The stage that it stays at certifies its label."""
        return self.correct and self.last.certifies

    def up_to(self, stage: int) -> Passage:
        """The way that it would have taken had the cascade ended with this stage."""
        return replace(self, visits=self.visits[:stage])


@dataclass(frozen=True)
class Ball:
    """The radius that a cascade is asked about, what inputs are kept inside (None: anywhere), and the analysis that
    decides where an input stays, where not the cascade's own."""

    eps: float
    clip: tuple[float, float] | None
    method: str | None = None


@dataclass(frozen=True)
class Cascade:
    """The networks of a cascade, first to last; the radius and the norm that it was trained for, in raw input units;
    the analysis whose bounds decide where an input stays; and whatever else is known of it. PropertyError where the
    networks do not take the same inputs or have other classes; UsageError for a method that gives no bounds.
    """

    stages: tuple[Graph, ...]
    eps: float
    norm: Norm = "inf"
    method: str = "ibp"
    about: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_method(self.method)
        if not self.stages:
            raise PropertyError("expected a cascade to have a stage, got none")
        shapes = [_shape(graph) for graph in self.stages]
        for number, shape in enumerate(shapes, start=1):
            if shape != shapes[0]:
                message = f"expected {_said(shapes[0])} as in stage 1, got {_said(shape)}"
                raise PropertyError(message, where=f"stage {number}")

    def passages(
        self, images: DataSet, indices: Sequence[int], ball: Ball, settings: Settings | None = None
    ) -> Iterator[Passage]:
        """The ways of the images at these places of a data set, each as soon as it is known; those that stay at the
        first stage come first.

        An image that cannot be asked at a stage ends there, neither correct nor certified. Raises as `Question`.
        """
        open_: dict[int, tuple[Visit, ...]] = {int(index): () for index in indices}
        for number, graph in enumerate(self.stages, start=1):
            question = OwnPrediction(graph, images, ball.eps, self.norm, ball.clip)
            certifier = ByAnalysis(question, ball.method or self.method, settings or Settings())
            for found in isolated(certifier, list(open_)) if open_ else ():
                for outcome in found:
                    visit = _visit(number, outcome)
                    open_[outcome.index] += (visit,)
                    if visit.certifies or visit.fault is not None or number == len(self.stages):
                        label = int(images.labels[outcome.index])
                        yield Passage(outcome.index, label, open_.pop(outcome.index))

    def proceed(self, sweep: CascadeSweep, images: DataSet, settings: Settings | None = None) -> Iterator[Passage]:
        """The ways of the images of a sweep that nothing is known of yet; each is in the sweep before it is yielded."""
        last = time.perf_counter()
        for passage in self.passages(images, [i for i in sweep.indices if i not in sweep.found], sweep.ball, settings):
            now = time.perf_counter()
            sweep.found[passage.index] = passage
            sweep.seconds, last = sweep.seconds + now - last, now
            yield passage


@dataclass(frozen=True)
class StageCounts:
    """What a stage did: images that reached it, that stay at it, and of these classified as their label, and certified
    as it (by the cascade's rule); the same two counts over all images, had the cascade ended with this stage; images
    that could not be asked."""

    stage: int
    reached: int
    stay: int
    correct: int
    certified_cascade: int
    correct_up_to_here: int
    certified_up_to_here: int
    errors: int


@dataclass
class CascadeSweep:
    """What is known so far of the images `indices` in a cascade of so many stages; `seconds` of the wall clock went
    into it."""

    ball: Ball
    indices: tuple[int, ...]
    stages: int
    found: dict[int, Passage] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def passages(self) -> list[Passage]:
        """In the order of `indices`."""
        return [self.found[index] for index in self.indices if index in self.found]

    @property
    def correct(self) -> int:
        return sum(passage.correct for passage in self.found.values())

    @property
    def certified_cascade(self) -> int:
        return sum(passage.certified_cascade for passage in self.found.values())

    @property
    def errors(self) -> int:
        return sum(passage.last.fault is not None for passage in self.found.values())

    def per_stage(self) -> list[StageCounts]:
        return [self._counts(stage) for stage in range(1, self.stages + 1)]

    def _counts(self, stage: int) -> StageCounts:
        found = list(self.found.values())
        stay = [passage for passage in found if passage.last.stage == stage]
        so_far = [passage.up_to(stage) for passage in found]
        return StageCounts(
            stage,
            reached=sum(len(passage.visits) >= stage for passage in found),
            stay=len(stay),
            correct=sum(passage.correct for passage in stay),
            certified_cascade=sum(passage.certified_cascade for passage in stay),
            correct_up_to_here=sum(passage.correct for passage in so_far),
            certified_up_to_here=sum(passage.certified_cascade for passage in so_far),
            errors=sum(passage.last.fault is not None for passage in stay),
        )

    def content(self) -> dict[str, object]:
        """The sweep for JSON."""
        n = len(self.found)
        return {
            "eps": self.ball.eps,
            "asked": len(self.indices),
            "n": n,
            "correct": self.correct,
            "certified_cascade": self.certified_cascade,
            "standard_error": 1 - self.correct / n if n else None,
            "certified_cascade_error": 1 - self.certified_cascade / n if n else None,
            "error": self.errors,
            "per_stage": [vars(counts) for counts in self.per_stage()],
            "seconds": self.seconds,
            "per_image": [_content(passage) for passage in self.passages],
        }


def _visit(stage: int, outcome: Outcome) -> Visit:
    fault = (outcome.reason or "no reason") if outcome.status == "error" else None
    return Visit(stage, outcome.predicted, outcome.status == "certified", outcome.bound, outcome.tolerance, fault)


def _content(passage: Passage) -> dict[str, object]:
    last = passage.last
    said: dict[str, object] = {
        "index": passage.index, "label": passage.label, "stage": last.stage, "predicted": last.predicted,
        "correct": passage.correct, "certified_cascade": passage.certified_cascade, "bound": last.bound,
        "tolerance": last.tolerance,
    }  # fmt: skip
    return said if last.fault is None else {**said, "reason": last.fault}


def _shape(graph: Graph) -> tuple[int, int]:
    """The sizes of all inputs and of all outputs."""
    return sum(node.type.size for node in graph.inputs), sum(graph[name].type.size for name in graph.outputs)


def _said(shape: tuple[int, int]) -> str:
    return f"{shape[0]} inputs and {shape[1]} classes"
