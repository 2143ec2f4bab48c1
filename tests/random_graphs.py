"""Random graphs and regions for property tests.

`graphs()` draws DAGs with shared values, residual and dense connections, convolutions, pooling, every activation and
products of values. The structure is drawn by hypothesis, so that failing graphs shrink; weights come from a drawn seed.
Restrict the operators with `kinds`: `graphs(kinds=AFFINE + PIECEWISE)`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor

from irverify.errors import ShapeError
from irverify.ir.graph import Graph, GraphBuilder
from irverify.ir.ops import (
    Abs,
    Add,
    AveragePool,
    BatchNorm,
    Clip,
    Concat,
    Constant,
    ConstMatMul,
    Conv,
    ConvTranspose,
    Cos,
    Div,
    Exp,
    Expand,
    Gather,
    Identity,
    LeakyRelu,
    Linear,
    MatMul,
    Maximum,
    MaxPool,
    Minimum,
    Mul,
    Neg,
    Operator,
    Pad,
    Pow,
    ReduceMean,
    ReduceSum,
    Relu,
    Reshape,
    ScaleShift,
    Sigmoid,
    Sin,
    Slice,
    Softmax,
    Step,
    Sub,
    Tanh,
    Transpose,
    Trunc,
    Windows,
)
from irverify.ir.types import TensorType
from irverify.regions import Box, Region

SHAPES = ((3,), (6,), (2, 3), (1, 4, 4), (2, 4, 3), (2, 5), (1, 5, 4), (2, 6, 4))
MAX_SIZE = 96
"""No value has more elements than this."""


@dataclass
class Sketch:
    """A graph that is being drawn."""

    draw: st.DrawFn
    builder: GraphBuilder
    dtype: torch.dtype
    generator: torch.Generator
    values: list[str]

    def tensor(self, *shape: int, spread: float = 1.0) -> Tensor:
        return (torch.randn(shape, generator=self.generator, dtype=torch.float64) * spread).to(self.dtype)

    def pick(self, fits: Callable[[TensorType], bool] = lambda type_: True) -> str | None:
        """A value of a fitting type, most often the latest one; None where there is none."""
        fitting = [name for name in reversed(self.values) if fits(self.builder.type(name))]
        return self.draw(st.sampled_from([*fitting[:1] * 2, *fitting])) if fitting else None

    def add(self, op: Operator, *inputs: str) -> str:
        return self.builder.add(op, *inputs)

    def integer(self, low: int, high: int) -> int:
        return self.draw(st.integers(low, high))

    def shape(self, name: str) -> tuple[int, ...]:
        return self.builder.type(name).shape


Kind = Callable[[Sketch], "str | None"]
"""Adds one operator on some values and returns the new value; None where nothing fits."""


def _of(name: str | None, sketch: Sketch, make: Callable[[tuple[int, ...]], Operator]) -> str | None:
    return None if name is None else sketch.add(make(sketch.shape(name)), name)


def elementwise(op: Operator) -> Kind:
    def add(sketch: Sketch) -> str | None:
        return _of(sketch.pick(), sketch, lambda shape: op)

    return add


def _tamed(op: Operator) -> Kind:
    """The operator on a value that is clipped first, so that bounds stay finite."""

    def add(sketch: Sketch) -> str | None:
        name = sketch.pick()
        return None if name is None else sketch.add(op, sketch.add(Clip(-2.0, 3.0), name))

    return add


def pair(op: Operator) -> Kind:
    def add(sketch: Sketch) -> str | None:
        first = sketch.pick()
        second = None if first is None else sketch.pick(lambda type_: type_ == sketch.builder.type(str(first)))
        return None if first is None or second is None else sketch.add(op, first, second)

    return add


def linear(sketch: Sketch) -> str | None:
    out = sketch.integer(1, 5)
    bias = sketch.tensor(out) if sketch.draw(st.booleans()) else None
    return _of(
        sketch.pick(lambda type_: type_.rank >= 1),
        sketch,
        lambda shape: Linear(sketch.tensor(out, shape[-1], spread=shape[-1] ** -0.5), bias),
    )


def const_matmul(sketch: Sketch) -> str | None:
    left = sketch.draw(st.booleans())
    out = sketch.integer(1, 4)

    def make(shape: tuple[int, ...]) -> Operator:
        weight = sketch.tensor(out, shape[-2]) if left else sketch.tensor(shape[-1], out)
        return ConstMatMul(weight * 0.5, left)

    return _of(sketch.pick(lambda type_: type_.rank >= 2), sketch, make)


def scale_shift(sketch: Sketch) -> str | None:
    form = sketch.draw(st.sampled_from(("scalar", "channel", "full")))

    def parameter(shape: tuple[int, ...]) -> Tensor:
        if form == "channel" and shape:
            return sketch.tensor(shape[0], *(1,) * (len(shape) - 1))
        return sketch.tensor(*(shape if form == "full" else ()))

    which = sketch.draw(st.sampled_from(("scale", "shift", "both")))
    return _of(sketch.pick(), sketch, lambda shape: ScaleShift(
        parameter(shape) if which != "shift" else None, parameter(shape) if which != "scale" else None
    ))  # fmt: skip


def with_constant(sketch: Sketch) -> str | None:
    """A binary operator with a constant, on either side."""
    name = sketch.pick()
    if name is None:
        return None
    tensor = sketch.tensor(*sketch.shape(name))
    op = sketch.draw(st.sampled_from((Add(), Sub(), Mul(), Maximum(), Minimum(), Div())))
    if isinstance(op, Div):
        return sketch.add(op, name, sketch.add(Constant(tensor.abs() + 0.5)))
    constant = sketch.add(Constant(tensor))
    return sketch.add(op, *((name, constant) if sketch.draw(st.booleans()) else (constant, name)))


def _windows(sketch: Sketch) -> Windows:
    """Windows over two spatial axes."""
    kernel = (sketch.integer(1, 3), sketch.integer(1, 3))
    vertical, horizontal = ((sketch.integer(0, size // 2), sketch.integer(0, size // 2)) for size in kernel)
    stride = (sketch.integer(1, 2), sketch.integer(1, 2))
    return Windows(kernel, stride, (vertical, horizontal), (sketch.integer(1, 2), 1))


def _fits(op: Operator | Windows, type_: TensorType) -> bool:
    try:
        op.infer(type_)
    except ShapeError:
        return False
    return True


def conv(sketch: Sketch) -> str | None:
    windows = _windows(sketch)

    def make(shape: tuple[int, ...]) -> Operator:
        groups = 2 if shape[0] % 2 == 0 and sketch.draw(st.booleans()) else 1
        out = groups * sketch.integer(1, 2)
        weight = sketch.tensor(out, shape[0] // groups, *windows.kernel, spread=0.5)
        bias = sketch.tensor(out) if sketch.draw(st.booleans()) else None
        return Conv(weight, bias, windows.stride, windows.padding, windows.dilation, groups)

    return _of(sketch.pick(lambda type_: type_.rank == 3 and _fits(windows, type_)), sketch, make)


def conv_transpose(sketch: Sketch) -> str | None:
    kernel, stride = (sketch.integer(1, 2), sketch.integer(1, 3)), (sketch.integer(1, 2), 1)

    def make(shape: tuple[int, ...]) -> Operator:
        groups = 2 if shape[0] % 2 == 0 and sketch.draw(st.booleans()) else 1
        per_group = sketch.integer(1, 2)
        weight = sketch.tensor(shape[0], per_group, *kernel, spread=0.5)
        bias = sketch.tensor(per_group * groups) if sketch.draw(st.booleans()) else None
        padding = ((sketch.integer(0, 1), 0), (0, sketch.integer(0, 1)))
        return ConvTranspose(weight, bias, stride, padding, (stride[0] - 1, 0), (1, 1), groups)

    return _of(
        sketch.pick(lambda type_: type_.rank == 3 and min(type_.shape[1:]) >= 2 and type_.size <= 24),
        sketch,
        make,
    )


def batch_norm(sketch: Sketch) -> str | None:
    def make(shape: tuple[int, ...]) -> Operator:
        channels = shape[0]
        affine = sketch.draw(st.booleans())
        return BatchNorm(
            sketch.tensor(channels),
            sketch.tensor(channels).abs() + 0.1,
            sketch.tensor(channels) if affine else None,
            sketch.tensor(channels) if affine else None,
        )

    return _of(sketch.pick(lambda type_: type_.rank >= 1), sketch, make)


def max_pool(sketch: Sketch) -> str | None:
    windows = _windows(sketch)
    op = MaxPool(windows.kernel, windows.stride, windows.padding, windows.dilation)
    return _of(sketch.pick(lambda type_: _fits(op, type_)), sketch, lambda shape: op)


def average_pool(sketch: Sketch) -> str | None:
    windows = _windows(sketch)
    counted = windows.padding if sketch.draw(st.booleans()) else ((0, 0), (0, 0))
    op = AveragePool(windows.kernel, windows.stride, windows.padding, counted, windows.dilation)
    return _of(sketch.pick(lambda type_: _fits(op, type_)), sketch, lambda shape: op)


def reshape(sketch: Sketch) -> str | None:
    def make(shape: tuple[int, ...]) -> Operator:
        size = 1
        for extent in shape:
            size *= extent
        forms: list[tuple[int, ...]] = [(size,), (1, size), shape]
        forms += [(2, size // 2)] if size % 2 == 0 else []
        forms += [(1, 4, size // 4)] if size % 4 == 0 else []
        return Reshape(sketch.draw(st.sampled_from(forms)))

    return _of(sketch.pick(), sketch, make)


def transpose(sketch: Sketch) -> str | None:
    return _of(
        sketch.pick(lambda type_: type_.rank >= 2),
        sketch,
        lambda shape: Transpose(tuple(sketch.draw(st.permutations(range(len(shape)))))),
    )


def slice_(sketch: Sketch) -> str | None:
    def make(shape: tuple[int, ...]) -> Operator:
        starts = tuple(sketch.integer(0, extent - 1) for extent in shape)
        stops = tuple(sketch.integer(start + 1, extent) for start, extent in zip(starts, shape, strict=True))
        return Slice(starts, stops, tuple(sketch.integer(1, 2) for _ in shape))

    return _of(sketch.pick(lambda type_: type_.rank >= 1), sketch, make)


def gather(sketch: Sketch) -> str | None:
    def make(shape: tuple[int, ...]) -> Operator:
        axis = sketch.integer(0, len(shape) - 1)
        indices = sketch.draw(st.lists(st.integers(0, shape[axis] - 1), min_size=1, max_size=4))
        return Gather(torch.tensor(indices), axis)

    return _of(sketch.pick(lambda type_: type_.rank >= 1), sketch, make)


def pad(sketch: Sketch) -> str | None:
    return _of(
        sketch.pick(lambda type_: type_.rank >= 1 and type_.size <= 24),
        sketch,
        lambda shape: Pad(tuple((sketch.integer(0, 1), sketch.integer(0, 1)) for _ in shape)),
    )


def expand(sketch: Sketch) -> str | None:
    return _of(
        sketch.pick(lambda type_: type_.rank <= 2 and type_.size <= 24), sketch, lambda shape: Expand((2, *shape))
    )


def reduce(sketch: Sketch) -> str | None:
    form = sketch.draw(st.sampled_from((ReduceSum, ReduceMean)))
    return _of(
        sketch.pick(lambda type_: type_.rank >= 1),
        sketch,
        lambda shape: form((sketch.integer(0, len(shape) - 1),), sketch.draw(st.booleans())),
    )


def concat(sketch: Sketch) -> str | None:
    first = sketch.pick(lambda type_: type_.rank >= 1 and type_.size <= 24)
    if first is None:
        return None
    rest = sketch.shape(first)[1:]
    second = sketch.pick(lambda type_: type_.rank >= 1 and type_.shape[1:] == rest and type_.size <= 24)
    return None if second is None else sketch.add(Concat(0), first, second)


def softmax(sketch: Sketch) -> str | None:
    return _of(
        sketch.pick(lambda type_: type_.rank >= 1),
        sketch,
        lambda shape: Softmax(sketch.integer(-len(shape), len(shape) - 1)),
    )


def div(sketch: Sketch) -> str | None:
    top = sketch.pick()
    bottom = None if top is None else sketch.pick(lambda type_: type_ == sketch.builder.type(str(top)))
    if top is None or bottom is None:
        return None
    half = torch.tensor(0.5, dtype=sketch.dtype)
    return sketch.add(Div(), top, sketch.add(ScaleShift(None, half), sketch.add(Sigmoid(), bottom)))


def matmul(sketch: Sketch) -> str | None:
    first = sketch.pick(lambda type_: type_.rank == 2 and type_.size <= 12)
    if first is None:
        return None
    inner = sketch.shape(first)[1]
    second = sketch.pick(lambda type_: type_.rank == 2 and type_.shape[0] == inner and type_.size <= 12)
    return sketch.add(MatMul(), first, second or sketch.add(Transpose((1, 0)), first))


AFFINE: tuple[Kind, ...] = (
    linear, conv, const_matmul, scale_shift, batch_norm, conv, conv_transpose, linear, average_pool,
    pair(Add()), pair(Sub()),
    elementwise(Neg()), elementwise(Identity()), reshape, transpose, slice_, gather, pad, expand, reduce, concat,
)  # fmt: skip
MONOTONE: tuple[Kind, ...] = (
    elementwise(Relu()), elementwise(Relu()), elementwise(LeakyRelu(0.1)), elementwise(Clip(-0.5, 1.0)),
    elementwise(Clip(0.0, float("inf"))), elementwise(Sigmoid()), elementwise(Tanh()), _tamed(Exp()), max_pool,
    pair(Maximum()), pair(Minimum()),
)  # fmt: skip
PIECEWISE: tuple[Kind, ...] = (
    elementwise(Relu()), elementwise(LeakyRelu(0.1)), elementwise(Clip(-0.5, 1.0)), elementwise(Abs()), max_pool,
    pair(Maximum()), pair(Minimum()),
)  # fmt: skip
CURVED: tuple[Kind, ...] = (
    _tamed(Pow(2.0)), _tamed(Pow(3.0)), elementwise(Sin()), elementwise(Cos()), elementwise(Abs()), softmax,
    _tamed(Exp()),
)  # fmt: skip
PRODUCTS: tuple[Kind, ...] = (pair(Mul()), div, matmul, with_constant)
JUMPS: tuple[Kind, ...] = (elementwise(Step()), elementwise(Step(inclusive=True)), elementwise(Trunc()))
"""Not continuous: two evaluations of one function may differ there. Not part of EVERYTHING."""
EVERYTHING = AFFINE + MONOTONE + CURVED + PRODUCTS


@st.composite
def graphs(
    draw: st.DrawFn,
    *,
    kinds: Sequence[Kind] = EVERYTHING,
    dtype: torch.dtype = torch.float64,
    max_nodes: int = 10,
    inputs: int = 2,
    shapes: Sequence[tuple[int, ...]] = SHAPES,
) -> Graph:
    """A graph of up to `max_nodes` drawn operators; what nobody reads in the end are its outputs."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    sketch = Sketch(draw, GraphBuilder("random"), dtype, generator, [])
    for index in range(draw(st.integers(1, inputs))):
        shape = draw(st.sampled_from(tuple(shapes)))
        sketch.values.append(sketch.builder.input(TensorType(shape, dtype), name=f"x{index}"))
    for _ in range(draw(st.integers(1, max_nodes))):
        made = draw(st.sampled_from(kinds))(sketch)
        if made is not None and 0 < sketch.builder.type(made).size <= MAX_SIZE:
            sketch.values.append(made)
    return _closed(sketch)


def _closed(sketch: Sketch) -> Graph:
    """The graph whose outputs are the drawn values that nobody reads; what was too large is gone."""
    whole = sketch.builder.graph(sketch.values[-1:])
    read = {operand for name in sketch.values for operand in whole[name].inputs}
    leaves = [name for name in sketch.values if name not in read] or sketch.values[-1:]
    needed = set(leaves)
    for node in reversed(whole.nodes):
        needed.update(node.inputs if node.name in needed else ())
    kept = [node for node in whole if node.name in needed or node in whole.inputs]
    return Graph(kept, [name for name in leaves if name in needed], "random")


@st.composite
def boxes(draw: st.DrawFn, graph: Graph, *, batch: int = 2) -> tuple[Region, ...]:
    """A box for each input of a graph; some coordinates, or all, are single points."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    spread = draw(st.sampled_from((0.0, 0.01, 0.3, 1.0)))
    regions = []
    for node in graph.inputs:
        size = (batch, *node.type.shape)
        center = torch.randn(size, generator=generator, dtype=torch.float64)
        radius = torch.rand(size, generator=generator, dtype=torch.float64) * spread
        radius = torch.where(torch.rand(size, generator=generator) < 0.2, torch.zeros(()).double(), radius)
        regions.append(Box((center - radius).to(node.type.dtype), (center + radius).to(node.type.dtype)))
    return tuple(regions)


def points(graph: Graph, regions: Sequence[Region], count: int = 8, seed: int = 0) -> list[dict[str, Tensor]]:
    """Inputs by name, each `[batch, *shape]`, all inside: `count` times corners and `count` times random points."""
    result = []
    for corners in (True, False):
        generator = torch.Generator().manual_seed(seed)
        samples = [region.sample(count, generator, corners=corners) for region in regions]
        names = [node.name for node in graph.inputs]
        result += [{name: part[index] for name, part in zip(names, samples, strict=True)} for index in range(count)]
    return result
