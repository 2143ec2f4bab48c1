"""Rules for pooling and resizing."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from irverify.frontends.torch.arithmetic import extremum, scaled
from irverify.frontends.torch.call import BatchMixed, Call, Unsupported, Value, rule
from irverify.frontends.torch.layers import per_axis, with_channels_first
from irverify.ir.ops import AveragePool, Gather, Linear, MaxPool, Neg, ReduceMean, Transpose
from irverify.ir.ops.conv import Pairs


def _windows(call: Call, spatial: int) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], Pairs, Pairs]:
    """Kernel, stride, dilation, padding with what ceil_mode reaches beyond, and the padding as it was given."""
    kernel = per_axis(call["kernel_size"], spatial)
    stride = per_axis(call["stride"], spatial) or kernel
    dilation = per_axis(call.get("dilation") or [1], spatial)
    given = per_axis(call["padding"], spatial)
    extents = call.type(_operand(call)).shape[-spatial:]
    after = [
        max(amount, (count - 1) * step + gap * (width - 1) + 1 - extent - amount)
        for amount, count, step, gap, width, extent in zip(
            given, call.shape[-spatial:], stride, dilation, kernel, extents, strict=True
        )
    ]
    padding = tuple(zip(given, after, strict=True))
    return kernel, stride, dilation, padding, tuple((amount, amount) for amount in given)


def _operand(call: Call) -> Value:
    return call.value("self" if "self" in call.arguments else "input")


def _spatial(call: Call) -> int:
    """The number in the operator's name: max_pool2d works over two axes."""
    return int(next(letter for letter in call.word if letter.isdigit()))


@rule("max_pool1d", "max_pool2d", "max_pool3d", "max_pool2d_with_indices", "max_pool3d_with_indices",
      "max_pool1d_with_indices")  # fmt: skip
def max_pool(call: Call) -> Value | list[Value]:
    spatial = _spatial(call)
    kernel, stride, dilation, padding, _ = _windows(call, spatial)
    result = with_channels_first(call, MaxPool(kernel, stride, padding, dilation), _operand(call), spatial)
    return [result] if "indices" in call.word else result


@rule("avg_pool1d", "avg_pool2d", "avg_pool3d")
def average_pool(call: Call) -> Value:
    spatial = _spatial(call)
    kernel, stride, dilation, padding, given = _windows(call, spatial)
    counted = given if call["count_include_pad"] else ((0, 0),) * spatial
    divisor = call.get("divisor_override")
    if divisor is not None:  # every window counts as many elements
        counted = padding
    op = AveragePool(kernel, stride, padding, counted, dilation)
    result = with_channels_first(call, op, _operand(call), spatial)
    if divisor is None:
        return result
    return scaled(call, result, call.scalar(math.prod(kernel) / divisor))


@rule("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d",
      "_adaptive_avg_pool2d", "_adaptive_avg_pool3d")  # fmt: skip
def adaptive_average_pool(call: Call) -> Value:
    spatial, operand = _spatial(call), _operand(call)
    kernel = _divided(call, operand, spatial)
    if all(extent == 1 for extent in call.shape[-spatial:]):
        return call.add(ReduceMean(tuple(range(-spatial, 0)), keepdims=True), operand)
    if kernel is None:
        return _separable(call, operand, spatial)
    none = ((0, 0),) * spatial
    return with_channels_first(call, AveragePool(kernel, kernel, none, none, (1,) * spatial), operand, spatial)


@rule("adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d")
def adaptive_max_pool(call: Call) -> list[Value]:
    spatial, operand = _spatial(call), _operand(call)
    kernel = _divided(call, operand, spatial)
    if kernel is None:
        raise Unsupported("its windows differ in size")
    op = MaxPool(kernel, kernel, ((0, 0),) * spatial, (1,) * spatial)
    return [with_channels_first(call, op, operand, spatial)]


def _divided(call: Call, operand: Value, spatial: int) -> tuple[int, ...] | None:
    """The window of an adaptive pooling where the result's extents divide the operand's."""
    pairs = list(zip(call.type(operand).shape[-spatial:], call.shape[-spatial:], strict=True))
    return None if any(old % new for old, new in pairs) else tuple(old // new for old, new in pairs)


@rule(
    "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "_upsample_nearest_exact1d",
    "_upsample_nearest_exact2d", "_upsample_nearest_exact3d",
)  # fmt: skip
def upsample_nearest(call: Call) -> Value:
    """One gather for each axis; which elements it takes is read off the operator itself, applied to the indices."""
    operand = value = _operand(call)
    for axis in range(-_spatial(call), 0):
        extent = call.type(operand).shape[axis]
        indices = _probed(call, operand, axis, torch.arange(extent, dtype=torch.float32)[None])[0].long()
        if indices.tolist() != list(range(extent)):
            value = call.add(Gather(indices.to(call.result.device), axis), value)
    return value


@rule("upsample_linear1d", "upsample_bilinear2d", "upsample_trilinear3d", "upsample_bicubic2d",
      "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa")  # fmt: skip
def upsample_linear(call: Call) -> Value:
    return _separable(call, _operand(call), _spatial(call))


def _separable(call: Call, operand: Value, spatial: int) -> Value:
    """A linear operator that works along each axis alone and keeps constants: a dense layer along each axis.

    Its matrices are read off the operator itself.
    """
    value = operand
    for axis in range(-spatial, 0):
        extent = call.type(operand).shape[axis]
        matrix = _probed(call, operand, axis, torch.eye(extent, dtype=torch.float64)).t()
        if matrix.shape != (extent, extent) or not bool((matrix == torch.eye(extent)).all()):
            weight = matrix.to(device=call.result.device, dtype=call.dtype).contiguous()
            value = _along(call, value, axis, weight)
    return value


def _along(call: Call, value: Value, axis: int, weight: Tensor) -> Value:
    """A dense layer along an axis counted from the end."""
    rank = call.type(value).rank
    order = list(range(rank))
    order[axis], order[-1] = order[-1], order[axis]
    if axis == -1:
        return call.add(Linear(weight), value)
    swapped = call.add(Transpose(tuple(order)), value)
    return call.add(Transpose(tuple(order)), call.add(Linear(weight), swapped))


def _probed(call: Call, operand: Value, axis: int, lines: Tensor) -> Tensor:
    """What the call makes of `lines` `[n, extent]` along an axis, constant along the others: `[n, new extent]`."""
    target: Any = call.node.target
    spatial = _spatial(call)
    extents = call.type(operand).shape[-spatial:]
    shape = [1] * spatial
    shape[axis] = lines.shape[1]
    probe = lines.reshape(len(lines), 1, *shape).expand(-1, -1, *extents).contiguous()
    result: Tensor = target(**{**call.arguments, ("self" if "self" in call.arguments else "input"): probe})
    others = tuple(slice(None) if place == spatial + axis else 0 for place in range(spatial))
    return result[(slice(None), 0, *others)]


@rule("amax", "amin", "max", "min")
def extremum_along(call: Call) -> Value | list[Value]:
    """The maximum along axes, as a pooling with one window; the minimum is minus the maximum of minus the value."""
    operand = call.value("self")
    dims = call.get("dim", [])
    if "other" in call.arguments:
        return extremum(call)
    if call.lead and dims == []:
        raise BatchMixed("it works along the batch axis")
    axes = [call.axis(operand, dim) for dim in (dims if isinstance(dims, list) else [dims])]
    rank = call.type(operand).rank
    axes = sorted(axes or range(rank))
    rest = [axis for axis in range(rank) if axis not in axes]
    count = math.prod(call.type(operand).shape[axis] for axis in axes)
    value = operand if axes[0] == len(rest) else call.add(Transpose((*rest, *axes)), operand)
    value = call.reshaped(value, (call.type(operand).size // count, count))
    negative = call.word.endswith("min")
    value = call.add(Neg(), value) if negative else value
    value = call.add(MaxPool((count,), (1,), ((0, 0),), (1,)), value)
    value = call.reshaped(call.add(Neg(), value) if negative else value, call.shape)
    return [value] if call.word in ("max", "min") and "dim" in call.arguments else value
