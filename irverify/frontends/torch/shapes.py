"""Rules for operators that move elements: reshaping, transposing, joining, slicing, padding, reducing."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from irverify.frontends.torch.arithmetic import scaled
from irverify.frontends.torch.call import BatchMixed, Call, Const, Unsupported, Value, current, derive, rule
from irverify.ir.ops import Concat, Constant, Gather, Pad, ReduceMean, ReduceSum, Slice, Transpose
from irverify.ir.ops.conv import pad_spatial


@rule(
    "view", "reshape", "_unsafe_view", "flatten", "unflatten", "squeeze", "unsqueeze", "view_as", "reshape_as", "ravel",
    "squeeze_copy", "unsqueeze_copy", "view_copy",
)  # fmt: skip
def reshape(call: Call) -> Value:
    """The same elements in row-major order: for each example alone where the batch axis stays in front."""
    return call.reshaped(call.value("self"), call.shape)


@rule("permute", "permute_copy")
def permute(call: Call) -> Value:
    return _permuted(call, list(call["dims"]))


@rule("transpose", "swapaxes", "swapdims", "transpose_copy")
def transpose(call: Call) -> Value:
    rank = call.rank(call.value("self"))
    first, second = (call.get(name, call.get(other)) for name, other in (("dim0", "axis0"), ("dim1", "axis1")))
    order = list(range(rank))
    order[first], order[second] = order[second], order[first]
    return _permuted(call, order)


@rule("t", "numpy_T")
def reversed_axes(call: Call) -> Value:
    return _permuted(call, list(range(call.rank(call.value("self"))))[::-1])


@rule("mT", "mH", "adjoint")
def last_two_axes(call: Call) -> Value:
    """The last two axes change places; the conjugate of what is real is that itself."""
    *rest, row, column = range(call.rank(call.value("self")))
    return _permuted(call, [*rest, column, row])


@rule("movedim", "moveaxis")
def movedim(call: Call) -> Value:
    rank = call.rank(call.value("self"))
    source, target = ([dims] if isinstance(dims, int) else dims for dims in (call["source"], call["destination"]))
    moved = {to % rank: axis % rank for to, axis in zip(target, source, strict=True)}
    rest = iter(axis for axis in range(rank) if axis not in moved.values())
    return _permuted(call, [moved[to] if to in moved else next(rest) for to in range(rank)])


def _permuted(call: Call, order: list[int]) -> Value:
    operand = call.value("self")
    order = [axis % call.rank(operand) for axis in order]
    if call.lead and order and order[0] != 0:
        raise BatchMixed("it moves the batch axis")
    inner = tuple(axis - call.lead for axis in order[call.lead :])
    return operand if inner == tuple(range(len(inner))) else call.add(Transpose(inner), operand)


@rule("expand", "expand_as", "broadcast_to", "expand_copy")
def expand(call: Call) -> Value:
    """Stretches axes of extent 1. A constant that is repeated for every example becomes a constant value."""
    if isinstance(call["self"], Const):
        shape, lead = call.shape, call.lead
        if current(call["self"]).ndim == len(shape) + lead and lead:
            return call.constant(derive(lambda tensor: tensor[0].expand(shape), call["self"]))
        return call.constant(derive(lambda tensor: tensor.expand(shape), call["self"]))
    operand = call.value("self")
    if call.lead and call.rank(operand) != call.result.ndim:
        raise BatchMixed("it adds axes in front of the batch axis")
    return call.expanded(operand, call.shape)


@rule("zeros", "ones", "full", "zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full",
      "scalar_tensor")  # fmt: skip
def filled(call: Call) -> Value:
    """One number everywhere."""
    fill = call.get("fill_value", call.get("s", float("ones" in call.word)))
    if not isinstance(fill, int | float):
        raise Unsupported("its fill depends on the input")
    return call.add(Constant(torch.full(call.shape, fill, dtype=call.dtype, device=call.result.device)))


@rule("repeat", "tile")
def repeat(call: Call) -> Value:
    if isinstance(call["self"], Const):
        return _repeated_constant(call)
    operand, counts = call.value("self"), list(call.get("repeats", call.get("dims")))
    missing = len(counts) - call.rank(operand)
    if call.lead and (missing > 0 or (missing == 0 and counts[0] != 1)):
        raise BatchMixed("it repeats the batch axis")
    if missing > 0:
        operand = call.reshaped(operand, (1,) * missing + call.type(operand).shape)
    counts = [1] * -missing + counts if missing < 0 else counts
    for axis, count in enumerate(counts[call.lead :]):
        if count != 1:
            indices = torch.arange(call.type(operand).shape[axis]).repeat(count)
            operand = gathered(call, operand, indices, axis)
    return operand


def _repeated_constant(call: Call) -> Value:
    """A constant repeated once for every example."""
    counts = call.get("repeats", call.get("dims"))
    const, inner = call["self"], call.shape
    if current(const).ndim == len(counts) and current(const).shape[0] != 1:
        raise BatchMixed("it repeats a constant of several rows over the batch")
    rest = [int(count) for count in counts[1:]]
    return call.constant(derive(lambda tensor: tensor.repeat(1, *rest).reshape(inner), const))


@rule("repeat_interleave")
def repeat_interleave(call: Call) -> Value:
    operand, count, dim = call.value("self"), call["repeats"], call["dim"]
    if not isinstance(count, int) or dim is None:
        raise Unsupported("its counts differ, or it flattens")
    axis = call.axis(operand, dim)
    return gathered(call, operand, torch.arange(call.type(operand).shape[axis]).repeat_interleave(count), axis)


@rule("cat", "concat", "concatenate")
def concat(call: Call) -> Value:
    parts = [part for part in call["tensors"] if not _is_empty(part)]
    values = [part if isinstance(part, Value) else _plain(call, part) for part in parts]
    axis = call.axis(values[0], call.get("dim", 0))
    return values[0] if len(values) == 1 else call.add(Concat(axis), *(call.typed(part, call.dtype) for part in values))


@rule("stack")
def stack(call: Call) -> Value:
    values = [part if isinstance(part, Value) else _plain(call, part) for part in call["tensors"]]
    axis = call["dim"] % call.result.ndim - call.lead
    if axis < 0:
        raise BatchMixed("it adds an axis in front of the batch axis")
    shape = call.type(values[0]).shape
    shaped = [call.reshaped(call.typed(part, call.dtype), (*shape[:axis], 1, *shape[axis:])) for part in values]
    return call.add(Concat(axis), *shaped)


def _is_empty(part: Value | Const) -> bool:
    return isinstance(part, Const) and current(part).shape == (0,)


def _plain(call: Call, const: Const) -> Value:
    """A constant that stands beside values; with a batch axis it would need one."""
    if call.lead:
        raise BatchMixed("it joins values with a constant that has no batch axis")
    return call.constant(const)


@rule("sum", "mean")
def reduce(call: Call) -> Value:
    operand = call.value("self")
    dims = call.get("dim")
    if not dims:
        if call.lead:
            raise BatchMixed("it reduces the batch axis")
        dims = list(range(call.rank(operand)))
    axes = tuple(sorted(call.axis(operand, dim) for dim in dims))
    keep = bool(call.get("keepdim", False))
    if not axes:  # a number already
        return operand
    return call.add((ReduceMean if call.word == "mean" else ReduceSum)(axes, keep), operand)


PAD_MODES = {"pad": "constant", "constant": "constant", "reflection": "reflect", "replication": "replicate"}


@rule("pad", "constant_pad_nd", "reflection_pad1d", "reflection_pad2d", "reflection_pad3d", "replication_pad1d",
      "replication_pad2d", "replication_pad3d")  # fmt: skip
def pad(call: Call) -> Value:
    amounts = list(call.get("pad", call.get("padding")))
    mode = call.get("mode") or PAD_MODES[call.word.split("_")[0]]
    operand = call.value("self")
    pairs = [(amounts[place], amounts[place + 1]) for place in range(0, len(amounts), 2)][::-1]
    missing = call.rank(operand) - len(pairs) - call.lead
    if missing < 0:
        if pairs[0] != (0, 0):
            raise BatchMixed("it pads the batch axis")
        pairs, missing = pairs[1:], 0
    pairs = [(0, 0)] * missing + pairs
    if mode == "constant":
        return _padded(call, operand, pairs, call.get("value") or 0.0)
    for axis, (before, after) in enumerate(pairs):
        if (before, after) != (0, 0):
            operand = gathered(call, operand, _edge_indices(call, operand, axis, (before, after), mode), axis)
    return operand


def _padded(call: Call, operand: Value, pairs: Sequence[tuple[int, int]], fill: float) -> Value:
    if not math.isfinite(fill):
        raise Unsupported("it pads with numbers that are not finite")
    inside = torch.ones(call.type(operand).shape, dtype=call.dtype, device=call.result.device)
    padded = call.add(Pad(tuple(pairs)), operand) if any(pair != (0, 0) for pair in pairs) else operand
    if fill == 0.0:
        return padded
    border = fill * (1 - pad_spatial(inside, tuple(pairs)))
    return scaled(call, padded, shift=Const(border, live=False))


def _edge_indices(call: Call, operand: Value, axis: int, pair: tuple[int, int], mode: str) -> torch.Tensor:
    extent = call.type(operand).shape[axis]
    indices = torch.arange(-pair[0], extent + pair[1])
    if mode == "replicate":
        return indices.clamp(0, extent - 1)
    if mode == "circular":
        return indices % extent
    if mode != "reflect":
        raise Unsupported(f"its mode is {mode}")
    period = max(2 * (extent - 1), 1)
    folded = indices % period
    return torch.minimum(folded, period - folded)


def gathered(call: Call, operand: Value, indices: torch.Tensor, axis: int) -> Value:
    """The elements `indices` along an axis of the IR's value."""
    return call.add(Gather(indices.to(call.result.device), axis), operand)


def sliced(call: Call, operand: Value, axis: int, span: range) -> Value:
    """The elements of a range with positive step along an axis of the IR's value."""
    shape = call.type(operand).shape
    if span == range(shape[axis]):
        return operand
    if not span:
        raise Unsupported("its result is empty")
    starts, stops, steps = [0] * len(shape), list(shape), [1] * len(shape)
    starts[axis], stops[axis], steps[axis] = span.start, span.stop, span.step
    return call.add(Slice(tuple(starts), tuple(stops), tuple(steps)), operand)
