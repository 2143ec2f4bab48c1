"""Specifications in the graph, margins, and bounds of a property's rows."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from irverify.errors import PropertyError
from irverify.ir.check import check
from irverify.ir.ops import Spec
from irverify.ir.text import parse_graph
from irverify.pipeline import margins, optimize, row_bounds, run, with_spec
from irverify.pipeline.rows import KEPT, margin_rows, specified
from irverify.pipeline.spec import spec_operands
from irverify.properties import Disjunct, Property, robust
from irverify.regions import Box, Linf
from tests.random_graphs import boxes, graphs, points

GRAPH = parse_graph("""
graph "test" {
  %x: f64[2] = input()
  %r = relu(%x)
  %y = linear(%r) {weight=tensor([[1, 0], [1, 1], [0, 1]]), bias=tensor([1, 0, 0])}
  return %y
}
""")


def double(entries: object) -> torch.Tensor:
    return torch.tensor(entries, dtype=torch.float64)


REGION = Box(torch.tensor([[-1.0, 0.0], [1.0, 1.0]]).double(), torch.tensor([[1.0, 0.5], [1.0, 2.0]]).double())


def test_margins_by_hand_with_the_last_layer_elided() -> None:
    """r in [0, 1] x [0, 0.5], label 0: y0 - y1 = 1 - r2, y0 - y2 = r1 - r2 + 1; r in 1 x [1, 2], label 2:
    y2 - y0 = r2 - r1 - 1, y2 - y1 = -r1. Without elision y0 - y1 would be [1, 2] - [0, 1.5]."""
    found = margins(GRAPH, REGION, torch.tensor([0, 2]))
    assert found.tolist() == [[0.0, 0.5, 0.5], [-1.0, -1.0, 0.0]]
    assert margins(GRAPH, REGION, [0, 2], method="interval").tolist() == found.tolist()
    assert margins(GRAPH, REGION, 1)[:, 1].tolist() == [0.0, 0.0]


def test_margins_are_differentiable_in_centre_and_parameters() -> None:
    weight = torch.nn.Parameter(torch.tensor([[1.0, 0.0], [0.0, 2.0]], dtype=torch.float64))
    graph = parse_graph('graph "t" {\n%x: f64[2] = input()\n%y = linear(%x) {weight=@w}\nreturn %y\n}', {"w": weight})
    center = torch.tensor([[1.0, 2.0]], dtype=torch.float64, requires_grad=True)
    lower = margins(graph, Linf(center, 0.5), 0)[0, 1]
    assert lower.item() == pytest.approx(1 - 4 - 0.5 * 3)
    slopes = torch.autograd.grad(lower, [center, weight])
    assert slopes[0].tolist() == [[1.0, -2.0]]
    assert slopes[1].tolist() == [[0.5, 2.5], [-0.5, -2.5]]  # of the worst input (0.5, 2.5)


def test_the_rewritten_graph_is_kept_and_follows_the_parameters() -> None:
    weight = torch.nn.Parameter(torch.eye(2, dtype=torch.float64))
    graph = parse_graph(
        'graph "t" {\n%x: f64[2] = input()\n%h = linear(%x) {weight=@w}\n%y = linear(%h) {weight=@w}\nreturn %y\n}',
        {"w": weight},
    )
    center = torch.tensor([[1.0, 2.0]], dtype=torch.float64)
    assert margins(graph, Linf(center, 0.0), 1)[0].tolist() == [1.0, 0.0]
    once = specified(graph, 2)
    with torch.no_grad():
        weight[1, 1] = 3.0
    assert margins(graph, Linf(center, 0.0), 1)[0].tolist() == [17.0, 0.0]
    assert specified(graph, 2) is once
    assert specified(graph, 3) is not once


def test_the_rewritten_graph_goes_with_the_graph() -> None:
    graph = parse_graph('graph "t" {\n%x: f64[2] = input()\n%y = relu(%x)\nreturn %y\n}')
    kept = weakref.ref(specified(graph, 1))
    assert kept() is not None
    del graph
    gc.collect()
    assert kept() is None


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1, 2], "expected a label for each of 2 examples, got 3"),
        ([0, 3], r"expected labels in \[0, 3\), got \[0, 3\]"),
        (-1, r"expected labels in \[0, 3\)"),
        ([0.5, 1.0], "expected whole numbers as labels, got torch.float"),
        (None, "expected labels, got None"),
    ],
)
def test_labels_that_do_not_fit(labels: object, message: str) -> None:
    with pytest.raises(PropertyError, match=message):
        margins(GRAPH, REGION, labels)  # type: ignore[arg-type]


def test_a_method_that_bounds_nothing_is_refused() -> None:
    with pytest.raises(PropertyError, match="expected a pipeline that bounds the specification"):
        margins(GRAPH, REGION, 0, method="canonicalize")


def test_the_specification_is_the_last_value() -> None:
    extended = with_spec(GRAPH, 4)
    check(extended)
    assert extended.outputs == ("spec",)
    assert [str(extended[name].type) for name in spec_operands(extended)] == ["f64[4,3]", "f64[4]"]
    elided = optimize(extended, "fuse-linear")["spec"]
    assert isinstance(elided.op, Spec)
    assert elided.op.weight is not None
    assert elided.inputs[0] == "r"


def test_names_that_are_taken() -> None:
    graph = parse_graph('graph "t" {\n%C: f64[2] = input()\n%spec = relu(%C)\nreturn %spec\n}')
    extended = with_spec(graph, 1)
    check(extended)
    assert spec_operands(extended) == ("C$1", "d")
    assert extended.outputs == ("spec$1",)


def test_run_with_a_specification() -> None:
    rows = torch.tensor([[[1.0, -1.0, 0.0]]])
    state = run(GRAPH, "fuse-linear,ibp", REGION, spec=(rows, torch.tensor([[10.0]])))
    assert state.bounds["spec"].lower.tolist() == [[10.5], [9.0]]
    assert state.bounds["spec"].upper.tolist() == [[11.0], [10.0]]


def test_rows_of_a_property_over_inputs_and_outputs() -> None:
    """x1 in [-1, 1] and y1 = r1 + r2 in [0, 1.5]; the second disjunct reads no inputs."""
    rows = Property((
        Disjunct(double([[0.0, 1.0, 0.0]]), double([5.0]), double([[2.0, 0.0]])),
        Disjunct(double([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0]]), double([0.0, 1.0])),
    ))  # fmt: skip
    assert row_bounds(GRAPH, REGION, rows).tolist() == [[3.0, 0.0, -1.0], [9.0, 1.0, -1.0]]


def test_a_robustness_property_is_bound_to_the_network_first() -> None:
    expected = margins(GRAPH, REGION, 0)[:, 1:]
    assert row_bounds(GRAPH, REGION, robust(0)).tolist() == expected.tolist()


def test_a_property_without_disjuncts_has_no_rows() -> None:
    assert row_bounds(GRAPH, REGION, Property(())).shape == (2, 0)


def test_rows_that_do_not_fit() -> None:
    rows = Property((Disjunct(torch.ones(1, 4).double(), torch.zeros(1).double()),))
    with pytest.raises(PropertyError, match="expected rows over 3 outputs, got 4"):
        row_bounds(GRAPH, REGION, rows)


@given(data=st.data())
def test_rows_hold_at_sampled_points(data: st.DataObject) -> None:
    graph = data.draw(graphs())
    regions = data.draw(boxes(graph))
    n_in = sum(node.type.size for node in graph.inputs)
    n_out = sum(graph[name].type.size for name in graph.outputs)
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 1000)))
    rows = [torch.randn(2, size, generator=generator, dtype=torch.float64) for size in (n_out, n_in, 1)]
    prop = Property((Disjunct(rows[0], rows[2][:, 0], rows[1]), Disjunct(rows[0], rows[2][:, 0])))
    lower = row_bounds(graph, regions, prop)
    assert lower.shape == (2, 4)
    for inputs in points(graph, regions, count=4):
        values = graph.values(inputs)
        x = torch.cat([inputs[node.name].flatten(1) for node in graph.inputs], dim=1)
        y = torch.cat([values[name].reshape(len(values[name]), -1) for name in graph.outputs], dim=1)
        plain = y @ rows[0].T + rows[2][:, 0]
        exact = torch.cat([plain + x @ rows[1].T, plain], dim=1)
        scale = max(1.0, float(exact.abs().max()), float(lower.abs().max()))
        assert bool((lower <= exact + 1e-10 * scale).all())


@pytest.mark.parametrize("classes", [1, 3, KEPT, KEPT + 1])
@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_margin_rows(classes: int, kind: torch.dtype) -> None:
    """Of few classes they are kept; what is made of them is the caller's own, and may meet gradients."""
    graph = parse_graph(f'graph "t" {{\n%x: f32[{classes}] = input()\n%y = relu(%x)\nreturn %y\n}}')
    region, labels = Box(torch.zeros(2, classes), torch.ones(2, classes)), torch.tensor([0, classes - 1])
    before = torch.get_default_dtype()
    torch.set_default_dtype(kind)
    try:
        identity = torch.eye(classes)
        with torch.inference_mode():
            margin_rows(graph, [region], labels)
        for _ in range(2):
            rows, zeros = margin_rows(graph, [region], labels)
            assert rows.dtype == zeros.dtype == kind
            assert torch.equal(rows, identity[labels][:, None] - identity)
            assert zeros.shape == (2, classes) and not bool(zeros.any())
            (rows * torch.ones(classes, requires_grad=True)).sum().backward()
            rows.fill_(7)
    finally:
        torch.set_default_dtype(before)
