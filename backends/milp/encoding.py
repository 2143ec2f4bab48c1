"""A graph over an input set as variables and rows, node by node."""

from __future__ import annotations

import math
from collections.abc import Mapping
from copy import copy
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse

from irverify.backends.milp.encodings import Encoder, TwoPieces, contenders
from irverify.backends.milp.expressions import EPSILON, Affine, activity, composed, concatenated, gathered, single
from irverify.backends.milp.linear import MOVES, matrices, offset, sources, window_entries
from irverify.backends.milp.model import Floats, Indices, ModelBuilder, Terms
from irverify.errors import UnsupportedError, UsageError
from irverify.ir.graph import Graph, Node, convert
from irverify.ir.ops import (
    Abs,
    Clip,
    Constant,
    Elementwise,
    Input,
    LeakyRelu,
    LinearOp,
    Maximum,
    MaxPool,
    Minimum,
    Operator,
    Relu,
)
from irverify.ir.params import value
from irverify.regions import L1, L2, Region, regions_for
from irverify.regions.balls import Ball

Pair: TypeAlias = tuple[Floats, Floats]
Bounds: TypeAlias = Mapping[str, tuple[Any, Any]]
"""Value name -> (lower, upper), arrays or tensors of the value's shape: what analyses found out for this one
example."""
ENCODED = (Input, Constant, LinearOp, Relu, LeakyRelu, Abs, Clip, MaxPool, Maximum, Minimum)
"""The operators (and families) with an exact encoding."""
CROSSING = 1e-9
"""How far bounds of one value may cross, relative to their size, before they count as contradictory and not as
rounded."""


class Encoding:
    """The rows of a graph so far, in topological order: `values` holds each encoded value in terms of the variables.

    `relaxed` leaves integrality out (see `Encoder`). Bounds are those given, intersected with what
    intervals over the variables say.
    """

    def __init__(self, graph: Graph, region: Any, bounds: Bounds | None = None, *, relaxed: bool = False) -> None:
        self.graph = convert(graph, torch.float64, "cpu")
        self.needed = _ancestors(self.graph)
        _check_supported(self.graph, self.needed)
        self.builder = ModelBuilder()
        self.values: dict[str, Affine] = {}
        self._encoder = Encoder(self.builder, relaxed)
        self._known = {name: _flat_bounds(self.graph, name, pair) for name, pair in (bounds or {}).items()}
        inputs = self.graph.inputs
        self.regions = regions_for(region, [node.name for node in inputs], [node.type.shape for node in inputs])
        for node, part in zip(inputs, self.regions, strict=True):
            self._input(node, part)

    def branch(self) -> Encoding:
        """A copy that goes on from here on its own."""
        other = copy(self)
        other.builder, other.values = self.builder.copy(), dict(self.values)
        other._encoder = Encoder(other.builder, self._encoder.relaxed)
        return other

    def pending(self) -> list[Node]:
        """The nodes that outputs need and that are not encoded yet, in order."""
        return [node for node in self.graph if node.name in self.needed and node.name not in self.values]

    def add(self, node: Node) -> None:
        """Encodes a node whose operands are encoded."""
        operands = [self.values[operand] for operand in node.inputs]
        op = node.op
        if isinstance(op, Constant):
            self.values[node.name] = Affine.constant(np.array(value(op.tensor).detach().double().reshape(-1).numpy()))
        elif isinstance(op, LinearOp):
            self.values[node.name] = self._linear(node, op, operands)
        elif isinstance(op, MaxPool | Maximum | Minimum):
            self.values[node.name] = self._maximum(node)
        else:
            self.values[node.name] = self._elementwise(node, operands[0])

    def bounds(self, name: str) -> tuple[Floats, Floats]:
        """Lower and upper bounds of an encoded value, flat; UnsupportedError where one is not finite."""
        lower, upper = self.values[name].bounds(*self.builder.bounds())
        lower, upper = self._intersected(name, lower, upper)
        finite = np.isfinite(lower) & np.isfinite(upper)
        if not bool(finite.all()):
            node, at = self.graph[name], int(np.argmin(finite))
            raise UnsupportedError(
                f"expected finite bounds for an exact encoding, got [{lower[at]}, {upper[at]}] at element {at}",
                where=str(node),
                hint="bound the inputs, or give tighter bounds of this value",
            )
        return lower, upper

    def unstable(self, node: Node) -> tuple[Affine, Floats]:
        """The operand elements of a nonlinear node whose bounds leave open which piece is meant, and for each the knot
        that settles it once it is out of the bounds; NaN where there are several."""
        op = node.op
        if isinstance(op, MaxPool | Maximum | Minimum):
            groups, index, _ = self._candidates(node)
            kept, rivals = contenders(groups, *self._candidate_bounds(node))
            places = np.unique(index[kept[rivals]])
            return concatenated([self.values[operand] for operand in node.inputs])[places], np.full(len(places), np.nan)
        lower, upper = self.bounds(node.inputs[0])
        knots = np.full(len(lower), np.nan)
        crossed = np.zeros(len(lower), dtype=np.int64)
        for knot in (op.lower, op.upper) if isinstance(op, Clip) else (_two_pieces(op).knot,):
            crosses = (lower < knot) & (knot < upper)
            knots, crossed = np.where(crosses, knot, knots), crossed + crosses
        places = np.flatnonzero(crossed)
        return self.values[node.inputs[0]][places], np.where(crossed == 1, knots, np.nan)[places]

    def _intersected(self, name: str, lower: Floats, upper: Floats) -> tuple[Floats, Floats]:
        return _merged(self._known[name], (lower, upper), name) if name in self._known else (lower, upper)

    def _input(self, node: Node, region: Region) -> None:
        if region.batch != 1:
            hint = "select one: region.select(0)"
            raise UsageError(f"expected a region of one example, got {region.batch}", where=str(node), hint=hint)
        lower, upper = (side.reshape(-1).cpu().numpy() for side in region.to(dtype=torch.float64, device="cpu").box())
        x = self.builder.variables(node.name, *self._intersected(node.name, lower, upper))
        self.values[node.name] = Affine.of_variables(x)
        if isinstance(region, L1 | L2):
            self._ball(node.name, region, x)

    def _ball(self, name: str, region: Ball, x: Indices) -> None:
        """`x = centre + p - n` with `sum(p + n) <= radius`: the l1 ball exactly; the l2 ball inside its box and inside
        the l1 ball of radius sqrt(n) eps, which contain it: a point found may lie outside the l2 ball."""
        center = region.x.double().reshape(-1).cpu().numpy()
        eps = float(torch.as_tensor(region.eps, dtype=torch.float64).max())
        radius = eps if isinstance(region, L1) else eps * float(np.sqrt(len(x))) * (1 + 4 * EPSILON)
        reach = np.full(len(x), eps)
        parts = [
            self.builder.variables(f"{name}.plus", 0.0, reach, value=lambda point: np.maximum(point[x] - center, 0.0)),
            self.builder.variables(f"{name}.minus", 0.0, reach, value=lambda point: np.maximum(center - point[x], 0.0)),
        ]
        terms = [Terms(x), Terms(parts[0], -1.0), Terms(parts[1])]
        self.builder.rows(f"{name}.split", terms, center, center)
        ones = sparse.csr_array(np.ones((1, len(x))))
        self.builder.rows(f"{name}.ball", [Terms(part, ones) for part in parts], -np.inf, [radius])

    def _linear(self, node: Node, op: LinearOp, operands: list[Affine]) -> Affine:
        types = self.graph.operand_types(node)
        if isinstance(op, MOVES):
            source = sources(op, types)
            return concatenated(operands)[np.maximum(source, 0)].where(
                source >= 0, Affine.constant(np.zeros(len(source)))
            )
        parts = list(zip(matrices(op, types, node.type), operands, strict=True))
        constant = offset(op, node.type)
        for matrix, x in parts:
            constant = constant + (matrix @ x.shift if isinstance(matrix, sparse.sparray) else matrix * x.shift)
        terms = [composed(matrix, x) for matrix, x in parts]
        carried = single(terms, constant)
        return carried if carried is not None else self.sums(node.name, terms, constant, self._known.get(node.name))

    def sums(self, name: str, terms: list[Terms], constant: Floats, known: Pair | None = None) -> Affine:
        """New variables `name` for `sum of terms + constant`; `known` bounds of them are intersected with intervals."""
        matrix, columns = gathered(terms, len(constant))
        lower, upper = self.builder.bounds()
        box = activity(matrix, constant, lower[columns], upper[columns])
        box = box if known is None else _merged(known, box, name)
        z = self.builder.variables(name, *box, value=lambda x: matrix @ x[columns] + constant)
        self.builder.rows(f"{name}.eq", [Terms(columns, matrix), Terms(z, -1.0)], -constant, -constant, owner=z)
        return Affine.of_variables(z)

    def _elementwise(self, node: Node, x: Affine) -> Affine:
        lower, upper = self.bounds(node.inputs[0])
        op = node.op
        if isinstance(op, Clip):
            return self._clip(node.name, op, x, lower, upper)
        return self._encoder.two_pieces(node.name, _two_pieces(op), x, lower, upper)

    def _clip(self, name: str, op: Clip, x: Affine, lower: Floats, upper: Floats) -> Affine:
        """`max(min(x, upper limit), lower limit)`."""
        if op.upper < np.inf:
            function = TwoPieces(1.0, 0.0, op.upper, op.upper)
            x = self._encoder.two_pieces(f"{name}.min" if op.lower > -np.inf else name, function, x, lower, upper)
            lower, upper = function(lower), function(upper)
        if op.lower > -np.inf:
            x = self._encoder.two_pieces(name, TwoPieces(0.0, 1.0, op.lower, op.lower), x, lower, upper)
        return x

    def _maximum(self, node: Node) -> Affine:
        groups, index, sign = self._candidates(node)
        candidates = concatenated([self.values[operand] for operand in node.inputs])[index].mapped(sign)
        return self._encoder.maximum(node.name, groups, candidates, *self._candidate_bounds(node)).mapped(sign)

    def _candidates(self, node: Node) -> tuple[Indices, Indices, float]:
        """What each element of a maximum is taken over: sorted element numbers, places in the concatenated operands,
        and the sign that makes it a maximum."""
        if isinstance(node.op, MaxPool):
            operand = self.graph[node.inputs[0]].type
            place, _, position = window_entries(node.op.windows, operand.shape[1:], node.type.shape[1:])
            order = np.argsort(place, kind="stable")
            channels = np.arange(operand.shape[0])[:, None]
            groups = (channels * math.prod(node.type.shape[1:]) + place[order]).reshape(-1)
            return groups, (channels * math.prod(operand.shape[1:]) + position[order]).reshape(-1), 1.0
        size = node.type.size
        pairs = np.arange(2 * size).reshape(2, size).T.reshape(-1)  # the two candidates of each element side by side
        return np.repeat(np.arange(size), 2), pairs, 1.0 if isinstance(node.op, Maximum) else -1.0

    def _candidate_bounds(self, node: Node) -> tuple[Floats, Floats]:
        _, index, sign = self._candidates(node)
        boxes = [self.bounds(operand) for operand in node.inputs]
        lower, upper = (np.concatenate([box[side] for box in boxes])[index] for side in (0, 1))
        return (lower, upper) if sign > 0 else (-upper, -lower)


def nonlinear(node: Node) -> bool:
    return not isinstance(node.op, LinearOp | Input | Constant)


def _two_pieces(op: Operator) -> TwoPieces:
    pieces = op.pieces() if isinstance(op, Elementwise) else None
    assert pieces is not None
    (knot,) = pieces.breakpoints
    at_knot = float(op.evaluate(torch.tensor([knot], dtype=torch.float64)))
    left, right = pieces.slopes
    return TwoPieces(left, right, knot, at_knot)


def _check_supported(graph: Graph, needed: set[str]) -> None:
    offenders = [str(node) for node in graph if node.name in needed and not isinstance(node.op, ENCODED)]
    if offenders:
        raise UnsupportedError(
            "no exact mixed-integer encoding for these nodes", items=offenders, hint="use bound analyses instead"
        )


def _ancestors(graph: Graph) -> set[str]:
    needed = set(graph.outputs)
    for node in reversed(graph.nodes):
        if node.name in needed:
            needed.update(node.inputs)
    return needed | {node.name for node in graph.inputs}


def _flat_bounds(graph: Graph, name: str, pair: tuple[Any, Any]) -> tuple[Floats, Floats]:
    lower, upper = (_array(side) for side in pair)
    shape = graph[name].type.shape
    if lower.size != graph[name].type.size or upper.size != lower.size:
        raise UsageError(f"expected bounds of shape {shape} of one example, got {lower.shape}", where=f"%{name}")
    return lower.reshape(-1), upper.reshape(-1)


def _array(side: Any) -> npt.NDArray[np.float64]:
    return np.asarray(side.detach().cpu().numpy() if isinstance(side, torch.Tensor) else side, dtype=np.float64)


def _merged(first: tuple[Floats, Floats], second: tuple[Floats, Floats], name: str) -> tuple[Floats, Floats]:
    """The intersection of two pairs of bounds; NaN in the first one says nothing."""
    lower = np.where(first[0] > second[0], first[0], second[0])
    upper = np.where(first[1] < second[1], first[1], second[1])
    size = 1 + np.minimum(np.abs(lower), np.abs(upper))
    apart = ~(lower <= upper + CROSSING * size)
    if bool(apart.any()):
        at = int(np.argmax(apart))
        raise UsageError(
            f"the bounds of element {at} contradict each other: lower {lower[at]!r}, upper {upper[at]!r}",
            where=f"%{name}",
        )
    return np.minimum(lower, upper), np.maximum(lower, upper)
