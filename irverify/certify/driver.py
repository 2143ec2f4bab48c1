"""A sweep by the whole driver: attack, bounds and exact search for one image after the other."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from irverify.certify.outcome import CLEAN, Outcome, Status
from irverify.certify.question import Images, Question
from irverify.errors import IRVerifyError
from irverify.pipeline import BoundsFault
from irverify.properties import robust
from irverify.verify import Options, Verdict, verify

STATUS: dict[str, Status] = {
    "verified": "certified", "falsified": "falsified", "unknown": "unknown", "timeout": "timeout",
}  # fmt: skip


@dataclass
class ByDriver:
    """Decides each image with all that there is; the time limit in `options` is for each image."""

    question: Question
    options: Options = field(default_factory=Options)

    def outcomes(self, indices: Sequence[int]) -> Iterator[list[Outcome]]:
        """The outcomes of the images at these places of the data set, one at a time."""
        for index in indices:
            yield [self._decided(self.question.take([index]))]

    def _decided(self, image: Images) -> Outcome:
        begun = time.perf_counter()
        (clean,) = self.question.clean(image)
        spent = {CLEAN: time.perf_counter() - begun}
        known: dict[str, Any] = {"predicted": clean.predicted, "stages": spent}
        index, label = image.indices[0], int(image.labels[0])
        if not clean.finite:
            return Outcome(index, label, "error", reason="the outputs for the image itself are not finite", **known)
        if clean.falsified:
            return Outcome(index, label, "falsified", method=CLEAN, **known)
        try:
            verdict = verify(self.question.graph, self.question.region(image), robust(label), self.options)
        except (IRVerifyError, BoundsFault) as error:
            return Outcome(index, label, "error", reason=str(error), **known)
        return dataclasses.replace(
            _of_verdict(verdict, index, label), predicted=clean.predicted, stages={**spent, **_stages(verdict)}
        )


def _of_verdict(verdict: Verdict, index: int, label: int) -> Outcome:
    return Outcome(
        index, label, STATUS[verdict.verdict], method=verdict.method, bound=verdict.bound,
        tolerance=verdict.tolerance, reason=verdict.reason,
    )  # fmt: skip


def _stages(verdict: Verdict) -> dict[str, float]:
    """The seconds of each stage; one that ran twice counts once."""
    seconds: dict[str, float] = {}
    for stage in verdict.stages:
        seconds[stage.name] = seconds.get(stage.name, 0.0) + stage.seconds
    return seconds
