"""Batches without examples and specifications without rows: every analysis gives results without elements."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import irverify as iv
from irverify.ir.graph import Graph, GraphBuilder
from irverify.ir.ops import Conv, Linear, MaxPool, Operator, Relu, Reshape, Tanh
from irverify.ir.types import TensorType
from irverify.passes.gap import relaxed_minimizers
from irverify.passes.singleprop import approximation_error
from irverify.pipeline import CATALOG, margins, run
from irverify.pipeline.rows import margin_rows, row_bounds, rows_run
from irverify.regions import L1, L2, Linf

BOUNDING = [name for name, entry in CATALOG.items() if entry.kind == "analysis" and name not in ("gap", "stability")]
METHODS = (*BOUNDING, "alpha{intermediate=2}", "forward{lower=zero}")
ESTIMATORS = ("dual-proj", "dual-proj{estimator=geometric}", "singleprop-zero", "singleprop-fastlin")
EXACT = ("lp", "lp-tighten", "milp-tighten")


def weight(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def dense(activation: Operator) -> Graph:
    builder = GraphBuilder()
    x = builder.input(TensorType((4,)))
    h = builder.add(activation, builder.add(Linear(weight(5, 4)), x))
    return builder.graph([builder.add(Linear(weight(3, 5)), h)])


def pooled() -> Graph:
    builder = GraphBuilder()
    x = builder.input(TensorType((1, 4, 4)))
    h = builder.add(Relu(), builder.add(Conv(weight(2, 1, 3, 3), None, (1, 1), ((1, 1), (1, 1))), x))
    h = builder.add(MaxPool((2, 2), (2, 2), ((0, 0), (0, 0)), (1, 1)), h)
    return builder.graph([builder.add(Linear(weight(3, 8)), builder.add(Reshape((8,)), h))])


GRAPHS = {"relu": dense(Relu()), "tanh": dense(Tanh()), "pool": pooled()}
SMOOTH = ("dual", *EXACT)
"""What has no rules for S-shaped functions; `dual` has none for maxima either."""


TAKEN = [
    (method, name) for method in METHODS for name in GRAPHS
    if not (name == "tanh" and method in SMOOTH) and (name, method) != ("pool", "dual")
]  # fmt: skip


def nothing(graph: Graph) -> Tensor:
    return torch.zeros(0, *graph.inputs[0].type.shape)


@pytest.mark.parametrize("ball", [Linf, L2, L1])
@pytest.mark.parametrize(("method", "name"), TAKEN)
def test_no_examples(method: str, name: str, ball: type[Linf | L2 | L1]) -> None:
    graph = GRAPHS[name]
    region = ball(nothing(graph), 0.1)
    state = run(graph, method, region)
    for node in graph:
        assert state.bounds[node.name].lower.shape == state.bounds[node.name].upper.shape == (0, *node.type.shape)
    assert margins(graph, region, torch.zeros(0, dtype=torch.long), method).shape == (0, 3)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("method", ["ibp", "crown", "crown-ibp", "fast-lin", "alpha"])
def test_no_outputs(method: str, batch: int) -> None:
    """Of a specification of nothing the constants are left."""
    builder = GraphBuilder()
    h = builder.add(Relu(), builder.add(Linear(weight(5, 4)), builder.input(TensorType((4,)))))
    graph = builder.graph([builder.add(Linear(weight(0, 5)), h)])
    constants = torch.arange(2.0 * batch).reshape(batch, 2)
    state = run(graph, method, Linf(torch.zeros(batch, 4), 0.1), spec=(torch.ones(batch, 2, 0), constants))
    assert torch.equal(state.bounds[state.graph.outputs[0]].lower, constants)


@pytest.mark.parametrize("batch", [0, 2])
@pytest.mark.parametrize(("method", "name"), TAKEN)
def test_no_rows(method: str, name: str, batch: int) -> None:
    graph = GRAPHS[name]
    region = Linf(torch.zeros(batch, *graph.inputs[0].type.shape), 0.1)
    state = run(graph, method, region, spec=(torch.zeros(batch, 0, 3), torch.zeros(batch, 0)))
    assert state.bounds["spec"].lower.shape == state.bounds["spec"].upper.shape == (batch, 0)


@pytest.mark.parametrize("method", ESTIMATORS)
def test_estimates_of_no_examples(method: str) -> None:
    graph = GRAPHS["relu"]
    region = Linf(nothing(graph), 0.1)
    assert iv.estimates(graph, region, torch.zeros(0, dtype=torch.long), method).lower.shape == (0, 3)


@pytest.mark.parametrize("name", GRAPHS)
def test_what_rests_on_bounds(name: str) -> None:
    graph = GRAPHS[name]
    region = L2(nothing(graph), 0.1, clip=(0, 1))
    rows = margin_rows(graph, [region], torch.zeros(0, dtype=torch.long))
    assert rows_run(graph, (region,), rows, "gap").timings[-1].statistics == {}
    assert row_bounds(graph, region, iv.robust(0), "crown").shape == (0, 2)
    assert relaxed_minimizers(graph, region, iv.robust(0))[0].shape == (0, 2, *graph.inputs[0].type.shape)
    assert iv.coefficients(graph, region, rows, "crown").constant.shape == (0, 3)
    state = run(graph, "crown,stability", region)
    assert approximation_error(state).absolute.shape == (0,)
    assert all(labels.counts() == (0, 0, 0) for labels in state.stability.values())


def test_no_example_says_what_is_stable() -> None:
    """What holds of all examples of none would hold of every piece at once."""
    graph = GRAPHS["relu"]
    assert len(run(graph, "eliminate-stable", Linf(nothing(graph), 0.1)).graph) == len(graph)
