"""The comparison after an import: what it lets pass, what it reports, and where."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import pytest
import torch
from torch import Tensor

from irverify.errors import ImportMismatch, UnsupportedError
from irverify.frontends.differential import compare, random_inputs
from irverify.ir.graph import Graph, GraphBuilder
from irverify.ir.ops import Linear, Relu, ScaleShift
from irverify.ir.types import TensorType


def network(factor: float = 1.0, batch_axis: int | None = 0, scale: float = 1.0) -> Graph:
    """relu(factor W x) * scale with W of two rows."""
    builder = GraphBuilder("net")
    x = builder.input(TensorType((3,)), batch_axis=batch_axis)
    hidden = builder.add(Linear(factor * torch.tensor([[1.0, 2.0, 3.0], [0.5, -1.0, 0.25]])), x, name="hidden")
    active = builder.add(Relu(), hidden, name="active")
    return builder.graph([builder.add(ScaleShift(torch.tensor(scale)), active, name="y")])


def source(graph: Graph) -> Callable[..., tuple[Tensor, ...]]:
    """The graph as a source model."""

    def run(*inputs: Tensor) -> tuple[Tensor, ...]:
        outputs = graph.evaluate(*inputs)
        return outputs if isinstance(outputs, tuple) else (outputs,)

    return run


@pytest.mark.parametrize("batch_axis", [0, None])
def test_the_same_function_passes(batch_axis: int | None) -> None:
    graph = network(batch_axis=batch_axis)
    compare(graph, source(graph))


def test_inputs_differ_in_kind_and_are_the_same_every_time() -> None:
    (batch,) = random_inputs(network())
    assert batch[0].shape == (3, 3)
    singles = random_inputs(network(batch_axis=None))
    assert [single[0].shape for single in singles] == [(3,)] * 3
    assert (singles[2][0] >= 0).all()
    assert torch.equal(random_inputs(network())[0][0], batch[0])


@pytest.mark.parametrize("factor", [1.001, 0.0, float("nan")])
@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e6])
def test_differences_are_seen_at_any_magnitude(factor: float, scale: float) -> None:
    graph, other = network(scale=scale), network(factor, scale=scale)
    with pytest.raises(ImportMismatch, match=r"first at %y = scale_shift: a deviation"):
        compare(graph, source(other))


def test_rounding_passes() -> None:
    """Cancellation: the outputs are tiny beside what they are made of, and so is what rounding changes."""
    builder = GraphBuilder()
    x = builder.input(TensorType((3,)))
    shifted = builder.add(ScaleShift(shift=torch.tensor(1e4)), x)
    graph = builder.graph([builder.add(ScaleShift(shift=torch.tensor(-1e4)), shifted)])
    compare(graph, lambda inputs: (inputs,))
    with pytest.raises(ImportMismatch):
        compare(graph, lambda inputs: (inputs + 1.0,))


def test_shapes_and_numbers_of_outputs() -> None:
    graph = network()
    with pytest.raises(ImportMismatch, match=r"shape \[3, 1\] in the source model, \[3, 2\] in the graph"):
        compare(graph, lambda inputs: (inputs[:, :1],))
    with pytest.raises(ImportMismatch, match="expected 2 outputs, got 1"):
        compare(graph, lambda inputs: (inputs, inputs))


def test_the_first_difference_is_named() -> None:
    graph, other = network(), network(2.0)

    def trace(inputs: Sequence[Tensor]) -> Iterator[tuple[str, Tensor]]:
        values = other.values({"x": inputs[0]})
        yield from ((name, values[name]) for name in ("x", "hidden", "active", "y"))

    def no_trace(inputs: Sequence[Tensor]) -> Iterator[tuple[str, Tensor]]:
        yield "x", inputs[0]
        raise UnsupportedError("no more values")

    with pytest.raises(ImportMismatch, match="first at %hidden = linear"):
        compare(graph, source(other), trace)
    with pytest.raises(ImportMismatch, match="first at %y = scale_shift"):
        compare(graph, source(other), no_trace)
