"""Integer programs that contain every solution of a mixed-integer program, for a solver that computes exactly.

Every variable x_j has a scale S_j, a power of two (1 for whole variables), and becomes X_j = floor(S_j x_j + 1/2), so
that X_j = S_j x_j + d_j with |d_j| <= 1/2, and d_j = 0 for whole ones. A row L <= a x <= U is multiplied by a power of
two R and its coefficients c_j = R a_j / S_j are rounded to whole C_j = c_j + e_j. For any x that satisfies the row

    sum C_j X_j = sum c_j X_j + sum e_j X_j = R a x + sum c_j d_j + sum e_j X_j,

so the whole number sum C_j X_j lies in [R L - s, R U + s] with

    s = sum over continuous j of |c_j| / 2  +  sum |e_j| max |X_j|  +  R ROUNDING (sum |a_j| m_j + |side|).

m_j is the largest magnitude of x_j and, for continuous ones, of any continuous variable before it. The last term covers
that the rows of a network, and the bounds in its big-M coefficients, are themselves computed in float64: from values
that come before, and however much of these cancels. Scaling by powers of two is exact, and so is e_j. Hence every
solution of the mixed-integer program, and every execution of the network that it encodes, has its X among the solutions
of the integer program: where that one has none, the first has none either. The converse does not hold;
`IntegerModel.resolution` says by how much.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse

from irverify.backends.milp.model import Block, Flags, Floats, Indices, MilpModel
from irverify.errors import UnsupportedError

ROUNDING = 1e-10
"""By how much bounds and rows may be wrong because they were computed in float64, relative to the magnitudes of what
they were computed from."""
VALUE_BITS = 20
"""|X_j| is at most 2 to this power: the largest variable of each block comes close to it."""
TERM_BITS = 40
"""|C_j X_j| is at most about 2 to this power: the coefficients of values get the other half, those of binaries all of
it."""
MOST_BITS = 500
"""R is at most 2 to this power, so that no product with a side becomes NaN."""
ROW_LIMIT = 2.0**50
"""What sum |C_j| max |X_j| may reach in a row: far inside int64, and exact in float64."""


@dataclass(frozen=True, eq=False)
class IntegerModel:
    """minimise `objective X` subject to `row_lower <= rows X <= row_upper`, `lower <= X <= upper`; all int64.

    `scale` `[n]` is S. The real objective is at least `(objective X - objective_slack) / objective_scale`.
    `errors` `[n]`: for each X that solves this model there is an input of the region at which the value of each
    variable differs from X_j / S_j by no more. `resolution` is the same for the objective, or for the rows that limit
    margins where there is no objective: by how much the smallest margin must exceed the limit to be decided.
    """

    rows: sparse.csr_array
    row_lower: Indices
    row_upper: Indices
    lower: Indices
    upper: Indices
    objective: Indices
    objective_scale: float
    objective_slack: float
    scale: Floats
    errors: Floats
    resolution: float

    def bound(self, objective: float) -> float:
        """The lower bound of the real objective for one of the integer objective, which is whole up to rounding."""
        least = np.floor(objective + 2.0**-10 - 2.0**-50 * abs(objective))
        return float((least - self.objective_slack) / self.objective_scale)

    def rounded(self, x: Floats) -> Indices:
        """X for a point of the mixed-integer program."""
        return np.clip(_nearest(self.scale * x), self.lower, self.upper)

    def point(self, whole: Indices) -> Floats:
        """A point near the mixed-integer program's solutions for a solution of this one."""
        return np.asarray(whole / self.scale, dtype=np.float64)


@dataclass(frozen=True, eq=False)
class _Units:
    """S, the largest |X_j|, S_j m_j, and which variables are continuous."""

    scale: Floats
    largest: Floats
    reach: Floats
    continuous: Flags


@dataclass(frozen=True, eq=False)
class _Scaled:
    """Rows that are whole: `rows` in units of 1 / `factor`; `slack` `[m]` is s, in the same units, without the part
    that a side adds; `loss` by how much real activity may leave the sides then, in the row's own units."""

    rows: sparse.csr_array
    factor: Floats
    slack: Floats
    loss: Floats
    activity: Floats

    def sides(self, lower: Floats, upper: Floats) -> tuple[Indices, Indices]:
        """The whole sides, cut where they say nothing beyond the bounds of the variables."""
        result = []
        for side, sign in ((lower, -1.0), (upper, 1.0)):
            room = self.slack + ROUNDING * self.factor * np.abs(np.where(np.isfinite(side), side, 0.0))
            value = sign * np.floor(sign * side * self.factor + room)
            result.append(np.clip(value, -self.activity - 1, self.activity + 1).astype(np.int64))
        return result[0], result[1]


def whole(model: MilpModel) -> IntegerModel:
    """The integer program around a model (see above). Raises UnsupportedError where a variable has no finite bounds,
    or where a row cannot be kept inside int64."""
    _check_finite(model)
    scale = _scales(model)
    reach = _reach(model)
    _check_whole(model)
    margin = np.where(model.integer, 0.0, ROUNDING * (1 + reach))
    lower, upper = _nearest(scale * (model.lower - margin)), _nearest(scale * (model.upper + margin))
    largest = np.maximum(np.abs(lower), np.abs(upper)).astype(np.float64)
    units = _Units(scale, largest, np.where(model.integer, largest, scale * reach), ~model.integer)
    with np.errstate(over="ignore"):  # what becomes infinite is refused, or belongs to variables that are always 0
        rows, cost = _scaled(model.rows, units), _scaled(sparse.csr_array(model.objective[None, :]), units)
    row_lower, row_upper = rows.sides(model.row_lower, model.row_upper)
    errors, limited = _errors(model, 0.5 / scale + 2 * margin, rows.loss + ROUNDING * _magnitude(model))
    resolution = limited
    if cost.rows.nnz:
        resolution = max(limited, float(np.abs(model.objective) @ errors + cost.loss[0] + 1 / cost.factor[0]))
    return IntegerModel(
        rows=rows.rows,
        row_lower=row_lower,
        row_upper=row_upper,
        lower=lower,
        upper=upper,
        objective=np.asarray(cost.rows.toarray()[0], dtype=np.int64),
        objective_scale=float(cost.factor[0]),
        objective_slack=float(cost.slack[0]),
        scale=scale,
        errors=errors,
        resolution=resolution,
    )


def _reach(model: MilpModel) -> Floats:
    """The largest magnitude of each variable and of those continuous ones before it."""
    sizes = np.maximum(np.abs(model.lower), np.abs(model.upper))
    return np.asarray(np.maximum.accumulate(np.where(model.integer, 0.0, sizes)), dtype=np.float64)


def _magnitude(model: MilpModel) -> Floats:
    """The larger of the finite sides of each row."""
    sides = np.stack([np.abs(model.row_lower), np.abs(model.row_upper)])
    return np.asarray(np.where(np.isfinite(sides), sides, 0.0).max(axis=0))


def _check_finite(model: MilpModel) -> None:
    finite = np.isfinite(model.lower) & np.isfinite(model.upper)
    if not bool(finite.all()):
        at = int(np.argmin(finite))
        names = model.variable_names()
        raise UnsupportedError(
            f"expected finite bounds of every variable for integer arithmetic, got [{model.lower[at]}, "
            f"{model.upper[at]}]",
            where=names[at] if at < len(names) else f"variable {at}",
            hint="give bounds of this value, or choose another solver",
        )


def _check_whole(model: MilpModel) -> None:
    sizes = np.maximum(np.abs(model.lower), np.abs(model.upper))[model.integer]
    if not bool((sizes <= ROW_LIMIT).all()):
        hint = "choose another solver"
        raise UnsupportedError(f"expected whole variables up to {ROW_LIMIT:.3g}, got {sizes.max():.3g}", hint=hint)


def _scales(model: MilpModel) -> Floats:
    """S for each variable: one for a block, by its largest magnitude."""
    sizes = np.maximum(np.abs(model.lower), np.abs(model.upper))
    scale: Floats = np.ones(len(sizes))
    for block in model.variable_blocks or (Block("x", 0, np.arange(len(sizes))),):
        largest = float(sizes[block.span].max(initial=0.0))
        scale[block.span] = np.exp2(np.minimum(VALUE_BITS - _exponents(np.array([largest])), 2 * VALUE_BITS))
    return np.asarray(np.where(model.integer, 1.0, scale), dtype=np.float64)


def _scaled(rows: sparse.csr_array, units: _Units) -> _Scaled:
    """Rows as whole numbers."""
    scale, largest = units.scale, units.largest
    count = rows.shape[0]
    row = np.repeat(np.arange(count), np.diff(rows.indptr))
    plain = rows.data / scale[rows.indices]
    weighted = np.abs(plain) * largest[rows.indices]
    factor = _factors(row, plain, weighted, count)
    at_most = largest[rows.indices]
    c = plain * factor[row]
    rounded = np.where(at_most > 0, np.rint(c), 0.0)

    def total(entries: Floats) -> Floats:
        return np.asarray(np.bincount(row, entries, minlength=count) * (1 + ROUNDING), dtype=np.float64)

    lost = total(np.where(at_most > 0, np.abs(rounded - c), 0.0) * at_most)
    computed = np.where(at_most > 0, np.abs(c), 0.0) * units.reach[rows.indices]
    slack = total(np.where(units.continuous[rows.indices], np.abs(c), 0.0)) / 2 + lost + ROUNDING * total(computed)
    matrix = sparse.csr_array((rounded.astype(np.int64), rows.indices, rows.indptr), shape=rows.shape, copy=True)
    matrix.eliminate_zeros()
    return _Scaled(matrix, factor, slack, (slack + lost) / factor, total(np.abs(rounded) * at_most))


def _factors(row: Indices, plain: Floats, weighted: Floats, count: int) -> Floats:
    """R for each row: the smallest that makes its coefficients whole exactly, unless that is larger than what gives the
    largest term its bits; less where the sum would be too large."""
    largest, terms, units = np.zeros(count), np.zeros(count), np.full(count, np.inf)
    np.maximum.at(largest, row, np.abs(plain))
    np.maximum.at(terms, row, weighted)
    total = np.asarray(np.bincount(row, weighted, minlength=count) * (1 + ROUNDING), dtype=np.float64)
    _check_fits(np.isfinite(total), total, largest)
    np.minimum.at(units, row, _units(plain))
    exponents = np.minimum(np.where(np.isfinite(units), -units, 0.0), TERM_BITS - _exponents(terms))
    exponents = np.minimum(exponents, np.floor(np.log2(ROW_LIMIT / np.where(total > 0, total, 1.0))))
    factor = np.exp2(np.where(largest > 0, np.minimum(exponents, MOST_BITS), 0.0))
    _check_fits((largest == 0) | (factor * largest >= 0.5), total, largest)  # below, every coefficient would become 0
    return np.asarray(factor, dtype=np.float64)


def _check_fits(fits: Flags, total: Floats, largest: Floats) -> None:
    if not bool(fits.all()):
        at = int(np.argmin(fits))
        raise UnsupportedError(
            f"expected rows that fit into 64-bit integers, got activity up to {total[at]:.3g} in row {at} with "
            f"coefficients up to {largest[at]:.3g}",
            hint="choose another solver",
        )


def _errors(model: MilpModel, rounded: Floats, loss: Floats) -> tuple[Floats, float]:
    """`IntegerModel.errors`, and by how much rows that limit defined values (margins, say) may be exceeded; by
    `rounded` X_j / S_j may leave the bounds of x_j.

    A value that rows define is a function of others that is Lipschitz by what these rows say: where each holds up to
    its loss, y is off by at most max over its rows of (loss + sum |a_j| error_j) / |a_y|. Inputs are off by rounding,
    and by what the rows among themselves (the sum of an l1 ball) lose.
    """
    errors = np.where(model.integer, 0.0, rounded)
    defined = np.zeros(len(errors), dtype=bool)
    defined[model.owners[model.owners >= 0]] = True
    row = np.repeat(np.arange(len(loss)), np.diff(model.rows.indptr))
    reads_defined = np.bincount(row, defined[model.rows.indices], minlength=len(loss)) > 0
    free = model.owners < 0
    errors = errors + np.where(defined | model.integer, 0.0, loss[free & ~reads_defined].sum())
    owned = np.flatnonzero(~free)
    order = owned[np.argsort(model.owners[owned], kind="stable")]
    owners = model.owners[order]
    for block in model.variable_blocks:
        start, stop = np.searchsorted(owners, [block.start, block.stop])
        if start < stop:
            _defined_errors(errors, model.rows[order[start:stop]], owners[start:stop], loss[order[start:stop]])
    limiting = np.flatnonzero(free & reads_defined)
    spread = abs(model.rows[limiting]) @ errors + loss[limiting]
    return errors, float(spread.max(initial=0.0))


def _defined_errors(errors: Floats, rows: sparse.csr_array, owners: Indices, loss: Floats) -> None:
    """Sets the errors of one block's variables, from the rows that define them."""
    row = np.repeat(np.arange(len(owners)), np.diff(rows.indptr))
    itself = rows.indices == owners[row]
    own = np.bincount(row, np.where(itself, np.abs(rows.data), 0.0), minlength=len(owners))
    others = np.bincount(row, np.where(itself, 0.0, np.abs(rows.data) * errors[rows.indices]), minlength=len(owners))
    read = own > 0  # rows among binaries alone, such as a choice of one, are kept exactly
    result = np.zeros(len(errors))
    np.maximum.at(result, owners[read], (others[read] + loss[read]) / own[read])
    changed = np.unique(owners[read])
    errors[changed] = result[changed]


def _nearest(x: npt.ArrayLike) -> Indices:
    return np.floor(np.asarray(x) + 0.5).astype(np.int64)


def _units(values: Floats) -> Floats:
    """The largest p for which each value is a whole multiple of 2**p; inf for 0."""
    mantissa, exponent = np.frexp(np.abs(values))
    digits = (mantissa * 2.0**53).astype(np.int64)
    zeros = _exponents((digits & -digits).astype(np.float64))
    return np.where(digits > 0, exponent - 53.0 + zeros, np.inf)


def _exponents(values: Floats) -> Floats:
    """The smallest k with value <= 2**k; 0 for 0."""
    mantissa, exponent = np.frexp(values)
    return np.where(values > 0, exponent - (mantissa == 0.5), 0).astype(np.float64)
