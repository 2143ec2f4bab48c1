"""Rules for normalisations with statistics of the example itself: layer, group and instance normalisation."""

from __future__ import annotations

import math

from irverify.frontends.torch.arithmetic import inner_const
from irverify.frontends.torch.call import BatchMixed, Call, Const, InTrainingMode, Unsupported, Value, derive, rule
from irverify.ir.ops import Mul, Pow, ReduceMean, ScaleShift, Sub


@rule("layer_norm", "native_layer_norm")
def layer_norm(call: Call) -> Value | list[Value]:
    """Over the last axes, as many as `normalized_shape` has."""
    axes = tuple(range(-len(call["normalized_shape"]), 0))
    result = _scaled(call, _normalised(call, call.value("input"), axes), call.optional("weight"), call.optional("bias"))
    return [result] if call.word.startswith("native") else result


@rule("group_norm", "native_group_norm")
def group_norm(call: Call) -> Value | list[Value]:
    """Over the channels of each group and all spatial axes."""
    groups = call.get("num_groups", call.get("group"))
    result = _grouped(call, groups, call.optional("weight"), call.optional("bias"))
    return [result] if call.word.startswith("native") else result


@rule("instance_norm")
def instance_norm(call: Call) -> Value:
    """Over all spatial axes of each channel."""
    if call["running_mean"] is not None and call["use_input_stats"]:
        raise InTrainingMode("it updates running statistics")
    operand = call.value("input")
    channels = call.type(operand).shape[1 - call.lead]
    return _grouped(call, channels, call.optional("weight"), call.optional("bias"))


def _grouped(call: Call, groups: int, weight: Const | None, bias: Const | None) -> Value:
    operand = call.value("self" if "self" in call.arguments else "input")
    shape = call.type(operand).shape
    lead = shape[: 1 - call.lead]  # the examples, in a model without batch axis
    size = call.type(operand).size
    split = call.reshaped(operand, (*lead, groups, size // groups // (lead[0] if lead else 1)))
    result = call.reshaped(_normalised(call, split, (-1,)), shape)
    spatial = len(shape) - len(lead) - 1

    def per_channel(const: Const | None) -> Const | None:
        return None if const is None else derive(lambda tensor: tensor.reshape(-1, *(1,) * spatial), const)

    return _scaled(call, result, per_channel(weight), per_channel(bias))


def _normalised(call: Call, operand: Value, axes: tuple[int, ...]) -> Value:
    """`(x - mean) / sqrt(variance + eps)`, statistics over `axes`, which are counted from the end."""
    shape = call.type(operand).shape
    mean = call.expanded(call.add(ReduceMean(axes, keepdims=True), operand), shape)
    centred = call.add(Sub(), operand, mean)
    variance = call.add(ReduceMean(axes, keepdims=True), call.add(Pow(2.0), centred))
    shifted = call.add(ScaleShift(None, call.scalar(float(call["eps"])).param), variance)
    return call.add(Mul(), centred, call.expanded(call.add(Pow(-0.5), shifted), shape))


def _scaled(call: Call, operand: Value, weight: Const | None, bias: Const | None) -> Value:
    if weight is None and bias is None:
        return operand
    factors = [None if const is None else inner_const(call, const).param for const in (weight, bias)]
    return call.add(ScaleShift(*factors), operand)


@rule("var", "std")
def variance(call: Call) -> Value:
    """`sum (x - mean)^2 / (n - correction)`, or its root."""
    operand, dims = call.value("self"), call.get("dim")
    if not dims:
        if call.lead:
            raise BatchMixed("it reduces the batch axis")
        dims = list(range(call.rank(operand)))
    axes = tuple(sorted(call.axis(operand, dim) for dim in dims))
    shape = call.type(operand).shape
    count = math.prod(shape[axis] for axis in axes)
    correction = call.get("correction")
    free = count - (float(call.get("unbiased", True)) if correction is None else correction)
    if free <= 0:
        raise Unsupported("it divides by zero")
    mean = call.expanded(call.add(ReduceMean(axes, keepdims=True), operand), shape)
    squares = call.add(Pow(2.0), call.add(Sub(), operand, mean))
    total = call.add(ReduceMean(axes, bool(call["keepdim"])), squares)
    result = call.add(ScaleShift(call.scalar(count / free).param), total)
    return call.add(Pow(0.5), result) if call.word == "std" else result
