"""The adjoint of a convolution, by whichever way is fastest for its shape."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.grad import conv1d_weight, conv2d_weight, conv3d_weight

from irverify.ir.ops.blocks import CONV, filled, in_blocks, spaced
from irverify.ir.ops.memory import channels_last, is_last
from irverify.ir.ops.moves import Moves, apart, skips
from irverify.ir.ops.padding import pad_spatial
from irverify.ir.ops.taps import Steps as Steps
from irverify.ir.ops.taps import tap_by_tap
from irverify.ir.recording import recorded
from irverify.kernels.adjoint import adjoint
from irverify.kernels.folding import fold

FEW = 4
"""Up to so many channels in the operand, a product and `fold` are faster than torch's routine."""
FEW_STRIDED = 8
"""Up to so many channels, or with a kernel of one element, where windows move by more than one, a convolution into
blocks is two to five times faster on a CPU in single precision, for as long as nobody asks for a gradient. In double
precision a sum for each tap takes two thirds of the time of torch's routine for more channels than that."""
FEW_FOLDED = 32
"""Up to so many channels on both sides compiled code takes three quarters of the time of any other way then."""
FEW_SMALL, SMALL = 16, 16
"""So does it up to so many channels for planes of so few windows: most of the time is what other ways take to begin."""
SHORT = 16
"""Up to so many rows `fold` is faster then, and for a single channel always; and torch's routine than a sum for each
tap."""
WEIGHT_GRADIENT: dict[int, Callable[..., Tensor]] = {1: conv1d_weight, 2: conv2d_weight, 3: conv3d_weight}
"""The gradient of a convolution in its weight."""
CONV_TRANSPOSE = {1: functional.conv_transpose1d, 2: functional.conv_transpose2d, 3: functional.conv_transpose3d}


def scatter(rows: Tensor, weight: Tensor, steps: Steps, first: tuple[int, ...], extents: tuple[int, ...]) -> Tensor:
    """`rows` `[rows, out, *windows]` through the adjoint of a convolution with `weight`, `[rows, in, *extents]`.

    The first window begins `first` elements before the operand (its padding, or negative: inside it).
    """
    passed = through(rows, weight, steps, first, extents)
    if passed is not None:
        return passed
    channels = weight.shape[1]
    differentiable = recorded(rows, weight)
    if differentiable and channels <= FEW and steps.groups == 1 and _quick(rows):
        found: Tensor = _Scattered.apply(rows, weight, steps, first, extents)  # type: ignore[no-untyped-call]
        return found
    quick = _quick(rows) and not differentiable
    few = channels <= FEW_STRIDED or weight[0, 0].numel() == 1
    single = rows.dtype == torch.float32
    strided = max(steps.stride) > 1
    small = max(weight.shape[:2]) <= FEW_SMALL and rows.shape[2:].numel() <= SMALL and len(rows) > 1
    folds = weight[0, 0].numel() > 1 and (small or (strided and max(weight.shape[:2]) <= FEW_FOLDED))
    if folds or 1 < channels <= FEW:
        at_once = folded(rows, weight, steps, first, extents)
        if at_once is not None:
            return at_once
    if quick and steps.groups == 1 and few and strided:
        if single and weight[0, 0].numel() == 1 and not any(first):
            return spaced(rows, weight, steps.stride, extents)
        if (channels == 1 or len(rows) <= SHORT) and _folds(rows, weight, steps, first, extents):
            columns = torch.matmul(weight.flatten(1).mT, rows.flatten(2))
            return functional.fold(columns, extents, weight.shape[2:], steps.dilation, first, steps.stride)
        if single and max(steps.dilation) == 1:
            return in_blocks(rows, weight, steps.stride, first, extents)
    if quick and steps.groups == 1 and not single and not few and len(rows) > SHORT and max(rows.shape[2:]) > 1:
        return tap_by_tap(rows, weight, steps, first, extents)
    covered = steps.covered(rows.shape[2:], weight.shape[2:])
    extra = tuple(extent - (n - 2 * before) for extent, n, before in zip(extents, covered, first, strict=True))
    ends = zip(first, extra, steps.stride, steps.dilation, strict=True)
    spread = max(rows.shape[2:]) > 1  # else it is a product with the weight
    direct = channels > FEW or (quick and channels > 1 and (is_last(rows) or max(steps.stride) > 1))
    direct = direct and (quick or not skips(weight.shape[2:], steps.stride))
    if spread and direct and all(before >= 0 and 0 <= more < max(pace) for before, more, *pace in ends):
        operand = filled(rows) if quick else rows
        convolve = CONV_TRANSPOSE[len(extents)]
        found = convolve(operand, weight, None, steps.stride, first, extra, steps.groups, steps.dilation)
        return found if operand is rows else found[: rows.shape[0]]
    full = conv_transpose(rows, weight, steps)
    # What no window reaches is zero; what lies in the padding is dropped.
    return pad_spatial(
        full, tuple((-before, extent + before - n) for extent, before, n in zip(extents, first, covered, strict=True))
    )


def _quick(rows: Tensor) -> bool:
    """Whether there are rows, on a device for which the ways below were timed."""
    return rows.device.type == "cpu" and len(rows) > 0


def through(
    rows: Tensor,
    weight: Tensor,
    steps: Steps,
    first: tuple[int, ...],
    extents: tuple[int, ...],
    order: Tensor | None = None,
) -> Tensor | None:
    """`scatter` by compiled code that leaves out what is zero in some rows at once, which `order` brings together; None
    where it is not the fastest way, and where gradients are asked for."""
    if rows.ndim != 4 or max(*steps.dilation, steps.groups) > 1 or recorded(rows, weight):
        return None
    if weight[0, 0].numel() == 1 and max(steps.stride) > 1:  # most of the result is zero
        return None
    found = adjoint(rows.permute(0, 2, 3, 1), weight, steps.stride, first, extents, order)
    return None if found is None else found.permute(0, 3, 1, 2)


def folded(
    rows: Tensor, weight: Tensor, steps: Steps, first: tuple[int, ...], extents: tuple[int, ...]
) -> Tensor | None:
    """`scatter` by compiled code; None where there is none for it, and where gradients are asked for."""
    if rows.ndim != 4 or rows.dtype != torch.float32 or max(*steps.dilation, steps.groups) > 1 or not len(rows):
        return None
    if recorded(rows, weight):
        return None
    found = fold(rows.permute(0, 2, 3, 1), weight, steps.stride, first, extents)
    return None if found is None else found.permute(0, 3, 1, 2)


class _Scattered(torch.autograd.Function):
    """`scatter` by a way that has no gradient of its own: that in the rows is the convolution, whatever the way."""

    @staticmethod
    def forward(rows: Tensor, weight: Tensor, steps: Steps, first: tuple[int, ...], extents: tuple[int, ...]) -> Tensor:
        with torch.no_grad():
            return scatter(rows, weight, steps, first, extents)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        rows, weight, ctx.steps, ctx.first, ctx.extents = inputs
        ctx.save_for_backward(rows, weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight = ctx.saved_tensors
        steps: Steps = ctx.steps
        covered = steps.covered(rows.shape[2:], weight.shape[2:])
        ends = zip(covered, ctx.extents, ctx.first, strict=True)
        around = tuple((before, n - extent - before) for n, extent, before in ends)
        moves = Moves.of(weight.shape[2:], steps.stride, around, steps.dilation)
        operand = moves.operand(gradient.to(weight.dtype))  # under autocast it is of another type
        operand = channels_last(operand) if is_last(rows) else operand
        told, axes = (moves.stride, moves.padding, moves.dilation), len(around)
        of_rows = of_weight = None
        if ctx.needs_input_grad[0]:
            of_rows = CONV[axes](operand, weight, None, *told).to(rows.dtype)
        if ctx.needs_input_grad[1]:
            of_weight = WEIGHT_GRADIENT[axes](operand, weight.shape, rows.to(weight.dtype), *told)
        return of_rows, of_weight, None, None, None


def _folds(rows: Tensor, weight: Tensor, steps: Steps, first: tuple[int, ...], extents: tuple[int, ...]) -> bool:
    """Whether `fold` can put the windows in their places: it takes as many as fit, with equal padding on both sides."""
    if len(extents) != 2 or min(first) < 0:
        return False
    axes = zip(rows.shape[2:], weight.shape[2:], steps.stride, steps.dilation, first, extents, strict=True)
    return all(
        n == (extent + 2 * before - dilation * (k - 1) - 1) // stride + 1
        for n, k, stride, dilation, before, extent in axes
    )


def conv_transpose(operand: Tensor, weight: Tensor, steps: Steps) -> Tensor:
    """The transposed convolution of x `[batch, in, *spatial]` with weight `[in, out/groups, *kernel]`, of full extent
    `stride (n - 1) + dilation (k - 1) + 1`."""
    kernel, extents = tuple(weight.shape[2:]), operand.shape[2:]
    if skips(kernel, steps.stride):
        ones = (1,) * len(kernel)
        return apart(conv_transpose(operand, weight, Steps(ones, ones, steps.groups)), steps.stride)
    if steps.groups == 1 and all(extent == 1 for extent in (*extents, *steps.dilation)):
        return (operand.flatten(1) @ weight.flatten(1)).reshape(operand.shape[0], *weight.shape[1:])
    if steps.groups == 1 and len(kernel) == 2 and weight.shape[1] <= FEW:
        columns = torch.matmul(weight.flatten(1).mT, operand.flatten(2))
        whole = steps.covered(extents, kernel)
        return functional.fold(columns, whole, kernel, steps.dilation, 0, steps.stride)
    convolve = CONV_TRANSPOSE[len(kernel)]
    return convolve(operand, weight, None, steps.stride, 0, 0, steps.groups, steps.dilation)
