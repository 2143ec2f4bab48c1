"""What every rewrite keeps, on random graphs: the function, the names of values that stay, the checker, itself."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from irverify.ir.check import check, same_function
from irverify.ir.graph import Graph
from irverify.pipeline import load, optimize, run, with_spec
from tests.random_graphs import (
    EVERYTHING,
    Kind,
    batch_norm,
    boxes,
    conv,
    conv_transpose,
    graphs,
    linear,
    reshape,
    scale_shift,
    transpose,
)

FEW = settings(max_examples=50)
NEIGHBOURS: tuple[tuple[Kind, ...], ...] = (
    (conv, scale_shift, batch_norm), (conv_transpose, scale_shift, batch_norm), (linear, scale_shift, batch_norm),
    (transpose, reshape),
)  # fmt: skip
REWRITES = ("canonicalize", "fold-batchnorm", "fuse-linear", "canonicalize,fold-batchnorm,fuse-linear")


@pytest.mark.parametrize("pipeline", REWRITES)
@FEW
@given(graph=graphs(kinds=EVERYTHING))
def test_same_function_and_same_values_by_name(pipeline: str, graph: Graph) -> None:
    after = optimize(graph, pipeline)
    check(after)
    same_function(graph, after)
    shared = [node.name for node in after if node.name in graph]
    same_function(Graph(graph.nodes, shared), Graph(after.nodes, shared))


@pytest.mark.parametrize("kinds", NEIGHBOURS, ids=lambda kinds: kinds[0].__name__)
@given(data=st.data())
def test_layers_among_scales_and_shifts(kinds: tuple[Kind, ...], data: st.DataObject) -> None:
    chosen = graphs(kinds=kinds, shapes=((2, 4, 3), (4, 2, 2), (1, 3, 3)), inputs=1, max_nodes=5)
    graph = data.draw(chosen)
    same_function(graph, optimize(graph, REWRITES[-1]))


@pytest.mark.parametrize("pipeline", REWRITES[:3])
@FEW
@given(graph=graphs(kinds=EVERYTHING))
def test_a_second_run_finds_nothing(pipeline: str, graph: Graph) -> None:
    once = optimize(graph, pipeline)
    assert optimize(once, pipeline) is once


@pytest.mark.parametrize("name", REWRITES[:3])
def test_names_keep_their_values(name: str) -> None:
    assert load(name).keeps_values  # type: ignore[attr-defined]


@FEW
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


@FEW
@given(data=st.data())
def test_bounds_survive_a_rewrite_by_name(data: st.DataObject) -> None:
    graph = data.draw(graphs())
    regions = data.draw(boxes(graph))
    state = run(graph, "ibp,canonicalize,fold-batchnorm,fuse-linear,ibp", regions)
    assert set(state.bounds) == {node.name for node in state.graph}
