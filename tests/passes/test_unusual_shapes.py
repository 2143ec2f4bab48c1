"""Unusual but legal graphs: no axes, one feature, no neurons, no activation, outputs that are inputs or constants."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import irverify as iv
from irverify.backends.torch import BoundGraph, losses, regularizers
from irverify.errors import UnsupportedError, UsageError
from irverify.ir.graph import Graph, GraphBuilder
from irverify.ir.ops import Constant, Linear, ReduceSum, Relu, ScaleShift, Sub
from irverify.ir.types import TensorType
from irverify.pipeline import margins, run
from irverify.regions import Box
from tests.random_graphs import points

METHODS = ("interval", "improved-interval", "ibp", "crown", "crown-ibp", "fast-lin", "dual", "alpha", "forward")


def weight(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


def made(name: str) -> Graph:
    builder = GraphBuilder(name)
    shapes: dict[str, tuple[int, ...]] = {"no axes": (), "one feature": (1,), "no inputs": (0,)}
    x = builder.input(TensorType(shapes.get(name, (3,)), torch.float64))
    if name == "no axes":
        outputs = [builder.add(Relu(), builder.add(ScaleShift(weight(), weight()), x))]
    elif name == "one feature":
        hidden = builder.add(Relu(), builder.add(Linear(weight(1, 1), weight(1)), x))
        outputs = [builder.add(Linear(weight(1, 1)), hidden)]
    elif name == "no axes in the end":
        outputs = [builder.add(ReduceSum((0,), False), builder.add(Relu(), builder.add(Linear(weight(4, 3)), x)))]
    elif name == "no neurons":
        hidden = builder.add(Relu(), builder.add(Linear(weight(0, 3), weight(0)), x))
        outputs = [builder.add(Linear(weight(2, 0), weight(2)), hidden)]
    elif name == "no inputs":
        outputs = [builder.add(Linear(weight(2, 0), weight(2)), x)]
    elif name == "no outputs":
        outputs = [builder.add(Linear(weight(0, 3), weight(0)), builder.add(Relu(), x))]
    elif name == "its input":
        outputs = [x]
    elif name == "a constant":
        outputs = [builder.add(Constant(weight(3)))]
    elif name == "nothing left":
        outputs = [builder.add(Relu(), builder.add(Sub(), x, x))]
    else:
        hidden = builder.add(Relu(), builder.add(Linear(weight(4, 3)), x))
        outputs = [builder.add(Linear(weight(2, 4)), hidden), hidden, hidden]
    return builder.graph(outputs)


EMPTY = ("no neurons", "no inputs", "no outputs")
NAMES = (
    "no axes", "one feature", "no axes in the end", *EMPTY, "its input", "a constant", "nothing left", "several",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_bounds(name: str) -> None:
    graph = made(name)
    center = weight(2, *graph.inputs[0].type.shape)
    region = Box(center - 0.3, center + 0.3)
    for method in METHODS:
        bounds = run(graph, method, region).bounds
        for inputs in points(graph, (region,), count=3):
            for node, found in graph.values(inputs).items():
                assert bounds[node].lower.shape == found.shape
                assert bool(((bounds[node].lower - 1e-9 <= found) & (found <= bounds[node].upper + 1e-9)).all())


@pytest.mark.parametrize("name", [name for name in NAMES if name != "no outputs"])
def test_margins(name: str) -> None:
    graph = made(name)
    center = weight(2, *graph.inputs[0].type.shape)
    region = Box(center - 0.3, center + 0.3)
    for method in METHODS:
        found = margins(graph, region, 0, method)
        for inputs in points(graph, (region,), count=3):
            values = graph.values(inputs)
            logits = torch.cat([values[output].reshape(2, -1) for output in graph.outputs], dim=1)
            assert bool((found <= logits[:, :1] - logits + 1e-9).all())


@pytest.mark.parametrize("method", ["ibp", "crown", "crown-ibp", "forward"])
@pytest.mark.parametrize("batch", [1, 2])
def test_specifications_of_no_outputs(method: str, batch: int) -> None:
    """Only their constants are left."""
    graph, center, constants = made("no outputs"), weight(batch, 3), weight(batch, 2)
    state = run(graph, method, Box(center - 0.3, center + 0.3), spec=(weight(batch, 2, 0), constants))
    found = state.bounds[state.graph.outputs[0]]
    assert torch.equal(found.lower, constants) and torch.equal(found.upper, constants)


def test_a_layer_without_neurons_by_hand() -> None:
    """What is left is the offset of the last layer."""
    graph = made("no neurons")
    bounds = run(graph, "alpha", Box(torch.zeros(1, 3), torch.ones(1, 3))).bounds[graph.outputs[0]]
    assert torch.equal(bounds.lower[0], weight(2)) and torch.equal(bounds.upper[0], weight(2))


@pytest.mark.parametrize("name", EMPTY)
def test_bound_graphs_refuse_values_without_elements(name: str) -> None:
    with pytest.raises(UnsupportedError, match="needs elements"):
        BoundGraph(made(name))


def test_inputs_without_elements() -> None:
    with pytest.raises(UsageError, match=r"inputs with elements, got \[2, 0\]"):
        losses.singleprop(made("no inputs"), torch.zeros(2, 0), torch.tensor([0, 1]), 0.1)


@pytest.mark.parametrize("name", ["no axes", "no axes in the end"])
def test_losses_of_one_output_without_axes(name: str) -> None:
    graph = made(name)
    x, y = weight(2, *graph.inputs[0].type.shape), torch.tensor([0, 0])
    for loss in (losses.ibp, losses.crown_ibp, losses.dual, losses.singleprop):
        assert bool(torch.isfinite(loss(graph, x, y, 0.1)))
    assert bool(torch.isfinite(torch.stack(tuple(regularizers.tightness(graph, x, y, 0.1)))).all())
    assert iv.coefficients(graph, Box(x, x), y, "crown").constant.shape == (2, 1)
