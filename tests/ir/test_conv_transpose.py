"""Transposed convolution: the ways it is computed, one against another."""

from __future__ import annotations

import pytest
import torch

from irverify.ir.ops import Conv
from irverify.ir.ops.scatter import CONV_TRANSPOSE, Steps, conv_transpose
from irverify.ir.types import TensorType


@pytest.mark.parametrize("out", [1, 3, 4, 6])
@pytest.mark.parametrize("extents", [(1, 1), (1, 5), (4, 3)])
@pytest.mark.parametrize(("stride", "dilation"), [((1, 1), (1, 1)), ((2, 3), (1, 1)), ((2, 1), (3, 2))])
def test_all_ways_agree(
    out: int, extents: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int]
) -> None:
    generator = torch.Generator().manual_seed(0)
    operand = torch.randn(3, 4, *extents, generator=generator, dtype=torch.float64)
    weight = torch.randn(4, out, 2, 3, generator=generator, dtype=torch.float64)
    expected = CONV_TRANSPOSE[2](operand, weight, None, stride, 0, 0, 1, dilation)
    torch.testing.assert_close(conv_transpose(operand, weight, Steps(stride, dilation, 1)), expected)


@pytest.mark.parametrize("groups", [1, 2])
def test_groups_and_one_axis(groups: int) -> None:
    operand, weight = torch.randn(3, 4, 1).double(), torch.randn(4, 2, 3).double()
    expected = CONV_TRANSPOSE[1](operand, weight, None, (2,), 0, 0, groups, (1,))
    torch.testing.assert_close(conv_transpose(operand, weight, Steps((2,), (1,), groups)), expected)


@pytest.mark.parametrize("batch", [0, 5])
@pytest.mark.parametrize("padding", [((1, 0), (-1, 2)), ((0, 0), (3, 3))])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("differentiable", [False, True])
def test_adjoints_of_convolutions(
    batch: int, padding: tuple[tuple[int, int], ...], groups: int, differentiable: bool
) -> None:
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(6, 4 // groups, 3, 2, generator=generator, dtype=torch.float64)
    op = Conv(weight, None, (2, 1), padding, (1, 2), groups)
    type_ = TensorType((4, 7, 6), torch.float64)
    x = torch.randn(batch, *type_.shape, generator=generator, dtype=torch.float64)
    y = torch.randn(batch, *op.infer(type_).shape, generator=generator, dtype=torch.float64)
    (adjoint,) = op.adjoint(y.requires_grad_(differentiable), (type_,))
    assert adjoint.shape == x.shape
    torch.testing.assert_close((adjoint * x).sum(), (op.apply(x) * y).sum())
