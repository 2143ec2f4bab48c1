"""SingleProp through a chain of affine layers and ReLUs as one function, with its gradient written out.

What a step of a small network spends beside convolutions and products goes to moving values through memory. Here ReLUs
are computed in the memory of their operands, and their gradients in that of the gradients that came, and the gradients
of W and |W| are summed at once. The numbers are those of `HalfProgram`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Any, NamedTuple, Protocol, TypeAlias

import torch
from torch import Tensor
from torch.autograd import Function

from irverify.backends.torch.half_layers import Convolution, Layer, Product
from irverify.ir.first_order import first_order
from irverify.ir.graph import Graph, Node
from irverify.ir.ops import Conv, Linear, Relu, Reshape, ScaleShift
from irverify.ir.ops.moves import Moves
from irverify.ir.params import Param, value
from irverify.passes.half_relu import Curve, curve
from irverify.passes.lines import Choice
from irverify.passes.singleprop import Half

Pair: TypeAlias = tuple[Tensor, Tensor]
"""z_nom and v of a value, or the gradients in both."""
Slots: TypeAlias = list[Tensor | None]
"""The gradient in each parameter, as far as it is known."""


class Step(Protocol):
    """A step of a chain, in place where the memory of what it reads is free."""

    def ahead(self, pair: Pair, parameters: Sequence[Tensor]) -> tuple[Pair, tuple[Tensor, ...]]:
        """The result, and what `back` needs."""

    def back(self, pair: Pair, kept: Sequence[Tensor], wanted: Sequence[bool], found: Slots) -> Pair | None:
        """The gradients in the operand from those in the result, None at the first layer. Those in the parameters that
        are wanted go to `found`."""


@dataclass(frozen=True)
class Affine:
    """`W z_nom + b` and `|W| v`, with the places of weight and bias among the parameters. There are no gradients in the
    operand of the `first` one."""

    layer: Layer
    weight: int
    bias: int | None
    first: bool

    def ahead(self, pair: Pair, parameters: Sequence[Tensor]) -> tuple[Pair, tuple[Tensor, ...]]:
        center, gap = map(self.layer.operand, pair)
        signed = self.layer.kernel(parameters[self.weight])
        absolute = signed.abs()
        bias = None if self.bias is None else parameters[self.bias]
        result = self.layer.ahead(center, signed, bias), self.layer.ahead(gap, absolute, None)
        return result, (center, gap, signed, absolute)

    def back(self, pair: Pair, kept: Sequence[Tensor], wanted: Sequence[bool], found: Slots) -> Pair | None:
        center, gap, signed, absolute = kept
        inner, weight, bias = not self.first, wanted[self.weight], self.bias is not None and wanted[self.bias]
        of_center, of_signed, of_bias = self.layer.back(pair[0], center, signed, [inner, weight, bias])
        of_gap, of_absolute, _ = self.layer.back(pair[1], gap, absolute, [inner, weight, False])
        if of_signed is not None and of_absolute is not None:
            found[self.weight] = self.layer.weight(of_signed.addcmul_(of_absolute, signed.sgn()))
        if self.bias is not None:
            found[self.bias] = of_bias
        return None if of_center is None or of_gap is None else (of_center, of_gap)


@dataclass(frozen=True)
class Bend:
    """A ReLU: whether the memory of its operand is free, and that of the gradients in its result."""

    curve: Curve
    free_ahead: bool
    free_back: bool

    def ahead(self, pair: Pair, parameters: Sequence[Tensor]) -> tuple[Pair, tuple[Tensor, ...]]:
        kept = self.curve.ahead(*pair, self.free_ahead)
        return (kept[0], kept[1]), kept

    def back(self, pair: Pair, kept: Sequence[Tensor], wanted: Sequence[bool], found: Slots) -> Pair | None:
        return self.curve.back(kept, *pair, self.free_back)


class _Chain(Function):
    """The steps one after the other. First derivatives only, in the parameters."""

    @staticmethod
    def forward(ctx: Any, steps: Sequence[Step], center: Tensor, gap: Tensor, *parameters: Tensor) -> Pair:
        pair, kept = (center, gap), []
        for step in steps:
            pair, needed = step.ahead(pair, parameters)
            kept.append(needed)
        ctx.save_for_backward(*chain.from_iterable(kept))
        ctx.steps = [(step, len(needed)) for step, needed in zip(steps, kept, strict=True)]
        return pair

    @staticmethod
    @first_order
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        saved, wanted = list(ctx.saved_tensors), ctx.needs_input_grad[3:]
        found: Slots = [None] * len(wanted)
        pair: Pair | None = gradients[0], gradients[1]
        for step, count in reversed(ctx.steps):
            if pair is not None:
                pair = step.back(pair, saved[-count:], wanted, found)
            del saved[-count:]
        return None, None, None, *found


class Link(NamedTuple):
    """A layer or a ReLU, and the shape of what it reads; a layer reads it flattened."""

    op: Linear | Conv | Relu
    shape: tuple[int, ...]


class HalfChain:
    """z_nom and v of the output of a graph in which every value is read once, by the next node."""

    def __init__(self, scales: Sequence[ScaleShift], links: Sequence[Link], choice: Choice) -> None:
        """`scales` are what the input goes through before."""
        self._scales = scales
        self._parameters: list[Param] = []
        self._steps: list[Step] = []
        for index, link in enumerate(links):
            if isinstance(link.op, Relu):
                fresh = index > 0 and not isinstance(links[index - 1].op, Relu)
                self._steps.append(Bend(curve(choice), fresh, link is not links[-1]))
            else:
                self._steps.append(self._affine(link.op, link.shape))

    def __call__(self, lower: Tensor, upper: Tensor) -> Half | None:
        """z_nom and v over a box `[batch, *shape]`; None where that takes a graph of operations: without gradients, for
        those in the box, under autocast and for a compiler."""
        kind = lower.device.type
        if not torch.is_grad_enabled() or torch.is_autocast_enabled(kind) or torch.compiler.is_compiling():
            return None
        center, gap = (lower + upper).mul_(0.5), (upper - lower).mul_(0.5)
        for op in self._scales:
            center, gap = op.evaluate(center), op.apply_abs(gap)
        if center.requires_grad or gap.requires_grad:
            return None
        return Half(*_Chain.apply(self._steps, center, gap, *map(value, self._parameters)))  # type: ignore[no-untyped-call]

    def _affine(self, op: Linear | Conv, shape: tuple[int, ...]) -> Affine:
        first = not self._parameters
        self._parameters += [op.weight] if op.bias is None else [op.weight, op.bias]
        place = len(self._parameters) - 1
        layer = Convolution(op) if isinstance(op, Conv) else Product(shape)
        return Affine(layer, place, None, first) if op.bias is None else Affine(layer, place - 1, place, first)


def half_chain(graph: Graph, choice: Choice) -> HalfChain | None:
    """The chain of a graph; None for a graph that is none, or has no ReLU."""
    if len(graph.inputs) != 1 or graph.outputs != (graph.nodes[-1].name,):
        return None
    if any(node.inputs != (before.name,) for before, node in pairwise(graph)):
        return None
    scales = [node.op for node in graph if isinstance(node.op, ScaleShift)]
    if any(isinstance(node.op, ScaleShift) != (index < len(scales)) for index, node in enumerate(graph.nodes[1:])):
        return None
    links = _links(graph.nodes[1 + len(scales) :], graph.nodes[0].type.shape)
    if links is None or not any(isinstance(link.op, Relu) for link in links):
        return None
    return HalfChain(scales, links, choice)


def _links(nodes: Sequence[Node], shape: tuple[int, ...]) -> list[Link] | None:
    """The links of nodes each of which reads the one before, the first a value of this shape."""
    links, flattened = [], False
    for node in nodes:
        op = node.op
        if isinstance(op, Linear):
            fits = node.type.rank == 1
        elif isinstance(op, Conv):
            fits = not flattened and Moves.of(value(op.weight).shape[2:], op.stride, op.padding, op.dilation).plain
        else:
            fits = not flattened and (isinstance(op, Relu) or (isinstance(op, Reshape) and node.type.rank == 1))
        if not fits:
            return None
        flattened = isinstance(op, Reshape)
        if isinstance(op, Linear | Conv | Relu):
            links.append(Link(op, shape))
            shape = node.type.shape
    return None if flattened else links
