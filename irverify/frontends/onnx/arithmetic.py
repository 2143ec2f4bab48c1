"""Lowering of operators on several operands, element by element, with ONNX's broadcasting made explicit."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import numpy
import torch
from torch import Tensor

from irverify.frontends.onnx.lowering import Call, Rule
from irverify.frontends.onnx.shaping import stretched
from irverify.frontends.onnx.values import Array, Known, Operand, Value
from irverify.ir.ops import (
    Add,
    Clip,
    Concat,
    Div,
    Exp,
    Gather,
    Maximum,
    Minimum,
    Mul,
    Pow,
    Relu,
    ScaleShift,
    Sub,
)
from irverify.ir.params import Derived

MAX_EXPONENTS = 16
"""A Pow is split by at most this many distinct exponents."""


def reciprocal(tensor: Tensor) -> Tensor:
    return tensor.reciprocal()


def broadcast(call: Call, operands: Sequence[Operand]) -> list[Operand]:
    """The operands in the graph's terms: values stretched to the common shape, constants that broadcast against it.

    With a batch axis the values must all have it in one place, and no constant may reach over it.
    """
    rank = max(call.rank(operand) for operand in operands if isinstance(operand, Value))
    if call.scope.batched and any(isinstance(o, Value) and call.rank(o) != rank for o in operands):
        call.mixing(f"operands of shapes {', '.join(str(call.extents(o)) for o in operands)} are broadcast")
    fitted = [_without_batch(call, o, rank) if isinstance(o, Known) else o for o in operands]
    shapes = [o.array.shape if isinstance(o, Known) else call.shape(o) for o in fitted]
    shape = numpy.broadcast_shapes(*shapes)
    return [stretched(call, o, shape) if isinstance(o, Value) else _trimmed(o, len(shape)) for o in fitted]


def _without_batch(call: Call, operand: Known, rank: int) -> Known:
    array = operand.numbers()
    if not call.scope.batched or array.ndim < rank:
        return operand
    if array.ndim > rank or array.shape[0] != 1:
        call.mixing(f"the constant {operand.name!r} of shape {array.shape} is broadcast over axis 0")
    return Known(array[0], operand.name)


def _trimmed(operand: Known, rank: int) -> Known:
    """The constant without axes of extent 1 that the result does not have."""
    shape = operand.array.shape
    return operand if len(shape) <= rank else Known(operand.array.reshape(shape[len(shape) - rank :]), operand.name)


def floats(call: Call, *operands: Operand) -> list[Operand]:
    """The operands, all of which have to be floating-point: with a value, every constant is of its type."""
    for operand in operands:
        if isinstance(operand, Value):
            call.as_value(operand)
        elif operand.array.dtype.kind != "f":
            call.refuse(f"an operand of type {operand.array.dtype} is not supported")
    return list(operands)


def pair(call: Call) -> tuple[Operand, Operand]:
    """Both operands, broadcast."""
    first, second = broadcast(call, floats(call, call.required(0), call.required(1)))
    return first, second


def sides(first: Operand, second: Operand) -> tuple[Value, Known]:
    """A value and a constant, in this order."""
    if isinstance(first, Value) and isinstance(second, Known):
        return first, second
    if isinstance(second, Value) and isinstance(first, Known):
        return second, first
    raise TypeError("expected a value and a constant")


def summed(call: Call, first: Operand, second: Operand) -> Value:
    """The sum of two operands that are broadcast already, one of which at least is a value."""
    if isinstance(first, Value) and isinstance(second, Value):
        return call.emit(Add(), first, second)
    value, constant = sides(first, second)
    return call.emit(ScaleShift(shift=constant.tensor()), value)


def difference(call: Call, first: Operand, second: Operand) -> Value:
    if isinstance(first, Value) and isinstance(second, Value):
        return call.emit(Sub(), first, second)
    value, constant = sides(first, second)
    if value is first:
        return call.emit(ScaleShift(shift=-constant.tensor()), value)
    return call.emit(ScaleShift(scale=call.scalar(-1.0, value), shift=constant.tensor()), value)


def product(call: Call, first: Operand, second: Operand) -> Value:
    if isinstance(first, Value) and isinstance(second, Value):
        return call.emit(Pow(2.0), first) if first == second else call.emit(Mul(), first, second)
    value, constant = sides(first, second)
    return call.emit(ScaleShift(scale=constant.tensor()), value)


def quotient(call: Call, first: Operand, second: Operand) -> Value:
    if isinstance(first, Value) and isinstance(second, Value):
        return call.emit(Div(), first, second)
    value, constant = sides(first, second)
    if value is first:
        if not (constant.numbers() != 0).all():
            call.refuse(f"the divisor {constant.name!r} holds a zero")
        # Derived, so that a conversion to float64 does not inherit the rounding of the quotient in float32.
        return call.emit(ScaleShift(scale=Derived(reciprocal, constant.tensor())), value)
    inverse = call.emit(Pow(-1.0), value)
    return inverse if (constant.numbers() == 1).all() else product(call, inverse, constant)


Combine = Callable[[Call, Operand, Operand], Value]


def binary(combine: Combine, call: Call) -> Operand:
    return combine(call, *pair(call))


def variadic(combine: Combine, call: Call) -> Operand:
    """One operator of any number of operands as a chain of that of two; constants are combined last."""
    operands = floats(call, *(operand for operand in call.operands if operand is not None))
    first, *rest = sorted(operands, key=lambda operand: isinstance(operand, Known))
    for operand in rest:
        both = broadcast(call, [first, operand])
        first = combine(call, both[0], both[1])
    return first


def mean(call: Call) -> Operand:
    """Mean of any number of operands."""
    total = variadic(summed, call)
    if len(call.operands) == 1 or isinstance(total, Known):
        return total
    count = call.scalar(float(len(call.operands)), total)
    return call.emit(ScaleShift(scale=Derived(reciprocal, count)), total)


def greatest(call: Call, first: Operand, second: Operand) -> Value:
    """The greater of two; with one number for all elements it is piecewise linear."""
    limit = _uniform(second)
    if isinstance(first, Value) and limit is not None:
        return call.emit(Relu() if limit == 0.0 else Clip(limit, math.inf), first)
    return call.emit(Maximum(), *as_values(call, first, second))


def least(call: Call, first: Operand, second: Operand) -> Value:
    limit = _uniform(second)
    if isinstance(first, Value) and limit is not None:
        return call.emit(Clip(-math.inf, limit), first)
    return call.emit(Minimum(), *as_values(call, first, second))


def _uniform(operand: Operand) -> float | None:
    """The one number that a constant holds, None where there are several."""
    if isinstance(operand, Value) or operand.array.size == 0:
        return None
    number = operand.numbers().flat[0]
    return float(number) if (operand.array == number).all() else None


def as_values(call: Call, first: Operand, second: Operand) -> tuple[Value, Value]:
    """Two broadcast operands, a constant among them as a value of the graph."""
    if isinstance(first, Value) and isinstance(second, Value):
        return first, second
    value, constant = sides(first, second)
    full = call.constant(Known(numpy.broadcast_to(constant.numbers(), call.shape(value)), constant.name))
    return (value, full) if value is first else (full, value)


def power(call: Call) -> Operand:
    """Pow by constant exponents; where they differ, the elements are sorted by exponent and put back.

    A constant base c > 0 gives `exp(x ln c)`.
    """
    if isinstance(call.required(0), Known):
        return _exponential(call)
    base, exponent = sides(*broadcast(call, [call.value(0), call.known(1, "the exponent")]))
    exponents = numpy.broadcast_to(exponent.numbers(), call.shape(base)).reshape(-1)
    distinct = sorted(set(exponents.tolist()))
    if not distinct or len(distinct) > MAX_EXPONENTS:
        call.refuse(f"expected 1 to {MAX_EXPONENTS} distinct exponents, got {len(distinct)}")
    if len(distinct) == 1:
        return raised(call, base, float(distinct[0]))
    return _by_exponent(call, base, exponents, distinct)


def raised(call: Call, base: Value, exponent: float) -> Value:
    """`base ** exponent`; exponent 1 is the value itself."""
    return base if exponent == 1.0 else call.emit(Pow(exponent), base)


def _exponential(call: Call) -> Value:
    value, base = sides(*pair(call))
    if not (base.numbers() > 0).all():
        call.refuse(f"a constant base must be greater than 0, {base.name!r} is not")
    return call.emit(Exp(), call.emit(ScaleShift(scale=Derived(torch.log, base.tensor())), value))


def _by_exponent(call: Call, base: Value, exponents: Array, distinct: Sequence[float]) -> Value:
    flat = call.reshape(base, (exponents.size,))
    places = [numpy.flatnonzero(exponents == exponent) for exponent in distinct]
    parts = [
        raised(call, call.emit(Gather(torch.from_numpy(place), 0), flat), float(exponent))
        for place, exponent in zip(places, distinct, strict=True)
    ]
    back = torch.from_numpy(numpy.argsort(numpy.concatenate(places)))
    return call.reshape(call.emit(Gather(back, 0), call.emit(Concat(0), *parts)), call.shape(base))


RULES: dict[str, Rule] = {
    "Add": partial(binary, summed),
    "Sub": partial(binary, difference),
    "Mul": partial(binary, product),
    "Div": partial(binary, quotient),
    "Pow": power,
    "Sum": partial(variadic, summed),
    "Mean": mean,
    "Max": partial(variadic, greatest),
    "Min": partial(variadic, least),
}
