"""Rows over a ReLU taken to the operand of the layer before it, and rows over an input to their minimum.

Rows of all classes over a large value are the largest tensors of a step by far: what is done to them element by
element, and memory that is new to the process, would take longer than the convolutions. So ReLU and layer are one
function, with its gradient written out: only the rows over the ReLU are kept, and everything is done by products and
sums (`torch.where` takes over ten times as long as a product on a CPU).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from irverify.backends.torch.adjoints import Layer
from irverify.backends.torch.layout import Layout
from irverify.ir.first_order import first_order
from irverify.kernels import bounds
from irverify.kernels import rows as compiled
from irverify.kernels.native import addresses


class Lines(torch.autograd.Function):
    """Lines around a ReLU (Zhang et al. 2018), `slope z <= relu(z) <= high z + top` for l <= z <= u: high is
    u / (u - l) and top is -l u / (u - l), with l at most 0 and u at least 0; the slope below is 1 where u > -l, else 0,
    and has no derivative. Gives slope, `high - slope`, and the constants of both lines as functions of x, where
    z = x + offset: `slope offset` and `top + high offset`. First derivatives only.

    A bound that is not a number makes lines that are none.
    """

    @staticmethod
    def forward(lower: Tensor, upper: Tensor, offset: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
        found = bounds.lines(lower, upper, offset)
        if found is not None:
            return found
        above, below, width = _sides(lower, upper)
        high = above / width
        slope = (above > below).to(lower.dtype)
        if offset is None:
            return slope, high - slope, None, high * below
        return slope, high - slope, slope * offset, high * (below + offset)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.save_for_backward(*inputs)
        ctx.mark_non_differentiable(output[0])

    @staticmethod
    @first_order
    def backward(
        ctx: Any, _: Tensor, of_rise: Tensor, of_base: Tensor | None, of_top: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        lower, upper, offset = ctx.saved_tensors
        if offset is None:
            of_base = None
        found = bounds.lines_back(lower, upper, offset, of_rise, of_base, of_top)
        if found is not None:
            return found
        above, below, width = _sides(lower, upper)
        high, rest, of_offset = above / width, below / width, None
        if offset is not None and of_base is not None:
            of_offset = (of_top * high).addcmul_(of_base, (above > below).to(lower.dtype)).sum(0)
            of_rise = torch.addcmul(of_rise, of_top, offset)
        steep = of_rise / width
        of_lower = torch.addcmul(steep, high, of_top, value=-1).mul_(high).mul_(lower < 0)
        return of_lower, steep.addcmul_(rest, of_top).mul_(rest).mul_(upper > 0), of_offset


def _sides(lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`max(u, 0)`, `-min(l, 0)` and their sum, 1 where that is 0."""
    above, below = upper.clamp(min=0), lower.clamp(max=0).neg()
    width = above + below
    return above, below, width + (width == 0)


class Bend(torch.autograd.Function):
    """For rows `a` `[batch * count, *shape]` over `relu(z)`, and for each example `[batch, size]` the slope of the line
    below, what that of the line above has more, and their constants `base`, zero if None, and `top`:

        passed = a slope + min(a, 0) more        constants = max(a, 0) . base + min(a, 0) . top

    gives the rows `passed W` over the operand of the layer z = W x + b, or `passed` without a layer, and the constants
    `[batch * count]`. First derivatives only, and none in the slope.
    """

    @staticmethod
    def forward(
        rows: Tensor, slope: Tensor, more: Tensor, base: Tensor | None, top: Tensor,
        weight: Tensor | None, layer: Layer | None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        layout = Layout.of(rows.shape[1:], rows)
        a = layout.flat(rows).unflatten(0, (len(slope), -1))
        found = _bent(a, slope, more, base, top)
        if found is None:
            negative = a.clamp(max=0)
            constants = _dot(negative, top) if base is None else _dot(negative, top - base) + _dot(a, base)
            passed = (a * slope.unsqueeze(1)).addcmul_(negative, more.unsqueeze(1))
        else:
            passed, constants = found
        over = layout.shaped(passed.flatten(0, 1))
        return (over if layer is None or weight is None else layer.back(over, weight)), constants

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.save_for_backward(*inputs[:6])
        ctx.layer = inputs[6]

    @staticmethod
    @first_order
    def backward(ctx: Any, of_found: Tensor, of_constants: Tensor) -> tuple[Tensor | None, ...]:
        rows, slope, more, base, top, weight = ctx.saved_tensors
        layer: Layer | None = ctx.layer
        layout = Layout.of(rows.shape[1:], rows)
        a = layout.flat(rows).unflatten(0, (len(slope), -1))
        if (found := _bent_back(ctx, a, layout, of_found, of_constants)) is not None:
            return found
        below = torch.lt(a, 0, out=torch.empty_like(a))
        bend = torch.addcmul(slope.unsqueeze(1), below, more.unsqueeze(1))
        of_weight = of_base = None
        if layer is not None and ctx.needs_input_grad[5]:
            of_weight = layer.in_weight(of_found, layout.shaped((a * bend).flatten(0, 1)), weight)
        gradient = layout.flat(of_found if layer is None or weight is None else layer.ahead(of_found, weight))
        gradient, constant = gradient.reshape(a.shape), of_constants.reshape(*a.shape[:2], 1)
        tilt = below * (top if base is None else top - base).unsqueeze(1)
        if base is not None:
            tilt += base.unsqueeze(1)
        of_rows = (gradient * bend).addcmul_(constant, tilt)
        negative = below.mul_(a)
        of_top = torch.matmul(constant.mT, negative).squeeze(1)
        if base is not None:
            of_base = torch.matmul(constant.mT, a).squeeze(1) - of_top
        of_more = negative.mul_(gradient).sum(1)
        return layout.shaped(of_rows.flatten(0, 1)), None, of_more, of_base, of_top, of_weight, None


class Minimum(torch.autograd.Function):
    """The minimum of rows `a` `[batch * count, *shape]` over boxes, `a . center - |a| . radius`, `[batch * count]`.
    First derivatives only."""

    @staticmethod
    def forward(rows: Tensor, center: Tensor, radius: Tensor) -> Tensor:
        layout = Layout.of(rows.shape[1:], rows)
        a = layout.flat(rows).unflatten(0, (len(center), -1))
        middle, reach = layout.flat(center), layout.flat(radius)
        if _ordered(a, middle, reach):
            found = compiled.minimum(a, compiled.Spots.whole(rows.shape[0], a.shape[2], each=a.shape[1]), middle, reach)
            if found is not None:
                return found
        return _dot(a, middle) - _dot(a.abs(), reach)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    @first_order
    def backward(ctx: Any, of_found: Tensor) -> tuple[Tensor | None, ...]:
        rows, center, radius = ctx.saved_tensors
        layout = Layout.of(rows.shape[1:], rows)
        a = layout.flat(rows).unflatten(0, (len(center), -1))
        over = of_found.unflatten(0, (len(center), -1)).unsqueeze(2)
        middle, reach = layout.flat(center), layout.flat(radius)
        if _ordered(a, middle, reach, of_found):
            wanted = {"of_center": ctx.needs_input_grad[1], "of_radius": ctx.needs_input_grad[2]}
            found = compiled.minimum_back(a, middle, reach, of_found, **wanted)
            if found is not None:
                of_rows, *rest = found
                return layout.shaped(of_rows.flatten(0, 1)), *(
                    None if part is None else layout.shaped(part) for part in rest
                )
        of_center = of_radius = None
        if ctx.needs_input_grad[1]:
            of_center = layout.shaped(torch.matmul(over.mT, a).squeeze(1))
        if ctx.needs_input_grad[2]:
            of_radius = layout.shaped(torch.matmul(over.mT, a.abs()).squeeze(1).neg())
        end = torch.addcmul(middle.unsqueeze(1), a.sign(), reach.unsqueeze(1), value=-1)
        return layout.shaped(end.mul_(over).flatten(0, 1)), of_center, of_radius


class BendStep(nn.Module):
    """`Bend` for a layer."""

    def __init__(self, layer: Layer | None) -> None:
        super().__init__()
        self._layer = layer

    def forward(self, rows: Tensor, lines: Sequence[Tensor], weight: Tensor | None) -> tuple[Tensor, Tensor]:
        """`lines` are slope, more, top and, with a bias, base."""
        slope, more, top, base = (*lines, None)[:4]
        return Bend.apply(*_cast(rows, slope, more, base, top, weight), self._layer)  # type: ignore[no-untyped-call, no-any-return]


def lines(lower: Tensor, upper: Tensor, bias: Tensor | None) -> tuple[Tensor, ...]:
    """What `BendStep` takes: lines around a ReLU, whose operand has a bias `[channels]` that is no part of the rows."""
    layout = Layout.of(lower.shape[1:], lower)
    offset = None if bias is None else layout.spread(bias)
    slope, more, base, top = Lines.apply(layout.flat(lower), layout.flat(upper), offset)  # type: ignore[no-untyped-call]
    return (slope, more, top) if base is None else (slope, more, top, base)


def minimum(rows: Tensor, center: Tensor, radius: Tensor) -> Tensor:
    """What `Minimum` computes, in the type that autocast asks for."""
    return Minimum.apply(*_cast(rows, center, radius))  # type: ignore[no-untyped-call, no-any-return]


def _ordered(*tensors: Tensor | None) -> bool:
    return all(tensor is None or tensor.is_contiguous() for tensor in tensors)


def _bent(a: Tensor, slope: Tensor, more: Tensor, base: Tensor | None, top: Tensor) -> tuple[Tensor, Tensor] | None:
    """The rows passed on, and the constants, by compiled code."""
    if not _ordered(a, slope, more, base, top):
        return None
    examples, count, size = a.shape
    return compiled.bend(a, compiled.Spots.whole(examples * count, size, each=count), slope, more, base, top)


def _bent_back(
    ctx: Any, a: Tensor, layout: Layout, of_found: Tensor, of_constants: Tensor
) -> tuple[Tensor | None, ...] | None:
    """The gradients of `Bend` by compiled code."""
    _, slope, more, base, top, weight = ctx.saved_tensors
    told = a, slope, more, base, top, of_constants
    if addresses(*told) is None or not _ordered(*told) or (weight is not None and weight.dtype != a.dtype):
        return None  # before anything is done that would have to be done again
    layer: Layer | None = ctx.layer
    inner = layout.flat(of_found if layer is None or weight is None else layer.ahead(of_found, weight)).reshape(a.shape)
    fresh = layer is not None and weight is not None and inner.is_contiguous()
    inner = inner if fresh else inner.clone(memory_format=torch.contiguous_format)
    through = layer is not None and ctx.needs_input_grad[5]
    found = compiled.bend_back(a, slope, more, base, top, inner, of_constants, through=through)
    if found is None:
        return None
    passed, of_rows, of_more, of_base, of_top = found
    of_weight = None
    if layer is not None and passed is not None:
        of_weight = layer.in_weight(of_found, layout.shaped(passed.flatten(0, 1)), weight)
    return layout.shaped(of_rows.flatten(0, 1)), None, of_more, of_base, of_top, of_weight, None


def _dot(rows: Tensor, value: Tensor) -> Tensor:
    """Rows `[batch, count, size]` times a value `[batch, size]` of each example, `[batch * count]`. (In this order a
    CPU takes a fifth of the time.)"""
    return torch.matmul(value.unsqueeze(1), rows.mT).flatten()


def _cast(*tensors: Tensor | None) -> list[Tensor | None]:
    first = next(tensor for tensor in tensors if tensor is not None)
    kind = first.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else first.dtype
    return [None if tensor is None else tensor.to(dtype) for tensor in tensors]
