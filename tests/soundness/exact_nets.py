"""Small networks together with what they compute in exact rational arithmetic.

Only the first input varies: along it every value is piecewise linear, with breakpoints that rational numbers hold
exactly, so that the true range of each value is known. The other inputs are fixed, which leaves room for cancellation.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from irverify.ir.graph import Graph, GraphBuilder
from irverify.ir.ops import Abs, Clip, LeakyRelu, Linear, Operator, Relu
from irverify.ir.types import TensorType
from irverify.regions import Box

Vector = list[Fraction]
ZERO = Fraction(0)
ACTIVATIONS: tuple[tuple[Operator, Callable[[Fraction], Fraction], tuple[int, ...]], ...] = (
    (Relu(), lambda x: max(x, ZERO), (0,)),
    (Abs(), abs, (0,)),
    (Clip(-1.0, 2.0), lambda x: min(max(x, Fraction(-1)), Fraction(2)), (-1, 2)),
    (LeakyRelu(0.0), lambda x: max(x, ZERO), (0,)),
    (LeakyRelu(3.0), lambda x: x if x >= 0 else 3 * x, (0,)),
)


@dataclass(frozen=True)
class Path:
    """A value along the segment: linear between the points `ts`, where it is `values`."""

    ts: tuple[Fraction, ...]
    values: tuple[Vector, ...]

    def affine(self, weight: Tensor, bias: Tensor) -> Path:
        rows = [[Fraction(entry) for entry in row] for row in weight.tolist()]
        shift = [Fraction(entry) for entry in bias.tolist()]
        return Path(self.ts, tuple(
            [sum((a * b for a, b in zip(row, value, strict=True)), c) for row, c in zip(rows, shift, strict=True)]
            for value in self.values
        ))  # fmt: skip

    def bent(self, function: Callable[[Fraction], Fraction], knots: tuple[int, ...]) -> Path:
        """`function`, which is linear between `knots`, of every element."""
        ts, values = [self.ts[0]], [self.values[0]]
        for index in range(len(self.ts) - 1):
            start, width = self.ts[index], self.ts[index + 1] - self.ts[index]
            first, last = self.values[index], self.values[index + 1]
            pairs = list(zip(first, last, strict=True))
            cuts = sorted({(k - a) / (b - a) for a, b in pairs for k in knots if a < k < b or b < k < a})
            ts += [*(start + width * cut for cut in cuts), self.ts[index + 1]]
            values += [*([a + (b - a) * cut for a, b in pairs] for cut in cuts), last]
        return Path(tuple(ts), tuple([function(entry) for entry in value] for value in values))

    def range(self, element: int) -> tuple[Fraction, Fraction]:
        entries = [value[element] for value in self.values]
        return min(entries), max(entries)


@dataclass(frozen=True)
class Exact:
    graph: Graph
    region: Box
    paths: dict[str, Path]

    @property
    def output(self) -> Path:
        return self.paths[self.graph.outputs[0]]


def exact_net(seed: int, low: float, high: float) -> Exact:
    """A network of 2 to 4 layers with one output, weights of size 10**low to 10**high, units near their knots."""
    rng = random.Random(seed)
    size, depth, width = rng.choice([1, 2, 3]), rng.choice([2, 3, 4]), rng.choice([3, 5, 8])
    generator = torch.Generator().manual_seed(rng.randrange(2**31))
    lower = torch.rand(size, generator=generator, dtype=torch.float64) * 2 - 1
    upper = lower.clone()
    upper[0] += rng.choice([1e-3, 0.1, 1.0, 1.0])
    builder = GraphBuilder()
    name = builder.input(TensorType((size,), torch.float64))
    path = Path((ZERO, Fraction(1)), tuple([Fraction(entry) for entry in side.tolist()] for side in (lower, upper)))
    paths = {}
    for layer in range(depth):
        outputs, scale = 1 if layer == depth - 1 else width, 10 ** rng.uniform(low, high)
        weight = torch.randn(outputs, size, generator=generator, dtype=torch.float64) * scale
        bias = torch.randn(outputs, generator=generator, dtype=torch.float64) * scale
        if rng.random() < 0.5 and outputs > 1 and layer > 0:
            bias = _centred(path, weight)
        name, path = builder.add(Linear(weight, bias), name), path.affine(weight, bias)
        paths[name] = path
        if layer < depth - 1:
            op, function, knots = rng.choice(ACTIVATIONS)
            name, path = builder.add(op, name), path.bent(function, knots)
            paths[name] = path
        size = outputs
    return Exact(builder.graph([name]), Box(lower[None], upper[None]), paths)


def _centred(path: Path, weight: Tensor) -> Tensor:
    """The bias for which terms cancel in the middle of the ranges, and units lie on both sides of their knots."""
    middle = [sum(path.range(element)) / 2 for element in range(weight.shape[1])]
    sums = [sum(Fraction(a) * b for a, b in zip(row, middle, strict=True)) for row in weight.tolist()]
    return torch.tensor([-float(total) for total in sums], dtype=torch.float64)
