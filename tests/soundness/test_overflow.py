"""Bounds that have overflowed to infinity say nothing, and nothing else either."""

from __future__ import annotations

import math

import pytest
import torch

from irverify.ir.graph import GraphBuilder
from irverify.ir.ops import Clip, MaxPool, ScaleShift
from irverify.ir.types import TensorType
from irverify.pipeline import run
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
