"""SingleProp: an estimate of linear bounds from one forward pass beside that of the clean input (paper 3, sec. 3.1).

For each value z with nominal value z_nom (at the centre of the region) half the gap between the bounds of a linear
verifier, `v = (z_U - z_L) / 2`, is propagated forward on the assumption that z_nom is their average:

    v' = |W| [ (a_U + a_L)/2 v + (b_U - b_L)/2 + (a_U - a_L)/2 z_nom ]                          (paper 3, eq. 6)

with the lines `a_L z + b_L <= op(z) <= a_U z + b_U` on `[z_nom - v, z_nom + v]`. For a ReLU the bracket is v or 0 where
it is stable; elsewhere `3/4 v + 1/2 z_nom - z_nom^2 / (4 v)` with parallel lines (eq. 7: singleprop-fastlin), or
`(z_nom + v) / 2` with lower slope 0 (eq. 8: singleprop-zero). Convolutions, residual and dense connections go by
`|W| v` of the affine map as a whole. Affine maps of the input of an l2 or l1 ball take the dual norm of their rows
(eq. 3, "other p can be derived similarly"). All of it is differentiable.

`[z_nom - v, z_nom + v]` is an estimate. It proves nothing: the assumption holds nowhere exactly, and the true bounds
of the same verifier may be wider.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, TypeAlias

import torch
from torch import Tensor

from irverify.ir.graph import Graph, Node
from irverify.ir.ops import (
    Abs,
    BatchNorm,
    Cast,
    Clip,
    ConstMatMul,
    Conv,
    ConvTranspose,
    Identity,
    Input,
    LeakyRelu,
    Linear,
    LinearOp,
    Neg,
    Operator,
    Pad,
    Relu,
    Reshape,
    ScaleShift,
    Sigmoid,
    Slice,
    Spec,
    Tanh,
    Transpose,
)
from irverify.ir.params import value
from irverify.ir.types import TensorType
from irverify.passes.half_relu import half_relu
from irverify.passes.interval import product, spec_rows
from irverify.passes.propagate import Interval
from irverify.passes.relaxations import RELAXATIONS, Choice, Relaxation
from irverify.passes.rules import RuleTable
from irverify.pipeline.base import Estimator
from irverify.pipeline.facts import Estimate, Facts
from irverify.pipeline.state import State
from irverify.regions import L1, L2, Region
from irverify.regions.base import rowwise

CHUNK = 2**22
"""How many numbers the rows of an affine map may have at once, where its norms need them."""

class Half(NamedTuple):
    """A value while v is propagated: z_nom and v, both `[batch, *shape]`.

    `order` is set while the elements are coordinates of one ball, each at most once and scaled: the order of the dual
    norm, 2 or infinity. Else each element moves on its own.
    """

    nominal: Tensor
    gap: Tensor
    order: float | None = None

    @property
    def interval(self) -> Interval:
        return Interval(self.nominal - self.gap, self.nominal + self.gap)


@dataclass(frozen=True)
class _SingleProp(Estimator):
    """What the two estimators share; they differ in the lower line of an unstable ReLU."""

    choice: ClassVar[Choice]

    def run(self, state: State) -> Facts:
        found = self.halves(state)
        computed = (node.name for node in state.graph if not isinstance(node.op, Input))
        return Facts(estimates={name: Estimate(*found[name].interval, self.name) for name in computed})

    def halves(self, state: State) -> dict[str, Half]:
        """z_nom and v of every value."""
        return halves(state.graph, state.given_regions(self.name), state.operands, self.choice)


@dataclass(frozen=True)
class SinglePropZero(_SingleProp):
    """Estimate in one forward pass of linear bounds with lower slope 0 (paper 3, eq. 8); no certificate."""

    name = "singleprop-zero"
    choice = "zero"


@dataclass(frozen=True)
class SinglePropFastLin(_SingleProp):
    """Estimate in one forward pass of linear bounds with parallel lines (paper 3, eq. 7); no certificate."""

    name = "singleprop-fastlin"
    choice = "same"


def half_of(region: Region) -> Half:
    """z_nom and v of an input: centre and radius of a box; the centre of a ball and its eps in every coordinate (a
    ball is not clipped, which v could not express)."""
    if isinstance(region, L2 | L1):
        eps = torch.as_tensor(region.eps).to(region.center)
        return Half(region.center, eps.expand_as(region.center), region.dual)
    lower, upper = region.box()
    return Half((lower + upper) / 2, (upper - lower) / 2)


def halves(
    graph: Graph, regions: Sequence[Region], operands: Mapping[str, Tensor], choice: Choice, *, keep: bool = True
) -> dict[str, Half]:
    """z_nom and v of every value, by one walk: over a region for each input, with the runtime operands by name.

    Without `keep` only those of the outputs are left: memory that is free again at once is still in a cache.
    """
    batch = regions[0].batch
    found = {node.name: half_of(region) for node, region in zip(graph.inputs, regions, strict=True)}
    moving = set(found)
    last = {} if keep else {name: node.name for node in graph for name in node.inputs if name not in graph.outputs}
    for node, rule in SINGLEPROP.resolve(graph):
        if isinstance(node.op, Input):
            continue
        if rule is not None and not moving.isdisjoint(node.inputs):
            moving.add(node.name)
            found[node.name] = rule(node, [found[name] for name in node.inputs], choice)
        else:
            found[node.name] = Half(known := _fixed(node, found, operands, batch), torch.zeros_like(known))
        for name in set(node.inputs):
            if last.get(name) == node.name:
                del found[name]
    return found


def _fixed(node: Node, found: Mapping[str, Half], operands: Mapping[str, Tensor], batch: int) -> Tensor:
    """A value that does not move: a constant, a runtime operand, or what is made of such."""
    if node.inputs:
        return node.op.evaluate(*(found[name].nominal for name in node.inputs))
    return operands[node.name] if node.name in operands else node.op.evaluate().expand(batch, *node.type.shape)


HalfRule: TypeAlias = Callable[[Node, Sequence[Half], Choice], Half]
"""`rule(node, operands, choice)`: z_nom and v of the result."""
SINGLEPROP: RuleTable[HalfRule] = RuleTable("singleprop")
SINGLEPROP.refuse("paper 3 estimates elementwise activations and affine maps only; crown bounds more", Operator)


@SINGLEPROP.rule(Relu)
def _relu(node: Node, operands: Sequence[Half], choice: Choice) -> Half:
    """Paper 3, eq. 7 and 8, all three cases at once; see `half_relu`."""
    center, gap, _ = operands[0]
    return Half(*half_relu(center, gap.expand_as(center), choice))


@SINGLEPROP.rule(LeakyRelu, Clip, Abs, Sigmoid, Tanh)
def _lines(node: Node, operands: Sequence[Half], choice: Choice) -> Half:
    """Any activation between two lines (paper 3, eq. 6)."""
    rule = RELAXATIONS.find(type(node.op))
    assert rule is not None
    (operand,) = operands
    lines = rule(node, [operand.interval], choice)
    assert isinstance(lines, Relaxation)
    mean, apart = (lines.upper_slope + lines.lower_slope) / 2, (lines.upper_slope - lines.lower_slope) / 2
    offset = (lines.upper_intercept - lines.lower_intercept) / 2
    return Half(node.op.evaluate(operand.nominal), mean * operand.gap + offset + apart * operand.nominal)


@SINGLEPROP.rule(Identity, Cast, Neg, ScaleShift, BatchNorm, Reshape, Transpose, Slice, Pad)
def _each_once(node: Node, operands: Sequence[Half], choice: Choice) -> Half:
    """Every element of the result comes from one element of the operand, and no two from the same."""
    assert isinstance(node.op, LinearOp)
    center, gap, order = operands[0]
    return Half(node.op.evaluate(center), node.op.apply_abs(gap), order)


@SINGLEPROP.rule(LinearOp)
def _affine(node: Node, operands: Sequence[Half], choice: Choice) -> Half:
    op = node.op
    assert isinstance(op, LinearOp)
    center = op.evaluate(*(operand.nominal for operand in operands))
    if all(operand.order is None for operand in operands):
        return Half(center, op.apply_abs(*(operand.gap for operand in operands)))
    if isinstance(op, Linear | ConstMatMul | Conv | ConvTranspose) and operands[0].order == 2:
        squared = op.replace(weight=value(op.weight) ** 2)
        return Half(center, _root(squared.apply(operands[0].gap ** 2)))
    return Half(center, _row_norms(node, op, operands))


def _row_norms(node: Node, op: LinearOp, operands: Sequence[Half]) -> Tensor:
    """The norms of the rows of any affine map, each row weighted by the gaps: rows come from the adjoint, in chunks."""
    types = tuple(TensorType(tuple(operand.gap.shape[1:]), operand.gap.dtype) for operand in operands)
    gap = operands[0].gap
    size, widest = node.type.size, max(type_.size for type_ in types)
    parts = []
    step = max(1, CHUNK // max(1, widest * len(gap)))
    for start in range(0, size, step):
        some = torch.arange(start, min(start + step, size), device=gap.device)
        unit = torch.nn.functional.one_hot(some, size).to(gap.dtype).reshape(len(some), *node.type.shape)
        norm = gap.new_zeros(len(gap), len(some))
        for rows, operand in zip(op.adjoint(unit, types), operands, strict=True):
            norm = norm + _norms(rowwise(rows).unsqueeze(0), operand)
        parts.append(norm)
    return torch.cat(parts, dim=1).reshape(len(gap), *node.type.shape)


def _norms(matrix: Tensor, operand: Half) -> Tensor:
    """How far `matrix . z` moves, for matrix `[batch or 1, rows, n]`: `[batch, rows]`."""
    gap = rowwise(operand.gap)
    if operand.order is None:
        return product(matrix.abs(), gap)
    if operand.order == 2:
        return _root(product(matrix**2, gap**2))
    assert operand.order == math.inf
    return (matrix.abs() * gap.unsqueeze(1)).amax(2)


def _root(square: Tensor) -> Tensor:
    """The square root, with slope 0 at 0."""
    positive = square > 0
    return torch.where(positive, torch.where(positive, square, torch.ones_like(square)).sqrt(), square)


@SINGLEPROP.rule(Spec)
def _spec(node: Node, operands: Sequence[Half], choice: Choice) -> Half:
    rows, offset = (_known(operand) for operand in operands[1:])
    gap = _norms(spec_rows(node, rows, offset)[0], operands[0])
    return Half(node.op.evaluate(*(operand.nominal for operand in operands)), gap)


def _known(operand: Half) -> Interval:
    """The operand as an interval, one tensor twice where it does not move."""
    return operand.interval if bool(operand.gap.any()) else Interval(operand.nominal, operand.nominal)


class ApproximationError(NamedTuple):
    """The two metrics of paper 3, sec. 4.1, `[batch]` each."""

    absolute: Tensor
    """Metric 1: the sum over layers i and neurons j of `|z_nom - (z_U + z_L) / 2|`."""
    relative: Tensor
    """Metric 2: the same with each term divided by `z_U - z_L` (0 where both are 0)."""


def approximation_error(state: State) -> ApproximationError:
    """How far the assumption of eq. 6 is off: the value at the centre against the middle of the bounds that a state
    has, at what elementwise activations read and at the outputs (paper 3, sec. 4.1, "SingleProp Approximation Error").

    Run a linear verifier first: `approximation_error(iv.run(graph, "crown-zero", region))`. What it left to intervals,
    since they settle it, counts with its interval.
    """
    graph = state.graph
    centers = [half_of(region).nominal for region in state.given_regions("approximation-error")]
    inputs = {node.name: center for node, center in zip(graph.inputs, centers, strict=True)}
    nominal = graph.values(inputs | dict(state.operands))
    layers = {name for node in graph if not isinstance(node.op, LinearOp | Spec) for name in node.inputs}
    chosen = [node.name for node in graph if node.name in layers | set(graph.outputs)]
    absolute, relative = centers[0].new_zeros(state.batch), centers[0].new_zeros(state.batch)
    for name in chosen:
        bounds = state.bounds_of(name)
        distance = rowwise(nominal[name] - (bounds.lower + bounds.upper) / 2).abs()
        width = rowwise(bounds.width)
        absolute = absolute + distance.sum(1)
        relative = relative + (distance / torch.where(width > 0, width, torch.inf)).sum(1)
    return ApproximationError(absolute, relative)
