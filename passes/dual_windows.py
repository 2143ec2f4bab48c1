"""Dual networks of what one neuron of a convolution sees: windows in place of whole planes.

A neuron at position p of a convolution reads, along each spatial axis, the elements `stride p + start` to
`stride p + start + extent - 1` of a value some layers before it. The windows have the same extents for all positions,
so that the part of the graph that they span is cut out once, as a graph in the IR, and has a dual network like any
other; its runtime operands are the windows around each neuron. What lies beyond the edge of a plane has slope, middle
and radius 0 (or is a point 0 at the input), as the padding of a convolution demands.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from irverify.ir.graph import Graph, GraphBuilder, Node
from irverify.ir.ops import Add, BatchNorm, Concat, Conv, Elementwise, Identity, Input, Neg, ScaleShift, Slice, Sub
from irverify.ir.ops.conv import pad_spatial
from irverify.ir.params import value
from irverify.passes.dual_network import DualNetwork, dual_network

ALIKE = (Elementwise, Identity, Add, Sub, Neg, BatchNorm, ScaleShift, Concat)
"""Operators whose windows are those of their operands."""
WORTH = 0.5
"""Windows are taken where they hold at most this share of the elements."""


@dataclass(frozen=True)
class Window:
    """Which elements of a value a neuron sees: for each spatial axis (stride, start, extent)."""

    axes: tuple[tuple[int, int, int], ...]

    def through(self, op: Conv) -> Window:
        """The window of the operand of a convolution."""
        kernel = value(op.weight).shape[2:]
        parts = zip(self.axes, op.stride, op.padding, op.dilation, kernel, strict=True)
        return Window(tuple(
            (stride * step, start * step - before, (extent - 1) * step + dilation * (size - 1) + 1)
            for (stride, start, extent), step, (before, _), dilation, size in parts
        ))  # fmt: skip

    def union(self, other: Window) -> Window | None:
        """The smallest window that contains both; None where they move at different paces."""
        axes = list[tuple[int, int, int]]()
        for (stride, start, extent), (pace, first, length) in zip(self.axes, other.axes, strict=True):
            if stride != pace:
                return None
            low, end = min(start, first), max(start + extent, first + length)
            axes.append((stride, low, end - low))
        return Window(tuple(axes))

    @property
    def extents(self) -> tuple[int, ...]:
        return tuple(extent for _, _, extent in self.axes)

    def of(self, tensor: Tensor, positions: tuple[int, ...]) -> Tensor:
        """The windows of `tensor` `[batch, channels, *spatial]` around all `positions`: a view
        `[batch, *positions, channels, *extents]`, zero beyond the edges."""
        padding = tuple(
            (-start, stride * (count - 1) + start + extent - size)
            for (stride, start, extent), count, size in zip(self.axes, positions, tensor.shape[2:], strict=True)
        )
        windows = pad_spatial(tensor, padding)
        for axis, (stride, _, extent) in enumerate(self.axes, 2):
            windows = windows.unfold(axis, extent, stride)
        places = range(2, 2 + len(positions))
        return windows.permute(0, *places, 1, *range(2 + len(positions), windows.ndim))


@dataclass(frozen=True, eq=False)
class WindowedNetwork:
    """The dual network of one position of a value, and the window of each value of the primal graph that it spans."""

    network: DualNetwork
    windows: Mapping[str, Window]
    positions: tuple[int, ...]

    def operand(self, tensor: Tensor, name: str) -> Tensor:
        """The windows `[batch, *positions, channels, *extents]` of something that belongs to value `name`."""
        return self.windows[name].of(tensor, self.positions)


def windowed_network(primal: Graph, target: str) -> WindowedNetwork | None:
    """The dual network of one position of `target`; None where windows are not known or not worth it."""
    windows = _windows(primal, target)
    if windows is None:
        return None
    sizes = [(primal[name].type, window.extents) for name, window in windows.items() if name != target]
    small = sum(type_.shape[0] * torch.Size(extents).numel() for type_, extents in sizes)
    if small > WORTH * sum(type_.size for type_, _ in sizes):
        return None
    cut = _cut(primal, target, windows)
    return WindowedNetwork(dual_network(cut, target), windows, primal[target].type.shape[1:])


def _windows(primal: Graph, target: str) -> dict[str, Window] | None:
    """The window of every value that `target` depends on; None where one has none."""
    rank = primal[target].type.rank
    found = {target: Window(((1, 0, 1),) * (rank - 1))}
    for node in reversed(primal.nodes):
        window = found.get(node.name)
        if window is None or isinstance(node.op, Input):
            continue
        if not _moves_along(primal, node, rank):
            return None
        before = window.through(node.op) if isinstance(node.op, Conv) else window
        for operand in node.inputs:
            both = before if operand not in found else before.union(found[operand])
            if both is None:
                return None
            found[operand] = both
    return found if rank > 1 else None


def _moves_along(primal: Graph, node: Node, rank: int) -> bool:
    """The layer computes every position from its neighbourhood in the same way, and nothing comes of its padding."""
    op, operands = node.op, [primal[name] for name in node.inputs]
    if not operands or any(operand.type.rank != rank for operand in operands):
        return False
    if isinstance(op, Conv):
        padded = any(before or after for before, after in op.padding)
        return not padded or _silent_outside(primal, operands[0])
    if isinstance(op, ScaleShift):
        return all(set(value(param).shape[-(rank - 1) :]) <= {1} for param in op.parameters().values())
    return isinstance(op, ALIKE) and not (isinstance(op, Concat) and op.axis % rank != 0)


def _silent_outside(primal: Graph, node: Node) -> bool:
    """What is beyond the edges adds nothing to the objective: nu ends there at activations or inputs."""
    if isinstance(node.op, Add | Sub | Neg | Concat | Identity):
        return all(_silent_outside(primal, primal[name]) for name in node.inputs)
    return isinstance(node.op, Elementwise | Input)


def _cut(primal: Graph, target: str, windows: Mapping[str, Window]) -> Graph:
    """The part of the graph that the windows of one position span, its convolutions without padding."""
    builder = GraphBuilder(f"{primal.name} around {target}")
    for node in primal:
        window = windows.get(node.name)
        if window is None:
            continue
        if isinstance(node.op, Input):
            type_ = node.type.with_shape((node.type.shape[0], *window.extents))
            builder.add(node.op.replace(type=type_), name=node.name, source=node.source)
            continue
        op = node.op.replace(padding=((0, 0),) * len(window.axes)) if isinstance(node.op, Conv) else node.op
        needed = window.through(node.op) if isinstance(node.op, Conv) else window
        operands = [_part(primal, builder, name, needed, windows[name]) for name in node.inputs]
        builder.add(op, *operands, name=node.name, source=node.source)
    return builder.graph([target])


def _part(primal: Graph, builder: GraphBuilder, name: str, needed: Window, held: Window) -> str:
    """What one user needs of the window that is held for all of them."""
    if needed == held:
        return name
    starts = [start - first for (_, start, _), (_, first, _) in zip(needed.axes, held.axes, strict=True)]
    stops = [start + extent for start, extent in zip(starts, needed.extents, strict=True)]
    channels = builder.type(name).shape[0]
    label = f"{name}.part"
    while label in primal:  # the names of the primal graph are those of its own values
        label += "$"
    return builder.add(Slice((0, *starts), (channels, *stops), (1,) * (1 + len(starts))), name, name=label)
