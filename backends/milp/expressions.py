"""Values of the graph as affine expressions of one variable each, so that moving, scaling and fixing elements costs
nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from irverify.backends.milp.linear import Matrix
from irverify.backends.milp.model import Flags, Floats, Indices, Terms

EPSILON = float(np.finfo(np.float64).eps)


@dataclass(frozen=True, eq=False)
class Affine:
    """Element k of a value, row-major, is `scale[k] x[columns[k]] + shift[k]`; a constant where scale is 0."""

    columns: Indices
    scale: Floats
    shift: Floats

    @staticmethod
    def of_variables(columns: Indices) -> Affine:
        return Affine(columns, np.ones(len(columns)), np.zeros(len(columns)))

    @staticmethod
    def constant(values: Floats) -> Affine:
        return Affine(np.zeros(len(values), dtype=np.int64), np.zeros(len(values)), values)

    def __len__(self) -> int:
        return len(self.columns)

    def __getitem__(self, index: Indices | Flags) -> Affine:
        return Affine(self.columns[index], self.scale[index], self.shift[index])

    def mapped(self, factor: Floats | float, addend: Floats | float = 0.0) -> Affine:
        """`factor * self + addend` element by element."""
        return Affine(self.columns, self.scale * factor, self.shift * factor + addend)

    def where(self, condition: Flags, other: Affine) -> Affine:
        """Elements of this where `condition` holds, else of `other`."""
        return Affine(
            np.where(condition, self.columns, other.columns),
            np.where(condition, self.scale, other.scale),
            np.where(condition, self.shift, other.shift),
        )

    def replaced(self, index: Indices, other: Affine) -> Affine:
        """This with the elements at `index` taken from `other`, in order."""
        columns, scale, shift = self.columns.copy(), self.scale.copy(), self.shift.copy()
        columns[index], scale[index], shift[index] = other.columns, other.scale, other.shift
        return Affine(columns, scale, shift)

    def bounds(self, lower: Floats, upper: Floats) -> tuple[Floats, Floats]:
        """Bounds of each element from bounds of the variables, rounded outward."""
        low, high = lower[self.columns], upper[self.columns]
        flipped = self.scale < 0
        low, high = np.where(flipped, high, low), np.where(flipped, low, high)
        fixed = self.scale == 0
        plain = fixed | ((np.abs(self.scale) == 1) & (self.shift == 0))

        def side(ends: Floats, outward: float) -> Floats:
            part = np.where(fixed, 0.0, self.scale * np.where(fixed, 0.0, ends))
            slack = np.where(plain, 0.0, 2 * EPSILON * (np.abs(part) + np.abs(self.shift)))
            return part + self.shift + outward * slack

        return side(low, -1.0), side(high, 1.0)

    def values(self, x: Floats) -> Floats:
        """The elements at a point."""
        return self.scale * x[self.columns] + self.shift


def concatenated(parts: Sequence[Affine]) -> Affine:
    return Affine(
        np.concatenate([part.columns for part in parts]),
        np.concatenate([part.scale for part in parts]),
        np.concatenate([part.shift for part in parts]),
    )


def composed(matrix: Matrix, x: Affine) -> Terms:
    """The terms of `matrix @ x`, without its constant."""
    if not isinstance(matrix, sparse.sparray):
        return Terms(x.columns, matrix * x.scale)
    if bool((x.scale == 1).all()):
        return Terms(x.columns, matrix)
    scaled = matrix.copy()
    scaled.data = scaled.data * x.scale[scaled.indices]
    return Terms(x.columns, scaled)


def single(terms: list[Terms], constant: Floats) -> Affine | None:
    """The sum of diagonal terms where no element has more than one, else None."""
    if any(isinstance(part.matrix, sparse.sparray) for part in terms):
        return None
    scales = np.stack([np.broadcast_to(np.asarray(part.matrix), part.columns.shape) for part in terms])
    if bool(((scales != 0).sum(axis=0) > 1).any()):
        return None
    which = np.argmax(scales != 0, axis=0), np.arange(len(constant))
    return Affine(np.stack([part.columns for part in terms])[which], scales[which], constant)


def gathered(terms: list[Terms], size: int) -> tuple[sparse.csr_array, Indices]:
    """The terms as one matrix `[size, variables]` in which every variable has one column, and these variables."""
    columns = np.unique(np.concatenate([part.columns for part in terms]))
    if len(terms) == 1 and isinstance(terms[0].matrix, sparse.csr_array) and len(columns) == len(terms[0].columns):
        return terms[0].matrix, terms[0].columns
    rows, numbers, data = (np.concatenate(parts) for parts in zip(*(part.entries() for part in terms), strict=True))
    places = np.searchsorted(columns, numbers)
    return sparse.coo_array((data, (rows, places)), shape=(size, len(columns))).tocsr(), columns


def activity(matrix: sparse.csr_array, constant: Floats, lower: Floats, upper: Floats) -> tuple[Floats, Floats]:
    """Interval bounds of `matrix x + constant` for lower <= x <= upper, with an a-priori error term for the
    rounding."""
    with np.errstate(over="ignore", invalid="ignore"):
        center, radius = lower / 2 + upper / 2, upper / 2 - lower / 2
        magnitude = abs(matrix)
        middle, spread = matrix @ center + constant, magnitude @ radius
        depth = np.diff(matrix.indptr) + 4
        error = 2 * depth * EPSILON * (magnitude @ (np.abs(center) + radius) + np.abs(constant))
        low, high = middle - spread - error, middle + spread + error
    return np.where(np.isfinite(low), low, -np.inf), np.where(np.isfinite(high), high, np.inf)
