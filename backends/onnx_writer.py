"""What collects an ONNX model node by node, and the table of the forms that operators of the IR have there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch import Tensor

from irverify.ir.graph import Node
from irverify.ir.ops import Operator
from irverify.ir.ops.conv import Pairs
from irverify.ir.types import TensorType

Form: TypeAlias = "Callable[[Writer, Node, tuple[TensorType, ...], list[str]], str]"
"""`form(writer, node, operand types, operand names)` adds nodes and returns the name of the value."""
FORMS: dict[type[Operator], Form] = {}


class Writer:
    """Collects the nodes and tensors of a model. Helper values are called `#1`, `#2` and so on, as no value is."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: list[onnx.TensorProto] = []
        self.batch: str | None = None
        """A value whose first axis is the batch; None where there is no input."""
        self._count = 0

    def node(self, word: str, *inputs: str, result: str | None = None, **attributes: Any) -> str:
        """Adds a node and returns the name of its value."""
        name = self._fresh() if result is None else result
        self.nodes.append(helper.make_node(word, list(inputs), [name], **attributes))
        return name

    def tensor(self, tensor: Tensor) -> str:
        name = self._fresh()
        array = np.ascontiguousarray(tensor.detach().cpu().numpy())
        self.tensors.append(numpy_helper.from_array(array.reshape(tuple(tensor.shape)), name))
        return name

    def integers(self, numbers: Sequence[int]) -> str:
        return self.tensor(torch.tensor(list(numbers), dtype=torch.int64))

    def number(self, number: float, dtype: torch.dtype) -> str:
        return self.tensor(torch.tensor(number, dtype=dtype))

    def unsqueezed(self, name: str) -> str:
        """The value with an axis in front."""
        return self.node("Unsqueeze", name, self.integers([0]))

    def reshaped(self, name: str, shape: Sequence[int]) -> str:
        """The value with that shape behind its batch axis."""
        return self.node("Reshape", name, self.integers([0, *shape]))

    def _fresh(self) -> str:
        self._count += 1
        return f"#{self._count}"


def form(*operators: type[Operator]) -> Callable[[Form], Form]:
    """Decorator: the form of these operators."""

    def add(form: Form) -> Form:
        for operator in operators:
            FORMS[operator] = form
        return form

    return add


def padded(writer: Writer, name: str, pairs: Pairs, fill: Tensor | None = None) -> str:
    """Zeros (or `fill`) before and after each of the last axes, then what is negative is cropped."""
    lead = [0]
    before, after = ([max(amount, 0) for amount in side] for side in zip(*pairs, strict=True))
    if any(before) or any(after):
        amounts = writer.integers([*lead, *before, *lead, *after])
        name = writer.node("Pad", name, amounts, *([] if fill is None else [writer.tensor(fill)]))
    if any(amount < 0 for pair in pairs for amount in pair):
        starts = [max(-first, 0) for first, _ in pairs]
        ends = [last if last < 0 else np.iinfo(np.int64).max for _, last in pairs]
        axes = range(1, len(pairs) + 1)
        name = writer.node("Slice", name, *(writer.integers(list(part)) for part in (starts, ends, axes)))
    return name
