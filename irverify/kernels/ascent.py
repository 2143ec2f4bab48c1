"""A step of gradient ascent on choices, with moments of the gradient."""

from __future__ import annotations

from array import array

from torch import Tensor

from irverify.kernels.native import addresses, head, native


def climb(
    choices: Tensor,
    gradient: Tensor,
    moments: tuple[Tensor, Tensor],
    limits: tuple[Tensor, Tensor, Tensor],
    parts: tuple[float, float],
    step: float,
    tiny: float,
) -> bool:
    """Moves choices `[rows, size]` in place, by `step * range * first / sqrt(second + tiny)` where `first` and
    `second` are the moments once `parts` of the gradient and of its square have gone into them, and keeps them in
    `[least, most]`. `limits` are `least`, `most` and `range`, `[rows, size]` each, or all `[1, size]`. False where
    nothing was done."""
    if choices.ndim != 2 or any(part.shape != choices.shape for part in (gradient, *moments)):
        return False
    shape = limits[0].shape
    if any(part.shape != shape for part in limits) or shape not in (choices.shape, (1, choices.shape[1])):
        return False
    found = addresses(choices, gradient, *moments, *limits)
    if found is None or native is None:
        return False
    if not all(part.is_contiguous() for part in (choices, gradient, *moments, *limits)):
        return False
    told = array("d", (*parts, step, tiny))
    alike = shape[0] != choices.shape[0]
    numbers = *choices.shape, int(alike), told.buffer_info()[0], found[1], *found[4:], *found[2:4], found[0]
    native.climb(*head(choices), *numbers)
    return True
