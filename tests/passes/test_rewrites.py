"""What every rewrite keeps, on random graphs: the function, the names of values that stay, the checker, itself."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from irverify.ir.check import check, same_function
from irverify.ir.graph import Graph
from irverify.pipeline import load, optimize, run, with_spec
from tests.random_graphs import AFFINE, EVERYTHING, boxes, graphs

REWRITES = ("canonicalize", "fold-batchnorm", "fuse-linear", "canonicalize,fold-batchnorm,fuse-linear")


@pytest.mark.parametrize("pipeline", REWRITES)
@given(graph=graphs(kinds=EVERYTHING))
def test_same_function_and_same_values_by_name(pipeline: str, graph: Graph) -> None:
    after = optimize(graph, pipeline)
    check(after)
    same_function(graph, after)
    shared = [node.name for node in after if node.name in graph]
    same_function(Graph(graph.nodes, shared), Graph(after.nodes, shared))


@pytest.mark.parametrize("pipeline", REWRITES[:3])
@given(graph=graphs(kinds=AFFINE))
def test_affine_graphs(pipeline: str, graph: Graph) -> None:
    same_function(graph, optimize(graph, pipeline))


@pytest.mark.parametrize("pipeline", REWRITES[:3])
@given(graph=graphs(kinds=EVERYTHING))
def test_a_second_run_finds_nothing(pipeline: str, graph: Graph) -> None:
    once = optimize(graph, pipeline)
    assert optimize(once, pipeline) is once


@pytest.mark.parametrize("name", REWRITES[:3])
def test_names_keep_their_values(name: str) -> None:
    assert load(name).keeps_values  # type: ignore[attr-defined]


@given(data=st.data())
def test_elision_is_never_looser(data: st.DataObject) -> None:
    graph = data.draw(graphs())
    regions = data.draw(boxes(graph))
    rows = data.draw(st.integers(1, 3))
    extended = with_spec(graph, rows, inputs=data.draw(st.booleans()))
    columns = extended[extended.operands[0].name].type.shape[1]
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 1000)))
    spec = torch.randn((2, rows, columns), generator=generator, dtype=torch.float64)
    operands = {"C": spec, "d": spec[:, :, 0]}
    for analysis in ("interval", "ibp"):
        apart = run(extended, f"fuse-linear{{elide=false}},{analysis}", regions, operands=operands).bounds["spec"]
        elided = run(extended, f"fuse-linear,{analysis}", regions, operands=operands).bounds["spec"]
        allowed = 1e-9 * max(1.0, float(apart.lower.abs().max()), float(apart.upper.abs().max()))
        assert bool((elided.lower >= apart.lower - allowed).all())
        assert bool((elided.upper <= apart.upper + allowed).all())


@given(data=st.data())
def test_bounds_survive_a_rewrite_by_name(data: st.DataObject) -> None:
    graph = data.draw(graphs())
    regions = data.draw(boxes(graph))
    state = run(graph, "ibp,canonicalize,fold-batchnorm,fuse-linear,ibp", regions)
    assert set(state.bounds) == {node.name for node in state.graph}
