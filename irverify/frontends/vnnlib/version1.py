"""VNN-LIB 1.0: scalar constants X_0, X_1, ... and Y_0, Y_1, ..., and assertions about them."""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise

from irverify.errors import ParseError, PropertyError, UnsupportedError
from irverify.frontends.vnnlib.cases import Sizes, cases_of
from irverify.frontends.vnnlib.formula import (
    COMPARISONS,
    Affine,
    Dnf,
    compared,
    conjunction,
    disjunction,
    scaled,
    times,
    total,
)
from irverify.frontends.vnnlib.sexpr import Group, number, place, read
from irverify.properties import Declaration, Query

VARIABLE = re.compile(r"([XY])_(0|[1-9]\d{0,8})")
TYPES = frozenset({"real", "float16", "float32", "float64"})
SILENT = frozenset({"set-logic", "set-info", "set-option", "vnnlib-version", "check-sat", "get-model", "exit"})
"""Commands without a meaning for the question that is asked."""


def parse(text: str, source: str) -> Query:
    """The query of a text in VNN-LIB 1.0. ParseError, UnsupportedError, PropertyError, RegionError where it fails."""
    return _Reader(text, source).query()


class _Reader:
    def __init__(self, text: str, source: str) -> None:
        self.text, self.source = text, source
        self.variables: dict[str, Affine] = {}

    def fail(self, message: str, group: Group) -> ParseError:
        return ParseError(message, where=place(self.text, group.at, self.source))

    def unsupported(self, message: str, group: Group) -> UnsupportedError:
        return UnsupportedError(message, where=place(self.text, group.at, self.source))

    def query(self) -> Query:
        assertions = []
        declared: dict[str, list[int]] = {"X": [], "Y": []}
        for command in read(self.text, self.source):
            name = command[0] if command and isinstance(command[0], str) else ""
            if name in ("declare-const", "declare-fun"):
                letter, index = self._declared(command)
                declared[letter].append(index)
            elif name == "assert":
                if len(command) != 2:
                    raise self.fail(f"assert takes one formula, got {len(command) - 1}", command)
                assertions.append(command)
            elif name not in SILENT:
                raise self.unsupported(f"unknown command {name or '()'!r}", command)
        n_in, n_out = (self._counted(letter, indices) for letter, indices in declared.items())
        self._number(n_in, n_out)
        if not assertions:
            raise ParseError("the file asserts nothing", where=self.source)
        inputs, outputs = (Declaration("X", "real", (n_in,)),), (Declaration("Y", "real", (n_out,)),)
        sizes = Sizes([f"X_{index}" for index in range(n_in)], n_out)
        parts = [self._formula(command) for command in assertions]
        return Query(cases_of(parts, sizes, inputs, self.source), inputs, outputs, source=self.source)

    def _declared(self, command: Group) -> tuple[str, int]:
        """(declare-const X_0 Real) or (declare-fun X_0 () Real)."""
        name, *rest = command[1:] or [""]
        if command[0] == "declare-fun" and rest and rest[0] == []:
            rest = rest[1:]
        match = VARIABLE.fullmatch(name) if isinstance(name, str) else None
        if match is None:
            raise self.fail(f"expected a constant X_i or Y_j, got {_shown(name)}", command)
        if len(rest) != 1:
            raise self.fail(f"expected a type behind {name}", command)
        if not isinstance(rest[0], str) or rest[0].lower() not in TYPES:
            raise self.unsupported(f"{name} has type {_shown(rest[0])}, expected Real", command)
        if name in self.variables:
            raise self.fail(f"{name} is declared twice", command)
        self.variables[match[0]] = Affine({}, Fraction(0))
        return match[1], int(match[2])

    def _counted(self, letter: str, indices: list[int]) -> int:
        if not indices:
            kind = "inputs" if letter == "X" else "outputs"
            raise ParseError(f"the file declares no {kind} ({letter}_0, {letter}_1, ...)", where=self.source)
        if max(indices) != len(indices) - 1:
            known = set(indices)
            lacking = next(index for index in range(len(indices) + 1) if index not in known)
            raise ParseError(
                f"{letter}_{max(indices)} is declared, but {letter}_{lacking} is not: expected all indices from 0",
                where=self.source,
            )
        return len(indices)

    def _number(self, n_in: int, n_out: int) -> None:
        one = Fraction(1)
        self.variables = {f"X_{index}": Affine({index: one}, Fraction(0)) for index in range(n_in)}
        self.variables |= {f"Y_{index}": Affine({n_in + index: one}, Fraction(0)) for index in range(n_out)}

    def _formula(self, command: Group) -> Dnf:
        value = command[1]
        result = self._atom(value, command) if isinstance(value, str) else self._value(value)
        if isinstance(result, Affine):
            raise self.fail("expected a formula, got a number", command)
        return result

    def _value(self, root: Group) -> Affine | Dnf:
        """The value of an expression, computed from the leaves up without recursion."""
        frames: list[tuple[Group, list[Affine | Dnf]]] = [(root, [])]
        while True:
            group, values = frames[-1]
            if not group or not isinstance(group[0], str):
                raise self.fail("expected an operator behind the parenthesis", group)
            if len(values) + 1 < len(group):
                item = group[len(values) + 1]
                if isinstance(item, str):
                    values.append(self._atom(item, group))
                else:
                    frames.append((item, []))
                continue
            frames.pop()
            value = self._applied(group[0], values, group)
            if not frames:
                return value
            frames[-1][1].append(value)

    def _atom(self, item: str, group: Group) -> Affine | Dnf:
        known = self.variables.get(item)
        if known is not None:
            return known
        if item in ("true", "false"):
            return [()] if item == "true" else []
        value = number(item)
        if value is None:
            what = "a number that is too long" if item[:1].isdigit() or item[:1] in "+-." else "undeclared"
            raise self.fail(f"{item[:40]!r} is {what}: expected a declared constant or a number", group)
        return Affine({}, value)

    def _applied(self, operator: str, values: list[Affine | Dnf], group: Group) -> Affine | Dnf:
        numbers = [value for value in values if isinstance(value, Affine)]
        formulas = [value for value in values if not isinstance(value, Affine)]
        try:
            if operator in CONNECTIVES:
                self._all(operator, formulas, values, group)
                return CONNECTIVES[operator](formulas)
            if operator in COMPARISONS:
                self._all(operator, numbers, values, group)
                return self._compared(operator, numbers, group)
        except PropertyError as error:
            raise PropertyError(error.message, where=place(self.text, group.at, self.source), hint=error.hint) from None
        if operator in ("+", "-", "*", "/"):
            self._all(operator, numbers, values, group)
            return self._arithmetic(operator, numbers, group)
        raise self.unsupported(f"unknown operator {operator[:40]!r}", group)

    def _all(self, operator: str, wanted: list[Affine] | list[Dnf], values: list[Affine | Dnf], group: Group) -> None:
        if not values:
            raise self.fail(f"{operator} of nothing", group)
        if len(wanted) < len(values):
            kind = "formulas" if operator in CONNECTIVES else "numbers"
            raise self.fail(f"{operator} takes {kind} only", group)

    def _compared(self, operator: str, numbers: list[Affine], group: Group) -> Dnf:
        if len(numbers) < 2 or (operator in ("!=", "distinct") and len(numbers) > 2):
            raise self.fail(f"{operator} takes two numbers, got {len(numbers)}", group)
        return conjunction([compared(operator, left, right) for left, right in pairwise(numbers)])

    def _arithmetic(self, operator: str, numbers: list[Affine], group: Group) -> Affine:
        if operator == "+":
            return total(numbers, [1] * len(numbers))
        if operator == "-":
            signs = [-1] if len(numbers) == 1 else [1] + [-1] * (len(numbers) - 1)
            return total(numbers, signs)
        if operator == "*":
            result = times(numbers)
            if result is None:
                raise self.unsupported("a product of variables: only linear terms are supported", group)
            return result
        first, *divisors = numbers
        for divisor in divisors:
            if any(divisor.terms.values()):
                raise self.unsupported("division by a variable: only linear terms are supported", group)
            if divisor.constant == 0:
                raise self.fail("division by zero", group)
            first = scaled(first, 1 / divisor.constant)
        return first


CONNECTIVES: dict[str, Callable[[list[Dnf]], Dnf]] = {"and": conjunction, "or": disjunction}


def _shown(item: object) -> str:
    return repr(item[:40]) if isinstance(item, str) else "a list"
