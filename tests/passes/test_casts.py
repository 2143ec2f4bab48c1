"""Graphs whose values are of several element types, with casts where they meet: every analysis, as on any graph."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from irverify.ir.graph import Graph, GraphBuilder, Node, rewrite
from irverify.ir.ops import Add, Cast, Input, Linear, Operator, Relu, ScaleShift, Sigmoid, Tanh
from irverify.ir.params import value
from irverify.ir.types import TensorType
from irverify.pipeline import margins, run
from irverify.regions import L2, Box, Region
from tests.passes.test_crown import KINDS
from tests.passes.test_dual import KINDS as DUAL_KINDS
from tests.random_graphs import boxes, graphs, points

SINGLE, DOUBLE = torch.float32, torch.float64
ROUNDING = 1e-4
"""What single precision anywhere on the way may make of bounds, relative to their magnitude."""
ALPHA = ("alpha{steps=3}", "alpha{steps=3,intermediate=3}")
BACKWARD = ("crown", "crown-ibp", "forward", "improved-interval", *ALPHA)


def mixed(graph: Graph, types: Sequence[torch.dtype]) -> Graph:
    """The same function with the values of each node, in order, of these element types."""
    places = {node.name: kind for node, kind in zip(graph, types, strict=True)}

    def cast(builder: GraphBuilder, node: Node, inputs: tuple[str, ...]) -> str:
        kind, op = places[node.name], node.op
        if isinstance(op, Input):
            return builder.add(op.replace(type=op.type.with_dtype(kind)), name=node.name)
        floats = {name: value(field) for name, field in op.parameters().items() if value(field).is_floating_point()}
        op = op.replace(**{name: tensor.to(kind) for name, tensor in floats.items()})
        operands = [name if builder.type(name).dtype == kind else builder.add(Cast(kind), name) for name in inputs]
        return builder.add(op, *operands, name=node.name)

    return rewrite(graph, cast)


@st.composite
def mixtures(draw: st.DrawFn, kinds: tuple[object, ...]) -> tuple[Graph, tuple[Region, ...]]:
    graph = draw(graphs(kinds=kinds, max_nodes=7))  # type: ignore[arg-type]
    types = draw(st.lists(st.sampled_from([SINGLE, DOUBLE]), min_size=len(graph), max_size=len(graph)))
    return mixed(graph, types), draw(boxes(graph))


def contained(graph: Graph, regions: tuple[Region, ...], pipeline: str) -> None:
    bounds = run(graph, pipeline, regions).bounds
    for name, entry in bounds.items():
        assert entry.lower.dtype == entry.upper.dtype == graph[name].type.dtype
    for inputs in points(graph, regions):
        cast = {node.name: inputs[node.name].to(node.type.dtype) for node in graph.inputs}
        for name, found in graph.values(cast).items():
            lower, upper, here = (tensor.double() for tensor in (bounds[name].lower, bounds[name].upper, found))
            allowed = ROUNDING * max(1.0, float(torch.stack([lower, upper]).abs().max()))
            assert bool(((lower - allowed <= here) & (here <= upper + allowed)).all()), name


@pytest.mark.parametrize("analysis", BACKWARD)
@settings(max_examples=15)
@given(drawn=mixtures(KINDS))
def test_sampled_values_lie_inside(analysis: str, drawn: tuple[Graph, tuple[Region, ...]]) -> None:
    contained(*drawn, analysis)


@settings(max_examples=15)
@given(drawn=mixtures(DUAL_KINDS))
def test_sampled_values_lie_inside_dual_bounds(drawn: tuple[Graph, tuple[Region, ...]]) -> None:
    contained(*drawn, "dual")


@pytest.mark.parametrize("analysis", ALPHA)
@settings(max_examples=15)
@given(drawn=mixtures(KINDS))
def test_alpha_is_never_looser_than_crown(analysis: str, drawn: tuple[Graph, tuple[Region, ...]]) -> None:
    tight, loose = run(drawn[0], analysis, drawn[1]).bounds, run(drawn[0], "crown", drawn[1]).bounds
    for name, entry in tight.items():
        allowed = ROUNDING * max(1.0, float(entry.lower.abs().max()), float(entry.upper.abs().max()))
        assert bool((entry.lower >= loose[name].lower - allowed).all())
        assert bool((entry.upper <= loose[name].upper + allowed).all())


def layered(*activations: Operator) -> Graph:
    """A network whose layers take turns in both element types, from double precision on."""
    generator = torch.Generator().manual_seed(3)
    builder = GraphBuilder()
    name, width = builder.input(TensorType((3,), DOUBLE)), 3
    for place, activation in enumerate((*activations, None)):
        kind = DOUBLE if place % 2 else SINGLE
        weight, bias = (torch.randn(size, generator=generator, dtype=kind) for size in ((4, width), (4,)))
        name, width = builder.add(Linear(weight, bias), builder.add(Cast(kind), name)), 4
        name = name if activation is None else builder.add(activation, name)
    return builder.graph([name])


@pytest.mark.parametrize("ball", [Box, L2])
@pytest.mark.parametrize("method", BACKWARD)
@pytest.mark.parametrize("activations", [(Relu(), Relu()), (Tanh(), Sigmoid(), Relu())], ids=["relu", "curved"])
def test_margins(activations: tuple[Operator, ...], method: str, ball: type[Box | L2]) -> None:
    graph = layered(*activations)
    center = torch.randn(2, 3, generator=torch.Generator().manual_seed(4), dtype=DOUBLE)
    region = Box(center - 0.3, center + 0.3) if ball is Box else L2(center, 0.3)
    found = margins(graph, region, [0, 3], method)
    assert found.dtype == graph[graph.outputs[0]].type.dtype
    for inputs in points(graph, (region,)):
        logits = graph.evaluate(inputs[graph.inputs[0].name])
        assert isinstance(logits, torch.Tensor)
        assert bool((found <= logits.gather(1, torch.tensor([[0], [3]])) - logits + ROUNDING).all())


@pytest.mark.parametrize("pipeline", ["alpha", "alpha{intermediate=20}"])
@pytest.mark.parametrize("types", [(SINGLE, DOUBLE), (DOUBLE, SINGLE)], ids=["wider", "narrower"])
def test_the_best_slope_of_one_neuron(pipeline: str, types: tuple[torch.dtype, torch.dtype]) -> None:
    """relu(x) - 0.3 x >= 0, with slope 0.3 below the ReLU; slopes 0 and 1 leave -0.3 and -0.7."""
    first, second = types
    builder = GraphBuilder()
    x = builder.input(TensorType((1,), first))
    activated = builder.add(Cast(second), builder.add(Relu(), builder.add(ScaleShift(torch.ones(1, dtype=first)), x)))
    scaled = builder.add(ScaleShift(torch.full((1,), -0.3, dtype=second)), builder.add(Cast(second), x))
    graph = builder.graph([builder.add(Add(), activated, scaled, name="y")])
    bounds = run(graph, pipeline, Box(-torch.ones(1), torch.ones(1))).bounds["y"]
    assert -0.01 < bounds.lower.item() <= 1e-6


def test_what_single_precision_rounds_is_no_contradiction() -> None:
    """A wide sum in single precision, read in double: two analyses that add in another order agree."""
    builder = GraphBuilder()
    x = builder.input(TensorType((1,), SINGLE))
    h = builder.add(Linear(torch.full((300, 1), 0.1)), x)
    y = builder.add(Linear(torch.full((1, 300), 0.1)), h)
    graph = builder.graph([builder.add(Cast(DOUBLE), y, name="y")])
    point = Box(torch.ones(1), torch.ones(1))
    given = torch.tensor([[3.0]], dtype=DOUBLE)
    bounds = run(graph, "ibp", point, bounds={"y": (given - 1e-6, given - 1e-6)}).bounds["y"]
    assert bounds.lower.item() == pytest.approx(3.0, abs=1e-5)
