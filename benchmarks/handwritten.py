"""Interval bounds of wk17a as one would write them by hand, to see what the compiler costs beside the arithmetic.

Centre and radius through each layer, |W| computed at every call as in training, the last layer elided into the margins.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, linear

import irverify as iv
from benchmarks.cases import Problem
from benchmarks.measure import interleaved
from irverify.backends.torch.leaves import Holder, Leaves
from irverify.backends.torch.program import Box, Program, Variant
from irverify.ir.ops import Conv, Linear
from irverify.ir.params import value
from irverify.passes.ibp import IBP
from irverify.passes.propagate import Interval, propagate
from irverify.pipeline.rows import margin_rows, specified
from irverify.pipeline.spec import spec_operands

NAME = "wk17a"
"""The network that it is written for."""


class Weights:
    """The parameters of wk17a."""

    def __init__(self, problem: Problem) -> None:
        layers = [node.op for node in problem.graph if isinstance(node.op, Conv | Linear)]
        self.pairs = [(value(op.weight), value(op.bias)) for op in layers if op.bias is not None]


def forward(weights: Weights, x: Tensor) -> Tensor:
    """The network itself."""
    (w1, b1), (w2, b2), (w3, b3), (w4, b4) = weights.pairs
    x = conv2d(x, w1, b1, 2, 1).relu()
    x = conv2d(x, w2, b2, 2, 1).relu()
    return linear(linear(x.flatten(1), w3, b3).relu(), w4, b4)


def margins(weights: Weights, lower: Tensor, upper: Tensor, labels: Tensor) -> Tensor:
    """Lower bounds of label minus each class over the box, `[batch, 10]`."""
    (w1, b1), (w2, b2), (w3, b3), (w4, b4) = weights.pairs
    center, radius = (lower + upper) / 2, (upper - lower) / 2
    center, radius = conv2d(center, w1, b1, 2, 1), conv2d(radius, w1.abs(), None, 2, 1)
    lower, upper = (center - radius).relu(), (center + radius).relu()
    center, radius = (lower + upper) / 2, (upper - lower) / 2
    center, radius = conv2d(center, w2, b2, 2, 1), conv2d(radius, w2.abs(), None, 2, 1)
    lower, upper = (center - radius).relu().flatten(1), (center + radius).relu().flatten(1)
    center, radius = (lower + upper) / 2, (upper - lower) / 2
    center, radius = linear(center, w3, b3), linear(radius, w3.abs())
    lower, upper = (center - radius).relu(), (center + radius).relu()
    center, radius = (lower + upper) / 2, (upper - lower) / 2
    rows = w4[labels].unsqueeze(1) - w4
    offset = b4[labels].unsqueeze(1) - b4
    return (rows @ center.unsqueeze(2)).squeeze(2) - (rows.abs() @ radius.unsqueeze(2)).squeeze(2) + offset


COMPARED = ("forward", "by hand", "specialised", "walk", "iv.run", "iv.margins")
"""What is timed: the plain network; the bounds by hand; the program that a bound graph writes
once for the network, and the walk with the rules of ibp, both on prepared inputs; the pass
manager with all that it checks; and margins from labels."""


@torch.no_grad()
def measured(problem: Problem, budget: float, most: int) -> dict[str, float]:
    """Median seconds of what is compared, and of `by hand again`."""
    weights, (lower, upper) = Weights(problem), problem.region.box()
    graph, regions, labels = problem.graph, (problem.region,), problem.labels
    rows = margin_rows(graph, regions, labels)
    extended = specified(graph, rows[0].shape[1])
    operands = dict(zip(spec_operands(extended), rows, strict=True))
    given = {name: Interval(tensor, tensor) for name, tensor in operands.items()}
    given[extended.inputs[0].name] = Interval(lower, upper)
    check(margins(weights, lower, upper, labels), iv.margins(graph, problem.region, labels))
    program, box = specialised(graph, len(rows[0][0])), Box((lower,), (lower,), (upper,))
    check(margins(weights, lower, upper, labels), program(box, labels).margins)
    calls = (
        lambda: forward(weights, lower),
        lambda: margins(weights, lower, upper, labels),
        lambda: program(box, labels),
        lambda: propagate(extended, IBP, given, {}),
        lambda: iv.run(extended, "ibp", regions, operands=operands),
        lambda: iv.margins(graph, regions, labels),
        lambda: margins(weights, lower, upper, labels),
    )
    times = interleaved(dict(zip((*COMPARED, "by hand again"), calls, strict=True)), budget, most)
    return {name: times.median(name) for name in times.seconds}


def specialised(graph: iv.Graph, classes: int) -> Program:
    """The straight-line program of the interval margins alone, see `BoundGraph`."""
    leaves, extended = Leaves(Holder(graph), nn.Module()), specified(graph, classes)
    leaves.cover(extended)
    return Program(extended, leaves, Variant("ibp", frozenset(), clean=False), classes)


def check(found: Tensor, expected: Tensor) -> None:
    """Raises ValueError unless the two agree up to rounding."""
    if not torch.allclose(found, expected, rtol=1e-4, atol=1e-3):
        raise ValueError(f"the bounds written by hand differ by {float((found - expected).abs().max())}")
