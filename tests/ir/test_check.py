"""The checker finds what is wrong with a graph and names it."""

from __future__ import annotations

import pytest
import torch

from irverify.errors import GraphError
from irverify.ir.check import check, check_again, deviation, same_function
from irverify.ir.graph import Graph, Node
from irverify.ir.ops import BatchNorm, Input, LeakyRelu, Linear, Operator, Relu, Reshape
from irverify.ir.params import Derived
from irverify.ir.text import parse_graph
from irverify.ir.types import TensorType

PAIR = TensorType((2,))
X = Node("x", Input(PAIR), (), PAIR)


def relu(name: str, operand: str, type_: TensorType = PAIR, source: str | None = None) -> Node:
    return Node(name, Relu(), (operand,), type_, source)


def complaint(graph: Graph) -> str:
    with pytest.raises(GraphError) as caught:
        check(graph)
    return str(caught.value)


def test_a_good_graph_passes() -> None:
    check(Graph([X, relu("y", "x")], ["y"]))


def test_names_are_unique() -> None:
    with pytest.raises(GraphError, match="more than once: x"):
        Graph([X, relu("x", "x")], ["x"])


def test_names_are_legal() -> None:
    assert "got 'a b'" in complaint(Graph([X, relu("a b", "x")], ["a b"]))


def test_order_and_cycles() -> None:
    text = complaint(Graph([X, relu("a", "b", source='onnx node "Relu_3"'), relu("b", "a")], ["b"]))
    assert '%a = relu (from onnx node "Relu_3"): expected inputs defined before, got %b' in text


def test_unknown_inputs_and_outputs_are_listed_together() -> None:
    text = complaint(Graph([X, relu("a", "q")], ["a", "z"]))
    assert "got %q" in text
    assert "expected outputs in the graph, got %z" in text
    assert "expected an output" in complaint(Graph([X], []))


def test_arity() -> None:
    assert "expected 1 inputs, got 2" in complaint(Graph([X, Node("y", Relu(), ("x", "x"), PAIR)], ["y"]))


def test_attributes_have_their_declared_types() -> None:
    node = Node("y", Reshape([2]), ("x",), PAIR)  # type: ignore[arg-type]
    assert "expected (int, ...) for shape, got [2]" in complaint(Graph([X, node], ["y"]))


def test_types_are_what_the_operators_infer() -> None:
    assert "expected type f32[2], got f32[3]" in complaint(Graph([X, relu("y", "x", TensorType((3,)))], ["y"]))
    wide = Node("y", Linear(torch.ones(1, 3)), ("x",), TensorType((1,)))
    assert "expected a last axis of 3, got f32[2]" in complaint(Graph([X, wide], ["y"]))


def test_dead_values() -> None:
    graph = Graph([X, relu("y", "x"), relu("z", "x")], ["y"])
    assert "%z = relu: expected a reader" in complaint(graph)
    check(graph, dead_values=True)
    check(Graph([X, Node("unused", Input(PAIR), (), PAIR), relu("y", "x")], ["y"]))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_parameters_are_finite(bad: float) -> None:
    weight = torch.tensor([[1.0, bad]])
    node = Node("y", Linear(weight), ("x",), TensorType((1,)), 'onnx node "Gemm_1"')
    text = complaint(Graph([X, node], ["y"]))
    assert '%y = linear (from onnx node "Gemm_1"): expected finite numbers in weight, got 1' in text


def test_parameters_have_the_type_of_the_value() -> None:
    node = Node("y", Linear(torch.ones(1, 2, dtype=torch.float64)), ("x",), TensorType((1,)))
    assert "expected weight of type torch.float32, got torch.float64" in complaint(Graph([X, node], ["y"]))


def test_a_parameter_that_was_written_to_is_checked_again() -> None:
    weight = torch.nn.Parameter(torch.eye(2))
    graph = Graph([X, Node("y", Linear(Derived(torch.neg, weight)), ("x",), PAIR)], ["y"])
    check_again(graph)
    check_again(graph)
    with torch.no_grad():
        weight[0, 0] = float("nan")
    with pytest.raises(GraphError, match="1 that are NaN or infinite"):
        check_again(graph)
    weight.data = torch.eye(2)
    check_again(graph)
    weight.data = torch.eye(2).double()
    with pytest.raises(GraphError, match=r"weight of type torch\.float32, got torch\.float64"):
        check_again(graph)


def test_a_bad_graph_stays_bad() -> None:
    for _ in range(2):
        with pytest.raises(GraphError, match="expected an output"):
            check_again(Graph([X], []))


def test_parameters_without_versions_are_checked_every_time() -> None:
    with torch.inference_mode():
        weight = torch.eye(2)
        graph = Graph([X, Node("y", Linear(weight), ("x",), PAIR)], ["y"])
        check_again(graph)
        weight[0, 0] = float("inf")
        with pytest.raises(GraphError, match="1 that are NaN or infinite"):
            check_again(graph)


def test_variances_are_positive() -> None:
    op = BatchNorm(torch.zeros(2), torch.tensor([1.0, -1.0]))
    assert "expected variance + epsilon > 0" in complaint(Graph([X, Node("y", op, ("x",), PAIR)], ["y"]))


def chain(middle: Operator) -> Graph:
    return Graph([X, Node("h", middle, ("x",), PAIR), relu("y", "h")], ["y"])


def test_same_function_agrees_with_itself() -> None:
    assert same_function(chain(LeakyRelu(0.1)), chain(LeakyRelu(0.1))) == 0.0


def test_same_function_names_the_first_value_that_differs() -> None:
    with pytest.raises(GraphError, match=r"%y to agree with %y .* the first value that differs is %h = linear"):
        same_function(chain(Linear(torch.eye(2))), chain(Linear(2 * torch.eye(2))))


def test_same_function_sees_nan() -> None:
    bad = Linear(torch.full((2, 2), float("nan")))
    with pytest.raises(GraphError, match="differs is %h"):
        same_function(chain(Relu()), chain(bad))
    with pytest.raises(GraphError, match="differs is %h"):
        same_function(chain(bad), chain(Relu()))


def test_same_function_compares_interfaces() -> None:
    other = parse_graph('graph "g" { %x: f64[2] = input() %y = relu(%x) return %y }')
    with pytest.raises(GraphError, match=r"expected inputs x f32\[2\], got x f64\[2\]"):
        same_function(chain(Relu()), other)


def test_deviation_is_relative_and_positive_about_nan() -> None:
    nan, inf = float("nan"), float("inf")
    assert deviation(torch.tensor([1000.0]), torch.tensor([1001.0])) == pytest.approx(1e-3)
    assert deviation(torch.tensor([0.0]), torch.tensor([0.5])) == 0.5
    assert deviation(torch.tensor([nan, inf]), torch.tensor([nan, inf])) == 0.0
    assert deviation(torch.tensor([nan, 1.0]), torch.tensor([nan, 1.0])) == 0.0
    assert deviation(torch.tensor([1.0]), torch.tensor([nan])) == inf
    assert deviation(torch.tensor([1.0, 2.0]), torch.tensor([nan, 2.5])) == inf
    assert deviation(torch.tensor([inf]), torch.tensor([-inf])) == inf
