"""A mixed-integer linear program in sparse arrays, and the builder that appends whole blocks to one.

    minimise    objective . x + offset
    subject to  row_lower <= rows x <= row_upper,   lower <= x <= upper,   x[integer] whole

Variables and rows come in blocks (one for each graph value and role), so that names are made only where they are read
and no loop ever runs over entries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import sparse

from irverify.errors import UsageError

Floats: TypeAlias = npt.NDArray[np.float64]
Indices: TypeAlias = npt.NDArray[np.int64]
Flags: TypeAlias = npt.NDArray[np.bool_]
Value: TypeAlias = Callable[[Floats], Floats]


@dataclass(frozen=True, eq=False)
class Block:
    """Consecutive variables or rows: number `start + k` belongs to element `labels[k]` (row-major) of value `name`."""

    name: str
    start: int
    labels: Indices

    @property
    def stop(self) -> int:
        return self.start + len(self.labels)

    @property
    def span(self) -> slice:
        return slice(self.start, self.stop)

    def names(self) -> Iterator[str]:
        """`name(label)` for each element, such as `relu_3.on(12)`: legal in LP and MPS files, as brackets are not."""
        return (f"{self.name}({label})" for label in self.labels.tolist())


@dataclass(frozen=True, eq=False)
class MilpModel:
    """One problem; immutable. `rows` is `[m, n]` CSR, the other arrays have length m or n. Bounds may be infinite.

    `owners[i]` is the variable that row i helps to define in terms of others, or -1 where it restricts all of them.
    """

    rows: sparse.csr_array
    row_lower: Floats
    row_upper: Floats
    lower: Floats
    upper: Floats
    integer: Flags
    objective: Floats
    owners: Indices
    offset: float = 0.0
    variable_blocks: tuple[Block, ...] = ()
    row_blocks: tuple[Block, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """Numbers of rows and of variables."""
        return len(self.row_lower), len(self.lower)

    @property
    def is_continuous(self) -> bool:
        return not bool(self.integer.any())

    def variable_names(self) -> list[str]:
        return [name for block in self.variable_blocks for name in block.names()]

    def row_names(self) -> list[str]:
        return [name for block in self.row_blocks for name in block.names()]

    def minimize(self, columns: npt.ArrayLike, coefficients: npt.ArrayLike, offset: float = 0.0) -> MilpModel:
        """The same constraints with objective `sum coefficients[k] x[columns[k]] + offset`."""
        objective = np.zeros(len(self.lower))
        np.add.at(objective, np.asarray(columns, dtype=np.int64), np.asarray(coefficients, dtype=np.float64))
        return replace(self, objective=objective, offset=float(offset))

    def relaxed(self) -> MilpModel:
        """The same problem without integrality."""
        return replace(self, integer=np.zeros_like(self.integer))

    def violation(self, x: Floats) -> float:
        """By how much `x` breaks its worst row or bound (integrality aside); at most 0 where it keeps all of them."""
        activity = self.rows @ x
        gaps = [self.row_lower - activity, activity - self.row_upper, self.lower - x, x - self.upper]
        return max((float(gap.max()) for gap in gaps if gap.size), default=0.0)


@dataclass(frozen=True, eq=False)
class Terms:
    """A part of a block of rows: `matrix @ x[columns]`. The matrix may be sparse `[rows, columns]`, or a number or a
    vector of length `rows` for a diagonal one (one variable in each row)."""

    columns: Indices
    matrix: sparse.sparray | Floats | float = 1.0

    def entries(self) -> tuple[Indices, Indices, Floats]:
        """Row numbers, variable numbers and coefficients."""
        if isinstance(self.matrix, sparse.sparray):
            coo = self.matrix.tocoo()
            return np.asarray(coo.row, dtype=np.int64), self.columns[coo.col], coo.data
        count = len(self.columns)
        return np.arange(count), self.columns, np.broadcast_to(np.asarray(self.matrix, dtype=np.float64), (count,))


class ModelBuilder:
    """Collects blocks of variables and rows. Mutable; `build` makes the immutable model."""

    def __init__(self) -> None:
        self.variable_blocks: list[Block] = []
        self.row_blocks: list[Block] = []
        self._bounds: list[tuple[Floats, Floats, Flags]] = []
        self._row_bounds: list[tuple[Floats, Floats]] = []
        self._owners: list[Indices] = []
        self._values: list[Value | None] = []
        self._entries: list[tuple[Indices, Indices, Floats]] = []

    @property
    def variable_count(self) -> int:
        return self.variable_blocks[-1].stop if self.variable_blocks else 0

    @property
    def row_count(self) -> int:
        return self.row_blocks[-1].stop if self.row_blocks else 0

    def variables(
        self,
        name: str,
        lower: npt.ArrayLike,
        upper: npt.ArrayLike,
        *,
        integer: bool = False,
        labels: Indices | None = None,
        value: Value | None = None,
    ) -> Indices:
        """Appends variables with these bounds (arrays that broadcast to one axis) and returns their numbers.

        `value` computes them from the variables before, for `complete`.
        """
        low, high = (np.array(side, dtype=np.float64) for side in np.broadcast_arrays(lower, upper))
        low, high = np.atleast_1d(low), np.atleast_1d(high)
        self._check(low <= high, f"bounds with lower <= upper for variables {name}", low, high)
        self._check((low < np.inf) & (high > -np.inf), f"bounds that leave finite values for {name}", low, high)
        block = Block(_fresh(name, self.variable_blocks), self.variable_count, _labels(labels, len(low)))
        self.variable_blocks.append(block)
        self._values.append(value)
        self._bounds.append((low, high, np.full(len(low), integer)))
        return np.arange(block.start, block.stop)

    def rows(
        self,
        name: str,
        terms: Sequence[Terms],
        lower: npt.ArrayLike,
        upper: npt.ArrayLike,
        *,
        owner: Indices | None = None,
        labels: Indices | None = None,
    ) -> Indices:
        """Appends the rows `lower <= sum of terms <= upper` and returns their numbers.

        `owner` is the variable that each row helps to define in terms of earlier ones, for `cone`.
        """
        size = next((len(given) for given in (labels, owner) if given is not None), None)
        low, high = np.asarray(lower, dtype=np.float64), np.asarray(upper, dtype=np.float64)
        if size is None:
            size = np.broadcast_shapes(low.shape, high.shape, (1,))[0]
        low, high = (np.array(np.broadcast_to(side, (size,))) for side in (low, high))
        self._check(low <= high, f"bounds with lower <= upper for rows {name}", low, high)
        block = Block(_fresh(name, self.row_blocks), self.row_count, _labels(labels, size))
        for part in terms:
            local, columns, values = part.entries()
            self._check(np.isfinite(values), f"finite coefficients in rows {name}", values)
            if local.size and not (local.min() >= 0 and local.max() < size):
                raise UsageError(f"expected terms for {size} rows of {name}, got {int(local.max()) + 1}")
            if columns.size and not (columns.min() >= 0 and columns.max() < self.variable_count):
                raise UsageError(f"expected variables below {self.variable_count} in rows {name}")
            self._entries.append((local + block.start, columns, values))
        self.row_blocks.append(block)
        self._row_bounds.append((low, high))
        self._owners.append(np.full(size, -1) if owner is None else owner)
        return np.arange(block.start, block.stop)

    def bounds(self) -> tuple[Floats, Floats]:
        """Lower and upper bounds of all variables so far."""
        return _joined([low for low, _, _ in self._bounds]), _joined([high for _, high, _ in self._bounds])

    def restrict(self, columns: Indices, lower: Floats, upper: Floats) -> None:
        """Replaces the bounds of some variables."""
        low, high = self.bounds()
        low[columns], high[columns] = lower, upper
        self._bounds = [
            (low[block.span], high[block.span], flags)
            for block, (_, _, flags) in zip(self.variable_blocks, self._bounds, strict=True)
        ]

    def copy(self) -> ModelBuilder:
        """Another builder that goes on from here on its own."""
        other = ModelBuilder()
        for name, content in vars(self).items():
            setattr(other, name, list(content))
        return other

    def complete(self, given: Mapping[str, Floats]) -> Floats:
        """A value for every variable: `given` for the blocks of these names, the others computed from those before."""
        x = np.zeros(self.variable_count)
        for block, value in zip(self.variable_blocks, self._values, strict=True):
            if value is not None:
                x[block.span] = value(x)
            elif block.name in given:
                x[block.span] = given[block.name]
            else:
                raise UsageError(f"expected values for the variables {block.name}")
        return x

    def build(self) -> MilpModel:
        """The model of everything appended so far, with objective 0. Entries at one place are added up."""
        lower, upper = self.bounds()
        m, n = self.row_count, self.variable_count
        kind = np.int32 if max(m, n, sum(len(values) for _, _, values in self._entries)) < 2**31 else np.int64
        row_numbers = _joined([rows for rows, _, _ in self._entries], kind)
        columns = _joined([columns for _, columns, _ in self._entries], kind)
        data = _joined([values for _, _, values in self._entries])
        matrix = sparse.coo_array((data, (row_numbers, columns)), shape=(m, n)).tocsr()
        matrix.eliminate_zeros()
        return MilpModel(
            rows=matrix,
            row_lower=_joined([low for low, _ in self._row_bounds]),
            row_upper=_joined([high for _, high in self._row_bounds]),
            lower=lower,
            upper=upper,
            integer=_joined([flags for _, _, flags in self._bounds], np.bool_),
            objective=np.zeros(n),
            owners=_joined(self._owners, np.int64),
            variable_blocks=tuple(self.variable_blocks),
            row_blocks=tuple(self.row_blocks),
        )

    @staticmethod
    def _check(good: Flags, expected: str, *values: Floats) -> None:
        if not bool(good.all()):
            at = int(np.argmin(good))
            got = ", ".join(repr(float(value[at])) for value in values)
            raise UsageError(f"expected {expected}, got {got} at element {at}")


def _fresh(name: str, blocks: Sequence[Block]) -> str:
    """`name`, or with a number where a block has it already."""
    taken = {block.name for block in blocks}
    candidates = (name, *(f"{name}.{number}" for number in range(2, len(blocks) + 3)))
    return next(candidate for candidate in candidates if candidate not in taken)


def _labels(labels: Indices | None, count: int) -> Indices:
    if labels is None:
        return np.arange(count)
    if len(labels) != count:
        raise UsageError(f"expected {count} labels, got {len(labels)}")
    return np.asarray(labels, dtype=np.int64)


def _joined(parts: Sequence[npt.NDArray[Any]], kind: type[Any] = np.float64) -> npt.NDArray[Any]:
    return np.concatenate(parts).astype(kind, copy=False) if parts else np.zeros(0, dtype=kind)
