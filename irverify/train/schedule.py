"""Numbers that change in the course of training: radii, weights, kappa, the learning rate."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from irverify.errors import UsageError

Unit: TypeAlias = Literal["steps", "epochs", "share"]


@dataclass(frozen=True)
class Clock:
    """Where training stands: `step` steps are done of `epochs` epochs of `steps_per_epoch` steps each."""

    step: int
    steps_per_epoch: int
    epochs: int

    @property
    def epoch(self) -> float:
        """Epochs done, with the part of the present one."""
        return self.step / self.steps_per_epoch

    @property
    def total(self) -> int:
        return self.steps_per_epoch * self.epochs

    def measured(self, unit: Unit) -> float:
        """The time that has passed: in steps, in epochs, or as a share of the whole training."""
        return {"steps": float(self.step), "epochs": self.epoch, "share": self.step / self.total}[unit]


@dataclass(frozen=True)
class Ramp:
    """`first` until `begin`, then linear in the steps, from `end` on `last`. Begin and end are counted in `unit`; a
    constant is a ramp from and to the same number."""

    first: float
    last: float
    begin: float = 0.0
    end: float = 0.0
    unit: Unit = "epochs"

    @property
    def constant(self) -> bool:
        return self.first == self.last

    def __call__(self, clock: Clock) -> float:
        now = clock.measured(self.unit)
        if now >= self.end:
            return self.last
        if now <= self.begin:
            return self.first
        return self.first + (self.last - self.first) * (now - self.begin) / (self.end - self.begin)


@dataclass(frozen=True)
class Adaptive:
    """A weight lambda that is set anew before every epoch, from a loss and a regulariser on images that are held out of
    training (paper 3, sec. 3.3; `irverify.backends.torch.schedules.AdaptiveWeight`). A smaller gamma prefers clean
    accuracy."""

    gamma: float


@dataclass(frozen=True)
class Decay:
    """A factor on the learning rate: at each of `at` it is multiplied by `factor`; with `every` also each time so much
    has passed since `begin`. All are counted in `unit`."""

    factor: float = 0.1
    at: tuple[float, ...] = ()
    every: float | None = None
    begin: float = 0.0
    unit: Unit = "epochs"

    def __call__(self, clock: Clock) -> float:
        now = clock.measured(self.unit)
        drops = sum(now >= moment for moment in self.at)
        if self.every is not None and now >= self.begin:
            drops += math.floor((now - self.begin) / self.every)
        return float(self.factor**drops)


def ramp(given: object, place: str) -> Ramp:
    """What a recipe says: a number, or a table with `from`, `to`, `begin`, `end`, `unit`. UsageError for all else."""
    if isinstance(given, int | float) and not isinstance(given, bool):
        return Ramp(number(given, place), number(given, place))
    table = checked_table(given, ("from", "to", "begin", "end", "unit"), place, "a number or a table")
    for name in ("from", "to", "end"):
        if name not in table:
            raise UsageError(f"expected from, to and end, got no {name}", where=place)
    begin, end = (number(table.get(name, 0.0), f"{place}.{name}") for name in ("begin", "end"))
    if not 0 <= begin <= end:
        raise UsageError(f"expected 0 <= begin <= end, got begin {begin:g} and end {end:g}", where=place)
    first, last = (number(table[name], f"{place}.{name}") for name in ("from", "to"))
    return Ramp(first, last, begin, end, unit(table.get("unit", "epochs"), place))


def adaptive(given: object, place: str) -> Adaptive:
    """What a recipe says: a table with `gamma` alone. UsageError for all else."""
    table = checked_table(given, ("gamma",), place, "a table with gamma")
    gamma = number(table.get("gamma"), f"{place}.gamma")
    if not gamma > 0:
        raise UsageError(f"expected gamma > 0, got {gamma:g}", where=place)
    return Adaptive(gamma)


def decay(given: object, place: str) -> Decay:
    """What a recipe says: a table with `factor`, `at`, `every`, `begin`, `unit`. UsageError for all else."""
    table = checked_table(given, ("factor", "at", "every", "begin", "unit"), place, "a table")
    at = table.get("at", [])
    if not isinstance(at, list):
        raise UsageError(f"expected at to be a list of numbers, got {at!r}", where=place)
    moments = tuple(number(moment, f"{place}.at") for moment in at)
    every = number(table["every"], f"{place}.every") if "every" in table else None
    factor, begin = number(table.get("factor", 0.1), f"{place}.factor"), number(table.get("begin", 0), f"{place}.begin")
    if not 0 < factor <= 1:
        raise UsageError(f"expected factor to be above 0 and at most 1, got {factor:g}", where=place)
    if every is not None and not every > 0:
        raise UsageError(f"expected every to be positive, got {every:g}", where=place)
    if list(moments) != sorted(set(moments)):
        raise UsageError(f"expected at to be ascending, got {list(moments)}", where=place)
    return Decay(factor, moments, every, begin, unit(table.get("unit", "epochs"), place))


def unit(given: object, place: str) -> Unit:
    if given == "steps":
        return "steps"
    if given == "epochs":
        return "epochs"
    if given == "share":
        return "share"
    raise UsageError(f"expected unit to be steps, epochs or share, got {given!r}", where=place)


def number(given: object, place: str) -> float:
    """A finite number. UsageError for anything else."""
    if isinstance(given, bool) or not isinstance(given, int | float) or not math.isfinite(given):
        raise UsageError(f"expected a finite number, got {given!r}", where=place)
    return float(given)


def checked_table(given: object, known: tuple[str, ...], place: str, expected: str) -> Mapping[str, object]:
    """A table of which all keys are known. UsageError for anything else."""
    if not isinstance(given, Mapping):
        raise UsageError(f"expected {expected}, got {given!r}", where=place)
    unknown = [str(key) for key in given if key not in known]
    if unknown:
        raise UsageError(f"unknown key {', '.join(unknown)}: expected {', '.join(known)}", where=place)
    return given
