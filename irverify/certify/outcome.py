"""What a sweep over a data set finds out: one outcome for each image, and their counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

Status = Literal["certified", "falsified", "unknown", "timeout", "error"]
STATUSES: tuple[Status, ...] = get_args(Status)
CLEAN = "clean"
"""The stage that asks whether the image itself is classified as its label."""


@dataclass(frozen=True)
class Outcome:
    """What is known of one image, the `index`-th of its data set.

    `certified`: every input of its region is classified as `label`, by `method`, whose smallest margin `bound` exceeds
    `tolerance`. `falsified`: some input of the region is not, and was replayed on the source model (`clean`: the image
    itself). `unknown`, `timeout`: nothing is claimed. `error`: it could not be asked, `reason` says why.
    `predicted` is the class of the image itself, None where there is no largest logit or nobody asked. `stages` has the
    seconds that each stage took for it (of a batch, its part).

    What an exact search knows besides; None where nobody knows. `attacked`: whether an attack found an adversarial
    input, False where all that ran found none. `unstable`: the ReLUs whose sign the tightest bounds that were computed
    for it leave open. `build_seconds`: what a mixed-integer program took to build, its bounds included;
    `solve_seconds`: what solving it took, a solve that ran out of time included.
    """

    index: int
    label: int
    status: Status
    predicted: int | None = None
    method: str | None = None
    bound: float | None = None
    tolerance: float | None = None
    reason: str | None = None
    stages: Mapping[str, float] = field(default_factory=dict)
    attacked: bool | None = None
    unstable: int | None = None
    build_seconds: float | None = None
    solve_seconds: float | None = None

    @property
    def seconds(self) -> float:
        return sum(self.stages.values())

    @property
    def correct(self) -> bool:
        """The image itself is classified as its label."""
        return self.predicted == self.label

    def content(self) -> dict[str, object]:
        """The outcome for JSON."""
        return {
            "index": self.index,
            "label": self.label,
            "predicted": self.predicted,
            "status": self.status,
            "method": self.method,
            "bound": self.bound,
            "tolerance": self.tolerance,
            "seconds": self.seconds,
            **({} if self.reason is None else {"reason": self.reason}),
        }


@dataclass
class Sweep:
    """The outcomes of one radius, in the order in which they came; `seconds` is the time of the wall clock."""

    eps: float
    outcomes: list[Outcome] = field(default_factory=list)
    seconds: float = 0.0

    def counts(self) -> dict[str, int]:
        """How many images have each status, also those that none has."""
        found = Counter(outcome.status for outcome in self.outcomes)
        return {status: found[status] for status in STATUSES}

    @property
    def correct(self) -> int:
        return sum(outcome.correct for outcome in self.outcomes)

    def per_stage(self) -> dict[str, dict[str, float]]:
        """For each stage, in the order in which they ran: the images that it decided, and its seconds."""
        stages: dict[str, dict[str, float]] = {}
        for outcome in self.outcomes:
            for name, seconds in outcome.stages.items():
                stages.setdefault(name, {"certified": 0, "falsified": 0, "seconds": 0.0})["seconds"] += seconds
        for outcome in self.outcomes:
            if outcome.status in ("certified", "falsified") and outcome.method is not None:
                row = stages.setdefault(outcome.method, {"certified": 0, "falsified": 0, "seconds": 0.0})
                row[outcome.status] += 1
        return stages

    def content(self) -> dict[str, object]:
        """The sweep for JSON: n = certified + falsified + unknown + timeout + error."""
        return {
            "eps": self.eps,
            "n": len(self.outcomes),
            "correct": self.correct,
            **self.counts(),
            "per_stage": self.per_stage(),
            "seconds": self.seconds,
            "per_image": [outcome.content() for outcome in self.outcomes],
        }
