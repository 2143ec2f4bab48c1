"""What a verification run says: a verdict, how it was reached, and the counterexample where there is one."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import numpy as np
from numpy.typing import NDArray

VerdictName = Literal["verified", "falsified", "unknown", "timeout"]


@dataclass(frozen=True)
class Counterexample:
    """A point of the region, replayed on the source model, at which the property is violated.

    `inputs` are what the source model was run on, in its own layout; `outputs` what it gave; `replayed_on` names it.
    `exact` is the flattened point of the region, inside with zero tolerance: the same numbers, except where a
    coordinate's interval holds no number of the model's element type (an input fixed to 0.1, say): there it is the
    exact number that a reader rounds to the one which the model was run on.
    """

    inputs: tuple[NDArray[np.float64], ...]
    outputs: tuple[NDArray[np.float64], ...]
    exact: tuple[Fraction, ...]
    replayed_on: str


@dataclass(frozen=True)
class Stage:
    """One stage of the driver: its name, the seconds it took, and what it achieved in one line."""

    name: str
    seconds: float
    outcome: str


@dataclass(frozen=True)
class Verdict:
    """`verified`: the property holds on the whole region (in real arithmetic), by `method`, whose margin `bound`
    exceeds `tolerance`. `falsified`: `counterexample` violates it on the source model. `unknown`: nobody could tell,
    `reason` says why. `timeout`: the time limit came first. For these two `bound` is what linear programs and the
    search have bounded the smallest margin by from below, where they have run: it decides nothing."""

    verdict: VerdictName
    method: str | None
    bound: float | None
    tolerance: float | None
    counterexample: Counterexample | None
    seconds: float
    stages: tuple[Stage, ...]
    reason: str | None = None
