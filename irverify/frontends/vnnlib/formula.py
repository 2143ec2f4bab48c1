"""Linear formulas in disjunctive normal form, over variables that are numbered: inputs first, outputs behind them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from itertools import product
from math import prod
from typing import NamedTuple

from irverify.errors import PropertyError
from irverify.properties import LIMIT

LITERALS = 10_000_000
"""How many constraints a formula in disjunctive normal form may have in total."""


ZERO = Fraction(0)


class Affine(NamedTuple):
    """A sum of multiples of variables and a constant."""

    terms: dict[int, Fraction]
    constant: Fraction


class Constraint(NamedTuple):
    """sum of terms + offset <= 0, or < 0 where `strict`. No coefficient is zero."""

    terms: tuple[tuple[int, Fraction], ...]
    offset: Fraction
    strict: bool


Clause = tuple[Constraint, ...]
"""A conjunction."""
Dnf = list[Clause]
"""A disjunction of conjunctions."""


def total(parts: Sequence[Affine], signs: Iterable[int]) -> Affine:
    """The sum of parts, each with its sign (1 or -1)."""
    terms: dict[int, Fraction] = {}
    constant = ZERO
    for part, sign in zip(parts, signs, strict=True):  # arithmetic of fractions is slow: as little as possible
        if part.constant:
            constant = constant + part.constant if sign > 0 else constant - part.constant
        for variable, coefficient in part.terms.items():
            signed = coefficient if sign > 0 else -coefficient
            terms[variable] = terms[variable] + signed if variable in terms else signed
    return Affine(terms, constant)


def scaled(part: Affine, factor: Fraction) -> Affine:
    return Affine(
        {variable: coefficient * factor for variable, coefficient in part.terms.items()}, part.constant * factor
    )


def times(parts: Sequence[Affine]) -> Affine | None:
    """The product of parts; None where it is not linear."""
    factor, result = Fraction(1), None
    for part in parts:
        if any(part.terms.values()):
            if result is not None:
                return None
            result = part
        else:
            factor *= part.constant
    return Affine({}, factor) if result is None else scaled(result, factor)


def compared(operator: str, left: Affine, right: Affine) -> Dnf:
    """`left operator right` for <=, <, >=, >, = (also ==) and != (also distinct)."""
    if operator in ("<=", "<"):
        return [(_constraint(left, right, operator == "<"),)]
    if operator in (">=", ">"):
        return [(_constraint(right, left, operator == ">"),)]
    unequal = operator in ("!=", "distinct")
    below, above = _constraint(left, right, unequal), _constraint(right, left, unequal)
    return [(below,), (above,)] if unequal else [(below, above)]


COMPARISONS = frozenset({"<=", ">=", "<", ">", "=", "==", "!=", "distinct"})


def _constraint(left: Affine, right: Affine, strict: bool) -> Constraint:
    difference = total((left, right), (1, -1))
    terms = tuple((variable, value) for variable, value in difference.terms.items() if value)
    return Constraint(terms, difference.constant, strict)


def disjunction(parts: Iterable[Dnf]) -> Dnf:
    clauses = [clause for part in parts for clause in part]
    _check(len(clauses), sum(map(len, clauses)))
    return clauses


def conjunction(parts: Sequence[Dnf]) -> Dnf:
    """All parts at once, distributed."""
    common, branching = split(parts)
    return [(*common, *clause) for clause in distributed(branching, len(common))] if branching else [common]


def split(parts: Sequence[Dnf]) -> tuple[Clause, list[Dnf]]:
    """The constraints that every clause of a conjunction has, and the parts that branch."""
    common = tuple(constraint for part in parts if len(part) == 1 for constraint in part[0])
    return common, [part for part in parts if len(part) != 1]


def distributed(parts: Sequence[Dnf], extra: int = 0) -> Dnf:
    """The product of disjunctions; `extra` constraints are to be added to each clause."""
    count = prod(map(len, parts))
    longest = sum(max((len(clause) for clause in part), default=0) for part in parts)
    _check(count, count * (longest + extra))
    return [tuple(constraint for clause in choice for constraint in clause) for choice in product(*parts)]


def _check(clauses: int, literals: int) -> None:
    if clauses > LIMIT or literals > LITERALS:
        message = f"the formula has {clauses} disjuncts in disjunctive normal form, {literals} constraints in total"
        raise PropertyError(message, hint=f"{LIMIT} disjuncts and {LITERALS} constraints are possible")
