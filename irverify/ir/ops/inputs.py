"""Values that no other value makes: network inputs, runtime operands, constants."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from irverify.ir.ops.base import Operator
from irverify.ir.params import Param, value
from irverify.ir.types import TensorType


@dataclass(frozen=True, eq=False)
class Input(Operator):
    """A network input. `batch_axis` is 0 where the source model has one (removed here), None where it has none."""

    name = "input"
    arity = 0
    type: TensorType
    batch_axis: int | None = 0

    def infer(self, *inputs: TensorType) -> TensorType:
        return self.type

    def evaluate(self, *inputs: Tensor) -> Tensor:
        raise TypeError("the value of an input is given, not computed")


@dataclass(frozen=True, eq=False)
class Operand(Operator):
    """A runtime operand, exact for each example (the rows of a specification): neither perturbed nor a parameter."""

    name = "operand"
    arity = 0
    type: TensorType

    def infer(self, *inputs: TensorType) -> TensorType:
        return self.type

    def evaluate(self, *inputs: Tensor) -> Tensor:
        raise TypeError("the value of an operand is given, not computed")


@dataclass(frozen=True, eq=False)
class Constant(Operator):
    """A value that is the same for every example; `tensor` has no batch axis."""

    name = "constant"
    arity = 0
    tensor: Param

    def infer(self, *inputs: TensorType) -> TensorType:
        tensor = value(self.tensor)
        return TensorType(tuple(tensor.shape), tensor.dtype)

    def evaluate(self, *inputs: Tensor) -> Tensor:
        return value(self.tensor)[None]
