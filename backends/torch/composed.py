"""Improved interval arithmetic on a chain of affine layers and ReLUs, for training: the pre-activation bounds of the
pass `improved-interval` (paper 1, app. C.2, eq. 9), in little memory.

Where every value is either composed (an active ReLU) or stands between two constants, a row of eq. 9 and its negative
have the same coefficients, so that bounds are a centre and a radius. Centres are those of one forward pass. For layer k

    radius_k = |W_k| r_k-1 + |W_k A_k-1 W_k-1| r_k-2 + |W_k A_k-1 W_k-1 A_k-2 W_k-2| r_k-3 + ...

where the diagonal A_j, of ones and zeros, selects the active ReLUs of layer j, and r_j is half the width of the values
after the others (of the input: its radius). The products differ between examples by the A_j only. They are formed for a
few rows at once and formed again when gradients are asked for.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from irverify.backends.torch.composed_windows import WindowRows, windowed
from irverify.ir.graph import Graph, Node
from irverify.ir.ops import Conv, Identity, Input, Linear, LinearOp, Relu, Reshape
from irverify.ir.types import TensorType
from irverify.passes.ibp import IBP
from irverify.passes.propagate import Interval, tightened

CHUNK = 2**22
"""How many coefficients over one value are formed at once."""


@dataclass(frozen=True)
class Affine:
    """What stands between two ReLUs: one affine layer, and reshapes. `types` are those of the operands."""

    nodes: tuple[Node, ...]
    types: tuple[TensorType, ...]

    def evaluate(self, x: Tensor) -> Tensor:
        for node in self.nodes:
            x = node.op.evaluate(x)
        return x

    def magnitude(self, x: Tensor) -> Tensor:
        """`|W| x`."""
        for node in self.nodes:
            assert isinstance(node.op, LinearOp)
            x = node.op.apply_abs(x)
        return x

    def interval(self, interval: Interval) -> Interval:
        for node in self.nodes:
            rule = IBP.find(type(node.op))
            assert rule is not None
            interval = rule(node, interval)
        return interval

    def adjoint(self, rows: Tensor) -> Tensor:
        """Rows over the result, `[rows, *shape]`, as rows over the operand."""
        for node, type_ in zip(reversed(self.nodes), reversed(self.types), strict=True):
            assert isinstance(node.op, LinearOp)
            (rows,) = node.op.adjoint(rows, (type_,))
        return rows

    @property
    def convolution(self) -> Conv | None:
        """The only operator, where that is a plain convolution of planes."""
        (op, *more) = [node.op for node in self.nodes]
        plain = isinstance(op, Conv) and len(op.stride) == 2 and set(op.dilation) == {1} and op.groups == 1
        return op if plain and not more and isinstance(op, Conv) else None


def layers(graph: Graph) -> tuple[Affine, ...] | None:
    """The affine layers before each ReLU of a chain; None for any other graph."""
    if not graph.nodes or not isinstance(graph.nodes[0].op, Input):
        return None
    found: list[Affine] = []
    nodes: list[Node] = []
    for before, node in itertools.pairwise(graph.nodes):
        if node.inputs != (before.name,) or not isinstance(node.op, Conv | Linear | Reshape | Identity | Relu):
            return None
        if not isinstance(node.op, Relu):
            nodes.append(node)
            continue
        if sum(isinstance(part.op, Conv | Linear) for part in nodes) != 1:
            return None
        found.append(Affine(tuple(nodes), tuple(graph.operand_types(part)[0] for part in nodes)))
        nodes = []
    return tuple(found)


@dataclass(frozen=True)
class Split:
    """The values after a ReLU, or the inputs: `active` (1 or 0, no gradients; None for inputs, which nothing is
    composed with) of those that are the identity; half the width of the others."""

    active: Tensor | None
    radius: Tensor


def pre_activations(chain: Sequence[Affine], lower: Tensor, upper: Tensor) -> list[Interval]:
    """Bounds of what each ReLU reads, `[batch, *shape]`, over boxes of inputs."""
    center = torch.lerp(lower, upper, 0.5)
    interval, splits, found = Interval(lower, upper), [Split(None, upper - center)], list[Interval]()
    for index, layer in enumerate(chain):
        center = layer.evaluate(center)
        interval = layer.interval(interval)
        if index > 0:
            radius = layer.magnitude(splits[-1].radius)
            below = _Below(chain[: index + 1], tuple(splits))
            if below.active:
                radius = radius + below.radius(interval)
            open_ = (interval.lower < 0) & (interval.upper > 0)
            low = torch.where(open_, center - radius, interval.lower)
            interval = tightened(interval, low, torch.where(open_, center + radius, interval.upper))
        found.append(interval)
        active = interval.lower >= 0
        interval = Interval(interval.lower.relu(), interval.upper.relu())
        middle = torch.lerp(interval.lower, interval.upper, 0.5)
        half = torch.where(active, 0.0, interval.upper - middle)
        center = torch.where(active, center, middle)
        splits.append(Split(active.to(center.dtype), half))
    return found


class _Below:
    """What the last one of some layers adds to its radius through the ReLUs before it."""

    def __init__(self, chain: Sequence[Affine], splits: Sequence[Split]) -> None:
        self.chain = chain
        self.splits = splits
        active = splits[-1].active
        assert active is not None
        self._some = active.flatten(1).any(1)
        self.active = bool(self._some.any())

    def radius(self, interval: Interval) -> Tensor:
        """`[batch, *shape]`; where elements of the interval are not open, anything."""
        planes = [layer.types[0].shape[1:] for layer in self.chain]
        windows = windowed([layer.convolution for layer in self.chain], planes, tuple(interval.lower.shape[2:]))
        return self._rows(interval) if windows is None else self._windows(windows)

    def _windows(self, windows: WindowRows) -> Tensor:
        """All rows of a convolution, some examples at once."""
        step = max(1, CHUNK // windows.size)
        parts = []
        for first in range(0, self._some.shape[0], step):
            some = slice(first, first + step)
            active = [split.active[some] for split in self.splits[1:] if split.active is not None]
            radii = [split.radius[some] for split in self.splits[:-1]]
            parts.append(_again(windows.radius, active, radii))
        return torch.cat(parts)

    def _rows(self, interval: Interval) -> Tensor:
        """Rows of the open elements of examples with an active ReLU, some rows at once."""
        lower, upper = (side.flatten(1) for side in interval)
        wanted = (lower < 0) & (upper > 0) & self._some.unsqueeze(1)
        owner, elements = wanted.nonzero(as_tuple=True)
        widest = max(type_.size for layer in self.chain[:-1] for type_ in layer.types)
        parts = []
        for some, those in zip(*(index.split(max(1, CHUNK // widest)) for index in (owner, elements)), strict=True):
            parts.append(_again(self._radius_of_rows, some, those))
        total = lower.new_zeros(lower.numel())
        if parts:
            total = total.scatter(0, owner * lower.shape[1] + elements, torch.cat(parts))
        return total.reshape(interval.lower.shape)

    def _radius_of_rows(self, owner: Tensor, elements: Tensor) -> Tensor:
        last = self.chain[-1].nodes[-1].type
        unit = torch.nn.functional.one_hot(elements, last.size).to(self.splits[0].radius.dtype)
        rows, total = self.chain[-1].adjoint(unit.reshape(-1, *last.shape)), unit.new_zeros(unit.shape[0])
        for layer, after, before in zip(self.chain[-2::-1], self.splits[:0:-1], self.splits[-2::-1], strict=False):
            assert after.active is not None
            rows = layer.adjoint(rows * after.active.index_select(0, owner))
            radius = before.radius.index_select(0, owner)
            total = total + torch.linalg.vecdot(rows.abs().flatten(1), radius.flatten(1))
        return total


def _again(function: Callable[..., Tensor], *operands: object) -> Tensor:
    """A function whose intermediate values are not kept for gradients."""
    if not torch.is_grad_enabled():
        return function(*operands)
    found: Tensor = checkpoint(function, *operands, use_reentrant=False, preserve_rng_state=False)
    return found
