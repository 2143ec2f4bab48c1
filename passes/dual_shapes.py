"""Dual layers of operators that move elements or sum them: `nu_i = A^T nu_{i+1}` (paper 5, cor. 1), with A^T written in
operators of the IR."""

from __future__ import annotations

import math

import torch

from irverify.ir.ops import (
    Add,
    Cast,
    Concat,
    Expand,
    Gather,
    Identity,
    Neg,
    Pad,
    ReduceMean,
    ReduceSum,
    Reshape,
    ScaleShift,
    Slice,
    Sub,
    Transpose,
)
from irverify.ir.ops.base import normalize_axis
from irverify.ir.params import value
from irverify.passes.dual_sketch import DualSketch

Passed = tuple[str, ...]


def identity(sketch: DualSketch, op: Identity | Add, nu: str) -> Passed:
    """Every operand gets nu itself: skip connections run backwards, and their contributions add up."""
    return (nu,) * len(sketch.node.inputs)


def sub(sketch: DualSketch, op: Sub, nu: str) -> Passed:
    return nu, sketch.pass_on(1, Neg(), nu)


def neg(sketch: DualSketch, op: Neg, nu: str) -> Passed:
    return (sketch.pass_on(0, Neg(), nu),)


def cast(sketch: DualSketch, op: Cast, nu: str) -> Passed:
    return (sketch.pass_on(0, Cast(sketch.operand_type().dtype), nu),)


def reshape(sketch: DualSketch, op: Reshape, nu: str) -> Passed:
    return (sketch.pass_on(0, Reshape(sketch.operand_type().shape), nu),)


def transpose(sketch: DualSketch, op: Transpose, nu: str) -> Passed:
    inverse = sorted(range(len(op.permutation)), key=op.permutation.__getitem__)
    return (sketch.pass_on(0, Transpose(tuple(inverse)), nu),)


def expand(sketch: DualSketch, op: Expand, nu: str) -> Passed:
    return (summed_to(sketch, nu),)


def summed_to(sketch: DualSketch, nu: str) -> str:
    """nu summed over the axes along which the operand was repeated, in the operand's shape."""
    shape, repeated = sketch.operand_type().shape, sketch.builder.type(nu).shape
    padded = (1,) * (len(repeated) - len(shape)) + shape
    axes = tuple(axis for axis, (old, new) in enumerate(zip(padded, repeated, strict=True)) if old != new)
    if axes:
        nu = sketch.add(ReduceSum(axes, True), nu)
    return sketch.pass_on(0, Reshape(shape), nu)


def pad(sketch: DualSketch, op: Pad, nu: str) -> Passed:
    return (sketch.pass_on(0, Pad(tuple((-before, -after) for before, after in op.padding)), nu),)


def slice_(sketch: DualSketch, op: Slice, nu: str) -> Passed:
    """Zeros between the elements (by way of an axis for each), and around them."""
    shape, extents = sketch.builder.type(nu).shape, sketch.operand_type().shape
    if any(step > 1 for step in op.steps):
        nu = sketch.add(Reshape(tuple(extent for length in shape for extent in (length, 1))), nu)
        nu = sketch.add(Pad(tuple(pair for step in op.steps for pair in ((0, 0), (0, step - 1)))), nu)
        shape = tuple(length * step for length, step in zip(shape, op.steps, strict=True))
        nu = sketch.add(Reshape(shape), nu)
    around = ((start, extent - start - n) for start, extent, n in zip(op.starts, extents, shape, strict=True))
    return (sketch.pass_on(0, Pad(tuple(around)), nu),)


def concat(sketch: DualSketch, op: Concat, nu: str) -> Passed:
    shape = sketch.builder.type(nu).shape
    axis = normalize_axis(op.axis, len(shape))
    passed, start = list[str](), 0
    for index in range(len(sketch.node.inputs)):
        stop = start + sketch.operand_type(index).shape[axis]
        starts, stops = [0] * len(shape), list(shape)
        starts[axis], stops[axis] = start, stop
        passed.append(sketch.pass_on(index, Slice(tuple(starts), tuple(stops), (1,) * len(shape)), nu))
        start = stop
    return tuple(passed)


def gather(sketch: DualSketch, op: Gather, nu: str) -> Passed:
    """Element i of the operand gets the sum over all places that read it: one gather for each repetition, with an
    appended zero for those that are read less often."""
    shape = sketch.builder.type(nu).shape
    axis = normalize_axis(op.axis, len(shape))
    nowhere = shape[axis]
    readers: list[list[int]] = [[] for _ in range(sketch.operand_type().shape[axis])]
    for place, element in enumerate(value(op.indices).tolist()):
        readers[element].append(place)
    padded = sketch.add(Pad(tuple((0, int(index == axis)) for index in range(len(shape)))), nu)
    parts = list[str]()
    for turn in range(max(map(len, readers))):
        places = [places[turn] if turn < len(places) else nowhere for places in readers]
        parts.append(sketch.pass_on(0, Gather(sketch.constant(torch.tensor(places)), axis), padded))
    return (parts[0] if len(parts) == 1 else sketch.pass_on(0, Add(), *parts),)


def reduce(sketch: DualSketch, op: ReduceSum, nu: str) -> Passed:
    shape = sketch.operand_type().shape
    axes = {normalize_axis(axis, len(shape)) for axis in op.axes}
    nu = sketch.add(Reshape(tuple(1 if axis in axes else extent for axis, extent in enumerate(shape))), nu)
    spread = sketch.pass_on(0, Expand(shape), nu)
    if not isinstance(op, ReduceMean):
        return (spread,)
    share = torch.tensor(1.0 / math.prod(shape[axis] for axis in axes), dtype=sketch.operand_type().dtype)
    return (sketch.pass_on(0, ScaleShift(sketch.constant(share)), spread),)
