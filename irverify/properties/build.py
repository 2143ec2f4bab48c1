"""Constructors: robustness, linear properties, and combinations of properties."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import torch

from irverify.errors import PropertyError
from irverify.properties.rows import LIMIT, Disjunct, Property, merged


def robust(label: int) -> Property:
    """Holds where the network classifies as `label`: y_label - y_j > 0 for every j != label. A tie is a violation.

    The number of classes is that of the network's outputs: `bind` gives the rows, and raises PropertyError for a label
    out of range.
    """
    return _Robust(label)


def linear(coefficients: Any, offset: Any) -> Property:
    """Holds where C y + d >= 0 in every row; C is `[rows, n_out]`, d `[rows]`. One (strict) disjunct for each row."""
    matrix = torch.as_tensor(coefficients, dtype=torch.float64)
    constant = torch.as_tensor(offset, dtype=torch.float64)
    if matrix.ndim != 2 or constant.shape != matrix.shape[:1] or not len(constant):
        got = f"{list(matrix.shape)} and {list(constant.shape)}"
        raise PropertyError(f"expected C [rows, n_out] and d [rows] with a row at least, got {got}")
    strict = torch.ones(1, dtype=torch.bool)
    rows = range(len(constant))
    parts = tuple(Disjunct(matrix[i : i + 1], constant[i : i + 1], strict=strict) for i in rows)
    return Property(parts, f"linear, {len(parts)} rows")


def any_of(*properties: Property) -> Property:
    """Holds where one of the properties holds: a violation violates all of them."""
    return _combined(properties, conjunction=True)


def all_of(*properties: Property) -> Property:
    """Holds where all the properties hold: a violation violates one of them."""
    return _combined(properties, conjunction=False)


class _Deferred(Property):
    """A property whose rows are known once the sizes of the network are: `bind` gives them."""

    def __init__(self, description: str) -> None:
        object.__setattr__(self, "description", description)

    def __repr__(self) -> str:
        return self.description

    @property
    def disjuncts(self) -> tuple[Disjunct, ...]:
        message = "the rows depend on the number of outputs"
        raise PropertyError(message, where=self.description, hint="bind(n_in, n_out) gives them")


class _Robust(_Deferred):
    def __init__(self, label: int) -> None:
        if isinstance(label, bool) or int(label) != label or label < 0:
            raise PropertyError(f"expected a label, a whole number >= 0, got {label!r}")
        super().__init__(f"robust({int(label)})")
        object.__setattr__(self, "label", int(label))

    label: int

    def bind(self, n_in: int, n_out: int) -> Property:
        if not self.label < n_out:
            raise PropertyError(f"label out of range: expected 0 to {n_out - 1}, got {self.label}")
        if n_out == 1:
            raise PropertyError("a network with one output classifies nothing", hint="use linear(C, d) for a bound")
        rows = -torch.eye(n_out, dtype=torch.float64)
        rows[:, self.label] += 1
        zero = torch.zeros(1, dtype=torch.float64)
        return Property(
            tuple(Disjunct(rows[j : j + 1], zero) for j in range(n_out) if j != self.label), self.description
        )


class _Combined(_Deferred):
    def __init__(self, parts: Sequence[Property], conjunction: bool, description: str) -> None:
        super().__init__(description)
        object.__setattr__(self, "parts", tuple(parts))
        object.__setattr__(self, "conjunction", conjunction)

    parts: tuple[Property, ...]
    conjunction: bool

    def bind(self, n_in: int, n_out: int) -> Property:
        return _combined([part.bind(n_in, n_out) for part in self.parts], self.conjunction)


def _combined(properties: Sequence[Property], conjunction: bool) -> Property:
    name = "any_of" if conjunction else "all_of"
    if not properties:
        raise PropertyError(f"{name} of no property", hint="give one at least")
    description = f"{name}({', '.join(part.description for part in properties)})"
    if any(isinstance(part, _Deferred) for part in properties):
        return _Combined(properties, conjunction, description)
    violations = [part.disjuncts for part in properties]
    if not conjunction:
        return Property(tuple(disjunct for listed in violations for disjunct in listed), description)
    total = 1
    for listed in violations:
        total *= len(listed)
        if total > LIMIT:
            raise PropertyError(f"the violation has more than {LIMIT} disjuncts in disjunctive form", where=description)
    return Property(tuple(merged(choice) for choice in product(*violations)), description)
