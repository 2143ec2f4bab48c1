"""Lowering of operators that move elements: reshaping, transposing, stretching. Constants are moved by numpy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy

from irverify.frontends.onnx.folding import filled
from irverify.frontends.onnx.lowering import Call, Rule
from irverify.frontends.onnx.values import BATCH, Kind, Known, Operand, Value
from irverify.ir.ops import Expand, Transpose

MOVED: tuple[Kind, ...] = ("float", "int", "bool")
"""Kinds of values that may be moved."""


def identity(call: Call) -> Operand:
    """Identity: another name for its operand."""
    return call.required(0)


def dropout(call: Call) -> list[Operand]:
    """Dropout at evaluation: the identity. The mask is not given."""
    mode = call.optional(2, "training_mode") if call.opset >= 12 else None
    if mode is not None and bool(mode.numbers().any()):
        call.refuse("dropout in training mode is random")
    return [call.required(0)]


def resolved(call: Call, target: Sequence[Any], extents: Sequence[int], keep_zeros: bool) -> list[int]:
    """The target shape of a Reshape for an operand of those extents: 0 copies one (unless kept), -1 is inferred."""
    shape = [_copied(call, extents, i) if extent == 0 and not keep_zeros else extent for i, extent in enumerate(target)]
    if any(extent is BATCH for extent in shape):
        call.mixing(f"the target shape {shape} has the batch behind another axis")
    rest = math.prod(extent for extent in shape if extent != -1)
    if -1 in shape:
        if rest == 0 or math.prod(extents) % rest:
            call.refuse(f"the target shape {shape} does not fit an operand of shape {list(extents)}")
        shape[shape.index(-1)] = math.prod(extents) // rest
    return [int(extent) for extent in shape]


def _copied(call: Call, extents: Sequence[int], axis: int) -> int:
    if axis >= len(extents):
        call.refuse(f"expected an axis {axis} to copy in the target shape, got an operand of shape {list(extents)}")
    return extents[axis]


def reshape(call: Call) -> Operand:
    """Reshape, to a constant shape. In a batched scope the first extent has to be the batch's, whatever its size."""
    data = call.required(0)
    target = call.known(1, "the target shape").integers()
    return reshaped(call, data, target, bool(call.node.get("allowzero", 0)))


def reshaped(call: Call, data: Operand, target: Sequence[Any], keep_zeros: bool = False) -> Operand:
    """`data` under a target shape in the model's terms."""
    if isinstance(data, Known):
        shape = resolved(call, target, data.array.shape, keep_zeros)
        return call.result(data.array.reshape(shape))
    data = call.as_value(data, *MOVED)
    extents = call.shape(data)
    if not call.scope.batched:
        return call.reshape(data, resolved(call, target, extents, keep_zeros))
    if not target:
        call.mixing("the result has no axes")
    first, rest = target[0], list(target[1:])
    # Zeros copy by place, and the batch axis shifts places by one: here they are copied before it is dropped.
    rest = [
        _copied(call, (1, *extents), axis) if extent == 0 and not keep_zeros else extent
        for axis, extent in enumerate(rest, 1)
    ]
    copied = first == 0 and not keep_zeros
    inferred = first == -1 and -1 not in rest and BATCH not in rest and math.prod(rest) == math.prod(extents)
    if not (copied or inferred or call.is_batch(first)):
        call.mixing(f"an operand of shape {call.extents(data)} is reshaped to {list(target)}")
    shape = resolved(call, rest, extents, keep_zeros=True)
    if math.prod(shape) != math.prod(extents):
        call.mixing(f"an operand of shape {call.extents(data)} is reshaped to {list(target)}")
    return call.reshape(data, shape)


def flatten(call: Call) -> Operand:
    """Flatten to a matrix: the axes before `axis`, and the rest."""
    data = call.required(0)
    extents = call.extents(data)
    axis = call.node.get("axis", 1)
    axis = axis + len(extents) if axis < 0 else axis
    if not call.scope.batched or isinstance(data, Known):
        return reshaped(call, data, [math.prod(extents[:axis]), math.prod(extents[axis:])], keep_zeros=True)
    if axis == 0:  # [1, everything]: the batch only where there is one example
        return reshaped(call, data, [1, math.prod(extents[1:])])
    if math.prod(extents[1:axis]) != 1:
        call.mixing(f"an operand of shape {extents} is flattened at axis {axis}")
    return reshaped(call, data, [BATCH, math.prod(extents[axis:])])


def squeeze(call: Call) -> Operand:
    """Squeeze: axes of extent 1 go; without `axes`, all of them."""
    data = call.required(0)
    extents, axes = call.extents(data), call.vector(1, "axes")
    if axes is None:
        if extents and call.is_batch(extents[0]) and isinstance(data, Value) and call.scope.declared in (1, None):
            call.mixing("all axes of extent 1 are dropped, the batch among them")
        axes = [axis for axis, extent in enumerate(extents) if extent == 1]
    dropped = {axis % len(extents) for axis in axes}
    if any(extents[axis] != 1 for axis in dropped):
        if 0 in dropped and extents[0] is BATCH:
            call.mixing("axis 0 is dropped")
        call.refuse(f"expected axes of extent 1, got {axes} of shape {extents}")
    return reshaped(call, data, [extent for axis, extent in enumerate(extents) if axis not in dropped], True)


def unsqueeze(call: Call) -> Operand:
    """Unsqueeze: new axes of extent 1, numbered in the result."""
    data = call.required(0)
    axes = call.vector(1, "axes")
    if axes is None:
        call.refuse("expected axes, got none")
    extents = call.extents(data)
    rank = len(extents) + len(axes)
    places = {axis % rank for axis in axes}
    if 0 in places and isinstance(data, Value) and call.scope.batched:
        call.mixing("a new axis is put before axis 0")
    rest = iter(extents)
    return reshaped(call, data, [1 if axis in places else next(rest) for axis in range(rank)], True)


def transpose(call: Call) -> Operand:
    """Transpose: axis k of the result is axis perm[k]."""
    data = call.required(0)
    rank = call.rank(data)
    permutation = call.node.get("perm", list(range(rank))[::-1])
    if sorted(permutation) != list(range(rank)):
        call.refuse(f"expected a permutation of its {rank} axes, got perm {list(permutation)}")
    if isinstance(data, Known):
        return call.result(data.array.transpose(permutation))
    return transposed(call, call.as_value(data, *MOVED), permutation)


def transposed(call: Call, data: Value, permutation: Sequence[int]) -> Value:
    """`data` with its axes permuted; axes in the model's terms."""
    if call.scope.batched and permutation[0] != 0:
        call.mixing(f"the axes are permuted to {list(permutation)}")
    axes = tuple(axis - call.lead for axis in permutation[call.lead :])
    return data if axes == tuple(range(len(axes))) else call.emit(Transpose(axes), data)


def expand(call: Call) -> Operand:
    """Expand: broadcasting with a shape (extents of 1 there leave the operand's)."""
    data = call.required(0)
    target = call.known(1, "the target shape").integers()
    if isinstance(data, Known):
        return _expanded_constant(call, data, target)
    data = call.as_value(data, *MOVED)
    if call.scope.batched and len(target) >= call.rank(data):
        if len(target) > call.rank(data) or not (target[0] == 1 or call.is_batch(target[0])):
            call.mixing(f"an operand of shape {call.extents(data)} is expanded to {target}")
        target = target[1:]
    shape = numpy.broadcast_shapes(call.shape(data), [int(extent) for extent in target])
    return stretched(call, data, shape)


def _expanded_constant(call: Call, data: Known, target: Sequence[Any]) -> Operand:
    array = data.numbers()
    if not (target and target[0] is BATCH):
        return filled(call, list(numpy.broadcast_shapes(array.shape, [int(extent) for extent in target])),
                      lambda shape: numpy.broadcast_to(array, shape))  # fmt: skip
    if array.ndim == len(target) and array.shape[0] == 1:
        array = array[0]
    if array.ndim >= len(target):
        call.mixing(f"the constant {data.name!r} of shape {data.array.shape} is expanded to {list(target)}")
    rest = numpy.broadcast_shapes(array.shape, [int(extent) for extent in target[1:]])
    return filled(call, [BATCH, *rest], lambda shape: numpy.broadcast_to(array, shape))


def stretched(call: Call, data: Value, shape: Sequence[int]) -> Value:
    """The value broadcast to a shape of the graph."""
    target = tuple(int(extent) for extent in shape)
    return data if target == call.shape(data) else call.emit(Expand(target), data)


RULES: dict[str, Rule] = {
    "Identity": identity,
    "Dropout": dropout,
    "Reshape": reshape,
    "Flatten": flatten,
    "Squeeze": squeeze,
    "Unsqueeze": unsqueeze,
    "Transpose": transpose,
    "Expand": expand,
}
