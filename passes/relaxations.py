"""Linear relaxations of nonlinear operators: one table, operator and choice -> linear bounds below and above.

For pre-activations `l <= x <= u` a relaxation gives, element by element,

    lower_slope x + lower_intercept  <=  op(x)  <=  upper_slope x + upper_intercept      for all x in [l, u]

(Zhang et al. 2018, "Efficient neural network robustness certification with general activation functions", tables 2
and 3), and planes for operators of two values. The choices differ in the line that is free to choose, below an unstable
ReLU: `adaptive` (CROWN: slope 1 where u > -l, else 0), `zero` (slope 0), `same` (Fast-Lin: u / (u - l), the slope of
the upper line; paper 2, sec. 3). What no better is known for lies between two constants, the ends of its interval.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from irverify.ir.graph import Graph, Node
from irverify.ir.kept import once_a_graph
from irverify.ir.ops import (
    Abs,
    Clip,
    Div,
    Exp,
    LeakyRelu,
    LinearOp,
    MatMul,
    Maximum,
    MaxPool,
    Minimum,
    Mul,
    Operator,
    Pow,
    Relu,
    Sigmoid,
    Spec,
    Tanh,
)
from irverify.ir.params import value
from irverify.ir.types import TensorType
from irverify.kernels.native import watched
from irverify.passes.bilinear import div, matmul, mul
from irverify.passes.curves import absolute_value, clip, exponential, leaky_relu, powers, relu, sigmoid, tanh
from irverify.passes.interval import INTERVAL, spec_rows
from irverify.passes.lines import Choice as Choice
from irverify.passes.lines import Enclosed
from irverify.passes.lines import Gathered as Gathered
from irverify.passes.lines import Relaxation as Relaxation
from irverify.passes.lines import Relaxed as Relaxed
from irverify.passes.lines import sums as sums
from irverify.passes.maxima import Selected as Selected
from irverify.passes.maxima import max_pool, maximum, minimum
from irverify.passes.propagate import Interval
from irverify.passes.rules import RuleTable
from irverify.regions.base import rowwise

RelaxRule: TypeAlias = Callable[[Node, Sequence[Interval], Choice], Relaxed]
"""`rule(node, operands, choice)`: the node between linear bounds, for operands within these intervals."""
LEANING: Mapping[object, Callable[[Node, Sequence[Interval], Choice | Tensor], Relaxation]] = {
    rule: rule for rule in (relu, leaky_relu, absolute_value)
}
"""The rules for functions with a kink at 0: these take how the operand leans, too, in place of a choice."""
RELAXATIONS: RuleTable[RelaxRule] = RuleTable("linear bounds")
RELAXATIONS.rule(Relu)(relu)
RELAXATIONS.rule(LeakyRelu)(leaky_relu)
RELAXATIONS.rule(Abs)(absolute_value)
RELAXATIONS.rule(Clip)(clip)
RELAXATIONS.rule(Sigmoid)(sigmoid)
RELAXATIONS.rule(Tanh)(tanh)
RELAXATIONS.rule(Exp)(exponential)
RELAXATIONS.rule(Pow)(powers)
RELAXATIONS.rule(MaxPool)(max_pool)
RELAXATIONS.rule(Maximum)(maximum)
RELAXATIONS.rule(Minimum)(minimum)
RELAXATIONS.rule(Mul)(mul)
RELAXATIONS.rule(Div)(div)
RELAXATIONS.rule(MatMul)(matmul)


@once_a_graph
def kinked_operands(graph: Graph) -> frozenset[str]:
    """The values that functions with a kink at 0 read."""
    return frozenset(name for node in graph if RELAXATIONS.find(type(node.op)) in LEANING for name in node.inputs)


def relaxed(
    rule: RelaxRule, node: Node, operands: Sequence[Interval], choice: Choice, leans: Mapping[str, Tensor]
) -> Relaxed:
    """`rule(node, operands, choice)`, but where it is adaptive around a kink, and `leans` has how the operand leans,
    that says which slope is taken.

    Backward rows bound an element by themselves, before they are met with its interval; on the side of 0 where more of
    that range is there is more of what lines leave. An interval that is tighter on one side alone says nothing about
    that, and shall not turn the slope that Zhang et al. would take."""
    leaning = LEANING.get(rule) if choice == "adaptive" and leans else None
    lean = None if leaning is None else leans.get(node.inputs[0])
    return rule(node, operands, choice) if leaning is None or lean is None else leaning(node, operands, lean)


@dataclass(frozen=True)
class Affine:
    """A linear operator: its adjoint, exactly."""

    op: LinearOp
    operands: tuple[TensorType, ...]
    rank: int

    @property
    def offset(self) -> Tensor | None:
        """The constant of the operator, in a shape that broadcasts to its result: a view, or looked up already."""
        return self.op.offset(self.rank)

    def through(self, coefficients: Tensor, gathered: Gathered) -> tuple[tuple[Tensor, ...], Tensor]:
        offset, count = self.offset, coefficients.shape[0]
        constant = coefficients.new_zeros(count) if offset is None else _against(coefficients, offset)
        return self.op.adjoint(coefficients, self.operands), constant


def _against(coefficients: Tensor, offset: Tensor) -> Tensor:
    """The product of each row with an offset that broadcasts to it, `[rows]`."""
    shape = coefficients.shape[1:]
    if len(shape) == 1 and offset.shape == shape:
        return coefficients @ offset
    if offset.shape == (*shape[:1], *(1,) * len(shape[1:])) and len(shape) > 1:  # one number for each channel
        return coefficients.flatten(2).sum(2) @ offset.flatten()
    return rowwise(coefficients) @ offset.expand(shape).reshape(-1)


@dataclass(frozen=True)
class SpecRows:
    """A specification: linear in the value that it reads; its rows are known for each example. `matrix`
    `[batch, spec, in]`, `offset` `[batch, spec]`."""

    matrix: Tensor
    offset: Tensor

    def through(self, coefficients: Tensor, gathered: Gathered) -> tuple[tuple[Tensor, ...], Tensor]:
        return (self._times_matrix(coefficients, gathered),), (coefficients * gathered(self.offset)).sum(1)

    def open(self, batch: int) -> Tensor:
        """Which rows are no constants, `[batch, spec]`: the margin of a label over itself is one."""
        return (self.matrix != 0).any(2).expand(batch, -1)

    def rows(self, elements: Tensor, owner: Tensor | int) -> tuple[Tensor, Tensor]:
        """The rows of these elements of their examples, over what the specification reads, and their constants."""
        count = self.matrix.shape[1]
        places = elements + owner * count if isinstance(owner, Tensor) or owner else elements
        matrix, offset = self.matrix.flatten(0, 1), self.offset.flatten()  # there may be nothing in them
        return matrix.index_select(0, places), offset.index_select(0, places)

    def _times_matrix(self, coefficients: Tensor, gathered: Gathered) -> Tensor:
        """The product of each row with its own example's matrix; matrices are copied for rows only where these are not
        as many of each example, one example after the other."""
        batch, count, size = self.matrix.shape
        each = coefficients.shape[0] // max(1, batch)
        if batch > 1 and coefficients.shape[0] == batch * each and not watched():
            owner = torch.arange(batch, device=self.matrix.device)
            if torch.equal(gathered(owner), owner.repeat_interleave(each)):
                return torch.bmm(coefficients.reshape(batch, each, count), self.matrix).reshape(batch * each, size)
        matrix = gathered(self.matrix)
        if matrix.shape[0] == 1:
            return coefficients @ matrix[0]
        return torch.bmm(coefficients.unsqueeze(1), matrix).squeeze(1)


@RELAXATIONS.rule(Operator)
def enclosed(node: Node, operands: Sequence[Interval], choice: Choice) -> Enclosed:
    """Whatever else it is: between the ends of its interval."""
    rule = INTERVAL.find(type(node.op))
    assert rule is not None  # every walk is one over intervals, which has checked the graph
    return Enclosed(*rule(node, *operands))


@RELAXATIONS.rule(LinearOp)
def _linear(node: Node, operands: Sequence[Interval], choice: Choice) -> Affine:
    return affine(node, tuple(TensorType(tuple(part.lower.shape[1:]), part.lower.dtype) for part in operands))


def affine(node: Node, operands: tuple[TensorType, ...]) -> Affine:
    """A linear operator that reads values of these types."""
    assert isinstance(node.op, LinearOp)
    # Derived parameters are looked up once, not by all rows that come by.
    now = {name: value(getattr(node.op, name)) for name in node.op.derived}
    return Affine(node.op.replace(**now) if now else node.op, operands, len(node.type.shape))


@RELAXATIONS.rule(Spec)
def _spec(node: Node, operands: Sequence[Interval], choice: Choice) -> SpecRows:
    return SpecRows(*spec_rows(node, *operands[1:]))
