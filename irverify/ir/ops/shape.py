"""Operators that move elements without changing them, and sums along axes. Axes are counted without the batch axis."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from irverify.ir.ops.base import LinearOp, broadcast, expect_shape, normalize_axis
from irverify.ir.ops.conv import pad_spatial
from irverify.ir.ops.memory import reshaped
from irverify.ir.params import Param, value
from irverify.ir.types import TensorType


@dataclass(frozen=True, eq=False)
class Reshape(LinearOp):
    """The same elements in row-major order under another shape (flatten, squeeze and unsqueeze as well)."""

    name = "reshape"
    nonnegative = True
    shape: tuple[int, ...]

    def infer(self, *inputs: TensorType) -> TensorType:
        (operand,) = inputs
        fits = math.prod(self.shape) == operand.size and min(self.shape, default=0) >= 0
        expect_shape(fits, f"a shape with {operand.size} elements", self.shape)
        return operand.with_shape(self.shape)

    def apply(self, *inputs: Tensor) -> Tensor:
        return reshaped(inputs[0], self.shape)

    def adjoint(self, gradient: Tensor, inputs: tuple[TensorType, ...]) -> tuple[Tensor, ...]:
        return (gradient.reshape(gradient.shape[0], *inputs[0].shape),)


@dataclass(frozen=True, eq=False)
class Transpose(LinearOp):
    """Axis k of the result is axis `permutation[k]` of x."""

    name = "transpose"
    nonnegative = True
    permutation: tuple[int, ...]

    def infer(self, *inputs: TensorType) -> TensorType:
        (operand,) = inputs
        fits = sorted(self.permutation) == list(range(operand.rank))
        expect_shape(fits, f"a permutation of the {operand.rank} axes", self.permutation)
        return operand.with_shape(tuple(operand.shape[axis] for axis in self.permutation))

    def apply(self, *inputs: Tensor) -> Tensor:
        return inputs[0].permute(0, *(axis + 1 for axis in self.permutation))

    def adjoint(self, gradient: Tensor, inputs: tuple[TensorType, ...]) -> tuple[Tensor, ...]:
        inverse = sorted(range(len(self.permutation)), key=self.permutation.__getitem__)
        return (gradient.permute(0, *(axis + 1 for axis in inverse)),)


@dataclass(frozen=True, eq=False)
class Expand(LinearOp):
    """x repeated to `shape` as broadcasting does: missing axes in front, extents of 1 stretched."""

    name = "expand"
    nonnegative = True
    shape: tuple[int, ...]

    def infer(self, *inputs: TensorType) -> TensorType:
        (operand,) = inputs
        fits = broadcast(operand.shape, self.shape) == self.shape
        expect_shape(fits, f"a value that broadcasts to {self.shape}", operand)
        return operand.with_shape(self.shape)

    def apply(self, *inputs: Tensor) -> Tensor:
        operand = inputs[0]
        missing = len(self.shape) - (operand.ndim - 1)
        padded = operand.reshape(operand.shape[0], *(1,) * missing, *operand.shape[1:])
        return padded.expand(operand.shape[0], *self.shape)

    def adjoint(self, gradient: Tensor, inputs: tuple[TensorType, ...]) -> tuple[Tensor, ...]:
        source = inputs[0].shape
        padded = (1,) * (len(self.shape) - len(source)) + source
        axes = [axis + 1 for axis, (old, new) in enumerate(zip(padded, self.shape, strict=True)) if old != new]
        summed = gradient.sum(axes) if axes else gradient
        return (summed.reshape(gradient.shape[0], *source),)


@dataclass(frozen=True, eq=False)
class Slice(LinearOp):
    """Elements `start, start + step, ...` below `stop` along each axis; 0 <= start <= stop <= extent, step >= 1."""

    name = "slice"
    nonnegative = True
    starts: tuple[int, ...]
    stops: tuple[int, ...]
    steps: tuple[int, ...]

    def infer(self, *inputs: TensorType) -> TensorType:
        (operand,) = inputs
        ranges = (self.starts, self.stops, self.steps)
        expect_shape(all(len(part) == operand.rank for part in ranges), f"a range for each axis of {operand}", ranges)
        for extent, start, stop, step in zip(operand.shape, *ranges, strict=True):
            expect_shape(0 <= start < stop <= extent and step >= 1, f"a range within 0..{extent}", (start, stop, step))
        return operand.with_shape(
            tuple(len(range(start, stop, step)) for start, stop, step in zip(*ranges, strict=True))
        )

    def apply(self, *inputs: Tensor) -> Tensor:
        ranges = zip(self.starts, self.stops, self.steps, strict=True)
        return inputs[0][(slice(None), *(slice(start, stop, step) for start, stop, step in ranges))]

    def adjoint(self, gradient: Tensor, inputs: tuple[TensorType, ...]) -> tuple[Tensor, ...]:
        result = gradient
        ranges = zip(inputs[0].shape, self.starts, self.stops, self.steps, strict=True)
        for axis, (extent, *span) in enumerate(ranges, 1):
            if span != [0, extent, 1]:
                zeros = result.new_zeros((*result.shape[:axis], extent, *result.shape[axis + 1 :]))
                result = zeros.slice_scatter(result, axis, *span)
        return (result,)


@dataclass(frozen=True, eq=False)
class Concat(LinearOp):
    """The inputs one after the other along `axis`."""

    name = "concat"
    arity = None
    nonnegative = True
    axis: int

    def infer(self, *inputs: TensorType) -> TensorType:
        first = inputs[0]
        axis = normalize_axis(self.axis, first.rank)
        rest = {(*operand.shape[:axis], *operand.shape[axis + 1 :]) for operand in inputs}
        fits = len(rest) == 1 and len({(operand.rank, operand.dtype) for operand in inputs}) == 1
        expect_shape(fits, f"values that differ only along axis {axis}", ", ".join(map(str, inputs)))
        total = sum(operand.shape[axis] for operand in inputs)
        return first.with_shape((*first.shape[:axis], total, *first.shape[axis + 1 :]))

    def apply(self, *inputs: Tensor) -> Tensor:
        return torch.cat(inputs, dim=normalize_axis(self.axis, inputs[0].ndim - 1) + 1)

    def adjoint(self, gradient: Tensor, inputs: tuple[TensorType, ...]) -> tuple[Tensor, ...]:
        axis = normalize_axis(self.axis, gradient.ndim - 1)
        return tuple(gradient.split([operand.shape[axis] for operand in inputs], dim=axis + 1))


@dataclass(frozen=True, eq=False)
class Gather(LinearOp):
    """The elements `indices` (a constant vector, entries in [0, extent)) along `axis`; repeats are allowed.

    Nearest resizing, reversed slices and reflecting padding are this operator, once for each axis.
    """

    name = "gather"
    nonnegative = True
    indices: Param
    axis: int

    def infer(self, *inputs: TensorType) -> TensorType:
        (operand,) = inputs
        axis = normalize_axis(self.axis, operand.rank)
        indices = value(self.indices)
        fits = indices.ndim == 1 and indices.numel() > 0 and not indices.is_floating_point()
        expect_shape(fits, "a vector of whole indices", f"{indices.dtype} {tuple(indices.shape)}")
        least, greatest = int(indices.min()), int(indices.max())
        within = least >= 0 and greatest < operand.shape[axis]
        expect_shape(within, f"indices in [0, {operand.shape[axis]})", (least, greatest))
        return operand.with_shape((*operand.shape[:axis], int(indices.numel()), *operand.shape[axis + 1 :]))

    def apply(self, *inputs: Tensor) -> Tensor:
        axis = normalize_axis(self.axis, inputs[0].ndim - 1)
        return inputs[0].index_select(axis + 1, value(self.indices))

    def adjoint(self, gradient: Tensor, inputs: tuple[TensorType, ...]) -> tuple[Tensor, ...]:
        axis = normalize_axis(self.axis, gradient.ndim - 1)
        result = gradient.new_zeros((gradient.shape[0], *inputs[0].shape))
        return (result.index_add(axis + 1, value(self.indices), gradient),)


@dataclass(frozen=True, eq=False)
class Pad(LinearOp):
    """Zeros before and after each axis; negative amounts crop. `padding` is (before, after) for each axis.

    Another fill is a `scale_shift` behind it; reflecting and repeating edges are `gather`.
    """

    name = "pad"
    nonnegative = True
    padding: tuple[tuple[int, int], ...]

    def infer(self, *inputs: TensorType) -> TensorType:
        (operand,) = inputs
        expect_shape(len(self.padding) == operand.rank, f"padding for {operand.rank} axes", self.padding)
        shape = tuple(
            extent + before + after for extent, (before, after) in zip(operand.shape, self.padding, strict=True)
        )
        expect_shape(min(shape, default=1) >= 1, "padding that leaves something", f"{self.padding} on {operand}")
        return operand.with_shape(shape)

    def apply(self, *inputs: Tensor) -> Tensor:
        return pad_spatial(inputs[0], self.padding)

    def adjoint(self, gradient: Tensor, inputs: tuple[TensorType, ...]) -> tuple[Tensor, ...]:
        return (pad_spatial(gradient, tuple((-before, -after) for before, after in self.padding)),)


@dataclass(frozen=True, eq=False)
class ReduceSum(LinearOp):
    """The sum along `axes`; `keepdims` leaves them with extent 1."""

    name = "reduce_sum"
    nonnegative = True
    axes: tuple[int, ...]
    keepdims: bool = False

    def _axes(self, rank: int) -> tuple[int, ...]:
        return tuple(normalize_axis(axis, rank) for axis in self.axes)

    def infer(self, *inputs: TensorType) -> TensorType:
        (operand,) = inputs
        axes = self._axes(operand.rank)
        expect_shape(len(axes) > 0 and len(set(axes)) == len(axes), "distinct axes", self.axes)
        kept = [(1 if axis in axes else extent) for axis, extent in enumerate(operand.shape)]
        if not self.keepdims:
            kept = [extent for axis, extent in enumerate(operand.shape) if axis not in axes]
        return operand.with_shape(tuple(kept))

    def _weight(self, operand_shape: tuple[int, ...]) -> float:
        return 1.0

    def apply(self, *inputs: Tensor) -> Tensor:
        operand = inputs[0]
        axes = [axis + 1 for axis in self._axes(operand.ndim - 1)]
        total = operand.sum(axes, keepdim=self.keepdims)
        weight = self._weight(tuple(operand.shape[1:]))
        return total if weight == 1.0 else total * weight

    def adjoint(self, gradient: Tensor, inputs: tuple[TensorType, ...]) -> tuple[Tensor, ...]:
        shape = inputs[0].shape
        axes = self._axes(len(shape))
        kept = tuple(1 if axis in axes else extent for axis, extent in enumerate(shape))
        spread = gradient.reshape(gradient.shape[0], *kept).expand(gradient.shape[0], *shape)
        return (spread * self._weight(shape),)


@dataclass(frozen=True, eq=False)
class ReduceMean(ReduceSum):
    """The mean along `axes` (global average pooling is this over the spatial axes)."""

    name = "reduce_mean"

    def _weight(self, operand_shape: tuple[int, ...]) -> float:
        return 1.0 / math.prod(operand_shape[axis] for axis in self._axes(len(operand_shape)))
