"""Convolutions as torch is asked for them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from irverify.ir.ops.blocks import CONV
from irverify.ir.recording import recorded
from irverify.kernels.native import watched

LITTLE = 2**20
"""Up to so many products."""


def convolved(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """The convolution over the last axes of x `[batch, channels, *spatial]`.

    One image with little to do goes the plain way on a CPU: torch leaves it to oneDNN where kernels are larger than
    three elements, which takes up to four times as long to begin.
    """
    little = _little(x, weight, stride, padding) and groups == 1 and max(dilation) == 1
    little = little and not torch.is_autocast_enabled("cpu")
    if little and not recorded(x, weight, bias):
        plain = torch.ops.aten.thnn_conv2d.default
        found: Tensor = plain(x, weight, weight.shape[2:], bias, stride, padding)
        return found
    return CONV[weight.ndim - 2](x, weight, bias, stride, padding, dilation, groups)


def _little(x: Tensor, weight: Tensor, stride: Sequence[int], padding: Sequence[int]) -> bool:
    if x.ndim != 4 or x.shape[0] != 1 or not x.is_cpu or x.dtype != torch.float32:
        return False
    if min(weight.shape[2:]) <= 3 or watched():  # it has no forward derivatives
        return False
    places = [(n + 2 * pad) // step for n, pad, step in zip(x.shape[2:], padding, stride, strict=True)]
    return places[0] * places[1] * weight.numel() <= LITTLE
