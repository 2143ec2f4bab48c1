"""Rows through the dense layer that reads an input and to their minimum over its box, a few at a time.

What they are over the input, by far the widest value of many networks, is then never there as a whole; nor is it kept
for the gradient: a row's minimum changes with its coefficients over the layer as the layer's values at its worst input.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from irverify.ir.first_order import first_order
from irverify.ir.graph import Graph, Node
from irverify.ir.ops import Linear
from irverify.ir.params import value
from irverify.kernels.native import watched
from irverify.passes.adjoints import constants
from irverify.passes.forms import Columns, Dense, Form
from irverify.passes.relaxations import Affine
from irverify.passes.straight import source
from irverify.passes.view import View

BYTES, FEW = 2**18, 16
"""Rows of about so many bytes are taken at a time, but not fewer rows than that."""


def landed(view: View, node: Node, form: Form) -> Tensor | None:
    """Lower bounds `[rows]` of rows of one example over a node; None where it is no dense layer over a box, or they are
    of another form."""
    relaxed = view.context.relaxed.get(node.name)
    if not isinstance(relaxed, Affine) or not isinstance(relaxed.op, Linear) or len(node.type.shape) != 1:
        return None
    if not isinstance(form, Columns | Dense) or form.owner is not None or not _boxed(view, node.inputs[0]):
        return None
    rows, weight = form.coefficients, value(relaxed.op.weight)
    middle, reach = (side.reshape(-1) for side in view.box(node.inputs[0]))
    alike = rows.dtype == weight.dtype == middle.dtype
    if not alike or not middle.numel() or watched():
        return None
    if isinstance(form, Columns):
        weight = weight.index_select(0, form.index)
    found: Tensor = _Least.apply(rows, weight.detach(), middle, reach)  # type: ignore[no-untyped-call]
    offset = relaxed.offset
    return found if offset is None else found + constants(form, offset, node.type.shape)


def _boxed(view: View, name: str) -> bool:
    """Whether a value can be whatever its interval says: it is an elementwise image of an input that is a box."""
    graph: Graph = view.context.graph
    found = source(graph, graph[name])
    return (
        found is not None
        and view.context.regions[found].is_box
        and name not in view.context.known
        and name not in view.context.shortcuts
    )


class _Least(torch.autograd.Function):
    """The least of each row `rows @ weight` over a box, `[rows]`, with the derivative by `rows` alone."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, middle: Tensor, reach: Tensor) -> Tensor:
        least = rows.new_empty(rows.shape[0])
        slopes = torch.empty_like(rows) if ctx.needs_input_grad[0] else None
        opposite = -reach
        step = max(FEW, BYTES // (middle.numel() * rows.element_size()))
        for first in range(0, rows.shape[0], step):
            part = slice(first, first + step)
            coefficients = rows[part] @ weight
            worst = coefficients.sign().mul_(opposite).add_(middle)
            if slopes is not None:
                torch.mm(worst, weight.mT, out=slopes[part])
            torch.sum(coefficients.mul_(worst), 1, out=least[part])
        ctx.save_for_backward(slopes)
        return least

    @staticmethod
    @first_order
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (slopes,) = ctx.saved_tensors
        return gradients[0][:, None] * slopes, None, None, None
