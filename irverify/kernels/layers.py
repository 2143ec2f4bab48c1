"""Rows of coefficients through dense layers, one after the other, and to their minimum over a box, in one go."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from irverify.kernels.adjoint import CHIP
from irverify.kernels.native import addresses, indices, native, within

SHARED = 192
"""From so many rows on work is shared among threads."""


FEW, SMALL, LARGE = 8, 2**16, 2**20
"""Fewer rows than this meet weights of more than so many elements faster in products with vectors; weights with more
elements than that do not stay in any near cache, so that rows do better layer by layer."""


class Layer(NamedTuple):
    """A dense layer, `weight` `[out, in]` and `bias` `[out]`, and the lines around what reads it: `slope`, and `rise`,
    `base` and `top` where they are not zero, `[examples, out]`; without a slope there are none."""

    weight: Tensor
    bias: Tensor | None
    slope: Tensor | None = None
    rise: Tensor | None = None
    base: Tensor | None = None
    top: Tensor | None = None


class Start(NamedTuple):
    """Rows `[pairs]` out of `coefficients`, those at `places` or all, of the example `owner` `[pairs]` or the first,
    with their constants `[pairs]`; with `twice` the negatives of all come behind them. Without owners, `columns` says
    for which elements coefficients are; else they are for all."""

    coefficients: Tensor
    constant: Tensor
    places: Tensor | None = None
    owner: Tensor | None = None
    twice: bool = False
    columns: Tensor | None = None


def lower_bounds(start: Start, layers: Sequence[Layer], center: Tensor, radius: Tensor) -> Tensor | None:
    """The minimum of each row over the box of its example, `[examples, in]`, in what the last layer reads."""
    if not CHIP or native is None or not layers:
        return None
    start = start._replace(places=indices(start.places), owner=indices(start.owner), columns=indices(start.columns))
    rows, constant, places, owner, twice, columns = start
    given = [constant, center, radius, *(part for layer in layers for part in layer)]
    if addresses(rows, *given) is None or not _fits(start, layers, center, radius):
        return None
    kept = [None if part is None else part.contiguous() for part in (rows, *given)]
    first, constants, middle, reach, *parts = (0 if part is None else part.data_ptr() for part in kept)
    zeros = constant.new_zeros(max(len(layer.weight) for layer in layers))
    width, numbers = len(Layer._fields), []
    for at, layer in enumerate(layers):
        weight, bias, *lines = parts[at * width : (at + 1) * width]
        numbers.append([*layer.weight.shape, *lines, bias or zeros.data_ptr(), weight])
    table = torch.tensor(numbers, dtype=torch.int64, device="cpu")  # others may be the default
    pairs = constant.shape[0]
    least = constant.new_empty(2 * pairs if twice else pairs)
    threads = torch.get_num_threads() if len(least) >= SHARED else 1
    chosen = (0 if part is None else part.data_ptr() for part in (places, owner, columns))
    examples, lists = center.numel() // layers[-1].weight.shape[1], (len(layers), table.data_ptr())
    told = pairs, int(twice), examples, rows.shape[1], first, *chosen, *lists, CHIP, constants, middle, reach
    return least if native.layers(least.element_size(), threads, *told, least.data_ptr()) else None


def _fits(start: Start, layers: Sequence[Layer], center: Tensor, radius: Tensor) -> bool:
    """Whether the sizes are those of rows through these layers, and worth it, and indices those of what there is."""
    rows, constant, places, owner, _, columns = start
    pairs, size = constant.numel(), layers[-1].weight.shape[1]
    if not pairs or not size or any(part is not None and part.shape != (pairs,) for part in (constant, places, owner)):
        return False
    examples = center.numel() // size
    if not examples or center.numel() != examples * size or radius.numel() != center.numel():
        return False
    if owner is not None and not within(owner, examples):
        return False
    if rows.ndim != 2 or (rows.shape[0] != pairs if places is None else not within(places, rows.shape[0])):
        return False
    size = rows.shape[1]
    if columns is not None:
        known = layers[0].weight.shape[0]
        if owner is not None or columns.shape != (size,) or not size or not within(columns, known):
            return False
        size = known
    for weight, bias, *lines in layers:
        fits = weight.ndim == 2 and weight.shape[0] == size and (bias is None or bias.shape == (size,))
        if weight.numel() > (SMALL if pairs < FEW else LARGE):
            return False
        if not fits or not size or any(part is not None and part.numel() != examples * size for part in lines):
            return False
        size = weight.shape[1]
    return True
