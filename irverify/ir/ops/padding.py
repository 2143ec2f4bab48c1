"""Padding of spatial axes."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

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
