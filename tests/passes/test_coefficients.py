"""Linear bounds over the inputs."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from irverify.errors import PropertyError
from irverify.ir.ops import LeakyRelu, Relu
from irverify.ir.text import parse_graph
from irverify.passes.coefficients import coefficients
from irverify.pipeline import margins
from irverify.regions import Box
from tests.random_graphs import AFFINE, boxes, elementwise, graphs, points

KINDS = (*AFFINE, *(elementwise(Relu()),) * 4, elementwise(LeakyRelu(0.1)))
GRAPH = parse_graph("""
graph "test" {
  %x: f64[2] = input()
  %z = linear(%x) {weight=tensor([[1, 1], [1, -1]]), bias=tensor([0, 0])}
  %r = relu(%z)
  %y = linear(%r) {weight=tensor([[1, -1]]), bias=tensor([1])}
  return %y
}
""")
REGION = Box(torch.tensor([[1.0, -1.0]]).double(), torch.tensor([[2.0, 1.0]]).double())
ROWS = (torch.ones(1, 1, 1).double(), torch.zeros(1, 1).double())


def test_by_hand() -> None:
    """z = (x1 + x2, x1 - x2), both in [0, 3] and active: y = 2 x2 + 1. With x1 from 0: z in [-1, 3] and y >= 0.75 a
    lower line of r1 (slope 1 under crown) minus the upper line 3/4 (z2 + 1) of r2."""
    found = coefficients(GRAPH, REGION, ROWS)
    assert found.inputs["x"].tolist() == [[[0.0, 2.0]]]
    assert found.constant.tolist() == [[1.0]]
    wider = Box(torch.tensor([[0.0, -1.0]]).double(), torch.tensor([[2.0, 1.0]]).double())
    found = coefficients(GRAPH, wider, ROWS)
    assert found.inputs["x"].tolist() == [[[0.25, 1.75]]]
    assert found.constant.tolist() == [[0.25]]
    found = coefficients(GRAPH, wider, ROWS, "crown-zero")
    assert found.inputs["x"].tolist() == [[[-0.75, 0.75]]]


def test_rows_that_do_not_fit() -> None:
    with pytest.raises(PropertyError, match=r"expected rows C \[batch, rows, 1\]"):
        coefficients(GRAPH, REGION, (torch.ones(1, 1, 2).double(), torch.zeros(1, 1).double()))


@settings(max_examples=40)
@given(data=st.data(), method=st.sampled_from(["crown", "crown-ibp", "fast-lin", "crown-zero", "ibp"]))
def test_they_hold_at_sampled_points(method: str, data: st.DataObject) -> None:
    graph = data.draw(graphs(kinds=KINDS, max_nodes=6))
    regions = data.draw(boxes(graph))
    batch, out = 2, sum(graph[name].type.size for name in graph.outputs)
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 1000)))
    rows = torch.randn(batch, 2, out, generator=generator, dtype=torch.float64)
    found = coefficients(graph, regions, (rows, torch.zeros(batch, 2).double()), method)
    for inputs in points(graph, regions, count=4):
        values = graph.values(inputs)
        y = torch.cat([values[name].reshape(batch, -1) for name in graph.outputs], dim=1)
        exact = torch.einsum("bro,bo->br", rows, y)
        bound = found.constant.clone()
        for name, matrix in found.inputs.items():
            bound += torch.einsum("bri,bi->br", matrix.flatten(2), inputs[name].reshape(batch, -1))
        scale = max(1.0, float(exact.abs().max()), float(bound.abs().max()))
        assert bool((bound <= exact + 1e-9 * scale).all())


def test_labels_give_the_rows_of_margins() -> None:
    graph = parse_graph('graph "t" {\n%x: f64[2] = input()\n%y = relu(%x)\nreturn %y\n}')
    region = Box(torch.tensor([[-1.0, -1.0]]).double(), torch.tensor([[3.0, 2.0]]).double())
    found = coefficients(graph, region, 0)
    lower = region.lower_of(found.inputs["x"]) + found.constant
    assert bool((lower <= margins(graph, region, 0, "crown") + 1e-12).all())
