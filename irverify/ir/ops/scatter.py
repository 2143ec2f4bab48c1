"""The adjoint of a convolution, by whichever way is fastest for its shape."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

FEW = 4
"""Up to so many channels in the operand, a product and `fold` are faster than torch's routine."""
FEW_STRIDED = 8
"""Up to so many channels, or with a kernel of one element, where windows move by more than one, a product and a sum for
each tap of the kernel are two to ten times faster on a CPU, for as long as nobody asks for a gradient."""
BLOCK = 2**19
"""How many elements that takes at once."""
SHORT = 16
"""Up to so many rows are too short a run for sums over them; `fold` is faster then, and for a single channel always."""
CONV_TRANSPOSE = {1: functional.conv_transpose1d, 2: functional.conv_transpose2d, 3: functional.conv_transpose3d}
Pairs = tuple[tuple[int, int], ...]


def pad_spatial(operand: Tensor, padding: Pairs, fill: float = 0.0) -> Tensor:
    """`operand` `[..., *spatial]` padded before and after along each of the last axes (negative: cropped).

    A crop may reach into the padding of the other side.
    """
    flat = [amount for pair in reversed(padding) for amount in pair]
    for amounts in ([max(amount, 0) for amount in flat], [min(amount, 0) for amount in flat]):
        if any(amounts):
            operand = functional.pad(operand, amounts, value=fill)
    return operand


@dataclass(frozen=True)
class Steps:
    """How the windows of a convolution move."""

    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    def covered(self, windows: Sequence[int], kernel: Sequence[int]) -> tuple[int, ...]:
        """The extents that so many windows of a kernel cover."""
        axes = zip(windows, kernel, self.stride, self.dilation, strict=True)
        return tuple((n - 1) * stride + dilation * (k - 1) + 1 for n, k, stride, dilation in axes)


def scatter(rows: Tensor, weight: Tensor, steps: Steps, first: tuple[int, ...], extents: tuple[int, ...]) -> Tensor:
    """`rows` `[rows, out, *windows]` through the adjoint of a convolution with `weight`, `[rows, in, *extents]`.

    The first window begins `first` elements before the operand (its padding, or negative: inside it).
    """
    channels = weight.shape[1]
    differentiable = torch.is_grad_enabled() and (rows.requires_grad or weight.requires_grad)
    quick = rows.device.type == "cpu" and not differentiable
    few = channels <= FEW_STRIDED or weight[0, 0].numel() == 1
    if quick and few and len(rows) and steps.groups == 1 and max(steps.stride) > 1:
        if (channels == 1 or len(rows) <= SHORT) and _folds(rows, weight, steps, first, extents):
            columns = torch.matmul(weight.flatten(1).mT, rows.flatten(2))
            return functional.fold(columns, extents, weight.shape[2:], steps.dilation, first, steps.stride)
        found = rows.new_empty(rows.shape[0], channels, *extents)
        step = max(1, BLOCK * rows.shape[0] // (rows.numel() * weight[0].numel() // weight.shape[0] + 1))
        for part, place in zip(rows.split(step), found.split(step), strict=True):
            _tap_by_tap(part, weight, steps, first, place)
        return found
    covered = steps.covered(rows.shape[2:], weight.shape[2:])
    extra = tuple(extent - (n - 2 * before) for extent, n, before in zip(extents, covered, first, strict=True))
    ends = zip(first, extra, steps.stride, steps.dilation, strict=True)
    spread = max(rows.shape[2:]) > 1  # else it is a product with the weight
    if spread and channels > FEW and all(before >= 0 and 0 <= more < max(pace) for before, more, *pace in ends):
        filled = _filled(rows) if quick else rows
        convolve = CONV_TRANSPOSE[len(extents)]
        found = convolve(filled, weight, None, steps.stride, first, extra, steps.groups, steps.dilation)
        return found[: rows.shape[0]]
    full = conv_transpose(rows, weight, steps)
    # What no window reaches is zero; what lies in the padding is dropped.
    return pad_spatial(
        full, tuple((-before, extent + before - n) for extent, before, n in zip(extents, first, covered, strict=True))
    )


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
    if steps.groups == 1 and all(extent == 1 for extent in (*extents, *steps.dilation)):
        return (operand.flatten(1) @ weight.flatten(1)).reshape(operand.shape[0], *weight.shape[1:])
    if steps.groups == 1 and len(kernel) == 2 and weight.shape[1] <= FEW:
        columns = torch.matmul(weight.flatten(1).mT, operand.flatten(2))
        whole = steps.covered(extents, kernel)
        return functional.fold(columns, whole, kernel, steps.dilation, 0, steps.stride)
    convolve = CONV_TRANSPOSE[len(kernel)]
    return convolve(operand, weight, None, steps.stride, 0, 0, steps.groups, steps.dilation)


def _filled(rows: Tensor) -> Tensor:
    """With zero rows up to one of a few counts: the library compiles code for each shape that it meets."""
    count = rows.shape[0]
    unit = 2 ** max(0, count.bit_length() - 4)
    missing = -count % unit
    return rows if missing == 0 else torch.cat([rows, rows.new_zeros(missing, *rows.shape[1:])])


def _tap_by_tap(rows: Tensor, weight: Tensor, steps: Steps, first: tuple[int, ...], found: Tensor) -> None:
    """A product with the weight, whose parts are added at the places that each tap of the kernel reaches; into `found`.

    The rows stand last meanwhile, so that everything is done on long runs.
    """
    count, out = rows.shape[:2]
    channels, kernel, windows = weight.shape[1], tuple(weight.shape[2:]), tuple(rows.shape[2:])
    extents = found.shape[2:]
    columns = weight.flatten(1).t() @ rows.reshape(count, -1).t().reshape(out, -1)
    taps = columns.reshape(channels, *kernel, *windows, count)
    reach = [
        max(n, before + extent)
        for n, before, extent in zip(steps.covered(windows, kernel), first, extents, strict=True)
    ]
    before = [max(0, -shift) for shift in first]
    total = rows.new_zeros(channels, *(n + shift for n, shift in zip(reach, before, strict=True)), count)
    for number, tap in enumerate(itertools.product(*map(range, kernel))):
        places: list[slice] = [
            slice(own + k * dilation, own + k * dilation + (n - 1) * stride + 1, stride)
            for own, k, dilation, n, stride in zip(before, tap, steps.dilation, windows, steps.stride, strict=True)
        ]
        total[(slice(None), *places)].add_(taps.flatten(1, len(kernel)).select(1, number))
    inside: list[slice] = [
        slice(shift + own, shift + own + extent) for own, shift, extent in zip(before, first, extents, strict=True)
    ]
    found.view(count, -1).copy_(total[(slice(None), *inside)].reshape(-1, count).t())
