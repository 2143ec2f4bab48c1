"""From a formula to the cases of a query: a box of inputs for each clause, and rows for all that is no bound."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

from irverify.errors import RegionError
from irverify.frontends.vnnlib.formula import Constraint, Dnf, distributed, split
from irverify.properties import Case, Declaration, Disjunct, Property, Row


class Bound(NamedTuple):
    """A bound of one input, and whether the input must differ from it."""

    value: Fraction
    strict: bool


class Interval(NamedTuple):
    lower: Bound | None
    upper: Bound | None

    @property
    def strict(self) -> bool:
        return any(bound is not None and bound.strict for bound in self)

    @property
    def empty(self) -> bool:
        if self.lower is None or self.upper is None:
            return False
        touching = self.lower.value == self.upper.value and (self.lower.strict or self.upper.strict)
        return self.lower.value > self.upper.value or touching

    def within(self, constraint: Constraint) -> Interval:
        """What is left of the interval under a constraint a x + d <= 0 on its variable."""
        ((_, coefficient),) = constraint.terms
        value = -constraint.offset if coefficient == 1 else -constraint.offset / coefficient
        bound = Bound(value, constraint.strict)
        if coefficient > 0:
            kept = bound if self.upper is None else min(self.upper, bound, key=lambda b: (b.value, not b.strict))
            return Interval(self.lower, kept)
        kept = bound if self.lower is None else max(self.lower, bound, key=lambda b: (b.value, b.strict))
        return Interval(kept, self.upper)

    def __str__(self) -> str:
        lower = "" if self.lower is None else f"at least {float(self.lower.value)!r}"
        upper = "" if self.upper is None else f"at most {float(self.upper.value)!r}"
        return " and ".join(filter(None, (lower, upper)))


Box = dict[int, Interval]
FREE = Interval(None, None)


@dataclass(frozen=True)
class Sizes:
    """The flattened inputs and outputs of a query, and the names of the inputs."""

    names: Sequence[str]
    outputs: int

    @property
    def inputs(self) -> int:
        return len(self.names)


class _Empty(Exception):
    """A clause that no input satisfies, and why."""


def cases_of(parts: Sequence[Dnf], sizes: Sizes, declared: tuple[Declaration, ...], source: str) -> tuple[Case, ...]:
    """The cases of the conjunction of all `parts`. Clauses over the same box become disjuncts of one case.

    A constraint on a single input bounds the box, every other one is a row. RegionError where every clause has an empty
    box, or where an input is unbounded in one.
    """
    common, branching = split(parts)
    try:
        shared, shared_rows = _narrowed({}, common, sizes)
    except _Empty as emptiness:
        raise RegionError(f"no input satisfies the constraints: {emptiness}", where=source) from None
    excluding = {variable: interval for variable, interval in shared.items() if interval.strict}
    grouped: dict[tuple[tuple[int, Interval], ...], list[tuple[Row, ...]]] = {}
    problems = []
    for clause in distributed(branching):
        try:
            changed, rows = _narrowed(shared, clause, sizes)
        except _Empty as emptiness:
            problems.append(str(emptiness))
            continue
        rows = (*shared_rows, *rows, *_strict_rows({**excluding, **changed}))
        grouped.setdefault(tuple(sorted(changed.items())), []).append(tuple(dict.fromkeys(rows)))
    if not grouped:
        reason = problems[0] if problems else "a disjunction has no members"
        raise RegionError(f"every disjunct has an empty input box: {reason}", where=source)
    return tuple(_case({**shared, **dict(box)}, rows, sizes, declared, source) for box, rows in grouped.items())


def _narrowed(box: Box, clause: Iterable[Constraint], sizes: Sizes) -> tuple[Box, tuple[Row, ...]]:
    """The intervals that a clause changes, and its rows."""
    changed: Box = {}
    rows = []
    for constraint in clause:
        variables = [variable for variable, _ in constraint.terms]
        if not variables:
            if not (constraint.offset < 0 or (constraint.offset == 0 and not constraint.strict)):
                raise _Empty("a constraint without variables is false")
        elif len(variables) == 1 and variables[0] < sizes.inputs:
            before = changed.get(variables[0], box.get(variables[0], FREE))
            after = before.within(constraint)
            if after.empty:
                raise _Empty(f"{sizes.names[variables[0]]} is to be {after}")
            if after != before:
                changed[variables[0]] = after
        else:
            rows.append(_row(constraint, sizes.inputs))
    return changed, tuple(rows)


def _row(constraint: Constraint, n_in: int) -> Row:
    inputs = tuple((variable, value) for variable, value in constraint.terms if variable < n_in)
    outputs = tuple((variable - n_in, value) for variable, value in constraint.terms if variable >= n_in)
    return Row(inputs, outputs, constraint.offset, constraint.strict)


def _strict_rows(box: Box) -> tuple[Row, ...]:
    """The box is closed; what a strict bound excludes is excluded by a row."""
    one = Fraction(1)
    rows = []
    for variable, (lower, upper) in box.items():
        if lower is not None and lower.strict:
            rows.append(Row(((variable, -one),), (), lower.value, True))
        if upper is not None and upper.strict:
            rows.append(Row(((variable, one),), (), -upper.value, True))
    return tuple(rows)


def _case(
    box: Box, clauses: Iterable[tuple[Row, ...]], sizes: Sizes, declared: tuple[Declaration, ...], source: str
) -> Case:
    intervals = [box.get(variable, FREE) for variable in range(sizes.inputs)]
    lower = [interval.lower.value for interval in intervals if interval.lower is not None]
    upper = [interval.upper.value for interval in intervals if interval.upper is not None]
    if len(lower) < sizes.inputs or len(upper) < sizes.inputs:
        lacking = [name for name, interval in zip(sizes.names, intervals, strict=True) if None in interval]
        listed = ", ".join(lacking[:5]) + (f" and {len(lacking) - 5} more" if len(lacking) > 5 else "")
        raise RegionError(f"inputs without a lower or an upper bound: {listed}", where=source)
    disjuncts = tuple(Disjunct.of_rows(rows, sizes.inputs, sizes.outputs) for rows in dict.fromkeys(clauses))
    return Case(tuple(lower), tuple(upper), Property(disjuncts, source), declared)
