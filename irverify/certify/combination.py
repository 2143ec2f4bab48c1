"""Two sweeps over the same images side by side: what is certified by either, by both, by one alone (paper 3, sec. 4.1
and app. D, table 7).

Two methods on one network: what either certifies is certified. Two networks: that an image is certified by either of
them is a statement about the pair. It is no certified accuracy of a network, nor of an ensemble of the two.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from irverify.certify.outcome import Outcome, Status, Sweep
from irverify.errors import UsageError

OPEN: tuple[Status, ...] = ("timeout", "unknown", "error")
"""What becomes of an image that neither method decides: the first of these that one of them says."""


@dataclass(frozen=True)
class Complementarity:
    """How many of `n` images are certified by the first, the second, either, both, one alone, or neither; and of the
    `correct_both` images that both classify as their label, how many are certified by either."""

    n: int
    first: int
    second: int
    either: int
    both: int
    only_first: int
    only_second: int
    neither: int
    correct_both: int
    either_of_correct_both: int


@dataclass(frozen=True)
class Combination:
    """Two sweeps over the same images at the same radius, of one network by two methods or of two networks.

    UsageError where the sweeps are about other images or radii.
    """

    first: Sweep
    second: Sweep
    one_network: bool

    def __post_init__(self) -> None:
        if (self.first.eps, self.first.indices) != (self.second.eps, self.second.indices):
            raise UsageError("expected two sweeps over the same images at the same radius")

    @cached_property
    def pairs(self) -> list[tuple[Outcome, Outcome]]:
        """What the two say of each image that both have been asked about."""
        one, other = self.first.found, self.second.found
        return [(one[index], other[index]) for index in self.first.indices if index in one and index in other]

    def complementarity(self) -> Complementarity:
        said = [(a.status == "certified", b.status == "certified") for a, b in self.pairs]
        right = [a.correct and b.correct for a, b in self.pairs]
        return Complementarity(
            n=len(said),
            first=sum(a for a, _ in said),
            second=sum(b for _, b in said),
            either=sum(a or b for a, b in said),
            both=sum(a and b for a, b in said),
            only_first=sum(a and not b for a, b in said),
            only_second=sum(b and not a for a, b in said),
            neither=sum(not (a or b) for a, b in said),
            correct_both=sum(right),
            either_of_correct_both=sum((a or b) and sure for (a, b), sure in zip(said, right, strict=True)),
        )

    def merged(self) -> Sweep:
        """What both methods together say of the one network: certified or falsified where one of them says so.

        An image that one certifies and the other falsifies is an error: one of the two is wrong. RuntimeError for two
        networks, of which there is no such verdict.
        """
        if not self.one_network:
            raise RuntimeError("two networks have no verdict together")
        found = {a.index: _merged(a, b) for a, b in self.pairs}
        return Sweep(self.first.eps, self.first.indices, found, self.first.seconds + self.second.seconds)

    def content(self) -> dict[str, object]:
        """The combination for JSON; the counts of `Sweep.content` for one network alone."""
        merged: dict[str, object] = {}
        if self.one_network:
            whole = self.merged()
            merged = {"correct": whole.correct, **whole.counts()}
        return {
            "eps": self.first.eps,
            "asked": len(self.first.indices),
            "n": len(self.pairs),
            **merged,
            "complementarity": vars(self.complementarity()),
            "per_image": [_content(a, b) for a, b in self.pairs],
        }


def _merged(first: Outcome, second: Outcome) -> Outcome:
    by_status: Mapping[str, Outcome] = {second.status: second, first.status: first}
    stages = dict(first.stages)
    for name, seconds in second.stages.items():
        stages[name] = stages.get(name, 0.0) + seconds
    if {"certified", "falsified"} <= by_status.keys():
        reason = (
            f"{by_status['certified'].method} certifies it and {by_status['falsified'].method} falsifies it: "
            "one of them is wrong"
        )
        return Outcome(first.index, first.label, "error", first.predicted, reason=reason, stages=stages)
    status = next(status for status in ("certified", "falsified", *OPEN) if status in by_status)
    return replace(by_status[status], stages=stages)


def _content(first: Outcome, second: Outcome) -> dict[str, object]:
    said = {"first": first, "second": second}
    return {
        "index": first.index,
        "label": first.label,
        "certified_by": [name for name, outcome in said.items() if outcome.status == "certified"],
        "correct_by": [name for name, outcome in said.items() if outcome.correct],
    }
