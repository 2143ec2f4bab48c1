"""Bounds that have overflowed to infinity say nothing, and nothing else either."""

from __future__ import annotations

import math

import pytest
import torch

from irverify.errors import UnsupportedError
from irverify.ir.graph import GraphBuilder
from irverify.ir.ops import Clip, Linear, MaxPool, ScaleShift
from irverify.ir.types import TensorType
from irverify.pipeline import margins, run
from irverify.regions import Box


@pytest.mark.parametrize("analysis", ["crown", "crown-ibp", "improved-interval", "forward", "alpha"])
@pytest.mark.parametrize("ceiling", [math.inf, -5.0])
def test_a_maximum_of_elements_without_a_lower_bound_is_no_padding(analysis: str, ceiling: float) -> None:
    huge = torch.full((1, 1, 2, 2), 1e200, dtype=torch.float64)
    builder = GraphBuilder()
    x = builder.input(TensorType((1, 2, 2), torch.float64))
    wide = builder.add(Clip(-math.inf, ceiling), builder.add(ScaleShift(huge[0]), x))
    pooled = builder.add(MaxPool((2, 2), (2, 2), ((1, 1), (1, 1)), (1, 1)), wide)
    bounds = run(builder.graph([pooled]), analysis, Box(-huge, huge)).bounds[pooled]
    assert bool((bounds.lower == -math.inf).all())
    assert bool((bounds.upper == ceiling).all())


@pytest.mark.parametrize("method", ["ibp", "crown", "improved-interval", "forward", "alpha", "dual"])
def test_a_sum_that_overflows_on_the_way_is_no_bound(method: str) -> None:
    """The margin is -5, but 1.5e308 + 1.5e308 comes first."""
    weight = torch.tensor([[1.5e308, 1.5e308, -1.5e308, -1.5e308], [0, 0, 0, 0]], dtype=torch.float64)
    builder = GraphBuilder()
    x = builder.input(TensorType((4,), torch.float64))
    graph = builder.graph([builder.add(Linear(weight, torch.tensor([-5.0, 0.0]).double()), x)])
    one = torch.ones(1, 4).double()
    with pytest.raises(UnsupportedError, match="overflow"):
        margins(graph, Box(one, one), 0, method)
