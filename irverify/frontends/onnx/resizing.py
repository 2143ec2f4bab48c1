"""Lowering of nearest-neighbour resizing: along every axis, which elements of the operand the result takes.

Places are computed in float32, as onnxruntime does, so that those half-way between two elements fall to the same one
(and in float64 where it does that).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy

from irverify.frontends.onnx.lowering import Call, Rule
from irverify.frontends.onnx.selecting import taken
from irverify.frontends.onnx.values import Array, Known, Operand


@dataclass(frozen=True)
class Axis:
    """One axis that is resized from `extent` to `size` elements by a factor `scale`."""

    extent: int
    size: int
    scale: numpy.float32


def _half_pixel(axis: Axis, x: Array) -> Array:
    return (x + 0.5) / axis.scale - 0.5


def _symmetric(axis: Axis, x: Array) -> Array:
    adjustment = numpy.float32(axis.size) / (axis.scale * numpy.float32(axis.extent))
    offset = numpy.float32(axis.extent / 2) * (1 - adjustment)
    places: Array = offset + (x.astype(numpy.float64) + 0.5) / numpy.float64(axis.scale) - 0.5
    return places.astype(numpy.float32)


COORDINATES: dict[str, Callable[[Axis, Array], Array]] = {
    "half_pixel": _half_pixel,
    "half_pixel_symmetric": _symmetric,
    "pytorch_half_pixel": lambda axis, x: _half_pixel(axis, x) if axis.size > 1 else 0 * x,
    "asymmetric": lambda axis, x: x / axis.scale,
    "align_corners": lambda axis, x: x * (axis.extent - 1) / (axis.size - 1) if axis.size > 1 else 0 * x,
    "tf_half_pixel_for_nn": lambda axis, x: (x + 0.5) / axis.scale,
}
"""coordinate_transformation_mode -> the place in the operand for places in the result."""

ROUNDING: dict[str, Callable[[Array], Array]] = {
    "round_prefer_floor": lambda place: numpy.ceil(place - 0.5),
    "round_prefer_ceil": lambda place: numpy.floor(place + 0.5),
    "floor": numpy.floor,
    "ceil": numpy.ceil,
}
"""nearest_mode -> the whole place taken."""


def resize(call: Call) -> Operand:
    """Resize by nearest neighbours, to constant sizes or by constant scales."""
    mode = call.node.get("mode", "nearest")
    if mode != "nearest":
        call.refuse(f"mode {mode!r} is not supported, only nearest")
    if call.opset < 11:
        return _nearest(call, _scales(call, call.known(1, "the scales")), "asymmetric", "floor")
    coordinates = call.node.get("coordinate_transformation_mode", "half_pixel")
    rounding = call.node.get("nearest_mode", "round_prefer_floor")
    if coordinates not in COORDINATES or rounding not in ROUNDING:
        call.refuse(f"coordinates {coordinates!r} with rounding {rounding!r} are not supported")
    scales, sizes = (
        operand if operand is not None and operand.array.size else None
        for operand in (call.optional(2, "the scales"), call.optional(3, "the sizes"))
    )
    if scales is not None:
        axes = _scales(call, scales)
    elif sizes is not None:
        axes = _sizes(call, sizes)
    else:
        call.refuse("expected scales or sizes, got none")
    return _nearest(call, axes, coordinates, rounding)


def upsample(call: Call) -> Operand:
    """Upsample, the older Resize."""
    if call.node.get("mode", "nearest") != "nearest":
        call.refuse(f"mode {call.node.get('mode')!r} is not supported, only nearest")
    scales = call.known(1, "the scales") if call.opset >= 9 else Known(numpy.array(call.node.get("scales")), "scales")
    return _nearest(call, _scales(call, scales), "asymmetric", "floor")


def _per_axis(call: Call, count: int) -> list[int]:
    """The axes of the model that the given numbers stand for."""
    rank = call.rank(call.required(0))
    axes = [axis % rank for axis in (call.node.get("axes") or range(rank))]
    if len(axes) != count:
        call.refuse(f"expected {len(axes)} scales or sizes, got {count}")
    return axes


def _scales(call: Call, scales: Known) -> dict[int, Axis]:
    """The resized axes by number, from their scales."""
    value = call.value(0)
    extents = call.extents(value)
    result = {}
    numbers = [numpy.float32(scale) for scale in scales.numbers()]
    for axis, scale in zip(_per_axis(call, len(numbers)), numbers, strict=True):
        if axis >= call.lead:
            result[axis] = Axis(extents[axis], math.floor(numpy.float32(extents[axis]) * scale), scale)
        elif scale != 1.0:
            call.mixing("axis 0 is resized")
    return result


def _sizes(call: Call, sizes: Known) -> dict[int, Axis]:
    """The resized axes by number, from their sizes; they may be bent to one scale for all."""
    extents, numbers = call.extents(call.value(0)), sizes.integers()
    axes = _per_axis(call, len(numbers))
    policy = call.node.get("keep_aspect_ratio_policy", "stretch")
    for axis, size in zip(axes, numbers, strict=True):
        if axis < call.lead and not call.is_batch(size):
            call.mixing("axis 0 is resized")
    pairs = [(axis, int(size)) for axis, size in zip(axes, numbers, strict=True) if axis >= call.lead]
    if policy == "stretch":
        return {
            axis: Axis(extents[axis], size, numpy.float32(size) / numpy.float32(extents[axis])) for axis, size in pairs
        }
    ratios = [size / extents[axis] for axis, size in pairs] + [1.0] * (len(axes) - len(pairs))
    scale = min(ratios) if policy == "not_larger" else max(ratios)
    return {
        axis: Axis(extents[axis], math.floor(extents[axis] * scale + 0.5), numpy.float32(scale)) for axis, _ in pairs
    }


def _nearest(call: Call, axes: dict[int, Axis], coordinates: str, rounding: str) -> Operand:
    value = call.value(0)
    if any(axis.size < 1 for axis in axes.values()):
        call.refuse(f"the result is empty: extents {[axis.size for axis in axes.values()]}")
    copied = all(axis.size == axis.extent for axis in axes.values())
    for number, axis in axes.items():
        places = ROUNDING[rounding](COORDINATES[coordinates](axis, numpy.arange(axis.size, dtype=numpy.float32)))
        indices = numpy.clip(places, 0, axis.extent - 1).astype(numpy.int64)
        if copied and indices.tolist() != list(range(axis.extent)):
            call.refuse(f"scale {axis.scale} leaves all extents: onnxruntime then copies, which ONNX does not say")
        value = taken(call, value, indices, number - call.lead)
    return value


RULES: dict[str, Rule] = {"Resize": resize, "Upsample": upsample}
