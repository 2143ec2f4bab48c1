"""The examples of a run as networks, regions and bounds of their own, which is what programs are made from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from irverify.backends.milp.model import Floats
from irverify.ir.graph import Graph, GraphBuilder, Node, convert, rewrite
from irverify.ir.ops import Constant, Linear, Operand, Spec
from irverify.pipeline.facts import Bounds
from irverify.pipeline.state import State
from irverify.regions import Region
from irverify.rounding import round_down, round_up

UNITS_OF_FLOAT32 = 2**7
"""By how many units in the last place of its largest magnitude a value's float32 bounds are widened before programs
rest on them: the typical error of a sum of 10,000 terms."""

Pair = tuple[Floats, Floats]


@dataclass(frozen=True, eq=False)
class Example:
    """One example: a float64 network without operands, the region of each input, and the bounds that are known."""

    graph: Graph
    regions: tuple[Region, ...]
    known: dict[str, Pair]


def examples(state: State, regions: Sequence[Region]) -> Iterator[Example]:
    """The examples of a state, in order."""
    graph = convert(state.graph, torch.float64, "cpu")
    for number in range(state.batch):
        known = {name: _pair(bounds, number) for name, bounds in state.bounds.items() if name in graph}
        yield Example(_fixed(graph, state, number), tuple(region.select(number) for region in regions), known)


def joined(state: State, found: Sequence[Mapping[str, Pair]], source: str) -> dict[str, Bounds]:
    """Bounds of the values of `state.graph` from those of every example, rounded outward to the type of the value."""
    result = {}
    for name in found[0] if found else ():
        if name in state.graph and state.graph[name].type.dtype.is_floating_point:
            dtype = state.graph[name].type.dtype
            lower, upper = (torch.from_numpy(np.stack([pairs[name][side] for pairs in found])) for side in (0, 1))
            device = state.regions[0].device if state.regions else None
            result[name] = Bounds(round_down(lower, dtype).to(device), round_up(upper, dtype).to(device), source)
    return result


def _fixed(graph: Graph, state: State, number: int) -> Graph:
    """The network with the operands of one example as constants, and a specification over them as an affine layer."""
    values = {name: tensor[number].detach().to("cpu", torch.float64) for name, tensor in state.operands.items()}

    def rule(builder: GraphBuilder, node: Node, inputs: tuple[str, ...]) -> str:
        op = node.op
        if isinstance(op, Operand):
            return builder.add(Constant(values[node.name]), name=node.name, source=node.source)
        if isinstance(op, Spec) and all(name in values for name in node.inputs[1:]):
            matrix, offset = op.affine(*(values[name][None] for name in node.inputs[1:]))
            return builder.add(Linear(matrix[0], offset[0]), inputs[0], name=node.name, source=node.source)
        return builder.add(op, *inputs, name=node.name, source=node.source)

    return rewrite(graph, rule) if values else graph


def _pair(bounds: Bounds, number: int) -> Pair:
    lower, upper = (side[number].detach().cpu() for side in (bounds.lower, bounds.upper))
    slack = 0.0
    if lower.dtype != torch.float64:
        ends = torch.cat([lower.flatten(), upper.flatten()]).double().abs()
        magnitude = float(ends[ends.isfinite()].max()) if bool(ends.isfinite().any()) else 0.0
        slack = magnitude * UNITS_OF_FLOAT32 * torch.finfo(torch.float32).eps
    return lower.double().numpy() - slack, upper.double().numpy() + slack
