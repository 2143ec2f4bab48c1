"""The terms that a loss is summed up from, by name, with their options. No torch: what computes them is imported when
training begins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from irverify.errors import UsageError
from irverify.train.schedule import Ramp, checked_table, number, ramp

Fixed: TypeAlias = int | float | str


@dataclass(frozen=True)
class Option:
    """An option of a term: a number that may follow a schedule, a count from 1, or one of a few words."""

    name: str
    kind: Literal["schedule", "count", "word"]
    default: Fixed
    words: tuple[str, ...] = ()

    def read(self, given: object, place: str) -> Ramp | Fixed:
        """The value that a recipe gives. UsageError where it is of another kind."""
        if self.kind == "schedule":
            return ramp(given, place)
        if self.kind == "count":
            count = number(given, place)
            if not (count >= 1 and count == int(count)):
                raise UsageError(f"expected a whole number from 1, got {given!r}", where=place)
            return int(count)
        if not (isinstance(given, str) and given in self.words):
            raise UsageError(f"expected one of {', '.join(self.words)}, got {given!r}", where=place)
        return given


@dataclass(frozen=True)
class Loss:
    """A loss that a term may be made of, and its options; `irverify.train.objectives` computes it."""

    name: str
    summary: str
    options: tuple[Option, ...] = ()


@dataclass(frozen=True)
class Term:
    """A named term of the loss of a recipe: what it is made of, its weight, options that follow schedules, and fixed
    ones."""

    name: str
    loss: str
    weight: Ramp
    schedules: Mapping[str, Ramp] = field(default_factory=dict)
    fixed: Mapping[str, Fixed] = field(default_factory=dict)


_ATTACK = (Option("steps", "count", 10), Option("step", "schedule", 0.25))
LOSSES = {
    loss.name: loss
    for loss in (
        Loss("cross-entropy", "cross-entropy of the clean logits"),
        Loss("adversarial", "cross-entropy at attacked inputs (PGD)", _ATTACK),
        Loss("trades", "cross-entropy, and beta times the divergence at attacked inputs",
             (Option("beta", "schedule", 6.0), *_ATTACK)),
        Loss("singleprop", "cross-entropy and weighted SingleProp regulariser (paper 3)",
             (Option("strength", "schedule", 1.0), Option("lines", "word", "zero", ("zero", "fast-lin")))),
        Loss("rs", "ReLU stability loss (paper 1)",
             (Option("bounds", "word", "improved-interval", ("interval", "improved-interval")),)),
        Loss("l1", "sum of the magnitudes of all weights"),
    )
}  # fmt: skip
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
    fixed = {name: value for name, value in values.items() if not isinstance(value, Ramp)}
    return Term(name, loss.name, weight, schedules, fixed)
