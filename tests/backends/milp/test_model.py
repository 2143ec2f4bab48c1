"""Models in sparse arrays: blocks, names, checks, completion."""

from __future__ import annotations

import time

import numpy as np
import pytest
from scipy import sparse

from irverify.backends.milp.model import ModelBuilder, Terms
from irverify.errors import UsageError


def test_blocks_make_one_matrix() -> None:
    builder = ModelBuilder()
    x = builder.variables("x", [-1.0, 0.0], 2.0)
    on = builder.variables("relu_3.on", 0.0, [1.0], integer=True, labels=np.array([12]))
    builder.rows(
        "r", [Terms(x, sparse.csr_array([[1.0, 2.0], [0.0, 3.0]])), Terms(np.repeat(on, 2), -4.0)], 0.0, [5.0, 6.0]
    )
    builder.rows("s", [Terms(x), Terms(x[::-1], np.array([10.0, 20.0]))], -np.inf, [7.0, 8.0])
    model = builder.build().minimize(on, [2.0], 0.5)
    assert model.rows.toarray().tolist() == [[1, 2, -4], [0, 3, -4], [1, 10, 0], [20, 1, 0]]
    assert model.row_lower.tolist() == [0, 0, -np.inf, -np.inf]
    assert model.row_upper.tolist() == [5, 6, 7, 8]
    assert (model.lower.tolist(), model.upper.tolist()) == ([-1, 0, 0], [2, 2, 1])
    assert (model.integer.tolist(), model.objective.tolist(), model.offset) == ([False, False, True], [0, 0, 2], 0.5)
    assert model.variable_names() == ["x(0)", "x(1)", "relu_3.on(12)"]
    assert model.row_names() == ["r(0)", "r(1)", "s(0)", "s(1)"]
    assert model.relaxed().is_continuous and not model.is_continuous
    assert model.violation(np.array([0.0, 1.0, 0.0])) == 3.0  # row s(0) is 10, its limit 7


def test_entries_at_one_place_are_added_up() -> None:
    builder = ModelBuilder()
    x = builder.variables("x", 0.0, [1.0])
    builder.rows("r", [Terms(x, 2.0), Terms(x, -2.0)], [0.0], 0.0)
    assert builder.build().rows.nnz == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_coefficients_must_be_finite(bad: float) -> None:
    builder = ModelBuilder()
    x = builder.variables("x", 0.0, np.ones(2))
    with pytest.raises(UsageError, match=r"finite coefficients in rows r, got (nan|inf) at element 1"):
        builder.rows("r", [Terms(x, np.array([1.0, bad]))], 0.0, np.ones(2))


@pytest.mark.parametrize(("lower", "upper"), [(1.0, 0.0), (np.nan, 1.0), (0.0, np.nan), (np.inf, np.inf)])
def test_bounds_must_be_in_order(lower: float, upper: float) -> None:
    with pytest.raises(UsageError, match="x"):
        ModelBuilder().variables("x", [lower], upper)


def test_places_must_exist() -> None:
    builder = ModelBuilder()
    x = builder.variables("x", 0.0, np.ones(2))
    with pytest.raises(UsageError, match="variables below 2"):
        builder.rows("r", [Terms(x + 1)], 0.0, np.ones(2))
    with pytest.raises(UsageError, match="1 rows"):
        builder.rows("r", [Terms(x)], [0.0], 1.0)


def test_names_stay_unique() -> None:
    builder = ModelBuilder()
    for _ in range(3):
        builder.variables("x", 0.0, [1.0])
    assert builder.build().variable_names() == ["x(0)", "x.2(0)", "x.3(0)"]


def test_complete_computes_what_is_not_given() -> None:
    builder = ModelBuilder()
    x = builder.variables("x", 0.0, np.ones(2))
    builder.variables("y", 0.0, np.ones(2), value=lambda point: 2 * point[x])
    assert builder.complete({"x": np.array([1.0, 3.0])}).tolist() == [1, 3, 2, 6]
    with pytest.raises(UsageError, match="x"):
        builder.complete({})


def test_copies_go_on_alone() -> None:
    builder = ModelBuilder()
    x = builder.variables("x", 0.0, np.ones(2))
    other = builder.copy()
    other.variables("y", 0.0, [1.0])
    other.restrict(x[:1], np.array([0.5]), np.array([0.75]))
    assert builder.build().upper.tolist() == [1, 1]
    assert other.build().upper.tolist() == [0.75, 1, 1]


def test_a_large_dense_layer_is_quick() -> None:
    weight = sparse.csr_array(np.random.default_rng(0).normal(size=(1000, 3072)))
    started = time.perf_counter()
    builder = ModelBuilder()
    x = builder.variables("x", -np.ones(3072), 1.0)
    z = builder.variables("z", -np.ones(1000), 1.0)
    builder.rows("z.eq", [Terms(x, weight), Terms(z, -1.0)], np.zeros(1000), 0.0)
    model = builder.build()
    assert model.rows.nnz == 3_073_000
    assert time.perf_counter() - started < 5.0  # 0.5 s on an idle machine
