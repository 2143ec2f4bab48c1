"""Random linear operators with inputs that fit them; whole numbers, so that sums are exact in float64."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from irverify.ir.ops import (
    Add,
    AveragePool,
    BatchNorm,
    Cast,
    Concat,
    ConstMatMul,
    Conv,
    ConvTranspose,
    Expand,
    Gather,
    Identity,
    Linear,
    LinearOp,
    Neg,
    Pad,
    ReduceMean,
    ReduceSum,
    Reshape,
    ScaleShift,
    Slice,
    Sub,
    Transpose,
)
from irverify.ir.types import TensorType

Case = tuple[LinearOp, tuple[TensorType, ...]]
SMALL = st.integers(1, 3)


def whole(draw: st.DrawFn, *shape: int) -> Tensor:
    """Numbers from -3 to 3."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    return torch.randint(-3, 4, shape, generator=generator).double()


def f64(*shape: int) -> TensorType:
    return TensorType(shape, torch.float64)


def shapes(minimum: int = 0, maximum: int = 3) -> st.SearchStrategy[tuple[int, ...]]:
    return st.lists(SMALL, min_size=minimum, max_size=maximum).map(tuple)


@st.composite
def linear(draw: st.DrawFn) -> Case:
    lead, inner, outer = draw(shapes(0, 2)), draw(SMALL), draw(SMALL)
    bias = whole(draw, outer) if draw(st.booleans()) else None
    return Linear(whole(draw, outer, inner), bias), (f64(*lead, inner),)


@st.composite
def const_matmul(draw: st.DrawFn) -> Case:
    rows, inner, columns = draw(SMALL), draw(SMALL), draw(SMALL)
    lead = draw(shapes(0, 2))
    ours, theirs = (tuple(1 if draw(st.booleans()) else extent for extent in lead)[draw(st.integers(0, len(lead))) :]
                    for _ in range(2))  # fmt: skip
    if draw(st.booleans()):
        return ConstMatMul(whole(draw, *ours, rows, inner), left=True), (f64(*theirs, inner, columns),)
    return ConstMatMul(whole(draw, *ours, inner, columns)), (f64(*theirs, rows, inner),)


@st.composite
def scale_shift(draw: st.DrawFn) -> Case:
    shape = draw(shapes())

    def part() -> Tensor | None:
        if draw(st.booleans()):
            return None
        kept = tuple(1 if draw(st.booleans()) else extent for extent in shape)
        return whole(draw, *kept[draw(st.integers(0, len(kept))) :])

    return ScaleShift(part(), part()), (f64(*shape),)


@st.composite
def batch_norm(draw: st.DrawFn) -> Case:
    channels = draw(SMALL)
    weight, bias = (whole(draw, channels) if draw(st.booleans()) else None for _ in range(2))
    epsilon = draw(st.sampled_from([0.0, 0.1]))
    op = BatchNorm(whole(draw, channels), whole(draw, channels).abs() + 0.5, weight, bias, epsilon)
    return op, (f64(channels, *draw(shapes(0, 2))),)


@st.composite
def windows(draw: st.DrawFn, low: int = 0) -> dict[str, Any]:
    """Extent, kernel, stride, padding and dilation for one or two axes, chosen so that a window fits."""
    axes = draw(st.integers(1, 2))
    result: dict[str, Any] = {name: [] for name in ("extent", "kernel", "stride", "padding", "dilation")}
    for _ in range(axes):
        kernel, dilation = draw(SMALL), draw(st.integers(1, 2))
        before, after = draw(st.integers(low, 2)), draw(st.integers(low, 2))
        least = max(dilation * (kernel - 1) + 1 - before - after, 1, -before + 1, -after + 1, -before - after + 1)
        for name, entry in (("extent", least + draw(st.integers(0, 3))), ("kernel", kernel),
                            ("stride", draw(SMALL)), ("padding", (before, after)), ("dilation", dilation)):  # fmt: skip
            result[name].append(entry)
    return {name: tuple(entries) for name, entries in result.items()}


@st.composite
def conv(draw: st.DrawFn) -> Case:
    window, groups = draw(windows(low=-1)), draw(st.integers(1, 2))
    inner, outer = groups * draw(st.integers(1, 2)), groups * draw(st.integers(1, 2))
    weight = whole(draw, outer, inner // groups, *window["kernel"])
    bias = whole(draw, outer) if draw(st.booleans()) else None
    op = Conv(weight, bias, window["stride"], window["padding"], window["dilation"], groups)
    return op, (f64(inner, *window["extent"]),)


@st.composite
def conv_transpose(draw: st.DrawFn) -> Case:
    axes, groups = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    inner, outer = groups * draw(st.integers(1, 2)), groups * draw(st.integers(1, 2))
    kernel, stride, dilation, extra, padding, extents = [], [], [], [], [], []
    for _ in range(axes):
        kernel.append(draw(SMALL))
        stride.append(draw(SMALL))
        dilation.append(draw(st.integers(1, 2)))
        extra.append(draw(st.integers(0, 2)))
        extents.append(draw(SMALL))
        full = stride[-1] * (extents[-1] - 1) + dilation[-1] * (kernel[-1] - 1) + 1 + extra[-1]
        before = draw(st.integers(0, min(2, full - 1)))
        padding.append((before, draw(st.integers(0, min(2, full - 1 - before)))))
    weight = whole(draw, inner, outer // groups, *kernel)
    bias = whole(draw, outer) if draw(st.booleans()) else None
    op = ConvTranspose(weight, bias, tuple(stride), tuple(padding), tuple(extra), tuple(dilation), groups)
    return op, (f64(inner, *extents),)


@st.composite
def average_pool(draw: st.DrawFn) -> Case:
    window = draw(windows())
    # Every window reaches into the input: padding is less than the kernel's reach.
    padding = tuple((min(before, kernel - 1), min(after, kernel - 1))
                    for (before, after), kernel in zip(window["padding"], window["kernel"], strict=True))  # fmt: skip
    extents = tuple(extent + 4 for extent in window["extent"])
    counted = draw(st.sampled_from([padding, ((0, 0),) * len(padding), tuple((before, 0) for before, _ in padding)]))
    dilation = (1,) * len(padding)
    op = AveragePool(window["kernel"], window["stride"], padding, counted, dilation)
    return op, (f64(draw(SMALL), *extents),)


@st.composite
def summed(draw: st.DrawFn) -> Case:
    shape = draw(shapes())
    return Add(), (f64(*shape),) * draw(st.integers(1, 3))


@st.composite
def reshape(draw: st.DrawFn) -> Case:
    shape = draw(st.permutations([2, 3, 1]))
    return Reshape(draw(st.sampled_from([(6,), (3, 2), (1, 2, 3), (6, 1)]))), (f64(*shape),)


@st.composite
def transpose(draw: st.DrawFn) -> Case:
    shape = draw(shapes())
    return Transpose(tuple(draw(st.permutations(range(len(shape)))))), (f64(*shape),)


@st.composite
def expand(draw: st.DrawFn) -> Case:
    shape = draw(shapes())
    kept = tuple(1 if draw(st.booleans()) else extent for extent in shape)
    return Expand(shape), (f64(*kept[draw(st.integers(0, len(kept))) :]),)


@st.composite
def slice_(draw: st.DrawFn) -> Case:
    shape = draw(shapes(1))
    ranges = []
    for extent in shape:
        start = draw(st.integers(0, extent - 1))
        ranges.append((start, draw(st.integers(start + 1, extent)), draw(st.integers(1, 2))))
    starts, stops, steps = zip(*ranges, strict=True)
    return Slice(starts, stops, steps), (f64(*shape),)


@st.composite
def concat(draw: st.DrawFn) -> Case:
    shape = draw(shapes(1))
    axis = draw(st.integers(-len(shape), len(shape) - 1))
    extents = draw(st.lists(SMALL, min_size=1, max_size=3))
    place = axis % len(shape)
    return Concat(axis), tuple(f64(*shape[:place], extent, *shape[place + 1 :]) for extent in extents)


@st.composite
def gather(draw: st.DrawFn) -> Case:
    shape = draw(shapes(1))
    axis = draw(st.integers(-len(shape), len(shape) - 1))
    indices = draw(st.lists(st.integers(0, shape[axis] - 1), min_size=1, max_size=5))
    return Gather(torch.tensor(indices), axis), (f64(*shape),)


@st.composite
def pad(draw: st.DrawFn) -> Case:
    shape = draw(shapes(1))
    padding = []
    for extent in shape:
        before = draw(st.integers(-3, 2))
        padding.append((before, draw(st.integers(max(-3, 1 - extent - before), 4))))
    return Pad(tuple(padding)), (f64(*shape),)


@st.composite
def reduce(draw: st.DrawFn, op: type[ReduceSum] = ReduceSum) -> Case:
    shape = draw(shapes(1))
    axes = draw(st.lists(st.integers(0, len(shape) - 1), min_size=1, unique=True))
    signed = tuple(axis - len(shape) if draw(st.booleans()) else axis for axis in axes)
    return op(signed, draw(st.booleans())), (f64(*shape),)


def simple(op: LinearOp, arity: int = 1) -> st.SearchStrategy[Case]:
    return shapes().map(lambda shape: (op, (f64(*shape),) * arity))


CASES: dict[type[LinearOp], st.SearchStrategy[Case]] = {
    Linear: linear(),
    ConstMatMul: const_matmul(),
    ScaleShift: scale_shift(),
    BatchNorm: batch_norm(),
    Add: summed(),
    Sub: simple(Sub(), 2),
    Neg: simple(Neg()),
    Identity: simple(Identity()),
    Cast: simple(Cast(torch.float64)),
    Conv: conv(),
    ConvTranspose: conv_transpose(),
    AveragePool: average_pool(),
    Reshape: reshape(),
    Transpose: transpose(),
    Expand: expand(),
    Slice: slice_(),
    Concat: concat(),
    Gather: gather(),
    Pad: pad(),
    ReduceSum: reduce(),
    ReduceMean: reduce(ReduceMean),
}
