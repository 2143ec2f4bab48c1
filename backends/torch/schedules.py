"""What changes during training: perturbation sizes, mixtures and weights as functions of time.

A schedule takes a time, in steps or epochs as its author counts them, and gives a number. Ramps are linear, level
before and after.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor

from irverify.errors import UsageError

Schedule: TypeAlias = Callable[[float], float]
"""`schedule(time)`: a number."""


@dataclass(frozen=True)
class Ramp:
    """From `start` until time `begin`, linearly, to `stop` from time `end` on."""

    start: float
    stop: float
    begin: float
    end: float

    def __post_init__(self) -> None:
        if not (self.begin <= self.end):
            raise UsageError(f"expected a ramp that begins before it ends, got begin={self.begin}, end={self.end}")

    def __call__(self, time: float) -> float:
        if time >= self.end:
            return self.stop
        if time <= self.begin:
            return self.start
        return self.start + (self.stop - self.start) * (time - self.begin) / (self.end - self.begin)


@dataclass(frozen=True)
class Switch:
    """0 before time `at`, `value` from then on."""

    value: float
    at: float

    def __call__(self, time: float) -> float:
        return self.value if time >= self.at else 0.0


def linear_eps(target: float, *, start: float = 0.01, length: float = 20) -> Ramp:
    """eps from `start` to `target` over the first `length` epochs: 0.01 for MNIST, 0.001 for CIFAR-10, 20 epochs (paper
    5, fig. 2; paper 2, app. B). Where the target is less than the start, it is the target throughout."""
    return Ramp(min(start, target), target, 0, length)


def ibp_eps(target: float, *, warmup: float = 2000, ramp: float = 10000) -> Ramp:
    """eps of paper 4, sec. 3: 0 for `warmup` steps, then up to `target` in `ramp` steps.

    The lengths for MNIST are the defaults; for CIFAR-10 they are 5000 and 50000 (paper 3, sec. 4, which follows paper
    4: the appendix of that is not at hand).
    """
    return Ramp(0.0, target, warmup, warmup + ramp)


def ibp_kappa(final: float = 0.5, *, warmup: float = 2000, ramp: float = 10000) -> Ramp:
    """kappa of paper 4, eq. 12: from 1 (the clean loss alone) down to `final`, along with eps (see `ibp_eps`)."""
    return Ramp(1.0, final, warmup, warmup + ramp)


def warm_up(value: float, *, length: float = 20) -> Ramp:
    """The weights lambda and gamma of paper 2, eq. 10: from 0 to `value` over the first `length` epochs (app. B)."""
    return Ramp(0.0, value, 0, length)


def phased_out(value: float, *, begin: float, end: float) -> Ramp:
    """`value`, taken down to 0: the regulariser r beside crown-ibp (paper 2, sec. 5, "gradually phase it out")."""
    return Ramp(value, 0.0, begin, end)


def last_part(value: float, *, total: float, part: float = 0.2) -> Switch:
    """`value` in the last `part` of `total` epochs, 0 before: RS loss in the last fifth (paper 1, app. D.1)."""
    if not 0 <= part <= 1:
        raise UsageError(f"expected a part between 0 and 1, got {part}")
    return Switch(value, total * (1 - part))


@dataclass
class AdaptiveWeight:
    """The weight lambda of a regulariser R beside a loss L, from their values on a validation set (paper 3, sec. 3.3):

        lambda = gamma L / ((1 + gamma) L + R)

    Call `update` once an epoch; the weight is `value` until the next time, whatever the time. It starts at 0 unless
    set. R is that of `L + lambda R`, so that the share of R grows as the network gets robust; smaller gamma prefers
    clean accuracy.
    """

    gamma: float = 1.0
    value: float = 0.0

    def __post_init__(self) -> None:
        if not self.gamma > 0:
            raise UsageError(f"expected gamma > 0, got {self.gamma}")

    def __call__(self, time: float) -> float:
        return self.value

    def update(self, clean: float, regularizer: float) -> float:
        """Sets the weight from L and R; where both are 0 so is the weight. Raises UsageError unless L >= 0 and R are
        finite and (1 + gamma) L + R >= 0."""
        below = (1 + self.gamma) * clean + regularizer
        if not (math.isfinite(below) and clean >= 0 and below >= 0):
            raise UsageError(
                f"expected a finite loss L >= 0 and a regulariser R with (1 + gamma) L + R >= 0, got L = {clean}, R = "
                f"{regularizer}",
                where="adaptive weight",
            )
        self.value = self.gamma * clean / below if below > 0 else 0.0
        return self.value

    def measure(self, batches: Iterable[tuple[Tensor, Tensor, int]]) -> float:
        """`update` with means over a validation set: of each batch the mean of L, that of R, and its size."""
        clean = regularizer = 0.0
        count = 0
        for loss, extra, size in batches:
            clean += float(loss) * size
            regularizer += float(extra) * size
            count += size
        if count == 0:
            raise UsageError("expected a validation set, got no examples", where="adaptive weight")
        return self.update(clean / count, regularizer / count)
