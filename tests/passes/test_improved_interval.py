"""Improved interval arithmetic: the paper's example and recurrence, containment, nesting in intervals, gradients."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from irverify.ir.graph import Graph, GraphBuilder
from irverify.ir.ops import (
    Add,
    AveragePool,
    Cast,
    Clip,
    Constant,
    Conv,
    Linear,
    Maximum,
    MaxPool,
    Mul,
    Relu,
    Reshape,
    Sigmoid,
)
from irverify.ir.types import TensorType
from irverify.pipeline import run
from irverify.regions import L1, L2, Box, Region
from tests.passes.test_soundness import assert_contains, check, slack
from tests.random_graphs import AFFINE, EVERYTHING, MONOTONE, boxes, graphs, points

DOUBLE = torch.float64


def chain(*layers: tuple[Tensor, Tensor]) -> Graph:
    """Affine layers `z W + b` (W `[in, out]`, as in the paper) with ReLUs between them; %z1, %z2, ... before them."""
    builder = GraphBuilder()
    name = builder.input(TensorType((layers[0][0].shape[0],), DOUBLE))
    for index, (weight, bias) in enumerate(layers, start=1):
        name = builder.add(Linear(weight.T.contiguous(), bias), name, name=f"z{index}")
        if index < len(layers):
            name = builder.add(Relu(), name)
    return builder.graph([name])


def row(*entries: float) -> Tensor:
    return torch.tensor(entries, dtype=DOUBLE)


def unit_box(*, low: float = 0.0, size: int = 1) -> Box:
    return Box(torch.full((1, size), low, dtype=DOUBLE), torch.ones(1, size, dtype=DOUBLE))


def test_the_example_of_the_paper() -> None:
    """Paper 1, app. C.2: z0 in [0, 1], z1 = (z0 + 2, -z0 + 2), z2 = z11 + z12 = 4, where intervals say [3, 5]."""
    graph = chain((row(1, -1)[None], row(2, 2)), (row(1, 1)[:, None], row(0)))
    improved, plain = (run(graph, name, unit_box()).bounds["z2"] for name in ("improved-interval", "interval"))
    assert (improved.lower.item(), improved.upper.item()) == (4.0, 4.0)
    assert (plain.lower.item(), plain.upper.item()) == (3.0, 5.0)


def test_an_uncertain_relu_is_its_interval() -> None:
    """z1 = (x + 2, -x + 2, x) with x in [-1, 1]; the third ReLU is in [0, 1]: z2 = 4 + [0, 1]."""
    graph = chain((row(1, -1, 1)[None], row(2, 2, 0)), (row(1, 1, 1)[:, None], row(0)))
    bounds = run(graph, "improved-interval", unit_box(low=-1.0)).bounds["z2"]
    assert (bounds.lower.item(), bounds.upper.item()) == (4.0, 5.0)


def reference(layers: list[tuple[Tensor, Tensor]], low: Tensor, high: Tensor) -> list[tuple[Tensor, Tensor]]:
    """`f_k` for every layer k as eq. 9 has it, by products of matrices; (l^, u^) of each."""
    lows, highs, found = [low], [high], list[tuple[Tensor, Tensor]]()
    for k in range(1, len(layers) + 1):
        weight, bias = layers[k - 1]
        lower, upper = torch.zeros_like(bias), torch.zeros_like(bias)
        for below in range(k - 1, -1, -1):
            active = found[below - 1][0] > 0 if below else torch.zeros_like(low, dtype=torch.bool)
            rest = torch.where(active[:, None], 0.0, weight)
            lower = lower + bias + lows[below] @ rest.clamp(min=0) + highs[below] @ rest.clamp(max=0)
            upper = upper + bias + highs[below] @ rest.clamp(min=0) + lows[below] @ rest.clamp(max=0)
            if below:
                taken = torch.where(active[:, None], weight, 0.0)
                weight, bias = layers[below - 1][0] @ taken, layers[below - 1][1] @ taken
        found.append((lower, upper))
        lows.append(lower.relu())
        highs.append(upper.relu())
    return found


@settings(max_examples=40)
@given(seed=st.integers(0, 10**6), depth=st.integers(2, 5))
def test_the_recurrence_of_the_paper(seed: int, depth: int) -> None:
    """Where intervals add nothing (they never do on eq. 9), elements left open have the bounds of eq. 9."""
    generator = torch.Generator().manual_seed(seed)
    sizes = [3, *(5 for _ in range(depth - 1)), 4]
    layers = [
        (torch.randn(rows, columns, generator=generator, dtype=DOUBLE) / rows**0.5,
         torch.randn(columns, generator=generator, dtype=DOUBLE))
        for rows, columns in itertools.pairwise(sizes)
    ]  # fmt: skip
    center = torch.randn(3, generator=generator, dtype=DOUBLE)
    state = run(chain(*layers), "improved-interval", Box(center[None] - 0.2, center[None] + 0.2))
    for index, (lower, upper) in enumerate(reference(layers, center - 0.2, center + 0.2), start=1):
        bounds = state.bounds[f"z{index}"]
        closed = (bounds.lower[0] >= 0) | (bounds.upper[0] <= 0) if index < depth else torch.zeros_like(lower) > 0
        assert torch.equal(closed, (lower >= 0) | (upper <= 0)) or index == depth
        torch.testing.assert_close(bounds.lower[0][~closed], lower[~closed])
        torch.testing.assert_close(bounds.upper[0][~closed], upper[~closed])


@settings(max_examples=40)
@given(data=st.data())
def test_sampled_values_lie_inside(data: st.DataObject) -> None:
    graph = data.draw(graphs(kinds=EVERYTHING))
    check(graph, data.draw(boxes(graph)), "improved-interval")


@settings(max_examples=40)
@given(data=st.data())
def test_in_single_precision(data: st.DataObject) -> None:
    graph = data.draw(graphs(kinds=AFFINE + MONOTONE, dtype=torch.float32, max_nodes=6))
    check(graph, data.draw(boxes(graph)), "improved-interval")


@pytest.mark.parametrize("ball", [L1, L2])
@settings(max_examples=40)
@given(data=st.data())
def test_balls(ball: type[L1 | L2], data: st.DataObject) -> None:
    graph = data.draw(graphs(kinds=AFFINE + MONOTONE, inputs=1))
    regions: tuple[Region, ...] = (ball(data.draw(boxes(graph))[0].center, data.draw(st.sampled_from((0.0, 0.5)))),)
    state = run(graph, "improved-interval", regions)
    for inputs in points(graph, regions):
        assert_contains(state.bounds, graph.values(inputs))


@settings(max_examples=40)
@given(data=st.data())
def test_never_looser_than_interval(data: st.DataObject) -> None:
    graph = data.draw(graphs(kinds=EVERYTHING))
    regions = data.draw(boxes(graph))
    tight, loose = run(graph, "improved-interval", regions).bounds, run(graph, "interval", regions).bounds
    for name, entry in tight.items():
        allowed = slack(loose[name])
        assert bool((entry.lower >= loose[name].lower - allowed).all())
        assert bool((entry.upper <= loose[name].upper + allowed).all())


@settings(max_examples=40)
@given(data=st.data())
def test_a_batch_is_its_examples(data: st.DataObject) -> None:
    graph = data.draw(graphs(kinds=AFFINE + MONOTONE))
    regions = data.draw(boxes(graph, batch=3))
    together = run(graph, "improved-interval", regions).bounds
    alone = run(graph, "improved-interval", [region.select(1) for region in regions]).bounds
    for name, entry in together.items():
        assert torch.allclose(entry.lower[1:2], alone[name].lower, rtol=1e-9, atol=1e-9)
        assert torch.allclose(entry.upper[1:2], alone[name].upper, rtol=1e-9, atol=1e-9)


def residual() -> tuple[Graph, Region]:
    """x + relu(x + 2) - relu(x + 2) over a convolution with a residual edge: 2x + 2 - x - 2 = x in [-1, 1]."""
    builder = GraphBuilder()
    x = builder.input(TensorType((1, 2, 2), DOUBLE))
    one = torch.ones(1, 1, 1, 1, dtype=DOUBLE)
    above = builder.add(Relu(), builder.add(Conv(one, torch.full((1,), 2.0, dtype=DOUBLE)), x))
    both = builder.add(Add(), x, above)
    y = builder.add(Add(), both, builder.add(Conv(-one), above), name="y")
    return builder.graph([y]), Box(-torch.ones(1, 1, 2, 2, dtype=DOUBLE), torch.ones(1, 1, 2, 2, dtype=DOUBLE))


def test_paths_of_a_residual_network_cancel() -> None:
    graph, region = residual()
    bounds = run(graph, "improved-interval", region).bounds["y"]
    assert torch.equal(bounds.lower, -torch.ones_like(bounds.lower))
    assert torch.equal(bounds.upper, torch.ones_like(bounds.upper))


@pytest.mark.parametrize(
    "op",
    [
        AveragePool((2, 2), (1, 1), ((0, 0), (0, 0)), ((0, 0), (0, 0)), (1, 1)),
        MaxPool((1, 1), (1, 1), ((0, 0), (0, 0)), (1, 1)),
        Clip(-1.0, 1.0),
    ],
    ids=str,
)
def test_certain_pieces_are_composed(op: AveragePool | MaxPool | Clip) -> None:
    """What is certainly the identity (or linear) cancels against itself."""
    builder = GraphBuilder()
    x = builder.input(TensorType((1, 2, 2), DOUBLE))
    y = builder.add(op, x)
    size = builder.type(y).shape
    negative = builder.add(Conv(-torch.ones(1, 1, 1, 1, dtype=DOUBLE)), builder.add(op, x))
    graph = builder.graph([builder.add(Add(), y, negative, name="zero")])
    bounds = run(graph, "improved-interval", Box(torch.zeros(1, 1, 2, 2).double(), torch.ones(1, 1, 2, 2).double()))
    assert torch.equal(bounds.bounds["zero"].lower, torch.zeros(1, *size, dtype=DOUBLE))
    assert torch.equal(bounds.bounds["zero"].upper, torch.zeros(1, *size, dtype=DOUBLE))


def test_sigmoid_is_its_interval() -> None:
    builder = GraphBuilder()
    s = builder.add(Sigmoid(), builder.input(TensorType((1,), DOUBLE)))
    graph = builder.graph([builder.add(Linear(row(2)[None]), s, name="y")])
    bounds = run(graph, "improved-interval", unit_box()).bounds["y"]
    assert bounds.lower.item() == pytest.approx(1.0, rel=1e-12)
    assert bounds.upper.item() == pytest.approx(2 * torch.tensor(1.0).double().sigmoid().item())


def test_known_factors_and_certain_maxima_are_linear() -> None:
    """3 x - max(x, -1) * 2 = x for x in [0, 1]."""
    builder = GraphBuilder()
    x = builder.input(TensorType((1,), DOUBLE))
    largest = builder.add(Maximum(), x, builder.add(Constant(row(-1))))
    product = builder.add(Mul(), builder.add(Constant(row(-2))), largest)
    graph = builder.graph([builder.add(Add(), builder.add(Linear(row(3)[None]), x), product, name="y")])
    bounds = run(graph, "improved-interval", unit_box()).bounds["y"]
    assert (bounds.lower.item(), bounds.upper.item()) == (0.0, 1.0)


@pytest.mark.parametrize("analysis", ["improved-interval", "crown", "forward"])
@pytest.mark.parametrize("width", [3, 20])
def test_casts_on_the_way(analysis: str, width: int) -> None:
    """Values of two element types between the inputs and what is bounded."""
    builder = GraphBuilder()
    x = builder.input(TensorType((3,), DOUBLE))
    single = builder.add(Cast(torch.float32), x)
    generator = torch.Generator().manual_seed(0)
    hidden = builder.add(Relu(), builder.add(Linear(torch.randn(width, 3, generator=generator)), single))
    mixed = builder.add(Linear(torch.randn(width, width, generator=generator)), hidden)
    double = builder.add(Cast(DOUBLE), builder.add(Relu(), mixed))
    graph = builder.graph([builder.add(Linear(torch.randn(2, width, generator=generator).double()), double)])
    region = Box(-torch.ones(2, 3, dtype=DOUBLE), torch.ones(2, 3, dtype=DOUBLE))
    state = run(graph, analysis, region)
    for inputs in points(graph, (region,)):
        for name, value in graph.values(inputs).items():
            entry = state.bounds[name]
            assert bool(((entry.lower - 1e-4 <= value) & (value <= entry.upper + 1e-4)).all())


def test_gradients_follow_the_weights() -> None:
    """The derivatives of bounds by weights, against finite differences, with many and with few elements open."""
    generator = torch.Generator().manual_seed(0)
    sizes = ((2, 1, 3, 3), (2, 2, 3, 3), (20, 18), (3, 20))
    weights = [torch.randn(size, generator=generator, dtype=DOUBLE) / 2 for size in sizes]
    high = torch.rand(2, 1, 5, 5, generator=generator, dtype=DOUBLE)
    region = Box(torch.zeros_like(high), high * torch.tensor([0.8, 0.02], dtype=DOUBLE).reshape(2, 1, 1, 1))

    def ends(*parameters: Tensor) -> Tensor:
        builder, bias = GraphBuilder(), torch.full((2,), 0.3, dtype=DOUBLE)
        first = Conv(parameters[0], bias, (1, 1), ((1, 1), (1, 1)))
        second = Conv(parameters[1], bias, (2, 2), ((1, 1), (1, 1)))
        z1 = builder.add(first, builder.input(TensorType((1, 5, 5), DOUBLE)))
        z2 = builder.add(second, builder.add(Relu(), z1), name="z2")
        z3 = builder.add(Linear(parameters[2]), builder.add(Reshape((18,)), builder.add(Relu(), z2)), name="z3")
        z4 = builder.add(Linear(parameters[3]), builder.add(Relu(), z3), name="z4")
        bounds = run(builder.graph([z4]), "improved-interval", region).bounds
        found = [bounds[name] for name in ("z2", "z3", "z4")]
        return torch.cat([side.flatten() for entry in found for side in (entry.lower, entry.upper)])

    for weight in weights:
        weight.requires_grad_()
    assert torch.autograd.gradcheck(ends, weights, fast_mode=True)
