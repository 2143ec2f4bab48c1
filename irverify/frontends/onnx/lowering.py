"""What a lowering rule gets to see and may do: one node, its operands, and the graph that is being built."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, TypeAlias

import numpy
import torch

from irverify.frontends.onnx.nodes import OnnxNode
from irverify.frontends.onnx.values import BATCH, Array, BatchMixing, Kind, Known, Operand, Refused, Value
from irverify.ir.graph import GraphBuilder
from irverify.ir.ops import Constant, Operator, Reshape
from irverify.ir.types import DTYPE_NAMES


@dataclass(frozen=True)
class Scope:
    """How the model is read: its opset, and whether axis 0 of every value that depends on an input is a batch axis."""

    opset: int
    batched: bool
    declared: int | None = None
    """The extent that the model fixes the batch axis to (every use of it must stand for the batch); None: symbolic."""


class Call:
    """One node with its operands. Axes and shapes in the model's terms count the batch axis, those of the graph do not.

    In a batched scope every `Value` of rank r in the model is a value of rank r - 1 in the graph.
    """

    def __init__(self, node: OnnxNode, operands: Sequence[Operand | None], builder: GraphBuilder, scope: Scope) -> None:
        self.node = node
        self.operands = tuple(operands)
        self.builder = builder
        self.scope = scope
        self.opset = scope.opset
        self.lead = 1 if scope.batched else 0
        """How many axes of the model's values are not in the graph."""

    def refuse(self, reason: str) -> NoReturn:
        raise Refused(reason)

    def mixing(self, what: str) -> NoReturn:
        raise BatchMixing(f"{what}, so that axis 0 is no batch axis here")

    # Operands.

    def operand(self, index: int) -> Operand | None:
        """The operand, None where it is left out."""
        return self.operands[index] if index < len(self.operands) else None

    def required(self, index: int) -> Operand:
        operand = self.operand(index)
        if operand is None:
            self.refuse(f"expected an operand {index}, got {len(self.operands)} operands")
        return operand

    def known(self, index: int, what: str) -> Known:
        """An operand that has to be a constant."""
        operand = self.required(index)
        if isinstance(operand, Value):
            self.refuse(f"{what} must be a constant, but depends on an input of the model")
        return operand

    def optional(self, index: int, what: str) -> Known | None:
        """An operand that has to be a constant where it is given."""
        return None if self.operand(index) is None else self.known(index, what)

    def vector(self, index: int, attribute: str) -> list[Any] | None:
        """Whole numbers that older opsets give as an attribute and newer ones as a constant operand."""
        if self.operand(index) is not None:
            return self.known(index, attribute).integers()
        return self.node.get(attribute)  # type: ignore[no-any-return]

    def value(self, index: int, *kinds: Kind) -> Value:
        """An operand as a value of the graph; of a floating-point type unless `kinds` says what else it may be."""
        operand = self.required(index)
        return self.as_value(operand, *kinds)

    def as_value(self, operand: Operand, *kinds: Kind) -> Value:
        if isinstance(operand, Known):
            return self._constant(operand)
        if operand.kind not in (kinds or ("float",)):
            self.refuse(f"an operand of type {operand.kind} that depends on an input is not supported")
        return operand

    def _constant(self, operand: Known) -> Value:
        array = operand.numbers()
        if self.scope.batched:
            # Joined with values that have a batch axis, it has to be there for one example: extent 1, as declared.
            if array.ndim == 0 or array.shape[0] != 1 or self.scope.declared != 1:
                self.mixing(f"the constant {operand.name!r} of shape {array.shape} has no batch axis")
            return self.constant(Known(array[0], operand.name))
        return self.constant(operand)

    def constant(self, operand: Known) -> Value:
        """A constant of the graph, without a batch axis."""
        tensor = operand.tensor()
        if tensor.dtype not in DTYPE_NAMES:
            self.refuse(f"the element type {operand.array.dtype} of {operand.name!r} is not supported")
        return self.emit(Constant(tensor))

    # Shapes.

    def shape(self, value: Value) -> tuple[int, ...]:
        """In the graph, without the batch axis."""
        return self.builder.type(value.name).shape

    def dtype(self, value: Value) -> torch.dtype:
        return self.builder.type(value.name).dtype

    def extents(self, operand: Operand) -> list[Any]:
        """In the model, with `BATCH` for the batch axis."""
        if isinstance(operand, Known):
            return list(operand.array.shape)
        return [BATCH] * self.lead + list(self.shape(operand))

    def rank(self, operand: Operand) -> int:
        """In the model."""
        return len(self.extents(operand))

    def axis(self, value: Value, axis: int, rank: int | None = None) -> int:
        """An axis of the model as one of the graph. Raises BatchMixing for the batch axis."""
        rank = self.rank(value) if rank is None else rank
        if not -rank <= axis < rank:
            self.refuse(f"expected an axis in [{-rank}, {rank}), got {axis}")
        if axis % rank < self.lead:
            self.mixing(f"{self.node.op} works along axis 0")
        return axis % rank - self.lead

    def is_batch(self, extent: object) -> bool:
        """Whether an extent at axis 0 stands for the batch."""
        return extent is BATCH or (self.scope.declared is not None and extent == self.scope.declared)

    # Results.

    def emit(self, op: Operator, *values: Value, kind: Kind | None = None) -> Value:
        """Adds a node to the graph; its value is of the first operand's kind unless `kind` is given."""
        stem = f"{next(iter(self.node.outputs), self.node.op)}.{op.name}"
        name = self.builder.add(op, *(value.name for value in values), name=stem, source=str(self.node))
        return Value(name, kind or (values[0].kind if values else "float"))

    def reshape(self, value: Value, shape: Sequence[int]) -> Value:
        """The value under another shape of the graph."""
        target = tuple(int(extent) for extent in shape)
        return value if target == self.shape(value) else self.emit(Reshape(target), value)

    def scalar(self, number: float, like: Value) -> torch.Tensor:
        """A parameter of rank 0 of the value's element type."""
        return torch.tensor(number, dtype=self.dtype(like))

    def result(self, array: Array) -> Known:
        """A constant as the node's result."""
        return Known(numpy.asarray(array), next(iter(self.node.outputs), self.node.op))


Rule: TypeAlias = Callable[[Call], "Operand | list[Operand]"]
"""Lowers one node: adds to the graph what computes it and returns its results."""
