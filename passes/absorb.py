"""Absorbing an elementwise affine map into the weights of a neighbouring layer, with parameters that stay live.

`s x + t` is absorbed where scale and shift are the same for all elements that share a weight: one number for each
channel of a convolution, for each feature of a dense layer.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from irverify.ir.ops import Conv, ConvTranspose, Linear, Neg, Operator, ScaleShift
from irverify.ir.params import Derived, Param, value
from irverify.ir.types import TensorType

Layer = Linear | Conv | ConvTranspose


def absorb_after(layer: Operator, scale: Param | None, shift: Param | None, result: TensorType) -> Layer | None:
    """The layer that computes `scale * layer(x) + shift`, with a result of type `result`; None where there is none."""
    if not isinstance(layer, Layer):
        return None
    axis, channels = _channel_axis(layer, result), result.shape[_channel_axis(layer, result)]
    vectors = [_vector(parameter, result, axis) for parameter in (scale, shift)]
    if any(vector is None and parameter is not None for vector, parameter in zip(vectors, (scale, shift), strict=True)):
        return None
    factor, constant = vectors
    weight: Param = layer.weight
    if factor is not None:
        groups = layer.groups if isinstance(layer, ConvTranspose) else None
        weight = Derived(partial(_scaled_outputs, groups), layer.weight, factor)
    return layer.replace(weight=weight, bias=_bias_after(layer.bias, factor, constant, channels))


def absorb_before(layer: Operator, scale: Param | None, shift: Param | None, operand: TensorType) -> Layer | None:
    """The layer that computes `layer(scale * x + shift)` for x of type `operand`; None where there is none.

    A shift in front of padding cannot be absorbed: what is padded is not shifted. Nor can one in front of a transposed
    convolution, whose elements receive different numbers of contributions.
    """
    if not isinstance(layer, Layer):
        return None
    axis = _channel_axis(layer, operand)
    vectors = [_vector(parameter, operand, axis) for parameter in (scale, shift)]
    if any(vector is None and parameter is not None for vector, parameter in zip(vectors, (scale, shift), strict=True)):
        return None
    factor, constant = vectors
    if constant is not None and not _uniform_sums(layer):
        return None
    groups = layer.groups if isinstance(layer, Conv) else 1
    weight, bias = layer.weight, layer.bias
    if factor is not None:
        scaled = partial(_scaled_inputs, groups, isinstance(layer, ConvTranspose))
        weight = Derived(scaled, layer.weight, factor)
    if constant is not None:
        sources = [layer.weight, constant] if bias is None else [layer.weight, constant, bias]
        bias = Derived(partial(_shifted_bias, groups), *sources)
    return layer.replace(weight=weight, bias=bias)


def as_scale_shift(op: Operator, type_: TensorType) -> ScaleShift | None:
    """An elementwise affine operator on values of that type as a `scale_shift`; None for any other."""
    if isinstance(op, Neg):
        return ScaleShift(torch.tensor(-1.0, dtype=type_.dtype))
    return op if isinstance(op, ScaleShift) else None


def merged(first: ScaleShift, second: ScaleShift) -> ScaleShift:
    """`s_2 (s_1 x + t_1) + t_2`."""
    shift = second.shift
    if first.shift is not None:
        moved = first.shift if second.scale is None else Derived(torch.mul, first.shift, second.scale)
        shift = moved if shift is None else Derived(torch.add, moved, shift)
    scale = second.scale if first.scale is None else first.scale
    if first.scale is not None and second.scale is not None:
        scale = Derived(torch.mul, first.scale, second.scale)
    return ScaleShift(scale, shift)


def _channel_axis(layer: Layer, type_: TensorType) -> int:
    return type_.rank - 1 if isinstance(layer, Linear) else 0


def _uniform_sums(layer: Layer) -> bool:
    """Every result sums over the same weights, with no zeros from padding."""
    if isinstance(layer, Conv):
        return all(before <= 0 and after <= 0 for before, after in layer.padding)
    return isinstance(layer, Linear)


def _vector(parameter: Param | None, type_: TensorType, axis: int) -> Param | None:
    """`parameter`, which broadcasts to a value of type `type_`, as one number for each place on `axis`, `[channels]`;
    None where it differs along other axes."""
    if parameter is None:
        return None
    shape = tuple(value(parameter).shape)
    full = (1,) * (type_.rank - len(shape)) + shape
    if any(extent != 1 for place, extent in enumerate(full) if place != axis):
        return None
    channels = type_.shape[axis]
    return parameter if shape == (channels,) else Derived(partial(_as_vector, channels), parameter)


def _as_vector(channels: int, tensor: Tensor) -> Tensor:
    return tensor.reshape(-1).expand(channels)


def _scaled_outputs(groups: int | None, weight: Tensor, factor: Tensor) -> Tensor:
    """Each output channel of a weight times its factor. `groups` is that of a transposed convolution, whose output
    channels stand on axis 1 within each group."""
    if groups is None:
        return weight * factor.reshape(-1, *(1,) * (weight.ndim - 1))
    grouped = weight.reshape(groups, -1, *weight.shape[1:])
    factors = factor.reshape(groups, 1, -1, *(1,) * (weight.ndim - 2))
    return (grouped * factors).reshape(weight.shape)


def _scaled_inputs(groups: int, transposed: bool, weight: Tensor, factor: Tensor) -> Tensor:
    """Each input channel of a weight times its factor; they stand on axis 1 within each group, on 0 if `transposed`."""
    if transposed:
        return weight * factor.reshape(-1, *(1,) * (weight.ndim - 1))
    grouped = weight.reshape(groups, -1, *weight.shape[1:])
    factors = factor.reshape(groups, 1, -1, *(1,) * (weight.ndim - 2))
    return (grouped * factors).reshape(weight.shape)


def _shifted_bias(groups: int, weight: Tensor, constant: Tensor, bias: Tensor | None = None) -> Tensor:
    """`W t + b`, with W summed over the kernel."""
    matrix = weight.flatten(2).sum(2) if weight.ndim > 2 else weight
    grouped = matrix.reshape(groups, -1, matrix.shape[1])
    sums = torch.einsum("goi,gi->go", grouped, constant.reshape(groups, -1)).reshape(-1)
    return sums if bias is None else sums + bias


def _bias_after(bias: Param | None, factor: Param | None, constant: Param | None, channels: int) -> Param | None:
    """`s b + t`."""
    if bias is not None and factor is not None:
        bias = Derived(torch.mul, bias, factor)
    if bias is None or constant is None:
        return constant if bias is None else bias
    return Derived(torch.add, bias, constant)
