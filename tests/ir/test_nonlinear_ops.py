"""Elementwise operators and operators of several values: evaluation, and what analyses rely on about each."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from irverify.errors import ShapeError
from irverify.ir.ops import (
    OPERATORS,
    Abs,
    Binary,
    Cast,
    Clip,
    Constant,
    ConstMatMul,
    Conv,
    ConvTranspose,
    Cos,
    Div,
    Elementwise,
    Exp,
    Expand,
    Gather,
    LeakyRelu,
    Linear,
    MatMul,
    Maximum,
    MaxPool,
    Minimum,
    Mul,
    Operator,
    Pad,
    Pow,
    ReduceSum,
    Relu,
    Reshape,
    ScaleShift,
    Sigmoid,
    Sin,
    Slice,
    Softmax,
    Spec,
    Step,
    Sub,
    Tanh,
    Transpose,
    Trunc,
)
from irverify.ir.ops.pooling import AveragePool
from irverify.ir.types import TensorType
from tests.ir.linear_cases import f64

ELEMENTWISE: list[tuple[Elementwise, Callable[[float], float]]] = [
    (Relu(), lambda x: max(x, 0.0)),
    (LeakyRelu(), lambda x: x if x > 0 else 0.01 * x),
    (LeakyRelu(2.0), lambda x: x if x > 0 else 2.0 * x),
    (LeakyRelu(0.0), lambda x: max(x, 0.0)),
    (Clip(), lambda x: min(max(x, -1.0), 1.0)),
    (Clip(-0.5, math.inf), lambda x: max(x, -0.5)),
    (Clip(-math.inf, 2), lambda x: min(x, 2.0)),
    (Clip(0.5, 0.5), lambda x: 0.5),
    (Abs(), abs),
    (Sigmoid(), lambda x: 1 / (1 + math.exp(-x))),
    (Tanh(), math.tanh),
    (Exp(), math.exp),
    (Pow(2), lambda x: x * x),
    (Pow(3.0), lambda x: x * x * x),
    (Pow(0.0), lambda x: 1.0),
    (Pow(-2.0), lambda x: math.inf if x == 0 else 1 / (x * x)),
    (Pow(0.5), lambda x: math.nan if x < 0 else math.sqrt(x)),
    (Sin(), math.sin),
    (Cos(), math.cos),
    (Step(), lambda x: float(x > 0)),
    (Step(inclusive=True), lambda x: float(x >= 0)),
    (Trunc(), lambda x: float(math.trunc(x))),
]
POINTS = torch.linspace(-6, 6, 601, dtype=torch.float64)
elementwise = pytest.mark.parametrize(("op", "function"), ELEMENTWISE, ids=[str(op) for op, _ in ELEMENTWISE])


def test_every_elementwise_operator_is_tested() -> None:
    expected = {operator for operator in OPERATORS.values() if issubclass(operator, Elementwise)}
    assert {type(op) for op, _ in ELEMENTWISE} == expected


@elementwise
def test_values(op: Elementwise, function: Callable[[float], float]) -> None:
    expected = torch.tensor([function(x) for x in POINTS.tolist()], dtype=torch.float64)
    torch.testing.assert_close(op.evaluate(POINTS), expected, equal_nan=True)
    assert op.infer(f64(2, 3)) == f64(2, 3)


@elementwise
def test_claims(op: Elementwise, function: Callable[[float], float]) -> None:
    """Monotone, convex and piecewise linear as it says."""
    y = op.evaluate(POINTS)
    steps = y.diff()
    if op.monotone == "increasing":
        assert bool((steps >= 0).all())
    sign = {"convex": 1.0, "concave": -1.0, "none": 0.0}[op.curvature]
    assert sign == 0.0 or bool((sign * steps.diff() >= -1e-9).all())
    pieces = op.pieces()
    if pieces is not None:
        assert len(pieces.slopes) == len(pieces.breakpoints) + 1
        assert list(pieces.breakpoints) == sorted(pieces.breakpoints)
        ends = [-math.inf, *pieces.breakpoints, math.inf]
        inside = (POINTS[:-1, None] >= torch.tensor(ends[:-1])) & (POINTS[1:, None] <= torch.tensor(ends[1:]))
        slope = steps / POINTS.diff()
        for place, expected in enumerate(pieces.slopes):
            found = slope[inside[:, place]]
            torch.testing.assert_close(found, torch.full_like(found, expected))


@pytest.mark.parametrize(
    ("op", "function"),
    [
        (Mul(), torch.mul),
        (Div(), torch.div),
        (Maximum(), torch.maximum),
        (Minimum(), torch.minimum),
    ],
)
def test_operators_of_two_values(op: Binary, function: Callable[[Tensor, Tensor], Tensor]) -> None:
    first, second = torch.randn(5, 2, 3), torch.rand(5, 2, 3) + 0.1
    assert torch.equal(op.evaluate(first, second), function(first, second))
    assert op.infer(TensorType((2, 3)), TensorType((2, 3))) == TensorType((2, 3))


def test_matmul() -> None:
    for ours, theirs in (((2, 3), (3, 4)), ((5, 2, 3), (1, 3, 4)), ((1, 2, 2, 3), (6, 1, 3, 1))):
        first, second = torch.randn(7, *ours), torch.randn(7, *theirs)
        expected = torch.stack([a @ b for a, b in zip(first, second, strict=True)])
        torch.testing.assert_close(MatMul().evaluate(first, second), expected)
        assert MatMul().infer(TensorType(ours), TensorType(theirs)).shape == expected.shape[1:]


@pytest.mark.parametrize("axis", [0, 1, -1, -2])
def test_softmax(axis: int) -> None:
    x = torch.randn(4, 2, 3)
    expected = torch.stack([example.softmax(axis) for example in x])
    assert torch.equal(Softmax(axis).evaluate(x), expected)


@st.composite
def max_pools(draw: st.DrawFn) -> tuple[MaxPool, tuple[int, ...]]:
    axes = draw(st.integers(1, 2))
    kernel = tuple(draw(st.integers(1, 3)) for _ in range(axes))
    padding = tuple((draw(st.integers(0, width - 1)), draw(st.integers(0, width - 1))) for width in kernel)
    stride = tuple(draw(st.integers(1, 3)) for _ in range(axes))
    return MaxPool(kernel, stride, padding, (1,) * axes), tuple(width + draw(st.integers(0, 3)) for width in kernel)


@given(max_pools())
def test_max_pool_by_hand(case: tuple[MaxPool, tuple[int, ...]]) -> None:
    op, extents = case
    x = torch.randn(2, 3, *extents)
    result = op.evaluate(x)
    assert op.infer(TensorType((3, *extents))).shape == result.shape[1:]
    for place in product(*map(range, result.shape[2:])):
        spots = [
            [spot for spot in range(p * stride - before, p * stride - before + width) if 0 <= spot < extent]
            for p, stride, (before, _), width, extent in zip(
                place, op.stride, op.padding, op.kernel, extents, strict=True
            )
        ]
        window = x
        for axis, chosen in enumerate(spots, 2):
            window = window.index_select(axis, torch.tensor(chosen))
        found = result
        for index in place:
            found = found[:, :, index]
        assert torch.equal(found, window.reshape(2, 3, -1).amax(-1))


def test_spec() -> None:
    y, rows, offset = torch.randn(4, 3), torch.randn(4, 2, 5), torch.randn(4, 2)
    weight, bias = torch.randn(5, 3), torch.randn(5)
    op = Spec(weight, bias)
    expected = torch.stack([c @ (weight @ v + bias) + d for v, c, d in zip(y, rows, offset, strict=True)])
    torch.testing.assert_close(op.evaluate(y, rows, offset), expected)
    assert op.infer(TensorType((3,)), TensorType((2, 5)), TensorType((2,))) == TensorType((2,))
    plain = Spec()
    expected = torch.einsum("bso,bo->bs", rows[:, :, :3], y) + offset
    torch.testing.assert_close(plain.evaluate(y, rows[:, :, :3], offset), expected)


ONE = torch.ones(1)
WRONG: list[tuple[Operator, list[tuple[int, ...]], str]] = [
    (Linear(torch.ones(2, 3)), [(4,)], r"a last axis of 3, got f32\[4\]"),
    (Linear(torch.ones(2, 3)), [()], "a last axis of 3"),
    (Linear(torch.ones(2)), [(2,)], r"a weight matrix \[out, in\], got \(2,\)"),
    (Linear(torch.ones(2, 3), torch.ones(3)), [(3,)], r"a bias of shape \(2,\), got \(3,\)"),
    (ConstMatMul(torch.ones(2, 3)), [(3,)], "matrices of rank 2 or more"),
    (ConstMatMul(torch.ones(2, 3)), [(3, 3)], "inner extents that agree"),
    (ConstMatMul(torch.ones(2, 2, 3)), [(3, 4, 2)], "leading axes that broadcast"),
    (ScaleShift(torch.ones(2)), [(3,)], r"a constant that broadcasts to f32\[3\], got \(2,\)"),
    (ScaleShift(torch.ones(2, 3)), [(3,)], "a constant that broadcasts"),
    (Sub(), [(2,), (3,)], r"operands of one type, got f32\[2\], f32\[3\]"),
    (Mul(), [(2,), (3,)], "operands of one type"),
    (MatMul(), [(2, 3), (4, 2)], "inner extents that agree"),
    (MatMul(), [(3,), (3, 2)], "one rank >= 2"),
    (MatMul(), [(2, 2, 3), (3, 3, 2)], "leading axes that broadcast"),
    (Conv(torch.ones(2, 1, 3, 3)), [(2, 5, 5)], r"\[1, \*spatial\] with 2 spatial axes"),
    (Conv(torch.ones(2, 1, 3, 3)), [(1, 2, 5)], "a kernel that fits"),
    (Conv(torch.ones(2, 1, 3, 3), stride=(0, 1)), [(1, 5, 5)], "entries >= 1 in stride"),
    (Conv(torch.ones(2, 1, 3, 3), stride=(1,)), [(1, 5, 5)], "2 entries in stride"),
    (Conv(torch.ones(3, 1, 3, 3), groups=2), [(2, 5, 5)], "channels in 2 groups"),
    (Conv(torch.ones(2, 1)), [(1, 5)], "1 to 3 spatial axes"),
    (ConvTranspose(torch.ones(2, 1, 1, 1), padding=((1, 0), (0, 0))), [(2, 1, 1)], "the padding does not crop away"),
    (ConvTranspose(torch.ones(2, 1, 1, 1), output_padding=(-1, 0)), [(2, 1, 1)], "entries >= 0 in output_padding"),
    (MaxPool((3,), (1,), ((0, 0),), (1,)), [(1, 2)], "windows that fit"),
    (MaxPool((1,), (1,), ((1, 0),), (1,)), [(1, 2)], "windows that each cover an element"),
    (AveragePool((1,), (1,), ((1, 0),), ((0, 0),), (1,)), [(1, 2)], "windows that each cover a counted element"),
    (Reshape((3,)), [(2,)], "a shape with 2 elements"),
    (Reshape((-1, -2)), [(2,)], "a shape with 2 elements"),
    (Transpose((0, 0)), [(2, 3)], "a permutation of the 2 axes"),
    (Expand((3,)), [(2,)], r"a value that broadcasts to \(3,\)"),
    (Expand((3,)), [(1, 3)], r"a value that broadcasts to \(3,\)"),
    (Slice((0,), (3,), (1,)), [(2,)], r"a range within 0..2"),
    (Slice((0,), (2,), (0,)), [(2,)], r"a range within 0..2"),
    (Slice((), (), ()), [(2,)], "a range for each axis"),
    (Gather(torch.tensor([2]), 0), [(2,)], r"indices in \[0, 2\)"),
    (Gather(torch.tensor([-1]), 0), [(2,)], r"indices in \[0, 2\)"),
    (Gather(torch.tensor([0.0]), 0), [(2,)], "a vector of whole indices"),
    (Gather(torch.tensor([0]), 1), [(2,)], r"an axis in \[-1, 1\), got 1"),
    (Pad(((-1, -1),)), [(2,)], "padding that leaves something"),
    (Pad(()), [(2,)], "padding for 1 axes"),
    (ReduceSum((0, -1)), [(2,)], "distinct axes"),
    (Softmax(2), [(2,)], r"an axis in \[-1, 1\)"),
    (LeakyRelu(-0.1), [(2,)], "a finite slope >= 0"),
    (Clip(1.0, 0.0), [(2,)], "clip limits in order"),
    (Pow(math.nan), [(2,)], "a finite exponent"),
    (Cast(torch.int64), [(2,)], "a cast between float types"),
    (Spec(), [(3,), (2, 4), (2,)], "rows over 3 outputs"),
]


@pytest.mark.parametrize(("op", "shapes", "message"), WRONG, ids=lambda entry: str(entry)[:20])
def test_shape_errors(op: Operator, shapes: list[tuple[int, ...]], message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        op.infer(*(TensorType(shape) for shape in shapes))


def test_constant() -> None:
    tensor = torch.randn(2, 3)
    assert Constant(tensor).infer() == TensorType((2, 3))
    assert torch.equal(Constant(tensor).evaluate(), tensor[None])


def test_operators_have_their_own_words() -> None:
    assert all(word == operator.name for word, operator in OPERATORS.items())
    assert all(Binary.arity == 2 == operator.arity for operator in OPERATORS.values() if issubclass(operator, Binary))
