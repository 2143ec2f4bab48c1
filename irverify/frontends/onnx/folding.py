"""Operators on constants, computed by numpy while the model is read: shape arithmetic, tables, masks.

What only moves elements about (Gather, Concat, Slice, ...) is in the rules of `shaping`, which take constants as well;
`BATCH` moves with them. Everything here that computes refuses it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, reduce
from typing import Any

import numpy

from irverify.frontends.onnx.lowering import Call, Rule
from irverify.frontends.onnx.nodes import to_array
from irverify.frontends.onnx.values import BATCH, Array, Operand, known

LIMIT = 1 << 28
"""No constant that is made here has more elements."""


def constant(call: Call) -> Operand:
    """Constant: the one attribute says what it holds."""
    node = call.node
    name = next(iter(node.outputs), "")
    if node.has("value"):
        return call.result(to_array(node.attributes["value"].t, f"constant {name!r}"))
    for attribute in ("value_float", "value_floats", "value_int", "value_ints"):
        if node.has(attribute):
            dtype = numpy.int64 if "int" in attribute else numpy.float32
            return call.result(numpy.array(node.get(attribute), dtype))
    return call.refuse(f"a constant given by {', '.join(node.attributes) or 'no attribute'} is not supported")


def shape(call: Call) -> Operand:
    """Shape: known for every operand; the batch axis stands in it as `BATCH`."""
    extents = call.extents(call.required(0))
    start, end = call.node.get("start", 0), call.node.get("end", len(extents))
    return known(extents[slice(start, end)], call.node.outputs[0])


def size(call: Call) -> Operand:
    """Size: the number of elements."""
    extents = call.extents(call.required(0))
    return known(reduce(lambda total, extent: total * int(extent), extents, 1), call.node.outputs[0])


def filled(call: Call, extents: list[Any], example: Callable[[list[int]], Array]) -> Operand:
    """`example(extents)`, as a constant of each example where the first extent is the batch."""
    batched = bool(extents) and extents[0] is BATCH
    shape = [int(extent) for extent in (extents[1:] if batched else extents)]
    if min(shape, default=1) < 0 or reduce(lambda total, extent: total * extent, shape, 1) > LIMIT:
        call.refuse(f"expected a shape of at most {LIMIT} elements, got {shape}")
    result = call.result(example(shape))
    return call.constant(result) if batched else result


def constant_of_shape(call: Call) -> Operand:
    """ConstantOfShape: one number in a given shape."""
    value = call.node.get("value", numpy.zeros(1, numpy.float32))
    extents = call.known(0, "the shape").integers()
    return filled(call, extents, lambda shape: numpy.full(shape, value.reshape(-1)[0], value.dtype))


def range_(call: Call) -> Operand:
    """Range: start, start + step, ... before limit."""
    start, limit, step = (call.known(index, "a limit of the range").numbers().reshape(()) for index in range(3))
    count = max(0, int(numpy.ceil((limit - start) / step))) if step != 0 else LIMIT + 1
    if count > LIMIT:
        call.refuse(f"expected a range of at most {LIMIT} elements, got {count}")
    return call.result((start + numpy.arange(count).astype(start.dtype) * step).astype(start.dtype))


def where(call: Call) -> Operand:
    """Where: elements of one or the other constant."""
    condition = call.known(0, "the condition").numbers().astype(bool)
    first, second = (call.known(index, "a choice").array for index in (1, 2))
    if object in (first.dtype, second.dtype):
        first, second = first.astype(object), second.astype(object)
    return call.result(numpy.where(condition, first, second))


def equal(call: Call) -> Operand:
    """Equal: the number of examples, at least 1, equals no number below 1."""
    operands = [call.known(index, "an operand").array for index in (0, 1)]
    if object not in (operands[0].dtype, operands[1].dtype):
        return call.result(numpy.equal(*operands))

    def same(first: Any, second: Any) -> bool:
        symbols = [item is BATCH for item in (first, second)]
        if all(symbols):
            return True
        other = second if symbols[0] else first
        return not (any(symbols) and other < 1) and int(first) == int(second)

    both = numpy.broadcast_arrays(*(operand.astype(object) for operand in operands))
    return call.result(numpy.array(numpy.frompyfunc(same, 2, 1)(*both), dtype=bool))


def divided(first: Array, second: Array) -> Array:
    """The quotient; of whole numbers, towards zero."""
    if first.dtype.kind == "f":
        return first / second
    if (second == 0).any():
        raise ZeroDivisionError("whole numbers divided by zero")
    quotient: Array = numpy.sign(first) * numpy.sign(second) * (numpy.abs(first) // numpy.abs(second))
    return quotient.astype(first.dtype)


def power(base: Array, exponent: Array) -> Array:
    raised: Array = numpy.power(base, exponent)
    return raised.astype(base.dtype)


def mod(call: Call) -> Operand:
    """Mod: with the sign of the divisor, or with `fmod` that of the dividend."""
    function: Callable[..., Any] = numpy.fmod if call.node.get("fmod", 0) else numpy.mod
    return _apply(function, call)


def reduced(function: Callable[..., Array], call: Call) -> Operand:
    """ReduceProd and the like, along the axes of the attribute or second operand."""
    axes = call.vector(1, "axes")
    if not axes and call.node.get("noop_with_empty_axes", 0):
        return call.required(0)
    data = call.known(0, "the operand").numbers()
    keep = bool(call.node.get("keepdims", 1))
    return call.result(function(data, axis=tuple(axes) if axes else None, keepdims=keep).astype(data.dtype))


def nonzero(call: Call) -> Operand:
    """NonZero: the places of the elements that are not zero, one row for each axis."""
    return call.result(numpy.array(numpy.nonzero(call.known(0, "the operand").numbers()), numpy.int64))


def _apply(function: Callable[..., Any], call: Call) -> Operand:
    return call.result(function(*(call.known(i, "an operand").numbers() for i in range(len(call.operands)))))


def _accumulate(function: Callable[[Array, Array], Array], call: Call) -> Operand:
    return _apply(lambda *arrays: reduce(function, arrays), call)


NUMPY: dict[str, Callable[..., Any]] = {
    "Add": numpy.add, "Sub": numpy.subtract, "Mul": numpy.multiply, "Div": divided, "Pow": power,
    "Neg": numpy.negative, "Abs": numpy.abs, "Floor": numpy.floor, "Ceil": numpy.ceil, "Sqrt": numpy.sqrt,
    "Round": numpy.round, "Sign": numpy.sign, "Greater": numpy.greater, "Less": numpy.less,
    "GreaterOrEqual": numpy.greater_equal, "LessOrEqual": numpy.less_equal,
    "And": numpy.logical_and, "Or": numpy.logical_or, "Not": numpy.logical_not, "Xor": numpy.logical_xor,
}  # fmt: skip

FOLDS: dict[str, Rule] = {
    "Constant": constant,
    "ConstantOfShape": constant_of_shape,
    "Range": range_,
    "Where": where,
    "Equal": equal,
    "Mod": mod,
    "NonZero": nonzero,
    **{name: partial(_apply, function) for name, function in NUMPY.items()},
    "Max": partial(_accumulate, numpy.maximum),
    "Min": partial(_accumulate, numpy.minimum),
    "Sum": partial(_accumulate, numpy.add),
    "ReduceProd": partial(reduced, numpy.prod),
    "ReduceSum": partial(reduced, numpy.sum),
    "ReduceMax": partial(reduced, numpy.max),
    "ReduceMin": partial(reduced, numpy.min),
}
"""Operators whose operands are all constants -> their result."""

SHAPES: dict[str, Rule] = {"Shape": shape, "Size": size}
"""Operators that are known whatever their operand is."""
