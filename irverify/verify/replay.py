"""Replay: whether a candidate really is a counterexample, on the source model itself and with zero tolerance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from irverify.attacks import Candidate
from irverify.autocast import without_autocast
from irverify.ir.graph import Graph, Node
from irverify.ir.ops import Input
from irverify.properties import Property
from irverify.verify.verdict import Counterexample


@dataclass(frozen=True)
class Replay:
    """Replays candidates of one problem.

    `graph` is the graph as it was compiled: its origin is the source model (the graph itself where it has none).
    `located` turns the tensors that the model is run on, `[1, *shape]`, into the exact flattened point of the region
    that they stand for, or None where they lie outside; it decides membership, with zero tolerance.
    """

    graph: Graph
    prop: Property
    located: Callable[[Candidate], tuple[Fraction, ...] | None]

    def __call__(self, candidate: Candidate) -> Counterexample | None:
        """The counterexample that `candidate` is, or None where it lies outside the region or does not violate."""
        point = self.located(candidate)
        if point is None:
            return None
        given = tuple(_source_layout(part, node) for part, node in zip(candidate, self.graph.inputs, strict=True))
        outputs, place = self._run(given)
        flat = torch.cat([output.detach().to("cpu", torch.float64).flatten() for output in outputs])
        if not bool(torch.isfinite(flat).all()) or not self.prop.violated(point, flat):
            return None
        return Counterexample(tuple(map(_array, given)), tuple(map(_array, outputs)), point, place)

    @without_autocast()
    def _run(self, given: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], str]:
        """The outputs of the source model, and what it is."""
        if self.graph.origin is not None:
            return self.graph.origin.run(*given), self.graph.origin.description
        with torch.no_grad():
            outputs = self.graph.evaluate(*given)
        return outputs if isinstance(outputs, tuple) else (outputs,), "the compiled graph (it has no source model)"


def _source_layout(point: Tensor, node: Node) -> Tensor:
    """`[1, *shape]` in the source model's layout: without the leading axis where the model has no batch axis."""
    return point[0] if isinstance(node.op, Input) and node.op.batch_axis is None else point


def _array(tensor: Tensor) -> NDArray[np.float64]:
    return np.asarray(tensor.detach().to("cpu", torch.float64).numpy())
