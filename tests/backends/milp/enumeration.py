"""The smallest margin of a piecewise linear network by enumeration of its activation patterns: a linear program for
each. It shares nothing with the encodings: linear operators are applied to a basis of the free coordinates."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import linprog

from irverify.ir.graph import Graph, Node
from irverify.ir.ops import Abs, Clip, Input, LeakyRelu, LinearOp, Maximum, MaxPool, Minimum, Relu
from irverify.properties import Property
from irverify.regions import Region

Floats: TypeAlias = npt.NDArray[np.float64]
"""Affine functions of the free coordinates: `[1 + coordinates, elements]`, the constants first."""
Option: TypeAlias = tuple[list[Floats], Floats]
"""What an element may be: affine functions that are <= 0 there, and its value, each `[1 + coordinates]`."""
THIN = 1e-9
"""By how much the rows of a pattern are relaxed: patterns that touch only are kept, which continuity allows."""


class TooMany(Exception):
    """More patterns than the budget."""


@dataclass(frozen=True)
class Cell:
    """A part of the box, `rows` `[1 + coordinates]` are <= 0 in it."""

    lower: Floats
    upper: Floats
    rows: tuple[Floats, ...] = ()

    def sides(self, function: Floats) -> tuple[float, float]:
        """Interval bounds over the box."""
        center, radius = (self.lower + self.upper) / 2, (self.upper - self.lower) / 2
        middle, reach = function[0] + function[1:] @ center, np.abs(function[1:]) @ radius
        return float(middle - reach), float(middle + reach)

    def cut(self, rows: Sequence[Floats]) -> Cell | None:
        """The part where further rows are <= 0; None where it is empty."""
        if any(self.sides(row)[0] > THIN for row in rows):
            return None
        needed = tuple(row for row in rows if self.sides(row)[1] > 0)
        part = Cell(self.lower, self.upper, (*self.rows, *needed))
        return part if not needed or part.smallest_maximum([]) is not None else None

    def smallest_maximum(self, functions: Sequence[Floats]) -> tuple[float, Floats] | None:
        """min over the cell of the largest of some functions, and where; None for an empty cell."""
        count = len(self.lower)
        rows = np.array([*self.rows, *functions]).reshape(-1, count + 1)
        above = np.concatenate([np.zeros(len(self.rows)), -np.ones(len(functions))])
        limits = -rows[:, 0] + np.concatenate([np.full(len(self.rows), THIN), np.zeros(len(functions))])
        bounds = [*zip(self.lower, self.upper, strict=True), (None, None) if functions else (0.0, 0.0)]
        objective = np.append(np.zeros(count), 1.0)
        result = linprog(objective, A_ub=np.hstack([rows[:, 1:], above[:, None]]), b_ub=limits, bounds=bounds)
        return (float(result.fun), result.x[:count]) if result.status == 0 else None


@dataclass
class Enumeration:
    """`minimum` is the smallest over all disjuncts and patterns of the largest margin; `inputs` attain it."""

    graph: Graph
    regions: Sequence[Region]
    budget: int = 400
    patterns: int = 0

    def __post_init__(self) -> None:
        sides = [region.box() for region in self.regions]
        lower, upper = (torch.cat([side[k].reshape(-1) for side in sides]).double().numpy() for k in (0, 1))
        free = np.flatnonzero(lower < upper)
        self.start = Cell(lower[free], upper[free])
        self.input = np.zeros((1 + len(free), len(lower)))
        self.input[0] = np.where(lower < upper, 0.0, lower)
        self.input[1 + np.arange(len(free)), free] = 1.0

    def minimum(self, prop: Property) -> tuple[float, Floats]:
        best, where = np.inf, np.zeros(0)
        for cell, values in self._walk(self.start, {}, 0):
            self.patterns += 1
            y = np.hstack([values[name] for name in self.graph.outputs])
            for disjunct in prop.disjuncts:
                rows = y @ disjunct.outputs.numpy().T
                if disjunct.inputs is not None:
                    rows = rows + self.input @ disjunct.inputs.numpy().T
                rows[0] += disjunct.offset.numpy()
                found = cell.smallest_maximum(list(rows.T))
                if found is not None and found[0] < best:
                    best, where = found[0], np.append(1.0, found[1]) @ self.input
        return best, where

    def _walk(self, cell: Cell, values: dict[str, Floats], at: int) -> Iterator[tuple[Cell, dict[str, Floats]]]:
        if self.patterns > self.budget:
            raise TooMany
        if at == len(self.graph.nodes):
            yield cell, values
            return
        node = self.graph.nodes[at]
        operands = [values[name] for name in node.inputs]
        if isinstance(node.op, Input):
            start = sum(entry.type.size for entry in itertools.takewhile(lambda n: n is not node, self.graph.inputs))
            parts = [(cell, self.input[:, start : start + node.type.size])]
        elif isinstance(node.op, LinearOp):
            parts = [(cell, self._linear(node, node.op, operands))]
        else:
            parts = self._pieces(cell, [_options(self.graph, node, operands, k) for k in range(node.type.size)])
        for part, value in parts:
            yield from self._walk(part, {**values, node.name: value}, at + 1)

    def _linear(self, node: Node, op: LinearOp, operands: list[Floats]) -> Floats:
        types = self.graph.operand_types(node)
        pairs = zip(operands, types, strict=True)
        tensors = [torch.from_numpy(part).reshape(-1, *type_.shape) for part, type_ in pairs]
        constant = op.evaluate(*(part[:1] for part in tensors)).reshape(1, -1)
        slopes = op.apply(*(part[1:] for part in tensors)).reshape(-1, node.type.size)
        return torch.cat([constant, slopes]).numpy()

    def _pieces(self, cell: Cell, elements: list[list[Option]]) -> list[tuple[Cell, Floats]]:
        """The cells in which each element has one of its options, and the values there."""
        parts: list[tuple[Cell, list[Floats]]] = [(cell, [])]
        for options in elements:
            grown = []
            for part, chosen in parts:
                cuts = [(part.cut(rows), value) for rows, value in options]
                grown += [(inner, [*chosen, value]) for inner, value in cuts if inner is not None]
            parts = grown
            if len(parts) > self.budget:
                raise TooMany
        return [(part, np.array(chosen).T) for part, chosen in parts]


def _options(graph: Graph, node: Node, operands: list[Floats], element: int) -> list[Option]:
    op = node.op
    if isinstance(op, MaxPool | Maximum | Minimum):
        sign = -1.0 if isinstance(op, Minimum) else 1.0
        if isinstance(op, MaxPool):
            candidates = [operands[0][:, k] for k in _window(op, graph[node.inputs[0]].type.shape, node, element)]
        else:
            candidates = [operand[:, element] for operand in operands]
        return [([sign * (other - best) for other in candidates if other is not best], best) for best in candidates]
    z = operands[0][:, element]
    if isinstance(op, Clip):
        pieces = [(-np.inf, op.lower, 0.0, op.lower), (op.lower, op.upper, 1.0, 0.0), (op.upper, np.inf, 0.0, op.upper)]
        pieces = [piece for piece in pieces if piece[0] < piece[1]]
    else:
        assert isinstance(op, Relu | LeakyRelu | Abs)
        left = {Relu: 0.0, Abs: -1.0}.get(type(op), getattr(op, "slope", 0.0))
        pieces = [(-np.inf, 0.0, left, 0.0), (0.0, np.inf, 1.0, 0.0)]
    one = np.eye(len(z))[0]
    options = []
    for low, high, slope, shift in pieces:
        rows = [low * one - z] if low > -np.inf else []
        rows += [z - high * one] if high < np.inf else []
        options.append((rows, slope * z + (shift * one if np.isfinite(shift) else 0.0)))
    return options


def _window(op: MaxPool, operand: tuple[int, ...], node: Node, element: int) -> list[int]:
    """The elements of the operand under one element of a pooling."""
    channel, *place = np.unravel_index(element, node.type.shape)
    windows, axes = op.windows, []
    for axis, at in enumerate(place):
        start = int(at) * windows.stride[axis] - windows.padding[axis][0]
        ends = (start + k * windows.dilation[axis] for k in range(windows.kernel[axis]))
        axes.append([position for position in ends if 0 <= position < operand[1 + axis]])
    return [int(np.ravel_multi_index((int(channel), *spot), operand)) for spot in itertools.product(*axes)]
