"""Columns `[examples, count, *shape]`, and what an example has for each element, `[examples, *shape]`, stored alike."""

from __future__ import annotations

import torch
from torch import Tensor

from irverify.kernels.native import addresses, head, native


def columns(tensor: Tensor, slope: Tensor, radius: Tensor, drawn: Tensor) -> Tensor | None:
    """`diag(slope) columns + diag(radius) drawn`, for columns `drawn` `[1, count, *shape]` of all examples."""
    found = addresses(tensor, slope, radius, drawn)
    sizes = None if found is None else _sizes((tensor,), (slope, radius), drawn)
    if sizes is None or found is None or native is None:
        return None
    result = torch.empty_like(tensor)
    native.columns(*head(tensor), *sizes, *found, result.data_ptr())
    return result


def columns_back(
    tensor: Tensor, slope: Tensor, drawn: Tensor, outer: Tensor
) -> tuple[Tensor, Tensor, Tensor] | None:
    """The gradients in columns, slope and radius."""
    found = addresses(tensor, slope, drawn, outer)
    sizes = None if found is None else _sizes((tensor, outer), (slope,), drawn)
    if sizes is None or found is None or native is None:
        return None
    results = torch.empty_like(tensor), torch.empty_like(slope), torch.empty_like(slope)
    native.columns_back(*head(tensor), *sizes, *found, *(result.data_ptr() for result in results))
    return results


def middle_back(tensor: Tensor, low: Tensor, high: Tensor, outer: Tensor) -> Tensor | None:
    """The gradient of `(low + high) / 2`, two of the magnitudes of the columns of each element."""
    found = addresses(tensor, low, high, outer)
    sizes = None if found is None else _sizes((tensor,), (low, high, outer), None)
    if sizes is None or found is None or native is None:
        return None
    result = torch.empty_like(tensor)
    native.middle_back(*head(tensor), *sizes, *found, result.data_ptr())
    return result


def _sizes(many: tuple[Tensor, ...], one: tuple[Tensor, ...], drawn: Tensor | None) -> tuple[int, int, int] | None:
    """Examples, columns and elements; None where something is not stored in the order of the first, one element after
    the other."""
    first = many[0]
    if first.numel() == 0:
        return None
    examples, count, *shape = first.shape
    size = first[0, 0].numel()
    inner, whole = first.stride()[2:], (count * size, size)
    dense = first[0, 0].is_contiguous() or (
        len(shape) == 3 and first[0].is_contiguous(memory_format=torch.channels_last)
    )
    fits = dense and all(
        tensor.shape == first.shape and tensor.stride() == (*whole, *inner) for tensor in many
    )
    fits = fits and all(
        tensor.shape == (examples, *shape) and tensor.stride() == (size, *inner) for tensor in one
    )
    if drawn is not None:
        fits = fits and drawn.shape == (1, count, *shape) and drawn.stride()[1:] == (size, *inner)
    return (examples, count, size) if fits else None
