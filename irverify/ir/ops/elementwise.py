"""Functions of one value, element by element, and what analyses may rely on about each."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from irverify.ir.ops.base import Elementwise, LinearOp, Pieces, expect_shape
from irverify.ir.types import FLOATS, TensorType


@dataclass(frozen=True, eq=False)
class Relu(Elementwise):
    """`max(x, 0)`."""

    name = "relu"
    monotone = "increasing"
    curvature = "convex"

    def evaluate(self, *inputs: Tensor) -> Tensor:
        return inputs[0].relu()

    def pieces(self) -> Pieces:
        return Pieces((0.0,), (0.0, 1.0))


@dataclass(frozen=True, eq=False)
class LeakyRelu(Elementwise):
    """`x` where x >= 0, else `slope x`; slope >= 0 (a negative slope is not monotone and is refused)."""

    name = "leaky_relu"
    monotone = "increasing"
    slope: float = 0.01

    def infer(self, *inputs: TensorType) -> TensorType:
        expect_shape(0.0 <= self.slope < math.inf, "a finite slope >= 0 for leaky_relu", self.slope)
        return super().infer(*inputs)

    def evaluate(self, *inputs: Tensor) -> Tensor:
        return functional.leaky_relu(inputs[0], self.slope)

    def pieces(self) -> Pieces:
        return Pieces((0.0,), (self.slope, 1.0))


@dataclass(frozen=True, eq=False)
class Clip(Elementwise):
    """`min(max(x, lower), upper)`: HardTanh for (-1, 1). Infinite limits are legal."""

    name = "clip"
    monotone = "increasing"
    lower: float = -1.0
    upper: float = 1.0

    def infer(self, *inputs: TensorType) -> TensorType:
        expect_shape(self.lower <= self.upper, "clip limits in order", (self.lower, self.upper))
        return super().infer(*inputs)

    def evaluate(self, *inputs: Tensor) -> Tensor:
        return inputs[0].clamp(self.lower, self.upper)

    def pieces(self) -> Pieces:
        finite_lower, finite_upper = math.isfinite(self.lower), math.isfinite(self.upper)
        breakpoints = ((self.lower,) if finite_lower else ()) + ((self.upper,) if finite_upper else ())
        return Pieces(breakpoints, ((0.0,) if finite_lower else ()) + (1.0,) + ((0.0,) if finite_upper else ()))


@dataclass(frozen=True, eq=False)
class Abs(Elementwise):
    """`|x|`."""

    name = "abs"
    curvature = "convex"

    def evaluate(self, *inputs: Tensor) -> Tensor:
        return inputs[0].abs()

    def pieces(self) -> Pieces:
        return Pieces((0.0,), (-1.0, 1.0))


@dataclass(frozen=True, eq=False)
class Sigmoid(Elementwise):
    """`1 / (1 + exp(-x))`."""

    name = "sigmoid"
    monotone = "increasing"

    def evaluate(self, *inputs: Tensor) -> Tensor:
        return inputs[0].sigmoid()


@dataclass(frozen=True, eq=False)
class Tanh(Elementwise):
    """`tanh(x)`."""

    name = "tanh"
    monotone = "increasing"

    def evaluate(self, *inputs: Tensor) -> Tensor:
        return inputs[0].tanh()


@dataclass(frozen=True, eq=False)
class Exp(Elementwise):
    """`exp(x)`."""

    name = "exp"
    monotone = "increasing"
    curvature = "convex"

    def evaluate(self, *inputs: Tensor) -> Tensor:
        return inputs[0].exp()


@dataclass(frozen=True, eq=False)
class Pow(Elementwise):
    """`x ** exponent` for a constant exponent; where the exponent is no whole number, the domain is x >= 0."""

    name = "pow"
    exponent: float

    def infer(self, *inputs: TensorType) -> TensorType:
        expect_shape(math.isfinite(self.exponent), "a finite exponent for pow", self.exponent)
        return super().infer(*inputs)

    def evaluate(self, *inputs: Tensor) -> Tensor:
        return torch.pow(inputs[0], self.exponent)


@dataclass(frozen=True, eq=False)
class Sin(Elementwise):
    """`sin(x)`, x in radians."""

    name = "sin"

    def evaluate(self, *inputs: Tensor) -> Tensor:
        return inputs[0].sin()


@dataclass(frozen=True, eq=False)
class Cos(Elementwise):
    """`cos(x)`, x in radians."""

    name = "cos"

    def evaluate(self, *inputs: Tensor) -> Tensor:
        return inputs[0].cos()


@dataclass(frozen=True, eq=False)
class Step(Elementwise):
    """`1` where x > 0 (with `inclusive`: where x >= 0), else `0`: what comparisons of two values become.

    Not continuous, but monotone: its bounds are its values at the bounds of x.
    """

    name = "step"
    monotone = "increasing"
    inclusive: bool = False

    def evaluate(self, *inputs: Tensor) -> Tensor:
        return (inputs[0] >= 0 if self.inclusive else inputs[0] > 0).to(inputs[0].dtype)


@dataclass(frozen=True, eq=False)
class Trunc(Elementwise):
    """`x` rounded towards zero: what a cast to whole numbers becomes.

    Not continuous, but monotone: its bounds are its values at the bounds of x.
    """

    name = "trunc"
    monotone = "increasing"

    def evaluate(self, *inputs: Tensor) -> Tensor:
        return inputs[0].trunc()


@dataclass(frozen=True, eq=False)
class Identity(LinearOp):
    """`y = x`: what dropout and other training-time operators are at evaluation. `canonicalize` removes it."""

    name = "identity"
    nonnegative = True

    def infer(self, *inputs: TensorType) -> TensorType:
        (operand,) = inputs
        return operand

    def apply(self, *inputs: Tensor) -> Tensor:
        return inputs[0]

    def adjoint(self, gradient: Tensor, inputs: tuple[TensorType, ...]) -> tuple[Tensor, ...]:
        return (gradient,)


@dataclass(frozen=True, eq=False)
class Cast(LinearOp):
    """A change of floating-point type. In the reals, in which bounds are stated, it is the identity."""

    name = "cast"
    nonnegative = True
    dtype: torch.dtype

    def infer(self, *inputs: TensorType) -> TensorType:
        (operand,) = inputs
        expect_shape(self.dtype in FLOATS and operand.dtype in FLOATS, "a cast between float types", self.dtype)
        return operand.with_dtype(self.dtype)

    def apply(self, *inputs: Tensor) -> Tensor:
        return inputs[0].to(self.dtype)

    def adjoint(self, gradient: Tensor, inputs: tuple[TensorType, ...]) -> tuple[Tensor, ...]:
        return (gradient.to(inputs[0].dtype),)
