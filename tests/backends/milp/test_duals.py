"""Bounds from duals hold for any duals, and are tight for optimal ones."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse
from scipy.optimize import linprog

from irverify.backends.milp.duals import DualBound
from irverify.backends.milp.model import Floats, MilpModel, ModelBuilder, Terms


def problem(seed: int) -> tuple[MilpModel, Floats]:
    """A feasible program with equalities, one-sided and ranged rows, and a random objective."""
    rng = np.random.default_rng(seed)
    n, m = int(rng.integers(1, 7)), int(rng.integers(1, 6))
    matrix = rng.normal(size=(m, n)) * (rng.random((m, n)) < 0.7)
    lower = rng.normal(size=n)
    upper = lower + rng.random(n) * (rng.random(n) < 0.8)
    activity = matrix @ (lower + (upper - lower) * rng.random(n))
    row_lower = np.where(rng.random(m) < 0.4, -np.inf, activity - rng.random(m))
    row_upper = np.where(rng.random(m) < 0.4, np.inf, activity + rng.random(m))
    equal = rng.random(m) < 0.2
    row_lower[equal] = row_upper[equal] = activity[equal]
    builder = ModelBuilder()
    x = builder.variables("x", lower, upper)
    builder.rows("r", [Terms(x, sparse.csr_array(matrix))], row_lower, row_upper)
    return builder.build(), rng.normal(size=n)


@given(st.integers(0, 2**31), st.floats(0.0, 100.0))
def test_any_duals_give_a_bound(seed: int, scale: float) -> None:
    model, objective = problem(seed)
    duals = np.random.default_rng(seed + 1).normal(size=len(model.row_lower)) * scale
    best = minimum(model, objective)
    bound = DualBound(model).lower(objective, duals)
    assert bound <= best + 1e-9 * (1 + abs(best))


@given(st.integers(0, 2**31))
def test_optimal_duals_give_the_optimum(seed: int) -> None:
    model, objective = problem(seed)
    best, duals = optimum(model, objective)
    bound = DualBound(model).lower(objective, duals)
    assert best - 1e-7 * (1 + abs(best)) <= bound <= best + 1e-9 * (1 + abs(best))


def test_rounding_is_covered() -> None:
    """A bound that plain floating point gets wrong: 0.1 * 3 with coefficients whose sum cancels."""
    builder = ModelBuilder()
    x = builder.variables("x", 0.1, np.full(3, 0.1))
    builder.rows("r", [Terms(x, sparse.csr_array([[1e16, 1.0, -1e16]]))], -np.inf, [np.inf])
    objective = np.array([1e16, 1.0, -1e16])
    exact = sum(Fraction(c) * Fraction(0.1) for c in objective.tolist())
    for dual in (0.0, 1.0, -1.0):
        assert Fraction(DualBound(builder.build()).lower(objective, np.array([dual]))) <= exact


def test_infinite_sides_and_bad_duals() -> None:
    builder = ModelBuilder()
    x = builder.variables("x", [0.0, -np.inf], [1.0, np.inf])
    builder.rows("r", [Terms(x[:1])], [0.25], np.inf)
    bound = DualBound(builder.build())
    first, second = np.array([1.0, 0.0]), np.array([0.0, 1.0])
    assert 0.25 - 1e-12 < bound.lower(first, np.array([1.0])) <= 0.25
    assert -1e-12 < bound.lower(first, np.array([-5.0])) <= 0.0  # an upper side that is not there
    assert -1e-12 < bound.lower(first, np.array([np.nan])) <= 0.0
    assert bound.lower(second, np.array([0.0])) == -np.inf


def minimum(model: MilpModel, objective: Floats) -> float:
    return optimum(model, objective)[0]


def optimum(model: MilpModel, objective: Floats) -> tuple[float, Floats]:
    """The optimum by SciPy, and its row duals."""
    has_lower, has_upper = np.isfinite(model.row_lower), np.isfinite(model.row_upper)
    dense = model.rows.toarray()
    result = linprog(
        objective,
        A_ub=np.vstack([dense[has_upper], -dense[has_lower]]),
        b_ub=np.concatenate([model.row_upper[has_upper], -model.row_lower[has_lower]]),
        bounds=np.stack([model.lower, model.upper], axis=1),
    )
    assert result.status == 0
    duals = np.zeros(len(model.row_lower))
    count = int(has_upper.sum())
    duals[has_upper] += result.ineqlin.marginals[:count]
    duals[has_lower] -= result.ineqlin.marginals[count:]
    return float(result.fun), duals
