"""Lowering of matrix products, convolutions and batch normalisation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import lt

from torch import Tensor

from irverify.frontends.onnx.arithmetic import broadcast, sides, summed
from irverify.frontends.onnx.lowering import Call, Rule
from irverify.frontends.onnx.shaping import transposed
from irverify.frontends.onnx.values import Known, Operand, Value
from irverify.frontends.onnx.windows import Pairs, given_padding, numbers, padding, window_steps
from irverify.ir.ops import BatchNorm, ConstMatMul, Conv, ConvTranspose, Linear, MatMul, Operator, ScaleShift
from irverify.ir.params import Derived, Param

# Matrix products.


def matmul(call: Call) -> Operand:
    """MatMul of values, or of a value by a constant from either side."""
    return multiplied(call, call.required(0), call.required(1))


def multiplied(call: Call, first: Operand, second: Operand) -> Value:
    if isinstance(first, Value) and isinstance(second, Value):
        return _product(call, call.as_value(first), call.as_value(second))
    if isinstance(first, Value) and isinstance(second, Known):
        return _times_constant(call, call.as_value(first), second)
    if isinstance(first, Known) and isinstance(second, Value):
        return _constant_times(call, first, call.as_value(second))
    raise TypeError("expected a product that depends on an input")


def _times_constant(call: Call, value: Value, constant: Known) -> Value:
    """`value @ constant`: contracts the last axis of the value."""
    shape, rank = call.shape(value), call.rank(value)
    if rank <= call.lead:
        call.mixing("the product sums over axis 0")
    weight = _stripped(call, constant, rank)
    if weight.ndim == 1:
        return call.reshape(call.emit(Linear(weight[None].contiguous()), value), shape[:-1])
    if weight.ndim == 2:
        return call.emit(Linear(weight.T.contiguous()), value)
    if len(shape) >= 2:
        return call.emit(ConstMatMul(weight), value)
    result = call.emit(ConstMatMul(weight), call.reshape(value, (1, *shape)))
    return call.reshape(result, _without(call.shape(result), -2))


def _constant_times(call: Call, constant: Known, value: Value) -> Value:
    """`constant @ value`: contracts the last axis but one of the value, or its only one."""
    shape, rank = call.shape(value), call.rank(value)
    if call.scope.batched and rank <= 2:
        call.mixing("the product sums over axis 0")
    weight = _stripped(call, constant, rank)
    if len(shape) == 1 and weight.ndim <= 2:
        result = call.emit(Linear(weight if weight.ndim == 2 else weight[None]), value)
        return result if weight.ndim == 2 else call.reshape(result, ())
    operand = call.reshape(value, (*shape, 1)) if len(shape) == 1 else value
    result = call.emit(ConstMatMul(weight if weight.ndim > 1 else weight[None], left=True), operand)
    if weight.ndim == 1:
        return call.reshape(result, _without(call.shape(result), -2))
    return call.reshape(result, call.shape(result)[:-1]) if len(shape) == 1 else result


def _stripped(call: Call, constant: Known, rank: int) -> Tensor:
    """The matrix without the axis that meets the batch axis of a value of that rank."""
    weight = constant.tensor()
    if not call.scope.batched or weight.ndim <= 2 or weight.ndim < rank:
        return weight
    if weight.ndim > rank or weight.shape[0] != 1:
        call.mixing(f"the constant {constant.name!r} of shape {tuple(weight.shape)} is broadcast over axis 0")
    return weight[0]


def _product(call: Call, first: Value, second: Value) -> Value:
    """The product of two values; vectors become matrices of one row or column, missing leading axes extents of 1."""
    ranks = call.rank(first), call.rank(second)
    if call.scope.batched and (ranks[0] != ranks[1] or ranks[0] < 3):
        call.mixing(f"values of shapes {call.extents(first)} and {call.extents(second)} are multiplied")
    shapes = [call.shape(first), call.shape(second)]
    full = [shapes[0] if len(shapes[0]) > 1 else (1, *shapes[0]), shapes[1] if len(shapes[1]) > 1 else (*shapes[1], 1)]
    rank = max(map(len, full))
    padded = [(1,) * (rank - len(shape)) + shape for shape in full]
    result = call.emit(MatMul(), call.reshape(first, padded[0]), call.reshape(second, padded[1]))
    shape = call.shape(result)
    shape = _without(shape, -2) if len(shapes[0]) == 1 else shape
    return call.reshape(result, shape[:-1] if len(shapes[1]) == 1 else shape)


def _without(shape: Sequence[int], axis: int) -> tuple[int, ...]:
    axis = axis % len(shape)
    return (*shape[:axis], *shape[axis + 1 :])


def gemm(call: Call) -> Operand:
    """Gemm: `alpha A B + beta C` with A and B transposed on demand."""
    first, second = (_oriented(call, call.required(i), name) for i, name in enumerate(("transA", "transB")))
    alpha, beta = call.node.number("alpha", 1.0), call.node.number("beta", 1.0)
    added = call.operand(2) if beta != 0.0 else None
    if isinstance(first, Value) and isinstance(second, Known):
        weight = scaled(second.tensor().T.contiguous(), alpha)
        bias = _bias(added, second.array.shape[1], beta)
        result = call.emit(Linear(weight, bias), first)
        added = None if bias is not None else added
    else:
        result = multiplied(call, first, second)
        result = result if alpha == 1.0 else call.emit(ScaleShift(scale=call.scalar(alpha, result)), result)
    if added is None:
        return result
    if isinstance(added, Value):
        scale = ScaleShift(scale=call.scalar(beta, added))
        added = call.as_value(added) if beta == 1.0 else call.emit(scale, call.as_value(added))
        return summed(call, *broadcast(call, [result, added]))
    result, constant = sides(*broadcast(call, [result, added]))
    return call.emit(ScaleShift(shift=scaled(constant.tensor(), beta)), result)


def _oriented(call: Call, operand: Operand, attribute: str) -> Operand:
    """The matrix, transposed if the attribute says so."""
    if call.rank(operand) != 2:
        call.refuse(f"expected matrices, got an operand of shape {call.extents(operand)}")
    if not call.node.get(attribute, 0):
        return operand
    if isinstance(operand, Known):
        return Known(operand.numbers().T, operand.name)
    return transposed(call, call.as_value(operand), (1, 0))


def _bias(added: Operand | None, size: int, beta: float) -> Param | None:
    """The constant that is added, where it is one number for each column."""
    if not isinstance(added, Known) or added.array.ndim > 2 or (added.array.ndim == 2 and added.array.shape[0] != 1):
        return None
    tensor = added.tensor()
    vector = tensor if tensor.shape == (size,) else tensor.reshape(-1).expand(size).contiguous()
    return scaled(vector, beta)


def scaled(tensor: Tensor, factor: float) -> Param:
    """`factor * tensor`: derived, so that a conversion to float64 does not inherit the rounding of float32."""
    return tensor if factor == 1.0 else Derived(lambda source: source * factor, tensor)


# Operators over images.


def per_image(call: Call, value: Value, operator: Callable[[int], Operator]) -> Value:
    """Applies an operator over `[channels, *spatial]` to each image `[n, channels, *spatial]`.

    Without a batch axis the images are put side by side along the channels; `operator(n)` is the one that acts on n of
    them at once.
    """
    shape = call.shape(value)
    if call.scope.batched:
        return call.emit(operator(1), value)
    if len(shape) < 2:
        call.refuse(f"expected an operand [n, channels, ...], got {list(shape)}")
    images, channels, *spatial = shape
    result = call.emit(operator(images), call.reshape(value, (images * channels, *spatial)))
    extents = call.shape(result)
    return call.reshape(result, (images, extents[0] // images, *extents[1:]))


def repeated(tensor: Tensor, times: int) -> Tensor:
    """The tensor for several images side by side: repeated along its first axis."""
    return tensor if times == 1 else tensor.repeat(times, *(1,) * (tensor.ndim - 1))


def conv(call: Call) -> Operand:
    """Conv with constant weights."""
    value = call.value(0)
    weight = call.known(1, "the weight").tensor()
    bias = call.optional(2, "the bias")
    kernel = _kernel(call, weight)
    stride, dilation = window_steps(call, len(kernel))
    pairs = padding(call, call.shape(value)[-len(kernel) :], kernel, stride, dilation)
    groups = call.node.get("group", 1)
    offset = None if bias is None else bias.tensor()

    def operator(images: int) -> Operator:
        shift = None if offset is None else repeated(offset, images)
        return Conv(repeated(weight, images), shift, stride, pairs, dilation, groups * images)

    return per_image(call, value, operator)


def _kernel(call: Call, weight: Tensor) -> tuple[int, ...]:
    kernel = tuple(weight.shape[2:])
    declared = tuple(call.node.get("kernel_shape", kernel))
    if declared != kernel or not kernel:
        call.refuse(f"expected a kernel of shape {declared}, got a weight of shape {tuple(weight.shape)}")
    return kernel


def conv_transpose(call: Call) -> Operand:
    """ConvTranspose with constant weights; a wanted output shape is turned into padding."""
    value = call.value(0)
    weight = call.known(1, "the weight").tensor()
    bias = call.optional(2, "the bias")
    kernel = _kernel(call, weight)
    stride, dilation = window_steps(call, len(kernel))
    extra = numbers(call, "output_padding", len(kernel), 0)
    extents = call.shape(value)[-len(kernel) :]
    full = [
        step * (extent - 1) + spread * (size - 1) + 1 + added
        for extent, step, spread, size, added in zip(extents, stride, dilation, kernel, extra, strict=True)
    ]
    pairs = _cropping(call, full, [extent * step for extent, step in zip(extents, stride, strict=True)])
    groups = call.node.get("group", 1)
    offset = None if bias is None else bias.tensor()

    def operator(images: int) -> Operator:
        shift = None if offset is None else repeated(offset, images)
        return ConvTranspose(repeated(weight, images), shift, stride, pairs, extra, dilation, groups * images)

    return per_image(call, value, operator)


def _cropping(call: Call, full: Sequence[int], same: Sequence[int]) -> Pairs:
    """The padding of a transposed convolution with the full result `full`: as given, or from the wanted extents."""
    mode = call.node.get("auto_pad", "NOTSET")
    wanted = call.node.get("output_shape")
    if wanted is None and not mode.startswith("SAME"):
        return ((0, 0),) * len(full) if mode == "VALID" else given_padding(call, len(full))
    if wanted is None and any(map(lt, full, same)):
        call.refuse("auto_pad with strides beyond the kernel: onnxruntime does not pad as ONNX says")
    wanted = list(same) if wanted is None else wanted[-len(full) :]
    pairs = []
    for extent, target in zip(full, wanted, strict=True):
        less, more = (extent - target) // 2, extent - target - (extent - target) // 2
        pairs.append(
            (0, extent - target) if extent < target else (less, more) if mode == "SAME_UPPER" else (more, less)
        )
    return tuple(pairs)


def batch_normalization(call: Call) -> Operand:
    """BatchNormalization at evaluation, over axis 1."""
    value = call.value(0)
    if call.node.get("training_mode", 0):
        call.refuse("batch normalisation in training mode depends on the whole batch")
    if call.opset < 9 and not call.node.get("spatial", 1):
        call.refuse("batch normalisation for each element (spatial = 0) is not supported")
    weight, bias, mean, variance = (call.known(index, "statistics").tensor() for index in range(1, 5))
    epsilon = call.node.number("epsilon", 1e-5)

    def operator(images: int) -> Operator:
        tiled = [repeated(parameter, images) for parameter in (mean, variance, weight, bias)]
        return BatchNorm(tiled[0], tiled[1], tiled[2], tiled[3], epsilon)

    return per_image(call, value, operator)


RULES: dict[str, Rule] = {
    "MatMul": matmul,
    "Gemm": gemm,
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "BatchNormalization": batch_normalization,
}
