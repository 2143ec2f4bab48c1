"""A graph specialised once for one way to bound it: a program, which is plain torch code without any tensor of its
own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from irverify.backends.torch import steps
from irverify.backends.torch.emission import Emission
from irverify.backends.torch.leaves import Leaves
from irverify.backends.torch.row_emission import write_backward_margins, write_interval_margins, write_logits
from irverify.ir.graph import Graph
from irverify.ir.ops import Input, LinearOp, Operand, Spec, Step, Trunc
from irverify.passes.ibp import IBP
from irverify.passes.relaxations import RELAXATIONS

Pairs = Mapping[str, tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Variant:
    """What a program computes: with which bounds, which batch normalisations take the statistics of the batch, and
    whether the clean logits are wanted."""

    method: str
    trained: frozenset[str]
    clean: bool


class Box(NamedTuple):
    """A batch of regions: the clean inputs and the box around each, `[batch, *shape]`, for each network input."""

    clean: tuple[Tensor, ...]
    lower: tuple[Tensor, ...]
    upper: tuple[Tensor, ...]


class Found(NamedTuple):
    """Bounds and logits, see `Bounded`; `statistics` are mean and biased variance of the clean batch, by the name of
    the batch normalisation."""

    logits: Tensor | None
    margins: Tensor
    interval: Tensor | None
    backward: Tensor | None
    bounds: Pairs
    statistics: Pairs


def specialisable(graph: Graph, method: str) -> bool:
    """Whether there is a program of this kind. Intervals around a jump need more care than one walk."""
    return method in ("ibp", "crown-ibp") and not any(isinstance(node.op, Step | Trunc) for node in graph)


class Program:
    """A graph with a specification as its only output, written out for one variant."""

    def __init__(self, graph: Graph, leaves: Leaves, variant: Variant, classes: int) -> None:
        IBP.resolve(graph)
        if variant.method == "crown-ibp":
            RELAXATIONS.resolve(graph)
        emission = Emission(graph, trained=variant.trained)
        emission.write_values()
        emission.write_spans()
        spec = graph[graph.outputs[0]]
        logits = write_logits(emission, spec) if variant.clean else None
        interval = write_interval_margins(emission, spec)
        rows = variant.method == "crown-ibp"
        backward = write_backward_margins(emission, spec, classes, interval) if rows else None
        self._bounded = read_by_nonlinear(graph)
        self._normalised = tuple(emission.statistics)
        ends = tuple(emission.ends(name) for name in self._bounded)
        margins = interval if backward is None else emission.call(steps.larger, backward, interval)
        found = tuple(emission.statistics.values())
        self.code = emission.code.finished(logits, margins, interval, backward, ends, found)
        self._readers = [leaves.reader(parameter) for parameter in emission.parameters]

    def __call__(self, box: Box, labels: Tensor) -> Found:
        parameters = tuple(read() for read in self._readers)
        results = self.code.forward(parameters, *box.clean, *box.lower, *box.upper, labels)
        logits, margins, interval, backward, ends, statistics = results
        bounds = dict(zip(self._bounded, ends, strict=True))
        found = dict(zip(self._normalised, statistics, strict=True))
        return Found(logits, margins, interval, backward, bounds, found)


def read_by_nonlinear(graph: Graph) -> tuple[str, ...]:
    """The values that nonlinear operators read, but inputs: the pre-activations."""
    linear: tuple[type, ...] = (LinearOp, Spec, Input, Operand)
    read = {name for node in graph if not isinstance(node.op, linear) for name in node.inputs}
    return tuple(node.name for node in graph if node.name in read and not isinstance(node.op, Input))
