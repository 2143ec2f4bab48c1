"""A dual network that is being drawn: the builder, and the two sums of its objective."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from irverify.ir.graph import Graph, GraphBuilder, Node
from irverify.ir.ops import Add, Cast, Constant, Linear, Mul, Operand, Operator, ReduceSum, Reshape
from irverify.ir.params import Derived, Param, value
from irverify.ir.types import TensorType


@dataclass
class DualSketch:
    """What dual layers add to: values of `builder` that belong to the layers of `primal`.

    `shift` and `gap` are the terms of the sum over h_i in paper 5, eq. 7, parted in two, each a value `[1]`: those that
    change their sign with nu, and those that do not.
    """

    primal: Graph
    builder: GraphBuilder
    dtype: torch.dtype
    node: Node
    """The layer whose dual is being added."""
    shift: list[str] = field(default_factory=list)
    gap: list[str] = field(default_factory=list)
    layers: dict[str, str] = field(default_factory=dict)
    """Of each value `D nu` of the dual network the activation whose slopes are D."""
    _operands: dict[str, str] = field(default_factory=dict)

    def add(self, op: Operator, *inputs: str, name: str | None = None) -> str:
        return self.builder.add(op, *inputs, name=name, source=f"dual of %{self.node.name} = {self.node.op.name}")

    def pass_on(self, operand: int, op: Operator, *inputs: str) -> str:
        """Adds what goes to the nu of an operand of the layer, under that name."""
        return self.add(op, *inputs, name=f"nu.{self.node.inputs[operand]}")

    def operand_type(self, operand: int = 0) -> TensorType:
        return self.primal[self.node.inputs[operand]].type

    def runtime(self, label: str, type_: TensorType) -> str:
        """A runtime operand of the dual network, such as `relu1.slope`; the same one whenever it is asked for."""
        if label not in self._operands:
            self._operands[label] = self.add(Operand(type_), name=label)
        return self._operands[label]

    def constant(self, tensor: Tensor) -> Tensor:
        """A constant of the dual network, where the parameters of the primal one are."""
        device = next((value(param).device for param in self.primal.parameters().values()), None)
        return tensor.to(device=device)

    def dot(self, nu: str, other: str) -> str:
        """`nu^T other`, a value `[1]`."""
        return self._scalar(self.add(ReduceSum((0,), True), self.flat(self.add(Mul(), nu, other))))

    def weighted(self, nu: str, weights: Param) -> str:
        """`nu^T w` for a parameter w `[1, size]`, a value `[1]`."""
        return self._scalar(self.add(Linear(weights), self.flat(nu)))

    def flat(self, name: str) -> str:
        type_ = self.builder.type(name)
        return name if type_.rank == 1 else self.add(Reshape((type_.size,)), name)

    def _scalar(self, name: str) -> str:
        return name if self.builder.type(name).dtype == self.dtype else self.add(Cast(self.dtype), name)

    def total(self, terms: list[str], name: str) -> str:
        """The sum of some values `[1]`, zero where there are none."""
        if not terms:
            return self.builder.add(Constant(self.constant(torch.zeros(1, dtype=self.dtype))), name=name)
        return self.builder.add(Add(), *terms, name=name)


def derived(op: Operator, function: Callable[[Operator], Tensor]) -> Derived:
    """A parameter computed from those of an operator, which it follows when they change."""
    names = list(op.parameters())

    def compute(*tensors: Tensor) -> Tensor:
        return function(op.replace(**dict(zip(names, tensors, strict=True))))

    return Derived(compute, *op.parameters().values())
