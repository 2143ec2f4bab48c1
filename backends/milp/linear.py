"""Linear operators as sparse matrices, without a loop over entries."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
import torch
from scipy import sparse

from irverify.backends.milp.model import Floats, Indices
from irverify.ir.ops import (
    Add,
    AveragePool,
    BatchNorm,
    Cast,
    Concat,
    Conv,
    ConvTranspose,
    Expand,
    Gather,
    Identity,
    Linear,
    LinearOp,
    Neg,
    Pad,
    Reshape,
    ScaleShift,
    Slice,
    Sub,
    Transpose,
    Windows,
)
from irverify.ir.params import value
from irverify.ir.types import TensorType

Matrix: TypeAlias = "sparse.csr_array | Floats | float"
"""The matrix of one operand, `[out, in]`: sparse, or the diagonal of a diagonal one."""

MOVES = (Reshape, Transpose, Expand, Slice, Concat, Gather, Pad, Identity, Cast)
"""Operators each of whose elements is one element of an operand, or 0."""
DIAGONAL = (ScaleShift, BatchNorm, Neg)
CHUNK = 1 << 23
"""Entries of a dense matrix that are computed at a time where an operator has no rule of its own."""


def sources(op: LinearOp, operands: tuple[TensorType, ...]) -> Indices:
    """For an operator of `MOVES`: where each element of the result comes from in the concatenated operands, -1 for
    0."""
    if isinstance(op, Identity | Cast):
        return np.arange(operands[0].size)
    sizes = [operand.size for operand in operands]
    numbers = torch.arange(1, sum(sizes) + 1, dtype=torch.float64)  # exact, and 0 is left for padding
    parts = [part.reshape(1, *operand.shape) for part, operand in zip(numbers.split(sizes), operands, strict=True)]
    return _numpy(op.apply(*parts)).astype(np.int64).reshape(-1) - 1


def matrices(op: LinearOp, operands: tuple[TensorType, ...], result: TensorType) -> tuple[Matrix, ...]:
    """`A_i` of `sum_i A_i x_i + b` for each operand. Parameters must be float64."""
    if isinstance(op, DIAGONAL):
        return (_numpy(op.apply(torch.ones(1, *operands[0].shape, dtype=torch.float64))).reshape(-1),)
    if isinstance(op, Add):
        return (1.0,) * len(operands)
    if isinstance(op, Sub):
        return 1.0, -1.0
    if isinstance(op, Linear):
        weight = sparse.csr_array(_numpy(value(op.weight)))
        lead = math.prod(operands[0].shape[:-1])
        return (weight if lead == 1 else sparse.csr_array(sparse.kron(sparse.identity(lead), weight)),)
    if isinstance(op, Conv | ConvTranspose):
        return (_convolution(op, operands[0], result),)
    if isinstance(op, AveragePool):
        return (_average(op, operands[0], result),)
    return _general(op, operands, result)


def offset(op: LinearOp, result: TensorType) -> Floats:
    """b, flat."""
    given = op.offset(result.rank)
    if given is None:
        return np.zeros(result.size)
    return np.array(np.broadcast_to(_numpy(given), result.shape)).reshape(-1)


def window_entries(
    windows: Windows, extents: tuple[int, ...], places: tuple[int, ...]
) -> tuple[Indices, Indices, Indices]:
    """All (place, kernel element, position) with the position inside: `position = place * stride + element * dilation
    - before` on each axis; flat, row-major. Places whose window leaves the input have fewer elements."""
    place, element, position = (np.zeros(1, dtype=np.int64) for _ in range(3))
    inside = np.ones(1, dtype=bool)
    for axis, extent in enumerate(extents):
        kernel = windows.kernel[axis]
        p, k = (grid.reshape(-1) for grid in np.indices((places[axis], kernel)))
        at = p * windows.stride[axis] + k * windows.dilation[axis] - windows.padding[axis][0]
        place = (place[:, None] * places[axis] + p).reshape(-1)
        element = (element[:, None] * kernel + k).reshape(-1)
        position = (position[:, None] * extent + at).reshape(-1)
        inside = (inside[:, None] & ((at >= 0) & (at < extent))).reshape(-1)
    return place[inside], element[inside], position[inside]


def _convolution(op: Conv | ConvTranspose, operand: TensorType, result: TensorType) -> sparse.csr_array:
    """One entry for each (output channel, input channel of its group, place, kernel element). A transposed convolution
    has the places on its input side and the positions on its output side."""
    weight = _numpy(value(op.weight))
    kernel = weight.shape[2:]
    forward = isinstance(op, Conv)
    at_places, at_positions = (result, operand) if forward else (operand, result)
    windows = Windows(kernel, op.stride, op.padding, op.dilation)
    place, element, position = window_entries(windows, at_positions.shape[1:], at_places.shape[1:])
    # The first axis of the weight (out for a convolution, in for a transposed one) is not divided into groups.
    first, second = (np.asarray(grid) for grid in np.indices(weight.shape[:2]))
    second = second + first // (weight.shape[0] // op.groups) * weight.shape[1]
    spread = weight.reshape(*weight.shape[:2], -1)[:, :, element].reshape(-1)
    rows = (first[..., None] * math.prod(at_places.shape[1:]) + place).reshape(-1)
    columns = (second[..., None] * math.prod(at_positions.shape[1:]) + position).reshape(-1)
    shape = (at_places.size, at_positions.size)
    matrix = sparse.coo_array((spread, (rows, columns)), shape=shape)
    return matrix.tocsr() if forward else matrix.T.tocsr()


def _average(op: AveragePool, operand: TensorType, result: TensorType) -> sparse.csr_array:
    place, _, position = window_entries(op.windows, operand.shape[1:], result.shape[1:])
    places, positions = math.prod(result.shape[1:]), math.prod(operand.shape[1:])
    covered = np.bincount(place, minlength=places)
    means = _numpy(op.apply(torch.ones(1, *operand.shape, dtype=torch.float64)))[0, 0].reshape(-1)
    weights = (means / covered)[place]
    channel = sparse.coo_array((weights, (place, position)), shape=(places, positions))
    return sparse.csr_array(sparse.kron(sparse.identity(operand.shape[0]), channel))


def _general(op: LinearOp, operands: tuple[TensorType, ...], result: TensorType) -> tuple[sparse.csr_array, ...]:
    """Rows from the adjoint of unit vectors, or columns from unit inputs where these are fewer."""
    if len(operands) > 1 or result.size <= operands[0].size:
        step = max(1, CHUNK // max(1, sum(operand.size for operand in operands)))
        pieces = [
            [sparse.csr_array(_numpy(part).reshape(part.shape[0], -1)) for part in op.adjoint(units, operands)]
            for units in _units(result, step)
        ]
        return tuple(sparse.csr_array(sparse.vstack(parts)) for parts in zip(*pieces, strict=True))
    step = max(1, CHUNK // result.size)
    columns = [
        sparse.csr_array(_numpy(op.apply(units)).reshape(units.shape[0], -1)) for units in _units(operands[0], step)
    ]
    return (sparse.csr_array(sparse.vstack(columns).T),)


def _units(type_: TensorType, step: int) -> Iterator[torch.Tensor]:
    """The unit vectors of a value, `step` of them at a time."""
    for start in range(0, type_.size, step):
        count = min(step, type_.size - start)
        part = torch.zeros(count, type_.size, dtype=torch.float64)
        part[torch.arange(count), torch.arange(start, start + count)] = 1.0
        yield part.reshape(-1, *type_.shape)


def _numpy(tensor: torch.Tensor) -> Floats:
    return np.asarray(tensor.detach().cpu().double().numpy())
