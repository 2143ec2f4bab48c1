"""The sparse matrix of every linear operator is what the operator computes."""

from __future__ import annotations

import math

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from irverify.backends.milp.linear import MOVES, matrices, offset, sources
from irverify.ir.graph import Graph
from irverify.ir.ops import Conv, ConvTranspose, LinearOp
from irverify.ir.types import TensorType
from tests.random_graphs import AFFINE, graphs


@given(graphs(kinds=AFFINE), st.integers(0, 2**31))
def test_matrices_agree_with_evaluation(graph: Graph, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for node in graph:
        if isinstance(node.op, LinearOp):
            check(node.op, graph.operand_types(node), node.type, generator)


def check(op: LinearOp, types: tuple[TensorType, ...], result: TensorType, generator: torch.Generator) -> None:
    inputs = [torch.randn(1, *type_.shape, generator=generator, dtype=torch.float64) for type_ in types]
    expected = op.evaluate(*inputs).reshape(-1).numpy()
    flat = [part.reshape(-1).numpy() for part in inputs]
    if isinstance(op, MOVES):
        source = sources(op, types)
        got = np.where(source >= 0, np.concatenate(flat)[source], 0.0)
    else:
        got = offset(op, result)
        for matrix, part in zip(matrices(op, types, result), flat, strict=True):
            got = got + (matrix @ part if isinstance(matrix, sparse.sparray) else matrix * part)
    np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-12)


def test_convolution_with_everything() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(6, 2, 3, 2, generator=generator, dtype=torch.float64)
    bias = torch.randn(6, generator=generator, dtype=torch.float64)
    op = Conv(weight, bias, (2, 1), ((1, 2), (0, 3)), (1, 2), groups=2)
    operand = TensorType((4, 7, 6), torch.float64)
    check(op, (operand,), op.infer(operand), generator)


def test_transposed_convolution_with_everything() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(4, 3, 3, 2, generator=generator, dtype=torch.float64)
    op = ConvTranspose(weight, None, (2, 3), ((1, 0), (0, 1)), (1, 0), (1, 2), groups=2)
    operand = TensorType((4, 3, 2), torch.float64)
    check(op, (operand,), op.infer(operand), generator)


def test_one_and_three_axes() -> None:
    generator = torch.Generator().manual_seed(0)
    for axes in (1, 3):
        weight = torch.randn(2, 3, *(2,) * axes, generator=generator, dtype=torch.float64)
        op = Conv(weight, None, (2,) * axes, ((1, 1),) * axes, (1,) * axes)
        operand = TensorType((3, *(4,) * axes), torch.float64)
        assert math.prod(op.infer(operand).shape) > 0
        check(op, (operand,), op.infer(operand), generator)
