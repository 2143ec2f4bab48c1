"""Piecewise linear functions and maxima as rows: exact with binaries, or relaxed without.

Every M is a certified bound. Elements whose bounds settle which piece is meant get neither variables nor rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from irverify.backends.milp.expressions import EPSILON, Affine
from irverify.backends.milp.model import Flags, Floats, Indices, ModelBuilder, Terms


@dataclass(frozen=True)
class TwoPieces:
    """The continuous function `value + left (x - knot)` for x <= knot, `value + right (x - knot)` for x >= knot."""

    left: float
    right: float
    knot: float = 0.0
    value: float = 0.0

    def __call__(self, x: Floats) -> Floats:
        return self.value + np.where(x < self.knot, self.left, self.right) * (x - self.knot)

    def unstable(self, lower: Floats, upper: Floats) -> Indices:
        """The elements whose bounds lie on both sides of the knot."""
        return np.flatnonzero((lower < self.knot) & (self.knot < upper))


@dataclass(frozen=True)
class Encoder:
    """Appends encodings to a builder; `relaxed` leaves integrality out: functions of one value become the convex hull
    of their graph, maxima a polytope around it."""

    builder: ModelBuilder
    relaxed: bool = False

    def two_pieces(self, name: str, function: TwoPieces, x: Affine, lower: Floats, upper: Floats) -> Affine:
        """`y = function(x)` element by element, for `lower <= x <= upper`.

        With slopes a < b around the knot t, the lines L (left) and R (right), D = b - a and a binary q for each
        unstable element (Tjeng et al. 2019, for ReLU): `y >= L`, `y >= R`, `y <= L + D (u - t) q`, `y <= R
        + D (t - l) (1 - q)`; all reversed where a > b.
        """
        knot, value, left, right = function.knot, function.value, function.left, function.right
        on_right = lower >= knot
        lines = x.mapped(right, value - right * knot).where(on_right, x.mapped(left, value - left * knot))
        unstable = function.unstable(lower, upper)
        if not unstable.size or left == right:
            return lines
        inner, low, high = x[unstable], lower[unstable], upper[unstable]
        ends = function(low), function(high)
        y = self.builder.variables(
            name,
            np.minimum(np.minimum(*ends), value),
            np.maximum(np.maximum(*ends), value),
            labels=unstable,
            value=lambda x: function(inner.values(x)),
        )
        sign = 1.0 if right > left else -1.0
        for role, slope in (("left", left), ("right", right)):
            if slope != 0:  # otherwise the bounds of y say it
                self._side(f"{name}.{role}", (y, slope, inner), value - slope * knot, sign, unstable)
        if self.relaxed:
            chord = (ends[1] - ends[0]) / (high - low)
            at_low = ends[0] - chord * low
            slack = 8 * EPSILON * (np.abs(ends[0]) + np.abs(ends[1]) + np.abs(chord) * (np.abs(low) + np.abs(high)))
            self._side(f"{name}.chord", (y, chord, inner), at_low + sign * slack, -sign, unstable)
        else:
            on = self.builder.variables(
                f"{name}.on",
                0.0,
                np.ones(len(unstable)),
                integer=True,
                labels=unstable,
                value=lambda x: np.where(inner.values(x) > knot, 1.0, 0.0),
            )
            step = right - left
            reach, depth = step * (high - knot), step * (knot - low)
            self._side(f"{name}.off", (y, left, inner), value - left * knot, -sign, unstable, (on, -reach))
            self._side(f"{name}.on", (y, right, inner), value - right * knot + depth, -sign, unstable, (on, depth))
        return lines.replaced(unstable, Affine.of_variables(y))

    def _side(
        self,
        name: str,
        line: tuple[Indices, Floats | float, Affine],
        constant: Floats | float,
        sign: float,
        labels: Indices,
        extra: tuple[Indices, Floats] | None = None,
    ) -> None:
        """The rows `y - slope x + extra >= constant`, or `<=` for a negative sign, for `line = (y, slope, x)`."""
        y, slope, x = line
        terms = [Terms(y), Terms(x.columns, -slope * x.scale)]
        if extra is not None:
            terms.append(Terms(*extra))
        limit = constant + slope * x.shift
        lower, upper = (limit, np.inf) if sign > 0 else (-np.inf, limit)
        self.builder.rows(name, terms, lower, upper, owner=y, labels=labels)

    def maximum(self, name: str, groups: Indices, candidates: Affine, lower: Floats, upper: Floats) -> Affine:
        """The maximum of the candidates of each group; `groups` `[candidates]` is sorted and counts from 0 without
        gaps.

        A candidate that cannot exceed the largest lower bound of its group is dropped. With a binary q for each other
        one: `y >= x_i`, `y <= x_i + (U - l_i) (1 - q_i)`, `sum q = 1`, U the largest upper bound.
        """
        kept, rivals = contenders(groups, lower, upper)
        groups, x, low, high = groups[kept], candidates[kept], lower[kept], upper[kept]
        starts = _starts(groups)
        result = x[starts]
        among = np.flatnonzero(rivals)
        if not among.size:
            return result
        open_groups, number = np.unique(groups[among], return_inverse=True)
        ceiling = np.maximum.reduceat(high[among], _starts(number))
        x, low = x[among], low[among]
        first = _starts(number)
        y = self.builder.variables(
            name,
            np.maximum.reduceat(low, first),
            ceiling,
            labels=open_groups,
            value=lambda point: np.maximum.reduceat(x.values(point), first),
        )
        mine, room = y[number], ceiling[number] - low
        labels = kept[among]
        self._side(f"{name}.above", (mine, 1.0, x), 0.0, 1.0, labels)
        pick = self.builder.variables(
            f"{name}.pick",
            0.0,
            np.ones(len(among)),
            integer=not self.relaxed,
            labels=labels,
            value=lambda point: _first_largest(number, x.values(point)),
        )
        self._side(f"{name}.below", (mine, 1.0, x), room, -1.0, labels, (pick, room))
        choice = sparse.csr_array((np.ones(len(among)), (number, np.arange(len(among)))))
        self.builder.rows(f"{name}.one", [Terms(pick, choice)], 1.0, 1.0, owner=y, labels=open_groups)
        return result.replaced(open_groups, Affine.of_variables(y))


def contenders(groups: Indices, lower: Floats, upper: Floats) -> tuple[Indices, Flags]:
    """The candidates that may be the maximum of their group: the one with the largest lower bound, and those whose
    upper bound exceeds it; and for each of these whether it has rivals."""
    starts = _starts(groups)
    order = np.lexsort((-lower, groups))  # the candidate with the largest lower bound stands first in its group
    best = np.zeros(len(groups), dtype=bool)
    best[order[starts]] = True
    kept = np.flatnonzero(best | (upper > np.maximum.reduceat(lower, starts)[groups]))
    return kept, np.bincount(groups[kept])[groups[kept]] > 1


def _first_largest(groups: Indices, values: Floats) -> Floats:
    """1 for the first of the largest values of each group, else 0."""
    result = np.zeros(len(groups))
    result[np.lexsort((-values, groups))[_starts(groups)]] = 1.0
    return result


def _starts(groups: Indices) -> Indices:
    """Where each group of sorted group numbers starts."""
    return np.flatnonzero(np.diff(groups, prepend=-1))
