"""Forms of rows through linear operators."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from irverify.ir.graph import Node
from irverify.ir.ops import Add, Conv, Elementwise, Gather, Input, Linear, Neg, Operator, Reshape, Sub
from irverify.ir.ops.base import normalize_axis
from irverify.ir.ops.memory import prefers_last, settled
from irverify.ir.params import value
from irverify.ir.recording import recorded
from irverify.ir.types import TensorType
from irverify.kernels.adjoint import adjoint_of_elements
from irverify.kernels.native import addresses
from irverify.kernels.rows import dot
from irverify.kernels.units import unit_rows
from irverify.passes.forms import Columns, Dense, Form, Patches, Units, Wide, minimum, unowned
from irverify.passes.relaxations import Affine
from irverify.passes.windows import kernels, receptive, worthwhile


def before(
    node: Node, affine: Affine, form: Form, support: Callable[[str], Tensor | None]
) -> tuple[Form, ...] | None:
    """The rows over the operands of a linear operator; None where there is no way but the dense one. `support`: the
    flat elements of a value that rows over it can pass on from, None where all may."""
    op = affine.op
    if isinstance(op, Conv):
        return (before_convolution(op, affine.operands[0], form),)
    if isinstance(op, Linear) and len(node.type.shape) == 1:
        return (before_linear(op, form, support(node.inputs[0])),)
    if isinstance(op, Reshape):
        reshaped = before_reshape(form, affine.operands[0].shape)
        return None if reshaped is None else (reshaped,)
    if isinstance(op, Gather):
        gathered = before_gather(op, affine.operands[0].shape, form)
        return None if gathered is None else (gathered,)
    if isinstance(op, Add):
        return (form,) * len(node.inputs)
    if isinstance(op, Sub | Neg) and not isinstance(form, Units):
        return (form, negated(form)) if isinstance(op, Sub) else (negated(form),)
    return None


def before_linear(op: Linear, form: Form, columns: Tensor | None) -> Form:
    """Rows over the operand of a dense layer, or over these elements of it alone."""
    weight = value(op.weight)
    features = int(weight.shape[1])
    if isinstance(form, Units):
        rows = weight.index_select(0, form.elements)
        rows = rows if columns is None else rows.index_select(1, columns)
    else:
        if isinstance(form, Columns) and form.owner is not None:
            form = Dense(form.dense(), form.owner)
        if isinstance(form, Columns):
            weight = weight.index_select(0, form.index)
        rows = form.coefficients @ (weight if columns is None else weight.index_select(1, columns))
    return Dense(rows, form.owner) if columns is None else Columns(rows, columns, (features,))


def before_convolution(op: Conv, operand: TensorType, form: Form) -> Form:
    """Rows over the operand of a convolution: windows as long as they pay."""
    plane = operand.shape[1:]
    if isinstance(form, Units):
        starts = form.shape[1:]
        if (whole := _whole_kernels(op, form, plane)) is not None:
            return Dense(whole, form.owner)
        size = math.prod(starts)
        windows = kernels(op, form.elements // size, form.elements % size, starts, plane, form.owner)
        return Patches(windows) if worthwhile(windows.window, plane) else Dense(windows.dense(), form.owner)
    if isinstance(form, Columns) and (at_once := _columns_through(op, plane, form)) is not None:
        return Dense(at_once, form.owner)
    before = form.windows.before(op, plane) if isinstance(form, Patches) else None
    return Dense(op.adjoint(form.dense(), (operand,))[0], form.owner) if before is None else Patches(before)


def _columns_through(op: Conv, plane: tuple[int, ...], form: Columns) -> Tensor | None:
    """The rows over planes of the operand of a convolution, by compiled code."""
    weight, rows = value(op.weight), form.coefficients
    if len(plane) != 2 or op.groups > 1 or max(op.dilation) > 1 or recorded(rows, weight):
        return None
    place = form.index if form.index.ndim == 2 else form.index.unsqueeze(0)  # there may be none
    first = [before for before, _ in op.padding]
    found = adjoint_of_elements(rows, place, form.owner, form.shape[1:], weight, op.stride, first, plane)
    return None if found is None else found.permute(0, 3, 1, 2)


def _whole_kernels(op: Conv, form: Units, plane: tuple[int, ...]) -> Tensor | None:
    """The kernels of elements of a convolution over its whole operand, by compiled code; None where windows pay."""
    weight = value(op.weight)
    if weight.ndim != 4 or max(*op.dilation, op.groups) > 1 or recorded(weight) or worthwhile(weight.shape[2:], plane):
        return None
    first, last = [before for before, _ in op.padding], prefers_last(weight)
    return unit_rows(weight, form.elements, form.shape[1:], op.stride, first, plane, last=last)


def row_size(op: Operator | None, shapes: Sequence[tuple[int, ...]], form: Form) -> tuple[int, bool]:
    """How many coefficients a row of this form takes behind an operator whose operands have these shapes, and whether
    it is over whole planes then. None stands for an elementwise function."""
    largest = max(map(math.prod, shapes))
    if isinstance(form, Columns) and (op is None or isinstance(op, Elementwise | Reshape)):
        return form.coefficients.shape[1], False
    if isinstance(form, Units | Patches) and len(shapes[0]) > 1:
        if isinstance(op, Conv):
            window = form.windows.window if isinstance(form, Patches) else (1,) * (len(shapes[0]) - 1)
            extents = receptive(op, window)
            if worthwhile(extents, shapes[0][1:]):
                return shapes[0][0] * math.prod(extents), False
        elif op is None or isinstance(op, Elementwise | Add | Sub | Neg | Input):
            return math.prod(form.coefficients.shape[1:]) if isinstance(form, Patches) else shapes[0][0], False
        elif isinstance(op, Gather) and isinstance(form, Patches) and _of_channels(op, shapes[0]):
            return shapes[0][0] * math.prod(form.windows.window), False
    return (1, False) if isinstance(form, Units) and isinstance(op, Add | Gather | Reshape) else (largest, True)


def before_reshape(form: Form, shape: tuple[int, ...]) -> Form | None:
    """Rows over a value of this shape that is reshaped; None where the form does not tell."""
    if isinstance(form, Units | Columns):
        return replace(form, shape=shape)
    return Dense(form.coefficients.reshape(-1, *shape), form.owner) if isinstance(form, Dense) else None


def before_gather(op: Gather, shape: tuple[int, ...], form: Form) -> Form | None:
    """Rows over the operand, of this shape, of a gather; None where the form does not tell."""
    indices = value(op.indices)
    if isinstance(form, Units):
        axis = normalize_axis(op.axis, len(shape))
        inner = math.prod(shape[axis + 1 :])
        outer = torch.div(form.elements, inner * indices.numel(), rounding_mode="floor")
        place = indices[torch.div(form.elements, inner, rounding_mode="floor") % indices.numel()]
        elements = (outer * shape[axis] + place) * inner + form.elements % inner
        return replace(form, elements=elements, shape=shape)
    if isinstance(form, Patches) and _of_channels(op, shape):
        rows = form.coefficients
        found = rows.new_zeros(rows.shape[0], shape[0], *rows.shape[2:]).index_add(1, indices, rows)
        return Patches(form.windows.with_coefficients(settled(found), clean=form.windows.clean))
    return None


def _of_channels_at_once(rows: Tensor, offset: Tensor) -> Tensor | None:
    """Rows `[rows, channels, *plane]` times a number for each channel, by compiled code."""
    if recorded(rows, offset):
        return None
    found = dot(rows.permute(0, *range(2, rows.ndim), 1), offset)
    if found is not None or addresses(rows, offset) is None:  # before questions that not all tensors answer
        return found
    return dot(rows, offset.repeat_interleave(rows[0, 0].numel())) if len(rows) and rows.is_contiguous() else None


def _of_channels(op: Gather, shape: tuple[int, ...]) -> bool:
    return len(shape) > 1 and normalize_axis(op.axis, len(shape)) == 0


def negated(form: Wide) -> Wide:
    """The rows times -1."""
    if isinstance(form, Patches):
        return Patches(form.windows.with_coefficients(-form.coefficients, clean=form.windows.clean))
    return form.with_coefficients(-form.coefficients)


def constants(form: Form, offset: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The constants of rows over a value of a shape from the offset of the operator that makes it."""
    per_channel = len(shape) > 1 and offset.shape == (shape[0], *(1,) * (len(shape) - 1))
    if per_channel and isinstance(form, Units):
        channel = torch.div(form.elements, math.prod(shape[1:]), rounding_mode="floor")
        return offset.reshape(-1).index_select(0, channel)
    if per_channel and (isinstance(form, Dense) or (isinstance(form, Patches) and form.windows.clean)):
        found = _of_channels_at_once(form.coefficients, offset.reshape(-1))
        return form.coefficients.flatten(2).sum(2) @ offset.reshape(-1) if found is None else found
    if isinstance(form, Columns) and form.owner is not None:
        met = offset.expand(shape).reshape(-1)[form.index]
        return minimum(Dense(form.coefficients, form.owner), met, torch.zeros_like(met))
    return unowned(form).dot(offset.expand(shape))
