"""Rules for activations, convolutions and batch normalisation."""

from __future__ import annotations

import math

import torch

from irverify.frontends.torch.arithmetic import elementwise, inner_const, scaled
from irverify.frontends.torch.call import Call, Const, InTrainingMode, Unsupported, Value, current, derive, rule
from irverify.ir.ops import (
    Abs,
    Add,
    BatchNorm,
    Clip,
    Conv,
    ConvTranspose,
    Cos,
    Exp,
    LeakyRelu,
    Mul,
    Neg,
    Operator,
    Pow,
    Relu,
    Sigmoid,
    Sin,
    Softmax,
    Tanh,
)

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
    shaped = weight if current(weight).ndim > 1 else derive(lambda tensor: tensor.reshape(-1, *(1,) * axes), weight)
    slope = inner_const(call, shaped)
    below = call.add(Relu(), call.add(Neg(), operand))
    return call.add(Add(), call.add(Relu(), operand), scaled(call, below, derive(torch.neg, slope)))


@rule("hardsigmoid")
def hardsigmoid(call: Call) -> Value:
    """`min(max(x / 6 + 1 / 2, 0), 1)`."""
    affine = scaled(call, call.value("self"), call.scalar(1 / 6), call.scalar(0.5))
    return call.add(Clip(0.0, 1.0), affine)


@rule("gelu")
def gelu(call: Call) -> Value:
    """The approximation `x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))`; the exact one has no counterpart."""
    if call["approximate"] != "tanh":
        raise Unsupported("only approximate='tanh' has a counterpart")
    operand = call.value("self")
    root = math.sqrt(2 / math.pi)
    cubic = scaled(call, call.add(Pow(3.0), operand), call.scalar(0.044715 * root))
    argument = call.add(Add(), scaled(call, operand, call.scalar(root)), cubic)
    half = scaled(call, call.add(Tanh(), argument), call.scalar(0.5), call.scalar(0.5))
    return call.add(Mul(), operand, half)


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
    spatial = current(weight).ndim - 2
    dilation = per_axis(call["dilation"], spatial)
    padding = call["padding"]
    if isinstance(padding, str):
        kernel = current(weight).shape[2:]
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
    spatial = current(weight).ndim - 2
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
    return current(const).ndim

