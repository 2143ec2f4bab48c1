"""By how much two networks of one structure differ over a region: interval bounds of the difference of their values.

With d = x' - x, where x' is what the changed network has and x what the first one has, both with bounds of their own:

    y = W x + b:      d_y = W' d + (W' - W) x + (b' - b)          (or W d + (W' - W) x' + (b' - b); the tighter one)
    y = f(x):         d_y = s d, s between the least and greatest slope of f between the bounds of x and x'
    y = max(x_i):     min d_i <= d_y <= max d_i
    everywhere:       l' - u <= d_y <= u' - l

An activation whose elements are put on one piece `s x + t` for good adds `s x + t - f(x)`, whose extremes are at the
ends or at breakpoints. Where nothing has changed, d is exactly zero. Rounding is not counted here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from irverify.ir.graph import Graph, Node
from irverify.ir.ops import (
    Constant,
    Conv,
    ConvTranspose,
    Elementwise,
    Input,
    Linear,
    LinearOp,
    Maximum,
    MaxPool,
    Minimum,
    Operand,
    Operator,
    Sigmoid,
    Spec,
    Tanh,
)
from irverify.ir.params import value
from irverify.passes.eliminate_stable import lines
from irverify.passes.propagate import Interval
from irverify.pipeline.facts import Bounds
from irverify.rounding import round_down, round_up

LIPSCHITZ = {Sigmoid: 0.25, Tanh: 1.0}
"""Increasing operators whose slopes are between 0 and this."""


@dataclass(frozen=True)
class Pair:
    """Two networks with bounds of their values (name -> bounds); `pieces` are the elements of activations that the
    changed one has on one piece (name -> `[*shape]`, -1: not)."""

    before: Graph
    after: Graph
    known: Mapping[str, Bounds]
    known_after: Mapping[str, Bounds]
    pieces: Mapping[str, Tensor] = field(default_factory=dict)


def output_change(pair: Pair) -> tuple[Bounds, ...]:
    """For each output, bounds `[batch, *shape]` of what the changed network has there less what the first one has.

    Both are evaluated at the same inputs and operands. Values are matched by name; an operator of the changed network
    may differ from its namesake in parameters only, or is given in `pieces`.
    """
    changes: dict[str, Interval] = {}
    for node in pair.before:
        changes[node.name] = _met(pair, node, _change(pair, node, changes))
    return tuple(Bounds(*changes[name], "change") for name in pair.before.outputs)


def largest(change: tuple[Bounds, ...]) -> float:
    """The largest magnitude of any output's change; infinite where there is no bound."""
    sides = [side.abs() for bounds in change for side in (bounds.lower, bounds.upper) if side.numel()]
    return max((float(side.nan_to_num(nan=torch.inf, posinf=torch.inf).max()) for side in sides), default=0.0)


def _change(pair: Pair, node: Node, changes: Mapping[str, Interval]) -> Interval:
    op, other = node.op, _op_after(pair, node)
    x = pair.known[node.name]
    if isinstance(op, Input | Operand) or (isinstance(op, Constant) and other is op):
        return _zero(x)
    operands = [changes[name] for name in node.inputs]
    unchanged = other is op and node.name not in pair.pieces
    if unchanged and all(not bool(side.any()) for operand in operands for side in operand):
        return _zero(x)
    if isinstance(op, Linear | Conv | ConvTranspose) and isinstance(other, type(op)) and other is not op:
        return _weighted(pair, node, op, other, operands[0])
    if isinstance(op, LinearOp) and other is op:
        return _through(op, operands)
    if isinstance(op, Elementwise) and (other is op or node.name in pair.pieces):
        return _elementwise(pair, node, op, operands[0])
    if isinstance(op, MaxPool | Maximum | Minimum) and other is op:
        return _extreme(op, operands)
    if isinstance(op, Spec) and other is op:
        return _rows(pair, node, op, operands[0])
    return Interval(torch.full_like(x.lower, -torch.inf), torch.full_like(x.upper, torch.inf))


def _op_after(pair: Pair, node: Node) -> Operator:
    """The operator that the changed network has there; it may have dropped what it does not need."""
    if node.name in pair.pieces or node.name not in pair.after:
        return node.op
    return pair.after[node.name].op


def _zero(like: Bounds) -> Interval:
    zero = torch.zeros_like(like.lower)
    return Interval(zero, zero)


def _met(pair: Pair, node: Node, change: Interval) -> Interval:
    """Intersected with `[l' - u, u' - l]`; what has crossed by rounding changes places."""
    if node.name not in pair.known_after or not bool(torch.stack(change).any()):
        return change
    x, y = pair.known[node.name], pair.known_after[node.name]
    low, high = y.lower - x.upper, y.upper - x.lower
    # NaN comes from an infinite bound and says nothing.
    lower = torch.where((low > change.lower) | change.lower.isnan(), low, change.lower)
    upper = torch.where((high < change.upper) | change.upper.isnan(), high, change.upper)
    return Interval(torch.minimum(lower, upper), torch.maximum(lower, upper))


def _after(pair: Pair, name: str, change: Interval) -> Interval:
    """Bounds of a value of the changed network."""
    if name in pair.known_after:
        return Interval(pair.known_after[name].lower, pair.known_after[name].upper)
    return Interval(pair.known[name].lower + change.lower, pair.known[name].upper + change.upper)


def _through(op: LinearOp, operands: list[Interval]) -> Interval:
    """The linear part of an operator on intervals."""
    centers = [(operand.lower + operand.upper) / 2 for operand in operands]
    radii = [(operand.upper - operand.lower) / 2 for operand in operands]
    center, radius = op.apply(*centers), op.apply_abs(*radii)
    lower, upper = center - radius, center + radius
    if lower.dtype != operands[0].lower.dtype:  # a cast
        return Interval(round_down(lower, lower.dtype), round_up(upper, upper.dtype))
    return Interval(lower, upper)


def _weighted(
    pair: Pair, node: Node, op: Linear | Conv | ConvTranspose, other: Linear | Conv | ConvTranspose, change: Interval
) -> Interval:
    difference = op.replace(weight=value(other.weight) - value(op.weight), bias=None)
    rank = node.type.rank
    offsets = [layer.offset(rank) for layer in (op, other)]
    shift = sum((sign * offset for sign, offset in zip((-1, 1), offsets, strict=True) if offset is not None), 0)
    name = node.inputs[0]
    known = pair.known[name]
    found = []
    for layer, x in ((other, Interval(known.lower, known.upper)), (op, _after(pair, name, change))):
        carried, fresh = _through(layer, [change]), _through(difference, [x])
        found.append((carried.lower + fresh.lower + shift, carried.upper + fresh.upper + shift))
    lower, upper = torch.maximum(found[0][0], found[1][0]), torch.minimum(found[0][1], found[1][1])
    return Interval(torch.minimum(lower, upper), torch.maximum(lower, upper))


def _elementwise(pair: Pair, node: Node, op: Elementwise, change: Interval) -> Interval:
    name = node.inputs[0]
    known, moved = pair.known[name], _after(pair, name, change)
    lower, upper = torch.minimum(known.lower, moved.lower), torch.maximum(known.upper, moved.upper)
    slopes = _slopes(op, lower, upper)
    result = Interval(torch.full_like(lower, -torch.inf), torch.full_like(upper, torch.inf))
    if slopes is not None:
        result = _times(slopes, change)
    if node.name not in pair.pieces:
        return result
    piece, pieces = pair.pieces[node.name], op.pieces()
    assert pieces is not None
    slope, intercept = lines(op, piece, node.type.dtype)
    ends = [known.lower, known.upper]
    ends += [torch.full_like(known.lower, knot).clamp(known.lower, known.upper) for knot in pieces.breakpoints]
    gaps = torch.stack([slope * end + intercept - op.evaluate(end) for end in ends])
    scaled = _times(Interval(slope, slope), change)
    fixed = piece >= 0
    return Interval(
        torch.where(fixed, scaled.lower + gaps.amin(0), result.lower),
        torch.where(fixed, scaled.upper + gaps.amax(0), result.upper),
    )


def _slopes(op: Elementwise, lower: Tensor, upper: Tensor) -> Interval | None:
    """The least and greatest slope between two points of [lower, upper]."""
    if type(op) in LIPSCHITZ:
        return Interval(torch.zeros_like(lower), torch.full_like(upper, LIPSCHITZ[type(op)]))
    pieces = op.pieces()
    if pieces is None:
        return None
    least, greatest = torch.full_like(lower, torch.inf), torch.full_like(upper, -torch.inf)
    ends = (-torch.inf, *pieces.breakpoints, torch.inf)
    for index, slope in enumerate(pieces.slopes):
        touched = (lower <= ends[index + 1]) & (upper >= ends[index])
        least = torch.where(touched, least.clamp(max=slope), least)
        greatest = torch.where(touched, greatest.clamp(min=slope), greatest)
    return Interval(least, greatest)


def _times(factor: Interval, change: Interval) -> Interval:
    products = torch.stack([f * d for f in factor for d in change])
    return Interval(products.amin(0), products.amax(0))


def _extreme(op: Operator, operands: list[Interval]) -> Interval:
    """Of a maximum; the change of a minimum is between the same ends."""
    if isinstance(op, MaxPool):
        return Interval(-op.evaluate(-operands[0].lower), op.evaluate(operands[0].upper))
    first, second = operands
    return Interval(torch.minimum(first.lower, second.lower), torch.maximum(first.upper, second.upper))


def _rows(pair: Pair, node: Node, op: Spec, change: Interval) -> Interval:
    """Rows are the same for both; where they depend on the input, only the last line of the rules is left."""
    rows, offset = (pair.known[name] for name in node.inputs[1:])
    if not (torch.equal(rows.lower, rows.upper) and torch.equal(offset.lower, offset.upper)):
        x = pair.known[node.name]
        return Interval(torch.full_like(x.lower, -torch.inf), torch.full_like(x.upper, torch.inf))
    matrix, _ = op.affine(rows.lower, offset.lower)
    center, radius = (change.lower + change.upper) / 2, (change.upper - change.lower) / 2
    middle = torch.einsum("bsi,bi->bs", matrix, center)
    reach = torch.einsum("bsi,bi->bs", matrix.abs(), radius)
    return Interval(middle - reach, middle + reach)
