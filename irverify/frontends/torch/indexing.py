"""Rules for operators that take parts: slices, splits, selections by constant indices."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from irverify.frontends.torch.arithmetic import inner_const
from irverify.frontends.torch.call import BatchMixed, Call, Const, Unsupported, Value, current, derive, is_symbol, rule
from irverify.frontends.torch.shapes import gathered, sliced
from irverify.ir.ops import Concat, Gather


@rule("slice", "slice_copy")
def slice_(call: Call) -> Value:
    operand = call.value("self")
    if call.lead and call["dim"] % call.rank(operand) == 0:
        if call["step"] == 1 and is_symbol(call.result.shape[0]):  # as many examples as before: all of them
            return operand
        raise BatchMixed("it takes some examples of the batch")
    axis = call.axis(operand, call["dim"])
    if not all(isinstance(call[name], int | None) for name in ("start", "end", "step")):
        raise BatchMixed("its limits depend on the batch size")
    span = range(*slice(call["start"], call["end"], call["step"]).indices(call.type(operand).shape[axis]))
    return sliced(call, operand, axis, span)


@rule("narrow")
def narrow(call: Call) -> Value:
    operand = call.value("self")
    axis = call.axis(operand, call["dim"])
    start = call["start"] % call.type(operand).shape[axis]
    return sliced(call, operand, axis, range(start, start + call["length"]))


@rule("select", "select_copy")
def select(call: Call) -> Value:
    operand = call.value("self")
    axis = call.axis(operand, call["dim"])
    index = call["index"] % call.type(operand).shape[axis]
    return call.reshaped(sliced(call, operand, axis, range(index, index + 1)), call.shape)


@rule("split", "split_with_sizes", "chunk", "tensor_split", "unsafe_split", "unsafe_chunk", "unsafe_split_with_sizes")
def split(call: Call) -> list[Value]:
    operand = call.value("self")
    axis = call.axis(operand, call["dim"])
    parts, start = [], 0
    for fake in call.results:
        extent = call.inner(fake)[axis]
        parts.append(sliced(call, operand, axis, range(start, start + extent)))
        start += extent
    return parts


@rule("unbind")
def unbind(call: Call) -> list[Value]:
    operand = call.value("self")
    axis = call.axis(operand, call["dim"])
    parts = (sliced(call, operand, axis, range(index, index + 1)) for index in range(len(call.results)))
    return [call.reshaped(part, call.shape) for part in parts]


@rule("flip")
def flip(call: Call) -> Value:
    operand = call.value("self")
    for dim in call["dims"]:
        axis = call.axis(operand, dim)
        operand = gathered(call, operand, torch.arange(call.type(operand).shape[axis]).flip(0), axis)
    return operand


@rule("roll")
def roll(call: Call) -> Value:
    operand = call.value("self")
    if not call["dims"]:
        raise Unsupported("it rolls all axes as one")
    for shift, dim in zip(call["shifts"], call["dims"], strict=True):
        axis = call.axis(operand, dim)
        operand = gathered(call, operand, torch.arange(call.type(operand).shape[axis]).roll(shift), axis)
    return operand


@rule("index_select")
def index_select(call: Call) -> Value:
    operand = call.value("self")
    indices = derive(lambda tensor: tensor.reshape(-1), call.const("index"))
    return call.add(Gather(indices.param, call.axis(operand, call["dim"])), operand)


@rule("index", "_unsafe_index")
def index(call: Call) -> Value:
    """Indexing by constant tensors on neighbouring axes: one gather on these axes as one."""
    operand, given = call.value("self"), list(call["indices"])
    places = [place for place, entry in enumerate(given) if entry is not None]
    if any(isinstance(given[place], Value) for place in places):
        raise Unsupported("its indices depend on the input")
    if places != list(range(places[0], places[-1] + 1)):
        raise Unsupported("its indices stand on axes apart")
    consts = [given[place] for place in places]
    if any(current(const).dtype == torch.bool for const in consts):
        raise Unsupported("it selects by a mask; use indices")
    axes = [call.axis(operand, places[0] + offset) for offset in range(len(consts))]
    shape = call.type(operand).shape
    extents = [shape[axis] for axis in axes]
    merged = call.reshaped(operand, (*shape[: axes[0]], math.prod(extents), *shape[axes[-1] + 1 :]))
    flat = derive(lambda *indices: _flat_indices(indices, extents), *consts)
    return call.reshaped(call.add(Gather(flat.param, axes[0]), merged), call.shape)


def _flat_indices(indices: tuple[Tensor, ...], extents: list[int]) -> Tensor:
    """Row-major positions in axes of these extents; negative indices count from the end."""
    position: Any = 0
    for entry, extent in zip(torch.broadcast_tensors(*indices), extents, strict=True):
        position = position * extent + torch.where(entry < 0, entry + extent, entry)
    return torch.as_tensor(position).reshape(-1)


@rule("copy")
def copy(call: Call) -> Value:
    """`src`, stretched to the shape of what it overwrites."""
    source = call["src"]
    return call.expanded(source, call.shape) if isinstance(source, Value) else _beside(call, source, call.shape)


@rule("slice_scatter", "select_scatter")
def scatter(call: Call) -> Value:
    """What lies before, `src` and what lies behind, one after the other."""
    operand, source = call["self"], call["src"]
    axis = call["dim"] % call.result.ndim - call.lead
    whole = axis < 0 and call.word == "slice_scatter" and call["step"] == 1 and _same_batch(call["src"], call)
    if whole:
        return call.value("src")
    if axis < 0:
        raise BatchMixed("it overwrites some examples of the batch")
    extent = call.shape[axis]
    if call.word == "select_scatter":
        span = range(call["index"] % extent, call["index"] % extent + 1)
    else:
        span = range(*slice(call["start"], call["end"], call["step"]).indices(extent))
    if span.step != 1:
        raise Unsupported("it overwrites with a step")
    shape = (*call.shape[:axis], len(span), *call.shape[axis + 1 :])
    middle = call.reshaped(source, shape) if isinstance(source, Value) else _beside(call, source, shape)
    if len(span) == extent:
        return middle
    around = operand if isinstance(operand, Value) else _beside(call, operand, call.shape)
    parts = [(0, span.start), (span.stop, extent)]
    before, behind = ([sliced(call, around, axis, range(*part))] if part[0] < part[1] else [] for part in parts)
    return call.add(Concat(axis), *before, middle, *behind)


def _same_batch(source: Any, call: Call) -> bool:
    return isinstance(source, Value) and call.type(source).shape == call.shape


def _beside(call: Call, const: Const, shape: tuple[int, ...]) -> Value:
    """A constant as a value of a shape, the same for every example."""
    return call.constant(derive(lambda tensor: tensor.expand(shape), inner_const(call, const)))
