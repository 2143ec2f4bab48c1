"""What every operator says about itself, and the families that analyses dispatch on.

An operator is a frozen dataclass: attributes, parameters, type inference, evaluation on batched tensors
`[batch, *shape]`. Nothing about bounds lives here. Its family says what the mathematics needs:

- `LinearOp`: jointly affine in its inputs, `y = sum_i A_i x_i + b`; gives `apply` (without b), `offset` (b), `adjoint`
  (the exact transpose) and `apply_abs` (|A|).
- `Elementwise`: one input, acts on each element alone; says whether it is monotone, convex or concave, and which linear
  pieces it has.
- everything else derives from `Operator` directly.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal, TypeVar

import numpy
import torch
from torch import Tensor

from irverify.errors import ShapeError
from irverify.ir.params import Derived, Param, is_param, value
from irverify.ir.types import TensorType

Self = TypeVar("Self", bound="Operator")


class Operator(ABC):
    """One operator: `y = op(x_1, ..., x_n)` on values of known types."""

    name: ClassVar[str]
    """Its word in the text form."""
    arity: ClassVar[int | None] = 1
    """Number of inputs; None: one or more."""

    @abstractmethod
    def infer(self, *inputs: TensorType) -> TensorType:
        """Type of the result (shapes without the batch axis). Raises ShapeError where the inputs do not fit."""

    @abstractmethod
    def evaluate(self, *inputs: Tensor) -> Tensor:
        """The concrete result `[batch, *shape]` for concrete inputs `[batch, *shape]`."""

    def fields(self) -> dict[str, Any]:
        """All fields of the dataclass by name, in order."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}  # type: ignore[arg-type]

    def parameters(self) -> dict[str, Param]:
        """The fields that hold tensors (live or derived), by field name."""
        return {name: field for name, field in self.fields().items() if is_param(field)}

    @cached_property
    def derived(self) -> tuple[str, ...]:
        """The fields that hold derived tensors."""
        return tuple(name for name, field in self.parameters().items() if isinstance(field, Derived))

    def replace(self: Self, **changes: Any) -> Self:
        """The same operator with some fields changed."""
        return dataclasses.replace(self, **changes)  # type: ignore[type-var]


class LinearOp(Operator):
    """Jointly affine in its inputs: `y = sum_i A_i x_i + b`."""

    nonnegative: ClassVar[bool] = False
    """Every A_i has only entries >= 0, so that |A| = A."""

    @abstractmethod
    def apply(self, *inputs: Tensor) -> Tensor:
        """The linear part `sum_i A_i x_i`, `[batch, *shape]`."""

    def offset(self, rank: int) -> Tensor | None:
        """b, in a shape that broadcasts against `[*shape]` of a result of that rank; None where it is zero."""
        return None

    def evaluate(self, *inputs: Tensor) -> Tensor:
        result = self.apply(*inputs)
        offset = self.offset(result.ndim - 1)
        return result if offset is None else result + offset

    def adjoint(self, gradient: Tensor, inputs: tuple[TensorType, ...]) -> tuple[Tensor, ...]:
        """`(A_1^T g, ..., A_n^T g)` for `g = gradient` `[batch, *shape]`; the exact transpose of `apply`.

        This general version pulls back through `apply`; operators with a faster one override it.
        """
        zeros = [gradient.new_zeros((gradient.shape[0], *type_.shape)) for type_ in inputs]
        pull = torch.func.vjp(self.apply, *zeros)[1]
        return tuple(pull(gradient))

    def apply_abs(self, *inputs: Tensor) -> Tensor:
        """`sum_i |A_i| x_i`, with the magnitudes of the matrix entries."""
        if not self.nonnegative:
            raise NotImplementedError(f"{type(self).__name__} must give apply_abs")
        return self.apply(*inputs)


@dataclass(frozen=True)
class Pieces:
    """A continuous piecewise linear function: `slopes[k]` holds between `breakpoints[k-1]` and `breakpoints[k]`."""

    breakpoints: tuple[float, ...]
    slopes: tuple[float, ...]


class Elementwise(Operator):
    """Acts on each element alone. What is said holds on the whole real line (or the operator's domain)."""

    monotone: ClassVar[Literal["increasing", "none"]] = "none"
    """`increasing`: x <= x' implies op(x) <= op(x')."""
    curvature: ClassVar[Literal["convex", "concave", "none"]] = "none"

    def infer(self, *inputs: TensorType) -> TensorType:
        (operand,) = inputs
        return operand

    def pieces(self) -> Pieces | None:
        """The linear pieces where the function is piecewise linear, else None."""
        return None


def expect_shape(condition: bool, expected: str, got: object) -> None:
    """Raises ShapeError unless `condition` holds."""
    if not condition:
        raise ShapeError(f"expected {expected}, got {got}")


def broadcast(*shapes: tuple[int, ...]) -> tuple[int, ...] | None:
    """The shape that all broadcast to, None where they do not. (torch.broadcast_shapes takes half a second to load.)"""
    try:
        return numpy.broadcast_shapes(*shapes)
    except ValueError:
        return None


def param_value(parameter: Param | None) -> Tensor | None:
    return None if parameter is None else value(parameter)


def normalize_axis(axis: int, rank: int) -> int:
    """`axis` counted from the front, checked against `rank` (both without the batch axis)."""
    expect_shape(-rank <= axis < rank, f"an axis in [{-rank}, {rank})", axis)
    return axis % rank
