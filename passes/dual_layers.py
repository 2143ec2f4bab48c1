"""Dual layers: how nu passes through the dual of each operator, and what it adds to the objective (paper 5, sec. 3.1).

A dual layer bounds the conjugate of paper 5, eq. 5: `chi_i^*(-nu_i, nu_{i+1:k}) <= h_i(nu_{i:k})` subject to
`nu_i = g(nu_{i+1:k})`. All layers here have a linear g. Their h has a part that changes its sign with nu (the `shift`)
and one that does not (the `gap`), so that one evaluation serves c and -c:

- affine `z' = W z + b` (cor. 1, eq. 9):        `nu = W^T nu'`,   `h = nu'^T b`
- piecewise linear `z' = f(z)`, l <= z <= u:     `nu = D nu'`,     `h = middle^T nu' + radius^T |nu'|`

with the parallel lines of `irverify.passes.parallel`. For a ReLU that is cor. 2 (eq. 10, 11): there middle = radius =
-D l / 2 for unstable neurons, else 0, so that `h = -sum_j l_j (nu_j + |nu_j|) / 2 = -sum_j l_j [nu_j]_+` over these.

Batch normalisation is the affine map that it is at evaluation (footnote 1 of the paper). The layers of HardTanh,
LeakyReLU and the absolute value follow from the lines in the same way; they are derived here, not taken from the
paper's appendix.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor

from irverify.ir.ops import (
    Abs,
    Add,
    AveragePool,
    BatchNorm,
    Cast,
    Clip,
    Concat,
    ConstMatMul,
    Conv,
    ConvTranspose,
    Expand,
    Gather,
    Identity,
    LeakyRelu,
    Linear,
    LinearOp,
    MatMul,
    Mul,
    Neg,
    Operator,
    Pad,
    ReduceMean,
    ReduceSum,
    Relu,
    Reshape,
    ScaleShift,
    Slice,
    Spec,
    Sub,
    Transpose,
)
from irverify.ir.params import Param, value
from irverify.passes import dual_shapes as shapes
from irverify.passes.dual_sketch import DualSketch, derived
from irverify.passes.rules import RuleTable

Passed: TypeAlias = tuple[str, ...]
DualRule: TypeAlias = Callable[[DualSketch, Any, str], Passed]
"""`rule(sketch, op, nu')` adds the dual of the layer `sketch.node` and returns its contribution to the nu of each
operand."""
DUAL: RuleTable[DualRule] = RuleTable("dual")
DUAL.refuse(
    "no linear dual layer is known for it (ReLU, LeakyReLU, HardTanh, the absolute value and affine maps have one); "
    "crown, crown-ibp or ibp may bound it",
    Operator,
)
for _operator, _rule in (
    (Identity, shapes.identity), (Add, shapes.identity), (Sub, shapes.sub), (Neg, shapes.neg), (Cast, shapes.cast),
    (Reshape, shapes.reshape), (Transpose, shapes.transpose), (Expand, shapes.expand), (Slice, shapes.slice_),
    (Concat, shapes.concat), (Gather, shapes.gather), (Pad, shapes.pad), (ReduceSum, shapes.reduce),
    (ReduceMean, shapes.reduce),
):  # fmt: skip
    DUAL.rule(_operator)(_rule)


@DUAL.rule(Relu, LeakyRelu, Clip, Abs)
def _piecewise(sketch: DualSketch, op: Operator, nu: str) -> Passed:
    """`nu = D nu'`, `h = middle^T nu' + radius^T |nu'|` (cor. 2 for a ReLU)."""
    name, type_ = sketch.node.name, sketch.node.type
    sketch.shift.append(sketch.dot(nu, sketch.runtime(f"{name}.middle", type_)))
    sketch.gap.append(sketch.dot(sketch.add(Abs(), nu), sketch.runtime(f"{name}.radius", type_)))
    passed = sketch.pass_on(0, Mul(), nu, sketch.runtime(f"{name}.slope", type_))
    sketch.layers[passed] = name
    return (passed,)


@DUAL.rule(Linear)
def _linear(sketch: DualSketch, op: Linear, nu: str) -> Passed:
    add_offset(sketch, op, nu)
    operand = sketch.operand_type()
    if operand.rank > 1:
        return (sketch.pass_on(0, ConstMatMul(op.weight), nu),)
    product = sketch.add(ConstMatMul(op.weight), sketch.add(Reshape((1, sketch.node.type.size)), nu))
    return (sketch.pass_on(0, Reshape(operand.shape), product),)


@DUAL.rule(ConstMatMul)
def _const_matmul(sketch: DualSketch, op: ConstMatMul, nu: str) -> Passed:
    product = sketch.add(ConstMatMul(derived(op, _transposed), op.left), nu)
    return (shapes.summed_to(sketch, product),)


def _transposed(op: Operator) -> Tensor:
    assert isinstance(op, ConstMatMul)
    return value(op.weight).mT


@DUAL.rule(ScaleShift)
def _scale_shift(sketch: DualSketch, op: ScaleShift, nu: str) -> Passed:
    add_offset(sketch, op, nu)
    return (nu if op.scale is None else sketch.pass_on(0, ScaleShift(op.scale), nu),)


@DUAL.rule(BatchNorm)
def _batch_norm(sketch: DualSketch, op: BatchNorm, nu: str) -> Passed:
    add_offset(sketch, op, nu)
    shape = (-1, *(1,) * (sketch.node.type.rank - 1))

    def scale(operator: Operator) -> Tensor:
        assert isinstance(operator, BatchNorm)
        return operator.scale().reshape(shape)

    return (sketch.pass_on(0, ScaleShift(derived(op, scale)), nu),)


@DUAL.rule(Conv)
def _conv(sketch: DualSketch, op: Conv, nu: str) -> Passed:
    add_offset(sketch, op, nu)
    return (sketch.pass_on(0, _spread(sketch, op, op.weight, op.groups), nu),)


def _spread(sketch: DualSketch, op: Conv | AveragePool, weight: Param, groups: int) -> ConvTranspose:
    """The transpose of the layer's convolution with `weight`; what no window covers is filled with zeros."""
    axes = zip(
        sketch.operand_type().shape[1:], op.padding, op.stride, sketch.node.type.shape[1:], op.dilation,
        value(weight).shape[2:], strict=True,
    )  # fmt: skip
    rest = tuple(
        extent + before + after - (stride * (windows - 1) + dilation * (kernel - 1) + 1)
        for extent, (before, after), stride, windows, dilation, kernel in axes
    )
    return ConvTranspose(weight, None, op.stride, op.padding, rest, op.dilation, groups)


@DUAL.rule(ConvTranspose)
def _conv_transpose(sketch: DualSketch, op: ConvTranspose, nu: str) -> Passed:
    add_offset(sketch, op, nu)
    uncrop = tuple(
        (before, after - extra) for (before, after), extra in zip(op.padding, op.output_padding, strict=True)
    )
    return (sketch.pass_on(0, Conv(op.weight, None, op.stride, uncrop, op.dilation, op.groups), nu),)


@DUAL.rule(AveragePool)
def _average_pool(sketch: DualSketch, op: AveragePool, nu: str) -> Passed:
    """Each window's share of nu goes back to each of its elements."""
    operand = sketch.operand_type()
    channels, *extents = operand.shape
    ones = torch.ones(1, 1, *extents, dtype=operand.dtype)
    share = op.apply(ones) / op.windows.sums(ones).clamp(min=1)  # 1 / divisor; 0 where a window covers padding only
    scaled = sketch.add(ScaleShift(sketch.constant(share[0])), nu)
    weight = sketch.constant(torch.ones(channels, 1, *op.kernel, dtype=operand.dtype))
    return (sketch.pass_on(0, _spread(sketch, op, weight, channels), scaled),)


@DUAL.rule(Spec)
def _spec(sketch: DualSketch, op: Spec, nu: str) -> Passed:
    """`m = C y + d` with rows C of each example (an elided last layer is part of them): an affine map."""
    name, operand = sketch.node.name, sketch.operand_type()
    rows = sketch.node.type.shape[0]
    matrix = sketch.runtime(f"{name}.rows", operand.with_shape((rows, operand.size)))
    sketch.shift.append(sketch.dot(nu, sketch.runtime(f"{name}.offset", sketch.node.type)))
    product = sketch.add(MatMul(), sketch.add(Reshape((1, rows)), nu), matrix)
    return (sketch.pass_on(0, Reshape(operand.shape), product),)


def add_offset(sketch: DualSketch, op: LinearOp, nu: str) -> None:
    """The term `nu'^T b` of an affine map (eq. 9)."""
    type_ = sketch.node.type
    if op.offset(type_.rank) is None:
        return

    def bias(operator: Operator) -> Tensor:
        assert isinstance(operator, LinearOp)
        offset = operator.offset(type_.rank)
        assert offset is not None
        return offset.expand(type_.shape).reshape(1, -1)

    sketch.shift.append(sketch.weighted(nu, derived(op, bias)))
