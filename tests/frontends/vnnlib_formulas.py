"""Random linear formulas, their meaning by direct evaluation, and their text in both versions of VNN-LIB."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias

from hypothesis import strategies as st

from irverify.properties import Query

INPUTS, OUTPUTS = 2, 2
RELATIONS = ("<=", "<", ">=", ">", "=")
Point: TypeAlias = "tuple[Fraction, ...]"


@dataclass(frozen=True)
class Term:
    """A number, a variable (`x0` to `x3`, of which the last two are outputs), or an operator over terms."""

    head: str
    parts: tuple[Term, ...] = ()

    def value(self, point: Point) -> Fraction:
        if self.head[0] == "x":
            return point[int(self.head[1])]
        if not self.parts:
            return Fraction(self.head)
        first, *rest = (part.value(point) for part in self.parts)
        if self.head == "*":
            return first * rest[0]
        if self.head == "+":
            return first + sum(rest)
        return first - sum(rest) if rest else -first


@dataclass(frozen=True)
class Formula:
    """A relation between two terms, or a connective (`and`, `or`) over formulas."""

    head: str
    parts: tuple[Formula, ...] | tuple[Term, Term]

    def holds(self, point: Point) -> bool:
        if self.head in ("and", "or"):
            values = [part.holds(point) for part in self.parts if isinstance(part, Formula)]
            return all(values) if self.head == "and" else any(values)
        left, right = (part.value(point) for part in self.parts if isinstance(part, Term))
        return {
            "<=": left <= right,
            "<": left < right,
            ">=": left >= right,
            ">": left > right,
            "=": left == right,
        }[self.head]


def text(node: Formula | Term, version: int) -> str:
    if isinstance(node, Term) and not node.parts:
        if node.head[0] != "x":
            return node.head
        index = int(node.head[1])
        letter, at = ("X", index) if index < INPUTS else ("Y", index - INPUTS)
        return f"{letter}_{at}" if version == 1 else f"{letter}[{at}]"
    head = "==" if node.head == "=" and version == 2 else node.head
    return f"({head} {' '.join(text(part, version) for part in node.parts)})"


def document(formulas: Sequence[Formula], version: int) -> str:
    if version == 1:
        lines = [f"(declare-const X_{index} Real)" for index in range(INPUTS)]
        lines += [f"(declare-const Y_{index} Real)" for index in range(OUTPUTS)]
    else:
        sizes = f"(declare-input X real [{INPUTS}]) (declare-output Y real [{OUTPUTS}])"
        lines = ["(vnnlib-version <2.0>)", f"(declare-network N {sizes})"]
    return "\n".join([*lines, *(f"(assert {text(formula, version)})" for formula in formulas)])


def satisfied(query: Query, point: Point) -> bool:
    """Whether a query is satisfied at a point, by its cases."""
    x, y = point[:INPUTS], point[INPUTS:]
    return any(case.contains(x) and case.prop.violated(x, y) for case in query.cases)


numbers = st.sampled_from(["0.0", "1.0", "-1.0", "0.5", "-0.25", "2.0", "0.1"])
variables = st.sampled_from([f"x{index}" for index in range(INPUTS + OUTPUTS)]).map(Term)
points = st.tuples(*[st.sampled_from([Fraction(k, 20) for k in range(-44, 45)])] * (INPUTS + OUTPUTS))


@st.composite
def terms(draw: st.DrawFn, depth: int = 2) -> Term:
    kind = draw(st.sampled_from(["number", "variable", "variable", "+", "-", "*"]))
    if kind == "number" or (kind != "variable" and depth == 0):
        return Term(draw(numbers))
    if kind == "variable":
        return draw(variables)
    if kind == "*":
        return Term("*", (Term(draw(numbers)), draw(terms(depth - 1))))
    return Term(kind, tuple(draw(st.lists(terms(depth - 1), min_size=1 if kind == "-" else 2, max_size=3))))


@st.composite
def relations(draw: st.DrawFn) -> Formula:
    left, right = draw(terms()), draw(terms())
    return Formula(draw(st.sampled_from(RELATIONS)), (left, right))


@st.composite
def bounds(draw: st.DrawFn) -> Formula:
    variable = Term(f"x{draw(st.integers(0, INPUTS - 1))}")
    sides = draw(st.permutations([variable, Term(draw(numbers))]))
    return Formula(draw(st.sampled_from(RELATIONS)), (sides[0], sides[1]))


@st.composite
def formulas(draw: st.DrawFn, depth: int = 2) -> Formula:
    kind = draw(st.sampled_from(["relation", "bound", "and", "or"] if depth else ["relation", "bound"]))
    if kind in ("relation", "bound"):
        return draw(relations() if kind == "relation" else bounds())
    return Formula(kind, tuple(draw(st.lists(formulas(depth - 1), min_size=1, max_size=3))))


def limits() -> list[Formula]:
    """-2 <= X_i <= 2, so that every box is bounded."""
    return [
        Formula(relation, (Term(f"x{index}"), Term(number)))
        for index in range(INPUTS)
        for relation, number in ((">=", "-2.0"), ("<=", "2.0"))
    ]
