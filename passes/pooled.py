"""Poolings over a convolution, or over an activation of it: rows pass all of them at once, by compiled code that
touches only what a maximum chooses and what the activation ever passes on."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from irverify.ir.graph import Node
from irverify.ir.ops import AveragePool, MaxPool
from irverify.ir.recording import recorded
from irverify.kernels.pooled import Around, Choices, adjoint_of_pooled
from irverify.passes.backward import Context
from irverify.passes.forms import Dense, Form
from irverify.passes.lines import Relaxation, nonzero
from irverify.passes.maxima import Selected
from irverify.passes.onward import Filter
from irverify.passes.relaxations import Affine


@dataclass(frozen=True)
class Pooled:
    """How rows over a pooling pass to the operand `to` of the convolution that it reads."""

    to: str
    kernel: tuple[int, ...]
    plane: tuple[int, ...]
    choices: Choices | None
    around: Around | None
    filter: Filter

    def before(self, form: Form) -> tuple[Dense, Tensor] | None:
        """The rows there, and their constants; None where compiled code was not written for them."""
        rows = form.dense()
        if recorded(rows):
            return None
        filter_ = self.filter
        moves = filter_.stride, filter_.first, filter_.extents
        met = self.kernel, self.choices, self.around, form.owner, self.plane
        found = adjoint_of_pooled(rows, *met, filter_.weight, filter_.offset, *moves)
        if found is None:
            return None
        return Dense(found[0].permute(0, 3, 1, 2), form.owner), found[1]


def pooled(context: Context, node: Node, examples: slice) -> Pooled | None:
    """That of a pooling, for rows of these examples; None where it reads something else, windows do not lie side by
    side, or gradients are asked for."""
    graph, pool, relaxed = context.graph, node.op, context.relaxed.get(node.name)
    if not isinstance(pool, AveragePool | MaxPool) or not pool.windows.side_by_side:
        return None
    if isinstance(pool, AveragePool) and not pool.plain:
        return None
    choices, around, before = None, None, graph[node.inputs[0]]
    if isinstance(relaxed, Selected):
        choices = Choices(*(_of(examples, part) for part in (relaxed.index, relaxed.certain, relaxed.ceiling)))
        if recorded(relaxed.ceiling):
            return None
    elif isinstance(pool, MaxPool):
        return None
    lines = context.relaxed.get(before.name)
    if isinstance(lines, Relaxation) and lines.finite:
        if len(graph.users(before.name)) > 1 or before.name in context.shortcuts or before.name in graph.outputs:
            return None  # rows of its other readers meet the lines together with these
        around, before = _around(lines, examples), graph[before.inputs[0]]
        if recorded(lines.lower_slope, lines.upper_slope, lines.lower_intercept, lines.upper_intercept):
            return None
    if around is None and choices is None:
        return None  # all elements count
    affine = context.relaxed.get(before.name)
    if not isinstance(affine, Affine) or before.name in context.shortcuts or len(graph.users(before.name)) > 1:
        return None
    found, plane = Filter.of(affine), before.type.shape[1:]
    return None if found is None else Pooled(before.inputs[0], pool.kernel, plane, choices, around, found)


def _around(lines: Relaxation, examples: slice) -> Around:
    low, high = (_of(examples, part).contiguous() for part in (lines.lower_slope, lines.upper_slope))
    base, top = (
        _of(examples, part).contiguous() if any(part.stride()) or nonzero(part) else None  # not zeros without memory
        for part in (lines.lower_intercept, lines.upper_intercept)
    )
    return Around(low, high, base, top)


def _of(examples: slice, part: Tensor) -> Tensor:
    """What some examples have of it; where there is one alone, it is that one."""
    return part if part.shape[0] == 1 else part[examples]

