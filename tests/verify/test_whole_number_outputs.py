"""Outputs that hold whole numbers, such as a shape: constants, as the frontends take no others."""

from __future__ import annotations

import pytest
import torch

from irverify.errors import UnsupportedError
from irverify.ir.graph import Graph, GraphBuilder
from irverify.ir.ops import Constant
from irverify.ir.types import TensorType
from irverify.properties import linear
from irverify.regions import Box
from irverify.verify import verify


def shape_like(number: int) -> Graph:
    builder = GraphBuilder()
    builder.input(TensorType((3,)))
    return builder.graph([builder.add(Constant(torch.tensor([number])))])


def test_verdicts() -> None:
    box = Box(torch.zeros(1, 3), torch.ones(1, 3))
    assert verify(shape_like(3), box, linear([[1.0]], [-2.5])).verdict == "verified"  # 3 - 2.5 >= 0
    assert verify(shape_like(3), box, linear([[1.0]], [-3.5])).verdict == "falsified"


def test_numbers_that_the_element_type_cannot_hold() -> None:
    box = Box(torch.zeros(1, 3), torch.ones(1, 3))
    with pytest.raises(UnsupportedError, match="cannot"):
        verify(shape_like(2**24 + 1), box, linear([[1.0]], [0.0]))
