"""Rules for dense layers, convolutions, batch normalisation and activations."""

from __future__ import annotations

import torch
from torch import Tensor

from irverify.frontends.torch.arithmetic import elementwise, inner_const, scaled
from irverify.frontends.torch.call import BatchMixed, Call, Const, InTrainingMode, Unsupported, Value, derive, rule
from irverify.ir.ops import (
    Abs,
    Add,
    BatchNorm,
    Clip,
    ConstMatMul,
    Conv,
    ConvTranspose,
    Cos,
    Exp,
    LeakyRelu,
    Linear,
    MatMul,
    Neg,
    Operator,
    Relu,
    Sigmoid,
    Sin,
    Softmax,
    Tanh,
)
from irverify.ir.params import Param, value

ACTIVATIONS: dict[str, type[Operator]] = {
    "relu": Relu,
    "sigmoid": Sigmoid,
    "tanh": Tanh,
    "exp": Exp,
    "abs": Abs,
    "sin": Sin,
    "cos": Cos,
}


@rule(*ACTIVATIONS)
def activation(call: Call) -> Value:
    return elementwise(call, ACTIVATIONS[call.word]())


@rule("leaky_relu")
def leaky_relu(call: Call) -> Value:
    return elementwise(call, LeakyRelu(float(call["negative_slope"])))


@rule("prelu", "_prelu_kernel")
def prelu(call: Call) -> Value:
    """`relu(x) - weight relu(-x)`: the weight stays live."""
    operand, weight = call.value("self"), call.const("weight")
    axes = call.rank(operand) - 1 - call.lead
    shaped = weight if _ndim(weight) > 1 else derive(lambda tensor: tensor.reshape(-1, *(1,) * axes), weight)
    slope = inner_const(call, shaped)
    below = call.add(Relu(), call.add(Neg(), operand))
    return call.add(Add(), call.add(Relu(), operand), scaled(call, below, derive(torch.neg, slope)))


@rule("hardsigmoid")
def hardsigmoid(call: Call) -> Value:
    """`min(max(x / 6 + 1 / 2, 0), 1)`."""
    affine = scaled(call, call.value("self"), call.scalar(1 / 6), call.scalar(0.5))
    return call.add(Clip(0.0, 1.0), affine)


@rule("softmax", "_softmax", "_safe_softmax")
def softmax(call: Call) -> Value:
    operand = call.value("self")
    return elementwise(call, Softmax(call.axis(operand, call["dim"])))


@rule("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout", "native_dropout")
def dropout(call: Call) -> Value | list[Value]:
    if call["train"] and call["p"] != 0:
        raise InTrainingMode("it drops at random")
    operand = call.value("input")
    return operand if call.word != "native_dropout" else [operand]


@rule("contiguous", "clone", "alias", "detach", "lift_fresh", "lift_fresh_copy", "to", "_to_copy", "type_as",
      "positive")  # fmt: skip
def unchanged(call: Call) -> Value:
    """What changes the element type at most; that is seen to after every rule."""
    return call.value("self")


@rule("linear")
def linear(call: Call) -> Value:
    return call.add(Linear(call.const("weight").param, call.param("bias")), call.value("input"))


@rule("mm", "bmm", "matmul", "mv", "dot")
def matmul(call: Call) -> Value:
    names = [name for name in call.arguments if name in ("self", "other", "mat2", "vec", "tensor")]
    first, second = (call[name] for name in names)
    return _product(call, first, second)


@rule("addmm", "baddbmm", "addmv", "addbmm")
def addmm(call: Call) -> Value:
    """`beta self + alpha (first second)`."""
    if call.word == "addbmm":
        raise Unsupported("it sums over the batch")
    names = {"addmm": ("mat1", "mat2"), "baddbmm": ("batch1", "batch2"), "addmv": ("mat", "vec")}[call.word]
    product = _product(call, call[names[0]], call[names[1]])
    alpha, beta = call["alpha"], call["beta"]
    if alpha != 1:
        product = scaled(call, product, call.scalar(alpha))
    if beta == 0:
        return product
    summand = call["self"]
    if isinstance(summand, Const):
        shift = inner_const(call, summand)
        return scaled(call, product, shift=shift if beta == 1 else derive(lambda tensor: beta * tensor, shift))
    if beta != 1:
        summand = scaled(call, summand, call.scalar(beta))
    return call.add(Add(), product, call.expanded(summand, call.shape))


def _product(call: Call, first: Value | Const, second: Value | Const) -> Value:
    """`torch.matmul` of two values, or of a value and a constant on either side."""
    if isinstance(first, Value) and isinstance(second, Value):
        return _product_of_values(call, first, second)
    if isinstance(first, Value):
        assert isinstance(second, Const)
        return _product_with(call, first, second)
    assert isinstance(second, Value)
    return _product_by(call, first, second)


def _product_with(call: Call, operand: Value, const: Const) -> Value:
    """`x W`: a linear layer where W is a matrix or a vector."""
    if _ndim(const) == 1:
        return call.reshaped(call.add(Linear(derive(lambda vector: vector[None], const).param), operand), call.shape)
    if _ndim(const) == 2:
        return call.add(Linear(derive(Tensor.t, const).param), operand)
    weight, shape = _without_batch(call, const, operand), call.type(operand).shape
    operand = call.reshaped(operand, shape if len(shape) > 1 else (1, *shape))
    return call.reshaped(call.add(ConstMatMul(weight), operand), call.shape)


def _product_by(call: Call, const: Const, operand: Value) -> Value:
    """`W x`."""
    if call.lead and call.rank(operand) <= 2:
        raise BatchMixed("it multiplies along the batch axis")
    if _ndim(const) == 1:
        const = derive(lambda vector: vector[None], const)
    weight, shape = _without_batch(call, const, operand), call.type(operand).shape
    operand = call.reshaped(operand, shape if len(shape) > 1 else (*shape, 1))
    return call.reshaped(call.add(ConstMatMul(weight, left=True), operand), call.shape)


def _without_batch(call: Call, const: Const, operand: Value) -> Param:
    """A constant factor without the axis that meets the batch axis."""
    if call.lead and _ndim(const) > call.rank(operand):
        raise BatchMixed("its constant factor has more axes than the value")
    if call.lead and _ndim(const) == call.rank(operand):
        if value(const.param).shape[0] != 1:
            raise BatchMixed("its constant factor differs along the batch axis")
        return derive(lambda tensor: tensor.squeeze(0), const).param
    return const.param


def _product_of_values(call: Call, first: Value, second: Value) -> Value:
    shapes = [call.type(side).shape for side in (first, second)]
    if call.lead and (len(shapes[0]) != len(shapes[1]) or len(shapes[0]) < 2):
        raise BatchMixed("it multiplies along the batch axis")
    shapes[0] = shapes[0] if len(shapes[0]) > 1 else (1, *shapes[0])
    shapes[1] = shapes[1] if len(shapes[1]) > 1 else (*shapes[1], 1)
    rank = max(map(len, shapes))
    padded = [(1,) * (rank - len(shape)) + shape for shape in shapes]
    product = call.add(MatMul(), call.reshaped(first, padded[0]), call.reshaped(second, padded[1]))
    return call.reshaped(product, call.shape)


def with_channels_first(call: Call, op: Operator, operand: Value, spatial: int) -> Value:
    """`op` on `[channels, *spatial axes]`. A model without batch axis may still have one of extent 1 in front."""
    shape = call.type(operand).shape
    if len(shape) == spatial + 2 and not call.lead:
        if shape[0] != 1:
            raise Unsupported(f"it works on {shape[0]} examples at once, in a model without batch axis")
        operand = call.reshaped(operand, shape[1:])
    return call.reshaped(call.add(op, operand), call.shape)


@rule("conv1d", "conv2d", "conv3d", "convolution")
def convolution(call: Call) -> Value:
    if call.get("transposed"):
        return conv_transpose(call)
    weight = call.const("weight")
    spatial = _ndim(weight) - 2
    dilation = per_axis(call["dilation"], spatial)
    padding = call["padding"]
    if isinstance(padding, str):
        kernel = value(weight.param).shape[2:]
        spans = [step * (extent - 1) for step, extent in zip(dilation, kernel, strict=True)]
        pairs = tuple((0, 0) if padding == "valid" else (span // 2, span - span // 2) for span in spans)
    else:
        pairs = tuple((amount, amount) for amount in per_axis(padding, spatial))
    stride = per_axis(call["stride"], spatial)
    op = Conv(weight.param, call.param("bias"), stride, pairs, dilation, call["groups"])
    return with_channels_first(call, op, call.value("input"), spatial)


@rule("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def conv_transpose(call: Call) -> Value:
    weight = call.const("weight")
    spatial = _ndim(weight) - 2
    stride, dilation = per_axis(call["stride"], spatial), per_axis(call["dilation"], spatial)
    pairs = tuple((amount, amount) for amount in per_axis(call["padding"], spatial))
    extra = per_axis(call["output_padding"], spatial)
    op = ConvTranspose(weight.param, call.param("bias"), stride, pairs, extra, dilation, call["groups"])
    return with_channels_first(call, op, call.value("input"), spatial)


@rule("batch_norm", "cudnn_batch_norm", "_native_batch_norm_legit_no_training", "native_batch_norm")
def batch_norm(call: Call) -> Value | list[Value]:
    if call.get("training"):
        raise InTrainingMode("it normalises with statistics of the batch")
    mean, variance = call.param("running_mean"), call.param("running_var")
    if mean is None or variance is None:
        raise Unsupported("it has no running statistics")
    op = BatchNorm(mean, variance, call.param("weight"), call.param("bias"), float(call["eps"]))
    operand = call.value("input")
    result = with_channels_first(call, op, operand, call.rank(operand) - 2)
    return result if call.word == "batch_norm" else [result]


def per_axis(numbers: list[int], axes: int) -> tuple[int, ...]:
    """One number for each spatial axis; a single one stands for all."""
    return tuple(numbers) * axes if len(numbers) == 1 else tuple(numbers)


def _ndim(const: Const) -> int:
    return value(const.param).ndim

