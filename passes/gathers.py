"""Selections moved towards what makes the elements, so that nothing else is computed. Rules for `gather`:

1. of everything in order: gone; of a gather along the same axis: one;
2. of a pad of which it takes nothing: gone; of a concat, where it takes the parts in order: a concat of gathers;
3. of `linear` (last axis): a `linear` with those rows; of a `conv` (channels): with those channels, of as many from
   each group, and of the groups that these are in;
4. of an elementwise operator, `scale_shift`, `neg`, or a sum of values: that operator on the elements taken;
5. of a flattened value, where it takes whole planes: the flattened gather of these; else it passes elementwise
   operators in front of the flattening;
6. the flattening of a gather or of padding along the first axis, where that has more elements than its operand: the
   gather or pad of the flattened value.

Rules 3 to 5 hold where only gathers read the value, and between them no more elements than there are.
"""

from __future__ import annotations

from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from irverify.ir.ops import (
    Add,
    Concat,
    Conv,
    Elementwise,
    Gather,
    Linear,
    Neg,
    Operator,
    Pad,
    Reshape,
    ScaleShift,
    Sub,
)
from irverify.ir.ops.base import normalize_axis
from irverify.ir.params import Derived, Param, value
from irverify.ir.types import TensorType
from irverify.passes.rewriting import Replacement, Site, joined_source


def move_gather(site: Site) -> Replacement | str | None:
    """The rules for a gather."""
    if not isinstance(site.op, Gather):
        return None
    axis, indices = gather_axis(site.op, site.type(site.inputs[0])), value(site.op.indices)
    extent = site.type(site.inputs[0]).shape[axis]
    if torch.equal(indices, torch.arange(extent, device=indices.device)):
        return site.inputs[0]
    maker = site.maker()
    if isinstance(maker.op, Gather) and gather_axis(maker.op, maker.type) == axis:
        inner = value(maker.op.indices)
        return Replacement(Gather(inner[indices], axis), maker.inputs, joined_source(maker, site.node))
    if isinstance(maker.op, Pad):
        return _of_pad(site, maker.op.padding, axis, indices)
    if isinstance(maker.op, Concat) and normalize_axis(maker.op.axis, maker.type.rank) == axis:
        return _of_concat(site, axis, indices)
    return _upwards(site, axis, indices) if alone(site) else None


def gather_axis(op: Gather, operand: TensorType) -> int:
    return normalize_axis(op.axis, operand.rank)


def alone(site: Site) -> bool:
    """Only gathers along one axis read the operand, and between them no more elements than it has."""
    operand = site.type(site.inputs[0])
    readers = [reader.op for reader in site.readers()]
    axes = {gather_axis(op, operand) for op in readers if isinstance(op, Gather)}
    if len(axes) != 1 or not all(isinstance(op, Gather) for op in readers):
        return False
    taken = sum(value(op.indices).numel() for op in readers if isinstance(op, Gather))
    return taken <= operand.shape[axes.pop()]


def _of_pad(site: Site, padding: tuple[tuple[int, int], ...], axis: int, indices: Tensor) -> Replacement | None:
    maker = site.maker()
    before = padding[axis][0]
    inside = indices - before
    extent = site.type(maker.inputs[0]).shape[axis]
    elsewhere = any(pair != (0, 0) for place, pair in enumerate(padding) if place != axis)
    if elsewhere or min(padding[axis]) < 0 or bool((inside < 0).any()) or bool((inside >= extent).any()):
        return None
    return Replacement(Gather(inside, axis), maker.inputs, joined_source(maker, site.node))


def _of_concat(site: Site, axis: int, indices: Tensor) -> Replacement | None:
    maker = site.maker()
    extents = torch.tensor([site.type(name).shape[axis] for name in maker.inputs], device=indices.device)
    stops = extents.cumsum(0)
    part = torch.bucketize(indices, stops, right=True)
    if not bool((part.diff() >= 0).all()):
        return None
    used = part.unique().tolist()
    if len(used) > 1 and not (site.sole_use(maker.name) or alone(site)):
        return None
    made = []
    for index in used:
        chosen = indices[part == index] - (stops[index] - extents[index])
        if len(used) == 1:
            return Replacement(Gather(chosen, axis), (maker.inputs[index],), joined_source(maker, site.node))
        made.append(site.add(Gather(chosen, axis), maker.inputs[index], role=f"part{index}"))
    return Replacement(Concat(axis), tuple(made), joined_source(maker, site.node))


def _upwards(site: Site, axis: int, indices: Tensor) -> Replacement | None:
    maker = site.maker()
    op, source = maker.op, joined_source(maker, site.node)
    if isinstance(op, Linear) and axis == maker.type.rank - 1:
        return Replacement(_with_rows(op, indices), maker.inputs, source)
    if isinstance(op, Conv) and axis == 0:
        return _of_channels(site, op, indices)
    if isinstance(op, Reshape) and maker.type.rank == 1:
        return _through_flattening(site, indices)
    taken = elementwise_on(op, maker.type, axis, indices)
    if taken is None:
        return None
    names = [site.add(Gather(indices, axis), name, role=f"of{place}") for place, name in enumerate(maker.inputs)]
    return Replacement(taken, tuple(names), source)


def _of_channels(site: Site, op: Conv, indices: Tensor) -> Replacement | None:
    """Rule 3 for a convolution, the maker of this gather's operand."""
    maker = site.maker()
    source = joined_source(maker, site.node)
    if op.groups == 1:
        return Replacement(_with_rows(op, indices), maker.inputs, source)
    groups, counts = (indices // (maker.type.shape[0] // op.groups)).unique_consecutive(return_counts=True)
    if len(groups.unique()) < len(groups) or len(counts.unique()) > 1:
        return None
    width = site.type(maker.inputs[0]).shape[0] // op.groups
    channels = (groups[:, None] * width + torch.arange(width, device=groups.device)).reshape(-1)
    name = site.add(Gather(channels, 0), maker.inputs[0], role="groups")
    return Replacement(_with_rows(op, indices).replace(groups=len(groups)), (name,), source)


def elementwise_on(op: Operator, type_: TensorType, axis: int, indices: Tensor) -> Operator | None:
    """What an operator that acts element by element is on the elements taken; None for any other operator."""
    if isinstance(op, Elementwise | Neg | Add | Sub):
        return op
    if isinstance(op, ScaleShift):
        return op.replace(**{
            name: _parameter_at(parameter, type_, axis, indices) for name, parameter in op.parameters().items()
        })  # fmt: skip
    return None


def _parameter_at(parameter: Param, type_: TensorType, axis: int, indices: Tensor) -> Param:
    own = value(parameter)
    place = axis - (type_.rank - own.ndim)
    if place < 0 or own.shape[place] == 1:
        return parameter
    return Derived(partial(_selected, place), parameter, indices)


def _selected(axis: int, tensor: Tensor, indices: Tensor) -> Tensor:
    return tensor.index_select(axis, indices)


Layer = TypeVar("Layer", Linear, Conv)


def _with_rows(op: Layer, indices: Tensor) -> Layer:
    bias = None if op.bias is None else Derived(partial(_selected, 0), op.bias, indices)
    return op.replace(weight=Derived(partial(_selected, 0), op.weight, indices), bias=bias)


def _through_flattening(site: Site, indices: Tensor) -> Replacement | None:
    """Rule 5; the operand of this gather is a flattened value."""
    flattening = site.maker()
    inner = site.node_of(flattening.inputs[0])
    if inner.type.rank < 2 or len(indices) >= inner.type.size or not site.sole_use(inner.name):
        return None
    plane = inner.type.size // inner.type.shape[0]
    first = indices[::plane]
    whole = len(indices) % plane == 0 and bool((first % plane == 0).all())
    if whole and len(site.readers()) == 1:
        places = (first[:, None] + torch.arange(plane, device=indices.device)).reshape(-1)
        if torch.equal(places, indices):
            name = site.add(Gather(first // plane, 0), inner.name, role="planes")
            return Replacement(Reshape(site.node.type.shape), (name,), flattening.source)
    if isinstance(inner.op, Elementwise):
        flat = site.add(Reshape(flattening.type.shape), inner.inputs[0], role="flat")
        name = site.add(Gather(indices, 0), flat, role="of")
        return Replacement(inner.op, (name,), joined_source(inner, site.node))
    return None


def flatten_later(site: Site) -> Replacement | None:
    """Rule 6."""
    if not (isinstance(site.op, Reshape) and site.node.type.rank == 1):
        return None
    maker = site.maker()
    if maker.type.rank < 2:
        return None
    operand = site.type(maker.inputs[0]) if maker.inputs else None
    if operand is None or operand.size > maker.type.size:
        return None
    plane = maker.type.size // maker.type.shape[0]
    if isinstance(maker.op, Gather) and gather_axis(maker.op, operand) == 0:
        rows = value(maker.op.indices)
        places = (rows[:, None] * plane + torch.arange(plane, device=rows.device)).reshape(-1)
        flat = site.add(Reshape((operand.size,)), maker.inputs[0], role="flat")
        return Replacement(Gather(places, 0), (flat,), joined_source(maker, site.node))
    if isinstance(maker.op, Pad) and all(pair == (0, 0) for pair in maker.op.padding[1:]):
        before, after = maker.op.padding[0]
        if min(before, after) >= 0:
            flat = site.add(Reshape((operand.size,)), maker.inputs[0], role="flat")
            return Replacement(Pad(((before * plane, after * plane),)), (flat,), joined_source(maker, site.node))
    return None
