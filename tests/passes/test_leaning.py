"""Adaptive slopes by what rows say of an element by themselves, before intervals."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from irverify.ir.graph import Graph
from irverify.ir.ops import Abs, LeakyRelu, Relu
from irverify.ir.text import parse_graph
from irverify.kernels import native
from irverify.passes import crown
from irverify.passes.backward import Context, identity_rows, lower_bounds
from irverify.passes.coefficients import _Lowering, coefficients
from irverify.passes.crown import Crown
from irverify.passes.ibp import IBP
from irverify.passes.propagate import Interval, interval_facts
from irverify.passes.relaxations import LEANING, kinked_operands
from irverify.pipeline import optimize, run
from irverify.pipeline.state import State
from irverify.regions import Box
from tests.random_graphs import AFFINE, boxes, conv, elementwise, graphs

KINDS = (*AFFINE, *(conv,) * 4, *(elementwise(op) for op in (Relu(), Relu(), Relu(), LeakyRelu(0.1), Abs())))
GRAPH = parse_graph("""
graph "test" {
  %x: f64[2] = input()
  %z = linear(%x) {weight=tensor([[1, 1], [1, -1]]), bias=tensor([0, 0])}
  %r = relu(%z)
  %a = linear(%r) {weight=tensor([[1, 3]]), bias=tensor([-3])}
  %s = relu(%a)
  %y = linear(%s) {weight=tensor([[1]]), bias=tensor([0])}
  return %y
}
""")
REGION = Box(torch.tensor([[0.0, -1.0]]).double(), torch.tensor([[1.0, 1.0]]).double())
ROWS = (torch.ones(1, 1, 1).double(), torch.zeros(1, 1).double())


@pytest.mark.parametrize("compiled", [True, False])
def test_by_hand(compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both z in [-1, 2], so that r1 >= z1 and r <= 2 (z + 1) / 3. Rows say -5 <= z1 + 3 z2 - 3 <= a and a <= 20/3 - 3,
    so that a leans to the left and s >= 0; the interval says a >= -3, by which it would lean to the right."""
    if not compiled:
        monkeypatch.setattr(native, "native", None)
    state = run(GRAPH, "crown", REGION)
    assert state.bounds["a"].lower.tolist() == [[-3.0]]
    torch.testing.assert_close(state.bounds["a"].upper, torch.tensor([[11 / 3]]).double())
    torch.testing.assert_close(state.leans["a"], torch.tensor([[-4 / 3]]).double())
    assert "z" not in state.leans  # which intervals bound exactly
    found = coefficients(GRAPH, REGION, ROWS)
    assert found.inputs["x"].abs().max() == 0
    assert found.constant.tolist() == [[0.0]]
    # Without them the bounds decide: s >= a >= z1 + 3 z2 - 3.
    state.leans.clear()
    lowering = _Lowering(Crown(), Context(state.graph, {"x": REGION}), state.leans)
    interval_facts(state, IBP, "test", lowering.refine)
    rows = identity_rows(state.bounds["s"].lower, torch.zeros(1).long(), torch.zeros(1).long())
    assert lower_bounds(lowering.context, "s", rows).tolist()[0] == -5.0


def leans_by_dense_rows(graph: Graph, state: State) -> dict[str, Tensor]:
    """Of all elements, along the lines that the state's bounds and leans give."""
    assert state.regions is not None
    regions = {node.name: region for node, region in zip(graph.inputs, state.regions, strict=True)}
    lowering = _Lowering(Crown(), Context(graph, regions), state.leans)
    interval_facts(state, IBP, "test", lowering.refine)
    found = {}
    for name in state.leans:
        like, size = state.bounds[name].lower, graph[name].type.size
        owner = torch.arange(len(like)).repeat_interleave(size)
        low, high = lower_bounds(
            lowering.context, name, identity_rows(like, owner, torch.arange(size).repeat(len(like)))
        ).chunk(2)
        found[name] = (low - high).reshape(like.shape)
    return found


@settings(max_examples=60)
@given(data=st.data(), many=st.sampled_from([1, 128]), chunk=st.sampled_from([2**9, 2**22]), compiled=st.booleans())
def test_it_is_what_rows_say(data: st.DataObject, many: int, chunk: int, compiled: bool) -> None:
    """In one go, in parts, one side after the other, with compiled code or not: for the elements that stay open."""
    graph = data.draw(graphs(kinds=KINDS, shapes=((6,), (2, 6, 5), (2, 4, 3)), max_nodes=10))
    regions = data.draw(boxes(graph))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(crown, "MANY", many)
        patch.setattr(crown, "LONG", 0)
        patch.setattr(crown, "CHUNK", chunk)
        if not compiled:
            patch.setattr(native, "native", None)
        state = run(graph, "crown", regions)
    assert set(state.leans) <= kinked_operands(graph)
    for name, expected in leans_by_dense_rows(graph, state).items():
        bounds = state.bounds[name]
        open_ = (bounds.lower < 0) & (bounds.upper > 0)
        torch.testing.assert_close(state.leans[name][open_], expected[open_], rtol=1e-9, atol=1e-9)


@given(st.sampled_from([Relu(), LeakyRelu(0.2), LeakyRelu(3.0), Abs()]), st.integers(0, 10**6))
def test_any_number_is_sound(op: Relu | LeakyRelu | Abs, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    ends = torch.randn(2, 1, 9, generator=generator, dtype=torch.float64)
    lower, upper = ends.amin(0), ends.amax(0)
    lean = torch.randn(1, 9, generator=generator, dtype=torch.float64)
    lean[0, :3] = torch.tensor([math.nan, math.inf, -math.inf])
    graph = data_graph(op)
    rule = next(rule for rule in LEANING if rule is Crown.rules.find(type(op)))
    lines = LEANING[rule](graph[graph.outputs[0]], [Interval(lower, upper)], lean)
    for part in torch.linspace(0, 1, 23, dtype=torch.float64):
        x = lower + part * (upper - lower)
        y = op.evaluate(x)
        assert bool((lines.lower_slope * x + lines.lower_intercept <= y + 1e-12).all())
        assert bool((lines.upper_slope * x + lines.upper_intercept >= y - 1e-12).all())


def data_graph(op: Relu | LeakyRelu | Abs) -> Graph:
    names = {Relu: "relu(%x)", LeakyRelu: f"leaky_relu(%x) {{slope={getattr(op, 'slope', 0)}}}", Abs: "abs(%x)"}
    return parse_graph(f'graph "test" {{\n  %x: f64[9] = input()\n  %y = {names[type(op)]}\n  return %y\n}}')


def test_others_follow_their_own_rule() -> None:
    """Only adaptive slopes lean, and only along backward rows."""
    for method in ("crown-zero", "fast-lin", "crown-ibp", "improved-interval", "ibp", "forward"):
        assert not run(GRAPH, method, REGION).leans
    assert run(GRAPH, "alpha{steps=1}", REGION).leans.keys() == {"a"}


def test_rewrites_keep_what_they_keep_the_bounds_of() -> None:
    state = run(GRAPH, "crown", REGION)
    state.replace_graph(GRAPH, keeps_values=True)
    assert state.leans.keys() == {"a"}
    state.replace_graph(optimize(GRAPH, "canonicalize"), keeps_values=False)
    assert not state.leans


def test_alpha_begins_where_crown_is() -> None:
    generator = torch.Generator().manual_seed(0)
    center = torch.randn(2, 2, generator=generator, dtype=torch.float64)
    region = Box(center - 0.6, center + 0.6)
    first, best = (run(GRAPH, method, region).bounds["y"] for method in ("crown", "alpha{steps=0}"))
    torch.testing.assert_close((best.lower, best.upper), (first.lower, first.upper))


def test_gradients_pass_by() -> None:
    """The choice of a slope has none; bounds have theirs, in functional form too."""

    def upper(scale: Tensor) -> Tensor:
        region = Box(torch.tensor([[0.0, -1.0]]).double() * scale, torch.tensor([[1.0, 1.0]]).double() * scale)
        return run(GRAPH, "crown", region).bounds["y"].upper.sum()

    at = torch.tensor(1.0).double()
    (recorded,) = torch.autograd.grad(upper(at.requires_grad_()), at)
    at = at.detach()
    step = 1e-6
    torch.testing.assert_close(recorded, (upper(at + step) - upper(at - step)) / (2 * step), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(torch.func.grad(upper)(at), recorded)
