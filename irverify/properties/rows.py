"""Linear rows, conjunctions of them, and properties: what is to hold, stated through its violation.

Row i of a disjunct reads `A_i x + C_i y + d_i <= 0` (strict rows: `< 0`), with x the flattened inputs and y the
flattened outputs of a network, one after the other in its order. A disjunct is satisfied where all its rows are, and a
property holds where no disjunct is satisfied. Everything that only depends on bounds works on the float64 tensors; a
replay decides in exact arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import torch
from torch import Tensor

from irverify.errors import PropertyError
from irverify.rounding import fraction_below, nearest_float

LIMIT = 100_000
"""How many disjuncts a property may have."""

Values = Sequence[Fraction] | Sequence[float] | Sequence[Fraction | float] | Tensor
Terms = tuple[tuple[int, Fraction], ...]


@dataclass(frozen=True)
class Row:
    """One linear constraint in exact numbers: sum of a_i x_i + sum of c_j y_j + offset <= 0, or < 0 where `strict`."""

    inputs: Terms
    outputs: Terms
    offset: Fraction
    strict: bool = False

    def satisfied(self, x: Sequence[Fraction | float], y: Sequence[Fraction | float]) -> bool:
        """In exact arithmetic; a value that is not finite satisfies nothing that reads it."""
        total = self.offset
        for terms, values in ((self.inputs, x), (self.outputs, y)):
            for index, coefficient in terms:
                value = values[index]
                if isinstance(value, float) and not math.isfinite(value):
                    return False
                total += coefficient * Fraction(value)
        return total < 0 if self.strict else total <= 0

    def scaled(self) -> Row:
        """A positive multiple whose coefficients are float64 numbers, where there is one of moderate size."""
        coefficients = [coefficient for _, coefficient in (*self.inputs, *self.outputs)]
        if all(nearest_float(coefficient) == coefficient for coefficient in coefficients):
            return self
        factor = math.lcm(*(coefficient.denominator for coefficient in coefficients))
        if any(abs(coefficient * factor) > 2**53 for coefficient in coefficients):
            return self
        inputs, outputs = (tuple((i, c * factor) for i, c in terms) for terms in (self.inputs, self.outputs))
        return Row(inputs, outputs, self.offset * factor, self.strict)


@dataclass(frozen=True, eq=False)
class Disjunct:
    """One way to violate a property: all rows at once.

    `outputs` is C `[rows, n_out]`, `offset` d `[rows]`, `inputs` A `[rows, n_in]` or None where no row reads inputs,
    `strict` `[rows]` of bool (None: no row is); all float64 and finite, at least one row. `exact` gives the same rows
    in exact numbers where the tensors are rounded: each coefficient by 2^-53 of itself at most, the offset downwards.
    """

    outputs: Tensor
    offset: Tensor
    inputs: Tensor | None = None
    strict: Tensor | None = None
    exact: tuple[Row, ...] | None = None

    def __post_init__(self) -> None:
        outputs, offset = _finite("C", self.outputs), _finite("d", self.offset)
        if outputs.ndim != 2 or offset.shape != outputs.shape[:1] or not len(offset):
            got = f"{list(outputs.shape)} and {list(offset.shape)}"
            raise PropertyError(f"expected C [rows, n_out] and d [rows] with a row at least, got {got}")
        strict = torch.zeros(len(offset), dtype=torch.bool) if self.strict is None else torch.as_tensor(self.strict)
        if strict.shape != offset.shape or strict.dtype != torch.bool:
            raise PropertyError(f"expected strict [rows] of bool, got {list(strict.shape)} of {strict.dtype}")
        object.__setattr__(self, "outputs", outputs)
        object.__setattr__(self, "offset", offset)
        object.__setattr__(self, "strict", strict.cpu())
        if self.inputs is not None:
            inputs = _finite("A", self.inputs)
            if inputs.ndim != 2 or len(inputs) != len(offset):
                raise PropertyError(f"expected A [{len(offset)}, n_in], got {list(inputs.shape)}")
            object.__setattr__(self, "inputs", inputs)

    @staticmethod
    def of_rows(rows: Sequence[Row], n_in: int, n_out: int) -> Disjunct:
        """The conjunction of exact rows; none at all is satisfied everywhere, and becomes the row 0 <= 0."""
        scaled = [row.scaled() for row in rows] or [Row((), (), Fraction(0))]
        outputs = torch.zeros(len(scaled), n_out, dtype=torch.float64)
        inputs = torch.zeros(len(scaled), n_in, dtype=torch.float64) if any(row.inputs for row in scaled) else None
        for number, row in enumerate(scaled):
            for matrix, terms in ((inputs, row.inputs), (outputs, row.outputs)):
                if matrix is not None:
                    for index, coefficient in terms:
                        matrix[number, index] = _coefficient(coefficient)
        offset = torch.tensor([fraction_below(row.offset) for row in scaled], dtype=torch.float64)
        strict = torch.tensor([row.strict for row in scaled])
        return Disjunct(outputs, offset, inputs, strict, tuple(rows) or tuple(scaled))

    @cached_property
    def rows(self) -> tuple[Row, ...]:
        """The rows in exact numbers."""
        if self.exact is not None:
            return self.exact
        count = len(self.offset)
        inputs = [()] * count if self.inputs is None else [_terms(row) for row in self.inputs]
        outputs = [_terms(row) for row in self.outputs]
        assert self.strict is not None
        offsets, strict = self.offset.tolist(), self.strict.tolist()
        return tuple(Row(inputs[i], outputs[i], Fraction(offsets[i]), strict[i]) for i in range(count))

    def satisfied(self, x: Values, y: Values) -> bool:
        """Whether the flat point (x, y) satisfies every row, in exact arithmetic and with zero tolerance."""
        inputs, outputs = _numbers(x), _numbers(y)
        return all(row.satisfied(inputs, outputs) for row in self.rows)


@dataclass(frozen=True, eq=False)
class Stack:
    """All distinct rows of a property: `outputs` `[rows, n_out]`, `offset` `[rows]`, `inputs` `[rows, n_in]` or None,
    `strict` `[rows]`; `members` gives the rows of each disjunct."""

    outputs: Tensor
    offset: Tensor
    inputs: Tensor | None
    strict: Tensor
    members: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, eq=False)
class Property:
    """What is to hold: no disjunct of the violation is satisfied; without disjuncts it holds everywhere."""

    disjuncts: tuple[Disjunct, ...]
    description: str = "property"

    def __post_init__(self) -> None:
        if len(self.disjuncts) > LIMIT:
            raise PropertyError(
                f"{len(self.disjuncts)} disjuncts, at most {LIMIT} are possible", where=self.description
            )

    def bind(self, n_in: int, n_out: int) -> Property:
        """The property of a network with so many inputs and outputs. PropertyError where the rows do not fit."""
        for disjunct in self.disjuncts:
            if disjunct.outputs.shape[1] != n_out:
                got = disjunct.outputs.shape[1]
                raise PropertyError(f"expected rows over {n_out} outputs, got {got}", where=self.description)
            if disjunct.inputs is not None and disjunct.inputs.shape[1] != n_in:
                got = disjunct.inputs.shape[1]
                raise PropertyError(f"expected rows over {n_in} inputs, got {got}", where=self.description)
        return self

    def violated(self, x: Values, y: Values) -> bool:
        """Whether the flat point (x, y) violates the property: exact arithmetic, zero tolerance.

        x and y are tensors of floats, each flattened, or sequences of fractions. Outputs that are not finite violate
        nothing.
        """
        inputs, outputs = _numbers(x), _numbers(y)
        return any(disjunct.satisfied(inputs, outputs) for disjunct in self.disjuncts)

    def rows(self) -> Stack:
        """The distinct rows of all disjuncts, for a bound pass."""
        return self._stack

    @cached_property
    def _stack(self) -> Stack:
        disjuncts = self.disjuncts
        if not disjuncts:
            raise PropertyError("a property without disjuncts has no rows: it holds everywhere", where=self.description)
        joined = merged(disjuncts)
        parts = [joined.outputs, joined.offset[:, None], _bool(joined.strict).double()[:, None]]
        whole = torch.cat([*parts, *(() if joined.inputs is None else (joined.inputs,))], dim=1) + 0.0  # -0.0 is 0.0
        numbers: dict[bytes, int] = {}
        which = [numbers.setdefault(row.tobytes(), len(numbers)) for row in whole.numpy()]
        earliest = dict(zip(reversed(which), reversed(range(len(which))), strict=True))
        first = torch.tensor([earliest[number] for number in range(len(numbers))])
        members, start = [], 0
        for disjunct in disjuncts:
            end = start + len(disjunct.offset)
            members.append(tuple(dict.fromkeys(which[start:end])))
            start = end
        inputs = None if joined.inputs is None else joined.inputs[first]
        return Stack(joined.outputs[first], joined.offset[first], inputs, _bool(joined.strict)[first], tuple(members))

    def decided(self, lower: Tensor, margin: float = 0.0) -> Tensor:
        """Which disjuncts are refuted by lower bounds of the rows of `rows()`: [..., rows] -> [..., disjuncts] of bool.

        A disjunct is refuted where one of its rows is bounded above `margin` (a strict row: at or above it). `margin`
        covers the rounding of the bounds. NaN refutes nothing.
        """
        if not margin >= 0:
            raise PropertyError(f"expected a margin >= 0, got {margin}")
        stack = self.rows()
        if lower.shape[-1] != len(stack.offset):
            raise PropertyError(f"expected bounds of {len(stack.offset)} rows, got {lower.shape[-1]}")
        positive = (lower > margin) | (stack.strict.to(lower.device) & (lower >= margin))
        rows = torch.tensor([row for listed in stack.members for row in listed], device=lower.device)
        sizes = torch.tensor([len(listed) for listed in stack.members], device=lower.device)
        owner = torch.repeat_interleave(torch.arange(len(sizes), device=lower.device), sizes)
        counts = torch.zeros(*lower.shape[:-1], len(sizes), device=lower.device)
        return counts.index_add(-1, owner, positive[..., rows].to(counts.dtype)) > 0


def merged(disjuncts: Sequence[Disjunct]) -> Disjunct:
    """The conjunction of disjuncts: all their rows. PropertyError where they speak of different networks."""
    widths = {disjunct.outputs.shape[1] for disjunct in disjuncts}
    given = {disjunct.inputs.shape[1] for disjunct in disjuncts if disjunct.inputs is not None}
    if len(widths) > 1 or len(given) > 1:
        raise PropertyError(f"rows over different numbers of outputs {sorted(widths)} or inputs {sorted(given)}")
    inputs = None
    if given:
        width = given.pop()
        parts = [
            torch.zeros(len(disjunct.offset), width, dtype=torch.float64)
            if disjunct.inputs is None
            else disjunct.inputs
            for disjunct in disjuncts
        ]
        inputs = torch.cat(parts)
    known = any(disjunct.exact is not None for disjunct in disjuncts)
    return Disjunct(
        torch.cat([disjunct.outputs for disjunct in disjuncts]),
        torch.cat([disjunct.offset for disjunct in disjuncts]),
        inputs,
        torch.cat([_bool(disjunct.strict) for disjunct in disjuncts]),
        tuple(row for disjunct in disjuncts for row in disjunct.rows) if known else None,
    )


def _finite(name: str, value: object) -> Tensor:
    tensor = torch.as_tensor(value, dtype=torch.float64, device="cpu")
    if not bool(torch.isfinite(tensor).all()):
        raise PropertyError(f"expected finite numbers in {name}")
    return tensor


def _coefficient(value: Fraction) -> float:
    rounded = nearest_float(value)
    if value and not 0 < abs(rounded) < math.inf:
        raise PropertyError("a coefficient is outside the range of float64")
    return rounded


def _bool(strict: Tensor | None) -> Tensor:
    assert strict is not None
    return strict


def _terms(row: Tensor) -> Terms:
    return tuple((int(i), Fraction(float(row[i]))) for i in row.nonzero())


def _numbers(values: Values | Iterable[float]) -> Sequence[Fraction | float]:
    if isinstance(values, Tensor):
        listed: list[float] = values.detach().double().flatten().tolist()
        return listed
    return values if isinstance(values, Sequence) else list(values)
