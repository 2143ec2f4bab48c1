"""Random small networks of every operator with an exact encoding, degenerate regions among theirs."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from irverify.ir.graph import Graph, GraphBuilder
from irverify.ir.ops import (
    Abs,
    Add,
    AveragePool,
    BatchNorm,
    Clip,
    Concat,
    Conv,
    LeakyRelu,
    Linear,
    Maximum,
    MaxPool,
    Minimum,
    Operator,
    Pad,
    Relu,
    Reshape,
    ScaleShift,
    Sub,
)
from irverify.ir.types import TensorType
from irverify.properties import Disjunct, Property
from irverify.regions import Box

FUNCTIONS: tuple[Operator, ...] = (
    Relu(), Relu(), Relu(), LeakyRelu(0.1), LeakyRelu(0.0), Clip(-1.0, 1.0), Clip(-0.5, 1.0), Clip(0.0, math.inf),
    Clip(-math.inf, 0.5), Abs(),
)  # fmt: skip
NO_PADDING = ((0, 0), (0, 0))


@dataclass
class SmallNet:
    """The network, region and property of a seed; at most three coordinates of the inputs are free."""

    seed: int
    graph: Graph = field(init=False)
    region: Box = field(init=False)
    prop: Property = field(init=False)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        image = self.rng.random() < 0.4
        shape = (self._int(1, 2), self._int(2, 4), self._int(3, 4)) if image else (self._int(1, 4),)
        self.builder = GraphBuilder()
        value = self.builder.input(TensorType(shape, torch.float64), name="x")
        for _ in range(self._int(1, 3)):
            value = self._image_block(value) if len(self._shape(value)) == 3 else self._flat_block(value)
        if len(self._shape(value)) == 3:
            value = self.builder.add(Reshape((math.prod(self._shape(value)),)), value)
        outputs = self._int(1, 3)
        self.graph = self.builder.graph([self._linear(value, outputs)])
        self.region = self._box(shape)
        self.prop = self._property(math.prod(shape), outputs)

    def shifted(self, amount: float) -> Property:
        """The property with all margins larger by an amount."""
        disjuncts = (Disjunct(part.outputs, part.offset + amount, part.inputs) for part in self.prop.disjuncts)
        return Property(tuple(disjuncts))

    def _int(self, low: int, high: int) -> int:
        return int(self.rng.integers(low, high + 1))

    def _tensor(self, *shape: int) -> Tensor:
        return torch.from_numpy(self.rng.normal(size=shape))

    def _shape(self, value: str) -> tuple[int, ...]:
        return self.builder.type(value).shape

    def _linear(self, value: str, size: int) -> str:
        (width,) = self._shape(value)
        return self.builder.add(Linear(self._tensor(size, width) / width**0.5, self._tensor(size) / 4), value)

    def _function(self, value: str) -> str:
        return self.builder.add(FUNCTIONS[self._int(0, len(FUNCTIONS) - 1)], value)

    def _flat_block(self, value: str) -> str:
        size = self._int(2, 5)
        kind = self._int(0, 5)
        if kind == 0:
            op = Maximum() if self.rng.random() < 0.5 else Minimum()
            return self.builder.add(op, self._linear(value, size), self._linear(value, size))
        result = self._function(self._linear(value, size))
        if kind == 1:  # a residual edge
            result = self.builder.add(Add(), self._linear(result, self._shape(value)[0]), value)
        elif kind == 2:
            result = self.builder.add(Concat(0), result, value)
        elif kind == 3:
            result = self.builder.add(ScaleShift(self._tensor(size), self._tensor(size)), result)
        elif kind == 4:
            result = self.builder.add(Sub(), result, self._linear(value, size))
        return result

    def _image_block(self, value: str) -> str:
        channels, height, width = self._shape(value)
        kernel, out = (self._int(1, min(2, height)), self._int(1, min(3, width))), self._int(1, 2)
        weight = self._tensor(out, channels, *kernel) / math.prod(kernel) ** 0.5
        padding = ((0, self._int(0, 1)), (self._int(0, 1), 0))
        stride = (self._int(1, 2), self._int(1, 2))
        result = self.builder.add(Conv(weight, self._tensor(out), stride, padding, (1, 1), 1), value)
        if self.rng.random() < 0.3:
            variance = self._tensor(out).abs() + 0.5
            result = self.builder.add(BatchNorm(self._tensor(out), variance, self._tensor(out)), result)
        result = self._function(result)
        _, height, width = self._shape(result)
        pool = (min(2, height), min(2, width)), (self._int(1, 2), self._int(1, 2))
        choice = self._int(0, 3)
        if choice == 0:
            return self.builder.add(MaxPool(*pool, NO_PADDING, (1, 1)), result)
        if choice == 1:
            return self.builder.add(AveragePool(*pool, NO_PADDING, NO_PADDING, (1, 1)), result)
        return self.builder.add(Pad(((0, 0), (0, 1), (1, 0))), result) if choice == 2 else result

    def _box(self, shape: tuple[int, ...]) -> Box:
        size = math.prod(shape)
        center, free = self.rng.normal(size=size) / 2, self.rng.permutation(size)[: min(3, self._int(0, 8))]
        radius = np.zeros(size)
        radius[free] = (0.5 + self.rng.random(len(free))) * self.rng.choice([0.1, 1.0, 2.0, 3.0])
        lower, upper = (torch.from_numpy(center + sign * radius).reshape(1, *shape) for sign in (-1, 1))
        return Box(lower, upper)

    def _property(self, inputs: int, outputs: int) -> Property:
        disjuncts = []
        for _ in range(self._int(1, 3)):
            rows = self._int(1, 2)
            given = self._tensor(rows, inputs) / inputs if self.rng.random() < 0.3 else None
            disjuncts.append(Disjunct(self._tensor(rows, outputs), self._tensor(rows), given))
        return Property(tuple(disjuncts))
