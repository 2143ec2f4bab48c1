"""Rules for sums, products and quotients, with the broadcasting of both kinds of operands written out."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from irverify.frontends.torch.call import BatchMixed, Call, Const, Unsupported, Value, current, derive, rule
from irverify.ir.ops import Add, Clip, Constant, Div, Maximum, Minimum, Mul, Neg, Operator, Pow, ScaleShift, Sub


def inner_const(call: Call, const: Const) -> Const:
    """A constant as it broadcasts against values: of the result's element type and without an axis for the batch."""
    shape = tuple(current(const).shape)
    if call.lead and len(shape) == call.result.ndim:
        if shape[0] != 1:
            raise BatchMixed("its constant operand differs along the batch axis")
        const = derive(lambda tensor: tensor.squeeze(0), const)
    if current(const).dtype != call.dtype:
        dtype = call.dtype
        const = derive(lambda tensor: tensor.to(dtype), const)
    return const


def operand(call: Call, name: str) -> Value | Const:
    """An argument, a number among them, as a value or constant of the result's element type that broadcasts."""
    argument = call[name]
    if isinstance(argument, int | float):
        return call.scalar(argument)
    if isinstance(argument, torch.SymInt | torch.SymFloat):
        raise BatchMixed("it computes with the batch size")
    if isinstance(argument, Const):
        return inner_const(call, argument)
    value = call.value(name)
    if call.lead and call.rank(value) != call.result.ndim:
        raise BatchMixed("its operands of different rank align the batch axis with another one")
    return call.typed(value, call.dtype)


def broadcast(call: Call, value: Value) -> Value:
    """A value stretched to the result's shape."""
    return call.expanded(value, call.shape)


def full_value(call: Call, side: Value | Const) -> Value:
    """An operand as a value of the result's shape."""
    if isinstance(side, Value):
        return broadcast(call, side)
    shape = call.shape
    return call.constant(derive(lambda tensor: tensor.expand(shape), side))


def scaled(call: Call, value: Value, scale: Const | None = None, shift: Const | None = None) -> Value:
    """`scale * value + shift` of the result's shape."""
    scale_param = None if scale is None else scale.param
    return call.add(ScaleShift(scale_param, None if shift is None else shift.param), broadcast(call, value))


@rule("add", "sub", "rsub", "subtract")
def add(call: Call) -> Value:
    """`self + alpha other`, `self - alpha other`, or `other - alpha self`."""
    first, second = operand(call, "self"), operand(call, "other")
    if call.word == "rsub":
        first, second = second, first
    alpha = call.get("alpha", 1)
    minus = call.word != "add"
    if isinstance(second, Const):
        assert isinstance(first, Value)
        factor = -alpha if minus else alpha
        return scaled(call, first, shift=second if factor == 1 else derive(lambda tensor: factor * tensor, second))
    if alpha != 1:
        second = scaled(call, second, scale=call.scalar(alpha))
    if isinstance(first, Const):
        return scaled(call, second, call.scalar(-1) if minus else None, first)
    return call.add(Sub() if minus else Add(), broadcast(call, first), broadcast(call, second))


@rule("mul", "multiply")
def mul(call: Call) -> Value:
    first, second = operand(call, "self"), operand(call, "other")
    if isinstance(first, Const):
        first, second = second, first
    assert isinstance(first, Value)
    if isinstance(second, Const):
        return scaled(call, first, scale=second)
    return call.add(Mul(), broadcast(call, first), broadcast(call, second))


@rule("div", "divide", "true_divide")
def div(call: Call) -> Value:
    if call.get("rounding_mode") is not None:
        raise Unsupported("division that rounds is not continuous")
    first, second = operand(call, "self"), operand(call, "other")
    if isinstance(second, Const):
        assert isinstance(first, Value)
        return scaled(call, first, scale=derive(torch.reciprocal, second))
    return call.add(Div(), full_value(call, first), broadcast(call, second))


@rule("neg", "negative")
def neg(call: Call) -> Value:
    return call.add(Neg(), call.value("self"))


@rule("reciprocal", "rsqrt", "sqrt", "square")
def power(call: Call) -> Value:
    exponent = {"reciprocal": -1.0, "rsqrt": -0.5, "sqrt": 0.5, "square": 2.0}[call.word]
    return call.add(Pow(exponent), call.value("self"))


@rule("pow")
def pow_(call: Call) -> Value:
    exponent = call["exponent"]
    if isinstance(exponent, Const) and not exponent.live and current(exponent).numel() == 1:
        exponent = current(exponent).item()
    if not isinstance(exponent, int | float):
        raise Unsupported("its exponent is not a constant number")
    value = call.typed(call.value("self"), call.dtype)
    return value if exponent == 1 else call.add(Pow(float(exponent)), value)


@rule("maximum", "minimum", "fmax", "fmin")
def extremum(call: Call) -> Value:
    first, second = operand(call, "self"), operand(call, "other")
    if isinstance(first, Const):
        first, second = second, first
    larger = call.word in ("maximum", "fmax", "max")
    assert isinstance(first, Value)
    if isinstance(second, Const) and not second.live and current(second).numel() == 1:
        limit = float(current(second))
        return call.add(Clip(limit, math.inf) if larger else Clip(-math.inf, limit), broadcast(call, first))
    return call.add(Maximum() if larger else Minimum(), broadcast(call, first), full_value(call, second))


@rule("clamp", "clip", "clamp_min", "clamp_max", "hardtanh", "relu6")
def clamp(call: Call) -> Value:
    lower, upper = {"relu6": (0, 6)}.get(call.word) or _limits(call)
    value = call.typed(call.value("self"), call.dtype)
    if not isinstance(lower, Const) and not isinstance(upper, Const):
        lower, upper = (default if limit is None else float(limit)
                        for limit, default in ((lower, -math.inf), (upper, math.inf)))  # fmt: skip
        if lower > upper:  # PyTorch gives the upper limit everywhere
            lower = upper
        return call.add(Clip(lower, upper), value)
    value = broadcast(call, value)
    for limit, op in ((lower, Maximum()), (upper, Minimum())):
        if limit is not None:
            side = inner_const(call, limit) if isinstance(limit, Const) else call.scalar(limit)
            value = call.add(op, value, full_value(call, side))
    return value


def _limits(call: Call) -> tuple[Any, Any]:
    limits = [call.get(name, call.get(other)) for name, other in (("min", "min_val"), ("max", "max_val"))]
    if any(isinstance(limit, Value) for limit in limits):
        raise Unsupported("its limits depend on the input")
    return limits[0], limits[1]


@rule("where")
def where(call: Call) -> Value:
    """With a constant condition: `mask self + (1 - mask) other`."""
    condition = call["condition"]
    if not isinstance(condition, Const):
        raise Unsupported("its condition depends on the input")
    mask = inner_const(call, condition)
    return _select(call, mask, operand(call, "self"), operand(call, "other"))


@rule("masked_fill")
def masked_fill(call: Call) -> Value:
    fill = operand(call, "value")
    if isinstance(call["mask"], Value) or isinstance(fill, Value):
        raise Unsupported("its mask or fill depends on the input")
    return _select(call, inner_const(call, call.const("mask")), fill, operand(call, "self"))


def _select(call: Call, mask: Const, first: Value | Const, second: Value | Const) -> Value:
    """`first` where the mask is 1, `second` where it is 0; constants must be finite, since they are multiplied by 0."""
    inverse = derive(lambda tensor: 1 - tensor, mask)
    for side in (first, second):
        if isinstance(side, Const) and not bool(torch.isfinite(current(side)).all()):
            raise Unsupported("it fills in numbers that are not finite")
    shape = call.shape

    def masked(side: Const, by: Const) -> Const:
        return derive(lambda tensor, factor: (tensor * factor).expand(shape), side, by)

    if isinstance(first, Value) and isinstance(second, Value):
        return call.add(Add(), scaled(call, first, mask), scaled(call, second, inverse))
    if isinstance(first, Value):
        assert isinstance(second, Const)
        return scaled(call, first, mask, masked(second, inverse))
    if isinstance(second, Value):
        return scaled(call, second, inverse, masked(first, mask))
    return call.add(Constant(derive(Tensor.add, masked(first, mask), masked(second, inverse)).param))


def elementwise(call: Call, op: Operator, name: str = "self") -> Value:
    """An operator of one value that keeps its shape, in the result's element type."""
    return call.add(op, call.typed(call.value(name), call.dtype))
