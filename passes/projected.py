"""Random columns passed forward through the transpose of a dual network (paper 5, alg. 1).

For rows c over a value z the dual network gives `nu_i = -G_i^T c` at an earlier value z_i, where G_i is the linear map
from z_i to z in which every activation is its slope D. Passing a matrix R forward, `G_i R`, gives `-nu_i^T R` for all
elements of z at once, at the price of one evaluation for each column of R.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from irverify.ir.first_order import first_order
from irverify.ir.graph import Graph, Node
from irverify.ir.ops import Elementwise, Linear, LinearOp, Reshape, Spec
from irverify.ir.ops.memory import flat_with, is_last, stored_as
from irverify.ir.params import value
from irverify.kernels import columns as compiled
from irverify.passes.interval import product


@dataclass(frozen=True)
class Columns:
    """Projected columns at one value: `tensor` `[batch, sources * k, *shape]`, k columns for each source (an input or
    an activation) in the order of `sources`."""

    sources: tuple[str, ...]
    tensor: Tensor

    def of(self, source: str) -> Tensor:
        """The columns of one source, `[batch, k, *shape]`."""
        each = self.tensor.shape[1] // len(self.sources)
        start = self.sources.index(source) * each
        return self.tensor[:, start : start + each]

    def within(self, sources: tuple[str, ...]) -> Tensor:
        """The tensor with zeros for the `sources` that this value has none from."""
        if sources == self.sources:
            return self.tensor
        zeros = torch.zeros_like(self.tensor[:, :1])
        each = self.tensor.shape[1] // len(self.sources)
        return torch.cat(
            [self.of(source) if source in self.sources else zeros.repeat_interleave(each, 1) for source in sources], 1
        )

    def bent(self, slope: Tensor, own: Own | None) -> Columns:
        """`diag(slope)` times these columns, and what an activation has of its own added to what there are of its
        source; slope `[batch, *shape]`."""
        if own is None:
            return Columns(self.sources, self.tensor * slope.unsqueeze(1))
        if self.sources == (own.source,):
            found: Tensor = _Bent.apply(self.tensor, slope, own.radius, own.drawn)  # type: ignore[no-untyped-call]
            return Columns(self.sources, found)
        passed = Columns(self.sources, self.tensor * slope.unsqueeze(1))
        more = own.radius.unsqueeze(1) * own.drawn
        if own.source in self.sources:
            kept = [passed.of(other) + more if other == own.source else passed.of(other) for other in self.sources]
            return Columns(self.sources, torch.cat(kept, 1))
        return Columns((*self.sources, own.source), torch.cat([passed.tensor, more], 1))


@dataclass(frozen=True)
class Own:
    """What an activation adds, `diag(radius) drawn` from its source; radius `[batch, *shape]`, drawn `[1, k,
    *shape]`."""

    source: str
    radius: Tensor
    drawn: Tensor


class _Bent(torch.autograd.Function):
    """`diag(slope) columns + diag(radius) drawn`, its gradient computed example by example on a CPU: then what it is
    made of stays in a cache. Columns are the largest tensors of a step. First derivatives only, and none in `drawn`."""

    @staticmethod
    def forward(ctx: Any, columns: Tensor, slope: Tensor, radius: Tensor, drawn: Tensor) -> Tensor:
        ctx.save_for_backward(columns, slope, radius, drawn)
        found = compiled.columns(columns, slope, radius, drawn)
        return (columns * slope.unsqueeze(1)).addcmul_(radius.unsqueeze(1), drawn) if found is None else found

    @staticmethod
    @first_order
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        columns, slope, _, drawn = ctx.saved_tensors
        gradient = stored_as(columns, gradient)
        found = compiled.columns_back(columns, slope, drawn, gradient)
        if found is not None:
            return *found, None
        drawn = drawn.expand(1, *columns.shape[1:])
        of_columns, like = torch.empty_like(columns), columns[:, 0]
        of_slope, of_radius = torch.empty_like(like), torch.empty_like(like)
        step = 1 if gradient.device.type == "cpu" else len(gradient)
        product = torch.empty_like(columns[:step])
        for start in range(0, len(gradient), step):
            some = slice(start, start + step)
            torch.mul(gradient[some], columns[some], out=product)
            torch.sum(product, 1, out=of_slope[some])
            torch.mul(gradient[some], drawn, out=product)
            torch.sum(product, 1, out=of_radius[some])
            torch.mul(gradient[some], slope[some].unsqueeze(1), out=of_columns[some])
        return of_columns, of_slope, of_radius, None


@dataclass
class Passing:
    """Columns on their way through a graph, node by node.

    `operands` are the runtime operands of dual networks. `found` holds the columns of values that are yet to be read.
    """

    graph: Graph
    operands: Mapping[str, Tensor]
    found: dict[str, Columns] = field(default_factory=dict)
    _unread: dict[str, int] = field(default_factory=dict)

    def start(self, name: str, columns: Columns) -> None:
        """Sets the columns of a value that nothing has been passed to yet."""
        self.found[name] = columns
        self._unread[name] = len(self.graph.users(name))

    def step(self, node: Node, own: Own | None = None) -> Columns | None:
        """Passes the columns of its operands through a node, an activation with what it has of its own; None where it
        depends on no source."""
        parts = [self.found.get(name) for name in node.inputs]
        present = [part for part in parts if part is not None]
        columns = None
        if present and self._waits(node, present[0].tensor):
            self.start(node.name, present[0])
        elif present:
            columns = self._through(node, own, parts, tuple(dict.fromkeys(s for part in present for s in part.sources)))
            self.start(node.name, columns)
        for name, part in zip(node.inputs, parts, strict=True):
            if part is not None:
                self._read(name)
        return columns

    def _waits(self, node: Node, columns: Tensor) -> bool:
        """Whether only linear layers read what is flattened here: they read it as it is stored, with the channels
        last, rather than a copy in order."""
        readers = [self.graph[name].op for name in self.graph.users(node.name)]
        inner = isinstance(node.op, Reshape) and node.type.rank == 1 and node.name not in self.graph.outputs
        planes = columns.ndim == 5 and is_last(columns.flatten(0, 1))
        return inner and planes and all(isinstance(op, Linear) for op in readers)

    def _read(self, name: str) -> None:
        self._unread[name] -= 1
        if self._unread[name] == 0:
            del self.found[name]

    def _through(
        self, node: Node, own: Own | None, parts: Sequence[Columns | None], sources: tuple[str, ...]
    ) -> Columns:
        if isinstance(node.op, Elementwise):
            (only,) = parts
            assert only is not None
            return only.bent(self.operands[f"{node.name}.slope"], own)
        if isinstance(node.op, Spec):
            first = parts[0]
            assert first is not None
            matrix = self.operands[f"{node.name}.rows"]
            return Columns(sources, product(matrix.unsqueeze(1), first.tensor))
        assert isinstance(node.op, LinearOp)
        like = next(part.tensor for part in parts if part is not None)
        batch, count = like.shape[0], len(sources) * _columns_each(parts)
        if isinstance(node.op, Linear) and node.type.rank == 1 and like.ndim == 5:
            found = functional.linear(*flat_with(like.flatten(0, 1), value(node.op.weight)))
            return Columns(sources, found.reshape(batch, count, *node.type.shape))
        flat = [
            like.new_zeros(batch * count, *self.graph[name].type.shape)
            if part is None
            else part.within(sources).reshape(batch * count, *self.graph[name].type.shape)
            for name, part in zip(node.inputs, parts, strict=True)
        ]
        return Columns(sources, node.op.apply(*flat).reshape(batch, count, *node.type.shape))


def _columns_each(parts: Sequence[Columns | None]) -> int:
    """How many columns each source has."""
    return next(part.tensor.shape[1] // len(part.sources) for part in parts if part is not None)
