"""What a sweep over a data set finds out: one outcome for each image, and their counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Literal, get_args

Status = Literal["certified", "falsified", "unknown", "timeout", "error"]
STATUSES: tuple[Status, ...] = get_args(Status)
CLEAN = "clean"
"""The stage that asks whether the image itself is classified as its label."""
KNOWN_AT_TIMES = ("attacked", "unstable", "build_seconds", "solve_seconds")
"""What an outcome tells only where it is known."""


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

    @property
    def decided_by(self) -> str | None:
        """The stage that certified or falsified it: the one that ran last, where several have their part in a proof."""
        if self.status not in ("certified", "falsified"):
            return None
        return self.method if self.method in self.stages or not self.stages else list(self.stages)[-1]

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
            **{name: said for name in KNOWN_AT_TIMES if (said := getattr(self, name)) is not None},
        }


@dataclass(frozen=True)
class Accuracies:
    """The columns of paper 1's table 7: shares of the images, and means over those that something is known of. None
    where nothing is.

    `test`: classified as their label. `attack`: no attack found an adversarial input. `upper`: nothing did. `provable`:
    certified. The true adversarial accuracy lies between `provable` and `upper`, and `upper` is at most `attack`.
    `unstable` ReLUs, and over the `searched` images that a mixed-integer program was built for `build_seconds` and
    `solve_seconds`.
    """

    test: float | None
    attack: float | None
    upper: float | None
    provable: float | None
    unstable: float | None
    searched: int
    build_seconds: float | None
    solve_seconds: float | None


@dataclass
class Sweep:
    """What is known of the images `indices` at one radius so far; `seconds` of the wall clock went into it."""

    eps: float
    indices: tuple[int, ...]
    found: dict[int, Outcome] = field(default_factory=dict)
    """Outcomes by image, in the order in which they came."""
    seconds: float = 0.0

    @property
    def outcomes(self) -> list[Outcome]:
        """In the order of `indices`."""
        return [self.found[index] for index in self.indices if index in self.found]

    def counts(self) -> dict[str, int]:
        """How many images have each status, also those that none has."""
        found = Counter(outcome.status for outcome in self.found.values())
        return {status: found[status] for status in STATUSES}

    @property
    def correct(self) -> int:
        return sum(outcome.correct for outcome in self.found.values())

    def accuracies(self) -> Accuracies:
        found = list(self.found.values())
        counts = self.counts()

        def share(count: int) -> float | None:
            return count / len(found) if found else None

        # A certified image needs no attack: it would fail. What ended in an error counts as not broken.
        tried = all(
            outcome.attacked is not None or outcome.status in ("certified", "error") or outcome.method == CLEAN
            for outcome in found
        )
        broken = sum(bool(outcome.attacked) or outcome.method == CLEAN for outcome in found)
        return Accuracies(
            share(self.correct),
            share(len(found) - broken) if tried else None,
            share(len(found) - counts["falsified"]),
            share(counts["certified"]),
            _mean(outcome.unstable for outcome in found),
            sum(outcome.solve_seconds is not None for outcome in found),
            _mean(outcome.build_seconds for outcome in found),
            _mean(outcome.solve_seconds for outcome in found),
        )

    def per_stage(self) -> dict[str, dict[str, float]]:
        """For each stage, in the order in which they ran: the images that it decided, and its seconds."""
        stages: dict[str, dict[str, float]] = {}
        for outcome in self.outcomes:
            for name, seconds in outcome.stages.items():
                stages.setdefault(name, {"certified": 0, "falsified": 0, "seconds": 0.0})["seconds"] += seconds
        for outcome in self.outcomes:
            if outcome.decided_by is not None:
                row = stages.setdefault(outcome.decided_by, {"certified": 0, "falsified": 0, "seconds": 0.0})
                row[outcome.status] += 1
        return stages

    def content(self) -> dict[str, object]:
        """The sweep for JSON: n = certified + falsified + unknown + timeout + error; n < asked where it was stopped."""
        return {
            "eps": self.eps,
            "asked": len(self.indices),
            "n": len(self.found),
            "correct": self.correct,
            **self.counts(),
            "accuracies": asdict(self.accuracies()),
            "per_stage": self.per_stage(),
            "seconds": self.seconds,
            "per_image": [outcome.content() for outcome in self.outcomes],
        }


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
