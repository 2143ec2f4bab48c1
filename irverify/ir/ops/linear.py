"""Dense affine maps, elementwise affine maps, sums of values, batch normalisation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from irverify.errors import ShapeError
from irverify.ir.ops.base import LinearOp, broadcast, expect_shape, param_value
from irverify.ir.params import Param, value
from irverify.ir.recording import recorded
from irverify.ir.types import TensorType

MAGNITUDES = 2**18
"""So many bytes of |W| are made at once, on a CPU: they stay in a cache."""


@dataclass(frozen=True, eq=False)
class Linear(LinearOp):
    """`y = x W^T + b` on the last axis: x `[..., in]`, weight `[out, in]`, bias `[out]`."""

    name = "linear"
    weight: Param
    bias: Param | None = None

    def infer(self, *inputs: TensorType) -> TensorType:
        (operand,) = inputs
        out_features, in_features = _matrix_shape(value(self.weight))
        fits = operand.rank >= 1 and operand.shape[-1] == in_features
        expect_shape(fits, f"a last axis of {in_features}", operand)
        bias = param_value(self.bias)
        if bias is not None:
            expect_shape(tuple(bias.shape) == (out_features,), f"a bias of shape ({out_features},)", tuple(bias.shape))
        return operand.with_shape((*operand.shape[:-1], out_features))

    def apply(self, *inputs: Tensor) -> Tensor:
        return functional.linear(inputs[0], value(self.weight))

    def offset(self, rank: int) -> Tensor | None:
        return param_value(self.bias)

    def evaluate(self, *inputs: Tensor) -> Tensor:
        return functional.linear(inputs[0], value(self.weight), param_value(self.bias))

    def adjoint(self, gradient: Tensor, inputs: tuple[TensorType, ...]) -> tuple[Tensor, ...]:
        return (gradient @ value(self.weight),)

    def apply_abs(self, *inputs: Tensor) -> Tensor:
        weight = value(self.weight)
        count = max(1, MAGNITUDES // max(1, weight[0].numel() * weight.element_size())) if len(weight) else 1
        if count >= len(weight) or not weight.is_cpu or recorded(inputs[0], weight):
            return functional.linear(inputs[0], weight.abs())
        return torch.cat([functional.linear(inputs[0], part.abs()) for part in weight.split(count)], -1)


@dataclass(frozen=True, eq=False)
class ConstMatMul(LinearOp):
    """A matrix product with a constant that may have axes of its own: `y = W x` (left) or `y = x W` (right).

    The leading axes broadcast as in `torch.matmul`. Both operands have rank >= 2 (without the batch axis).
    """

    name = "const_matmul"
    weight: Param
    left: bool = False

    def infer(self, *inputs: TensorType) -> TensorType:
        (operand,) = inputs
        weight = value(self.weight)
        expect_shape(operand.rank >= 2 and weight.ndim >= 2, "matrices of rank 2 or more", operand)
        first, second = (tuple(weight.shape), operand.shape) if self.left else (operand.shape, tuple(weight.shape))
        expect_shape(first[-1] == second[-2], f"inner extents that agree in {first} x {second}", operand)
        lead = broadcast(first[:-2], second[:-2])
        if lead is None:
            raise ShapeError(f"expected leading axes that broadcast in {first} x {second}, got {operand}")
        return operand.with_shape((*lead, first[-2], second[-1]))

    def _product(self, weight: Tensor, operand: Tensor) -> Tensor:
        # An operand of lower rank than the weight gets its missing axes after the batch axis, not before it.
        missing = weight.ndim - (operand.ndim - 1)
        if missing > 0:
            operand = operand.reshape(operand.shape[0], *(1,) * missing, *operand.shape[1:])
        return torch.matmul(weight, operand) if self.left else torch.matmul(operand, weight)

    def apply(self, *inputs: Tensor) -> Tensor:
        return self._product(value(self.weight), inputs[0])

    def adjoint(self, gradient: Tensor, inputs: tuple[TensorType, ...]) -> tuple[Tensor, ...]:
        product = self._product(value(self.weight).mT, gradient)
        shape = inputs[0].shape
        padded = (1,) * (product.ndim - 1 - len(shape)) + shape
        axes = [axis for axis, extent in enumerate(padded, 1) if product.shape[axis] != extent]
        return ((product.sum(axes) if axes else product).reshape(gradient.shape[0], *shape),)

    def apply_abs(self, *inputs: Tensor) -> Tensor:
        return self._product(value(self.weight).abs(), inputs[0])


@dataclass(frozen=True, eq=False)
class ScaleShift(LinearOp):
    """`y = scale * x + shift` elementwise; scale and shift broadcast against x `[*shape]` and never enlarge it."""

    name = "scale_shift"
    scale: Param | None = None
    shift: Param | None = None

    def infer(self, *inputs: TensorType) -> TensorType:
        (operand,) = inputs
        for parameter in (self.scale, self.shift):
            if parameter is not None:
                shape = tuple(value(parameter).shape)
                fits = broadcast(shape, operand.shape) == operand.shape
                expect_shape(fits, f"a constant that broadcasts to {operand}", shape)
        return operand

    def apply(self, *inputs: Tensor) -> Tensor:
        return inputs[0] if self.scale is None else inputs[0] * value(self.scale)

    def offset(self, rank: int) -> Tensor | None:
        return param_value(self.shift)

    def adjoint(self, gradient: Tensor, inputs: tuple[TensorType, ...]) -> tuple[Tensor, ...]:
        return (self.apply(gradient),)

    def apply_abs(self, *inputs: Tensor) -> Tensor:
        return inputs[0] if self.scale is None else inputs[0] * value(self.scale).abs()


@dataclass(frozen=True, eq=False)
class BatchNorm(LinearOp):
    """Batch normalisation in evaluation mode, per channel (axis 0 of the value):
    `y = (x - mean) / sqrt(variance + epsilon) * weight + bias`; all four parameters `[channels]`."""

    name = "batch_norm"
    mean: Param
    variance: Param
    weight: Param | None = None
    bias: Param | None = None
    epsilon: float = 1e-5

    def infer(self, *inputs: TensorType) -> TensorType:
        (operand,) = inputs
        channels = value(self.mean).shape[0]
        fits = operand.rank >= 1 and operand.shape[0] == channels
        expect_shape(fits, f"{channels} channels on axis 0", operand)
        for name, parameter in self.parameters().items():
            shape = tuple(value(parameter).shape)
            expect_shape(shape == (channels,), f"{name} of shape ({channels},)", shape)
        return operand

    def scale(self) -> Tensor:
        """The factor of each channel, `[channels]`."""
        factor = (value(self.variance) + self.epsilon).rsqrt()
        return factor if self.weight is None else factor * value(self.weight)

    def shift(self) -> Tensor:
        """The constant of each channel, `[channels]`."""
        shift = -value(self.mean) * self.scale()
        return shift if self.bias is None else shift + value(self.bias)

    def apply(self, *inputs: Tensor) -> Tensor:
        return inputs[0] * _per_channel(self.scale(), inputs[0].ndim - 1)

    def offset(self, rank: int) -> Tensor | None:
        return _per_channel(self.shift(), rank)

    def adjoint(self, gradient: Tensor, inputs: tuple[TensorType, ...]) -> tuple[Tensor, ...]:
        return (self.apply(gradient),)

    def apply_abs(self, *inputs: Tensor) -> Tensor:
        return inputs[0] * _per_channel(self.scale().abs(), inputs[0].ndim - 1)


@dataclass(frozen=True, eq=False)
class Add(LinearOp):
    """`y = x_1 + ... + x_n`, all of one shape."""

    name = "add"
    arity = None
    nonnegative = True

    def infer(self, *inputs: TensorType) -> TensorType:
        expect_shape(all(operand == inputs[0] for operand in inputs), "operands of one type", _listing(inputs))
        return inputs[0]

    def apply(self, *inputs: Tensor) -> Tensor:
        total = inputs[0]
        for operand in inputs[1:]:
            total = total + operand
        return total

    def adjoint(self, gradient: Tensor, inputs: tuple[TensorType, ...]) -> tuple[Tensor, ...]:
        return (gradient,) * len(inputs)


@dataclass(frozen=True, eq=False)
class Sub(LinearOp):
    """`y = x_1 - x_2`, both of one shape."""

    name = "sub"
    arity = 2

    def infer(self, *inputs: TensorType) -> TensorType:
        expect_shape(inputs[0] == inputs[1], "operands of one type", _listing(inputs))
        return inputs[0]

    def apply(self, *inputs: Tensor) -> Tensor:
        return inputs[0] - inputs[1]

    def adjoint(self, gradient: Tensor, inputs: tuple[TensorType, ...]) -> tuple[Tensor, ...]:
        return gradient, -gradient

    def apply_abs(self, *inputs: Tensor) -> Tensor:
        return inputs[0] + inputs[1]


@dataclass(frozen=True, eq=False)
class Neg(LinearOp):
    """`y = -x`."""

    name = "neg"

    def infer(self, *inputs: TensorType) -> TensorType:
        (operand,) = inputs
        return operand

    def apply(self, *inputs: Tensor) -> Tensor:
        return -inputs[0]

    def adjoint(self, gradient: Tensor, inputs: tuple[TensorType, ...]) -> tuple[Tensor, ...]:
        return (-gradient,)

    def apply_abs(self, *inputs: Tensor) -> Tensor:
        return inputs[0]


def _matrix_shape(weight: Tensor) -> tuple[int, int]:
    expect_shape(weight.ndim == 2, "a weight matrix [out, in]", tuple(weight.shape))
    return int(weight.shape[0]), int(weight.shape[1])


def _per_channel(vector: Tensor, rank: int) -> Tensor:
    """`vector` `[channels]` shaped to broadcast over a value `[channels, ...]` of that rank."""
    return vector.reshape(-1, *(1,) * (rank - 1))


def _listing(types: tuple[TensorType, ...]) -> str:
    return ", ".join(map(str, types))
