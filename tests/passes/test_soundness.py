"""Every analysis on random graphs and boxes: sampled values lie inside, whatever the graph; and what nests in what."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from irverify.ir.graph import Graph
from irverify.pipeline import Bounds, run
from irverify.regions import Region
from tests.random_graphs import AFFINE, EVERYTHING, JUMPS, MONOTONE, PIECEWISE, boxes, graphs, points

ANALYSES = ("interval", "ibp")
ROUNDING = {torch.float64: 1e-11, torch.float32: 1e-4}


def slack(bounds: Bounds) -> float:
    """What rounding may make of bounds: relative to their magnitude."""
    ends = torch.stack([bounds.lower, bounds.upper]).detach().double().abs()
    return ROUNDING[bounds.lower.dtype] * max(1.0, float(ends[ends.isfinite()].max()))


def assert_contains(bounds: Mapping[str, Bounds], values: Mapping[str, Tensor]) -> None:
    for name, entry in bounds.items():
        allowed = slack(entry)
        inside = (entry.lower - allowed <= values[name]) & (values[name] <= entry.upper + allowed)
        assert bool(inside.all()), f"%{name} of {entry.source} leaves its bounds"


def check(graph: Graph, regions: tuple[Region, ...], pipeline: str) -> None:
    state = run(graph, pipeline, regions)
    assert set(state.bounds) == {node.name for node in graph}
    for inputs in points(graph, regions):
        assert_contains(state.bounds, graph.values(inputs))


@pytest.mark.parametrize("analysis", ANALYSES)
@given(data=st.data())
def test_sampled_values_lie_inside(analysis: str, data: st.DataObject) -> None:
    graph = data.draw(graphs(kinds=EVERYTHING))
    check(graph, data.draw(boxes(graph)), analysis)


@pytest.mark.parametrize("analysis", ANALYSES)
@given(data=st.data())
def test_across_jumps(analysis: str, data: st.DataObject) -> None:
    graph = data.draw(graphs(kinds=AFFINE + JUMPS + JUMPS, max_nodes=6))
    check(graph, data.draw(boxes(graph)), analysis)


@pytest.mark.parametrize("analysis", ANALYSES)
@given(data=st.data())
def test_in_single_precision(analysis: str, data: st.DataObject) -> None:
    graph = data.draw(graphs(kinds=EVERYTHING, dtype=torch.float32, max_nodes=6))
    check(graph, data.draw(boxes(graph)), analysis)


@given(data=st.data())
def test_interval_is_ibp_on_affine_and_monotone_graphs(data: st.DataObject) -> None:
    graph = data.draw(graphs(kinds=AFFINE + MONOTONE))
    regions = data.draw(boxes(graph))
    interval, ibp = run(graph, "interval", regions).bounds, run(graph, "ibp", regions).bounds
    for name, entry in interval.items():
        allowed = slack(entry)
        torch.testing.assert_close(ibp[name].lower, entry.lower, rtol=0, atol=allowed)
        torch.testing.assert_close(ibp[name].upper, entry.upper, rtol=0, atol=allowed)


@given(data=st.data())
def test_stability_holds_at_sampled_points(data: st.DataObject) -> None:
    graph = data.draw(graphs(kinds=AFFINE + PIECEWISE))
    regions = data.draw(boxes(graph))
    state = run(graph, "stability", regions)
    for inputs in points(graph, regions):
        values = graph.values(inputs)
        for name, labels in state.stability.items():
            before = values[graph[name].inputs[0]]
            pieces = graph[name].op.pieces()  # type: ignore[attr-defined]
            ends = torch.tensor([-torch.inf, *pieces.breakpoints, torch.inf], dtype=torch.float64)
            piece = labels.piece.long()
            low, high = ends[piece.clamp(min=0)], ends[piece.clamp(min=0) + 1]
            allowed = slack(state.bounds[graph[name].inputs[0]])
            on_piece = (low - allowed <= before) & (before <= high + allowed)
            assert bool((on_piece | (piece < 0)).all())


@given(data=st.data())
def test_given_bounds_tighten_what_follows(data: st.DataObject) -> None:
    """Bounds around the values of one point, given for one value: the point stays inside, nothing gets looser."""
    graph = data.draw(graphs(kinds=EVERYTHING))
    regions = data.draw(boxes(graph))
    name = data.draw(st.sampled_from([node.name for node in graph]))
    values = graph.values(points(graph, regions, count=1)[1])
    plain = run(graph, "ibp", regions)
    margin = slack(plain.bounds[name])
    state = run(graph, "ibp", regions, bounds={name: (values[name] - margin, values[name] + margin)})
    assert_contains(state.bounds, values)
    for node in graph:
        allowed = slack(plain.bounds[node.name])
        assert bool((state.bounds[node.name].lower >= plain.bounds[node.name].lower - allowed).all())
        assert bool((state.bounds[node.name].upper <= plain.bounds[node.name].upper + allowed).all())
