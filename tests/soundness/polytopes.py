"""Reference bounds of tiny ReLU networks by linear programs: the exact minimum of a row by enumeration of all ReLU
patterns, and its minimum over the triangle relaxation.

Every value of a graph is written as an affine function of the inputs (and, for the relaxation, of one variable for each
unstable ReLU). Nothing of irverify's bounds is used but the operators' evaluation.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy.optimize import linprog
from torch import Tensor

from irverify.ir.graph import Node
from irverify.ir.ops import Constant, Input, LinearOp, Operand, Relu, Spec
from irverify.pipeline import State

Affine = Tensor
"""`[1 + variables, *shape]`: the constant and the coefficient of each variable."""


@dataclass
class Program:
    """A set of points: variables within bounds, and rows `a . v + c >= 0`, each as `[c, a...]`."""

    lower: list[float]
    upper: list[float]
    rows: list[Tensor] = field(default_factory=list)

    def variable(self, lower: float, upper: float) -> int:
        self.lower.append(lower)
        self.upper.append(upper)
        return len(self.lower) - 1

    def least(self, row: Tensor) -> float:
        """The minimum of an affine function over the set; infinity where it is empty."""
        count = len(self.lower)
        matrix = np.array([_padded(entry, count + 1) for entry in self.rows]).reshape(-1, count + 1)
        objective = _padded(row, count + 1)
        limits = list(zip(self.lower, self.upper, strict=True))
        found = linprog(objective[1:], A_ub=-matrix[:, 1:], b_ub=matrix[:, 0], bounds=limits, method="highs")
        if found.status == 2:
            return math.inf
        assert found.status == 0, found.message
        return float(found.fun + objective[0])


def _padded(row: Tensor, size: int) -> np.ndarray:
    result = np.zeros(size)
    result[: row.shape[0]] = row.numpy()
    return result


def exact_minima(state: State) -> list[float]:
    """The least value of each row of the specification of a state with one example, over all ReLU patterns."""
    graph = state.graph
    sizes = [node.type.size for node in graph if isinstance(node.op, Relu)]
    best = [math.inf] * graph[graph.outputs[0]].type.size
    for pattern in _patterns(state, sizes):
        program, values = _inputs(state)
        places = iter(pattern)
        for node in graph:
            if isinstance(node.op, Relu):
                values[node.name] = _fixed(program, values[node.inputs[0]], next(places))
            elif not isinstance(node.op, Input):
                values[node.name] = _affine(state, node, values)
        rows = _columns(values[graph.outputs[0]])
        best = [min(old, program.least(row)) for old, row in zip(best, rows, strict=True)]
    return best


def unstable(state: State) -> int:
    """How many ReLUs the bounds of a state leave open."""
    total = 0
    for node in state.graph:
        if isinstance(node.op, Relu):
            bounds = state.bounds[node.inputs[0]]
            total += int(((bounds.lower < 0) & (bounds.upper > 0)).sum())
    return total


def relaxed_minima(state: State) -> list[float]:
    """The least value of each row over the triangle relaxation: `h >= 0`, `h >= x`, `h <= u (x - l) / (u - l)`, with
    the bounds that the state has of every value but the specification."""
    graph = state.graph
    program, values = _inputs(state)
    for node in graph:
        if isinstance(node.op, Relu):
            values[node.name] = _triangle(program, values[node.inputs[0]], state, node)
        elif not isinstance(node.op, Input):
            values[node.name] = _affine(state, node, values)
        if node.name in state.bounds and node.name not in graph.outputs:
            _within(program, values[node.name], state, node.name)
    return [program.least(row) for row in _columns(values[graph.outputs[0]])]


def _inputs(state: State) -> tuple[Program, dict[str, Affine]]:
    program, values = Program([], []), {}
    total = sum(node.type.size for node in state.graph.inputs)
    assert state.regions is not None
    start = 1
    for node, region in zip(state.graph.inputs, state.regions, strict=True):
        lower, upper = region.box()
        part = torch.zeros(1 + total, node.type.size, dtype=torch.float64)
        part[start + torch.arange(node.type.size), torch.arange(node.type.size)] = 1.0
        start += node.type.size
        values[node.name] = part.reshape(1 + total, *node.type.shape)
        for low, high in zip(lower.flatten().tolist(), upper.flatten().tolist(), strict=True):
            program.variable(low, high)
    return program, values


def _affine(state: State, node: Node, values: Mapping[str, Affine]) -> Affine:
    """The value of an operator that is affine in what moves."""
    op = node.op
    if isinstance(op, Constant | Operand):
        value = op.evaluate() if isinstance(op, Constant) else state.operands[node.name][0]
        return value.reshape(1, *node.type.shape)
    if isinstance(op, Spec):
        matrix, offset = op.affine(*(values[name][:1] for name in node.inputs[1:]))
        result = values[node.inputs[0]] @ matrix[0].T
        return torch.cat([result[:1] + offset, result[1:]])
    assert isinstance(op, LinearOp), node
    operands = _same_length([values[name] for name in node.inputs])
    constant = op.evaluate(*(operand[:1] for operand in operands))
    if operands[0].shape[0] == 1:
        return constant
    return torch.cat([constant, op.apply(*(operand[1:] for operand in operands))])


def _same_length(operands: Sequence[Affine]) -> list[Affine]:
    length = max(operand.shape[0] for operand in operands)
    return [torch.cat([part, part.new_zeros(length - part.shape[0], *part.shape[1:])]) for part in operands]


def _columns(value: Affine) -> list[Tensor]:
    return list(value.reshape(value.shape[0], -1).T)


def _patterns(state: State, sizes: Sequence[int]) -> Iterator[list[Tensor]]:
    """Every choice of signs of the ReLUs, but those that the state's bounds rule out."""
    lower, upper = [], []
    for node in state.graph:
        if isinstance(node.op, Relu):
            bounds = state.bounds[node.inputs[0]]
            lower.append(bounds.lower[0].flatten())
            upper.append(bounds.upper[0].flatten())
    low, high = torch.cat([*lower, torch.empty(0)]), torch.cat([*upper, torch.empty(0)])
    open_ = ((low < 0) & (high > 0)).nonzero().flatten()
    for number in range(2 ** len(open_)):
        signs = low >= 0
        signs[open_] = torch.tensor([bool(number >> bit & 1) for bit in range(len(open_))], dtype=torch.bool)
        yield list(signs.split(list(sizes)))


def _fixed(program: Program, value: Affine, signs: Tensor) -> Affine:
    for row, active in zip(_columns(value), signs.tolist(), strict=True):
        program.rows.append(row if active else -row)
    return value * signs.reshape(value.shape[1:])


def _triangle(program: Program, value: Affine, state: State, node: Node) -> Affine:
    bounds = state.bounds[node.inputs[0]]
    results = []
    for row, low, high in zip(_columns(value), bounds.lower.flatten(), bounds.upper.flatten(), strict=True):
        if low >= 0 or high <= 0:
            results.append(row if low >= 0 else torch.zeros_like(row))
            continue
        own = torch.zeros(1 + program.variable(0.0, math.inf) + 1, dtype=torch.float64)
        own[-1] = 1.0
        padded = torch.cat([row, row.new_zeros(len(own) - len(row))])
        ceiling = high / (high - low) * padded
        ceiling[0] -= high * low / (high - low)
        program.rows += [own - padded, ceiling - own]
        results.append(own)
    stacked = torch.stack([torch.cat([row, row.new_zeros(1 + len(program.lower) - len(row))]) for row in results], 1)
    return stacked.reshape(-1, *value.shape[1:])


def _within(program: Program, value: Affine, state: State, name: str) -> None:
    bounds = state.bounds[name]
    for row, low, high in zip(_columns(value), bounds.lower.flatten(), bounds.upper.flatten(), strict=True):
        above, below = row.clone(), -row
        above[0] -= low - 1e-9  # bounds hold up to rounding; a set without interior needs room
        below[0] += high + 1e-9
        program.rows += [above, below]
