"""Lowering of operators that choose and join elements: slices, indices, splits, concatenation, padding, repetition."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy
import torch

from irverify.frontends.onnx.lowering import Call, Rule
from irverify.frontends.onnx.shaping import MOVED
from irverify.frontends.onnx.values import BATCH, Array, Known, Operand, Value
from irverify.ir.ops import Concat, Gather, Pad, ScaleShift, Slice

FAR = 2**31 - 1
"""Ends of slices from here on mean the end of the axis, whatever its extent."""


def slice_(call: Call) -> Operand:
    """Slice, with steps of any sign."""
    data = call.required(0)
    starts, ends = call.vector(1, "starts"), call.vector(2, "ends")
    if starts is None or ends is None:
        call.refuse("expected starts and ends, got none")
    axes = call.vector(3, "axes") or list(range(len(starts)))
    steps = (call.vector(4, "steps") if call.opset >= 10 else None) or [1] * len(starts)
    extents = call.extents(data)
    cuts: dict[int, slice] = {}
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        axis = axis % len(extents)
        if extents[axis] is BATCH:
            _keeps_batch(call, start, end, step)
        else:
            cuts[axis] = slice(int(start), int(end), int(step))
    if isinstance(data, Known):
        return call.result(data.array[tuple(cuts.get(axis, slice(None)) for axis in range(len(extents)))])
    return cut_or_empty(call, call.as_value(data, *MOVED), {axis - call.lead: part for axis, part in cuts.items()})


def _keeps_batch(call: Call, start: Any, end: Any, step: Any) -> None:
    """Raises BatchMixing unless the slice of the batch axis is all of it."""
    declared = call.scope.declared
    whole = start == 0 and step == 1 and (end is BATCH or end >= FAR or (declared is not None and end >= declared))
    if not whole:
        call.mixing(f"axis 0 is sliced from {start} to {end}")


def cut_or_empty(call: Call, data: Value, parts: dict[int, slice]) -> Operand:
    """`cut`, or a constant without elements where nothing is left."""
    shape = [len(range(*parts.get(axis, slice(None)).indices(n))) for axis, n in enumerate(call.shape(data))]
    if all(shape) or call.scope.batched:
        return cut(call, data, parts)
    return call.result(numpy.zeros(shape, str(call.dtype(data)).removeprefix("torch.")))


def cut(call: Call, data: Value, parts: dict[int, slice]) -> Value:
    """Python slices along axes of the graph: one Slice for those that go forward, a Gather for each that goes back."""
    shape = call.shape(data)
    ranges = [range(*parts.get(axis, slice(None)).indices(extent)) for axis, extent in enumerate(shape)]
    if not all(ranges):
        call.refuse(f"the result is empty: a slice of shape {[len(part) for part in ranges]}")
    forward = [part if part.step > 0 else range(extent) for part, extent in zip(ranges, shape, strict=True)]
    if forward != [range(extent) for extent in shape]:
        starts, stops, steps = (tuple(getattr(part, name) for part in forward) for name in ("start", "stop", "step"))
        data = call.emit(Slice(starts, stops, steps), data)
    for axis, part in enumerate(ranges):
        if part.step < 0:
            data = taken(call, data, numpy.array(part), axis)
    return data


def taken(call: Call, data: Value, indices: Array, axis: int) -> Value:
    """The elements `indices` (a vector of numbers >= 0) along an axis of the graph."""
    extent = call.shape(data)[axis]
    if indices.tolist() == list(range(extent)):
        return data
    if indices.size == 0:
        call.refuse("the result is empty: no indices")
    first = int(indices[0])
    if first >= 0 and indices.tolist() == list(range(first, first + indices.size)) and first + indices.size <= extent:
        return cut(call, data, {axis: slice(first, first + indices.size)})
    return call.emit(Gather(torch.from_numpy(indices.astype(numpy.int64)), axis), data)


def gather(call: Call) -> Operand:
    """Gather: indices of any rank take the place of the axis."""
    data = call.required(0)
    indices = call.known(1, "the indices").numbers()
    axis = call.node.get("axis", 0)
    if isinstance(data, Known):
        return call.result(numpy.take(data.array, indices, axis))
    data = call.as_value(data, *MOVED)
    axis = call.axis(data, axis)
    shape = call.shape(data)
    extent = shape[axis]
    if indices.size and not (-extent <= indices.min() and indices.max() < extent):
        call.refuse(f"expected indices in [{-extent}, {extent}), got {indices.min()} to {indices.max()}")
    flat = numpy.where(indices < 0, indices + extent, indices).reshape(-1)
    return call.reshape(taken(call, data, flat, axis), (*shape[:axis], *indices.shape, *shape[axis + 1 :]))


def split(call: Call) -> list[Operand]:
    """Split into parts of given or of equal size along an axis."""
    data = call.required(0)
    axis = call.node.get("axis", 0)
    extent = call.extents(data)[axis]
    if extent is BATCH:
        call.mixing("axis 0 is split")
    sizes = call.vector(1, "split")
    if not sizes:
        parts = len(call.node.outputs)
        part = -(-extent // parts)
        sizes = [part] * (parts - 1) + [extent - part * (parts - 1)]
    if sum(sizes) != extent or min(sizes) < 0:
        call.refuse(f"expected parts that add up to {extent}, got {sizes}")
    ends = numpy.cumsum(sizes).tolist()
    cuts = [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]
    if isinstance(data, Known):
        rank = data.array.ndim
        return [call.result(data.array[(slice(None),) * (axis % rank) + (part,)]) for part in cuts]
    value = call.as_value(data, *MOVED)
    place = call.axis(value, axis)
    return [cut_or_empty(call, value, {place: part}) for part in cuts]


def concat(call: Call) -> Operand:
    """Concat along an axis."""
    axis = call.node.get("axis", 1)
    operands = [operand for operand in call.operands if operand is not None]
    arrays = [operand.array for operand in operands if isinstance(operand, Known)]
    if len(arrays) == len(operands):
        symbolic = any(array.dtype == object for array in arrays)
        return call.result(numpy.concatenate([array.astype(object) if symbolic else array for array in arrays], axis))
    rank = next(call.rank(operand) for operand in operands if isinstance(operand, Value))
    # Constants without elements add nothing.
    values = [call.as_value(operand) for operand in operands if isinstance(operand, Value) or operand.array.size]
    place = call.axis(values[0], axis, rank)
    return values[0] if len(values) == 1 else call.emit(Concat(place), *values)


def pad(call: Call) -> Operand:
    """Pad with a constant, or by reflecting, repeating the edge, or wrapping around (through Gather)."""
    data = call.value(0)
    rank, mode = call.rank(data), call.node.get("mode", "constant")
    amounts = call.vector(1, "pads")
    axes = call.vector(3, "axes") if call.opset >= 18 else None
    axes = [axis % rank for axis in (range(rank) if axes is None else axes)]
    if amounts is None or len(amounts) != 2 * len(axes):
        call.refuse(f"expected {2 * len(axes)} amounts of padding, got {amounts}")
    pairs = [(0, 0)] * rank
    for axis, before, after in zip(axes, amounts[: len(axes)], amounts[len(axes) :], strict=True):
        pairs[axis] = (int(before), int(after))
    if call.scope.batched and pairs[0] != (0, 0):
        call.mixing("axis 0 is padded")
    pairs = pairs[call.lead :]
    if mode != "constant":
        return _padded_by_indices(call, data, pairs, mode)
    fill = call.optional(2, "the fill") if call.opset >= 11 else None
    number = call.node.number("value", 0.0) if fill is None else float(fill.numbers().reshape(()))
    return padded(call, data, pairs, number)


def padded(call: Call, data: Value, pairs: Sequence[tuple[int, int]], fill: float = 0.0) -> Value:
    """Padding (negative: cropping) along axes of the graph; the fill is added where zeros were put."""
    if not any(before or after for before, after in pairs):
        return data
    if not math.isfinite(fill):
        call.refuse(f"padding with {fill} is not supported")
    result = call.emit(Pad(tuple(pairs)), data)
    if fill == 0.0:
        return result
    inside = numpy.ones(call.shape(data), bool)
    inside = inside[tuple(slice(max(-b, 0), n - max(-a, 0)) for (b, a), n in zip(pairs, inside.shape, strict=True))]
    outside = ~numpy.pad(inside, [(max(before, 0), max(after, 0)) for before, after in pairs])
    shift = torch.from_numpy(numpy.where(outside, fill, 0.0)).to(call.dtype(data))
    return call.emit(ScaleShift(shift=shift), result)


def _padded_by_indices(call: Call, data: Value, pairs: Sequence[tuple[int, int]], mode: str) -> Value:
    names = {"reflect": "reflect", "edge": "edge", "wrap": "wrap"}
    if mode not in names:
        call.refuse(f"padding mode {mode!r} is not supported")
    for axis, (before, after) in enumerate(pairs):
        places = numpy.arange(call.shape(data)[axis])
        places = places[max(-before, 0) : places.size - max(-after, 0)]
        outer = (max(before, 0), max(after, 0))
        data = taken(call, data, numpy.pad(places, outer, mode=names[mode]), axis)  # type: ignore[call-overload]
    return data


def tile(call: Call) -> Operand:
    """Tile: each axis repeated a number of times."""
    data = call.required(0)
    repeats = call.known(1, "the repeats").integers()
    if isinstance(data, Known):
        return call.result(numpy.tile(data.array, repeats))
    data = call.as_value(data, *MOVED)
    for axis, count in enumerate(repeats):
        if count != 1:
            place = call.axis(data, axis)
            data = taken(call, data, numpy.tile(numpy.arange(call.shape(data)[place]), count), place)
    return data


RULES: dict[str, Rule] = {
    "Slice": slice_,
    "Gather": gather,
    "Split": split,
    "Concat": concat,
    "Pad": pad,
    "Tile": tile,
}
