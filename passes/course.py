"""Rows down to the inputs along lines that are chosen for each of them, and up again with their worst inputs.

Down goes what `backward` does. Up goes the worst input x* of each row, node by node along the lines that the row took:
what arrives below a node says how the bound changes with the lines there (see `turns`). Both together cost two passes
of the rows and keep no graph of operations. What rows meet before the first choice is done once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from irverify.ir.graph import Node
from irverify.ir.ops import AveragePool, Conv, ConvTranspose, Input, LinearOp
from irverify.ir.types import TensorType
from irverify.passes.backward import Context, Rows
from irverify.passes.lines import Gathered, Relaxed, sums
from irverify.passes.relaxations import Affine
from irverify.passes.turns import Turn
from irverify.regions import Region

SMALL = 2**16
"""Up to so many entries, a product with a matrix is several times faster than a convolution."""


@dataclass(frozen=True)
class _Begun:
    """Rows where they have a choice first: coefficients over values, and constants `[rows]`."""

    pending: Mapping[str, Tensor]
    constant: Tensor

    def select(self, kept: Tensor) -> _Begun:
        return _Begun({name: rows[kept] for name, rows in self.pending.items()}, self.constant[kept])


@dataclass(frozen=True)
class Matrix(LinearOp):
    """A linear map of a small value as a matrix `[in, out]`, for results of a shape, with an offset."""

    matrix: Tensor
    shape: tuple[int, ...]
    constant: Tensor | None

    def infer(self, *inputs: TensorType) -> TensorType:
        return inputs[0].with_shape(self.shape)

    def apply(self, *inputs: Tensor) -> Tensor:
        return (inputs[0].flatten(1) @ self.matrix).reshape(inputs[0].shape[0], *self.shape)

    def offset(self, rank: int) -> Tensor | None:
        return self.constant

    def adjoint(self, gradient: Tensor, inputs: tuple[TensorType, ...]) -> tuple[Tensor, ...]:
        return ((gradient.flatten(1) @ self.matrix.mT).reshape(gradient.shape[0], *inputs[0].shape),)


class Maps:
    """Linear operators as rows meet them again and again: convolutions of small values as matrices."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._found: dict[str, Affine] = {}

    def of(self, node: Node, affine: Affine) -> Affine:
        if node.name not in self._found:
            op = affine.op
            size = math.prod(affine.operands[0].shape)
            if isinstance(op, Conv | ConvTranspose | AveragePool) and size * node.type.size <= SMALL:
                offset = op.offset(affine.rank)
                eye = torch.eye(size, dtype=affine.operands[0].dtype, device=self._device)
                matrix = op.apply(eye.reshape(size, *affine.operands[0].shape)).flatten(1)
                op = Matrix(matrix, node.type.shape, None if offset is None else offset.expand(node.type.shape))
            self._found[node.name] = Affine(op, affine.operands, affine.rank)
        return self._found[node.name]


def gathering(rows: Rows) -> Gathered:
    """Takes tensors `[batch, ...]` to the rows: `[1, ...]` where they all belong to one example."""
    first = int(rows.owner[0])
    if bool((rows.owner == first).all()):
        return lambda tensor: tensor[first : first + 1]
    return rows.gathered


class _Inputs:
    """The regions of one input, one for each row."""

    def __init__(self, region: Region, rows: Rows) -> None:
        self._box = None
        if region.is_box:
            lower, upper = region.box()
            gather = gathering(rows)
            self._box = gather((lower + upper) / 2), gather((upper - lower) / 2)
        else:
            self._region = region.select(rows.owner)

    def minimum(self, coefficients: Tensor) -> Tensor:
        """Of each row, `[rows]`."""
        if self._box is None:
            return self._region.lower_of(coefficients[:, None])[:, 0]
        middle, reach = self._box
        return sums(coefficients * middle) - sums(coefficients.abs() * reach)

    def worst(self, coefficients: Tensor) -> Tensor:
        """Where it is, `[rows, *shape]`."""
        if self._box is None:
            return self._region.minimizer(coefficients)
        middle, reach = self._box
        return torch.addcmul(middle, coefficients.sign(), reach, value=-1)


class Course:
    """The way of `rows` over `target` past `turns`, by name."""

    def __init__(
        self,
        context: Context,
        maps: Maps,
        target: str,
        rows: Rows,
        turns: Mapping[str, Turn],
        begun: _Begun | None = None,
    ) -> None:
        self._context = context
        self._maps = maps
        self._target = target
        self.rows = rows
        self.turns = turns
        self._gather = gathering(rows)
        self._inputs = {name: _Inputs(region, rows) for name, region in context.regions.items()}
        nodes = list(reversed(context.graph.nodes))
        first = next((place for place, node in enumerate(nodes) if node.name in turns), len(nodes))
        self._nodes = nodes[first:]
        self._met: dict[str, Tensor | None] = {}
        """The nodes that the rows came by, with their coefficients where somebody asks for them on the way up."""
        self._begun = begun or self._begin(nodes[:first], target)
        wanted: set[str] = set()
        for node in self._nodes:
            if node.name in turns or node.name in wanted:
                wanted.update(node.inputs)
        self._wanted = wanted
        """The values that have to be known on the way up."""
        self._last = {operand: node.name for node in reversed(self._nodes) for operand in node.inputs}
        """The last node there that reads a value."""

    def _begin(self, nodes: list[Node], target: str) -> _Begun:
        pending = {target: self.rows.coefficients}
        constant = self.rows.coefficients.new_zeros(self.rows.owner.shape[0])
        for node in nodes:
            if node.name in pending:
                constant = constant + self._step(node, pending, {})
        return _Begun(pending, constant)

    def select(self, kept: Tensor) -> Course:
        """Only these rows `[kept]`."""
        rows = Rows(self.rows.coefficients[kept], self.rows.owner[kept], self.rows.batch)
        turns = {name: turn.again(gathering(rows)) for name, turn in self.turns.items()}
        return Course(self._context, self._maps, self._target, rows, turns, self._begun.select(kept))

    def down(self, choices: Mapping[str, Tensor]) -> Tensor:
        """The lower bounds `[rows]` for choices `[rows, choices]` at each turn."""
        pending, total = dict(self._begun.pending), self._begun.constant
        self._met = {}
        for node in self._nodes:
            if node.name in pending:
                total = total + self._step(node, pending, choices)
        return total

    def _step(self, node: Node, pending: dict[str, Tensor], choices: Mapping[str, Tensor]) -> Tensor:
        """Takes the rows over a node to its operands; their constants `[rows]`."""
        coefficients = pending.pop(node.name)
        self._met[node.name] = coefficients if self._asks(node) else None
        if isinstance(node.op, Input):
            return self._inputs[node.name].minimum(coefficients)
        if node.name in self._context.known:
            known = self._gather(self._context.known[node.name])
            return sums(coefficients * known)
        passed: tuple[Tensor, ...]
        if node.name in choices:
            only, constant = self.turns[node.name].down(coefficients, choices[node.name])
            passed = (only,)
        else:
            relaxed = self._context.relaxed[node.name]
            relaxed = self._maps.of(node, relaxed) if isinstance(relaxed, Affine) else relaxed
            passed, constant = relaxed.through(coefficients, self._gather)
        for operand, part in zip(node.inputs, passed, strict=False):
            pending[operand] = pending[operand] + part if operand in pending else part
        return constant

    def _asks(self, node: Node) -> bool:
        """Whether what a node is at the worst input depends on the coefficients there."""
        if isinstance(node.op, Input) or node.name in self._context.known:
            return True
        return node.name not in self.turns and not isinstance(self._context.relaxed[node.name], Affine)

    def up(self) -> dict[str, Tensor]:
        """Once after `down`: the derivatives of the bounds, `[rows, choices]` for each turn that the rows met."""
        values: dict[str, Tensor] = {}
        found: dict[str, Tensor] = {}
        for node in reversed(self._nodes):
            if node.name in self._met:
                wanted = node.name in self._wanted
                coefficients = self._met.pop(node.name)
                if node.name in self.turns:
                    found[node.name], value = self.turns[node.name].up(values[node.inputs[0]], wanted)
                    if value is not None:
                        values[node.name] = value
                elif wanted:
                    values[node.name] = self._value(node, coefficients, values)
            for operand in node.inputs:
                if self._last[operand] == node.name:
                    values.pop(operand, None)
        return found

    def _value(self, node: Node, coefficients: Tensor | None, values: Mapping[str, Tensor]) -> Tensor:
        """What a node is at the worst input, along the lines that the rows took."""
        relaxed = self._context.relaxed.get(node.name)  # nothing for an input
        if coefficients is None:
            assert isinstance(relaxed, Affine)
            return self._maps.of(node, relaxed).op.evaluate(*(values[operand] for operand in node.inputs))
        if relaxed is None and isinstance(node.op, Input):
            return self._inputs[node.name].worst(coefficients)
        if node.name in self._context.known:
            return self._gather(self._context.known[node.name]).expand(coefficients.shape)
        assert relaxed is not None
        operands = [values[name] for name in node.inputs if name in values]
        return _pulled(relaxed, coefficients, operands, self._gather)


def _pulled(
    relaxed: Relaxed, coefficients: Tensor, operands: list[Tensor], gathered: Callable[[Tensor], Tensor]
) -> Tensor:
    """The value `y` of any relaxation with `a . y = sum a_i . x_i + c`: the derivative by a."""
    with torch.enable_grad():
        leaf = coefficients.detach().requires_grad_()
        passed, constant = relaxed.through(leaf, gathered)
        total = constant.sum()
        for part, operand in zip(passed, operands, strict=False):
            total = total + (part * operand).sum()
        (found,) = torch.autograd.grad(total, [leaf], allow_unused=True, materialize_grads=True)
    return found
