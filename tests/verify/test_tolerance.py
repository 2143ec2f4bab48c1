"""The margin for rounding: what float32 gets wrong, weights and regions rounded, it covers."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from irverify.errors import UnsupportedError
from irverify.ir.graph import GraphBuilder, convert
from irverify.ir.ops import Linear, Relu
from irverify.ir.types import TensorType
from irverify.pipeline import run
from irverify.pipeline.manager import fitted
from irverify.pipeline.rows import specified
from irverify.pipeline.spec import spec_operands
from irverify.regions import Box
from irverify.verify.tolerance import output_tolerance
from tests.random_graphs import AFFINE, boxes, elementwise, graphs, max_pool

KINDS = (*AFFINE, *(elementwise(Relu()),) * 4, max_pool)


@settings(max_examples=40)
@given(data=st.data(), method=st.sampled_from(["ibp", "crown-ibp", "crown", "crown-zero"]))
def test_float32_is_off_by_less_than_its_tolerance(data: st.DataObject, method: str) -> None:
    graph = data.draw(graphs(kinds=KINDS, max_nodes=6))
    region = data.draw(boxes(graph))
    out = sum(graph[name].type.size for name in graph.outputs)
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 1000)))
    rows = torch.randn(2, 3, out, generator=generator, dtype=torch.float64), torch.zeros(2, 3).double()
    exact = specified(graph, 3)
    operands = dict(zip(spec_operands(exact), rows, strict=True))
    rounded = convert(exact, torch.float32)
    try:
        lower = run(exact, method, region, operands=operands).bounds[exact.outputs[0]].lower
        coarse = run(rounded, method, fitted(rounded, region), operands=operands).bounds[exact.outputs[0]].lower
        tolerance = output_tolerance(rounded, fitted(rounded, region), operands)
    except UnsupportedError:  # an overflow
        assume(False)
    assert bool((coarse.double() - lower <= tolerance).all())


@pytest.mark.parametrize("scale", [1.0, 1e6])
def test_weights_that_cancel(scale: float) -> None:
    """y = relu(s x1 + s x2) - relu(s x1 + s x2): 0, in float32 too; intervals that are rounded outward see s."""
    builder = GraphBuilder()
    x = builder.input(TensorType((2,), torch.float64))
    hidden = builder.add(Relu(), builder.add(Linear(scale * torch.ones(2, 2).double()), x))
    graph = builder.graph([builder.add(Linear(torch.tensor([[1.0, -1.0]]).double()), hidden)])
    point = torch.full((1, 2), 0.1).double()
    rows = torch.ones(1, 1, 1).double(), torch.zeros(1, 1).double()
    exact = specified(graph, 1)
    operands = dict(zip(spec_operands(exact), rows, strict=True))
    tolerance = float(output_tolerance(exact, (Box(point, point),), operands))
    assert 1e-13 * scale < tolerance < 1e-9 * scale
