"""Pooling over two axes, with windows that lie side by side from the first element on, and its adjoints."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from irverify.kernels.native import addresses, alike, head, native

WIDEST = 1024
"""As many elements as a line of windows may have."""
TALLEST = 1024
"""As many lines as a window may have: compiled code counts its elements in numbers of their own type."""


def largest(planes: Tensor, kernel: Sequence[int]) -> Tensor | None:
    """The largest element of each window of planes `[batch, channels, height, width]`; None where some element is not a
    number."""
    told = _told(planes, kernel)
    if told is None or native is None:
        return None
    numbers, found = told
    return found if native.largest(*numbers, found.data_ptr()) else None


def means(planes: Tensor, kernel: Sequence[int]) -> Tensor | None:
    """The mean of each window of planes `[batch, channels, height, width]`."""
    told = _told(planes, kernel)
    if told is None or native is None:
        return None
    numbers, found = told
    native.means(*numbers, found.data_ptr())
    return found


def _told(planes: Tensor, kernel: Sequence[int]) -> tuple[tuple[int, ...], Tensor] | None:
    """What compiled code takes to reduce windows of planes, and the tensor that it writes to."""
    found = addresses(planes)
    sizes = None if found is None or not planes.is_contiguous() else _sizes(planes.shape, kernel)
    if sizes is None or found is None:
        return None
    windows, numbers = sizes
    return (*head(planes), *numbers, *found), planes.new_empty(*planes.shape[:2], *windows)


def means_back(rows: Tensor, kernel: Sequence[int], extents: Sequence[int]) -> Tensor | None:
    """The adjoint of `means` for rows `[rows, channels, *windows]`, `[rows, channels, *extents]` and stored alike."""
    found = addresses(rows)
    if found is None or native is None or rows.ndim != 4:
        return None
    count, channels, *windows = rows.shape
    sizes = _sizes((count, channels, *extents), kernel)
    if sizes is None or tuple(windows) != sizes[0]:
        return None
    _, (_, *plane, _, height, width, high, wide) = sizes
    if rows.is_contiguous(memory_format=torch.channels_last):
        planes = rows.new_empty(count, *extents, channels).permute(0, 3, 1, 2)
        numbers = count, *plane, channels, height, width, high, wide
    elif rows.is_contiguous():
        planes = rows.new_empty(count, channels, *extents)
        numbers = count * channels, *plane, 1, height, width, high, wide
    else:
        return None
    native.means_back(*head(planes), *numbers, *found, planes.data_ptr())
    return planes


def candidates(lower: Tensor, upper: Tensor, kernel: Sequence[int]) -> tuple[Tensor, Tensor, Tensor] | None:
    """For bounds `[batch, channels, height, width]`, of each window: the place in its plane of the element with the
    largest lower bound; 1 where that is at least every other upper bound, else 0; and the largest upper bound. None
    where some bound is not a number."""
    found = alike(lower, upper)
    if found is None or native is None or not lower.is_contiguous():
        return None
    sizes = _sizes(lower.shape, kernel)
    if sizes is None:
        return None
    windows, numbers = sizes
    certain = lower.new_empty(*lower.shape[:2], *windows)
    ceiling, index = torch.empty_like(certain), torch.empty_like(certain, dtype=torch.int64)
    places = (tensor.data_ptr() for tensor in (index, certain, ceiling))
    if not native.candidates(*head(lower), *numbers, *found, *places):
        return None
    return index, certain, ceiling


def select(
    rows: Tensor, index: Tensor, certain: Tensor, ceiling: Tensor, owner: Tensor, extents: Sequence[int]
) -> tuple[Tensor, Tensor] | None:
    """Rows `[rows, channels, *windows]` of coefficients of maxima, over the elements `[rows, channels, *extents]` that
    they choose, and constants `[rows]`: a positive coefficient, and any where the choice is certain, goes to the place
    `index` in its plane, a negative one else to the constant, times `ceiling`. These three are `[examples, channels,
    *windows]`; `owner` has the example of each row, or one for all."""
    found = addresses(rows, certain, ceiling)
    if found is None or native is None or rows.ndim != 4 or type(index) is not Tensor or type(owner) is not Tensor:
        return None
    count, channels, *windows = rows.shape
    examples = certain.shape[0]
    same = index.shape == certain.shape == ceiling.shape == (examples, channels, *windows)
    whole = all(part.is_cpu and part.dtype == torch.int64 for part in (index, owner)) and owner.is_contiguous()
    if not same or not whole or owner.shape not in ((1,), (count,)):
        return None
    last = rows.is_contiguous(memory_format=torch.channels_last)
    if not last and not rows.is_contiguous():
        return None
    met = (index, certain, ceiling)
    if all(part.is_contiguous() for part in met):
        stands_last = False
    elif all(part.is_contiguous(memory_format=torch.channels_last) for part in met):
        stands_last = True
    else:
        return None
    if last:
        planes = rows.new_empty(count, *extents, channels).permute(0, 3, 1, 2)
    else:
        planes = rows.new_empty(count, channels, *extents)
    constants = rows.new_empty(count)
    sizes = count, examples, channels, windows[0] * windows[1], extents[0] * extents[1], last, stands_last == last
    given = owner.shape[0], owner.data_ptr(), found[0], index.data_ptr(), *found[1:]
    within = native.select_places(*head(planes), *sizes, *given, planes.data_ptr(), constants.data_ptr())
    return (planes, constants) if within else None


def _sizes(shape: Sequence[int], kernel: Sequence[int]) -> tuple[tuple[int, int], tuple[int, ...]] | None:
    """How many windows there are along both axes of planes of this shape, and their numbers as compiled code takes
    them; None for what it was not written for."""
    if len(shape) != 4 or len(kernel) != 2 or min(kernel) < 1:
        return None
    batch, channels, height, width = shape
    windows = height // kernel[0], width // kernel[1]
    if min(windows) < 1 or windows[1] * kernel[1] > WIDEST or kernel[0] > TALLEST:
        return None
    return windows, (batch * channels, height, width, 1, *windows, *kernel)
