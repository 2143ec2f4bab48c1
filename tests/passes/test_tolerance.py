"""The margin for rounding: what float32 gets wrong, weights and regions rounded, it covers."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from irverify.errors import UnsupportedError
from irverify.ir.graph import GraphBuilder, convert
from irverify.ir.ops import Linear, Relu
from irverify.ir.types import TensorType
from irverify.passes.tolerance import output_tolerance
from irverify.pipeline import run
from irverify.pipeline.manager import fitted
from irverify.pipeline.rows import specified
from irverify.pipeline.spec import spec_operands
from irverify.regions import Box
from tests.random_graphs import AFFINE, boxes, elementwise, graphs, max_pool
from tests.soundness.exact_nets import exact_net

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


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**20),
    scale=st.sampled_from([(-1.0, 1.0), (0.0, 3.0), (-3.0, 5.0)]),
    method=st.sampled_from(["ibp", "improved-interval", "crown", "crown-zero", "fast-lin", "dual", "alpha{steps=3}"]),
    dtype=st.sampled_from([torch.float64, torch.float32]),
)
def test_bounds_less_the_tolerance_hold_in_exact_arithmetic(
    seed: int, scale: tuple[float, float], method: str, dtype: torch.dtype
) -> None:
    net = exact_net(seed, *scale)
    graph = convert(specified(net.graph, 2), dtype)
    region = fitted(graph, net.region)
    rows = torch.tensor([[[1.0], [-1.0]]]).double(), torch.zeros(1, 2).double()
    operands = dict(zip(spec_operands(graph), rows, strict=True))
    lower = run(graph, method, region, operands=operands).bounds[graph.outputs[0]].lower
    tolerance = output_tolerance(graph, region, operands)
    least, greatest = net.output.range(0)
    for bound, margin, exact in zip(lower[0].tolist(), tolerance[0].tolist(), (least, -greatest), strict=True):
        assert Fraction(bound) - Fraction(margin) <= exact


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
