"""Lowering of functions of one operand, element by element."""

from __future__ import annotations

import math
from functools import partial

from irverify.frontends.onnx.arithmetic import broadcast, product
from irverify.frontends.onnx.lowering import Call, Rule
from irverify.frontends.onnx.values import Known, Operand, Value
from irverify.ir.ops import (
    Abs,
    Add,
    Clip,
    Cos,
    Exp,
    LeakyRelu,
    Neg,
    Operator,
    Pow,
    Relu,
    ScaleShift,
    Sigmoid,
    Sin,
    Tanh,
)


def unary(op: Operator, call: Call) -> Operand:
    """An operator that the graph has as well."""
    return call.emit(op, call.value(0))


def leaky_relu(call: Call) -> Operand:
    """LeakyRelu; a negative slope is a PRelu."""
    value, slope = call.value(0), call.node.number("alpha", 0.01)
    if slope >= 0:
        return call.emit(LeakyRelu(slope), value)
    return sloped(call, value, Known(call.scalar(slope, value).numpy(), "alpha"))


def prelu(call: Call) -> Operand:
    """PRelu with constant slopes: one for all elements, or `relu(x) - slope relu(-x)`."""
    value, slope = call.value(0), call.known(1, "the slope")
    numbers = slope.numbers()
    if numbers.size and (numbers == numbers.flat[0]).all() and numbers.flat[0] >= 0:
        return call.emit(LeakyRelu(float(numbers.flat[0])), value)
    return sloped(call, value, slope)


def sloped(call: Call, value: Value, slope: Known) -> Value:
    """`x` where it is positive, else `slope x`."""
    shape = call.shape(value)
    negative = call.emit(Relu(), call.emit(Neg(), value))
    scaled = product(call, *broadcast(call, [negative, Known(-slope.numbers(), slope.name)]))
    if call.shape(scaled) != shape:
        call.refuse(f"the slope {slope.name!r} of shape {slope.array.shape} enlarges the operand")
    return call.emit(Add(), call.emit(Relu(), value), scaled)


def clip(call: Call) -> Operand:
    """Clip between constants; a missing one is infinite. Where they cross, the upper one is the result."""
    value = call.value(0)
    lower, upper = (_limit(call, *limit) for limit in ((1, "min", -math.inf), (2, "max", math.inf)))
    if (lower, upper) == (-math.inf, math.inf):
        return value
    return call.emit(Relu() if (lower, upper) == (0.0, math.inf) else Clip(min(lower, upper), upper), value)


def _limit(call: Call, index: int, name: str, default: float) -> float:
    if call.opset < 11:
        return call.node.number(name, default)
    operand = call.optional(index, f"the limit {name}")
    return default if operand is None else float(operand.numbers().reshape(()))


def hard_sigmoid(call: Call) -> Operand:
    """HardSigmoid: `min(max(alpha x + beta, 0), 1)`."""
    value = call.value(0)
    alpha, beta = call.node.number("alpha", 0.2), call.node.number("beta", 0.5)
    affine = ScaleShift(scale=call.scalar(alpha, value), shift=call.scalar(beta, value))
    return call.emit(Clip(0.0, 1.0), call.emit(affine, value))


RULES: dict[str, Rule] = {
    **{
        name: partial(unary, op)
        for name, op in {
            "Relu": Relu(), "Abs": Abs(), "Sigmoid": Sigmoid(), "Tanh": Tanh(), "Exp": Exp(), "Sin": Sin(),
            "Cos": Cos(), "Neg": Neg(), "Sqrt": Pow(0.5), "Reciprocal": Pow(-1.0),
        }.items()
    },
    "LeakyRelu": leaky_relu,
    "PRelu": prelu,
    "Clip": clip,
    "HardSigmoid": hard_sigmoid,
}  # fmt: skip
