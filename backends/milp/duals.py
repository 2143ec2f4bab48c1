"""Rigorous bounds of linear programs from approximate duals."""

from __future__ import annotations

import numpy as np

from irverify.backends.milp.model import Floats, MilpModel

UNIT = float(np.finfo(np.float64).eps) / 2


class DualBound:
    """Lower bounds of `min c x` over the rows and bounds of a model, without its integrality, for any row duals.

    Weak duality for any y (Neumaier and Shcherbina 2004): with the reduced costs r = c - A^T y,

        c x = y (A x) + r x >= sum_i min(y_i l_i, y_i u_i) + sum_j min(r_j lower_j, r_j upper_j).

    An infinite side that would be needed sets its y_i to 0, or makes the bound -inf for an r_j. Sums are corrected by
    an a-priori bound of their rounding errors, gamma_n = n u / (1 - n u) times the sum of magnitudes (Higham 2002,
    sec. 3.1), so that the result holds for the model in real arithmetic, however inaccurate y is.
    """

    def __init__(self, model: MilpModel) -> None:
        self.model = model
        self._transposed = model.rows.T.tocsr()
        self._magnitude = abs(self._transposed)
        self._gamma = _gamma(np.diff(self._transposed.indptr) + 2)
        self._no_lower, self._no_upper = ~np.isfinite(model.row_lower), ~np.isfinite(model.row_upper)
        self._row_lower = np.where(self._no_lower, 0.0, model.row_lower)
        self._row_upper = np.where(self._no_upper, 0.0, model.row_upper)

    def lower(self, objective: Floats, duals: Floats) -> float:
        """A lower bound of `objective . x` for row duals y, where `y_i > 0` presses on the lower side of row i."""
        y = np.where(np.isfinite(duals), duals, 0.0)
        y = np.where((y > 0) & self._no_lower | (y < 0) & self._no_upper, 0.0, y)
        row_terms = np.where(y > 0, y * self._row_lower, y * self._row_upper)
        reduced = objective - self._transposed @ y
        error = self._gamma * (np.abs(objective) + self._magnitude @ np.abs(y))
        low, high = reduced - error, reduced + error
        with np.errstate(invalid="ignore"):  # 0 times infinity: a variable without a bound that does not matter
            ends = np.stack(
                [low * self.model.lower, low * self.model.upper, high * self.model.lower, high * self.model.upper]
            )
        column_terms = np.where(np.isnan(ends), 0.0, ends).min(axis=0)
        total = float(row_terms.sum() + column_terms.sum())
        if not np.isfinite(total):
            return -np.inf
        size = float(np.abs(row_terms).sum() + np.abs(column_terms).sum())
        return total - 2 * float(_gamma(len(row_terms) + len(column_terms) + 4)) * size


def _gamma(count: np.ndarray | int) -> np.ndarray | float:
    return count * UNIT / (1 - count * UNIT)
