"""Graphs: evaluation in the source's layout, the networkx view, conversion, the builder, derived parameters."""

from __future__ import annotations

import gc
import math
import weakref
from collections.abc import Callable

import networkx
import pytest
import torch
from hypothesis import given
from torch import Tensor

from irverify.errors import GraphError, ShapeError
from irverify.ir.check import check, same_function
from irverify.ir.graph import Graph, GraphBuilder, Node, convert, rewrite, without_dead_values
from irverify.ir.kept import once_a_graph
from irverify.ir.ops import Cast, Gather, Input, Linear, Operand, Relu, Spec
from irverify.ir.params import Derived, reading_once, value
from irverify.ir.program import load, save
from irverify.ir.text import named_parameters, parse_graph, print_graph
from irverify.ir.types import TensorType
from tests.random_graphs import graphs

RESIDUAL = parse_graph("""
    graph "residual" {
      %x: f32[2] = input()
      %h = linear(%x) {weight=tensor([[1, 2], [3, 4]]), bias=tensor([0, 1])}
      %r = relu(%h)
      %y = add(%r, %x)
      return %y, %r
    }""")


def test_evaluation_by_hand() -> None:
    y, r = RESIDUAL.evaluate(torch.tensor([[1.0, -1.0], [0.0, 2.0]]))
    assert r.tolist() == [[0.0, 0.0], [4.0, 9.0]]
    assert y.tolist() == [[1.0, -1.0], [4.0, 11.0]]


def test_values_by_name() -> None:
    values = RESIDUAL.values({"x": torch.ones(3, 2)})
    assert set(values) == {"x", "h", "r", "y"}
    assert values["h"].tolist() == [[3.0, 8.0]] * 3


def test_inputs_are_checked() -> None:
    with pytest.raises(ShapeError, match=r"residual: expected a tensor \[batch, 2\] for input %x, got \[3\]"):
        RESIDUAL.evaluate(torch.ones(3))
    with pytest.raises(ShapeError, match=r"expected 1 inputs \(%x\), got 2"):
        RESIDUAL.evaluate(torch.ones(1, 2), torch.ones(1, 2))
    with pytest.raises(ShapeError, match="expected a tensor for input %x, got none"):
        RESIDUAL.values({})
    with pytest.raises(ShapeError, match=r"expected a tensor \[batch, 2\]"):
        RESIDUAL.values({"x": torch.tensor(1.0)})
    with pytest.raises(ShapeError, match="expected a tensor for input %x, got list"):
        RESIDUAL.evaluate([[1.0, 2.0]])  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match=r"residual: expected torch\.float32 for input %x, got torch\.float64 \("):
        RESIDUAL.evaluate(torch.ones(1, 2).double())
    with pytest.raises(ShapeError, match=r"got torch\.int64"):
        RESIDUAL.values({"nobody's": torch.ones(1), "x": torch.ones(1, 2).long()})
    pair = parse_graph('graph "g" { %x: f32[1] = input() %y: f32[1] = input() %s = add(%x, %y) return %s }')
    with pytest.raises(ShapeError, match=r"expected one batch size for all inputs, got \[2, 3\]"):
        pair.evaluate(torch.ones(2, 1), torch.ones(3, 1))


def test_whole_tensors_and_constants() -> None:
    graph = parse_graph("""graph "g" {
        %x: f32[2, 1] = input() {batch_axis=None}
        %c = constant() {tensor=tensor([[1], [2]])}
        %y = add(%x, %c)
        return %y, %c
    }""")
    y, c = graph.evaluate(torch.ones(2, 1))
    assert y.tolist() == [[2.0], [3.0]]
    assert c.shape == (2, 1)


def test_operands_come_behind_the_inputs() -> None:
    builder = GraphBuilder()
    rows = builder.add(Operand(TensorType((3, 2))), name="rows")
    offset = builder.add(Operand(TensorType((3,))), name="offset")
    x = builder.input(TensorType((2,)))
    graph = builder.graph([builder.add(Spec(), x, rows, offset)])
    assert graph.evaluate(torch.ones(4, 2), torch.ones(4, 3, 2), torch.ones(4, 3)).tolist() == [[3.0] * 3] * 4  # type: ignore[union-attr]


@given(graphs())
def test_networkx_view(graph: Graph) -> None:
    view = graph.to_networkx()
    assert networkx.is_directed_acyclic_graph(view)
    assert set(view) == {node.name for node in graph}
    assert set(view.edges) == {(operand, node.name) for node in graph for operand in node.inputs}
    assert view.nodes[graph.outputs[0]]["node"] is graph[graph.outputs[0]]


@given(graphs())
def test_random_graphs_print_parse_and_save(graph: Graph) -> None:
    check(graph, dead_values=True)
    again = parse_graph(print_graph(graph), named_parameters(graph))
    assert print_graph(again) == print_graph(graph)
    assert same_function(graph, again, tolerance=0.0) == 0.0
    inline = parse_graph(print_graph(graph, inline=10_000))
    assert same_function(graph, inline, tolerance=0.0) == 0.0


def test_a_random_graph_is_saved_whole(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("programs")

    @given(graphs())
    def saved(graph: Graph) -> None:
        graph = without_dead_values(graph)
        save(graph, folder / "net.safetensors")
        assert same_function(graph, load(folder / "net.safetensors"), tolerance=1e-6) <= 1e-6

    saved()


@given(graphs())
def test_conversion(graph: Graph) -> None:
    for dtype in (torch.float64, torch.float32):
        other = convert(graph, dtype)
        check(other, dead_values=True)
        assert {node.type.dtype for node in other.inputs} == {dtype}
        assert [node.name for node in other] == [node.name for node in graph]


def test_conversion_copies_and_keeps_sharing() -> None:
    weight = torch.nn.Parameter(torch.eye(2))
    builder = GraphBuilder()
    x = builder.input(TensorType((2,)))
    h = builder.add(Linear(weight), x, name="a")
    h = builder.add(Linear(weight), builder.add(Cast(torch.float32), h), name="b")
    graph = builder.graph([builder.add(Gather(torch.tensor([1]), 0), h)])
    same = convert(graph, torch.float32)
    double = convert(graph, torch.float64)
    for other in (same, double):
        parameters = other.parameters()
        assert parameters["a.weight"] is parameters["b.weight"]
        assert not value(parameters["a.weight"]).requires_grad
        check(other)
    with torch.no_grad():
        weight.zero_()
    assert torch.equal(value(same.parameters()["a.weight"]), torch.eye(2))
    assert double.parameters()["4.indices" if "4" in double else f"{double.outputs[0]}.indices"].dtype == torch.int64  # type: ignore[union-attr]


def test_conversion_of_derived_parameters_computes_in_the_new_type() -> None:
    third = torch.tensor([[1.0]]), torch.tensor([[3.0]])
    builder = GraphBuilder()
    x = builder.input(TensorType((1,)))
    graph = builder.graph([builder.add(Linear(Derived(torch.div, *third)), x, name="a")])
    double = convert(graph, torch.float64).parameters()["a.weight"]
    assert value(double).item() == 1 / 3


def test_rewriting_makes_a_new_graph() -> None:
    def doubled(builder: GraphBuilder, node: Node, inputs: tuple[str, ...]) -> str:
        name = builder.add(node.op, *inputs, name=node.name)
        return builder.add(Relu(), name) if isinstance(node.op, Relu) else name

    again = rewrite(RESIDUAL, doubled)
    assert len(again) == len(RESIDUAL) + 1
    check(again)
    assert same_function(RESIDUAL, again) == 0.0
    assert again.outputs == ("y", "0")


def test_dead_values_go_and_inputs_stay() -> None:
    graph = parse_graph("""graph "g" {
        %x: f32[2] = input()
        %unused: f32[2] = input()
        %a = relu(%x)
        %b = relu(%unused)
        return %a
    }""")
    assert [node.name for node in without_dead_values(graph)] == ["x", "unused", "a"]


def test_the_builder_names_and_places_errors() -> None:
    builder = GraphBuilder()
    x = builder.input(TensorType((2,)))
    assert builder.add(Relu(), x, name="layer/1:act") == "layer_1_act"
    assert builder.add(Relu(), x, name="layer/1:act") == "layer_1_act$1"
    assert builder.add(Relu(), x) == "0"
    assert builder.add(Relu(), x, name="...") == "v"
    with pytest.raises(GraphError, match=r'%fc = linear \(from onnx node "Gemm_0"\): expected a last axis of 3'):
        builder.add(Linear(torch.ones(1, 3)), x, name="fc", source='onnx node "Gemm_0"')
    with pytest.raises(GraphError, match="%1 = relu: expected inputs defined before, got %q"):
        builder.add(Relu(), "q")
    with pytest.raises(GraphError, match="expected 1 inputs, got 2"):
        builder.add(Relu(), x, x)


def test_lookups() -> None:
    assert "h" in RESIDUAL
    assert RESIDUAL.users("x") == ("h", "y")
    assert isinstance(RESIDUAL["x"].op, Input)
    with pytest.raises(GraphError, match="no value %q in graph 'residual'"):
        RESIDUAL["q"]
    with pytest.raises(GraphError, match="no value %q"):
        RESIDUAL.users("q")


def counted(calls: list[int], tensor: Tensor) -> Tensor:
    calls.append(1)
    return tensor * 2


def test_derived_parameters_are_kept_until_a_source_changes() -> None:
    calls: list[int] = []
    source = torch.ones(2)
    derived = Derived(lambda tensor: counted(calls, tensor), source)
    nested = Derived(torch.neg, derived)
    for _ in range(3):
        assert nested.value().tolist() == [-2.0, -2.0]
    assert len(calls) == 1
    source.add_(1)
    assert nested.value().tolist() == [-4.0, -4.0]
    source.data.add_(1)  # leaves no trace in the tensor's version
    assert nested.value().tolist() == [-6.0, -6.0]
    source.data = torch.zeros(3, dtype=torch.float64)
    assert nested.value().tolist() == [0.0, 0.0, 0.0]
    assert nested.value().dtype == torch.float64
    assert len(calls) == 4


@pytest.mark.parametrize("part", [lambda tensor: tensor, lambda tensor: tensor[:1], torch.neg])
def test_derived_parameters_follow_what_shares_memory_with_a_source(part: Callable[[Tensor], Tensor]) -> None:
    """What is derived may be the very tensor that is written to, or a part of it."""
    source = torch.ones(2)
    derived = Derived(part, source)
    nested = Derived(lambda tensor: 3 * tensor, derived)
    for number in range(1, 4):
        source.data.fill_(number)
        if number == 2:
            derived.value()  # which knows by now
        assert nested.value()[:1].tolist() == (3 * part(torch.full((2,), float(number))))[:1].tolist()


def test_derived_parameters_follow_a_source_that_leaves_gradients_behind() -> None:
    source = torch.nn.Parameter(torch.ones(2))
    derived = Derived(torch.Tensor.detach, source)
    nested = Derived(torch.neg, derived)
    with torch.no_grad():
        assert nested.value().tolist() == [-1.0, -1.0]
    source.data.fill_(2.0)
    assert nested.value().tolist() == [-2.0, -2.0]
    source.data.fill_(3.0)
    with torch.no_grad():
        assert nested.value().tolist() == [-3.0, -3.0]


def test_derived_parameters_are_computed_again_where_something_is_not_a_number() -> None:
    source = torch.tensor([math.nan, 1.0])
    nested = Derived(torch.neg, Derived(torch.neg, source))
    for number in range(3):
        source[1] = number
        assert nested.value()[1] == number


def test_derived_parameters_are_compared_once_where_nothing_changes() -> None:
    source = torch.ones(2)
    derived = Derived(torch.neg, source)
    with reading_once():
        assert derived.value().tolist() == [-1.0, -1.0]
        with reading_once():
            source.add_(1)  # what promises that nothing does must not do
            assert derived.value().tolist() == [-1.0, -1.0]
    assert derived.value().tolist() == [-2.0, -2.0]


def test_gradients_reach_what_is_read_once() -> None:
    source = torch.nn.Parameter(torch.ones(2))
    derived = Derived(torch.neg, source)
    with reading_once():
        with torch.no_grad():
            assert not derived.value().requires_grad
        for _ in range(2):
            derived.value().sum().backward()
    assert source.grad is not None
    assert source.grad.tolist() == [-2.0, -2.0]


def test_what_is_kept_in_inference_mode_is_met_where_there_are_gradients() -> None:
    derived, x = Derived(torch.neg, torch.ones(2)), torch.ones(2, requires_grad=True)
    with torch.inference_mode():
        assert derived.value().tolist() == [-1.0, -1.0]
    (derived.value() * x).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [-1.0, -1.0]


def test_what_is_read_off_a_graph_is_kept_as_long_as_it_is() -> None:
    calls: list[int] = []

    @once_a_graph
    def count(graph: Graph, factor: int, more: int = 0) -> int:
        calls.append(factor)
        return len(graph) * factor + more

    graph = rewrite(RESIDUAL, lambda builder, node, inputs: builder.add(node.op, *inputs, name=node.name))
    size = len(graph)
    assert [count(graph, 2), count(graph, 2), count(graph, 3), count(graph, 3, more=1)] == [
        2 * size, 2 * size, 3 * size, 3 * size + 1,
    ]  # fmt: skip
    assert count(RESIDUAL, 2) == 2 * len(RESIDUAL)
    assert calls == [2, 3, 3, 2]
    gone = weakref.ref(graph)
    del graph
    gc.collect()
    assert gone() is None


def test_derived_parameters_carry_gradients() -> None:
    calls: list[int] = []
    source = torch.nn.Parameter(torch.ones(2))
    derived = Derived(lambda tensor: counted(calls, tensor), source)
    for _ in range(2):  # a kept value would belong to an autograd graph that is freed
        source.grad = None
        derived.value().sum().backward()
        assert source.grad is not None
        assert source.grad.tolist() == [2.0, 2.0]
    with torch.no_grad():
        assert not derived.value().requires_grad
    torch.optim.SGD([source], lr=1.0).step()
    with torch.no_grad():
        assert derived.value().tolist() == [-2.0, -2.0]
    with torch.inference_mode():
        assert derived.value().tolist() == [-2.0, -2.0]
    assert derived.value().requires_grad
