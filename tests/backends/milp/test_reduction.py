"""Substitution and cones change programs, not what they say."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from irverify.backends.milp.cones import Cones
from irverify.backends.milp.encoding import Encoding
from irverify.backends.milp.model import MilpModel, ModelBuilder, Terms
from irverify.backends.milp.process import Worker
from irverify.backends.milp.reduction import reduce
from irverify.backends.milp.tasks import Solution, SolveTask
from irverify.ir.graph import Graph
from tests.random_graphs import AFFINE, PIECEWISE, boxes, graphs, points


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    with Worker() as shared:
        yield shared


def as_it_stands(model: MilpModel, worker: Worker) -> Solution:
    """Solved without the reduction that `solve` applies."""
    worker.submit(SolveTask(model, "scip"))
    answer = worker.result(60.0)
    assert isinstance(answer, Solution)
    return answer


def chain() -> MilpModel:
    """x in [-1, 1]^2; a = x_0 + x_1 + 1; b = 2 a - x_0; c = b + a with c >= 0.5; d = 7 a, which nothing reads; min
    b."""
    builder = ModelBuilder()
    x = builder.variables("x", -1.0, np.ones(2))
    a, b, c, d = (builder.variables(name, -100.0, [100.0]) for name in "abcd")
    ones = sparse.csr_array([[1.0, 1.0]])
    builder.rows("a.eq", [Terms(x, ones), Terms(a, -1.0)], [-1.0], [-1.0], owner=a)
    builder.rows("b.eq", [Terms(a, 2.0), Terms(x[:1], -1.0), Terms(b, -1.0)], [0.0], [0.0], owner=b)
    builder.rows("c.eq", [Terms(a), Terms(b), Terms(c, -1.0)], [0.0], [0.0], owner=c)
    builder.rows("d.eq", [Terms(a, 7.0), Terms(d, -1.0)], [0.0], [0.0], owner=d)
    builder.rows("limit", [Terms(c)], [0.5], [np.inf])
    return builder.build().minimize(b, [1.0])


def test_by_hand(worker: Worker) -> None:
    model = chain()
    reduced = reduce(model)
    assert reduced.model.variable_names() == [
        "x(0)",
        "x(1)",
        "b(0)",
        "c(0)",
    ]  # b is the objective, c is read by a limit
    assert reduced.model.row_names() == ["b.eq(0)", "c.eq(0)", "limit(0)"]
    assert reduced.model.rows.toarray().tolist() == [[1, 2, -1, 0], [1, 1, 1, -1], [0, 0, 0, 1]]
    assert reduced.model.row_lower.tolist() == [-2, -1, 0.5]
    full, small = as_it_stands(model, worker), as_it_stands(reduced.model, worker)
    assert small.objective == pytest.approx(full.objective)
    assert small.x is not None
    point = reduced.expand(small.x)
    assert model.violation(point) <= 1e-6
    assert point[5] == pytest.approx(7 * point[2])


def test_what_is_asked_for_stays() -> None:
    assert reduce(chain(), np.array([2, 5])).kept.tolist() == [0, 1, 2, 3, 4, 5]


def test_dense_growth_is_refused() -> None:
    """30 readers of 3 values over 500 inputs would hold 15,000 entries instead of 1,590."""
    rng = np.random.default_rng(0)
    builder = ModelBuilder()
    x = builder.variables("x", -1.0, np.ones(500))
    z = builder.variables("z", -1e3, np.full(3, 1e3))
    y = builder.variables("y", -1e3, np.full(30, 1e3))
    builder.rows(
        "z.eq", [Terms(x, sparse.csr_array(rng.normal(size=(3, 500)))), Terms(z, -1.0)], 0.0, np.zeros(3), owner=z
    )
    builder.rows(
        "y.eq", [Terms(z, sparse.csr_array(rng.normal(size=(30, 3)))), Terms(y, -1.0)], 0.0, np.zeros(30), owner=y
    )
    builder.rows("limit", [Terms(y)], 0.0, np.full(30, np.inf))
    model = builder.build()
    assert reduce(model).model.rows.nnz == model.rows.nnz


def test_models_without_owners_are_left_alone() -> None:
    builder = ModelBuilder()
    x = builder.variables("x", 0.0, np.ones(2))
    builder.rows("r", [Terms(x, sparse.csr_array([[1.0, -1.0]]))], [0.0], [0.0])
    reduced = reduce(builder.build())
    assert reduced.kept.tolist() == [0, 1]
    assert reduced.expand(np.array([3.0, 4.0])).tolist() == [3, 4]


@settings(max_examples=60)
@given(graphs(kinds=AFFINE + PIECEWISE), st.data())
def test_reduced_programs_have_the_same_points(graph: Graph, data: st.DataObject) -> None:
    regions = data.draw(boxes(graph, batch=1))
    encoding = Encoding(graph, regions)
    for node in encoding.pending():
        encoding.add(node)
    model = encoding.builder.build()
    kept = np.concatenate([encoding.values[name].columns for name in graph.outputs])
    reduced = reduce(model, kept)
    assert np.isin(kept, reduced.kept).all()
    for inputs in points(graph, regions, count=2):
        x = encoding.builder.complete({name: part.reshape(-1).numpy() for name, part in inputs.items()})
        slack = 1e-7 * (1 + float(np.abs(x).max(initial=0.0)))
        np.testing.assert_allclose(reduced.expand(x[reduced.kept]), x, atol=slack)
        assert reduced.model.violation(x[reduced.kept]) <= slack


@settings(max_examples=60)
@given(graphs(kinds=AFFINE + PIECEWISE), st.data())
def test_cones_hold_what_variables_depend_on(graph: Graph, data: st.DataObject) -> None:
    regions = data.draw(boxes(graph, batch=1))
    encoding = Encoding(graph, regions)
    for node in encoding.pending():
        encoding.add(node)
    model = encoding.builder.build()
    cones = Cones(model)
    target = np.array([data.draw(st.integers(0, model.size[1] - 1))])
    cone, kept = cones.cut(target)
    assert target[0] in kept and set(cones.rows_of(target)) <= set(np.flatnonzero(np.isin(model.owners, kept)))
    for inputs in points(graph, regions, count=2):
        x = encoding.builder.complete({name: part.reshape(-1).numpy() for name, part in inputs.items()})
        assert cone.violation(x[kept]) <= 1e-7 * (1 + float(np.abs(x).max(initial=0.0)))


def test_cones_by_hand() -> None:
    cones = Cones(chain())
    cone, kept = cones.cut(np.array([3]))
    assert kept.tolist() == [0, 1, 2, 3, 4]  # c by the limit, which belongs to nobody
    assert cone.size == (4, 5)
    assert [group.tolist() for group in cones.groups(np.array([2, 4, 5]))] == [[2], [4], [5]]
