"""Lowering of pooling, reductions and softmax."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from operator import lt

from irverify.frontends.onnx.linear import per_image
from irverify.frontends.onnx.lowering import Call, Rule
from irverify.frontends.onnx.values import Operand, Value
from irverify.frontends.onnx.windows import Pairs, padding, rounded_up, window_steps
from irverify.ir.ops import Abs, AveragePool, MaxPool, Neg, Pow, ReduceMean, ReduceSum, Softmax, Transpose


@dataclass(frozen=True)
class Pooling:
    """The windows of a pooling: `padding` with what ceil_mode adds, `given` without."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: Pairs
    given: Pairs


def pooling(call: Call, value: Value) -> Pooling:
    """The attributes of MaxPool and AveragePool."""
    kernel = tuple(call.node.get("kernel_shape"))
    stride, dilation = window_steps(call, len(kernel))
    extents = call.shape(value)[-len(kernel) :]
    reach = [(-(-n // step) - 1) * step + size for n, step, size in zip(extents, stride, kernel, strict=True)]
    if call.node.get("auto_pad", "NOTSET").startswith("SAME") and (max(dilation) > 1 or any(map(lt, reach, extents))):
        call.refuse("auto_pad with these strides or dilations: onnxruntime does not pad as ONNX says")
    given = padding(call, extents, kernel, stride, dilation)
    whole = rounded_up(given, extents, kernel, stride, dilation) if call.node.get("ceil_mode", 0) else given
    return Pooling(kernel, stride, dilation, whole, given)


def max_pool(call: Call) -> Operand:
    """MaxPool, without the indices."""
    if any(call.node.outputs[1:]):
        call.refuse("only the first result is supported, not the indices of the maxima")
    value = call.value(0)
    pool = pooling(call, value)
    return per_image(call, value, lambda images: MaxPool(pool.kernel, pool.stride, pool.padding, pool.dilation))


def average_pool(call: Call) -> Operand:
    """AveragePool; what ceil_mode adds after the end never counts."""
    value = call.value(0)
    pool = pooling(call, value)
    counted = pool.given if call.node.get("count_include_pad", 0) else ((0, 0),) * len(pool.kernel)
    op = AveragePool(pool.kernel, pool.stride, pool.padding, counted, pool.dilation)
    return per_image(call, value, lambda images: op)


def global_average_pool(call: Call) -> Operand:
    """GlobalAveragePool: the mean over the spatial axes."""
    value = call.value(0)
    return call.emit(ReduceMean(_spatial(call, value), True), value)


def global_max_pool(call: Call) -> Operand:
    """GlobalMaxPool: the maximum over the spatial axes."""
    value = call.value(0)
    return maximum(call, value, _spatial(call, value), True)


def _spatial(call: Call, value: Value) -> tuple[int, ...]:
    return tuple(call.axis(value, axis) for axis in range(2, call.rank(value)))


def maximum(call: Call, value: Value, axes: Sequence[int], keepdims: bool) -> Value:
    """The maximum along axes of the graph: one window of a MaxPool over all of them, put last."""
    shape = call.shape(value)
    rest = [axis for axis in range(len(shape)) if axis not in axes]
    if not axes:
        return value
    order = (*rest, *axes)
    if order != tuple(range(len(shape))):
        value = call.emit(Transpose(order), value)
    extent = math.prod(shape[axis] for axis in axes)
    value = call.reshape(value, (math.prod(shape[axis] for axis in rest), extent))
    value = call.emit(MaxPool((extent,), (1,), ((0, 0),), (1,)), value)
    kept = [1 if axis in axes else extent for axis, extent in enumerate(shape)]
    return call.reshape(value, kept if keepdims else [shape[axis] for axis in rest])


def _axes(call: Call, value: Value) -> tuple[tuple[int, ...], bool]:
    """The axes of the graph that are reduced, and whether they stay with extent 1."""
    axes = call.vector(1, "axes")
    if not axes and call.node.get("noop_with_empty_axes", 0):
        return (), True
    reduced = sorted({call.axis(value, int(axis)) for axis in (axes or range(call.rank(value)))})
    return tuple(reduced), bool(call.node.get("keepdims", 1))


def reduce_sum(call: Call) -> Operand:
    """ReduceSum."""
    value = call.value(0)
    return _sum(call, value, *_axes(call, value))


def _sum(call: Call, value: Value, axes: tuple[int, ...], keepdims: bool) -> Value:
    return call.emit(ReduceSum(axes, keepdims), value) if axes else value


def reduce_mean(call: Call) -> Operand:
    """ReduceMean."""
    value = call.value(0)
    axes, keepdims = _axes(call, value)
    return call.emit(ReduceMean(axes, keepdims), value) if axes else value


def reduce_max(call: Call) -> Operand:
    """ReduceMax."""
    value = call.value(0)
    return maximum(call, value, *_axes(call, value))


def reduce_min(call: Call) -> Operand:
    """ReduceMin: minus the maximum of minus x."""
    value = call.value(0)
    return call.emit(Neg(), maximum(call, call.emit(Neg(), value), *_axes(call, value)))


def reduce_l1(call: Call) -> Operand:
    """ReduceL1: the sum of magnitudes."""
    value = call.value(0)
    return _sum(call, call.emit(Abs(), value), *_axes(call, value))


def reduce_sum_square(call: Call) -> Operand:
    """ReduceSumSquare."""
    value = call.value(0)
    return _sum(call, call.emit(Pow(2.0), value), *_axes(call, value))


def softmax(call: Call) -> Operand:
    """Softmax along an axis; before opset 13 along that axis and all behind it together."""
    value = call.value(0)
    axis = call.axis(value, call.node.get("axis", -1 if call.opset >= 13 else 1))
    if call.opset >= 13:
        return call.emit(Softmax(axis), value)
    shape = call.shape(value)
    flat = call.reshape(value, (*shape[:axis], math.prod(shape[axis:])))
    return call.reshape(call.emit(Softmax(-1), flat), shape)


RULES: dict[str, Rule] = {
    "MaxPool": max_pool,
    "AveragePool": average_pool,
    "GlobalAveragePool": global_average_pool,
    "GlobalMaxPool": global_max_pool,
    "ReduceSum": reduce_sum,
    "ReduceMean": reduce_mean,
    "ReduceMax": reduce_max,
    "ReduceMin": reduce_min,
    "ReduceL1": reduce_l1,
    "ReduceSumSquare": reduce_sum_square,
    "Softmax": softmax,
}
