"""The terms that a loss is summed up from, by name, with their options. No torch: what computes them is imported when
training begins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from irverify.errors import UsageError
from irverify.train.schedule import Adaptive, Ramp, adaptive, checked_table, number, ramp

Fixed: TypeAlias = int | float | str


@dataclass(frozen=True)
class Option:
    """An option of a term: a number >= 0 that may follow a schedule (or, where it is `adaptive`, be set by what is seen
    on images held out), a count from `least`, or one of a few words."""

    name: str
    kind: Literal["schedule", "count", "word"]
    default: Fixed
    words: tuple[str, ...] = ()
    least: int = 1
    adaptive: bool = False

    def read(self, given: object, place: str) -> Ramp | Adaptive | Fixed:
        """The value that a recipe gives. UsageError where it is of another kind."""
        if self.adaptive and isinstance(given, Mapping) and "gamma" in given:
            return adaptive(given, place)
        if self.kind == "schedule":
            values = ramp(given, place)
            if min(values.first, values.last) < 0:
                raise UsageError(f"expected numbers >= 0, got {values.first:g} to {values.last:g}", where=place)
            return values
        if self.kind == "count":
            count = number(given, place)
            if not (count >= self.least and count == int(count)):
                raise UsageError(f"expected a whole number from {self.least}, got {given!r}", where=place)
            return int(count)
        if not (isinstance(given, str) and given in self.words):
            raise UsageError(f"expected one of {', '.join(self.words)}, got {given!r}", where=place)
        return given


@dataclass(frozen=True)
class Loss:
    """A loss that a term may be made of, its options, and the norms that it takes; `irverify.train.objectives` computes
    it."""

    name: str
    options: tuple[Option, ...] = ()
    norms: tuple[str, ...] = ("inf", "2", "1")


@dataclass(frozen=True)
class Term:
    """A named term of the loss of a recipe: what it is made of, its weight, options that follow schedules, fixed ones,
    and those that adapt."""

    name: str
    loss: str
    weight: Ramp
    schedules: Mapping[str, Ramp] = field(default_factory=dict)
    fixed: Mapping[str, Fixed] = field(default_factory=dict)
    adaptive: Mapping[str, Adaptive] = field(default_factory=dict)


_ATTACK = (Option("steps", "count", 10), Option("step", "schedule", 0.25))
_KAPPA = Option("kappa", "schedule", 0.5)
_RELAXATION = (Option("projections", "count", 0, least=0), Option("hidden", "word", "dual", ("dual", "interval")))
_STRENGTH = Option("strength", "schedule", 1.0, adaptive=True)
_LINES = Option("lines", "word", "zero", ("zero", "fast-lin"))
_BOUNDS = Option("bounds", "word", "improved-interval", ("interval", "improved-interval"))
LOSSES = {
    loss.name: loss
    for loss in (
        Loss("cross-entropy"),  # of the clean logits
        Loss("ibp", (_KAPPA,), ("inf",)),  # paper 4, eq. 12
        Loss("crown-ibp", (_KAPPA, Option("beta", "schedule", 1.0)), ("inf",)),  # paper 2, sec. 5
        Loss("dual", _RELAXATION, ("inf", "2")),  # paper 5; 0 projections: exact
        Loss(  # paper 2, eq. 10: the weights of the dual loss, of d, and of r
            "tight",
            (Option("dual", "schedule", 1.0), Option("d", "schedule", 0.0), Option("r", "schedule", 0.0), *_RELAXATION),
            ("inf", "2"),
        ),
        Loss("singleprop", (_STRENGTH, _LINES)),  # paper 3, eq. 5
        Loss("adversarial", _ATTACK),
        Loss("trades", (Option("beta", "schedule", 6.0), *_ATTACK)),
        Loss("rs", (_BOUNDS,)),  # paper 1, sec. 3.3.1
        Loss("l1"),
    )
}
"""The losses that terms are made of, by name."""


def read_term(name: str, given: object) -> Term:
    """A term from its table in a recipe: `loss`, `weight` and the options of the loss. UsageError for what does not
    fit."""
    place = f"terms.{name}"
    if not isinstance(given, Mapping) or "loss" not in given:
        raise UsageError("expected a table with loss and weight", where=place)
    loss = LOSSES.get(str(given["loss"]))
    if loss is None:
        raise UsageError(f"unknown loss {given['loss']!r}: expected one of {', '.join(LOSSES)}", where=place)
    table = checked_table(given, ("loss", "weight", *(option.name for option in loss.options)), place, "a table")
    values = {
        option.name: option.read(table.get(option.name, option.default), f"{place}.{option.name}")
        for option in loss.options
    }
    weight = ramp(table.get("weight", 1.0), f"{place}.weight")
    if min(weight.first, weight.last) < 0:
        raise UsageError(f"expected a weight >= 0, got {weight.first:g} to {weight.last:g}", where=f"{place}.weight")
    schedules = {name: value for name, value in values.items() if isinstance(value, Ramp)}
    adapting = {name: value for name, value in values.items() if isinstance(value, Adaptive)}
    fixed = {name: value for name, value in values.items() if not isinstance(value, Ramp | Adaptive)}
    return Term(name, loss.name, weight, schedules, fixed, adapting)
