"""Pooling over windows: average (linear) and maximum."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional

from irverify.ir.ops.base import LinearOp, Operator, expect_shape
from irverify.ir.ops.blocks import CONV
from irverify.ir.ops.conv import Pairs, check_windows, pad_spatial
from irverify.ir.ops.memory import zeros_as
from irverify.ir.ops.scatter import Steps
from irverify.ir.recording import recorded
from irverify.ir.types import TensorType
from irverify.kernels import pooling

AVERAGE_POOL = {1: functional.avg_pool1d, 2: functional.avg_pool2d, 3: functional.avg_pool3d}
MAX_POOL = {1: functional.max_pool1d, 2: functional.max_pool2d, 3: functional.max_pool3d}


@dataclass(frozen=True)
class Windows:
    """The windows of a pooling over x `[channels, *spatial]`: extents, steps and (before, after) padding for each axis.

    Frontends turn ceil_mode into explicit padding after the end, so that the number of windows is always
    `(n + before + after - dilation (k - 1) - 1) // stride + 1`.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: Pairs
    dilation: tuple[int, ...]

    def infer(self, operand: TensorType) -> TensorType:
        spatial = len(self.kernel)
        check_windows("pooling", spatial, kernel=self.kernel, stride=self.stride, dilation=self.dilation)
        check_windows("pooling", spatial, padding=self.padding)
        expect_shape(spatial in MAX_POOL and operand.rank == spatial + 1, f"[channels, *{spatial} axes]", operand)
        extents = tuple(
            (extent + before + after - dilation * (kernel - 1) - 1) // stride + 1
            for extent, (before, after), kernel, dilation, stride in zip(
                operand.shape[1:], self.padding, self.kernel, self.dilation, self.stride, strict=True
            )
        )
        expect_shape(min(extents) >= 1, "windows that fit into the padded input", f"{operand} and {self}")
        return operand.with_shape((operand.shape[0], *extents))

    @cached_property
    def side_by_side(self) -> bool:
        """Whether they lie so in planes of two axes, from the first element on: what compiled code is written for."""
        plain = len(self.kernel) == 2 and self.stride == self.kernel and max(self.dilation) == 1
        return plain and not any(map(any, self.padding))

    def sums(self, operand: Tensor) -> Tensor:
        """The sum over each window of `operand` `[batch, channels, *spatial]`, padded with zeros."""
        spatial, channels = len(self.kernel), operand.shape[1]
        ones = operand.new_ones((channels, 1, *self.kernel))
        padded = pad_spatial(operand, self.padding)
        return CONV[spatial](padded, ones, None, self.stride, 0, self.dilation, channels)

    def spread(self, sums: Tensor, extents: tuple[int, ...]) -> Tensor:
        """The transpose of `sums`: what each window has `[batch, channels, *windows]` goes to each of its elements."""
        windows = sums.shape[2:]
        apart = self.stride == self.kernel and set(self.dilation) == {1}  # no two windows share an element
        if apart and not any(map(any, self.padding)) and not recorded(sums):
            full = zeros_as(sums, sums.shape[1], extents)
            inside: list[slice] = [slice(n * k) for n, k in zip(windows, self.kernel, strict=True)]
            target = full[(slice(None), slice(None), *inside)]
            for axis, k in enumerate(self.kernel):
                target = target.unflatten(2 * axis + 2, (-1, k))
                sums = sums.unsqueeze(2 * axis + 3)
            target.copy_(sums)
            return full
        if apart:
            for axis, k in enumerate(self.kernel, 2):
                shape = (*sums.shape[: axis + 1], k, *sums.shape[axis + 1 :])
                sums = sums.unsqueeze(axis + 1).expand(shape).flatten(axis, axis + 1)
            full = sums
        else:
            covered = Steps(self.stride, self.dilation, 1).covered(windows, self.kernel)
            full = sums.new_zeros((*sums.shape[:2], *covered))
            for tap in itertools.product(*map(range, self.kernel)):
                axes = zip(tap, self.dilation, self.stride, windows, strict=True)
                places: list[slice] = [
                    slice(k * wide, k * wide + (n - 1) * pace + 1, pace) for k, wide, pace, n in axes
                ]
                full[(slice(None), slice(None), *places)] += sums
        ends = zip(extents, full.shape[2:], self.padding, strict=True)
        return pad_spatial(full, tuple((-before, extent + before - n) for extent, n, (before, _) in ends))


@dataclass(frozen=True, eq=False)
class AveragePool(LinearOp):
    """The mean over each window.

    The divisor counts the elements of the window that lie in the input or within `counted` padding (before, after)
    around it: all of it for count_include_pad, none of it otherwise.
    """

    name = "average_pool"
    nonnegative = True
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: Pairs
    counted: Pairs
    dilation: tuple[int, ...]

    @cached_property
    def windows(self) -> Windows:
        return Windows(self.kernel, self.stride, self.padding, self.dilation)

    def infer(self, *inputs: TensorType) -> TensorType:
        (operand,) = inputs
        result = self.windows.infer(operand)
        check_windows("pooling", len(self.kernel), counted=self.counted)
        divisors = self.divisors(torch.ones(1, 1, *operand.shape[1:]))
        expect_shape(bool((divisors > 0).all()), "windows that each cover a counted element", f"{self} on {operand}")
        return result

    @cached_property
    def _everywhere(self) -> bool:
        """Whether every element of every window counts."""
        pairs = zip(self.padding, self.counted, strict=True)
        return all(pad <= counted for sides in pairs for pad, counted in zip(*sides, strict=True))

    @cached_property
    def plain(self) -> bool:
        """Whether windows lie side by side and all their elements count."""
        return self._everywhere and self.windows.side_by_side

    def divisors(self, operand: Tensor) -> Tensor:
        """How many elements each window counts, `[1, 1, *windows]`."""
        inside = pad_spatial(operand.new_ones((1, 1, *operand.shape[2:])), self.counted, 1.0)
        rest = tuple(
            (before - counted_before, after - counted_after)
            for (before, after), (counted_before, counted_after) in zip(self.padding, self.counted, strict=True)
        )
        return Windows(self.kernel, self.stride, rest, self.dilation).sums(inside)

    def apply(self, *inputs: Tensor) -> Tensor:
        (operand,) = inputs
        if not self._everywhere:
            return self.windows.sums(operand) / self.divisors(operand)
        if self.windows.side_by_side and not recorded(operand):
            found = pooling.means(operand, self.kernel)
            if found is not None:
                return found
        if max(self.dilation) > 1 or operand.dtype not in (torch.float32, torch.float64):  # for which torch has none
            return self.windows.sums(operand) / math.prod(self.kernel)
        return AVERAGE_POOL[len(self.kernel)](pad_spatial(operand, self.padding), self.kernel, self.stride)

    def adjoint(self, gradient: Tensor, inputs: tuple[TensorType, ...]) -> tuple[Tensor, ...]:
        extents = inputs[0].shape[1:]
        if self.plain and not recorded(gradient):
            found = pooling.means_back(gradient, self.kernel, extents)
            if found is not None:
                return (found,)
        divisors = math.prod(self.kernel) if self._everywhere else self.divisors(gradient.new_ones((1, 1, *extents)))
        return (self.windows.spread(gradient / divisors, extents),)


@dataclass(frozen=True, eq=False)
class MaxPool(Operator):
    """The maximum over each window; padding never wins (it counts as minus infinity)."""

    name = "max_pool"
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: Pairs
    dilation: tuple[int, ...]

    @cached_property
    def windows(self) -> Windows:
        return Windows(self.kernel, self.stride, self.padding, self.dilation)

    def infer(self, *inputs: TensorType) -> TensorType:
        (operand,) = inputs
        result = self.windows.infer(operand)
        covered = self.windows.sums(torch.ones(1, 1, *operand.shape[1:]))
        expect_shape(bool((covered > 0).all()), "windows that each cover an element", f"{self} on {operand}")
        return result

    def evaluate(self, *inputs: Tensor) -> Tensor:
        if self.windows.side_by_side and not recorded(inputs[0]):
            found = pooling.largest(inputs[0], self.kernel)
            if found is not None:
                return found
        padded = pad_spatial(inputs[0], self.padding, float("-inf"))
        return MAX_POOL[len(self.kernel)](padded, self.kernel, self.stride, 0, self.dilation)
