"""Lowering of comparisons, truth values and casts. In the graph truth values are 0 and 1 in floating point.

Comparisons of values are step functions, which bounds decide where a difference is known to be positive or negative.
"""

from __future__ import annotations

from functools import partial

import numpy
import torch

from irverify.frontends.onnx.arithmetic import as_values, broadcast, difference, floats, pair, product, sides, summed
from irverify.frontends.onnx.lowering import Call, Rule
from irverify.frontends.onnx.nodes import FLOAT_TYPES, type_name
from irverify.frontends.onnx.values import Array, Known, Operand, Value
from irverify.ir.ops import Cast, Maximum, Minimum, Operator, ScaleShift, Step, Trunc

TORCH_TYPES = {"float16": torch.float16, "float32": torch.float32, "float64": torch.float64}


def compared(call: Call, inclusive: bool, swapped: bool) -> Operand:
    """Greater, Less and their inclusive forms: which side of zero the difference lies on."""
    first, second = pair(call)
    gap = difference(call, second, first) if swapped else difference(call, first, second)
    return call.emit(Step(inclusive), gap, kind="bool")


def equal(call: Call) -> Operand:
    """Equal: neither greater nor less."""
    gap = difference(call, *pair(call))
    at_least, at_most = call.emit(Step(True), gap), call.emit(Step(True), _negated(call, gap))
    return call.emit(Minimum(), at_least, at_most, kind="bool")


def _negated(call: Call, value: Value) -> Value:
    return call.emit(ScaleShift(scale=call.scalar(-1.0, value)), value)


def _complement(call: Call, value: Value) -> Value:
    """1 - value."""
    return call.emit(ScaleShift(scale=call.scalar(-1.0, value), shift=call.scalar(1.0, value)), value)


def negation(call: Call) -> Operand:
    """Not."""
    return _complement(call, call.value(0, "bool"))


def logical(op: Operator, call: Call) -> Operand:
    """And as the minimum, Or as the maximum of 0 and 1."""
    operands: list[Operand] = []
    for index in (0, 1):
        operand = call.required(index)
        operands.append(_ones(operand) if isinstance(operand, Known) else call.value(index, "bool"))
    first, second = broadcast(call, operands)
    return call.emit(op, *as_values(call, first, second), kind="bool")


def _ones(truth: Known) -> Known:
    return Known(truth.numbers().astype(numpy.float32), truth.name)


def where(call: Call) -> Operand:
    """Where: `mask first + (1 - mask) second`; one affine map where the mask is a constant."""
    condition = call.required(0)
    first, second = floats(call, call.required(1), call.required(2))
    if isinstance(condition, Value):
        condition = call.value(0, "bool")
    condition, first, second = broadcast(call, [condition, first, second])
    if isinstance(condition, Known):
        return _selected(call, condition.array.astype(bool), first, second)
    dtype = next(call.dtype(o) if isinstance(o, Value) else o.tensor().dtype for o in (first, second))
    if call.dtype(condition) != dtype:
        condition = call.emit(Cast(dtype), condition)
    condition = Value(condition.name)
    return summed(call, product(call, condition, first), product(call, _complement(call, condition), second))


def _selected(call: Call, mask: Array, first: Operand, second: Operand) -> Operand:
    """Where with a constant mask."""
    if isinstance(first, Value) and isinstance(second, Value):
        return summed(call, _masked(call, first, mask), _masked(call, second, ~mask))
    value, constant = sides(first, second)
    kept = mask if value is first else ~mask
    numbers = constant.numbers()
    filled = Known(numpy.where(kept, numpy.zeros((), numbers.dtype), numbers), constant.name)
    return call.emit(ScaleShift(scale=_mask(call, value, kept), shift=filled.tensor()), value)


def _masked(call: Call, value: Value, kept: Array) -> Value:
    return call.emit(ScaleShift(scale=_mask(call, value, kept)), value)


def _mask(call: Call, value: Value, kept: Array) -> torch.Tensor:
    return torch.from_numpy(kept.astype(numpy.float64)).to(call.dtype(value))


def cast(call: Call) -> Operand:
    """Cast to a type given as an attribute."""
    return converted(call, type_name(call.node.get("to")))


def cast_like(call: Call) -> Operand:
    """CastLike: to the type of the second operand."""
    like = call.required(1)
    if isinstance(like, Known):
        return converted(call, like.numbers().dtype.name)
    if like.kind != "float":
        call.refuse(f"a cast to the type of a value of type {like.kind} is not supported")
    return converted(call, str(call.dtype(like)).removeprefix("torch."))


def converted(call: Call, name: str) -> Operand:
    """The first operand in another element type (in numpy's words)."""
    data = call.required(0)
    if isinstance(data, Known):
        if data.symbolic and name in ("int32", "int64"):
            return data
        return call.result(data.numbers().astype(name))
    data = call.value(0, "float", "int", "bool")
    if name in FLOAT_TYPES:
        dtype = TORCH_TYPES[name]
        return Value(data.name) if call.dtype(data) == dtype else call.emit(Cast(dtype), data, kind="float")
    if name == "bool":
        return data if data.kind == "bool" else _truth(call, data)
    if name in ("int32", "int64"):
        return call.emit(Trunc(), data, kind="int") if data.kind == "float" else Value(data.name, "int")
    return call.refuse(f"a cast to {name} is not supported")


def _truth(call: Call, value: Value) -> Value:
    """Whether a number differs from zero: 0 or 1."""
    above, below = call.emit(Step(), value), call.emit(Step(), _negated(call, value))
    return call.emit(Maximum(), above, below, kind="bool")


RULES: dict[str, Rule] = {
    "Greater": partial(compared, inclusive=False, swapped=False),
    "Less": partial(compared, inclusive=False, swapped=True),
    "GreaterOrEqual": partial(compared, inclusive=True, swapped=False),
    "LessOrEqual": partial(compared, inclusive=True, swapped=True),
    "Equal": equal,
    "Not": negation,
    "And": partial(logical, Minimum()),
    "Or": partial(logical, Maximum()),
    "Where": where,
    "Cast": cast,
    "CastLike": cast_like,
}
