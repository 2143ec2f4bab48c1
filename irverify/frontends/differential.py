"""Whether an imported graph computes what its source model computes: both run on random inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from irverify.errors import ImportMismatch, IRVerifyError
from irverify.ir.graph import Graph, convert

Model = Callable[..., tuple[Tensor, ...]]
"""The source model: inputs in its own layout -> outputs."""
Trace = Callable[[Sequence[Tensor]], Iterable[tuple[str, Tensor]]]
"""Inputs -> the source model's values in the order of computation, each with its name in the graph."""

RELATIVE = {torch.float64: 1e-10, torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 5e-2}
"""Deviation that passes at once, relative to the greatest magnitude of the value."""
ROUNDING_FACTOR = 100.0
"""Otherwise a deviation may be this many times what the graph itself loses by computing in its own element type."""


def random_inputs(graph: Graph, examples: int = 3, seed: int = 0) -> list[tuple[Tensor, ...]]:
    """Samples in the source model's layout: normal, uniform in [-1, 1), and uniform in [0, 1), from a fixed seed.

    With a batch axis they are one batch, else one sample each.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = []
    for node in graph.inputs:
        normal = torch.randn((examples, *node.type.shape), generator=generator, dtype=torch.float64)
        uniform = torch.rand((examples, *node.type.shape), generator=generator, dtype=torch.float64)
        kinds = (normal, 2 * uniform - 1, uniform)
        drawn.append([kinds[number % 3][number].to(node.type.dtype) for number in range(examples)])
    if graph.has_batch_axis:
        return [tuple(torch.stack(tensors) for tensors in drawn)]
    return [tuple(tensors[number] for tensors in drawn) for number in range(examples)]


@torch.no_grad()
def compare(graph: Graph, model: Model, trace: Trace | None = None) -> None:
    """Raises ImportMismatch where graph and source model differ by more than rounding explains.

    With `trace` the message names the first value that differs. Agreement on samples is evidence, not a proof.
    """
    for inputs in random_inputs(graph):
        expected = model(*inputs)
        outputs = graph.evaluate(*inputs)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        if len(expected) != len(outputs):
            raise ImportMismatch(f"expected {len(expected)} outputs, got {len(outputs)}", where=graph.name)
        different = [
            (name, reason)
            for name, ours, theirs in zip(graph.outputs, outputs, expected, strict=True)
            if (reason := _difference(graph, inputs, name, ours, theirs)) is not None
        ]
        if different:
            name, reason = (None if trace is None else _first(graph, inputs, trace)) or different[0]
            raise ImportMismatch(
                f"the imported graph computes something else than the source model; first at {graph[name]}: {reason}",
                where=graph.name,
                hint="this is a fault of the import; please report it with the model",
            )


def _first(graph: Graph, inputs: Sequence[Tensor], trace: Trace) -> tuple[str, str] | None:
    """The first value that differs, and how; None where the source model cannot give its values."""
    values = _values(graph, inputs)
    try:
        for name, theirs in trace(inputs):
            if name in values and (reason := _difference(graph, inputs, name, values[name], theirs)) is not None:
                return name, reason
    except IRVerifyError:
        return None
    return None


def _values(graph: Graph, inputs: Sequence[Tensor]) -> dict[str, Tensor]:
    """All values in the source model's layout."""
    values = graph.values(graph.batched(inputs))
    return values if graph.has_batch_axis else {name: tensor[0] for name, tensor in values.items()}


def _difference(graph: Graph, inputs: Sequence[Tensor], name: str, ours: Tensor, theirs: Tensor) -> str | None:
    """How two tensors for one value differ beyond rounding, in words; None where they agree."""
    if ours.shape != theirs.shape:
        return f"shape {list(theirs.shape)} in the source model, {list(ours.shape)} in the graph"
    relative = RELATIVE.get(ours.dtype, 0.0)
    ours, theirs = ours.double(), theirs.double()
    distance = _distance(ours, theirs)
    if distance <= relative * _magnitude(theirs):
        return None
    allowed = max(relative * _magnitude(theirs), ROUNDING_FACTOR * _rounding(graph, inputs, name, ours))
    if distance <= allowed:
        return None
    return f"a deviation of {distance:.3g} where {allowed:.3g} is allowed"


def _rounding(graph: Graph, inputs: Sequence[Tensor], name: str, ours: Tensor) -> float:
    """How far the value lies from the same value computed in float64 throughout; 0 where that says nothing."""
    exact = _values(convert(graph, torch.float64), [tensor.double() for tensor in inputs])[name]
    distance = _distance(ours, exact.double())
    return distance if distance < torch.inf else 0.0


def _distance(first: Tensor, second: Tensor) -> float:
    """The greatest distance of two elements; NaN at the same places and equal infinities agree, others are far."""
    apart = (first - second).abs()
    apart = torch.where((first == second) | (first.isnan() & second.isnan()), 0.0, apart)
    return float(torch.where(apart.isnan(), torch.inf, apart).max()) if apart.numel() else 0.0


def _magnitude(tensor: Tensor) -> float:
    finite = tensor[tensor.isfinite()].abs()
    return float(finite.max()) if finite.numel() else 0.0
