"""Convolutions and transposed convolutions over one, two or three spatial axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from irverify.ir.ops.base import LinearOp, expect_shape, param_value
from irverify.ir.ops.blocks import CONV as CONV
from irverify.ir.ops.convolving import convolved
from irverify.ir.ops.memory import channels_last
from irverify.ir.ops.moves import Moves
from irverify.ir.ops.padding import Pairs as Pairs
from irverify.ir.ops.padding import pad_spatial as pad_spatial
from irverify.ir.ops.scatter import Steps, scatter
from irverify.ir.params import Param, value
from irverify.ir.recording import recorded
from irverify.ir.types import TensorType


def check_windows(name: str, spatial: int, **per_axis: Sequence[object]) -> None:
    """Every attribute has one entry for each of the `spatial` axes; single numbers (but no pairs) are at least 1."""
    for attribute, entries in per_axis.items():
        expect_shape(len(entries) == spatial, f"{name} with {spatial} entries in {attribute}", tuple(entries))
        positive = all(entry >= 1 for entry in entries if isinstance(entry, int))
        expect_shape(positive, f"{name} with entries >= 1 in {attribute}", tuple(entries))


def check_weight(weight: Tensor, groups: int) -> int:
    """The number of spatial axes of a convolution's weight, checked; both channel counts are multiples of `groups`."""
    spatial = weight.ndim - 2
    expect_shape(spatial in CONV, "a weight [channels, channels, *1 to 3 spatial axes]", tuple(weight.shape))
    expect_shape(groups >= 1 and weight.shape[0] % groups == 0, f"channels in {groups} groups", tuple(weight.shape))
    return spatial


@dataclass(frozen=True, eq=False)
class Conv(LinearOp):
    """Cross-correlation of x `[in, *spatial]` with weight `[out, in/groups, *kernel]` and bias `[out]`.

    `padding` is (before, after) for each spatial axis.
    """

    name = "conv"
    weight: Param
    bias: Param | None = None
    stride: tuple[int, ...] = (1, 1)
    padding: Pairs = ((0, 0), (0, 0))
    dilation: tuple[int, ...] = (1, 1)
    groups: int = 1

    def infer(self, *inputs: TensorType) -> TensorType:
        (operand,) = inputs
        weight = value(self.weight)
        spatial = check_weight(weight, self.groups)
        check_windows("conv", spatial, stride=self.stride, padding=self.padding, dilation=self.dilation)
        channels = weight.shape[1] * self.groups
        fits = operand.rank == spatial + 1 and operand.shape[0] == channels
        expect_shape(fits, f"[{channels}, *spatial] with {spatial} spatial axes", operand)
        bias = param_value(self.bias)
        if bias is not None:
            expect_shape(tuple(bias.shape) == (weight.shape[0],), f"a bias of ({weight.shape[0]},)", tuple(bias.shape))
        extents = tuple(
            (extent + before + after - dilation * (kernel - 1) - 1) // stride + 1
            for extent, (before, after), kernel, dilation, stride in zip(
                operand.shape[1:], self.padding, weight.shape[2:], self.dilation, self.stride, strict=True
            )
        )
        kernel = tuple(weight.shape[2:])
        expect_shape(min(extents) >= 1, "a kernel that fits into the padded input", f"{operand} and kernel {kernel}")
        return operand.with_shape((int(weight.shape[0]), *extents))

    def _convolve(self, operand: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        moves = Moves.of(weight.shape[2:], self.stride, self.padding, self.dilation)
        operand = moves.operand(operand)
        if recorded(weight):
            operand = channels_last(operand)
        return convolved(operand, weight, bias, moves.stride, moves.padding, moves.dilation, self.groups)

    def apply(self, *inputs: Tensor) -> Tensor:
        return self._convolve(inputs[0], value(self.weight), None)

    def offset(self, rank: int) -> Tensor | None:
        bias = param_value(self.bias)
        return None if bias is None else bias.reshape(-1, *(1,) * (rank - 1))

    def evaluate(self, *inputs: Tensor) -> Tensor:
        return self._convolve(inputs[0], value(self.weight), param_value(self.bias))

    def adjoint(self, gradient: Tensor, inputs: tuple[TensorType, ...]) -> tuple[Tensor, ...]:
        weight = value(self.weight)
        before = tuple(before for before, _ in self.padding)
        steps = Steps(self.stride, self.dilation, self.groups)
        return (scatter(gradient, weight, steps, before, inputs[0].shape[1:]),)

    def apply_abs(self, *inputs: Tensor) -> Tensor:
        return self._convolve(inputs[0], value(self.weight).abs(), None)


@dataclass(frozen=True, eq=False)
class ConvTranspose(LinearOp):
    """Transposed convolution of x `[in, *spatial]` with weight `[in, out/groups, *kernel]` and bias `[out]`.

    The full result of extent `stride (n - 1) + dilation (k - 1) + 1` is cropped by `padding` (before, after) and
    enlarged at the end by `output_padding`; the enlarged part carries the kernel's tail where it reaches, else only the
    bias.
    """

    name = "conv_transpose"
    weight: Param
    bias: Param | None = None
    stride: tuple[int, ...] = (1, 1)
    padding: Pairs = ((0, 0), (0, 0))
    output_padding: tuple[int, ...] = (0, 0)
    dilation: tuple[int, ...] = (1, 1)
    groups: int = 1

    def infer(self, *inputs: TensorType) -> TensorType:
        (operand,) = inputs
        weight = value(self.weight)
        spatial = check_weight(weight, self.groups)
        check_windows("conv_transpose", spatial, stride=self.stride, padding=self.padding, dilation=self.dilation)
        expect_shape(
            len(self.output_padding) == spatial and min(self.output_padding) >= 0,
            f"conv_transpose with {spatial} entries >= 0 in output_padding",
            self.output_padding,
        )
        fits = operand.rank == spatial + 1 and operand.shape[0] == weight.shape[0]
        expect_shape(fits, f"[{weight.shape[0]}, *spatial] with {spatial} spatial axes", operand)
        channels = int(weight.shape[1]) * self.groups
        bias = param_value(self.bias)
        if bias is not None:
            expect_shape(tuple(bias.shape) == (channels,), f"a bias of ({channels},)", tuple(bias.shape))
        extents = tuple(
            stride * (extent - 1) + dilation * (kernel - 1) + 1 + extra - before - after
            for extent, stride, dilation, kernel, extra, (before, after) in zip(
                operand.shape[1:],
                self.stride,
                self.dilation,
                weight.shape[2:],
                self.output_padding,
                self.padding,
                strict=True,
            )
        )
        crop = f"{operand} and padding {self.padding}"
        expect_shape(min(extents) >= 1, "a result that the padding does not crop away", crop)
        return operand.with_shape((channels, *extents))

    def _spread(self, operand: Tensor, weight: Tensor) -> Tensor:
        steps = Steps(self.stride, self.dilation, self.groups)
        covered = steps.covered(operand.shape[2:], weight.shape[2:])
        crop = zip(covered, self.output_padding, self.padding, strict=True)
        extents = tuple(n + extra - before - after for n, extra, (before, after) in crop)
        return scatter(operand, weight, steps, tuple(before for before, _ in self.padding), extents)

    def apply(self, *inputs: Tensor) -> Tensor:
        return self._spread(inputs[0], value(self.weight))

    def offset(self, rank: int) -> Tensor | None:
        bias = param_value(self.bias)
        return None if bias is None else bias.reshape(-1, *(1,) * (rank - 1))

    def adjoint(self, gradient: Tensor, inputs: tuple[TensorType, ...]) -> tuple[Tensor, ...]:
        weight = value(self.weight)
        uncrop = tuple(
            (before, after - extra) for (before, after), extra in zip(self.padding, self.output_padding, strict=True)
        )
        moves = Moves.of(weight.shape[2:], self.stride, uncrop, self.dilation)
        full = moves.operand(gradient)
        return (CONV[weight.ndim - 2](full, weight, None, moves.stride, moves.padding, moves.dilation, self.groups),)

    def apply_abs(self, *inputs: Tensor) -> Tensor:
        return self._spread(inputs[0], value(self.weight).abs())
