"""All bound methods of the catalog on random graphs: what they must contain, what nests in what, and what does not.

The orderings are those that hold with the same intermediate bounds, or where the tighter result is intersected with the
looser one: improved-interval in interval; interval as ibp on affine and monotone graphs (test_soundness); crown-zero in
crown-zero with ibp intermediates, and that in ibp, on ReLU networks; alpha in crown; linear programs over the triangle
in fast-lin, crown and alpha; the exact range in everything. Every other pair must be able to come out either way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from irverify.backends.milp.process import Pool
from irverify.backends.milp.tightening import tighten
from irverify.errors import UnsupportedError
from irverify.ir.graph import Graph, GraphBuilder
from irverify.ir.ops import Clip, Concat, LeakyRelu, Linear, Relu, Sub
from irverify.ir.types import TensorType
from irverify.passes.crown import LinearBounds
from irverify.passes.gap import minimum
from irverify.pipeline import CATALOG, Bounds, run
from irverify.pipeline.rows import row_state
from irverify.properties import linear
from irverify.regions import L1, L2, Box, Region
from tests import random_graphs as kinds
from tests.passes.test_soundness import assert_contains, slack
from tests.random_graphs import Kind, boxes, graphs, points
from tests.soundness.polytopes import exact_minima, relaxed_minima, unstable

NO_BOUNDS = ("stability", "gap")
SLOW = ("milp-tighten",)
"""Has tests of its own, with fewer examples."""
METHODS = tuple(
    entry.name
    for entry in CATALOG.values()
    if entry.kind == "analysis" and entry.name not in (*NO_BOUNDS, *SLOW)
)
RELU: Kind = kinds.elementwise(Relu())
CLAMPED = tuple(kinds.elementwise(op) for op in (LeakyRelu(0.1), Clip(-0.5, 1.0)))
REQUIRED: tuple[Kind, ...] = (*kinds.AFFINE, *(RELU,) * 5, *CLAMPED)
"""What no method may refuse: ReLU, LeakyReLU, Clip and affine maps, with shared values on any DAG."""
FORMS = ("chain", "dense", "residual")
TOLERANCE = 1e-6
"""Of the reference programs, relative to 1 + the magnitude."""


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=15)
@given(data=st.data())
def test_values_lie_inside_on_graphs_that_every_method_takes(method: str, data: st.DataObject) -> None:
    graph = data.draw(graphs(kinds=REQUIRED, max_nodes=8))
    regions = data.draw(boxes(graph))
    assert_bounds(graph, regions, method)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("ball", [L1, L2])
@settings(max_examples=6)
@given(data=st.data())
def test_values_lie_inside_over_balls(ball: type[L1 | L2], method: str, data: st.DataObject) -> None:
    graph = data.draw(graphs(kinds=REQUIRED, max_nodes=8, inputs=1))
    center = data.draw(boxes(graph))[0].center
    clip = data.draw(st.sampled_from((None, (center - 0.2, center + 0.1))))
    assert_bounds(graph, (ball(center, data.draw(st.sampled_from((0.0, 0.1, 1.0))), clip),), method)


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=15)
@given(data=st.data())
def test_any_operator_is_bounded_or_refused(method: str, data: st.DataObject) -> None:
    graph = data.draw(graphs(kinds=kinds.EVERYTHING, max_nodes=6))
    regions = data.draw(boxes(graph))
    try:
        assert_bounds(graph, regions, method)
    except UnsupportedError as refusal:
        assert refusal.items or "infinite" in str(refusal)


def assert_bounds(graph: Graph, regions: tuple[Region, ...], method: str) -> None:
    state = run(graph, method, regions)
    assert set(graph.outputs) <= set(state.bounds)
    for inputs in points(graph, regions, count=4):
        assert_contains(state.bounds, graph.values(inputs))


@dataclass(frozen=True)
class CrownZeroIbp(LinearBounds):
    """Lower slope 0, with intermediate bounds from ibp: between crown-zero and ibp."""

    name = "crown-zero-ibp"
    choice = "zero"
    intermediate = False


def nested(tight: Mapping[str, Bounds], loose: Mapping[str, Bounds], names: Sequence[str]) -> bool:
    return all(
        bool((tight[name].lower >= loose[name].lower - slack(loose[name])).all())
        and bool((tight[name].upper <= loose[name].upper + slack(loose[name])).all())
        for name in names
    )


@settings(max_examples=30)
@given(data=st.data())
def test_improved_interval_in_interval(data: st.DataObject) -> None:
    graph = data.draw(graphs(kinds=(*kinds.AFFINE, *kinds.MONOTONE)))
    regions = data.draw(boxes(graph))
    tight, loose = run(graph, "improved-interval", regions).bounds, run(graph, "interval", regions).bounds
    assert nested(tight, loose, graph.outputs)


@settings(max_examples=30)
@given(data=st.data())
def test_crown_zero_in_crown_zero_over_ibp_in_ibp(data: st.DataObject) -> None:
    graph = data.draw(graphs(kinds=(*kinds.AFFINE, *(RELU,) * 8)))
    regions = data.draw(boxes(graph))
    tight, middle = run(graph, "crown-zero", regions).bounds, run(graph, CrownZeroIbp(), regions).bounds
    assert nested(tight, middle, graph.outputs)
    assert nested(middle, run(graph, "ibp", regions).bounds, graph.outputs)


@settings(max_examples=20)
@given(data=st.data())
def test_alpha_in_crown(data: st.DataObject) -> None:
    graph = data.draw(graphs(kinds=REQUIRED, max_nodes=8))
    regions = data.draw(boxes(graph))
    assert nested(run(graph, "alpha{steps=3}", regions).bounds, run(graph, "crown", regions).bounds, graph.outputs)


@settings(max_examples=8)
@given(seed=st.integers(0, 10**6), forms=st.lists(st.sampled_from(FORMS), min_size=2, max_size=3))
def test_linear_programs_lie_between_each_method_and_the_exact_range(seed: int, forms: list[str]) -> None:
    """Both ends of a random row: the triangle relaxation over the bounds of each method is at least as tight as that
    method where the method's lines are sides of the triangle, and the exact minimum over all ReLU patterns is above
    every bound."""
    graph, region = tangled_network(seed, forms)
    row = _normal(torch.Generator().manual_seed(seed), 1, graph[graph.outputs[0]].type.size)
    prop = linear(torch.cat([row, -row]), torch.tensor([0.3, -0.2]))
    _, tightest = row_state(graph, region, prop, "crown")
    assume(unstable(tightest) <= 5)
    found = {method: row_state(graph, region, prop, method) for method in METHODS}
    exact = torch.tensor(exact_minima(tightest), dtype=torch.float64)
    for method, (bound, state) in found.items():
        allowed = TOLERANCE * (1 + exact.abs())
        assert bool((bound[0] <= exact + allowed).all()), method
        relaxed = torch.tensor(relaxed_minima(state), dtype=torch.float64)
        assert bool((relaxed <= exact + allowed).all()), method
        if method in ("fast-lin", "crown", "alpha"):
            assert bool((bound[0] <= relaxed + allowed).all()), method
        if method == "lp":
            assert bool(((bound[0] - relaxed).abs() <= allowed).all())


def tangled_network(seed: int, forms: Sequence[str]) -> tuple[Graph, Box]:
    """A ReLU layer of two neurons for each form, which reads the one before it, everything so far, or adds to what it
    reads."""
    generator = torch.Generator().manual_seed(seed)
    builder = GraphBuilder()
    values = [builder.input(TensorType((2,), torch.float64))]
    for form in forms:
        source = builder.add(Concat(0), *values) if form == "dense" and len(values) > 1 else values[-1]
        size = builder.type(source).size
        layer = builder.add(Linear(_normal(generator, 2, size), 0.3 * _normal(generator, 2)), source)
        made = builder.add(Relu(), layer)
        values.append(builder.add(Sub(), values[-1], made) if form == "residual" else made)
    graph = builder.graph([builder.add(Concat(0), *values[1:])])
    center = _normal(generator, 1, 2)
    return graph, Box(center - 0.5, center + 0.5)


def test_lp_tightening_lies_between_crown_and_the_exact_range() -> None:
    """The linear programs of the milp backend, which tighten intermediate bounds on the way."""
    prop = linear(torch.tensor([[1.0, -1.0], [-1.0, 0.0]]), torch.zeros(2))
    with Pool(1) as pool:
        for seed in (3, 7, 11):
            graph, boxes_ = relu_network(seed, (3, 3))
            region = boxes_.select(0)
            bound, state = row_state(graph, region, prop, "crown")
            bounds = run(graph, "crown", region).bounds
            known = {name: (entry.lower[0], entry.upper[0]) for name, entry in bounds.items()}
            margins = torch.from_numpy(tighten(graph, region, known, prop=prop, pool=pool).margins)
            exact = torch.tensor(exact_minima(state), dtype=torch.float64)
            assert bool((margins <= exact + TOLERANCE).all())
            assert bool((bound[0] <= margins + TOLERANCE).all() | (margins > 0).all())


def relu_network(seed: int, widths: Sequence[int] | None = None) -> tuple[Graph, Box]:
    """A random fully connected ReLU network of 2 to 4 hidden layers and 48 boxes around random points."""
    generator = torch.Generator().manual_seed(seed)
    builder = GraphBuilder()
    value, size = builder.input(TensorType((3,), torch.float64)), 3
    for width in widths or ((8, 8), (6, 6, 6), (4, 4, 4, 4))[seed % 3]:
        weight, bias = _normal(generator, width, size) / size**0.5, 0.3 * _normal(generator, width)
        value, size = builder.add(Relu(), builder.add(Linear(weight, bias), value)), width
    graph = builder.graph([builder.add(Linear(_normal(generator, 2, size) / size**0.5), value)])
    center, radius = _normal(generator, 48, 3), (0.2, 0.4, 0.8, 1.5)[seed % 4]
    return graph, Box(center - radius, center + radius)


def _normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)


@cache
def output_bounds(method: str) -> list[Bounds]:
    cases = [relu_network(seed) for seed in range(6)]
    return [run(graph, method, region).bounds[graph.outputs[0]] for graph, region in cases]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("crown", "fast-lin"), ("crown", "crown-zero"), ("crown", "crown-ibp"), ("crown", "improved-interval"),
        ("crown", "forward"), ("fast-lin", "crown-zero"), ("fast-lin", "crown-ibp"), ("fast-lin", "improved-interval"),
        ("fast-lin", "forward"), ("crown-ibp", "improved-interval"), ("crown-ibp", "forward"),
        ("improved-interval", "forward"), ("crown-zero", "crown-ibp"), ("crown-zero", "forward"),
        ("alpha", "fast-lin"), ("alpha", "crown-zero"),
    ],
)  # fmt: skip
def test_neither_nests_in_the_other(one: str, other: str) -> None:
    """Some box of some network is bounded from below strictly better by one method, some by the other."""
    pairs = list(zip(output_bounds(one), output_bounds(other), strict=True))
    assert any(bool((first.lower > second.lower + 1e-3).any()) for first, second in pairs)
    assert any(bool((second.lower > first.lower + 1e-3).any()) for first, second in pairs)


@pytest.mark.parametrize("method", ["fast-lin", "crown", "crown-ibp"])
def test_linear_bounds_alone_may_be_looser_than_ibp(method: str) -> None:
    """Why results are intersected: what backward rows alone give for a row can be worse than its interval."""
    looser = 0
    for seed in range(6):
        graph, region = relu_network(seed)
        prop = linear(torch.eye(2), torch.zeros(2))
        bound, state = row_state(graph, region, prop, method)
        alone = minimum(state, method).bound
        assert bool((bound >= alone - 1e-9).all())
        looser += int((alone < row_state(graph, region, prop, "ibp")[0] - 1e-3).sum())
    assert looser
